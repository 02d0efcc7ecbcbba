//! The registry: every generation that can be asked for, with retention and memory bounds.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::generation::Generation;
use crate::model::account::{Account, Relief};
use crate::model::error::{ApiError, ErrorCode};
use crate::model::event::Ending;
use crate::model::id::{GenerationId, Owner};
use crate::model::snapshot::Snapshot;

/// How long generations are kept, and how much they may hold.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// How long a log stays after its end.
    pub events: Duration,
    /// How long the response object stays after its end.
    pub responses: Duration,
    /// Most bytes of all requests and answers together, as the account counts them.
    pub max_memory: usize,
    /// Most generations that run at the same time.
    pub max_open: usize,
}

/// The generations of all workers.
#[derive(Debug)]
pub struct Registry {
    retention: Retention,
    account: Account,
    hasher: RandomState,
    open: Arc<AtomicUsize>,
    closed: AtomicBool,
    closing: Notify,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    generations: HashMap<GenerationId, Entry>,
    /// Ended generations whose log is kept, oldest end first.
    logs: BTreeSet<(Instant, GenerationId)>,
    /// Ended generations whose response object is kept, oldest end first.
    objects: BTreeSet<(Instant, GenerationId)>,
    keys: HashMap<(Owner, String), Keyed>,
}

#[derive(Debug)]
struct Entry {
    generation: Arc<Generation>,
    ended: Option<Instant>,
    last_seq: Option<u64>,
    key: Option<(Owner, String)>,
}

#[derive(Debug)]
struct Keyed {
    hash: u64,
    /// `None` between the claim and the start.
    id: Option<GenerationId>,
}

/// The state of an idempotency key.
#[derive(Debug)]
pub(super) enum Claim {
    /// The key is unused, and now claimed.
    Free(KeyClaim),
    /// An earlier request under this key started this generation.
    Taken(Arc<Generation>),
}

/// A key that a request holds until its generation is in the registry. Dropping it releases the
/// key.
#[derive(Debug)]
pub(super) struct KeyClaim {
    registry: Arc<Registry>,
    key: Option<(Owner, String)>,
}

impl Drop for KeyClaim {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.registry.state.lock().keys.remove(&key);
        }
    }
}

/// A permit of the limit on running generations. Dropping it releases the permit.
#[derive(Debug)]
pub(super) struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A generation that is being written. Dropping it records its end in the registry.
#[derive(Debug)]
pub(super) struct Running {
    registry: Arc<Registry>,
    id: GenerationId,
    _permit: Permit,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.registry.note_end(&self.id);
    }
}

impl Registry {
    /// Returns an empty registry. `account` counts what all generations hold.
    #[must_use]
    pub fn new(retention: Retention, account: Account) -> Arc<Self> {
        Arc::new(Self {
            retention,
            account,
            hasher: RandomState::new(),
            open: Arc::default(),
            closed: AtomicBool::new(false),
            closing: Notify::new(),
            state: Mutex::default(),
        })
    }

    /// Number of generations that run now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Number of generations that can be asked for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state.lock().generations.len()
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

    pub(super) fn hasher(&self) -> &RandomState {
        &self.hasher
    }

