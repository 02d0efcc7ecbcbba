//! Counts the tokens of a stream. Token number i of the simulator is ` t{i}`, so lost and doubled
//! tokens are detected.

use memchr::memmem::Finder;

/// Finds the text of a token in the JSON of an event.
#[derive(Debug)]
pub(crate) struct TokenFinder(Finder<'static>);

/// The tokens of one stream so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenCount {
    /// The number of the next expected token.
    pub(crate) next: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
}

// === impl TokenFinder ===

impl TokenFinder {
    /// In chat chunks: `choices[].delta.content`.
    pub(crate) fn chat() -> Self {
        Self(Finder::new(b"\"content\":"))
    }

    /// In Responses events: `delta` of `response.output_text.delta`.
    pub(crate) fn responses() -> Self {
        Self(Finder::new(b"\"delta\":"))
    }

    /// Returns the text of the token in this event, still escaped, if there is one.
    fn text<'a>(&self, json: &'a [u8]) -> Option<&'a [u8]> {
        let value = json
            .get(self.0.find(json)? + self.0.needle().len()..)?
            .trim_ascii_start();
        let text = value.strip_prefix(b"\"")?;
        (text.first() != Some(&b'"')).then_some(text)
    }
}

// === impl TokenCount ===

impl TokenCount {
    /// Counts the tokens in an event and calls `seen` with the number of each new one. Text that is
    /// not from the simulator counts as the one expected token.
    pub(crate) fn observe(
        &mut self,
        finder: &TokenFinder,
        json: &[u8],
        mut seen: impl FnMut(u64),
    ) -> bool {
        let Some(mut text) = finder.text(json) else {
            return false;
        };
        if number(text).is_none() {
            self.count(self.next, &mut seen);
            return true;
        }
        // A gateway may put several tokens into one event.
        while let Some((index, rest)) = number(text) {
            self.count(index, &mut seen);
            text = rest;
        }
        true
    }

    /// Ends the count; tokens that are missing now are lost.
    pub(crate) fn close(&mut self, expected: u64) {
        self.lost += expected.saturating_sub(self.next);
        self.next = self.next.max(expected);
    }

    fn count(&mut self, index: u64, seen: &mut impl FnMut(u64)) {
        if index < self.next {
            self.doubled += 1;
            return;
        }
        self.received += 1;
        self.lost += index - self.next;
        self.next = index + 1;
        seen(index);
    }
}

fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let mut rest = text.strip_prefix(b" t")?;
    let mut value: Option<u64> = None;
    while let Some((digit @ b'0'..=b'9', tail)) = rest.split_first() {
        value = Some(
            value
                .unwrap_or(0)
                .saturating_mul(10)
                .saturating_add(u64::from(digit - b'0')),
        );
        rest = tail;
    }
    value.map(|value| (value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(finder: &TokenFinder, events: &[&str], expected: u64) -> (TokenCount, Vec<u64>) {
        let mut count = TokenCount::default();
        let mut seen = Vec::new();
        for event in events {
            count.observe(finder, event.as_bytes(), |index| seen.push(index));
        }
        count.close(expected);
        (count, seen)
    }

    #[test]
    fn counts_tokens_of_both_dialects() {
        let chat = [
            r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#,
            r#"{"choices":[{"delta":{"content":" t0"}}]}"#,
            r#"{"choices": [{"delta": {"content": " t1 t2"}}]}"#,
            r#"{"choices":[{"delta":{"content":null},"finish_reason":"stop"}]}"#,
        ];
        assert_eq!(
            count(&TokenFinder::chat(), &chat, 3),
            (
                TokenCount {
                    next: 3,
                    received: 3,
                    lost: 0,
                    doubled: 0
                },
                vec![0, 1, 2]
            )
        );
        let responses = [
            r#"{"type":"response.output_text.delta","sequence_number":4,"delta":" t0","logprobs":[]}"#,
            r#"{"type":"response.output_text.done","text":" t0"}"#,
        ];
        assert_eq!(
            count(&TokenFinder::responses(), &responses, 1),
            (
                TokenCount {
                    next: 1,
                    received: 1,
                    lost: 0,
                    doubled: 0
                },
                vec![0]
            )
        );
    }

    #[test]
    fn detects_lost_and_doubled_tokens() {
        let event = |i: u64| format!(r#"{{"delta":{{"content":" t{i}"}}}}"#);
        let events: Vec<String> = [0, 1, 1, 3, 4, 2].into_iter().map(event).collect();
        let events: Vec<&str> = events.iter().map(String::as_str).collect();
        let (tokens, seen) = count(&TokenFinder::chat(), &events, 7);
        // 2 arrives late, 5 and 6 are missing, 1 arrives twice.
        assert_eq!(
            tokens,
            TokenCount {
                next: 7,
                received: 4,
                lost: 3,
                doubled: 2
            }
        );
        assert_eq!(seen, vec![0, 1, 3, 4]);
    }

    #[test]
    fn counts_text_without_numbers() {
        let events = [
            r#"{"delta":{"content":"Hello"}}"#,
            r#"{"delta":{"content":" there"}}"#,
        ];
        let (tokens, seen) = count(&TokenFinder::chat(), &events, 0);
        assert_eq!((tokens.received, tokens.lost, tokens.doubled), (2, 0, 0));
        assert_eq!(seen, vec![0, 1]);
    }
}
