//! Webhooks as the receiver and the requesting client see them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::support::process::Process;
use crate::support::receiver::{Answer, Receiver, status};
use crate::support::{Request, Socket, World, eventually, start, with};
use futures::FutureExt as _;
use futures::future::{BoxFuture, pending};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokenwire::config::schema::Config;
use tokenwire::config::secret::Secret;
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_testkit::{EngineOptions, TestEngine};
use tokenwire_webhooks::{DeliveryRecords, WebhookOptions, Webhooks};
use tokio::time::Instant;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER_SECRET: &str = "whsec_QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo=";

/// A gateway that sends webhooks to this machine.
fn world(change: impl FnOnce(&mut Config)) -> World {
    start(|config| {
        config.webhooks.secret = Some(Secret::from(SECRET.to_owned()));
        config.webhooks.allow_private = true;
        change(config);
    })
}

fn job(steering: &str, webhook: Value) -> Value {
    with(
        crate::support::response(steering),
        json!({"stream": false, "background": true, "webhook": webhook}),
    )
}

/// Starts a background response and returns its id.
async fn begin(world: &World, steering: &str, webhook: Value) -> String {
    let answer = world
        .post("/v1/responses", &job(steering, webhook))
        .answer()
        .await;
    assert_eq!(
        (answer.status, answer.json()["status"].as_str()),
        (200, Some("queued")),
        "{}",
        answer.text()
    );
    answer.id().to_owned()
}

async fn deliveries(world: &World, query: &str) -> Vec<Value> {
    let answer = world
        .get(&format!("/v1/webhooks/deliveries{query}"))
        .answer()
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["data"].as_array().unwrap().clone()
}

/// Waits until the only delivery meets a condition.
async fn delivery(world: &World, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    eventually(what, async || {
        let found = deliveries(world, "").await;
        assert!(found.len() < 2, "{found:?}");
        last = found.into_iter().next().unwrap_or_default();
        wanted(&last)
    })
    .await;
    last
}

