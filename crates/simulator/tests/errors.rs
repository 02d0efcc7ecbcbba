//! Errors with OpenAI's structure, limits, counters and recorded requests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod wire;

use serde_json::{Value, json};
use tokenwire_simulator::{Options, Outcome, Simulator};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::{PATIENCE, chat, get, instant, post, question, send, with};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn bad_requests_name_the_parameter() {
    let simulator = instant();
    let user = json!([{"role": "user", "content": "hi"}]);
    for (path, body, status, param, code, message) in [
        (
            CHAT,
            json!({"messages": user}),
            400,
            json!(null),
            json!(null),
            "you must provide a model parameter",
        ),
        (
            CHAT,
            json!({"model": "simulator"}),
            400,
            json!("messages"),
            json!("missing_required_parameter"),
            "'messages'",
        ),
        (
            CHAT,
            json!({"model": "simulator", "messages": []}),
            400,
            json!("messages"),
            json!("empty_array"),
            "empty array",
        ),
        (
            CHAT,
            json!({"model": "simulator", "messages": "hi"}),
            400,
            json!("messages"),
            json!("invalid_type"),
            "got a string",
        ),
        (
            CHAT,
            json!({"model": "simulator", "messages": [{"role": "king", "content": "hi"}]}),
            400,
            json!("messages[0].role"),
            json!("invalid_value"),
            "'king'",
        ),
        (
            CHAT,
            json!({"model": "simulator", "messages": [{"role": "user"}]}),
            400,
            json!("messages[0].content"),
            json!("missing_required_parameter"),
            "content",
        ),
        (
            CHAT,
            json!({"model": "simulator", "messages": user, "n": 129}),
            400,
            json!("n"),
            json!("integer_above_max_value"),
            "129",
        ),
        (
            CHAT,
            json!({"model": "simulator", "messages": user, "stream": "yes"}),
            400,
            json!("stream"),
            json!("invalid_type"),
            "boolean",
        ),
        (
            CHAT,
            json!({"model": "simulator", "messages": user, "stream_options": {}}),
            400,
            json!("stream_options"),
            json!("invalid_value"),
            "only allowed",
        ),
        (
            CHAT,
            json!({"model": "simulator", "messages": user, "tool_choice": "required"}),
            400,
            json!("tool_choice"),
            json!("invalid_value"),
            "tools",
        ),
        (
            CHAT,
            json!({"model": "unknown-model", "messages": user}),
            404,
            json!(null),
            json!("model_not_found"),
            "`unknown-model` does not exist",
        ),
        (
            CHAT,
            json!([]),
            400,
            json!(null),
            json!(null),
            "could not parse the JSON body",
        ),
        (
            "/v1/responses",
            json!({"model": "simulator"}),
            400,
            json!("input"),
            json!("missing_required_parameter"),
            "input",
        ),
        (
            "/v1/responses",
            json!({"model": "missing", "input": "hi"}),
            404,
            json!(null),
            json!("model_not_found"),
            "`missing`",
        ),
        (
            "/v1/responses",
            json!({"model": "simulator", "input": 5}),
            400,
            json!("input"),
            json!("invalid_type"),
            "got a number",
        ),
    ] {
        let answer = post(&simulator, path, "", &body).await.answer().await;
        let error = &answer.json()["error"];
        assert_eq!(
            (answer.status, &error["param"], &error["code"]),
            (status, &param, &code),
            "{body}"
        );
        assert!(
            error["message"].as_str().unwrap().contains(message),
            "{error}"
        );
        assert_eq!(error["type"], "invalid_request_error");
    }
    let answer = send(&simulator, "POST", CHAT, &[], b"{\"model\":")
        .await
        .answer()
        .await;
    assert_eq!(answer.status, 400);
    let answer = chat(&simulator, "tokens=lots").await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["code"]),
        (400, &json!("invalid_steering"))
    );
    assert!(
        simulator
            .wait_until(
                |stats| stats.rejected == 17 && stats.completed == 17,
                PATIENCE
            )
            .await
    );
}

