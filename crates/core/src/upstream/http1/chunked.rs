//! The chunked transfer coding (RFC 9112, section 7.1), incrementally and without copying.

/// State of the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In a chunk's size, after this many digits.
    Size {
        digits: u8,
    },
    /// In a chunk extension, up to the end of the line.
    Extension,
    /// In a chunk's data.
    Data,
    /// After a chunk's data, before its line end.
    AfterData,
    /// In the trailer section; `empty` is whether the current line is empty so far.
    Trailer {
        empty: bool,
    },
    Done,
}

/// Bytes that do not follow the standard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Decoder of one chunked body.
#[derive(Debug)]
pub(super) struct Chunked {
    state: State,
    left: u64,
    trailer: usize,
}

/// Upper bound of the trailer section and all extensions together, in bytes.
const MAX_OVERHEAD: usize = 16 * 1024;

impl Chunked {
    pub(super) fn new() -> Self {
        Self {
            state: State::Size { digits: 0 },
            left: 0,
            trailer: 0,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes data off the front of `input`. Returns `None` if the input is used up or the body has
    /// ended.
    pub(super) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Malformed> {
        loop {
            if self.state == State::Data {
                if input.is_empty() {
                    return Ok(None);
                }
                let take = usize::try_from(self.left)
                    .unwrap_or(usize::MAX)
                    .min(input.len());
                let (data, rest) = input.split_at(take);
                *input = rest;
                self.left -= take as u64;
                if self.left == 0 {
                    self.state = State::AfterData;
                }
                return Ok(Some(data));
            }
            if self.state == State::Done {
                return Ok(None);
            }
            let Some((&byte, rest)) = input.split_first() else {
                return Ok(None);
            };
            *input = rest;
            self.step(byte)?;
        }
    }

    fn step(&mut self, byte: u8) -> Result<(), Malformed> {
        self.state = match (self.state, byte) {
            (State::Size { digits }, _) if byte.is_ascii_hexdigit() => {
                if digits >= 15 {
                    return Err(Malformed);
                }
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                self.left = self.left << 4 | u64::from(digit);
                State::Size { digits: digits + 1 }
            }
            (State::Size { digits: 0 }, _) => return Err(Malformed),
            (State::Size { .. } | State::Extension, b'\n') if self.left == 0 => {
                State::Trailer { empty: true }
            }
            (State::Size { .. } | State::Extension, b'\n') => State::Data,
            (State::Size { digits }, b'\r') => State::Size { digits },
            (State::Size { .. }, b';' | b' ' | b'\t') => State::Extension,
            (State::Extension, _) => {
                self.overhead()?;
                State::Extension
            }
            (State::AfterData, b'\r') => State::AfterData,
            (State::AfterData, b'\n') => State::Size { digits: 0 },
            (State::Trailer { empty: true }, b'\n') => State::Done,
            (State::Trailer { empty: false }, b'\n') => State::Trailer { empty: true },
            (State::Trailer { empty }, b'\r') => State::Trailer { empty },
            (State::Trailer { .. }, _) => {
                self.overhead()?;
                State::Trailer { empty: false }
            }
            _ => return Err(Malformed),
        };
        Ok(())
    }

    fn overhead(&mut self) -> Result<(), Malformed> {
        self.trailer += 1;
        if self.trailer > MAX_OVERHEAD {
            Err(Malformed)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(pieces: &[&[u8]]) -> Result<(Vec<u8>, bool, usize), Malformed> {
        let mut decoder = Chunked::new();
        let (mut out, mut left) = (Vec::new(), 0);
        for piece in pieces {
            let mut input = *piece;
            while let Some(data) = decoder.next(&mut input)? {
                out.extend_from_slice(data);
            }
            left += input.len();
        }
        Ok((out, decoder.is_done(), left))
    }

    fn check(body: &[u8], expected: Result<(&str, bool, usize), Malformed>) {
        let expected = expected.map(|(text, done, left)| (text.as_bytes().to_vec(), done, left));
        assert_eq!(decode(&[body]), expected, "whole");
        let bytes: Vec<&[u8]> = body.chunks(1).collect();
        assert_eq!(decode(&bytes), expected, "byte by byte");
    }

    #[test]
    fn valid_bodies_are_decoded_whole_and_byte_by_byte() {
        check(b"5\r\nhello\r\n0\r\n\r\n", Ok(("hello", true, 0)));
        check(
            b"5;ext=1\r\nhello\r\n1\r\n!\r\n0\r\nX-Trailer: a\r\n\r\nnext",
            Ok(("hello!", true, 4)),
        );
        check(b"a\r\n0123456789\r\n", Ok(("0123456789", false, 0)));
        check(b"00A\n0123456789\n0\n\n", Ok(("0123456789", true, 0)));
    }

    #[test]
    fn malformed_bodies_are_rejected() {
        check(b"hello", Err(Malformed));
        check(b"\r\n", Err(Malformed));
        check(b"5\r\nhelloX", Err(Malformed));
        check(b"ffffffffffffffffff\r\n", Err(Malformed));
    }
}
