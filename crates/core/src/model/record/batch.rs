//! Batches: framed records, the one encoding of a writer, a log, a store and a reader.
//!
//! ```text
//!   block   = record*
//!   record  = head payload
//!   head    = varint(length << 2 | flags) [varint(events)] [varint(skip)]
//!                                  │  │    flags & 1, else 1   flags & 2, else 0
//!                                  │  └─ the payload's length in bytes
//! ```
//!
//! A record's first number is the end of the record before it plus its skip. Most records have one
//! event, no skip and at most 31 bytes: their head is one byte.

use std::fmt;

use super::{CorruptRecord, FullRecord, TAG_DELTA, TAG_FIRST_DELTA, TAG_FULL, Template, varint};
#[cfg(doc)]
use crate::model::event::EventKind;
use crate::model::id::Seq;

const HAS_EVENTS: u64 = 1;
const HAS_SKIP: u64 = 2;
const FLAG_BITS: u32 = 2;

/// What a full record begins with if its one event is [`EventKind::Chunk`]: the number of events,
/// the place of the event's variant, and that there is a chunk.
const CHUNK_HEAD: [u8; 4] = [TAG_FULL, 1, 11, 1];

/// Encoded records in order: the unit of appending and reading. Batches are reused, so that a token
/// costs no allocation.
#[derive(Default)]
pub struct RecordBatch {
    /// The end of the record before the first one.
    first: Seq,
    /// The end of the last record.
    next: Seq,
    /// Numbers that the next record leaves out.
    skip: u64,
    bytes: Vec<u8>,
}

impl fmt::Debug for RecordBatch {
    /// Omits the records, which hold message content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordBatch")
            .field("first", &self.first)
            .field("next", &self.next)
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// One record of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// The number of its first event.
    pub first_seq: Seq,
    /// Number of events, at least one.
    pub events: u64,
    /// Number of numbers left out before the first event.
    pub skip: u64,
    /// The encoded record.
    pub payload: &'a [u8],
}

impl RecordRef<'_> {
    /// Returns the number after the record before it.
    #[must_use]
    pub fn start_seq(&self) -> Seq {
        Seq(self.first_seq.0 - self.skip)
    }

    /// Returns the number after its last event.
    #[must_use]
    pub fn next_seq(&self) -> Seq {
        Seq(self.first_seq.0 + self.events)
    }
}

/// A place between two records of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchPosition {
    byte: usize,
    /// The end of the record before it.
    next: Seq,
}

/// The records of a batch or a block, in order.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    next: Seq,
}

impl RecordBatch {
    /// Reads a block whose first record follows the number before `first`.
    ///
    /// # Errors
    /// [`CorruptRecord`] if the bytes are not a run of records. Payloads are not looked at.
    pub fn parse(first: Seq, bytes: Vec<u8>) -> Result<Self, CorruptRecord> {
        let mut records = Records::new(first, &bytes);
        while let Some(record) = records.step() {
            record?;
        }
        Ok(Self {
            first,
            next: records.next,
            skip: 0,
            bytes,
        })
    }

    /// Empties the batch; the next record pushed starts at `first`.
    pub fn restart(&mut self, first: Seq) {
        self.first = first;
        self.next = first;
        self.skip = 0;
        self.bytes.clear();
        // A large chunk must not keep its memory for the rest of the stream.
        self.bytes.shrink_to(16 * 1024);
    }

    /// Empties the batch after its records were appended. Numbers continue, after a pending skip.
    pub fn clear(&mut self) {
        let skip = self.skip;
        self.restart(self.next);
        self.skip = skip;
    }

    /// Empties the batch and frees its memory, for a batch that may wait long for its next use.
    pub fn release(&mut self) {
        *self = Self {
            first: self.next,
            next: self.next,
            skip: self.skip,
            bytes: Vec::new(),
        };
    }

    /// Whether it has memory for records.
    pub(crate) fn has_memory(&self) -> bool {
        self.bytes.capacity() > 0
    }

    /// Takes the memory of a batch that holds no record.
    pub(crate) fn take_memory(&mut self) -> Vec<u8> {
        let mut buffer = Vec::new();
        self.swap_memory(&mut buffer);
        buffer
    }

    /// Exchanges the memory of a batch that holds no record with that of a buffer.
    pub(crate) fn swap_memory(&mut self, buffer: &mut Vec<u8>) {
        std::mem::swap(&mut self.bytes, buffer);
        self.bytes.clear();
    }

