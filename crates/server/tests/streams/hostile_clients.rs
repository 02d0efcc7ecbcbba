//! Clients that send slowly, open too many connections, or exhaust the process's resources.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::process::Process;
use crate::support::websocket::{RawSocket, frame, frame_head};
use crate::support::{End, Exchange, Request, World, chat, eventually, patiently, start};
use serde_json::json;
use tokenwire_testkit::free_port;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A gateway process whose standard error is not read.
struct Unread {
    child: Child,
    address: SocketAddr,
}

impl Unread {
    fn start(config: &str) -> Self {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("tokenwire.yaml");
        std::fs::write(&path, config).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_tokenwire"))
            .args(["--port", "0", "--config"])
            .arg(&path)
            .env_remove("RUST_LOG")
            .env_remove("OPENAI_API_KEY")
            .env_remove("OPENAI_BASE_URL")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.split_whitespace().next_back().unwrap();
        Self {
            address: address.parse().unwrap(),
            child,
        }
    }

    fn terminate(&self) {
        let pid = i32::try_from(self.child.id()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === logging ===

#[tokio::test]
async fn unread_log_pipe_does_not_stop_the_gateway() {
    // Every request logs at level debug, and fails.
    let config = "default_model: m\nlog:\n  filter: debug\nretry:\n  attempts: 0\nbreaker:\n  failures: 0\nupstreams:\n  - name: nowhere\n    base_url: http://127.0.0.1:1/v1\n";
    let mut gateway = Unread::start(config);
    for _ in 0..20 {
        let requests = (0..100).map(|_| async {
            Request::new(gateway.address, "POST", "/v1/chat/completions")
                .header("content-type", "application/json")
                .body(chat("").to_string())
                .answer()
                .await
                .status
        });
        let statuses = futures::future::join_all(requests).await;
        assert!(statuses.iter().all(|status| *status == 502), "{statuses:?}");
    }
    let metrics = Request::new(gateway.address, "GET", "/metrics")
        .answer()
        .await
        .text();
    let dropped: u64 = metrics
        .lines()
        .find_map(|line| line.strip_prefix("tokenwire_log_lines_dropped_total "))
        .unwrap()
        .parse()
        .unwrap();
    gateway.terminate();
    let mut stderr = gateway.child.stderr.take().unwrap();
    // The process ends although the pipe is full.
    let ended = tokio::task::spawn_blocking(move || {
        let status = gateway.child.wait().unwrap();
        drop(gateway);
        status
    });
    let status = patiently("the end of the process", ended).await.unwrap();
    assert!(status.success(), "{status}");
    let mut log = Vec::new();
    stderr.read_to_end(&mut log).unwrap();
    let lines = log.split(|byte| *byte == b'\n').count();
    assert!(lines > 100, "{lines} lines were written, {dropped} dropped");
}

// === bodies and messages ===

/// Sends bytes on a new connection, and reads to its end.
async fn raw(address: SocketAddr, bytes: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(bytes.as_bytes()).await.unwrap();
    read_to_end(&mut socket).await
}

async fn read_to_end(socket: &mut TcpStream) -> String {
    let mut text = Vec::new();
    patiently("the end of the connection", socket.read_to_end(&mut text))
        .await
        .unwrap();
    String::from_utf8(text).unwrap()
}

/// Headers of an upgrade.
const WEBSOCKET: &str = "connection: upgrade\r\nupgrade: websocket\r\n";

/// Returns a request whose body does not end.
fn unfinished(path: &str, framing: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{framing}\r\n"
    )
}

#[tokio::test]
async fn body_that_does_not_arrive_is_answered_with_408() {
    for direct_writes in [true, false] {
        let world = start(|config| {
            config.server.direct_writes = direct_writes;
            config.server.body_timeout = Duration::from_millis(200);
        });
        for path in ["/v1/chat/completions", "/v1/responses", "/v1/streams"] {
            let sized = format!("{}{{", unfinished(path, "content-length: 100\r\n"));
            let chunked = format!(
                "{}1\r\n{{\r\n",
                unfinished(path, "transfer-encoding: chunked\r\n")
            );
            // A body is no WebSocket, whatever the head says.
            let upgraded = ["connection: upgrade\r\n", WEBSOCKET].map(|head| {
                let framing = format!("content-length: 100\r\n{head}");
                format!("{}{{", unfinished(path, &framing))
            });
            for request in [sized, chunked].into_iter().chain(upgraded) {
                let answer = raw(world.address, &request).await;
                assert!(answer.starts_with("HTTP/1.1 408 "), "{path}: {answer}");
                assert!(answer.contains("request_timeout"), "{path}: {answer}");
                assert!(answer.contains("connection: close"), "{path}: {answer}");
            }
        }
        assert!(world.simulator.requests().is_empty());
    }
}

#[tokio::test]
async fn websocket_message_that_does_not_complete_closes_with_1008() {
    let world = start(|config| config.server.body_timeout = Duration::from_millis(200));
    let partial = [frame_head(0x81, 100), vec![b'{'; 10]].concat();
    let partial_head = frame_head(0x81, 100)[..1].to_vec();
    let fragment = frame(0x01, b"{");
    let with_ping = [frame(0x01, b"{"), frame(0x89, b"")].concat();
    for bytes in [partial, partial_head, fragment, with_ping] {
        let mut socket = RawSocket::connect(world.address, "/v1/ws", &[]).await;
        assert!(socket.send(&bytes).await);
        let code = loop {
            match socket.frame().await {
                Some((0x88, payload)) => break u16::from_be_bytes([payload[0], payload[1]]),
                Some(_) => {}
                None => panic!("the socket ended without a close frame"),
            }
        };
        assert_eq!(code, 1008, "{bytes:?}");
    }
    // A complete message starts no timer.
    let mut socket = world.socket().await;
    socket.create("tokens=3 ttft=400ms", json!({})).await;
    socket.until_end().await;
}

// === limits of connections ===

/// Opens connections that send nothing.
async fn idle(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut sockets = Vec::new();
    for _ in 0..count {
        sockets.push(TcpStream::connect(address).await.unwrap());
    }
    sockets
}

/// Starts streams that hold their connections.
async fn hold(world: &World, count: usize) -> Vec<Exchange> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let request = world.post(
            "/v1/chat/completions",
            &chat("tokens=9 fault=stall after=2"),
        );
        let mut stream = request.send().await;
        assert_eq!(stream.status().await, 200);
        streams.push(stream);
    }
    streams
}

