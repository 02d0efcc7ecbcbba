//! A response head, and the framing of its body (RFC 9112, section 6.3).

use std::mem::MaybeUninit;

use reqwest::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};

use super::chunked::{Chunked, Malformed};

/// Largest head, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// Most header lines.
const MAX_HEADERS: usize = 128;

/// Head of a final response.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) framing: Framing,
    /// Whether the connection can carry another request after the body.
    pub(super) keep_alive: bool,
}

/// How the end of the body is found.
#[derive(Debug)]
pub(super) enum Framing {
    Chunked(Chunked),
    Length(u64),
    UntilClose,
}

/// Collects a head as it is read.
#[derive(Debug, Default)]
pub(super) struct HeadReader {
    bytes: Vec<u8>,
}

impl HeadReader {
    /// Returns whether no byte was read.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Adds bytes that were read. Returns the head and the bytes after it once the head is
    /// complete. Skips interim (1xx) heads.
    pub(super) fn push(&mut self, input: &[u8]) -> Result<Option<(Head, Vec<u8>)>, Malformed> {
        // Most heads come in one piece, together with the first bytes of the body. Such a piece is
        // read where it is.
        let in_place = self.bytes.is_empty();
        if !in_place {
            self.bytes.extend_from_slice(input);
        }
        let bytes = if in_place { input } else { &self.bytes };
        let mut start = 0;
        loop {
            let mut lines = [MaybeUninit::uninit(); MAX_HEADERS];
            let mut response = httparse::Response::new(&mut []);
            let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
                &mut response,
                &bytes[start..],
                &mut lines,
            );
            let length = match parsed.map_err(|_| Malformed)? {
                httparse::Status::Complete(length) => length,
                httparse::Status::Partial if bytes.len() - start > MAX_HEAD => {
                    return Err(Malformed);
                }
                httparse::Status::Partial => break,
            };
            let status = response.code.ok_or(Malformed)?;
            if (100..200).contains(&status) && status != 101 {
                start += length;
                continue;
            }
            let head = Head::new(status, response.version == Some(1), response.headers)?;
            return Ok(Some((head, bytes[start + length..].to_vec())));
        }
        if in_place {
            self.bytes.extend_from_slice(&input[start..]);
        } else {
            self.bytes.drain(..start);
        }
        Ok(None)
    }
}

impl Head {
    fn new(status: u16, http11: bool, lines: &[httparse::Header<'_>]) -> Result<Self, Malformed> {
        let mut headers = HeaderMap::with_capacity(lines.len());
        for line in lines {
            let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| Malformed)?;
            headers.append(
                name,
                HeaderValue::from_bytes(line.value).map_err(|_| Malformed)?,
            );
        }
        let has = |name: &HeaderName, token: &str| {
            let values = headers
                .get_all(name)
                .into_iter()
                .filter_map(|value| value.to_str().ok());
            values
                .flat_map(|value| value.split(','))
                .any(|value| value.trim().eq_ignore_ascii_case(token))
        };
        let framing = if matches!(status, 204 | 304) {
            Framing::Length(0)
        } else if headers.contains_key(TRANSFER_ENCODING) {
            if has(&TRANSFER_ENCODING, "chunked") {
                Framing::Chunked(Chunked::new())
            } else {
                Framing::UntilClose
            }
        } else {
            match headers.get(CONTENT_LENGTH) {
                Some(length) => Framing::Length(
                    length
                        .to_str()
                        .ok()
                        .and_then(|text| text.trim().parse().ok())
                        .ok_or(Malformed)?,
                ),
                None => Framing::UntilClose,
            }
        };
        let keep_alive = if http11 {
            !has(&CONNECTION, "close")
        } else {
            has(&CONNECTION, "keep-alive")
        };
        Ok(Self {
            status,
            headers,
            framing,
            keep_alive: keep_alive && status != 101,
        })
    }
}

impl Framing {
    pub(super) fn is_done(&self) -> bool {
        match self {
            Self::Chunked(chunked) => chunked.is_done(),
            Self::Length(left) => *left == 0,
            Self::UntilClose => false,
        }
    }

    /// Takes body data off the front of `input`, as [`Chunked::next`].
    pub(super) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Malformed> {
        match self {
            Self::Chunked(chunked) => chunked.next(input),
            Self::Length(left) => {
                let take = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(input.len());
                let (data, rest) = input.split_at(take);
                *left -= take as u64;
                *input = rest;
                Ok((!data.is_empty()).then_some(data))
            }
            Self::UntilClose => Ok((!input.is_empty()).then(|| std::mem::take(input))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(head: &str, expected: Option<(u16, &str, bool, &str)>) {
        for pieces in [
            vec![head.as_bytes()],
            head.as_bytes().chunks(1).collect::<Vec<_>>(),
        ] {
            let mut reader = HeadReader::default();
            let (mut found, mut rest) = (None, Vec::new());
            for piece in pieces {
                match (&found, reader_push(&mut reader, piece, found.is_some())) {
                    (None, Ok(Some((head, after)))) => (found, rest) = (Some(head), after),
                    (Some(_), _) => rest.extend_from_slice(piece),
                    (None, Ok(None)) => {}
                    (None, Err(Malformed)) => {
                        assert_eq!(expected, None);
                        return;
                    }
                }
            }
            let found = found.map(|head| {
                let framing = match head.framing {
                    Framing::Chunked(_) => "chunked".to_owned(),
                    Framing::Length(length) => length.to_string(),
                    Framing::UntilClose => "close".to_owned(),
                };
                (head.status, framing, head.keep_alive)
            });
            let expected = expected.map(|(status, framing, keep, after)| {
                assert_eq!(String::from_utf8_lossy(&rest), after);
                (status, framing.to_owned(), keep)
            });
            assert_eq!(found, expected, "{head}");
        }
    }

    fn reader_push(
        reader: &mut HeadReader,
        piece: &[u8],
        done: bool,
    ) -> Result<Option<(Head, Vec<u8>)>, Malformed> {
        if done { Ok(None) } else { reader.push(piece) }
    }

    #[test]
    fn heads_and_body_framing_are_parsed() {
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n",
            Some((200, "chunked", true, "5\r\n")),
        );
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\n",
            Some((200, "7", false, "")),
        );
        check(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nrest",
            Some((200, "close", true, "rest")),
        );
        check("HTTP/1.0 200 OK\r\n\r\n", Some((200, "close", false, "")));
        check(
            "HTTP/1.1 204 No Content\r\n\r\n",
            Some((204, "0", true, "")),
        );
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 7\r\n\r\n",
            Some((200, "chunked", true, "")),
        );
        check("HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", None);
        check("SSH-2.0-OpenSSH\r\n", None);
    }
}
