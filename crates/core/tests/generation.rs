//! The life of a generation: exactly one terminal event in every case, and bounded retention.
//!
//! The tests run under tokio's paused clock, which moves only when every task waits. So minutes
//! take no time, and results do not depend on the machine's speed.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use serde_json::{Value, json};
use tokenwire_core::dialect::Dialect;
use tokenwire_core::engine::{ReaderKind, Resumption, StartRequest, Started};
use tokenwire_core::generation::{Generation, Subscription, SubscriptionError};
use tokenwire_core::log::{LogLimits, LogReader};
use tokenwire_core::model::account::{AccountKind, Relief as _};
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::{GenerationId, Owner, Seq};
use tokenwire_core::model::record::RecordBatch;
use tokenwire_core::model::snapshot::{Api, Status};
use tokenwire_core::upstream::translate::{BodyEnd, ChatTranslator, RecordWriter};
use tokenwire_core::upstream::{OpenError, Refusal, Timeouts, UpstreamHead};
use tokenwire_testkit::{
    Audit, Call, EngineOptions, JsonLines, OpeningPlan, Reader, TestEngine, no_timeouts, settle,
};
use tokio::time::Instant;

const CHAT: &str = r#"{"stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
const RESPONSES: &str = r#"{"input":"hi"}"#;

fn engine() -> TestEngine {
    TestEngine::new(EngineOptions::default())
}

