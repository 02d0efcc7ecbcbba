//! The token log: one generation's records, appended by one writer, read by any number of readers.
//!
//! ```text
//!              records                                       end
//!                 │                                           │
//!   ┌─────┬───────┼─────┬─────┬─────┐   ┌─────┬─────┬─────┐   ▼
//!   │ 0 1 │ 2 3 4 │  5  │  6  │  7  │ ⋯ │ 2²⁴ │  …  │     │   ⋯  ◀── append(epoch, batch)
//!   └─────┴───────┴─────┴─────┴─────┘   └─────┴─────┴─────┘
//!   ▲         ▲          ▲        ▲   ▲   ▲               ▲
//!   │         │          │        │   │   │               └─ sealed: nothing follows, readers end here
//!   │         │          │        │   │   └─ epoch 2: the numbers of a later writer
//!   │         │          │        │   └─ lost: a position in this hole was never in this log
//!   │         │          │        └─ the end of epoch 1
//!   │         │          └─ committed: a store has everything before
//!   │         └─ a reader that resumes inside a record: it gets the record and skips what it has
//!   └─ the head: a log is never trimmed, only removed
//! ```
//!
//! * Events are numbered from 0. A record holds one or more; it is appended as a whole or not at
//!   all. There are two holes: before an epoch, and of a few numbers that a terminal event skips.
//! * **One writer.** Appending needs the log's current [`Epoch`]. A new writer begins the next one,
//!   and appends of earlier writers are refused. Epoch e starts at the number (e − 1) · 2²⁴.
//! * **Readers pull.** A [`LogReader`] is a cursor, not a queue. A reader that keeps up waits at the
//!   tail; an append wakes it. *Pending* is at the tail, [`Position`] tells where a reader stands,
//!   and [`ReadError::Expired`] is gone.
//! * **One encoding.** The tail holds the framed records of a [`RecordBatch`] as they are: a read
//!   copies a range, and so does a block for a store.
//! * **Sealing** ends a log; the records stay readable. **Expiry** removes the records, and readers
//!   get an error.
//!
//! [`RecordBatch`]: crate::model::record::RecordBatch

mod block;
mod flusher;
mod formats;
mod header;
mod memory_store;
mod read_position;
mod reader;
mod segment;
mod store;
mod store_error;
mod tail;
mod wakers;

pub use crate::model::id::Epoch;
pub use block::{Block, BlockRange, Blocks};
pub use flusher::{FlushHandle, FlushOptions, FlushSource, Flusher, Released};
pub use formats::Formats;
pub use header::{HEADER_VERSION, HeaderError, IdempotencyKey, LogHeader};
pub use memory_store::MemoryStore;
pub use read_position::ReadPosition;
pub use reader::LogReader;
pub use store::{Appended, LogStore, StoreFuture, StoredLog};
pub use store_error::StoreError;
pub use tail::LogTail;
pub use wakers::ReaderSlot;

use crate::model::id::Seq;

/// The limits of one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// Bytes of stored records with their heads.
    pub bytes: usize,
    /// Number of events of one epoch.
    pub events: u64,
}

impl LogLimits {
    /// The most events of one epoch: half of its numbers, so that the next epoch is never reached.
    pub const MAX_EVENTS: u64 = Epoch::NUMBERS / 2;
}

/// The end of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailEnd {
    /// The number after the last event.
    pub next: Seq,
    /// Whether the log has ended.
    pub sealed: bool,
}

/// The position in a log of a reader that has seen events up to a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// Events follow.
    InLog,
    /// It has seen the last event.
    AtTail,
    /// It has seen more than there is: the log it saw was further.
    PastHead,
    /// It has seen events that a writer lost: they are above the end of an epoch and below the next.
    Lost,
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
    /// The batch does not start where the log ends, or an epoch not at its first number.
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
    /// The events are not here yet.
    #[error("the position is past the end of the log")]
    PastHead,
}
