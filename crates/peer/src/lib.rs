//! The protocol by which processes read each other's streams: over a Unix socket on one machine, over
//! TCP between nodes.
//!
//! ```text
//!   reader                              writer of the stream
//!     │ ◀──────────────── challenge ─────────│  version, nonce
//!     │── proof, version, nonce ────────────▶│  HMAC-SHA256 over both nonces
//!     │ ◀──────────────────── proof ─────────│
//!     │── open(id, from) ───────────────────▶│
//!     │ ◀───────── header, epochs, end ──────│
//!     │ ◀───────────── records, … ───────────│  in the log's own encoding
//!     │── held, cancelled ──────────────────▶│  when readers come and go
//!     │ ◀──────────────────── sealed ────────│
//! ```
//!
//! * One connection carries one request. A stream is read over a connection of its own, so a reader
//!   that does not keep up holds back nothing but this connection.
//! * A connection is accepted by the runtime that [`Server`] runs on. A stream is sent by the runtime
//!   that writes it, so that no record wakes another thread.
//! * Both sides know a secret, which the connection does not carry. On one machine it is a file that
//!   only the owner can read. Nodes have it in their configuration.
//! * Each side's nonce announces the versions of logs that it reads and writes, in bytes that older
//!   programs take for random ones. Records are sent in the highest version that both have.
//! * Over TCP the challenge carries the tag of the process that answers, which the proofs cover: a
//!   process that took the place of another one is not asked in vain. What follows the proofs is
//!   neither encrypted nor authenticated. The network between nodes has to be private.
//! * A connection that has not proven the secret takes a second at most, 256 bytes, and one of 512
//!   places ([`Strangers`]).
//! * While a stream is open, each side sends something every second. A side that hears nothing for
//!   3 s takes the other for lost.
//! * Every frame has a length, and a bound that its place in the conversation gives. Memory is
//!   taken as bytes arrive, not as a length announces.
//! * Records are sent as the log has them. The reader renders them: no dialect and no framing is
//!   part of the protocol.
//!
//! [`Server`] answers for a [`SharedEngine`](tokenwire_core::engine::SharedEngine). [`Client`] is a
//! [`Peer`](tokenwire_core::engine::Peer) for another one. The crate knows no HTTP server.

mod client;
mod frame;
mod handshake;
mod lazy_timeout;
mod message;
mod movable;
mod network;
mod server;
mod socket_path;
mod strangers;

pub use client::{Address, Client, NodeAddress};
pub use frame::{FrameError, read_frame, write_frame};
pub use handshake::{Secret, VERSION};
pub use message::{KeyAnswer, try_decode};
pub use network::{ByteStream, Connection, Network, Tcp};
pub use server::{Server, answer, answer_node};
pub use strangers::Strangers;

use std::time::Duration;

/// Each side of an open stream sends something after this time.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(1);
/// A side that is silent for this time is lost.
pub(crate) const LOST: Duration = Duration::from_secs(3);
/// The time for connecting and proving the secret.
pub(crate) const CONNECT: Duration = Duration::from_secs(1);
/// The time for the answer to a request.
pub(crate) const ANSWER: Duration = Duration::from_secs(3);
