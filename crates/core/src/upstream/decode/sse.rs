//! An incremental `text/event-stream` decoder (WHATWG HTML, section 9.2.6), lenient towards the
//! deviations of real model servers.

use memchr::memchr2;

/// One dispatched event, borrowed from the input if it arrived in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SseEvent<'a> {
    /// An event with data. `name` is the `event:` field, if present. `terminated` is false for an
    /// event at the end of the body without its blank line: some servers end so, others were cut.
    Data {
        /// The `event:` field.
        name: Option<&'a [u8]>,
        /// The `data:` lines, joined by `\n`.
        data: &'a [u8],
        /// Whether the blank line was received.
        terminated: bool,
    },
    /// A line `error: …`: not in the standard, but sent at the end by some llama.cpp-based servers.
    ErrorField(&'a [u8]),
    /// A comment, an unknown field or an event without data. It shows that the upstream is alive.
    KeepAlive,
}

/// Whether the receiver wants more events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Decode further events.
    Continue,
    /// Stop: the rest of the input is not decoded.
    Stop,
}

/// A line or an event exceeds the size limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an upstream event is larger than {limit} bytes")]
pub struct SseOverflow {
    /// The limit, in bytes.
    pub limit: usize,
}

/// The decoder's state between two reads.
///
/// Its memory is that of one unfinished event: at most `limit` bytes for its line and `limit` bytes
/// for its data. A large line of data is not copied: it becomes the data.
pub struct SseDecoder {
    limit: usize,
    /// An unfinished line.
    line: Vec<u8>,
    /// Data of an event that spans several lines or reads; valid while `data_lines > 0`.
    data: Vec<u8>,
    /// Where the data begins: a large line becomes it with the name of its field.
    data_from: usize,
    data_lines: usize,
    name: Vec<u8>,
    named: bool,
    /// The last byte was a CR; a following LF belongs to it.
    after_cr: bool,
    /// Bytes of a byte order mark seen at the start; `None` after the start.
    bom: Option<usize>,
}

impl std::fmt::Debug for SseDecoder {
    /// Omits the buffered bytes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SseDecoder")
            .field("limit", &self.limit)
            .field("waiting", &(self.line.len() + self.data.len()))
            .finish_non_exhaustive()
    }
}

const BOM: &[u8] = b"\xEF\xBB\xBF";
/// What is kept of a buffer for the next event, and where a line counts as large, in bytes.
const KEPT: usize = 4096;
/// A buffer of this size grows by a quarter at a time.
const LARGE: usize = 64 * 1024;

/// Appends bytes to a buffer that is one of many.
#[inline]
pub(crate) fn append(buffer: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.len() > buffer.capacity() - buffer.len() {
        grow(buffer, bytes.len());
    }
    buffer.extend_from_slice(bytes);
}

/// Makes room for this many bytes.
#[cold]
fn grow(buffer: &mut Vec<u8>, bytes: usize) {
    if buffer.len() + bytes >= LARGE {
        buffer.reserve_exact(bytes.max(buffer.len() / 4));
    } else {
        buffer.reserve(bytes);
    }
}

