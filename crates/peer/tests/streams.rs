//! Two engines in one process, of which one reads the streams of the other over a Unix socket.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokenwire_core::dialect::Dialect;
use tokenwire_core::engine::{
    Cursor, Engine, GenerationSource, Located, Peer, PeerError, ReadControl, ReaderKind,
    RemotePart, Resumption, SharedEngine,
};
use tokenwire_core::generation::Generation;
use tokenwire_core::log::LogLimits;
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::{GenerationId, Owner, Seq};
use tokenwire_core::model::snapshot::{Api, Status};
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_peer::{Address, Client, KeyAnswer, Secret, Server};
use tokenwire_testkit::{Call, Reader, ScriptedUpstream, TestEngine, scripted_target};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

const CHAT: &str = r#"{"messages":[{"role":"user","content":"x"}],"stream":true}"#;
const PATIENCE: Duration = Duration::from_secs(20);

/// Says of every generation that the peer has it.
#[derive(Debug)]
struct AtPeer(Client);

impl GenerationSource for AtPeer {
    fn locate(&self, _: &GenerationId) -> BoxFuture<'_, Result<Located, ApiError>> {
        async { Ok(Located::Remote(Arc::new(self.0.clone()))) }.boxed()
    }
}

/// The engine that writes, and the one that reads.
struct World {
    writer: SharedEngine,
    writing: Engine,
    upstream: ScriptedUpstream,
    reading: Engine,
    client: Client,
    connections: TaskTracker,
    folder: tempfile::TempDir,
}

fn engine(
    grace: Duration,
    source: Option<Arc<dyn GenerationSource>>,
) -> (SharedEngine, Engine, ScriptedUpstream) {
    let upstream = ScriptedUpstream::new(scripted_target(Api::Chat));
    let limits = LogLimits {
        bytes: 1 << 26,
        events: 1 << 20,
    };
    let builder = Engine::builder().log_limits(limits).disconnect_grace(grace);
    let shared = match source {
        Some(source) => builder.source(source),
        None => builder,
    }
    .build();
    let engine = shared.engine(Arc::new(upstream.clone()));
    (shared, engine, upstream)
}

impl World {
    fn new(grace: Duration) -> Self {
        let folder = tempfile::TempDir::new().unwrap();
        let address = Address::of(folder.path());
        let secret = Secret::create(&address.secret).unwrap();
        let (writer, writing, upstream) = engine(grace, None);
        let server = Server::bind(&address.socket, secret, writer.clone()).unwrap();
        let connections = server.connections();
        tokio::spawn(server.run());
        let client = Client::new("writer", address);
        let source = Arc::new(AtPeer(client.clone()));
        let (_, reading, _) = engine(grace, Some(source));
        Self {
            writer,
            writing,
            upstream,
            reading,
            client,
            connections,
            folder,
        }
    }

    async fn start(&self) -> (Arc<Generation>, Call) {
        let started = self.writing.start(TestEngine::request(CHAT)).await.unwrap();
        let call = self.upstream.call().await;
        (started.guard.generation().clone(), call)
    }

    async fn read(&self, id: &GenerationId, dialect: Dialect) -> Reader {
        let cursor = Cursor::start(id.clone());
        let resumed = self
            .reading
            .resume(&cursor, &Owner::Anonymous, ReaderKind::EventSource)
            .await;
        match resumed.unwrap() {
            Resumption::Read { guard, from } => Reader::new(guard, from.0, dialect),
            other => panic!("{other:?}"),
        }
    }
}

fn say(call: &Call, count: usize) {
    for number in 0..count {
        call.token(&format!(" t{number}"));
    }
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let wait = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(timeout(PATIENCE, wait).await.is_ok(), "{what}");
}

async fn all(mut reader: Reader) -> Vec<u8> {
    let read = timeout(PATIENCE, reader.read_to_end()).await;
    read.expect("the stream ends").unwrap();
    reader.bytes().to_vec()
}

