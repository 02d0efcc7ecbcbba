//! What a process that is killed leaves, the next one reads.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use proptest::prelude::*;
use tokenwire_core::log::{Epoch, LogStore, StoreError};
use tokenwire_core::model::id::{GenerationId, Owner, Seq};
use tokenwire_store::{DiskOptions, DiskStore, StoreState};
use tokenwire_testkit::store_conformance::header;

use support::{FIRST, append, crash, ended, files, folder, named, open, record, running, texts};

#[tokio::test]
async fn ended_logs_and_objects_outlive_the_process() {
    let path = folder();
    let store = open(&path);
    let id = ended(&*store, &["one", "two"], "{}").await;
    let store = open(&crash(&path));
    assert_eq!(store.unfinished(), []);
    let expected = ["one", "two", "the end"].map(str::to_owned).to_vec();
    assert_eq!(texts(&store, &id).await, (expected, true));
    assert_eq!(store.object(&id).await, Ok(Some("{}".into())));
    let key = store.keyed(&Owner::Named("owner".into()), "key").await;
    assert_eq!(key, Ok(Some(id)));
    let other = store.keyed(&Owner::Anonymous, "key").await;
    assert_eq!(other, Ok(None));
}

#[tokio::test]
async fn log_sealed_with_all_its_records_needs_no_journal() {
    let path = folder();
    let store = open(&path);
    let id = running(&*store, &["one", "two"]).await;
    // What the journal has of it cannot be read.
    let journal = named(&path, "journal-").remove(0);
    let mut bytes = fs::read(&journal).unwrap();
    let damaged = bytes.len() - 1;
    bytes[damaged] ^= 1;
    fs::write(&journal, bytes).unwrap();
    let mut whole = record(0, "one");
    whole.push(1, b"two");
    whole.push(1, &vec![b'x'; 100_000]);
    whole.push(1, b"the end");
    assert_eq!(store.seal(&id, FIRST, whole, None).await, Ok(()));
    let store = open(&crash(&path));
    let (texts, sealed) = texts(&store, &id).await;
    assert!(sealed);
    let lengths: Vec<_> = texts.iter().map(String::len).collect();
    assert_eq!(lengths, [3, 3, 100_000, 7]);
    // A part of it is read without the rest.
    let batch = store.read(&id, Seq(3), 1).await.unwrap();
    assert_eq!((batch.first_seq(), batch.byte_len()), (Seq(3), 8));
}

#[tokio::test]
async fn running_log_is_adopted_in_the_next_epoch() {
    let path = folder();
    let store = open(&path);
    let id = running(&*store, &["one", "two"]).await;
    let second = crash(&path);
    let store = open(&second);
    assert_eq!(store.unfinished(), std::slice::from_ref(&id));
    assert_eq!(store.adopt(&id).await, Ok(Epoch(2)));
    // The process that adopted it is killed as well.
    let third = crash(&second);
    let store = open(&third);
    assert_eq!(store.unfinished(), std::slice::from_ref(&id));
    assert_eq!(store.open(&id).await.unwrap().epoch(), Epoch(2));
    assert_eq!(store.adopt(&id).await, Ok(Epoch(3)));
    let mut last = record(2, "the end");
    last.restart(tokenwire_core::model::id::Seq(2));
    last.skip((2 << 24) - 2);
    last.push(1, b"the end");
    assert_eq!(store.seal(&id, Epoch(3), last, None).await, Ok(()));
    let store = open(&crash(&third));
    assert_eq!(store.unfinished(), []);
    let expected = ["one", "two", "the end"].map(str::to_owned).to_vec();
    assert_eq!(texts(&store, &id).await, (expected, true));
}

