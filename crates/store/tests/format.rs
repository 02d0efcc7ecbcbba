//! Version 1 of the format is frozen: what it wrote is read, by this version and later ones.
//!
//! `UPDATE_GOLDEN=1` writes the folder in `tests/version-1` anew. That is for a new version only, in
//! a folder of its own.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokenwire_core::log::{Epoch, IdempotencyKey, LogHeader, LogStore, StoreError};
use tokenwire_core::model::id::{GenerationId, Owner, Seq};
use tokenwire_testkit::store_conformance::header;

use support::{FIRST, append, crash, open, record, texts};

const ENDED: &str = "resp_ended0000000000000000000";
const RUNNING: &str = "resp_running00000000000000000";
const ADOPTED: &str = "resp_adopted00000000000000000";
const DELETED: &str = "resp_deleted00000000000000000";

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/version-1")
}

fn id(name: &str) -> GenerationId {
    name.parse().unwrap()
}

fn named(name: &str) -> Arc<LogHeader> {
    let mut header = Arc::unwrap_or_clone(header());
    header.meta.id = id(name);
    header.predecessor = Some(id(DELETED));
    header.idempotency = Some(IdempotencyKey {
        key: format!("key of {name}").into(),
        fingerprint: [7; 16],
    });
    Arc::new(header)
}

/// Writes a folder with something of everything that version 1 has.
async fn write(path: &Path) {
    let folder = support::folder();
    let store = open(&folder);
    for name in [ENDED, DELETED, RUNNING, ADOPTED] {
        assert_eq!(store.create(named(name)).await, Ok(FIRST));
        let end = append(&*store, &id(name), FIRST, &record(0, name)).await;
        assert_eq!(end, Ok(Seq(1)));
    }
    for name in [ENDED, DELETED] {
        let object = Some(format!("{{\"id\":\"{name}\"}}").into());
        let last = record(1, "the end");
        assert_eq!(store.seal(&id(name), FIRST, last, object).await, Ok(()));
    }
    assert_eq!(store.delete(&id(DELETED)).await, Ok(()));
    assert_eq!(store.adopt(&id(ADOPTED)).await, Ok(Epoch(2)));
    store.set("kept/1", Some("value".into()));
    store.set("removed/1", Some("value".into()));
    store.set("removed/1", None);
    store.close();
    let _ = fs::remove_dir_all(path);
    // One name, so that the fixture's own is always the same.
    for file in support::files(&folder) {
        fs::create_dir_all(path.join("folder")).unwrap();
        fs::copy(&file, path.join("folder").join(file.file_name().unwrap())).unwrap();
    }
}

#[tokio::test]
async fn folder_of_version_1_is_read() {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        write(&golden()).await;
    }
    let store = open(&crash(&golden()));
    let text = |text: &str| text.to_owned();
    let expected = (vec![text(ENDED), text("the end")], true);
    assert_eq!(texts(&store, &id(ENDED)).await, expected);
    let object = format!("{{\"id\":\"{ENDED}\"}}");
    assert_eq!(store.object(&id(ENDED)).await, Ok(Some(object.into())));
    let owner = Owner::Named("owner".into());
    for name in [ENDED, RUNNING, ADOPTED] {
        let stored = store.open(&id(name)).await.unwrap();
        assert_eq!(stored.header.encode(), named(name).encode(), "{name}");
        let keyed = store.keyed(&owner, &format!("key of {name}")).await;
        assert_eq!(keyed, Ok(Some(id(name))));
    }
    let mut unfinished = store.unfinished();
    unfinished.sort();
    assert_eq!(unfinished, [id(ADOPTED), id(RUNNING)]);
    assert_eq!(
        texts(&store, &id(RUNNING)).await,
        (vec![text(RUNNING)], false)
    );
    assert_eq!(store.adopt(&id(RUNNING)).await, Ok(Epoch(2)));
    let adopted = store.open(&id(ADOPTED)).await.unwrap();
    assert_eq!((adopted.epoch(), adopted.end), (Epoch(2), Seq(1)));
    let deleted = store.open(&id(DELETED)).await;
    assert_eq!(deleted.unwrap_err(), StoreError::Deleted);
    let entries = [("kept/1".to_owned(), "value".into())];
    assert_eq!(store.entries(""), entries);
}
