//! Loads that held many times `streams.max_memory`, against a gateway process whose resident memory
//! is read from the kernel.
//!
//! Each load must be refused in part, stay under a bound, and leave nothing behind: within ten
//! seconds the idle process is nearly as small as before, without further requests.
#![cfg(target_os = "linux")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]
#![allow(clippy::print_stdout, reason = "the figures are worth reading")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};
use support::process::{Process, resident};
use support::websocket::{RawSocket, frame_head};
use support::{Request, Socket, response, with, within};
use tokenwire_simulator::{Options, Simulator};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const MIB: usize = 1 << 20;
const CONFIG: &str = "server: {workers: 2}\nlog: {filter: error}\nstreams: {max_memory: 64MiB}\n";
/// Most above the idle process at any time: 200 MiB in all for a release build, which idles at 34.
const MOST: usize = 166 * MIB;
/// Most above the idle process, ten seconds after a load.
const LEFT: usize = 64 * MIB;
const CALM: Duration = Duration::from_secs(10);
/// Limit of the wait for many large answers side by side.
const LONG_PATIENCE: Duration = Duration::from_secs(100);

/// A gateway process whose memory is watched. Its upstream is in the test's process.
struct Watched {
    process: Process,
    _simulator: Simulator,
    idle: usize,
    most: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    watcher: Option<std::thread::JoinHandle<()>>,
}

impl Watched {
    async fn start() -> Self {
        Self::start_with("chat").await
    }