    /// Leaves out `count` numbers before the next record.
    pub fn skip(&mut self, count: u64) {
        self.skip += count;
    }

    /// Returns true if the batch holds no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Returns the size of all records with their heads, in bytes.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the records as a block.
    #[must_use]
    pub fn as_block(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the number that follows the record before the first one. The first record starts
    /// here, or later if it skips numbers.
    #[must_use]
    pub fn first_seq(&self) -> Seq {
        self.first
    }

    /// Returns the number after the last record's last event.
    #[must_use]
    pub fn end_seq(&self) -> Seq {
        self.next
    }

    /// Returns the number that the next event gets.
    #[must_use]
    pub fn next_seq(&self) -> Seq {
        Seq(self.next.0 + self.skip)
    }

    /// Appends an encoded record.
    pub fn push(&mut self, events: u64, payload: &[u8]) {
        self.push_head(events, payload.len());
        self.bytes.extend_from_slice(payload);
    }

    /// Appends records that are framed already, up to the number `next`. They must follow the last
    /// record.
    pub(crate) fn extend_framed(&mut self, block: &[u8], next: Seq) {
        self.bytes.extend_from_slice(block);
        self.next = next;
    }

    /// Lets `copy` append framed records to an empty batch. It returns the end of the last one, and
    /// a value to pass on.
    pub(crate) fn fill<T>(&mut self, copy: impl FnOnce(&mut Vec<u8>) -> (Seq, T)) -> T {
        let (next, value) = copy(&mut self.bytes);
        self.next = next;
        value
    }

    /// Appends a delta that matches a template.
    pub(crate) fn push_delta(&mut self, template: usize, holes: &[&[u8]]) {
        let template = template as u64;
        self.push_head(1, 1 + varint::size(template) + holes_len(holes));
        self.bytes.push(TAG_DELTA);
        varint::push(&mut self.bytes, template);
        self.push_holes(holes);
    }

    /// Appends the first delta of a template, together with the template, which gets this number.
    pub(crate) fn push_first_delta(&mut self, number: usize, template: &Template, holes: &[&[u8]]) {
        let number = number as u64;
        // Serializing plain data into a Vec cannot fail.
        let template = postcard::to_stdvec(template).unwrap_or_default();
        let length = template.len() as u64;
        self.push_head(
            1,
            1 + varint::size(number) + varint::size(length) + template.len() + holes_len(holes),
        );
        self.bytes.push(TAG_FIRST_DELTA);
        varint::push(&mut self.bytes, number);
        varint::push(&mut self.bytes, length);
        self.bytes.extend_from_slice(&template);
        self.push_holes(holes);
    }

    #[inline]
    fn push_holes(&mut self, holes: &[&[u8]]) {
        if let Some((last, sized)) = holes.split_last() {
            for inside in sized {
                varint::push(&mut self.bytes, inside.len() as u64);
                self.bytes.extend_from_slice(inside);
            }
            self.bytes.extend_from_slice(last);
        }
    }

    /// Appends a full record.
    pub(crate) fn push_full(&mut self, full: &FullRecord<'_>) {
        // The length is known once the record is written: the head is put before it then.
        let start = self.bytes.len();
        self.bytes.push(TAG_FULL);
        let bytes = std::mem::take(&mut self.bytes);
        // Serializing plain data into a Vec cannot fail.
        self.bytes = postcard::to_extend(full, bytes).unwrap_or_default();
        let end = self.bytes.len();
        self.push_head(full.events.len() as u64, end - start);
        let head = self.bytes.len() - end;
        self.bytes[start..].rotate_right(head);
    }

    /// Leaves room for this many bytes of further records.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        self.bytes.reserve(bytes);
    }

    /// As [`push_full`](Self::push_full), of a record that is [`EventKind::Chunk`] alone.
    pub(crate) fn push_chunk(&mut self, raw: &[u8]) {
        let size = raw.len() as u64;
        self.push_head(1, CHUNK_HEAD.len() + varint::size(size) + raw.len());
        self.bytes.extend_from_slice(&CHUNK_HEAD);
        varint::push(&mut self.bytes, size);
        self.bytes.extend_from_slice(raw);
    }

