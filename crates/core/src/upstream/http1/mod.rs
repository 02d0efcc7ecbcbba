//! An HTTP/1.1 client for model servers without TLS, on the same machine or network.
//!
//! A general client puts a task, a channel and two buffers between a socket and the reader of a
//! body. For a stream of tokens that is most of the work. Here the task that writes the generation
//! reads the socket itself, into a buffer that all streams of a thread share, and decodes the bytes
//! before it yields. A waiting stream holds no buffer.
//!
//! Over TLS, [`OpenAi`](super::OpenAi) uses a general client: HTTP/2 saves handshakes.

mod chunked;
mod exchange;
mod pool;
mod response;

pub(super) use exchange::{BodyStep, Client, Exchange, SendError};
pub(super) use pool::MAX_IDLE;
