//! HTTP/1.1 to a model server without TLS: the one on this machine or in this rack.
//!
//! A general client puts a task, a channel and two buffers between a socket and whoever reads the
//! body. For a stream of tokens that is most of the work. Here the task that writes the generation
//! reads the socket itself, into a buffer that all streams of a thread share, and decodes what is
//! in it before it lets go. A waiting stream holds no buffer at all.
//!
//! Over TLS a general client is the better choice (HTTP/2 saves the handshake, which is what a
//! reader there waits for), and [`OpenAi`](super::OpenAi) uses one.

mod chunked;
mod exchange;
mod pool;
mod response;

pub(super) use exchange::{BodyStep, Client, Exchange, SendError};
pub(super) use pool::MAX_IDLE;
