//! What a store has, in memory: where each log and object lies.
//!
//! A kept log takes an entry of 40 bytes beside the map's own overhead. Everything else about it is
//! read from its file.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokenwire_core::log::{Epoch, LogHeader, StoreError};
use tokenwire_core::model::id::{GenerationId, Owner, Seq};

use crate::store_file::{FileId, Place, StoreFile};

/// Ids of deleted logs that are remembered. A late append to an older one finds no log.
const TOMBSTONES: usize = 1 << 16;

/// Frames of a running log from which on it is written again for the first time.
const JOIN_AT: usize = 4096;

/// Stands for an id: 128 bits of a keyed hash. Half the size of the id.
pub(crate) type IdKey = u128;

/// Stands for an owner and an idempotency key.
pub(crate) type KeyHash = u64;

/// All that is known, and the files.
#[derive(Debug, Default)]
pub(crate) struct Index {
    hashers: [RandomState; 2],
    pub(crate) logs: HashMap<IdKey, Entry>,
    pub(crate) keys: HashMap<KeyHash, IdKey>,
    deleted: HashSet<IdKey>,
    /// The same, oldest first.
    deletions: VecDeque<IdKey>,
    pub(crate) files: HashMap<FileId, Arc<StoreFile>>,
    /// The logs that have not ended.
    pub(crate) running: HashSet<IdKey>,
    /// Running logs that have something in a file.
    pins: HashMap<FileId, usize>,
    /// Journal files with running logs of a later version.
    left_alone: HashSet<FileId>,
    /// Small records by key.
    pub(crate) entries: BTreeMap<String, Bytes>,
    /// Keys of those that changed and are not written yet.
    pub(crate) changed: BTreeSet<String>,
}

/// A log.
#[derive(Debug)]
pub(crate) enum Entry {
    /// It has not ended.
    Running(Box<RunningLog>),
    /// It has ended.
    Kept(KeptLog),
}

/// A log that has not ended.
#[derive(Debug)]
pub(crate) struct RunningLog {
    pub(crate) header: Arc<LogHeader>,
    pub(crate) epoch_ends: Vec<Seq>,
    pub(crate) end: Seq,
    /// Its number in this process's journal; 0 if it is in an earlier process's.
    pub(crate) number: u32,
    pub(crate) chunks: Vec<Chunk>,
    /// Frames of records from which on it is written again, so that their list stays short.
    pub(crate) join_at: usize,
    /// The journal files that hold something of it, ascending.
    pub(crate) pinned: Vec<FileId>,
}

/// What an index was given by another one.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    pub(crate) unfinished: Vec<GenerationId>,
    pub(crate) entries: Vec<(String, Bytes)>,
}

/// A frame of records.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk {
    pub(crate) place: Place,
    /// Length of the frame.
    pub(crate) length: u32,
    /// The end of its last record.
    pub(crate) next: Seq,
}

/// A log that has ended: where its head, and that of its object, lie.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct KeptLog {
    /// `None` once its records have been kept long enough.
    pub(crate) log: Option<Place>,
    /// `None` if it has none.
    pub(crate) object: Option<Place>,
}

// === impl RunningLog ===

impl RunningLog {
    pub(crate) fn new(header: Arc<LogHeader>, number: u32) -> Self {
        Self {
            header,
            epoch_ends: Vec::new(),
            end: Seq(0),
            number,
            chunks: Vec::new(),
            join_at: JOIN_AT,
            pinned: Vec::new(),
        }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.epoch_ends.len() as u64 + 1)
    }
}

// === impl Index ===

impl Index {
    /// Returns an empty index that has the same keys for the same ids.
    pub(crate) fn sibling(&self) -> Self {
        Self {
            hashers: self.hashers.clone(),
            ..Self::default()
        }
    }

