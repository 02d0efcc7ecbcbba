//! Generations that are not in this process: those of a store and of other nodes.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokenwire_core::engine::{
    Cursor, Engine, GenerationSource, LOST_SEQ, Located, Peer, PeerError, Place, ReaderKind,
    RemoteLog, Resumption, StoredGeneration,
};
use tokenwire_core::generation::Generation;
use tokenwire_core::log::{Epoch, LogHeader, LogReader, LogStore, MemoryStore};
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::{GenerationId, Owner, Seq};
use tokenwire_core::model::record::RecordBatch;
use tokenwire_core::model::snapshot::Api;
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_testkit::{
    EngineOptions, Reader, ScriptedUpstream, TestEngine, scripted_target, settle,
};
use tokio::sync::Notify;

/// Where a test says that a generation is.
#[derive(Clone, Debug)]
enum Answer {
    Stored(Arc<LogHeader>),
    /// It was taken over while the process that is named slept, and is in the store.
    Fenced(Arc<LogHeader>),
    Remote,
    Lost,
    Unavailable,
}

/// Knows what a test says.
#[derive(Debug)]
struct FakeSource {
    store: Arc<dyn LogStore>,
    places: Mutex<HashMap<GenerationId, Answer>>,
    asked: AtomicUsize,
    /// If set, answers wait for it.
    wait: Option<Notify>,
}

impl Default for FakeSource {
    fn default() -> Self {
        Self {
            store: Arc::new(MemoryStore::new(1 << 20)),
            places: Mutex::default(),
            asked: AtomicUsize::new(0),
            wait: None,
        }
    }
}

impl FakeSource {
    /// Stores a generation as its process would.
    async fn store(&self, generation: &Generation) -> GenerationId {
        let id = generation.meta().id.clone();
        let header = Arc::new(LogHeader {
            input: generation.header().input.clone(),
            predecessor: generation.header().predecessor.clone(),
            ..LogHeader::new(generation.meta().clone(), "scripted")
        });
        self.store.create(header.clone()).await.unwrap();
        let mut reader = LogReader::new(generation.log().clone(), Seq(0));
        let mut batch = RecordBatch::default();
        reader.read(usize::MAX, &mut batch).unwrap();
        self.store.seal(&id, Epoch(1), batch, None).await.unwrap();
        self.put(Answer::Stored(header))
    }

    fn put(&self, place: Answer) -> GenerationId {
        let id = match &place {
            Answer::Stored(header) | Answer::Fenced(header) => header.meta.id.clone(),
            Answer::Remote | Answer::Lost | Answer::Unavailable => GenerationId::random(),
        };
        self.places.lock().insert(id.clone(), place);
        id
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl GenerationSource for FakeSource {
    fn locate(&self, id: &GenerationId) -> BoxFuture<'_, Result<Located, ApiError>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let place = self.places.lock().get(id).cloned();
        async move {
            if let Some(wait) = &self.wait {
                wait.notified().await;
            }
            Ok(match place {
                None => Located::Gone,
                Some(Answer::Lost) => Located::Lost(None),
                Some(Answer::Fenced(_)) => Located::Remote(Arc::new(Forgetful)),
                Some(Answer::Remote) => Located::Unreachable {
                    node: "east".to_owned(),
                },
                Some(Answer::Unavailable) => {
                    return Err(ApiError::new(ErrorCode::Overloaded, "The store is away."));
                }
                Some(Answer::Stored(header)) => Located::Stored(StoredGeneration {
                    store: self.store.clone(),
                    header,
                }),
            })
        }
        .boxed()
    }

    fn locate_lost<'a>(&'a self, id: &'a GenerationId) -> BoxFuture<'a, Result<Located, ApiError>> {
        let located = match self.places.lock().get(id) {
            Some(Answer::Fenced(header)) => Located::Stored(StoredGeneration {
                store: self.store.clone(),
                header: header.clone(),
            }),
            _ => Located::Gone,
        };
        async move { Ok(located) }.boxed()
    }
}

/// A process that is alive and has nothing.
#[derive(Debug)]
struct Forgetful;

impl Peer for Forgetful {
    fn name(&self) -> &str {
        "forgetful"
    }

    fn open<'a>(
        &'a self,
        _: &'a GenerationId,
        _: Seq,
    ) -> BoxFuture<'a, Result<RemoteLog, PeerError>> {
        async { Err(PeerError::Gone) }.boxed()
    }
}

