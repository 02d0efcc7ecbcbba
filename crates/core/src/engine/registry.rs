//! What the engines of all workers share about generations: who is known, how many may run, and
//! what is kept.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::admission::{Admission, Permit};
use super::directory::{Directory, KeyClaim};
use super::located::{GenerationSource, StoredGeneration};
use super::reattachment::Workers;
use super::retention::Retention;
use super::stored_source::{no_answer, unreadable};
use crate::generation::Generation;
use crate::log::LogLimits;
use crate::model::account::{Account, Relief};
use crate::model::error::ApiError;
use crate::model::id::GenerationId;
use crate::model::random::random_millis;

/// The time in which a stored generation must have been read.
const RESTORE: Duration = Duration::from_secs(30);

/// The part of the memory that kept answers leave free, as a divisor.
const KEPT_FREE: usize = 4;
/// What they leave free beside it where they may hold more than [`KEPT_LEAST`]: the allocator's own
/// overhead for them.
const KEPT_OVERHEAD: usize = 24 << 20;
/// What they may hold in any case, up to the part above.
const KEPT_LEAST: usize = 24 << 20;

/// Returns the most bytes that may be committed while there are kept answers that can go.
fn most_with_kept(limit: usize) -> usize {
    let part = limit - limit / KEPT_FREE;
    part.min(part.saturating_sub(KEPT_OVERHEAD).max(KEPT_LEAST))
}

/// The generations of all workers.
#[derive(Debug)]
pub struct Registry {
    pub(super) directory: Arc<Directory>,
    pub(super) admission: Admission,
    pub(super) retention: Retention,
    /// Remote generations that are being opened.
    pub(super) opening: Opening,
    /// Where answers of lost writers go on.
    pub(super) workers: Workers,
    /// How generations are made that go on here, if any upstream can be attached to again.
    pub(super) reattach: Option<Reattach>,
    account: Account,
}

/// How generations are made whose answers are read from their upstreams again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reattach {
    pub(super) log_limits: LogLimits,
    /// How long they run without a reader.
    pub(super) grace: Duration,
}

/// Locks by id: one request at a time opens a remote generation.
#[derive(Debug, Default)]
pub(super) struct Opening(Mutex<HashMap<GenerationId, Weak<tokio::sync::Mutex<()>>>>);

impl Opening {
    pub(super) fn of(&self, id: &GenerationId) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock();
        if let Some(lock) = locks.get(id).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        locks.insert(id.clone(), Arc::downgrade(&lock));
        lock
    }
}

/// A generation that is being written. Dropping it records its end in the registry.
#[derive(Debug)]
pub(super) struct Running {
    registry: Arc<Registry>,
    generation: Arc<Generation>,
    _permit: Permit,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.registry.note_end(&self.generation);
    }
}

impl Registry {
    /// Returns an empty registry. `account` counts what all generations hold, and `source` knows of
    /// generations that are not in this process.
    #[must_use]
    pub fn new(
        retention: Retention,
        account: Account,
        source: Option<Arc<dyn GenerationSource>>,
    ) -> Arc<Self> {
        Self::with(retention, account, source, None)
    }

    pub(super) fn with(
        retention: Retention,
        account: Account,
        source: Option<Arc<dyn GenerationSource>>,
        reattach: Option<Reattach>,
    ) -> Arc<Self> {
        Arc::new(Self {
            directory: Arc::new(Directory::new(source)),
            admission: Admission::new(retention.max_open),
            retention,
            opening: Opening::default(),
            workers: Workers::default(),
            reattach,
            account,
        })
    }