#[tokio::test]
async fn local_readers_share_one_internal_read() {
    let world = World::new(PATIENCE);
    let (generation, call) = world.start().await;
    say(&call, 20);
    let id = &generation.meta().id;
    let readers = (0..20).map(|_| world.read(id, Dialect::Responses));
    let readers = futures::future::join_all(readers).await;
    let over_chat = world.read(id, Dialect::Chat).await;
    assert_eq!(world.connections.len(), 1);
    say(&call, 30);
    call.finish("stop").done().end(BodyEnd::Clean);
    let own = all(Reader::new(generation.attach(), 0, Dialect::Responses)).await;
    for reader in readers {
        assert!(all(reader).await == own, "a remote reader differs");
    }
    let own = all(Reader::new(generation.attach(), 0, Dialect::Chat)).await;
    assert!(all(over_chat).await == own, "the chat dialect differs");
    let copy = world.reading.find(id, &Owner::Anonymous).await.unwrap();
    assert_eq!(copy.response_json(), generation.response_json());
    until("the connection ends", || world.connections.is_empty()).await;
}

#[tokio::test]
async fn another_owner_finds_nothing() {
    let world = World::new(PATIENCE);
    let (generation, _call) = world.start().await;
    let other = Owner::Named("other".into());
    let found = world.reading.find(&generation.meta().id, &other).await;
    assert!(found.unwrap_err().is(ErrorCode::NotFound));
    until("the connection ends", || world.connections.is_empty()).await;
}

#[tokio::test]
async fn remote_readers_keep_a_generation_until_they_leave() {
    let world = World::new(Duration::from_millis(200));
    let (generation, call) = world.start().await;
    say(&call, 1);
    let reader = world.read(&generation.meta().id, Dialect::Responses).await;
    until("the reader is counted", || generation.readers() == 1).await;
    drop(reader);
    until("it has left", || generation.readers() == 0).await;
    assert!(timeout(PATIENCE, generation.ended()).await.is_ok());
    assert_eq!(generation.status(), Status::Cancelled);
    assert!(timeout(PATIENCE, call.gone()).await.is_ok());
}

#[tokio::test]
async fn cancel_and_delete_are_forwarded() {
    let world = World::new(PATIENCE);
    let (generation, _call) = world.start().await;
    let id = &generation.meta().id;
    let copy = world.reading.find(id, &Owner::Anonymous).await.unwrap();
    copy.cancel();
    assert!(timeout(PATIENCE, copy.ended()).await.is_ok());
    assert_eq!(copy.status(), Status::Cancelled);
    assert_eq!(generation.status(), Status::Cancelled);
    assert_eq!(world.client.has(id).await, Ok(true));
    assert_eq!(world.client.delete(id).await, Ok(()));
    assert_eq!(world.client.has(id).await, Ok(false));
    let opened = world.client.open(id, Seq(0)).await;
    assert_eq!(opened.unwrap_err(), PeerError::Gone);
}

#[tokio::test]
async fn key_is_known_to_other_processes() {
    let world = World::new(PATIENCE);
    let request = TestEngine::request(CHAT).with_idempotency_key(Some("order-7".to_owned()));
    let started = world.writing.start(request).await.unwrap();
    let id = started.guard.generation().meta().id.clone();
    let key = |owner: Owner| {
        let client = world.client.clone();
        async move { client.key(&owner, "order-7").await.unwrap() }
    };
    assert_eq!(key(Owner::Anonymous).await, KeyAnswer::Known(id));
    let other = Owner::Named("other".into());
    assert_eq!(key(other).await, KeyAnswer::Unknown);
}

#[tokio::test]
async fn peer_that_reads_nothing_holds_back_its_own_connection_only() {
    let world = World::new(PATIENCE);
    let (generation, call) = world.start().await;
    let id = &generation.meta().id;
    let mut stuck = world.client.open(id, Seq(0)).await.unwrap();
    let text = "x".repeat(16 * 1024);
    for _ in 0..300 {
        call.token(&text);
    }
    call.finish("stop").done().end(BodyEnd::Clean);
    let reader = world.read(id, Dialect::Responses).await;
    assert!(all(reader).await.len() > 300 * text.len());
    // It is cut off, after what had been sent.
    until("the connection ends", || world.connections.is_empty()).await;
    let mut bytes = 0;
    while let Some(part) = stuck.parts.recv().await {
        match part {
            RemotePart::Records(batch) => bytes += batch.byte_len(),
            other => panic!("{other:?}"),
        }
    }
    assert!(bytes < 200 * text.len(), "{bytes} bytes waited for it");
}

