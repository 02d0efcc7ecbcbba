//! An incremental reader of `text/event-stream` (WHATWG HTML, section 9.2.6).
//!
//! An event within one read is returned as a slice of that read. Only events that are split
//! between reads are copied.

use memchr::memchr2;
use thiserror::Error;

const MAX_EVENT: usize = 16 * 1024 * 1024;

/// A dispatched event: its data, and the last id seen so far on the stream (empty if none).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SseEvent<'a> {
    pub(crate) data: &'a [u8],
    pub(crate) id: &'a [u8],
}

#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum SseError {
    #[error("an SSE event is larger than {MAX_EVENT} bytes")]
    TooLarge,
}

/// Reads one event stream.
#[derive(Debug, Default)]
pub(crate) struct EventParser {
    /// The beginning of a line whose end was not read yet.
    line: Vec<u8>,
    /// The data of an event that is split between reads or has several lines.
    data: Vec<u8>,
    has_data: bool,
    /// The event returned last, if it could not be a slice of the input.
    dispatched: Vec<u8>,
    id: Vec<u8>,
    /// Whether the last byte was a CR; an LF after it belongs to the same line end.
    after_cr: bool,
}

// === impl EventParser ===

impl EventParser {
    pub(crate) fn next<'s, 'a: 's>(
        &'s mut self,
        input: &mut &'a [u8],
    ) -> Result<Option<SseEvent<'s>>, SseError> {
        let mut whole: Option<&'a [u8]> = None;
        loop {
            if self.after_cr && !input.is_empty() {
                self.after_cr = false;
                *input = input.strip_prefix(b"\n").unwrap_or(input);
            }
            let Some(end) = memchr2(b'\n', b'\r', input) else {
                self.line.extend_from_slice(input);
                *input = &[];
                if let Some(data) = whole {
                    self.keep(data);
                }
                if self.line.len() + self.data.len() > MAX_EVENT {
                    return Err(SseError::TooLarge);
                }
                return Ok(None);
            };
            let line: &'a [u8] = input.get(..end).unwrap_or_default();
            self.after_cr = input.get(end) == Some(&b'\r');
            *input = input.get(end + 1..).unwrap_or_default();

            if !self.line.is_empty() {
                self.line.extend_from_slice(line);
                let line = std::mem::take(&mut self.line);
                match field(&line) {
                    Field::Data(data) => {
                        if let Some(before) = whole.take() {
                            self.keep(before);
                        }
                        self.keep(data);
                    }
                    Field::Id(id) => self.set_id(id),
                    Field::Other => {}
                }
                self.line = line;
                self.line.clear();
                continue;
            }
            if line.is_empty() {
                if let Some(data) = whole {
                    return Ok(Some(SseEvent { data, id: &self.id }));
                }
                if self.has_data {
                    self.has_data = false;
                    std::mem::swap(&mut self.data, &mut self.dispatched);
                    self.data.clear();
                    return Ok(Some(SseEvent {
                        data: &self.dispatched,
                        id: &self.id,
                    }));
                }
                continue;
            }
            match field(line) {
                Field::Data(data) if whole.is_none() && !self.has_data => whole = Some(data),
                Field::Data(data) => {
                    if let Some(before) = whole.take() {
                        self.keep(before);
                    }
                    self.keep(data);
                }
                Field::Id(id) => self.set_id(id),
                Field::Other => {}
            }
        }
    }

    fn keep(&mut self, data: &[u8]) {
        if self.has_data {
            self.data.push(b'\n');
        }
        self.has_data = true;
        self.data.extend_from_slice(data);
    }

    fn set_id(&mut self, id: &[u8]) {
        self.id.clear();
        self.id.extend_from_slice(id);
    }
}

enum Field<'a> {
    Data(&'a [u8]),
    Id(&'a [u8]),
    Other,
}

fn field(line: &[u8]) -> Field<'_> {
    let value = |rest: &'_ [u8]| rest.first() == Some(&b' ');
    if let Some(rest) = line.strip_prefix(b"data:") {
        Field::Data(if value(rest) {
            rest.get(1..).unwrap_or_default()
        } else {
            rest
        })
    } else if let Some(rest) = line.strip_prefix(b"id:") {
        Field::Id(if value(rest) {
            rest.get(1..).unwrap_or_default()
        } else {
            rest
        })
    } else if line == b"data" {
        Field::Data(&[])
    } else {
        Field::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pieces: &[&[u8]]) -> Vec<(String, String)> {
        let mut parser = EventParser::default();
        let mut events = Vec::new();
        for piece in pieces {
            let mut input = *piece;
            while let Some(event) = parser.next(&mut input).unwrap() {
                events.push((
                    String::from_utf8(event.data.to_vec()).unwrap(),
                    String::from_utf8(event.id.to_vec()).unwrap(),
                ));
            }
            assert!(input.is_empty());
        }
        events
    }

    #[test]
    fn parses_each_line_end_with_any_split() {
        let lines: &[&str] = &[
            "retry: 2000",
            "id: resp_a.0",
            "data: {\"a\":1}",
            "",
            ":",
            "event: x",
            "data:two",
            "data: lines",
            "data",
            "",
            "id:resp_a.7",
            ": comment",
            "",
            "data: [DONE]",
            "",
            "data: never ended",
        ];
        let expected = vec![
            ("{\"a\":1}".to_owned(), "resp_a.0".to_owned()),
            ("two\nlines\n".to_owned(), "resp_a.0".to_owned()),
            ("[DONE]".to_owned(), "resp_a.7".to_owned()),
        ];
        for end in ["\n", "\r\n", "\r"] {
            let text = lines.join(end);
            let bytes = text.as_bytes();
            assert_eq!(parse(&[bytes]), expected, "whole, {end:?}");
            for at in 1..bytes.len() {
                let (a, b) = bytes.split_at(at);
                assert_eq!(parse(&[a, b]), expected, "split at {at}, {end:?}");
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(parse(&single), expected, "byte by byte, {end:?}");
        }
    }
}
