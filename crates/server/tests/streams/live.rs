//! Activity, and watch rules, as clients and operators see them.

use crate::support::process::Process;
use crate::support::receiver::Receiver;
use crate::support::{
    Exchange, Gateway, Playback, Request, Socket, World, chat, over, patiently, response, start,
    with,
};
use serde_json::{Value, json};
use tokenwire::config::auth::{KeyEntry, Role};
use tokenwire::config::schema::{
    Action, Api, Config, Continuation, Upstream, WatchEntry, WatchedPart,
};
use tokenwire::config::secret::Secret;
use tokenwire_simulator::{Options, Pace, Simulator};
use tokenwire_testkit::free_port;

const ALICE: &str = "sk-tw-alice-alice-alice-alice";
const BOB: &str = "sk-tw-bob-bob-bob-bob-bob-bob";
const OPERATOR: &str = "sk-tw-operator-operator-oper";
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn keys(config: &mut Config) {
    let entry = |owner: &str, key: &str, role| KeyEntry {
        owner: owner.to_owned(),
        key: Some(key.to_owned().into()),
        role,
        ..KeyEntry::default()
    };
    config.auth.keys = vec![
        entry("alice", ALICE, Role::User),
        entry("bob", BOB, Role::User),
        entry("ops", OPERATOR, Role::Operator),
    ];
}

fn by(request: Request, key: &str) -> Request {
    request.header("authorization", &format!("Bearer {key}"))
}

fn words(name: &str, list: &[&str], action: Action) -> WatchEntry {
    WatchEntry {
        name: name.to_owned(),
        words: list.iter().map(|word| (*word).to_owned()).collect(),
        action,
        ..WatchEntry::default()
    }
}

/// Begins to watch, and returns once the gateway has begun, too.
async fn watch(request: Request) -> Exchange {
    let mut watching = request.send().await;
    assert_eq!(watching.status().await, 200);
    watching.until_event("tokenwire:rates").await;
    watching
}

/// Returns the events of streams so far: type and event.
fn seen(watching: &Exchange) -> Vec<(String, Value)> {
    let events = watching.events().into_iter().map(|event| event.json());
    events
        .map(|event| (event["type"].as_str().unwrap().to_owned(), event))
        .filter(|(kind, _)| kind != "tokenwire:rates")
        .collect()
}

fn kinds(seen: &[(String, Value)]) -> Vec<&str> {
    seen.iter().map(|(kind, _)| kind.as_str()).collect()
}

const LIFE: [&str; 3] = [
    "tokenwire:stream.started",
    "tokenwire:stream.first_token",
    "tokenwire:stream.ended",
];

fn ended(id: &str) -> impl Fn(&Value) -> bool {
    move |event| event["type"] == LIFE[2] && event["response_id"] == id
}

#[tokio::test]
async fn watcher_sees_the_life_of_a_stream_without_its_content() {
    let world = start(|_| {});
    let mut watching = watch(world.get("/v1/activity")).await;
    let answer = world
        .post("/v1/responses", &response("tokens=40 text=count tbt=2ms"))
        .answer()
        .await;
    watching.until_event(LIFE[2]).await;
    let events = seen(&watching);
    // The one upstream of the configuration is shown, since without keys everything may be seen.
    assert_eq!(events[0].1["type"], "tokenwire:upstream.changed");
    assert_eq!(events[0].1["state"], "up");
    assert_eq!(kinds(&events[1..]), LIFE);
    for (kind, event) in &events[1..] {
        assert_eq!(event["response_id"], answer.id(), "{kind}");
    }
    let end = &events[3].1;
    assert_eq!(
        (&end["status"], &end["reason"]),
        (&json!("completed"), &Value::Null)
    );
    assert_eq!(
        (&end["tokens"], &end["upstream"]),
        (&json!(40), &json!("upstream"))
    );
    assert!(end["first_token_ms"].as_f64().unwrap() >= 0.0, "{end}");
    assert!(
        end["between_tokens_ms"]["p95"].as_f64().unwrap() > 0.0,
        "{end}"
    );
    assert_eq!(end["usage"]["output_tokens"], 40, "{end}");
    assert!(!watching.text().contains(" t17"), "content is shown");

    // The tokens are counted, in one rate or several.
    let counted = |events: &Exchange| {
        let events = events.events().into_iter().map(|event| event.json());
        let rates = events.filter(|event| event["type"] == "tokenwire:rates");
        rates
            .map(|rates| rates["tokens"].as_u64().unwrap())
            .sum::<u64>()
    };
    while counted(&watching) < 40 {
        assert!(watching.read().await);
    }
    assert_eq!(counted(&watching), 40);
}

