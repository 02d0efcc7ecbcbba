//! The directory: which generations are known, by id and by idempotency key.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::fingerprint::Fingerprint;
use super::located::{GenerationSource, KeyClaimed, Located};
use super::retention::{Kept, Oldest, Retention};
use crate::generation::Generation;
use crate::model::error::{ApiError, ErrorCode};
use crate::model::event::Ending;
use crate::model::id::{GenerationId, Owner};

/// The generations that can be asked for. Its lock is held for lookups in maps only, never while a
/// generation is looked into.
#[derive(Debug)]
pub(super) struct Directory {
    state: Mutex<State>,
    /// Knows of generations that are not in this process.
    source: Option<Arc<dyn GenerationSource>>,
}

#[derive(Debug, Default)]
struct State {
    /// Ids are random, so a fast hash will do.
    generations: HashMap<GenerationId, Entry, RandomState>,
    keys: HashMap<(Owner, String), Keyed>,
    kept: Kept,
}

#[derive(Debug)]
struct Entry {
    generation: Arc<Generation>,
    ended: Option<Instant>,
    /// When the retention of its object began: at its end, or with a later turn that builds on it.
    kept_since: Option<Instant>,
    last_seq: Option<u64>,
    /// Bytes of its log at its end.
    log_size: usize,
    /// Boxed, since most generations have none.
    key: Option<Box<(Owner, String)>>,
}

/// What is noted of a generation at its end, taken without the directory's lock.
struct EndOfGeneration {
    last_seq: Option<u64>,
    /// Bytes of its log.
    log_size: usize,
}

#[derive(Debug)]
struct Keyed {
    fingerprint: Fingerprint,
    /// `None` between the claim and the start.
    id: Option<GenerationId>,
}

/// How long an ended generation stays in memory for its end to be stored, when memory is short.
const STORE_WAIT: Duration = Duration::from_secs(2);

/// What of a generation is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Its response object as it is now.
    Object,
    /// Its records.
    Log,
}

/// The state of an idempotency key.
#[derive(Debug)]
pub(super) enum Claim {
    /// The key is unused, and now claimed.
    Free(KeyClaim),
    /// An earlier request under this key started this generation.
    Taken(Arc<Generation>),
}

/// What this process knows of an idempotency key.
#[derive(Debug)]
pub(super) enum KeyedHere {
    /// Nothing.
    Unknown,
    /// A request has claimed it and starts.
    Starting,
    /// It started this generation.
    Known(GenerationId),
}

/// A key that a request holds until its generation is in the directory. Dropping it releases the
/// key.
#[derive(Debug)]
pub(super) struct KeyClaim {
    directory: Arc<Directory>,
    key: Option<(Owner, String)>,
}

impl Drop for KeyClaim {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.directory.state.lock().keys.remove(&key);
        }
    }
}

// === impl Directory ===

impl Directory {
    /// Returns an empty directory. `source` knows of generations that are not in this process.
    pub(super) fn new(source: Option<Arc<dyn GenerationSource>>) -> Self {
        Self {
            state: Mutex::default(),
            source,
        }
    }

    /// Number of generations that can be asked for.
    pub(super) fn len(&self) -> usize {
        self.state.lock().generations.len()
    }

    /// The generations that have not ended.
    pub(super) fn running(&self) -> Vec<Arc<Generation>> {
        self.state
            .lock()
            .generations
            .values()
            .filter(|entry| entry.ended.is_none())
            .map(|entry| entry.generation.clone())
            .collect()
    }

