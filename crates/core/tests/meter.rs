//! Meters: asked once for each generation, told once of its start and of its end.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokenwire_core::engine::{GenerationEnd, Meter, Metered, MeteredStart, StartRequest};
use tokenwire_core::generation::Generation;
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_testkit::{EngineOptions, TestEngine, settle};

const CHAT: &str = r#"{"stream":true,"n":2,"messages":[{"role":"user","content":"hi"}]}"#;

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
    fn admit(&self, start: &MeteredStart<'_>) -> Result<Box<dyn Metered>, ApiError> {
        assert_eq!((start.choices, start.body > 0), (2, true));
        if self.counts.admitted.load(Ordering::Relaxed) == self.most {
            return Err(ApiError::new(ErrorCode::InvalidApiKey, "No more."));
        }
        self.counts.admitted.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(One(self.counts.clone())))
    }
}

impl Metered for One {
    fn started(&mut self, _generation: &Arc<Generation>) {
        self.0.started.fetch_add(1, Ordering::Relaxed);
    }

    fn ended(&mut self, _end: &GenerationEnd<'_>) {
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
