//! Processes of several versions on one path: what they announce, and what a version does with logs
//! of a later one.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use tokenwire_core::log::{Formats, LogHeader, LogStore, StoreError};
use tokenwire_core::model::id::GenerationId;
use tokenwire_core::model::snapshot::Api;
use tokenwire_store::{DiskOptions, DiskStore};
use tokenwire_testkit::store_conformance::header;

use support::{FIRST, append, crash, ended, folder, named, open, record, running, texts};

fn older(path: &Path) -> Arc<DiskStore> {
    let options = DiskOptions {
        formats: Formats::FIRST,
        ..DiskOptions::new(path)
    };
    Arc::new(DiskStore::open(options).unwrap())
}

/// Begins a log of version 2 with one record.
async fn later(store: &dyn LogStore) -> GenerationId {
    let mut header: LogHeader = Arc::unwrap_or_clone(header());
    header.meta.api = Api::Responses;
    let id = header.meta.id.clone();
    assert_eq!(store.create(header.into()).await, Ok(FIRST));
    append(store, &id, FIRST, &record(0, "a")).await.unwrap();
    id
}

async fn later_ended(store: &dyn LogStore) -> GenerationId {
    let id = later(store).await;
    let object = Some("{}".into());
    let sealed = store.seal(&id, FIRST, record(1, "b"), object).await;
    assert_eq!(sealed, Ok(()));
    id
}

#[tokio::test]
async fn lowest_version_that_all_live_processes_read_is_written() {
    let path = folder();
    let store = open(&path);
    assert_eq!(store.version(), 2);
    let other = open(&path);
    store.neighbours().unwrap();
    assert_eq!((store.version(), other.version()), (2, 2));
    // A program before the announcements has no such file.
    fs::remove_file(other.path().join("peer.formats")).unwrap();
    store.neighbours().unwrap();
    assert_eq!(store.version(), 1);
    assert_eq!(open(&path).version(), 1);
    other.close();
    drop(other);
    store.neighbours().unwrap();
    assert_eq!(store.version(), 2);
    let older = older(&path);
    store.neighbours().unwrap();
    assert_eq!((older.version(), store.version()), (1, 1));
}

#[tokio::test]
async fn folder_that_was_taken_over_announces_its_holder() {
    let path = folder();
    let before = older(&path);
    ended(&*before, &["a"], "{}").await;
    before.close();
    drop(before);
    let holder = open(&path);
    assert_eq!(named(&path, "peer.formats").len(), 2);
    let other = open(&path);
    assert_eq!((holder.version(), other.version()), (2, 2));
}

#[tokio::test]
async fn log_of_a_later_version_is_left_alone_and_found_again() {
    let path = folder();
    let store = open(&path);
    let (lost, kept) = (later(&*store).await, later_ended(&*store).await);
    let readable = running(&*store, &["1", "2"]).await;
    // One folder has footers, the other one was left by kill -9.
    let path = crash(&path);
    let closed = open(&path);
    let listed = later_ended(&*closed).await;
    let finished = ended(&*closed, &["1"], "{}").await;
    closed.close();
    drop(closed);

    let older = older(&path);
    assert_eq!(older.unfinished(), std::slice::from_ref(&readable));
    let unknown = Some(StoreError::UnknownVersion { found: 2 });
    assert_eq!(older.open(&listed).await.err(), unknown);
    assert!(older.open(&kept).await.is_err() && older.open(&lost).await.is_err());
    assert_eq!(texts(&older, &finished).await.0, ["1", "the end"]);
    let meanwhile = ended(&*older, &["3"], "{}").await;
    // The journal with the log that is readable is not needed for it any more.
    let epoch = older.adopt(&readable).await.unwrap();
    let end = older.open(&readable).await.unwrap().end;
    let last = record(end.0, "the end");
    assert_eq!(older.seal(&readable, epoch, last, None).await, Ok(()));
    older.close();
    drop(older);

    let store = open(&path);
    assert_eq!(store.unfinished(), std::slice::from_ref(&lost));
    for id in [&kept, &listed] {
        assert_eq!(
            texts(&store, id).await,
            (vec!["a".into(), "b".into()], true)
        );
    }
    assert_eq!(texts(&store, &lost).await, (vec!["a".into()], false));
    assert_eq!(texts(&store, &meanwhile).await.0, ["3", "the end"]);
    assert_eq!(texts(&store, &readable).await.0, ["1", "2", "the end"]);
}