    /// Refuses new generations from now on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.closing.notify_waiters();
    }

    /// Whether new generations are refused because the gateway shuts down.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ends every running generation with the failure `shutting_down`. The terminal events follow at
    /// once.
    pub fn stop_running(&self) {
        let running: Vec<_> = self
            .state
            .lock()
            .generations
            .values()
            .filter(|entry| entry.ended.is_none())
            .map(|entry| entry.generation.clone())
            .collect();
        running.iter().for_each(|generation| generation.shut_down());
    }

    /// Waits until the gateway begins to shut down.
    pub async fn closing(&self) {
        let notified = self.closing.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        if !self.is_closed() {
            notified.await;
        }
    }

    pub(super) fn admit(&self) -> Result<Permit, ApiError> {
        if self.is_closed() {
            let error = ApiError::new(ErrorCode::ShuttingDown, "The gateway is shutting down.");
            return Err(error.retry_after(Duration::from_secs(1)));
        }
        let open = self.open.fetch_add(1, Ordering::AcqRel);
        let permit = Permit(self.open.clone());
        if open >= self.retention.max_open {
            let error = ApiError::new(
                ErrorCode::Overloaded,
                format!("{open} streams are open, as many as the gateway takes."),
            );
            return Err(error.retry_after(Duration::from_secs(1)));
        }
        Ok(permit)
    }

    pub(super) fn claim(
        self: &Arc<Self>,
        owner: &Owner,
        key: &str,
        hash: u64,
    ) -> Result<Claim, ApiError> {
        let full = (owner.clone(), key.to_owned());
        let mut state = self.state.lock();
        if let Some(keyed) = state.keys.get(&full) {
            // A generation that failed before its upstream sent anything has released its key.
            let entry = keyed.id.as_ref().and_then(|id| state.generations.get(id));
            let generation = entry
                .map(|entry| &entry.generation)
                .filter(|generation| !failed_early(generation));
            if keyed.hash != hash && (keyed.id.is_none() || generation.is_some()) {
                return Err(ApiError::new(
                    ErrorCode::IdempotencyMismatch,
                    "This idempotency key was used for another request.",
                ));
            }
            if keyed.id.is_none() {
                let error = ApiError::new(
                    ErrorCode::Overloaded,
                    "A request with this idempotency key is just being started.",
                );
                return Err(error.retry_after(Duration::from_secs(1)));
            }
            if let Some(generation) = generation {
                return Ok(Claim::Taken(generation.clone()));
            }
        }
        state.keys.insert(full.clone(), Keyed { hash, id: None });
        Ok(Claim::Free(KeyClaim {
            registry: self.clone(),
            key: Some(full),
        }))
    }

    pub(super) fn insert(
        self: &Arc<Self>,
        generation: Arc<Generation>,
        permit: Permit,
        claim: Option<KeyClaim>,
    ) -> Running {
        let id = generation.meta().id.clone();
        let key = claim.and_then(|mut claim| claim.key.take());
        let mut state = self.state.lock();
        if let Some(keyed) = key.as_ref().and_then(|key| state.keys.get_mut(key)) {
            keyed.id = Some(id.clone());
        }
        state.generations.insert(
            id.clone(),
            Entry {
                generation,
                ended: None,
                last_seq: None,
                key,
            },
        );
        Running {
            registry: self.clone(),
            id,
            _permit: permit,
        }
    }

    pub(super) fn find(&self, id: &GenerationId, owner: &Owner) -> Option<Arc<Generation>> {
        let state = self.state.lock();
        state
            .generations
            .get(id)
            .map(|entry| &entry.generation)
            .filter(|generation| generation.meta().owner == *owner)
            .cloned()
    }

    /// Returns the number of the last event of an ended generation.
    pub(super) fn last_seq(&self, id: &GenerationId) -> Option<u64> {
        self.state.lock().generations.get(id)?.last_seq
    }

    pub(super) fn remove(&self, id: &GenerationId) {
        self.state.lock().remove(id);
    }

    fn note_end(&self, id: &GenerationId) {
        let now = Instant::now();
        let Some(generation) = self
            .state
            .lock()
            .generations
            .get(id)
            .map(|entry| entry.generation.clone())
        else {
            return;
        };
        let last_seq = generation
            .tail()
            .ok()
            .map(|tail| tail.next.0.saturating_sub(1));
        {
            let mut state = self.state.lock();
            if let Some(entry) = state.generations.get_mut(id) {
                entry.ended = Some(now);
                entry.last_seq = last_seq;
                state.logs.insert((now, id.clone()));
                state.objects.insert((now, id.clone()));
            }
        }
        self.sweep(now);
    }

    /// Drops logs and response objects that have been kept long enough, and the oldest ones while
    /// the memory bound is exceeded. Called at every end, at a start that needs memory, and
    /// periodically, so that an idle process shrinks as well.
    pub fn sweep(&self, now: Instant) {
        let mut expired = Vec::new();
        {
            let mut state = self.state.lock();
            // A log that has readers stays: they reach its end, or are cut for not reading.
            let due = |(ended, _): &&(Instant, GenerationId)| {
                now.duration_since(*ended) >= self.retention.events
            };
            let unread = |key: &&(Instant, GenerationId)| {
                state
                    .generations
                    .get(&key.1)
                    .is_none_or(|entry| !entry.generation.is_held())
            };
            let keys: Vec<_> = state
                .logs
                .iter()
                .take_while(due)
                .filter(unread)
                .cloned()
                .collect();
            expired.extend(keys.iter().filter_map(|key| state.take_log(key)));
            while let Some((ended, _)) = state.objects.first()
                && now.duration_since(*ended) >= self.retention.responses
            {
                expired.extend(state.pop_object());
            }
        }
        // Expiry wakes readers, so it runs without the lock.
        expired
            .iter()
            .for_each(|generation: &Arc<Generation>| generation.log().expire());
        // What is committed to running answers, and a part that stays free: what is kept gives way
        // before a start has to ask for it.
        let limit = self.retention.max_memory;
        let excess = self
            .account
            .committed()
            .saturating_sub(limit - limit / KEPT_FREE);
        if excess > 0 {
            self.relieve(excess);
        }
    }
}