fn engine_with_timeouts(timeouts: Timeouts) -> TestEngine {
    TestEngine::new(EngineOptions {
        timeouts,
        ..EngineOptions::default()
    })
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Starts a generation and returns it with its upstream call.
async fn begin(test: &TestEngine, body: &str) -> (Started, Call) {
    let started = test.start(body);
    let call = test.upstream.call().await;
    (started, call)
}

/// Sends a complete answer of one token.
fn complete(call: &Call, text: &str) {
    call.token(text).finish("stop").done().end(BodyEnd::Clean);
}

/// Waits for the end, audits the generation, and checks its status and its code or reason.
async fn ended(generation: &Arc<Generation>, status: &str, why: Option<&str>) -> Audit {
    generation.ended().await;
    let audit = Audit::of(generation);
    assert_eq!(audit.object["status"], status, "{}", audit.object);
    let found = audit.object["error"]["code"]
        .as_str()
        .or_else(|| audit.object["incomplete_details"]["reason"].as_str());
    assert_eq!(found, why, "{}", audit.object);
    audit
}

// === Endings ===

#[tokio::test(start_paused = true)]
async fn complete_answer_ends_with_completed() {
    let test = engine();
    let (started, call) = begin(&test, CHAT).await;
    call.token("Hel")
        .token("lo")
        .finish("stop")
        .done()
        .end(BodyEnd::Clean);
    let audit = ended(started.guard.generation(), "completed", None).await;
    assert_eq!(audit.text, "Hello");
    assert_eq!(audit.chat.last().map(String::as_str), Some("[DONE]"));
}

#[tokio::test(start_paused = true)]
async fn reader_of_a_long_log_lets_others_run_in_between() {
    const KIB: usize = 1024;
    let test = engine();
    let (started, call) = begin(&test, CHAT).await;
    for _ in 0..2048 {
        call.token(&"x".repeat(KIB));
    }
    let generation = started.guard.generation().clone();
    while generation.tail().unwrap().next.0 < 2048 {
        tokio::task::yield_now().await;
    }
    let framing = Arc::new(JsonLines::default());
    let mut reader = Subscription::new(started.guard, Seq(0), Dialect::Responses, framing);
    let mut cx = Context::from_waker(Waker::noop());
    let (mut all, mut turn) = (0, 0);
    while all < 1536 * KIB {
        match reader.poll_next(&mut cx) {
            Poll::Ready(Some(bytes)) => turn += bytes.unwrap().len(),
            Poll::Pending => {
                assert!(turn > 0, "a pause without a piece");
                all += std::mem::take(&mut turn);
            }
            Poll::Ready(None) => panic!("the stream runs"),
        }
        assert!(turn <= 384 * KIB, "{turn} bytes without a pause");
    }
}

#[tokio::test(start_paused = true)]
async fn driver_yields_when_the_upstream_never_pauses() {
    let test = engine();
    let (started, call) = begin(&test, CHAT).await;
    let generation = started.guard.generation().clone();
    for _ in 0..100 {
        call.token("x");
    }
    let written = || generation.tail().unwrap().next.0;
    let before = written();
    tokio::task::yield_now().await;
    let turn = written() - before;
    assert!((1..10).contains(&turn), "{turn} events in one turn");
    call.finish("stop").done().end(BodyEnd::Clean);
    assert_eq!(
        ended(&generation, "completed", None).await.text,
        "x".repeat(100)
    );
}

#[tokio::test(start_paused = true)]
async fn driver_cancels_an_upstream_that_never_pauses() {
    let test = TestEngine::new(EngineOptions {
        grace: Duration::ZERO,
        ..EngineOptions::default()
    });
    let (started, call) = begin(&test, CHAT).await;
    let generation = started.guard.generation().clone();
    for _ in 0..1000 {
        call.token("x");
    }
    drop(started);
    let audit = ended(&generation, "cancelled", None).await;
    assert!(
        audit.text.len() < 100,
        "{} tokens were read without a reader",
        audit.text.len()
    );
    call.gone().await;
}

#[tokio::test(start_paused = true)]
async fn response_created_is_appended_before_the_upstream_is_asked() {
    let test = engine();
    test.upstream.plan(OpeningPlan::Hold);
    let started = test.start(CHAT);
    assert_eq!(
        test.upstream.waiting(),
        0,
        "the generation's task has not run yet"
    );
    let mut reader = Reader::new(started.guard, 0, Dialect::Responses);
    reader.read_now();
    let kinds: Vec<_> = reader
        .lines()
        .into_iter()
        .map(|line| line.name.unwrap())
        .collect();
    assert_eq!(kinds, ["response.created"]);
}

#[tokio::test(start_paused = true)]
async fn background_generation_starts_queued() {
    let test = engine();
    let (started, call) = begin(&test, r#"{"input":"hi","background":true}"#).await;
    assert_eq!(started.guard.generation().status(), Status::Queued);
    call.token("x");
    settle().await;
    assert_eq!(started.guard.generation().status(), Status::InProgress);
    complete(&call, "y");
    let audit = ended(started.guard.generation(), "completed", None).await;
    assert_eq!(
        audit.kinds()[..3],
        [
            "response.created",
            "response.queued",
            "response.in_progress"
        ]
    );
    assert_eq!(audit.events[0]["response"]["status"], "queued");
}

#[tokio::test(start_paused = true)]
async fn upstream_error_response_ends_with_its_message() {
    let test = engine();
    test.upstream.plan(OpeningPlan::Hold);
    let (started, call) = begin(&test, CHAT).await;
    let refusal = Refusal {
        status: 429,
        content_type: Some("application/json".to_owned()),
        body: r#"{"error":{"message":"Slow down.","code":"slow"}}"#.into(),
        headers: vec![("retry-after".to_owned(), "7".to_owned())],
        should_retry: None,
    };
    call.refuse(OpenError::Refused(refusal.clone()));
    assert_eq!(
        started.guard.generation().response_head().wait().await,
        Err(OpenError::Refused(refusal))
    );
    let audit = ended(started.guard.generation(), "failed", Some("slow")).await;
    assert_eq!(audit.object["error"]["message"], "Slow down.");
    assert_eq!(audit.kinds(), ["response.created", "response.failed"]);
}

#[tokio::test(start_paused = true)]
async fn connect_error_ends_with_failed() {
    let test = engine();
    test.upstream.plan(OpeningPlan::Hold);
    let (started, call) = begin(&test, CHAT).await;
    call.refuse(OpenError::Failed(ApiError::new(
        ErrorCode::UpstreamUnreachable,
        "No connection.",
    )));
    ended(
        started.guard.generation(),
        "failed",
        Some("upstream_unreachable"),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn upstream_head_wakes_waiters() {
    let test = engine();
    test.upstream.plan(OpeningPlan::Hold);
    let (started, call) = begin(&test, CHAT).await;
    assert_eq!(started.guard.generation().response_head().now(), None);
    let head = UpstreamHead {
        headers: vec![("x-ratelimit".to_owned(), "1".to_owned())],
    };
    call.answer(head.clone());
    assert_eq!(
        started.guard.generation().response_head().wait().await,
        Ok(head)
    );
}

#[tokio::test(start_paused = true)]
async fn body_end_before_the_finish_ends_with_failed() {
    for end in [BodyEnd::Clean, BodyEnd::Broken] {
        for tokens in [0, 2] {
            let test = engine();
            let (started, call) = begin(&test, CHAT).await;
            for _ in 0..tokens {
                call.token("x");
            }
            call.end(end);
            let audit = ended(
                started.guard.generation(),
                "failed",
                Some("upstream_truncated"),
            )
            .await;
            assert_eq!(
                audit.text,
                "x".repeat(tokens),
                "the text before the cut is kept"
            );
            assert!(audit.chat.iter().all(|payload| payload != "[DONE]"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn body_end_after_the_finish_completes() {
    for end in [BodyEnd::Clean, BodyEnd::Broken] {
        let test = engine();
        let (started, call) = begin(&test, CHAT).await;
        call.token("x").finish("stop").end(end);
        ended(started.guard.generation(), "completed", None).await;
    }
}

#[tokio::test(start_paused = true)]
async fn decode_error_ends_with_failed() {
    let test = engine();
    let (started, call) = begin(&test, CHAT).await;
    call.token("x").fail(ApiError::new(
        ErrorCode::UpstreamEventTooLarge,
        "Too large.",
    ));
    ended(
        started.guard.generation(),
        "failed",
        Some("upstream_event_too_large"),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn invalid_chunk_ends_with_failed() {
    for (bytes, code) in [
        (
            b"data: {\"choices\":[}\n\n".as_slice(),
            "upstream_malformed",
        ),
        (b"data: \xFF\xFE\n\n", "upstream_invalid_utf8"),
        (
            b"data: {\"error\":{\"message\":\"no\",\"code\":\"nope\"}}\n\n",
            "nope",
        ),
        (b"error: {\"message\":\"no\",\"code\":\"nope\"}\n\n", "nope"),
    ] {
        let test = engine();
        let (started, call) = begin(&test, CHAT).await;
        call.token("x").bytes(bytes);
        ended(started.guard.generation(), "failed", Some(code)).await;
        call.gone().await;
    }
}

#[tokio::test(start_paused = true)]
async fn panic_ends_only_its_own_generation() {
    let test = engine();
    let (bystander, other) = begin(&test, CHAT).await;

    // While the body is read.
    let (started, call) = begin(&test, CHAT).await;
    call.token("x").panic();
    let audit = ended(started.guard.generation(), "failed", Some("internal_error")).await;
    assert_eq!(audit.text, "x");
    // While it connects.
    test.upstream.plan(OpeningPlan::Hold);
    let (started, call) = begin(&test, CHAT).await;
    call.panic_while_opening();
    ended(started.guard.generation(), "failed", Some("internal_error")).await;
    assert!(
        started
            .guard
            .generation()
            .response_head()
            .now()
            .is_some_and(|result| result.is_err()),
        "a waiter for the head was not woken"
    );
    // Before it connects.
    test.upstream.plan(OpeningPlan::Panic);
    let started = test.start(CHAT);
    ended(started.guard.generation(), "failed", Some("internal_error")).await;

    complete(&other, "y");
    ended(bystander.guard.generation(), "completed", None).await;
    settle().await;
    assert_eq!(
        test.engine.registry().open(),
        0,
        "a panic keeps a place for ever"
    );
}

#[test]
fn stopped_runtime_seals_every_log() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
    };
    let check = |started: &Started| {
        let audit = Audit::of(started.guard.generation());
        assert_eq!(audit.object["error"]["code"], "shutting_down");
        assert!(started.guard.generation().response_head().now().is_some());
    };
    // In the middle of the answer.
    let test = engine();
    let worker = runtime();
    let started = worker.block_on(async {
        let (started, call) = begin(&test, CHAT).await;
        call.token("x");
        settle().await;
        started
    });
    drop(worker);
    check(&started);
    // While it connects.
    test.upstream.plan(OpeningPlan::Hold);
    let worker = runtime();
    let started = worker.block_on(async { begin(&test, CHAT).await.0 });
    drop(worker);
    check(&started);
    // Before its task has run.
    let worker = runtime();
    let started = worker.block_on(async { test.start(CHAT) });
    drop(worker);
    check(&started);
    assert_eq!(test.engine.registry().open(), 0);
}

// === Cancelling ===

#[tokio::test(start_paused = true)]
async fn cancel_takes_effect_at_once_in_every_phase() {
    // Before its task runs, while it connects, before the first token, between tokens, after the
    // finish.
    for phase in 0..5 {
        let test = engine_with_timeouts(Timeouts {
            first_token: seconds(60),
            between_tokens: seconds(60),
            ..no_timeouts()
        });
        if phase < 2 {
            test.upstream.plan(OpeningPlan::Hold);
        }
        let started = test.start(CHAT);
        let generation = started.guard.generation().clone();
        let mut call = None;
        if phase > 0 {
            let taken = test.upstream.call().await;
            if phase >= 3 {
                taken.token("x");
            }
            if phase >= 4 {
                taken.finish("stop");
            }
            call = Some(taken);
            settle().await;
        }
        let before = Instant::now();
        generation.cancel();
        let audit = ended(&generation, "cancelled", None).await;
        assert_eq!(
            Instant::now(),
            before,
            "cancelling took time in phase {phase}"
        );
        assert_eq!(audit.events.last().unwrap()["type"], "response.incomplete");
        assert!(
            audit.chat.last().unwrap().contains(r#""code":"cancelled""#),
            "{:?}",
            audit.chat
        );
        if let Some(call) = call {
            call.gone().await;
            assert_eq!(
                Instant::now(),
                before,
                "the upstream learns of it late in phase {phase}"
            );
        }
        assert!(
            generation.response_head().now().is_some(),
            "a waiter for the head was not woken"
        );
        generation.cancel();
    }
}

#[tokio::test(start_paused = true)]
async fn cancel_after_the_end_has_no_effect() {
    let test = engine();
    let (started, call) = begin(&test, CHAT).await;
    complete(&call, "x");
    started.guard.generation().ended().await;
    started.guard.generation().cancel();
    settle().await;
    ended(started.guard.generation(), "completed", None).await;
}

#[tokio::test(start_paused = true)]
async fn delete_stops_the_generation_and_wakes_waiters() {
    let test = engine();
    let (started, call) = begin(&test, CHAT).await;
    call.token("x");
    settle().await;
    let generation = started.guard.generation().clone();
    let waiting = tokio::spawn({
        let generation = generation.clone();
        async move { generation.ended().await }
    });
    let mut reader = Reader::new(started.guard, 0, Dialect::Responses);
    reader.read_now();
    settle().await;
    test.engine.delete(&generation).await.unwrap();
    assert_eq!(reader.read_to_end().await, Err(SubscriptionError::Expired));
    call.gone().await;
    assert!(test.find(&generation.meta().id, &Owner::Anonymous).is_err());
    // The paused clock jumps to the end of this timeout as soon as every task waits.
    assert!(
        tokio::time::timeout(seconds(3600), waiting).await.is_ok(),
        "a waiter for the end was not woken"
    );
}

// === Timeouts ===

#[tokio::test(start_paused = true)]
async fn first_token_timeout_fails_the_generation() {
    for opened in [false, true] {
        let test = engine_with_timeouts(Timeouts {
            first_token: seconds(10),
            between_tokens: seconds(1),
            ..no_timeouts()
        });
        test.upstream.plan(if opened {
            OpeningPlan::Answer
        } else {
            OpeningPlan::Hold
        });
        let before = Instant::now();
        let (started, call) = begin(&test, CHAT).await;
        if opened {
            // A chunk without a token does not stop this timeout.
            call.data(r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#);
        }
        ended(
            started.guard.generation(),
            "failed",
            Some("first_token_timeout"),
        )
        .await;
        assert_eq!(Instant::now() - before, seconds(10));
        call.gone().await;
    }
}

#[tokio::test(start_paused = true)]
async fn between_tokens_timeout_fails_the_generation() {
    let test = engine_with_timeouts(Timeouts {
        first_token: seconds(100),
        between_tokens: seconds(10),
        ..no_timeouts()
    });
    let (started, call) = begin(&test, CHAT).await;
    for _ in 0..5 {
        tokio::time::sleep(seconds(9)).await;
        call.token("x");
    }
    settle().await;
    let last = Instant::now();
    let audit = ended(
        started.guard.generation(),
        "failed",
        Some("between_tokens_timeout"),
    )
    .await;
    assert_eq!(audit.text, "xxxxx");
    // Timers have a resolution of a millisecond.
    assert!(
        (Instant::now() - last).abs_diff(seconds(10)) <= Duration::from_millis(2),
        "after {:?}",
        Instant::now() - last
    );
}

/// Sends an event without tokens, in several forms.
fn keep_alive(call: &Call, index: usize) {
    match index % 5 {
        0 => call.bytes(": OPENROUTER PROCESSING\n\n"),
        1 => call.bytes(":\n"),
        2 => call.bytes("event: ping\n\n"),
        3 => call.bytes("event: keepalive\ndata: {\"type\":\"keepalive\"}\n\n"),
        _ => call.data(r#"{"choices":[]}"#),
    };
}

#[tokio::test(start_paused = true)]
async fn comments_and_unknown_events_restart_between_tokens() {
    let test = engine_with_timeouts(Timeouts {
        between_tokens: seconds(10),
        total: seconds(1000),
        ..no_timeouts()
    });
    let (started, call) = begin(&test, CHAT).await;
    call.token("a");
    for index in 0..20 {
        tokio::time::sleep(seconds(9)).await;
        keep_alive(&call, index);
    }
    tokio::time::sleep(seconds(9)).await;
    complete(&call, "b");
    let audit = ended(started.guard.generation(), "completed", None).await;
    assert_eq!(audit.text, "ab");
}

#[tokio::test(start_paused = true)]
async fn comments_extend_an_answer_up_to_total_only() {
    let test = engine_with_timeouts(Timeouts {
        between_tokens: seconds(10),
        total: seconds(60),
        ..no_timeouts()
    });
    let (started, call) = begin(&test, CHAT).await;
    let before = Instant::now();
    let generation = started.guard.generation().clone();
    call.token("a");
    for index in 0.. {
        if generation.is_over() {
            break;
        }
        keep_alive(&call, index);
        tokio::time::sleep(seconds(2)).await;
    }
    ended(&generation, "failed", Some("total_timeout")).await;
    assert!(Instant::now() - before <= seconds(62));
}

#[tokio::test(start_paused = true)]
async fn comments_do_not_restart_first_token() {
    let test = engine_with_timeouts(Timeouts {
        first_token: seconds(10),
        between_tokens: seconds(100),
        total: seconds(1000),
        ..no_timeouts()
    });
    let (started, call) = begin(&test, CHAT).await;
    let before = Instant::now();
    let generation = started.guard.generation().clone();
    for index in 0.. {
        if generation.is_over() {
            break;
        }
        keep_alive(&call, index);
        tokio::time::sleep(seconds(2)).await;
    }
    ended(&generation, "failed", Some("first_token_timeout")).await;
    assert!(Instant::now() - before <= seconds(12));
}

#[tokio::test(start_paused = true)]
async fn events_after_the_finish_do_not_extend_the_answer() {
    let usage =
        r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#;
    for total in [Duration::ZERO, seconds(3), seconds(60)] {
        for comments in [false, true] {
            let test = engine_with_timeouts(Timeouts {
                between_tokens: seconds(60),
                total,
                ..no_timeouts()
            });
            let (started, call) = begin(&test, CHAT).await;
            let before = Instant::now();
            let generation = started.guard.generation().clone();
            call.token("x").finish("stop");
            for index in 0..100 {
                if generation.is_over() {
                    break;
                }
                if comments {
                    keep_alive(&call, index);
                } else {
                    call.data(usage);
                }
                tokio::time::sleep(seconds(2)).await;
            }
            let audit = ended(&generation, "completed", None).await;
            assert_eq!(audit.text, "x");
            assert_eq!(audit.object["usage"].is_null(), comments);
            assert!(Instant::now() - before <= seconds(6));
            call.gone().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn text_after_the_finish_extends_the_answer_up_to_total() {
    let test = engine_with_timeouts(Timeouts {
        total: seconds(60),
        ..no_timeouts()
    });
    let (started, call) = begin(&test, CHAT).await;
    let before = Instant::now();
    let generation = started.guard.generation().clone();
    call.token("x").finish("stop");
    while !generation.is_over() {
        tokio::time::sleep(seconds(4)).await;
        call.token("y");
    }
    ended(&generation, "failed", Some("total_timeout")).await;
    assert!((seconds(60)..seconds(65)).contains(&(Instant::now() - before)));
}

#[tokio::test(start_paused = true)]
async fn timeouts_beyond_the_clock_never_run_out() {
    let test = TestEngine::new(EngineOptions {
        timeouts: Timeouts {
            connect: Duration::MAX,
            first_token: Duration::MAX,
            between_tokens: Duration::MAX,
            total: Duration::MAX,
        },
        grace: Duration::MAX,
        ..EngineOptions::default()
    });
    let (started, call) = begin(&test, CHAT).await;
    let generation = started.guard.generation().clone();
    drop(started);
    tokio::time::sleep(seconds(1_000_000)).await;
    call.token("x");
    tokio::time::sleep(seconds(1_000_000)).await;
    complete(&call, "y");
    ended(&generation, "completed", None).await;
}

#[tokio::test(start_paused = true)]
async fn unstreamed_answer_is_subject_to_total_only() {
    let test = engine_with_timeouts(Timeouts {
        first_token: seconds(1),
        between_tokens: seconds(1),
        total: seconds(60),
        ..no_timeouts()
    });
    let unstreamed = r#"{"messages":[{"role":"user","content":"hi"}]}"#;
    let (within, call) = begin(&test, unstreamed).await;
    tokio::time::sleep(seconds(59)).await;
    call.document(r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"late"},"finish_reason":"stop"}]}"#)
        .end(BodyEnd::Clean);
    let audit = ended(within.guard.generation(), "completed", None).await;
    assert_eq!(audit.text, "late");
    let (late, _call) = begin(&test, unstreamed).await;
    ended(late.guard.generation(), "failed", Some("total_timeout")).await;
}

#[tokio::test(start_paused = true)]
async fn total_timeout_fails_the_generation() {
    let test = engine_with_timeouts(Timeouts {
        between_tokens: seconds(10),
        total: seconds(60),
        ..no_timeouts()
    });
    let before = Instant::now();
    let (started, call) = begin(&test, CHAT).await;
    let generation = started.guard.generation().clone();
    while !generation.is_over() {
        call.token("x");
        tokio::time::sleep(seconds(7)).await;
    }
    ended(&generation, "failed", Some("total_timeout")).await;
    assert!(Instant::now() - before < seconds(68));
}

#[tokio::test(start_paused = true)]
async fn zero_disables_timeouts() {
    let test = engine();
    let (started, call) = begin(&test, CHAT).await;
    tokio::time::sleep(seconds(1_000_000)).await;
    call.token("x");
    tokio::time::sleep(seconds(1_000_000)).await;
    complete(&call, "y");
    ended(started.guard.generation(), "completed", None).await;
}

#[tokio::test(start_paused = true)]
async fn silence_after_the_finish_completes() {
    for (reason, status, why) in [
        ("stop", "completed", None),
        ("length", "incomplete", Some("max_output_tokens")),
    ] {
        let test = engine_with_timeouts(Timeouts {
            between_tokens: seconds(60),
            ..no_timeouts()
        });
        let (started, call) = begin(&test, CHAT).await;
        call.token("x").finish(reason);
        settle().await;
        let before = Instant::now();
        ended(started.guard.generation(), status, why).await;
        assert!((Instant::now() - before).abs_diff(seconds(5)) <= Duration::from_millis(2));
        call.gone().await;
    }
}

#[tokio::test(start_paused = true)]
async fn late_usage_after_the_finish_is_included() {
    let test = engine();
    let (started, call) = begin(&test, CHAT).await;
    call.token("x").finish("stop");
    tokio::time::sleep(seconds(4)).await;
    call.data(
        r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#,
    )
    .done()
    .end(BodyEnd::Clean);
    let audit = ended(started.guard.generation(), "completed", None).await;
    assert_eq!(audit.object["usage"]["total_tokens"], 3);
}

// === Readers and grace ===

#[tokio::test(start_paused = true)]
async fn zero_grace_cancels_with_the_last_reader() {
    for phase in 0..3 {
        let test = TestEngine::new(EngineOptions {
            grace: Duration::ZERO,
            ..EngineOptions::default()
        });
        if phase == 0 {
            test.upstream.plan(OpeningPlan::Hold);
        }
        let (started, call) = begin(&test, CHAT).await;
        if phase == 2 {
            call.token("x");
        }
        settle().await;
        let generation = started.guard.generation().clone();
        let second = generation.attach();
        drop(started);
        settle().await;
        assert!(!generation.is_over(), "a reader is left");
        let before = Instant::now();
        drop(second);
        call.gone().await;
        ended(&generation, "cancelled", None).await;
        assert_eq!(Instant::now(), before);
    }
}

#[tokio::test(start_paused = true)]
async fn generation_runs_for_its_grace_without_readers() {
    let test = engine();
    let (started, call) = begin(&test, CHAT).await;
    call.token("x");
    settle().await;
    let generation = started.guard.generation().clone();
    let before = Instant::now();
    drop(started);
    ended(&generation, "cancelled", None).await;
    assert!(
        (Instant::now() - before).abs_diff(seconds(30)) <= Duration::from_millis(2),
        "after {:?}",
        Instant::now() - before
    );
    call.gone().await;
}

#[tokio::test(start_paused = true)]
async fn reader_within_the_grace_keeps_the_generation() {
    let test = engine();
    let (started, call) = begin(&test, CHAT).await;
    let generation = started.guard.generation().clone();
    drop(started);
    tokio::time::sleep(seconds(29)).await;
    let Ok(Resumption::Read { guard, .. }) = resume(&test, &generation, Some(0)) else {
        panic!("there is something to read")
    };
    tokio::time::sleep(seconds(1000)).await;
    assert!(!generation.is_over());
    // When the next reader leaves, the full grace starts again.
    drop(guard);
    tokio::time::sleep(seconds(29)).await;
    assert!(!generation.is_over());
    let guard = generation.attach();
    complete(&call, "x");
    ended(guard.generation(), "completed", None).await;
}

#[tokio::test(start_paused = true)]
async fn tokens_do_not_extend_the_grace() {
    let test = engine();
    let (started, call) = begin(&test, CHAT).await;
    let generation = started.guard.generation().clone();
    drop(started);
    let before = Instant::now();
    while !generation.is_over() {
        assert!(
            Instant::now() - before < seconds(31),
            "it still runs without a reader"
        );
        call.token("x");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    ended(&generation, "cancelled", None).await;
}

#[tokio::test(start_paused = true)]
async fn background_generation_runs_without_readers() {
    let test = TestEngine::new(EngineOptions {
        grace: Duration::ZERO,
        ..EngineOptions::default()
    });
    let (started, call) = begin(&test, r#"{"input":"hi","background":true}"#).await;
    let generation = started.guard.generation().clone();
    drop(started);
    tokio::time::sleep(seconds(10_000)).await;
    complete(&call, "x");
    ended(&generation, "completed", None).await;
}

// === Positions ===

/// Applies the resume table to an EventSource.
fn resume(
    test: &TestEngine,
    generation: &Arc<Generation>,
    after: Option<u64>,
) -> Result<Resumption, ApiError> {
    test.engine
        .read(generation.attach(), after, ReaderKind::EventSource)
}

#[tokio::test(start_paused = true)]
async fn resume_position_selects_the_result() {
    let test = engine();
    let (started, call) = begin(&test, CHAT).await;
    call.token("x");
    settle().await;
    let generation = started.guard.generation().clone();
    let next = generation.tail().unwrap().next.0;
    let from = |resumption: Result<Resumption, ApiError>| match resumption {
        Ok(Resumption::Read { from, .. }) => Ok(from.0),
        other => Err(format!("{other:?}")),
    };
    assert_eq!(from(resume(&test, &generation, None)), Ok(0));
    assert_eq!(from(resume(&test, &generation, Some(0))), Ok(1));
    assert_eq!(
        from(resume(&test, &generation, Some(next - 1))),
        Ok(next),
        "at the head there is something to wait for"
    );
    for past in [next, next + 1] {
        assert_eq!(from(resume(&test, &generation, Some(past))), Ok(past + 1));
    }
    complete(&call, "y");
    generation.ended().await;
    let next = generation.tail().unwrap().next.0;
    assert_eq!(
        from(resume(&test, &generation, Some(next - 2))),
        Ok(next - 1)
    );
    assert!(matches!(
        resume(&test, &generation, Some(next - 1)),
        Ok(Resumption::NothingLeft { .. })
    ));
    assert!(matches!(
        resume(&test, &generation, Some(next)),
        Ok(Resumption::Reset { .. })
    ));
}

// === Bounds ===

#[tokio::test(start_paused = true)]
async fn answer_over_the_size_limit_fails() {
    for limits in [
        LogLimits {
            bytes: 4096,
            events: 1 << 20,
        },
        LogLimits {
            bytes: 1 << 20,
            events: 20,
        },
    ] {
        let test = TestEngine::new(EngineOptions {
            limits,
            ..EngineOptions::default()
        });
        let (started, call) = begin(&test, CHAT).await;
        let generation = started.guard.generation().clone();
        for _ in 0..2000 {
            call.token("some words ");
        }
        let audit = ended(&generation, "failed", Some("stream_too_large")).await;
        assert!(
            audit.text.starts_with("some words "),
            "records below the limit are kept"
        );
        assert!(generation.log().memory_size() < 16 * 1024);
        call.gone().await;
    }
}

#[tokio::test(start_paused = true)]
async fn open_generations_are_limited() {
    let mut options = EngineOptions::default();
    options.retention.max_open = 2;
    let test = TestEngine::new(options);
    let (_first, call) = begin(&test, CHAT).await;
    let _second = begin(&test, CHAT).await;
    for _ in 0..3 {
        let error = test.try_start(CHAT).unwrap_err();
        assert!(error.is(ErrorCode::Overloaded), "{error:?}");
        assert!(error.retry_after.is_some());
    }
    assert_eq!(test.engine.registry().open(), 2);
    complete(&call, "x");
    settle().await;
    assert_eq!(test.engine.registry().open(), 1);
    let _third = test.start(CHAT);
}

#[tokio::test(start_paused = true)]
async fn running_generations_are_not_evicted_under_pressure() {
    let mut options = EngineOptions::default();
    options.retention.max_memory = 64 * 1024;
    let test = TestEngine::new(options);
    let (started, call) = begin(&test, CHAT).await;
    for _ in 0..200 {
        call.token(&"x".repeat(1000));
    }
    settle().await;
    let error = test.try_start(CHAT).unwrap_err();
    assert!(error.is(ErrorCode::Overloaded), "{error:?}");
    call.finish("stop").done().end(BodyEnd::Clean);
    let mut reader = Reader::new(started.guard, 0, Dialect::Responses);
    // It may be dropped once nothing reads it. A reader before that gets everything.
    reader.read_to_end().await.unwrap();
    drop(reader);
    settle().await;
    test.engine.registry().sweep(Instant::now());
    assert!(
        test.engine.registry().used() <= 64 * 1024,
        "{} bytes are still held",
        test.engine.registry().used()
    );
    test.try_start(CHAT).unwrap();
}

#[tokio::test(start_paused = true)]
async fn running_inputs_are_counted_until_their_generations_are_gone() {
    const INPUT: usize = 100_000;
    let mut options = EngineOptions::default();
    options.retention.max_memory = 1 << 20;
    let test = TestEngine::new(options);
    let body = |size: usize| format!(r#"{{"input":"{}"}}"#, "x".repeat(size));
    let mut running = Vec::new();
    let error = loop {
        match test.try_start(&body(INPUT)) {
            Ok(started) => running.push((started, test.upstream.call().await)),
            Err(error) => break error,
        }
    };
    assert!(error.is(ErrorCode::Overloaded), "{error:?}");
    assert!(error.retry_after.is_some());
    assert!((3..=5).contains(&running.len()), "{} run", running.len());
    for kind in [AccountKind::Inputs, AccountKind::Requests] {
        let held = test.account.held(kind);
        assert!(held >= running.len() * INPUT, "{held} bytes of {kind:?}");
    }
    let error = test.try_start(&body(300_000)).unwrap_err();
    assert!(error.is(ErrorCode::BodyTooLarge), "{error:?}");
    for (started, call) in running {
        complete(&call, "x");
        started.guard.generation().ended().await;
        test.engine
            .delete(started.guard.generation())
            .await
            .unwrap();
    }
    settle().await;
    tokio::time::sleep(seconds(1)).await;
    assert_eq!(test.account.committed(), 0);
}

#[tokio::test(start_paused = true)]
async fn closed_engine_refuses_starts() {
    let test = engine();
    let (started, call) = begin(&test, CHAT).await;
    test.engine.registry().close();
    test.tasks.close();
    assert!(
        test.try_start(CHAT)
            .unwrap_err()
            .is(ErrorCode::ShuttingDown)
    );
    complete(&call, "x");
    ended(started.guard.generation(), "completed", None).await;
    test.tasks.wait().await;
}

#[tokio::test(start_paused = true)]
async fn refused_request_takes_no_slot() {
    let test = engine();
    for body in [
        r#"{"input":"hi","model":"unknown"}"#,
        r#"{"input":"hi","previous_response_id":"resp_missing"}"#,
    ] {
        test.try_start(body).unwrap_err();
    }
    assert_eq!(
        (test.engine.registry().open(), test.engine.registry().len()),
        (0, 0)
    );
}

// === Retention ===

fn find(test: &TestEngine, generation: &Generation) -> Result<Arc<Generation>, ApiError> {
    test.find(&generation.meta().id, &Owner::Anonymous)
}

/// Returns a finished generation that only the test holds.
async fn finished(test: &TestEngine, body: &str, text: &str) -> Arc<Generation> {
    let (started, call) = begin(test, body).await;
    complete(&call, text);
    started.guard.generation().ended().await;
    // Its task has yet to notify the registry.
    settle().await;
    started.guard.generation().clone()
}

#[tokio::test(start_paused = true)]
async fn log_is_dropped_before_its_response_object() {
    let test = engine();
    let generation = finished(&test, CHAT, "x").await;
    let last = generation.tail().unwrap().next.0 - 1;
    let object = generation.response_json();

    tokio::time::sleep(seconds(590)).await;
    test.engine.registry().sweep(Instant::now());
    assert!(matches!(
        resume(&test, &generation, None),
        Ok(Resumption::Read { .. })
    ));

    tokio::time::sleep(seconds(10)).await;
    test.engine.registry().sweep(Instant::now());
    assert!(matches!(
        resume(&test, &generation, None),
        Ok(Resumption::Reset { .. })
    ));
    assert!(matches!(
        resume(&test, &generation, Some(1)),
        Ok(Resumption::Reset { .. })
    ));
    assert!(
        matches!(
            resume(&test, &generation, Some(last)),
            Ok(Resumption::NothingLeft { .. })
        ),
        "who has seen the end needs nothing more"
    );
    assert_eq!(
        find(&test, &generation).unwrap().response_json(),
        object,
        "the complete object outlives its log"
    );
    assert_eq!(test.account.held(AccountKind::Logs), 0);
    assert!(test.engine.registry().used() > 0);

    tokio::time::sleep(seconds(86_400)).await;
    test.engine.registry().sweep(Instant::now());
    assert!(
        find(&test, &generation)
            .unwrap_err()
            .is(ErrorCode::NotFound)
    );
    drop(generation);
    assert_eq!(
        (test.engine.registry().used(), test.engine.registry().len()),
        (0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn unstored_response_is_dropped_with_its_log() {
    let test = engine();
    let generation = finished(&test, r#"{"input":"hi","store":false}"#, "x").await;
    assert!(find(&test, &generation).is_ok());
    tokio::time::sleep(seconds(601)).await;
    test.engine.registry().sweep(Instant::now());
    assert!(find(&test, &generation).is_err());
    drop(generation);
    assert_eq!(
        (test.engine.registry().used(), test.engine.registry().len()),
        (0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn running_generation_is_never_swept() {
    let test = engine();
    let (started, call) = begin(&test, CHAT).await;
    tokio::time::sleep(seconds(1_000_000)).await;
    test.engine.registry().sweep(Instant::now());
    assert!(find(&test, started.guard.generation()).is_ok());
    complete(&call, "x");
    ended(started.guard.generation(), "completed", None).await;
}

#[tokio::test(start_paused = true)]
async fn oldest_finished_log_is_evicted_first() {
    let mut options = EngineOptions::default();
    options.retention.max_memory = 200 * 1024;
    let test = TestEngine::new(options);
    let large = "x".repeat(30_000);
    let mut generations = Vec::new();
    for _ in 0..12 {
        // A reference would keep the object in memory.
        generations.push(Arc::downgrade(&finished(&test, CHAT, &large).await));
        test.engine.registry().sweep(Instant::now());
        assert!(
            test.engine.registry().used() <= 200 * 1024,
            "{} bytes",
            test.engine.registry().used()
        );
    }
    let logs: Vec<bool> = generations
        .iter()
        .map(|generation| {
            let generation = generation.upgrade();
            generation.is_some_and(|generation| generation.tail().is_ok())
        })
        .collect();
    let first_kept = logs.iter().position(|kept| *kept).unwrap();
    assert!(first_kept > 0, "nothing was dropped");
    assert!(
        logs[first_kept..].iter().all(|kept| *kept),
        "not the oldest first: {logs:?}"
    );
    let objects: Vec<bool> = generations
        .iter()
        .map(|generation| {
            let generation = generation.upgrade();
            generation.is_some_and(|generation| find(&test, &generation).is_ok())
        })
        .collect();
    let first_object = objects.iter().position(|kept| *kept).unwrap();
    assert!(
        objects[first_object..].iter().all(|kept| *kept),
        "not the oldest first: {objects:?}"
    );
    assert!(
        first_object <= first_kept,
        "an object was dropped before its log"
    );
}

#[tokio::test(start_paused = true)]
async fn relief_gives_back_as_much_as_is_missing() {
    let test = engine();
    for _ in 0..40 {
        // What it held at its end is more than it holds without its reader.
        finished(&test, CHAT, "x").await;
    }
    let registry = test.engine.registry();
    for missing in [registry.used() / 2, registry.used() / 4] {
        let before = registry.used();
        registry.relieve(missing);
        assert!(registry.used() <= before - missing);
    }
    assert!(registry.used() > 0);
}

#[tokio::test(start_paused = true)]
async fn log_with_a_reader_is_never_shed() {
    let mut options = EngineOptions::default();
    options.retention.max_memory = 200 * 1024;
    let test = TestEngine::new(options);
    let first = finished(&test, CHAT, &"x".repeat(30_000)).await;
    let mut reader = Reader::new(first.attach(), 0, Dialect::Responses);
    assert!(reader.read_piece());
    assert_eq!(reader.end(), None, "the reader is not at the end");
    for _ in 0..8 {
        finished(&test, CHAT, &"x".repeat(30_000)).await;
    }
    reader.read_to_end().await.unwrap();
    drop(reader);
    for _ in 0..8 {
        finished(&test, CHAT, &"x".repeat(30_000)).await;
    }
    assert!(first.tail().is_err(), "it is shed once it is not read");
}

#[tokio::test(start_paused = true)]
async fn readers_of_a_deleted_log_get_an_error() {
    let test = engine();
    let first = finished(&test, CHAT, &"x".repeat(30_000)).await;
    let mut reader = Reader::new(first.attach(), 0, Dialect::Responses);
    assert!(reader.read_piece());
    test.engine.delete(&first).await.unwrap();
    assert_eq!(reader.read_to_end().await, Err(SubscriptionError::Expired));
}

#[tokio::test(start_paused = true)]
async fn delete_releases_all_memory() {
    let test = engine();
    let generation = finished(&test, CHAT, "x").await;
    assert!(test.engine.registry().used() > 0);
    test.engine.delete(&generation).await.unwrap();
    assert_eq!(test.account.held(AccountKind::Logs), 0);
    drop(generation);
    assert_eq!((test.account.used(), test.engine.registry().len()), (0, 0));
    let (started, call) = begin(&test, CHAT).await;
    test.engine
        .delete(started.guard.generation())
        .await
        .unwrap();
    drop((started, call));
    settle().await;
    assert_eq!(
        (test.account.committed(), test.engine.registry().open()),
        (0, 0)
    );
}

// === Owners ===

fn owned(body: &str, owner: &str) -> StartRequest {
    StartRequest {
        owner: Owner::Named(owner.into()),
        ..TestEngine::request(body)
    }
}

#[tokio::test(start_paused = true)]
async fn streams_of_another_owner_are_not_found() {
    let test = engine();
    let started = test.start_request(owned(RESPONSES, "alice")).unwrap();
    let call = test.upstream.call().await;
    complete(&call, "x");
    let generation = started.guard.generation().clone();
    generation.ended().await;
    let id = &generation.meta().id;
    assert!(test.find(id, &Owner::Named("alice".into())).is_ok());
    let unknown = test
        .find(&GenerationId::random(), &Owner::Named("bob".into()))
        .unwrap_err();
    for stranger in [Owner::Named("bob".into()), Owner::Anonymous] {
        let error = test.find(id, &stranger).unwrap_err();
        assert_eq!(
            (error.status, error.code),
            (unknown.status, unknown.code.clone()),
            "a stranger learns that it exists"
        );
    }
}

// === Idempotency ===

fn keyed(body: &str, key: &str) -> StartRequest {
    StartRequest {
        idempotency_key: Some(key.to_owned()),
        ..TestEngine::request(body)
    }
}

#[tokio::test(start_paused = true)]
async fn repeated_key_attaches_to_the_same_generation() {
    let test = engine();
    let first = test.start_request(keyed(CHAT, "k")).unwrap();
    let again = test.start_request(keyed(CHAT, "k")).unwrap();
    let call = test.upstream.call().await;
    assert_eq!((first.fresh, again.fresh), (true, false));
    assert_eq!(test.engine.registry().open(), 1);
    let id = |started: &Started| started.guard.generation().meta().id.clone();
    assert_eq!(id(&first), id(&again));
    complete(&call, "x");
    first.guard.generation().ended().await;
    let after = test.start_request(keyed(CHAT, "k")).unwrap();
    assert_eq!(
        (after.fresh, id(&after)),
        (false, id(&first)),
        "as long as its response object lives"
    );
    assert_eq!(test.upstream.waiting(), 0, "the upstream was asked twice");
    // The second reader keeps it running when the first leaves.
    let generation = first.guard.generation().clone();
    drop(first);
    drop(again);
    tokio::time::sleep(seconds(40)).await;
    assert_eq!(generation.status(), Status::Completed);
}

#[tokio::test(start_paused = true)]
async fn key_is_scoped_to_owner_route_and_body() {
    let test = engine();
    let first = test.start_request(keyed(CHAT, "k")).unwrap();
    let other_body = r#"{"messages":[{"role":"user","content":"ho"}]}"#;
    let error = test.start_request(keyed(other_body, "k")).unwrap_err();
    assert!(error.is(ErrorCode::IdempotencyMismatch), "{error:?}");
    let other_route = StartRequest {
        route: "/v1/chat/completions",
        ..keyed(CHAT, "k")
    };
    assert!(
        test.start_request(other_route)
            .unwrap_err()
            .is(ErrorCode::IdempotencyMismatch)
    );
    let other_owner = StartRequest {
        owner: Owner::Named("bob".into()),
        ..keyed(CHAT, "k")
    };
    let second = test.start_request(other_owner).unwrap();
    assert!(second.fresh, "another owner's key is another key");
    assert!(test.start_request(keyed(CHAT, "l")).unwrap().fresh);
    drop(first);
}

#[tokio::test(start_paused = true)]
async fn key_lives_as_long_as_the_response_object() {
    let test = engine();
    let first = test.start_request(keyed(CHAT, "k")).unwrap();
    complete(&test.upstream.call().await, "x");
    first.guard.generation().ended().await;
    settle().await;
    tokio::time::sleep(seconds(700)).await;
    test.engine.registry().sweep(Instant::now());
    assert!(
        !test.start_request(keyed(CHAT, "k")).unwrap().fresh,
        "the log is gone, the object is not"
    );
    test.engine.delete(first.guard.generation()).await.unwrap();
    assert!(test.start_request(keyed(CHAT, "k")).unwrap().fresh);
}

#[tokio::test(start_paused = true)]
async fn failure_before_the_first_chunk_releases_the_key() {
    let refused = |call: &Call| {
        call.refuse(OpenError::Failed(ApiError::new(
            ErrorCode::UpstreamUnreachable,
            "No connection.",
        )))
    };
    let cut = |call: &Call| {
        call.answer(UpstreamHead::default());
        call.end(BodyEnd::Broken);
    };
    for (what, fail) in [
        ("refused", &refused as &dyn Fn(&Call)),
        ("cut after the head", &cut),
    ] {
        for body in [
            CHAT,
            r#"{"messages":[{"role":"user","content":"another"}]}"#,
        ] {
            let test = engine();
            test.upstream.plan(OpeningPlan::Hold);
            let first = test.start_request(keyed(CHAT, "k")).unwrap();
            fail(&test.upstream.call().await);
            first.guard.generation().ended().await;
            let again = test
                .start_request(keyed(body, "k"))
                .unwrap_or_else(|error| panic!("{what}: {error:?}"));
            assert!(again.fresh, "{what}");
            // Removing the failed generation must not release the new one's key.
            test.engine.delete(first.guard.generation()).await.unwrap();
            assert!(
                !test.start_request(keyed(body, "k")).unwrap().fresh,
                "{what}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn failure_after_the_first_chunk_keeps_the_key() {
    let test = engine();
    let first = test.start_request(keyed(CHAT, "k")).unwrap();
    test.upstream.call().await.token("x").end(BodyEnd::Broken);
    first.guard.generation().ended().await;
    assert!(
        !test.start_request(keyed(CHAT, "k")).unwrap().fresh,
        "tokens were billed"
    );
}

#[tokio::test(start_paused = true)]
async fn failed_start_releases_the_key() {
    let test = engine();
    for _ in 0..2 {
        let error = test
            .start_request(keyed(r#"{"input":"hi","model":"unknown"}"#, "k"))
            .unwrap_err();
        assert!(error.is(ErrorCode::NotFound), "{error:?}");
    }
    assert!(test.start_request(keyed(CHAT, "k")).unwrap().fresh);
}

#[test]
fn concurrent_requests_with_one_key_start_once() {
    let test = Arc::new(engine());
    let barrier = Arc::new(std::sync::Barrier::new(8));
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let (test, barrier) = (test.clone(), barrier.clone());
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    barrier.wait();
                    // While another thread starts it, the answer is to retry.
                    loop {
                        match test.start_request(keyed(CHAT, "k")) {
                            Ok(started) => {
                                // A runtime that stops ends its generation, which would release
                                // the key.
                                barrier.wait();
                                return (
                                    started.fresh,
                                    started.guard.generation().meta().id.clone(),
                                );
                            }
                            Err(error) => assert!(error.is(ErrorCode::Overloaded), "{error:?}"),
                        }
                        tokio::task::yield_now().await;
                    }
                })
            })
        })
        .collect();
    let found: Vec<_> = workers
        .into_iter()
        .map(|worker| worker.join().unwrap())
        .collect();
    assert_eq!(found.iter().filter(|(fresh, _)| *fresh).count(), 1);
    assert!(found.iter().all(|(_, id)| *id == found[0].1));
}

// === Secrets ===

#[tokio::test(start_paused = true)]
async fn debug_shows_no_contents() {
    let test = engine();
    let (started, call) = begin(
        &test,
        r#"{"input":"hush-question","instructions":"hush-instructions"}"#,
    )
    .await;
    for _ in 0..3 {
        call.token("hush-answer");
    }
    settle().await;
    let mut reader = Reader::new(started.guard.generation().attach(), 0, Dialect::Responses);
    reader.read_piece();
    let subscription = Subscription::new(
        started.guard.generation().attach(),
        Seq(0),
        Dialect::Chat,
        Arc::new(JsonLines::default()),
    );
    let mut log_reader = LogReader::new(started.guard.generation().log().clone(), Seq(0));
    let mut batch = RecordBatch::default();
    log_reader.read(1 << 20, &mut batch).unwrap();
    let mut records = RecordWriter::new();
    let mut translator = ChatTranslator::new(1);
    translator.payload(
        None,
        br#"{"choices":[{"index":0,"delta":{"content":"hush-answer"}}]}"#,
        true,
        &mut records,
    );
    let shown = format!(
        "{started:?} {:?} {subscription:?} {log_reader:?} {batch:?} {records:?} {translator:?} {:?} {:?}",
        test.engine,
        started.guard.generation().log(),
        call.request(),
    );
    // Bytes are shown as a list of numbers.
    let bytes = format!("{:?}", b"hush").trim_matches(['[', ']']).to_owned();
    assert!(
        !shown.contains("hush") && !shown.contains(&bytes),
        "{shown}"
    );
    assert!(shown.contains("Generation"), "the output is empty");
}

// === Conversations ===

fn after(id: &GenerationId) -> String {
    json!({"input": "and then?", "previous_response_id": id.as_str()}).to_string()
}

#[tokio::test(start_paused = true)]
async fn next_turn_sends_the_conversation_in_order() {
    let test = engine();
    let mut previous: Option<GenerationId> = None;
    let mut call = None;
    for turn in 0..3 {
        let mut body = json!({"input": format!("question {turn}")});
        if let Some(id) = &previous {
            body["previous_response_id"] = id.as_str().into();
        }
        let (started, asked) = begin(&test, &body.to_string()).await;
        complete(&asked, &format!("answer {turn}"));
        started.guard.generation().ended().await;
        previous = Some(started.guard.generation().meta().id.clone());
        call = Some(asked);
    }
    let body = call.unwrap().body();
    let messages: Vec<(String, String)> = body["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| {
            (
                message["role"].as_str().unwrap().to_owned(),
                plain(&message["content"]),
            )
        })
        .collect();
    let turns = [
        ("user", "question 0"),
        ("assistant", "answer 0"),
        ("user", "question 1"),
        ("assistant", "answer 1"),
        ("user", "question 2"),
    ];
    assert_eq!(
        messages,
        turns.map(|(role, text)| (role.to_owned(), text.to_owned()))
    );
    assert!(
        body.get("previous_response_id").is_none(),
        "a chat upstream knows no responses"
    );
}

/// Returns the text of a message's content, a string or a list of parts.
fn plain(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts
            .iter()
            .map(|part| part["text"].as_str().unwrap())
            .collect(),
        other => panic!("not a valid content: {other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn conversation_outlives_the_log() {
    let test = engine();
    let first = finished(&test, RESPONSES, "x").await;
    tokio::time::sleep(seconds(700)).await;
    test.engine.registry().sweep(Instant::now());
    let (_, call) = begin(&test, &after(&first.meta().id)).await;
    let messages = call.body()["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| plain(&message["content"]))
        .collect::<Vec<_>>();
    assert_eq!(messages, ["hi", "x", "and then?"]);
}

#[tokio::test(start_paused = true)]
async fn previous_response_must_exist_have_ended_and_be_stored() {
    let test = engine();
    let refused = |id: &GenerationId, code: ErrorCode| {
        let error = test.try_start(&after(id)).unwrap_err();
        assert!(error.is(code), "{error:?}");
        assert_eq!(error.param.as_deref(), Some("previous_response_id"));
    };
    refused(&GenerationId::random(), ErrorCode::PreviousResponseNotFound);

    let unstored = finished(&test, r#"{"input":"hi","store":false}"#, "x").await;
    refused(&unstored.meta().id, ErrorCode::PreviousResponseNotFound);

    let (running, call) = begin(&test, RESPONSES).await;
    refused(
        &running.guard.generation().meta().id,
        ErrorCode::PreviousResponseUnusable,
    );
    call.end(BodyEnd::Broken);
    running.guard.generation().ended().await;
    refused(
        &running.guard.generation().meta().id,
        ErrorCode::PreviousResponseUnusable,
    );

    let (cancelled, _call) = begin(&test, RESPONSES).await;
    cancelled.guard.generation().cancel();
    cancelled.guard.generation().ended().await;
    refused(
        &cancelled.guard.generation().meta().id,
        ErrorCode::PreviousResponseUnusable,
    );

    let foreign = test.start_request(owned(RESPONSES, "alice")).unwrap();
    complete(&test.upstream.call().await, "x");
    foreign.guard.generation().ended().await;
    refused(
        &foreign.guard.generation().meta().id,
        ErrorCode::PreviousResponseNotFound,
    );

    let deleted = finished(&test, RESPONSES, "x").await;
    test.engine.delete(&deleted).await.unwrap();
    refused(&deleted.meta().id, ErrorCode::PreviousResponseNotFound);
}

#[tokio::test(start_paused = true)]
async fn incomplete_answer_can_be_continued() {
    let test = engine();
    let (started, call) = begin(&test, RESPONSES).await;
    call.token("half")
        .finish("length")
        .done()
        .end(BodyEnd::Clean);
    started.guard.generation().ended().await;
    let (_, call) = begin(&test, &after(&started.guard.generation().meta().id)).await;
    assert_eq!(plain(&call.body()["messages"][1]["content"]), "half");
}

// === Upstreams that speak Responses ===

#[tokio::test(start_paused = true)]
async fn responses_upstream_is_relayed_with_gateway_ids() {
    let test = TestEngine::new(EngineOptions {
        api: Api::Responses,
        ..EngineOptions::default()
    });
    let (started, call) = begin(&test, RESPONSES).await;
    let generation = started.guard.generation().clone();
    let response = |status: &str| {
        format!(
            r#"{{"id":"resp_theirs","object":"response","status":"{status}","output":[],"strange":[1, 2]}}"#
        )
    };
    call.data(&format!(r#"{{"type":"response.created","sequence_number":0,"response":{}}}"#, response("in_progress")))
        .data(&format!(r#"{{"type":"response.in_progress","sequence_number":1,"response":{}}}"#, response("in_progress")))
        .data(r#"{"type":"response.output_item.added","sequence_number":2,"output_index":0,"item":{"type":"message","id":"m","role":"assistant","status":"in_progress","content":[]}}"#)
        .data(r#"{"type":"response.content_part.added","sequence_number":3,"item_id":"m","output_index":0,"content_index":0,"part":{"type":"output_text","text":""}}"#)
        .data(r#"{"type":"response.output_text.delta","sequence_number":4,"item_id":"m","output_index":0,"content_index":0,"delta":"Hi","unknown":{"a":1}}"#)
        .data(r#"{"type":"keepalive"}"#)
        .data(&format!(r#"{{"type":"response.completed","sequence_number":9,"response":{}}}"#, response("completed")))
        .end(BodyEnd::Clean);
    let audit = ended(&generation, "completed", None).await;
    assert_eq!(audit.object["id"], generation.meta().id.as_str());
    assert_eq!(audit.object["strange"], json!([1, 2]));
    assert_eq!(
        audit
            .events_of("response.output_text.delta")
            .next()
            .unwrap()["unknown"],
        json!({"a": 1})
    );
    assert_eq!(audit.text, "Hi");
    assert!(
        audit
            .chat
            .iter()
            .any(|payload| payload.contains(r#""content":"Hi""#))
    );
    assert_eq!(audit.chat.last().map(String::as_str), Some("[DONE]"));
}

#[tokio::test(start_paused = true)]
async fn responses_upstream_end_without_terminal_event_fails() {
    for (last, code) in [
        (None, "upstream_truncated"),
        (
            Some(r#"{"type":"error","error":{"code":"overloaded","message":"Too much."}}"#),
            "overloaded",
        ),
        (
            Some(
                r#"{"type":"response.failed","response":{"id":"r","status":"failed","output":[],"error":{"code":"overloaded","message":"Too much."}}}"#,
            ),
            "overloaded",
        ),
    ] {
        let test = TestEngine::new(EngineOptions {
            api: Api::Responses,
            ..EngineOptions::default()
        });
        let (started, call) = begin(&test, RESPONSES).await;
        call.data(r#"{"type":"response.created","response":{"id":"r","status":"in_progress","output":[]}}"#);
        if let Some(last) = last {
            call.data(last);
        }
        call.end(BodyEnd::Clean);
        ended(started.guard.generation(), "failed", Some(code)).await;
    }
}

// === Sharing ===

#[tokio::test(start_paused = true)]
async fn cached_frames_beyond_the_read_position_are_not_used() {
    let test = engine();
    let (started, call) = begin(&test, CHAT).await;
    let generation = started.guard.generation();
    let mut first = Reader::new(generation.attach(), 0, Dialect::Responses);
    let mut second = Reader::new(generation.attach(), 0, Dialect::Responses);
    call.token("a");
    settle().await;
    first.read_piece();
    call.token("b");
    settle().await;
    // Reads up to "b", and returns what the first reader has encoded, which ends before it.
    second.read_piece();
    call.token("c");
    settle().await;
    // Encodes "b" and "c" as one entry.
    first.read_piece();
    second.read_now();
    for reader in [first, second] {
        let numbers: Vec<u64> = reader.lines().iter().map(|line| line.seq).collect();
        let last = generation.tail().unwrap().next.0;
        assert_eq!(
            numbers,
            (0..last).collect::<Vec<_>>(),
            "a number is missing or repeated"
        );
    }
}

// === Memory ===

#[tokio::test(start_paused = true)]
async fn short_answer_holds_less_once_its_last_reader_has_left_and_reads_the_same() {
    let test = engine();
    let (started, call) = begin(&test, CHAT).await;
    for token in ["one", " two", " three", " four", " five"] {
        call.token(token);
    }
    complete(&call, " six");
    let generation = started.guard.generation().clone();
    generation.ended().await;
    let mut first = Vec::new();
    for dialect in [Dialect::Chat, Dialect::Responses, Dialect::Text] {
        let mut reader = Reader::new(generation.attach(), 0, dialect);
        reader.read_to_end().await.unwrap();
        first.push(reader.bytes().to_vec());
    }
    let charged = || generation.account().held(AccountKind::Objects);
    let (held, before) = (generation.memory_size(), charged());
    drop(started);
    assert_eq!(generation.readers(), 0);
    let released = held - generation.memory_size();
    assert!(released > 200, "{released} bytes of templates");
    assert_eq!(before - charged(), released);

    // A reader needs them, and the last of two gives them up.
    let (one, two) = (generation.attach(), generation.attach());
    assert_eq!((generation.memory_size(), charged()), (held, before));
    drop(one);
    assert_eq!((generation.memory_size(), charged()), (held, before));
    drop(two);
    assert_eq!(
        (held - generation.memory_size(), before - charged()),
        (released, released)
    );

    // Also in the middle, where a delta is the first record.
    for (dialect, whole) in [Dialect::Chat, Dialect::Responses, Dialect::Text]
        .into_iter()
        .zip(first)
    {
        let mut reader = Reader::new(generation.attach(), 0, dialect);
        reader.read_to_end().await.unwrap();
        assert_eq!(reader.bytes(), whole, "{dialect:?}");
        let mut rest = Reader::new(generation.attach(), 7, dialect);
        rest.read_to_end().await.unwrap();
        assert!(whole.ends_with(rest.bytes()), "{dialect:?}");
        assert!(!rest.bytes().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn long_answer_keeps_its_templates() {
    let test = engine();
    let (started, call) = begin(&test, CHAT).await;
    let text = "x".repeat(1_000);
    for _ in 0..20 {
        call.token(&text);
    }
    complete(&call, "y");
    let generation = started.guard.generation().clone();
    generation.ended().await;
    let held = generation.memory_size();
    drop(started);
    assert_eq!(generation.readers(), 0);
    assert_eq!(generation.memory_size(), held);
}

#[tokio::test(start_paused = true)]
async fn background_answer_without_a_reader_holds_no_templates_after_its_end() {
    let test = engine();
    let (started, call) = begin(&test, r#"{"input":"hi","background":true}"#).await;
    let generation = started.guard.generation().clone();
    drop(started);
    call.token("one").token(" two");
    settle().await;
    let running = generation.memory_size();
    complete(&call, " three");
    generation.ended().await;
    settle().await;
    assert!(generation.memory_size() < running);
    let held = |kind| generation.account().held(kind);
    assert_eq!(
        held(AccountKind::Objects) + held(AccountKind::Inputs),
        generation.memory_size()
    );
}

#[tokio::test(start_paused = true)]
async fn open_stream_of_a_thousand_tokens_holds_little_more_than_its_tokens() {
    let test = engine();
    let (started, call) = begin(&test, CHAT).await;
    let generation = started.guard.generation().clone();
    settle().await;
    let before = generation.memory_size();
    let words = [" the", " quick", " brown", " fox", " jumps", "."];
    for token in 0..1000 {
        call.token(words[token % words.len()]);
        if token % 16 == 0 {
            settle().await;
        }
    }
    settle().await;
    let log = generation.log().memory_size();
    let snapshot = generation.memory_size() - before;

    // What a growing buffer of the same records with an index of 8 bytes a record would hold.
    let mut reader = LogReader::new(generation.log().clone(), Seq(0));
    let mut batch = RecordBatch::default();
    let (mut bytes, mut index) = (Vec::<u8>::new(), Vec::<u64>::new());
    loop {
        reader.read(1 << 14, &mut batch).unwrap();
        if batch.is_empty() {
            break;
        }
        for record in &batch {
            bytes.extend_from_slice(record.payload);
            index.push(record.first_seq.0);
        }
    }
    let (bytes, index) = (bytes.capacity(), index.capacity() * 8);
    assert!(index.is_power_of_two() && generation.tail().unwrap().next.0 > 1000);
    println!("log {log} + snapshot {snapshot}; a buffer {bytes} + an index {index}");
    assert!(
        (log + snapshot) * 100 <= (bytes + index) * 105,
        "log {log} + snapshot {snapshot}; a buffer {bytes} + an index {index}"
    );
}