impl SseDecoder {
    /// Creates a decoder that rejects lines and events of more than `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            data: Vec::new(),
            data_from: 0,
            data_lines: 0,
            name: Vec::new(),
            named: false,
            after_cr: false,
            bom: Some(0),
        }
    }

    /// Decodes one read and passes every completed event to `sink`, in order.
    ///
    /// # Errors
    /// [`SseOverflow`] if a line or an event exceeds the limit. The decoder must not be used after
    /// that.
    pub fn push(
        &mut self,
        mut input: &[u8],
        sink: &mut dyn FnMut(SseEvent<'_>) -> Flow,
    ) -> Result<Flow, SseOverflow> {
        input = self.skip_bom(input);
        loop {
            if self.after_cr {
                match input.first() {
                    None => return Ok(Flow::Continue),
                    Some(b'\n') => input = &input[1..],
                    Some(_) => {}
                }
                self.after_cr = false;
            }
            let Some(end) = memchr2(b'\n', b'\r', input) else {
                if self.line.len() + input.len() > self.limit {
                    return Err(SseOverflow { limit: self.limit });
                }
                append(&mut self.line, input);
                return Ok(Flow::Continue);
            };
            self.after_cr = input[end] == b'\r';
            let (head, rest) = (&input[..end], &input[end + 1..]);
            let flow = if self.line.is_empty() {
                // Fast path of nearly every event: one data line and its blank line in one read.
                if self.data_lines == 0
                    && let Some(data) = data_of(head)
                    && let Some(rest) = blank_line(rest, &mut self.after_cr)
                {
                    let name = self.named.then_some(self.name.as_slice());
                    let flow = sink(SseEvent::Data {
                        name,
                        data,
                        terminated: true,
                    });
                    self.reset_event();
                    input = rest;
                    if flow == Flow::Stop {
                        return Ok(Flow::Stop);
                    }
                    continue;
                }
                self.take_line(head, sink)?
            } else {
                if self.line.len() + head.len() > self.limit {
                    return Err(SseOverflow { limit: self.limit });
                }
                let mut line = std::mem::take(&mut self.line);
                append(&mut line, head);
                self.take_own_line(line, sink)?
            };
            input = rest;
            if flow == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
    }

    /// Ends the body: passes on an event that lacks its blank line.
    ///
    /// # Errors
    /// As [`SseDecoder::push`].
    pub fn finish(
        &mut self,
        sink: &mut dyn FnMut(SseEvent<'_>) -> Flow,
    ) -> Result<Flow, SseOverflow> {
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() && self.take_own_line(line, sink)? == Flow::Stop {
            return Ok(Flow::Stop);
        }
        Ok(self.dispatch(false, sink))
    }

    /// Returns the memory of the buffers, in bytes.
    #[must_use]
    pub fn memory_size(&self) -> usize {
        self.line.capacity() + self.data.capacity()
    }

    fn skip_bom<'a>(&mut self, mut input: &'a [u8]) -> &'a [u8] {
        while let Some(seen) = self.bom {
            match input.first() {
                None => break,
                Some(&byte) if byte == BOM[seen] => {
                    input = &input[1..];
                    self.bom = (seen + 1 < BOM.len()).then_some(seen + 1);
                }
                Some(_) => {
                    // Not a byte order mark: the bytes belong to the first line.
                    self.line.extend_from_slice(&BOM[..seen]);
                    self.bom = None;
                }
            }
        }
        input
    }

    /// Takes a line that was received in several pieces.
    fn take_own_line(
        &mut self,
        mut line: Vec<u8>,
        sink: &mut dyn FnMut(SseEvent<'_>) -> Flow,
    ) -> Result<Flow, SseOverflow> {
        if line.len() > KEPT
            && self.data_lines == 0
            && let Some(data) = data_of(&line)
        {
            self.data_from = line.len() - data.len();
            self.data_lines = 1;
            self.data = line;
            return Ok(Flow::Continue);
        }
        let flow = self.take_line(&line, sink)?;
        line.clear();
        line.shrink_to(KEPT);
        self.line = line;
        Ok(flow)
    }

    fn take_line(
        &mut self,
        line: &[u8],
        sink: &mut dyn FnMut(SseEvent<'_>) -> Flow,
    ) -> Result<Flow, SseOverflow> {
        if line.is_empty() {
            return Ok(self.dispatch(true, sink));
        }
        if let Some(data) = data_of(line) {
            if self.data_lines > 0 {
                self.data.push(b'\n');
            }
            if self.data.len() - self.data_from + data.len() > self.limit {
                return Err(SseOverflow { limit: self.limit });
            }
            append(&mut self.data, data);
            self.data_lines += 1;
        } else if let Some(name) = field(line, b"event") {
            self.name.clear();
            self.name.extend_from_slice(&name[..name.len().min(256)]);
            self.named = true;
        } else if let Some(value) = field(line, b"error") {
            return Ok(sink(SseEvent::ErrorField(value)));
        } else if field(line, b"id").is_none() {
            return Ok(sink(SseEvent::KeepAlive));
        }
        Ok(Flow::Continue)
    }

    fn dispatch(&mut self, terminated: bool, sink: &mut dyn FnMut(SseEvent<'_>) -> Flow) -> Flow {
        let flow = if self.data_lines > 0 {
            let name = self.named.then_some(self.name.as_slice());
            sink(SseEvent::Data {
                name,
                data: &self.data[self.data_from..],
                terminated,
            })
        } else if self.named {
            sink(SseEvent::KeepAlive)
        } else {
            Flow::Continue
        };
        self.reset_event();
        flow
    }

    fn reset_event(&mut self) {
        self.data.clear();
        // A large event must not keep its memory for the rest of the stream.
        self.data.shrink_to(KEPT);
        self.data_from = 0;
        self.data_lines = 0;
        self.named = false;
    }
}

/// Returns the value of a `data` line.
fn data_of(line: &[u8]) -> Option<&[u8]> {
    field(line, b"data")
}

fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let rest = line.strip_prefix(name)?;
    match rest.first() {
        None => Some(rest),
        Some(b':') => Some(rest[1..].strip_prefix(b" ").unwrap_or(&rest[1..])),
        Some(_) => None,
    }
}

/// Returns the input after a blank line at the start of `input`, which follows a line end.
///
/// `after_cr` is the state after the preceding line end, and is set to that after the blank line.
fn blank_line<'a>(mut input: &'a [u8], after_cr: &mut bool) -> Option<&'a [u8]> {
    if *after_cr {
        input = input.strip_prefix(b"\n").unwrap_or(input);
    }
    let (&first, rest) = input.split_first()?;
    match first {
        b'\n' => *after_cr = false,
        b'\r' => *after_cr = true,
        _ => return None,
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(pieces: &[&[u8]], limit: usize) -> Result<Vec<String>, SseOverflow> {
        let mut out = Vec::new();
        let mut decoder = SseDecoder::new(limit);
        let mut sink = |event: SseEvent<'_>| {
            out.push(match event {
                SseEvent::KeepAlive => return Flow::Continue,
                SseEvent::Data {
                    name,
                    data,
                    terminated,
                } => format!(
                    "{}{}{}",
                    name.map(|n| format!("{}|", String::from_utf8_lossy(n)))
                        .unwrap_or_default(),
                    String::from_utf8_lossy(data),
                    if terminated { "" } else { "…" }
                ),
                SseEvent::ErrorField(value) => format!("!{}", String::from_utf8_lossy(value)),
            });
            Flow::Continue
        };
        for piece in pieces {
            decoder.push(piece, &mut sink)?;
        }
        decoder.finish(&mut sink)?;
        Ok(out)
    }

    /// Checks that the body decodes alike in one piece, byte by byte, and in any two pieces.
    fn check(body: &[u8], expected: &[&str]) {
        assert_eq!(
            decode(&[body], 1 << 20).unwrap(),
            expected,
            "whole: {}",
            String::from_utf8_lossy(body)
        );
        let bytes: Vec<&[u8]> = body.chunks(1).collect();
        assert_eq!(
            decode(&bytes, 1 << 20).unwrap(),
            expected,
            "byte by byte: {}",
            String::from_utf8_lossy(body)
        );
        for at in 0..=body.len() {
            let (a, b) = body.split_at(at);
            assert_eq!(
                decode(&[a, b], 1 << 20).unwrap(),
                expected,
                "split at {at}: {}",
                String::from_utf8_lossy(body)
            );
        }
    }

    #[test]
    fn large_event_is_held_once_and_given_back() {
        let large = "x".repeat(1 << 20);
        let body = format!("data: {large}\n\ndata: y\n\n");
        let mut decoder = SseDecoder::new(2 << 20);
        let mut most = 0;
        let mut lengths = Vec::new();
        for piece in body.as_bytes().chunks(10_000) {
            let mut sink = |event: SseEvent<'_>| {
                if let SseEvent::Data { data, .. } = event {
                    lengths.push(data.len());
                }
                Flow::Continue
            };
            decoder.push(piece, &mut sink).unwrap();
            most = most.max(decoder.memory_size());
        }
        assert_eq!(lengths, [1 << 20, 1]);
        assert!(most <= (1 << 20) * 5 / 4 + 20_000, "{most} bytes");
        assert!(decoder.memory_size() <= 2 * KEPT);
    }

    #[test]
    fn common_and_unusual_streams_decode() {
        check(
            b"data: {\"a\":1}\n\ndata: [DONE]\n\n",
            &["{\"a\":1}", "[DONE]"],
        );
        check(b"data:x\n\ndata:[DONE]\n\n", &["x", "[DONE]"]);
        check(b"data: x\r\n\r\ndata: y\r\n\r\n", &["x", "y"]);
        check(b"data: x\r\rdata: y\r\r", &["x", "y"]);
        check(b"data: x\r\n\ndata: y\n\r\n", &["x", "y"]);
        check(
            b": ping\n\ndata: x\n\n:\n\n: OPENROUTER PROCESSING\n\ndata: y\n\n",
            &["x", "y"],
        );
        check(b"event: error\ndata: {}\n\ndata: y\n\n", &["error|{}", "y"]);
        check(b"data: a\ndata: b\ndata\ndata: c\n\n", &["a\nb\n\nc"]);
        check(b"\xEF\xBB\xBFdata: x\n\n", &["x"]);
        check(b"id: 7\nretry: 10\ndata: x\nevent: late\n\n", &["late|x"]);
        check(b"event: lonely\n\ndata: x\n\n", &["x"]);
        check(b"data\n\n", &[""]);
        check(b"data: x\n\n\n\ndata: y\n\n", &["x", "y"]);
        check(b"data:  two spaces\n\n", &[" two spaces"]);
        check(b"database: x\n\n", &[]);
        check(b"error: {\"detail\":\"no\"}\n\n", &["!{\"detail\":\"no\"}"]);
        check("data: häß€😊\n\n".as_bytes(), &["häß€😊"]);
    }

    #[test]
    fn unterminated_event_at_the_end_is_reported() {
        check(b"data: x\n\ndata: y\n", &["x", "y…"]);
        check(b"data: x\n\ndata: y", &["x", "y…"]);
        check(b"data: [DONE]\r\n", &["[DONE]…"]);
        check(b": comment", &[]);
    }

    #[test]
    fn comments_unknown_fields_and_events_without_data_are_keep_alives() {
        let count = |body: &[u8]| {
            let mut keep_alives = 0;
            let mut decoder = SseDecoder::new(100);
            for byte in body.chunks(1) {
                let flow = decoder.push(byte, &mut |event| {
                    keep_alives += usize::from(event == SseEvent::KeepAlive);
                    Flow::Continue
                });
                assert_eq!(flow, Ok(Flow::Continue));
            }
            keep_alives
        };
        assert_eq!(count(b": ping\n\n:\n"), 2);
        assert_eq!(count(b"event: ping\n\n"), 1);
        assert_eq!(count(b"retry: 10\nheartbeat\n\n"), 2);
        assert_eq!(count(b"id: 7\nevent: message\ndata: x\n\n\n\n"), 0);
    }

    #[test]
    fn event_over_the_limit_is_rejected() {
        let line = [b"data: ".as_slice(), &[b'x'; 100], b"\n\n"].concat();
        assert_eq!(
            decode(&[&line[..60], &line[60..]], 50),
            Err(SseOverflow { limit: 50 })
        );
        let lines = b"data: 0123456789\n".repeat(10);
        assert_eq!(decode(&[&lines], 50), Err(SseOverflow { limit: 50 }));
        let endless = [b'x'; 40];
        assert_eq!(
            decode(&[&endless, &endless], 50),
            Err(SseOverflow { limit: 50 })
        );
    }

    #[test]
    fn decoding_stops_when_the_sink_stops() {
        let mut decoder = SseDecoder::new(100);
        let mut seen = 0;
        let flow = decoder
            .push(b"data: a\n\ndata: b\n\n", &mut |_| {
                seen += 1;
                Flow::Stop
            })
            .unwrap();
        assert_eq!((flow, seen), (Flow::Stop, 1));
    }

    proptest! {
        #[test]
        fn split_positions_do_not_change_the_events(body in "(data: ?[a-z]{0,3}|:c|event: e|data|\u{FEFF}|error:x|\r|\n|\r\n|\n\n){0,24}", cuts in proptest::collection::vec(0usize..200, 0..6)) {
            let body = body.as_bytes();
            let unsplit = decode(&[body], 1 << 20).unwrap();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(body.len())).collect();
            cuts.push(0);
            cuts.push(body.len());
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &body[w[0]..w[1]]).collect();
            prop_assert_eq!(decode(&pieces, 1 << 20).unwrap(), unsplit);
        }

        #[test]
        fn decoding_never_panics(body in proptest::collection::vec(any::<u8>(), 0..400), limit in 1usize..300) {
            let _ = decode(&[&body], limit);
        }
    }
}
