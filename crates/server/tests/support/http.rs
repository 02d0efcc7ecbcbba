//! An HTTP/1.1 client over a plain socket. It shows what a library hides: the bytes of the head and
//! how a body ended.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::sse::{Event, parse};
use super::{PATIENCE, within};

/// A request that is not sent yet.
#[derive(Clone)]
pub(crate) struct Request {
    address: SocketAddr,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// A request whose answer is being read.
pub(crate) struct Exchange {
    pub(crate) socket: TcpStream,
    /// Bytes that were received and not yet decoded.
    raw: Vec<u8>,
    head: Option<Head>,
    /// The decoded body so far.
    pub(crate) body: Vec<u8>,
    pub(crate) end: End,
    /// Limit of the wait for each part of the answer.
    patience: Duration,
}

#[derive(Clone, Debug)]
struct Head {
    status: u16,
    /// In the order and spelling in which they were received.
    headers: Vec<(String, String)>,
    framing: Framing,
}

#[derive(Clone, Copy, Debug)]
enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

/// The state of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// More may follow.
    Open,
    /// It ended as its framing requires.
    Whole,
    /// The connection ended before the body did.
    Broken,
}

/// An answer that was read to its end.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) end: End,
}

impl Request {
    pub(crate) fn new(address: SocketAddr, method: &str, path: &str) -> Self {
        Self {
            address,
            method: method.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Serializes the request. A `Content-Length` or `Host` set by the test is kept.
    fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        let has = |wanted: &str| {
            self.headers
                .iter()
                .any(|(name, _)| name.eq_ignore_ascii_case(wanted))
        };
        if !has("host") {
            head.push_str(&format!("host: {}\r\n", self.address));
        }
        if !has("content-length")
            && !has("transfer-encoding")
            && (!self.body.is_empty() || self.method == "POST")
        {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        [head.as_bytes(), &self.body].concat()
    }

    pub(crate) async fn send(&self) -> Exchange {
        let socket = TcpStream::connect(self.address).await.unwrap();
        self.send_on(socket).await
    }

    /// Sends it on a socket with a small receive buffer, so that the server soon notices a client
    /// that does not read.
    pub(crate) async fn send_reading_little(&self, buffer: u32) -> Exchange {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(buffer).unwrap();
        let socket = socket.connect(self.address).await.unwrap();
        self.send_on(socket).await
    }

    pub(crate) async fn send_on(&self, mut socket: TcpStream) -> Exchange {
        socket.set_nodelay(true).unwrap();
        // A server that rejects a large body may close before all of it was sent.
        let _ = socket.write_all(&self.bytes()).await;
        Exchange {
            socket,
            raw: Vec::new(),
            head: None,
            body: Vec::new(),
            end: End::Open,
            patience: PATIENCE,
        }
    }

    /// Sends it and reads the answer to its end.
    pub(crate) async fn answer(&self) -> Answer {
        self.send().await.answer().await
    }
}

impl Exchange {
    /// Sets the limit of the wait for each part of the answer.
    pub(crate) fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Reads once and decodes. Returns false once the answer or the connection has ended.
    pub(crate) async fn read(&mut self) -> bool {
        if self.end != End::Open {
            return false;
        }
        let mut buffer = vec![0; 64 * 1024];
        let read = self.socket.read(&mut buffer);
        match within(self.patience, "bytes of the answer", read).await {
            Ok(0) | Err(_) => {
                let until_close = matches!(
                    self.head.as_ref().map(|head| head.framing),
                    Some(Framing::UntilClose)
                );
                self.end = if until_close { End::Whole } else { End::Broken };
                false
            }
            Ok(length) => {
                self.raw.extend_from_slice(&buffer[..length]);
                self.decode();
                true
            }
        }
    }

    fn decode(&mut self) {
        if self.head.is_none() {
            let Some(at) = find(&self.raw, b"\r\n\r\n") else {
                return;
            };
            let head: Vec<u8> = self.raw.drain(..at + 4).collect();
            self.head = Some(Head::parse(std::str::from_utf8(&head).unwrap()));
        }
        let Some(head) = &self.head else { return };
        match head.framing {
            Framing::UntilClose => self.body.append(&mut self.raw),
            Framing::Length(length) => {
                self.body.append(&mut self.raw);
                if self.body.len() >= length {
                    self.end = End::Whole;
                }
            }
            Framing::Chunked => {
                let mut at = 0;
                while let Some(line) = find(&self.raw[at..], b"\r\n") {
                    let size = usize::from_str_radix(
                        std::str::from_utf8(&self.raw[at..at + line]).unwrap(),
                        16,
                    )
                    .unwrap();
                    let data = at + line + 2;
                    if self.raw.len() < data + size + 2 {
                        break;
                    }
                    self.body.extend_from_slice(&self.raw[data..data + size]);
                    at = data + size + 2;
                    if size == 0 {
                        self.end = End::Whole;
                        break;
                    }
                }
                self.raw.drain(..at);
            }
        }
    }

    /// Waits for the head and returns the status.
    pub(crate) async fn status(&mut self) -> u16 {
        while self.head.is_none() {
            assert!(self.read().await, "the connection ended before the head");
        }
        self.head.as_ref().unwrap().status
    }

    /// Returns the status if the head was received.
    pub(crate) fn received_status(&self) -> Option<u16> {
        self.head.as_ref().map(|head| head.status)
    }

    pub(crate) async fn header(&mut self, name: &str) -> Option<String> {
        self.status().await;
        header(&self.head.as_ref().unwrap().headers, name).map(str::to_owned)
    }

    /// Returns the id of the generation that is read.
    pub(crate) async fn id(&mut self) -> String {
        let location = self.header("location").await.expect("no Location");
        location
            .strip_prefix("/v1/streams/")
            .expect("an unexpected Location")
            .to_owned()
    }

    /// Reads until the body contains `text`.
    pub(crate) async fn until(&mut self, text: &str) {
        self.until_count(text, 1).await;
    }

    /// Reads until the body contains `text` at least `times` times.
    pub(crate) async fn until_count(&mut self, text: &str, times: usize) {
        while self.text().matches(text).count() < times {
            assert!(
                self.read().await,
                "{text:?} did not occur {times} times in {}",
                self.text()
            );
        }
    }

    /// Reads until a whole event contains `text`. Returns the events so far.
    pub(crate) async fn until_event(&mut self, text: &str) -> Vec<Event> {
        loop {
            let events = self.events();
            if events.iter().any(|event| event.data.contains(text)) {
                return events;
            }
            assert!(
                self.read().await,
                "no event contains {text:?} in {}",
                self.text()
            );
        }
    }

    /// Returns the whole events so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        parse(&self.text())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Reads to the end.
    pub(crate) async fn answer(mut self) -> Answer {
        while self.read().await {}
        let head = self.head.expect("the connection ended before the head");
        Answer {
            status: head.status,
            headers: head.headers,
            body: self.body,
            end: self.end,
        }
    }
}

impl Head {
    fn parse(text: &str) -> Self {
        let mut lines = text.trim_end().split("\r\n");
        let status = lines
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").unwrap_or((line, "")))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let framing = match (
            header(&headers, "content-length"),
            header(&headers, "transfer-encoding"),
        ) {
            (_, Some("chunked")) => Framing::Chunked,
            (Some(length), _) => Framing::Length(length.parse().unwrap()),
            _ if matches!(status, 204 | 304) => Framing::Length(0),
            _ => Framing::UntilClose,
        };
        Self {
            status,
            headers,
            framing,
        }
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }

    pub(crate) fn id(&self) -> &str {
        self.header("location")
            .and_then(|location| location.strip_prefix("/v1/streams/"))
            .unwrap_or_else(|| panic!("no Location: {} {}", self.status, self.text()))
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        parse(&self.text())
    }
}

fn header<'a>(headers: &'a [(String, String)], wanted: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
        .map(|(_, value)| value.as_str())
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}
