//! The client side of WebSocket framing (RFC 6455): masked frames out, unmasked frames in, split
//! anywhere.

use thiserror::Error;

const MAX_MESSAGE: u64 = 16 * 1024 * 1024;

/// The `Sec-WebSocket-Key` of the handshake: 16 bytes in base64, the same for all connections.
pub(crate) const KEY: &str = "dG9rZW53aXJlIGxvYWQgMQ==";

/// A complete message; fragments are joined.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    Text(&'a [u8]),
    Binary(&'a [u8]),
    Ping(&'a [u8]),
    Pong,
    Close(u16),
}

#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum FrameError {
    #[error("the server sent a masked frame (RFC 6455, section 5.1)")]
    Masked,
    #[error("the server sent a frame with reserved bits or an unknown opcode: {0:#04x}")]
    Opcode(u8),
    #[error("a continuation without a beginning, or a beginning inside a message")]
    Fragment,
    #[error("a control frame is fragmented or longer than 125 bytes")]
    Control,
    #[error("a message is larger than {MAX_MESSAGE} bytes")]
    TooLarge,
}

/// Parses the frames of the server.
#[derive(Debug, Default)]
pub(crate) struct FrameParser {
    header: [u8; 10],
    header_length: usize,
    /// The payload so far of a frame that is split between reads.
    partial: Vec<u8>,
    /// The payloads of the fragments so far, and whether the message is text.
    message: Vec<u8>,
    fragmented: Option<u8>,
    dispatched: Vec<u8>,
}

/// Where a payload is stored.
enum Place<'a> {
    Input(&'a [u8]),
    Dispatched,
    Message,
}

// === impl FrameParser ===

impl FrameParser {
    pub(crate) fn next<'s, 'a: 's>(
        &'s mut self,
        input: &mut &'a [u8],
    ) -> Result<Option<Message<'s>>, FrameError> {
        let Some((opcode, place)) = self.advance(input)? else {
            return Ok(None);
        };
        let payload = match place {
            Place::Input(payload) => payload,
            Place::Dispatched => &self.dispatched,
            Place::Message => &self.message,
        };
        Ok(Some(match opcode {
            1 => Message::Text(payload),
            2 => Message::Binary(payload),
            8 => Message::Close(
                payload
                    .first_chunk::<2>()
                    .map_or(1005, |code| u16::from_be_bytes(*code)),
            ),
            9 => Message::Ping(payload),
            _ => Message::Pong,
        }))
    }

    /// Goes on to the end of the next message or control frame: its opcode, and where its payload
    /// lies.
    fn advance<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<(u8, Place<'a>)>, FrameError> {
        loop {
            let Some(length) = self.take_header(input)? else {
                return Ok(None);
            };
            let missing = length - self.partial.len();
            if input.len() < missing {
                self.partial.extend_from_slice(input);
                *input = &[];
                return Ok(None);
            }
            let (now, rest) = input.split_at(missing);
            *input = rest;
            self.header_length = 0;
            let [first, ..] = self.header;
            let place = if self.partial.is_empty() {
                Place::Input(now)
            } else {
                self.partial.extend_from_slice(now);
                std::mem::swap(&mut self.partial, &mut self.dispatched);
                self.partial.clear();
                Place::Dispatched
            };
            let last = first & 0x80 != 0;
            let opcode = first & 0x0f;
            let data = matches!(opcode, 0..=2);
            if data && (opcode == 0) != self.fragmented.is_some() {
                return Err(FrameError::Fragment);
            }
            if !data || (last && opcode != 0) {
                return Ok(Some((opcode, place)));
            }
            if opcode != 0 {
                self.message.clear();
                self.fragmented = Some(opcode);
            }
            self.message.extend_from_slice(match place {
                Place::Input(payload) => payload,
                _ => &self.dispatched,
            });
            if self.message.len() as u64 > MAX_MESSAGE {
                return Err(FrameError::TooLarge);
            }
            if let Some(opcode) = self.fragmented.take_if(|_| last) {
                return Ok(Some((opcode, Place::Message)));
            }
        }
    }

    /// Completes the header and returns the length of the payload.
    fn take_header(&mut self, input: &mut &[u8]) -> Result<Option<usize>, FrameError> {
        loop {
            let [first, second, extended @ ..] = self.header;
            let needed = match (self.header_length, second & 0x7f) {
                (0 | 1, _) => 2,
                (_, 126) => 4,
                (_, 127) => 10,
                _ => 2,
            };
            if self.header_length >= 2 {
                if first & 0x70 != 0 || !matches!(first & 0x0f, 0 | 1 | 2 | 8 | 9 | 10) {
                    return Err(FrameError::Opcode(first));
                }
                if second & 0x80 != 0 {
                    return Err(FrameError::Masked);
                }
                if first & 0x08 != 0 && (first & 0x80 == 0 || second > 125) {
                    return Err(FrameError::Control);
                }
                if self.header_length >= needed {
                    let [a, b, ..] = extended;
                    let length = match second {
                        126 => u64::from(u16::from_be_bytes([a, b])),
                        127 => u64::from_be_bytes(extended),
                        short => u64::from(short),
                    };
                    return match usize::try_from(length) {
                        Ok(length) if length as u64 <= MAX_MESSAGE => Ok(Some(length)),
                        _ => Err(FrameError::TooLarge),
                    };
                }
            }
            let Some((byte, rest)) = input.split_first() else {
                return Ok(None);
            };
            *input = rest;
            if let Some(slot) = self.header.get_mut(self.header_length) {
                *slot = *byte;
            }
            self.header_length += 1;
        }
    }
}

