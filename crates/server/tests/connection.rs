//! One connection, many answers: what a client sees on the wire is the same whether actix writes a
//! stream or the stream writes itself.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod support;

use std::net::SocketAddr;

use serde_json::json;
use support::{World, chat, patiently, start, with};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A pause between tokens, so that a stream waits between two writes and leaves actix.
const PACED: &str = "tokens=4 text=count ttft=20ms tbt=20ms";

/// A client that keeps its connection.
struct Line {
    socket: TcpStream,
    received: Vec<u8>,
}

#[derive(Debug)]
struct Answer {
    head: String,
    body: String,
}

impl Line {
    async fn connect(address: SocketAddr) -> Self {
        Self {
            socket: TcpStream::connect(address).await.unwrap(),
            received: Vec::new(),
        }
    }

    async fn send(&mut self, bytes: &str) {
        patiently("room to write", self.socket.write_all(bytes.as_bytes()))
            .await
            .unwrap();
    }

    /// Reads more; false at the end.
    async fn more(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let length = patiently("bytes", self.socket.read(&mut buffer))
            .await
            .unwrap();
        self.received.extend_from_slice(&buffer[..length]);
        length > 0
    }

    async fn take_until(&mut self, mark: &str) -> String {
        loop {
            if let Some(at) = self
                .received
                .windows(mark.len())
                .position(|window| window == mark.as_bytes())
            {
                let taken: Vec<u8> = self.received.drain(..at + mark.len()).collect();
                return String::from_utf8(taken).unwrap();
            }
            assert!(
                self.more().await,
                "the connection ended before {mark:?}: {}",
                String::from_utf8_lossy(&self.received)
            );
        }
    }

    async fn take(&mut self, length: usize) -> String {
        while self.received.len() < length {
            assert!(self.more().await, "the connection ended");
        }
        String::from_utf8(self.received.drain(..length).collect()).unwrap()
    }

    /// The next answer, which has to be delimited.
    async fn answer(&mut self) -> Answer {
        let head = self.take_until("\r\n\r\n").await.to_ascii_lowercase();
        let mut body = String::new();
        if head.contains("transfer-encoding: chunked") {
            loop {
                let size =
                    usize::from_str_radix(self.take_until("\r\n").await.trim_end(), 16).unwrap();
                body += &self.take(size).await;
                assert_eq!(self.take(2).await, "\r\n");
                if size == 0 {
                    break;
                }
            }
        } else {
            let length = head
                .split("content-length: ")
                .nth(1)
                .and_then(|rest| rest.lines().next())
                .expect("no length");
            body = self.take(length.trim().parse().unwrap()).await;
        }
        Answer { head, body }
    }

    async fn ended(&mut self) -> bool {
        assert!(
            self.received.is_empty(),
            "{}",
            String::from_utf8_lossy(&self.received)
        );
        !self.more().await
    }
}

/// A request's bytes; `headers` are lines with their ends.
fn ask(steering: &str, version: &str, headers: &str) -> String {
    let body = with(
        chat(steering),
        json!({"stream_options": {"include_usage": true}}),
    )
    .to_string();
    format!(
        "POST /v1/chat/completions HTTP/{version}\r\nhost: gateway\r\n{headers}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn whole(answer: &Answer) {
    assert!(answer.head.starts_with("http/1.1 200"), "{}", answer.head);
    let at: Vec<_> = (0..4)
        .map(|number| {
            answer
                .body
                .find(&format!("\" t{number}\""))
                .expect("a token is missing")
        })
        .collect();
    assert!(at.is_sorted(), "{}", answer.body);
    assert_eq!(answer.body.matches("\" t").count(), 4, "{}", answer.body);
    assert!(answer.body.ends_with("data: [DONE]\n\n"), "{}", answer.body);
}

async fn world() -> (World, Line) {
    let world = start(|_| {});
    let line = Line::connect(world.gateway.address).await;
    (world, line)
}

#[tokio::test]
async fn streams_follow_each_other_on_one_connection() {
    let (_world, mut line) = world().await;
    for steering in [PACED, "tokens=4 text=count", PACED, PACED] {
        line.send(&ask(steering, "1.1", "")).await;
        whole(&line.answer().await);
    }
    line.send("GET /healthz HTTP/1.1\r\nhost: gateway\r\n\r\n")
        .await;
    assert!(line.answer().await.head.starts_with("http/1.1 200"));
}

#[tokio::test]
async fn what_is_sent_together_is_answered_in_order() {
    let (_world, mut line) = world().await;
    line.send(
        &[
            ask(PACED, "1.1", ""),
            ask(PACED, "1.1", ""),
            "GET /healthz HTTP/1.1\r\nhost: gateway\r\n\r\n".to_owned(),
        ]
        .concat(),
    )
    .await;
    whole(&line.answer().await);
    whole(&line.answer().await);
    assert!(line.answer().await.head.contains("content-length"));
}

#[tokio::test]
async fn what_is_sent_during_a_stream_is_answered_after_it() {
    let (_world, mut line) = world().await;
    line.send(&ask(PACED, "1.1", "")).await;
    let begun = line.take_until("\" t0\"").await;
    // More than the connection keeps for later, and in two pieces.
    let next = ask(
        PACED,
        "1.1",
        &format!(
            "x-long: {}\r\nx-longer: {}\r\n",
            "a".repeat(6000),
            "b".repeat(6000)
        ),
    );
    let (first, second) = next.split_at(100);
    line.send(first).await;
    line.take_until("\" t1\"").await;
    line.send(second).await;
    line.take_until("[DONE]\n\n\r\n0\r\n\r\n").await;
    whole(&line.answer().await);
    assert!(begun.contains("transfer-encoding: chunked"), "{begun}");
}

#[tokio::test]
async fn a_client_that_asks_for_the_end_gets_it() {
    let (_world, mut line) = world().await;
    line.send(&ask(PACED, "1.1", "connection: close\r\n")).await;
    whole(&line.answer().await);
    assert!(line.ended().await);
}

#[tokio::test]
async fn an_old_clients_connection_ends_with_the_answer() {
    let (_world, mut line) = world().await;
    line.send(&ask(PACED, "1.0", "")).await;
    line.take_until("data: [DONE]\n\n").await;
    while line.more().await {}
}

#[tokio::test]
async fn a_body_in_chunks_is_taken_as_ever() {
    let (_world, mut line) = world().await;
    let body = chat(PACED).to_string();
    let (first, second) = body.split_at(10);
    line.send(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
    )
    .await;
    for piece in [first, second, ""] {
        line.send(&format!("{:x}\r\n{piece}\r\n", piece.len()))
            .await;
    }
    whole(&line.answer().await);
    line.send(&ask(PACED, "1.1", "")).await;
    whole(&line.answer().await);
}

#[test]
fn the_table_of_descriptors_does_not_grow_while_streams_run() {
    let gateway = support::process::Process::start("", &[]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.id())).unwrap();
    let size: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("FDSize:")?.trim().parse().ok())
        .unwrap();
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .maximum
        .unwrap_or(u64::MAX);
    assert!(size >= most.min(1 << 16), "room for {size} of {most}");
}