    /// Claims an idempotency key, or returns the generation that it started. The fingerprint tells
    /// a repetition from another request.
    pub(super) fn claim(
        self: &Arc<Self>,
        owner: &Owner,
        key: &str,
        fingerprint: Fingerprint,
    ) -> Result<Claim, ApiError> {
        let full = (owner.clone(), key.to_owned());
        loop {
            let mut state = self.state.lock();
            let keyed = state.keys.get(&full);
            let known = keyed.map(|keyed| {
                let id = keyed.id.as_ref();
                let entry = id.and_then(|id| state.generations.get(id));
                (
                    keyed.fingerprint,
                    id.is_some(),
                    entry.map(|entry| entry.generation.clone()),
                )
            });
            let (first, generation) = match known {
                Some((first, false, _)) if first == fingerprint => {
                    let error = ApiError::new(
                        ErrorCode::Overloaded,
                        "A request with this idempotency key is just being started.",
                    );
                    return Err(error.retry_after(Duration::from_secs(1)));
                }
                Some((_, false, _)) => return Err(mismatch()),
                Some((first, true, Some(generation))) => (first, generation),
                None | Some((_, true, None)) => {
                    state.keys.insert(
                        full.clone(),
                        Keyed {
                            fingerprint,
                            id: None,
                        },
                    );
                    return Ok(Claim::Free(KeyClaim {
                        directory: self.clone(),
                        key: Some(full),
                    }));
                }
            };
            drop(state);
            if !failed_early(&generation) {
                return if first == fingerprint {
                    Ok(Claim::Taken(generation))
                } else {
                    Err(mismatch())
                };
            }
            // A generation that failed before its upstream sent anything releases its key.
            self.state.lock().release(&full, &generation.meta().id);
        }
    }

    /// Whether a repetition of a request with this fingerprint gets a generation that a store has.
    ///
    /// # Errors
    /// [`ErrorCode::IdempotencyMismatch`] if another request started it.
    pub(super) fn repeats(
        generation: &Generation,
        fingerprint: Fingerprint,
    ) -> Result<bool, ApiError> {
        let keyed = generation.header().idempotency.as_ref();
        if failed_early(generation) {
            Ok(false)
        } else if keyed.is_some_and(|keyed| keyed.fingerprint == fingerprint) {
            Ok(true)
        } else {
            Err(mismatch())
        }
    }

    /// Adds a generation that starts.
    pub(super) fn insert(&self, generation: Arc<Generation>, claim: Option<KeyClaim>) {
        let id = generation.meta().id.clone();
        let key = claim.and_then(|mut claim| claim.key.take());
        let mut state = self.state.lock();
        if let Some(keyed) = key.as_ref().and_then(|key| state.keys.get_mut(key)) {
            keyed.id = Some(id.clone());
        }
        state.generations.insert(id, Entry::new(generation, key));
    }

    /// Says where the generation of this id is. One of this process that has the part is found
    /// without waiting.
    pub(super) async fn lookup(
        &self,
        id: &GenerationId,
        owner: &Owner,
        part: Part,
    ) -> Result<Located, ApiError> {
        let located = match (self.get(id), &self.source) {
            (Some(generation), Some(source)) if generation.meta().owner == *owner => {
                relocate(generation, &**source, part).await
            }
            (Some(generation), _) => Located::Local(generation),
            (None, Some(source)) => source.locate(id).await?,
            (None, None) => Located::Gone,
        };
        let foreign = match &located {
            Located::Local(generation) => generation.meta().owner != *owner,
            Located::Stored(stored) | Located::Orphaned(stored) => {
                stored.header.meta.owner != *owner
            }
            Located::Lost(Some(header)) => header.meta.owner != *owner,
            Located::Lost(None)
            | Located::Remote(_)
            | Located::Unreachable { .. }
            | Located::Gone => false,
        };
        Ok(if foreign { Located::Gone } else { located })
    }

    /// Returns the generation of this id, if it is in this process and this owner's.
    pub(super) fn local(&self, id: &GenerationId, owner: &Owner) -> Option<Arc<Generation>> {
        self.get(id)
            .filter(|generation| generation.meta().owner == *owner)
    }

    /// Returns the generation of this id, if it is in this process.
    pub(super) fn any(&self, id: &GenerationId) -> Option<Arc<Generation>> {
        self.get(id)
    }

    /// Returns the generation of this id, if it is in this process with its records.
    pub(super) fn with_log(&self, id: &GenerationId) -> Option<Arc<Generation>> {
        self.get(id).filter(|generation| generation.tail().is_ok())
    }