#[tokio::test]
async fn unknown_paths_and_methods_are_errors() {
    let simulator = instant();
    assert_eq!(
        get(&simulator, "/v1/embeddings").await.json()["error"]["message"],
        "Invalid URL (GET /v1/embeddings)"
    );
    let answer = get(&simulator, CHAT).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["code"]),
        (405, &json!("method_not_supported"))
    );
    assert_eq!(
        send(&simulator, "POST", "/v1/models", &[], b"")
            .await
            .answer()
            .await
            .status,
        405
    );
    assert_eq!(get(&simulator, "/").await.status, 404);
    assert_eq!(
        get(&simulator, "/healthz").await.json(),
        json!({"status": "ok"})
    );
    assert_eq!(
        get(&simulator, "/health").await.json(),
        json!({"status": "ok"})
    );
}

#[tokio::test]
async fn wrong_or_missing_key_is_401() {
    let simulator = Simulator::start(Options {
        required_key: Some("sk-right".into()),
        ..Options::default()
    })
    .unwrap();
    let body = question(false).to_string();
    for (header, status, code) in [
        (None, 401, Value::Null),
        (Some("Bearer sk-wrong-key"), 401, json!("invalid_api_key")),
        (Some("Basic sk-right"), 401, Value::Null),
        (Some("Bearer sk-right"), 200, Value::Null),
    ] {
        let headers: Vec<(&str, &str)> = header
            .map(|value| ("authorization", value))
            .into_iter()
            .chain([("x-simulator", "tokens=1")])
            .collect();
        let answer = send(&simulator, "POST", CHAT, &headers, body.as_bytes())
            .await
            .answer()
            .await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (status, &code),
            "{header:?}"
        );
        assert!(!answer.text().contains("sk-wrong-key"));
    }
    assert_eq!(get(&simulator, "/v1/models").await.status, 401);
    assert_eq!(get(&simulator, "/stats").await.status, 200);
    let requests = simulator.requests();
    assert_eq!(
        requests
            .iter()
            .map(|request| request.authorized)
            .collect::<Vec<_>>(),
        [false, true, true, true, false]
    );
    assert!(!format!("{requests:?}").contains("sk-"));
}

