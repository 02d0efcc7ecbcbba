//! The load side: one thread, one epoll, thousands of connections.
//!
//! A [`Scenario`] is told what happens on its connections and answers with [`Commands`]. Nothing
//! here allocates or locks per token: bytes are read into one shared buffer and handed on as
//! slices, so that the load side costs a fraction of what it measures and does not become the thing
//! measured.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use crate::connection::{Body, Connection};
use crate::http::{Head, ResponseParser};
use crate::websocket;

const READ_BUFFER: usize = 64 * 1024;
/// Nanoseconds since the load began.
pub(crate) type Nanos = u64;

/// Names a connection. A name is not used again when its slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    slot: usize,
    serial: u64,
}

/// What happened on a connection.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// Connected; the first bytes are written right after this.
    Connected,
    /// A response's head; after a 101 the connection speaks WebSocket.
    Head(&'a Head),
    /// An SSE event, or a WebSocket text message (whose id is empty).
    Message { data: &'a [u8], id: &'a [u8] },
    /// A response that is no event stream ended, with this body; an event stream ends with an empty
    /// one.
    End(&'a [u8]),
    /// The connection is gone: why.
    Closed(String),
}

/// A connection to open.
#[derive(Debug)]
pub(crate) struct Dial {
    pub(crate) address: SocketAddr,
    /// Given back with every event of this connection.
    pub(crate) tag: usize,
    /// Written as soon as the connection stands.
    pub(crate) first: Vec<u8>,
    /// The socket's receive buffer in bytes, where the default is too large.
    pub(crate) receive_buffer: Option<usize>,
}

#[derive(Debug)]
enum Command {
    Dial(Dial),
    Send(Key, Vec<u8>),
    SendText(Key, Vec<u8>),
    StopReading(Key),
    Close(Key),
}

/// What a scenario wants done; carried out in order once it returns.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    queue: Vec<Command>,
    timers: Vec<(Nanos, usize)>,
}

/// Decides what is sent and counts what comes.
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
    /// Asked after every turn of the loop.
    fn finished(&self) -> bool;
    /// Tokens or requests so far, of how many.
    fn progress(&self) -> (u64, u64);
}

/// How a run of the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Finished,
    /// The scenario's time limit passed first.
    TimedOut,
    /// The person at the terminal had enough.
    Interrupted,
}

/// The loop and its connections.
pub(crate) struct Load {
    poll: Poll,
    connections: Slab<Connection>,
    timers: BinaryHeap<Reverse<(Nanos, usize)>>,
    buffer: Vec<u8>,
    began: Instant,
    serial: u64,
    stop: Arc<AtomicBool>,
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

    /// Reads no more from this connection, and leaves it open.
    pub(crate) fn stop_reading(&mut self, key: Key) {
        self.queue.push(Command::StopReading(key));
    }

    /// Closes the connection. No event of it follows, though its bytes may have been read already.
    pub(crate) fn close(&mut self, key: Key) {
        self.queue.push(Command::Close(key));
    }

    /// Whether this connection is about to be closed.
    pub(crate) fn closes(&self, key: Key) -> bool {
        self.queue
            .iter()
            .any(|command| matches!(command, Command::Close(closed) if *closed == key))
    }

    pub(crate) fn at(&mut self, when: Nanos, tag: usize) {
        self.timers.push((when, tag));
    }
}

// === impl Load ===

