//! One connection: bytes in, events out.

use std::io::{self, ErrorKind, Write};

use mio::net::TcpStream;

use crate::events::{Commands, Event, Key, Nanos, Scenario};
use crate::http::{Part, ResponseParser};
use crate::sse::EventParser;
use crate::websocket::{self, FrameParser, Message};

/// The most bytes kept of a plain body, which is usually an error.
const MAX_PLAIN_BODY: usize = 64 * 1024;

/// A socket with its pending output and the state of its parsers.
pub(crate) struct Connection {
    pub(crate) socket: TcpStream,
    pub(crate) tag: usize,
    pub(crate) serial: u64,
    pub(crate) connected: bool,
    pub(crate) out: Vec<u8>,
    pub(crate) written: usize,
    pub(crate) http: ResponseParser,
    pub(crate) body: Body,
    pub(crate) plain: Vec<u8>,
}

/// The kind of the body, known from the head of the response.
pub(crate) enum Body {
    Plain,
    Events(Box<EventParser>),
    WebSocket(Box<FrameParser>),
}

// === impl Connection ===

impl Connection {
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while self.connected && self.written < self.out.len() {
            match self
                .socket
                .write(self.out.get(self.written..).unwrap_or_default())
            {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(length) => self.written += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.connected {
            self.out.clear();
            self.written = 0;
        }
        Ok(())
    }

    /// Parses the bytes read and passes the events to the scenario. An error ends the connection.
    pub(crate) fn receive(
        &mut self,
        now: Nanos,
        key: Key,
        bytes: &[u8],
        scenario: &mut impl Scenario,
        commands: &mut Commands,
    ) -> Result<(), String> {
        let tag = self.tag;
        let mut input = bytes;
        while let Some(part) = self
            .http
            .next(&mut input)
            .map_err(|error| error.to_string())?
        {
            match part {
                Part::Head(head) => {
                    self.body = match head.status {
                        101 => Body::WebSocket(Box::default()),
                        _ if head.event_stream => Body::Events(Box::default()),
                        _ => Body::Plain,
                    };
                    scenario.event(now, key, tag, Event::Head(&head), commands);
                    if commands.closes(key) {
                        return Ok(());
                    }
                }
                Part::Body(mut body) => match &mut self.body {
                    Body::Plain => {
                        let room = MAX_PLAIN_BODY.saturating_sub(self.plain.len());
                        self.plain
                            .extend_from_slice(body.get(..room).unwrap_or(body));
                    }
                    Body::Events(parser) => {
                        while let Some(event) =
                            parser.next(&mut body).map_err(|error| error.to_string())?
                        {
                            let event = Event::Message {
                                data: event.data,
                                id: event.id,
                            };
                            scenario.event(now, key, tag, event, commands);
                            if commands.closes(key) {
                                return Ok(());
                            }
                        }
                    }
                    Body::WebSocket(parser) => {
                        while let Some(message) =
                            parser.next(&mut body).map_err(|error| error.to_string())?
                        {
                            match message {
                                Message::Text(data) => {
                                    scenario.event(
                                        now,
                                        key,
                                        tag,
                                        Event::Message { data, id: &[] },
                                        commands,
                                    );
                                    if commands.closes(key) {
                                        return Ok(());
                                    }
                                }
                                Message::Ping(payload) => {
                                    let mut pong = Vec::with_capacity(payload.len() + 14);
                                    websocket::write_pong(&mut pong, payload);
                                    commands.send(key, pong);
                                }
                                Message::Close(code) => {
                                    return Err(format!("the server closed with code {code}"));
                                }
                                Message::Binary(_) | Message::Pong => {}
                            }
                        }
                    }
                },
                Part::End => {
                    let body = std::mem::take(&mut self.plain);
                    scenario.event(now, key, tag, Event::End(&body), commands);
                    if commands.closes(key) {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }
}
