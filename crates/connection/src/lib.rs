//! A client's connection: actix-web reads requests from it and writes answers to it, and a stream
//! that lasts writes to it by itself.
//!
//! An HTTP/1 connection of actix-http holds 16 KiB of buffers and the state of a whole request for
//! as long as it lives. Most of the life of a stream of tokens is waiting, and there are thousands.
//! So once the head of an event stream is written and there is nothing more to say for the moment,
//! the connection lets go of actix's half: the response's body moves to [`StreamWriter`], which polls it
//! and writes what it gives straight to the socket, without a buffer of its own. When the body is
//! over the connection waits, again without buffers, for the next request, and a new dispatcher of
//! actix's reads that.
//!
//! ```text
//!   accept ──▶ Http (actix) ──▶ StreamWriter (a stream) ──▶ Idle (no buffers) ──▶ Http ──▶ …
//! ```
//!
//! The handover happens between two polls of one task, so that no byte can come or go meanwhile,
//! and only where it is certain that the whole request was read and nothing after it
//! ([`client_socket::ClientSocket::offer`]). In any other case (pipelining, HTTP/1.0, chunked uploads) actix goes on
//! to write the body as ever: the bytes on the wire are the same. A WebSocket leaves in the same
//! way; what its client sends then comes through an [`inbox`] instead of actix's payload.

mod actix_io;
mod client_socket;
mod detach;
mod inbound;
mod service;
mod stream_writer;

pub use actix_io::ActixIo;
pub use detach::Detach;
pub use inbound::incoming;
pub use service::{Connections, Timeouts};

/// The examples of the README are compiled as doctests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
