//! From the bytes of an upstream body to whole payloads.
//!
//! The decoder is ours because every ready-made reader that was looked at keeps a slice of the
//! socket's buffer per event (which pins 8 KiB for ten bytes of token), grows without a bound, or
//! cannot tell a stream that ended from one that was cut. This one hands each payload out as a
//! borrowed slice, copies only what is split between two reads, has one bound, and says at the end
//! whether something was left open.

mod sse;

pub use sse::{Flow, SseDecoder, SseEvent, SseOverflow};
