//! The store in Redis passes the conformance suite on a real server, and loses or doubles nothing
//! when the server hangs, is full, restarts empty or has lost what it acknowledged.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod support;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use support::{FIRST, append};
use tokenwire_core::log::{Block, Blocks, Epoch, LogHeader, LogStore, StoreError};
use tokenwire_core::model::id::{GenerationId, Seq};
use tokenwire_core::model::record::RecordBatch;
use tokenwire_store::redis::{RedisClient, RedisOptions, RedisRetention, RedisStore};
use tokenwire_testkit::store_conformance::{block, header, log_contents};
use tokenwire_testkit::{RedisCluster, RedisServer, WatchedRedis};

thread_local! {
    /// The server of a conformance test, which ends with the test's thread.
    static SERVER: RefCell<Option<RedisServer>> = const { RefCell::new(None) };
}

fn store_on(server: &RedisServer) -> Arc<RedisStore> {
    let client = RedisClient::new(RedisOptions::new(server.url())).unwrap();
    Arc::new(RedisStore::new(client, RedisRetention::default()))
}

fn redis() -> Arc<RedisStore> {
    let server = RedisServer::start();
    let store = store_on(&server);
    SERVER.set(Some(server));
    store
}

mod bare {
    tokenwire_testkit::store_conformance!(super::redis);
}

thread_local! {
    /// As [`SERVER`].
    static CLUSTER: RefCell<Option<RedisCluster>> = const { RefCell::new(None) };
    static WATCHED: RefCell<Option<WatchedRedis>> = const { RefCell::new(None) };
}

fn store_at(url: String) -> Arc<RedisStore> {
    let client = RedisClient::new(RedisOptions::new(url)).unwrap();
    Arc::new(RedisStore::new(client, RedisRetention::default()))
}

/// Three nodes of a Redis Cluster.
mod cluster {
    use super::*;

    fn redis() -> Arc<RedisStore> {
        CLUSTER.with_borrow_mut(|cluster| {
            let cluster = cluster.get_or_insert_with(RedisCluster::start);
            store_at(cluster.url())
        })
    }

    tokenwire_testkit::store_conformance_at_once!(redis);
}

/// A master that a Sentinel watches.
mod watched {
    use super::*;

    fn redis() -> Arc<RedisStore> {
        WATCHED.with_borrow_mut(|watched| {
            let watched = watched.get_or_insert_with(WatchedRedis::start);
            store_at(watched.url())
        })
    }

    tokenwire_testkit::store_conformance_at_once!(redis);
}

#[tokio::test]
async fn logs_are_spread_over_the_nodes_of_a_cluster() {
    let cluster = RedisCluster::start();
    let store = store_at(cluster.url());
    for _ in 0..24 {
        let (_, id) = create(&*store).await;
        append(&*store, &id, FIRST, &block(0, &[1, 1]))
            .await
            .unwrap();
        let sealed = store.seal(&id, FIRST, block(2, &[1]), Some(Bytes::from_static(b"{}")));
        sealed.await.unwrap();
        expect_ones(store.clone(), &id, 3).await;
    }
    for node in cluster.nodes() {
        assert_ne!(node.command(&["DBSIZE"]), "0");
    }
}

#[tokio::test]
async fn transaction_of_a_cluster_stays_one() {
    let cluster = RedisCluster::start();
    let client = RedisClient::new(RedisOptions::new(cluster.url())).unwrap();
    let mut all = redis::pipe();
    all.atomic();
    all.hset("tw:revoked", "a", 1).ignore();
    all.hincr("tw:revoked", "version", 1);
    assert_eq!(client.pipeline::<(u64,)>(all).await, Ok((1,)));
    let found = redis::cmd("HGET").arg("tw:revoked").arg("a").to_owned();
    assert_eq!(client.query::<u64>(found).await, Ok(1));
}

