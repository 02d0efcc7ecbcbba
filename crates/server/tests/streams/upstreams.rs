//! Several upstreams behind one gateway: failover, health, hedging, limits, forwarded headers.

use std::time::Duration;

use crate::support::{
    Gateway, KeepAlive, Playback, Reply, World, chat, eventually, response, start, with,
};
use serde_json::{Value, json};
use tokenwire::config::models::{Model, Models};
use tokenwire::config::schema::{
    Config, Continuation, HealthCheck, Hedging, TimeoutOverrides, Upstream, UpstreamLimits,
};
use tokenwire_simulator::{Options, Pace, Simulator};

/// Two simulators behind one gateway.
struct Pair {
    first: Simulator,
    second: Simulator,
    gateway: Gateway,
}

fn simulator() -> Simulator {
    Simulator::start(Options {
        pace: Pace::INSTANT,
        ..Options::default()
    })
    .unwrap()
}

/// Starts two simulators. The first is preferred by its region; the second is a fallback.
fn pair(change: impl FnOnce(&mut Config)) -> Pair {
    let (first, second) = (simulator(), simulator());
    let gateway = crate::support::over(
        &first.base_url(),
        tokenwire::config::schema::Api::Chat,
        |config| {
            config.server.region = Some("here".to_owned());
            config.upstreams[0].region = Some("here".to_owned());
            let there = Upstream {
                name: "second".to_owned(),
                base_url: second.base_url(),
                region: Some("there".to_owned()),
                ..Upstream::default()
            };
            config.upstreams.push(there);
            change(config);
        },
    );
    Pair {
        first,
        second,
        gateway,
    }
}

async fn readiness(gateway: &Gateway) -> (u16, Value) {
    let answer = gateway.get("/readyz").answer().await;
    (answer.status, answer.json())
}

