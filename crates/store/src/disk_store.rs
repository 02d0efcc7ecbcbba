//! The store on a local disk.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokenwire_core::log::{
    Appended, Blocks, Epoch, LogHeader, LogStore, StoreError, StoreFuture, StoredLog,
};
use tokenwire_core::model::id::{GenerationId, Owner, Seq};
use tokenwire_core::model::record::RecordBatch;
use tokio::sync::oneshot;

use crate::command::{Command, Reply, Seal};
use crate::folder::Folder;
use crate::health::StoreStatus;
use crate::index::Entry;
use crate::options::DiskOptions;
use crate::reader;
use crate::recovery::{Recovered, recover};
use crate::shared::Shared;
use crate::store_file::Answers;
use crate::writer::Writer;

/// Threads that read.
const READERS: usize = 4;

/// The longest time without any answer of the disk while a store is opened.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the folder {path}: {source}")]
pub struct OpenError {
    /// The folder.
    pub path: String,
    /// The system's error.
    pub source: io::Error,
}

/// Logs in a folder on a local disk. See the [crate](crate).
///
/// Dropping it ends its threads once they have done what was asked of them. It does not wait for
/// them: a disk that hangs does not keep the process from ending.
pub struct DiskStore {
    pub(crate) shared: Arc<Shared>,
    pub(crate) threads: Mutex<Vec<JoinHandle<()>>>,
    /// Works in its callers' threads, in a simulation.
    pub(crate) inline: Option<Box<Mutex<Writer>>>,
}

impl fmt::Debug for DiskStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskStore")
            .field("path", &self.shared.folder.path)
            .finish_non_exhaustive()
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        self.end();
    }
}

impl DiskStore {
    /// Creates a folder for this process, and recovers those of processes that are gone. Blocks
    /// until that is done, however long it takes.
    ///
    /// # Errors
    /// [`OpenError`] if the folder cannot be created or read, or if the disk gives no answer at all
    /// for 20 seconds.
    pub fn open(options: DiskOptions) -> Result<Self, OpenError> {
        let path = options.path.display().to_string();
        let failed = |source| OpenError {
            path: path.clone(),
            source,
        };
        let answers = Answers::default();
        let (sender, opened) = sync_channel(1);
        let counted = answers.clone();
        // A thread that a disk holds cannot be ended. It does not keep the process from ending.
        Builder::new()
            .name("store-opener".to_owned())
            .spawn(move || sender.send(Self::open_here(options, &counted)))
            .map_err(failed)?;
        let mut before = answers.load(Ordering::Relaxed);
        loop {
            match opened.recv_timeout(OPEN_TIMEOUT) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(failed(io::Error::other("opening it panicked")));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = answers.load(Ordering::Relaxed);
            if now == before {
                let message = format!("the disk has not answered for {}s", OPEN_TIMEOUT.as_secs());
                return Err(failed(io::Error::new(io::ErrorKind::TimedOut, message)));
            }
            tracing::info!(path, "still reading what earlier processes left");
            before = now;
        }
    }

    fn open_here(options: DiskOptions, answers: &Answers) -> Result<Self, OpenError> {
        let failed = |source| OpenError {
            path: options.path.display().to_string(),
            source,
        };
        let (shared, writer) = Self::recovered(&options, answers).map_err(failed)?;
        let mut threads = Vec::new();
        let mut spawn = |name: String, run: Box<dyn FnOnce() + Send>| {
            threads.push(Builder::new().name(name).spawn(run)?);
            Ok(())
        };
        spawn("store-writer".to_owned(), Box::new(|| Writer::run(writer))).map_err(failed)?;
        let syncing = shared.clone();
        let sync = Box::new(move || {
            let interval = syncing.options.sync;
            let lost = |file| syncing.commands.send_now(Command::Lost(file));
            syncing.syncer.run(interval, &syncing.health, lost);
        });
        spawn("store-syncer".to_owned(), sync).map_err(failed)?;
        for number in 0..READERS {
            let reading = shared.clone();
            let read = Box::new(move || reader::run(&reading));
            spawn(format!("store-reader-{number}"), read).map_err(failed)?;
        }
        Ok(Self {
            shared,
            threads: Mutex::new(threads),
            inline: None,
        })
    }

