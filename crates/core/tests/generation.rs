//! The life of a generation: whatever happens, exactly one terminal event, and nothing kept longer
//! than it should be.
//!
//! The clock is tokio's paused one: it moves only when every task waits, so minutes take no time
//! and nothing depends on the machine's speed.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokenwire_core::dialect::Dialect;
use tokenwire_core::engine::{ReaderKind, Resumption, StartRequest, Started};
use tokenwire_core::generation::{Generation, Subscription, SubscriptionError};
use tokenwire_core::log::{LogLimits, LogReader};
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::{GenerationId, Owner, Seq};
use tokenwire_core::model::record::RecordBatch;
use tokenwire_core::model::snapshot::{Api, Status};
use tokenwire_core::upstream::translate::{BodyEnd, ChatTranslator, RecordWriter};
use tokenwire_core::upstream::{OpenError, Refusal, Timeouts, UpstreamHead};
use tokenwire_testkit::{
    Audit, Call, EngineOptions, JsonLines, OpeningPlan, Reader, TestEngine, no_clocks, settle,
};
use tokio::time::Instant;

const CHAT: &str = r#"{"stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
const RESPONSES: &str = r#"{"input":"hi"}"#;

fn engine() -> TestEngine {
    TestEngine::new(EngineOptions::default())
}

