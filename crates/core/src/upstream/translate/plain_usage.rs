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

/// Members of the details, of which each object may have any.
const DETAILS: [&[u8]; 5] = [
    b"cached_tokens",
    b"reasoning_tokens",
    b"audio_tokens",
    b"accepted_prediction_tokens",
    b"rejected_prediction_tokens",
];

/// Maximum digits of a figure. Longer ones are left to the parser.
const MAX_DIGITS: usize = 18;

/// Reads the usage object that `json` begins with, and returns it with what follows. `None` says
/// nothing: the object is malformed, or has spaces, other members or too few of the figures.
pub(super) fn read(json: &[u8]) -> Option<(PlainUsage, &[u8])> {
    let (mut input, mut output, mut total) = (None, None, None);
    let (mut cached, mut reasoning) = (None, None);
    let mut scanner = Scanner { rest: json };
    scanner.object(|scanner, name| match name {
        b"prompt_tokens" => scanner.figure(&mut input),
        b"completion_tokens" => scanner.figure(&mut output),
        b"total_tokens" => scanner.figure(&mut total),
        b"prompt_tokens_details" => scanner.details(&mut cached, b"cached_tokens"),
        b"completion_tokens_details" => scanner.details(&mut reasoning, b"reasoning_tokens"),
        _ => None,
    })?;
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

impl<'a> Scanner<'a> {
    fn skip(&mut self, text: &[u8]) -> Option<()> {
        self.rest = self.rest.strip_prefix(text)?;
        Some(())
    }

    /// Reads an object that has members. `value` reads the value of each.
    fn object(&mut self, mut value: impl FnMut(&mut Self, &'a [u8]) -> Option<()>) -> Option<()> {
        self.skip(b"{")?;
        loop {
            self.skip(b"\"")?;
            let (name, rest) = self
                .rest
                .split_at_checked(memchr::memchr(b'"', self.rest)?)?;
            self.rest = rest;
            self.skip(b"\":")?;
            value(self, name)?;
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

    /// Reads details that occur once. Of their figures, which may be `null`, the one called `name`
    /// is kept.
    fn details(&mut self, figure: &mut Option<u64>, name: &[u8]) -> Option<()> {
        if figure.is_some() {
            return None;
        }
        self.object(|scanner, member| {
            if !DETAILS.contains(&member) {
                return None;
            }
            let mut ignored = None;
            let kept = if member == name {
                &mut *figure
            } else {
                &mut ignored
            };
            match scanner.skip(b"null") {
                Some(()) => kept.is_none().then_some(()),
                None => scanner.figure(kept),
            }
        })
    }

    fn number(&mut self) -> Option<u64> {
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit());
        let digits = digits.take(MAX_DIGITS + 1).count();
        let (number, rest) = self.rest.split_at(digits);
        let is_plain = match number {
            [] => false,
            [b'0', _, ..] => false,
            _ => digits <= MAX_DIGITS,
        };
        self.rest = rest;
        is_plain.then(|| {
            number
                .iter()
                .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'))
        })
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
