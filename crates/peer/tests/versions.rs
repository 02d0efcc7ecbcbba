//! Two builds on one store: one knows logs of version 1 only. Each reads what the other writes, over
//! the internal protocol and from the disk.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokenwire_core::dialect::Dialect;
use tokenwire_core::engine::{
    Cursor, Engine, GenerationSource, Located, ReaderKind, Resumption, SharedEngine, StoredSource,
};
use tokenwire_core::generation::Generation;
use tokenwire_core::log::{Formats, LogStore};
use tokenwire_core::model::account::Account;
use tokenwire_core::model::error::ApiError;
use tokenwire_core::model::id::{GenerationId, Owner};
use tokenwire_core::model::include::Form;
use tokenwire_core::model::snapshot::{Api, Status};
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_peer::{Address, Client, Secret, Server};
use tokenwire_store::{DiskOptions, DiskStore};
use tokenwire_testkit::{Call, Reader, ScriptedUpstream, TestEngine, scripted_target};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

/// The build of today, and one before it.
const NEW: Formats = Formats::CURRENT;
const OLD: Formats = Formats::FIRST;

/// A process: its store, its engine, and where others reach it.
struct Process {
    store: Arc<DiskStore>,
    shared: SharedEngine,
    engine: Engine,
    upstream: ScriptedUpstream,
    address: Address,
}

/// The other process, if there is one, and the own store.
#[derive(Debug)]
struct Source {
    own: StoredSource,
    other: Option<Client>,
}

impl GenerationSource for Source {
    fn locate(&self, id: &GenerationId) -> BoxFuture<'_, Result<Located, ApiError>> {
        match &self.other {
            Some(other) => {
                let located = Located::Remote(Arc::new(other.clone()));
                async { Ok(located) }.boxed()
            }
            None => self.own.locate(id),
        }
    }
}

fn store(path: &Path, formats: Formats) -> Arc<DiskStore> {
    let options = DiskOptions {
        formats,
        ..DiskOptions::new(path)
    };
    Arc::new(DiskStore::open(options).unwrap())
}

impl Process {
    /// Starts a process that reads the streams of another one.
    fn start(path: &Path, formats: Formats, other: Option<&Self>) -> Self {
        let store = store(path, formats);
        let upstream = ScriptedUpstream::new(scripted_target(Api::Responses));
        let client = |other: &Self| Client::new("other", other.address.clone()).formats(formats);
        let source = Source {
            own: StoredSource::new(store.clone(), PATIENCE),
            other: other.map(client),
        };
        let shared = Engine::builder()
            .store(store.clone())
            .source(Arc::new(source))
            .disconnect_grace(PATIENCE)
            .build();
        let engine = shared.engine(Arc::new(upstream.clone()));
        let address = Address::of(store.path());
        let secret = Secret::create(&address.secret).unwrap();
        let server = Server::bind(&address.socket, secret, shared.clone()).unwrap();
        tokio::spawn(server.formats(formats).run());
        Self {
            store,
            shared,
            engine,
            upstream,
            address,
        }
    }

