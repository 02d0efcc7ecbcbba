//! One client's memory of one generation, and the rule by which it takes what it is sent.
//!
//! # What a reader must do that changes between dialects
//!
//! The rule is short: apply what has a number greater than the last applied. In the responses
//! dialect every event has a number of its own, and there the rule is exact. A chat chunk is a
//! whole record and carries the number of the record's **last** event. So
//!
//! * from chat to responses nothing is to be thought of: the last number is a record's end, and the
//!   next event begins a record;
//! * from responses to chat the last number may lie **inside** a record, and the chunk that is sent
//!   next repeats the whole of that record. The rule applies it, since its number is greater. This
//!   is exact only if no delta of the record had been applied, which holds where a chunk brings at
//!   most one delta and the delta is the record's last event. An upstream that puts two deltas into
//!   one chunk (reasoning and text, two choices, two calls), or text and the finish reason, breaks
//!   it: the reader who was cut between those events gets the first once more.
//! * What is exact for every upstream: remember the last number that is known to be a record's end,
//!   which each chat frame's is, and what was there by then; to enter the chat dialect, go back to
//!   that, and read from there. Before the first chat frame it is the beginning.
//!
//! The simulator sends one delta a chunk and the finish reason in a chunk of its own, so both ways
//! must give every token once; the dice choose between them.
//!
//! `[DONE]` is outside the rule. It shares its number with the chunk before it, if the terminal
//! record has one (the usage chunk), so it is never "greater than the last"; and a reader that was
//! cut between those two is told by 204 that nothing is left.

use serde_json::Value;

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// The generation's id, once anything has told it.
    pub(crate) id: Option<String>,
    /// The number of the last applied event.
    pub(crate) last: Option<u64>,
    pub(crate) text: String,
    pub(crate) ended: bool,
    /// What came again and was not applied.
    pub(crate) repeated: u64,
    /// The last number that is known to end a record, and how much text there was by then.
    record_end: (Option<u64>, usize),
    /// On this connection: the number that the next event must have.
    expected: Option<u64>,
}

impl Reader {
    /// How many tokens the text has.
    pub(crate) fn tokens(&self) -> u64 {
        self.text.matches(' ').count() as u64
    }

    /// Begins with a connection on which the next number must be `expected`, where each number
    /// shows.
    pub(crate) fn attach(&mut self, expected: Option<u64>) {
        self.expected = expected;
    }

    /// Whether the position may lie inside a record.
    pub(crate) fn may_be_inside_a_record(&self) -> bool {
        self.last != self.record_end.0
    }

    /// Forgets what came after the last number that is known to end a record.
    pub(crate) fn go_back(&mut self) {
        self.last = self.record_end.0;
        self.text.truncate(self.record_end.1);
    }

    /// Takes an event of the responses dialect.
    pub(crate) fn event(&mut self, event: &Value) {
        let kind = event["type"].as_str().unwrap_or_default();
        let number = event["sequence_number"]
            .as_u64()
            .unwrap_or_else(|| panic!("no number in {event}"));
        assert!(
            kind != "tokenwire:reset",
            "a reset, though the log is there: {event}"
        );
        if let Some(expected) = &mut self.expected {
            assert_eq!(number, *expected, "not the next number: {event}");
            *expected += 1;
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
                panic!("the generation did not end well: {event}")
            }
            _ => {}
        }
    }

    /// Takes a frame of the chat dialect, whose number stands in its id.
    pub(crate) fn chunk(&mut self, number: u64, data: &str) {
        if data == "[DONE]" {
            self.ended = true;
            return;
        }
        let chunk: Value =
            serde_json::from_str(data).unwrap_or_else(|error| panic!("{error} in {data}"));
        assert!(
            chunk.get("error").is_none(),
            "the generation did not end well: {data}"
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

    /// Notes the generation's id; every connection must say the same.
    pub(crate) fn know(&mut self, id: &str) {
        match &self.id {
            Some(known) => assert_eq!(known, id, "the same key has started two generations"),
            None => self.id = Some(id.to_owned()),
        }
    }
}
