//! An upstream's body, decompressed and decoded as SSE or as one JSON document.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Body as _;

use super::http1::{BodyStep, Exchange};
use super::inflate::{Inflate, too_large};
use super::{StreamStep, TokenStream};
use crate::model::error::ApiError;
use crate::upstream::decode::{Flow, SseDecoder, SseEvent, SseOverflow, append};
use crate::upstream::translate::BodyEnd;

/// A body that is decoded as it is read.
pub(super) struct UpstreamBody {
    source: BodySource,
    inflate: Option<Inflate>,
    format: BodyFormat,
    limit: usize,
}

/// The connection that a body is read from.
pub(super) enum BodySource {
    /// A connection of reqwest, over TLS.
    Reqwest(Pin<Box<reqwest::Body>>),
    /// A plain connection of [`http1`](super::http1).
    Plain(Box<Exchange>),
}

impl BodySource {
    /// Reads at most `limit` bytes of the body. A body that breaks off gives what was read.
    pub(super) async fn read_limited(mut self, limit: usize) -> Bytes {
        let mut out = Vec::new();
        loop {
            let more = std::future::poll_fn(|cx| match &mut self {
                Self::Reqwest(body) => body.as_mut().poll_frame(cx).map(|frame| match frame {
                    Some(Ok(frame)) => {
                        out.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                        true
                    }
                    _ => false,
                }),
                Self::Plain(exchange) => exchange
                    .poll_body(cx, &mut |data| out.extend_from_slice(data))
                    .map(|step| step == BodyStep::Read),
            });
            if !more.await || out.len() > limit {
                break;
            }
        }
        out.truncate(limit);
        out.into()
    }
}

enum BodyFormat {
    /// Not known before the first byte.
    Unknown,
    Sse(SseDecoder),
    /// One document, complete at the end of the body.
    Json(Vec<u8>),
}

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

impl UpstreamBody {
    /// Creates a body in this encoding. Its first byte tells a stream from a JSON document, since
    /// some servers send either with the content type of the other.
    pub(super) fn new(
        source: BodySource,
        encoding: Option<&str>,
        limit: usize,
    ) -> Result<Self, ApiError> {
        Ok(Self {
            source,
            inflate: Inflate::for_encoding(encoding)?,
            format: BodyFormat::Unknown,
            limit,
        })
    }
}

/// The steps from the body's bytes to its events.
struct Decoding<'a> {
    inflate: &'a mut Option<Inflate>,
    format: &'a mut BodyFormat,
    limit: usize,
}

impl Decoding<'_> {
    fn push(
        &mut self,
        input: &[u8],
        sink: &mut dyn FnMut(SseEvent<'_>) -> Flow,
    ) -> Result<Flow, ApiError> {
        let Self {
            inflate,
            format,
            limit,
        } = self;
        match inflate {
            None => format.push(input, *limit, sink),
            Some(inflate) => {
                inflate.push(input, *limit, &mut |plain| format.push(plain, *limit, sink))
            }
        }
    }
}

