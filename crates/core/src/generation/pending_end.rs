//! The end of a replicated generation, which is shown once it is stored.
//!
//! ```text
//!   terminal event ──▶ pending end ──▶ flusher ──▶ store ──sealed──▶ log, snapshot, readers
//! ```
//!
//! Another process could else take the log over in between and show a second end.

use bytes::Bytes;

use super::response_head::ended_before_head;
use super::{Generation, log_version};
use crate::log::{BlockRange, Epoch, ReadError, TailEnd};
use crate::model::id::Seq;
use crate::model::record::RecordBatch;
use crate::model::snapshot::Snapshot;

/// What follows in the log and the snapshot.
pub(super) struct PendingEnd {
    pub(super) epoch: Epoch,
    /// The last records.
    pub(super) batch: RecordBatch,
    /// The snapshot after them.
    pub(super) snapshot: Snapshot,
    /// The response object after them, if it is stored.
    pub(super) object: Option<Bytes>,
}

impl Generation {
    /// Keeps the end back until [`Generation::show_end`].
    pub(super) fn set_pending_end(&self, end: PendingEnd) {
        *self.pending_end.lock() = Some(Box::new(end));
    }

    /// Whether there is an end that is not shown yet.
    pub(super) fn has_pending_end(&self) -> bool {
        self.pending_end.lock().is_some()
    }

    /// Shows the end that was kept back, if there is one.
    pub(super) fn show_end(&self) {
        let Some(end) = self.pending_end.lock().take() else {
            return;
        };
        {
            // Readers that the seal wakes find the events in the snapshot.
            let mut snapshot = self.snapshot.lock();
            if self.log.seal(end.epoch, &end.batch).is_ok() {
                *snapshot = end.snapshot.into();
            }
        }
        self.response_head.set(Err(ended_before_head()));
        self.count_end();
        self.notify_ended();
    }

    /// Gives up the end that was kept back: the log is another writer's.
    pub(super) fn drop_pending_end(&self) {
        drop(self.pending_end.lock().take());
        self.notify_ended();
    }

    /// As [`Generation::tail`], with the end that is not shown yet.
    pub(super) fn tail_with_pending(&self) -> Result<TailEnd, ReadError> {
        let pending = self.pending_end.lock();
        let tail = self.tail()?;
        Ok(pending.as_ref().map_or(tail, |end| TailEnd {
            next: end.batch.end_seq(),
            sealed: true,
        }))
    }

    /// Copies a block as [`Generation::read_block_in`] does, with the records that are not shown yet.
    pub(super) fn read_block_with_pending(
        &self,
        version: u8,
        from: Seq,
        max_bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<BlockRange, ReadError> {
        let pending = self.pending_end.lock();
        let shown = self.tail()?.next;
        let Some(end) = pending.as_ref() else {
            drop(pending);
            return self.read_block_in(version, from, max_bytes, out);
        };
        let mut range = BlockRange {
            first: from,
            next: from,
        };
        if from < shown {
            range = self.read_block_in(version, from, max_bytes, out)?;
        }
        if range.next == shown {
            let older = log_version::older(&self.header, version, &end.snapshot, &end.batch);
            out.extend_from_slice(older.as_ref().unwrap_or(&end.batch).as_block());
            range.next = end.batch.end_seq();
        }
        Ok(range)
    }

    /// Returns the object of the end that is not shown yet.
    pub(super) fn pending_object(&self) -> Option<Option<Bytes>> {
        let pending = self.pending_end.lock();
        pending.as_ref().map(|end| end.object.clone())
    }
}
