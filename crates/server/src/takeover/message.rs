//! The messages of a takeover.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The version of these messages. A later one may add members, which older processes ignore.
pub(super) const TAKEOVER: u32 = 1;

/// A range of versions of a protocol or format, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Versions {
    /// The lowest.
    pub(crate) min: u32,
    /// The highest.
    pub(crate) max: u32,
}

/// The first message: a successor asks for the sockets.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) takeover: u32,
    /// The version of the program.
    pub(super) version: String,
    /// By which versions of the internal protocol it reads the predecessor's streams. None if it
    /// cannot.
    #[serde(default)]
    pub(super) reads: Option<Versions>,
}

/// The answer, which carries the sockets.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Offer {
    pub(super) takeover: u32,
    pub(super) version: String,
    /// By which versions of the internal protocol its streams can be read.
    #[serde(default)]
    pub(super) speaks: Option<Versions>,
    /// The addresses of the sockets, in their order.
    pub(super) sockets: Vec<SocketAddr>,
}

/// The successor accepts connections.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ready {
    pub(super) ready: bool,
}

/// The predecessor accepts no more connections.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Draining {
    pub(super) draining: bool,
}

impl Versions {
    /// Whether a version is in both ranges.
    pub(super) fn meet(self, other: Self) -> bool {
        self.min <= other.max && other.min <= self.max
    }
}

/// Whether a process that reads one range can read the streams of one that speaks the other.
pub(super) fn can_read(reads: Option<Versions>, speaks: Option<Versions>) -> bool {
    matches!((reads, speaks), (Some(reads), Some(speaks)) if reads.meet(speaks))
}