#[tokio::test]
async fn bodies_and_heads_are_bounded() {
    let simulator = Simulator::start(Options {
        body_limit: 1000,
        ..Options::default()
    })
    .unwrap();
    let long = with(question(false), json!({"padding": "x".repeat(2000)})).to_string();
    assert_eq!(
        send(&simulator, "POST", CHAT, &[], long.as_bytes())
            .await
            .answer()
            .await
            .status,
        413
    );
    // The limit also holds without a length.
    let mut socket = tokio::net::TcpStream::connect(simulator.addr())
        .await
        .unwrap();
    socket
        .write_all(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n",
        )
        .await
        .unwrap();
    let chunk = [b"800\r\n".as_slice(), &[b'x'; 0x800], b"\r\n"].concat();
    socket.write_all(&chunk).await.unwrap();
    let mut head = [0; 12];
    socket.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 413");
    let mut socket = tokio::net::TcpStream::connect(simulator.addr())
        .await
        .unwrap();
    let head = format!(
        "GET /v1/models HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n",
        "x".repeat(1024 * 1024)
    );
    // The server may stop reading before the request is complete.
    let _ = socket.write_all(head.as_bytes()).await;
    let mut answer = [0; 12];
    match socket.read_exact(&mut answer).await {
        Ok(_) => assert_eq!(&answer, b"HTTP/1.1 431"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

#[tokio::test]
async fn connections_above_the_limit_wait() {
    let simulator = Simulator::start(Options {
        connection_limit: 2,
        ..Options::default()
    })
    .unwrap();
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(post(&simulator, CHAT, "ttft=1h", &question(true)).await);
    }
    assert!(
        simulator
            .wait_until(|stats| stats.open_streams == 2, PATIENCE)
            .await
    );
    let waiting = post(&simulator, CHAT, "tokens=1", &question(true)).await;
    drop(held.pop());
    assert!(waiting.answer().await.done());
    assert!(simulator.stats().connections == 3 && simulator.stats().max_open_streams == 2);
}

#[tokio::test]
async fn requests_are_recorded() {
    let simulator = instant();
    chat(&simulator, "tokens=1").await;
    chat(&simulator, "fault=status").await;
    get(&simulator, "/v1/models").await;
    assert!(
        simulator
            .wait_until(|stats| stats.completed == 2 && stats.faulted == 1, PATIENCE)
            .await
    );
    let requests = simulator.requests();
    let brief: Vec<(u64, &str, Option<u16>, Outcome)> = requests
        .iter()
        .map(|one| (one.number, one.path.as_str(), one.status, one.outcome))
        .collect();
    assert_eq!(
        brief,
        [
            (1, CHAT, Some(200), Outcome::Completed),
            (2, CHAT, Some(503), Outcome::Fault("status")),
            (3, "/v1/models", Some(200), Outcome::Completed)
        ]
    );
    assert_eq!(requests[0].body, Some(question(true)));
    assert!(
        requests[0]
            .headers
            .contains(&("x-simulator".into(), "tokens=1".into()))
    );
    let served = get(&simulator, "/requests").await.json();
    assert_eq!(
        (
            served.as_array().unwrap().len(),
            &served[1]["outcome"],
            &served[0]["body"]["model"]
        ),
        (3, &json!({"fault": "status"}), &json!("simulator"))
    );
    let stats = get(&simulator, "/stats").await.json();
    assert_eq!(
        (
            &stats["requests"],
            &stats["chat_completions"],
            &stats["models"],
            &stats["tokens_sent"]
        ),
        (&json!(3), &json!(2), &json!(1), &json!(1))
    );
}

#[tokio::test]
async fn taken_port_is_an_error() {
    let simulator = instant();
    assert!(
        Simulator::start(Options {
            address: simulator.addr(),
            ..Options::default()
        })
        .is_err()
    );
}

struct Unpark(std::thread::Thread);

impl std::task::Wake for Unpark {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.unpark();
    }
}

/// A minimal executor without timers.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(value) => return value,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn waiting_works_without_a_runtime() {
    let simulator = instant();
    assert!(!block_on(simulator.wait_until(
        |stats| stats.requests == 1,
        std::time::Duration::from_millis(20)
    )));
    assert!(block_on(simulator.wait_until(
        |stats| stats.requests == 0,
        std::time::Duration::ZERO
    )));
    let address = simulator.addr();
    let client = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let mut socket = std::net::TcpStream::connect(address).unwrap();
        socket
            .write_all(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n")
            .unwrap();
        // A connection that closes at once may be gone before its request is read.
        socket.read_exact(&mut [0; 12]).unwrap();
    });
    assert!(block_on(
        simulator.wait_until(|stats| stats.requests == 1, PATIENCE)
    ));
    client.join().unwrap();
}

#[tokio::test]
async fn connection_is_reused() {
    let simulator = instant();
    let mut socket = tokio::net::TcpStream::connect(simulator.addr())
        .await
        .unwrap();
    let body = question(false).to_string();
    for _ in 0..3 {
        let request = format!(
            "POST {CHAT} HTTP/1.1\r\nhost: x\r\nx-simulator: tokens=1\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut received = Vec::new();
        while !received.ends_with(b"}") {
            assert_ne!(socket.read_buf(&mut received).await.unwrap(), 0);
        }
    }
    assert!(
        simulator
            .wait_until(
                |stats| stats.completed == 3 && stats.connections == 1,
                PATIENCE
            )
            .await
    );
}
