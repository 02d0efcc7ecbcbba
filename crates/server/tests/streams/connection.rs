//! Several responses on one connection: the bytes on the wire are the same whether actix or the
//! connection writes a stream.

use std::net::SocketAddr;

use crate::support::process::{Process, status_of};
use crate::support::{Socket, World, chat, patiently, start, with};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Pauses between tokens, so that a stream is pending between two writes and leaves actix.
const PACED: &str = "tokens=4 text=count ttft=20ms tbt=20ms";

/// A client that keeps its connection open.
struct Client {
    socket: TcpStream,
    received: Vec<u8>,
}

#[derive(Debug)]
struct Answer {
    head: String,
    body: String,
}

impl Client {
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
                "the connection closed before {mark:?}: {}",
                String::from_utf8_lossy(&self.received)
            );
        }
    }

    async fn take(&mut self, length: usize) -> String {
        while self.received.len() < length {
            assert!(self.more().await, "the connection closed");
        }
        String::from_utf8(self.received.drain(..length).collect()).unwrap()
    }

    /// Reads the next response, which must have a length or be chunked.
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

/// Returns the bytes of a request. `headers` are complete lines.
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

fn assert_complete(answer: &Answer) {
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

async fn world() -> (World, Client) {
    let world = start(|_| {});
    let client = Client::connect(world.gateway.address).await;
    (world, client)
}

#[tokio::test]
async fn connection_is_reused_after_a_stream() {
    let (_world, mut client) = world().await;
    for steering in [PACED, "tokens=4 text=count", PACED, PACED] {
        client.send(&ask(steering, "1.1", "")).await;
        assert_complete(&client.answer().await);
    }
    client
        .send("GET /healthz HTTP/1.1\r\nhost: gateway\r\n\r\n")
        .await;
    assert!(client.answer().await.head.starts_with("http/1.1 200"));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (_world, mut client) = world().await;
    client
        .send(
            &[
                ask(PACED, "1.1", ""),
                ask(PACED, "1.1", ""),
                "GET /healthz HTTP/1.1\r\nhost: gateway\r\n\r\n".to_owned(),
            ]
            .concat(),
        )
        .await;
    assert_complete(&client.answer().await);
    assert_complete(&client.answer().await);
    assert!(client.answer().await.head.contains("content-length"));
}

#[tokio::test]
async fn request_sent_during_a_stream_is_answered_after_it() {
    let (_world, mut client) = world().await;
    client.send(&ask(PACED, "1.1", "")).await;
    let begun = client.take_until("\" t0\"").await;
    // More than the connection buffers, in two pieces.
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
    client.send(first).await;
    client.take_until("\" t1\"").await;
    client.send(second).await;
    client.take_until("[DONE]\n\n\r\n0\r\n\r\n").await;
    assert_complete(&client.answer().await);
    assert!(begun.contains("transfer-encoding: chunked"), "{begun}");
}

#[tokio::test]
async fn connection_close_ends_the_connection() {
    let (_world, mut client) = world().await;
    client
        .send(&ask(PACED, "1.1", "connection: close\r\n"))
        .await;
    assert_complete(&client.answer().await);
    assert!(client.ended().await);
}

#[tokio::test]
async fn http_1_0_connection_ends_with_the_response() {
    let (_world, mut client) = world().await;
    client.send(&ask(PACED, "1.0", "")).await;
    client.take_until("data: [DONE]\n\n").await;
    while client.more().await {}
}

#[tokio::test]
async fn chunked_request_body_is_accepted() {
    let (_world, mut client) = world().await;
    let body = chat(PACED).to_string();
    let (first, second) = body.split_at(10);
    client.send(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
    )
    .await;
    for piece in [first, second, ""] {
        client
            .send(&format!("{:x}\r\n{piece}\r\n", piece.len()))
            .await;
    }
    assert_complete(&client.answer().await);
    client.send(&ask(PACED, "1.1", "")).await;
    assert_complete(&client.answer().await);
}

#[tokio::test]
async fn streams_are_the_same_with_and_without_direct_writes() {
    for direct_writes in [true, false] {
        let world = start(|config| config.server.direct_writes = direct_writes);
        let mut client = Client::connect(world.gateway.address).await;
        for _ in 0..2 {
            client.send(&ask(PACED, "1.1", "")).await;
            assert_complete(&client.answer().await);
        }
        let mut socket = Socket::connect(world.gateway.address, "/v1/ws").await;
        for _ in 0..2 {
            socket.create(PACED, json!({})).await;
            let events = socket.until_end().await;
            assert_eq!(
                crate::support::sse::output_text(&events),
                " t0 t1 t2 t3",
                "direct_writes: {direct_writes}"
            );
            assert!(socket.until_pong().await.is_empty());
        }
    }
}

#[test]
fn descriptor_table_is_allocated_at_the_start() {
    let gateway = Process::start("", &[]);
    let size: u64 = status_of(gateway.id(), "FDSize").unwrap().parse().unwrap();
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .maximum
        .unwrap_or(u64::MAX);
    assert!(size >= most.min(1 << 16), "room for {size} of {most}");
}

/// Whether the kernel may give a process transparent huge pages; `None` on kernels before 5.0.
fn takes_huge_pages(process: u32) -> Option<bool> {
    Some(status_of(process, "THP_enabled")? == "1")
}

#[test]
fn memory_is_not_backed_by_huge_pages_unless_they_are_asked_for() {
    let start = Process::start;
    let Some(by_default) = takes_huge_pages(std::process::id()) else {
        return;
    };
    let gateway = start("", &[]);
    assert_eq!(takes_huge_pages(gateway.id()), Some(false));
    let asked = start("", &[("MIMALLOC_ALLOW_THP", "1")]);
    assert_eq!(takes_huge_pages(asked.id()), Some(by_default));
}
