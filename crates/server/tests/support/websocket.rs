//! WebSocket clients: a well-behaved one, and one that sends arbitrary bytes.

use std::net::SocketAddr;

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::patiently;

/// A well-behaved client: it answers pings and closes.
pub(crate) struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Socket {
    pub(crate) async fn connect(address: SocketAddr, path: &str) -> Self {
        let request = format!("ws://{address}{path}")
            .into_client_request()
            .unwrap();
        let (stream, _) = tokio_tungstenite::connect_async(request).await.unwrap();
        Self { stream }
    }

    /// Connects with a key.
    pub(crate) async fn connect_by(address: SocketAddr, path: &str, key: &str) -> Self {
        let mut request = format!("ws://{address}{path}")
            .into_client_request()
            .unwrap();
        let value = HeaderValue::try_from(format!("Bearer {key}")).unwrap();
        request.headers_mut().insert("authorization", value);
        let (stream, _) = tokio_tungstenite::connect_async(request).await.unwrap();
        Self { stream }
    }

    /// Connects as `tokenwire.js` does, so that the extension events are sent as well.
    pub(crate) async fn connect_extended(address: SocketAddr, path: &str) -> Self {
        let mut request = format!("ws://{address}{path}")
            .into_client_request()
            .unwrap();
        request.headers_mut().insert(
            "sec-websocket-protocol",
            HeaderValue::from_static("tokenwire.v1"),
        );
        let (stream, _) = tokio_tungstenite::connect_async(request).await.unwrap();
        Self { stream }
    }

    pub(crate) async fn send(&mut self, message: Value) {
        self.send_raw(Message::text(message.to_string())).await;
    }

    pub(crate) async fn send_raw(&mut self, message: Message) {
        patiently("room to send", self.stream.send(message))
            .await
            .unwrap();
    }

    /// Sends `response.create` with this input and these members.
    pub(crate) async fn create(&mut self, steering: &str, members: Value) {
        self.send(super::with(
            json!({"type": "response.create", "input": format!("[[{steering}]]")}),
            members,
        ))
        .await;
    }

    /// Returns the next message that is not a ping; the library answers pings. `None` is the end of
    /// the connection.
    pub(crate) async fn message(&mut self) -> Option<Message> {
        loop {
            match patiently("a message", self.stream.next()).await {
                Some(Ok(Message::Ping(_))) => {}
                Some(Ok(message)) => return Some(message),
                Some(Err(_)) | None => return None,
            }
        }
    }

    /// Returns the next event.
    pub(crate) async fn next(&mut self) -> Value {
        match self.message().await {
            Some(Message::Text(text)) => serde_json::from_str(&text).unwrap(),
            other => panic!("{other:?} instead of an event"),
        }
    }

    /// Returns all events up to the first that satisfies `wanted`.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            events.push(self.next().await);
            if events.last().is_some_and(&wanted) {
                return events;
            }
        }
    }

    /// Returns all events up to the first of this type.
    pub(crate) async fn until_type(&mut self, kind: &str) -> Vec<Value> {
        self.until(|event| event["type"] == kind).await
    }

    /// Returns all events up to the first that ends a response.
    pub(crate) async fn until_end(&mut self) -> Vec<Value> {
        self.until(is_terminal).await
    }

    /// Returns the events before the answer to a ping. Earlier requests are answered by then.
    pub(crate) async fn until_pong(&mut self) -> Vec<Value> {
        self.send(json!({"type": "tokenwire:ping"})).await;
        let mut events = self.until_type("tokenwire:pong").await;
        events.pop();
        events
    }

    /// Reads to the close and returns its code, 1006 if there was no close frame.
    pub(crate) async fn close_code(&mut self) -> u16 {
        loop {
            match self.message().await {
                Some(Message::Close(Some(frame))) => return frame.code.into(),
                Some(Message::Close(None)) => return 1005,
                Some(_) => {}
                None => return 1006,
            }
        }
    }
}

pub(crate) fn is_terminal(event: &Value) -> bool {
    matches!(
        event["type"].as_str(),
        Some("response.completed" | "response.incomplete" | "response.failed")
    )
}

/// A client that sends arbitrary bytes.
pub(crate) struct RawSocket {
    socket: TcpStream,
    received: Vec<u8>,
    /// The head of the answer to the upgrade.
    pub(crate) head: String,
}

impl RawSocket {
    pub(crate) async fn connect(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        Self::connect_to(address, &address.to_string(), path, headers).await
    }

    /// Connects under this host name.
    pub(crate) async fn connect_to(
        address: SocketAddr,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Self {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let mut head = format!(
            "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut raw = Self {
            socket,
            received: Vec::new(),
            head: String::new(),
        };
        loop {
            if let Some(at) = raw
                .received
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
            {
                let head: Vec<u8> = raw.received.drain(..at + 4).collect();
                raw.head = String::from_utf8(head).unwrap();
                return raw;
            }
            assert!(raw.read().await, "no answer to the upgrade");
        }
    }

    async fn read(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match patiently("a frame", self.socket.read(&mut buffer)).await {
            Ok(0) | Err(_) => false,
            Ok(length) => {
                self.received.extend_from_slice(&buffer[..length]);
                true
            }
        }
    }

    /// Sends raw bytes. Returns whether they could be sent.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).await.is_ok()
    }

    /// Returns the next frame: its first byte and its payload. `None` is the end of the connection.
    pub(crate) async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((size, frame)) = parse(&self.received) {
                self.received.drain(..size);
                return Some(frame);
            }
            if !self.read().await {
                return None;
            }
        }
    }

    /// Returns the next text message.
    pub(crate) async fn text(&mut self) -> Value {
        loop {
            match self.frame().await.expect("the connection ended") {
                (0x81, payload) => return serde_json::from_slice(&payload).unwrap(),
                (0x89, _) => {}
                other => panic!("{other:?} instead of a text"),
            }
        }
    }

    /// Reads to the close frame and returns its code. `None` if the connection ends without one.
    pub(crate) async fn close_code(&mut self) -> Option<u16> {
        while let Some((first, payload)) = self.frame().await {
            if first == 0x88 {
                return payload
                    .get(..2)
                    .map(|code| u16::from_be_bytes([code[0], code[1]]))
                    .or(Some(1005));
            }
        }
        None
    }

    /// Returns once the server has ended the connection.
    pub(crate) async fn ends(&mut self) -> bool {
        while self.frame().await.is_some() {}
        true
    }
}

/// Builds a masked frame, as a client sends it.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = frame_head(first, payload.len() as u64);
    let mask = [0x11, 0x22, 0x33, 0x44];
    out.extend(
        payload
            .iter()
            .enumerate()
            .map(|(index, byte)| byte ^ mask[index % 4]),
    );
    out
}

/// Builds the head of a masked frame that announces `length` bytes.
pub(crate) fn frame_head(first: u8, length: u64) -> Vec<u8> {
    let mut out = vec![first];
    match length {
        0..126 => out.push(0x80 | length as u8),
        126..65_536 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
    out.extend_from_slice(&[0x11, 0x22, 0x33, 0x44]);
    out
}

/// Parses the server frame at the beginning of `bytes`. Returns it with its size.
fn parse(bytes: &[u8]) -> Option<(usize, (u8, Vec<u8>))> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (start, length) = match second {
        126 => (
            4,
            usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])),
        ),
        127 => (
            10,
            u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap()) as usize,
        ),
        short => (2, usize::from(short)),
    };
    let payload = bytes.get(start..start + length)?;
    Some((start + length, (first, payload.to_vec())))
}
