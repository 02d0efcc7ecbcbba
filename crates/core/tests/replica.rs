//! The second store of an engine, which other nodes read.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokenwire_core::engine::{
    EndNotifier, Engine, OnEnd, ReplicaOptions, Replicated, SharedEngine, StartRequest, Started,
};
use tokenwire_core::generation::{Generation, WriteLease};
use tokenwire_core::log::{FlushOptions, LogStore, MemoryStore, StoreError};
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::Seq;
use tokenwire_core::model::snapshot::{Api, Status};
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_testkit::{
    Call, Fault, FaultyStore, Operation, ScriptedUpstream, TestEngine, scripted_target,
};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

const STORED: &str = r#"{"input":"x"}"#;
const UNSTORED: &str = r#"{"input":"x","store":false}"#;
const BACKGROUND: &str = r#"{"input":"x","background":true}"#;

/// A lease that a test takes and gives back.
#[derive(Debug, Default)]
struct ScriptedLease {
    lost: AtomicBool,
    losses: AtomicU64,
    renewed: Notify,
}

impl ScriptedLease {
    fn lose(&self) {
        self.lost.store(true, Ordering::Release);
        self.losses.fetch_add(1, Ordering::AcqRel);
    }

    fn renew(&self) {
        self.lost.store(false, Ordering::Release);
        self.renewed.notify_waiters();
    }
}

impl WriteLease for ScriptedLease {
    fn is_held(&self) -> bool {
        !self.lost.load(Ordering::Acquire)
    }

    fn losses(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }

    fn held(&self) -> BoxFuture<'_, ()> {
        async move {
            while !self.is_held() {
                self.renewed.notified().await;
            }
        }
        .boxed()
    }
}

/// An engine whose own store is its memory, and a second one with faults.
struct Node {
    shared: SharedEngine,
    engine: Engine,
    upstream: ScriptedUpstream,
    store: Arc<FaultyStore>,
    lease: Arc<ScriptedLease>,
}

impl Node {
    fn new(running: Replicated) -> Self {
        Self::over(running, Arc::new(MemoryStore::new(1 << 28)), 1 << 24)
    }

    fn over(running: Replicated, logs: Arc<MemoryStore>, max_bytes: usize) -> Self {
        let upstream = ScriptedUpstream::new(scripted_target(Api::Chat));
        let store = Arc::new(FaultyStore::new(logs, 1));
        let lease = Arc::new(ScriptedLease::default());
        let builder = Engine::builder().sweep_interval(None);
        let shared = builder
            .replica(ReplicaOptions {
                store: store.clone(),
                running,
                flush: FlushOptions::default(),
                max_bytes,
                lease: Some(lease.clone()),
            })
            .build();
        let engine = shared.engine(Arc::new(upstream.clone()));
        Self {
            shared,
            engine,
            upstream,
            store,
            lease,
        }
    }

    async fn start(&self, request: StartRequest) -> (Started, Call) {
        let started = self.engine.start(request).await.unwrap();
        (started, self.upstream.call().await)
    }
}

