//! Clients of paced streams that run through restarts: each token must come once, in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::sse::output_text;
use super::websocket::is_terminal;
use super::{Answer, End, Event, Request, Socket, chat, response};

/// Tokens of each stream, one each 100 ms.
const STEERING: &str = "tokens=20 tbt=100ms text=count";

/// How a client reads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Chat,
    Responses,
    /// Comes back with `Last-Event-ID` where the body ends early.
    EventSource,
    /// A socket of the SDKs, which stays.
    WebSocket,
    /// A socket that is closed with 1012, and resumes.
    Resuming,
}

/// All kinds.
pub(crate) const KINDS: [Kind; 5] = [
    Kind::Chat,
    Kind::Responses,
    Kind::EventSource,
    Kind::WebSocket,
    Kind::Resuming,
];

/// Counts the streams that have begun, and how often readers came back.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) begun: AtomicUsize,
    pub(crate) resumed: AtomicUsize,
}

fn post(address: SocketAddr, path: &str, body: &Value) -> Request {
    Request::new(address, "POST", path)
        .header("content-type", "application/json")
        .body(body.to_string())
}

/// Starts a stream and reads it to its end. Each token must come once, in order.
pub(crate) async fn read(address: SocketAddr, kind: Kind, progress: Arc<Progress>) {
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
