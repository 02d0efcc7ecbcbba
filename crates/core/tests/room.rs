//! Running answers over the limit of memory: they wait, in order, and none is lost while others end.
//!
//! The tests run under tokio's paused clock.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::time::Duration;

use serde_json::Value;
use tokenwire_core::engine::Started;
use tokenwire_core::upstream::Timeouts;
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_testkit::{Call, EngineOptions, TestEngine, no_timeouts, settle};

const KIB: usize = 1024;
const LIMIT: usize = 1024 * KIB;
const CHAT: &str = r#"{"stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
/// The time after which the youngest answer is ended.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn engine(timeouts: Timeouts) -> TestEngine {
    let mut options = EngineOptions {
        timeouts,
        ..EngineOptions::default()
    };
    options.retention.max_memory = LIMIT;
    TestEngine::new(options)
}

/// An answer that runs. A reader holds it.
struct Answer {
    started: Started,
    call: Call,
}

async fn start(test: &TestEngine) -> Answer {
    let started = test.start(CHAT);
    let call = test.upstream.call().await;
    Answer { started, call }
}

/// Starts answers, one after the other.
async fn start_some<const N: usize>(test: &TestEngine) -> [Answer; N] {
    let mut answers = Vec::new();
    for _ in 0..N {
        answers.push(start(test).await);
        tokio::time::advance(seconds(1)).await;
    }
    answers.try_into().ok().unwrap()
}

impl Answer {
    /// Has the upstream send this many KiB.
    fn send(&self, kib: usize) {
        let text = "x".repeat(KIB);
        for _ in 0..kib {
            self.call.token(&text);
        }
    }

    fn complete(&self) {
        self.call.finish("stop").done().end(BodyEnd::Clean);
    }

    /// The KiB that the log has of the text.
    fn received(&self) -> usize {
        let object = self.started.guard.generation().response_json();
        object.iter().filter(|byte| **byte == b'x').count() / KIB
    }

    fn is_over(&self) -> bool {
        self.started.guard.generation().is_over()
    }

    /// Waits for its end and lets go of it. Returns the response object, and the KiB of its text.
    async fn take(self) -> (Value, usize) {
        self.started.guard.generation().ended().await;
        let object = self.started.guard.generation().response_json();
        (serde_json::from_slice(&object).unwrap(), self.received())
    }
}

#[tokio::test(start_paused = true)]
async fn only_answer_goes_on_beyond_the_limit() {
    let test = engine(no_timeouts());
    let answer = start(&test).await;
    answer.send(3 * LIMIT / KIB);
    answer.complete();
    let (object, kib) = answer.take().await;
    assert_eq!(
        (&object["status"], kib),
        (&"completed".into(), 3 * LIMIT / KIB)
    );
}

#[tokio::test(start_paused = true)]
async fn answers_over_the_limit_wait_and_complete_one_after_the_other() {
    const EACH: usize = 600;
    let test = engine(no_timeouts());
    let answers = start_some::<6>(&test).await;
    for answer in &answers {
        answer.send(EACH);
        answer.complete();
    }
    tokio::time::sleep(seconds(5)).await;
    let whole = answers.iter().filter(|answer| answer.is_over()).count();
    assert_eq!(whole, 1, "the turn is held until the answer is let go");
    let used = test.account.used();
    // The limit, one answer with its object, and a step of each.
    assert!(used <= LIMIT + 4 * EACH * KIB, "{used} bytes");
    let mut waiting: Vec<_> = answers.into_iter().collect();
    while !waiting.is_empty() {
        let at = waiting.iter().position(Answer::is_over).expect("one ends");
        let (object, kib) = waiting.remove(at).take().await;
        assert_eq!(object["status"], "completed", "{}", object);
        assert_eq!(kib, EACH);
        tokio::time::sleep(seconds(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn time_of_waiting_counts_against_no_timeout() {
    let timeouts = Timeouts {
        first_token: seconds(5),
        between_tokens: seconds(5),
        total: seconds(12),
        ..no_timeouts()
    };
    let test = engine(timeouts);
    let [first, second] = start_some(&test).await;
    first.send(900);
    settle().await;
    second.send(900);
    settle().await;
    let received = second.received();
    assert!(received < 800, "{received} KiB");
    // The first goes on within its timeouts.
    for _ in 0..2 {
        tokio::time::sleep(seconds(4)).await;
        first.send(1);
        settle().await;
    }
    assert!(!first.is_over() && !second.is_over());
    assert_eq!(second.received(), received, "it waits");
    first.complete();
    assert_eq!(first.take().await.0["status"], "completed");
    tokio::time::sleep(seconds(4)).await;
    second.complete();
    let (object, kib) = second.take().await;
    assert_eq!(object["status"], "completed", "{}", object);
    assert_eq!(kib, 900);
}

#[tokio::test(start_paused = true)]
async fn youngest_answer_is_ended_after_the_longest_wait() {
    let test = engine(no_timeouts());
    let [first, second, third] = start_some(&test).await;
    for (answer, kib) in [(&first, 900), (&third, 500), (&second, 500)] {
        answer.send(kib);
        settle().await;
    }
    tokio::time::sleep(LONGEST_WAIT - seconds(1)).await;
    assert!(!third.is_over());
    tokio::time::sleep(seconds(3)).await;
    assert!(!first.is_over() && !second.is_over());
    let (object, _) = third.take().await;
    assert_eq!(object["status"], "failed", "{}", object);
    assert_eq!(object["error"]["code"], "overloaded");
    assert_eq!(object["error"]["retryable"], true);
    for (answer, expected) in [(first, 900), (second, 500)] {
        answer.complete();
        let (object, kib) = answer.take().await;
        assert_eq!((&object["status"], kib), (&"completed".into(), expected));
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_answer_is_cancelled_at_once() {
    let test = engine(no_timeouts());
    let [first, second] = start_some(&test).await;
    for answer in [&first, &second] {
        answer.send(900);
        settle().await;
    }
    second.started.guard.generation().cancel();
    assert_eq!(second.take().await.0["status"], "cancelled");
    first.complete();
    assert_eq!(first.take().await.1, 900);
}

#[tokio::test(start_paused = true)]
async fn part_of_a_large_event_is_counted_and_waits_for_room() {
    let test = engine(no_timeouts());
    let [first, second] = start_some(&test).await;
    first.send(600);
    settle().await;
    let before = test.account.used();
    second.call.bytes("data: {\"x\":\"");
    let sent = 800;
    for _ in 0..sent {
        second.call.bytes("y".repeat(KIB));
    }
    settle().await;
    let held = test.account.used() - before;
    assert!((64 * KIB..sent * KIB).contains(&held), "{held} bytes");
    first.complete();
    first.take().await;
    tokio::time::sleep(seconds(1)).await;
    assert!(test.account.used() >= sent * KIB * 9 / 10);
    second.call.bytes("\"}\n\n");
    second.call.token("x");
    second.complete();
    assert_eq!(second.take().await.0["status"], "completed");
}
