//! Generations as the flusher sees them.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tokenwire_core::generation::Generation;
use tokenwire_core::log::{
    BlockRange, Epoch, FlushSource, Flusher, LogHeader, LogReader, ReadError, Released, StoreError,
    TailEnd,
};
use tokenwire_core::model::id::Seq;
use tokenwire_core::model::record::RecordBatch;

use super::world::World;

/// Bytes that one read takes from a log.
const READ_BYTES: usize = 4 * 1024;

struct Source {
    world: Arc<World>,
    generation: Arc<Generation>,
    header: Arc<LogHeader>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.generation.fmt(f)
    }
}

impl FlushSource for Source {
    fn header(&self) -> &Arc<LogHeader> {
        &self.header
    }

    fn epoch(&self) -> Epoch {
        self.generation.log().epoch()
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
        self.generation.log().read_block(from, max_bytes, out)
    }

    fn commit(&self, upto: Seq) {
        self.generation.log().commit(upto);
        let id = &self.generation.meta().id;
        self.world.model.lock().committed(id, upto.0);
    }

    fn object(&self) -> Option<Bytes> {
        Some(self.generation.response_json().into())
    }

    fn released(&self, why: Released) {
        let id = &self.generation.meta().id;
        self.world.trace.note(format_args!("flusher: {id} {why:?}"));
        if why == Released::Sealed {
            self.world.model.lock().sealed(id);
        }
        match why {
            Released::Sealed | Released::Expired | Released::Refused(StoreError::Deleted) => {}
            why => self
                .world
                .fail(format!("{id} is not stored any further: {why:?}")),
        }
    }
}

/// Stores the records of a generation from now on.
pub(super) fn track(world: &Arc<World>, flusher: &Flusher, generation: &Arc<Generation>) {
    let log = generation.log().clone();
    let handle = flusher.track(
        Arc::new(Source {
            world: world.clone(),
            generation: generation.clone(),
            header: Arc::new(LogHeader::new(generation.meta().clone(), "simulated")),
        }),
        None,
    );
    tokio::spawn(async move {
        let mut reader = LogReader::new(log, Seq(0));
        let mut batch = RecordBatch::default();
        loop {
            let read = std::future::poll_fn(|cx| reader.poll_read(cx, READ_BYTES, &mut batch));
            let read = read.await;
            handle.mark();
            if read.is_err() || batch.is_empty() {
                return;
            }
        }
    });
}
