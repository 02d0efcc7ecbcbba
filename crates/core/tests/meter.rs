//! Meters: asked once for each generation, told once of its start and of its end.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokenwire_core::dialect::Dialect;
use tokenwire_core::engine::{
    Admission, GenerationEnd, Meter, Metered, MeteredStart, StartRequest,
};
use tokenwire_core::generation::{Generation, OutputMeter};
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::snapshot::Status;
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_testkit::{Audit, EngineOptions, JsonLines, Reader, TestEngine, settle};

const CHAT: &str =
    r#"{"stream":true,"n":2,"max_tokens":7,"messages":[{"role":"user","content":"hi"}]}"#;

#[derive(Debug, Default)]
struct Counts {
    admitted: AtomicUsize,
    started: AtomicUsize,
    ended: AtomicUsize,
}

/// Counts what it is told, and refuses all after the first `most`.
#[derive(Debug)]
struct Counting {
    counts: Arc<Counts>,
    most: usize,
}

#[derive(Debug)]
struct One(Arc<Counts>);

impl Meter for Counting {
    fn needs_usage(&self) -> bool {
        true
    }

    fn admit(&self, start: &MeteredStart<'_>) -> Admission {
        assert_eq!((start.choices, start.body.is_empty()), (2, false));
        assert_eq!(start.max_output, Some(7));
        if self.counts.admitted.load(Ordering::Relaxed) == self.most {
            let refused = ApiError::new(ErrorCode::InvalidApiKey, "No more.");
            return Admission::Now(Err(refused));
        }
        self.counts.admitted.fetch_add(1, Ordering::Relaxed);
        let admitted = Arc::new(One(self.counts.clone()));
        Admission::Later(Box::pin(async move { Ok(admitted as Arc<dyn Metered>) }))
    }
}

impl OutputMeter for One {}

impl Metered for One {
    fn started(&self, _generation: &Arc<Generation>) {
        self.0.started.fetch_add(1, Ordering::Relaxed);
    }

    fn ended(&self, end: &GenerationEnd<'_>) {
        assert!(end.asked);
        assert_eq!(end.token_usage, None);
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

fn counts(counts: &Counts) -> [usize; 3] {
    [&counts.admitted, &counts.started, &counts.ended].map(|count| count.load(Ordering::Relaxed))
}

#[tokio::test(start_paused = true)]
async fn meter_is_asked_once_and_told_once_and_not_of_a_repeated_key() {
    let test = TestEngine::new(EngineOptions::default());
    let told = Arc::new(Counts::default());
    let meter = Arc::new(Counting {
        counts: told.clone(),
        most: 2,
    });
    let request = |key: &str| StartRequest {
        meter: Some(meter.clone()),
        idempotency_key: Some(key.to_owned()),
        ..TestEngine::request(CHAT)
    };
    let first = test.start_request(request("a")).unwrap();
    let repeated = test.start_request(request("a")).unwrap();
    assert!(first.fresh && !repeated.fresh);
    assert_eq!(counts(&told), [1, 1, 0]);
    let call = test.upstream.call().await;
    assert_eq!(call.body()["stream_options"]["include_usage"], true);
    call.token("x").finish("stop").done().end(BodyEnd::Clean);
    first.guard.generation().ended().await;
    settle().await;
    assert_eq!(counts(&told), [1, 1, 1]);
    // A cancelled one ends too, and one that is refused starts nothing.
    let second = test.start_request(request("b")).unwrap();
    second.guard.generation().cancel();
    second.guard.generation().ended().await;
    settle().await;
    assert_eq!(counts(&told), [2, 2, 2]);
    let refused = test.start_request(request("c")).unwrap_err();
    assert!(refused.is(ErrorCode::InvalidApiKey), "{refused:?}");
    assert_eq!(counts(&told), [2, 2, 2]);
    assert_eq!(test.engine.registry().open(), 0);
}

/// Reserves ten tokens, and then no more.
#[derive(Debug)]
struct Tight;

impl Meter for Tight {
    fn admit(&self, _: &MeteredStart<'_>) -> Admission {
        Admission::Now(Ok(Arc::new(Tight)))
    }
}

impl OutputMeter for Tight {
    fn reserved(&self) -> Option<u64> {
        Some(10)
    }

    fn extend(&self, output: u64) -> Option<u64> {
        assert!(output >= 10, "asked for more after {output} tokens");
        None
    }
}

impl Metered for Tight {
    fn started(&self, _: &Arc<Generation>) {}

    fn ended(&self, end: &GenerationEnd<'_>) {
        assert_eq!(end.status, Status::Incomplete);
    }
}

#[tokio::test(start_paused = true)]
async fn answer_that_outgrows_its_reservation_ends_with_a_finish_chunk() {
    let test = TestEngine::new(EngineOptions::default());
    let started = test
        .start_request(StartRequest {
            meter: Some(Arc::new(Tight)),
            ..TestEngine::request(CHAT)
        })
        .unwrap();
    let generation = started.guard.generation().clone();
    let call = test.upstream.call().await;
    for _ in 0..500 {
        call.token("word ");
    }
    generation.ended().await;
    call.gone().await;
    let object: serde_json::Value = serde_json::from_slice(&generation.response_json()).unwrap();
    assert_eq!(object["status"], "incomplete");
    assert_eq!(object["incomplete_details"]["reason"], "max_output_tokens");
    let tokens = generation.estimated_tokens();
    assert!((10..200).contains(&tokens), "{tokens}");
    let framing = JsonLines {
        done: true,
        ..JsonLines::default()
    };
    let framing = Arc::new(framing);
    let mut reader = Reader::framed(started.guard, 0, Dialect::Chat, framing);
    reader.read_to_end().await.unwrap();
    let lines = reader.lines();
    let [.., finish, done] = &*lines else {
        panic!("{lines:?}");
    };
    assert_eq!(finish.json()["choices"][0]["finish_reason"], "length");
    assert_eq!(done.data, "[DONE]");
    let _ = Audit::of(&generation);
}

#[tokio::test(start_paused = true)]
async fn answer_that_is_used_up_as_its_stream_breaks_is_incomplete_and_not_failed() {
    let test = TestEngine::new(EngineOptions::default());
    let started = test
        .start_request(StartRequest {
            meter: Some(Arc::new(Tight)),
            ..TestEngine::request(CHAT)
        })
        .unwrap();
    let generation = started.guard.generation().clone();
    let call = test.upstream.call().await;
    let token = r#"{"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}"#;
    let tokens = format!("data: {token}\n\n").repeat(500);
    // In one read.
    call.bytes(format!("{tokens}data: {{broken\n\n"));
    generation.ended().await;
    let object: serde_json::Value = serde_json::from_slice(&generation.response_json()).unwrap();
    assert_eq!(object["status"], "incomplete", "{object}");
    assert_eq!(object["incomplete_details"]["reason"], "max_output_tokens");
    let _ = Audit::of(&generation);
}
