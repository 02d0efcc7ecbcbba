//! Generations of other processes: one internal read per generation, and local readers of it.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::registry::Registry;
use super::{Engine, Located, Peer, PeerError, ReadControl, RemoteLog, RemotePart};
use super::{ServedLog, SharedEngine, unreachable};
use crate::generation::{Generation, RemoteWriter, Stop, Wanted};
use crate::log::{Block, Blocks, LogReader, LogStore, StoreError, StoredLog};
use crate::model::error::ApiError;
use crate::model::id::{GenerationId, Owner, Seq};
use crate::model::random::random_part;
use crate::model::record::RecordBatch;

/// How long a request waits for a process that does not answer.
const ANSWER: Duration = Duration::from_secs(3);
/// How long readers wait for a process that does not answer. Then they break off.
const AWAY: Duration = Duration::from_secs(10);
/// The time in which all records so far must have been read.
const CATCH_UP: Duration = Duration::from_secs(30);
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest pause between two attempts to read a stream on.
const LONGEST_PAUSE: Duration = Duration::from_millis(300);
/// Bytes that one read takes from a store.
const READ_BYTES: usize = 256 * 1024;
/// Parts of a local log that wait to be read.
const PARTS: usize = 16;
/// How long an adoption waits for the task that reads the log.
const HANDED_OVER: Duration = Duration::from_secs(5);

/// What became of a generation of another process.
pub(super) enum Found {
    /// It is in this process by now.
    Here(Arc<Generation>),
    /// Its node is lost, and nothing of it is stored.
    Lost,
    /// It is not there, or another owner's.
    Gone,
}

// === impl Found ===

impl Found {
    /// Returns the generation, if it is here.
    pub(super) fn here(self) -> Option<Arc<Generation>> {
        match self {
            Self::Here(generation) => Some(generation),
            Self::Lost | Self::Gone => None,
        }
    }

    pub(super) fn of(generation: Option<Arc<Generation>>) -> Self {
        generation.map_or(Self::Gone, Self::Here)
    }
}

impl Engine {
    /// Returns the local generation whose records come from this process. The first call opens the
    /// one read that all local readers share.
    pub(super) async fn remote(
        &self,
        id: &GenerationId,
        owner: &Owner,
        peer: Arc<dyn Peer>,
    ) -> Result<Found, ApiError> {
        let directory = &self.registry.directory;
        let opening = self.registry.opening.of(id);
        let _one = opening.lock().await;
        if let Some(known) = directory.with_log(id) {
            let own = known.meta().owner == *owner;
            return Ok(Found::of(own.then_some(known)));
        }
        let deadline = Instant::now() + ANSWER;
        let mut peer = peer;
        let mut is_lost = false;
        let remote = loop {
            let located = match peer.open(id, Seq(0)).await {
                Ok(remote) => break remote,
                // The one that is named then has said that it has it.
                Err(PeerError::Gone) if is_lost => return Ok(Found::Gone),
                Err(PeerError::Gone) => {
                    is_lost = true;
                    directory.locate_lost(id).await?
                }
                Err(PeerError::Unreachable(error)) => {
                    tracing::debug!(generation = %id, peer = peer.name(), %error, "no answer");
                    if Instant::now() >= deadline {
                        return Err(unreachable(id, peer.name()));
                    }
                    sleep(PAUSE).await;
                    // It may have ended, and this process or another one has taken over what it had.
                    directory.locate_elsewhere(id).await?
                }
            };
            match located {
                Located::Remote(other) => peer = other,
                Located::Stored(stored) if stored.header.meta.owner == *owner => {
                    return self.registry.restore(stored).await.map(Found::of);
                }
                Located::Orphaned(orphan) if orphan.header.meta.owner == *owner => {
                    return self.registry.adopt(orphan).await.map(Found::of);
                }
                Located::Unreachable { node } => return Err(unreachable(id, &node)),
                Located::Lost(header) => {
                    let foreign = header.is_some_and(|header| header.meta.owner != *owner);
                    return Ok(if foreign { Found::Gone } else { Found::Lost });
                }
                Located::Local(_) | Located::Stored(_) | Located::Orphaned(_) | Located::Gone => {
                    return Ok(Found::Gone);
                }
            }
        };
        if remote.stored.header.meta.owner != *owner {
            return Ok(Found::Gone);
        }
        let begun = self.begin_remote(remote, peer.name()).await?;
        Ok(Found::Here(begun))
    }