    #[inline]
    fn push_head(&mut self, events: u64, length: usize) {
        let skip = std::mem::take(&mut self.skip);
        let length = (length as u64) << FLAG_BITS;
        self.next.0 += skip + events;
        if events == 1 && skip == 0 {
            varint::push(&mut self.bytes, length);
            return;
        }
        let mut flags = 0;
        if events != 1 {
            flags |= HAS_EVENTS;
        }
        if skip != 0 {
            flags |= HAS_SKIP;
        }
        varint::push(&mut self.bytes, length | flags);
        if events != 1 {
            varint::push(&mut self.bytes, events);
        }
        if skip != 0 {
            varint::push(&mut self.bytes, skip);
        }
    }

    /// Returns the place before the first record.
    #[must_use]
    pub fn start(&self) -> BatchPosition {
        BatchPosition {
            byte: 0,
            next: self.first,
        }
    }

    /// Returns the place after the last record.
    #[must_use]
    pub fn end(&self) -> BatchPosition {
        BatchPosition {
            byte: self.bytes.len(),
            next: self.next,
        }
    }

    /// Returns the record at this place of this batch, and the place after it.
    #[must_use]
    pub fn record_at(&self, at: BatchPosition) -> Option<(RecordRef<'_>, BatchPosition)> {
        let mut records = Records::new(at.next, self.bytes.get(at.byte..)?);
        let record = records.next()?;
        let after = BatchPosition {
            byte: self.bytes.len() - records.rest.len(),
            next: records.next,
        };
        Some((record, after))
    }

    /// Drops the records after this place of this batch.
    pub(crate) fn truncate(&mut self, at: BatchPosition) {
        self.bytes.truncate(at.byte);
        self.next = at.next;
        self.skip = 0;
    }

    /// Returns true if no record follows this place of this batch.
    #[must_use]
    pub fn is_end(&self, at: BatchPosition) -> bool {
        at.byte >= self.bytes.len()
    }

    /// Iterates over the records in order.
    pub fn iter(&self) -> Records<'_> {
        Records::new(self.first, &self.bytes)
    }
}

fn holes_len(holes: &[&[u8]]) -> usize {
    match holes.split_last() {
        None => 0,
        Some((last, sized)) => {
            last.len()
                + sized
                    .iter()
                    .map(|inside| varint::size(inside.len() as u64) + inside.len())
                    .sum::<usize>()
        }
    }
}

impl<'a> IntoIterator for &'a RecordBatch {
    type Item = RecordRef<'a>;
    type IntoIter = Records<'a>;

    fn into_iter(self) -> Records<'a> {
        self.iter()
    }
}

impl<'a> Records<'a> {
    /// Iterates over a block whose first record follows the number before `first`.
    #[must_use]
    pub(crate) fn new(first: Seq, block: &'a [u8]) -> Self {
        Self {
            rest: block,
            next: first,
        }
    }

    /// Returns the bytes after the last record that was returned.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Returns the end of the last record that was returned.
    #[must_use]
    pub fn end_seq(&self) -> Seq {
        self.next
    }

    /// Returns the next record. None at the end of the block.
    #[inline]
    pub(crate) fn step(&mut self) -> Option<Result<RecordRef<'a>, CorruptRecord>> {
        if self.rest.is_empty() {
            return None;
        }
        let record = self.decode();
        if record.is_none() {
            self.rest = &[];
        }
        Some(record.ok_or(CorruptRecord))
    }

    #[inline]
    fn decode(&mut self) -> Option<RecordRef<'a>> {
        let mut rest = self.rest;
        let head = varint::take(&mut rest)?;
        let (mut events, mut skip) = (1, 0);
        if head & (HAS_EVENTS | HAS_SKIP) != 0 {
            if head & HAS_EVENTS != 0 {
                events = varint::take(&mut rest).filter(|events| *events > 0)?;
            }
            if head & HAS_SKIP != 0 {
                skip = varint::take(&mut rest)?;
            }
        }
        let length = usize::try_from(head >> FLAG_BITS).ok()?;
        let (payload, rest) = rest.split_at_checked(length)?;
        let first_seq = self.next.0.checked_add(skip)?;
        self.next = Seq(first_seq.checked_add(events)?);
        self.rest = rest;
        Some(RecordRef {
            first_seq: Seq(first_seq),
            events,
            skip,
            payload,
        })
    }
}

/// A damaged record ends the iteration.
impl<'a> Iterator for Records<'a> {
    type Item = RecordRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<RecordRef<'a>> {
        self.step()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::event::EventKind;

