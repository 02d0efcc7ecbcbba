//! The load side: one thread, one epoll, thousands of connections.
//!
//! A [`Scenario`] receives the events of its connections and answers with [`Commands`]. Nothing
//! here allocates or locks per token: bytes are read into one shared buffer and passed on as
//! slices, so the load side costs a fraction of what it measures.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use crate::connection::{Body, Connection};
use crate::events::{Command, Commands, Dial, Event, Key, Nanos, Scenario};
use crate::http::ResponseParser;
use crate::websocket;

const READ_BUFFER: usize = 64 * 1024;
/// How a run of the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Finished,
    /// The scenario's time limit passed first.
    TimedOut,
    /// The run was interrupted from the terminal.
    Interrupted,
}

/// The event loop and its connections.
pub(crate) struct Load {
    poll: Poll,
    connections: Slab<Connection>,
    timers: BinaryHeap<Reverse<(Nanos, usize)>>,
    buffer: Vec<u8>,
    began: Instant,
    serial: u64,
    stop: Arc<AtomicBool>,
}

// === impl Load ===

impl Load {
    /// Creates a loop without connections. A run ends early when `stop` becomes true.
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
    /// a second. Connections stay open for a following run; see [`Load::close_all`].
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

    /// Closes all connections and removes all timers.
    pub(crate) fn close_all(&mut self) {
        self.connections.clear();
        self.timers.clear();
    }

    /// Handles readiness of a socket: writes what is pending and reads what is available.
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
                    // Nagle's algorithm would delay the second message of a WebSocket by 40 ms.
                    let _ = connection.socket.set_nodelay(true);
                    scenario.event(nanos(began.elapsed()), key, tag, Event::Connected, commands);
                }
                Ok(None) => return,
                Ok(Some(error)) | Err(error) => {
                    return self.close(slot, &format!("connect: {error}"), scenario, commands);
                }
            }
        }
        if let Err(error) = connection.flush() {
            return self.close(slot, &format!("write: {error}"), scenario, commands);
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
                        return self.close(slot, &error, scenario, commands);
                    }
                    // A short read emptied the socket, and the next byte triggers a new event. An
                    // end that arrived with the bytes does not, so it is read for.
                    if (short && !closing) || commands.closes(key) {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    return self.close(slot, &format!("read: {error}"), scenario, commands);
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
        self.close(slot, &why, scenario, commands);
    }

    fn close(
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
        // A command may fail; the scenario is told and may answer with further commands.
        while !commands.queue.is_empty() || !commands.timers.is_empty() {
            self.timers.extend(commands.timers.drain(..).map(Reverse));
            for command in std::mem::take(&mut commands.queue) {
                self.execute(command, scenario, commands)?;
            }
        }
        Ok(())
    }

    fn execute(
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
                        self.close(key.slot, &format!("write: {error}"), scenario, commands);
                    }
                }
            }
            Command::SendText(key, payload) => {
                let mut frame = Vec::with_capacity(payload.len() + 14);
                websocket::write_text(&mut frame, &payload);
                return self.execute(Command::Send(key, frame), scenario, commands);
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