#[tokio::test]
async fn writer_goes_on_after_a_failover_that_sentinels_make() {
    let mut watched = WatchedRedis::start();
    let store = store_at(watched.url());
    let (header, id) = create(&*store).await;
    append(&*store, &id, FIRST, &block(0, &[1, 1]))
        .await
        .unwrap();
    watched.fail_over();
    // The replica may not have got all that the master has acknowledged.
    let all = block(0, &[1; 4]);
    let end = loop {
        match append(&*store, &id, FIRST, &all).await {
            Err(StoreError::NotFound) => {
                let _ = store.create(header.clone()).await;
            }
            Err(error) => assert!(error.is_retryable(), "{error}"),
            Ok(end) => break end,
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(end, Seq(4));
    expect_ones(store, &id, 4).await;
}

#[tokio::test]
async fn address_of_another_kind_of_server_is_refused_with_the_remedy() {
    let cluster = RedisCluster::start();
    let server = RedisServer::start();
    for (url, remedy) in [
        (cluster.nodes()[0].url(), "redis+cluster://"),
        (format!("redis+cluster://{}", server.address()), "redis://"),
    ] {
        let client = RedisClient::new(RedisOptions::new(url.clone())).unwrap();
        let error = client.check().await.unwrap_err();
        assert!(!error.is_retryable(), "{url}: {error}");
        assert!(error.to_string().contains(remedy), "{url}: {error}");
    }
}

/// Every change happens twice.
mod repeating {
    use super::*;

    tokenwire_testkit::store_conformance!(|| { support::repeating(redis()) });
}

async fn create(store: &dyn LogStore) -> (Arc<LogHeader>, GenerationId) {
    let header = header();
    store.create(header.clone()).await.unwrap();
    let id = header.meta.id.clone();
    (header, id)
}

fn key(server: &RedisServer, kind: &str, id: &GenerationId) -> String {
    let key = server.command(&["KEYS", &format!("tw:*:{kind}:{id}")]);
    assert!(!key.is_empty(), "there is a {kind}");
    key
}

/// Checks that a log has events 0 to `end`, each in a record, and each once.
async fn expect_ones(store: Arc<RedisStore>, id: &GenerationId, end: u64) {
    let store: Arc<dyn LogStore> = store;
    let (log, all) = log_contents(&store, id).await;
    assert_eq!(log.end, Seq(end));
    let numbers: Vec<_> = all.iter().map(|(first, ..)| *first).collect();
    assert_eq!(numbers, (0..end).collect::<Vec<_>>());
}

/// Repeats a write until the store takes it.
async fn until_stored<T, F: Future<Output = Result<T, StoreError>>>(write: impl Fn() -> F) -> T {
    loop {
        match write().await {
            Ok(value) => return value,
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn repetition_after_a_lost_answer_stores_each_record_once() {
    let server = RedisServer::start();
    let store = store_on(&server);
    let (_, id) = create(&*store).await;
    append(&*store, &id, FIRST, &block(0, &[1, 1]))
        .await
        .unwrap();
    append(&*store, &id, FIRST, &block(2, &[1])).await.unwrap();
    // The server has the request, but gives no answer until it goes on.
    server.pause();
    let start = Instant::now();
    let failed = append(&*store, &id, FIRST, &block(3, &[1, 1])).await;
    assert!(failed.unwrap_err().is_retryable());
    assert!(start.elapsed() < Duration::from_secs(10));
    server.resume();
    // More records have been added in between.
    let more = block(3, &[1; 5]);
    let end = until_stored(|| append(&*store, &id, FIRST, &more)).await;
    assert_eq!(end, Seq(8));
    append(&*store, &id, FIRST, &block(8, &[1])).await.unwrap();
    expect_ones(store, &id, 9).await;
}

#[tokio::test]
async fn seal_after_a_lost_answer_is_the_same_seal() {
    let server = RedisServer::start();
    let store = store_on(&server);
    let (_, id) = create(&*store).await;
    append(&*store, &id, FIRST, &block(0, &[1])).await.unwrap();
    server.pause();
    let object = || Some(Bytes::from_static(b"{}"));
    let seal = || store.seal(&id, FIRST, block(1, &[1]), object());
    assert!(seal().await.unwrap_err().is_retryable());
    server.resume();
    until_stored(seal).await;
    expect_ones(store.clone(), &id, 2).await;
    assert_eq!(store.object(&id).await, Ok(object()));
    assert_eq!(store.adopt(&id).await, Err(StoreError::Sealed));
}

#[tokio::test]
async fn log_of_a_server_that_restarts_empty_is_written_again() {
    let mut server = RedisServer::start();
    let store = store_on(&server);
    let (header, id) = create(&*store).await;
    append(&*store, &id, FIRST, &block(0, &[1, 1]))
        .await
        .unwrap();
    server.restart();
    let next = block(2, &[1]);
    let lost = loop {
        match append(&*store, &id, FIRST, &next).await {
            Err(error) if error.is_retryable() => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            result => break result,
        }
    };
    assert_eq!(lost, Err(StoreError::NotFound));
    assert_eq!(store.create(header).await, Ok(FIRST));
    append(&*store, &id, FIRST, &block(0, &[1; 3]))
        .await
        .unwrap();
    expect_ones(store, &id, 3).await;
}

#[tokio::test]
async fn flushed_server_is_noticed_by_the_next_append_over_the_same_connection() {
    let server = RedisServer::start();
    let store = store_on(&server);
    let (header, id) = create(&*store).await;
    for first in 0..3 {
        append(&*store, &id, FIRST, &block(first, &[1]))
            .await
            .unwrap();
    }
    assert_eq!(server.command(&["FLUSHALL"]), "OK");
    let lost = append(&*store, &id, FIRST, &block(3, &[1])).await;
    assert_eq!(lost, Err(StoreError::NotFound));
    store.create(header).await.unwrap();
    append(&*store, &id, FIRST, &block(0, &[1; 4]))
        .await
        .unwrap();
    expect_ones(store, &id, 4).await;
}

#[tokio::test]
async fn end_that_a_failover_lost_is_a_gap_and_no_hole() {
    let server = RedisServer::start();
    let store = store_on(&server);
    let (_, id) = create(&*store).await;
    append(&*store, &id, FIRST, &block(0, &[1, 1]))
        .await
        .unwrap();
    let key = key(&server, "log", &id);
    server.command(&["COPY", &key, "replica"]);
    for first in 2..5 {
        append(&*store, &id, FIRST, &block(first, &[1]))
            .await
            .unwrap();
    }
    // The replica takes over. It has not seen the last appends.
    server.command(&["RENAME", "replica", &key]);
    server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    let next = block(5, &[1]);
    let gap = loop {
        match append(&*store, &id, FIRST, &next).await {
            Err(error) if error.is_retryable() => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            result => break result,
        }
    };
    let expected = StoreError::Gap {
        expected: Seq(2),
        found: Seq(5),
    };
    assert_eq!(gap, Err(expected));
    append(&*store, &id, FIRST, &block(2, &[1; 4]))
        .await
        .unwrap();
    expect_ones(store, &id, 6).await;
}

#[tokio::test]
async fn full_server_takes_all_or_nothing_of_each_log() {
    let server = RedisServer::start();
    let store = store_on(&server);
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(create(&*store).await.1);
    }
    let appended = |first: u64| {
        let mut blocks = Blocks::default();
        let batch = block(first, &[1, 1]);
        for id in &ids {
            blocks.push(Block {
                id,
                epoch: FIRST,
                first: batch.first_seq(),
                next: batch.end_seq(),
                bytes: batch.as_block(),
            });
        }
        store.append(blocks)
    };
    for first in [0, 2] {
        let (_, results) = appended(first).await;
        assert!(results.iter().all(|result| *result == Ok(Seq(first + 2))));
    }
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    for _ in 0..2 {
        // The first round is plain, the second one checked.
        let (_, results) = appended(4).await;
        for result in results {
            assert!(result.unwrap_err().is_retryable());
        }
    }
    let sealed = store.seal(
        &ids[0],
        FIRST,
        block(4, &[1]),
        Some(Bytes::from_static(b"{}")),
    );
    assert!(sealed.await.unwrap_err().is_retryable());
    assert!(store.create(header()).await.unwrap_err().is_retryable());
    assert!(store.adopt(&ids[1]).await.unwrap_err().is_retryable());
    // What is stored can be read and deleted all the while.
    expect_ones(store.clone(), &ids[2], 4).await;
    assert_eq!(store.delete(&ids[19]).await, Ok(()));
    assert_eq!(store.object(&ids[0]).await, Ok(None));
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    let (_, results) = appended(4).await;
    assert_eq!(results[19], Err(StoreError::Deleted));
    assert!(results[..19].iter().all(|result| *result == Ok(Seq(6))));
    expect_ones(store, &ids[0], 6).await;
}

#[tokio::test]
async fn another_node_fences_the_writer_that_slept() {
    let server = RedisServer::start();
    let (owner, adopter) = (store_on(&server), store_on(&server));
    let (_, id) = create(&*owner).await;
    for first in 0..3 {
        append(&*owner, &id, FIRST, &block(first, &[1]))
            .await
            .unwrap();
    }
    assert_eq!(adopter.adopt(&id).await, Ok(Epoch(2)));
    let fenced = StoreError::Fenced {
        held: FIRST,
        current: Epoch(2),
    };
    let late = append(&*owner, &id, FIRST, &block(3, &[1])).await;
    assert_eq!(late, Err(fenced.clone()));
    let seal = owner.seal(&id, FIRST, block(3, &[1]), Some(Bytes::from_static(b"{}")));
    assert_eq!(seal.await, Err(fenced));
    assert_eq!(owner.object(&id).await, Ok(None));
    assert_eq!(owner.open(&id).await.unwrap().epoch_ends, [Seq(3)]);
}

#[tokio::test]
async fn nothing_is_kept_for_ever() {
    let server = RedisServer::start();
    let store = store_on(&server);
    let (_, running) = create(&*store).await;
    append(&*store, &running, FIRST, &block(0, &[1]))
        .await
        .unwrap();
    let (_, sealed) = create(&*store).await;
    let object = Some(Bytes::from_static(b"{}"));
    store
        .seal(&sealed, FIRST, block(0, &[1]), object.clone())
        .await
        .unwrap();
    let (_, deleted) = create(&*store).await;
    store.delete(&deleted).await.unwrap();
    let left = |kind, id| -> u64 {
        let key = key(&server, kind, id);
        server.command(&["TTL", &key]).parse().unwrap()
    };
    assert!((3590..=3600).contains(&left("log", &running)));
    assert!((590..=600).contains(&left("log", &sealed)));
    assert!((86_390..=86_400).contains(&left("object", &sealed)));
    assert!((89_990..=90_000).contains(&left("log", &deleted)));
    // The object outlives the records, and says what the log was.
    server.command(&["DEL", &key(&server, "log", &sealed)]);
    let stored = store.open(&sealed).await.unwrap();
    assert_eq!((stored.sealed, stored.end), (true, Seq(1)));
    assert_eq!(
        store.read(&sealed, Seq(0), 99).await.unwrap_err(),
        StoreError::Expired
    );
    assert_eq!(store.object(&sealed).await, Ok(object));
    server.command(&["EXPIRE", &key(&server, "object", &sealed), "5"]);
    store
        .renew(vec![sealed.clone(), GenerationId::random()])
        .await;
    assert!((86_390..=86_400).contains(&left("object", &sealed)));
}

#[tokio::test]
async fn hole_is_not_read_over() {
    let server = RedisServer::start();
    let store = store_on(&server);
    let (_, id) = create(&*store).await;
    for first in 0..4 {
        append(&*store, &id, FIRST, &block(first, &[1]))
            .await
            .unwrap();
    }
    server.command(&["XDEL", &key(&server, "log", &id), "1-3"]);
    let read = store.read(&id, Seq(0), 1000).await.unwrap();
    assert_eq!(read.end_seq(), Seq(2));
    assert_eq!(
        store.read(&id, Seq(2), 1000).await.unwrap_err(),
        StoreError::Corrupt
    );
}

#[tokio::test]
async fn log_of_a_later_layout_is_left_alone() {
    let server = RedisServer::start();
    let store = store_on(&server);
    let (header, id) = create(&*store).await;
    let key = key(&server, "log", &id);
    server.command(&["DEL", &key]);
    server.command(&["XADD", &key, "1-0", "h2", "something"]);
    let unknown = StoreError::UnknownVersion { found: 2 };
    assert_eq!(store.open(&id).await.unwrap_err(), unknown);
    assert_eq!(store.create(header).await.unwrap_err(), unknown);
}

/// 21 bytes a token, and a tick of 250 ms at 50 tokens a second.
#[tokio::test]
async fn token_takes_less_than_40_bytes_of_redis() {
    let server = RedisServer::start();
    let store = store_on(&server);
    let (_, id) = create(&*store).await;
    let (mut first, mut stored) = (0, 0);
    for tick in 0..100 {
        let mut batch = RecordBatch::default();
        batch.restart(Seq(first));
        for _ in 0..12 + tick % 2 {
            batch.push(1, &[7; 20]);
        }
        stored += batch.byte_len();
        first = append(&*store, &id, FIRST, &batch).await.unwrap().0;
    }
    let usage = server.command(&["MEMORY", "USAGE", &key(&server, "log", &id), "SAMPLES", "0"]);
    let per_token = usage.parse::<u64>().unwrap() as f64 / first as f64;
    let bare = stored as f64 / first as f64;
    println!("{bare:.1} bytes a token in the log, {per_token:.1} in Redis");
    assert!(per_token < 40.0, "{per_token} bytes");
}
