//! Tokenwire subscriptions over a WebSocket (RFC 6455), many on one socket, for any actix-web
//! application.
//!
//! ```text
//!   client ──frames──▶ FrameGuard ──▶ actix-ws ──▶ conversation (a task) ──commands──▶ Hub
//!                                                        │ pongs, pings, close           │ lanes, readers, replies
//!                                                        ▼                               ▼
//!   client ◀──────────────────────────────────────── SocketBody ◀──pull── subscriptions
//! ```
//!
//! actix-ws does the handshake, reads frames and writes control frames. Data frames it does not
//! see: the response body pulls from the subscriptions and frames everything that is ready in one
//! piece, which costs one write however many tokens and lanes have something to say. Beneath
//! actix-ws a [guard](frame_guard) reads frame heads and refuses an announced size before a byte of
//! it is buffered.

mod body;
mod frame_guard;
mod framing;
mod message;
mod read_loop;
mod session;
mod upgrade;

pub use upgrade::{WebSocketOptions, upgrade};

/// The examples of the README are compiled as doctests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
