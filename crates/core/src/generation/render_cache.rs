//! What several readers see alike is encoded once.
//!
//! Readers of one stream that keep up stand at the same place, and want the same bytes. The first
//! to come encodes them and leaves them here; the others take them as they are. Nothing waits for
//! anybody: a reader that stands elsewhere encodes for itself.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::dialect::{Dialect, Rendered};
use crate::model::id::Seq;

/// How many pieces are kept, and how many bytes.
const MAX_PIECES: usize = 16;
const MAX_BYTES: usize = 128 * 1024;

/// A dialect, and a framing that wraps alike for every reader.
pub(crate) type RenderKey = (Dialect, &'static str);

/// Encoded records from one place on.
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

/// The latest pieces of one generation.
#[derive(Debug, Default)]
pub(crate) struct RenderCache(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    entries: VecDeque<RenderEntry>,
    bytes: usize,
}

impl RenderCache {
    pub(crate) fn get(&self, key: RenderKey, first: Seq) -> Option<RenderEntry> {
        self.0
            .lock()
            .entries
            .iter()
            .rev()
            .find(|entry| entry.first == first && entry.key == key)
            .cloned()
    }

    pub(crate) fn put(&self, entry: RenderEntry) {
        let mut render_cache = self.0.lock();
        render_cache.bytes += entry.bytes.len();
        render_cache.entries.push_back(entry);
        while render_cache.entries.len() > MAX_PIECES || render_cache.bytes > MAX_BYTES {
            let Some(oldest) = render_cache.entries.pop_front() else {
                break;
            };
            render_cache.bytes -= oldest.bytes.len();
        }
    }

    /// There is nobody left to share with.
    pub(crate) fn clear(&self) {
        *self.0.lock() = Entries::default();
    }
}