/// Records which hooks have run.
#[derive(Clone, Debug, Default)]
struct HookRecorder(Arc<Mutex<Vec<&'static str>>>);

impl EndNotifier for HookRecorder {
    fn on_end(&self, _request: &StartRequest) -> Result<Option<OnEnd>, ApiError> {
        let (ends, taken_over) = (self.0.clone(), self.0.clone());
        let on_end = OnEnd::new(move |_| ends.lock().push("end"));
        Ok(Some(on_end.with_taken_over(move |_| {
            taken_over.lock().push("taken over");
        })))
    }
}

fn answer(call: &Call) {
    call.token("Hello").token(" world");
    call.finish("stop").done().end(BodyEnd::Clean);
}

async fn eventually(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !look().await {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waited).await;
    assert!(waited.is_ok(), "waited in vain for {what}");
}

/// Waits until a token is in the log.
async fn shown(generation: &Generation, text: &str) {
    eventually(text, async || {
        String::from_utf8(generation.response_json())
            .unwrap()
            .contains(text)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn stored_response_has_its_header_there_first_and_the_rest_at_its_end() {
    let node = Node::new(Replicated::Background);
    let (started, call) = node.start(TestEngine::request(STORED)).await;
    let id = started.guard.generation().meta().id.clone();
    eventually("the header", async || node.store.open(&id).await.is_ok()).await;
    call.token("Hello");
    shown(started.guard.generation(), "Hello").await;
    sleep(Duration::from_secs(1)).await;
    let stored = node.store.open(&id).await.unwrap();
    assert_eq!((stored.end, stored.sealed), (Seq(0), false));
    answer(&call);
    started.guard.generation().ended().await;
    node.shared.flushed().await;
    assert!(node.store.open(&id).await.unwrap().sealed);
    let object = node.store.object(&id).await.unwrap().unwrap();
    assert_eq!(object, started.guard.generation().response_json());
    node.engine
        .delete(started.guard.generation())
        .await
        .unwrap();
    assert_eq!(node.store.open(&id).await.unwrap_err(), StoreError::Deleted);
}

#[tokio::test(start_paused = true)]
async fn response_that_is_not_stored_leaves_only_a_note_of_its_deletion() {
    let node = Node::new(Replicated::Background);
    let (started, call) = node.start(TestEngine::request(UNSTORED)).await;
    answer(&call);
    started.guard.generation().ended().await;
    node.shared.flushed().await;
    assert_eq!(node.store.calls(Operation::Create), 0);
    // Other nodes are told that it is gone, also once this one is lost.
    let generation = started.guard.generation();
    node.engine.delete(generation).await.unwrap();
    let deleted = node.store.open(&generation.meta().id).await;
    assert_eq!(deleted.unwrap_err(), StoreError::Deleted);
    // It is deleted also while that cannot be noted.
    node.store.always(Operation::Delete, Fault::Fail);
    let (started, call) = node.start(TestEngine::request(UNSTORED)).await;
    answer(&call);
    let generation = started.guard.generation();
    generation.ended().await;
    node.engine.delete(generation).await.unwrap();
    let (started, call) = node.start(TestEngine::request(STORED)).await;
    answer(&call);
    let generation = started.guard.generation();
    generation.ended().await;
    let error = node.engine.delete(generation).await.unwrap_err();
    assert!(error.is(ErrorCode::StoreUnavailable), "{error:?}");
    let all = Node::new(Replicated::All);
    let (started, call) = all.start(TestEngine::request(UNSTORED)).await;
    answer(&call);
    let generation = started.guard.generation();
    generation.ended().await;
    all.shared.flushed().await;
    let id = &generation.meta().id;
    assert!(all.store.open(id).await.unwrap().sealed);
    assert_eq!(all.store.object(id).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn end_of_a_replicated_response_is_shown_once_it_is_stored() {
    let node = Node::new(Replicated::Background);
    let (started, call) = node.start(TestEngine::request(BACKGROUND)).await;
    let generation = started.guard.generation().clone();
    let pause = Duration::from_secs(2);
    node.store.next(Operation::Seal, Fault::Slow(pause));
    answer(&call);
    shown(&generation, " world").await;
    let said = Instant::now();
    assert_eq!(generation.status(), Status::InProgress);
    generation.ended().await;
    assert!(
        said.elapsed() >= Duration::from_millis(1900),
        "{:?}",
        said.elapsed()
    );
    assert_eq!(generation.status(), Status::Completed);
    assert!(node.store.open(&generation.meta().id).await.unwrap().sealed);
}

#[tokio::test(start_paused = true)]
async fn store_that_hangs_stops_no_stream_and_delays_its_end_by_five_seconds() {
    for request in [STORED, BACKGROUND] {
        let node = Node::new(Replicated::Background);
        let (started, call) = node.start(TestEngine::request(request)).await;
        let generation = started.guard.generation().clone();
        for operation in [Operation::Create, Operation::Append, Operation::Seal] {
            node.store.always(operation, Fault::Hang);
        }
        for number in 0..100 {
            call.token(&format!("token {number} "));
            shown(&generation, &format!("token {number} ")).await;
        }
        let said = Instant::now();
        call.finish("stop").done().end(BodyEnd::Clean);
        generation.ended().await;
        assert_eq!(generation.status(), Status::Completed);
        let waited = said.elapsed();
        if request == BACKGROUND {
            assert!(waited >= Duration::from_secs(5), "{waited:?}");
        }
        assert!(waited < Duration::from_millis(5500), "{waited:?}");
        // It is stored once that is possible.
        node.store.heal();
        node.shared.flushed().await;
        assert!(node.store.open(&generation.meta().id).await.unwrap().sealed);
    }
}

#[tokio::test(start_paused = true)]
async fn background_request_is_refused_while_its_header_cannot_be_stored() {
    let node = Node::new(Replicated::Background);
    node.store.always(Operation::Create, Fault::Hang);
    let refused = node.engine.start(TestEngine::request(BACKGROUND)).await;
    let error = refused.unwrap_err();
    assert!(error.is(ErrorCode::StoreUnavailable), "{error:?}");
    assert_eq!(node.upstream.waiting(), 0);
    let (_started, _call) = node.start(TestEngine::request(STORED)).await;
}

#[tokio::test(start_paused = true)]
async fn process_that_slept_appends_nothing_and_ends_nothing_before_a_renewal() {
    let node = Node::new(Replicated::Background);
    let (started, call) = node.start(TestEngine::request(BACKGROUND)).await;
    let generation = started.guard.generation().clone();
    call.token("Hello");
    shown(&generation, "Hello").await;
    node.shared.flushed().await;
    let others = Arc::new(node.store.open(&generation.meta().id).await.unwrap());
    assert!(!others.sealed);
    node.lease.lose();
    answer(&call);
    sleep(Duration::from_secs(30)).await;
    let text = String::from_utf8(generation.response_json()).unwrap();
    assert!(!text.contains(" world"), "{text}");
    assert_eq!(generation.status(), Status::InProgress);
    // Another process has taken it over meanwhile.
    node.store.adopt(&generation.meta().id).await.unwrap();
    node.lease.renew();
    generation.ended().await;
    assert_eq!(generation.outcome(), None, "the other one ends it");
    assert!(generation.tail().is_err(), "its readers come back");
}

#[tokio::test(start_paused = true)]
async fn log_above_the_bound_is_not_copied_and_ends_without_delay() {
    let node = Node::over(
        Replicated::Background,
        Arc::new(MemoryStore::new(1 << 28)),
        4096,
    );
    for request in [STORED, BACKGROUND] {
        let (started, call) = node.start(TestEngine::request(request)).await;
        let generation = started.guard.generation().clone();
        for number in 0..50 {
            call.token(&format!("{} {number}", "long ".repeat(40)));
        }
        shown(&generation, " 49").await;
        node.shared.flushed().await;
        let said = Instant::now();
        call.finish("stop").done().end(BodyEnd::Clean);
        generation.ended().await;
        assert!(
            said.elapsed() < Duration::from_secs(1),
            "{:?}",
            said.elapsed()
        );
        node.shared.flushed().await;
        assert!(!node.store.open(&generation.meta().id).await.unwrap().sealed);
    }
}

#[tokio::test(start_paused = true)]
async fn two_processes_that_adopt_a_log_show_the_same_end() {
    let logs = Arc::new(MemoryStore::new(1 << 28));
    let writer = Node::over(Replicated::Background, logs.clone(), 1 << 24);
    let (started, call) = writer.start(TestEngine::request(BACKGROUND)).await;
    call.token("Hello");
    shown(started.guard.generation(), "Hello").await;
    writer.shared.flushed().await;
    let id = started.guard.generation().meta().id.clone();
    let nodes: Vec<_> = (0..3)
        .map(|_| Node::over(Replicated::Background, logs.clone(), 1 << 24))
        .collect();
    // The first one adopts between the others' adoption and seal.
    nodes[0]
        .store
        .next(Operation::Seal, Fault::Slow(Duration::from_millis(300)));
    nodes[1]
        .store
        .next(Operation::Seal, Fault::Slow(Duration::from_millis(100)));
    let adopted = nodes.iter().map(|node| node.shared.adopt_replica(&id));
    let adopted = futures::future::join_all(adopted).await;
    let ends: Vec<_> = adopted
        .iter()
        .map(|adopted| adopted.as_ref().unwrap().tail().unwrap().next)
        .collect();
    assert!(ends.iter().all(|end| *end == ends[0]), "{ends:?}");
    assert!(ends[0] > Seq(1 << 24), "{ends:?}");
    let objects: Vec<_> = adopted
        .iter()
        .map(|adopted| adopted.as_ref().unwrap().response_json())
        .collect();
    assert!(objects.iter().all(|object| *object == objects[0]));
}

#[tokio::test(start_paused = true)]
async fn log_that_was_taken_over_runs_another_hook_than_its_end() {
    let logs = Arc::new(MemoryStore::new(1 << 28));
    let writer = Node::over(Replicated::Background, logs.clone(), 1 << 24);
    let hooks = HookRecorder::default();
    let engine = writer.engine.clone();
    let engine = engine.with_end_notifier(Arc::new(hooks.clone()));
    let started = engine.start(TestEngine::request(BACKGROUND)).await.unwrap();
    let call = writer.upstream.call().await;
    call.token("Hello");
    shown(started.guard.generation(), "Hello").await;
    writer.shared.flushed().await;
    let other = Node::over(Replicated::Background, logs, 1 << 24);
    let id = &started.guard.generation().meta().id;
    other.shared.adopt_replica(id).await.unwrap();
    answer(&call);
    eventually("a hook", async || !hooks.0.lock().is_empty()).await;
    assert_eq!(*hooks.0.lock(), ["taken over"]);
}

#[tokio::test(start_paused = true)]
async fn response_that_is_being_deleted_is_served_to_no_other_process() {
    let node = Node::new(Replicated::Background);
    let (started, call) = node.start(TestEngine::request(STORED)).await;
    answer(&call);
    let generation = started.guard.generation();
    generation.ended().await;
    node.shared.flushed().await;
    let id = &generation.meta().id;
    assert!(node.shared.serve(id).await.unwrap().is_some());
    let slow = Fault::Slow(Duration::from_millis(300));
    node.store.next(Operation::Delete, slow);
    let serving = async {
        sleep(Duration::from_millis(100)).await;
        node.shared.serve(id).await
    };
    let (deleted, served) = futures::join!(node.engine.delete(generation), serving);
    assert!(served.unwrap().is_none());
    deleted.unwrap();
}