async fn retry(world: &World, id: &Value) -> Value {
    let path = format!("/v1/webhooks/deliveries/{}/retry", id.as_str().unwrap());
    let answer = world.post(&path, &json!({})).answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

#[tokio::test]
async fn webhook_is_signed_and_its_response_can_be_fetched() {
    let world = world(|_| {});
    let mut receiver = Receiver::start([]).await;
    let id = begin(
        &world,
        "tokens=3 text=count",
        json!({"url": receiver.url()}),
    )
    .await;
    let received = receiver.next().await;
    assert_eq!(
        (received.path.as_str(), received.checked(SECRET)),
        (
            "/hook?token=t0ken",
            ("response.completed".to_owned(), id.clone())
        )
    );
    let object = world.object(&id).await;
    assert_eq!(
        object["status"], "completed",
        "the webhook arrived before the response had ended"
    );
    assert!(object.get("webhook").is_none(), "{object}");
    let sent = world.last_request().body.unwrap().to_string();
    assert!(
        !sent.contains("webhook") && !sent.contains("t0ken"),
        "{sent}"
    );

    let seen = delivery(&world, "the record of the delivery", |delivery| {
        delivery["status"] == "delivered"
    })
    .await;
    assert_eq!(
        (&seen["response_id"], &seen["type"], &seen["id"]),
        (
            &json!(id),
            &json!("response.completed"),
            &received.json()["id"]
        )
    );
    assert_eq!(
        (&seen["attempts"], &seen["last_status"], &seen["host"]),
        (&json!(1), &json!(200), &json!(receiver.address.to_string()))
    );
    assert!(!seen.to_string().contains("t0ken"), "{seen}");
    assert!(deliveries(&world, "?status=failed").await.is_empty());
    assert_eq!(receiver.more(), 0);
}

#[tokio::test]
async fn event_type_names_the_status() {
    let world = world(|_| {});
    let mut receiver = Receiver::start([]).await;
    for (steering, kind) in [
        ("tokens=2", "completed"),
        ("tokens=9 fault=cut after=3", "failed"),
        ("tokens=3 finish=length", "incomplete"),
    ] {
        let id = begin(&world, steering, json!({"url": receiver.url()})).await;
        assert_eq!(
            receiver.next().await.checked(SECRET),
            (format!("response.{kind}"), id),
            "{steering}"
        );
    }
    let id = begin(&world, "fault=stall_head", json!({"url": receiver.url()})).await;
    world
        .post(&format!("/v1/responses/{id}/cancel"), &json!({}))
        .answer()
        .await;
    assert_eq!(
        receiver.next().await.checked(SECRET),
        ("response.cancelled".to_owned(), id)
    );
    let id = begin(&world, "fault=stall_head", json!({"url": receiver.url()})).await;
    world.delete(&format!("/v1/responses/{id}")).answer().await;
    assert_eq!(
        receiver.next().await.checked(SECRET),
        ("response.cancelled".to_owned(), id)
    );
}

#[tokio::test]
async fn every_route_accepts_a_webhook_and_a_repeated_request_sends_one() {
    let world = world(|_| {});
    let mut receiver = Receiver::start([]).await;
    let webhook = json!({"url": receiver.url(), "secret": OTHER_SECRET});
    let body = job("tokens=2", webhook.clone());
    let mut stream = world.post("/v1/streams", &body).send().await;
    let id = stream.id().await;
    assert_eq!(
        receiver.next().await.checked(OTHER_SECRET),
        ("response.completed".to_owned(), id)
    );

    let mut socket = Socket::connect(world.address, "/v1/ws").await;
    socket
        .create("tokens=2", json!({"background": true, "webhook": webhook}))
        .await;
    socket.until_end().await;
    assert_eq!(
        receiver.next().await.checked(OTHER_SECRET).0,
        "response.completed"
    );

    let repeated = with(body, json!({"idempotency_key": "once"}));
    let ids = [
        world.post("/v1/responses", &repeated).answer().await,
        world.post("/v1/responses", &repeated).answer().await,
    ];
    assert_eq!(ids[0].id(), ids[1].id());
    assert_eq!(receiver.next().await.checked(OTHER_SECRET).1, ids[0].id());
    eventually("the record of three deliveries", async || {
        deliveries(&world, "?status=delivered").await.len() == 3
    })
    .await;
    assert_eq!(receiver.more(), 0);
}

#[tokio::test]
async fn configured_endpoint_receives_every_background_response() {
    let (mut configured, mut requested) = (Receiver::start([]).await, Receiver::start([]).await);
    let world = world(|config| config.webhooks.url = Some(configured.url()));
    let plain = with(
        crate::support::response("tokens=2"),
        json!({"stream": false}),
    );
    assert_eq!(
        world.post("/v1/responses", &plain).answer().await.status,
        200
    );
    let first = begin(&world, "tokens=2", Value::Null).await;
    assert_eq!(
        configured.next().await.checked(SECRET),
        ("response.completed".to_owned(), first)
    );
    let second = begin(
        &world,
        "tokens=2",
        json!({"url": requested.url(), "secret": OTHER_SECRET}),
    )
    .await;
    let (common, own) = (configured.next().await, requested.next().await);
    assert_eq!(
        (common.checked(SECRET).1, own.checked(OTHER_SECRET).1),
        (second.clone(), second)
    );
    assert_ne!(common.header("webhook-id"), own.header("webhook-id"));
    // A request that names the same URL causes no second delivery.
    let third = begin(&world, "tokens=2", json!({"url": configured.url()})).await;
    assert_eq!(configured.next().await.checked(SECRET).1, third);
    // With another secret it does: otherwise a client could replace the operator's delivery.
    let fourth = begin(
        &world,
        "tokens=2",
        json!({"url": configured.url(), "secret": OTHER_SECRET}),
    )
    .await;
    let both = [configured.next().await, configured.next().await];
    assert!(both.iter().all(|sent| sent.json()["data"]["id"] == fourth));
    assert_eq!(
        both.iter()
            .filter(|sent| sent.is_signed_with(SECRET))
            .count(),
        1
    );
    eventually("the record of six deliveries", async || {
        deliveries(&world, "?status=delivered").await.len() == 6
    })
    .await;
    assert_eq!((configured.more(), requested.more()), (0, 0));
}

#[tokio::test]
async fn failed_delivery_is_retried_with_the_same_id() {
    let world = world(|_| {});
    let mut receiver = Receiver::start([status(500, ""), status(503, "")]).await;
    begin(&world, "tokens=2", json!({"url": receiver.url()})).await;
    let attempts = [
        receiver.next().await,
        receiver.next().await,
        receiver.next().await,
    ];
    for attempt in &attempts {
        attempt.checked(SECRET);
        assert_eq!(
            (attempt.header("webhook-id"), &attempt.body),
            (attempts[0].header("webhook-id"), &attempts[0].body)
        );
    }
    let seen = delivery(&world, "the delivery", |delivery| {
        delivery["status"] == "delivered"
    })
    .await;
    assert_eq!(
        (&seen["attempts"], &seen["last_status"], &seen["last_error"]),
        (&json!(3), &json!(200), &Value::Null)
    );
}

#[tokio::test]
async fn every_end_on_every_worker_is_delivered_once() {
    const MANY: usize = 200;
    let world = world(|config| config.webhooks.concurrency_per_host = 8);
    let mut receiver = Receiver::start([]).await;
    let mut begun: Vec<String> = Vec::new();
    for _ in 0..MANY {
        begun.push(begin(&world, "tokens=2", json!({"url": receiver.url()})).await);
    }
    let mut first: Vec<String> = Vec::new();
    for _ in 0..MANY {
        first.push(receiver.next().await.checked(SECRET).1);
    }
    begun.sort();
    first.sort();
    assert_eq!(begun, first);
    eventually("the end of all deliveries", async || {
        deliveries(&world, "?status=pending").await.is_empty()
    })
    .await;
    assert_eq!(receiver.more(), 0);
}

#[tokio::test]
async fn redirect_is_not_followed() {
    let world = world(|_| {});
    let mut elsewhere = Receiver::start([]).await;
    let location = format!("location: {}\r\nretry-after: 600\r\n", elsewhere.url());
    let mut receiver = Receiver::start([status(307, &location)]).await;
    begin(&world, "tokens=2", json!({"url": receiver.url()})).await;
    receiver.next().await;
    let seen = delivery(&world, "the failure", |delivery| {
        delivery["last_status"] == 307
    })
    .await;
    assert_eq!(seen["status"], "pending");
    assert!(
        seen["last_error"].as_str().unwrap().contains("redirect"),
        "{seen}"
    );
    let wait = seen["next_attempt_at"].as_u64().unwrap() - seen["created_at"].as_u64().unwrap();
    assert!(
        (590..=610).contains(&wait),
        "Retry-After was not honoured: {wait} s"
    );
    // A manual retry does not wait.
    assert_eq!(retry(&world, &seen["id"]).await["status"], "pending");
    receiver.next().await;
    delivery(&world, "the delivery", |delivery| {
        delivery["status"] == "delivered"
    })
    .await;
    assert_eq!((elsewhere.more(), receiver.more()), (0, 0));
}

#[tokio::test]
async fn gone_endpoint_receives_no_further_deliveries() {
    let world = world(|_| {});
    let mut receiver = Receiver::start([status(410, "")]).await;
    begin(&world, "tokens=2", json!({"url": receiver.url()})).await;
    receiver.next().await;
    let first = delivery(&world, "the dead letter", |delivery| {
        delivery["status"] == "failed"
    })
    .await;
    assert_eq!(
        (&first["reason"], &first["last_status"]),
        (&json!("gone"), &json!(410))
    );
    let id = begin(&world, "tokens=2", json!({"url": receiver.url()})).await;
    let mut dead = Vec::new();
    eventually("the second dead letter", async || {
        dead = deliveries(&world, "?status=failed").await;
        dead.len() == 2
    })
    .await;
    assert_eq!(
        (
            &dead[0]["response_id"],
            &dead[0]["reason"],
            &dead[0]["attempts"]
        ),
        (&json!(id), &json!("disabled"), &json!(0))
    );
    assert_eq!(receiver.more(), 0);
    retry(&world, &dead[0]["id"]).await;
    assert_eq!(receiver.next().await.checked(SECRET).1, id);
}

#[tokio::test]
async fn silent_receiver_times_out_and_delays_no_other() {
    let world = world(|config| {
        config.webhooks.timeout = Duration::from_millis(300);
        config.webhooks.retry_for = Duration::ZERO;
        config.webhooks.concurrency_per_host = 1;
    });
    let mut silent = Receiver::start([Answer::Silence]).await;
    begin(&world, "tokens=2", json!({"url": silent.url()})).await;
    silent.next().await;
    let seen = delivery(&world, "the dead letter", |delivery| {
        delivery["status"] == "failed"
    })
    .await;
    assert_eq!(
        (&seen["reason"], &seen["last_error"]),
        (&json!("exhausted"), &json!("no answer came in time"))
    );
    begin(&world, "tokens=2", json!({"url": silent.url()})).await;
    silent.next().await;
}

#[tokio::test]
async fn private_addresses_are_refused_unless_allowed() {
    let mut receiver = Receiver::start([]).await;
    let world = world(|config| config.webhooks.allow_private = false);
    let port = receiver.address.port();
    for host in [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "169.254.169.254",
    ] {
        let url = format!("http://{host}:{port}/");
        let answer = world
            .post("/v1/responses", &job("tokens=2", json!({"url": url})))
            .answer()
            .await;
        let error = &answer.json()["error"];
        assert_eq!(
            (answer.status, error["param"].as_str()),
            (400, Some("webhook.url")),
            "{host}: {error}"
        );
        assert!(
            error["message"]
                .as_str()
                .unwrap()
                .contains("webhooks.allow_private"),
            "{error}"
        );
    }
    assert_eq!(
        (world.simulator.stats().requests, receiver.more()),
        (0, 0),
        "a generation was started"
    );
}

#[tokio::test]
async fn invalid_webhook_is_refused_before_the_generation_starts() {
    let world = world(|config| config.webhooks.secret = None);
    let url = "http://127.0.0.1:8080/";
    let background = |webhook| job("tokens=2", webhook);
    let chat = with(
        crate::support::chat("tokens=2"),
        json!({"webhook": {"url": url, "secret": SECRET}}),
    );
    for (path, body, code, param) in [
        (
            "/v1/responses",
            with(
                background(json!({"url": url, "secret": SECRET})),
                json!({"background": false}),
            ),
            "invalid_value",
            "webhook",
        ),
        (
            "/v1/responses",
            background(json!({"url": url})),
            "missing_required_parameter",
            "webhook.secret",
        ),
        (
            "/v1/responses",
            background(json!({"url": url, "secret": "hunter2"})),
            "invalid_value",
            "webhook.secret",
        ),
        (
            "/v1/responses",
            background(json!({"url": "nonsense", "secret": SECRET})),
            "invalid_value",
            "webhook.url",
        ),
        (
            "/v1/streams",
            background(json!({"url": "http://u:hunter2@h/", "secret": SECRET})),
            "invalid_value",
            "webhook.url",
        ),
        (
            "/v1/streams",
            chat.clone(),
            "unsupported_parameter",
            "webhook",
        ),
        (
            "/v1/chat/completions",
            chat,
            "unsupported_parameter",
            "webhook",
        ),
    ] {
        let answer = world.post(path, &body).answer().await;
        let error = &answer.json()["error"];
        assert_eq!(
            (
                answer.status,
                error["code"].as_str(),
                error["param"].as_str()
            ),
            (400, Some(code), Some(param)),
            "{error}"
        );
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    let mut socket = Socket::connect(world.address, "/v1/ws").await;
    socket
        .create(
            "tokens=2",
            json!({"background": true, "webhook": {"url": url}}),
        )
        .await;
    assert_eq!(socket.next().await["error"]["param"], "webhook.secret");
    assert_eq!(world.simulator.stats().requests, 0);
    for query in [
        "?status=lost",
        "?limit=0",
        "?limit=101",
        "?limit=x",
        "?after=evt_none",
    ] {
        let answer = world
            .get(&format!("/v1/webhooks/deliveries{query}"))
            .answer()
            .await;
        assert_eq!(
            (answer.status, answer.json()["error"]["code"].as_str()),
            (400, Some("invalid_value")),
            "{query}"
        );
    }
    let answer = world
        .post("/v1/webhooks/deliveries/evt_none/retry", &json!({}))
        .answer()
        .await;
    assert_eq!(
        (answer.status, answer.json()["error"]["code"].as_str()),
        (404, Some("not_found"))
    );
}

#[tokio::test]
async fn deliveries_are_listed_in_pages_newest_first() {
    let world = world(|_| {});
    let mut receiver = Receiver::start([]).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(begin(&world, "tokens=1", json!({"url": receiver.url()})).await);
        receiver.next().await;
    }
    eventually("three deliveries", async || {
        deliveries(&world, "?status=delivered").await.len() == 3
    })
    .await;
    let first = world
        .get("/v1/webhooks/deliveries?limit=2")
        .answer()
        .await
        .json();
    assert_eq!(
        (&first["has_more"], &first["object"]),
        (&json!(true), &json!("list"))
    );
    assert_eq!(first["data"][0]["response_id"], ids[2]);
    let rest = world
        .get(&format!(
            "/v1/webhooks/deliveries?limit=2&after={}",
            first["last_id"].as_str().unwrap()
        ))
        .answer()
        .await
        .json();
    assert_eq!(
        (rest["data"][0]["response_id"].as_str(), &rest["has_more"]),
        (Some(ids[0].as_str()), &json!(false))
    );
    assert_eq!(rest["first_id"], rest["last_id"]);
}

#[tokio::test]
async fn shutdown_makes_a_last_attempt_and_logs_lost_deliveries_without_secrets() {
    let waiting = || status(503, "retry-after: 600\r\n");
    let mut mended = Receiver::start([waiting()]).await;
    let mut broken = Receiver::start([waiting(), waiting()]).await;
    let config = format!(
        "server:\n  shutdown_timeout: 20s\nwebhooks:\n  secret: {SECRET}\n  allow_private: true\nlog:\n  filter: trace\n"
    );
    let gateway = Process::start(&config, &[("RUST_LOG", "trace")]);
    let post = |body: Value| {
        Request::new(gateway.address, "POST", "/v1/responses")
            .header("content-type", "application/json")
            .body(body.to_string())
    };
    for (url, secret) in [(mended.url(), SECRET), (broken.url(), OTHER_SECRET)] {
        assert_eq!(
            post(job("tokens=1 tbt=0", json!({"url": url, "secret": secret})))
                .answer()
                .await
                .status,
            200
        );
    }
    mended.next().await;
    let lost = broken.next().await;
    let list = Request::new(gateway.address, "GET", "/v1/webhooks/deliveries");
    eventually("both failures", async || {
        let list = list.answer().await.json();
        list["data"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|delivery| delivery["last_status"] == 503)
            .count()
            == 2
    })
    .await;
    // A generation that the shutdown stops is reported too.
    let mut late = Receiver::start([]).await;
    assert_eq!(
        post(job("tokens=20 tbt=10ms", json!({"url": late.url()})))
            .answer()
            .await
            .status,
        200
    );
    gateway.terminate();
    mended.next().await.checked(SECRET);
    broken.next().await.checked(OTHER_SECRET);
    assert_eq!(late.next().await.checked(SECRET).0, "response.completed");
    let (well, output) = crate::support::patiently(
        "the end",
        tokio::task::spawn_blocking(move || gateway.output()),
    )
    .await
    .unwrap();
    assert!(well, "{output}");
    let lines: Vec<&str> = output
        .lines()
        .filter(|line| line.contains("webhook lost"))
        .collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains(lost.header("webhook-id"))
            && lines[0].contains(&broken.address.to_string()),
        "{lines:?}"
    );
    for secret in [
        SECRET,
        OTHER_SECRET,
        &SECRET[6..],
        &OTHER_SECRET[6..],
        "t0ken",
    ] {
        let shown: Vec<&str> = output
            .lines()
            .filter(|line| line.contains(secret))
            .collect();
        assert!(
            shown.is_empty(),
            "{secret} is shown in {} lines: {:.400}",
            shown.len(),
            shown[0]
        );
    }
}

