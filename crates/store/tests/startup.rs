//! Starts on a path with much, or with something strange: dead folders, foreign files, files of a
//! clock that was wrong.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokenwire_core::log::{LogHeader, LogStore};
use tokenwire_core::model::id::{GenerationId, Tag};
use tokenwire_store::{DiskOptions, DiskStore};
use tokenwire_testkit::store_conformance::header;

use support::{FIRST, append, crash, ended, files, folder, named, open, record, running, texts};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Opens a store that keeps what has ended for a second.
fn forgetful(path: &Path) -> Arc<DiskStore> {
    let options = DiskOptions {
        retain_logs: Duration::from_secs(1),
        retain_objects: Duration::from_secs(1),
        sync: Duration::from_millis(10),
        ..DiskOptions::new(path)
    };
    Arc::new(DiskStore::open(options).unwrap())
}

/// Waits until `look` returns true. The store's own tick is a second.
async fn eventually(what: &str, mut look: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        while !look() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("waited for {what}"));
}

fn kept(path: &Path) -> usize {
    named(path, "logs-").len() + named(path, "objects-").len()
}

#[tokio::test]
async fn thousands_of_dead_folders_cost_no_descriptors_for_their_files() {
    const EMPTY: usize = 3_000;
    const FULL: usize = 500;
    let path = folder();
    let store = open(&path);
    let id = ended(&*store, &["one"], "{}").await;
    store.close();
    drop(store);
    let first = fs::read_dir(&path).unwrap().next().unwrap().unwrap().path();
    // Processes that ended before there was a stream, and some that had one.
    for number in 0..EMPTY + FULL {
        let dead = path.join(format!("{number:012x}-{}", Tag::random()));
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("lock"), "tokenwire-store 1\n").unwrap();
        if number >= EMPTY {
            for file in files(&first) {
                let _ = fs::copy(&file, dead.join(file.file_name().unwrap()));
            }
        }
    }
    let descriptors = || fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let before = descriptors();
    let store = open(&path);
    assert_eq!(texts(&store, &id).await.0, ["one", "the end"]);
    // Each folder that is kept costs a descriptor, its files cost none.
    let more = descriptors().saturating_sub(before);
    assert!(more < FULL + 300, "{more} descriptors");
    let left = fs::read_dir(&path).unwrap().count();
    assert_eq!(left, FULL + 2);
}

#[tokio::test]
async fn foreign_files_and_folders_are_left_alone() {
    let path = folder();
    let store = open(&path);
    ended(&*store, &["one"], "{}").await;
    store.close();
    let dead = store.path().to_owned();
    drop(store);
    let foreign = [
        path.join("notes.txt"),
        path.join("photos/journal-000001"),
        path.join(".hidden/logs-000001"),
        path.join("0123456789ab-photos/objects-000001"),
        dead.join("notes.txt"),
        dead.join("journal-old"),
        dead.join("backup/logs-000001"),
    ];
    for file in &foreign {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "not ours").unwrap();
    }
    let store = forgetful(&path);
    assert_eq!(store.status().kept, 1);
    eventually("the removal of what has ended", || {
        named(&dead, "objects-").is_empty() && named(&dead, "journal-0").is_empty()
    })
    .await;
    store.neighbours().unwrap();
    store.close();
    drop(store);
    drop(forgetful(&path));
    for file in &foreign {
        assert_eq!(fs::read(file).unwrap(), b"not ours", "{}", file.display());
    }
}

#[tokio::test]
async fn files_of_a_clock_that_was_ahead_are_kept_for_their_time_and_no_longer() {
    let path = folder();
    let store = open(&path);
    let id = ended(&*store, &["one"], "{}").await;
    store.close();
    drop(store);
    for file in files(&path) {
        let file = fs::File::options().write(true).open(file).unwrap();
        file.set_modified(SystemTime::now() + 365 * DAY).unwrap();
    }
    let store = forgetful(&path);
    assert_eq!(texts(&store, &id).await.0, ["one", "the end"]);
    eventually("their removal", || kept(&path) == 0).await;
    assert_eq!(store.status().kept, 0);
}