const OPERATIONS: [&str; 4] = ["/health", "/healthz", "/readyz", "/metrics"];

#[tokio::test]
async fn operations_answer_at_the_limit_of_connections() {
    let operations = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let world = start(|config| {
        config.server.workers = 1;
        config.limits.connections = 4;
        config.server.operations = Some(operations.to_string());
    });
    let held = hold(&world, 4).await;
    for path in OPERATIONS {
        let answer = world.get(path).answer().await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert_eq!(answer.header("connection"), Some("close"), "{path}");
    }
    let refused = world.get("/v1/models").answer().await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(refused.json()["error"]["code"], "overloaded");
    assert_eq!(refused.header("retry-after"), Some("1"));

    // Idle connections fill the reserve. Each further one closes the oldest.
    let mut reserve = idle(world.address, 300).await;
    for (at, socket) in reserve.iter_mut().take(200).enumerate() {
        // The end: after a refusal, or without a byte.
        let text = read_to_end(socket).await;
        assert!(
            text.is_empty() || text.starts_with("HTTP/1.1 503 "),
            "{at}: {text}"
        );
    }
    for path in OPERATIONS {
        let answer = world.get(path).answer().await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let answer = Request::new(operations, "GET", path).answer().await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    let other = Request::new(operations, "GET", "/v1/models").answer().await;
    assert_eq!(other.status, 404, "{}", other.text());

    reserve.clear();
    drop(held);
    eventually("free connections", async || {
        world.get("/v1/models").answer().await.status == 200
    })
    .await;
}

#[tokio::test]
async fn connections_of_one_address_are_limited() {
    let world = start(|config| config.server.max_connections_per_address = 2);
    let held = hold(&world, 2).await;
    let refused = raw(world.address, "").await;
    assert!(refused.starts_with("HTTP/1.1 429 "), "{refused}");
    assert!(refused.contains("too_many_connections"), "{refused}");
    drop(held);
    eventually("a free place", async || {
        let mut exchange = world.get("/healthz").send().await;
        exchange.status().await == 200
    })
    .await;
}

#[tokio::test]
async fn requests_behind_a_trusted_proxy_are_limited_by_their_client() {
    let world = start(|config| {
        config.server.max_connections_per_address = 1;
        config.server.trusted_proxies = vec!["127.0.0.0/8".to_owned()];
    });
    let from = |client: &str| {
        world
            .post(
                "/v1/chat/completions",
                &chat("tokens=9 fault=stall after=2"),
            )
            .header("x-forwarded-for", client)
    };
    let mut first = from("192.0.2.1").send().await;
    assert_eq!(first.status().await, 200);
    let refused = from("10.0.0.1, 192.0.2.1").answer().await;
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert_eq!(refused.json()["error"]["code"], "too_many_connections");
    let mut other = from("192.0.2.2").send().await;
    assert_eq!(other.status().await, 200);
    drop(first);
    eventually("a free place", async || {
        from("192.0.2.1").send().await.status().await == 200
    })
    .await;
}

// === descriptors ===

#[tokio::test]
async fn exhausted_descriptors_refuse_connections_and_spare_streams() {
    let world = start(|_| {});
    let config = format!(
        "default_model: simulator\nserver:\n  workers: 1\nupstreams:\n  - name: simulator\n    base_url: {}\n",
        world.simulator.base_url()
    );
    let gateway = Process::start_with_descriptors(&config, 96);
    let get = |path: &str| Request::new(gateway.address, "GET", path);
    let mut stream = Request::new(gateway.address, "POST", "/v1/chat/completions")
        .header("content-type", "application/json")
        .body(chat("tokens=200 text=count tbt=20ms").to_string())
        .send()
        .await;
    assert_eq!(stream.status().await, 200);
    // Idle connections are closed after the timeout of the head, so new ones replace them.
    let mut sockets = idle(gateway.address, 200).await;
    let mut refused = Vec::new();
    eventually("a refusal", async || {
        sockets.push(TcpStream::connect(gateway.address).await.unwrap());
        let mut socket = TcpStream::connect(gateway.address).await.unwrap();
        let request = "GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let _ = socket.write_all(request.as_bytes()).await;
        let mut text = Vec::new();
        let read = socket.read_to_end(&mut text);
        let _ = tokio::time::timeout(Duration::from_secs(5), read).await;
        let text = String::from_utf8_lossy(&text).into_owned();
        let is_refused = text.starts_with("HTTP/1.1 503 ");
        refused.push(text);
        is_refused
    })
    .await;
    drop(sockets);
    eventually("free descriptors", async || {
        let request = get("/healthz");
        let answer = tokio::time::timeout(Duration::from_secs(5), request.answer()).await;
        answer.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    let answer = stream.answer().await;
    assert_eq!(answer.end, End::Whole, "{}", answer.text());
    assert!(answer.text().contains("\" t199\""), "{}", answer.text());
    gateway.terminate();
    let (success, output) = gateway.output();
    assert!(success, "{output}");
    assert!(output.contains("few descriptors are left"), "{output}");
    let warnings = output.matches("descriptor").count();
    assert!(
        (1..10).contains(&warnings),
        "{warnings} warnings:\n{output}"
    );
}