/// The keys of records that are set and never stored.
#[derive(Debug, Default)]
struct Unstored(Mutex<BTreeSet<String>>);

impl DeliveryRecords for Unstored {
    fn set(&self, key: &str, value: Option<Vec<u8>>) {
        let mut keys = self.0.lock();
        match value {
            Some(_) => keys.insert(key.to_owned()),
            None => keys.remove(key),
        };
    }

    fn kept<'a>(&'a self, _key: &'a str) -> BoxFuture<'a, ()> {
        pending().boxed()
    }

    fn get(&self, _key: &str) -> Option<Vec<u8>> {
        None
    }

    fn list(&self) -> Vec<(String, Vec<u8>)> {
        Vec::new()
    }
}

#[tokio::test(start_paused = true)]
async fn start_waits_two_seconds_for_its_record_and_removes_it_if_it_is_given_up() {
    let records = Arc::new(Unstored::default());
    let webhooks = Webhooks::new(WebhookOptions::default()).unwrap();
    assert!(webhooks.keep_in(records.clone()).is_empty());
    let test = TestEngine::new(EngineOptions::default());
    let engine = test.engine.clone().with_end_notifier(Arc::new(webhooks));
    let webhook = json!({"url": "https://example.com/hook", "secret": SECRET});
    let body = json!({"input": "hi", "background": true, "webhook": webhook}).to_string();
    let mut given_up = Box::pin(engine.start(TestEngine::request(&body)));
    assert!(given_up.as_mut().now_or_never().is_none());
    assert_eq!(records.0.lock().len(), 1);
    drop(given_up);
    assert_eq!(records.0.lock().len(), 0);

    let begun = Instant::now();
    let started = engine.start(TestEngine::request(&body)).await.unwrap();
    assert_eq!(begun.elapsed().as_secs(), 2);
    assert_eq!(records.0.lock().len(), 1);
    let call = test.upstream.call().await;
    call.token("a").finish("stop").done().end(BodyEnd::Clean);
    started.guard.generation().ended().await;
}
