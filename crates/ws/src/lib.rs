//! Tokenwire subscriptions over a WebSocket (RFC 6455), many on one socket, for any actix-web
//! application.
//!
//! ```text
//!   client ──frames──▶ FrameGuard ──▶ actix-ws ──▶ read_loop (a task) ──commands──▶ SocketSession
//!                                                       and control frames              │ lanes, readers, replies
//!                                                                                       ▼
//!   client ◀───────────────────────────────────── SocketBody ◀──pull── subscriptions
//! ```
//!
//! actix-ws does the handshake and reads frames. What a session sends bypasses it: the response body
//! pulls from the subscriptions and frames everything that is ready in one piece. That is one write
//! for all tokens of all lanes, and a token touches nothing that only control frames need. Below
//! actix-ws a frame guard reads frame heads and refuses an announced size before the frame is
//! buffered.
//!
//! [`upgrade`] is the one call: it takes the request, its payload and the engine, and returns the
//! response.

mod activity;
mod body;
mod control_frames;
mod frame_guard;
mod lanes;
mod message;
mod read_loop;
mod readers;
mod replies;
mod session;
mod socket_credential;
mod text_frames;
mod upgrade;
mod waiting_commands;

pub use activity::{ActivityEvents, ActivityFeed};
pub use socket_credential::{Renewal, SocketAccess, SocketCredential, SocketReads, TicketCheck};
pub use upgrade::{WebSocketOptions, refuse, upgrade};

/// The examples of the README are compiled as doctests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
