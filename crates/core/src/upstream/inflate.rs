//! Decompresses a body as it arrives.

use std::io::Write as _;

use flate2::write::{GzDecoder, ZlibDecoder};

use crate::model::error::{ApiError, ErrorCode};
use crate::upstream::decode::Flow;

/// Lowest bound of the output of one write, in bytes.
const MIN_LIMIT: usize = 8 * 1024 * 1024;

/// A decompressor that returns all output available after each write.
pub(super) enum Inflate {
    Gzip(GzDecoder<Vec<u8>>),
    Deflate(ZlibDecoder<Vec<u8>>),
}

impl Inflate {
    /// Returns the decompressor for a `Content-Encoding`; `None` for an uncompressed body.
    ///
    /// # Errors
    /// An encoding that was not asked for and is not supported.
    pub(super) fn for_encoding(encoding: Option<&str>) -> Result<Option<Self>, ApiError> {
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

    /// Passes what `input` inflates to to `sink`, in pieces of at most `limit` bytes or 8 MiB.
    ///
    /// # Errors
    /// Damaged input, or a piece above the limit: a small body may inflate without bound.
    pub(super) fn push(
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
            // Flushing gives the output so far, so that no token waits for the next.
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
            if out.len() > limit.max(MIN_LIMIT) {
                return Err(too_large(limit));
            }
            if !out.is_empty() && sink(&out)? == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        Ok(Flow::Continue)
    }
}

/// The error for an event of more than `limit` bytes.
pub(super) fn too_large(limit: usize) -> ApiError {
    ApiError::new(
        ErrorCode::UpstreamEventTooLarge,
        format!("The upstream sent an event of more than {limit} bytes."),
    )
}
