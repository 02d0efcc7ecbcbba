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

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _, ready};

use super::Epoch;
use super::header::{HeaderError, LogHeader};
use crate::model::id::{GenerationId, Owner, Seq};
use crate::model::record::{CorruptRecord, RecordBatch, Records};

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

/// Why a store did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store has no such log.
    #[error("the store has no such log")]
    NotFound,
    /// The log was deleted.
    #[error("the log was deleted")]
    Deleted,
    /// The records have been kept long enough. The response object is kept.
    #[error("the store keeps only the response object")]
    Expired,
    /// The id is taken by another log.
    #[error("the store has another log of this id")]
    Exists,
    /// Another writer took the log over.
    #[error(
        "the stored log was taken over: this writer's epoch is {held:?}, the log's is {current:?}"
    )]
    Fenced {
        /// The writer's epoch.
        held: Epoch,
        /// The log's epoch.
        current: Epoch,
    },
    /// The log has ended.
    #[error("the stored log is sealed")]
    Sealed,
    /// The block starts after the log's end.
    #[error("the block starts at {found}, but the stored log ends at {expected}")]
    Gap {
        /// Where the log ends.
        expected: Seq,
        /// Where the block starts, or the record that lies across the log's end.
        found: Seq,
    },
    /// The store cannot be reached, is full, or failed. A later attempt may succeed.
    #[error("the store is unavailable: {0}")]
    Unavailable(Cow<'static, str>),
    /// What is stored is damaged, or the block is.
    #[error("the stored log is damaged")]
    Corrupt,
    /// Another version of the program wrote the log.
    #[error("the stored log has version {found}, which is not known")]
    UnknownVersion {
        /// The version that it has.
        found: u8,
    },
}

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

/// A block of a generation: framed records.
#[derive(Clone, Copy)]
pub struct Block<'a> {
    /// The generation.
    pub id: &'a GenerationId,
    /// The writer's epoch.
    pub epoch: Epoch,
    /// The end of the record before the first one.
    pub first: Seq,
    /// The end of the last record.
    pub next: Seq,
    /// The framed records.
    pub bytes: &'a [u8],
}

/// A buffer with the blocks of many generations, which is given to a store and returned.
#[derive(Default)]
pub struct Blocks {
    entries: Vec<Entry>,
    bytes: Vec<u8>,
}

struct Entry {
    id: GenerationId,
    epoch: Epoch,
    range: BlockRange,
    /// Where its bytes end.
    end: usize,
}

/// The numbers of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRange {
    /// The end of the record before the first one.
    pub first: Seq,
    /// The end of the last record; `first` if there is none.
    pub next: Seq,
}

// === impl BlockRange ===

impl BlockRange {
    /// Returns true if the block holds no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first == self.next
    }
}

// === impl StoreError ===

impl StoreError {
    /// Returns true if the same operation may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// Returns true if the log is not there, whether it was or not.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::NotFound | Self::Deleted)
    }
}

impl From<HeaderError> for StoreError {
    fn from(error: HeaderError) -> Self {
        match error {
            HeaderError::UnknownVersion { found } => Self::UnknownVersion { found },
            HeaderError::Damaged { .. } => Self::Corrupt,
        }
    }
}

impl From<CorruptRecord> for StoreError {
    fn from(_: CorruptRecord) -> Self {
        Self::Corrupt
    }
}

// === impl StoredLog ===

impl StoredLog {
    /// Returns the current epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch_ends.len() as u64 + 1)
    }
}

// === impl Block ===

impl fmt::Debug for Block<'_> {
    /// Omits the records, which hold message content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block")
            .field("id", &self.id)
            .field("epoch", &self.epoch)
            .field("first", &self.first)
            .field("next", &self.next)
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

impl<'a> Block<'a> {
    /// Returns the part of the block that follows `end`, where a log ends that has the part before.
    /// It is empty if the log has all of it.
    ///
    /// # Errors
    /// [`StoreError::Gap`] if the block starts after the end, or if the end lies within a record;
    /// [`StoreError::Corrupt`] if the block cannot be read.
    pub fn after(self, end: Seq) -> Result<Self, StoreError> {
        let gap = |found| StoreError::Gap {
            expected: end,
            found,
        };
        if self.first > end {
            return Err(gap(self.first));
        }
        let mut records = self.records();
        let mut stored = 0;
        while records.end_seq() < end {
            match records.step() {
                Some(record) => drop(record?),
                None => break,
            }
            stored = self.bytes.len() - records.rest().len();
        }
        let first = records.end_seq();
        if first > end {
            return Err(gap(first));
        }
        Ok(Self {
            first,
            bytes: &self.bytes[stored..],
            ..self
        })
    }

    /// Checks that the bytes are records that end at `next`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub fn check(&self) -> Result<(), StoreError> {
        let mut records = self.records();
        while let Some(record) = records.step() {
            record?;
        }
        if records.end_seq() == self.next {
            Ok(())
        } else {
            Err(StoreError::Corrupt)
        }
    }

    pub(super) fn records(&self) -> Records<'a> {
        Records::new(self.first, self.bytes)
    }
}

// === impl Blocks ===

impl fmt::Debug for Blocks {
    /// Omits the records, which hold message content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Blocks {
    /// Appends a copy of a block.
    pub fn push(&mut self, block: Block<'_>) {
        self.bytes.extend_from_slice(block.bytes);
        self.entries.push(Entry {
            id: block.id.clone(),
            epoch: block.epoch,
            range: BlockRange {
                first: block.first,
                next: block.next,
            },
            end: self.bytes.len(),
        });
    }

