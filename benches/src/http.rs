//! An incremental parser of HTTP/1.1 responses, with only what a load generator needs.
//!
//! [`ResponseParser::next`] consumes bytes from the front of the input and returns parts whose
//! bodies are slices of that input, so a token is never copied. Input may be split anywhere
//! (RFC 9112).

use memchr::memmem;
use thiserror::Error;

const MAX_HEAD: usize = 64 * 1024;
const MAX_CHUNK_LINE: u32 = 4 * 1024;

/// The parts of a response's head that the scenarios use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) event_stream: bool,
    pub(crate) close: bool,
    pub(crate) location: Option<String>,
}

/// One part of a response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    Head(Head),
    Body(&'a [u8]),
    End,
}

#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum HttpError {
    #[error("the response head is not HTTP/1.1: {0:?}")]
    Head(String),
    #[error("the response head is larger than {MAX_HEAD} bytes")]
    HeadTooLarge,
    #[error("the chunk size line is not hexadecimal followed by CRLF (byte {0:#04x})")]
    ChunkSize(u8),
    #[error("a chunk is not followed by CRLF (byte {0:#04x})")]
    ChunkEnd(u8),
    #[error("the connection closed in the middle of a response")]
    Truncated,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    Length(u64),
    UntilClose,
    ChunkSize {
        size: u64,
        seen: u32,
        extension: bool,
    },
    ChunkData(u64),
    ChunkEnd,
    /// The trailer lines, with the length of the current line.
    Trailer(u32),
}

/// Parses the responses of one connection in sequence.
#[derive(Debug)]
pub(crate) struct ResponseParser {
    state: State,
    head: Vec<u8>,
}

// === impl ResponseParser ===

impl ResponseParser {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Head,
            head: Vec::new(),
        }
    }

    /// Returns the next part that the input completes, or `None` if more input is needed.
    pub(crate) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Part<'a>>, HttpError> {
        loop {
            match self.state {
                State::Head => {
                    let Some(head) = self.take_head(input)? else {
                        return Ok(None);
                    };
                    return Ok(Some(Part::Head(head)));
                }
                State::Length(0) => {
                    self.state = State::Head;
                    return Ok(Some(Part::End));
                }
                State::Length(left) => {
                    let Some(body) = take(input, left) else {
                        return Ok(None);
                    };
                    self.state = State::Length(left - body.len() as u64);
                    return Ok(Some(Part::Body(body)));
                }
                State::UntilClose => {
                    return Ok(take(input, u64::MAX).map(Part::Body));
                }
                State::ChunkSize {
                    size,
                    seen,
                    extension,
                } => {
                    let Some(byte) = take_byte(input) else {
                        return Ok(None);
                    };
                    self.state = chunk_size(size, seen, extension, byte)?;
                }
                State::ChunkData(0) => self.state = State::ChunkEnd,
                State::ChunkData(left) => {
                    let Some(body) = take(input, left) else {
                        return Ok(None);
                    };
                    self.state = State::ChunkData(left - body.len() as u64);
                    return Ok(Some(Part::Body(body)));
                }
                State::ChunkEnd => match take_byte(input) {
                    None => return Ok(None),
                    Some(b'\r') => {}
                    Some(b'\n') => {
                        self.state = State::ChunkSize {
                            size: 0,
                            seen: 0,
                            extension: false,
                        }
                    }
                    Some(other) => return Err(HttpError::ChunkEnd(other)),
                },
                State::Trailer(length) => match take_byte(input) {
                    None => return Ok(None),
                    Some(b'\r') => {}
                    Some(b'\n') if length == 0 => {
                        self.state = State::Head;
                        return Ok(Some(Part::End));
                    }
                    Some(b'\n') => self.state = State::Trailer(0),
                    Some(_) if length > MAX_CHUNK_LINE => return Err(HttpError::HeadTooLarge),
                    Some(_) => self.state = State::Trailer(length + 1),
                },
            }
        }
    }

    /// Handles a close by the peer. Returns `true` if it ended a response, `false` between two.
    pub(crate) fn closed(&mut self) -> Result<bool, HttpError> {
        match self.state {
            State::UntilClose => {
                self.state = State::Head;
                Ok(true)
            }
            State::Head if self.head.is_empty() => Ok(false),
            _ => Err(HttpError::Truncated),
        }
    }

    fn take_head(&mut self, input: &mut &[u8]) -> Result<Option<Head>, HttpError> {
        if input.is_empty() {
            return Ok(None);
        }
        let before = self.head.len();
        self.head.extend_from_slice(input);
        let from = before.saturating_sub(3);
        let Some(found) = self
            .head
            .get(from..)
            .and_then(|tail| memmem::find(tail, b"\r\n\r\n"))
        else {
            *input = &[];
            return if self.head.len() > MAX_HEAD {
                Err(HttpError::HeadTooLarge)
            } else {
                Ok(None)
            };
        };
        let end = from + found + 4;
        *input = input.get(end - before..).unwrap_or_default();
        self.head.truncate(end);
        let (head, state) = parse_head(&self.head)?;
        self.head.clear();
        self.state = state;
        Ok(Some(head))
    }
}

