//! Translates usage between chat and Responses, and sums it up if a server sends it per choice.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The usage of a stream, with the details that both APIs have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct ChatUsage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    total_tokens: Option<u64>,
    #[serde(deserialize_with = "lenient")]
    prompt_tokens_details: PromptDetails,
    #[serde(deserialize_with = "lenient")]
    completion_tokens_details: CompletionDetails,
    /// DeepSeek's name for cached tokens.
    prompt_cache_hit_tokens: Option<u64>,
    /// Sent beside the details by xAI and others.
    reasoning_tokens: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct PromptDetails {
    cached_tokens: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct CompletionDetails {
    reasoning_tokens: Option<u64>,
}

/// Treats `null` and values of another type as absent, so that they do not void the whole usage.
fn lenient<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + serde::de::DeserializeOwned,
{
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

#[derive(Serialize, Deserialize)]
struct ResponsesUsage {
    input_tokens: u64,
    #[serde(default, deserialize_with = "lenient")]
    input_tokens_details: InputDetails,
    output_tokens: u64,
    #[serde(default, deserialize_with = "lenient")]
    output_tokens_details: OutputDetails,
    #[serde(default)]
    total_tokens: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct InputDetails {
    cached_tokens: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct OutputDetails {
    reasoning_tokens: u64,
}

/// Translates usage from the Responses shape to raw JSON in chat's shape. Returns `None` if `responses`
/// does not have that shape.
pub(crate) fn to_chat(responses: &str) -> Option<String> {
    let usage: ResponsesUsage = serde_json::from_str(responses).ok()?;
    let total = if usage.total_tokens == 0 {
        usage.input_tokens.saturating_add(usage.output_tokens)
    } else {
        usage.total_tokens
    };
    Some(format!(
        r#"{{"prompt_tokens":{},"completion_tokens":{},"total_tokens":{total},"prompt_tokens_details":{{"cached_tokens":{}}},"completion_tokens_details":{{"reasoning_tokens":{}}}}}"#,
        usage.input_tokens,
        usage.output_tokens,
        usage.input_tokens_details.cached_tokens,
        usage.output_tokens_details.reasoning_tokens
    ))
}

impl ChatUsage {
    pub(crate) fn parse(raw: &RawValue) -> Option<Self> {
        let usage: Self = serde_json::from_str(raw.get()).ok()?;
        let told = usage.prompt_tokens.is_some()
            || usage.completion_tokens.is_some()
            || usage.total_tokens.is_some();
        told.then_some(usage)
    }

    /// Adds the usage of another choice of the same prompt.
    pub(crate) fn add_choice(&mut self, other: &Self) {
        let sum =
            |a: Option<u64>, b: Option<u64>| Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0)));
        self.completion_tokens = sum(self.completion_tokens, other.completion_tokens);
        self.reasoning_tokens = sum(self.reasoning_tokens, other.reasoning_tokens);
        self.completion_tokens_details.reasoning_tokens = sum(
            self.completion_tokens_details.reasoning_tokens,
            other.completion_tokens_details.reasoning_tokens,
        );
        self.total_tokens = sum(self.prompt_tokens, self.completion_tokens);
    }

    /// Returns raw JSON in the Responses shape. The total is the server's own if it sent one, even if
    /// it is not the sum.
    pub(crate) fn to_responses(self) -> String {
        let input = self.prompt_tokens.unwrap_or(0);
        let output = self.completion_tokens.unwrap_or(0);
        let usage = ResponsesUsage {
            input_tokens: input,
            input_tokens_details: InputDetails {
                cached_tokens: self
                    .prompt_tokens_details
                    .cached_tokens
                    .or(self.prompt_cache_hit_tokens)
                    .unwrap_or(0),
            },
            output_tokens: output,
            output_tokens_details: OutputDetails {
                reasoning_tokens: self
                    .completion_tokens_details
                    .reasoning_tokens
                    .filter(|n| *n > 0)
                    .or(self.reasoning_tokens)
                    .unwrap_or(0),
            },
            total_tokens: self.total_tokens.unwrap_or(input.saturating_add(output)),
        };
        // Serializing a struct of numbers cannot fail.
        serde_json::to_string(&usage).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_usage_translates_to_chat() {
        for (raw, expected) in [
            (
                r#"{"input_tokens":9,"input_tokens_details":{"cached_tokens":4},"output_tokens":5,"output_tokens_details":{"reasoning_tokens":3},"total_tokens":14}"#,
                Some((9, 5, 14, 4, 3)),
            ),
            (
                r#"{"input_tokens":9,"output_tokens":5}"#,
                Some((9, 5, 14, 0, 0)),
            ),
            (
                r#"{"input_tokens":9,"input_tokens_details":null,"output_tokens":5,"total_tokens":99,"cost":1}"#,
                Some((9, 5, 99, 0, 0)),
            ),
            ("null", None),
            ("{}", None),
        ] {
            let expected = expected.map(|(prompt, completion, total, cached, reasoning)| {
                format!(r#"{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{total},"prompt_tokens_details":{{"cached_tokens":{cached}}},"completion_tokens_details":{{"reasoning_tokens":{reasoning}}}}}"#)
            });
            assert_eq!(to_chat(raw), expected, "{raw}");
        }
    }

    #[test]
    fn chat_usage_translates_to_responses() {
        for (raw, expected) in [
            (
                r#"{"prompt_tokens":78,"completion_tokens":9,"total_tokens":87,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":3}}"#,
                Some((78, 4, 9, 3, 87)),
            ),
            (
                r#"{"prompt_tokens":28,"completion_tokens":12,"total_tokens":394,"completion_tokens_details":null,"reasoning_tokens":354}"#,
                Some((28, 0, 12, 354, 394)),
            ),
            (
                r#"{"total_tokens":7,"total_characters":0}"#,
                Some((0, 0, 0, 0, 7)),
            ),
            (
                r#"{"prompt_tokens":6,"completion_tokens":2,"prompt_cache_hit_tokens":5}"#,
                Some((6, 5, 2, 0, 8)),
            ),
            (r#"{"cost":1}"#, None),
            (r#"{"prompt_tokens":"six"}"#, None),
            ("null", None),
        ] {
            let raw: &RawValue = serde_json::from_str(raw).unwrap();
            let expected = expected.map(|(i, c, o, r, t)| {
                format!(r#"{{"input_tokens":{i},"input_tokens_details":{{"cached_tokens":{c}}},"output_tokens":{o},"output_tokens_details":{{"reasoning_tokens":{r}}},"total_tokens":{t}}}"#)
            });
            assert_eq!(
                ChatUsage::parse(raw).map(ChatUsage::to_responses),
                expected,
                "{raw}"
            );
        }
    }
}
