//! A generation as a [`Flusher`](crate::log::Flusher) sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::Generation;
use crate::log::{
    BlockRange, Epoch, FlushSource, LogHeader, ReadError, Released, StoreError, TailEnd,
};
use crate::model::id::Seq;
use crate::model::include::Form;
use crate::model::record::RecordBatch;

/// What a store has of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It is the process' own store.
    Primary,
    /// Other nodes read it once the generation has ended: it has the header until then. A larger log
    /// than this many bytes is not copied.
    Copy {
        /// Bytes of the log.
        max_bytes: usize,
    },
    /// Other nodes take the generation over if this one is lost. A larger log than this many bytes is
    /// not stored any further.
    Replica {
        /// Bytes of the log.
        max_bytes: usize,
    },
}

/// The tail of a generation, for as long as this epoch is the stored log's.
#[derive(Debug)]
pub(super) struct TailSource {
    generation: Arc<Generation>,
    epoch: Epoch,
    role: Role,
    released: AtomicBool,
}

impl TailSource {
    pub(super) fn new(generation: Arc<Generation>, epoch: Epoch, role: Role) -> Self {
        generation.note_unstored();
        if matches!(role, Role::Replica { .. }) {
            generation.set_replicated(true);
        }
        Self {
            generation,
            epoch,
            role,
            released: AtomicBool::new(false),
        }
    }
}

impl FlushSource for TailSource {
    fn header(&self) -> &Arc<LogHeader> {
        self.generation.header()
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn end(&self) -> Result<TailEnd, ReadError> {
        let (end, max_bytes) = match self.role {
            Role::Primary => return self.generation.tail(),
            Role::Copy { max_bytes } => (self.generation.tail()?, max_bytes),
            Role::Replica { max_bytes } => (self.generation.tail_with_pending()?, max_bytes),
        };
        if self.generation.log().memory_size() > max_bytes {
            return Err(ReadError::Expired);
        }
        Ok(end)
    }

    fn read_block(
        &self,
        from: Seq,
        max_bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<BlockRange, ReadError> {
        let version = self.generation.header().version;
        match self.role {
            Role::Copy { .. } if !self.generation.tail()?.sealed => Ok(BlockRange {
                first: from,
                next: from,
            }),
            Role::Primary | Role::Copy { .. } => {
                self.generation.read_block_in(version, from, max_bytes, out)
            }
            Role::Replica { .. } => self
                .generation
                .read_block_with_pending(version, from, max_bytes, out),
        }
    }

    fn older_form(&self, version: u8) -> Option<RecordBatch> {
        // The end of a replica is not shown yet, so its log is not whole here.
        if matches!(self.role, Role::Replica { .. }) {
            return None;
        }
        let stored = self.generation.header().version;
        self.generation.older_form(stored, version)
    }

    fn commit(&self, upto: Seq) {
        // The cursor of another store is in its flusher.
        if self.role == Role::Primary {
            self.generation.log().commit(upto);
        }
    }

    /// Only what the client asked to be stored has an object there.
    fn object(&self) -> Option<Bytes> {
        if let Some(object) = self.generation.pending_object() {
            return object;
        }
        let stored = self.generation.meta().store;
        stored.then(|| self.generation.response_in(Form::Kept).into())
    }

    fn released(&self, why: Released) {
        if self.released.swap(true, Ordering::AcqRel) {
            return;
        }
        let generation = &self.generation;
        generation.note_stored();
        let is_replica = matches!(self.role, Role::Replica { .. });
        match why {
            Released::Fenced { .. } | Released::Refused(StoreError::Deleted) => {
                tracing::warn!(generation = %generation.meta().id, ?why, "the log is not ours any more");
                if matches!(why, Released::Fenced { .. }) {
                    generation.set_fenced();
                }
                generation.disown();
                generation.drop_pending_end();
            }
            // The answer goes on in memory.
            Released::Sealed | Released::Expired | Released::Refused(_) if is_replica => {
                generation.set_replicated(false);
                generation.show_end();
            }
            Released::Sealed | Released::Expired | Released::Refused(_) => {}
        }
    }
}