// === writing ===

/// Appends a masked text frame.
pub(crate) fn write_text(out: &mut Vec<u8>, payload: &[u8]) {
    write_frame(out, 0x81, payload);
}

/// Appends the pong for a ping.
pub(crate) fn write_pong(out: &mut Vec<u8>, payload: &[u8]) {
    write_frame(out, 0x8a, payload);
}

fn write_frame(out: &mut Vec<u8>, first: u8, payload: &[u8]) {
    // The mask guards intermediaries against payloads that scripts choose; here both ends and the
    // payload are ours, so it need not be unpredictable, only present and not zero, so that the
    // server does the work of removing it.
    const MASK: [u8; 4] = [0x5a, 0xa5, 0x3c, 0xc3];
    out.push(first);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short @ ..=125), _) => out.push(0x80 | short),
        (_, Ok(medium)) => {
            out.push(0x80 | 126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_frame(out: &mut Vec<u8>, first: u8, payload: &[u8]) {
        out.push(first);
        match payload.len() {
            short @ 0..=125 => out.push(short as u8),
            medium @ 126..=65535 => {
                out.push(126);
                out.extend_from_slice(&(medium as u16).to_be_bytes());
            }
            long => {
                out.push(127);
                out.extend_from_slice(&(long as u64).to_be_bytes());
            }
        }
        out.extend_from_slice(payload);
    }

    fn parse(pieces: &[&[u8]]) -> Result<Vec<String>, FrameError> {
        let mut parser = FrameParser::default();
        let mut seen = Vec::new();
        for piece in pieces {
            let mut input = *piece;
            while let Some(message) = parser.next(&mut input)? {
                seen.push(match message {
                    Message::Text(bytes) => format!("text {}", String::from_utf8_lossy(bytes)),
                    Message::Binary(bytes) => format!("binary {}", bytes.len()),
                    Message::Ping(bytes) => format!("ping {}", String::from_utf8_lossy(bytes)),
                    Message::Pong => "pong".to_owned(),
                    Message::Close(code) => format!("close {code}"),
                });
            }
            assert!(input.is_empty());
        }
        Ok(seen)
    }

    #[test]
    fn parses_messages_with_any_split() {
        let mut bytes = Vec::new();
        server_frame(&mut bytes, 0x81, b"hello");
        server_frame(&mut bytes, 0x81, b"");
        server_frame(&mut bytes, 0x01, b"in ");
        server_frame(&mut bytes, 0x89, b"beat");
        server_frame(&mut bytes, 0x00, b"three ");
        server_frame(&mut bytes, 0x80, b"parts");
        server_frame(&mut bytes, 0x82, &[7; 300]);
        server_frame(&mut bytes, 0x8a, b"");
        server_frame(&mut bytes, 0x88, &1001u16.to_be_bytes());
        let expected: Vec<String> = [
            "text hello",
            "text ",
            "ping beat",
            "text in three parts",
            "binary 300",
            "pong",
            "close 1001",
        ]
        .map(str::to_owned)
        .into();
        assert_eq!(parse(&[&bytes]).as_ref(), Ok(&expected));
        for at in 1..bytes.len() {
            let (a, b) = bytes.split_at(at);
            assert_eq!(parse(&[a, b]).as_ref(), Ok(&expected), "split at {at}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(parse(&single).as_ref(), Ok(&expected));
    }

    #[test]
    fn reads_a_message_with_a_64_bit_length() {
        let mut bytes = Vec::new();
        server_frame(&mut bytes, 0x82, &vec![1; 70_000]);
        let (a, b) = bytes.split_at(40_000);
        assert_eq!(parse(&[a, b]), Ok(vec!["binary 70000".to_owned()]));
    }

    #[test]
    fn invalid_server_frames_are_errors() {
        let cases: &[(&[u8], FrameError)] = &[
            (&[0x81, 0x81, 0, 0, 0, 0, b'a'], FrameError::Masked),
            (&[0xc1, 0x01, b'a'], FrameError::Opcode(0xc1)),
            (&[0x83, 0x00], FrameError::Opcode(0x83)),
            (&[0x80, 0x00], FrameError::Fragment),
            (&[0x01, 0x00, 0x81, 0x00], FrameError::Fragment),
            (&[0x09, 0x00], FrameError::Control),
            (&[0x81, 127, 1, 0, 0, 0, 0, 0, 0, 0], FrameError::TooLarge),
        ];
        for (bytes, expected) in cases {
            assert_eq!(parse(&[bytes]).as_ref(), Err(expected), "{bytes:?}");
        }
    }

    #[test]
    fn client_frames_are_masked() {
        for length in [0usize, 5, 125, 126, 65_535, 65_536] {
            let payload: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let mut out = Vec::new();
            write_text(&mut out, &payload);
            let (header, extended) = match out[1] & 0x7f {
                126 => (4, Some(u64::from(u16::from_be_bytes([out[2], out[3]])))),
                127 => (10, Some(u64::from_be_bytes(out[2..10].try_into().unwrap()))),
                _ => (2, None),
            };
            assert_eq!(out[0], 0x81);
            assert_eq!(out[1] & 0x80, 0x80, "the mask bit");
            assert_eq!(extended.unwrap_or(u64::from(out[1] & 0x7f)), length as u64);
            let mask = &out[header..header + 4];
            let unmasked: Vec<u8> = out[header + 4..]
                .iter()
                .enumerate()
                .map(|(i, b)| b ^ mask[i % 4])
                .collect();
            assert_eq!(unmasked, payload);
        }
    }
}