    /// Starts a stream that has shown its text.
    async fn begin(&self) -> (Arc<Generation>, Call) {
        let request = TestEngine::request(r#"{"input":"hi","stream":true}"#);
        let started = self.engine.start(request).await.unwrap();
        let call = self.upstream.call().await;
        call.data(r#"{"type":"response.output_item.added","output_index":0,"item":{"id":"m","type":"message","content":[]}}"#);
        for word in words() {
            call.data(&format!(r#"{{"type":"response.output_text.delta","item_id":"m","output_index":0,"content_index":0,"delta":"{word}"}}"#));
        }
        let generation = started.guard.generation().clone();
        until("the text", || {
            String::from_utf8_lossy(&generation.response_json()).contains("word99 ")
        })
        .await;
        until("the store has it", || {
            self.store.unfinished() == [generation.meta().id.clone()]
                && generation.log().committed() == generation.tail().unwrap().next
        })
        .await;
        (generation, call)
    }

    /// Reads a stream to its end.
    async fn read(&self, id: &GenerationId) -> Reader {
        let cursor = Cursor::start(id.clone());
        let resumed = self
            .engine
            .resume(&cursor, &Owner::Anonymous, ReaderKind::EventSource)
            .await;
        match resumed.unwrap() {
            Resumption::Read { guard, from } => Reader::new(guard, from.0, Dialect::Responses),
            other => panic!("{other:?}"),
        }
    }
}

fn words() -> impl Iterator<Item = String> {
    (0..100).map(|number| format!("word{number} "))
}

/// Ends a stream as an upstream does: it repeats the text three times. One string begins as a
/// reference of newer logs does.
fn finish(call: &Call) {
    let text: String = words().collect();
    let part = format!(r#"{{"type":"output_text","text":"{text}","mark":"\u0001=0.0.7"}}"#);
    let message = format!(r#"{{"id":"m","type":"message","content":[{part}]}}"#);
    call.data(&format!(r#"{{"type":"response.output_text.done","item_id":"m","output_index":0,"content_index":0,"text":"{text}","logprobs":[]}}"#));
    call.data(&format!(r#"{{"type":"response.content_part.done","item_id":"m","output_index":0,"content_index":0,"part":{part}}}"#));
    call.data(&format!(
        r#"{{"type":"response.output_item.done","output_index":0,"item":{message}}}"#
    ));
    call.data(&format!(r#"{{"type":"response.completed","response":{{"id":"theirs","status":"completed","output":[{message}]}}}}"#));
    call.end(BodyEnd::Clean);
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let wait = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(timeout(PATIENCE, wait).await.is_ok(), "{what}");
}

async fn all(mut reader: Reader) -> String {
    let read = timeout(PATIENCE, reader.read_to_end()).await;
    read.expect("the stream ends").unwrap();
    String::from_utf8(reader.bytes().to_vec()).unwrap()
}

async fn rendered(generation: &Arc<Generation>) -> String {
    all(Reader::new(generation.attach(), 0, Dialect::Responses)).await
}

/// Copies all files as they are now: what a process that is killed leaves behind.
fn killed(path: &Path, copy: &Path) -> PathBuf {
    for folder in std::fs::read_dir(path).unwrap() {
        let folder = folder.unwrap();
        let target = copy.join(folder.file_name());
        std::fs::create_dir_all(&target).unwrap();
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let file = file.unwrap();
            if file.file_type().unwrap().is_file() {
                std::fs::copy(file.path(), target.join(file.file_name())).unwrap();
            }
        }
    }
    copy.to_owned()
}

/// Checks that a build finds a stream on the disk as its writer had it.
async fn expect_stored(path: &Path, formats: Formats, version: u8, written: &Arc<Generation>) {
    let id = &written.meta().id;
    let store = store(path, formats);
    assert_eq!(store.open(id).await.unwrap().header.version, version);
    let restored = Generation::restore(&*store, id, Account::default()).await;
    let restored = restored.unwrap();
    assert_eq!(rendered(&restored).await, rendered(written).await);
    assert_eq!(restored.response_json(), written.response_json());
    let object = store.object(id).await.unwrap();
    assert_eq!(object.unwrap(), written.response_in(Form::Kept));
    // The next one on the path takes the folder. Dropping it does not wait for its threads.
    store.close();
}

#[tokio::test]
async fn stream_that_runs_at_a_start_of_the_older_build_is_read_there_and_left_to_it() {
    let (folder, copy) = (tempdir(), tempdir());
    let new = Process::start(folder.path(), NEW, None);
    assert_eq!(new.store.version(), 2);
    let (generation, call) = new.begin().await;
    let id = &generation.meta().id;
    let old = Process::start(folder.path(), OLD, Some(&new));
    let reader = old.read(id).await;
    // The gateway looks every half second.
    assert_eq!(new.store.neighbours().unwrap().running.len(), 1);
    assert_eq!(new.store.version(), 1);
    finish(&call);
    let (read, own) = (all(reader).await, rendered(&generation).await);
    assert_eq!(read, own);
    assert!(own.contains(r"u0001=0.0.7"), "{own}");
    until("its end is stored", || new.store.status().kept == 1).await;
    let left = killed(folder.path(), copy.path());
    expect_stored(&left, OLD, 1, &generation).await;
    expect_stored(&left, NEW, 1, &generation).await;
}

#[tokio::test]
async fn newer_build_that_is_killed_leaves_its_streams_to_the_older_one() {
    let (folder, copy) = (tempdir(), tempdir());
    let old = Process::start(folder.path(), OLD, None);
    let new = Process::start(folder.path(), NEW, Some(&old));
    assert_eq!(new.store.version(), 1);
    let (generation, call) = new.begin().await;
    let id = &generation.meta().id;
    let left = killed(folder.path(), copy.path());
    let taken = Process::start(&left, OLD, None);
    assert_eq!(taken.store.unfinished(), std::slice::from_ref(id));
    let adopted = taken.shared.adopt(id).await.unwrap();
    assert_eq!(adopted.status(), Status::Failed);
    assert!(rendered(&adopted).await.contains("word99 "));
    // Undisturbed it ends in the version in which it began.
    finish(&call);
    generation.ended().await;
    until("its end is stored", || new.store.status().kept == 1).await;
    let copy = tempdir();
    let left = killed(folder.path(), copy.path());
    expect_stored(&left, OLD, 1, &generation).await;
}

#[tokio::test]
async fn stream_of_the_older_build_is_read_by_the_newer_one_during_and_after_its_life() {
    let (folder, copy) = (tempdir(), tempdir());
    let old = Process::start(folder.path(), OLD, None);
    let (generation, call) = old.begin().await;
    let new = Process::start(folder.path(), NEW, Some(&old));
    let reader = new.read(&generation.meta().id).await;
    finish(&call);
    let (read, own) = (all(reader).await, rendered(&generation).await);
    assert_eq!(read, own);
    until("its end is stored", || old.store.status().kept == 1).await;
    let left = killed(folder.path(), copy.path());
    expect_stored(&left, NEW, 1, &generation).await;
}

#[tokio::test]
async fn newer_build_writes_its_own_version_beside_its_like() {
    let (folder, copy) = (tempdir(), tempdir());
    let first = Process::start(folder.path(), NEW, None);
    let second = Process::start(folder.path(), NEW, Some(&first));
    assert_eq!((first.store.version(), second.store.version()), (2, 2));
    let (generation, call) = first.begin().await;
    let reader = second.read(&generation.meta().id).await;
    finish(&call);
    assert_eq!(all(reader).await, rendered(&generation).await);
    until("its end is stored", || first.store.status().kept == 1).await;
    let left = killed(folder.path(), copy.path());
    expect_stored(&left, NEW, 2, &generation).await;
}

fn tempdir() -> tempfile::TempDir {
    tempfile::TempDir::new().unwrap()
}