    /// Creates a folder and recovers those of earlier processes.
    pub(crate) fn recovered(
        options: &DiskOptions,
        answers: &Answers,
    ) -> io::Result<(Arc<Shared>, Writer)> {
        let folder = Folder::create(&options.path, options.formats)?;
        let Recovered {
            index,
            folders,
            next_file,
            others_read,
            unsynced,
            ..
        } = recover(options, answers)?;
        let shared = Shared::new(options.clone(), folder, index, next_file);
        let paths = folders.iter().map(|folder| folder.path.clone());
        shared.taken.lock().extend(paths);
        shared.syncer.mark_earlier(unsynced);
        shared.note_others(others_read.unwrap_or(u8::MAX));
        let writer = Writer::new(shared.clone(), folders);
        Ok((shared, writer))
    }

    /// Returns the ids of the logs that have not ended. After [`open`](Self::open) these are the
    /// logs whose writers are lost: each is to be adopted.
    #[must_use]
    pub fn unfinished(&self) -> Vec<GenerationId> {
        let index = self.shared.index.lock();
        let running = index.running.iter().filter_map(|key| {
            let Some(Entry::Running(log)) = index.logs.get(key) else {
                return None;
            };
            Some(log.header.meta.id.clone())
        });
        running.collect()
    }

    /// Returns how the store fares. Takes no longer than a lookup.
    #[must_use]
    pub fn status(&self) -> StoreStatus {
        let (running, all) = {
            let index = self.shared.index.lock();
            (index.running.len(), index.logs.len())
        };
        let health = &self.shared.health;
        StoreStatus {
            state: health.state(),
            bytes: health.bytes.load(Ordering::Relaxed),
            written: health.written.load(Ordering::Relaxed),
            errors: health.errors.load(Ordering::Relaxed),
            running,
            kept: all - running,
        }
    }

    /// Sets a small record, or removes it if it has no value. It is written at once, and kept until
    /// it is removed. While the disk cannot be written the change waits in memory.
    pub fn set(&self, key: impl Into<String>, value: Option<Bytes>) {
        let key = key.into();
        let is_first = {
            let mut index = self.shared.index.lock();
            match value {
                Some(value) => index.entries.insert(key.clone(), value),
                None => index.entries.remove(&key),
            };
            let is_first = index.changed.is_empty();
            index.changed.insert(key);
            is_first
        };
        if is_first {
            self.shared.commands.send_now(Command::Entries(None));
            self.work();
        }
    }

    /// Waits until the small records that were set are written: they outlive the process.
    ///
    /// # Errors
    /// If the disk cannot be written. They are written once it can.
    pub async fn entries_written(&self) -> Result<(), StoreError> {
        self.change(|reply| Command::Entries(Some(reply))).await
    }

    /// Returns the small record of this key.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<Bytes> {
        self.shared.index.lock().entries.get(key).cloned()
    }

    /// Returns the small records whose key begins with this, by key.
    #[must_use]
    pub fn entries(&self, prefix: &str) -> Vec<(String, Bytes)> {
        let index = self.shared.index.lock();
        let from = index.entries.range(prefix.to_owned()..);
        from.take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    /// Makes everything durable that was written so far.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if a file cannot be synced: what it holds is written elsewhere, and
    /// is durable later.
    pub async fn sync(&self) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.shared.syncer.sync_all(reply);
        self.work();
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Ends the threads once they have done what was asked of them, syncs the files, and frees the
    /// folder. Blocks until then.
    pub fn close(&self) {
        self.end();
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            let _ = thread.join();
        }
    }

    fn end(&self) {
        self.shared.commands.close();
        // The writer ends the syncer, after its last writes.
        self.shared.reads.close();
    }

    async fn change<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.shared.commands.send(command(reply)).await;
        sent.map_err(|_| closed())?;
        self.work();
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    fn end_log(&self, seal: Seal) -> StoreFuture<'_, ()> {
        let seal = Box::new(seal);
        self.change(|reply| Command::Seal(seal, reply)).boxed()
    }

    async fn look<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(move |shared: &Shared| {
            // A read that is not waited for any more is not made.
            if !reply.is_closed() {
                let _ = reply.send(read(shared));
            }
        });
        let sent = self.shared.reads.send(job).await;
        sent.map_err(|_| closed())?;
        self.work();
        answer.await.unwrap_or_else(|_| Err(closed()))
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".into())
}