/// An engine that knows no generation but those of the source.
fn engine(source: &Arc<FakeSource>) -> (Engine, ScriptedUpstream) {
    let upstream = ScriptedUpstream::new(scripted_target(Api::Chat));
    let shared = Engine::builder()
        .source(source.clone())
        .sweep_interval(None)
        .build();
    (shared.engine(Arc::new(upstream.clone())), upstream)
}

/// A generation that another engine has written.
async fn written() -> Arc<Generation> {
    let test = TestEngine::new(EngineOptions::default());
    let started = test.start(r#"{"input":"hi"}"#);
    let call = test.upstream.call().await;
    call.token("Hel")
        .token("lo")
        .token(".")
        .finish("stop")
        .done()
        .end(BodyEnd::Clean);
    let generation = started.guard.generation().clone();
    generation.ended().await;
    settle().await;
    generation
}

fn object(generation: &Generation) -> Value {
    serde_json::from_slice(&generation.response_json()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn stored_generation_is_opened_once_and_read_as_it_was_written() {
    let original = written().await;
    let source = Arc::new(FakeSource::default());
    let id = source.store(&original).await;
    let (engine, _) = engine(&source);
    let opened = engine.find(&id, &Owner::Anonymous).await.unwrap();
    assert!(!Arc::ptr_eq(&opened, &original));
    assert_eq!(object(&opened), object(&original));
    for dialect in [
        tokenwire_core::dialect::Dialect::Responses,
        tokenwire_core::dialect::Dialect::Chat,
    ] {
        let mut readers =
            [&original, &opened].map(|generation| Reader::new(generation.attach(), 0, dialect));
        for reader in &mut readers {
            assert_eq!(reader.read_to_end().await, Ok(()));
        }
        assert_eq!(readers[0].bytes(), readers[1].bytes());
    }
    let again = engine.find(&id, &Owner::Anonymous).await.unwrap();
    assert!(Arc::ptr_eq(&opened, &again));
    assert_eq!((source.asked(), engine.registry().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn stored_generation_that_is_deleted_meanwhile_is_not_found() {
    let source = Arc::new(FakeSource::default());
    let id = source.store(&*written().await).await;
    source.store.delete(&id).await.unwrap();
    let (engine, _) = engine(&source);
    let error = engine.find(&id, &Owner::Anonymous).await.unwrap_err();
    assert!(error.is(ErrorCode::NotFound), "{error:?}");
    assert_eq!(engine.registry().len(), 0);
}

/// Its first process lives and has nothing of it.
#[tokio::test(start_paused = true)]
async fn generation_that_was_taken_over_is_found_in_the_store() {
    let original = written().await;
    let source = Arc::new(FakeSource::default());
    let id = source.store(&original).await;
    let header = source.places.lock().remove(&id);
    let Some(Answer::Stored(header)) = header else {
        panic!("it is not stored");
    };
    source.put(Answer::Fenced(header));
    let (engine, _) = engine(&source);
    let opened = engine.find(&id, &Owner::Anonymous).await.unwrap();
    assert_eq!(object(&opened), object(&original));
    let other = Owner::Named("other".into());
    let refused = engine.find(&id, &other).await.unwrap_err();
    assert!(refused.is(ErrorCode::NotFound), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn turn_builds_on_a_stored_generation() {
    let source = Arc::new(FakeSource::default());
    let id = source.store(&*written().await).await;
    let (engine, upstream) = engine(&source);
    let body = json!({"input": "and then?", "previous_response_id": id.as_str()});
    let request = TestEngine::request(&body.to_string());
    let _started = engine.start(request).await.unwrap();
    let messages = upstream.call().await.body()["messages"].clone();
    let texts: Vec<&Value> = messages
        .as_array()
        .unwrap()
        .iter()
        .map(|message| &message["content"])
        .collect();
    assert_eq!(texts.len(), 3, "{messages}");
    assert!(texts[1].to_string().contains("Hello."), "{messages}");
}

#[tokio::test(start_paused = true)]
async fn stored_generation_of_another_owner_is_not_found() {
    let source = Arc::new(FakeSource::default());
    let id = source.store(&*written().await).await;
    let (engine, _) = engine(&source);
    let stranger = Owner::Named("bob".into());
    let error = engine.find(&id, &stranger).await.unwrap_err();
    assert!(error.is(ErrorCode::NotFound), "{error:?}");
    let body = json!({"input": "x", "previous_response_id": id.as_str()});
    let mut request = TestEngine::request(&body.to_string());
    request.owner = stranger;
    let error = engine.start(request).await.unwrap_err();
    assert!(error.is(ErrorCode::PreviousResponseNotFound), "{error:?}");
    assert_eq!(engine.registry().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn stream_of_a_lost_node_ends_with_producer_lost() {
    let source = Arc::new(FakeSource::default());
    let id = source.put(Answer::Lost);
    let (engine, _) = engine(&source);
    let owner = Owner::Anonymous;
    for kind in [ReaderKind::EventSource, ReaderKind::WebSocket] {
        for after in [None, Some(0), Some(LOST_SEQ.0 - 1)] {
            let cursor = Cursor {
                id: id.clone(),
                after,
            };
            let found = engine.resume(&cursor, &owner, kind).await;
            let Ok(Resumption::Lost(lost)) = found else {
                panic!("{kind:?} after {after:?} gets {found:?}");
            };
            let event: Value = serde_json::from_slice(&lost.event).unwrap();
            assert_eq!(event["type"], "response.failed");
            assert_eq!(event["sequence_number"], 2_147_483_647_u64);
            assert_eq!(event["response"]["id"], id.as_str());
            assert_eq!(event["response"]["status"], "failed");
            assert_eq!(event["response"]["error"]["code"], "producer_lost");
            assert_eq!(engine.peek(&cursor, &owner, kind).await, Ok(Place::Lost));
        }
        let cursor = Cursor {
            id: id.clone(),
            after: Some(LOST_SEQ.0),
        };
        assert!(matches!(
            engine.resume(&cursor, &owner, kind).await,
            Ok(Resumption::NothingLeft { generation: None })
        ));
    }
    for after in [None, Some(0), Some(LOST_SEQ.0)] {
        let cursor = Cursor {
            id: id.clone(),
            after,
        };
        let error = engine
            .resume(&cursor, &owner, ReaderKind::Sdk)
            .await
            .unwrap_err();
        assert_eq!(
            (error.status, error.is(ErrorCode::ProducerLost)),
            (410, true)
        );
    }
    let error = engine.find(&id, &owner).await.unwrap_err();
    assert!(error.is(ErrorCode::ProducerLost), "{error:?}");
    let body = json!({"input": "x", "previous_response_id": id.as_str()});
    let request = TestEngine::request(&body.to_string());
    let error = engine.start(request).await.unwrap_err();
    assert!(error.is(ErrorCode::PreviousResponseNotFound), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn other_places_are_errors_of_their_own() {
    let source = Arc::new(FakeSource::default());
    let (engine, _) = engine(&source);
    for (id, code) in [
        (source.put(Answer::Remote), ErrorCode::OwnerUnreachable),
        (source.put(Answer::Unavailable), ErrorCode::Overloaded),
        (GenerationId::random(), ErrorCode::NotFound),
    ] {
        let cursor = Cursor::start(id.clone());
        let owner = Owner::Anonymous;
        let found = engine.find(&id, &owner).await.unwrap_err();
        assert!(found.is(code), "{found:?}");
        let resumed = engine
            .resume(&cursor, &owner, ReaderKind::EventSource)
            .await;
        assert!(resumed.unwrap_err().is(code));
        let peeked = engine.peek(&cursor, &owner, ReaderKind::EventSource).await;
        assert!(peeked.unwrap_err().is(code));
    }
}

#[tokio::test(start_paused = true)]
async fn generations_of_this_process_are_found_without_asking_or_waiting() {
    let source = Arc::new(FakeSource {
        wait: Some(Notify::new()),
        ..FakeSource::default()
    });
    let (engine, upstream) = engine(&source);
    let request = TestEngine::request(r#"{"input":"hi"}"#);
    let started = engine.start(request).now_or_never().unwrap().unwrap();
    let call = upstream.call().await;
    call.token("x").finish("stop").done().end(BodyEnd::Clean);
    started.guard.generation().ended().await;
    let (id, owner) = (
        started.guard.generation().meta().id.clone(),
        Owner::Anonymous,
    );
    let cursor = Cursor::start(id.clone());
    engine.find(&id, &owner).now_or_never().unwrap().unwrap();
    let kind = ReaderKind::EventSource;
    engine
        .resume(&cursor, &owner, kind)
        .now_or_never()
        .unwrap()
        .unwrap();
    engine
        .peek(&cursor, &owner, kind)
        .now_or_never()
        .unwrap()
        .unwrap();
    let body = json!({"input": "x", "previous_response_id": id.as_str()});
    let request = TestEngine::request(&body.to_string());
    engine.start(request).now_or_never().unwrap().unwrap();
    assert_eq!(source.asked(), 0);
}