fn clocked(timeouts: Timeouts) -> TestEngine {
    TestEngine::new(EngineOptions {
        timeouts,
        ..EngineOptions::default()
    })
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Starts a generation and takes its call.
async fn begin(test: &TestEngine, body: &str) -> (Started, Call) {
    let started = test.start(body);
    let call = test.upstream.call().await;
    (started, call)
}

/// An answer of one word, whole.
fn complete(call: &Call, text: &str) {
    call.token(text).finish("stop").done().end(BodyEnd::Clean);
}

/// Waits for the end and audits it; checks the status and the code or reason.
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
async fn a_whole_answer_completes() {
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
async fn an_upstream_that_never_waits_lets_others_have_their_turn() {
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
async fn an_answer_that_never_pauses_is_given_up_like_any_other() {
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
        "{} tokens were read that nobody wants",
        audit.text.len()
    );
    call.gone().await;
}

#[tokio::test(start_paused = true)]
async fn the_first_event_is_there_before_the_upstream_is_asked() {
    let test = engine();
    test.upstream.plan(OpeningPlan::Hold);
    let started = test.start(CHAT);
    assert_eq!(test.upstream.waiting(), 0, "its task has not run yet");
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
async fn a_background_generation_is_queued_first() {
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
async fn a_refusal_is_a_failure_with_the_upstreams_words() {
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
async fn a_connection_that_cannot_be_made_is_a_failure() {
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
async fn the_upstreams_head_is_told_to_those_who_wait_for_it() {
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
async fn a_body_that_ends_too_early_is_a_failure() {
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
                "what came before the cut is kept"
            );
            assert!(audit.chat.iter().all(|payload| payload != "[DONE]"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_ends_after_the_finish_is_whole() {
    for end in [BodyEnd::Clean, BodyEnd::Broken] {
        let test = engine();
        let (started, call) = begin(&test, CHAT).await;
        call.token("x").finish("stop").end(end);
        ended(started.guard.generation(), "completed", None).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_cannot_be_decoded_is_a_failure() {
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
async fn what_is_no_chunk_is_a_failure() {
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
async fn a_panic_ends_its_generation_and_no_other() {
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
        "nobody may wait for a head for ever"
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
fn a_runtime_that_stops_leaves_no_log_without_an_end() {
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
    // Before its task has run at all.
    let worker = runtime();
    let started = worker.block_on(async { test.start(CHAT) });
    drop(worker);
    check(&started);
    assert_eq!(test.engine.registry().open(), 0);
}

// === Cancelling ===

#[tokio::test(start_paused = true)]
async fn cancelling_is_immediate_in_every_phase() {
    // Before its task runs, while it connects, before the first token, between tokens, after the
    // finish.
    for phase in 0..5 {
        let test = clocked(Timeouts {
            first_token: seconds(60),
            between_tokens: seconds(60),
            ..no_clocks()
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
            "nobody may wait for a head for ever"
        );
        generation.cancel();
    }
}

#[tokio::test(start_paused = true)]
async fn cancelling_what_has_ended_changes_nothing() {
    let test = engine();
    let (started, call) = begin(&test, CHAT).await;
    complete(&call, "x");
    started.guard.generation().ended().await;
    started.guard.generation().cancel();
    settle().await;
    ended(started.guard.generation(), "completed", None).await;
}

#[tokio::test(start_paused = true)]
async fn deleting_stops_it_and_ends_every_wait() {
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
    test.engine.delete(&generation);
    assert_eq!(reader.read_to_end().await, Err(SubscriptionError::Expired));
    call.gone().await;
    assert!(
        test.engine
            .find(&generation.meta().id, &Owner::Anonymous)
            .is_err()
    );
    // A clock that is paused jumps to the end of this bound as soon as nothing else can happen.
    assert!(
        tokio::time::timeout(seconds(3600), waiting).await.is_ok(),
        "somebody waits for ever for the end of a deleted generation"
    );
}

// === Timeouts ===

#[tokio::test(start_paused = true)]
async fn the_first_token_has_its_clock() {
    for opened in [false, true] {
        let test = clocked(Timeouts {
            first_token: seconds(10),
            between_tokens: seconds(1),
            ..no_clocks()
        });
        test.upstream.plan(if opened {
            OpeningPlan::Answer
        } else {
            OpeningPlan::Hold
        });
        let before = Instant::now();
        let (started, call) = begin(&test, CHAT).await;
        if opened {
            // A chunk without a token does not stop this clock.
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
async fn silence_between_tokens_has_its_clock() {
    let test = clocked(Timeouts {
        first_token: seconds(100),
        between_tokens: seconds(10),
        ..no_clocks()
    });
    let (started, call) = begin(&test, CHAT).await;
    for _ in 0..5 {
        tokio::time::sleep(seconds(9)).await;
        call.token("x");
    }
    // Comments and empty chunks are no tokens.
    tokio::time::sleep(seconds(5)).await;
    call.bytes(": keep-alive\n\n").data(r#"{"choices":[]}"#);
    let last = Instant::now() - seconds(5);
    let audit = ended(
        started.guard.generation(),
        "failed",
        Some("between_tokens_timeout"),
    )
    .await;
    assert_eq!(audit.text, "xxxxx");
    // A timer's grain is a millisecond.
    assert!(
        (Instant::now() - last).abs_diff(seconds(10)) <= Duration::from_millis(2),
        "after {:?}",
        Instant::now() - last
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_one_piece_knows_only_the_clock_of_the_whole() {
    let test = clocked(Timeouts {
        first_token: seconds(1),
        between_tokens: seconds(1),
        total: seconds(60),
        ..no_clocks()
    });
    let whole = r#"{"messages":[{"role":"user","content":"hi"}]}"#;
    let (patient, call) = begin(&test, whole).await;
    tokio::time::sleep(seconds(59)).await;
    call.document(r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"late"},"finish_reason":"stop"}]}"#)
        .end(BodyEnd::Clean);
    let audit = ended(patient.guard.generation(), "completed", None).await;
    assert_eq!(audit.text, "late");
    let (late, _call) = begin(&test, whole).await;
    ended(late.guard.generation(), "failed", Some("total_timeout")).await;
}

#[tokio::test(start_paused = true)]
async fn the_whole_answer_has_its_clock() {
    let test = clocked(Timeouts {
        between_tokens: seconds(10),
        total: seconds(60),
        ..no_clocks()
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
async fn clocks_of_zero_never_run_out() {
    let test = engine();
    let (started, call) = begin(&test, CHAT).await;
    tokio::time::sleep(seconds(1_000_000)).await;
    call.token("x");
    tokio::time::sleep(seconds(1_000_000)).await;
    complete(&call, "y");
    ended(started.guard.generation(), "completed", None).await;
}

#[tokio::test(start_paused = true)]
async fn silence_after_the_finish_is_an_end() {
    for (reason, status, why) in [
        ("stop", "completed", None),
        ("length", "incomplete", Some("max_output_tokens")),
    ] {
        let test = clocked(Timeouts {
            between_tokens: seconds(60),
            ..no_clocks()
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
async fn usage_that_comes_late_is_waited_for() {
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

// === Readers come and go ===

#[tokio::test(start_paused = true)]
async fn without_grace_the_last_reader_takes_it_along() {
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
        assert!(!generation.is_over(), "somebody still reads it");
        let before = Instant::now();
        drop(second);
        call.gone().await;
        ended(&generation, "cancelled", None).await;
        assert_eq!(Instant::now(), before);
    }
}

#[tokio::test(start_paused = true)]
async fn it_runs_on_for_its_grace() {
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
async fn a_reader_that_comes_back_in_time_saves_it() {
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
    // The next one to leave has the whole grace again, whatever was left of the last.
    drop(guard);
    tokio::time::sleep(seconds(29)).await;
    assert!(!generation.is_over());
    let guard = generation.attach();
    complete(&call, "x");
    ended(guard.generation(), "completed", None).await;
}

#[tokio::test(start_paused = true)]
async fn tokens_do_not_prolong_the_grace() {
    let test = engine();
    let (started, call) = begin(&test, CHAT).await;
    let generation = started.guard.generation().clone();
    drop(started);
    let before = Instant::now();
    while !generation.is_over() {
        assert!(
            Instant::now() - before < seconds(31),
            "it runs on although nobody reads"
        );
        call.token("x");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    ended(&generation, "cancelled", None).await;
}

#[tokio::test(start_paused = true)]
async fn a_background_generation_needs_no_reader() {
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
async fn a_position_says_what_a_reader_gets() {
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
async fn an_answer_over_its_bound_ends() {
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
        assert!(audit.text.starts_with("some words "), "what fitted is kept");
        assert!(generation.log().memory_size() < 16 * 1024);
        call.gone().await;
    }
}

#[tokio::test(start_paused = true)]
async fn as_many_run_as_may() {
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
async fn memory_that_running_ones_hold_is_not_taken_from_them() {
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
    // Its end is the moment from which it may be dropped; what was read before that is whole.
    let _ = reader.read_to_end().await;
    settle().await;
    assert!(
        test.engine.registry().used() <= 64 * 1024,
        "{} bytes are still held",
        test.engine.registry().used()
    );
    test.try_start(CHAT).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_closed_engine_starts_nothing() {
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
async fn a_request_that_cannot_be_planned_takes_no_place() {
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

// === Keeping ===

fn find(test: &TestEngine, generation: &Generation) -> Result<Arc<Generation>, ApiError> {
    test.engine.find(&generation.meta().id, &Owner::Anonymous)
}

/// A finished generation without anybody who holds on to it but the test.
async fn finished(test: &TestEngine, body: &str, text: &str) -> Arc<Generation> {
    let (started, call) = begin(test, body).await;
    complete(&call, text);
    started.guard.generation().ended().await;
    // Its task has still to tell the registry.
    settle().await;
    started.guard.generation().clone()
}

#[tokio::test(start_paused = true)]
async fn a_log_goes_before_its_response_object() {
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
        "the object outlives its log whole"
    );
    assert_eq!(test.account.used(), 0);
    assert!(test.engine.registry().used() > 0);

    tokio::time::sleep(seconds(86_400)).await;
    test.engine.registry().sweep(Instant::now());
    assert!(
        find(&test, &generation)
            .unwrap_err()
            .is(ErrorCode::NotFound)
    );
    assert_eq!(
        (test.engine.registry().used(), test.engine.registry().len()),
        (0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_not_stored_goes_with_its_log() {
    let test = engine();
    let generation = finished(&test, r#"{"input":"hi","store":false}"#, "x").await;
    assert!(find(&test, &generation).is_ok());
    tokio::time::sleep(seconds(601)).await;
    test.engine.registry().sweep(Instant::now());
    assert!(find(&test, &generation).is_err());
    assert_eq!(
        (test.engine.registry().used(), test.engine.registry().len()),
        (0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn what_runs_is_never_swept() {
    let test = engine();
    let (started, call) = begin(&test, CHAT).await;
    tokio::time::sleep(seconds(1_000_000)).await;
    test.engine.registry().sweep(Instant::now());
    assert!(find(&test, started.guard.generation()).is_ok());
    complete(&call, "x");
    ended(started.guard.generation(), "completed", None).await;
}

#[tokio::test(start_paused = true)]
async fn under_pressure_the_oldest_finished_log_goes_first() {
    let mut options = EngineOptions::default();
    options.retention.max_memory = 200 * 1024;
    let test = TestEngine::new(options);
    let large = "x".repeat(30_000);
    let mut generations = Vec::new();
    for _ in 0..12 {
        generations.push(finished(&test, CHAT, &large).await);
        assert!(
            test.engine.registry().used() <= 200 * 1024,
            "{} bytes",
            test.engine.registry().used()
        );
    }
    let logs: Vec<bool> = generations
        .iter()
        .map(|generation| generation.tail().is_ok())
        .collect();
    let first_kept = logs.iter().position(|kept| *kept).unwrap();
    assert!(first_kept > 0, "nothing was dropped");
    assert!(
        logs[first_kept..].iter().all(|kept| *kept),
        "not the oldest first: {logs:?}"
    );
    let objects: Vec<bool> = generations
        .iter()
        .map(|generation| find(&test, generation).is_ok())
        .collect();
    let first_object = objects.iter().position(|kept| *kept).unwrap();
    assert!(
        objects[first_object..].iter().all(|kept| *kept),
        "not the oldest first: {objects:?}"
    );
    assert!(first_object <= first_kept, "an object goes before its log");
}

#[tokio::test(start_paused = true)]
async fn readers_of_a_dropped_log_are_told() {
    let mut options = EngineOptions::default();
    options.retention.max_memory = 200 * 1024;
    let test = TestEngine::new(options);
    let first = finished(&test, CHAT, &"x".repeat(30_000)).await;
    let mut reader = Reader::new(first.attach(), 0, Dialect::Responses);
    assert!(reader.read_piece());
    assert_eq!(reader.end(), None, "it stands in the middle");
    for _ in 0..8 {
        finished(&test, CHAT, &"x".repeat(30_000)).await;
    }
    assert_eq!(reader.read_to_end().await, Err(SubscriptionError::Expired));
}

#[tokio::test(start_paused = true)]
async fn deleting_gives_all_memory_back() {
    let test = engine();
    let generation = finished(&test, CHAT, "x").await;
    assert!(test.engine.registry().used() > 0);
    test.engine.delete(&generation);
    assert_eq!(
        (
            test.engine.registry().used(),
            test.account.used(),
            test.engine.registry().len()
        ),
        (0, 0, 0)
    );
    let (started, _call) = begin(&test, CHAT).await;
    test.engine.delete(started.guard.generation());
    settle().await;
    assert_eq!(
        (
            test.engine.registry().used(),
            test.account.used(),
            test.engine.registry().open()
        ),
        (0, 0, 0)
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
async fn one_owners_streams_do_not_exist_for_another() {
    let test = engine();
    let started = test.engine.start(owned(RESPONSES, "alice")).unwrap();
    let call = test.upstream.call().await;
    complete(&call, "x");
    let generation = started.guard.generation().clone();
    generation.ended().await;
    let id = &generation.meta().id;
    assert!(test.engine.find(id, &Owner::Named("alice".into())).is_ok());
    let unknown = test
        .engine
        .find(&GenerationId::random(), &Owner::Named("bob".into()))
        .unwrap_err();
    for stranger in [Owner::Named("bob".into()), Owner::Anonymous] {
        let error = test.engine.find(id, &stranger).unwrap_err();
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
async fn the_same_key_attaches_to_the_same_generation() {
    let test = engine();
    let first = test.engine.start(keyed(CHAT, "k")).unwrap();
    let again = test.engine.start(keyed(CHAT, "k")).unwrap();
    let call = test.upstream.call().await;
    assert_eq!((first.fresh, again.fresh), (true, false));
    assert_eq!(test.engine.registry().open(), 1);
    let id = |started: &Started| started.guard.generation().meta().id.clone();
    assert_eq!(id(&first), id(&again));
    complete(&call, "x");
    first.guard.generation().ended().await;
    let after = test.engine.start(keyed(CHAT, "k")).unwrap();
    assert_eq!(
        (after.fresh, id(&after)),
        (false, id(&first)),
        "as long as its response object lives"
    );
    assert_eq!(test.upstream.waiting(), 0, "the upstream was asked twice");
    // Its reader counts: the first may leave.
    let generation = first.guard.generation().clone();
    drop(first);
    drop(again);
    tokio::time::sleep(seconds(40)).await;
    assert_eq!(generation.status(), Status::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_one_owners_one_routes_and_one_bodys() {
    let test = engine();
    let first = test.engine.start(keyed(CHAT, "k")).unwrap();
    let other_body = r#"{"messages":[{"role":"user","content":"ho"}]}"#;
    let error = test.engine.start(keyed(other_body, "k")).unwrap_err();
    assert!(error.is(ErrorCode::IdempotencyMismatch), "{error:?}");
    let other_route = StartRequest {
        route: "/v1/chat/completions",
        ..keyed(CHAT, "k")
    };
    assert!(
        test.engine
            .start(other_route)
            .unwrap_err()
            .is(ErrorCode::IdempotencyMismatch)
    );
    let other_owner = StartRequest {
        owner: Owner::Named("bob".into()),
        ..keyed(CHAT, "k")
    };
    let second = test.engine.start(other_owner).unwrap();
    assert!(second.fresh, "another owner's key is another key");
    assert!(test.engine.start(keyed(CHAT, "l")).unwrap().fresh);
    drop(first);
}

#[tokio::test(start_paused = true)]
async fn a_key_lives_as_long_as_its_response_object() {
    let test = engine();
    let first = test.engine.start(keyed(CHAT, "k")).unwrap();
    complete(&test.upstream.call().await, "x");
    first.guard.generation().ended().await;
    settle().await;
    tokio::time::sleep(seconds(700)).await;
    test.engine.registry().sweep(Instant::now());
    assert!(
        !test.engine.start(keyed(CHAT, "k")).unwrap().fresh,
        "the log is gone, the object is not"
    );
    test.engine.delete(first.guard.generation());
    assert!(test.engine.start(keyed(CHAT, "k")).unwrap().fresh);
}

#[tokio::test(start_paused = true)]
async fn a_failure_before_the_first_chunk_releases_the_key() {
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
            let first = test.engine.start(keyed(CHAT, "k")).unwrap();
            fail(&test.upstream.call().await);
            first.guard.generation().ended().await;
            let again = test
                .engine
                .start(keyed(body, "k"))
                .unwrap_or_else(|error| panic!("{what}: {error:?}"));
            assert!(again.fresh, "{what}");
            // Removing the failed one must not take the key from the new one.
            test.engine.delete(first.guard.generation());
            assert!(
                !test.engine.start(keyed(body, "k")).unwrap().fresh,
                "{what}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_later_failure_keeps_the_key() {
    let test = engine();
    let first = test.engine.start(keyed(CHAT, "k")).unwrap();
    test.upstream.call().await.token("x").end(BodyEnd::Broken);
    first.guard.generation().ended().await;
    assert!(
        !test.engine.start(keyed(CHAT, "k")).unwrap().fresh,
        "tokens were billed"
    );
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_releases_the_key() {
    let test = engine();
    for _ in 0..2 {
        let error = test
            .engine
            .start(keyed(r#"{"input":"hi","model":"unknown"}"#, "k"))
            .unwrap_err();
        assert!(error.is(ErrorCode::NotFound), "{error:?}");
    }
    assert!(test.engine.start(keyed(CHAT, "k")).unwrap().fresh);
}

#[test]
fn of_concurrent_requests_with_one_key_one_starts() {
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
                    // While another is just starting it the answer is to come back; clients do.
                    loop {
                        match test.engine.start(keyed(CHAT, "k")) {
                            Ok(started) => {
                                // A worker that stops takes its generation along, and that would
                                // free the key.
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
async fn no_debug_shows_what_was_said() {
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
    log_reader.read_now(1 << 20, &mut batch).unwrap();
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
    assert!(shown.contains("Generation"), "the test looks at nothing");
}

// === Conversations ===

fn after(id: &GenerationId) -> String {
    json!({"input": "and then?", "previous_response_id": id.as_str()}).to_string()
}

#[tokio::test(start_paused = true)]
async fn a_successor_sends_the_whole_conversation_in_order() {
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
    let said: Vec<(String, String)> = body["messages"]
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
        said,
        turns.map(|(role, text)| (role.to_owned(), text.to_owned()))
    );
    assert!(
        body.get("previous_response_id").is_none(),
        "a chat upstream knows no responses"
    );
}

/// A message's content, which may be a string or a list of parts.
fn plain(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts
            .iter()
            .map(|part| part["text"].as_str().unwrap())
            .collect(),
        other => panic!("not a content: {other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_conversation_outlives_the_log() {
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
async fn a_predecessor_must_be_there_ended_and_stored() {
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

    let foreign = test.engine.start(owned(RESPONSES, "alice")).unwrap();
    complete(&test.upstream.call().await, "x");
    foreign.guard.generation().ended().await;
    refused(
        &foreign.guard.generation().meta().id,
        ErrorCode::PreviousResponseNotFound,
    );

    let deleted = finished(&test, RESPONSES, "x").await;
    test.engine.delete(&deleted);
    refused(&deleted.meta().id, ErrorCode::PreviousResponseNotFound);
}

#[tokio::test(start_paused = true)]
async fn an_answer_cut_by_its_length_can_be_built_on() {
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
async fn a_responses_upstream_is_relayed_under_our_ids() {
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
async fn a_responses_upstream_that_says_no_more_has_failed() {
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
async fn what_another_reader_encoded_is_taken_only_as_far_as_one_has_read() {
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
    // Reads up to "b", and gives out what the first has encoded, which ends before it.
    second.read_piece();
    call.token("c");
    settle().await;
    // Encodes "b" and "c" as one piece.
    first.read_piece();
    second.read_now();
    for reader in [first, second] {
        let numbers: Vec<u64> = reader.lines().iter().map(|line| line.seq).collect();
        let last = generation.tail().unwrap().next.0;
        assert_eq!(numbers, (0..last).collect::<Vec<_>>(), "a gap or a double");
    }
}
