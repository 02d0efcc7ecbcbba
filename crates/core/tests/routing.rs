//! Several servers: who is asked, who is asked next, and what never happens twice.
//!
//! The clock is tokio's paused one, and what a server does is said by the test.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokenwire_core::engine::{ReuseOptions, Started};
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::snapshot::Api;
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

/// Servers of one model, and a gateway before them.
struct World {
    servers: Vec<ScriptedUpstream>,
    stats: Vec<Arc<EndpointStats>>,
    test: TestEngine,
}

struct Plan {
    servers: usize,
    retry: RetryPolicy,
    hedge: Hedge,
    timeouts: Timeouts,
    limit: ConcurrencyPolicy,
    budget: u32,
    weights: Vec<u32>,
    distances: Vec<u32>,
    continuation: Continuation,
    coalesce: bool,
}

impl Plan {
    fn of(servers: usize) -> Self {
        Self {
            servers,
            retry: RETRY,
            hedge: Hedge::Never,
            timeouts: no_timeouts(),
            limit: ConcurrencyPolicy::default(),
            budget: 20,
            weights: vec![1; servers],
            distances: vec![0; servers],
            continuation: Continuation::None,
            coalesce: false,
        }
    }

    /// Servers that hold every request until the test has said what becomes of it.
    fn build(self) -> World {
        let target = Target {
            model: "m".to_owned(),
            upstream_model: None,
            api: Api::Chat,
            timeouts: self.timeouts,
            server: 0,
            queued: false,
        };
        let servers: Vec<_> = (0..self.servers)
            .map(|_| ScriptedUpstream::new(target.clone()))
            .collect();
        let timeouts = self.timeouts;
        let routes: Vec<Route> = servers
            .iter()
            .enumerate()
            .map(|(index, server)| {
                server.plan(OpeningPlan::Hold);
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
                    },
                    self.limit,
                );
                let (weight, locality) = (self.weights[index], self.distances[index]);
                Route {
                    server: Arc::new(server.clone()),
                    api: Api::Chat,
                    models,
                    weight,
                    locality,
                    continuation: self.continuation,
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
            servers[0].clone(),
        );
        World {
            servers,
            stats,
            test,
        }
    }
}

impl World {
    /// The next request, whichever server got it.
    async fn call(&self) -> (usize, Call) {
        let calls = self
            .servers
            .iter()
            .enumerate()
            .map(|(index, server)| Box::pin(async move { (index, server.call().await) }));
        futures::future::select_all(calls).await.0
    }

    /// Requests that no test took, over all servers.
    fn waiting(&self) -> usize {
        self.servers.iter().map(ScriptedUpstream::waiting).sum()
    }