#[tokio::test]
async fn torn_tail_is_cut_and_the_rest_is_kept() {
    let path = folder();
    let store = open(&path);
    let id = running(&*store, &["one", "two", "three"]).await;
    let crashed = crash(&path);
    let journal = named(&crashed, "journal-").remove(0);
    let whole = fs::read(&journal).unwrap();
    let three = 16 + 1 + 1 + "three".len();
    for cut in 1..=three {
        let again = crash(&crashed);
        let journal = named(&again, "journal-").remove(0);
        fs::write(&journal, &whole[..whole.len() - cut]).unwrap();
        let store = open(&again);
        let expected = ["one", "two"].map(str::to_owned).to_vec();
        assert_eq!(texts(&store, &id).await, (expected, false), "cut {cut}");
        assert_eq!(store.adopt(&id).await, Ok(Epoch(2)));
    }
}

#[tokio::test]
async fn torn_kept_log_leaves_the_running_one() {
    let path = folder();
    let store = open(&path);
    let id = ended(&*store, &["one", "two"], "{}").await;
    let crashed = crash(&path);
    // The process was killed while it wrote the log.
    let logs = named(&crashed, "logs-").remove(0);
    let length = fs::metadata(&logs).unwrap().len();
    let file = fs::OpenOptions::new().write(true).open(&logs).unwrap();
    file.set_len(length - 3).unwrap();
    let journal = named(&crashed, "journal-").remove(0);
    let length = fs::metadata(&journal).unwrap().len();
    let file = fs::OpenOptions::new().write(true).open(&journal).unwrap();
    file.set_len(length - 1).unwrap();
    let store = open(&crashed);
    assert_eq!(store.unfinished(), std::slice::from_ref(&id));
    let expected = ["one", "two"].map(str::to_owned).to_vec();
    assert_eq!(texts(&store, &id).await, (expected, false));
}

#[tokio::test]
async fn deleted_log_stays_deleted() {
    let path = folder();
    let store = open(&path);
    let (first, second) = (
        ended(&*store, &["secret"], "{}").await,
        running(&*store, &["secret"]).await,
    );
    let other = ended(&*store, &["other"], "{}").await;
    assert_eq!(store.delete(&first).await, Ok(()));
    assert_eq!(store.delete(&second).await, Ok(()));
    let mut path = crash(&path);
    for _ in 0..3 {
        let store = open(&path);
        assert_eq!(store.unfinished(), []);
        for id in [&first, &second] {
            assert_eq!(store.open(id).await.unwrap_err(), StoreError::Deleted);
            assert_eq!(store.object(id).await, Err(StoreError::Deleted));
        }
        assert!(texts(&store, &other).await.1);
        path = crash(&path);
    }
}

#[tokio::test]
async fn processes_on_one_path_have_a_folder_each() {
    let path = folder();
    let (first, second) = (open(&path), open(&path));
    let a = ended(&*first, &["a"], "{}").await;
    let b = running(&*second, &["b"]).await;
    assert_eq!(second.open(&a).await.unwrap_err(), StoreError::NotFound);
    // The second one is gone, the first one is not.
    second.close();
    drop(second);
    let third = open(&path);
    assert_eq!(third.unfinished(), [b]);
    assert_eq!(third.open(&a).await.unwrap_err(), StoreError::NotFound);
    assert!(texts(&first, &a).await.1);
}

#[tokio::test]
async fn process_that_stops_takes_no_folder() {
    let path = folder();
    let (first, second) = (open(&path), open(&path));
    let id = running(&*first, &["one"]).await;
    first.close();
    drop(first);
    second.leave_folders();
    let found = second.neighbours().unwrap();
    assert_eq!((found.taken, found.unfinished), (vec![], vec![]));
    let third = open(&path);
    assert_eq!(third.unfinished(), [id]);
}

#[tokio::test]
async fn folder_of_another_version_is_left_alone() {
    let path = folder();
    let store = open(&path);
    let id = ended(&*store, &["one"], "{}").await;
    let crashed = crash(&path);
    let lock = named(&crashed, "lock").remove(0);
    fs::write(&lock, "tokenwire-store 2\n").unwrap();
    fs::create_dir(crashed.join("lost+found")).unwrap();
    let before: Vec<_> = files(&crashed);
    let contents: Vec<_> = before.iter().map(|file| fs::read(file).unwrap()).collect();
    let store = open(&crashed);
    assert_eq!(store.open(&id).await.unwrap_err(), StoreError::NotFound);
    store.close();
    let after: Vec<_> = before.iter().map(|file| fs::read(file).unwrap()).collect();
    assert_eq!(contents, after);
    // It is as good as before for a process that knows it.
    fs::write(&lock, "tokenwire-store 1\n").unwrap();
    let store = open(&crashed);
    assert!(texts(&store, &id).await.1);
}

