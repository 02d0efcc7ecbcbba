//! The tokens of a request and its answer.

use serde::Deserialize;

/// The tokens that an upstream reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenUsage {
    /// Tokens of the request, the cached ones included.
    pub input: u64,
    /// Tokens of the request that the upstream had in its cache.
    pub cached: u64,
    /// Tokens of the answer, reasoning included.
    pub output: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Reported {
    input_tokens: u64,
    output_tokens: u64,
    input_tokens_details: Option<InputDetails>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct InputDetails {
    cached_tokens: Option<u64>,
}

impl TokenUsage {
    /// Reads usage in the Responses shape, as an [`Outcome`](crate::model::event::Outcome) has it.
    /// Returns `None` if it has no whole numbers.
    #[must_use]
    pub fn parse(json: &str) -> Option<Self> {
        let reported: Reported = serde_json::from_str(json).ok()?;
        let details = reported.input_tokens_details.unwrap_or_default();
        Some(Self {
            input: reported.input_tokens,
            cached: details
                .cached_tokens
                .unwrap_or(0)
                .min(reported.input_tokens),
            output: reported.output_tokens,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_and_what_is_missing_is_zero() {
        let check = |json: &str, expected: Option<(u64, u64, u64)>| {
            let usage = TokenUsage::parse(json);
            let figures = usage.map(|usage| (usage.input, usage.cached, usage.output));
            assert_eq!(figures, expected, "{json}");
        };
        check(
            r#"{"input_tokens":9,"input_tokens_details":{"cached_tokens":4},"output_tokens":5,"output_tokens_details":{"reasoning_tokens":3},"total_tokens":14}"#,
            Some((9, 4, 5)),
        );
        check(
            r#"{"input_tokens":9,"input_tokens_details":null,"output_tokens":5}"#,
            Some((9, 0, 5)),
        );
        check(
            r#"{"input_tokens":3,"input_tokens_details":{"cached_tokens":7}}"#,
            Some((3, 3, 0)),
        );
        check(r#"{"input_tokens":-1}"#, None);
        check("null", None);
    }
}
