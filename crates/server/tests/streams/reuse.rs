//! Sharing of answers, as clients and the upstream see it.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::{
    Answer, End, Exchange, Gateway, Request, World, chat, over, response, start, with,
};
use futures::future::join_all;
use serde_json::{Value, json};
use tokenwire::config::schema::{Api, Config};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::watch;

fn coalescing(config: &mut Config) {
    config.reuse.coalesce = true;
}

fn caching(config: &mut Config) {
    config.reuse.cache = true;
}

/// How often the upstream was asked for an answer.
fn asked(world: &World) -> u64 {
    let stats = world.simulator.stats();
    stats.chat_completions + stats.responses
}

/// Sends the same request `times` times at once.
async fn sent(times: usize, request: Request) -> Vec<Exchange> {
    join_all((0..times).map(|_| request.send())).await
}

/// Sends the same request `times` times at once, and reads each answer to its end.
async fn answered(times: usize, request: Request) -> Vec<Answer> {
    join_all((0..times).map(|_| request.answer())).await
}

/// Waits until `count` generations run.
async fn running(gateway: &Gateway, count: usize) {
    crate::support::eventually("generations", async || {
        gateway.get("/readyz").answer().await.json()["open_streams"] == count
    })
    .await;
}

fn marked(answer: &Answer) -> Option<&str> {
    answer.header("tokenwire-cache")
}

/// Returns an answer without its own id and times.
fn said(answer: &Answer, id: &str) -> String {
    let mut text = answer
        .text()
        .replace(id.trim_start_matches("resp_"), "ID")
        .replace("retry: 2000\n", "");
    for field in ["\"created_at\":", "\"completed_at\":"] {
        let pieces: Vec<_> = text
            .split(field)
            .map(|piece| {
                piece
                    .trim_start_matches(|c: char| c.is_ascii_digit())
                    .to_owned()
            })
            .collect();
        text = pieces.join("");
    }
    text
}

/// An upstream that answers with a few tokens, and with the rest on request.
struct Gated {
    base_url: String,
    open: watch::Sender<bool>,
    asked: watch::Receiver<usize>,
    task: tokio::task::JoinHandle<()>,
}

impl Gated {
    async fn start(first: &'static str, rest: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        let (open, gate) = watch::channel(false);
        let (count, asked) = watch::channel(0);
        let task = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                count.send_modify(|count| *count += 1);
                let mut gate = gate.clone();
                tokio::spawn(async move {
                    let _ = crate::support::playback::read_request(&mut socket).await;
                    let kind = if first.starts_with('{') {
                        "application/json"
                    } else {
                        "text/event-stream"
                    };
                    let head = format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n"
                    );
                    let _ = socket.write_all(format!("{head}{first}").as_bytes()).await;
                    let _ = gate.wait_for(|open| *open).await;
                    let _ = socket.write_all(rest.as_bytes()).await;
                });
            }
        });
        Self {
            base_url,
            open,
            asked,
            task,
        }
    }

    fn asked(&self) -> usize {
        *self.asked.borrow()
    }
}