    async fn begin_remote(
        &self,
        remote: RemoteLog,
        name: &str,
    ) -> Result<Arc<Generation>, ApiError> {
        let id = remote.stored.header.meta.id.clone();
        let directory = &self.registry.directory;
        let unreadable = |error| super::stored_source::unreadable(&id, &error);
        let account = self.registry.account().clone();
        if let Some(object) = remote.object {
            let generation = Generation::of_object(remote.stored, object, account);
            let generation = generation.map_err(unreadable)?;
            return Ok(directory.insert_stored(generation, Instant::now()));
        }
        let mut follower = Follower {
            writer: RemoteWriter::new(&remote.stored, &account),
            registry: self.registry.clone(),
            store: self.persistence.as_ref().map(|own| own.store().clone()),
            remote,
            wanted: Wanted::default(),
        };
        match timeout(CATCH_UP, follower.catch_up()).await {
            Ok(Ok(())) => {}
            Ok(Err(Broken::Corrupt(error))) => return Err(unreadable(error)),
            Ok(Err(Broken::Lost | Broken::Gone)) | Err(_) => return Err(unreachable(&id, name)),
        }
        let generation = follower.writer.generation().clone();
        directory.insert_remote(generation.clone());
        self.tasks.spawn(follower.run());
        Ok(generation)
    }
}

/// The task that writes a remote generation.
struct Follower {
    writer: RemoteWriter,
    registry: Arc<Registry>,
    store: Option<Arc<dyn LogStore>>,
    remote: RemoteLog,
    wanted: Wanted,
}

/// Why no records arrive.
enum Broken {
    /// The connection is lost.
    Lost,
    /// The log is gone.
    Gone,
    /// The records cannot be used.
    Corrupt(StoreError),
}

/// What follows when a connection is lost.
enum Next {
    /// Another connection.
    Open,
    /// The log is sealed.
    Sealed,
    /// Nothing: readers come back, and find out.
    Nothing,
}

impl Follower {
    /// Reads what the other process had when the log was opened.
    async fn catch_up(&mut self) -> Result<(), Broken> {
        while self.writer.end() < self.remote.stored.end {
            let part = self.remote.parts.recv().await;
            if self.take(part)? {
                break;
            }
        }
        Ok(())
    }

    /// Appends a part. Returns whether it was the last one.
    fn take(&mut self, part: Option<RemotePart>) -> Result<bool, Broken> {
        match part {
            Some(RemotePart::Records(batch)) => {
                let header = &self.remote.stored.header;
                let appended = self.writer.append(header, &batch);
                appended.map_err(Broken::Corrupt)?;
                Ok(false)
            }
            Some(RemotePart::Sealed) => {
                self.writer.seal();
                Ok(true)
            }
            Some(RemotePart::Gone) => Err(Broken::Gone),
            None => Err(Broken::Lost),
        }
    }

    async fn run(mut self) {
        let id = self.writer.generation().meta().id.clone();
        if !self.writer.is_sealed() && !self.follow(&id).await {
            // Readers that come back must not find it here.
            let known = self.registry.directory.any(&id);
            if known.is_some_and(|known| Arc::ptr_eq(&known, self.writer.generation())) {
                self.registry.directory.remove(&id);
            }
            return;
        }
        let generation = self.writer.generation().clone();
        drop(self.writer);
        // Another one of this id may go on here.
        let known = self.registry.directory.any(&id);
        if known.is_some_and(|known| Arc::ptr_eq(&known, &generation)) {
            self.registry.note_end(&generation);
        }
    }

    /// Reads the log until its end. Returns false if it cannot be read to the end.
    async fn follow(&mut self, id: &GenerationId) -> bool {
        loop {
            let broken = match self.read().await {
                Ok(()) => return true,
                Err(broken) => broken,
            };
            match broken {
                Broken::Gone => return false,
                Broken::Corrupt(error) => {
                    tracing::error!(generation = %id, %error, "a remote stream cannot be read");
                    return false;
                }
                Broken::Lost => {}
            }
            match self.reopen(id).await {
                Next::Open => {}
                Next::Sealed => return true,
                Next::Nothing => return false,
            }
        }
    }

    async fn read(&mut self) -> Result<(), Broken> {
        let registry = self.registry.clone();
        let mut closing = std::pin::pin!(registry.draining());
        let mut closed = false;
        loop {
            tokio::select! {
                biased;
                wanted = self.writer.wanted(self.wanted) => {
                    self.tell(wanted);
                    if matches!(wanted.stop, Some(Stop::ShuttingDown | Stop::Abandoned)) {
                        return Err(Broken::Gone);
                    }
                }
                () = &mut closing, if !closed => closed = true,
                part = self.remote.parts.recv() => {
                    if self.take(part)? {
                        return Ok(());
                    }
                    // Other tasks of the worker run as well.
                    tokio::task::consume_budget().await;
                }
            }
            // A process that stops waits for its readers only.
            if closed && !self.wanted.held && !self.writer.generation().is_held() {
                return Err(Broken::Gone);
            }
        }
    }

