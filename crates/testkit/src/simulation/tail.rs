//! Generations as the flusher sees them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokenwire_core::generation::Generation;
use tokenwire_core::log::{
    BlockRange, Epoch, FlushSource, Flusher, LogHeader, LogReader, ReadError, Released, Tail,
};
use tokenwire_core::model::id::Seq;
use tokenwire_core::model::record::RecordBatch;

/// Bytes that one read takes from a log.
const READ_BYTES: usize = 4 * 1024;

#[derive(Debug)]
struct Source {
    generation: Arc<Generation>,
    header: Arc<LogHeader>,
    committed: AtomicU64,
}

impl FlushSource for Source {
    fn header(&self) -> &Arc<LogHeader> {
        &self.header
    }

    fn epoch(&self) -> Epoch {
        Epoch(1)
    }

    fn end(&self) -> Result<Tail, ReadError> {
        self.generation.tail()
    }

    fn read_block(
        &self,
        from: Seq,
        max_bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<BlockRange, ReadError> {
        let mut reader = LogReader::new(self.generation.log().clone(), from);
        let mut batch = RecordBatch::default();
        reader.read_now(max_bytes, &mut batch)?;
        out.extend_from_slice(batch.as_block());
        let next = if batch.is_empty() {
            from
        } else {
            batch.end_seq()
        };
        Ok(BlockRange { first: from, next })
    }

    fn commit(&self, upto: Seq) {
        self.committed.store(upto.0, Ordering::Relaxed);
    }

    fn object(&self) -> Option<Bytes> {
        Some(self.generation.response_json().into())
    }

    fn released(&self, _why: Released) {}
}

/// Stores the records of a generation from now on.
pub(super) fn track(flusher: &Flusher, generation: &Arc<Generation>) {
    let log = generation.log().clone();
    let handle = flusher.track(
        Arc::new(Source {
            generation: generation.clone(),
            header: Arc::new(LogHeader::new(generation.meta().clone(), "simulated")),
            committed: AtomicU64::new(0),
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
