//! Folders, logs and crashes for the tests.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokenwire_core::log::{Block, Blocks, Epoch, LogHeader, LogStore, StoreError};
use tokenwire_core::model::id::{GenerationId, Seq};
use tokenwire_core::model::record::RecordBatch;
use tokenwire_store::{DiskOptions, DiskStore};
use tokenwire_testkit::store_conformance::{header, log_contents};
use tokenwire_testkit::{Fault, FaultyStore, Operation};

/// The epoch of a log's first writer.
pub(crate) const FIRST: Epoch = Epoch(1);

/// Records as `log_contents` returns them.
pub(crate) type Records = Vec<(u64, u64, Vec<u8>)>;

/// Returns a path that no other test uses.
pub(crate) fn folder() -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("store-{}-{number}", std::process::id());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    path
}

pub(crate) fn open(path: &Path) -> Arc<DiskStore> {
    Arc::new(DiskStore::open(DiskOptions::new(path)).unwrap())
}

/// Returns a copy of all files as they are now: what a process that is killed leaves behind.
pub(crate) fn crash(path: &Path) -> PathBuf {
    let copy = folder();
    for file in files(path) {
        let target = copy.join(file.strip_prefix(path).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&file, target).unwrap();
    }
    copy
}

/// Returns all files below a folder, in order.
pub(crate) fn files(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap().path();
        if entry.is_dir() {
            found.extend(files(&entry));
        } else {
            found.push(entry);
        }
    }
    found.sort();
    found
}

/// Returns the files whose name begins with this.
pub(crate) fn named(path: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut all = files(path);
    all.retain(|file| {
        let name = file.file_name().unwrap().to_str().unwrap();
        name.starts_with(prefix)
    });
    all
}

/// A batch of one record of this text.
pub(crate) fn record(first: u64, text: &str) -> RecordBatch {
    let mut batch = RecordBatch::default();
    batch.restart(Seq(first));
    batch.push(1, text.as_bytes());
    batch
}

pub(crate) async fn append(
    store: &dyn LogStore,
    id: &GenerationId,
    epoch: Epoch,
    batch: &RecordBatch,
) -> Result<Seq, StoreError> {
    let mut blocks = Blocks::default();
    blocks.push(Block {
        id,
        epoch,
        first: batch.first_seq(),
        next: batch.end_seq(),
        bytes: batch.as_block(),
    });
    store.append(blocks).await.1.remove(0)
}

/// Creates a log with a record of each of these texts, appended one by one.
pub(crate) async fn running(store: &dyn LogStore, texts: &[&str]) -> GenerationId {
    let header: Arc<LogHeader> = header();
    let id = header.meta.id.clone();
    assert_eq!(store.create(header).await, Ok(FIRST));
    for (first, text) in (0..).zip(texts) {
        let end = append(store, &id, FIRST, &record(first, text)).await;
        assert_eq!(end, Ok(Seq(first + 1)));
    }
    id
}

/// As [`running`], and ends it with an object.
pub(crate) async fn ended(store: &dyn LogStore, texts: &[&str], object: &str) -> GenerationId {
    let id = running(store, texts).await;
    let end = texts.len() as u64;
    let object = Some(object.to_owned().into());
    let last = record(end, "the end");
    assert_eq!(store.seal(&id, FIRST, last, object).await, Ok(()));
    id
}

/// Returns the texts of a log's records, and whether it has ended.
pub(crate) async fn texts(store: &Arc<DiskStore>, id: &GenerationId) -> (Vec<String>, bool) {
    let store: Arc<dyn LogStore> = store.clone();
    let (log, records) = log_contents(&store, id).await;
    let text = |(_, _, payload): (u64, u64, Vec<u8>)| String::from_utf8(payload).unwrap();
    (records.into_iter().map(text).collect(), log.sealed)
}

/// Returns a store that makes every change twice.
pub(crate) fn repeating(store: Arc<dyn LogStore>) -> Arc<FaultyStore> {
    let store = FaultyStore::new(store, 7);
    for operation in [
        Operation::Create,
        Operation::Append,
        Operation::Seal,
        Operation::Read,
        Operation::Delete,
    ] {
        store.always(operation, Fault::Repeat);
    }
    Arc::new(store)
}