    /// Adds a generation that was stored, in place of one whose records are gone. Returns the one
    /// that is known by its id: another request may have added it first. Its idempotency key is
    /// taken, unless another request has it.
    pub(super) fn insert_stored(
        &self,
        generation: Arc<Generation>,
        now: Instant,
    ) -> Arc<Generation> {
        let id = generation.meta().id.clone();
        let replaced = self.get(&id).filter(|known| known.tail().is_err());
        let known = {
            let state = &mut *self.state.lock();
            match state.generations.get_mut(&id) {
                Some(entry) => {
                    if replaced.is_some_and(|known| Arc::ptr_eq(&known, &entry.generation)) {
                        entry.generation = generation.clone();
                    }
                    entry.generation.clone()
                }
                None => {
                    let key = state.take_key(&generation);
                    let entry = Entry::new(generation.clone(), key);
                    state.generations.insert(id.clone(), entry);
                    generation.clone()
                }
            }
        };
        if Arc::ptr_eq(&known, &generation) {
            let end = EndOfGeneration::of(&generation);
            self.state.lock().note_end(&generation, &end, now);
        }
        known
    }

    /// Adds a generation that another process writes, in place of one whose records are gone.
    /// Its end is noted as that of a local one.
    pub(super) fn insert_remote(&self, generation: Arc<Generation>) {
        let state = &mut *self.state.lock();
        let id = generation.meta().id.clone();
        state.take(&id);
        let key = state.take_key(&generation);
        state.generations.insert(id, Entry::new(generation, key));
    }

    /// Returns the generation that this process started under a key, for another process.
    pub(super) fn keyed_here(&self, owner: &Owner, key: &str) -> KeyedHere {
        let state = self.state.lock();
        match state.keys.get(&(owner.clone(), key.to_owned())) {
            None => KeyedHere::Unknown,
            Some(Keyed { id: None, .. }) => KeyedHere::Starting,
            Some(Keyed { id: Some(id), .. }) => match state.generations.get(id) {
                Some(entry) if !entry.generation.is_remote() => KeyedHere::Known(id.clone()),
                _ => KeyedHere::Unknown,
            },
        }
    }

    /// As [`GenerationSource::keyed`].
    pub(super) async fn keyed_elsewhere(
        &self,
        owner: &Owner,
        key: &str,
    ) -> Result<Option<GenerationId>, ApiError> {
        match &self.source {
            Some(source) => source.keyed(owner, key).await,
            None => Ok(None),
        }
    }

    /// As [`GenerationSource::claim`].
    pub(super) async fn claim_elsewhere(
        &self,
        claim: KeyClaimed<'_>,
        stale: Option<&GenerationId>,
    ) -> Result<Option<GenerationId>, ApiError> {
        match &self.source {
            Some(source) => source.claim(claim, stale).await,
            None => Ok(None),
        }
    }

    /// As [`GenerationSource::delete`].
    pub(super) async fn delete_elsewhere(&self, id: &GenerationId) -> Result<(), ApiError> {
        match &self.source {
            Some(source) => source.delete(id).await,
            None => Ok(()),
        }
    }

    /// As [`GenerationSource::locate`], also for a generation that is in this process.
    pub(super) async fn locate_elsewhere(&self, id: &GenerationId) -> Result<Located, ApiError> {
        match &self.source {
            Some(source) => source.locate(id).await,
            None => Ok(Located::Gone),
        }
    }

    /// As [`GenerationSource::locate_lost`].
    pub(super) async fn locate_lost(&self, id: &GenerationId) -> Result<Located, ApiError> {
        match &self.source {
            Some(source) => source.locate_lost(id).await,
            None => Ok(Located::Gone),
        }
    }

    /// Keeps everything that a turn builds on from now on: its predecessor and the turns before.
    /// Takes the lock for one turn at a time.
    pub(super) fn renew_chain(&self, predecessor: &GenerationId, now: Instant) {
        let mut next = Some(predecessor.clone());
        while let Some(id) = next {
            next = self
                .renew(&id, now)
                .and_then(|it| it.header().predecessor.clone());
        }
    }

    /// Keeps the object of a generation from now on. Returns it, if it is known.
    pub(super) fn renew(&self, id: &GenerationId, now: Instant) -> Option<Arc<Generation>> {
        let state = &mut *self.state.lock();
        let entry = state.generations.get_mut(id)?;
        if let Some(since) = entry.kept_since.filter(|since| *since < now) {
            entry.kept_since = Some(now);
            state.kept.renew_object(since, now, id);
        }
        Some(entry.generation.clone())
    }

    fn get(&self, id: &GenerationId) -> Option<Arc<Generation>> {
        let state = self.state.lock();
        let entry = state.generations.get(id)?;
        Some(entry.generation.clone())
    }

