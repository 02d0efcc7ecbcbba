//! Limits and budgets from outside: what is refused, and that what is counted is what clients got.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::{
    Answer, DiskWorld, Gateway, Playback, Request, Socket, World, chat, eventually, post, response,
    start, stored, with,
};
use futures::future::join_all;
use serde_json::{Value, json};
use tokenwire::config::Config;
use tokenwire::config::client_limits::{ClientLimits, Overrun, Price};
use tokenwire::config::money::Money;
use tokenwire::config::schema::{Api, Continuation, Hedging, KeyEntry, Role, Upstream};

const ALICE: &str = "sk-tw-alice-alice-alice-alice";
const SECOND: &str = "sk-tw-second-second-second-seco";
const BOB: &str = "sk-tw-bob-bob-bob-bob-bob-bob";
const OPERATOR: &str = "sk-tw-operator-operator-oper";

/// Two owners, one of them with two keys, and an operator; tokens cost one unit for a million.
fn keyed(config: &mut Config) {
    let entry = |owner: &str, key: &str| KeyEntry {
        owner: owner.to_owned(),
        key: Some(key.to_owned().into()),
        ..KeyEntry::default()
    };
    config.auth.keys = vec![
        entry("alice", ALICE),
        entry("alice", SECOND),
        entry("bob", BOB),
        KeyEntry {
            role: Role::Operator,
            ..entry("ops", OPERATOR)
        },
    ];
    let price = Price {
        input: amount("1"),
        output: amount("2"),
        ..Price::default()
    };
    config.prices.0.insert("*".to_owned(), price);
}

fn amount(text: &str) -> Money {
    Money::parse(text).unwrap()
}

/// As [`keyed`], with limits for each key.
fn per_key(limits: ClientLimits) -> impl FnOnce(&mut Config) {
    move |config| {
        keyed(config);
        config.limits.per_key = limits;
    }
}

fn tokens_per_minute(tokens: u64) -> ClientLimits {
    ClientLimits {
        tokens_per_minute: Some(tokens),
        ..ClientLimits::default()
    }
}

fn by(request: Request, key: &str) -> Request {
    request.header("authorization", &format!("Bearer {key}"))
}