#[tokio::test]
async fn failure_is_shown_with_its_reason() {
    let world = start(|config| config.retry.attempts = 0);
    let mut watching = watch(world.get("/v1/activity")).await;
    let answer = world
        .post("/v1/chat/completions", &chat("tokens=9 fault=cut after=3"))
        .answer()
        .await;
    assert_eq!(answer.status, 200);
    watching.until_event(LIFE[2]).await;
    let end = seen(&watching).pop().unwrap().1;
    assert_eq!(end["status"], "failed");
    assert_eq!(end["reason"], "upstream_truncated", "{end}");
}

#[tokio::test]
async fn owner_sees_its_own_streams_and_an_operator_all() {
    let world = start(keys);
    let mut alice = watch(by(world.get("/v1/activity"), ALICE)).await;
    let mut bob = watch(by(world.get("/v1/activity"), BOB)).await;
    let mut operator = watch(by(world.get("/v1/activity"), OPERATOR)).await;
    let body = response("tokens=3");
    let of_alice = by(world.post("/v1/responses", &body), ALICE).answer().await;
    let of_bob = by(world.post("/v1/responses", &body), BOB).answer().await;
    alice.until_event(LIFE[2]).await;
    bob.until_event(LIFE[2]).await;
    operator
        .until_event(&format!("{LAST_OF}\"{}\"", of_bob.id()))
        .await;
    operator.until_count(LIFE[2], 2).await;
    for (watching, own) in [(&alice, &of_alice), (&bob, &of_bob)] {
        let events = seen(watching);
        assert_eq!(kinds(&events), LIFE);
        assert!(
            events
                .iter()
                .all(|(_, event)| event["response_id"] == own.id())
        );
        assert!(!watching.text().contains("\"owner\"") && !watching.text().contains("upstream\":"));
        // Consecutive, whatever others do.
        let ids: Vec<u64> = events.iter().map(|(_, event)| number(event)).collect();
        assert_eq!((ids[1], ids[2]), (ids[0] + 1, ids[0] + 2));
    }
    let owners: Vec<Value> = seen(&operator)
        .into_iter()
        .filter(|(kind, _)| kind == LIFE[0])
        .map(|(_, event)| event["owner"].clone())
        .collect();
    assert_eq!(owners, ["alice", "bob"]);
    // An operator sees that there is a stream, and reads only its own.
    let path = format!("/v1/streams/{}", of_alice.id());
    assert_eq!(by(world.get(&path), OPERATOR).answer().await.status, 404);
    assert_eq!(world.get("/v1/activity").answer().await.status, 401);
}

const LAST_OF: &str = "\"response_id\":";

fn number(event: &Value) -> u64 {
    let id = event["event_id"].as_str().unwrap();
    id.rsplit_once('.').unwrap().1.parse().unwrap()
}

#[tokio::test]
async fn watcher_that_comes_back_gets_what_it_missed() {
    let world = start(keys);
    let mut first = watch(by(world.get("/v1/activity"), ALICE)).await;
    let ask = async |key: &str| {
        let body = response("tokens=2");
        let answer = by(world.post("/v1/responses", &body), key).answer().await;
        answer.id().to_owned()
    };
    ask(ALICE).await;
    let last = first.until_event(LIFE[2]).await.pop().unwrap().id.unwrap();
    drop(first);
    ask(BOB).await;
    let second = ask(ALICE).await;
    let back = by(world.get("/v1/activity"), ALICE).header("last-event-id", &last);
    let mut back = watch(back).await;
    back.until_event(LIFE[2]).await;
    let events = seen(&back);
    assert_eq!(kinds(&events), LIFE);
    assert!(
        events
            .iter()
            .all(|(_, event)| event["response_id"] == second.as_str())
    );
    // Of another process, of the future, and none at all.
    let (boot, n) = last.rsplit_once('.').unwrap();
    let future = format!("{boot}.{}", n.parse::<u64>().unwrap() + 1000);
    for unknown in ["other.1", &future, "x"] {
        let request = by(world.get("/v1/activity"), ALICE).header("last-event-id", unknown);
        let events = seen(&watch(request).await);
        assert_eq!(kinds(&events), ["tokenwire:reset"], "{unknown}");
        assert_eq!(events[0].1["reason"], "unknown_id");
    }
}

