//! Values of `/metrics` after known events. `clients/python/test_metrics.py` checks the format with
//! Prometheus' own parser.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::{FullBacklog, Gateway, World, chat, eventually, over, response, start, with};
use serde_json::json;
use tokenwire::config::models::Models;
use tokenwire::config::schema::{Api, Upstream};

/// Returns the samples by name and labels.
async fn scrape(gateway: &Gateway) -> BTreeMap<String, f64> {
    let answer = gateway.get("/metrics").answer().await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("text/plain; version=0.0.4; charset=utf-8"))
    );
    let text = answer.text();
    let samples = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        });
    samples.collect()
}

/// Returns one sample, or 0.
async fn sample(gateway: &Gateway, name: &str) -> f64 {
    scrape(gateway).await.get(name).copied().unwrap_or_default()
}

/// Waits until a sample has this value: a generation is counted just after its last event is sent.
async fn reaches(gateway: &Gateway, name: &str, value: f64) {
    let mut last = f64::NAN;
    let look = async || {
        last = sample(gateway, name).await;
        last == value
    };
    eventually(&format!("{name} to come to {value}"), look).await;
}

#[tokio::test]
async fn generations_are_counted_by_status_and_code() {
    let world = start(|_| {});
    world
        .post("/v1/chat/completions", &chat("tokens=7"))
        .answer()
        .await;
    world
        .post("/v1/chat/completions", &chat("tokens=3 finish=length"))
        .answer()
        .await;
    world
        .post("/v1/responses", &response("tokens=5 fault=cut after=4"))
        .answer()
        .await;
    world
        .post("/v1/responses", &response("fault=status code=500"))
        .answer()
        .await;
    world
        .post("/v1/responses", &response("fault=error after=2"))
        .answer()
        .await;
    let mut cancelled = world
        .post("/v1/streams", &response("tokens=2 ttft=24h"))
        .send()
        .await;
    let id = cancelled.id().await;
    world
        .post(&format!("/v1/responses/{id}/cancel"), &json!({}))
        .answer()
        .await;
    for (labels, count) in [
        (r#"api="chat",status="completed",code="""#, 1.0),
        (r#"api="chat",status="incomplete",code="""#, 1.0),
        (
            r#"api="responses",status="failed",code="upstream_truncated""#,
            1.0,
        ),
        (r#"api="responses",status="failed",code="other""#, 2.0),
        (r#"api="responses",status="cancelled",code="""#, 1.0),
    ] {
        reaches(
            &world,
            &format!("tokenwire_generations_ended_total{{{labels}}}"),
            count,
        )
        .await;
    }
    let samples = scrape(&world).await;
    assert_eq!(
        samples[r#"tokenwire_generations_started_total{api="chat"}"#],
        2.0
    );
    assert_eq!(
        samples[r#"tokenwire_generations_started_total{api="responses"}"#],
        4.0
    );
    let tokens = samples[r#"tokenwire_tokens_total{upstream="upstream"}"#];
    assert_eq!(tokens, 7.0 + 3.0 + 4.0 + 2.0);
    assert!(samples["tokenwire_events_total"] > tokens);
    assert_eq!(
        samples[r#"tokenwire_first_token_seconds_count{upstream="upstream"}"#],
        4.0
    );
    assert_eq!(
        samples[r#"tokenwire_first_token_seconds_bucket{le="+Inf",upstream="upstream"}"#],
        4.0
    );
    assert_eq!(samples["tokenwire_open_streams"], 0.0);
    assert_eq!(samples["tokenwire_kept_streams"], 6.0);
}

#[tokio::test]
async fn gauges_count_open_streams_and_connections() {
    let world = start(|config| config.streams.disconnect_grace = Duration::ZERO);
    let body = response("tokens=100000 tbt=5ms");
    let mut sdk = world.post("/v1/responses", &body).send().await;
    sdk.until("delta").await;
    let mut text = world
        .post("/v1/streams", &body)
        .header("accept", "text/plain")
        .send()
        .await;
    text.until(" ").await;
    let mut first = world.socket().await;
    first
        .create("tokens=100000 tbt=5ms", json!({"stream_id": "a"}))
        .await;
    first
        .create("tokens=100000 tbt=5ms", json!({"stream_id": "b"}))
        .await;
    first
        .until(|event| event["stream_id"] == "b" && event["delta"].is_string())
        .await;
    let _idle = world.socket().await;
    let samples = scrape(&world).await;
    let names = [
        "tokenwire_open_streams",
        r#"tokenwire_readers{transport="sse"}"#,
        r#"tokenwire_readers{transport="text"}"#,
        r#"tokenwire_readers{transport="websocket"}"#,
        "tokenwire_websockets",
        // Includes the connection of the scrape.
        "tokenwire_connections",
    ];
    assert_eq!(
        names.map(|name| samples[name]),
        [4.0, 1.0, 1.0, 2.0, 2.0, 5.0]
    );
    assert!(samples["tokenwire_log_bytes"] > 0.0);
    assert!(samples["tokenwire_memory_bytes{kind=\"logs\"}"] > 0.0);
    assert!(samples["tokenwire_memory_bytes{kind=\"objects\"}"] > 0.0);
    assert_eq!(samples["tokenwire_memory_bytes{kind=\"bodies\"}"], 0.0);
    drop((sdk, text, first));
    for (name, value) in names.into_iter().zip([0.0, 0.0, 0.0, 0.0, 1.0, 2.0]) {
        reaches(&world, name, value).await;
    }
    reaches(
        &world,
        r#"tokenwire_generations_ended_total{api="responses",status="cancelled",code=""}"#,
        4.0,
    )
    .await;
}

#[tokio::test]
async fn timeouts_are_counted_by_upstream_model_and_clock() {
    let backlog = FullBacklog::new();
    let world = start(|config| {
        config.upstreams[0].models = Models::Patterns(vec![
            "simulator".to_owned(),
            "named".to_owned(),
            "any-*".to_owned(),
        ]);
        let unreachable = Upstream {
            name: "far".to_owned(),
            base_url: backlog.base_url(),
            models: Models::Patterns(vec!["far-*".to_owned()]),
            ..Upstream::default()
        };
        config.upstreams.push(unreachable);
        config.retry.attempts = 0;
        // Far apart, so that a pause of a busy machine is not taken for another timeout.
        config.timeouts.connect = Duration::from_millis(500);
        config.timeouts.first_token = Duration::from_secs(1);
        config.timeouts.between_tokens = Duration::from_secs(1);
        config.timeouts.total = Duration::from_secs(3);
    });
    for (model, steering) in [
        ("far-1", ""),
        ("named", "ttft=24h"),
        ("any-1", "ttft=24h"),
        ("any-2", "ttft=24h"),
        ("simulator", "tokens=3 fault=stall after=2"),
        ("simulator", "tokens=100000 tbt=10ms"),
    ] {
        world
            .post(
                "/v1/streams",
                &with(response(steering), json!({"model": model})),
            )
            .answer()
            .await;
    }
    for (upstream, model, clock, count) in [
        ("far", "other", "connect", 1.0),
        ("upstream", "named", "first_token", 1.0),
        ("upstream", "other", "first_token", 2.0),
        ("upstream", "simulator", "between_tokens", 1.0),
        ("upstream", "simulator", "total", 1.0),
    ] {
        let name = format!(
            r#"tokenwire_upstream_timeouts_total{{upstream="{upstream}",model="{model}",clock="{clock}"}}"#
        );
        reaches(&world, &name, count).await;
    }
}

#[tokio::test]
async fn shared_answers_are_counted_by_result() {
    let world = start(|config| config.reuse.cache = true);
    let kept = with(chat("tokens=4"), json!({"seed": 1}));
    for body in [&kept, &kept, &kept, &chat("tokens=4")] {
        world.post("/v1/chat/completions", body).answer().await;
    }
    reaches(
        &world,
        r#"tokenwire_tokens_total{upstream="upstream"}"#,
        8.0,
    )
    .await;
    reaches(&world, r#"tokenwire_tokens_total{upstream="shared"}"#, 8.0).await;
    let samples = scrape(&world).await;
    for (result, count) in [("hit", 2.0), ("miss", 1.0), ("bypass", 1.0)] {
        assert_eq!(
            samples[&format!(r#"tokenwire_reuse_total{{result="{result}"}}"#)],
            count
        );
    }
    assert_eq!(
        samples[r#"tokenwire_first_token_seconds_count{upstream="upstream"}"#], 2.0,
        "the upstream was requested twice"
    );
}

#[tokio::test]
async fn labels_hold_no_client_or_upstream_input() {
    const SECRET: &str = "crimson-walrus";
    let world = start(|_| {});
    let ask = async |world: &World, body| {
        world
            .post("/v1/streams", &body)
            .header("idempotency-key", SECRET)
            .answer()
            .await
    };
    ask(
        &world,
        with(
            response("tokens=2"),
            json!({"model": SECRET, "user": SECRET, "instructions": SECRET}),
        ),
    )
    .await;
    for number in 0..50 {
        let body = with(
            response("fault=status code=418"),
            json!({"model": format!("{SECRET}-{number}")}),
        );
        world.post("/v1/streams", &body).answer().await;
    }
    world.get(&format!("/{SECRET}")).answer().await;
    // The upstream chooses its error codes.
    let body =
        format!("data: {{\"error\":{{\"code\":\"{SECRET}\",\"message\":\"{SECRET}\"}}}}\n\n");
    let odd = crate::support::Playback::events(body.into_bytes(), 4096).await;
    let other = over(&odd.base_url(), Api::Chat, |_| {});
    other
        .post("/v1/streams", &json!({"input": SECRET}))
        .answer()
        .await;
    reaches(
        &world,
        r#"tokenwire_generations_ended_total{api="responses",status="failed",code="other"}"#,
        50.0,
    )
    .await;
    reaches(
        &other,
        r#"tokenwire_generations_ended_total{api="responses",status="failed",code="other"}"#,
        1.0,
    )
    .await;
    for gateway in [&*world, &other] {
        let text = gateway.get("/metrics").answer().await.text();
        assert!(!text.contains("walrus"), "{text}");
        assert!(text.lines().count() < 260, "{text}");
    }
}

#[tokio::test]
async fn process_metrics_are_exposed_in_the_requested_format() {
    let world = start(|_| {});
    let samples = scrape(&world).await;
    for name in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
    ] {
        assert!(samples[name] > 0.0, "{name}");
    }
    assert!(samples["process_open_fds"] < samples["process_max_fds"]);
    let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
    let answer = world
        .get("/metrics")
        .header("accept", accept)
        .answer()
        .await;
    assert_eq!(
        answer.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    assert!(answer.text().ends_with("# EOF\n"));
}

#[tokio::test]
async fn times_between_tokens_and_reported_tokens_are_counted_at_the_end() {
    let world = start(|_| {});
    let asked = chat("tokens=5 tbt=60ms usage=true");
    let body = with(asked, json!({"stream_options": {"include_usage": true}}));
    let answer = world.post("/v1/chat/completions", &body).answer().await;
    assert_eq!(answer.status, 200);
    let count = "tokenwire_between_tokens_seconds_count{upstream=\"upstream\"}";
    reaches(&world, count, 4.0).await;
    let samples = scrape(&world).await;
    let upto = |bound: &str| {
        let found = samples.iter().find(|(name, _)| {
            name.starts_with("tokenwire_between_tokens_seconds_bucket{")
                && name.contains(&format!("le=\"{bound}\""))
        });
        *found.unwrap().1
    };
    assert_eq!((upto("0.025"), upto("60.0"), upto("+Inf")), (0.0, 4.0, 4.0));
    let sum = samples["tokenwire_between_tokens_seconds_sum{upstream=\"upstream\"}"];
    assert!(sum > 0.2, "{sum}");
    let reported = |kind| {
        samples
            [&format!("tokenwire_reported_tokens_total{{upstream=\"upstream\",kind=\"{kind}\"}}")]
    };
    assert_eq!(reported("output"), 5.0);
    assert!(reported("input") > 0.0);
}

#[tokio::test]
async fn readers_that_come_back_are_counted_by_what_they_got() {
    let world = start(|_| {});
    let started = world.post("/v1/responses", &response("tokens=3"));
    let id = started.answer().await.id().to_owned();
    world.idle().await;
    for query in ["", "?after=2", "?after=2", "?after=9999"] {
        let path = format!("/v1/streams/{id}{query}");
        world.get(&path).answer().await;
    }
    let object = format!("/v1/responses/{id}?stream=true&starting_after=9999");
    assert_eq!(world.get(&object).answer().await.status, 400);
    let samples = scrape(&world).await;
    assert_eq!(samples["tokenwire_replays_total"], 1.0);
    for (result, count) in [
        ("read", 2.0),
        ("reset", 1.0),
        ("refused", 1.0),
        ("lost", 0.0),
    ] {
        let name = format!("tokenwire_resumes_total{{result=\"{result}\"}}");
        assert_eq!(samples[&name], count, "{name}");
    }
}

#[tokio::test]
async fn store_lag_is_zero_once_everything_is_stored() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().display().to_string();
    let world = start(|config| {
        config.store.kind = tokenwire::config::schema::StoreKind::Disk;
        config.store.path = Some(path);
    });
    let started = world.post("/v1/responses", &response("tokens=3"));
    assert_eq!(started.answer().await.status, 200);
    reaches(&world, "tokenwire_store_kept_streams", 1.0).await;
    reaches(&world, "tokenwire_store_waiting_streams", 0.0).await;
    assert_eq!(sample(&world, "tokenwire_store_lag_seconds").await, 0.0);
}