// === parsing ===

fn parse_head(bytes: &[u8]) -> Result<(Head, State), HttpError> {
    let malformed = || HttpError::Head(String::from_utf8_lossy(bytes).chars().take(80).collect());
    let text = std::str::from_utf8(bytes).map_err(|_| malformed())?;
    let mut lines = text.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    if !status_line.starts_with("HTTP/1.") {
        return Err(malformed());
    }
    let status: u16 = status_line
        .get(9..12)
        .and_then(|code| code.parse().ok())
        .ok_or_else(malformed)?;
    let mut head = Head {
        status,
        close: status_line.starts_with("HTTP/1.0"),
        ..Head::default()
    };
    let mut chunked = false;
    let mut length = None;
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or_else(malformed)?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.parse().map_err(|_| malformed())?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = value.to_ascii_lowercase().ends_with("chunked");
        } else if name.eq_ignore_ascii_case("content-type") {
            head.event_stream = value.starts_with("text/event-stream");
        } else if name.eq_ignore_ascii_case("connection") {
            head.close = value.eq_ignore_ascii_case("close");
        } else if name.eq_ignore_ascii_case("location") {
            head.location = Some(value.to_owned());
        }
    }
    let state = match (status, chunked, length) {
        (100, ..) => State::Head,
        // Bytes after an upgrade belong to the other protocol.
        (101, ..) => State::UntilClose,
        (204 | 304, ..) => State::Length(0),
        (_, true, _) => State::ChunkSize {
            size: 0,
            seen: 0,
            extension: false,
        },
        (_, false, Some(length)) => State::Length(length),
        (_, false, None) => State::UntilClose,
    };
    Ok((head, state))
}

fn chunk_size(size: u64, seen: u32, extension: bool, byte: u8) -> Result<State, HttpError> {
    let digit = match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        b'A'..=b'F' => byte - b'A' + 10,
        _ => 16,
    };
    match byte {
        b'\n' if seen == 0 => Err(HttpError::ChunkSize(byte)),
        b'\n' if size == 0 => Ok(State::Trailer(0)),
        b'\n' => Ok(State::ChunkData(size)),
        b'\r' => Ok(State::ChunkSize {
            size,
            seen,
            extension: true,
        }),
        _ if extension && seen < MAX_CHUNK_LINE => Ok(State::ChunkSize {
            size,
            seen: seen + 1,
            extension,
        }),
        b';' | b' ' | b'\t' if seen > 0 => Ok(State::ChunkSize {
            size,
            seen,
            extension: true,
        }),
        // 64 bits hold sixteen digits.
        _ if digit < 16 && seen < 16 => Ok(State::ChunkSize {
            size: size << 4 | u64::from(digit),
            seen: seen + 1,
            extension,
        }),
        other => Err(HttpError::ChunkSize(other)),
    }
}

fn take<'a>(input: &mut &'a [u8], limit: u64) -> Option<&'a [u8]> {
    if input.is_empty() {
        return None;
    }
    let length = usize::try_from(limit)
        .unwrap_or(usize::MAX)
        .min(input.len());
    let (head, tail) = input.split_at(length);
    *input = tail;
    Some(head)
}