    /// Returns the number of the last event of an ended generation.
    pub(super) fn last_seq(&self, id: &GenerationId) -> Option<u64> {
        self.state.lock().generations.get(id)?.last_seq
    }

    /// Forgets a generation and returns it.
    pub(super) fn remove(&self, id: &GenerationId) -> Option<Arc<Generation>> {
        self.state.lock().take(id)
    }

    /// Records that a generation has ended: its retention begins, and what it builds on is kept for
    /// as long. Forgets what has been kept long enough, as [`Directory::take_due`].
    pub(super) fn note_end(
        &self,
        generation: &Arc<Generation>,
        retention: &Retention,
        now: Instant,
    ) -> Vec<Arc<Generation>> {
        let end = EndOfGeneration::of(generation);
        let mut state = self.state.lock();
        let known = state.note_end(generation, &end, now);
        if let Some(predecessor) = generation.header().predecessor.as_ref().filter(|_| known) {
            drop(state);
            self.renew_chain(predecessor, now);
            return self.take_due(retention, now);
        }
        state.take_due(retention, now)
    }

    /// Forgets what has been kept long enough. Returns the generations whose log is to expire.
    pub(super) fn take_due(&self, retention: &Retention, now: Instant) -> Vec<Arc<Generation>> {
        self.state.lock().take_due(retention, now)
    }

    /// Forgets what is oldest until it held `bytes`, except for generations with readers and those
    /// that have just ended and are not stored yet. Returns the generations whose log is to expire.
    pub(super) fn take_oldest(&self, bytes: usize, now: Instant) -> Vec<Arc<Generation>> {
        let mut state = self.state.lock();
        let mut released = 0;
        let (mut logs, mut objects) = (Vec::new(), Vec::new());
        for oldest in state.kept.oldest() {
            if released >= bytes {
                break;
            }
            let (Oldest::Log(id) | Oldest::Object(id)) = oldest;
            let Some(entry) = state.generations.get(id) else {
                continue;
            };
            if entry.waits_for_store(now) || !entry.generation.give_up_log() {
                continue;
            }
            match oldest {
                Oldest::Log(id) => {
                    released += entry.log_size;
                    logs.push(id.clone());
                }
                Oldest::Object(id) => {
                    released += entry.generation.counted_size();
                    objects.push(id.clone());
                }
            }
        }
        let mut taken: Vec<_> = logs.iter().filter_map(|id| state.take_log(id)).collect();
        taken.extend(objects.iter().filter_map(|id| state.take(id)));
        taken
    }
}

// === impl Entry ===

impl Entry {
    fn new(generation: Arc<Generation>, key: Option<(Owner, String)>) -> Self {
        Self {
            generation,
            ended: None,
            kept_since: None,
            last_seq: None,
            log_size: 0,
            key: key.map(Box::new),
        }
    }

    /// Whether its end is about to be stored. A store that hangs is not waited for: memory is
    /// bounded.
    fn waits_for_store(&self, now: Instant) -> bool {
        let recent = self
            .ended
            .is_some_and(|ended| now.duration_since(ended) < STORE_WAIT);
        recent && self.generation.is_unstored()
    }
}

// === impl EndOfGeneration ===

impl EndOfGeneration {
    fn of(generation: &Generation) -> Self {
        // A stored log may be gone while its object is kept.
        let next = generation.tail().map(|tail| tail.next);
        let next = next.unwrap_or_else(|_| generation.snapshot().next());
        Self {
            last_seq: Some(next.0.saturating_sub(1)),
            log_size: generation.log().memory_size(),
        }
    }
}

// === impl State ===

impl State {
    /// Records the end of a generation. Returns whether it is known.
    fn note_end(
        &mut self,
        generation: &Arc<Generation>,
        end: &EndOfGeneration,
        now: Instant,
    ) -> bool {
        let id = &generation.meta().id;
        let Some(entry) = self.generations.get_mut(id) else {
            return false;
        };
        // One that was read from the store again has ended before.
        if let (Some(ended), Some(since)) = (entry.ended, entry.kept_since) {
            self.kept.remove_log(ended, id);
            self.kept.remove_object(since, id);
        }
        entry.ended = Some(now);
        entry.kept_since = Some(now);
        entry.last_seq = end.last_seq;
        entry.log_size = end.log_size;
        self.kept.insert(now, id);
        true
    }