impl LogStore for DiskStore {
    fn create(&self, header: Arc<LogHeader>) -> StoreFuture<'_, Epoch> {
        self.change(|reply| Command::Create(header, reply)).boxed()
    }

    fn append(&self, blocks: Blocks) -> BoxFuture<'_, Appended> {
        async move {
            let count = blocks.len();
            let (reply, answer) = oneshot::channel();
            let sent = self
                .shared
                .commands
                .send(Command::Append(blocks, reply))
                .await;
            self.work();
            let blocks = match sent {
                Ok(()) => match answer.await {
                    Ok(appended) => return appended,
                    Err(_) => Blocks::default(),
                },
                Err(Command::Append(blocks, _)) => blocks,
                Err(_) => Blocks::default(),
            };
            (blocks, vec![Err(closed()); count])
        }
        .boxed()
    }

    fn seal<'a>(
        &'a self,
        id: &'a GenerationId,
        epoch: Epoch,
        block: RecordBatch,
        object: Option<Bytes>,
    ) -> StoreFuture<'a, ()> {
        self.end_log(Seal {
            id: id.clone(),
            epoch,
            block,
            object,
            version: None,
        })
    }

    fn version(&self) -> u8 {
        self.shared.version()
    }

    fn seal_in<'a>(
        &'a self,
        version: u8,
        id: &'a GenerationId,
        epoch: Epoch,
        block: RecordBatch,
        object: Option<Bytes>,
    ) -> StoreFuture<'a, ()> {
        self.end_log(Seal {
            id: id.clone(),
            epoch,
            block,
            object,
            version: Some(version),
        })
    }

    /// The kept log is written from the records, which else are read from all over the journal.
    fn seals_whole(&self) -> bool {
        true
    }

    fn open<'a>(&'a self, id: &'a GenerationId) -> StoreFuture<'a, StoredLog> {
        let id = id.clone();
        self.look(move |shared| shared.stored(&id)).boxed()
    }

    fn read<'a>(
        &'a self,
        id: &'a GenerationId,
        from: Seq,
        max_bytes: usize,
    ) -> StoreFuture<'a, RecordBatch> {
        let id = id.clone();
        self.look(move |shared| shared.records(&id, from, max_bytes))
            .boxed()
    }

    fn object<'a>(&'a self, id: &'a GenerationId) -> StoreFuture<'a, Option<Bytes>> {
        let id = id.clone();
        self.look(move |shared| shared.object(&id)).boxed()
    }

    fn adopt<'a>(&'a self, id: &'a GenerationId) -> StoreFuture<'a, Epoch> {
        let id = id.clone();
        self.change(|reply| Command::Adopt(id, reply)).boxed()
    }

    fn delete<'a>(&'a self, id: &'a GenerationId) -> StoreFuture<'a, ()> {
        let id = id.clone();
        self.change(|reply| Command::Delete(id, reply)).boxed()
    }

    fn renew(&self, ids: Vec<GenerationId>) -> BoxFuture<'_, ()> {
        async move {
            let _ = self.shared.commands.send(Command::Renew(ids)).await;
            self.work();
        }
        .boxed()
    }

    fn keyed<'a>(
        &'a self,
        owner: &'a Owner,
        key: &'a str,
    ) -> StoreFuture<'a, Option<GenerationId>> {
        let (owner, key) = (owner.clone(), key.to_owned());
        self.look(move |shared| shared.keyed(&owner, &key)).boxed()
    }
}