impl Drop for Gated {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const FIRST: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"Hel\"},\"finish_reason\":null}]}\n\n";
const REST: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"lo\"},\"finish_reason\":null}]}\n\n\
                    data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

// === Coalescing ===

/// Twenty-five requests each of an SDK, an EventSource, a WebSocket, and a client that does not
/// stream.
#[tokio::test]
async fn identical_requests_over_every_transport_are_one_upstream_request() {
    let upstream = Gated::start(FIRST, REST).await;
    let gateway = over(&upstream.base_url, Api::Chat, coalescing);
    let body = json!({"model": "simulator", "input": "the same"});
    let streamed = with(body.clone(), json!({"stream": true}));
    let (gateway, upstream) = (&gateway, &upstream);

    let mut first = gateway.post("/v1/responses", &streamed).send().await;
    assert_eq!(
        first.header("tokenwire-cache").await.as_deref(),
        Some("miss")
    );
    first.until("Hel").await;
    let mut sdk = sent(24, gateway.post("/v1/responses", &streamed)).await;
    let mut event_sources = sent(25, gateway.post("/v1/streams", &body)).await;
    let mut sockets = join_all((0..25).map(|_| async {
        let mut socket = gateway.socket().await;
        socket
            .send(with(body.clone(), json!({"type": "response.create"})))
            .await;
        socket
    }))
    .await;
    let whole = sent(25, gateway.post("/v1/responses", &body)).await;
    // All of them have been started, and the streaming ones read the first tokens.
    running(gateway, 100).await;
    for exchange in sdk.iter_mut().chain(&mut event_sources) {
        exchange.until("Hel").await;
        assert_eq!(
            exchange.header("tokenwire-cache").await.as_deref(),
            Some("coalesced")
        );
    }
    for socket in &mut sockets {
        socket.until(|event| event["delta"] == "Hel").await;
    }
    assert_eq!(upstream.asked(), 1);
    upstream.open.send_replace(true);

    let mut ids = BTreeSet::new();
    let first = first.answer().await;
    let id = first.id().to_owned();
    let expected = said(&first, &id);
    ids.insert(id);
    for exchange in sdk {
        let answer = exchange.answer().await;
        assert_eq!((answer.status, answer.end), (200, End::Whole));
        let id = answer.id().to_owned();
        assert_eq!(said(&answer, &id), expected);
        ids.insert(id);
    }
    for exchange in event_sources {
        let answer = exchange.answer().await;
        let events = answer.events();
        let last: Value = serde_json::from_str(&events.last().unwrap().data).unwrap();
        assert_eq!(last["type"], "response.completed");
        assert_eq!(last["response"]["output"][0]["content"][0]["text"], "Hello");
        ids.insert(last["response"]["id"].as_str().unwrap().to_owned());
    }
    for mut socket in sockets {
        let last = socket.until_end().await.pop().unwrap();
        assert_eq!(last["response"]["output"][0]["content"][0]["text"], "Hello");
        ids.insert(last["response"]["id"].as_str().unwrap().to_owned());
    }
    for exchange in whole {
        let answer = exchange.answer().await;
        assert_eq!((answer.status, marked(&answer)), (200, Some("coalesced")));
        assert_eq!(answer.json()["output"][0]["content"][0]["text"], "Hello");
        ids.insert(answer.json()["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids.len(), 100, "each has an id of its own");
    for id in &ids {
        assert_eq!(
            gateway.object(id).await["status"],
            "completed",
            "and an object"
        );
    }
    assert_eq!(upstream.asked(), 1);
}

#[tokio::test]
async fn concurrent_identical_requests_are_one_upstream_request_early_or_late() {
    let world = start(|config| {
        coalescing(config);
        caching(config);
    });
    let body = with(chat("tokens=200 tbt=1ms"), json!({"temperature": 0}));
    let answers = answered(100, world.post("/v1/chat/completions", &body)).await;
    assert_eq!(asked(&world), 1);
    let count = |mark: &str| {
        answers
            .iter()
            .filter(|answer| marked(answer) == Some(mark))
            .count()
    };
    assert_eq!(count("miss"), 1);
    assert_eq!(count("coalesced") + count("hit"), 99);
    for answer in &answers {
        assert_eq!((answer.status, answer.end), (200, End::Whole));
        assert_eq!(
            answer.text(),
            answers[0].text(),
            "byte for byte the upstream's"
        );
    }
    let ids: BTreeSet<_> = answers.iter().map(Answer::id).collect();
    assert_eq!(ids.len(), 100);
}

#[tokio::test]
async fn unstreamed_chat_completion_is_shared_byte_for_byte() {
    let (begin, rest) = (
        r#"{"id" : "c","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"#,
        r#""finish_reason":"stop"}],"usage":{"total_tokens":3},"unknown":[ ]}"#,
    );
    let upstream = Gated::start(begin, rest).await;
    let gateway = over(&upstream.base_url, Api::Chat, coalescing);
    let request = gateway.post(
        "/v1/chat/completions",
        &with(chat(""), json!({"stream": false})),
    );
    let exchanges = sent(10, request).await;
    running(&gateway, 10).await;
    upstream.open.send_replace(true);
    let mut ids = BTreeSet::new();
    for exchange in exchanges {
        let answer = exchange.answer().await;
        assert_eq!(
            (answer.status, answer.text()),
            (200, format!("{begin}{rest}"))
        );
        ids.insert(answer.id().to_owned());
    }
    assert_eq!((ids.len(), upstream.asked()), (10, 1));
}

#[tokio::test]
async fn responses_upstream_is_shared() {
    let simulator = tokenwire_simulator::Simulator::start(Default::default()).unwrap();
    let gateway = over(&simulator.base_url(), Api::Responses, |config| {
        coalescing(config);
        caching(config);
    });
    let body = with(response("tokens=30 tbt=5ms"), json!({"temperature": 0}));
    let answers = answered(10, gateway.post("/v1/responses", &body)).await;
    assert_eq!(simulator.stats().responses, 1);
    let expected = said(&answers[0], answers[0].id());
    for answer in &answers {
        assert_eq!(answer.end, End::Whole);
        assert_eq!(said(answer, answer.id()), expected);
        assert!(
            answer
                .text()
                .contains(&format!("\"id\":\"{}\"", answer.id()))
        );
    }
}

#[tokio::test]
async fn sharing_and_its_header_are_off_by_default() {
    let world = start(|_| {});
    for _ in 0..2 {
        let answer = world
            .post(
                "/v1/chat/completions",
                &with(chat("tokens=3"), json!({"seed": 1})),
            )
            .answer()
            .await;
        assert_eq!(marked(&answer), None);
    }
    assert_eq!(asked(&world), 2);
}

#[tokio::test]
async fn different_requests_each_reach_the_upstream() {
    let upstream = Gated::start(FIRST, REST).await;
    let gateway = over(&upstream.base_url, Api::Chat, coalescing);
    let bodies = [
        json!({"input": "a"}),
        json!({"input": "b"}),
        json!({"input": "a", "temperature": 1}),
        json!({"input": "a", "model": "m"}),
    ];
    let mut exchanges = Vec::new();
    for body in &bodies {
        let mut exchange = gateway.post("/v1/streams", body).send().await;
        assert_eq!(
            exchange.header("tokenwire-cache").await.as_deref(),
            Some("miss")
        );
        exchange.until("Hel").await;
        exchanges.push(exchange);
    }
    assert_eq!(upstream.asked(), bodies.len());
    // Fields that the gateway keeps to itself make no difference to the upstream.
    let mut exchange = gateway
        .post("/v1/streams", &json!({"input": "a", "store": false}))
        .send()
        .await;
    assert_eq!(
        exchange.header("tokenwire-cache").await.as_deref(),
        Some("coalesced")
    );
    upstream.open.send_replace(true);
    for exchange in exchanges {
        assert!(
            exchange
                .answer()
                .await
                .text()
                .contains("response.completed")
        );
    }
}

// === Leaders that end early ===

#[tokio::test]
async fn leader_without_readers_runs_on_until_its_last_follower_leaves() {
    let world = start(|config| {
        coalescing(config);
        config.streams.disconnect_grace = Duration::ZERO;
    });
    let body = response("tokens=100000 tbt=5ms");
    let mut leader = world.post("/v1/responses", &body).send().await;
    leader.until("response.output_text.delta").await;
    let leader_id = leader.id().await;
    let mut follower = world.post("/v1/responses", &body).send().await;
    let mut socket = world.socket().await;
    socket
        .create("tokens=100000 tbt=5ms", json!({"model": "simulator"}))
        .await;
    follower.until("response.output_text.delta").await;
    socket.until_type("response.output_text.delta").await;
    drop(leader);

    let so_far = follower.text().matches("output_text.delta").count();
    follower
        .until_count("event: response.output_text.delta", so_far + 50)
        .await;
    assert_eq!(world.object(&leader_id).await["status"], "in_progress");
    drop(follower);
    for _ in 0..50 {
        socket.until_type("response.output_text.delta").await;
    }
    assert_eq!(world.simulator.stats().aborted, 0);
    drop(socket);
    world
        .upstream_saw("the end of the only request", |stats| {
            stats.aborted == 1 && stats.chat_completions == 1
        })
        .await;
    world.idle().await;
    assert_eq!(world.object(&leader_id).await["status"], "cancelled");
}

#[tokio::test]
async fn cancelled_leader_fails_its_followers_in_every_dialect() {
    let world = start(coalescing);
    let body = chat("tokens=100000 tbt=5ms");
    let mut leader = world.post("/v1/chat/completions", &body).send().await;
    leader.until_count("data:", 3).await;
    let mut follower = world.post("/v1/chat/completions", &body).send().await;
    let mut events = world.post("/v1/streams", &body).send().await;
    follower.until_count("data:", 3).await;
    events.until("output_text.delta").await;
    let cancelled = world
        .post(
            &format!("/v1/responses/{}/cancel", leader.id().await),
            &json!({}),
        )
        .answer()
        .await;
    assert_eq!(cancelled.json()["status"], "cancelled");
    let answer = follower.answer().await;
    assert!(
        answer.text().contains("\"code\":\"shared_answer_lost\"")
            && !answer.text().contains("[DONE]"),
        "{}",
        answer.text()
    );
    let events = events.answer().await.events();
    let last: Value = serde_json::from_str(&events.last().unwrap().data).unwrap();
    assert_eq!(
        (&last["type"], &last["response"]["error"]["code"]),
        (&json!("response.failed"), &json!("shared_answer_lost"))
    );
    assert_eq!(asked(&world), 1);
}

#[tokio::test]
async fn follower_asks_the_upstream_if_its_leader_is_cancelled_before_the_first_token() {
    let world = start(coalescing);
    let body = response("tokens=3 ttft=24h");
    let leader = world.post("/v1/streams", &body).send().await;
    world
        .upstream_saw("the first request", |stats| stats.chat_completions == 1)
        .await;
    let mut leader = leader;
    let leader_id = leader.id().await;
    let mut followers = sent(3, world.post("/v1/streams", &body)).await;
    for follower in &mut followers {
        assert_eq!(
            follower.header("tokenwire-cache").await.as_deref(),
            Some("coalesced")
        );
    }
    assert_eq!(
        world
            .delete(&format!("/v1/responses/{leader_id}"))
            .answer()
            .await
            .status,
        200
    );
    world
        .upstream_saw("a request on behalf of all", |stats| {
            stats.chat_completions == 2 && stats.aborted == 1
        })
        .await;
    for follower in &mut followers {
        let id = follower.id().await;
        world
            .post(&format!("/v1/responses/{id}/cancel"), &json!({}))
            .answer()
            .await;
    }
    world.idle().await;
}

#[tokio::test]
async fn upstream_cut_fails_leader_and_followers() {
    let upstream = Gated::start(FIRST, "").await;
    let gateway = over(&upstream.base_url, Api::Chat, coalescing);
    let mut exchanges = sent(6, gateway.post("/v1/chat/completions", &chat(""))).await;
    for exchange in &mut exchanges {
        exchange.until("Hel").await;
    }
    upstream.open.send_replace(true);
    for exchange in exchanges {
        let text = exchange.answer().await.text();
        assert!(
            text.contains("upstream_truncated") && !text.contains("data: [DONE]"),
            "{text}"
        );
    }
    assert_eq!(upstream.asked(), 1);
}

// === Cache ===

#[tokio::test]
async fn repeated_request_is_answered_byte_for_byte_from_the_cache() {
    let world = start(caching);
    for body in [
        with(chat("tokens=300"), json!({"temperature": 0})),
        with(
            chat("tokens=3 size=100KiB"),
            json!({"seed": 5, "stream_options": {"include_usage": true}}),
        ),
        with(chat("tokens=3"), json!({"seed": 5, "stream": false})),
        with(chat("calls=2"), json!({"seed": 5, "n": 2})),
    ] {
        let before = asked(&world);
        let first = world.post("/v1/chat/completions", &body).answer().await;
        assert_eq!((first.status, marked(&first)), (200, Some("miss")));
        for _ in 0..3 {
            let again = world.post("/v1/chat/completions", &body).answer().await;
            assert_eq!(
                (again.status, again.end, marked(&again)),
                (200, End::Whole, Some("hit"))
            );
            assert_eq!(again.text(), first.text());
            assert_ne!(again.id(), first.id());
        }
        assert_eq!(asked(&world) - before, 1);
    }
}

#[tokio::test]
async fn cached_answer_is_complete_over_every_transport() {
    let world = start(caching);
    let body = with(response("tokens=20"), json!({"temperature": 0}));
    let first = world.post("/v1/responses", &body).answer().await;
    let text = |object: &Value| object["output"][0]["content"][0]["text"].clone();
    let expected = text(&world.object(first.id()).await);
    assert!(expected.as_str().is_some_and(|text| !text.is_empty()));

    let sdk = world.post("/v1/responses", &body).answer().await;
    assert_eq!(said(&sdk, sdk.id()), said(&first, first.id()));
    let whole = world
        .post(
            "/v1/responses",
            &with(body.clone(), json!({"stream": false})),
        )
        .answer()
        .await;
    assert_eq!(
        (marked(&whole), text(&whole.json())),
        (Some("hit"), expected.clone())
    );
    let events = world.post("/v1/streams", &body).answer().await;
    assert_eq!(marked(&events), Some("hit"));
    let last: Value = serde_json::from_str(&events.events().last().unwrap().data).unwrap();
    assert_eq!(text(&last["response"]), expected);
    let mut socket = world.socket().await;
    socket
        .send(with(body, json!({"type": "response.create"})))
        .await;
    assert_eq!(
        text(&socket.until_end().await.pop().unwrap()["response"]),
        expected
    );
    assert_eq!(asked(&world), 1);
}

#[tokio::test]
async fn cache_control_bypasses_the_cache() {
    let world = start(caching);
    let body = with(chat("tokens=3"), json!({"temperature": 0}));
    let ask = async |headers: &[(&str, &str)]| {
        let request = world.post("/v1/chat/completions", &body);
        headers
            .iter()
            .fold(request, |request, (name, value)| {
                request.header(name, value)
            })
            .answer()
            .await
    };
    assert_eq!(marked(&ask(&[]).await), Some("miss"));
    assert_eq!(
        marked(&ask(&[("cache-control", "no-cache")]).await),
        Some("bypass")
    );
    assert_eq!(
        marked(&ask(&[("cache-control", "no-store")]).await),
        Some("bypass")
    );
    assert_eq!(asked(&world), 3);
    assert_eq!(
        marked(&ask(&[("cache-control", "no-cache"), ("pragma", "no-cache")]).await),
        Some("hit"),
        "a browser's fetch"
    );
    assert_eq!(asked(&world), 3);
    let drawn = world
        .post("/v1/chat/completions", &chat("tokens=3"))
        .answer()
        .await;
    assert_eq!(marked(&drawn), Some("bypass"), "not deterministic");
}

#[tokio::test]
async fn eventsource_shares_despite_no_cache() {
    let upstream = Gated::start(FIRST, REST).await;
    let gateway = over(&upstream.base_url, Api::Chat, coalescing);
    let request = gateway
        .get("/v1/streams?input=hello")
        .header("accept", "text/event-stream")
        .header("cache-control", "no-cache");
    let mut first = request.send().await;
    first.until("Hel").await;
    let mut second = request.send().await;
    assert_eq!(
        second.header("tokenwire-cache").await.as_deref(),
        Some("coalesced")
    );
    upstream.open.send_replace(true);
    second.until("response.completed").await;
}

#[tokio::test]
async fn repeated_key_is_the_same_stream_and_no_cache_hit() {
    let world = start(caching);
    let body = with(chat("tokens=3"), json!({"temperature": 0}));
    let request = world
        .post("/v1/chat/completions", &body)
        .header("idempotency-key", "k");
    let (first, again) = (request.answer().await, request.answer().await);
    assert_eq!((marked(&first), marked(&again)), (Some("miss"), None));
    assert_eq!(first.id(), again.id());
}

#[tokio::test]
async fn cors_exposes_the_cache_header() {
    let world = start(caching);
    let answer = world
        .post("/v1/streams", &json!({"input": "[[tokens=1]]"}))
        .header("origin", "http://localhost:5173")
        .answer()
        .await;
    assert_eq!(marked(&answer), Some("bypass"));
    assert!(
        answer
            .header("access-control-expose-headers")
            .unwrap()
            .contains("Tokenwire-Cache")
    );
}

#[tokio::test]
async fn cache_is_bounded_by_time_and_entries() {
    let ask = async |gateway: &Gateway, seed: u32| {
        let body = with(chat("tokens=3"), json!({"seed": seed}));
        marked(&gateway.post("/v1/chat/completions", &body).answer().await)
            .map(str::to_owned)
            .unwrap()
    };
    let world = start(|config| {
        caching(config);
        config.reuse.cache_ttl = Duration::ZERO;
    });
    assert_eq!(
        [ask(&world, 1).await, ask(&world, 1).await],
        ["miss", "miss"]
    );

    let world = start(|config| {
        caching(config);
        config.reuse.cache_entries = 2;
    });
    let mut marks = Vec::new();
    for seed in [1, 2, 2, 1, 3, 3, 2, 1] {
        marks.push(ask(&world, seed).await);
    }
    assert_eq!(
        marks,
        ["miss", "miss", "hit", "hit", "miss", "hit", "hit", "miss"]
    );
}

#[tokio::test]
async fn paced_cached_answer_can_be_left_and_cancelled() {
    let world = start(|config| {
        caching(config);
        config.reuse.pace = 1;
    });
    let body = with(response("tokens=1000"), json!({"temperature": 0}));
    let first = world.post("/v1/responses", &body).answer().await;
    assert_eq!(first.end, End::Whole);
    let mut hit = world.post("/v1/responses", &body).send().await;
    hit.until("response.output_text.delta").await;
    let id = hit.id().await;
    // A thousand seconds are left.
    assert_eq!(world.object(&id).await["status"], "in_progress");
    let cancelled = world
        .post(&format!("/v1/responses/{id}/cancel"), &json!({}))
        .answer()
        .await;
    assert_eq!(cancelled.json()["status"], "cancelled");
    assert_eq!(
        world.object(first.id()).await["status"],
        "completed",
        "what is given again is not touched"
    );
    world.idle().await;
}
