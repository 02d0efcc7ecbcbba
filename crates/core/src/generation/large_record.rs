//! A record that is sent to a reader in pieces.

use std::sync::Arc;

use bytes::Bytes;

use super::Generation;
use super::shared_pieces::SharedPieces;
use crate::dialect::{FrameReader, LargeFrames, RenderKey, Rendered, Renderer};
use crate::model::account::{Account, AccountKind, Charge};
use crate::model::id::Seq;
use crate::model::record::{CorruptRecord, RecordRef};

/// A rendered record. Readers that send it at the same time share it.
#[derive(Debug)]
pub(super) struct LargeRecord {
    /// Its first event.
    pub(super) first: Seq,
    pub(super) rendered: Rendered,
    frames: LargeFrames,
    _charge: Charge,
}

impl LargeRecord {
    /// Renders the record's events from `from` on, unless a reader with the same key sends them now.
    /// `source` is the record with its head, if the log shares it.
    pub(super) fn render(
        renderer: &mut Renderer,
        generation: &Generation,
        record: RecordRef<'_>,
        source: Option<&Bytes>,
        from: Seq,
        key: Option<RenderKey>,
    ) -> Result<Arc<Self>, CorruptRecord> {
        let first = record.first_seq;
        let cache = generation.render_cache();
        if let Some(known) = key.and_then(|key| cache.get_large(key, first)) {
            return Ok(known);
        }
        let frames = renderer.render_large(generation, record, source.cloned(), from)?;
        // A text that was decoded in full.
        renderer.release();
        let rendered = Self::new(first, frames, generation.account());
        if let Some(key) = key {
            cache.put_large(key, &rendered);
        }
        Ok(rendered)
    }

    pub(super) fn new(
        first: Seq,
        (frames, rendered): (LargeFrames, Rendered),
        account: &Account,
    ) -> Arc<Self> {
        Arc::new(Self {
            first,
            rendered,
            _charge: account.charge(AccountKind::Frames, frames.memory_size()),
            frames,
        })
    }
}

/// Where a reader is in a record.
#[derive(Debug)]
pub(super) struct LargeReader {
    record: Arc<LargeRecord>,
    /// The number of frames that were begun.
    begun: usize,
    frame: Option<FrameReader>,
}

impl LargeReader {
    pub(super) fn new(record: Arc<LargeRecord>) -> Self {
        Self {
            record,
            begun: 0,
            frame: None,
        }
    }

    /// Whether every piece was returned.
    pub(super) fn is_done(&self) -> bool {
        self.begun == self.record.frames.len()
            && self.frame.as_ref().is_none_or(FrameReader::is_done)
    }

    /// Takes the rest of the frame whose first pieces were returned.
    pub(super) fn take_unfinished(&mut self, generation: &Arc<Generation>) -> Option<SharedPieces> {
        let rest = self.frame.take_if(|frame| !frame.is_done())?;
        Some(SharedPieces::new(generation, rest, self.record.clone()))
    }
}

impl Iterator for LargeReader {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(piece) = self.frame.as_mut().and_then(Iterator::next) {
                return Some(piece);
            }
            self.frame = Some(self.record.frames.read(self.begun)?);
            self.begun += 1;
        }
    }
}