    /// Skip, events, payload.
    fn records() -> impl Strategy<Value = Vec<(u64, u64, Vec<u8>)>> {
        let skip = prop_oneof![8 => Just(0u64), 1 => 1u64..3, 1 => 1u64 << 24..1 << 40];
        let events = prop_oneof![4 => Just(1u64), 2 => 2u64..300];
        let payload = prop::collection::vec(any::<u8>(), 0..200);
        prop::collection::vec((skip, events, payload), 0..20)
    }

    fn batch(first: u64, records: &[(u64, u64, Vec<u8>)]) -> RecordBatch {
        let mut batch = RecordBatch::default();
        batch.restart(Seq(first));
        for (skip, events, payload) in records {
            batch.skip(*skip);
            batch.push(*events, payload);
        }
        batch
    }

    proptest! {
        #[test]
        fn batch_returns_the_pushed_records(records in records(), first in 0u64..1000) {
            let batch = batch(first, &records);
            let parsed = RecordBatch::parse(Seq(first), batch.as_block().to_vec()).unwrap();
            for batch in [&batch, &parsed] {
                let mut next = first;
                let mut at = batch.start();
                let mut listed = batch.iter();
                for (skip, events, payload) in &records {
                    let expected = RecordRef { first_seq: Seq(next + skip), events: *events, skip: *skip, payload };
                    let (record, after) = batch.record_at(at).unwrap();
                    prop_assert_eq!(record, expected);
                    prop_assert_eq!(listed.next(), Some(expected));
                    next += skip + events;
                    at = after;
                }
                prop_assert_eq!(batch.record_at(at), None);
                prop_assert_eq!(listed.next(), None);
                prop_assert_eq!((batch.first_seq(), batch.next_seq()), (Seq(first), Seq(next)));
            }
        }

        #[test]
        fn truncated_block_is_corrupt(records in records(), cut in 1usize..100) {
            let batch = batch(0, &records);
            let mut ends = vec![0];
            let mut at = batch.start();
            while let Some((_, after)) = batch.record_at(at) {
                ends.push(after.byte);
                at = after;
            }
            let length = batch.byte_len().saturating_sub(cut);
            let parsed = RecordBatch::parse(Seq(0), batch.as_block()[..length].to_vec());
            prop_assert_eq!(parsed.is_ok(), ends.contains(&length));
        }

        #[test]
        fn damaged_block_never_panics(records in records(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = batch(7, &records).as_block().to_vec();
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(parsed) = RecordBatch::parse(Seq(7), bytes) {
                for record in &parsed {
                    let _ = super::super::Content::decode(record.payload);
                }
            }
        }

        #[test]
        fn random_block_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..60), first in any::<u64>()) {
            let _ = RecordBatch::parse(Seq(first), bytes);
        }
    }

    #[test]
    fn lone_chunk_is_written_as_every_full_record() {
        for length in [0, 1, 22, 23, 24, 127, 128, 16_384] {
            let raw = vec![b'x'; length];
            let (mut short, mut full) = (RecordBatch::default(), RecordBatch::default());
            for batch in [&mut short, &mut full] {
                batch.skip(u64::from(length == 22));
            }
            short.push_chunk(&raw);
            full.push_full(&FullRecord {
                events: vec![EventKind::Chunk],
                raw: Some(serde_bytes::Bytes::new(&raw)),
            });
            assert_eq!(short.as_block(), full.as_block(), "{length}");
            assert_eq!(short.next_seq(), full.next_seq());
        }
    }

    #[test]
    fn short_delta_costs_one_byte_of_head() {
        for (length, head) in [(0, 1), (31, 1), (32, 2), (4095, 2), (4096, 3)] {
            let mut batch = RecordBatch::default();
            batch.push(1, &vec![0; length]);
            assert_eq!(batch.byte_len(), length + head);
        }
    }

    #[test]
    fn skip_waits_for_the_next_record_after_a_clear() {
        let mut batch = batch(0, &[(0, 3, vec![1])]);
        batch.skip(2);
        assert_eq!((batch.end_seq(), batch.next_seq()), (Seq(3), Seq(5)));
        batch.clear();
        batch.release();
        batch.push(1, b"end");
        let record = batch.iter().next().unwrap();
        assert_eq!((record.first_seq, batch.next_seq()), (Seq(5), Seq(6)));
        assert_eq!(batch.first_seq(), Seq(3));
    }
}
