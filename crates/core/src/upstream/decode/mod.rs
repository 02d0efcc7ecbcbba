//! Decodes the bytes of an upstream body into complete payloads.
//!
//! The libraries that were examined keep a slice of the socket's buffer per event (which pins 8 KiB
//! for ten bytes of token), grow without a bound, or cannot tell a finished stream from a truncated
//! one. This decoder lends each payload as a slice and copies only data that is split between two
//! reads. It has one size limit, and reports at the end whether an event was unfinished.

mod sse;

#[cfg(feature = "openai")]
pub(crate) use sse::append;
pub use sse::{Flow, SseDecoder, SseEvent, SseOverflow};