    fn tell(&mut self, wanted: Wanted) {
        self.wanted = wanted;
        let _ = self.remote.control.send(ReadControl {
            held: wanted.held,
            cancelled: wanted.stop == Some(Stop::Cancelled),
        });
    }

    /// Looks for the log after the connection was lost: it is still where it was, or what its
    /// process had was taken over.
    async fn reopen(&mut self, id: &GenerationId) -> Next {
        let deadline = Instant::now() + AWAY;
        let mut pause = PAUSE;
        while Instant::now() < deadline {
            if self.writer.generation().tail().is_err() {
                return Next::Nothing;
            }
            match self.try_reopen(id).await {
                Ok(Some(next)) => return next,
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(generation = %id, %error, "a remote stream cannot go on");
                    return Next::Nothing;
                }
            }
            // All streams of a lost node are looked for at once.
            sleep(random_part(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        tracing::warn!(generation = %id, "the process that has this stream does not answer");
        Next::Nothing
    }

    async fn try_reopen(&mut self, id: &GenerationId) -> Result<Option<Next>, StoreError> {
        if let Some(store) = self.store.clone() {
            match store.open(id).await {
                // What its process had is this one's now.
                Ok(stored) => return self.take_over(&store, &stored).await.map(Some),
                Err(StoreError::Deleted) => return Ok(Some(Next::Nothing)),
                Err(_) => {}
            }
        }
        let directory = &self.registry.directory;
        let Ok(located) = directory.locate_elsewhere(id).await else {
            return Ok(None);
        };
        let located = match located {
            Located::Remote(peer) => match peer.open(id, self.writer.end()).await {
                Ok(remote) if remote.object.is_some() => return Ok(Some(Next::Nothing)),
                Ok(remote) => {
                    self.writer.follow(&remote.stored)?;
                    self.remote = remote;
                    self.tell(self.wanted);
                    return Ok(Some(Next::Open));
                }
                Err(PeerError::Gone) => match directory.locate_lost(id).await {
                    Ok(located) => located,
                    Err(_) => return Ok(None),
                },
                Err(PeerError::Unreachable(_)) => return Ok(None),
            },
            located => located,
        };
        match located {
            Located::Stored(found) | Located::Orphaned(found) => {
                let taken = match found.store.open(id).await {
                    Ok(stored) => self.take_over(&found.store, &stored).await,
                    Err(error) => Err(error),
                };
                match taken {
                    Ok(next) => Ok(Some(next)),
                    // Another process ends it, or the store is away.
                    Err(StoreError::Fenced { .. } | StoreError::Unavailable(_)) => Ok(None),
                    Err(error) if error.is_gone() => Ok(Some(Next::Nothing)),
                    Err(error) => Err(error),
                }
            }
            Located::Lost(_) => {
                self.writer.generation().set_lost_with_its_node();
                Ok(Some(Next::Nothing))
            }
            // Another process that has it now is asked at the next try.
            Located::Remote(_) | Located::Unreachable { .. } => Ok(None),
            Located::Local(_) | Located::Gone => Ok(Some(Next::Nothing)),
        }
    }

    /// Goes on with the log or ends it, unless it has ended, and reads the rest.
    async fn take_over(
        &mut self,
        store: &Arc<dyn LogStore>,
        stored: &StoredLog,
    ) -> Result<Next, StoreError> {
        if stored.sealed {
            self.read_stored(&**store, stored).await?;
            return Ok(Next::Sealed);
        }
        self.adopt(store, stored).await
    }

    /// Reads the rest of a log that has ended.
    async fn read_stored(
        &mut self,
        store: &dyn LogStore,
        stored: &StoredLog,
    ) -> Result<(), StoreError> {
        self.read_up_to(store, stored).await?;
        self.writer.seal();
        Ok(())
    }

    /// Reads what is stored of a log and was not read yet.
    async fn read_up_to(
        &mut self,
        store: &dyn LogStore,
        stored: &StoredLog,
    ) -> Result<(), StoreError> {
        let id = &stored.header.meta.id;
        self.writer.follow(stored)?;
        while self.writer.end() < stored.end {
            let batch = store.read(id, self.writer.end(), READ_BYTES).await?;
            if batch.is_empty() {
                return Err(StoreError::Corrupt);
            }
            self.writer.append(&stored.header, &batch)?;
        }
        Ok(())
    }

    /// Takes the log over, whose writer is lost. What was read of it and is not stored is stored
    /// first, so that no reader of this process has seen events that are lost.
    async fn adopt(
        &mut self,
        store: &Arc<dyn LogStore>,
        stored: &StoredLog,
    ) -> Result<Next, StoreError> {
        let id = &stored.header.meta.id;
        self.read_up_to(&**store, stored).await?;
        match self.append_unstored(&**store, stored).await {
            // Another process has adopted it.
            Ok(()) | Err(StoreError::Fenced { .. } | StoreError::Sealed) => {}
            Err(error) => return Err(error),
        }
        // Its readers see the ending once it is stored.
        let adopted = self.registry.adopt_log(store, id).await?;
        let ended = store.open(id).await?;
        if ended.sealed {
            self.read_stored(&**store, &ended).await?;
            return Ok(Next::Sealed);
        }
        // It goes on here.
        let local = local_log(adopted, self.writer.end());
        self.writer.follow(&local.stored)?;
        self.remote = local;
        self.tell(self.wanted);
        Ok(Next::Open)
    }

    /// Stores what was read of a log and its writer has not stored.
    async fn append_unstored(
        &mut self,
        store: &dyn LogStore,
        stored: &StoredLog,
    ) -> Result<(), StoreError> {
        let id = &stored.header.meta.id;
        let generation = self.writer.generation().clone();
        let mut end = stored.end;
        while end < self.writer.end() {
            let mut bytes = Vec::new();
            let version = stored.header.version;
            let range = generation.read_block_in(version, end, READ_BYTES, &mut bytes);
            let range = range.map_err(|_| StoreError::Deleted)?;
            let mut blocks = Blocks::default();
            blocks.push(Block {
                id,
                epoch: generation.log().epoch(),
                first: range.first,
                next: range.next,
                bytes: &bytes,
            });
            let (_, results) = store.append(blocks).await;
            end = results
                .into_iter()
                .next()
                .unwrap_or(Err(StoreError::Corrupt))?;
        }
        Ok(())
    }
}

/// Reads a generation of this process as one of another process is read.
fn local_log(generation: Arc<Generation>, from: Seq) -> RemoteLog {
    let (sender, parts) = mpsc::channel(PARTS);
    let (control, wanted) = watch::channel(ReadControl::default());
    let served = ServedLog::new(generation.clone());
    tokio::spawn(send_local(generation, from, sender, wanted));
    RemoteLog {
        stored: served.stored,
        object: None,
        parts,
        control,
    }
}

/// Sends the records of a generation until its end, or until the receiver is dropped.
async fn send_local(
    generation: Arc<Generation>,
    from: Seq,
    parts: mpsc::Sender<RemotePart>,
    mut wanted: watch::Receiver<ReadControl>,
) {
    let version = generation.header().version;
    let mut reader = LogReader::new(generation.log().clone(), from);
    let mut held = None;
    loop {
        let mut batch = RecordBatch::default();
        let end = tokio::select! {
            biased;
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = *wanted.borrow_and_update();
                held = now.held.then(|| held.take().unwrap_or_else(|| generation.attach()));
                if now.cancelled {
                    generation.cancel();
                }
                continue;
            }
            end = poll_fn(|cx| reader.poll_read(cx, READ_BYTES, &mut batch)) => end,
        };
        let Ok(end) = end else {
            let _ = parts.send(RemotePart::Gone).await;
            return;
        };
        let last = end.sealed && reader.position() >= end.next;
        if !batch.is_empty() {
            let older = generation.in_version(version, &batch);
            let records = RemotePart::Records(older.unwrap_or(batch));
            if parts.send(records).await.is_err() {
                return;
            }
        }
        if last {
            let _ = parts.send(RemotePart::Sealed).await;
            return;
        }
    }
}

impl SharedEngine {
    /// Waits until the task that reads a remote generation has taken over its log. Returns the
    /// generation, or `None` if the log is to be taken over without the task.
    pub(super) async fn handed_over(&self, known: Arc<Generation>) -> Option<Arc<Generation>> {
        let ended = timeout(HANDED_OVER, known.ended()).await.is_ok();
        if ended && known.tail().is_ok_and(|tail| tail.sealed) {
            return Some(known);
        }
        known.disown();
        self.registry.directory.remove(&known.meta().id);
        None
    }
}
