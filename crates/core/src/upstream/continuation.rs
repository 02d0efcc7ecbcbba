//! Continues an answer that another endpoint broke off.
//!
//! Only an answer that is one plain text is continued; a half-written tool call or hidden reasoning
//! cannot be. Servers differ in how a request says that the last assistant message is unfinished,
//! so each endpoint has to be configured. One without configuration is never asked to continue.

use crate::model::json::{Members, present};

/// How an endpoint is asked to continue an assistant message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Continuation {
    /// Not supported.
    #[default]
    None,
    /// By the message alone: for models that continue it by themselves.
    Message,
    /// By `"prefix": true` in the message: Mistral, DeepSeek.
    Prefix,
    /// By `continue_final_message` and `add_generation_prompt` beside the messages: vLLM, SGLang.
    FinalMessage,
}

/// Returns the body that asks for the rest of an answer; `None` if that is unsafe or not supported.
/// `text` is JSON-escaped.
pub(super) fn body(original: &[u8], how: Continuation, text: &str) -> Option<Vec<u8>> {
    let members: Members<'_> = serde_json::from_slice(original).ok()?;
    let plain = |name: &str| {
        present(members.get(name)).is_none_or(|raw| matches!(raw.get(), "[]" | "false" | "0"))
    };
    let one_text = [
        "tools",
        "functions",
        "logprobs",
        "audio",
        "modalities",
        "prediction",
    ]
    .iter()
    .all(|name| plain(name))
        && members.number("n").is_none_or(|n| n == 1)
        && members
            .object("response_format")
            .is_none_or(|format| format.text("type").as_deref() == Some("text"));
    if !one_text || how == Continuation::None {
        return None;
    }
    let messages = members.get("messages")?.get().strip_suffix(']')?.trim_end();
    let comma = if messages == "[" { "" } else { "," };
    let prefix = if how == Continuation::Prefix {
        ",\"prefix\":true"
    } else {
        ""
    };
    let text = without_half_pair(text);
    let messages =
        format!("{messages}{comma}{{\"role\":\"assistant\",\"content\":\"{text}\"{prefix}}}]");
    let mut replaced = vec![("messages", messages.as_str())];
    if how == Continuation::FinalMessage {
        replaced.extend([
            ("continue_final_message", "true"),
            ("add_generation_prompt", "false"),
        ]);
    }
    Some(members.write_with(&replaced).into_bytes())
}

/// Returns escaped text without the half of a surrogate pair at its end, which is no valid text.
fn without_half_pair(text: &str) -> &str {
    let Some((before, half)) = text
        .len()
        .checked_sub(6)
        .and_then(|at| text.split_at_checked(at))
    else {
        return text;
    };
    let is_half = half
        .strip_prefix("\\u")
        .and_then(|digits| u16::from_str_radix(digits, 16).ok())
        .is_some_and(|unit| (0xd800..0xdc00).contains(&unit));
    let backslashes = before.bytes().rev().take_while(|byte| *byte == b'\\');
    if is_half && backslashes.count() % 2 == 0 {
        before
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_so_far_is_sent_in_each_servers_form() {
        let body = |how| {
            body(
                br#"{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"} ]}"#,
                how,
                "a\\n",
            )
            .map(String::from_utf8)
        };
        let with = |message: &str, more: &str| {
            let body = format!(
                r#"{{"model":"m","stream":true,"messages":[{{"role":"user","content":"hi"}},{{"role":"assistant",{message}}}]{more}}}"#
            );
            Some(Ok(body))
        };
        let content = r#""content":"a\n""#;
        assert_eq!(body(Continuation::None), None);
        assert_eq!(body(Continuation::Message), with(content, ""));
        assert_eq!(
            body(Continuation::Prefix),
            with(&format!("{content},\"prefix\":true"), "")
        );
        assert_eq!(
            body(Continuation::FinalMessage),
            with(
                content,
                r#","continue_final_message":true,"add_generation_prompt":false"#
            )
        );
    }

    #[test]
    fn half_of_a_surrogate_pair_is_not_sent() {
        for (text, sent) in [
            (r"a\ud83d", "a"),
            (r"\uDBFF", ""),
            (r"a\\\ud83d", r"a\\"),
            (r"a\\ud83d", r"a\\ud83d"),
            (r"a\ud83d\ude00", r"a\ud83d\ude00"),
            (r"\u00e9", r"\u00e9"),
            ("ä€😊", "ä€😊"),
            ("", ""),
        ] {
            assert_eq!(without_half_pair(text), sent, "{text}");
        }
    }

    #[test]
    fn only_one_plain_text_is_continued() {
        for (more, safe) in [
            (r#""tools":[]"#, true),
            (
                r#""tools":null,"n":1,"logprobs":false,"response_format":{"type":"text"}"#,
                true,
            ),
            (r#""tools":[{}]"#, false),
            (r#""functions":[{}]"#, false),
            (r#""n":2"#, false),
            (r#""logprobs":true"#, false),
            (r#""response_format":{"type":"json_object"}"#, false),
        ] {
            let request = format!(r#"{{"messages":[],{more}}}"#);
            assert_eq!(
                body(request.as_bytes(), Continuation::Message, "x").is_some(),
                safe,
                "{more}"
            );
        }
    }
}
