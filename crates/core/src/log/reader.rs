//! A cursor into a log that is woken by appends.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::lock_api::RawMutex;

use super::tail::Copied;
use super::{LogTail, ReadError, ReadPosition, ReaderSlot, TailEnd};
use crate::model::id::Seq;
use crate::model::record::RecordBatch;

/// A cursor that is registered with its log. Dropping it removes the registration.
pub struct LogReader<R: RawMutex = parking_lot::RawMutex> {
    log: Arc<LogTail<R>>,
    slot: ReaderSlot,
    cursor: ReadPosition,
}

impl<R: RawMutex> fmt::Debug for LogReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogReader")
            .field("log", &self.log)
            .field("cursor", &self.cursor)
            .finish_non_exhaustive()
    }
}

impl<R: RawMutex> LogReader<R> {
    /// Creates a reader whose first event is `next`.
    #[must_use]
    pub fn new(log: Arc<LogTail<R>>, next: Seq) -> Self {
        let slot = log.enroll();
        Self {
            log,
            slot,
            cursor: ReadPosition::at(next),
        }
    }

    /// As [`LogTail::poll_read`].
    ///
    /// # Errors
    /// As [`LogTail::poll_read`].
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        max_bytes: usize,
        out: &mut RecordBatch,
    ) -> Poll<Result<TailEnd, ReadError>> {
        self.log
            .poll_read(self.slot, cx, &mut self.cursor, max_bytes, out)
    }

    /// As [`LogTail::poll_copy`].
    pub(crate) fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        max_bytes: usize,
        out: &mut RecordBatch,
    ) -> Poll<Result<Copied, ReadError>> {
        self.log
            .poll_copy(self.slot, cx, &mut self.cursor, max_bytes, out)
    }

    /// As [`LogTail::read`]: reads without waiting.
    ///
    /// # Errors
    /// As [`LogTail::read`].
    pub fn read(&mut self, max_bytes: usize, out: &mut RecordBatch) -> Result<TailEnd, ReadError> {
        self.log.read(&mut self.cursor, max_bytes, out)
    }

    /// Moves the cursor before the event `next`.
    pub fn seek(&mut self, next: Seq) {
        self.cursor = ReadPosition::at(next);
    }

    /// The number of the next event to read.
    #[must_use]
    pub fn position(&self) -> Seq {
        self.cursor.next
    }
}

impl<R: RawMutex> Drop for LogReader<R> {
    fn drop(&mut self) {
        self.log.leave(self.slot);
    }
}
