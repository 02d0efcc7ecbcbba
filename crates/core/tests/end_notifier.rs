//! The hook of a generation's end runs exactly once for every kind of end, and finds the final
//! object.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use parking_lot::Mutex;
use tokenwire_core::engine::{EndNotifier, OnEnd, StartRequest};
use tokenwire_core::model::error::ApiError;
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_testkit::{EngineOptions, TestEngine, settle};
use tokio::sync::Notify;

const BACKGROUND: &str = r#"{"input":"hi","background":true}"#;

/// Records how generations ended, as a poll would show it at that time.
#[derive(Clone, Debug, Default)]
struct EndRecorder(Arc<Mutex<Vec<(bool, String)>>>);

impl EndNotifier for EndRecorder {
    fn on_end(&self, _request: &StartRequest) -> Result<Option<OnEnd>, ApiError> {
        let ends = self.0.clone();
        Ok(Some(OnEnd::new(move |generation| {
            ends.lock().push((
                generation.outcome().is_some(),
                generation.status().as_str().to_owned(),
            ));
        })))
    }
}

impl EndRecorder {
    fn ends(&self) -> Vec<(bool, String)> {
        self.0.lock().clone()
    }
}

fn recorded_engine() -> (TestEngine, EndRecorder) {
    let mut test = TestEngine::new(EngineOptions::default());
    let recorder = EndRecorder::default();
    test.engine = test
        .engine
        .clone()
        .with_end_notifier(Arc::new(recorder.clone()));
    (test, recorder)
}

#[tokio::test(start_paused = true)]
async fn hook_runs_once_per_end_after_the_terminal_event() {
    let (test, recorder) = recorded_engine();
    let completed = test.start(BACKGROUND);
    let call = test.upstream.call().await;
    settle().await;
    assert_eq!(recorder.ends(), []);
    call.token("a").finish("stop").done().end(BodyEnd::Clean);
    completed.guard.generation().ended().await;
    settle().await;
    assert_eq!(recorder.ends(), [(true, "completed".to_owned())]);

    let cut = test.start(BACKGROUND);
    test.upstream.call().await.token("a").end(BodyEnd::Clean);
    cut.guard.generation().ended().await;
    let cancelled = test.start(BACKGROUND);
    let _call = test.upstream.call().await;
    cancelled.guard.generation().cancel();
    cancelled.guard.generation().ended().await;
    settle().await;
    let ends: Vec<String> = recorder
        .ends()
        .into_iter()
        .map(|(_, status)| status)
        .collect();
    assert_eq!(ends, ["completed", "failed", "cancelled"]);
}

/// Keeps what is to happen at the end, which takes until it is told.
#[derive(Clone, Debug, Default)]
struct SlowKeeper(Arc<Notify>);

impl EndNotifier for SlowKeeper {
    fn on_end(&self, _request: &StartRequest) -> Result<Option<OnEnd>, ApiError> {
        let kept = self.0.clone();
        let on_end = OnEnd::new(|_| {});
        Ok(Some(on_end.with_start(move |_| {
            async move { kept.notified().await }.boxed()
        })))
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_starts_before_its_end_will_be_reported() {
    let keeper = SlowKeeper::default();
    let test = TestEngine::new(EngineOptions::default());
    let engine = test.engine.clone();
    let engine = engine.with_end_notifier(Arc::new(keeper.clone()));
    // A client that leaves meanwhile starts nothing.
    let given_up = engine.start(TestEngine::request(BACKGROUND)).now_or_never();
    assert!(given_up.is_none());
    settle().await;
    assert_eq!(test.upstream.waiting(), 0);
    let request = TestEngine::request(BACKGROUND);
    let mut starting = std::pin::pin!(engine.start(request));
    assert!(starting.as_mut().now_or_never().is_none());
    settle().await;
    assert_eq!(test.upstream.waiting(), 0);
    keeper.0.notify_one();
    let started = starting.await.unwrap();
    let call = test.upstream.call().await;
    call.token("a").finish("stop").done().end(BodyEnd::Clean);
    started.guard.generation().ended().await;
}

#[tokio::test(start_paused = true)]
async fn hook_runs_for_a_deleted_generation_without_outcome() {
    let (test, recorder) = recorded_engine();
    let started = test.start(BACKGROUND);
    let _call = test.upstream.call().await;
    test.engine
        .delete(started.guard.generation())
        .await
        .unwrap();
    settle().await;
    assert_eq!(
        recorder
            .ends()
            .iter()
            .map(|(outcome, _)| *outcome)
            .collect::<Vec<_>>(),
        [false]
    );
}

#[test]
fn hook_reports_failure_when_the_runtime_is_dropped() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let (test, recorder) = recorded_engine();
    let kept = runtime.block_on(async {
        let begun = test.start(BACKGROUND);
        let call = test.upstream.call().await;
        // And one whose task never ran.
        (begun, call, test.start(BACKGROUND))
    });
    drop(runtime);
    assert_eq!(recorder.ends(), vec![(true, "failed".to_owned()); 2]);
    drop(kept);
}

#[tokio::test(start_paused = true)]
async fn webhook_is_refused_without_an_end_notifier() {
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