async fn metric(gateway: &Gateway, name: &str) -> f64 {
    let text = gateway.get("/metrics").answer().await.text();
    let line = text
        .lines()
        .find(|line| line.starts_with(name))
        .expect("a metric of this name");
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn fault_before_the_first_token_is_hidden_by_a_retry() {
    let world: World = start(|_| {});
    for (number, fault) in [
        "status code=503",
        "status code=429 retry_after=1",
        "refuse",
        "json_error",
        "html",
        "error after=0",
        "cut after=0",
        "end after=0",
    ]
    .into_iter()
    .enumerate()
    {
        let steering = format!("tokens=3 text=count fault={fault} times=1 id=r{number}");
        let before = world.simulator.stats().requests;
        let answer = world
            .post("/v1/chat/completions", &chat(&steering))
            .answer()
            .await;
        assert_eq!(
            (answer.status, answer.text().contains("[DONE]")),
            (200, true),
            "{fault}: {}",
            answer.text()
        );
        let asked = world.simulator.stats().requests - before;
        assert!(asked >= 2, "{fault}: asked {asked} times");
    }
    // A request that is repeated at once because its idle connection was closed counts as no retry.
    assert!(
        metric(
            &world,
            r#"tokenwire_upstream_retries_total{upstream="upstream"}"#
        )
        .await
            >= 7.0
    );
}

#[tokio::test]
async fn failover_to_the_second_upstream_shows_in_readiness() {
    let Pair {
        first,
        second,
        gateway,
    } = pair(|config| {
        config.breaker.failures = 2;
        config.breaker.cooldown = Duration::from_secs(600);
    });
    assert_eq!(
        gateway
            .post("/v1/responses", &response("tokens=3"))
            .answer()
            .await
            .status,
        200
    );
    assert_eq!((first.stats().requests, second.stats().requests), (1, 0));
    drop(first);
    for asked in 1..=5 {
        let answer = gateway
            .post("/v1/responses", &response("tokens=3"))
            .answer()
            .await;
        assert_eq!(
            (answer.status, second.stats().requests),
            (200, asked),
            "{}",
            answer.text()
        );
    }
    let (status, ready) = readiness(&gateway).await;
    assert_eq!((status, &ready["status"]), (200, &json!("ready")));
    assert_eq!(
        [
            &ready["upstreams"][0]["status"],
            &ready["upstreams"][1]["status"]
        ],
        ["down", "up"]
    );
    assert_eq!(
        metric(&gateway, r#"tokenwire_upstream_up{upstream="upstream"}"#).await,
        0.0
    );
    assert_eq!(
        metric(
            &gateway,
            r#"tokenwire_upstream_failovers_total{upstream="second"}"#
        )
        .await,
        2.0
    );
    drop(second);
    for _ in 0..2 {
        assert_eq!(
            gateway
                .post("/v1/responses", &response("tokens=3"))
                .answer()
                .await
                .status,
            502
        );
    }
    let (status, ready) = readiness(&gateway).await;
    assert_eq!(
        (status, &ready["status"]),
        (503, &json!("no upstream is up"))
    );
}

#[tokio::test]
async fn health_check_marks_an_upstream_down_and_up_and_closes_its_breaker() {
    let first = simulator();
    let address = first.base_url();
    let port: u16 = address
        .trim_end_matches("/v1")
        .rsplit(':')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let gateway = crate::support::over(&address, tokenwire::config::schema::Api::Chat, |config| {
        config.upstreams[0].health_check = HealthCheck {
            interval: Duration::from_millis(20),
            timeout: Duration::from_secs(2),
            ..HealthCheck::default()
        };
        config.breaker.failures = 1;
        config.breaker.cooldown = Duration::from_secs(600);
    });
    drop(first);
    let answer = gateway
        .post("/v1/chat/completions", &chat(""))
        .answer()
        .await;
    assert_eq!(answer.status, 502, "{}", answer.text());
    eventually("the upstream to be down", async || {
        readiness(&gateway).await.0 == 503
    })
    .await;
    let _again = Simulator::start(Options {
        address: ([127, 0, 0, 1], port).into(),
        pace: Pace::INSTANT,
        ..Options::default()
    })
    .unwrap();
    eventually("the upstream to be up", async || {
        readiness(&gateway).await.0 == 200
    })
    .await;
}

#[tokio::test]
async fn slow_upstream_is_hedged_and_dropped() {
    // A request without steering runs at the simulator's own pace, which is slow for the first.
    let hour = Duration::from_secs(3600);
    let slow = Simulator::start(Options {
        pace: Pace {
            first_token: hour,
            between_tokens: hour,
        },
        ..Options::default()
    })
    .unwrap();
    let Pair {
        second, gateway, ..
    } = pair(|config| {
        config.retry.hedge = Hedging::After(Duration::from_millis(50));
        config.upstreams[0].base_url = slow.base_url();
    });
    let body = json!({"model": "simulator", "stream": true, "messages": [{"role": "user", "content": "hi"}]});
    let answer = gateway.post("/v1/chat/completions", &body).answer().await;
    assert_eq!(
        (answer.status, answer.text().matches("[DONE]").count()),
        (200, 1),
        "{}",
        answer.text()
    );
    assert!(
        slow.wait_until(
            |stats| stats.aborted == 1 && stats.open_streams == 0,
            crate::support::PATIENCE
        )
        .await,
        "{:?}",
        slow.stats()
    );
    assert_eq!((slow.stats().requests, second.stats().requests), (1, 1));
    assert_eq!(
        metric(
            &gateway,
            r#"tokenwire_upstream_hedges_won_total{upstream="second"}"#
        )
        .await,
        1.0
    );
}

#[tokio::test]
async fn cut_answer_is_continued_by_the_second_upstream() {
    let chunk = |text: &str| json!({"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}]});
    let body: String = ["a ", "b "]
        .map(|text| format!("data: {}\n\n", chunk(text)))
        .concat();
    for path in ["/v1/streams", "/v1/chat/completions", "/v1/responses"] {
        // The stream ends without a finish reason.
        let cut = Playback::events(body.clone().into_bytes(), usize::MAX).await;
        let Pair {
            second, gateway, ..
        } = pair(|config| {
            config.upstreams[0].base_url = cut.base_url();
            config.upstreams[1].continuation = Continuation::Message;
        });
        let request = if path == "/v1/chat/completions" {
            chat("tokens=3 text=count")
        } else {
            response("tokens=3 text=count")
        };
        let answer = gateway.post(path, &request).answer().await;
        assert_eq!(
            (answer.status, answer.text().matches("[DONE]").count()),
            (200, usize::from(path != "/v1/streams")),
            "{}",
            answer.text()
        );
        // The SDKs raise on unknown events, so on /v1/responses only the object has it.
        assert_eq!(
            answer.text().contains(r#""upstream":"second""#),
            path != "/v1/responses",
            "{path}: {}",
            answer.text()
        );
        let asked = second.requests().pop().unwrap().body.unwrap();
        assert_eq!(
            asked["messages"].as_array().unwrap().last().unwrap(),
            &json!({"role": "assistant", "content": "a b "}),
            "{path}"
        );
        let object = gateway
            .object(
                answer
                    .header("location")
                    .unwrap()
                    .rsplit('/')
                    .next()
                    .unwrap(),
            )
            .await;
        assert_eq!(
            (&object["status"], &object["tokenwire:continued"]),
            (&json!("completed"), &json!(1)),
            "{path}: {object}"
        );
        assert_eq!(
            object["output"][0]["content"][0]["text"], "a b  t0 t1 t2",
            "{path}"
        );
    }
}

#[tokio::test]
async fn model_timeouts_override_upstream_timeouts() {
    let world = start(|config| {
        let quick = TimeoutOverrides {
            first_token: Some(Duration::from_millis(50)),
            ..TimeoutOverrides::default()
        };
        let quick = Model {
            name: Some("simulator".to_owned()),
            timeouts: quick,
        };
        config.upstreams[0].models = Models::Renamed(
            [
                ("quick".to_owned(), quick),
                ("patient".to_owned(), "simulator".into()),
            ]
            .into(),
        );
    });
    let ask = async |model: &str| {
        let body = with(chat("tokens=2 ttft=300ms"), json!({"model": model}));
        world
            .post("/v1/chat/completions", &body)
            .answer()
            .await
            .text()
    };
    let (quick, patient) = (ask("quick").await, ask("patient").await);
    assert!(quick.contains("first_token_timeout"), "{quick}");
    assert!(patient.contains("[DONE]"), "{patient}");
}

#[tokio::test]
async fn queued_requests_get_heartbeats_and_a_full_queue_is_429() {
    let world = start(|config| {
        config.upstreams[0].limits = UpstreamLimits {
            concurrent: 1,
            queued: 1,
            wait: Duration::from_secs(60),
        };
        config.streams.heartbeat = Duration::from_secs(1);
    });
    let mut running = world
        .post("/v1/streams", &response("tokens=2 tbt=1h"))
        .send()
        .await;
    running.until("output_text.delta").await;
    let mut waiting = world
        .post("/v1/streams", &response("tokens=1"))
        .send()
        .await;
    waiting.until("response.queued").await;
    waiting.until("\n:\n").await;
    let refused = world
        .post("/v1/chat/completions", &chat("tokens=1"))
        .answer()
        .await;
    assert_eq!(
        (refused.status, refused.json()["error"]["code"].as_str()),
        (429, Some("upstream_busy"))
    );
    assert_eq!(refused.header("retry-after"), Some("1"));
    let (_, ready) = readiness(&world).await;
    assert_eq!(
        (
            &ready["upstreams"][0]["running"],
            &ready["upstreams"][0]["waiting"]
        ),
        (&json!(1), &json!(1))
    );
}

#[tokio::test]
async fn only_listed_headers_are_forwarded() {
    let world = start(|_| {});
    for (path, body) in [
        ("/v1/chat/completions", chat("")),
        ("/v1/responses", response("")),
        ("/v1/streams", response("")),
    ] {
        let request = world
            .post(path, &body)
            .header(
                "TraceParent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            )
            .header("x-other", "no")
            .header("authorization", "Bearer x");
        assert_eq!(request.answer().await.status, 200);
        let record = world.last_request();
        let value = |wanted: &str| {
            record
                .headers
                .iter()
                .find(|(name, _)| name == wanted)
                .map(|(_, value)| value.as_str())
        };
        assert_eq!(
            (value("traceparent"), value("x-other"), record.authorized),
            (
                Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
                None,
                false
            ),
            "{path}"
        );
    }
}

#[tokio::test]
async fn client_key_is_forwarded_where_configured() {
    let upstream = Simulator::start(Options {
        required_key: Some("sk-client".to_owned()),
        pace: Pace::INSTANT,
        ..Options::default()
    })
    .unwrap();
    for (accepted, key, status, code) in [
        (true, Some("sk-client"), 200, None),
        (true, Some("sk-wrong"), 401, Some("invalid_api_key")),
        // Without a client key the gateway's own key is refused, which stays hidden.
        (true, None, 502, Some("upstream_auth")),
        (false, Some("sk-client"), 502, Some("upstream_auth")),
    ] {
        let gateway = crate::support::over(
            &upstream.base_url(),
            tokenwire::config::schema::Api::Chat,
            |config| {
                config.upstreams[0].accept_client_key = accepted;
                config.upstreams[0].api_key =
                    Some(serde_json::from_value(json!("sk-gateway")).unwrap());
            },
        );
        let mut request = gateway.post("/v1/chat/completions", &chat("tokens=1"));
        if let Some(key) = key {
            request = request.header("authorization", &format!("Bearer {key}"));
        }
        let answer = request.answer().await;
        let found = if status == 200 {
            Value::Null
        } else {
            answer.json()["error"]["code"].clone()
        };
        assert_eq!(
            (answer.status, found.as_str()),
            (status, code),
            "{accepted} {key:?}: {}",
            answer.text()
        );
        assert!(!answer.text().contains("sk-"), "{}", answer.text());
    }
}

/// A complete chat stream in one event.
const STREAM: &[u8] = b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

fn stream() -> (&'static str, &'static str, Vec<u8>) {
    ("200 OK", "text/event-stream", STREAM.to_vec())
}

#[tokio::test]
async fn upstream_is_ready_again_after_the_cooldown_without_traffic() {
    let Pair {
        first,
        second,
        gateway,
    } = pair(|config| {
        config.breaker.failures = 1;
        config.breaker.cooldown = Duration::from_secs(1);
    });
    drop((first, second));
    let answer = gateway
        .post("/v1/chat/completions", &chat(""))
        .answer()
        .await;
    assert_eq!(answer.status, 502, "{}", answer.text());
    eventually("the end of the cooldown", async || {
        let (status, ready) = readiness(&gateway).await;
        status == 200 && ready["upstreams"][0]["status"] == "half_open"
    })
    .await;
}

#[tokio::test]
async fn post_on_a_pooled_connection_is_sent_once_per_counted_attempt() {
    for (attempts, posts) in [(0, 1), (2, 3)] {
        let (status, kind, body) = stream();
        let upstream = KeepAlive::start(vec![
            Reply::Body(status, kind, body),
            Reply::CloseAfter(Duration::from_millis(50)),
        ])
        .await;
        let gateway = crate::support::over(
            &upstream.base_url(),
            tokenwire::config::schema::Api::Chat,
            |config| {
                config.server.workers = 1;
                config.retry.attempts = attempts;
                config.retry.backoff = Duration::from_millis(1);
            },
        );
        let ask = async || {
            gateway
                .post("/v1/chat/completions", &chat(""))
                .answer()
                .await
        };
        assert_eq!(ask().await.status, 200);
        let answer = ask().await;
        assert_eq!(
            (answer.status, answer.json()["error"]["code"].as_str()),
            (502, Some("upstream_disconnected")),
            "{}",
            answer.text()
        );
        assert_eq!(upstream.requests(), 1 + posts, "{attempts} retries");
        // The first of them was on the connection of the first request.
        assert_eq!(upstream.connections(), posts, "{attempts} retries");
        let retries = metric(
            &gateway,
            r#"tokenwire_upstream_retries_total{upstream="upstream"}"#,
        );
        assert_eq!(retries.await, f64::from(attempts));
    }
}

#[tokio::test]
async fn connection_that_was_closed_while_idle_is_replaced_without_a_retry() {
    let (status, kind, body) = stream();
    let upstream = KeepAlive::start(vec![Reply::BodyThenClose(status, kind, body)]).await;
    let gateway = crate::support::over(
        &upstream.base_url(),
        tokenwire::config::schema::Api::Chat,
        |config| {
            config.server.workers = 1;
            config.retry.attempts = 0;
        },
    );
    for _ in 0..20 {
        let answer = gateway
            .post("/v1/chat/completions", &chat(""))
            .answer()
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        upstream.closed().await;
    }
    assert_eq!(upstream.requests(), 20);
}

#[tokio::test]
async fn model_list_is_cached_and_shared_by_concurrent_requests() {
    let list = br#"{"object":"list","data":[{"id":"a"},{"id":"a"},{"id":"b","created":7}]}"#;
    let reply = Reply::Body("200 OK", "application/json", list.to_vec());
    let upstream = KeepAlive::start(vec![reply]).await;
    let gateway = crate::support::over(
        &upstream.base_url(),
        tokenwire::config::schema::Api::Chat,
        |_| {},
    );
    let asked = (0..20).map(|_| async { gateway.get("/v1/models").answer().await.json() });
    for models in futures::future::join_all(asked).await {
        let expected = json!([
            {"id": "a", "object": "model", "created": 0, "owned_by": "upstream"},
            {"id": "b", "object": "model", "created": 7, "owned_by": "upstream"},
        ]);
        assert_eq!(models, json!({"object": "list", "data": expected}));
    }
    assert_eq!(upstream.requests(), 1);
}

#[tokio::test]
async fn configured_models_are_listed_where_an_upstream_has_no_list() {
    let large = format!(
        r#"{{"data":[{{"id":"x","padding":"{}"}}]}}"#,
        "x".repeat(8 << 20)
    );
    for (status, body) in [
        ("404 Not Found", "{}".to_owned()),
        ("500 Internal Server Error", String::new()),
        ("101 Switching Protocols", String::new()),
        ("200 OK", "no list".to_owned()),
        ("200 OK", r#"{"data":{}}"#.to_owned()),
        ("200 OK", large),
    ] {
        let shown = format!("{status} {}", &body[..body.len().min(20)]);
        let without =
            KeepAlive::start(vec![Reply::Body(status, "application/json", body.into())]).await;
        let Pair {
            second: _second,
            gateway,
            ..
        } = pair(|config| {
            config.upstreams[0].base_url = without.base_url();
            config.upstreams[1].models = Models::Patterns(vec!["simulator".to_owned()]);
            config.upstreams[0].models =
                Models::Renamed([("fast".to_owned(), Model::from("x-1"))].into());
            config.upstreams.push(Upstream {
                name: "unreachable".to_owned(),
                base_url: "http://127.0.0.1:1/v1".to_owned(),
                models: Models::Patterns(vec!["named".to_owned(), "other-*".to_owned()]),
                ..Upstream::default()
            });
        });
        let answer = gateway.get("/v1/models").answer().await;
        let models = answer.json();
        let names: Vec<&Value> = models["data"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|model| &model["id"])
            .collect();
        assert_eq!(
            (answer.status, names),
            (
                200,
                vec![&json!("simulator"), &json!("fast"), &json!("named")]
            ),
            "{shown}"
        );
        let one = gateway.get("/v1/models/fast").answer().await;
        assert_eq!(
            (one.status, one.json()["owned_by"].as_str()),
            (200, Some("upstream")),
            "{shown}"
        );
    }
}