    /// As [`Directory::take_due`].
    fn take_due(&mut self, retention: &Retention, now: Instant) -> Vec<Arc<Generation>> {
        // A log that has readers stays: they reach its end, or are cut for not reading.
        // One that comes after this finds the log expired.
        let unread = |id: &&GenerationId| {
            let entry = self.generations.get(id);
            entry.is_none_or(|entry| entry.generation.give_up_log())
        };
        let logs = self.kept.logs_due(now, retention.events);
        let logs: Vec<_> = logs.filter(unread).cloned().collect();
        let mut expired: Vec<_> = logs.iter().filter_map(|id| self.take_log(id)).collect();
        let objects = self.kept.objects_due(now, retention.responses);
        let objects: Vec<_> = objects.cloned().collect();
        expired.extend(objects.iter().filter_map(|id| self.take(id)));
        expired
    }

    /// Takes the log of an ended generation off the list. The object of a `store: false` generation
    /// goes with it.
    fn take_log(&mut self, id: &GenerationId) -> Option<Arc<Generation>> {
        let entry = self.generations.get(id)?;
        let generation = entry.generation.clone();
        if let Some(ended) = entry.ended {
            self.kept.remove_log(ended, id);
        }
        if !generation.meta().store {
            self.remove(id);
        }
        Some(generation)
    }

    /// Forgets a generation and returns it.
    fn take(&mut self, id: &GenerationId) -> Option<Arc<Generation>> {
        let generation = self.generations.get(id)?.generation.clone();
        self.remove(id);
        Some(generation)
    }

    fn remove(&mut self, id: &GenerationId) {
        let Some(entry) = self.generations.remove(id) else {
            return;
        };
        if let Some(ended) = entry.ended {
            self.kept.remove_log(ended, id);
        }
        if let Some(since) = entry.kept_since {
            self.kept.remove_object(since, id);
        }
        if let Some(key) = entry.key {
            self.release(&key, id);
        }
    }

    /// Takes the idempotency key of a generation that was stored, if it is free.
    fn take_key(&mut self, generation: &Generation) -> Option<(Owner, String)> {
        let keyed = generation.header().idempotency.as_ref()?;
        let full = (generation.meta().owner.clone(), keyed.key.to_string());
        if self.keys.contains_key(&full) {
            return None;
        }
        let entry = Keyed {
            fingerprint: keyed.fingerprint,
            id: Some(generation.meta().id.clone()),
        };
        self.keys.insert(full.clone(), entry);
        Some(full)
    }

    /// Releases a key, if it is this generation's.
    fn release(&mut self, key: &(Owner, String), id: &GenerationId) {
        let keyed = self.keys.get(key);
        if keyed.is_some_and(|keyed| keyed.id.as_ref() == Some(id)) {
            self.keys.remove(key);
        }
    }
}

/// Says where the part of a generation of this process is. Where no store has it, the rest of the
/// generation has to do.
async fn relocate(
    generation: Arc<Generation>,
    source: &dyn GenerationSource,
    part: Part,
) -> Located {
    if generation.tail().is_ok() {
        return Located::Local(generation);
    }
    let ended = generation.outcome().is_some();
    if ended && part == Part::Object {
        return Located::Local(generation);
    }
    match source.locate(&generation.meta().id).await {
        Ok(Located::Stored(stored)) => Located::Stored(stored),
        // Another process has taken it over.
        Ok(
            located @ (Located::Remote(_)
            | Located::Unreachable { .. }
            | Located::Orphaned(_)
            | Located::Lost(_)),
        ) if generation.is_disowned() => located,
        // The process that has it kept its log for longer.
        Ok(located @ Located::Remote(_)) => located,
        _ => Located::Local(generation),
    }
}

fn mismatch() -> ApiError {
    ApiError::new(
        ErrorCode::IdempotencyMismatch,
        "This idempotency key was used for another request.",
    )
}

/// Whether a generation failed before its upstream sent anything. Its idempotency key is then free
/// again. A lost writer may have asked the upstream, so it keeps the key.
fn failed_early(generation: &Generation) -> bool {
    generation.is_over()
        && generation.outcome().is_some_and(|outcome| {
            matches!(&outcome.ending, Ending::Failed(failure)
                if failure.code != ErrorCode::ProducerLost.as_str())
        })
        && !generation.has_begun()
}
