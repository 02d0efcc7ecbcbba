//! What the load loop and a scenario tell each other: events in, commands out.

use std::net::SocketAddr;

use crate::http::Head;

/// Nanoseconds since the load began.
pub(crate) type Nanos = u64;

/// Identifies a connection. A key is never reused, even if its slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) slot: usize,
    pub(crate) serial: u64,
}

/// Something that happened on a connection.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// Connected; the first bytes are written right after this.
    Connected,
    /// The head of a response. After a 101 the connection carries WebSocket frames.
    Head(&'a Head),
    /// An SSE event, or a WebSocket text message (whose id is empty).
    Message { data: &'a [u8], id: &'a [u8] },
    /// A response ended, with its body. The body of an event stream is empty here.
    End(&'a [u8]),
    /// The connection was closed, with the reason.
    Closed(String),
}

/// A connection to open.
#[derive(Debug)]
pub(crate) struct Dial {
    pub(crate) address: SocketAddr,
    /// Passed with each event of this connection.
    pub(crate) tag: usize,
    /// Bytes to write as soon as the connection is established.
    pub(crate) first: Vec<u8>,
    /// The size of the socket's receive buffer in bytes, if not the default.
    pub(crate) receive_buffer: Option<usize>,
}

/// One command of a scenario.
#[derive(Debug)]
pub(crate) enum Command {
    Dial(Dial),
    Send(Key, Vec<u8>),
    SendText(Key, Vec<u8>),
    StopReading(Key),
    Close(Key),
}

/// The commands of a scenario, executed in order when it returns.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    pub(crate) queue: Vec<Command>,
    pub(crate) timers: Vec<(Nanos, usize)>,
}

/// Decides what is sent and counts what is received.
pub(crate) trait Scenario {
    fn start(&mut self, commands: &mut Commands);
    fn timer(&mut self, now: Nanos, tag: usize, commands: &mut Commands);
    fn event(
        &mut self,
        now: Nanos,
        key: Key,
        tag: usize,
        event: Event<'_>,
        commands: &mut Commands,
    );
    /// Returns whether the scenario is done. Called after each turn of the loop.
    fn finished(&self) -> bool;
    /// Returns the tokens or requests so far, and the total.
    fn progress(&self) -> (u64, u64);
}

// === impl Commands ===

impl Commands {
    pub(crate) fn dial(&mut self, dial: Dial) {
        self.queue.push(Command::Dial(dial));
    }

    pub(crate) fn send(&mut self, key: Key, bytes: Vec<u8>) {
        self.queue.push(Command::Send(key, bytes));
    }

    /// Sends a WebSocket text message.
    pub(crate) fn send_text(&mut self, key: Key, payload: Vec<u8>) {
        self.queue.push(Command::SendText(key, payload));
    }

    /// Stops reading from this connection and leaves it open.
    pub(crate) fn stop_reading(&mut self, key: Key) {
        self.queue.push(Command::StopReading(key));
    }

    /// Closes the connection. No event of it follows, even if bytes of it were read already.
    pub(crate) fn close(&mut self, key: Key) {
        self.queue.push(Command::Close(key));
    }

    /// Returns whether this connection is about to be closed.
    pub(crate) fn closes(&self, key: Key) -> bool {
        self.queue
            .iter()
            .any(|command| matches!(command, Command::Close(closed) if *closed == key))
    }

    pub(crate) fn at(&mut self, when: Nanos, tag: usize) {
        self.timers.push((when, tag));
    }
}
