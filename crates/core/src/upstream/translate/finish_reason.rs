//! Classifies chat finish reasons by their meaning. Vendors use many values outside OpenAI's enum.

use serde_json::Value;
use serde_json::value::RawValue;

/// The meaning of a finish reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FinishReason {
    /// The answer is complete. Unknown values count as this.
    Stop,
    /// A token limit was reached.
    Length,
    /// A content filter stopped the answer.
    Filter,
    /// The upstream failed, with the value that it sent.
    Error(String),
}

/// Values that say that the answer goes on, beside `null` and the empty string.
const UNFINISHED: &[&str] = &[
    "",
    "null",
    "none",
    "nil",
    "undefined",
    "unspecified",
    "finishreasonunspecified",
    "inprogress",
    "unfinished",
];

/// Parts of values that name a token limit.
const LENGTH: &[&str] = &[
    "length",
    "maxtoken",
    "maxoutput",
    "maxcompletion",
    "maxnew",
    "tokenlimit",
    "tokenslimit",
    "limitreached",
    "contextwindow",
    "contextlimit",
    "contextsize",
    "windowexceeded",
    "contextfull",
    "windowfull",
    "outoftokens",
    "truncat",
];

/// Parts of values that name the limit of a resource. It is a failure, whatever else they name.
const RESOURCE: &[&str] = &[
    "ratelimit",
    "timelimit",
    "requestlimit",
    "quota",
    "toomanyrequests",
];

/// Parts of values that name a failure.
const ERROR: &[&str] = &[
    "error",
    "abort",
    "cancel",
    "fail",
    "insufficient",
    "exhausted",
    "timeout",
    "timedout",
    "timelimit",
    "deadline",
    "overload",
    "busy",
    "throttl",
    "internal",
    "outofmemory",
    "unavailable",
    "interrupt",
    "preempt",
    "exception",
    "disconnect",
    "killed",
    "crash",
];

/// Parts of values that name a content filter.
const FILTER: &[&str] = &[
    "filter",
    "safety",
    "unsafe",
    "recitation",
    "block",
    "sensitive",
    "prohibited",
    "moderat",
    "spii",
    "refus",
    "guardrail",
    "policy",
    "violation",
    "censor",
    "flagged",
    "harm",
    "jailbreak",
    "profan",
    "toxic",
    "inappropriate",
];

/// Parts of values that name an answer that the server itself could not use.
const UNUSABLE: &[&str] = &["malformed", "unexpectedtoolcall", "toomanytoolcalls"];

impl FinishReason {
    /// Reads a `finish_reason` member. Returns `None` if the answer goes on.
    ///
    /// Numbers are enum values of the server: 0 is the unspecified one, any other is a stop. Of an
    /// object its `type` or `reason` counts.
    pub(super) fn read(raw: &RawValue) -> Option<Self> {
        // The check avoids a parse: `null` is the value of nearly every chunk.
        if raw.get() == "null" {
            return None;
        }
        match serde_json::from_str(raw.get()).ok()? {
            Value::String(text) => Self::of(&text),
            Value::Number(number) => (number.as_f64() != Some(0.0)).then_some(Self::Stop),
            Value::Bool(finished) => finished.then_some(Self::Stop),
            Value::Object(object) => ["type", "reason"]
                .iter()
                .find_map(|name| object.get(*name)?.as_str())
                .and_then(Self::of),
            Value::Null | Value::Array(_) => None,
        }
    }

    /// Classifies a value, by meaning before spelling: case and punctuation are ignored.
    fn of(text: &str) -> Option<Self> {
        // Nearly every answer.
        if text == "stop" {
            return Some(Self::Stop);
        }
        let folded: String = text
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .map(|c| c.to_ascii_lowercase())
            .collect();
        let has = |parts: &[&str]| parts.iter().any(|part| folded.contains(part));
        if UNFINISHED.contains(&folded.as_str()) {
            return None;
        }
        Some(if has(RESOURCE) {
            Self::Error(text.to_owned())
        } else if has(LENGTH) {
            Self::Length
        } else if has(ERROR) {
            Self::Error(text.to_owned())
        // Gemini says LANGUAGE of an answer in a language that it does not support.
        } else if has(FILTER) || folded == "language" {
            Self::Filter
        } else if has(UNUSABLE) {
            Self::Error(text.to_owned())
        } else {
            Self::Stop
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Option<FinishReason> {
        FinishReason::read(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn values_that_are_no_finish() {
        for json in [
            "null",
            r#""""#,
            r#"" ""#,
            r#""null""#,
            r#""NULL""#,
            r#""None""#,
            "0",
            "false",
            "[]",
            "{}",
            r#""FINISH_REASON_UNSPECIFIED""#,
        ] {
            assert_eq!(read(json), None, "{json}");
        }
    }

    #[test]
    fn vendor_values_map_by_meaning() {
        for value in [
            "stop",
            "STOP",
            "eos_token",
            "eos",
            "end_turn",
            "stop_sequence",
            "tool_calls",
            "tool_use",
            "TOOL_CALLS",
            "function_call",
            "complete",
            "COMPLETE",
            "OTHER",
            "natural",
        ] {
            assert_eq!(FinishReason::of(value), Some(FinishReason::Stop), "{value}");
        }
        for value in [
            "length",
            "LENGTH",
            "max_tokens",
            "MAX_TOKENS",
            "max_output_tokens",
            "MaxTokens",
            "model_length",
            "max_length",
            "max_new_tokens",
            "model_context_window_exceeded",
            "context_length_exceeded",
            "ERROR_TOO_MANY_TOKENS_LENGTH",
            "token_limit",
            "token_limit_reached",
            "out_of_tokens",
            "context_window_full",
            "truncated",
        ] {
            assert_eq!(
                FinishReason::of(value),
                Some(FinishReason::Length),
                "{value}"
            );
        }
        for value in [
            "content_filter",
            "content-filter",
            "SAFETY",
            "RECITATION",
            "BLOCKLIST",
            "blocked",
            "sensitive",
            "PROHIBITED_CONTENT",
            "SPII",
            "IMAGE_SAFETY",
            "refusal",
            "guardrail_intervened",
            "content_filtered",
            "LANGUAGE",
            "jailbreak",
            "profanity",
            "function_call_filter: MALFORMED",
        ] {
            assert_eq!(
                FinishReason::of(value),
                Some(FinishReason::Filter),
                "{value}"
            );
        }
        for value in [
            "error",
            "ERROR",
            "network_error",
            "insufficient_system_resource",
            "abort",
            "aborted",
            "cancelled",
            "canceled",
            "engine_error",
            "timeout",
            "time_limit",
            "failed",
            "MALFORMED_FUNCTION_CALL",
            "resource_exhausted",
            "rate_limit",
            "rate_limit_reached",
            "time_limit_reached",
            "quota_exceeded",
            "server_busy",
            "throttled",
            "internal",
        ] {
            assert_eq!(
                FinishReason::of(value),
                Some(FinishReason::Error(value.to_owned())),
                "{value}"
            );
        }
    }

    #[test]
    fn numbers_and_objects_are_read() {
        assert_eq!(read("1"), Some(FinishReason::Stop));
        assert_eq!(read("true"), Some(FinishReason::Stop));
        assert_eq!(
            read(r#"{"type":"length","length":7}"#),
            Some(FinishReason::Length)
        );
    }
}
