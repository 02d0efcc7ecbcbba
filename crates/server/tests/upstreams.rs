//! Several upstreams behind one gateway, as its clients and its operators see them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on says why and ends"
)]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{Gateway, Playback, World, chat, eventually, response, start, with};
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

/// The first gets all requests that it can take: what goes to the second is the gateway's doing.
fn pair(change: impl FnOnce(&mut Config)) -> Pair {
    let (first, second) = (simulator(), simulator());
    let gateway = support::over(
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
async fn a_fault_before_the_first_token_is_hidden_by_another_try() {
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
    // A connection that was idle and is refused is repeated on another at once, and counts as no
    // retry.
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
async fn when_one_upstream_is_gone_the_other_answers_and_readiness_says_so() {
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
async fn an_upstream_that_is_checked_goes_down_and_comes_up_without_a_request() {
    let first = simulator();
    let address = first.base_url();
    let port: u16 = address
        .trim_end_matches("/v1")
        .rsplit(':')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let gateway = support::over(&address, tokenwire::config::schema::Api::Chat, |config| {
        config.upstreams[0].health_check = HealthCheck {
            interval: Duration::from_millis(20),
            timeout: Duration::from_secs(2),
            ..HealthCheck::default()
        };
    });
    drop(first);
    eventually("that it is down", async || {
        readiness(&gateway).await.0 == 503
    })
    .await;
    let _again = Simulator::start(Options {
        address: ([127, 0, 0, 1], port).into(),
        pace: Pace::INSTANT,
        ..Options::default()
    })
    .unwrap();
    eventually("that it is up", async || readiness(&gateway).await.0 == 200).await;
}

#[tokio::test]
async fn a_slow_upstream_is_raced_and_let_go() {
    // What is not steered goes at the simulator's own pace, and the first one's is slow.
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
            support::PATIENCE
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
async fn an_answer_that_was_cut_goes_on_elsewhere_and_says_so() {
    let chunk = |text: &str| json!({"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}]});
    let body: String = ["a ", "b "]
        .map(|text| format!("data: {}\n\n", chunk(text)))
        .concat();
    for path in ["/v1/streams", "/v1/chat/completions", "/v1/responses"] {
        // It ends without a finish reason.
        let cut = Playback::start(
            "200 OK",
            "content-type: text/event-stream\r\n",
            body.clone().into_bytes(),
            usize::MAX,
        )
        .await;
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
        // The SDKs raise on events that they do not know, so they are told by the object alone.
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
async fn a_models_own_clock_overrides_the_upstreams() {
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
async fn beyond_the_queue_there_is_429_and_in_it_heartbeats_flow() {
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
async fn listed_headers_go_up_and_others_do_not() {
    let world = start(|_| {});
    for (path, body) in [
        ("/v1/chat/completions", chat("")),
        ("/v1/responses", response("")),
        ("/v1/streams", response("")),
    ] {
        let request = world
            .post(path, &body)
            .header("TraceParent", "00-1")
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
            (Some("00-1"), None, false),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_clients_own_key_goes_up_where_that_is_allowed() {
    let upstream = Simulator::start(Options {
        required_key: Some("sk-client".to_owned()),
        pace: Pace::INSTANT,
        ..Options::default()
    })
    .unwrap();
    for (accepted, key, status, code) in [
        (true, Some("sk-client"), 200, None),
        (true, Some("sk-wrong"), 401, Some("invalid_api_key")),
        // Without one of the client's it is the gateway's own that is refused, which is nobody
        // else's business.
        (true, None, 502, Some("upstream_auth")),
        (false, Some("sk-client"), 502, Some("upstream_auth")),
    ] {
        let gateway = support::over(
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
