//! A generation as a [`Flusher`](crate::log::Flusher) sees it.

use std::sync::Arc;

use bytes::Bytes;

use super::Generation;
use crate::log::{
    BlockRange, Epoch, FlushSource, LogHeader, ReadError, Released, StoreError, TailEnd,
};
use crate::model::id::Seq;
use crate::model::include::Form;
use crate::model::record::RecordBatch;

/// The tail of a generation, for as long as this epoch is the stored log's.
#[derive(Debug)]
pub(super) struct TailSource {
    generation: Arc<Generation>,
    epoch: Epoch,
}

impl TailSource {
    pub(super) fn new(generation: Arc<Generation>, epoch: Epoch) -> Self {
        Self { generation, epoch }
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
        self.generation.tail()
    }

    fn read_block(
        &self,
        from: Seq,
        max_bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<BlockRange, ReadError> {
        let version = self.generation.header().version;
        self.generation.read_block_in(version, from, max_bytes, out)
    }

    fn older_form(&self, version: u8) -> Option<RecordBatch> {
        let stored = self.generation.header().version;
        self.generation.older_form(stored, version)
    }

    fn commit(&self, upto: Seq) {
        self.generation.log().commit(upto);
    }

    /// Only what the client asked to be stored has an object there.
    fn object(&self) -> Option<Bytes> {
        let stored = self.generation.meta().store;
        stored.then(|| self.generation.response_in(Form::Kept).into())
    }

    fn released(&self, why: Released) {
        self.generation.set_unstored(false);
        match why {
            Released::Fenced { .. } | Released::Refused(StoreError::Deleted) => {
                tracing::warn!(generation = %self.generation.meta().id, ?why, "the log is not ours any more");
                self.generation.disown();
            }
            // The answer goes on in memory.
            Released::Sealed | Released::Expired | Released::Refused(_) => {}
        }
    }
}