    /// Appends the block that `read` writes to the end of the bytes. An empty block is left out.
    ///
    /// # Errors
    /// That of `read`. Nothing is appended then.
    pub fn push_with<E>(
        &mut self,
        id: &GenerationId,
        epoch: Epoch,
        read: impl FnOnce(&mut Vec<u8>) -> Result<BlockRange, E>,
    ) -> Result<BlockRange, E> {
        let start = self.bytes.len();
        let result = read(&mut self.bytes);
        match result {
            Ok(range) if range.next > range.first => self.entries.push(Entry {
                id: id.clone(),
                epoch,
                range,
                end: self.bytes.len(),
            }),
            _ => self.bytes.truncate(start),
        }
        result
    }

    /// Removes the last block and returns its records.
    pub(crate) fn pop(&mut self) -> Option<RecordBatch> {
        let entry = self.entries.pop()?;
        let start = self.entries.last().map_or(0, |before| before.end);
        let mut batch = RecordBatch::default();
        batch.restart(entry.range.first);
        batch.extend_framed(&self.bytes[start..entry.end], entry.range.next);
        self.bytes.truncate(start);
        Some(batch)
    }

    /// Iterates over the blocks in order.
    pub fn iter(&self) -> impl Iterator<Item = Block<'_>> {
        let mut start = 0;
        self.entries.iter().map(move |entry| {
            let bytes = &self.bytes[start..entry.end];
            start = entry.end;
            Block {
                id: &entry.id,
                epoch: entry.epoch,
                first: entry.range.first,
                next: entry.range.next,
                bytes,
            }
        })
    }

    /// Returns the number of blocks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns true if there is no block.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the size of all blocks, in bytes.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the memory that the buffer holds, in bytes.
    #[must_use]
    pub fn memory_size(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    /// Empties the buffer. Keeps at most `capacity` bytes of its memory.
    pub fn clear(&mut self, capacity: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(capacity);
        self.entries.clear();
        self.entries.shrink_to(capacity / size_of::<Entry>());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id() -> GenerationId {
        "resp_a".parse().unwrap()
    }

    fn as_block<'a>(id: &'a GenerationId, batch: &'a RecordBatch) -> Block<'a> {
        Block {
            id,
            epoch: Epoch(1),
            first: batch.first_seq(),
            next: batch.end_seq(),
            bytes: batch.as_block(),
        }
    }

    fn batch(first: u64, events: &[u64]) -> RecordBatch {
        let mut batch = RecordBatch::default();
        batch.restart(Seq(first));
        for count in events {
            batch.push(*count, format!("at {}", batch.next_seq()).as_bytes());
        }
        batch
    }

    #[test]
    fn part_after_an_end_is_what_the_log_lacks() {
        let (id, whole) = (id(), batch(4, &[1, 3, 2]));
        let block = as_block(&id, &whole);
        for (end, first) in [(4, 4), (5, 5), (8, 8), (10, 10), (12, 10)] {
            let part = block.after(Seq(end)).unwrap();
            assert_eq!(
                (part.first, part.next),
                (Seq(first), Seq(10)),
                "after {end}"
            );
            let parsed = RecordBatch::parse(part.first, part.bytes.to_vec()).unwrap();
            assert_eq!(parsed.end_seq(), Seq(10));
        }
        for (end, found) in [(3, 4), (6, 8), (9, 10)] {
            let gap = StoreError::Gap {
                expected: Seq(end),
                found: Seq(found),
            };
            assert_eq!(block.after(Seq(end)).unwrap_err(), gap, "after {end}");
        }
    }

    #[test]
    fn buffer_returns_its_blocks_and_its_memory() {
        let id = id();
        let batches = [batch(0, &[1, 2]), batch(7, &[1]), batch(9, &[])];
        let mut blocks = Blocks::default();
        batches
            .iter()
            .for_each(|batch| blocks.push(as_block(&id, batch)));
        let found: Vec<_> = blocks
            .iter()
            .map(|block| (block.first, block.next))
            .collect();
        assert_eq!(
            found,
            [(Seq(0), Seq(3)), (Seq(7), Seq(7 + 1)), (Seq(9), Seq(9))]
        );
        assert_eq!(blocks.pop().unwrap().end_seq(), Seq(9));
        let popped = blocks.pop().unwrap();
        assert_eq!(popped.as_block(), batches[1].as_block());
        assert_eq!(blocks.byte_len(), batches[0].byte_len());

        let failed = blocks.push_with(&id, Epoch(1), |out| {
            out.extend_from_slice(b"half");
            Err(())
        });
        assert_eq!((failed, blocks.len()), (Err(()), 1));
        assert_eq!(blocks.byte_len(), batches[0].byte_len());
        blocks.push(Block {
            bytes: &vec![0; 1 << 20],
            ..as_block(&id, &batches[0])
        });
        blocks.clear(4096);
        assert!(blocks.is_empty());
        assert!(blocks.memory_size() <= 4096 + 4096);
    }

    #[test]
    fn debug_shows_no_contents() {
        let (id, batch) = (id(), batch(0, &[1]));
        let mut blocks = Blocks::default();
        blocks.push(as_block(&id, &batch));
        let shown = format!("{blocks:?}");
        assert!(
            shown.contains("resp_a") && !shown.contains("at 0"),
            "{shown}"
        );
        assert!(
            !shown.contains(&format!("{:?}", batch.as_block())),
            "{shown}"
        );
    }

    proptest! {
        #[test]
        fn arbitrary_blocks_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
            first: u64,
            next: u64,
            end: u64,
        ) {
            let id = id();
            let block = Block { id: &id, epoch: Epoch(1), first: Seq(first), next: Seq(next), bytes: &bytes };
            let _ = block.check();
            let _ = block.after(Seq(end));
            let _ = block.after(Seq(first));
        }
    }
}