    /// Adds what a sibling has. Of what both have this one's stays. Returns the logs of the other
    /// one that have not ended, and its small records.
    pub(crate) fn merge(&mut self, other: Self) -> Merged {
        self.files.extend(other.files);
        self.left_alone.extend(other.left_alone);
        for key in other.deletions {
            self.delete(key);
        }
        let mut unfinished = Vec::new();
        for (key, entry) in other.logs {
            if self.is_deleted(key) || self.logs.contains_key(&key) {
                continue;
            }
            match entry {
                Entry::Running(log) => {
                    unfinished.push(log.header.meta.id.clone());
                    self.insert_running(key, *log);
                }
                Entry::Kept(kept) => {
                    self.logs.insert(key, Entry::Kept(kept));
                }
            }
        }
        for (hash, key) in other.keys {
            if self.logs.contains_key(&key) {
                self.keys.entry(hash).or_insert(key);
            }
        }
        let mut entries = other.entries;
        entries.retain(|name, _| !self.entries.contains_key(name));
        self.changed.extend(entries.keys().cloned());
        self.entries.extend(entries.clone());
        Merged {
            unfinished,
            entries: entries.into_iter().collect(),
        }
    }

    /// Returns what stands for an id.
    pub(crate) fn key(&self, id: &GenerationId) -> IdKey {
        let [high, low] = &self.hashers;
        let half = |hasher: &RandomState| u128::from(hasher.hash_one(id.as_str()));
        half(high) << 64 | half(low)
    }

    /// The error of an id that has no log.
    pub(crate) fn missing(&self, key: IdKey) -> StoreError {
        if self.deleted.contains(&key) {
            StoreError::Deleted
        } else {
            StoreError::NotFound
        }
    }

    pub(crate) fn get(&self, key: IdKey) -> Result<&Entry, StoreError> {
        self.logs.get(&key).ok_or_else(|| self.missing(key))
    }

    /// Returns whether a log is kept or deleted.
    pub(crate) fn has_ended(&self, id: &GenerationId) -> bool {
        let key = self.key(id);
        let kept = matches!(self.logs.get(&key), Some(Entry::Kept(kept)) if kept.log.is_some());
        kept || self.is_deleted(key)
    }

    pub(crate) fn is_deleted(&self, key: IdKey) -> bool {
        self.deleted.contains(&key)
    }

    /// Adds a running log.
    pub(crate) fn insert_running(&mut self, key: IdKey, log: RunningLog) {
        for file in &log.pinned {
            *self.pins.entry(*file).or_default() += 1;
        }
        self.note_key(&log.header, key);
        self.running.insert(key);
        self.logs.insert(key, Entry::Running(Box::new(log)));
    }

    /// Takes a running log off the index.
    pub(crate) fn take_running(&mut self, key: IdKey) -> Option<RunningLog> {
        if !self.running.remove(&key) {
            return None;
        }
        match self.logs.remove(&key) {
            Some(Entry::Running(log)) => {
                for file in &log.pinned {
                    if let Some(count) = self.pins.get_mut(file) {
                        *count -= 1;
                    }
                }
                Some(*log)
            }
            _ => None,
        }
    }

    /// Sorts running logs by their ids: the order of a map is another one in each process.
    pub(crate) fn in_order(&self, mut keys: Vec<IdKey>) -> Vec<IdKey> {
        keys.sort_by_key(|key| match self.logs.get(key) {
            Some(Entry::Running(log)) => Some(&log.header.meta.id),
            _ => None,
        });
        keys
    }

    /// Notes that a running log goes on with this frame.
    pub(crate) fn extend(&mut self, key: IdKey, chunk: Chunk) {
        let Some(log) = self.running_mut(key) else {
            return;
        };
        log.end = chunk.next;
        log.chunks.push(chunk);
        let file = chunk.place.file;
        if log.pinned.last() != Some(&file) {
            log.pinned.push(file);
            *self.pins.entry(file).or_default() += 1;
        }
    }

    /// Ends a running log.
    pub(crate) fn keep(&mut self, key: IdKey, kept: KeptLog) {
        self.take_running(key);
        self.logs.insert(key, Entry::Kept(kept));
    }

    pub(crate) fn running_mut(&mut self, key: IdKey) -> Option<&mut RunningLog> {
        match self.logs.get_mut(&key)? {
            Entry::Running(log) => Some(log),
            Entry::Kept(_) => None,
        }
    }

    pub(crate) fn file(&self, id: FileId) -> Result<Arc<StoreFile>, StoreError> {
        self.files.get(&id).cloned().ok_or(StoreError::NotFound)
    }