#[tokio::test]
async fn watcher_that_comes_late_is_told_of_what_runs() {
    let world = start(|_| {});
    let mut running = world
        .post("/v1/responses", &response("tokens=3 text=count tbt=1h"))
        .send()
        .await;
    let id = running.id().await;
    running.until("t0").await;
    let since = std::time::Instant::now();
    let watching = watch(world.get("/v1/activity")).await;
    let elapsed = since.elapsed().as_millis();
    let events = seen(&watching);
    assert_eq!(kinds(&events[1..]), &LIFE[..2]);
    assert_eq!(events[1].1["response_id"], id.as_str());
    // Who is cut off before the last of these gets all of them again.
    let has_id: Vec<bool> = watching
        .events()
        .iter()
        .map(|event| event.id.is_some())
        .collect();
    assert_eq!(has_id, [false, false, true, true]);
    assert_eq!(events[1].1["event_id"], Value::Null);
    assert!(events[2].1["event_id"].is_string());
    let rates = watching.events().pop().unwrap().json();
    assert_eq!(rates["open"], 1, "{rates}");
    let interval = rates["interval_ms"].as_u64().unwrap();
    assert!(u128::from(interval) <= elapsed, "{interval} of {elapsed}");
}

#[tokio::test]
async fn socket_watches_beside_its_streams_and_resumes() {
    let world = start(|_| {});
    let mut socket = world.socket().await;
    socket.send(json!({"type": "tokenwire:watch"})).await;
    socket.until_type("tokenwire:rates").await;
    socket.create("tokens=2", json!({})).await;
    let events = socket.until(|event| event["type"] == LIFE[2]).await;
    for kind in LIFE.iter().chain(&["response.completed"]) {
        let is_there = events.iter().any(|event| event["type"] == *kind);
        assert!(is_there, "{kind}");
    }
    let last = events.last().unwrap()["event_id"].clone();
    socket.send(json!({"type": "tokenwire:unwatch"})).await;
    socket.until_pong().await;
    let answer = world
        .post("/v1/responses", &response("tokens=1"))
        .answer()
        .await;
    assert!(socket.until_pong().await.is_empty(), "it watches no more");
    socket
        .send(json!({"type": "tokenwire:watch", "after": last}))
        .await;
    let events = socket.until(ended(answer.id())).await;
    let started = events.iter().filter(|event| event["type"] == LIFE[0]);
    assert_eq!(started.count(), 1, "{events:?}");
    socket
        .send(json!({"type": "tokenwire:watch", "after": 7}))
        .await;
    let refused = socket.until_type("tokenwire:error").await.pop().unwrap();
    assert_eq!(refused["error"]["param"], "after");
}

#[tokio::test]
async fn tickets_watch_what_their_owner_has() {
    let world = start(keys);
    let ticket = async |body: Value| {
        let answer = by(world.post("/v1/tickets", &body), OPERATOR)
            .answer()
            .await;
        answer.json()["ticket"].as_str().unwrap().to_owned()
    };
    let owner = ticket(json!({"may": ["read", "start"]})).await;
    let path = format!("/v1/ws?ticket={owner}");
    let mut socket = Socket::connect(world.address, &path).await;
    socket.send(json!({"type": "tokenwire:watch"})).await;
    socket.until_type("tokenwire:rates").await;
    by(world.post("/v1/responses", &response("tokens=1")), ALICE)
        .answer()
        .await;
    let of_ops = by(world.post("/v1/responses", &response("tokens=1")), OPERATOR)
        .answer()
        .await;
    let events = socket.until(ended(of_ops.id())).await;
    let streams = events.iter().filter(|event| event["type"] == LIFE[0]);
    assert_eq!(streams.count(), 1, "a ticket never sees what others do");

    let stream = ticket(json!({"stream": of_ops.id()})).await;
    let refused = world
        .get(&format!("/v1/activity?ticket={stream}"))
        .answer()
        .await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    let path = format!("/v1/ws?ticket={stream}");
    let mut socket = Socket::connect(world.address, &path).await;
    socket.send(json!({"type": "tokenwire:watch"})).await;
    let refused = socket.until_type("tokenwire:error").await.pop().unwrap();
    assert_eq!(refused["error"]["code"], "ticket_not_allowed");
}

