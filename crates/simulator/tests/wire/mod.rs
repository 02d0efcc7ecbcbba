//! A client on plain sockets. It shows what a library hides: whether a body was ended, and how many
//! reads it took.
#![allow(dead_code, reason = "each test file uses its part of it")]

use std::io::Read;
use std::time::Duration;

use serde_json::{Value, json};
use tokenwire_simulator::{Options, Pace, Simulator};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Time limit of each wait. It is far above what is expected.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn instant() -> Simulator {
    Simulator::start(Options {
        pace: Pace::INSTANT,
        ..Options::default()
    })
    .unwrap()
}

/// A request on its own connection, and its answer so far.
pub(crate) struct Exchange {
    pub(crate) socket: TcpStream,
    received: Vec<u8>,
    pub(crate) reads: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    /// The body without the chunked coding.
    pub(crate) body: Vec<u8>,
    /// Whether the body ended by its framing, not by the end of the connection.
    pub(crate) ended: bool,
    pub(crate) reads: usize,
}

pub(crate) async fn send(
    simulator: &Simulator,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Exchange {
    let mut socket = TcpStream::connect(simulator.addr()).await.unwrap();
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nhost: simulator\r\ncontent-length: {}\r\nconnection: close\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    socket
        .write_all(&[head.as_bytes(), body].concat())
        .await
        .unwrap();
    Exchange {
        socket,
        received: Vec::new(),
        reads: 0,
    }
}

pub(crate) async fn post(
    simulator: &Simulator,
    path: &str,
    steering: &str,
    body: &Value,
) -> Exchange {
    send(
        simulator,
        "POST",
        path,
        &[("x-simulator", steering)],
        body.to_string().as_bytes(),
    )
    .await
}

pub(crate) async fn get(simulator: &Simulator, path: &str) -> Answer {
    send(simulator, "GET", path, &[], b"").await.answer().await
}

/// Returns a complete steered chat completion stream.
pub(crate) async fn chat(simulator: &Simulator, steering: &str) -> Answer {
    post(simulator, "/v1/chat/completions", steering, &question(true))
        .await
        .answer()
        .await
}

pub(crate) async fn responses(simulator: &Simulator, steering: &str) -> Answer {
    post(
        simulator,
        "/v1/responses",
        steering,
        &json!({"model": "simulator", "input": "hi", "stream": true}),
    )
    .await
    .answer()
    .await
}

pub(crate) fn question(stream: bool) -> Value {
    json!({"model": "simulator", "stream": stream, "messages": [{"role": "user", "content": "hi"}]})
}

/// Returns `question` with additional members.
pub(crate) fn with(mut base: Value, members: Value) -> Value {
    base.as_object_mut()
        .unwrap()
        .extend(members.as_object().unwrap().clone());
    base
}

impl Exchange {
    /// Reads once. Returns false at the end of the connection.
    async fn read(&mut self) -> bool {
        let mut buffer = vec![0; 256 * 1024];
        let read = tokio::time::timeout(PATIENCE, self.socket.read(&mut buffer))
            .await
            .expect("the simulator is silent");
        self.reads += 1;
        match read {
            Ok(0) | Err(_) => false,
            Ok(length) => {
                self.received.extend_from_slice(&buffer[..length]);
                true
            }
        }
    }

    /// Reads until `text` was received.
    pub(crate) async fn until(&mut self, text: &str) {
        while !contains(&self.received, text.as_bytes()) {
            assert!(
                self.read().await,
                "{text} never came in {}",
                String::from_utf8_lossy(&self.received)
            );
        }
    }

    /// Reads until the predicate holds for the answer so far.
    pub(crate) async fn until_answer(&mut self, wanted: impl Fn(&Answer) -> bool) {
        while !contains(&self.received, b"\r\n\r\n") || !wanted(&parse(&self.received, self.reads))
        {
            assert!(
                self.read().await,
                "the answer ended before it was as wanted"
            );
        }
    }

    /// Reads to the end of the connection.
    pub(crate) async fn raw(mut self) -> Vec<u8> {
        while self.read().await {}
        self.received
    }

    /// Reads to the end of the connection.
    pub(crate) async fn answer(mut self) -> Answer {
        while self.read().await {}
        parse(&self.received, self.reads)
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

fn parse(received: &[u8], reads: usize) -> Answer {
    let end = received
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("no head")
        + 4;
    let head = std::str::from_utf8(&received[..end]).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let status = lines
        .next()
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let header = |wanted: &str| {
        headers
            .iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value.as_str())
    };
    let rest = &received[end..];
    let (body, ended) = match header("content-length") {
        Some(length) => (
            rest.to_vec(),
            rest.len() == length.parse::<usize>().unwrap(),
        ),
        None => dechunk(rest),
    };
    Answer {
        status,
        headers,
        body,
        ended,
        reads,
    }
}

fn dechunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(line) = rest.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        rest = &rest[line + 2..];
        if size == 0 {
            return (body, rest == b"\r\n");
        }
        if rest.len() < size + 2 {
            break;
        }
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
    (body, false)
}

impl Answer {
    pub(crate) fn header(&self, wanted: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(&self.body)))
    }

    /// Returns the payloads of events with the usual framing.
    pub(crate) fn data(&self) -> Vec<String> {
        self.text()
            .split("\n\n")
            .filter_map(|block| {
                block
                    .lines()
                    .find_map(|line| line.strip_prefix("data: ").map(str::to_owned))
            })
            .collect()
    }

    /// Returns the events that are JSON.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.data()
            .iter()
            .filter(|data| *data != "[DONE]")
            .map(|data| serde_json::from_str(data).unwrap())
            .collect()
    }

    pub(crate) fn done(&self) -> bool {
        self.text().ends_with("data: [DONE]\n\n")
    }

    /// Returns the text of the answer, joined from its chunks.
    pub(crate) fn content(&self) -> String {
        content(&self.events())
    }

    pub(crate) fn finish(&self) -> Option<String> {
        self.events().iter().find_map(|event| {
            event["choices"][0]["finish_reason"]
                .as_str()
                .map(str::to_owned)
        })
    }

    pub(crate) fn gunzipped(&self) -> Vec<u8> {
        let mut plain = Vec::new();
        // Bytes before an early end are kept in `plain`.
        let end = flate2::read::GzDecoder::new(self.body.as_slice()).read_to_end(&mut plain);
        assert!(end.is_ok() || !self.ended, "{end:?}");
        plain
    }
}

pub(crate) fn content(events: &[Value]) -> String {
    events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
        .collect()
}