/// The part of the memory that kept answers leave free, as a divisor.
const KEPT_FREE: usize = 4;

impl Relief for Registry {
    /// Drops the oldest ended generations, of each the log first. If all logs went before any
    /// object, the objects, which stay for a day, would in the end leave no room for the logs of
    /// recent answers. A generation that has a reader, or a request that waits for its object, stays
    /// as it is.
    fn relieve(&self, bytes: usize) {
        let dropped = self.state.lock().take_oldest(bytes);
        // Expiry wakes readers, so it runs without the lock.
        for generation in dropped {
            tracing::warn!(generation = %generation.meta().id, "dropped under memory pressure");
            generation.log().expire();
        }
    }
}

impl State {
    /// Takes a log off the list. The object of a `store: false` generation goes with it.
    fn take_log(&mut self, key: &(Instant, GenerationId)) -> Option<Arc<Generation>> {
        self.logs.remove(key);
        let generation = self.generations.get(&key.1)?.generation.clone();
        if !generation.meta().store {
            self.remove(&key.1);
        }
        Some(generation)
    }

    /// Takes the oldest ended generations off their lists, until they hold `bytes`. Of the last one
    /// only the log may be taken.
    fn take_oldest(&mut self, bytes: usize) -> Vec<Arc<Generation>> {
        let mut taken = Vec::new();
        let mut released = 0;
        for key in &self.objects {
            if released >= bytes {
                break;
            }
            let Some(entry) = self.generations.get(&key.1) else {
                continue;
            };
            if entry.generation.is_held() {
                continue;
            }
            let has_log = self.logs.contains(key);
            if has_log {
                released += entry.generation.log().memory_size();
            }
            let only_log = has_log && released >= bytes;
            if !only_log {
                released += entry.generation.memory_size();
            }
            taken.push((key.clone(), entry.generation.clone(), only_log));
        }
        let mut generations = Vec::with_capacity(taken.len());
        for (key, generation, only_log) in taken {
            if only_log {
                self.take_log(&key);
            } else {
                self.remove(&key.1);
            }
            generations.push(generation);
        }
        generations
    }

    fn pop_object(&mut self) -> Option<Arc<Generation>> {
        let (_, id) = self.objects.pop_first()?;
        let generation = self.generations.get(&id)?.generation.clone();
        self.remove(&id);
        Some(generation)
    }

    fn remove(&mut self, id: &GenerationId) {
        let Some(entry) = self.generations.remove(id) else {
            return;
        };
        if let Some(ended) = entry.ended {
            self.logs.remove(&(ended, id.clone()));
            self.objects.remove(&(ended, id.clone()));
        }
        if let Some(key) = entry.key
            && self
                .keys
                .get(&key)
                .is_some_and(|keyed| keyed.id.as_ref() == Some(id))
        {
            self.keys.remove(&key);
        }
    }
}

/// Whether a generation failed before its upstream sent anything. Its idempotency key is then free
/// again.
fn failed_early(generation: &Generation) -> bool {
    generation
        .outcome()
        .is_some_and(|outcome| matches!(outcome.ending, Ending::Failed(_)))
        && !generation.with_snapshot(Snapshot::has_begun)
}