#[tokio::test]
async fn ended_log_without_an_object_does_not_run_again_once_it_was_removed() {
    let path = folder();
    let options = DiskOptions {
        retain_logs: Duration::from_secs(1),
        ..DiskOptions::new(&path)
    };
    let store = Arc::new(DiskStore::open(options.clone()).unwrap());
    let mut header: LogHeader = Arc::unwrap_or_clone(header());
    header.meta.store = false;
    let id = header.meta.id.clone();
    store.create(header.into()).await.unwrap();
    append(&*store, &id, FIRST, &record(0, "one"))
        .await
        .unwrap();
    store
        .seal(&id, FIRST, record(1, "the end"), None)
        .await
        .unwrap();
    eventually("the removal of the log", || kept(&path) == 0).await;
    assert!(!named(&path, "journal-").is_empty());
    let path = crash(&path);
    let again = DiskStore::open(DiskOptions { path, ..options }).unwrap();
    assert_eq!(again.unfinished(), []);
}

#[tokio::test]
async fn thousands_of_short_logs_beside_a_long_one_keep_the_journal_bounded() {
    const FILE: u64 = 64 * 1024;
    const JOURNALS: usize = 4;
    let path = folder();
    let options = DiskOptions {
        file_bytes: FILE,
        journal_files: JOURNALS,
        sync: Duration::from_millis(10),
        ..DiskOptions::new(&path)
    };
    let store = Arc::new(DiskStore::open(options).unwrap());
    let long = running(&*store, &[]).await;
    let (mut expected, mut most) = (Vec::new(), 0);
    let short = "x".repeat(300);
    for first in 0..5_000 {
        let text = format!("word {first}");
        append(&*store, &long, FIRST, &record(first, &text))
            .await
            .unwrap();
        expected.push(text);
        ended(&*store, &[&short], "{}").await;
        if first % 50 == 0 {
            // The next sync removes what is not needed.
            let few = || named(&path, "journal-").len() <= JOURNALS + 1;
            eventually("the removal of journal files", few).await;
            let length =
                |file: &std::path::PathBuf| fs::metadata(file).map_or(0, |file| file.len());
            most = most.max(named(&path, "journal-").iter().map(length).sum());
        }
    }
    assert!(most <= (JOURNALS as u64 + 1) * FILE, "{most} bytes");
    let store = open(&crash(&path));
    assert_eq!(store.unfinished(), std::slice::from_ref(&long));
    assert_eq!(texts(&store, &long).await, (expected, false));
}

#[tokio::test]
async fn two_processes_that_are_killed_in_a_write_leave_both_their_logs_to_a_third() {
    let path = folder();
    let (one, other) = (open(&path), open(&path));
    let mut logs: Vec<(GenerationId, Vec<String>, bool)> = Vec::new();
    for store in [&one, &other] {
        for number in 0..20 {
            let text = format!("text {number}");
            let id = ended(&**store, &[&text], &text).await;
            logs.push((id, vec![text.clone(), "the end".to_owned()], true));
            let id = running(&**store, &[&text, &text]).await;
            logs.push((id, vec![text.clone(), text], false));
        }
    }
    let killed = crash(&path);
    // Both were in the middle of a write, of a tick's blocks and of an ended log.
    for kind in ["journal-", "logs-", "objects-"] {
        let torn = named(&killed, kind);
        assert_eq!(torn.len(), 2);
        for file in torn {
            let mut bytes = fs::read(&file).unwrap();
            let again = bytes[32..bytes.len() - 7].to_vec();
            // A whole frame of this file, and a part of one.
            bytes.extend(&again[..again.len().min(30)]);
            fs::write(file, bytes).unwrap();
        }
    }
    let third = open(&killed);
    let running = logs.iter().filter(|(_, _, sealed)| !sealed).count();
    assert_eq!(third.unfinished().len(), running);
    for (id, expected, sealed) in logs {
        assert_eq!(texts(&third, &id).await, (expected, sealed), "{id}");
    }
    assert_eq!(third.neighbours().unwrap().running, []);
}
