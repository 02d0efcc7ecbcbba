//! Several endpoints: choice, retries, failover, hedging, continuation and concurrency limits.
//!
//! The clock is tokio's paused one. The test scripts what each endpoint does.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokenwire_core::engine::{ReuseOptions, StartRequest, Started};
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::snapshot::Api;
use tokenwire_core::request::ChatSettings;
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_core::upstream::{
    BreakerPolicy, ConcurrencyPolicy, Continuation, EndpointStats, HealthStatus, Hedge,
    ModelBinding, OpenError, Refusal, RetryBudget, RetryPolicy, Route, Router, RouterOptions,
    Target, Timeouts, UpstreamHead,
};
use tokenwire_testkit::{
    Audit, Call, EngineOptions, OpeningPlan, ScriptedUpstream, TestEngine, no_timeouts, settle,
};
use tokio::time::Instant;

const CHAT: &str = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
const RETRY: RetryPolicy = RetryPolicy {
    attempts: 2,
    backoff: Duration::from_millis(250),
    max_wait: Duration::from_secs(5),
    budget_percent: 20,
};

/// Endpoints of one model, and an engine that uses them.
struct World {
    endpoints: Vec<ScriptedUpstream>,
    stats: Vec<Arc<EndpointStats>>,
    test: TestEngine,
}

struct Plan {
    endpoints: usize,
    retry: RetryPolicy,
    hedge: Hedge,
    timeouts: Timeouts,
    limit: ConcurrencyPolicy,
    budget: u32,
    weights: Vec<u32>,
    localities: Vec<u32>,
    continuation: Continuation,
    coalesce: bool,
    api: Api,
    /// The endpoint that goes on with its answers without a connection.
    held: Option<usize>,
}

impl Plan {
    fn of(endpoints: usize) -> Self {
        Self {
            endpoints,
            retry: RETRY,
            hedge: Hedge::Never,
            timeouts: no_timeouts(),
            limit: ConcurrencyPolicy::default(),
            budget: 20,
            weights: vec![1; endpoints],
            localities: vec![0; endpoints],
            continuation: Continuation::None,
            coalesce: false,
            api: Api::Chat,
            held: None,
        }
    }

    /// Endpoints that hold every request until the test answers it.
    fn build(self) -> World {
        let target = Target {
            model: "m".to_owned(),
            upstream_model: None,
            api: self.api,
            timeouts: self.timeouts,
            endpoint: 0,
            queued: false,
            reservation: Default::default(),
        };
        let endpoints: Vec<_> = (0..self.endpoints)
            .map(|_| ScriptedUpstream::new(target.clone()))
            .collect();
        let timeouts = self.timeouts;
        let routes: Vec<Route> = endpoints
            .iter()
            .enumerate()
            .map(|(index, endpoint)| {
                endpoint.plan(OpeningPlan::Hold);
                let models = Arc::new(move |model: &str| {
                    (model == "m").then(|| ModelBinding {
                        name: format!("m{index}"),
                        timeouts,
                    })
                });
                let stats = EndpointStats::new(
                    BreakerPolicy {
                        failures: 3,
                        cooldown: seconds(10),
                        ..BreakerPolicy::default()
                    },
                    self.limit,
                );
                let (weight, locality) = (self.weights[index], self.localities[index]);
                Route {
                    endpoint: Arc::new(endpoint.clone()),
                    api: self.api,
                    models,
                    weight,
                    locality,
                    chat: ChatSettings::default(),
                    continuation: self.continuation,
                    reattach: (self.held == Some(index)).then_some(seconds(300)),
                    stats,
                }
            })
            .collect();
        let stats = routes.iter().map(|route| route.stats.clone()).collect();
        let budget = Arc::new(RetryBudget::new(self.budget));
        let router = Router::new(
            routes,
            RouterOptions {
                default_model: None,
                retry: self.retry,
                budget,
                hedge: self.hedge,
                ..RouterOptions::default()
            },
        );
        let defaults = EngineOptions::default();
        let reuse = ReuseOptions {
            coalesce: self.coalesce,
            ..defaults.reuse
        };
        let test = TestEngine::over(
            EngineOptions { reuse, ..defaults },
            Arc::new(router),
            endpoints[0].clone(),
        );
        World {
            endpoints,
            stats,
            test,
        }
    }
}

impl World {
    /// Waits for the next request. Returns it with the index of its endpoint.
    async fn call(&self) -> (usize, Call) {
        let calls = self
            .endpoints
            .iter()
            .enumerate()
            .map(|(index, endpoint)| Box::pin(async move { (index, endpoint.call().await) }));
        futures::future::select_all(calls).await.0
    }

    /// Returns the number of requests that the test has not taken yet.
    fn waiting(&self) -> usize {
        self.endpoints.iter().map(ScriptedUpstream::waiting).sum()
    }