#[tokio::test]
async fn socket_goes_on_watching_as_its_new_ticket_may() {
    let world = start(keys);
    let body = json!({"may": ["read", "start"]});
    let ticket = by(world.post("/v1/tickets", &body), OPERATOR)
        .answer()
        .await;
    let ticket = ticket.json()["ticket"].clone();
    let mut socket = Socket::connect_by(world.address, "/v1/ws", OPERATOR).await;
    socket.send(json!({"type": "tokenwire:watch"})).await;
    socket.until_type("tokenwire:rates").await;
    socket
        .send(json!({"type": "tokenwire:auth", "ticket": ticket}))
        .await;
    let reset = socket.until_type("tokenwire:reset").await.pop().unwrap();
    assert_eq!(reset["reason"], "unknown_id");
    let body = response("tokens=1");
    by(world.post("/v1/responses", &body), ALICE).answer().await;
    let own = by(world.post("/v1/responses", &body), OPERATOR)
        .answer()
        .await;
    let events = socket.until(ended(own.id())).await;
    let streams = events.iter().filter(|event| event["type"] == LIFE[0]);
    assert_eq!(streams.count(), 1, "a ticket never sees what others do");
}

#[tokio::test]
async fn watch_ends_with_its_key() {
    let soon = std::time::SystemTime::now() + std::time::Duration::from_secs(4);
    let expires = humantime::format_rfc3339_seconds(soon).to_string();
    let world = start(|config| {
        keys(config);
        config.auth.keys[0].expires = Some(expires);
    });
    let watching = watch(by(world.get("/v1/activity"), ALICE)).await;
    let mut socket = Socket::connect_by(world.address, "/v1/ws", ALICE).await;
    let watch = json!({"type": "tokenwire:watch"});
    socket.send(watch.clone()).await;
    socket.until_type("tokenwire:rates").await;
    patiently("the end of the watch", watching.answer()).await;
    let told = patiently(
        "the end on the socket",
        socket.until_type("tokenwire:error"),
    )
    .await;
    assert_eq!(told.last().unwrap()["status"], 401, "{told:?}");
    assert!(socket.until_pong().await.is_empty(), "it watches no more");
    socket.send(watch).await;
    let refused = socket.until_type("tokenwire:error").await.pop().unwrap();
    assert_eq!(refused["error"]["code"], "invalid_api_key", "{refused}");
}

#[tokio::test]
async fn key_that_is_an_operators_no_more_does_not_watch_on() {
    let upstream = Simulator::start(Options::default()).unwrap();
    let url = upstream.base_url();
    let config = |role: &str| {
        format!(
            "default_model: simulator\nupstreams: [{{name: up, base_url: '{url}'}}]\nauth:\n  keys:\n    - {{owner: a, key: {ALICE}, role: {role}}}\n    - {{owner: ops, key: {OPERATOR}, role: operator}}\n"
        )
    };
    let gateway = Process::start(&config("operator"), &[]);
    let get = || by(Request::new(gateway.address, "GET", "/v1/activity"), ALICE);
    let other = by(
        Request::new(gateway.address, "GET", "/v1/activity"),
        OPERATOR,
    );
    let (watching, mut other) = (watch(get()).await, watch(other).await);
    assert!(watching.text().contains("tokenwire:upstream.changed"));
    gateway.configure(&config("user"));
    let reload = Request::new(gateway.address, "POST", "/admin/reload");
    assert_eq!(by(reload, OPERATOR).answer().await.status, 200);
    patiently("the end of the watch", watching.answer()).await;
    let again = watch(get()).await;
    assert!(!again.text().contains("tokenwire:upstream.changed"));
    assert!(other.read().await, "another key watches on");
}

#[tokio::test]
async fn one_owner_does_not_take_all_places() {
    let world = start(keys);
    let get = |key: &str| by(world.get("/v1/activity"), key);
    let mut watching = Vec::new();
    for _ in 0..32 {
        let mut one = get(ALICE).send().await;
        assert_eq!(one.status().await, 200);
        watching.push(one);
    }
    let refused = get(ALICE).answer().await;
    assert_eq!(refused.status, 503);
    assert!(
        refused.text().contains("of this owner"),
        "{}",
        refused.text()
    );
    // An EventSource would not come back after this status.
    let later = get(ALICE).header("accept", "text/event-stream");
    let later = later.answer().await;
    assert_eq!(
        (later.status, later.text()),
        (200, "retry: 5000\n\n".to_owned())
    );
    for key in [BOB, OPERATOR] {
        watch(get(key)).await;
    }
}

#[tokio::test]
async fn foreign_page_and_revoked_key_do_not_watch() {
    let world = start(|_| {});
    let foreign = world
        .get("/v1/activity")
        .header("origin", "https://evil.example");
    assert_eq!(foreign.answer().await.status, 403);
    let world = start(keys);
    let watching = watch(by(world.get("/v1/activity"), ALICE)).await;
    let revoke = world.post("/v1/tickets/revoke", &json!({"owner": "alice"}));
    let revoked = by(revoke, OPERATOR).answer().await;
    assert_eq!(revoked.status, 200, "{}", revoked.text());
    patiently("the end of the watch", watching.answer()).await;
}