#[tokio::test]
async fn another_secret_is_refused() {
    let world = World::new(PATIENCE);
    let (generation, _call) = world.start().await;
    let other = tempfile::TempDir::new().unwrap();
    let secret = other.path().join("peer.secret");
    Secret::create(&secret).unwrap();
    let socket = Address::of(world.folder.path()).socket;
    let client = Client::new("writer", Address { socket, secret });
    let refused = client.has(&generation.meta().id).await;
    assert!(matches!(refused, Err(PeerError::Unreachable(_))));
    assert!(client.take_failed());
}

#[tokio::test]
async fn files_of_the_socket_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;

    let world = World::new(PATIENCE);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let Address { socket, secret } = Address::of(world.folder.path());
    assert_eq!(mode(&secret), 0o600);
    assert_eq!(mode(&socket), 0o600);
    assert_eq!(world.writer.registry().open(), 0);
}

#[tokio::test]
async fn stream_goes_on_at_its_position_on_another_connection() {
    let world = World::new(PATIENCE);
    let (generation, call) = world.start().await;
    say(&call, 5);
    until("the tokens are in the log", || {
        generation.tail().unwrap().next >= Seq(8)
    })
    .await;
    let from = Seq(6);
    let mut read = world
        .client
        .open(&generation.meta().id, from)
        .await
        .unwrap();
    read.control
        .send(ReadControl {
            held: true,
            cancelled: false,
        })
        .unwrap();
    call.finish("stop").done().end(BodyEnd::Clean);
    let mut next = from;
    loop {
        match timeout(PATIENCE, read.parts.recv()).await.unwrap() {
            Some(RemotePart::Records(batch)) => {
                assert_eq!(batch.first_seq(), next);
                next = batch.end_seq();
            }
            Some(RemotePart::Sealed) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(next, generation.tail().unwrap().next);
}

#[test]
fn log_is_sent_by_the_runtime_that_writes_it_until_the_drain() {
    let mut worker = tokio::runtime::Builder::new_multi_thread();
    let worker = worker.worker_threads(1).enable_all().build().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let world = World::new(PATIENCE);
        let writing = world.writing.clone();
        let start = async move { writing.start(TestEngine::request(CHAT)).await.unwrap() };
        let started = worker.spawn(start).await.unwrap();
        let generation = started.guard.generation().clone();
        let call = world.upstream.call().await;
        let tasks = || worker.metrics().num_alive_tasks();
        let before = tasks();
        let id = &generation.meta().id;
        let there = world.read(id, Dialect::Responses).await;
        assert_eq!(tasks(), before + 1);
        world.writer.registry().begin_drain(false);
        // Workers end before the last readers do.
        let (_, other, _) = engine(PATIENCE, Some(Arc::new(AtPeer(world.client.clone()))));
        let copy = other.find(id, &Owner::Anonymous).await.unwrap();
        assert_eq!(tasks(), before + 1);
        let here = Reader::new(copy.attach(), 0, Dialect::Responses);
        say(&call, 20);
        call.finish("stop").done().end(BodyEnd::Clean);
        let own = all(Reader::new(generation.attach(), 0, Dialect::Responses)).await;
        assert!(all(there).await == own, "a reader from the worker differs");
        assert!(
            all(here).await == own,
            "a reader from the main thread differs"
        );
        until("the connections end", || world.connections.is_empty()).await;
    });
    worker.shutdown_background();
}

#[tokio::test]
async fn stream_that_has_ended_needs_no_runtime_of_its_own() {
    let world = World::new(PATIENCE);
    let (generation, call) = world.start().await;
    let id = &generation.meta().id;
    let serve = || async { world.writer.serve(id).await.unwrap().unwrap() };
    assert!(serve().await.runtime.is_some());
    call.token("x");
    call.finish("stop").done().end(BodyEnd::Clean);
    assert!(timeout(PATIENCE, generation.ended()).await.is_ok());
    // The worker that wrote it may have ended, too.
    assert!(serve().await.runtime.is_none());
}
