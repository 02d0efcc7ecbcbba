//! A rolling restart on one machine: each new process takes the port over while streams run and
//! connections are opened, and no client notices.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};
use support::process::Process;
use support::sse::output_text;
use support::websocket::is_terminal;
use support::{Answer, End, Event, Request, Socket, chat, eventually, patiently, response};
use tokenwire_simulator::{Options, Pace, Simulator};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

/// Streams of each kind that run at a restart. `RESTART_STREAMS` is another number.
const STREAMS: usize = 10;

/// Restarts in a row.
const RESTARTS: usize = 5;

/// Tokens of each stream, one each 100 ms.
const STEERING: &str = "tokens=20 tbt=100ms text=count";

/// How a client reads.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Chat,
    Responses,
    /// Comes back with `Last-Event-ID` where the body ends early.
    EventSource,
    /// A socket of the SDKs, which stays.
    WebSocket,
    /// A socket that is closed with 1012, and resumes.
    Resuming,
}

const KINDS: [Kind; 5] = [
    Kind::Chat,
    Kind::Responses,
    Kind::EventSource,
    Kind::WebSocket,
    Kind::Resuming,
];

/// Counts the streams that have begun, and how often readers came back.
#[derive(Debug, Default)]
struct Progress {
    begun: AtomicUsize,
    resumed: AtomicUsize,
}

fn post(address: SocketAddr, path: &str, body: &Value) -> Request {
    Request::new(address, "POST", path)
        .header("content-type", "application/json")
        .body(body.to_string())
}

/// Starts a stream and reads it to its end. Each token must come once, in order.
async fn read(address: SocketAddr, kind: Kind, progress: Arc<Progress>) {
    let text = match kind {
        Kind::Chat => read_chat(address, &progress).await,
        Kind::Responses => read_responses(address, &progress).await,
        Kind::EventSource => read_event_source(address, &progress).await,
        Kind::WebSocket => read_websocket(address, &progress).await,
        Kind::Resuming => read_resuming(address, &progress).await,
    };
    let words: Vec<_> = (0..20).map(|at| format!("t{at}")).collect();
    assert_eq!(text.trim(), words.join(" "), "{kind:?}");
}

async fn read_sdk(address: SocketAddr, path: &str, body: &Value, progress: &Progress) -> Answer {
    let mut stream = post(address, path, body).send().await;
    stream.until("\" t1\"").await;
    progress.begun.fetch_add(1, Ordering::SeqCst);
    let answer = stream.answer().await;
    let text = answer.text();
    assert_eq!(answer.end, End::Whole, "{text}");
    assert!(text.trim_end().ends_with("data: [DONE]"), "{text}");
    answer
}

async fn read_chat(address: SocketAddr, progress: &Progress) -> String {
    let path = "/v1/chat/completions";
    let answer = read_sdk(address, path, &chat(STEERING), progress).await;
    let text = answer.text();
    assert_eq!(
        text.matches("\"finish_reason\":\"stop\"").count(),
        1,
        "{text}"
    );
    let chunks = answer.events().into_iter();
    let chunks = chunks.filter(|event| event.data != "[DONE]");
    let content = |event: Event| event.json()["choices"][0]["delta"]["content"].clone();
    chunks
        .filter_map(|event| content(event).as_str().map(str::to_owned))
        .collect()
}

async fn read_responses(address: SocketAddr, progress: &Progress) -> String {
    let answer = read_sdk(address, "/v1/responses", &response(STEERING), progress).await;
    let events = answer.events().into_iter();
    let events: Vec<_> = events
        .filter(|event| event.data != "[DONE]")
        .map(|event| event.json())
        .collect();
    assert_eq!(events.last().unwrap()["type"], "response.completed");
    output_text(&events)
}

async fn read_event_source(address: SocketAddr, progress: &Progress) -> String {
    let mut stream = post(address, "/v1/streams", &response(STEERING))
        .send()
        .await;
    // It may be told to leave from then on.
    stream.until("response.created").await;
    progress.begun.fetch_add(1, Ordering::SeqCst);
    let mut events = stream.answer().await.events();
    while events.last().unwrap().kind() != "response.completed" {
        progress.resumed.fetch_add(1, Ordering::SeqCst);
        let last = events.last().unwrap().id.clone().unwrap();
        let (id, _) = last.split_once('.').unwrap();
        let again = Request::new(address, "GET", &format!("/v1/streams/{id}"))
            .header("accept", "text/event-stream")
            .header("last-event-id", &last);
        let answer = again.answer().await;
        assert_eq!(
            (answer.status, answer.end),
            (200, End::Whole),
            "{}",
            answer.text()
        );
        events.extend(answer.events());
    }
    let ascend = |pair: &[Event]| pair[0].number() < pair[1].number();
    assert!(events.windows(2).all(ascend), "{events:?}");
    let events: Vec<_> = events.iter().map(Event::json).collect();
    output_text(&events)
}

