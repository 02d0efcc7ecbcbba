//! Client disconnects: without a grace the upstream is cancelled at once, in every phase and on every
//! transport. With a grace the generation continues.

use std::time::{Duration, Instant};

use crate::support::websocket::{RawSocket, frame};
use crate::support::{
    Exchange, FullBacklog, Gateway, Socket, World, chat, eventually, over, response, start, with,
};
use serde_json::{Value, json};
use tokenwire::config::schema::{Api, Config};

/// Limit of the wait for a cancel. It is far above the expected 100 ms, since the machine may be busy;
/// each test prints the measured time.
const GENEROUS: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    ChatSdk,
    ResponsesSdk,
    EventSource,
    Text,
    ChatWhole,
    ResponsesWhole,
    WebSocket,
}

use Client::{ChatSdk, ChatWhole, EventSource, ResponsesSdk, ResponsesWhole, Text, WebSocket};

const ALL: [Client; 7] = [
    ChatSdk,
    ResponsesSdk,
    EventSource,
    Text,
    ChatWhole,
    ResponsesWhole,
    WebSocket,
];

/// A client that waits for its response. Dropping it disconnects.
enum Waiting {
    Http(Exchange),
    WebSocket(Box<Socket>),
}

impl Client {
    async fn ask(self, gateway: &Gateway, steering: &str) -> Waiting {
        let whole = json!({"stream": false});
        let request = match self {
            ChatSdk => gateway.post("/v1/chat/completions", &chat(steering)),
            ChatWhole => gateway.post("/v1/chat/completions", &with(chat(steering), whole)),
            ResponsesSdk => gateway.post("/v1/responses", &response(steering)),
            ResponsesWhole => gateway.post("/v1/responses", &with(response(steering), whole)),
            EventSource => gateway.post("/v1/streams", &response(steering)),
            Text => gateway
                .post("/v1/streams", &response(steering))
                .header("accept", "text/plain"),
            WebSocket => {
                let mut socket = gateway.socket().await;
                socket.create(steering, json!({})).await;
                return Waiting::WebSocket(Box::new(socket));
            }
        };
        Waiting::Http(request.send().await)
    }

    fn streams(self) -> bool {
        !matches!(self, ChatWhole | ResponsesWhole)
    }
}

impl Waiting {
    /// Reads until a token.
    async fn until(&mut self, token: &str) {
        match self {
            Self::Http(exchange) => exchange.until(token).await,
            Self::WebSocket(socket) => drop(socket.until(|event| event["delta"] == token).await),
        }
    }
}

fn no_grace(config: &mut Config) {
    config.streams.disconnect_grace = Duration::ZERO;
}

/// Each kind of client reaches one phase and disconnects. The upstream must be cancelled.
async fn disconnect_cancels(phase: &str, steering: &str, token: Option<&str>) {
    let world = start(no_grace);
    for client in ALL
        .into_iter()
        .filter(|client| token.is_none() || client.streams())
    {
        let before = world.simulator.stats();
        let mut waiting = client.ask(&world, steering).await;
        world
            .upstream_saw("the request", |stats| stats.requests == before.requests + 1)
            .await;
        if let Some(token) = token {
            waiting.until(token).await;
        }
        assert_eq!(
            world.simulator.stats().aborted,
            before.aborted,
            "aborted before its client disconnected"
        );
        let left = Instant::now();
        drop(waiting);
        let aborted = world
            .simulator
            .wait_until(|stats| stats.aborted == before.aborted + 1, GENEROUS)
            .await;
        assert!(
            aborted,
            "{client:?} disconnected {phase}, and the upstream continues: {:?}",
            world.simulator.stats()
        );
        println!(
            "{phase:>24} {client:<15?} upstream cancelled after {:?}",
            left.elapsed()
        );
        world.idle().await;
    }
    assert_eq!(world.simulator.stats().open_streams, 0);
}

#[tokio::test]
async fn disconnect_before_the_head_cancels_upstream() {
    disconnect_cancels("before the head", "fault=stall_head", None).await;
}

#[tokio::test]
async fn disconnect_during_prefill_cancels_upstream() {
    disconnect_cancels("in a silent prefill", "ttft=1h", None).await;
}

#[tokio::test]
async fn disconnect_mid_stream_cancels_upstream() {
    disconnect_cancels(
        "mid-stream",
        "tokens=1000000 text=count tbt=5ms",
        Some(" t3"),
    )
    .await;
}

#[tokio::test]
async fn disconnect_during_a_stall_cancels_upstream() {
    disconnect_cancels(
        "silent between tokens",
        "tokens=9 text=count fault=stall after=3",
        Some(" t2"),
    )
    .await;
}

#[tokio::test]
async fn disconnect_at_full_speed_cancels_upstream() {
    disconnect_cancels("at full speed", "tokens=1000000000 text=count", Some(" t3")).await;
}

#[tokio::test]
async fn disconnect_while_connecting_abandons_the_upstream() {
    let full = FullBacklog::new();
    let gateway = over(&full.base_url(), Api::Chat, no_grace);
    let others = full.knocking();
    for client in ALL {
        let waiting = client.ask(&gateway, "").await;
        eventually("a connection", async || full.knocking() == others + 1).await;
        let left = Instant::now();
        drop(waiting);
        gateway.idle().await;
        let took = left.elapsed();
        assert!(took < GENEROUS, "{client:?}: {took:?}");
        println!(
            "{:>24} {client:<15?} given up after {took:?}",
            "while connecting"
        );
        eventually("the end of the connection", async || {
            full.knocking() == others
        })
        .await;
    }
}

