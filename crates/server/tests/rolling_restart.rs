//! A rolling restart on one machine: each new process takes the port over while streams run and
//! connections are opened, and no client notices.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use support::process::Process;
use support::{Answer, End, Request, Socket, chat, eventually, patiently, response};
use tokenwire_simulator::{Options, Pace, Simulator};
use tokio::task::JoinSet;

/// Streams that run at each restart, of each kind.
const STREAMS: usize = 10;

/// Restarts in a row.
const RESTARTS: usize = 5;

/// How a client reads.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Chat,
    Responses,
    EventSource,
    WebSocket,
}

fn post(address: SocketAddr, path: &str, body: &serde_json::Value) -> Request {
    Request::new(address, "POST", path)
        .header("content-type", "application/json")
        .body(body.to_string())
}

/// Starts a stream of 20 tokens within two seconds, and reads it to its end.
async fn read(address: SocketAddr, kind: Kind, started: Arc<AtomicUsize>) {
    const STEERING: &str = "tokens=20 tbt=100ms text=count";
    let begun = |()| started.fetch_add(1, Ordering::SeqCst);
    let (path, body, first) = match kind {
        Kind::Chat => ("/v1/chat/completions", chat(STEERING), "\" t1\""),
        Kind::Responses => ("/v1/responses", response(STEERING), "\" t1\""),
        Kind::EventSource => ("/v1/streams", response(STEERING), "\" t1\""),
        Kind::WebSocket => return read_websocket(address, STEERING, begun).await,
    };
    let mut stream = post(address, path, &body).send().await;
    stream.until(first).await;
    begun(());
    let answer = stream.answer().await;
    check(&answer, kind);
}

/// Each token is there once, in order, and the end is the one of a complete answer.
fn check(answer: &Answer, kind: Kind) {
    let text = answer.text();
    assert_eq!(answer.end, End::Whole, "{kind:?}: {text}");
    let end = match kind {
        Kind::Chat => "\"finish_reason\":\"stop\"",
        _ => "\"response.completed\"",
    };
    assert_eq!(text.matches(end).count(), 1, "{kind:?}: {text}");
    let field = match kind {
        Kind::Chat => "\"content\":",
        _ => "\"delta\":",
    };
    let mut deltas = text.match_indices(field).map(|(at, _)| {
        let rest = &text[at + field.len()..];
        rest.split('"').nth(1).unwrap_or_default().to_owned()
    });
    let whole: String = deltas.by_ref().collect();
    assert_eq!(whole.trim(), count(), "{kind:?}");
    if !matches!(kind, Kind::EventSource) {
        assert!(
            text.trim_end().ends_with("data: [DONE]"),
            "{kind:?}: {text}"
        );
    }
}

/// The text of a stream.
fn count() -> String {
    let words: Vec<_> = (0..20).map(|at| format!("t{at}")).collect();
    words.join(" ")
}

async fn read_websocket(address: SocketAddr, steering: &str, begun: impl Fn(()) -> usize) {
    let mut socket = Socket::connect(address, "/v1/responses").await;
    socket.create(steering, serde_json::json!({})).await;
    let is_delta = |event: &serde_json::Value| event["type"] == "response.output_text.delta";
    let mut events = socket.until(is_delta).await;
    begun(());
    events.extend(socket.until_end().await);
    let deltas = events.iter().filter(|event| is_delta(event));
    let whole: String = deltas.filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!(whole.trim(), count());
    assert_eq!(events.last().unwrap()["type"], "response.completed");
}

/// Opens one connection after the other, until it is told to stop. Returns how many.
async fn knock(address: SocketAddr, stop: Arc<AtomicBool>) -> usize {
    let mut answered = 0;
    while !stop.load(Ordering::SeqCst) {
        let answer = Request::new(address, "GET", "/healthz").answer().await;
        assert_eq!((answer.status, answer.end), (200, End::Whole));
        answered += 1;
    }
    answered
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_in_a_row_reset_no_connection_and_lose_no_token() {
    let simulator = Simulator::start(Options {
        pace: Pace::INSTANT,
        ..Options::default()
    });
    let simulator = simulator.unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let config = format!(
        "default_model: simulator\nstore:\n  kind: disk\n  path: {}\nupstreams:\n  - name: simulator\n    base_url: {}\n",
        folder.path().display(),
        simulator.base_url()
    );
    let start = async || {
        let config = config.clone();
        let start = move || Process::start_on(address.port(), &config);
        tokio::task::spawn_blocking(start).await.unwrap()
    };
    let mut gateway = start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut knocking = JoinSet::new();
    for _ in 0..4 {
        knocking.spawn(knock(address, stop.clone()));
    }
    let mut streams = JoinSet::new();
    let mut exits = JoinSet::new();
    let started = Arc::new(AtomicUsize::new(0));
    for restart in 1..=RESTARTS {
        for kind in [
            Kind::Chat,
            Kind::Responses,
            Kind::EventSource,
            Kind::WebSocket,
        ] {
            for _ in 0..STREAMS {
                streams.spawn(read(address, kind, started.clone()));
            }
        }
        let all = restart * STREAMS * 4;
        eventually("the first tokens", async || {
            tokio::task::yield_now().await;
            started.load(Ordering::SeqCst) == all
        })
        .await;
        let old = std::mem::replace(&mut gateway, start().await);
        exits.spawn_blocking(move || old.output());
    }
    while let Some(read) = patiently("the streams", streams.join_next()).await {
        read.unwrap();
    }
    while let Some(exit) = patiently("the exits", exits.join_next()).await {
        let (success, output) = exit.unwrap();
        assert!(success, "{output}");
    }
    stop.store(true, Ordering::SeqCst);
    let mut answered = 0;
    while let Some(knocked) = knocking.join_next().await {
        answered += knocked.unwrap();
    }
    assert!(answered > 100, "only {answered} connections were tried");
    let stats = simulator.stats();
    let asked = u64::try_from(RESTARTS * STREAMS * 4).unwrap();
    assert_eq!(
        (stats.chat_completions + stats.responses, stats.aborted),
        (asked, 0)
    );
}
