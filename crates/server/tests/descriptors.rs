//! The gateway without a free file descriptor. One test, since the limit holds for the process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]
#![cfg(target_os = "linux")]

mod support;

use std::fs::File;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use support::{chat, patiently, response, start, with};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Reads one response with a `Content-Length`.
async fn read_response(socket: &mut TcpStream) -> String {
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = patiently("a response", socket.read(&mut buffer))
            .await
            .unwrap();
        assert!(
            length > 0,
            "closed after {}",
            String::from_utf8_lossy(&received)
        );
        received.extend_from_slice(&buffer[..length]);
        let text = String::from_utf8_lossy(&received).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .to_ascii_lowercase()
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(usize::MAX) {
            return text;
        }
    }
}

#[tokio::test]
async fn missing_descriptor_for_an_upstream_connection_is_503_without_blame() {
    let world = start(|config| {
        config.server.workers = 1;
        config.breaker.failures = 1;
    });
    let body = with(chat("tokens=1"), json!({"stream": false})).to_string();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    // A client whose connection was accepted, and a stream that holds the only upstream connection.
    let mut client = TcpStream::connect(world.address).await.unwrap();
    client
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    read_response(&mut client).await;
    let mut running = world
        .post("/v1/streams", &response("tokens=40 tbt=50ms text=count"))
        .send()
        .await;
    running.until("output_text.delta").await;

    let before = getrlimit(Resource::Nofile);
    let held: Vec<File> = {
        // Descriptors are numbered from the lowest free one, so none is left below the limit.
        let lowest_free = File::open("/dev/null").unwrap();
        let limit = std::os::fd::AsRawFd::as_raw_fd(&lowest_free) as u64 + 1;
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(limit),
                ..before.clone()
            },
        )
        .unwrap();
        std::iter::once(lowest_free)
            .chain(std::iter::from_fn(|| File::open("/dev/null").ok()))
            .collect()
    };
    client.write_all(request.as_bytes()).await.unwrap();
    let refused = read_response(&mut client).await;
    drop(held);
    setrlimit(Resource::Nofile, before).unwrap();

    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(refused.contains("out_of_descriptors"), "{refused}");
    assert!(
        refused
            .to_ascii_lowercase()
            .contains("\r\nretry-after: 1\r\n"),
        "{refused}"
    );
    let ready = world.get("/readyz").answer().await;
    assert_eq!(
        (ready.status, &ready.json()["upstreams"][0]["status"]),
        (200, &json!("up"))
    );
    client.write_all(request.as_bytes()).await.unwrap();
    let answer = read_response(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let stream = running.answer().await.text();
    assert!(stream.contains("response.completed"), "{stream}");
}