fn is_delta(event: &Value) -> bool {
    event["type"] == "response.output_text.delta"
}

async fn read_websocket(address: SocketAddr, progress: &Progress) -> String {
    let mut socket = Socket::connect(address, "/v1/responses").await;
    socket.create(STEERING, json!({})).await;
    let mut events = socket.until(is_delta).await;
    progress.begun.fetch_add(1, Ordering::SeqCst);
    events.extend(socket.until_end().await);
    assert_eq!(events.last().unwrap()["type"], "response.completed");
    output_text(&events)
}

async fn read_resuming(address: SocketAddr, progress: &Progress) -> String {
    let mut socket = Socket::connect_extended(address, "/v1/ws").await;
    socket.create(STEERING, json!({})).await;
    // It may be closed from then on.
    let mut events = socket.until_type("response.created").await;
    progress.begun.fetch_add(1, Ordering::SeqCst);
    let id = events[0]["response"]["id"].clone();
    while !events.last().is_some_and(is_terminal) {
        match socket.message().await {
            Some(Message::Text(text)) => {
                let event: Value = serde_json::from_str(&text).unwrap();
                assert_ne!(event["type"], "tokenwire:error", "{event}");
                if event.get("sequence_number").is_some() {
                    events.push(event);
                }
            }
            Some(Message::Close(Some(frame))) => {
                assert_eq!(u16::from(frame.code), 1012);
                progress.resumed.fetch_add(1, Ordering::SeqCst);
                socket = Socket::connect_extended(address, "/v1/ws").await;
                let after = &events.last().unwrap()["sequence_number"];
                let resume = json!({
                    "type": "tokenwire:resume", "response_id": id, "starting_after": after,
                });
                socket.send(resume).await;
            }
            other => panic!("{other:?} instead of an event"),
        }
    }
    assert_eq!(events.last().unwrap()["type"], "response.completed");
    let number = |event: &Value| event["sequence_number"].as_u64();
    assert!(
        events
            .windows(2)
            .all(|pair| number(&pair[0]) < number(&pair[1]))
    );
    output_text(&events)
}

/// Runs the same number of streams of both kinds in each of the official SDKs that
/// `RESTART_PYTHON` and `RESTART_NODE` name. Returns how many streams that are.
fn run_sdks(
    address: SocketAddr,
    count: usize,
    progress: &Arc<Progress>,
    running: &mut JoinSet<()>,
) -> usize {
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/restart/sdk.py");
    let module = std::env::var("RESTART_NODE_MODULE").unwrap_or_default();
    let mut streams = 0;
    for (program, script) in [("RESTART_PYTHON", python), ("RESTART_NODE", &module)] {
        let Some(program) = std::env::var_os(program) else {
            continue;
        };
        let mut command = Command::new(program);
        command
            .args([script, &format!("http://{address}/v1"), &count.to_string()])
            .stdout(Stdio::piped());
        let progress = progress.clone();
        running.spawn_blocking(move || {
            let mut sdk = command.spawn().unwrap();
            let lines = BufReader::new(sdk.stdout.take().unwrap()).lines();
            for line in lines {
                assert_eq!(line.unwrap(), "begun");
                progress.begun.fetch_add(1, Ordering::SeqCst);
            }
            assert!(sdk.wait().unwrap().success(), "an SDK saw an error");
        });
        streams += 2 * count;
    }
    streams
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
    let progress = Arc::new(Progress::default());
    let count = std::env::var("RESTART_STREAMS").ok();
    let count = count.map_or(STREAMS, |count| count.parse().unwrap());
    let mut all = 0;
    for _ in 0..RESTARTS {
        for kind in KINDS {
            for _ in 0..count {
                streams.spawn(read(address, kind, progress.clone()));
            }
        }
        all += count * KINDS.len();
        all += run_sdks(address, count, &progress, &mut streams);
        let begun = async || {
            if let Some(ended) = streams.try_join_next() {
                ended.unwrap();
            }
            progress.begun.load(Ordering::SeqCst) == all
        };
        eventually("the first tokens", begun).await;
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
    let asked = u64::try_from(all).unwrap();
    assert_eq!(
        (stats.chat_completions + stats.responses, stats.aborted),
        (asked, 0)
    );
    // Each of those that can was told to, once at least.
    assert!(progress.resumed.load(Ordering::SeqCst) >= 2 * count);
}