    /// Starts it with an upstream of this API.
    async fn start_with(api: &str) -> Self {
        let simulator = Simulator::start(Options::default()).unwrap();
        let upstream = format!(
            "default_model: simulator\nupstreams: [{{name: simulator, base_url: \"{}\", api: {api}}}]\n",
            simulator.base_url()
        );
        let process = Process::start(&format!("{CONFIG}{upstream}"), &[]);
        // The first request allocates what stays.
        let first = json!({"model": "simulator", "input": "[[tokens=3]]"});
        assert_eq!(post(process.address, &first).answer().await.status, 200);
        let id = process.id();
        let idle = resident(id).unwrap_or(0);
        let (most, over) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (largest, ended) = (most.clone(), over.clone());
        let watcher = std::thread::spawn(move || {
            while !ended.load(Ordering::Acquire) {
                largest.fetch_max(resident(id).unwrap_or(0), Ordering::AcqRel);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self {
            process,
            _simulator: simulator,
            idle,
            most,
            over,
            watcher: Some(watcher),
        }
    }

    fn address(&self) -> SocketAddr {
        self.process.address
    }

    /// Checks the largest size during the load, and waits until the process is small again.
    async fn check(mut self, load: &str) {
        let start = Instant::now();
        let id = self.process.id();
        let mut left = resident(id).unwrap_or(0);
        while left > self.idle + LEFT && start.elapsed() < CALM {
            tokio::time::sleep(Duration::from_millis(50)).await;
            left = resident(id).unwrap_or(0);
        }
        self.over.store(true, Ordering::Release);
        self.watcher.take().unwrap().join().unwrap();
        let most = self.most.load(Ordering::Acquire);
        println!(
            "{load}: idle {} MiB, at most {} MiB, {} MiB {:.1} s after",
            self.idle / MIB,
            most / MIB,
            left / MIB,
            start.elapsed().as_secs_f32()
        );
        assert!(most <= self.idle + MOST, "{load}: {} MiB", most / MIB);
        assert!(
            left <= self.idle + LEFT,
            "{load}: {} MiB are left",
            left / MIB
        );
    }
}

fn post(address: SocketAddr, body: &Value) -> Request {
    Request::new(address, "POST", "/v1/responses")
        .header("content-type", "application/json")
        .body(body.to_string())
}

/// Sends as much of a body as the gateway takes. Returns the socket, and the status if it answered.
async fn unfinished_body(address: SocketAddr, announced: usize, sent: usize) -> (TcpStream, u16) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {announced}\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let piece = vec![b' '; 256 * 1024];
    let (mut reader, mut writer) = socket.split();
    let mut answer = vec![0; 64];
    let status = {
        let send = async {
            for _ in 0..sent / piece.len() {
                if writer.write_all(&piece).await.is_err() {
                    return;
                }
            }
        };
        let read = reader.read(&mut answer);
        tokio::pin!(send, read);
        tokio::select! {
            biased;
            length = &mut read => status(&answer[..length.unwrap_or(0)]),
            () = send => 0,
        }
    };
    (socket, status)
}

fn status(head: &[u8]) -> u16 {
    let text = String::from_utf8_lossy(head);
    let number = text.split_whitespace().nth(1).unwrap_or_default();
    number.parse().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_bodies_are_bounded_and_given_back() {
    let gateway = Watched::start().await;
    let bodies = (0..40).map(|_| unfinished_body(gateway.address(), 15 * MIB, 12 * MIB));
    let bodies = join_all(bodies).await;
    let refused = bodies.iter().filter(|(_, status)| *status == 503).count();
    assert!(
        refused >= 30,
        "{refused} of 40 bodies of 12 MiB were refused"
    );
    // What is waiting does not keep an ordinary request from its answer.
    let small = json!({"model": "simulator", "input": "[[tokens=3]]"});
    assert_eq!(post(gateway.address(), &small).answer().await.status, 200);
    let (_socket, status) = unfinished_body(gateway.address(), 20 * MIB, 0).await;
    drop(bodies);
    assert!(matches!(status, 0 | 413), "{status}");
    gateway.check("unfinished bodies").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn body_that_can_never_fit_is_413_and_such_a_message_closes_1009() {
    let gateway = Watched::start().await;
    let large = json!({"model": "simulator", "input": "x".repeat(20 * MIB)});
    let (_socket, status) = {
        let body = large.to_string();
        let mut socket = TcpStream::connect(gateway.address()).await.unwrap();
        let head = format!(
            "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 64];
        let length = socket.read(&mut answer).await.unwrap();
        (socket, status(&answer[..length]))
    };
    assert_eq!(status, 413);
    let mut socket = RawSocket::connect(gateway.address(), "/v1/ws", &[]).await;
    socket.send(&frame_head(0x81, 20 * MIB as u64)).await;
    assert_eq!(socket.close_code().await, Some(1009));
    gateway.check("requests that never fit").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queued_creates_of_one_socket_are_bounded_and_refused_on_their_lane() {
    let gateway = Watched::start().await;
    let mut socket = Socket::connect(gateway.address(), "/v1/ws").await;
    let lane = json!({"stream_id": "a", "model": "simulator"});
    socket.create("tokens=1000000 tbt=1s", lane.clone()).await;
    socket.until_type("response.created").await;
    let large = "x".repeat(8 * MIB);
    let mut errors = 0;
    for _ in 0..16 {
        let create = json!({"type": "response.create", "input": large});
        socket.send(with(create, lane.clone())).await;
        socket.send(json!({"type": "tokenwire:ping"})).await;
        // No error of a lane closes the socket.
        for event in socket.until_type("tokenwire:pong").await {
            if event["type"] == "error" {
                assert_eq!(
                    (&event["status"], &event["stream_id"]),
                    (&json!(503), &json!("a"))
                );
                errors += 1;
            }
        }
    }
    assert!(errors >= 12, "{errors} of 16 creates of 8 MiB were refused");
    drop(socket);
    gateway.check("queued creates").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_answers_are_whole_or_refused_before_they_start() {
    concurrent_answers(Watched::start().await, 60, "concurrent answers").await;
}

/// A Responses upstream repeats each text in up to four events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_relayed_answers_are_whole_or_refused_before_they_start() {
    let gateway = Watched::start_with("responses").await;
    concurrent_answers(gateway, 30, "relayed answers").await;
}

async fn concurrent_answers(gateway: Watched, count: usize, load: &str) {
    let steering = "tokens=256 size=4096";
    let streams = (0..count).map(|index| {
        let request = with(response(steering), json!({"stream": index % 3 != 0}));
        let request = post(gateway.address(), &request);
        // An answer that is not streamed may wait for the memory of the others before its first byte.
        async move { request.send().await.patience(LONG_PATIENCE).answer().await }
    });
    let answers = join_all(streams).await;
    let mut whole = 0;
    for answer in &answers {
        match answer.status {
            200 => {
                assert!(answer.body.len() > MIB, "{} bytes", answer.body.len());
                assert!(
                    answer.text().contains("\"status\":\"completed\""),
                    "an answer was lost"
                );
                whole += 1;
            }
            503 => assert!(answer.header("retry-after").is_some()),
            other => panic!("{other}: {}", answer.text()),
        }
    }
    assert!(whole >= 5, "{whole} of {count} answers");
    drop(answers);
    gateway.check(load).await;
}

/// Reads a stream to its end, with a pause after each read. Returns the status, and
/// whether the answer has completed.
async fn read_slowly(address: SocketAddr, body: &Value, pause: Duration) -> (u16, bool) {
    const COMPLETED: &str = "event: response.completed";
    let body = body.to_string();
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let (mut answer, mut found, mut completed) = (Vec::new(), 0, false);
    loop {
        // What was looked at goes, but for the beginning of what is looked for.
        let looked_at = answer.len().saturating_sub(COMPLETED.len());
        answer.drain(..looked_at);
        let before = answer.len();
        answer.resize(before + 256 * 1024, 0);
        let length = socket.read(&mut answer[before..]).await.unwrap();
        answer.truncate(before + length);
        if found == 0 {
            found = status(&answer);
        }
        completed |= String::from_utf8_lossy(&answer).contains(COMPLETED);
        if length == 0 {
            return (found, completed);
        }
        tokio::time::sleep(pause).await;
    }
}

/// Runs this many streams at once. None may break off.
async fn slow_readers(api: &str, count: usize, request: Value, load: &str) {
    let gateway = Watched::start_with(api).await;
    let request = with(request, json!({"stream": true}));
    let pause = Duration::from_millis(5);
    let streams = (0..count).map(|_| read_slowly(gateway.address(), &request, pause));
    let streams = within(LONG_PATIENCE, "the streams", join_all(streams)).await;
    let whole = streams.iter().filter(|(_, completed)| *completed).count();
    let refused = streams.iter().filter(|(status, _)| *status == 503).count();
    assert_eq!(whole + refused, count, "{streams:?}");
    assert!(whole >= 5, "{whole} of {count} streams");
    gateway.check(load).await;
}

/// All of them together are several times the limit, and none is refused: they start at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstreams_wait_for_slow_readers_of_large_answers() {
    let request = response("tokens=512 size=4096");
    slow_readers("chat", 40, request, "slow readers").await;
}

/// The log has each answer twice: in deltas, and whole in its last events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstreams_wait_for_slow_readers_of_large_relayed_answers() {
    let request = response("tokens=512 size=4096");
    slow_readers("responses", 24, request, "slow readers of relayed answers").await;
}

/// Arguments come in pieces of some bytes, each of which is an event of two hundred.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstreams_wait_for_each_other_where_arguments_are_large() {
    let arguments = format!("%7B%22x%22%3A%22{}%22%7D", "y".repeat(60_000));
    let tool = json!({"type": "function", "name": "f", "parameters": {"type": "object"}});
    let request = response(&format!("calls=4 arguments={arguments}"));
    let request = with(request, json!({"tools": [tool]}));
    slow_readers("responses", 8, request, "arguments").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_inputs_and_chains_are_bounded_and_given_back() {
    let gateway = Watched::start().await;
    let large = "x".repeat(4 * MIB);
    let running = (0..24).map(|_| {
        let input = format!("{large} [[tokens=1000000 tbt=1s]]");
        let body = json!({"model": "simulator", "stream": true, "input": input, "store": false});
        let request = post(gateway.address(), &body);
        async move {
            let mut exchange = request.send().await;
            (exchange.status().await, exchange)
        }
    });
    let running = join_all(running).await;
    let refused = running.iter().filter(|(status, _)| *status == 503).count();
    assert!(
        refused >= 12,
        "{refused} of 24 inputs of 4 MiB were refused"
    );
    assert!(refused < 24, "all inputs were refused");
    let ids: Vec<String> = join_all(running.into_iter().map(async |(status, mut exchange)| {
        if status == 200 {
            Some(exchange.id().await)
        } else {
            None
        }
    }))
    .await
    .into_iter()
    .flatten()
    .collect();
    for id in ids {
        let path = format!("/v1/responses/{id}");
        let deleted = Request::new(gateway.address(), "DELETE", &path)
            .answer()
            .await;
        assert_eq!(deleted.status, 200);
    }
    let mut previous = Value::Null;
    for _ in 0..8 {
        let input = format!("{} [[tokens=3]]", &large[..MIB]);
        let turn = json!({"model": "simulator", "input": input, "previous_response_id": previous});
        let answer = post(gateway.address(), &turn).answer().await;
        match answer.status {
            200 => previous = answer.json()["id"].clone(),
            404 | 413 | 503 => {}
            other => panic!("{other}: {}", answer.text()),
        }
    }
    gateway.check("running inputs and a chain").await;
}