fn take_byte(input: &mut &[u8]) -> Option<u8> {
    let (first, rest) = input.split_first()?;
    *input = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq, Clone)]
    enum Seen {
        Head(Head),
        Body(Vec<u8>),
        End,
    }

    /// Feeds the pieces and joins neighbouring body parts; the parser may split a body anywhere.
    fn parse(pieces: &[&[u8]]) -> Result<Vec<Seen>, HttpError> {
        let mut parser = ResponseParser::new();
        let mut seen = Vec::new();
        for piece in pieces {
            let mut input = *piece;
            while let Some(part) = parser.next(&mut input)? {
                match part {
                    Part::Head(head) => seen.push(Seen::Head(head)),
                    Part::End => seen.push(Seen::End),
                    Part::Body(body) => match seen.last_mut() {
                        Some(Seen::Body(before)) => before.extend_from_slice(body),
                        _ => seen.push(Seen::Body(body.to_vec())),
                    },
                }
            }
            assert!(input.is_empty(), "the parser left {} bytes", input.len());
        }
        if parser.closed()? {
            seen.push(Seen::End);
        }
        Ok(seen)
    }

    fn head(status: u16) -> Head {
        Head {
            status,
            ..Head::default()
        }
    }

    #[test]
    fn parses_each_framing_with_any_split() {
        let cases: &[(&[u8], Vec<Seen>)] = &[
            (
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nLocation: /v1/streams/resp_a\r\n\r\n5\r\nhello\r\n1A;x=\"y\"\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nX: y\r\n\r\n",
                vec![
                    Seen::Head(Head {
                        event_stream: true,
                        location: Some("/v1/streams/resp_a".to_owned()),
                        ..head(200)
                    }),
                    Seen::Body(b"helloabcdefghijklmnopqrstuvwxyz".to_vec()),
                    Seen::End,
                ],
            ),
            (
                b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\nConnection: close\r\n\r\nnope",
                vec![Seen::Head(Head { close: true, ..head(404) }), Seen::Body(b"nope".to_vec()), Seen::End],
            ),
            (
                b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
                vec![
                    Seen::Head(head(204)),
                    Seen::End,
                    Seen::Head(head(200)),
                    Seen::Body(b"ok".to_vec()),
                    Seen::End,
                ],
            ),
            (
                b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
                vec![Seen::Head(head(200)), Seen::Body(b"until the end".to_vec()), Seen::End],
            ),
            (
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x01a",
                vec![Seen::Head(head(101)), Seen::Body(b"\x81\x01a".to_vec()), Seen::End],
            ),
        ];
        for (bytes, expected) in cases {
            assert_eq!(parse(&[bytes]).as_ref(), Ok(expected), "whole");
            for at in 1..bytes.len() {
                let (a, b) = bytes.split_at(at);
                assert_eq!(parse(&[a, b]).as_ref(), Ok(expected), "split at {at}");
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(parse(&single).as_ref(), Ok(expected), "byte by byte");
        }
    }

    #[test]
    fn truncation_and_invalid_input_are_errors() {
        let cases: &[(&[u8], HttpError)] = &[
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
                HttpError::Truncated,
            ),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
                HttpError::Truncated,
            ),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel",
                HttpError::Truncated,
            ),
            (b"HTTP/1.1 200", HttpError::Truncated),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz",
                HttpError::ChunkSize(b'x'),
            ),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
                HttpError::ChunkSize(b'\n'),
            ),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc",
                HttpError::ChunkEnd(b'c'),
            ),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n11112222333344445\r\n",
                HttpError::ChunkSize(b'5'),
            ),
            (
                b"SSH-2.0-x\r\n\r\n",
                HttpError::Head("SSH-2.0-x\r\n\r\n".to_owned()),
            ),
        ];
        for (bytes, expected) in cases {
            assert_eq!(
                parse(&[bytes]).as_ref(),
                Err(expected),
                "{}",
                String::from_utf8_lossy(bytes)
            );
        }
    }
}
