//! Frames that several readers share are encoded once.
//!
//! Readers of one stream that keep up have the same position and need the same bytes. The first one
//! encodes them and stores them here; the others copy the reference. A reader at another position
//! encodes for itself. Nothing waits.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;

use super::large_record::LargeRecord;
use crate::dialect::{RenderKey, Rendered};
use crate::model::account::{Account, AccountKind, Charge};
use crate::model::id::Seq;

/// The most entries and bytes that are kept.
const MAX_ENTRIES: usize = 16;
const MAX_BYTES: usize = 128 * 1024;
/// The steps in which the account is told of the size.
const COUNT_STEP: usize = 4 * 1024;

/// A run of encoded records.
#[derive(Clone, Debug)]
pub(crate) struct RenderEntry {
    pub(crate) key: RenderKey,
    /// The first event of the first record.
    pub(crate) first: Seq,
    /// The event after the last.
    pub(crate) next: Seq,
    pub(crate) bytes: Bytes,
    pub(crate) rendered: Rendered,
}

/// The latest entries of one generation.
/// There are none, and no memory for them, while the generation has one reader.
#[derive(Debug, Default)]
pub(crate) struct RenderCache(Mutex<Option<Box<Entries>>>);

#[derive(Debug, Default)]
struct Entries {
    entries: VecDeque<RenderEntry>,
    bytes: usize,
    charge: Option<Charge>,
    /// Records in pieces, for as long as a reader sends them.
    large: Vec<(RenderKey, Weak<LargeRecord>)>,
}

impl RenderCache {
    pub(crate) fn get(&self, key: RenderKey, first: Seq) -> Option<RenderEntry> {
        self.0
            .lock()
            .as_ref()?
            .entries
            .iter()
            .rev()
            .find(|entry| entry.first == first && entry.key == key)
            .cloned()
    }

    /// Returns the record that begins at `first`, if a reader sends it now.
    pub(super) fn get_large(&self, key: RenderKey, first: Seq) -> Option<Arc<LargeRecord>> {
        let cache = self.0.lock();
        let known = cache
            .as_ref()?
            .large
            .iter()
            .filter(|(known, _)| *known == key);
        known
            .filter_map(|(_, record)| record.upgrade())
            .find(|record| record.first == first)
    }

    pub(super) fn put_large(&self, key: RenderKey, record: &Arc<LargeRecord>) {
        let mut cache = self.0.lock();
        let cache = cache.get_or_insert_default();
        cache.large.retain(|(_, record)| record.strong_count() > 0);
        cache.large.push((key, Arc::downgrade(record)));
    }

    pub(crate) fn put(&self, entry: RenderEntry, account: &Account) {
        let mut cache = self.0.lock();
        let cache = cache.get_or_insert_default();
        cache.bytes += entry.bytes.len();
        cache.entries.push_back(entry);
        while cache.entries.len() > MAX_ENTRIES || cache.bytes > MAX_BYTES {
            let Some(oldest) = cache.entries.pop_front() else {
                break;
            };
            cache.bytes -= oldest.bytes.len();
        }
        let counted = cache.bytes / COUNT_STEP * COUNT_STEP;
        match &mut cache.charge {
            Some(charge) if charge.bytes() == counted => {}
            Some(charge) => charge.resize(counted),
            None if counted == 0 => {}
            None => cache.charge = Some(account.charge(AccountKind::Frames, counted)),
        }
    }

    /// Drops all entries, when fewer than two readers are left.
    pub(crate) fn clear(&self) {
        *self.0.lock() = None;
    }
}
