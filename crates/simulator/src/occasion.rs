//! Facts about a request that are not in its body.

use std::net::SocketAddr;

use crate::options::Pace;

/// What the plan of an answer needs beside the conversation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Occasion {
    /// A number unique to this request, for ids.
    pub(crate) unique: u64,
    /// Seconds since 1970.
    pub(crate) now: u64,
    pub(crate) pace: Pace,
    pub(crate) examples: Examples,
}

/// The server that the examples in an answer name.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Examples {
    /// A gateway in front of the simulator.
    Gateway(SocketAddr),
    /// The simulator itself.
    Simulator(SocketAddr),
}