    /// One whole answer, after this long; says who gave it.
    async fn answer(&self, after: Duration) -> usize {
        let started = self.test.start(CHAT);
        let (server, call) = self.call().await;
        tokio::time::sleep(after).await;
        complete(&call, "x");
        ended(&started, "completed", None).await;
        server
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
async fn what_fails_before_the_first_chunk_is_asked_again_and_nothing_shows_of_it() {
    // Every way to fail before a chunk; each is told to the server's call.
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
async fn when_the_attempts_are_spent_the_last_failure_is_the_clients() {
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
async fn after_the_first_chunk_nothing_is_asked_again() {
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
async fn a_server_that_breaks_off_after_its_first_words_is_known_to_fail_although_it_is_not_asked_again()
 {
    // The beginning is kept, so that nobody can be asked in its place; a token, which would speak
    // for the server, has not come.
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
async fn a_refusal_of_the_request_itself_is_final() {
    let world = Plan::of(2).build();
    let started = world.test.start(CHAT);
    world.call().await.1.refuse(refusal(400, &[]));
    ended(&started, "failed", Some("upstream_status_400")).await;
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(world.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_short_retry_after_is_waited_for_as_long_as_all_waits_are_short() {
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
async fn another_server_is_asked_at_once_under_its_own_name_for_the_model() {
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
    // The one that asked for rest gets it while there is another.
    for _ in 0..10 {
        assert_eq!(world.answer(Duration::ZERO).await, second);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_key_of_ours_is_no_reason_to_ask_the_same_server_again() {
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
async fn retries_do_not_amplify_an_outage() {
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
    // 200 requests, 100 retries that were saved up, and ten for each second that the waits took;
    // not 600.
    assert!((300..320).contains(&asked), "{asked}");
    assert!(world.stats[0].counters.budget_spent.get() > 0);
}

#[tokio::test(start_paused = true)]
async fn cancelling_ends_a_wait_for_the_next_attempt() {
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
async fn the_clock_of_the_first_token_runs_on_over_all_attempts() {
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
async fn a_server_that_keeps_failing_is_left_alone_and_tried_again_later() {
    let world = Plan {
        retry: RetryPolicy::default(),
        weights: vec![1_000_000, 1],
        ..Plan::of(2)
    }
    .build();
    for _ in 0..3 {
        let started = world.test.start(CHAT);
        let (server, call) = world.call().await;
        assert_eq!(server, 0);
        call.refuse(unreachable());
        ended(&started, "failed", Some("upstream_unreachable")).await;
    }
    assert_eq!(world.stats[0].health(), HealthStatus::Down);
    for _ in 0..5 {
        assert_eq!(world.answer(Duration::ZERO).await, 1);
    }
    tokio::time::sleep(seconds(10)).await;
    // One request goes to see; meanwhile the others go elsewhere.
    let trial = world.test.start(CHAT);
    let (server, call) = world.call().await;
    assert_eq!((server, world.stats[0].health()), (0, HealthStatus::Trying));
    assert_eq!(world.answer(Duration::ZERO).await, 1);
    complete(&call, "back");
    ended(&trial, "completed", None).await;
    assert_eq!(
        (world.stats[0].health(), world.answer(Duration::ZERO).await),
        (HealthStatus::Up, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn the_only_server_is_asked_even_if_it_seems_down() {
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
async fn silence_until_the_clock_runs_out_is_the_servers_failure_and_a_client_who_leaves_is_not() {
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
async fn among_equals_the_fastest_is_asked_and_now_and_then_another() {
    let world = Plan::of(3).build();
    let speed = [300, 100, 900];
    let mut counts = [0; 3];
    for _ in 0..400 {
        let started = world.test.start(CHAT);
        let (server, call) = world.call().await;
        tokio::time::sleep(Duration::from_millis(speed[server])).await;
        complete(&call, "x");
        ended(&started, "completed", None).await;
        counts[server] += 1;
    }
    // A twentieth explores, give or take five standard deviations.
    assert!(
        counts[0] > 0 && counts[2] > 0 && (3..45).contains(&(counts[0] + counts[2])),
        "{counts:?}"
    );
    // When the fastest slows down, the next takes over.
    let speed = [300, 5000, 900];
    let mut counts = [0; 3];
    for _ in 0..100 {
        let started = world.test.start(CHAT);
        let (server, call) = world.call().await;
        tokio::time::sleep(Duration::from_millis(speed[server])).await;
        complete(&call, "x");
        ended(&started, "completed", None).await;
        counts[server] += 1;
    }
    assert!(counts[0] > 70, "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn servers_of_unequal_weight_get_their_shares() {
    let world = Plan {
        weights: vec![1, 3],
        ..Plan::of(2)
    }
    .build();
    let mut counts = [0; 2];
    for _ in 0..1000 {
        counts[world.answer(Duration::ZERO).await] += 1;
    }
    // A quarter of 1,000 give or take seven standard deviations.
    assert!((150..350).contains(&counts[0]), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_distant_server_is_asked_only_when_no_near_one_is_up() {
    let world = Plan {
        distances: vec![1, 0],
        ..Plan::of(2)
    }
    .build();
    for _ in 0..20 {
        assert_eq!(world.answer(seconds(1)).await, 1);
    }
    let started = world.test.start(CHAT);
    let (server, call) = world.call().await;
    call.refuse(unreachable());
    let (other, call) = world.call().await;
    assert_eq!((server, other), (1, 0));
    complete(&call, "far");
    ended(&started, "completed", None).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_server_cannot_take_waits_its_turn_and_what_cannot_wait_is_refused() {
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
async fn who_waits_too_long_for_his_turn_is_told_so() {
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
async fn a_full_server_is_passed_by_while_another_has_room() {
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
async fn a_slow_server_is_raced_and_the_loser_is_let_go() {
    let world = Plan {
        hedge: Hedge::After(seconds(1)),
        ..Plan::of(2)
    }
    .build();
    let started = world.test.start(CHAT);
    let begun = Instant::now();
    let (first, slow) = world.call().await;
    // A beginning without a token is no answer.
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
        "something of the loser was kept"
    );
    assert_eq!(
        (
            world.stats[second].counters.hedges.get(),
            world.stats[second].counters.hedges_won.get()
        ),
        (1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn the_first_server_may_still_win_the_race() {
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
async fn a_race_that_one_loses_by_failing_is_won_by_the_other() {
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
async fn a_server_that_talks_without_a_token_is_not_held_back_for_ever() {
    let large = format!(r#"{{"choices":[],"padding":"{}"}}"#, "x".repeat(100 << 10));
    // With large events and with small ones: three are more than 256 KiB, and four thousand are.
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
        assert!(!other.is_gone(), "the race was over after {few} events");
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
async fn a_quick_server_is_not_raced() {
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
async fn an_answer_that_was_cut_goes_on_at_another_server_where_that_is_configured() {
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
async fn what_cannot_be_gone_on_with_ends_as_it_was_cut() {
    let tools = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}],"tools":[{"type":"function","function":{"name":"f"}}]}"#;
    let reasoning = r#"{"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}"#;
    for (request, chunk, servers, continuation) in [
        (CHAT, None, 2, Continuation::None),
        (CHAT, None, 1, Continuation::Message),
        (tools, None, 2, Continuation::Message),
        (CHAT, Some(reasoning), 2, Continuation::Message),
    ] {
        let world = Plan {
            continuation,
            ..Plan::of(servers)
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
async fn going_on_has_an_end_as_well() {
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
async fn one_who_asks_in_the_place_of_a_leader_has_all_attempts() {
    // Both are to choose the same server: what is asked of another differs by its name for the
    // model, and is not shared.
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
        "the first token was told"
    );
}

#[tokio::test(start_paused = true)]
async fn who_goes_on_with_an_answer_is_not_raced() {
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
    assert_eq!(world.waiting(), 0, "somebody was asked to begin anew");
    complete(&slow, "whole");
    assert_eq!(
        text(&ended(&started, "completed", None).await),
        "half whole"
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_who_leaves_a_long_answer_in_one_piece_is_not_the_servers_failure() {
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
