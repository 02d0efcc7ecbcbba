//! Whoever is to be told of an end is told once, whatever the end is, and finds the object as it
//! then is.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokenwire_core::engine::{EndNotifier, OnEnd, StartRequest};
use tokenwire_core::model::error::ApiError;
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_testkit::{EngineOptions, TestEngine, settle};

const BACKGROUND: &str = r#"{"input":"hi","background":true}"#;

/// Writes down how generations ended, as whoever polls would see it then.
#[derive(Clone, Debug, Default)]
struct Book(Arc<Mutex<Vec<(bool, String)>>>);

impl EndNotifier for Book {
    fn promise(&self, _request: &StartRequest) -> Result<Option<OnEnd>, ApiError> {
        let book = self.0.clone();
        Ok(Some(Box::new(move |generation| {
            book.lock().push((
                generation.outcome().is_some(),
                generation.status().as_str().to_owned(),
            ));
        })))
    }
}

impl Book {
    fn read(&self) -> Vec<(bool, String)> {
        self.0.lock().clone()
    }
}

fn world() -> (TestEngine, Book) {
    let mut test = TestEngine::new(EngineOptions::default());
    let book = Book::default();
    test.engine = test.engine.clone().with_announcer(Arc::new(book.clone()));
    (test, book)
}

#[tokio::test(start_paused = true)]
async fn every_end_is_announced_once_and_after_the_terminal_event() {
    let (test, book) = world();
    let completed = test.start(BACKGROUND);
    let call = test.upstream.call().await;
    settle().await;
    assert_eq!(book.read(), []);
    call.token("a").finish("stop").done().end(BodyEnd::Clean);
    completed.guard.generation().ended().await;
    settle().await;
    assert_eq!(book.read(), [(true, "completed".to_owned())]);

    let cut = test.start(BACKGROUND);
    test.upstream.call().await.token("a").end(BodyEnd::Clean);
    cut.guard.generation().ended().await;
    let cancelled = test.start(BACKGROUND);
    let _call = test.upstream.call().await;
    cancelled.guard.generation().cancel();
    cancelled.guard.generation().ended().await;
    settle().await;
    let ends: Vec<String> = book.read().into_iter().map(|(_, status)| status).collect();
    assert_eq!(ends, ["completed", "failed", "cancelled"]);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_generation_has_no_outcome_and_is_announced_all_the_same() {
    let (test, book) = world();
    let started = test.start(BACKGROUND);
    let _call = test.upstream.call().await;
    test.engine.delete(started.guard.generation());
    settle().await;
    assert_eq!(
        book.read()
            .iter()
            .map(|(outcome, _)| *outcome)
            .collect::<Vec<_>>(),
        [false]
    );
}

#[test]
fn the_end_of_the_worker_is_announced_as_the_failure_that_it_is() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let (test, book) = world();
    let kept = runtime.block_on(async {
        let begun = test.start(BACKGROUND);
        let call = test.upstream.call().await;
        // One whose task never ran, too.
        (begun, call, test.start(BACKGROUND))
    });
    drop(runtime);
    assert_eq!(book.read(), vec![(true, "failed".to_owned()); 2]);
    drop(kept);
}

#[tokio::test(start_paused = true)]
async fn without_anybody_to_tell_a_webhook_is_refused() {
    let test = TestEngine::new(EngineOptions::default());
    let error = test
        .try_start(r#"{"input":"hi","background":true,"webhook":{"url":"https://example.org"}}"#)
        .unwrap_err();
    assert_eq!(
        (error.code.as_deref(), error.param.as_deref()),
        (Some("unsupported_parameter"), Some("webhook"))
    );
    assert!(
        tokio::time::timeout(Duration::from_secs(1), test.upstream.call())
            .await
            .is_err(),
        "it was started"
    );
}
