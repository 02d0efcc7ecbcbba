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

/// The text before each figure of usage in the Responses shape.
const SHAPE: [&str; 5] = [
    r#"{"input_tokens":"#,
    r#","input_tokens_details":{"cached_tokens":"#,
    r#"},"output_tokens":"#,
    r#","output_tokens_details":{"reasoning_tokens":"#,
    r#"},"total_tokens":"#,
];

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
        Self::parse_own(json).or_else(|| Self::parse_any(json))
    }

    /// Writes usage in the Responses shape.
    pub(crate) fn to_json(self, reasoning: u64, total: u64) -> String {
        let figures = [self.input, self.cached, self.output, reasoning, total];
        let mut json =
            String::with_capacity(SHAPE.iter().map(|part| part.len()).sum::<usize>() + 24);
        let mut number = itoa::Buffer::new();
        for (part, figure) in SHAPE.iter().zip(figures) {
            json.push_str(part);
            json.push_str(number.format(figure));
        }
        json.push('}');
        json
    }

    /// Reads what [`to_json`](Self::to_json) has written, without parsing: nearly every request
    /// ends with one. `None` says nothing.
    fn parse_own(json: &str) -> Option<Self> {
        // One after the other: a comparison with a constant is no call.
        let (input, rest) = leading_number(json.strip_prefix(SHAPE[0])?)?;
        let (cached, rest) = leading_number(rest.strip_prefix(SHAPE[1])?)?;
        let (output, rest) = leading_number(rest.strip_prefix(SHAPE[2])?)?;
        let (_, rest) = leading_number(rest.strip_prefix(SHAPE[3])?)?;
        let (_, rest) = leading_number(rest.strip_prefix(SHAPE[4])?)?;
        (rest == "}").then_some(Self {
            input,
            cached: cached.min(input),
            output,
        })
    }

    fn parse_any(json: &str) -> Option<Self> {
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

/// Returns the number that a text begins with, and the rest.
fn leading_number(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit);
    let (mut number, mut length) = (0_u64, 0);
    for digit in digits {
        number = number
            .checked_mul(10)?
            .checked_add(u64::from(digit - b'0'))?;
        length += 1;
    }
    (length > 0).then(|| (number, &text[length..]))
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
    #[test]
    fn own_usage_is_read_without_parsing_as_it_is_with_it() {
        for (input, cached, output) in [(0, 0, 0), (9, 4, 5), (u64::MAX, 12, 1 << 40), (3, 7, 0)] {
            let usage = TokenUsage {
                input,
                cached,
                output,
            };
            let json = usage.to_json(2, 77);
            let own = TokenUsage::parse_own(&json);
            assert!(own.is_some(), "{json}");
            assert_eq!(own, TokenUsage::parse_any(&json), "{json}");
            serde_json::from_str::<serde_json::Value>(&json).unwrap();
        }
        for json in ["", "{}", r#"{"input_tokens":9,"output_tokens":5}"#] {
            assert_eq!(TokenUsage::parse_own(json), None, "{json}");
        }
        let longer = TokenUsage::default().to_json(0, 0) + " ";
        assert_eq!(TokenUsage::parse_own(&longer), None);
    }
}