/// A watcher that reads nothing holds up neither streams nor other watchers, and is told what it lost.
#[tokio::test]
async fn watcher_that_does_not_read_is_told_what_it_lost() {
    // Some hundred events for each stream, so that the buffers of the socket are soon full.
    let rules: Vec<WatchEntry> = (0..500)
        .map(|number| words(&format!("rule {number}"), &["t0"], Action::Notify))
        .collect();
    let world = start(|config| config.watch = rules);
    let mut slow = world.get("/v1/activity").send().await;
    slow.until_event("tokenwire:rates").await;
    let mut socket = world.socket().await;
    for _ in 0..150 {
        socket
            .create("tokens=1 text=count", json!({"store": false}))
            .await;
        socket.until_end().await;
    }
    let mut lines = NewLines(slow);
    // It may be told more than once before it has caught up.
    let mut lost = 0;
    let is_at_the_end =
        |line: &str| line.contains("tokenwire:rates") && line.contains("\"ended\":0");
    loop {
        let new = lines.next().await;
        for line in new.iter().filter(|line| line.contains("tokenwire:reset")) {
            let reset: Value = serde_json::from_str(line).unwrap();
            assert_eq!(reset["reason"], "lost");
            lost += reset["lost"].as_u64().unwrap();
        }
        if lost > 0 && new.iter().any(|line| is_at_the_end(line)) {
            break;
        }
    }
    assert!((4096..80_000).contains(&lost), "{lost}");
    // It goes on from there.
    let answer = world
        .post("/v1/responses", &response("tokens=1"))
        .answer()
        .await;
    let own = format!("{LAST_OF}\"{}\"", answer.id());
    while !lines.next().await.iter().any(|line| line.contains(&own)) {}
}

/// Reads the data of events, and keeps nothing: it is some megabytes.
struct NewLines(Exchange);

impl NewLines {
    async fn next(&mut self) -> Vec<String> {
        assert!(self.0.read().await, "the watch ended");
        let mut ends = self.0.body.iter();
        let whole = ends.rposition(|byte| *byte == b'\n').unwrap_or(0);
        let read: Vec<u8> = self.0.body.drain(..whole).collect();
        let text = String::from_utf8(read).unwrap();
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.map(str::to_owned).collect()
    }
}

/// The requests by which a dialect is asked, with how its answer names the reason of a stop.
fn languages(steering: &str) -> [(&'static str, Value, &'static str); 3] {
    let usage = json!({"stream_options": {"include_usage": true}});
    [
        (
            "/v1/chat/completions",
            with(chat(steering), usage),
            r#""finish_reason":"content_filter""#,
        ),
        (
            "/v1/responses",
            response(steering),
            r#""incomplete_details":{"reason":"content_filter"}"#,
        ),
        (
            "/v1/streams?dialect=chat",
            response(steering),
            r#""finish_reason":"content_filter""#,
        ),
    ]
}