    /// Number of generations that run now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.admission.open()
    }

    /// Number of generations that can be asked for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.directory.len()
    }

    /// Whether no generation can be asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The account that counts what all generations hold.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Bytes held by requests and answers.
    #[must_use]
    pub fn used(&self) -> usize {
        self.account.used()
    }

    /// Refuses new generations from now on.
    pub fn close(&self) {
        self.admission.close();
    }

    /// Whether new generations are refused because the gateway shuts down.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.admission.is_closed()
    }

    /// Notes that the gateway drains: it accepts no more connections, and serves one more request of
    /// each that it has. With `readers_leave` the readers that resume at a position leave too, since
    /// another process reads the generations on from this one.
    pub fn begin_drain(&self, readers_leave: bool) {
        self.admission.begin_drain(readers_leave);
        if readers_leave {
            let running = self.directory.running();
            running
                .iter()
                .for_each(|generation| generation.log().wake());
        }
    }

    /// Whether the gateway drains or shuts down.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.admission.is_draining()
    }

    /// Whether readers that resume at a position are to leave, and to come back elsewhere.
    #[must_use]
    pub fn readers_leave(&self) -> bool {
        self.admission.readers_leave()
    }

    /// Returns the time after which a reader that leaves, or a client that may not start here, comes
    /// back. It differs each time, so that they do not all come at once.
    #[must_use]
    pub fn come_back_after(&self) -> Duration {
        random_millis(200..2000)
    }

    /// Waits until the gateway drains or shuts down.
    pub async fn draining(&self) {
        self.admission.draining().await;
    }

    /// Returns the generations that have not ended. Takes a time that grows with the number of known
    /// ones.
    #[must_use]
    pub fn running(&self) -> Vec<Arc<Generation>> {
        self.directory.running()
    }

    /// Ends every running generation with the failure `shutting_down`. The terminal events follow at
    /// once.
    pub fn stop_running(&self) {
        let running = self.running();
        running.iter().for_each(|generation| generation.shut_down());
    }

    /// Admits one more generation. The account says whether there is memory for it.
    pub(super) fn admit(&self) -> Result<Permit, ApiError> {
        self.admission.permit()
    }

    pub(super) fn insert(
        self: &Arc<Self>,
        generation: Arc<Generation>,
        permit: Permit,
        claim: Option<KeyClaim>,
    ) -> Running {
        if let Some(predecessor) = &generation.header().predecessor {
            self.directory.renew_chain(predecessor, Instant::now());
        }
        self.directory.insert(generation.clone(), claim);
        Running {
            registry: self.clone(),
            generation,
            _permit: permit,
        }
    }

    /// Adds a generation that another process has written so far.
    pub(super) fn insert_adopted(
        self: &Arc<Self>,
        generation: Arc<Generation>,
        permit: Permit,
    ) -> Running {
        self.directory.insert_remote(generation.clone());
        Running {
            registry: self.clone(),
            generation,
            _permit: permit,
        }
    }

    /// Returns the generation that a store has, or `None` if it was deleted by now. It is kept as one
    /// that ends now.
    pub(super) async fn restore(
        &self,
        stored: StoredGeneration,
    ) -> Result<Option<Arc<Generation>>, ApiError> {
        let StoredGeneration { store, header } = stored;
        let id = &header.meta.id;
        let restored = Generation::restore(&*store, id, self.account.clone());
        let restored = timeout(RESTORE, restored).await;
        let generation = match restored.unwrap_or_else(|_| Err(no_answer())) {
            Ok(generation) => generation,
            Err(error) if error.is_gone() => return Ok(None),
            Err(error) => return Err(unreadable(id, &error)),
        };
        let known = self.directory.insert_stored(generation, Instant::now());
        // It may have been deleted while it was read.
        let opened = timeout(RESTORE, store.open(id)).await;
        if matches!(opened, Ok(Err(error)) if error.is_gone()) {
            self.forget(id);
            return Ok(None);
        }
        self.shrink_kept();
        Ok(Some(known))
    }

    /// Forgets a generation and what it holds.
    pub(super) fn forget(&self, id: &GenerationId) {
        if let Some(generation) = self.directory.remove(id) {
            generation.log().expire();
        }
    }

    pub(super) fn note_end(&self, generation: &Arc<Generation>) {
        let now = Instant::now();
        let expired = self.directory.note_end(generation, &self.retention, now);
        self.expire(&expired);
    }

    /// Drops logs and response objects that have been kept long enough, and the oldest ones while
    /// the memory bound is exceeded. Called at every end, at a start that needs memory, and
    /// periodically, so that an idle process shrinks as well.
    pub fn sweep(&self, now: Instant) {
        let expired = self.directory.take_due(&self.retention, now);
        self.expire(&expired);
    }

    /// Expires logs, which wakes readers and so runs without the directory's lock. Then drops the
    /// oldest of what is kept while there is too much.
    fn expire(&self, expired: &[Arc<Generation>]) {
        expired
            .iter()
            .for_each(|generation| generation.log().expire());
        self.shrink_kept();
    }

    /// Lets what is kept give way before a start has to ask for it.
    fn shrink_kept(&self) {
        let most = most_with_kept(self.account.limit());
        let excess = self.account.excess(most);
        if excess > 0 {
            self.relieve(excess);
        }
    }
}

impl Relief for Registry {
    /// Drops the oldest ended generations, of each the log first, until `bytes` are released. Those
    /// that are read or waited for stay, and for two seconds those that a store has not yet.
    fn relieve(&self, bytes: usize) {
        let dropped = self.directory.take_oldest(bytes, Instant::now());
        for generation in dropped {
            tracing::warn!(generation = %generation.meta().id, "dropped under memory pressure");
            generation.log().expire();
        }
    }
}