    /// Starts a request and answers it after this time. Returns the index of its endpoint.
    async fn answer(&self, after: Duration) -> usize {
        let started = self.test.start(CHAT);
        let (endpoint, call) = self.call().await;
        tokio::time::sleep(after).await;
        complete(&call, "x");
        ended(&started, "completed", None).await;
        endpoint
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn complete(call: &Call, text: &str) {
    call.answer(UpstreamHead::default());
    call.token(text).finish("stop").done().end(BodyEnd::Clean);
}

async fn ended(started: &Started, status: &str, code: Option<&str>) -> Value {
    let generation = started.guard.generation();
    generation.ended().await;
    let object = Audit::of(generation).object;
    assert_eq!(
        (object["status"].as_str(), object["error"]["code"].as_str()),
        (Some(status), code),
        "{object}"
    );
    object
}

fn text(object: &Value) -> &str {
    object["output"][0]["content"][0]["text"]
        .as_str()
        .unwrap_or_default()
}

fn refusal(status: u16, headers: &[(&str, &str)]) -> OpenError {
    let headers = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    OpenError::Refused(Refusal {
        status,
        content_type: None,
        body: bytes::Bytes::new(),
        headers,
        should_retry: None,
    })
}

fn unreachable() -> OpenError {
    OpenError::Failed(ApiError::new(ErrorCode::UpstreamUnreachable, "x"))
}

#[tokio::test(start_paused = true)]
async fn failure_before_the_first_chunk_is_retried_and_leaves_no_trace() {
    // Every way to fail before the first chunk.
    type Fail = fn(&Call);
    let ways: [(&str, Fail); 7] = [
        ("unreachable", |call| call.refuse(unreachable())),
        ("503", |call| call.refuse(refusal(503, &[]))),
        ("ends at once", |call| {
            call.answer(UpstreamHead::default());
            call.end(BodyEnd::Clean);
        }),
        ("breaks at once", |call| {
            call.answer(UpstreamHead::default());
            call.end(BodyEnd::Broken);
        }),
        ("an error for a first event", |call| {
            call.answer(UpstreamHead::default());
            call.data(r#"{"error":{"message":"busy","type":"server_error","code":"overloaded"}}"#);
        }),
        ("broken JSON", |call| {
            call.answer(UpstreamHead::default());
            call.data("{");
        }),
        ("an error as a document", |call| {
            call.answer(UpstreamHead::default());
            call.document(
                r#"{"error":{"message":"busy","type":"server_error","code":"overloaded"}}"#,
            )
            .end(BodyEnd::Clean);
        }),
    ];
    for (what, fail) in ways {
        let world = Plan::of(1).build();
        let started = world.test.start(CHAT);
        for _ in 0..RETRY.attempts {
            let (_, call) = world.call().await;
            fail(&call);
            call.gone().await;
        }
        complete(&world.call().await.1, "whole");
        let object = ended(&started, "completed", None).await;
        assert_eq!(text(&object), "whole", "{what}");
        assert_eq!(world.waiting(), 0, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn last_failure_reaches_the_client_when_attempts_are_spent() {
    let world = Plan::of(1).build();
    let started = world.test.start(CHAT);
    for _ in 0..=RETRY.attempts {
        world.call().await.1.refuse(refusal(500, &[]));
    }
    ended(&started, "failed", Some("upstream_status_500")).await;
    settle().await;
    assert_eq!(world.waiting(), 0);
    assert!(
        matches!(started.guard.generation().response_head().now(), Some(Err(OpenError::Refused(refusal))) if refusal.status == 500)
    );
}

#[tokio::test(start_paused = true)]
async fn failure_after_the_first_chunk_is_not_retried() {
    let world = Plan::of(2).build();
    let started = world.test.start(CHAT);
    let (_, call) = world.call().await;
    call.answer(UpstreamHead::default());
    call.token("half").end(BodyEnd::Broken);
    let object = ended(&started, "failed", Some("upstream_truncated")).await;
    assert_eq!(text(&object), "half");
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(world.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn break_after_a_kept_chunk_without_a_token_counts_as_a_failure() {
    // The role chunk is kept, so no retry is possible. No token was received, so the endpoint is at
    // fault.
    let beginning = r#"{"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#;
    let world = Plan::of(1).build();
    for _ in 0..3 {
        let started = world.test.start(CHAT);
        let (_, call) = world.call().await;
        call.answer(UpstreamHead::default());
        call.data(beginning);
        settle().await;
        call.end(BodyEnd::Broken);
        ended(&started, "failed", Some("upstream_truncated")).await;
    }
    settle().await;
    assert_eq!(
        (
            world.stats[0].counters.broken.get(),
            world.stats[0].health()
        ),
        (3, HealthStatus::Down)
    );
}

#[tokio::test(start_paused = true)]
async fn refusal_of_the_request_is_not_retried() {
    let world = Plan::of(2).build();
    let started = world.test.start(CHAT);
    world.call().await.1.refuse(refusal(400, &[]));
    ended(&started, "failed", Some("upstream_status_400")).await;
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(world.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn short_retry_after_is_honoured_up_to_max_wait() {
    let world = Plan::of(1).build();
    let started = world.test.start(CHAT);
    world
        .call()
        .await
        .1
        .refuse(refusal(429, &[("retry-after", "3")]));
    let asked = Instant::now();
    let (_, call) = world.call().await;
    assert!(
        asked.elapsed() >= seconds(3) && asked.elapsed() <= seconds(4),
        "{:?}",
        asked.elapsed()
    );
    call.refuse(refusal(429, &[("retry-after", "3")]));
    ended(&started, "failed", Some("rate_limit_exceeded")).await;
}

#[tokio::test(start_paused = true)]
async fn failover_is_immediate_and_uses_the_endpoints_model_name() {
    let world = Plan::of(2).build();
    let started = world.test.start(CHAT);
    let (first, call) = world.call().await;
    assert_eq!(call.body()["model"], format!("m{first}"));
    let asked = Instant::now();
    call.refuse(refusal(429, &[("retry-after", "60")]));
    let (second, call) = world.call().await;
    assert_eq!((second, asked.elapsed()), (1 - first, Duration::ZERO));
    assert_eq!(call.body()["model"], format!("m{second}"));
    assert_eq!(call.body()["messages"][0]["content"], "hi");
    complete(&call, "there");
    assert_eq!(text(&ended(&started, "completed", None).await), "there");
    // The endpoint that asked for a pause gets no requests while there is another.
    for _ in 0..10 {
        assert_eq!(world.answer(Duration::ZERO).await, second);
    }
}

#[tokio::test(start_paused = true)]
async fn refused_gateway_key_is_retried_at_another_endpoint_only() {
    let auth = || OpenError::Failed(ApiError::new(ErrorCode::UpstreamAuth, "x"));
    let world = Plan::of(2).build();
    let started = world.test.start(CHAT);
    let (first, call) = world.call().await;
    call.refuse(auth());
    let (second, call) = world.call().await;
    assert_ne!(first, second);
    call.refuse(auth());
    ended(&started, "failed", Some("upstream_auth")).await;
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(world.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn retry_budget_limits_retries_in_an_outage() {
    let world = Plan {
        budget: 0,
        ..Plan::of(1)
    }
    .build();
    let started: Vec<Started> = (0..200).map(|_| world.test.start(CHAT)).collect();
    let all = futures::future::join_all(
        started
            .iter()
            .map(|started| started.guard.generation().ended()),
    );
    tokio::pin!(all);
    let mut asked = 0;
    loop {
        tokio::select! {
            (_, call) = world.call() => {
                asked += 1;
                call.refuse(refusal(503, &[]));
            }
            _ = &mut all => break,
        }
    }
    // 200 requests, 100 retries of the full budget, and ten for each second of waiting; not 600.
    assert!((300..320).contains(&asked), "{asked}");
    assert!(world.stats[0].counters.budget_spent.get() > 0);
}

#[tokio::test(start_paused = true)]
async fn cancel_ends_the_wait_before_a_retry() {
    let world = Plan::of(1).build();
    let started = world.test.start(CHAT);
    world
        .call()
        .await
        .1
        .refuse(refusal(429, &[("retry-after", "4")]));
    settle().await;
    started.guard.generation().cancel();
    ended(&started, "cancelled", None).await;
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(world.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn first_token_timeout_spans_all_attempts() {
    let world = Plan {
        timeouts: Timeouts {
            first_token: seconds(4),
            ..no_timeouts()
        },
        ..Plan::of(1)
    }
    .build();
    let started = world.test.start(CHAT);
    let begun = Instant::now();
    world
        .call()
        .await
        .1
        .refuse(refusal(429, &[("retry-after", "3")]));
    let (_, call) = world.call().await;
    ended(&started, "failed", Some("first_token_timeout")).await;
    assert_eq!(begun.elapsed(), seconds(4));
    call.gone().await;
}

#[tokio::test(start_paused = true)]
async fn breaker_opens_after_failures_and_closes_after_a_good_trial() {
    let world = Plan {
        retry: RetryPolicy::default(),
        weights: vec![1_000_000, 1],
        ..Plan::of(2)
    }
    .build();
    for _ in 0..3 {
        let started = world.test.start(CHAT);
        let (endpoint, call) = world.call().await;
        assert_eq!(endpoint, 0);
        call.refuse(unreachable());
        ended(&started, "failed", Some("upstream_unreachable")).await;
    }
    assert_eq!(world.stats[0].health(), HealthStatus::Down);
    for _ in 0..5 {
        assert_eq!(world.answer(Duration::ZERO).await, 1);
    }
    tokio::time::sleep(seconds(10)).await;
    // One trial request is admitted; the others go to the other endpoint.
    let trial = world.test.start(CHAT);
    let (endpoint, call) = world.call().await;
    assert_eq!(
        (endpoint, world.stats[0].health()),
        (0, HealthStatus::HalfOpen)
    );
    assert_eq!(world.answer(Duration::ZERO).await, 1);
    complete(&call, "back");
    ended(&trial, "completed", None).await;
    assert_eq!(
        (world.stats[0].health(), world.answer(Duration::ZERO).await),
        (HealthStatus::Up, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn endpoint_is_half_open_after_the_cooldown_without_traffic() {
    let world = down(Plan::of(1)).await;
    tokio::time::sleep(seconds(10)).await;
    assert_eq!(world.stats[0].health(), HealthStatus::HalfOpen);
}

#[tokio::test(start_paused = true)]
async fn good_health_check_closes_the_breaker() {
    let world = down(Plan::of(1)).await;
    world.stats[0].set_healthy(false);
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(world.stats[0].health(), HealthStatus::Down);
    world.stats[0].set_healthy(true);
    assert_eq!(world.stats[0].health(), HealthStatus::Up);
    let world = down(Plan::of(1)).await;
    world.stats[0].set_healthy(true);
    assert_eq!(world.stats[0].health(), HealthStatus::Up);
}

#[tokio::test(start_paused = true)]
async fn last_resort_requests_do_not_lengthen_the_cooldown() {
    let world = down(Plan::of(1)).await;
    for _ in 0..30 {
        let started = world.test.start(CHAT);
        world.call().await.1.refuse(unreachable());
        ended(&started, "failed", Some("upstream_unreachable")).await;
    }
    assert_eq!(world.stats[0].counters.opened.get(), 1);
    tokio::time::sleep(seconds(10)).await;
    assert_eq!(world.stats[0].health(), HealthStatus::HalfOpen);
}

#[tokio::test(start_paused = true)]
async fn simultaneous_requests_to_a_half_open_endpoint_are_one_trial() {
    let world = down(Plan {
        weights: vec![1_000_000, 1],
        ..Plan::of(2)
    })
    .await;
    tokio::time::sleep(seconds(10)).await;
    let started: Vec<Started> = (0..20).map(|_| world.test.start(CHAT)).collect();
    let mut trials = 0;
    for _ in 0..20 {
        let (endpoint, call) = world.call().await;
        if endpoint == 0 {
            trials += 1;
            call.refuse(refusal(400, &[]));
        } else {
            complete(&call, "x");
        }
    }
    assert_eq!(trials, 1);
    for started in started {
        started.guard.generation().ended().await;
    }
}

#[tokio::test(start_paused = true)]
async fn simultaneous_failures_double_the_cooldown_once() {
    let world = down(Plan::of(1)).await;
    tokio::time::sleep(seconds(10)).await;
    let started: Vec<Started> = (0..20).map(|_| world.test.start(CHAT)).collect();
    for _ in 0..20 {
        world.call().await.1.refuse(unreachable());
    }
    for started in started {
        ended(&started, "failed", Some("upstream_unreachable")).await;
    }
    assert_eq!(world.stats[0].counters.opened.get(), 2);
    tokio::time::sleep(seconds(20)).await;
    assert_eq!(world.stats[0].health(), HealthStatus::HalfOpen);
}

#[tokio::test(start_paused = true)]
async fn cancelled_trial_leaves_the_next_request_to_be_the_trial() {
    let world = down(Plan {
        weights: vec![1_000_000, 1],
        ..Plan::of(2)
    })
    .await;
    tokio::time::sleep(seconds(10)).await;
    for _ in 0..3 {
        let started = world.test.start(CHAT);
        let (endpoint, call) = world.call().await;
        assert_eq!(endpoint, 0);
        started.guard.generation().cancel();
        call.gone().await;
    }
}

#[tokio::test(start_paused = true)]
async fn missing_file_descriptors_are_no_failure_of_the_endpoint() {
    let world = Plan::of(1).build();
    for _ in 0..10 {
        let started = world.test.start(CHAT);
        let error = ApiError::new(ErrorCode::OutOfDescriptors, "x");
        world.call().await.1.refuse(OpenError::Failed(error));
        ended(&started, "failed", Some("out_of_descriptors")).await;
    }
    let stats = &world.stats[0];
    assert_eq!(
        (stats.health(), stats.counters.connect_failures.get()),
        (HealthStatus::Up, 0)
    );
    // It does not close an open breaker either.
    let world = down(Plan::of(1)).await;
    let started = world.test.start(CHAT);
    let error = ApiError::new(ErrorCode::OutOfDescriptors, "x");
    world.call().await.1.refuse(OpenError::Failed(error));
    ended(&started, "failed", Some("out_of_descriptors")).await;
    assert_eq!(world.stats[0].health(), HealthStatus::Down);
}

#[tokio::test(start_paused = true)]
async fn retry_after_of_any_size_is_capped_and_does_not_panic() {
    for after in [
        "86400",
        "18446744073709551614",
        "18446744073709551615",
        "99999999999999999999",
        "-1",
        "soon",
        "Fri, 31 Dec 9999 23:59:59 GMT",
    ] {
        let world = Plan::of(2).build();
        let started = world.test.start(CHAT);
        let (first, call) = world.call().await;
        call.refuse(refusal(429, &[("retry-after", after)]));
        let (second, call) = world.call().await;
        complete(&call, "x");
        ended(&started, "completed", None).await;
        assert_ne!(first, second, "{after}");
        // Both are paused then, so a long pause goes to the client.
        let started = world.test.start(CHAT);
        let (_, call) = world.call().await;
        call.refuse(refusal(429, &[("retry-after", after)]));
        if matches!(after, "-1" | "soon") {
            complete(&world.call().await.1, "x");
            ended(&started, "completed", None).await;
        } else {
            ended(&started, "failed", Some("rate_limit_exceeded")).await;
        }
        tokio::time::sleep(seconds(61)).await;
        assert_eq!(world.stats[first].health(), HealthStatus::Up, "{after}");
        let mut asked = [0; 2];
        for _ in 0..40 {
            asked[world.answer(Duration::ZERO).await] += 1;
        }
        assert!(asked[0] > 0 && asked[1] > 0, "{after}: {asked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_of_a_client_key_holds_for_that_key_only() {
    let world = Plan {
        weights: vec![1_000_000, 1],
        retry: RetryPolicy::default(),
        ..Plan::of(2)
    }
    .build();
    world.endpoints[0].accept_client_keys();
    let start = |key: Option<&str>| {
        let request = StartRequest {
            client_key: key.map(Into::into),
            ..TestEngine::request(CHAT)
        };
        world.test.start_request(request).unwrap()
    };
    let asked = async |key: Option<&str>| {
        let started = start(key);
        let (endpoint, call) = world.call().await;
        complete(&call, "x");
        ended(&started, "completed", None).await;
        endpoint
    };
    for (limited, others) in [
        (Some("sk-a"), [Some("sk-b"), None]),
        (None, [Some("sk-b"), Some("sk-c")]),
    ] {
        let started = start(limited);
        let (endpoint, call) = world.call().await;
        assert_eq!(endpoint, 0);
        call.refuse(refusal(429, &[("retry-after", "30")]));
        ended(&started, "failed", Some("rate_limit_exceeded")).await;
        assert_eq!(asked(limited).await, 1, "{limited:?}");
        for other in others {
            assert_eq!(asked(other).await, 0, "{limited:?} {other:?}");
        }
        tokio::time::sleep(seconds(30)).await;
        assert_eq!(asked(limited).await, 0, "{limited:?}");
    }
}

/// Builds endpoints of which the first has just failed three times in a row.
async fn down(plan: Plan) -> World {
    let world = Plan {
        retry: RetryPolicy::default(),
        ..plan
    }
    .build();
    for _ in 0..3 {
        let started = world.test.start(CHAT);
        let (endpoint, call) = world.call().await;
        assert_eq!(endpoint, 0);
        call.refuse(unreachable());
        ended(&started, "failed", Some("upstream_unreachable")).await;
    }
    assert_eq!(world.stats[0].health(), HealthStatus::Down);
    world
}

#[tokio::test(start_paused = true)]
async fn only_endpoint_is_asked_even_while_down() {
    let world = Plan {
        retry: RetryPolicy::default(),
        ..Plan::of(1)
    }
    .build();
    for _ in 0..10 {
        let started = world.test.start(CHAT);
        world.call().await.1.refuse(unreachable());
        ended(&started, "failed", Some("upstream_unreachable")).await;
    }
    assert_eq!(world.stats[0].health(), HealthStatus::Down);
    assert_eq!(world.answer(Duration::ZERO).await, 0);
    assert_eq!(world.stats[0].health(), HealthStatus::Up);
}

#[tokio::test(start_paused = true)]
async fn first_token_timeout_counts_as_a_failure_and_a_cancel_does_not() {
    let world = Plan {
        timeouts: Timeouts {
            first_token: seconds(5),
            ..no_timeouts()
        },
        ..Plan::of(1)
    }
    .build();
    for with_head in [false, true, false] {
        let started = world.test.start(CHAT);
        let (_, call) = world.call().await;
        if with_head {
            call.answer(UpstreamHead::default());
        }
        ended(&started, "failed", Some("first_token_timeout")).await;
    }
    assert_eq!(
        (
            world.stats[0].health(),
            world.stats[0].counters.silences.get()
        ),
        (HealthStatus::Down, 3)
    );

    let world = Plan {
        timeouts: Timeouts {
            first_token: seconds(5),
            ..no_timeouts()
        },
        ..Plan::of(1)
    }
    .build();
    for _ in 0..10 {
        let started = world.test.start(CHAT);
        let (_, call) = world.call().await;
        started.guard.generation().cancel();
        call.gone().await;
    }
    assert_eq!(
        (
            world.stats[0].health(),
            world.stats[0].counters.silences.get()
        ),
        (HealthStatus::Up, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn faster_endpoint_is_preferred_and_the_slower_is_explored() {
    let world = Plan::of(2).build();
    let counts = sequential(&world, [300, 100]).await;
    // A twentieth explores, within five standard deviations, and the first request is random.
    assert!((3..45).contains(&counts[0]), "{counts:?}");
    // When the fastest slows down, the next takes over.
    let counts = sequential(&world, [300, 5000]).await;
    assert!(counts[0] > 340, "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn of_three_endpoints_the_fastest_of_two_drawn_is_asked() {
    let world = Plan::of(3).build();
    let counts = sequential(&world, [300, 100, 900]).await;
    // Two thirds of the pairs hold the fastest, and one third of them holds only the others.
    assert!((200..330).contains(&counts[1]), "{counts:?}");
    assert!((60..180).contains(&counts[0]), "{counts:?}");
    assert!((3..60).contains(&counts[2]), "{counts:?}");
}

/// Answers 400 requests, one after the other, each after the time of its endpoint in milliseconds.
/// Returns how many each endpoint got.
async fn sequential<const N: usize>(world: &World, times: [u64; N]) -> [usize; N] {
    let mut counts = [0; N];
    for _ in 0..400 {
        let started = world.test.start(CHAT);
        let (endpoint, call) = world.call().await;
        tokio::time::sleep(Duration::from_millis(times[endpoint])).await;
        complete(&call, "x");
        ended(&started, "completed", None).await;
        counts[endpoint] += 1;
    }
    counts
}

#[tokio::test(start_paused = true)]
async fn hanging_endpoint_gets_a_small_share_of_concurrent_requests() {
    for known in [false, true] {
        let world = Plan::of(2).build();
        if known {
            // Both were fast before one of them hung.
            sequential(&world, [50, 50]).await;
        }
        let (mut running, mut counts) = (Vec::new(), [0; 2]);
        for _ in 0..200 {
            running.push(world.test.start(CHAT));
            let (endpoint, call) = world.call().await;
            counts[endpoint] += 1;
            if endpoint == 1 {
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    complete(&call, "x");
                });
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(
            (1..20).contains(&counts[0]),
            "known before: {known}, {counts:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn simultaneous_requests_spread_over_the_endpoints() {
    let world = Plan::of(4).build();
    let _started: Vec<Started> = (0..200).map(|_| world.test.start(CHAT)).collect();
    let mut counts = [0; 4];
    for _ in 0..200 {
        counts[world.call().await.0] += 1;
    }
    assert!(
        counts.iter().all(|count| (40..=60).contains(count)),
        "{counts:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn endpoint_of_unknown_latency_is_bounded_by_its_outstanding_requests() {
    // One endpoint is known to be fast; the other has been asked nothing yet.
    let world = Plan {
        weights: vec![1, 1],
        ..Plan::of(2)
    }
    .build();
    let known = world.answer(Duration::from_millis(50)).await;
    let _started: Vec<Started> = (0..200).map(|_| world.test.start(CHAT)).collect();
    let mut counts = [0; 2];
    for _ in 0..200 {
        counts[world.call().await.0] += 1;
    }
    assert!((90..=110).contains(&counts[1 - known]), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn requests_in_the_queue_count_as_outstanding() {
    let world = Plan {
        limit: ConcurrencyPolicy {
            concurrent: 1,
            queued: 1000,
            wait: Duration::ZERO,
        },
        ..Plan::of(2)
    }
    .build();
    let _started: Vec<Started> = (0..100).map(|_| world.test.start(CHAT)).collect();
    settle().await;
    for stats in &world.stats {
        assert!(
            (40..60).contains(&stats.limit.waiting()),
            "{}",
            stats.limit.waiting()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn endpoints_of_unequal_weight_get_their_shares() {
    let world = Plan {
        weights: vec![1, 3],
        ..Plan::of(2)
    }
    .build();
    let mut counts = [0; 2];
    for _ in 0..1000 {
        counts[world.answer(Duration::ZERO).await] += 1;
    }
    // A quarter of 1,000, within seven standard deviations.
    assert!((150..350).contains(&counts[0]), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn hanging_endpoint_loses_its_share_of_unequal_weights() {
    let world = Plan {
        weights: vec![9, 1],
        ..Plan::of(2)
    }
    .build();
    // Requests until one waits at the endpoint that hangs.
    let mut waiting = Vec::new();
    while waiting.is_empty() {
        let started = world.test.start(CHAT);
        let (endpoint, call) = world.call().await;
        if endpoint == 0 {
            waiting.push((started, call));
        } else {
            complete(&call, "x");
            ended(&started, "completed", None).await;
        }
    }
    tokio::time::sleep(seconds(6)).await;
    for _ in 0..100 {
        assert_eq!(world.answer(Duration::ZERO).await, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn distant_endpoint_is_asked_only_when_no_near_one_is_up() {
    let world = Plan {
        localities: vec![1, 0],
        ..Plan::of(2)
    }
    .build();
    for _ in 0..20 {
        assert_eq!(world.answer(seconds(1)).await, 1);
    }
    let started = world.test.start(CHAT);
    let (endpoint, call) = world.call().await;
    call.refuse(unreachable());
    let (other, call) = world.call().await;
    assert_eq!((endpoint, other), (1, 0));
    complete(&call, "far");
    ended(&started, "completed", None).await;
}

#[tokio::test(start_paused = true)]
async fn requests_above_the_limit_queue_and_above_the_queue_are_refused() {
    let world = Plan {
        limit: ConcurrencyPolicy {
            concurrent: 1,
            queued: 1,
            wait: seconds(30),
        },
        ..Plan::of(1)
    }
    .build();
    let first = world.test.start(CHAT);
    let (_, call) = world.call().await;
    call.answer(UpstreamHead::default());
    call.token("a");
    let second = world.test.start(CHAT);
    settle().await;
    assert_eq!(
        (world.waiting(), second.guard.generation().status().as_str()),
        (0, "queued")
    );
    let error = world.test.try_start(CHAT).unwrap_err();
    assert_eq!(
        (error.status, error.code.as_deref(), error.retry_after),
        (429, Some("upstream_busy"), Some(seconds(1)))
    );
    call.finish("stop").done().end(BodyEnd::Clean);
    ended(&first, "completed", None).await;
    complete(&world.call().await.1, "b");
    ended(&second, "completed", None).await;
    assert_eq!(
        (
            world.stats[0].limit.running(),
            world.stats[0].limit.waiting()
        ),
        (0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn queue_wait_times_out_with_upstream_busy() {
    let world = Plan {
        limit: ConcurrencyPolicy {
            concurrent: 1,
            queued: 1,
            wait: seconds(30),
        },
        ..Plan::of(1)
    }
    .build();
    let _first = world.test.start(CHAT);
    let _call = world.call().await;
    let begun = Instant::now();
    let second = world.test.start(CHAT);
    ended(&second, "failed", Some("upstream_busy")).await;
    assert_eq!(begun.elapsed(), seconds(30));
}

#[tokio::test(start_paused = true)]
async fn full_endpoint_is_skipped_while_another_has_a_free_slot() {
    let world = Plan {
        limit: ConcurrencyPolicy {
            concurrent: 1,
            queued: 9,
            wait: seconds(30),
        },
        ..Plan::of(2)
    }
    .build();
    let _first = world.test.start(CHAT);
    let (busy, _call) = world.call().await;
    for _ in 0..5 {
        assert_eq!(world.answer(Duration::ZERO).await, 1 - busy);
    }
}

#[tokio::test(start_paused = true)]
async fn queued_requests_leave_an_endpoint_whose_breaker_opens() {
    for hedge in [Hedge::Never, Hedge::After(seconds(1))] {
        let limit = ConcurrencyPolicy {
            concurrent: 3,
            queued: 9,
            wait: seconds(30),
        };
        // The second endpoint is distant: while the first is up, all requests queue there.
        let world = Plan {
            limit,
            hedge,
            retry: RetryPolicy::default(),
            localities: vec![0, 1],
            ..Plan::of(2)
        }
        .build();
        let running: Vec<Started> = (0..3).map(|_| world.test.start(CHAT)).collect();
        let mut calls = Vec::new();
        for _ in 0..3 {
            calls.push(world.endpoints[0].call().await);
        }
        let queued: Vec<Started> = (0..5).map(|_| world.test.start(CHAT)).collect();
        settle().await;
        assert_eq!(world.stats[0].limit.waiting(), 5, "{hedge:?}");
        for call in calls {
            call.refuse(unreachable());
        }
        for started in running {
            ended(&started, "failed", Some("upstream_unreachable")).await;
        }
        assert_eq!(world.stats[0].health(), HealthStatus::Down, "{hedge:?}");
        for _ in 0..5 {
            let (endpoint, call) = world.call().await;
            assert_eq!(endpoint, 1, "{hedge:?}");
            assert_eq!(call.body()["model"], "m1", "{hedge:?}");
            complete(&call, "moved");
        }
        for started in queued {
            let object = ended(&started, "completed", None).await;
            assert_eq!(text(&object), "moved", "{hedge:?}");
        }
        let waiting = world.stats.iter().map(|stats| stats.limit.waiting());
        assert_eq!(waiting.sum::<usize>(), 0, "{hedge:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn queued_requests_stay_at_the_only_endpoint_whose_breaker_opens() {
    let limit = ConcurrencyPolicy {
        concurrent: 3,
        queued: 9,
        wait: seconds(30),
    };
    let retry = RetryPolicy::default();
    let world = Plan {
        limit,
        retry,
        ..Plan::of(1)
    }
    .build();
    let _running: Vec<Started> = (0..3).map(|_| world.test.start(CHAT)).collect();
    let mut calls = Vec::new();
    for _ in 0..3 {
        calls.push(world.call().await.1);
    }
    let queued = world.test.start(CHAT);
    settle().await;
    for call in calls {
        call.refuse(unreachable());
    }
    complete(&world.call().await.1, "x");
    ended(&queued, "completed", None).await;
}

#[tokio::test(start_paused = true)]
async fn slow_endpoint_is_hedged_and_the_loser_is_dropped() {
    let world = Plan {
        hedge: Hedge::After(seconds(1)),
        ..Plan::of(2)
    }
    .build();
    let started = world.test.start(CHAT);
    let begun = Instant::now();
    let (first, slow) = world.call().await;
    // A role chunk without a token does not end the hedge.
    slow.answer(UpstreamHead::default());
    slow.data(r#"{"id":"slow","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#);
    let (second, quick) = world.call().await;
    assert_eq!((second, begun.elapsed()), (1 - first, seconds(1)));
    complete(&quick, "quick");
    slow.gone().await;
    let object = ended(&started, "completed", None).await;
    assert_eq!(text(&object), "quick");
    let chunks = Audit::of(started.guard.generation());
    assert!(
        !format!("{chunks:?}").contains("\"slow\""),
        "a chunk of the losing endpoint was kept"
    );
    assert_eq!(
        (
            world.stats[second].counters.hedges.get(),
            world.stats[second].counters.hedges_won.get()
        ),
        (1, 1)
    );
}

/// The loser of two would go on without a connection.
#[tokio::test(start_paused = true)]
async fn endpoint_that_keeps_its_answers_is_asked_for_no_hedge() {
    let world = Plan {
        hedge: Hedge::After(seconds(1)),
        api: Api::Responses,
        held: Some(1),
        localities: vec![0, 1],
        ..Plan::of(2)
    }
    .build();
    let started = world
        .test
        .start(r#"{"model":"m","input":"x","stream":true}"#);
    let (endpoint, call) = world.call().await;
    assert_eq!(endpoint, 0);
    tokio::time::sleep(seconds(5)).await;
    assert_eq!(world.waiting(), 0);
    assert_eq!(world.stats[1].counters.hedges.get(), 0);
    call.answer(UpstreamHead::default());
    call.data(r#"{"type":"response.completed","response":{"id":"r","object":"response","status":"completed","output":[]}}"#);
    call.end(BodyEnd::Clean);
    ended(&started, "completed", None).await;
}

#[tokio::test(start_paused = true)]
async fn first_endpoint_can_win_the_hedge() {
    let world = Plan {
        hedge: Hedge::After(seconds(1)),
        ..Plan::of(2)
    }
    .build();
    let started = world.test.start(CHAT);
    let (_, slow) = world.call().await;
    let (_, other) = world.call().await;
    slow.answer(UpstreamHead::default());
    slow.token("a");
    other.gone().await;
    slow.token("b").finish("stop").done().end(BodyEnd::Clean);
    assert_eq!(text(&ended(&started, "completed", None).await), "ab");
    assert_eq!(world.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn hedge_survives_the_failure_of_either_endpoint() {
    for first_fails in [true, false] {
        let world = Plan {
            hedge: Hedge::After(seconds(1)),
            retry: RetryPolicy::default(),
            ..Plan::of(2)
        }
        .build();
        let started = world.test.start(CHAT);
        let (_, first) = world.call().await;
        let (_, second) = world.call().await;
        let (failing, winning) = if first_fails {
            (first, second)
        } else {
            (second, first)
        };
        failing.refuse(refusal(500, &[]));
        settle().await;
        complete(&winning, "won");
        assert_eq!(
            text(&ended(&started, "completed", None).await),
            "won",
            "{first_fails}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn held_back_events_are_bounded_in_bytes() {
    let large = format!(r#"{{"choices":[],"padding":"{}"}}"#, "x".repeat(100 << 10));
    // Three large events exceed 256 KiB, and so do four thousand small ones.
    for (event, few, enough) in [(large.as_str(), 2, 1), ("{}", 1000, 4000)] {
        let world = Plan {
            hedge: Hedge::After(seconds(1)),
            ..Plan::of(2)
        }
        .build();
        let started = world.test.start(CHAT);
        let (_, talks) = world.call().await;
        let (_, other) = world.call().await;
        talks.answer(UpstreamHead::default());
        for _ in 0..few {
            talks.data(event);
        }
        settle().await;
        assert!(!other.is_gone(), "the hedge ended after {few} events");
        for _ in 0..enough {
            talks.data(event);
        }
        other.gone().await;
        talks.token("a").finish("stop").done().end(BodyEnd::Clean);
        let object = ended(&started, "completed", None).await;
        assert_eq!(text(&object), "a");
    }
}

#[tokio::test(start_paused = true)]
async fn fast_endpoint_is_not_hedged() {
    let world = Plan {
        hedge: Hedge::After(seconds(1)),
        ..Plan::of(2)
    }
    .build();
    for _ in 0..20 {
        world.answer(Duration::from_millis(900)).await;
    }
    assert_eq!(world.waiting(), 0);
    assert!(
        world
            .stats
            .iter()
            .all(|stats| stats.counters.hedges.get() == 0)
    );
}

#[tokio::test(start_paused = true)]
async fn cut_answer_is_continued_by_another_endpoint() {
    let world = Plan {
        continuation: Continuation::Prefix,
        ..Plan::of(2)
    }
    .build();
    let started = world.test.start(CHAT);
    let (first, call) = world.call().await;
    call.answer(UpstreamHead::default());
    call.token("one \"two\" ").token("thr").end(BodyEnd::Broken);
    let (second, other) = world.call().await;
    assert_eq!(second, 1 - first);
    let body = other.body();
    assert_eq!(body["model"], format!("m{second}"));
    assert_eq!(
        body["messages"][1],
        serde_json::json!({"role": "assistant", "content": "one \"two\" thr", "prefix": true})
    );
    other.answer(UpstreamHead::default());
    other.token("ee").finish("stop").done().end(BodyEnd::Clean);
    let object = ended(&started, "completed", None).await;
    assert_eq!(text(&object), "one \"two\" three");
    assert_eq!(
        (
            object["output"].as_array().map(Vec::len),
            object["tokenwire:continued"].as_u64()
        ),
        (Some(1), Some(1))
    );
    assert_eq!(
        (
            world.stats[second].counters.continued.get(),
            world.stats[second].health()
        ),
        (1, HealthStatus::Up)
    );
    call.gone().await;
}

#[tokio::test(start_paused = true)]
async fn continuation_restarts_between_tokens() {
    let world = Plan {
        continuation: Continuation::Prefix,
        timeouts: Timeouts {
            between_tokens: seconds(10),
            ..no_timeouts()
        },
        ..Plan::of(2)
    }
    .build();
    let started = world.test.start(CHAT);
    let (_, call) = world.call().await;
    call.answer(UpstreamHead::default());
    call.token("one ");
    tokio::time::sleep(seconds(9)).await;
    call.end(BodyEnd::Broken);
    let (_, other) = world.call().await;
    tokio::time::sleep(seconds(9)).await;
    complete(&other, "two");
    assert_eq!(text(&ended(&started, "completed", None).await), "one two");

    let started = world.test.start(CHAT);
    let (_, call) = world.call().await;
    call.answer(UpstreamHead::default());
    call.token("one ").end(BodyEnd::Broken);
    let (_, silent) = world.call().await;
    ended(&started, "failed", Some("between_tokens_timeout")).await;
    silent.gone().await;
}

#[tokio::test(start_paused = true)]
async fn continued_answer_shows_nothing_of_the_failure() {
    const ERROR: &str =
        r#""error":{"message":"overloaded","type":"server_error","code":"overloaded"}"#;
    let beside = |delta: &str, finish: &str| {
        format!(
            r#"{{"id":"c","object":"chat.completion.chunk","choices":[{{"index":0,"delta":{{{delta}}},"finish_reason":{finish}}}],{ERROR}}}"#
        )
    };
    let alone = format!("{{{ERROR}}}");
    let finish = r#"{"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"error"}]}"#.to_owned();
    let usage = r#"{"id":"c","object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}"#.to_owned();
    let done = "[DONE]".to_owned();
    for failing in [
        vec![alone.clone()],
        vec![finish.clone(), alone.clone()],
        vec![finish.clone(), done.clone()],
        vec![beside("", "null")],
        vec![beside("", "null"), done.clone()],
        vec![beside("", "\"error\"")],
        vec![beside("", "\"stop\""), done.clone()],
        vec![beside(r#""content":"lost""#, "null"), done.clone()],
        vec![beside("", "\"error\""), usage, done],
        vec![finish, beside("", "null"), alone],
    ] {
        let world = Plan {
            continuation: Continuation::Message,
            ..Plan::of(2)
        }
        .build();
        let started = world.test.start(CHAT);
        let (first, call) = world.call().await;
        call.answer(UpstreamHead::default());
        call.data(r#"{"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#);
        call.token("half ");
        for payload in &failing {
            call.data(payload);
        }
        call.end(BodyEnd::Clean);
        let (second, other) = world.call().await;
        assert_ne!(first, second);
        assert_eq!(
            other.body()["messages"][1]["content"],
            "half ",
            "{failing:?}"
        );
        other.answer(UpstreamHead::default());
        other.data(r#"{"id":"d","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#);
        other.data(r#"{"id":"d","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":"who"},"finish_reason":null}]}"#);
        other.token("l").token("e");
        // Longer than the silence that ends a stream whose failure was reported.
        tokio::time::sleep(seconds(20)).await;
        other.finish("stop").done().end(BodyEnd::Clean);
        let object = ended(&started, "completed", None).await;
        assert_eq!(text(&object), "half whole", "{failing:?}");
        assert_eq!(object["output"].as_array().map(Vec::len), Some(1));
        let audit = Audit::of(started.guard.generation());
        let chat = audit.chat.concat();
        for (what, count) in [
            (r#""error""#, 0),
            (r#""role":"assistant""#, 1),
            (r#""finish_reason":"stop""#, 1),
            (r#""tokenwire:continued""#, 1),
            ("lost", 0),
        ] {
            assert_eq!(
                chat.matches(what).count(),
                count,
                "{what} after {failing:?}: {chat}"
            );
        }
        for kind in [
            "response.in_progress",
            "response.output_item.added",
            "response.output_item.done",
            "response.content_part.added",
        ] {
            assert_eq!(audit.events_of(kind).count(), 1, "{kind} after {failing:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn failure_beside_choices_reaches_the_client_where_nothing_continues() {
    let world = Plan::of(1).build();
    let started = world.test.start(CHAT);
    let (_, call) = world.call().await;
    call.answer(UpstreamHead::default());
    call.token("half ");
    call.data(r#"{"id":"c","choices":[{"index":0,"delta":{"content":"more"},"finish_reason":"error"}],"error":{"message":"overloaded","code":"overloaded"}}"#);
    call.done().end(BodyEnd::Clean);
    let object = ended(&started, "failed", Some("overloaded")).await;
    assert_eq!(text(&object), "half more");
    let audit = Audit::of(started.guard.generation());
    assert!(audit.chat.concat().contains("overloaded"));
}

#[tokio::test(start_paused = true)]
async fn answers_that_cannot_be_continued_fail_with_their_error() {
    let tools = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}],"tools":[{"type":"function","function":{"name":"f"}}]}"#;
    let reasoning = r#"{"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}"#;
    for (request, chunk, endpoints, continuation) in [
        (CHAT, None, 2, Continuation::None),
        (CHAT, None, 1, Continuation::Message),
        (tools, None, 2, Continuation::Message),
        (CHAT, Some(reasoning), 2, Continuation::Message),
    ] {
        let world = Plan {
            continuation,
            ..Plan::of(endpoints)
        }
        .build();
        let started = world.test.start(request);
        let (_, call) = world.call().await;
        call.answer(UpstreamHead::default());
        if let Some(chunk) = chunk {
            call.data(chunk);
        }
        call.token("half").end(BodyEnd::Broken);
        ended(&started, "failed", Some("upstream_truncated")).await;
        tokio::time::sleep(seconds(60)).await;
        assert_eq!(world.waiting(), 0, "{request} {continuation:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn refused_continuation_is_left_to_a_third_endpoint() {
    let world = Plan {
        continuation: Continuation::Message,
        ..Plan::of(3)
    }
    .build();
    let started = world.test.start(CHAT);
    let (first, call) = world.call().await;
    call.answer(UpstreamHead::default());
    call.token("one ").end(BodyEnd::Broken);
    let (second, call) = world.call().await;
    // For example because it does not know how to continue a message.
    call.refuse(refusal(400, &[]));
    let (third, call) = world.call().await;
    assert_eq!(first + second + third, 3, "each endpoint is asked once");
    assert_eq!(call.body()["messages"][1]["content"], "one ");
    call.answer(UpstreamHead::default());
    call.token("two").finish("stop").done().end(BodyEnd::Clean);
    let object = ended(&started, "completed", None).await;
    assert_eq!(text(&object), "one two");
}

#[tokio::test(start_paused = true)]
async fn answer_of_an_upstream_that_falls_silent_is_continued() {
    let world = Plan {
        continuation: Continuation::Message,
        timeouts: Timeouts {
            between_tokens: seconds(10),
            ..no_timeouts()
        },
        ..Plan::of(2)
    }
    .build();
    let started = world.test.start(CHAT);
    let (_, silent) = world.call().await;
    silent.answer(UpstreamHead::default());
    silent.token("one ");
    let (_, call) = world.call().await;
    silent.gone().await;
    call.answer(UpstreamHead::default());
    call.token("two").finish("stop").done().end(BodyEnd::Clean);
    let object = ended(&started, "completed", None).await;
    assert_eq!(text(&object), "one two");
}

#[tokio::test(start_paused = true)]
async fn usage_of_a_continued_answer_is_the_sum_of_its_attempts() {
    let world = Plan {
        continuation: Continuation::Message,
        ..Plan::of(2)
    }
    .build();
    let started = world.test.start(CHAT);
    let (_, call) = world.call().await;
    call.answer(UpstreamHead::default());
    call.token("one ")
        .data(r#"{"choices":[{"index":0,"delta":{"content":"and "}}],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}"#)
        .end(BodyEnd::Broken);
    let (_, call) = world.call().await;
    call.answer(UpstreamHead::default());
    call.token("two")
        .finish("stop")
        .data(r#"{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":1,"total_tokens":11}}"#)
        .done()
        .end(BodyEnd::Clean);
    let object = ended(&started, "completed", None).await;
    assert_eq!(text(&object), "one and two");
    let usage = ["input_tokens", "output_tokens", "total_tokens"]
        .map(|name| object["usage"][name].as_u64().unwrap());
    assert_eq!(usage, [17, 3, 20]);
}

#[tokio::test(start_paused = true)]
async fn continuations_count_as_attempts() {
    let world = Plan {
        continuation: Continuation::Message,
        ..Plan::of(4)
    }
    .build();
    let started = world.test.start(CHAT);
    for round in 0..=RETRY.attempts {
        let (_, call) = world.call().await;
        let messages = call.body()["messages"].as_array().unwrap().len();
        assert_eq!(
            messages,
            if round == 0 { 1 } else { 2 },
            "the text so far is one message"
        );
        call.answer(UpstreamHead::default());
        call.token("x").end(BodyEnd::Broken);
    }
    let object = ended(&started, "failed", Some("upstream_truncated")).await;
    assert_eq!(
        (text(&object), object["tokenwire:continued"].as_u64()),
        ("xxx", Some(2))
    );
}

#[tokio::test(start_paused = true)]
async fn follower_that_replaces_its_leader_has_all_attempts() {
    // Both requests have to choose the same endpoint: requests for different model names are not
    // shared.
    let weights = vec![1_000_000_000, 1, 1];
    let world = Plan {
        coalesce: true,
        continuation: Continuation::Message,
        weights,
        ..Plan::of(3)
    }
    .build();
    let leader = world.test.start(CHAT);
    let follower = world.test.start(CHAT);
    let (_, call) = world.call().await;
    leader.guard.generation().cancel();
    call.gone().await;
    let (first, call) = world.call().await;
    call.answer(UpstreamHead::default());
    call.end(BodyEnd::Broken);
    let (second, call) = world.call().await;
    assert_ne!(second, first);
    call.answer(UpstreamHead::default());
    call.token("half ").end(BodyEnd::Broken);
    complete(&world.call().await.1, "whole");
    let object = ended(&follower, "completed", None).await;
    assert_eq!(
        (text(&object), object["tokenwire:continued"].as_u64()),
        ("half whole", Some(1))
    );
    assert!(
        world.stats[second].latency.average().is_some(),
        "the latency of the continuing endpoint is not recorded"
    );
}

#[tokio::test(start_paused = true)]
async fn continuation_is_not_hedged() {
    let world = Plan {
        continuation: Continuation::Message,
        hedge: Hedge::After(seconds(1)),
        ..Plan::of(3)
    }
    .build();
    let started = world.test.start(CHAT);
    let (_, call) = world.call().await;
    call.answer(UpstreamHead::default());
    call.token("half ").end(BodyEnd::Broken);
    let (_, slow) = world.call().await;
    tokio::time::sleep(seconds(5)).await;
    assert_eq!(world.waiting(), 0, "the continuation was hedged");
    complete(&slow, "whole");
    assert_eq!(
        text(&ended(&started, "completed", None).await),
        "half whole"
    );
}

#[tokio::test(start_paused = true)]
async fn cancel_of_an_unstreamed_answer_is_not_a_failure() {
    let world = Plan {
        timeouts: Timeouts {
            first_token: seconds(5),
            ..no_timeouts()
        },
        ..Plan::of(1)
    }
    .build();
    let started = world
        .test
        .start(r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#);
    let (_, call) = world.call().await;
    tokio::time::sleep(seconds(60)).await;
    started.guard.generation().cancel();
    call.gone().await;
    assert_eq!(world.stats[0].counters.silences.get(), 0);
}
