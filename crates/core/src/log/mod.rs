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
//!   │         │                             └─ a reader that keeps up waits at the tail and is woken by an append
//!   │         └─ a reader that came back in the middle of a record: it is given the record, and skips what it has
//!   └─ the head: a log is whole or gone, it is never trimmed
//! ```
//!
//! * Events are numbered from 0 without gaps; a record holds one or more and is appended whole, or
//!   not at all.
//! * **One writer.** Appending needs the log's current [`Epoch`]. Whoever takes the log over raises
//!   the epoch, and what the earlier writer still tries to append is refused.
//! * **Readers pull.** A [`LogReader`] is a cursor, not a queue: nothing is kept for a reader that
//!   does not read.
//! * **Sealing** ends a log: the records stay readable. **Expiry** removes them, and readers in the
//!   middle are told so.
//!
//! Every implementation runs one conformance suite (`tokenwire-testkit`).

mod memory;

pub use memory::{MemoryAccount, MemoryLog};

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::model::id::Seq;
use crate::model::record::RecordBatch;

/// A writer's right to append. A log starts at epoch 0 and takes appends of its latest epoch only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub u64);

/// How much one log may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// Bytes of stored records.
    pub bytes: usize,
    /// Number of events.
    pub events: u64,
}

/// Where a log stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The number that the next event gets; also how many there are.
    pub next: Seq,
    /// Whether the log has ended.
    pub sealed: bool,
}

/// Why records were not appended. In every case nothing of the batch was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Somebody else writes this log now.
    #[error("the log was taken over: this writer's epoch is {held:?}, the log's is {current:?}")]
    Fenced {
        /// The epoch that the writer came with.
        held: Epoch,
        /// The epoch that the log is at.
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
    /// The log would outgrow its limits.
    #[error("the log is full: at most {} bytes and {} events", limits.bytes, limits.events)]
    Full {
        /// The limits.
        limits: LogLimits,
    },
    /// The records were removed.
    #[error("the log has expired")]
    Expired,
}

/// Why a reader gets no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The records were removed while the reader stood among them.
    #[error("the log has expired")]
    Expired,
}

/// One generation's records. See the drawing above.
pub trait TokenLog: Send + Sync + fmt::Debug {
    /// Appends the batch's records, all or none, and wakes the readers that wait.
    ///
    /// # Errors
    /// [`AppendError`]; the log is unchanged then.
    fn append(&self, epoch: Epoch, batch: &RecordBatch) -> Result<(), AppendError>;

    /// As [`TokenLog::append`], and ends the log with it. Limits do not hold for this last batch:
    /// an ending always fits.
    ///
    /// # Errors
    /// As [`TokenLog::append`], but never `Full`.
    fn seal(&self, epoch: Epoch, batch: &RecordBatch) -> Result<(), AppendError>;

    /// Takes the log over: gives the new epoch, and fences every earlier writer.
    fn take_over(&self) -> Epoch;

    /// Where the log stands.
    ///
    /// # Errors
    /// [`ReadError::Expired`] once the records are gone.
    fn tail(&self) -> Result<Tail, ReadError>;

    /// Bytes that the log holds in memory.
    fn memory_size(&self) -> usize;

    /// Removes the records. Appends and reads fail from then on, and waiting readers are woken to
    /// learn it.
    fn expire(&self);

    /// Takes a place among those that an append wakes.
    fn enroll(&self) -> ReaderSlot;

    /// Gives a place back.
    fn leave(&self, slot: ReaderSlot);

    /// Copies whole records into `out` (restarted at the first record's number), beginning with the
    /// one that holds the cursor's event, up to about `max_bytes` but at least one, and moves the
    /// cursor past them. `Ready` with an empty batch is the end of a sealed log. `Pending`: nothing
    /// yet; the slot's waker is woken by the next append, seal or expiry.
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

/// A reader's place in a log's list of wakers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReaderSlot(pub usize);

/// A position in a log: the number of the next event to read, and a hint at where its record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadPosition {
    /// The next event to read.
    pub next: Seq,
    /// The index of its record, if the implementation left it here after the last read.
    pub hint: Option<usize>,
}

impl ReadPosition {
    /// A cursor before the event with this number.
    #[must_use]
    pub fn at(next: Seq) -> Self {
        Self { next, hint: None }
    }
}

/// A cursor with a place among the woken. Dropping it gives the place back.
#[derive(Debug)]
pub struct LogReader {
    log: Arc<dyn TokenLog>,
    slot: ReaderSlot,
    cursor: ReadPosition,
}

impl LogReader {
    /// A reader whose first event is `next`.
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

    /// What stands there now, without waiting: an empty batch if there is nothing new.
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

    /// The number of the next event that it will read.
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