fn code(answer: &Answer) -> String {
    let json = answer.json();
    json["error"]["code"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

async fn respond(world: &World, key: &str, body: Value) -> Answer {
    by(world.post("/v1/responses", &body), key).answer().await
}

/// Returns the rows of `/v1/usage` by their group.
async fn usage(gateway: &Gateway, key: &str, by_what: &str) -> BTreeMap<String, Value> {
    let request = gateway.get(&format!("/v1/usage?by={by_what}"));
    let answer = by(request, key).answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let list = answer.json();
    let rows = list["data"].as_array().unwrap();
    let group = |row: &Value| row[by_what].as_str().unwrap_or("anonymous").to_owned();
    rows.iter().map(|row| (group(row), row.clone())).collect()
}

/// Waits until an owner has this many requests, and returns its row.
async fn settled(gateway: &Gateway, owner: &str, requests: u64) -> Value {
    let mut found = Value::Null;
    eventually("all requests are settled", async || {
        let rows = usage(gateway, OPERATOR, "owner").await;
        found = rows.get(owner).cloned().unwrap_or_default();
        found["requests"] == requests
    })
    .await;
    found
}

fn header(answer: &Answer, name: &str) -> Option<u64> {
    answer.header(name)?.parse().ok()
}

/// About how many tokens a body has, as the gateway counts them.
fn estimated(body: usize) -> u64 {
    body.div_ceil(4) as u64
}

/// The cost of a row, as it is written.
fn cost_of(row: &Value) -> f64 {
    row["cost"].as_f64().unwrap()
}

/// A number of millionths, as JSON has it.
fn micros(count: u64) -> f64 {
    Money::from_micros(count).to_string().parse().unwrap()
}

#[tokio::test]
async fn requests_beyond_the_limit_get_429_with_openais_headers() {
    let world = start(per_key(ClientLimits {
        requests_per_minute: Some(3),
        ..ClientLimits::default()
    }));
    for left in [2, 1, 0] {
        let answer = respond(&world, ALICE, response("tokens=1")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(header(&answer, "x-ratelimit-limit-requests"), Some(3));
        assert_eq!(
            header(&answer, "x-ratelimit-remaining-requests"),
            Some(left)
        );
        assert_eq!(answer.header("x-ratelimit-limit-tokens"), None);
    }
    let asked = world.simulator.stats().requests;
    let refused = by(world.post("/v1/chat/completions", &chat("tokens=1")), ALICE)
        .header("origin", "http://localhost:5173")
        .answer()
        .await;
    assert_eq!(
        (refused.status, &*code(&refused)),
        (429, "rate_limit_exceeded")
    );
    assert_eq!(refused.header("x-should-retry"), Some("true"));
    let after = header(&refused, "retry-after").unwrap();
    assert!((1..=20).contains(&after), "{after}");
    assert_eq!(header(&refused, "x-ratelimit-remaining-requests"), Some(0));
    assert!(
        refused
            .header("x-ratelimit-reset-requests")
            .unwrap()
            .ends_with('s')
    );
    let exposed = refused.header("access-control-expose-headers").unwrap();
    assert!(
        exposed.contains("x-ratelimit-remaining-requests"),
        "{exposed}"
    );
    assert_eq!(
        world.simulator.stats().requests,
        asked,
        "the upstream was asked"
    );
    // Another key has a limit of its own, and what starts nothing costs nothing.
    for key in [SECOND, BOB] {
        let answer = respond(&world, key, response("tokens=1")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(header(&answer, "x-ratelimit-remaining-requests"), Some(2));
    }
    let models = by(world.get("/v1/models"), SECOND).answer().await;
    assert_eq!(header(&models, "x-ratelimit-remaining-requests"), Some(2));
    let bad = respond(&world, SECOND, json!({"input": 7})).await;
    assert_eq!(
        (bad.status, header(&bad, "x-ratelimit-remaining-requests")),
        (400, Some(2))
    );
}

#[tokio::test]
async fn refusals_reach_every_transport() {
    let world = start(per_key(ClientLimits {
        streams: Some(1),
        ..ClientLimits::default()
    }));
    let request = by(
        world.post("/v1/responses", &response("tokens=5 fault=stall")),
        ALICE,
    );
    let mut held = request.send().await;
    let id = held.id().await;
    let background = with(
        response("tokens=1"),
        json!({"background": true, "stream": false}),
    );
    let refused = respond(&world, ALICE, background).await;
    assert_eq!(
        (refused.status, &*code(&refused)),
        (429, "rate_limit_exceeded")
    );
    let source = by(world.get("/v1/streams?input=x"), ALICE).header("accept", "text/event-stream");
    let source = source.answer().await;
    assert_eq!(source.status, 200);
    assert_eq!(source.text(), "retry: 1000\n\n");
    let plain = by(world.get("/v1/streams?input=x"), ALICE).answer().await;
    assert_eq!(
        (plain.status, plain.header("retry-after")),
        (429, Some("1"))
    );
    let mut socket = Socket::connect_by(world.address, "/v1/responses", ALICE).await;
    let create = json!({"type": "response.create", "input": "x", "stream_id": "lane"});
    socket.send(create).await;
    let error = socket.next().await;
    assert_eq!(
        (&error["type"], &error["status"]),
        (&json!("error"), &json!(429))
    );
    assert_eq!(error["error"]["code"], "rate_limit_exceeded");
    assert_eq!(error["stream_id"], "lane");
    // The slot is free with the terminal event.
    let cancel = by(
        world.post(&format!("/v1/responses/{id}/cancel"), &json!({})),
        ALICE,
    );
    assert_eq!(cancel.answer().await.status, 200);
    eventually("a free slot", async || {
        respond(&world, ALICE, response("tokens=1")).await.status == 200
    })
    .await;
}

#[tokio::test]
async fn requests_that_never_fit_and_spent_budgets_are_final() {
    let world = start(|config| {
        keyed(config);
        config.limits.per_key = tokens_per_minute(1000);
        config.limits.per_owner.budget_per_day = Some(amount("0.0005"));
        config.limits.reserve_output = 100;
    });
    let large = |tokens: u64| with(response("tokens=1"), json!({"max_output_tokens": tokens}));
    for body in [large(1000), large(400)] {
        let refused = respond(&world, ALICE, body).await;
        assert_eq!(
            (refused.status, &*code(&refused)),
            (400, "request_too_large_for_limit")
        );
        assert_eq!(refused.header("x-should-retry"), Some("false"));
    }
    // Ten tokens of request and a hundred of answer are reserved, two hundred millionths.
    let answer = respond(&world, ALICE, response("tokens=100")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    settled(&world, "alice", 1).await;
    let answer = respond(&world, SECOND, response("tokens=100")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    settled(&world, "alice", 2).await;
    // The budget is the owner's: both keys have spent it.
    for key in [ALICE, SECOND] {
        let refused = respond(&world, key, response("tokens=1")).await;
        assert_eq!((refused.status, &*code(&refused)), (402, "budget_exceeded"));
        assert_eq!(refused.header("x-should-retry"), Some("false"));
        assert_eq!(refused.header("retry-after"), None);
    }
    let source = by(world.get("/v1/streams?input=x"), ALICE).header("accept", "text/event-stream");
    assert_eq!(source.answer().await.status, 402);
    assert_eq!(respond(&world, BOB, response("tokens=1")).await.status, 200);
    let metrics = world.get("/metrics").answer().await.text();
    for line in [
        "tokenwire_limited_requests_total{limit=\"budget\"} 3\n",
        "tokenwire_limited_requests_total{limit=\"size\"} 2\n",
    ] {
        assert!(metrics.contains(line), "{line}{metrics}");
    }
}

#[tokio::test]
async fn model_without_a_price_is_refused_where_a_budget_applies() {
    let world = start(|config| {
        keyed(config);
        let price = config.prices.0.remove("*").unwrap();
        config.prices.0.insert("simulator".to_owned(), price);
        config.auth.keys[0].limits.budget_per_month = Some(amount("1"));
    });
    let body = with(response("tokens=1"), json!({"model": "free"}));
    let refused = respond(&world, ALICE, body.clone()).await;
    assert_eq!(
        (refused.status, &*code(&refused)),
        (403, "model_not_allowed")
    );
    assert_eq!(
        respond(&world, BOB, body).await.status,
        200,
        "no budget applies"
    );
    assert_eq!(
        respond(&world, ALICE, response("tokens=1")).await.status,
        200
    );
}

#[tokio::test]
async fn chat_stream_without_include_usage_is_settled_exactly_and_shows_no_usage() {
    let world = start(per_key(tokens_per_minute(100_000)));
    let mut sent = Vec::new();
    for (members, n) in [(json!({}), 1), (json!({"n": 3}), 3)] {
        let body = with(chat("tokens=7"), members);
        let answer = by(world.post("/v1/chat/completions", &body), ALICE)
            .answer()
            .await;
        let text = answer.text();
        assert!(text.contains("[DONE]"), "{text}");
        assert!(!text.contains("prompt_tokens"), "{text}");
        let up = world.last_request().body.unwrap();
        assert_eq!(up["stream_options"]["include_usage"], true, "{up}");
        // The same request with usage says what it costs.
        let asked = with(body, json!({"stream_options": {"include_usage": true}}));
        let answer = by(world.post("/v1/chat/completions", &asked), BOB)
            .answer()
            .await;
        let usage = answer
            .events()
            .iter()
            .filter_map(|event| serde_json::from_str::<Value>(&event.data).ok())
            .find(|chunk| chunk["usage"].is_object())
            .unwrap();
        let tokens = usage["usage"]["completion_tokens"].as_u64().unwrap();
        assert_eq!(tokens, 7 * n);
        sent.push((usage["usage"]["prompt_tokens"].as_u64().unwrap(), tokens));
    }
    let (input, output) = sent.iter().fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
    for owner in ["alice", "bob"] {
        let row = settled(&world, owner, 2).await;
        assert_eq!(row["input_tokens"], input, "{row}");
        assert_eq!(row["output_tokens"], output, "{row}");
        assert_eq!(row["estimated_requests"], 0, "{row}");
        assert_eq!(cost_of(&row), micros(input + 2 * output));
    }
    let answer = by(world.get("/v1/models"), ALICE).answer().await;
    let left = header(&answer, "x-ratelimit-remaining-tokens").unwrap();
    let used = 100_000 - input - output;
    assert!((used..used + 20_000).contains(&left), "{left} of {used}");
}

#[tokio::test]
async fn hidden_history_counts_as_input() {
    let world = start(per_key(tokens_per_minute(1500)));
    let first = with(
        response("tokens=600"),
        json!({"max_output_tokens": 600, "stream": false}),
    );
    let first = respond(&world, ALICE, first).await;
    assert_eq!(first.status, 200, "{}", first.text());
    settled(&world, "alice", 1).await;
    let short = json!({"model": "simulator", "input": "[[tokens=1]]", "max_output_tokens": 600});
    let alone = respond(&world, BOB, short.clone()).await;
    assert_eq!(alone.status, 200, "{}", alone.text());
    let next = with(short, json!({"previous_response_id": first.id()}));
    let refused = respond(&world, ALICE, next).await;
    assert_eq!(
        (refused.status, &*code(&refused)),
        (400, "request_too_large_for_limit"),
        "{}",
        refused.text()
    );
}

#[tokio::test]
async fn answer_that_outgrows_its_reservation_goes_on_or_ends() {
    for (on_overrun, whole) in [(Overrun::Continue, true), (Overrun::Stop, false)] {
        let world = start(|config| {
            keyed(config);
            config.limits.per_key = tokens_per_minute(300);
            config.limits.reserve_output = 50;
            config.limits.on_overrun = on_overrun;
        });
        // No usage is reported, so the log says what was written.
        let answer = respond(&world, ALICE, response("tokens=3000 text=count usage=off")).await;
        let row = settled(&world, "alice", 1).await;
        let output = row["output_tokens"].as_u64().unwrap();
        assert_eq!(row["estimated_requests"], 1);
        let end = if whole {
            "response.completed"
        } else {
            "response.incomplete"
        };
        assert!(answer.text().contains(end), "{on_overrun:?}");
        if whole {
            assert!((3000..4500).contains(&output), "{output}");
        } else {
            assert!(answer.text().contains(r#""reason":"max_output_tokens""#));
            assert!((50..600).contains(&output), "{output}");
            assert!(output <= world.simulator.stats().tokens_sent);
        }
        let refused = respond(&world, ALICE, response("tokens=1")).await;
        assert_eq!(refused.status, 429, "it is used up");
    }
}

#[tokio::test]
async fn answers_that_are_cancelled_at_once_are_charged_their_input() {
    const TIMES: usize = 1000;
    const AT_ONCE: usize = 50;
    let world = start(per_key(ClientLimits {
        tokens_per_minute: Some(100_000_000),
        ..ClientLimits::default()
    }));
    let body = with(
        response("tokens=9 ttft=1h"),
        json!({"background": true, "stream": false}),
    );
    for round in 1..=TIMES / AT_ONCE {
        let starts = (0..AT_ONCE).map(|_| respond(&world, ALICE, body.clone()));
        let started = join_all(starts).await;
        let asked = (round * AT_ONCE) as u64;
        world
            .upstream_saw("each request", |stats| stats.chat_completions == asked)
            .await;
        let cancels = started.iter().map(|answer| {
            let path = format!("/v1/responses/{}/cancel", answer.id());
            let cancel = by(world.post(&path, &json!({})), ALICE);
            async move { cancel.answer().await.status }
        });
        assert!(join_all(cancels).await.iter().all(|status| *status == 200));
    }
    let input = estimated(world.last_request().body_bytes);
    let row = settled(&world, "alice", TIMES as u64).await;
    assert_eq!(row["input_tokens"], input * TIMES as u64, "{row}");
    assert_eq!(row["output_tokens"], 0, "{row}");
    assert_eq!(row["estimated_requests"], TIMES, "{row}");
}

#[tokio::test]
async fn retries_repeated_keys_shared_answers_and_refusals_settle_once() {
    let world = start(|config| {
        keyed(config);
        config.limits.per_key = tokens_per_minute(1_000_000);
        config.reuse.coalesce = true;
    });
    let cost = |row: &Value| (row["input_tokens"].clone(), row["output_tokens"].clone());
    // What one answer costs.
    respond(&world, BOB, response("tokens=4")).await;
    let one = cost(&settled(&world, "bob", 1).await);
    assert_eq!(one.1, 4);
    // The upstream fails once, and is asked again.
    let retried = response("tokens=4 fault=cut after=0 times=1 id=retried");
    let answer = respond(&world, ALICE, retried.clone()).await;
    assert!(
        answer.text().contains("response.completed"),
        "{}",
        answer.text()
    );
    let first = cost(&settled(&world, "alice", 1).await);
    assert_eq!(first.1, 4, "once, although the upstream was asked twice");
    // A repeated key attaches.
    for _ in 0..3 {
        let request = by(world.post("/v1/responses", &response("tokens=4")), BOB);
        let answer = request.header("idempotency-key", "the-same").answer().await;
        assert_eq!(answer.status, 200);
    }
    let two = settled(&world, "bob", 2).await;
    assert_eq!(two["output_tokens"], 8, "{two}");
    // One of two identical requests asks the upstream.
    let asked = world.simulator.stats().chat_completions;
    let shared = response("tokens=50 tbt=5ms");
    let answers = join_all((0..2).map(|_| respond(&world, BOB, shared.clone()))).await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.text().contains("response.completed"))
    );
    assert_eq!(world.simulator.stats().chat_completions, asked + 1);
    let row = settled(&world, "bob", 4).await;
    assert_eq!(row["output_tokens"], 58, "{row}");
    // What an upstream refuses costs nothing.
    let before = settled(&world, "alice", 1).await;
    let refused = respond(&world, ALICE, response("fault=status code=400")).await;
    assert_eq!(refused.status, 400);
    let after = settled(&world, "alice", 2).await;
    assert_eq!(cost(&after), cost(&before));
    // An answer without output asks no upstream.
    let mut socket = Socket::connect_by(world.address, "/v1/responses", ALICE).await;
    let silent = json!({"type": "response.create", "input": "x", "generate": false});
    socket.send(silent).await;
    while socket.next().await["type"] != "response.completed" {}
    let silent = settled(&world, "alice", 3).await;
    assert_eq!(cost(&silent), cost(&before));
}

#[tokio::test]
async fn continued_answer_is_settled_once_with_what_both_upstreams_used() {
    let chunk = |text: &str| json!({"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}]});
    let body: String = ["a ", "b "]
        .map(|text| format!("data: {}\n\n", chunk(text)))
        .concat();
    // The stream ends without a finish reason, and without usage.
    let head = "content-type: text/event-stream\r\n";
    let cut = Playback::start("200 OK", head, body.into_bytes(), usize::MAX).await;
    let world = start(|config| {
        keyed(config);
        config.limits.per_key = tokens_per_minute(1_000_000);
        // The one of the gateway's region is asked first.
        config.server.region = Some("here".to_owned());
        let second = Upstream {
            name: "second".to_owned(),
            region: Some("there".to_owned()),
            continuation: Continuation::Message,
            ..config.upstreams[0].clone()
        };
        config.upstreams[0].base_url = cut.base_url();
        config.upstreams[0].region = Some("here".to_owned());
        config.upstreams.push(second);
    });
    let answer = respond(&world, ALICE, response("tokens=3 text=count")).await;
    assert!(
        answer.text().contains("response.completed"),
        "{}",
        answer.text()
    );
    let row = settled(&world, "alice", 1).await;
    // Two tokens of the first one are estimated, three of the second reported.
    let output = row["output_tokens"].as_u64().unwrap();
    assert!((4..=6).contains(&output), "{row}");
    assert_eq!(row["estimated_requests"], 1, "{row}");
    // The request was sent twice: what one costs that is not cut, and the estimate of the other.
    let whole = start(keyed);
    respond(&whole, ALICE, response("tokens=3 text=count")).await;
    let once = settled(&whole, "alice", 1).await["input_tokens"].as_u64();
    let sent = estimated(whole.last_request().body_bytes);
    let input = row["input_tokens"].as_u64();
    assert!(
        input >= once.map(|once| once + sent),
        "{row} {once:?} {sent}"
    );
}

#[tokio::test]
async fn compaction_is_charged_and_counting_tokens_is_a_request_only() {
    let world = start(|config| {
        keyed(config);
        config.upstreams[0].api = Api::Responses;
        config.limits.per_key = ClientLimits {
            requests_per_minute: Some(3),
            tokens_per_minute: Some(100_000),
            ..ClientLimits::default()
        };
    });
    let body = json!({"model": "simulator", "input": "one two three"});
    let ask = async |path: &str| by(world.post(path, &body), ALICE).answer().await;
    let counted = ask("/v1/responses/input_tokens").await;
    assert_eq!(counted.status, 200, "{}", counted.text());
    let row = settled(&world, "alice", 1).await;
    assert_eq!(
        (&row["input_tokens"], &row["output_tokens"]),
        (&json!(0), &json!(0))
    );
    let compacted = ask("/v1/responses/compact").await;
    assert_eq!(compacted.status, 200, "{}", compacted.text());
    let usage = &compacted.json()["usage"];
    let row = settled(&world, "alice", 2).await;
    assert_eq!(row["input_tokens"], usage["input_tokens"], "{row}");
    assert_eq!(row["output_tokens"], usage["output_tokens"], "{row}");
    assert_eq!(row["estimated_requests"], 0, "{row}");
    assert_eq!(ask("/v1/responses/compact").await.status, 200);
    let refused = ask("/v1/responses/compact").await;
    let found = (refused.status, code(&refused));
    assert_eq!(found, (429, "rate_limit_exceeded".to_owned()));
}

#[tokio::test]
async fn clients_at_once_never_get_more_streams_than_the_limit() {
    const CLIENTS: usize = 50;
    const LIMIT: usize = 10;
    let world = start(|config| {
        keyed(config);
        config.limits.per_owner.streams = Some(LIMIT as u64);
    });
    for round in 0..3 {
        let starts = (0..CLIENTS).map(|client| {
            // Two keys of one owner.
            let key = if client % 2 == 0 { ALICE } else { SECOND };
            let body = response("tokens=20 ttft=100ms tbt=5ms");
            by(world.post("/v1/responses", &body), key)
        });
        let answers = join_all(starts.map(|request| async move { request.answer().await })).await;
        let count = |status: u16| {
            answers
                .iter()
                .filter(|answer| answer.status == status)
                .count()
        };
        assert!(count(200) >= LIMIT, "round {round}: {}", count(200));
        assert_eq!(count(200) + count(429), CLIENTS, "round {round}");
        assert!(world.simulator.stats().max_open_streams <= LIMIT as u64);
        world.idle().await;
    }
}

#[tokio::test]
async fn usage_is_listed_by_group_and_owners_see_their_own() {
    let world = start(keyed);
    for key in [ALICE, SECOND, BOB] {
        respond(&world, key, response("tokens=3")).await;
    }
    let other = with(response("tokens=5"), json!({"model": "other"}));
    respond(&world, ALICE, other).await;
    settled(&world, "alice", 3).await;
    settled(&world, "bob", 1).await;
    let owners = usage(&world, OPERATOR, "owner").await;
    assert_eq!(owners.keys().collect::<Vec<_>>(), ["alice", "bob"]);
    let models = usage(&world, OPERATOR, "model").await;
    assert_eq!(models["other"]["output_tokens"], 5);
    assert_eq!(models["simulator"]["output_tokens"], 9);
    let keys = usage(&world, ALICE, "key").await;
    assert_eq!(keys.len(), 2);
    assert!(keys.values().all(|row| row["owner"] == "alice"), "{keys:?}");
    let own = usage(&world, BOB, "owner").await;
    assert_eq!(own.keys().collect::<Vec<_>>(), ["bob"]);
    let get = |query: &str| by(world.get(&format!("/v1/usage?{query}")), OPERATOR);
    let past = get("from=2020-01-01&to=2020-12-31").answer().await.json();
    assert_eq!(past["data"], json!([]));
    assert_eq!(
        (&past["from"], &past["by"]),
        (&json!("2020-01-01"), &json!("owner"))
    );
    for query in ["by=day", "from=yesterday", "to=2026-1-1"] {
        let answer = get(query).answer().await;
        assert_eq!(
            (answer.status, &*code(&answer)),
            (400, "invalid_value"),
            "{query}"
        );
    }
    let anonymous = world.get("/v1/usage").answer().await;
    assert_eq!(anonymous.status, 401);
}

#[tokio::test]
async fn anonymous_owner_is_limited_where_owners_are() {
    let world = start(|config| config.limits.per_owner.requests_per_minute = Some(2));
    for _ in 0..2 {
        let answer = world
            .post("/v1/responses", &response("tokens=1"))
            .answer()
            .await;
        assert_eq!(answer.status, 200);
    }
    let refused = world
        .post("/v1/responses", &response("tokens=1"))
        .answer()
        .await;
    assert_eq!(
        (refused.status, &*code(&refused)),
        (429, "rate_limit_exceeded")
    );
    assert_eq!(header(&refused, "x-ratelimit-remaining-requests"), Some(0));
    let usage = world.get("/v1/usage").answer().await.json();
    assert_eq!(usage["data"][0]["owner"], Value::Null);
    assert_eq!(usage["data"][0]["requests"], 2);
}

/// A seeded sequence of numbers.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}

/// What clients got of one kind of request.
#[derive(Debug, Default, PartialEq)]
struct Got {
    requests: u64,
    input: u64,
    output: u64,
    estimated: u64,
}

impl Got {
    /// Adds a response as a client reads it at its end.
    fn add(&mut self, object: &Value) {
        self.requests += 1;
        if let Some(output) = object["usage"]["output_tokens"].as_u64() {
            self.output += output;
            self.input += object["usage"]["input_tokens"].as_u64().unwrap();
            return;
        }
        self.estimated += 1;
        let text = object["output"][0]["content"][0]["text"].as_str();
        self.output += text.unwrap_or_default().split_whitespace().count() as u64;
    }
}

#[tokio::test]
async fn counters_equal_what_clients_received_after_any_mix() {
    const REQUESTS: u64 = 150;
    let world = start(|config| {
        keyed(config);
        config.limits.per_owner = ClientLimits {
            tokens_per_minute: Some(100_000_000),
            streams: Some(1000),
            budget_per_day: Some(amount("100000")),
            ..ClientLimits::default()
        };
        config.reuse.coalesce = true;
        let second = Upstream {
            name: "second".to_owned(),
            ..config.upstreams[0].clone()
        };
        config.upstreams.push(second);
        config.retry.hedge = Hedging::After(Duration::from_millis(20));
    });
    let mut dice = Dice(7);
    let mut got = Got::default();
    let mut shared_input = 0;
    for number in 0..REQUESTS {
        let id = format!("{number}");
        let tokens = 1 + dice.roll(40);
        let (steering, cancel, twice) = match dice.roll(7) {
            0 => (format!("tokens={tokens} text=count"), false, false),
            1 => (
                format!("tokens={tokens} text=count usage=off"),
                false,
                false,
            ),
            2 => (
                format!("tokens=50 text=count fault=cut after={tokens}"),
                false,
                false,
            ),
            3 => (
                format!("tokens=50 text=count fault=stall after={tokens}"),
                true,
                false,
            ),
            4 => (
                format!("tokens={tokens} text=count fault=status times=1 id={id}"),
                false,
                false,
            ),
            5 => (
                format!("tokens={tokens} text=count ttft=60ms"),
                false,
                false,
            ),
            _ => (format!("tokens={tokens} text=count ttft=30ms"), false, true),
        };
        // Each request is its own, but for those that share an answer.
        let body = json!({
            "model": "simulator",
            "stream": true,
            "input": format!("{id} [[{steering}]]"),
        });
        let request = by(world.post("/v1/responses", &body), ALICE);
        let second = twice.then(|| by(world.post("/v1/responses", &body), ALICE));
        let second = async {
            match second {
                Some(second) => Some(second.answer().await),
                None => None,
            }
        };
        let first = async {
            let mut exchange = request.send().await;
            if cancel {
                exchange.until(&format!("t{}\"", tokens - 1)).await;
                let id = exchange.id().await;
                let path = format!("/v1/responses/{id}/cancel");
                let cancel = by(world.post(&path, &json!({})), ALICE);
                assert_eq!(cancel.answer().await.status, 200);
            }
            exchange.answer().await
        };
        let (first, second) = futures::future::join(first, second).await;
        let last = |answer: &Answer| -> Value {
            let events = answer.events();
            let terminal = events
                .iter()
                .rev()
                .find(|event| event.data.starts_with('{'));
            let event: Value = serde_json::from_str(&terminal.unwrap().data).unwrap();
            event["response"].clone()
        };
        got.add(&last(&first));
        if let Some(second) = second {
            let leader = [&first, &second]
                .iter()
                .filter(|answer| answer.header("tokenwire-cache") == Some("miss"))
                .count();
            if leader == 2 {
                got.add(&last(&second));
            } else {
                got.requests += 1;
                shared_input += 1;
            }
        }
    }
    let row = settled(&world, "alice", got.requests).await;
    assert_eq!(row["output_tokens"], got.output, "{row} {got:?}");
    assert_eq!(row["estimated_requests"], got.estimated, "{row} {got:?}");
    assert!(shared_input > 0, "no answer was shared");
    // What is estimated is the size of what went up.
    let estimated: u64 = row["input_tokens"].as_u64().unwrap() - got.input;
    assert!(
        estimated >= got.estimated * 10 && estimated <= got.estimated * 60,
        "{row} {got:?}"
    );
    let cost = row["input_tokens"].as_u64().unwrap() + 2 * got.output;
    assert_eq!(cost_of(&row), micros(cost));
    // Nothing stays reserved: all that is not spent can be reserved again.
    let answer = by(world.get("/v1/models"), ALICE).answer().await;
    let left = header(&answer, "x-ratelimit-remaining-tokens").unwrap();
    let used = row["input_tokens"].as_u64().unwrap() + got.output;
    assert!(left >= 100_000_000 - used, "{left} left, {used} used");
}

#[tokio::test]
async fn budgets_survive_a_kill() {
    let world = DiskWorld::new();
    let config = format!(
        "auth:\n  keys:\n    - {{owner: alice, key: {ALICE}}}\n    - {{owner: ops, key: {OPERATOR}, role: operator}}\n\
         limits:\n  reserve_output: 10\n  per_owner:\n    budget_per_month: 0.001\nprices:\n  \"*\": {{input: 1, output: 2}}\n"
    );
    let gateway = world.start_with(&config);
    let keyed = |request: Request| by(request, ALICE);
    let total = async |address| {
        let request = Request::new(address, "GET", "/v1/usage?by=owner");
        let list = by(request, OPERATOR).answer().await.json();
        let row = list["data"][0].clone();
        let number = |name: &str| row[name].as_u64().unwrap_or_default();
        (
            number("requests"),
            number("input_tokens"),
            number("output_tokens"),
        )
    };
    let body = response("tokens=200 text=count");
    let answer = keyed(post(&gateway, "/v1/responses", &body)).answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    eventually("the first answer is settled", async || {
        total(gateway.address).await.2 == 200
    })
    .await;
    let (_, input, _) = total(gateway.address).await;
    // One that runs when the process is killed.
    let stalled = response("tokens=100 text=count fault=stall after=40");
    let request = keyed(post(&gateway, "/v1/streams", &stalled));
    let mut stream = request.send().await;
    stream.until("\" t30\"").await;
    // It is stored within a tick of 50 ms. This one takes ten times as long.
    let last = by(
        post(&gateway, "/v1/responses", &response("tokens=10 tbt=50ms")),
        OPERATOR,
    );
    assert_eq!(last.answer().await.status, 200);
    stored(&gateway, 2).await;
    drop(gateway);
    let gateway = world.start_with(&config);
    let (requests, later, output) = total(gateway.address).await;
    assert_eq!(requests, 2, "the lost one counts");
    assert!(later > input, "{later}: its request in full");
    assert!(
        (201..=240).contains(&output),
        "{output}: what it had written"
    );
    // 0.001 allows a thousand millionths.
    let large = with(response("tokens=1"), json!({"max_output_tokens": 300}));
    let refused = keyed(post(&gateway, "/v1/responses", &large))
        .answer()
        .await;
    assert_eq!((refused.status, &*code(&refused)), (402, "budget_exceeded"));
    drop(gateway);
    let gateway = world.start_with(&config);
    assert_eq!(
        total(gateway.address).await,
        (requests, later, output),
        "counted once"
    );
}