#[tokio::test]
async fn only_the_owner_can_read_the_files() {
    let path = folder();
    let store = open(&path);
    let id = ended(&*store, &["one"], "{}").await;
    store.delete(&id).await.unwrap();
    store.set("a", Some("b".into()));
    running(&*store, &[]).await;
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let all = files(&path);
    assert_eq!(all.len(), 7, "{all:?}");
    for file in all {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
        assert_eq!(mode(file.parent().unwrap()), 0o700);
    }
    assert_eq!(mode(&path), 0o700);
}

#[tokio::test]
async fn small_records_outlive_the_process_until_they_are_removed() {
    let path = folder();
    let store = open(&path);
    store.set("a/1", Some("x".into()));
    store.set("a/2", Some("y".into()));
    store.set("b/1", Some("z".into()));
    store.set("a/1", None);
    store.set("a/2", Some("w".into()));
    store.entries_written().await.unwrap();
    let store = open(&crash(&path));
    let expected = [("a/2".to_owned(), "w".into())];
    assert_eq!(store.entries("a/"), expected);
    assert_eq!(store.entries("").len(), 2);
}

/// Waits until `look` returns true. The store's own tick is a second.
async fn eventually(what: &str, mut look: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(std::time::Duration::from_secs(30), async {
        while !look() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("waited for {what}"));
}

#[tokio::test]
async fn kept_files_are_removed_whole_by_age() {
    let path = folder();
    let options = DiskOptions {
        retain_logs: std::time::Duration::from_secs(1),
        retain_objects: std::time::Duration::from_secs(3600),
        ..DiskOptions::new(&path)
    };
    let store = Arc::new(DiskStore::open(options).unwrap());
    let id = ended(&*store, &["one"], "{\"a\":1}").await;
    eventually("the removal of the log", || {
        named(&path, "logs-").is_empty()
    })
    .await;
    let stored = store.open(&id).await.unwrap();
    assert!(stored.sealed && stored.end.0 == 2);
    let read = store
        .read(&id, tokenwire_core::model::id::Seq(0), 100)
        .await;
    assert_eq!(read.unwrap_err(), StoreError::Expired);
    assert_eq!(store.object(&id).await, Ok(Some("{\"a\":1}".into())));
    // Neither does the next process take it for a running one.
    let store = open(&crash(&path));
    assert_eq!(store.unfinished(), []);
    assert_eq!(store.object(&id).await, Ok(Some("{\"a\":1}".into())));
}

#[tokio::test]
async fn renewed_object_outlives_those_beside_it() {
    let path = folder();
    let options = DiskOptions {
        retain_logs: std::time::Duration::from_secs(1),
        retain_objects: std::time::Duration::from_secs(2),
        ..DiskOptions::new(&path)
    };
    let store = Arc::new(DiskStore::open(options.clone()).unwrap());
    let old = ended(&*store, &["one"], "{}").await;
    let renewed = ended(&*store, &["one"], "{\"a\":1}").await;
    let waited = tokio::time::timeout(std::time::Duration::from_secs(30), async {
        while store.object(&old).await.is_ok() {
            store.renew(vec![renewed.clone()]).await;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    waited.await.expect("the other object goes");
    let object = Ok(Some("{\"a\":1}".into()));
    assert_eq!(store.object(&renewed).await, object);
    let again = DiskStore::open(DiskOptions {
        path: crash(&path),
        ..options
    });
    assert_eq!(again.unwrap().object(&renewed).await, object);
}

#[tokio::test]
async fn long_log_beside_short_ones_does_not_keep_the_journal() {
    let path = folder();
    let options = DiskOptions {
        file_bytes: 4096,
        journal_files: 3,
        sync: std::time::Duration::from_millis(10),
        ..DiskOptions::new(&path)
    };
    let store = Arc::new(DiskStore::open(options).unwrap());
    let long = running(&*store, &[]).await;
    let mut expected = Vec::new();
    for first in 0..100 {
        let text = format!("word {first}");
        append(&*store, &long, FIRST, &record(first, &text))
            .await
            .unwrap();
        expected.push(text);
        ended(&*store, &["x".repeat(500).as_str()], "{}").await;
    }
    eventually("the removal of journal files", || {
        named(&path, "journal-").len() <= 4
    })
    .await;
    assert_eq!(texts(&store, &long).await, (expected.clone(), false));
    let store = open(&crash(&path));
    assert_eq!(store.unfinished(), std::slice::from_ref(&long));
    assert_eq!(texts(&store, &long).await, (expected, false));
}

#[tokio::test]
async fn oldest_kept_files_go_first_at_the_bound() {
    let path = folder();
    let options = DiskOptions {
        file_bytes: 20_000,
        journal_files: 2,
        max_bytes: 120_000,
        sync: std::time::Duration::from_millis(10),
        ..DiskOptions::new(&path)
    };
    let store = Arc::new(DiskStore::open(options).unwrap());
    let text = "x".repeat(1000);
    let first = ended(&*store, &[&text], "{}").await;
    let mut last = first.clone();
    for _ in 0..20 {
        for _ in 0..10 {
            last = ended(&*store, &[&text], "{}").await;
        }
        let few = || named(&path, "journal-").len() <= 4;
        eventually("the removal of journal files", few).await;
    }
    assert!(store.status().bytes <= 120_000, "{:?}", store.status());
    assert!(store.open(&first).await.unwrap_err().is_gone());
    assert!(texts(&store, &last).await.1);
    // Running logs are never given up for it.
    let id = running(&*store, &[]).await;
    let mut end = 0;
    let refused = loop {
        match append(&*store, &id, FIRST, &record(end, &"y".repeat(1000))).await {
            Ok(_) => end += 1,
            Err(error) => break error,
        }
    };
    assert!(refused.is_retryable());
    assert_eq!(store.status().state, StoreState::Full);
}

/// Writes some logs, damages the files by `damage`, and returns what is left of each. With `closed`
/// the kept files have their footers.
async fn damaged(
    closed: bool,
    damage: impl Fn(&mut Vec<u8>, usize),
) -> (Vec<(GenerationId, bool)>, usize) {
    let path = folder();
    let store = open(&path);
    let mut ids = Vec::new();
    for number in 0..3 {
        let text = format!("the text of {number}");
        ids.push(ended(&*store, &[&text, &text], &text).await);
        ids.push(running(&*store, &[&text, &text, &text]).await);
    }
    if closed {
        store.close();
    }
    let crashed = crash(&path);
    let touched: Vec<_> = ["journal-", "logs-", "objects-"]
        .iter()
        .flat_map(|prefix| named(&crashed, prefix))
        .collect();
    for (number, file) in touched.iter().enumerate() {
        let mut bytes = fs::read(file).unwrap();
        damage(&mut bytes, number);
        fs::write(file, bytes).unwrap();
    }
    let store = open(&crashed);
    let mut harmed = 0;
    let mut left = Vec::new();
    for (number, id) in ids.into_iter().enumerate() {
        let words = format!("the text of {}", number / 2);
        let mut whole = vec![words.clone(), words.clone()];
        let sealed = number % 2 == 0;
        whole.push(if sealed {
            "the end".to_owned()
        } else {
            words.clone()
        });
        let log: Arc<dyn LogStore> = store.clone();
        let found = match log.open(&id).await {
            Ok(log) => Some((log.sealed, log.end)),
            Err(_) => None,
        };
        let mut good = false;
        if found.is_some_and(|(as_before, _)| as_before == sealed) {
            let all = store
                .read(&id, tokenwire_core::model::id::Seq(0), 1 << 20)
                .await;
            let all = all.map(|all| {
                let text = |record: tokenwire_core::model::record::RecordRef<'_>| {
                    String::from_utf8(record.payload.to_vec()).unwrap()
                };
                all.iter().map(text).collect::<Vec<_>>()
            });
            if let Ok(all) = &all {
                // Never anything but what was written.
                assert!(whole.starts_with(all), "{all:?}");
            }
            let object = store.object(&id).await;
            if let Ok(Some(object)) = &object {
                assert_eq!(object, &words);
            }
            good = all == Ok(whole) && (!sealed || object == Ok(Some(words.into())));
        }
        harmed += usize::from(!good);
        left.push((id, good));
    }
    (left, harmed)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn flipped_bit_harms_one_log_at_most(
        file in 0usize..3,
        at: proptest::sample::Index,
        bit in 0u8..8,
        closed: bool,
    ) {
        let (_, harmed) = block_on(damaged(closed, |bytes, number| {
            if number == file {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
        }));
        prop_assert!(harmed <= 1, "{harmed} logs are harmed");
    }

    #[test]
    fn arbitrary_damage_is_never_taken_for_text(
        at: proptest::sample::Index,
        junk in proptest::collection::vec(any::<u8>(), 1..300),
        closed: bool,
    ) {
        // Asserts inside.
        let (left, _) = block_on(damaged(closed, |bytes, _| {
            let at = 32 + at.index(bytes.len() - 32);
            let end = bytes.len().min(at + junk.len());
            bytes[at..end].copy_from_slice(&junk[..end - at]);
        }));
        prop_assert_eq!(left.len(), 6);
    }
}

#[tokio::test]
async fn header_of_a_request_that_was_refused_leaves_no_log() {
    let path = folder();
    let store = open(&path);
    let header = header();
    let id = header.meta.id.clone();
    store.create(header.clone()).await.unwrap();
    store.delete(&id).await.unwrap();
    assert_eq!(store.create(header).await, Err(StoreError::Deleted));
    assert_eq!(open(&crash(&path)).unfinished(), []);
}

#[tokio::test]
async fn removal_of_a_file_forgets_its_logs_and_their_keys_only() {
    let path = folder();
    let options = DiskOptions {
        file_bytes: 100_000,
        max_bytes: 400_000,
        journal_files: 1,
        sync: std::time::Duration::from_millis(10),
        ..DiskOptions::new(&path)
    };
    let store = Arc::new(DiskStore::open(options).unwrap());
    let mut ids = Vec::new();
    for _ in 0..1200 {
        // One key for all: it names the last one.
        ids.push(ended(&*store, &["a short text"], "{}").await);
        if ids.len() % 100 == 0 {
            let few = || named(&path, "journal-").len() <= 2;
            eventually("the removal of journal files", few).await;
        }
    }
    let last = ids.last().unwrap().clone();
    let owner = Owner::Named("owner".into());
    assert_eq!(store.keyed(&owner, "key").await, Ok(Some(last)));
    // What is gone is gone as a whole, and the oldest first.
    let mut left = Vec::new();
    for id in &ids {
        left.push(match store.open(id).await {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error, StoreError::NotFound);
                false
            }
        });
    }
    let first = left.iter().position(|left| *left).unwrap();
    assert!(first > 0 && left[first..].iter().all(|left| *left));
    assert_eq!(store.status().kept, left.len() - first);
    // The next process finds the same.
    store.close();
    let again = open(&crash(&path));
    assert_eq!(again.status().kept, left.len() - first);
}

#[tokio::test]
async fn ten_thousand_kept_logs_are_ready_in_two_seconds() {
    let path = folder();
    let store = open(&path);
    let text = "x".repeat(2000);
    let mut last = None;
    for _ in 0..10_000 {
        last = Some(ended(&*store, &[&text], &text).await);
    }
    store.close();
    drop(store);
    let start = std::time::Instant::now();
    let store = open(&path);
    let took = start.elapsed();
    assert_eq!(store.status().kept, 10_000);
    assert!(texts(&store, &last.unwrap()).await.1);
    assert!(took < std::time::Duration::from_secs(2), "{took:?}");
}
