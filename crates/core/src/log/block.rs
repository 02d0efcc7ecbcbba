//! Blocks: runs of framed records on their way to a store.

use std::fmt;

use super::Epoch;
use super::store_error::StoreError;
use crate::model::id::{GenerationId, Seq};
use crate::model::record::{RecordBatch, Records};

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