impl BodyFormat {
    fn push(
        &mut self,
        mut input: &[u8],
        limit: usize,
        sink: &mut dyn FnMut(SseEvent<'_>) -> Flow,
    ) -> Result<Flow, ApiError> {
        if matches!(self, Self::Unknown) {
            // White space and a byte order mark belong to neither format. They may come in pieces.
            let is_blank = |byte: &u8| byte.is_ascii_whitespace() || BYTE_ORDER_MARK.contains(byte);
            let Some(first) = input.iter().position(|byte| !is_blank(byte)) else {
                return Ok(Flow::Continue);
            };
            input = &input[first..];
            *self = if matches!(input.first(), Some(b'{' | b'[')) {
                Self::Json(Vec::new())
            } else {
                Self::Sse(SseDecoder::new(limit))
            };
        }
        match self {
            Self::Sse(decoder) => decoder
                .push(input, sink)
                .map_err(|SseOverflow { limit }| too_large(limit)),
            Self::Json(document) => {
                if document.len() + input.len() > limit {
                    return Err(too_large(limit));
                }
                append(document, input);
                Ok(Flow::Continue)
            }
            Self::Unknown => Ok(Flow::Continue),
        }
    }

    fn finish(&mut self, sink: &mut dyn FnMut(SseEvent<'_>) -> Flow) -> Result<(), ApiError> {
        match self {
            Self::Sse(decoder) => drop(
                decoder
                    .finish(sink)
                    .map_err(|SseOverflow { limit }| too_large(limit))?,
            ),
            Self::Json(document) => {
                let document = std::mem::take(document);
                if !document.is_empty() {
                    sink(SseEvent::Data {
                        name: None,
                        data: &document,
                        terminated: true,
                    });
                }
            }
            Self::Unknown => {}
        }
        Ok(())
    }
}

impl TokenStream for UpstreamBody {
    fn poll_events(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(SseEvent<'_>) -> Flow,
    ) -> Poll<StreamStep> {
        let Self {
            source,
            inflate,
            format,
            limit,
        } = self;
        let mut decoding = Decoding {
            inflate,
            format,
            limit: *limit,
        };
        let mut result = Ok(Flow::Continue);
        let end = match source {
            BodySource::Plain(exchange) => {
                let step = exchange.poll_body(cx, &mut |data| {
                    if matches!(result, Ok(Flow::Continue)) {
                        result = decoding.push(data, sink);
                    }
                });
                match step {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(BodyStep::Read) => None,
                    Poll::Ready(BodyStep::End) => Some(BodyEnd::Clean),
                    Poll::Ready(BodyStep::Broken) => Some(BodyEnd::Broken),
                }
            }
            BodySource::Reqwest(body) => match body.as_mut().poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        result = decoding.push(data, sink);
                    }
                    None
                }
                Poll::Ready(Some(Err(_))) => Some(BodyEnd::Broken),
                Poll::Ready(None) => Some(BodyEnd::Clean),
            },
        };
        Poll::Ready(match (result, end) {
            (Err(error), _) => StreamStep::Failed(error),
            (Ok(_), None) => StreamStep::Read,
            // The sink stopped; its result counts.
            (Ok(Flow::Stop), Some(end)) => StreamStep::Ended(end),
            (Ok(Flow::Continue), Some(BodyEnd::Clean)) => match decoding.format.finish(sink) {
                Ok(()) => StreamStep::Ended(BodyEnd::Clean),
                Err(error) => StreamStep::Failed(error),
            },
            (Ok(Flow::Continue), Some(end)) => StreamStep::Ended(end),
        })
    }

    fn buffered(&self) -> usize {
        match &self.format {
            BodyFormat::Unknown => 0,
            BodyFormat::Sse(decoder) => decoder.memory_size(),
            BodyFormat::Json(document) => document.capacity(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes a body in pieces of `size` bytes to its payloads.
    fn payloads(body: &[u8], size: usize) -> Vec<String> {
        let mut format = BodyFormat::Unknown;
        let mut out = Vec::new();
        let mut sink = |event: SseEvent<'_>| {
            if let SseEvent::Data { data, .. } = event {
                out.push(String::from_utf8_lossy(data).into_owned());
            }
            Flow::Continue
        };
        for piece in body.chunks(size) {
            assert_eq!(format.push(piece, 1000, &mut sink), Ok(Flow::Continue));
        }
        assert_eq!(format.finish(&mut sink), Ok(()));
        out
    }

    #[test]
    fn first_byte_tells_a_document_from_a_stream() {
        for prefix in ["", " \n\r\n\t", "\u{FEFF}", "\u{FEFF}\n "] {
            for (body, expected) in [
                ("{\"a\":\n1}\n", vec!["{\"a\":\n1}\n"]),
                ("[1]", vec!["[1]"]),
                ("data: {}\n\ndata: x\n\n", vec!["{}", "x"]),
                (": ping\n\ndata:x", vec!["x"]),
                ("", vec![]),
            ] {
                let body = format!("{prefix}{body}");
                for size in 1..=body.len().max(1) {
                    assert_eq!(payloads(body.as_bytes(), size), expected, "{body:?} {size}");
                }
            }
        }
    }
}
