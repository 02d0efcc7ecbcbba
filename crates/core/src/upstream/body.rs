//! An upstream's body: decompressed if need be, and decoded as SSE or as one JSON document.

use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use flate2::write::{GzDecoder, ZlibDecoder};
use http_body::Body as _;

use super::{StreamStep, TokenStream};
use crate::decode::{Flow, SseDecoder, SseEvent, SseOverflow};
use crate::error::{ApiError, ErrorCode};
use crate::translate::BodyEnd;

pub(super) struct UpstreamBody {
    body: Pin<Box<reqwest::Body>>,
    inflate: Option<Inflate>,
    shape: Shape,
    limit: usize,
}

enum Shape {
    /// The head does not say; the first byte will.
    Unknown,
    Sse(SseDecoder),
    /// One document, whole only at the end.
    Json(Vec<u8>),
}

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

    /// What `input` inflates to, at most `limit` bytes at a time: a small body may inflate without an end.
    fn push(&mut self, mut input: &[u8], limit: usize, sink: &mut dyn FnMut(&[u8]) -> Result<Flow, ApiError>) -> Result<Flow, ApiError> {
        let malformed = || ApiError::new(ErrorCode::UpstreamMalformed, "The upstream sent a compressed body that is damaged.");
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
    /// A body in this encoding. `sse` says what the head's content type says; other types are looked at.
    pub(super) fn new(body: reqwest::Body, encoding: Option<&str>, sse: bool, limit: usize) -> Result<Self, ApiError> {
        let shape = if sse { Shape::Sse(SseDecoder::new(limit)) } else { Shape::Unknown };
        Ok(Self { body: Box::pin(body), inflate: Inflate::for_encoding(encoding)?, shape, limit })
    }

    fn push(&mut self, input: &[u8], sink: &mut dyn FnMut(SseEvent<'_>) -> Flow) -> Result<Flow, ApiError> {
        let Self { inflate, shape, limit, .. } = self;
        match inflate {
            None => shape.push(input, *limit, sink),
            Some(inflate) => inflate.push(input, *limit, &mut |plain| shape.push(plain, *limit, sink)),
        }
    }
}

impl Shape {
    fn push(&mut self, input: &[u8], limit: usize, sink: &mut dyn FnMut(SseEvent<'_>) -> Flow) -> Result<Flow, ApiError> {
        if matches!(self, Self::Unknown) {
            let Some(first) = input.iter().find(|byte| !byte.is_ascii_whitespace()) else { return Ok(Flow::Continue) };
            *self = if matches!(first, b'{' | b'[') { Self::Json(Vec::new()) } else { Self::Sse(SseDecoder::new(limit)) };
        }
        match self {
            Self::Sse(decoder) => decoder.push(input, sink).map_err(|SseOverflow { limit }| too_large(limit)),
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
            Self::Sse(decoder) => drop(decoder.finish(sink).map_err(|SseOverflow { limit }| too_large(limit))?),
            Self::Json(document) => {
                let document = std::mem::take(document);
                if !document.is_empty() {
                    sink(SseEvent::Data { name: None, data: &document, terminated: true });
                }
            }
            Self::Unknown => {}
        }
        Ok(())
    }
}

fn too_large(limit: usize) -> ApiError {
    ApiError::new(ErrorCode::UpstreamEventTooLarge, format!("The upstream sent an event of more than {limit} bytes."))
}

impl TokenStream for UpstreamBody {
    fn poll_events(&mut self, cx: &mut Context<'_>, sink: &mut dyn FnMut(SseEvent<'_>) -> Flow) -> Poll<StreamStep> {
        let frame = match self.body.as_mut().poll_frame(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(frame) => frame,
        };
        let step = match frame {
            Some(Ok(frame)) => match frame.data_ref() {
                Some(data) => match self.push(data, sink) {
                    Ok(_) => StreamStep::Read,
                    Err(error) => StreamStep::Failed(error),
                },
                None => StreamStep::Read,
            },
            Some(Err(_)) => StreamStep::Ended(BodyEnd::Broken),
            None => match self.shape.finish(sink) {
                Ok(()) => StreamStep::Ended(BodyEnd::Clean),
                Err(error) => StreamStep::Failed(error),
            },
        };
        Poll::Ready(step)
    }
}
