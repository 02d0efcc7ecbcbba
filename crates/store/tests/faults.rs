//! Disks that are full, read-only, or hang: real ones, mounted for the test. Without the right to
//! mount the tests report that they were skipped.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "tests fail by panicking and report on stderr what they skip"
)]

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokenwire_core::log::LogStore;
use tokenwire_core::model::id::{GenerationId, Seq};
use tokenwire_store::{DiskOptions, DiskStore, StoreState};

use support::{FIRST, append, crash, ended, folder, open, record, running, texts};

/// A file system that is unmounted when it is dropped.
struct Mount {
    path: PathBuf,
    frozen: bool,
}

fn run(command: &str, arguments: &[&str]) -> bool {
    let status = Command::new(command)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

impl Mount {
    fn new(arguments: &[&str]) -> Option<Self> {
        let path = folder();
        fs::create_dir_all(&path).unwrap();
        let target = path.to_str().unwrap();
        if !run("mount", &[arguments, &[target]].concat()) {
            eprintln!("skipped: this process cannot mount {arguments:?}");
            return None;
        }
        Some(Self {
            path,
            frozen: false,
        })
    }

    /// A file system in memory with this many bytes.
    fn tmpfs(bytes: usize) -> Option<Self> {
        Self::new(&["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
    }

    /// A file system on a block device.
    fn ext4() -> Option<Self> {
        let image = folder().with_extension("img");
        let file = fs::File::create(&image).unwrap();
        file.set_len(16 << 20).unwrap();
        let image = image.to_str().unwrap();
        if !run("mkfs.ext4", &["-q", image]) {
            eprintln!("skipped: no mkfs.ext4");
            return None;
        }
        Self::new(&["-o", "loop", image])
    }

    fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    fn read_only(&self) {
        let path = self.path.to_str().unwrap();
        assert!(run("mount", &["-o", "remount,ro", path]), "remounted");
    }

    /// Makes every write hang. Returns false if that is not possible.
    fn freeze(&mut self) -> bool {
        self.frozen = run("fsfreeze", &["-f", self.path.to_str().unwrap()]);
        self.frozen
    }

    fn thaw(&mut self) {
        if self.frozen {
            assert!(run("fsfreeze", &["-u", self.path.to_str().unwrap()]));
            self.frozen = false;
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.thaw();
        run("umount", &["-l", self.path.to_str().unwrap()]);
    }
}

async fn expect(store: &Arc<DiskStore>, id: &GenerationId, count: u64, text: &str) {
    let (all, _) = texts(store, id).await;
    assert_eq!(all.len() as u64, count);
    assert!(all.iter().all(|one| one == text));
}

#[tokio::test]
async fn full_disk_takes_everything_once_there_is_room() {
    let Some(mount) = Mount::tmpfs(2 << 20) else {
        return;
    };
    let ballast = mount.path.join("ballast");
    fs::write(&ballast, vec![0; 1 << 20]).unwrap();
    let store = open(&mount.store());
    let (id, text) = (running(&*store, &[]).await, "x".repeat(10_000));
    let kept = ended(&*store, &[&text], "{}").await;
    let mut end = 0;
    let refused = loop {
        match append(&*store, &id, FIRST, &record(end, &text)).await {
            Ok(_) => end += 1,
            Err(error) => break error,
        }
    };
    assert!(refused.is_retryable(), "{refused:?}");
    assert_eq!(store.status().state, StoreState::Full);
    // It refuses whole operations, and what it has can be read.
    for _ in 0..3 {
        assert!(
            append(&*store, &id, FIRST, &record(end, &text))
                .await
                .is_err()
        );
        let sealed = store.seal(&id, FIRST, record(end, &text), Some("{}".into()));
        assert!(sealed.await.unwrap_err().is_retryable());
    }
    expect(&store, &id, end, &text).await;
    assert!(texts(&store, &kept).await.1);
    fs::remove_file(&ballast).unwrap();
    for _ in 0..10 {
        assert_eq!(
            append(&*store, &id, FIRST, &record(end, &text)).await,
            Ok(Seq(end + 1))
        );
        end += 1;
    }
    assert_eq!(store.status().state, StoreState::Ready);
    expect(&store, &id, end, &text).await;
    let crashed = crash(&mount.store());
    let store = open(&crashed);
    expect(&store, &id, end, &text).await;
    assert_eq!(store.unfinished(), [id]);
}

#[tokio::test]
async fn read_only_disk_is_an_error_of_the_start() {
    let Some(mount) = Mount::tmpfs(1 << 20) else {
        return;
    };
    let store = open(&mount.store());
    let id = ended(&*store, &["one"], "{}").await;
    store.close();
    drop(store);
    mount.read_only();
    let refused = DiskStore::open(DiskOptions::new(mount.store()));
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("Read-only file system"), "{message}");
    let copy = crash(&mount.store());
    assert!(texts(&open(&copy), &id).await.1);
}

#[tokio::test]
async fn disk_that_hangs_delays_writes_and_no_reads() {
    let Some(mut mount) = Mount::ext4() else {
        return;
    };
    let store = open(&mount.store());
    let id = running(&*store, &["one"]).await;
    let kept = ended(&*store, &["two"], "{}").await;
    if !mount.freeze() {
        eprintln!("skipped: the file system cannot be frozen");
        return;
    }
    let (writing, log) = (store.clone(), id.clone());
    let append =
        tokio::spawn(async move { append(&*writing, &log, FIRST, &record(1, "three")).await });
    let deleting = {
        let (store, other) = (store.clone(), GenerationId::random());
        tokio::spawn(async move { store.delete(&other).await })
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while store.status().state != StoreState::Hanging {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Readers get what is stored meanwhile.
        assert_eq!(texts(&store, &id).await.0, ["one"]);
        assert_eq!(texts(&store, &kept).await.0, ["two", "the end"]);
        assert_eq!(store.object(&kept).await, Ok(Some("{}".into())));
    });
    let in_time = waited.await;
    assert!(!append.is_finished() && !deleting.is_finished());
    mount.thaw();
    in_time.expect("reads do not wait");
    assert_eq!(append.await.unwrap(), Ok(Seq(2)));
    assert_eq!(deleting.await.unwrap(), Ok(()));
    assert_eq!(texts(&store, &id).await.0, ["one", "three"]);
    assert_eq!(store.status().state, StoreState::Ready);
    store.close();
}
