//! The state of one reader of one generation, and the rule by which it applies events.
//!
//! # Changing the dialect between connections
//!
//! The rule: apply an event if its number is greater than the last applied. In the responses
//! dialect every event has a number of its own and the rule is exact. A chat chunk is a whole
//! record and carries the number of the record's **last** event. So
//!
//! * From chat to responses the rule is exact: the last number is a record's end, and the next
//!   event begins a record.
//! * From responses to chat the last number may lie **inside** a record, and the next chunk repeats
//!   the whole record. The rule applies it, since its number is greater. This is exact only if no
//!   delta of the record had been applied: where a chunk has at most one delta and the delta is the
//!   record's last event. With two deltas in a chunk (reasoning and text, two choices, two calls), or
//!   text and the finish reason, a reader that was cut between those events applies the first one
//!   twice.
//! * A method that is exact for every upstream: remember the last number that is known to end a
//!   record (every chat frame's number is one) and the text at that point. To enter the chat dialect,
//!   return to it and read from there. Before the first chat frame it is the beginning.
//!
//! The simulator sends one delta per chunk and the finish reason in a chunk of its own, so both
//! ways must be exact. The test chooses between them at random.
//!
//! `[DONE]` is outside the rule. It shares its number with the chunk before it if the terminal
//! record has one (the usage chunk), so it is never greater than the last. A reader that was cut
//! between those two gets 204.

use serde_json::Value;

/// The state of a reader; see the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// The generation's id, once it is known.
    pub(crate) id: Option<String>,
    /// The number of the last applied event.
    pub(crate) last: Option<u64>,
    pub(crate) text: String,
    pub(crate) ended: bool,
    /// Events that were repeated and not applied.
    pub(crate) repeated: u64,
    /// The last number that is known to end a record, and the length of the text at that point.
    record_end: (Option<u64>, usize),
    /// The number that the next event on this connection must have.
    expected: Option<u64>,
}

impl Reader {
    /// Returns the number of tokens in the text.
    pub(crate) fn tokens(&self) -> u64 {
        self.text.matches(' ').count() as u64
    }

    /// Begins a connection. `expected` is its first number, where every number is visible.
    pub(crate) fn attach(&mut self, expected: Option<u64>) {
        self.expected = expected;
    }

    /// Returns whether the position may lie inside a record.
    pub(crate) fn may_be_inside_a_record(&self) -> bool {
        self.last != self.record_end.0
    }

    /// Drops what was applied after the last known end of a record.
    pub(crate) fn go_back(&mut self) {
        self.last = self.record_end.0;
        self.text.truncate(self.record_end.1);
    }

    /// Applies an event of the responses dialect.
    pub(crate) fn event(&mut self, event: &Value) {
        let kind = event["type"].as_str().unwrap_or_default();
        let number = event["sequence_number"]
            .as_u64()
            .unwrap_or_else(|| panic!("no number in {event}"));
        assert!(
            kind != "tokenwire:reset",
            "a reset although the log is kept: {event}"
        );
        if let Some(expected) = &mut self.expected {
            // An SDK's stream omits the usage chunk before the terminal event, and finish and usage
            // chunks may take two numbers there.
            let skipped = match kind {
                "response.completed" | "response.failed" | "response.incomplete" => 0..=3,
                _ => 0..=0,
            };
            assert!(
                number
                    .checked_sub(*expected)
                    .is_some_and(|gap| skipped.contains(&gap)),
                "{number} is not the next number after {expected}: {event}"
            );
            *expected = number + 1;
        }
        if self.last.is_some_and(|last| number <= last) {
            self.repeated += 1;
            return;
        }
        self.last = Some(number);
        match kind {
            "response.created" => self.know(event["response"]["id"].as_str().unwrap()),
            "response.output_text.delta" => self.text.push_str(event["delta"].as_str().unwrap()),
            "response.completed" => self.ended = true,
            "response.failed" | "response.incomplete" => {
                panic!("the generation did not complete: {event}")
            }
            _ => {}
        }
    }

    /// Applies a frame of the chat dialect. Its number is in its id.
    pub(crate) fn chunk(&mut self, number: u64, data: &str) {
        if data == "[DONE]" {
            self.ended = true;
            return;
        }
        let chunk: Value =
            serde_json::from_str(data).unwrap_or_else(|error| panic!("{error} in {data}"));
        assert!(
            chunk.get("error").is_none(),
            "the generation did not complete: {data}"
        );
        if self.last.is_some_and(|last| number <= last) {
            self.repeated += 1;
            return;
        }
        self.last = Some(number);
        self.text.push_str(
            chunk["choices"][0]["delta"]["content"]
                .as_str()
                .unwrap_or_default(),
        );
        self.record_end = (self.last, self.text.len());
    }

    /// Records the generation's id. Every connection must name the same one.
    pub(crate) fn know(&mut self, id: &str) {
        match &self.id {
            Some(known) => assert_eq!(known, id, "one key started two generations"),
            None => self.id = Some(id.to_owned()),
        }
    }
}