    /// Notes under which idempotency key a log was started.
    pub(crate) fn note_key(&mut self, header: &LogHeader, key: IdKey) {
        if let Some(keyed) = header_key(header) {
            self.keys.insert(keyed, key);
        }
    }

    /// Forgets a log and remembers that it was deleted. Returns its number in the journal, if it
    /// runs.
    pub(crate) fn delete(&mut self, key: IdKey) -> Option<u32> {
        if self.deleted.insert(key) {
            self.deletions.push_back(key);
        }
        if self.deletions.len() > TOMBSTONES
            && let Some(oldest) = self.deletions.pop_front()
        {
            self.deleted.remove(&oldest);
        }
        let running = self.take_running(key);
        self.logs.remove(&key);
        // The key of a kept one is forgotten with its file, whose list has it.
        let running = running?;
        if let Some(keyed) = header_key(&running.header) {
            self.forget_key(keyed, key);
        }
        Some(running.number)
    }

    /// Forgets that a log or an object lies in this place, and under which idempotency key, once
    /// nothing of it is left.
    pub(crate) fn forget(
        &mut self,
        key: IdKey,
        is_log: bool,
        place: Place,
        keyed: Option<KeyHash>,
    ) {
        if let Some(Entry::Kept(kept)) = self.logs.get_mut(&key) {
            let known = if is_log {
                &mut kept.log
            } else {
                &mut kept.object
            };
            known.take_if(|known| *known == place);
            if kept.log.is_none() && kept.object.is_none() {
                self.logs.remove(&key);
            }
        }
        if let Some(keyed) = keyed.filter(|_| !self.logs.contains_key(&key)) {
            self.forget_key(keyed, key);
        }
    }

    /// Forgets an idempotency key, unless another log has it now.
    fn forget_key(&mut self, keyed: KeyHash, key: IdKey) {
        if self.keys.get(&keyed) == Some(&key) {
            self.keys.remove(&keyed);
        }
    }

    /// Keeps a journal file for a process that reads later versions.
    pub(crate) fn keep_file(&mut self, id: FileId) {
        self.left_alone.insert(id);
    }

    /// Returns whether a file is kept for a process that reads later versions.
    pub(crate) fn is_left_alone(&self, id: FileId) -> bool {
        self.left_alone.contains(&id)
    }

    /// Returns whether a running log has something in this file.
    pub(crate) fn is_pinned(&self, id: FileId) -> bool {
        self.is_left_alone(id) || self.pins.get(&id).is_some_and(|count| *count > 0)
    }
}

/// Returns what stands for the owner and the idempotency key of a log, if it had one.
pub(crate) fn header_key(header: &LogHeader) -> Option<KeyHash> {
    let keyed = header.idempotency.as_ref()?;
    Some(key_hash(&header.meta.owner, &keyed.key))
}

/// Returns what stands for an owner and an idempotency key. The same in every process.
pub(crate) fn key_hash(owner: &Owner, key: &str) -> KeyHash {
    let owner: &[&[u8]] = match owner {
        Owner::Anonymous => &[b"\0"],
        Owner::Named(name) => &[b"\x01", name.as_bytes(), b"\0"],
    };
    let mut hash = Sha256::new();
    owner.iter().for_each(|part| hash.update(part));
    hash.update(key.as_bytes());
    let hash = hash.finalize();
    hash.first_chunk()
        .map_or(0, |first| u64::from_le_bytes(*first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_log_takes_less_than_200_bytes() {
        // A map that has just doubled is 7/16 full, with a byte beside each place.
        let in_map = |entry: usize| (entry + 1) * 16 / 7;
        let log = in_map(size_of::<(IdKey, Entry)>());
        let key = in_map(size_of::<(KeyHash, IdKey)>());
        assert!(log + key <= 200, "{log} and {key} bytes");
    }

    #[test]
    fn keys_of_owners_differ() {
        let named = |name: &str| Owner::Named(name.into());
        let hashes = [
            key_hash(&Owner::Anonymous, "a"),
            key_hash(&named(""), "a"),
            key_hash(&named("a"), ""),
            key_hash(&named("a"), "a"),
            key_hash(&Owner::Anonymous, "b"),
        ];
        let distinct: HashSet<_> = hashes.iter().collect();
        assert_eq!(distinct.len(), hashes.len());
    }
}
