//! An upstream's body: decompressed if need be, and decoded as SSE or as one JSON document.

use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::write::{GzDecoder, ZlibDecoder};
use http_body::Body as _;

use super::http1::{BodyStep, Exchange};
use super::{StreamStep, TokenStream};
use crate::model::error::{ApiError, ErrorCode};
use crate::upstream::decode::{Flow, SseDecoder, SseEvent, SseOverflow};
use crate::upstream::translate::BodyEnd;

pub(super) struct UpstreamBody {
    source: Source,
    inflate: Option<Inflate>,
    shape: Shape,
    limit: usize,
}

/// Where the bytes come from.
pub(super) enum Source {
    /// A general client, over TLS.
    General(Pin<Box<reqwest::Body>>),
    /// A socket of our own, without.
    Plain(Box<Exchange>),
}

impl Source {
    /// The body as far as it comes, at most `limit` bytes of it: for people, not for programs.
    pub(super) async fn read_limited(mut self, limit: usize) -> Bytes {
        let mut out = Vec::new();
        loop {
            let more = std::future::poll_fn(|cx| match &mut self {
                Self::General(body) => body.as_mut().poll_frame(cx).map(|frame| match frame {
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

enum Shape {
    /// Until the first byte.
    Unknown,
    Sse(SseDecoder),
    /// One document, whole only at the end.
    Json(Vec<u8>),
}

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// A decompressor that gives out what it can after each write.
enum Inflate {
    Gzip(GzDecoder<Vec<u8>>),
    Deflate(ZlibDecoder<Vec<u8>>),
}

impl Inflate {
    fn for_encoding(encoding: Option<&str>) -> Result<Option<Self>, ApiError> {
        match encoding.map(str::trim) {
            None | Some("" | "identity") => Ok(None),
            Some("gzip" | "x-gzip") => Ok(Some(Self::Gzip(GzDecoder::new(Vec::new())))),
            Some("deflate") => Ok(Some(Self::Deflate(ZlibDecoder::new(Vec::new())))),
            Some(_) => Err(ApiError::new(
                ErrorCode::UpstreamMalformed,
                "The upstream sent a body compressed in a way that it was not asked for and that is not understood.",
            )),
        }
    }

    /// What `input` inflates to, at most `limit` bytes at a time: a small body may inflate without
    /// an end.
    fn push(
        &mut self,
        mut input: &[u8],
        limit: usize,
        sink: &mut dyn FnMut(&[u8]) -> Result<Flow, ApiError>,
    ) -> Result<Flow, ApiError> {
        let malformed = || {
            ApiError::new(
                ErrorCode::UpstreamMalformed,
                "The upstream sent a compressed body that is damaged.",
            )
        };
        while !input.is_empty() {
            let taken = match self {
                Self::Gzip(decoder) => decoder.write(&input[..input.len().min(4096)]),
                Self::Deflate(decoder) => decoder.write(&input[..input.len().min(4096)]),
            }
            .map_err(|_| malformed())?;
            if taken == 0 {
                break;
            }
            input = &input[taken..];
            // Flushing hands on what has been inflated so far, so that no token waits for the next.
            let out = match self {
                Self::Gzip(decoder) => {
                    decoder.flush().map_err(|_| malformed())?;
                    std::mem::take(decoder.get_mut())
                }
                Self::Deflate(decoder) => {
                    decoder.flush().map_err(|_| malformed())?;
                    std::mem::take(decoder.get_mut())
                }
            };
            if out.len() > limit.max(8 * 1024 * 1024) {
                return Err(too_large(limit));
            }
            if !out.is_empty() && sink(&out)? == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        Ok(Flow::Continue)
    }
}

impl UpstreamBody {
    /// Creates a body in this encoding. Its first byte tells a stream from a JSON document, since
    /// some servers send either with the content type of the other.
    pub(super) fn new(
        source: Source,
        encoding: Option<&str>,
        limit: usize,
    ) -> Result<Self, ApiError> {
        Ok(Self {
            source,
            inflate: Inflate::for_encoding(encoding)?,
            shape: Shape::Unknown,
            limit,
        })
    }
}

/// What stands between the body's bytes and its events.
struct Decoding<'a> {
    inflate: &'a mut Option<Inflate>,
    shape: &'a mut Shape,
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
            shape,
            limit,
        } = self;
        match inflate {
            None => shape.push(input, *limit, sink),
            Some(inflate) => {
                inflate.push(input, *limit, &mut |plain| shape.push(plain, *limit, sink))
            }
        }
    }
}

impl Shape {
    fn push(
        &mut self,
        mut input: &[u8],
        limit: usize,
        sink: &mut dyn FnMut(SseEvent<'_>) -> Flow,
    ) -> Result<Flow, ApiError> {
        if matches!(self, Self::Unknown) {
            // White space and a byte order mark belong to neither shape. They may come in pieces.
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
                document.extend_from_slice(input);
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

fn too_large(limit: usize) -> ApiError {
    ApiError::new(
        ErrorCode::UpstreamEventTooLarge,
        format!("The upstream sent an event of more than {limit} bytes."),
    )
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
            shape,
            limit,
        } = self;
        let mut decoding = Decoding {
            inflate,
            shape,
            limit: *limit,
        };
        let mut result = Ok(Flow::Continue);
        let end = match source {
            Source::Plain(exchange) => {
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
            Source::General(body) => match body.as_mut().poll_frame(cx) {
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
            // The receiver has had enough, and its last word counts.
            (Ok(Flow::Stop), Some(end)) => StreamStep::Ended(end),
            (Ok(Flow::Continue), Some(BodyEnd::Clean)) => match decoding.shape.finish(sink) {
                Ok(()) => StreamStep::Ended(BodyEnd::Clean),
                Err(error) => StreamStep::Failed(error),
            },
            (Ok(Flow::Continue), Some(end)) => StreamStep::Ended(end),
        })
    }
}
