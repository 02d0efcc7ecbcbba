//! Reads usage as OpenAI writes it, in one pass and without allocating: nearly every answer has
//! it, and each request with limits is charged by it.

/// Usage as OpenAI writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PlainUsage {
    pub(super) input: u64,
    pub(super) output: u64,
    pub(super) total: u64,
    pub(super) cached: Option<u64>,
    pub(super) reasoning: Option<u64>,
}

/// The places of the members of usage.
const INPUT: usize = 0;
const OUTPUT: usize = 1;
const TOTAL: usize = 2;
const INPUT_DETAILS: usize = 3;
const OUTPUT_DETAILS: usize = 4;
/// The places of the members of details, of which each object may have any.
const CACHED: usize = 0;
const REASONING: usize = 1;
const IGNORED: usize = 2;

/// The place of the member that a text begins with, and what follows the name.
type Member<'a> = Option<(usize, &'a [u8])>;

/// Takes the name that the text begins with, which is one of these. A comparison with a constant is
/// no call.
macro_rules! member {
    ($text:ident, $($name:literal => $place:expr,)+) => {{
        $(if let Some(rest) = $text.strip_prefix(concat!("\"", $name, "\":").as_bytes()) {
            return Some(($place, rest));
        })+
        None
    }};
}

/// A member of usage.
fn usage_member(text: &[u8]) -> Member<'_> {
    member!(text,
        "prompt_tokens" => INPUT,
        "completion_tokens" => OUTPUT,
        "total_tokens" => TOTAL,
        "prompt_tokens_details" => INPUT_DETAILS,
        "completion_tokens_details" => OUTPUT_DETAILS,
    )
}

/// A member of details.
fn details_member(text: &[u8]) -> Member<'_> {
    member!(text,
        "cached_tokens" => CACHED,
        "reasoning_tokens" => REASONING,
        "audio_tokens" => IGNORED,
        "accepted_prediction_tokens" => IGNORED,
        "rejected_prediction_tokens" => IGNORED,
    )
}

/// Maximum digits of a figure. Longer ones are left to the parser.
const MAX_DIGITS: usize = 18;

/// Reads the usage object that `json` begins with, and returns it with what follows. `None` says
/// nothing: the object is malformed, or has spaces, other members or too few of the figures.
pub(super) fn read(json: &[u8]) -> Option<(PlainUsage, &[u8])> {
    let mut figures = [None; 3];
    let mut details = [None; 2];
    let mut scanner = Scanner { rest: json };
    scanner.object(usage_member, |scanner, place| match place {
        INPUT_DETAILS => scanner.details(&mut details[0], CACHED),
        OUTPUT_DETAILS => scanner.details(&mut details[1], REASONING),
        _ => scanner.figure(figures.get_mut(place)?),
    })?;
    let ([input, output, total], [cached, reasoning]) = (figures, details);
    let usage = PlainUsage {
        input: input?,
        output: output?,
        total: total?,
        cached,
        reasoning,
    };
    Some((usage, scanner.rest))
}

struct Scanner<'a> {
    rest: &'a [u8],
}

impl Scanner<'_> {
    /// Reads an object that has members, all of which `member` knows. `value` reads the value of each,
    /// by its place.
    fn object(
        &mut self,
        member: impl Fn(&[u8]) -> Member<'_>,
        mut value: impl FnMut(&mut Self, usize) -> Option<()>,
    ) -> Option<()> {
        self.rest = self.rest.strip_prefix(b"{")?;
        loop {
            let place;
            (place, self.rest) = member(self.rest)?;
            value(self, place)?;
            match self.rest.split_first()? {
                (b',', rest) => self.rest = rest,
                (b'}', rest) => {
                    self.rest = rest;
                    return Some(());
                }
                _ => return None,
            }
        }
    }

    /// Reads a figure that occurs once.
    fn figure(&mut self, figure: &mut Option<u64>) -> Option<()> {
        figure.replace(self.number()?).is_none().then_some(())
    }

    /// Reads details that occur once. Of their figures, which may be `null`, the one of the name at this
    /// place is kept.
    fn details(&mut self, figure: &mut Option<u64>, kept: usize) -> Option<()> {
        if figure.is_some() {
            return None;
        }
        self.object(details_member, |scanner, place| {
            let mut ignored = None;
            let figure = if place == kept {
                &mut *figure
            } else {
                &mut ignored
            };
            if let Some(rest) = scanner.rest.strip_prefix(b"null") {
                scanner.rest = rest;
                return figure.is_none().then_some(());
            }
            scanner.figure(figure)
        })
    }

    fn number(&mut self) -> Option<u64> {
        let (mut number, mut digits) = (0, 0);
        while let Some(digit) = self.rest.get(digits).map(|byte| byte.wrapping_sub(b'0'))
            && digit < 10
            && digits < MAX_DIGITS
        {
            number = number * 10 + u64::from(digit);
            digits += 1;
        }
        let (number_text, rest) = self.rest.split_at_checked(digits)?;
        self.rest = rest;
        // A further digit is neither `,` nor `}`, so that `object` refuses it.
        (!matches!(number_text, [] | [b'0', _, ..])).then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_of_openai_is_read_with_what_follows() {
        for (json, rest, expected) in [
            (
                r#"{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29}"#,
                "}",
                (19, 10, 29, None, None),
            ),
            (
                r#"{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":7,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":3,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}"#,
                r#","obfuscation":"x"}"#,
                (19, 10, 29, Some(7), Some(3)),
            ),
            (
                r#"{"completion_tokens":0,"completion_tokens_details":{"audio_tokens":4},"prompt_tokens":999999999999999999,"total_tokens":1}"#,
                "",
                (999_999_999_999_999_999, 0, 1, None, None),
            ),
        ] {
            let text = format!("{json}{rest}");
            let (usage, left) = read(text.as_bytes()).unwrap();
            let (input, output, total, cached, reasoning) = expected;
            assert_eq!(left, rest.as_bytes());
            let expected = PlainUsage {
                input,
                output,
                total,
                cached,
                reasoning,
            };
            assert_eq!(usage, expected, "{json}");
        }
    }

    #[test]
    fn other_usage_is_left_to_the_parser() {
        for json in [
            "",
            "null",
            "{}",
            r#"{"prompt_tokens":1"#,
            r#"{"prompt_tokens":1,"completion_tokens":2}"#,
            r#"{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,}"#,
            r#"{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"cost":4}"#,
            r#"{"prompt_tokens":1,"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}"#,
            r#"{"prompt_tokens":01,"completion_tokens":2,"total_tokens":3}"#,
            r#"{"prompt_tokens":-1,"completion_tokens":2,"total_tokens":3}"#,
            r#"{"prompt_tokens":1.5,"completion_tokens":2,"total_tokens":3}"#,
            r#"{"prompt_tokens":null,"completion_tokens":2,"total_tokens":3}"#,
            r#"{"prompt_tokens":1000000000000000000,"completion_tokens":2,"total_tokens":3}"#,
            r#"{"prompt_tokens": 1,"completion_tokens":2,"total_tokens":3}"#,
            r#"{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"prompt_tokens_details":null}"#,
            r#"{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"prompt_tokens_details":{}}"#,
            r#"{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"prompt_tokens_details":{"text_tokens":1}}"#,
            r#"{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"prompt_tokens_details":{"cached_tokens":1,"cached_tokens":null}}"#,
            r#"{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"prompt_tokens_details":{"cached_tokens":1},"prompt_tokens_details":{"cached_tokens":2}}"#,
        ] {
            assert_eq!(read(json.as_bytes()), None, "{json}");
        }
    }
}
