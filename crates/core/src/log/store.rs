//! Logs that outlive the process that wrote them.
//!
//! ```text
//!   tail (memory)                           store
//!                                             ┌────────┬───────────┬────────────┐
//!                                             │ header │ epoch 1   │ epoch 2    │
//!   ┌───────────┬────────────────┐            ├────────┴───────────┼────────────┤
//!   │ stored    │ not yet stored │ ──block──▶ │ 0 1 2 3 4 5 6 7    │ 2^24 …     │
//!   └───────────┴────────────────┘            └────────────────────┴────────────┘
//!               ▲                ▲                                 ▲            ▲
//!               │                └─ the tail's end                 │            └─ end
//!               └─ committed ◀── acknowledgement                   └─ epoch ends: [8]
//! ```
//!
//! * A **block** is a run of framed records ([`RecordBatch`]). Blocks follow one another: each
//!   starts at the log's end. The numbers that a record skips are part of its block.
//! * **Committed** is a cursor into the tail: everything before it is stored. The records after it
//!   are in memory only, so readers may have seen events that no store has.
//! * **Epochs.** [`LogStore::adopt`] gives the log to another writer and ends the current epoch at
//!   the log's end. Appends and seals of earlier epochs are refused from then on.
//! * **Sealing** stores the last block and the response object. Nothing follows.
//! * Every operation can be repeated: what is stored already is acknowledged again.
//!
//! Every implementation passes one conformance suite (`tokenwire-testkit`).

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _, ready};

use super::Epoch;
use super::block::Blocks;
use super::header::{HEADER_VERSION, LogHeader};
use super::store_error::StoreError;
use crate::model::id::{GenerationId, Owner, Seq};
use crate::model::record::RecordBatch;

/// A store's answer, to be awaited.
pub type StoreFuture<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// Keeps logs beyond the life of their process.
///
/// A store is shared by all workers and never on a token's way. Its futures can be dropped: the
/// operation then has happened or not.
pub trait LogStore: Send + Sync + fmt::Debug {
    /// Creates a log with this header and returns the writer's epoch, which is the first.
    /// Creating it again with the same header, before another epoch, succeeds.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if there is another log of this id, [`StoreError::Deleted`] if there
    /// was one.
    fn create(&self, header: Arc<LogHeader>) -> StoreFuture<'_, Epoch>;

    /// Appends each block to its log and returns the buffer with one result per block, in order:
    /// the log's end, or why nothing of the block was stored. One block's failure does not affect
    /// another's. The part of a block that is stored already is skipped.
    ///
    /// The store holds the buffer until it answers. A caller that keeps one buffer therefore has
    /// at most one unanswered append.
    ///
    /// Results: [`StoreError::Fenced`] for an earlier epoch, [`StoreError::Gap`] for a block that
    /// starts after the log's end, [`StoreError::Sealed`] for records after the seal.
    fn append(&self, blocks: Blocks) -> BoxFuture<'_, Appended>;

    /// Appends the last block, stores the response object, and ends the log. The block may be
    /// empty. Sealing again with the same block succeeds.
    ///
    /// # Errors
    /// As the results of [`LogStore::append`].
    fn seal<'a>(
        &'a self,
        id: &'a GenerationId,
        epoch: Epoch,
        block: RecordBatch,
        object: Option<Bytes>,
    ) -> StoreFuture<'a, ()>;

    /// Returns whether a seal costs less if its block has all records of the log, not only those
    /// that are not stored yet. A flusher then takes them from memory, if they are few.
    fn seals_whole(&self) -> bool {
        false
    }

    /// Returns the version in which new logs are to be written: all processes that may read them
    /// read it.
    fn version(&self) -> u8 {
        HEADER_VERSION
    }

    /// As [`LogStore::seal`], with all records of the log, which have the form of this version from
    /// now on. A store whose [`version`](LogStore::version) never changes has nothing to do with it.
    ///
    /// # Errors
    /// As [`LogStore::seal`].
    fn seal_in<'a>(
        &'a self,
        version: u8,
        id: &'a GenerationId,
        epoch: Epoch,
        block: RecordBatch,
        object: Option<Bytes>,
    ) -> StoreFuture<'a, ()> {
        let _ = version;
        self.seal(id, epoch, block, object)
    }

    /// Returns what is stored of a log, without its records.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] and [`StoreError::Deleted`]; [`StoreError::UnknownVersion`] and
    /// [`StoreError::Corrupt`] if the header cannot be read.
    fn open<'a>(&'a self, id: &'a GenerationId) -> StoreFuture<'a, StoredLog>;

    /// Returns records, starting with the one that holds the event `from`, or with the first one
    /// after it where no record holds it. Returns at least one record and stops at about
    /// `max_bytes`.
    ///
    /// At the end of the log, and past it, the result is an empty batch that starts at the end:
    /// `from` equal to it is *at the tail*, a greater one *not here yet*. A log that is gone is an
    /// error.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Deleted`] and [`StoreError::Corrupt`];
    /// [`StoreError::Expired`] if only the response object is kept.
    fn read<'a>(
        &'a self,
        id: &'a GenerationId,
        from: Seq,
        max_bytes: usize,
    ) -> StoreFuture<'a, RecordBatch>;

    /// Returns the response object that the seal stored, if it had one.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] and [`StoreError::Deleted`].
    fn object<'a>(&'a self, id: &'a GenerationId) -> StoreFuture<'a, Option<Bytes>>;

    /// Takes a running log over: ends its epoch at the stored end and returns the next epoch. Of
    /// several callers each gets an epoch of its own, and only the last one can append. Open the
    /// log after this, not before: until then the earlier writer may append.
    ///
    /// # Errors
    /// [`StoreError::Sealed`], [`StoreError::NotFound`] and [`StoreError::Deleted`].
    fn adopt<'a>(&'a self, id: &'a GenerationId) -> StoreFuture<'a, Epoch>;

    /// Removes the log and its object. The removal is durable once it has answered, and later
    /// operations on this id fail. Succeeds for a log that is gone or was never there.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn delete<'a>(&'a self, id: &'a GenerationId) -> StoreFuture<'a, ()>;

    /// Keeps the response objects of these logs from now on, as if they had just ended: a turn builds
    /// on them. Ids of other logs are ignored. A store that keeps objects for ever, as the default
    /// does, has nothing to do.
    fn renew(&self, ids: Vec<GenerationId>) -> BoxFuture<'_, ()> {
        drop(ids);
        ready(()).boxed()
    }

    /// Returns the log that this owner started last under an idempotency key. A store without an
    /// index of keys, as the default is, returns `None`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] and [`StoreError::Corrupt`].
    fn keyed<'a>(
        &'a self,
        owner: &'a Owner,
        key: &'a str,
    ) -> StoreFuture<'a, Option<GenerationId>> {
        let _ = (owner, key);
        ready(Ok(None)).boxed()
    }
}

/// The buffer of an append, emptied or not, and the result of each of its blocks.
pub type Appended = (Blocks, Vec<Result<Seq, StoreError>>);

/// What a store has of a log.
#[derive(Clone, Debug)]
pub struct StoredLog {
    /// The header.
    pub header: Arc<LogHeader>,
    /// Where each earlier epoch ended. Empty in the first epoch.
    pub epoch_ends: Vec<Seq>,
    /// The number after the last stored event.
    pub end: Seq,
    /// Whether the log has ended.
    pub sealed: bool,
}

// === impl StoredLog ===

impl StoredLog {
    /// Returns the current epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch_ends.len() as u64 + 1)
    }
}