impl Load {
    /// `stop` ends a run early when it becomes true.
    pub(crate) fn new(stop: Arc<AtomicBool>) -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            connections: Slab::new(),
            timers: BinaryHeap::new(),
            buffer: vec![0; READ_BUFFER],
            began: Instant::now(),
            serial: 0,
            stop,
        })
    }

    pub(crate) fn now(&self) -> Nanos {
        nanos(self.began.elapsed())
    }

    /// Runs until the scenario has finished or `limit` has passed. `tick` is called about ten times
    /// a second. What is open stays open, so that a run can follow another on the same connections;
    /// see [`Load::close_all`].
    pub(crate) fn run(
        &mut self,
        scenario: &mut impl Scenario,
        limit: Duration,
        mut tick: impl FnMut((u64, u64)),
    ) -> io::Result<Outcome> {
        const TICK: Nanos = 100_000_000;
        let mut commands = Commands::default();
        let mut events = Events::with_capacity(1024);
        let end = self.now().saturating_add(nanos(limit));
        let mut next_tick = 0;
        scenario.start(&mut commands);
        self.apply(scenario, &mut commands)?;
        loop {
            let now = self.now();
            if now >= next_tick {
                tick(scenario.progress());
                next_tick = now + TICK;
                if self.stop.load(Ordering::Relaxed) {
                    return Ok(Outcome::Interrupted);
                }
            }
            while let Some(&Reverse((when, tag))) = self.timers.peek() {
                if when > self.now() {
                    break;
                }
                self.timers.pop();
                let now = self.now();
                scenario.timer(now, tag, &mut commands);
                self.apply(scenario, &mut commands)?;
            }
            if scenario.finished() {
                return Ok(Outcome::Finished);
            }
            let now = self.now();
            if now >= end {
                return Ok(Outcome::TimedOut);
            }
            let due = self
                .timers
                .peek()
                .map_or(end, |Reverse((when, _))| *when)
                .min(next_tick)
                .min(end);
            match self.poll.poll(
                &mut events,
                Some(Duration::from_nanos(due.saturating_sub(now))),
            ) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                let slot = event.token().0;
                self.ready(
                    slot,
                    event.is_read_closed() || event.is_error(),
                    scenario,
                    &mut commands,
                );
                self.apply(scenario, &mut commands)?;
            }
        }
    }

    /// Closes every connection and forgets every timer.
    pub(crate) fn close_all(&mut self) {
        self.connections.clear();
        self.timers.clear();
    }

    /// Something happened on a socket: write what is left, read what is there.
    fn ready(
        &mut self,
        slot: usize,
        closing: bool,
        scenario: &mut impl Scenario,
        commands: &mut Commands,
    ) {
        let began = self.began;
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let key = Key {
            slot,
            serial: connection.serial,
        };
        let tag = connection.tag;
        if !connection.connected {
            match connection.socket.take_error() {
                Ok(None) if connection.socket.peer_addr().is_ok() => {
                    connection.connected = true;
                    // Small requests leave at once: Nagle would add 40 ms to a WebSocket's second
                    // message.
                    let _ = connection.socket.set_nodelay(true);
                    scenario.event(nanos(began.elapsed()), key, tag, Event::Connected, commands);
                }
                Ok(None) => return,
                Ok(Some(error)) | Err(error) => {
                    return self.gone(slot, &format!("connect: {error}"), scenario, commands);
                }
            }
        }
        if let Err(error) = connection.flush() {
            return self.gone(slot, &format!("write: {error}"), scenario, commands);
        }
        loop {
            let Some(connection) = self.connections.get_mut(slot) else {
                return;
            };
            match connection.socket.read(&mut self.buffer) {
                Ok(0) => return self.end_of_input(slot, scenario, commands),
                Ok(length) => {
                    let now = nanos(began.elapsed());
                    let bytes = self.buffer.get(..length).unwrap_or_default();
                    let short = length < READ_BUFFER;
                    if let Err(error) = connection.receive(now, key, bytes, scenario, commands) {
                        return self.gone(slot, &error, scenario, commands);
                    }
                    // A short read emptied the socket, and the next byte makes an edge of its own.
                    // An end that came together with the bytes does not, so it is read for.
                    if (short && !closing) || commands.closes(key) {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    return self.gone(slot, &format!("read: {error}"), scenario, commands);
                }
            }
        }
    }

    fn end_of_input(&mut self, slot: usize, scenario: &mut impl Scenario, commands: &mut Commands) {
        let now = self.now();
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let key = Key {
            slot,
            serial: connection.serial,
        };
        let why = match (&connection.body, connection.http.closed()) {
            (Body::WebSocket(_), _) => "the server closed without a close frame".to_owned(),
            (_, Ok(true)) => {
                let body = std::mem::take(&mut connection.plain);
                scenario.event(now, key, connection.tag, Event::End(&body), commands);
                if commands.closes(key) {
                    return;
                }
                "the server closed".to_owned()
            }
            (_, Ok(false)) => "the server closed".to_owned(),
            (_, Err(error)) => error.to_string(),
        };
        self.gone(slot, &why, scenario, commands);
    }

    fn gone(
        &mut self,
        slot: usize,
        why: &str,
        scenario: &mut impl Scenario,
        commands: &mut Commands,
    ) {
        if let Some(connection) = self.connections.try_remove(slot) {
            let key = Key {
                slot,
                serial: connection.serial,
            };
            scenario.event(
                self.now(),
                key,
                connection.tag,
                Event::Closed(why.to_owned()),
                commands,
            );
        }
    }

    fn apply(&mut self, scenario: &mut impl Scenario, commands: &mut Commands) -> io::Result<()> {
        // Carrying out a command may fail and so tell the scenario, which may answer with more.
        while !commands.queue.is_empty() || !commands.timers.is_empty() {
            self.timers.extend(commands.timers.drain(..).map(Reverse));
            for command in std::mem::take(&mut commands.queue) {
                self.carry_out(command, scenario, commands)?;
            }
        }
        Ok(())
    }

    fn carry_out(
        &mut self,
        command: Command,
        scenario: &mut impl Scenario,
        commands: &mut Commands,
    ) -> io::Result<()> {
        match command {
            Command::Dial(dial) => self.dial(dial)?,
            Command::Send(key, bytes) => {
                if let Some(connection) = self.connection(key) {
                    connection.out.extend_from_slice(&bytes);
                    if let Err(error) = connection.flush() {
                        self.gone(key.slot, &format!("write: {error}"), scenario, commands);
                    }
                }
            }
            Command::SendText(key, payload) => {
                let mut frame = Vec::with_capacity(payload.len() + 14);
                websocket::write_text(&mut frame, &payload);
                return self.carry_out(Command::Send(key, frame), scenario, commands);
            }
            Command::StopReading(key) => {
                if let Some(connection) = self
                    .connections
                    .get_mut(key.slot)
                    .filter(|it| it.serial == key.serial)
                {
                    self.poll.registry().deregister(&mut connection.socket)?;
                }
            }
            Command::Close(key) => {
                if self.connection(key).is_some() {
                    self.connections.remove(key.slot);
                }
            }
        }
        Ok(())
    }

    fn connection(&mut self, key: Key) -> Option<&mut Connection> {
        self.connections
            .get_mut(key.slot)
            .filter(|connection| connection.serial == key.serial)
    }

    fn dial(&mut self, dial: Dial) -> io::Result<()> {
        let mut socket = TcpStream::connect(dial.address)?;
        if let Some(bytes) = dial.receive_buffer {
            rustix::net::sockopt::set_socket_recv_buffer_size(socket.as_fd(), bytes)?;
        }
        self.serial += 1;
        let entry = self.connections.vacant_entry();
        self.poll.registry().register(
            &mut socket,
            Token(entry.key()),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        entry.insert(Connection {
            socket,
            tag: dial.tag,
            serial: self.serial,
            connected: false,
            out: dial.first,
            written: 0,
            http: ResponseParser::new(),
            body: Body::Plain,
            plain: Vec::new(),
        });
        Ok(())
    }
}

fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
