//! Connections for actix-web that write a waiting stream without the server's buffers: HTTP/1, plain or
//! over TLS, and HTTP/2 over TLS.
//!
//! An HTTP/1 connection of actix-http holds 16 KiB of buffers and the state of a whole request for
//! as long as it lives. A stream of tokens waits most of its life, and a gateway has thousands of
//! them. So a response body that has no bytes for the moment leaves actix: the connection polls it
//! and writes its bytes straight to the socket, with no buffer per stream. After the last byte the
//! connection waits without buffers for the next request, and a new dispatcher of actix reads it.
//!
//! ```text
//!   accept ──▶ Http (actix) ──▶ Stream (direct writes) ──▶ Idle (no buffers) ──▶ Http ──▶ …
//! ```
//!
//! A body detaches between two polls of one task, so no byte can be read or written in between. It
//! detaches only where the request was read completely, by the application too, and nothing was read
//! after it. In every other case (pipelining, HTTP/1.0, an upload that continues during the
//! response) actix writes the body as usual. The bytes on
//! the wire are the same. A WebSocket detaches in the same way if its handler takes its payload
//! through [`websocket_payload`].
//!
//! With [`Tls`] a client may choose HTTP/2. One task then drives the connection and its streams, each
//! with back-pressure of its own; a reset by the client ends the stream at once, as the end of an
//! HTTP/1 connection does.
//!
//! [`connections`] turns an application into such connections:
//!
//! ```no_run
//! use actix_server::Server;
//! use actix_web::{App, web};
//! use tokenwire_connection::{ConnectionOptions, connections};
//!
//! # async fn run() -> std::io::Result<()> {
//! let server = Server::build();
//! let options = ConnectionOptions::new(server.graceful_shutdown_signal());
//! let server = server.bind("http", "127.0.0.1:8080", move || {
//!     let app = App::new().route("/", web::get().to(async || "hello"));
//!     connections(app, &options)
//! })?;
//! server.run().await
//! # }
//! ```
//!
//! The crate relies on details of one version of actix-http, which the workspace pins.

mod actix_io;
mod admission;
mod client_socket;
mod client_stream;
mod connection;
mod detach;
mod draining;
mod h2_connection;
mod h2_message;
mod h2_stream;
mod inbound_buffer;
mod lingering_io;
mod request_tracker;
mod service;
mod stream_writer;
mod tls;
mod websocket_payload;

pub use admission::{Admission, Admit, Reserved};
pub use draining::Draining;
pub use h2_connection::{Http2Options, PingTimes};
pub use h2_message::Http2Stream;
pub use service::{ConnectionOptions, connections};
pub use tls::{HandshakeResult, Handshakes, Tls};
pub use websocket_payload::websocket_payload;

/// The examples of the README are compiled as doctests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