#[tokio::test]
async fn reset_and_close_frame_count_as_disconnects() {
    let world = start(no_grace);
    let steering = "tokens=9 text=count fault=stall after=2";
    let mut exchange = world.post("/v1/streams", &response(steering)).send().await;
    exchange.until(" t1").await;
    // A linger of zero turns the close into a reset.
    socket2::SockRef::from(&exchange.socket)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(exchange);
    world
        .upstream_saw("the cancel after a reset", |stats| stats.aborted == 1)
        .await;

    let mut socket = RawSocket::connect(world.address, "/v1/ws", &[]).await;
    let create = json!({"type": "response.create", "input": format!("[[{steering}]]")}).to_string();
    assert!(socket.send(&frame(0x81, create.as_bytes())).await);
    while socket.text().await["delta"] != " t1" {}
    assert!(socket.send(&frame(0x88, &1000u16.to_be_bytes())).await);
    world
        .upstream_saw("the cancel after a close", |stats| stats.aborted == 2)
        .await;
    assert_eq!(socket.close_code().await, Some(1000));
    assert!(socket.ends().await);
}

#[tokio::test]
async fn unsubscribe_counts_as_a_disconnect() {
    let world = start(no_grace);
    let mut socket = world.socket().await;
    socket
        .create("tokens=9 text=count fault=stall after=2", json!({}))
        .await;
    let events = socket.until(|event| event["delta"] == " t1").await;
    let id = events[0]["response"]["id"].clone();
    socket
        .send(json!({"type": "tokenwire:unsubscribe", "response_id": id}))
        .await;
    world
        .upstream_saw("the cancel", |stats| stats.aborted == 1)
        .await;
    world.idle().await;
    assert_eq!(
        world.object(id.as_str().unwrap()).await["status"],
        "cancelled"
    );
}

#[tokio::test]
async fn generation_continues_while_one_reader_remains() {
    let world = start(no_grace);
    let mut first = world
        .post("/v1/streams", &response("tokens=60 text=count tbt=10ms"))
        .send()
        .await;
    first.until(" t1\"").await;
    let id = first.id().await;
    let mut second = world.get(&format!("/v1/streams/{id}")).send().await;
    second.until(" t1\"").await;
    drop(first);
    assert!(second.answer().await.text().contains("response.completed"));
    world
        .upstream_saw("the end", |stats| stats.completed == 1)
        .await;
    assert_eq!(world.simulator.stats().aborted, 0);
}

#[tokio::test]
async fn generation_completes_within_the_grace() {
    let world = start(|_| {});
    for client in ALL {
        let before = world.simulator.stats();
        let mut waiting = client.ask(&world, "tokens=30 text=count tbt=10ms").await;
        if client.streams() {
            waiting.until(" t1").await;
        } else {
            world
                .upstream_saw("the request", |stats| stats.requests == before.requests + 1)
                .await;
        }
        drop(waiting);
        world
            .upstream_saw("the end", |stats| stats.completed == before.completed + 1)
            .await;
    }
    assert_eq!(world.simulator.stats().aborted, 0);
}

#[tokio::test]
async fn reader_that_returns_within_the_grace_finds_the_generation_running() {
    // Longer than a busy machine may take to send the next request.
    let world = start(|config| config.streams.disconnect_grace = Duration::from_secs(20));
    let mut exchange = world
        .post("/v1/streams", &response("tokens=100 text=count tbt=10ms"))
        .send()
        .await;
    exchange.until(" t1\"").await;
    let (id, seen) = (exchange.id().await, exchange.events().len());
    drop(exchange);
    let rest = world
        .get(&format!("/v1/streams/{id}?after={}", seen - 1))
        .answer()
        .await;
    assert_eq!(
        rest.events()
            .last()
            .map(crate::support::Event::kind)
            .as_deref(),
        Some("response.completed")
    );
}

#[tokio::test]
async fn generation_is_cancelled_after_the_grace() {
    let world = start(|config| config.streams.disconnect_grace = Duration::from_millis(100));
    let mut exchange = world
        .post(
            "/v1/streams",
            &response("tokens=9 text=count fault=stall after=2"),
        )
        .send()
        .await;
    exchange.until(" t1").await;
    let id = exchange.id().await;
    drop(exchange);
    world
        .upstream_saw("the cancel", |stats| stats.aborted == 1)
        .await;
    world.idle().await;
    assert_eq!(world.object(&id).await["status"], "cancelled");
    let events: Vec<Value> = world
        .get(&format!("/v1/streams/{id}"))
        .answer()
        .await
        .events()
        .iter()
        .map(crate::support::Event::json)
        .collect();
    assert_eq!(events.last().unwrap()["type"], "response.incomplete");
}

#[tokio::test]
async fn background_generation_runs_without_readers() {
    let world: World = start(no_grace);
    let request = with(
        response("tokens=30 text=count tbt=10ms"),
        json!({"background": true}),
    );
    let mut exchange = world.post("/v1/responses", &request).send().await;
    exchange.until(" t1").await;
    let id = exchange.id().await;
    drop(exchange);
    world
        .upstream_saw("the end", |stats| stats.completed == 1)
        .await;
    world.idle().await;
    assert_eq!(world.object(&id).await["status"], "completed");
}
