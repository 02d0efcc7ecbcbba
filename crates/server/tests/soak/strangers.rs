//! Clients that send invalid input, among the others. `bad_input.rs` checks each answer.

use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::support::websocket::{RawSocket, frame, frame_head};
use super::support::{Request, patiently};
use super::world::{CHAT_MODEL, World};

/// Runs one of them.
pub(crate) async fn run(world: &World, dice: &mut StdRng) {
    match dice.random_range(0..3) {
        0 => refused(world, dice).await,
        1 => bytes(world, dice).await,
        _ => frames(world, dice).await,
    }
}

/// Sends an invalid request.
async fn refused(world: &World, dice: &mut StdRng) {
    let unknown = "resp_AAAAAAAAAAAAAAAAAAAAAAAA";
    let requests = [
        world.post("/v1/responses", &json!({"model": CHAT_MODEL, "input": 7})),
        world.post(
            "/v1/responses",
            &json!({"model": CHAT_MODEL, "input": "x", "conversation": "c"}),
        ),
        world.post(
            "/v1/responses",
            &json!({"model": "unknown-model", "input": "x"}),
        ),
        world.post("/v1/chat/completions", &json!({"model": CHAT_MODEL})),
        world.post("/v1/chat/completions", &json!([])),
        world
            .post("/v1/streams", &json!({"model": CHAT_MODEL, "input": "x"}))
            .header("last-event-id", "nonsense"),
        Request::new(world.address(), "POST", "/v1/responses")
            .header("content-type", "application/json")
            .body("[".repeat(60_000)),
        Request::new(world.address(), "POST", "/v1/responses").body("a=b"),
        world.get(&format!("/v1/streams/{unknown}")),
        world.get(&format!(
            "/v1/responses/{unknown}?stream=true&starting_after=x"
        )),
        world.post(&format!("/v1/responses/{unknown}/cancel"), &json!({})),
        world.delete(&format!("/v1/responses/{unknown}")),
        world.get("/v1/nothing"),
        world.get("/v1/chat/completions"),
    ];
    let request = &requests[dice.random_range(0..requests.len())];
    let answer = request.answer().await;
    assert!(
        (400..500).contains(&answer.status),
        "{}: {}",
        answer.status,
        answer.text()
    );
    assert!(
        answer.json()["error"]["message"].is_string(),
        "{}",
        answer.text()
    );
}

/// Sends bytes that are not a complete request.
async fn bytes(world: &World, dice: &mut StdRng) {
    let mut socket = TcpStream::connect(world.address()).await.unwrap();
    let begun = "POST /v1/responses HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n";
    let sent: Vec<u8> = match dice.random_range(0..4) {
        0 => (0..200).map(|_| dice.random()).collect(),
        1 => begun.into(),
        2 => format!("{begun}\r\n{{\"model\":").into(),
        _ => format!("GET / HTTP/1.1\r\nhost: x\r\n{}", "x: y\r\n".repeat(10_000)).into(),
    };
    let _ = socket.write_all(&sent).await;
    if dice.random_bool(0.5) {
        let _ = socket.shutdown().await;
        let mut rest = Vec::new();
        let _ = patiently(
            "the end of an unusable connection",
            socket.read_to_end(&mut rest),
        )
        .await;
    }
}

/// Sends a frame that RFC 6455 forbids; each ends its connection.
async fn frames(world: &World, dice: &mut StdRng) {
    let mut socket = RawSocket::connect(world.address(), "/v1/ws", &[]).await;
    assert!(socket.head.starts_with("HTTP/1.1 101 "), "{}", socket.head);
    let bad = match dice.random_range(0..5) {
        0 => frame(0x83, b"a reserved opcode"),
        1 => frame(0x81, b"\xff\xfe"),
        2 => vec![0x81, 0x02, b'n', b'o'],
        3 => frame(0x80, b"a continuation of nothing"),
        _ => frame_head(0x81, 1 << 40),
    };
    if socket.send(&bad).await {
        assert!(socket.ends().await);
    }
}