#[tokio::test]
async fn stop_over_token_borders_ends_the_answer_in_each_dialect() {
    let world = start(|config| {
        config.watch = vec![words("border", &["t4 t5"], Action::Stop)];
    });
    for (path, body, reason) in languages("tokens=1000 text=count tbt=2ms") {
        let mut watching = watch(world.get("/v1/activity")).await;
        let answer = world.post(path, &body).answer().await;
        let text = answer.text();
        assert!(text.contains(reason), "{path}: {text}");
        assert!(
            text.contains(" t5") && !text.contains(" t6"),
            "{path}: {text}"
        );
        assert_eq!(text.matches("[DONE]").count(), 1, "{path}");
        if path == "/v1/responses" {
            assert!(text.contains("response.incomplete"), "{text}");
        } else {
            assert_eq!(text.matches(r#""finish_reason":""#).count(), 1, "{text}");
        }
        let object = world.object(answer.id()).await;
        assert_eq!(object["status"], "incomplete");
        assert_eq!(object["incomplete_details"]["reason"], "content_filter");
        assert_eq!(
            object["output"][0]["content"][0]["text"],
            " t0 t1 t2 t3 t4 t5"
        );
        let expected = format!("{LAST_OF}\"{}\"", answer.id());
        watching.until_event(&expected).await;
        watching.until_count(LIFE[2], 1).await;
        let events = seen(&watching);
        let matched = events
            .iter()
            .find(|(kind, _)| kind == "tokenwire:stream.matched");
        let matched = &matched.unwrap().1;
        assert_eq!(
            (&matched["rule"], &matched["action"]),
            (&json!("border"), &json!("stop"))
        );
        assert_eq!(
            (&matched["offset"], &matched["part"]),
            (&json!(18), &json!("text"))
        );
        let end = &events.last().unwrap().1;
        assert_eq!(
            (&end["status"], &end["reason"]),
            (&json!("incomplete"), &json!("content_filter"))
        );
    }
    // Upstream is not asked for the rest.
    world
        .upstream_saw("the cancellation", |stats| stats.aborted >= 3)
        .await;
}

#[tokio::test]
async fn stop_at_once_with_the_end_says_so() {
    let world = start(|config| {
        config.watch = vec![words("late", &["t2"], Action::Stop)];
    });
    // The whole answer comes in one read, with its finish chunk.
    for (path, body, reason) in languages("tokens=6 text=count") {
        let answer = world.post(path, &body).answer().await;
        let text = answer.text();
        assert!(text.contains(reason), "{path}: {text}");
        assert!(
            text.contains(" t2") && !text.contains(" t3"),
            "{path}: {text}"
        );
        assert!(
            !text.contains(r#""finish_reason":"stop""#),
            "{path}: {text}"
        );
    }
}

#[tokio::test]
async fn stop_finishes_all_choices() {
    let world = start(|config| {
        config.watch = vec![words("border", &["t4 t5"], Action::Stop)];
    });
    let steering = "tokens=1000 text=count tbt=2ms";
    let body = with(chat(steering), json!({"n": 3}));
    let answer = world.post("/v1/chat/completions", &body).answer().await;
    let chunks = answer.events().into_iter();
    let chunks = chunks.filter(|event| event.data != "[DONE]");
    let finished: Vec<(Value, Value)> = chunks
        .map(|event| event.json())
        .flat_map(|chunk| chunk["choices"].as_array().cloned().unwrap_or_default())
        .filter(|choice| !choice["finish_reason"].is_null())
        .map(|choice| (choice["index"].clone(), choice["finish_reason"].clone()))
        .collect();
    let each = |index: u32| (json!(index), json!("content_filter"));
    assert_eq!(finished, [each(0), each(1), each(2)]);
}

/// An answer whose end comes with more than a stream may hold is looked at before it is sealed.
#[tokio::test]
async fn answer_above_the_limit_that_comes_with_its_end_fails_whole() {
    let chunk = |choice: Value| json!({"object": "chat.completion.chunk", "choices": [choice]});
    let text = json!({"index": 0, "delta": {"content": "x".repeat(30_000)}});
    let finish = json!({"index": 0, "delta": {}, "finish_reason": "stop"});
    let body = format!(
        "data: {}\n\ndata: {}\n\ndata: [DONE]\n\n",
        chunk(text),
        chunk(finish)
    );
    let whole = Playback::events(body.into_bytes(), usize::MAX).await;
    let world = start(|config| {
        config.upstreams[0].base_url = whole.base_url();
        config.streams.max_stream_bytes = 20_000;
        config.watch = vec![words("some", &["y"], Action::Notify)];
    });
    let answer = world.post("/v1/streams", &response("")).answer().await;
    let end = answer.events().pop().unwrap().json();
    assert_eq!(end["response"]["error"]["code"], "stream_too_large");
    let object = world.object(answer.id()).await;
    assert_eq!(object["status"], "failed");
    assert_eq!(object["output"], end["response"]["output"]);
    assert!(!object.to_string().contains("xx"), "{object}");
}

#[tokio::test]
async fn rules_look_where_they_are_told_to() {
    let rule = |name: &str, part: WatchedPart, word: &str| WatchEntry {
        on: vec![part],
        ..words(name, &[word], Action::Notify)
    };
    for api in [Api::Chat, Api::Responses] {
        let simulator = Simulator::start(Options {
            pace: Pace::INSTANT,
            ..Options::default()
        })
        .unwrap();
        let gateway = over(&simulator.base_url(), api, |config| {
            config.watch = vec![
                rule("text", WatchedPart::Text, "t1 t2"),
                rule("no text", WatchedPart::Text, "Ulm"),
                rule("reasoning", WatchedPart::Reasoning, "2"),
                rule("no reasoning", WatchedPart::Reasoning, "Ulm"),
                rule("arguments", WatchedPart::Arguments, "{\"city\":\"Ulm\"}"),
                rule("no arguments", WatchedPart::Arguments, "t1"),
            ];
        });
        let mut watching = watch(gateway.get("/v1/activity")).await;
        let arguments = "%7B%22city%22:%22Ulm%22%7D";
        for steering in [
            format!("reasoning=4 calls=1 arguments={arguments}"),
            "tokens=4 text=count".to_owned(),
        ] {
            let answer = gateway
                .post("/v1/responses", &response(&steering))
                .answer()
                .await;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        watching.until_count(LIFE[2], 2).await;
        let mut matched = matches(&watching, "rule");
        matched.sort();
        assert_eq!(matched, ["arguments", "reasoning", "text"], "{api:?}");
    }
}

/// Returns this member of each match.
fn matches(watching: &Exchange, name: &str) -> Vec<String> {
    let events = seen(watching).into_iter();
    let matched = events.filter(|(kind, _)| kind == "tokenwire:stream.matched");
    matched
        .map(|(_, event)| event[name].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn ten_thousand_words_and_expressions_are_watched_for() {
    let list: Vec<String> = (0..10_000).map(|number| format!("t{number:05}")).collect();
    let list: Vec<&str> = list.iter().map(String::as_str).collect();
    let world = start(|config| {
        config.watch = vec![
            words("many", &list, Action::Stop),
            words("last", &["t899 t900"], Action::Notify),
            WatchEntry {
                name: "expression".to_owned(),
                regex: Some(r" t[0-9]*33\b".replace(r"\b", r"(?-u:\b)")),
                action: Action::Notify,
                ..WatchEntry::default()
            },
        ];
    });
    let mut watching = watch(world.get("/v1/activity")).await;
    let body = response("tokens=1000 text=count");
    let answer = world.post("/v1/responses", &body).answer().await;
    assert!(answer.text().contains("response.completed"));
    watching.until_event(LIFE[2]).await;
    let matched: Vec<(Value, Value)> = seen(&watching)
        .into_iter()
        .filter(|(kind, _)| kind == "tokenwire:stream.matched")
        .map(|(_, event)| (event["rule"].clone(), event["offset"].clone()))
        .collect();
    let counted: String = (0..1000).map(|number| format!(" t{number}")).collect();
    let end = |text: &str| json!(counted.find(text).unwrap() + text.len());
    assert_eq!(
        matched,
        [
            (json!("expression"), end(" t33")),
            (json!("last"), end("t899 t900"))
        ]
    );
}

#[tokio::test]
async fn match_goes_on_where_another_upstream_continues() {
    let chunk = |text: &str| json!({"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}]});
    let body: String = ["my sec", "ret b t"]
        .map(|text| format!("data: {}\n\n", chunk(text)))
        .concat();
    let cut = Playback::events(body.into_bytes(), usize::MAX).await;
    let world = start(|config| {
        let second = Upstream {
            name: "second".to_owned(),
            region: Some("there".to_owned()),
            continuation: Continuation::Message,
            ..config.upstreams[0].clone()
        };
        config.server.region = Some("here".to_owned());
        config.upstreams[0].region = Some("here".to_owned());
        config.upstreams[0].base_url = cut.base_url();
        config.upstreams.push(second);
        config.watch = vec![
            words("before", &["secret"], Action::Notify),
            words("over", &["b t t0"], Action::Stop),
        ];
    });
    let mut watching = watch(world.get("/v1/activity")).await;
    let body = response("tokens=50 text=count");
    let answer = world.post("/v1/streams", &body).answer().await;
    watching.until_event(LIFE[2]).await;
    assert_eq!(matches(&watching, "rule"), ["before", "over"]);
    let object = world.object(answer.id()).await;
    assert_eq!(
        object["output"][0]["content"][0]["text"], "my secret b t t0",
        "{object}"
    );
    assert_eq!(object["incomplete_details"]["reason"], "content_filter");
}

#[tokio::test]
async fn replay_and_second_reader_match_nothing_again() {
    let world = start(|config| {
        config.watch = vec![words("once", &["t3"], Action::Notify)];
    });
    let mut watching = watch(world.get("/v1/activity")).await;
    let answer = world
        .post("/v1/streams", &response("tokens=5 text=count"))
        .answer()
        .await;
    for _ in 0..3 {
        let path = format!("/v1/streams/{}", answer.id());
        assert!(world.get(&path).answer().await.text().contains(" t3"));
    }
    world
        .post("/v1/responses", &response("tokens=1"))
        .answer()
        .await;
    watching.until_count(LIFE[2], 2).await;
    assert_eq!(watching.text().matches("stream.matched").count(), 1);
}

#[tokio::test]
async fn webhook_of_a_match_is_signed_and_has_text_only_if_asked_for() {
    let mut receiver = Receiver::start([]).await;
    let url = receiver.url();
    let world = start(|config| {
        config.webhooks.secret = Some(Secret::from(SECRET.to_owned()));
        config.webhooks.url = Some(url);
        config.webhooks.allow_private = true;
        config.watch = vec![
            words("quiet", &["t1 t2"], Action::Webhook),
            WatchEntry {
                include_text: true,
                ..words("quoting", &["t5"], Action::Webhook)
            },
        ];
    });
    let answer = world
        .post("/v1/chat/completions", &chat("tokens=9 text=count"))
        .answer()
        .await;
    assert!(answer.text().contains(" t8"), "a webhook stops nothing");
    for _ in 0..2 {
        let received = receiver.next().await;
        let kind = "tokenwire:stream.matched".to_owned();
        assert_eq!(received.checked(SECRET), (kind, answer.id().to_owned()));
        let data = &received.json()["data"];
        match data["rule"].as_str().unwrap() {
            "quiet" => assert_eq!(data.get("text"), None, "{data}"),
            rule => {
                assert_eq!(rule, "quoting");
                assert_eq!(data["text"], " t0 t1 t2 t3 t4 t5", "{data}");
            }
        }
        assert_eq!(data["part"], "text");
    }
}

/// Starts a gateway in a process of its own, which reads its configuration from a file.
fn refused(config: &str) -> String {
    Process::fail_on(free_port(), config)
}

#[test]
fn rules_that_cannot_work_are_refused_with_their_name_and_a_remedy() {
    for (rule, parts) in [
        (
            r#"{name: no-look, regex: "a(?=b)"}"#,
            ["watch[0].regex", "no-look", "Look-around"],
        ),
        (
            r#"{name: huge, regex: "[\\w\\s]{400}x\\w{400}"}"#,
            ["watch[0].regex", "huge", "Shorten"],
        ),
        (
            r#"{name: boundary, regex: "\\bx\\b"}"#,
            ["watch[0].regex", "boundary", "(?-u:\\b)"],
        ),
        (
            r#"{name: empty, regex: "x*"}"#,
            ["watch[0].regex", "empty", "at least one character"],
        ),
        (
            r#"{name: both, regex: "x", words: [y]}"#,
            ["watch[0].words", "both", "two rules"],
        ),
        (
            r#"{name: hook, words: [y], action: webhook}"#,
            ["watch[0].action", "hook", "webhooks.url"],
        ),
        (r#"{words: [y]}"#, ["watch[0].name", "1 to 64", "matches"]),
        (
            r#"{name: a, words: [y], include_text: true}"#,
            ["watch[0].include_text", "webhook", "false"],
        ),
    ] {
        let error = refused(&format!("watch: [{rule}]"));
        for part in parts {
            assert!(error.contains(part), "{rule}: no {part:?} in {error}");
        }
    }
}

#[tokio::test]
async fn reload_takes_new_rules_and_keeps_the_old_ones_if_those_are_bad() {
    let upstream = Simulator::start(Options {
        pace: Pace::INSTANT,
        ..Options::default()
    })
    .unwrap();
    let url = upstream.base_url();
    let config = |rule: &str| {
        format!(
            "default_model: simulator\nupstreams: [{{name: up, base_url: '{url}'}}]\nwatch: [{rule}]\n"
        )
    };
    let gateway = Process::start(&config("{name: a, words: [t3], action: stop}"), &[]);
    let last = async || {
        let body = response("tokens=9 text=count");
        let answer = crate::support::post(&gateway, "/v1/streams", &body)
            .answer()
            .await;
        let end = answer.events().pop().unwrap().json();
        let text = end["response"]["output"][0]["content"][0]["text"].clone();
        text.as_str()
            .unwrap()
            .rsplit(' ')
            .next()
            .unwrap()
            .to_owned()
    };
    let reload = async |rule: &str| {
        gateway.configure(&config(rule));
        let request = Request::new(gateway.address, "POST", "/admin/reload");
        request.answer().await.status
    };
    assert_eq!(last().await, "t3");
    assert_eq!(reload("{name: a, words: [t5], action: stop}").await, 200);
    assert_eq!(last().await, "t5");
    assert_ne!(reload("{name: a, regex: 'x*', action: stop}").await, 200);
    assert_eq!(last().await, "t5");
    assert_eq!(reload("").await, 200);
    assert_eq!(last().await, "t8");
}

#[tokio::test]
async fn drain_ends_a_watch() {
    let world = start(|_| {});
    let watching = watch(world.get("/v1/activity")).await;
    let World { gateway, simulator } = world;
    let ending = tokio::task::spawn_blocking(move || drop::<Gateway>(gateway));
    patiently("the end of the watch", watching.answer()).await;
    ending.await.unwrap();
    drop(simulator);
}
