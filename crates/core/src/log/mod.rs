//! The token log: one generation's records, appended by one writer, read by any number of readers.
//!
//! ```text
//!              records                                      tail
//!                 │                                           │
//!   ┌─────┬───────┼─────┬─────┬─────┬─────┬─────┬─────┬─────┐ ▼
//!   │ 0 1 │ 2 3 4 │  5  │  6  │  7  │  8  │  9  │ 10  │ 11  │ ⋯  ◀── append(epoch, batch)
//!   └─────┴───────┴─────┴─────┴─────┴─────┴─────┴─────┴─────┘
//!   ▲         ▲                             ▲               ▲
//!   │         │                             │               └─ sealed: nothing follows, readers end here
//!   │         │                             └─ a reader that keeps up waits at the tail; an append wakes it
//!   │         └─ a reader that resumes inside a record: it gets the record and skips what it has
//!   └─ the head: a log is never trimmed, only removed
//! ```
//!
//! * Events are numbered from 0 without gaps. A record holds one or more; it is appended as a whole
//!   or not at all.
//! * **One writer.** Appending needs the log's current [`Epoch`]. A new writer raises the epoch,
//!   and appends of earlier writers are refused.
//! * **Readers pull.** A [`LogReader`] is a cursor, not a queue.
//! * **Sealing** ends a log; the records stay readable. **Expiry** removes the records, and readers
//!   get an error.
//!
//! Every implementation passes one conformance suite (`tokenwire-testkit`).

mod flusher;
mod header;
mod memory;
mod memory_store;
mod store;

pub use flusher::{FlushHandle, FlushOptions, FlushSource, Flusher, Released};
pub use header::{HEADER_VERSION, HeaderError, IdempotencyKey, LogHeader};
pub use memory::{MemoryAccount, MemoryLog};
pub use memory_store::MemoryStore;
pub use store::{
    Appended, Block, BlockRange, Blocks, LogStore, StoreError, StoreFuture, StoredLog,
};

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::model::id::Seq;
use crate::model::record::RecordBatch;

/// A writer's right to append. A log starts at epoch 0 and accepts appends of its latest epoch
/// only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub u64);

/// The limits of one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// Bytes of stored records.
    pub bytes: usize,
    /// Number of events.
    pub events: u64,
}

/// The end of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The number of the next event; also the number of events so far.
    pub next: Seq,
    /// Whether the log has ended.
    pub sealed: bool,
}

/// Why a batch was not appended. None of its records was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Another writer took the log over.
    #[error("the log was taken over: this writer's epoch is {held:?}, the log's is {current:?}")]
    Fenced {
        /// The writer's epoch.
        held: Epoch,
        /// The log's epoch.
        current: Epoch,
    },
    /// The log has ended.
    #[error("the log is sealed")]
    Sealed,
    /// The batch does not start where the log ends.
    #[error("the batch starts at event {found}, but the next is {expected}")]
    Gap {
        /// The number that the next event must have.
        expected: Seq,
        /// The number that the batch starts with.
        found: Seq,
    },
    /// The batch would exceed the log's limits.
    #[error("the log is full: at most {} bytes and {} events", limits.bytes, limits.events)]
    Full {
        /// The limits.
        limits: LogLimits,
    },
    /// The records were removed.
    #[error("the log has expired")]
    Expired,
}

/// Why a read failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The records were removed.
    #[error("the log has expired")]
    Expired,
}

/// One generation's records. See the [module documentation](self) for a drawing.
pub trait TokenLog: Send + Sync + fmt::Debug {
    /// Appends the batch's records, all or none, and wakes waiting readers.
    ///
    /// # Errors
    /// [`AppendError`]; the log is unchanged.
    fn append(&self, epoch: Epoch, batch: &RecordBatch) -> Result<(), AppendError>;

    /// As [`TokenLog::append`], and ends the log. The limits do not apply to this last batch.
    ///
    /// # Errors
    /// As [`TokenLog::append`], but never `Full`.
    fn seal(&self, epoch: Epoch, batch: &RecordBatch) -> Result<(), AppendError>;

    /// Takes the log over: returns a new epoch and fences every earlier writer.
    fn take_over(&self) -> Epoch;

    /// Returns the end of the log.
    ///
    /// # Errors
    /// [`ReadError::Expired`] once the records are gone.
    fn tail(&self) -> Result<Tail, ReadError>;

    /// Bytes that the log holds in memory.
    fn memory_size(&self) -> usize;

    /// Removes the records. Appends and reads fail from then on. Wakes waiting readers.
    fn expire(&self);

    /// Registers a reader, to be woken by appends.
    fn enroll(&self) -> ReaderSlot;

    /// Removes a reader.
    fn leave(&self, slot: ReaderSlot);

    /// Copies records into `out`, starting with the one that holds the cursor's event, and moves
    /// the cursor past them. Copies at least one record and stops at about `max_bytes`. `out` is
    /// restarted at the first record's number.
    ///
    /// `Ready` with an empty batch is the end of a sealed log. After `Pending` the next append,
    /// seal or expiry wakes the slot's waker.
    ///
    /// # Errors
    /// [`ReadError::Expired`] once the records are gone.
    fn poll_read(
        &self,
        slot: ReaderSlot,
        cx: &mut Context<'_>,
        cursor: &mut ReadPosition,
        max_bytes: usize,
        out: &mut RecordBatch,
    ) -> Poll<Result<Tail, ReadError>>;
}

/// The index of a reader in a log's list of wakers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReaderSlot(pub usize);

/// A position in a log: the number of the next event, and a hint at its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadPosition {
    /// The next event to read.
    pub next: Seq,
    /// The index of its record, if the last read left it here.
    pub hint: Option<usize>,
}

impl ReadPosition {
    /// A cursor before the event with this number.
    #[must_use]
    pub fn at(next: Seq) -> Self {
        Self { next, hint: None }
    }
}

/// A cursor that is registered with its log. Dropping it removes the registration.
#[derive(Debug)]
pub struct LogReader {
    log: Arc<dyn TokenLog>,
    slot: ReaderSlot,
    cursor: ReadPosition,
}

impl LogReader {
    /// Creates a reader whose first event is `next`.
    #[must_use]
    pub fn new(log: Arc<dyn TokenLog>, next: Seq) -> Self {
        let slot = log.enroll();
        Self {
            log,
            slot,
            cursor: ReadPosition::at(next),
        }
    }

    /// As [`TokenLog::poll_read`].
    ///
    /// # Errors
    /// As [`TokenLog::poll_read`].
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        max_bytes: usize,
        out: &mut RecordBatch,
    ) -> Poll<Result<Tail, ReadError>> {
        self.log
            .poll_read(self.slot, cx, &mut self.cursor, max_bytes, out)
    }

    /// Reads without waiting: an empty batch if there is nothing new.
    ///
    /// # Errors
    /// [`ReadError::Expired`] once the records are gone.
    pub fn read_now(&mut self, max_bytes: usize, out: &mut RecordBatch) -> Result<Tail, ReadError> {
        match self.poll_read(&mut Context::from_waker(Waker::noop()), max_bytes, out) {
            Poll::Ready(result) => result,
            Poll::Pending => {
                out.restart(self.cursor.next);
                self.log.tail()
            }
        }
    }

    /// The number of the next event to read.
    #[must_use]
    pub fn position(&self) -> Seq {
        self.cursor.next
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        self.log.leave(self.slot);
    }
}
