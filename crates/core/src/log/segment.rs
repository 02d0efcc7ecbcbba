//! The bytes of a log: framed records in segments that are never copied as they grow.
//!
//! ```text
//!   first   0          23              61                       200
//!           ┌──────────┬───────────────┬────────────────────────┬───────────╌╌╌╌╌╌╌┐
//!           │ 512 B    │ 512 B         │ one large record       │ records   ╎ room │
//!           └──────────┴───────────────┴────────────────────────┴───────────╌╌╌╌╌╌╌┘
//! ```
//!
//! A record lies in one segment. There is no index of records: a position is found by its segment,
//! then by walking at most [`LONG_SEGMENT_BYTES`].

use bytes::Bytes;
use smallvec::SmallVec;

use crate::model::id::Seq;
use crate::model::record::{RecordBatch, Records};

/// The most bytes that a segment of a short log holds, unless it is a single larger record.
pub(super) const SEGMENT_BYTES: usize = 64 * 1024;
/// The bytes that a segment of a long log holds. The allocator keeps pieces of over 512 KiB apart and
/// returns each to the system; smaller ones lie between those of other logs, and a page of them is
/// returned only when none is left.
const LONG_SEGMENT_BYTES: usize = 576 * 1024;
const FIRST_SEGMENT_BYTES: usize = 512;
/// A new segment has this part of the bytes so far: so much is unused at most.
const GROWTH: usize = 4;

/// The segments of one log.
#[derive(Default)]
pub(super) struct Segments {
    list: Vec<Segment>,
    /// Bytes of records.
    used: usize,
    /// Bytes that are allocated for records.
    capacity: usize,
}

struct Segment {
    /// The end of the record before its first one.
    first: Seq,
    bytes: SegmentBytes,
}

enum SegmentBytes {
    /// Records; more fit while there is capacity.
    Small(Vec<u8>),
    /// One record, which is shared with readers instead of copied under the log's lock.
    Large(Bytes),
}

/// A place between two records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spot {
    segment: usize,
    byte: usize,
    /// The end of the record before it.
    pub(super) end: Seq,
}

/// The large records of a batch, in order, copied before the log is locked.
#[derive(Default)]
pub(super) struct LargeRecords(SmallVec<[Bytes; 1]>);

// === impl LargeRecords ===

impl LargeRecords {
    pub(super) fn of(batch: &RecordBatch) -> Self {
        let mut large = Self::default();
        if batch.byte_len() > SEGMENT_BYTES {
            let mut records = batch.iter();
            while let Some(framed) = next_framed(&mut records) {
                if framed.len() > SEGMENT_BYTES {
                    large.0.push(Bytes::copy_from_slice(framed));
                }
            }
        }
        large
    }
}

/// Returns the next record with its head.
fn next_framed<'a>(records: &mut Records<'a>) -> Option<&'a [u8]> {
    let start = records.rest();
    records.next()?;
    start.get(..start.len() - records.rest().len())
}

// === impl Segment ===

impl Segment {
    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            SegmentBytes::Small(bytes) => bytes,
            SegmentBytes::Large(bytes) => bytes,
        }
    }
}

// === impl Segments ===

impl Segments {
    /// Returns the bytes of all records with their heads.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Returns the bytes that the segments hold in memory.
    pub(super) fn memory_size(&self) -> usize {
        self.capacity + self.list.capacity() * size_of::<Segment>()
    }

    /// Appends the batch's records. `large` holds copies of its large ones.
    pub(super) fn append(&mut self, batch: &RecordBatch, large: LargeRecords) {
        let block = batch.as_block();
        self.used += block.len();
        if let Some(Segment {
            bytes: SegmentBytes::Small(bytes),
            ..
        }) = self.list.last_mut()
            && bytes.capacity() - bytes.len() >= block.len()
        {
            bytes.extend_from_slice(block);
            return;
        }
        let mut records = batch.iter();
        if block.len() <= SEGMENT_BYTES {
            self.fill_last(&mut records);
            let rest = records.rest();
            if !rest.is_empty() {
                self.small(records.end_seq(), rest.len())
                    .extend_from_slice(rest);
            }
            return;
        }
        let mut large = large.0.into_iter();
        loop {
            let first = records.end_seq();
            let Some(framed) = next_framed(&mut records) else {
                break;
            };
            if framed.len() > SEGMENT_BYTES
                && let Some(bytes) = large.next()
            {
                self.capacity += bytes.len();
                self.list.push(Segment {
                    first,
                    bytes: SegmentBytes::Large(bytes),
                });
            } else {
                self.small(first, framed.len()).extend_from_slice(framed);
            }
        }
    }

    /// Moves records into the last segment as long as they fit. At least the last one does not.
    fn fill_last(&mut self, records: &mut Records<'_>) {
        let Some(Segment {
            bytes: SegmentBytes::Small(bytes),
            ..
        }) = self.list.last_mut()
        else {
            return;
        };
        let room = bytes.capacity() - bytes.len();
        let (block, mut taken) = (records.rest(), 0);
        let mut ahead = records.clone();
        while let Some(framed) = next_framed(&mut ahead)
            && taken + framed.len() <= room
        {
            taken += framed.len();
            *records = ahead.clone();
        }
        bytes.extend_from_slice(&block[..taken]);
    }

    /// Returns the last segment if it has room for this many bytes, else a new one.
    fn small(&mut self, first: Seq, length: usize) -> &mut Vec<u8> {
        let has_room = matches!(
            self.list.last(),
            Some(Segment { bytes: SegmentBytes::Small(bytes), .. })
                if bytes.capacity() - bytes.len() >= length
        );
        if !has_room {
            let follows_large = matches!(
                self.list.last(),
                Some(Segment {
                    bytes: SegmentBytes::Large(_),
                    ..
                })
            );
            // The next large record would leave the room of a long segment unused.
            let size = if self.capacity < GROWTH * LONG_SEGMENT_BYTES || follows_large {
                (self.capacity / GROWTH).clamp(FIRST_SEGMENT_BYTES, SEGMENT_BYTES)
            } else {
                LONG_SEGMENT_BYTES
            };
            let bytes = Vec::with_capacity(size.max(length));
            self.capacity += bytes.capacity();
            if self.list.is_empty() {
                self.list.reserve_exact(1);
            }
            self.list.push(Segment {
                first,
                bytes: SegmentBytes::Small(bytes),
            });
        }
        match self.list.last_mut() {
            Some(Segment {
                bytes: SegmentBytes::Small(bytes),
                ..
            }) => bytes,
            // A small segment was just found or added.
            _ => unreachable!("the last segment is small"),
        }
    }

    /// Frees the room of the last segment, once the log is sealed.
    pub(super) fn shrink(&mut self) {
        if let Some(Segment {
            bytes: SegmentBytes::Small(bytes),
            ..
        }) = self.list.last_mut()
        {
            let before = bytes.capacity();
            bytes.shrink_to_fit();
            self.capacity -= before - bytes.capacity();
        }
        self.list.shrink_to_fit();
    }

    /// Returns the place before the record that holds the event `next`. If no record does, the
    /// place before the first one after it, or the end.
    pub(super) fn locate(&self, next: Seq) -> Spot {
        let segment = self
            .list
            .partition_point(|segment| segment.first <= next)
            .saturating_sub(1);
        let Some(found) = self.list.get(segment) else {
            return Spot::default();
        };
        let bytes = found.bytes();
        let mut records = Records::new(found.first, bytes);
        loop {
            let spot = Spot {
                segment,
                byte: bytes.len() - records.rest().len(),
                end: records.end_seq(),
            };
            match records.next() {
                Some(record) if record.next_seq() <= next => {}
                _ => return spot,
            }
        }
    }

    /// Copies records from `spot` on and moves it past them. Copies at least one record, if there is
    /// one, and stops at about `max_bytes`. A large record is returned instead of copied. `end` is
    /// the end of the log.
    pub(super) fn copy(
        &self,
        spot: &mut Spot,
        max_bytes: usize,
        end: Seq,
        out: &mut Vec<u8>,
    ) -> Option<Bytes> {
        let start = out.len();
        while let Some(segment) = self.list.get(spot.segment) {
            let next_first = self.list.get(spot.segment + 1).map(|next| next.first);
            let bytes = segment.bytes();
            let rest = &bytes[spot.byte.min(bytes.len())..];
            if rest.is_empty() {
                if next_first.is_none() {
                    break;
                }
                spot.segment += 1;
                spot.byte = 0;
                continue;
            }
            let copied = out.len() - start;
            if let SegmentBytes::Large(bytes) = &segment.bytes {
                if copied > 0 {
                    break;
                }
                spot.byte = bytes.len();
                spot.end = next_first.unwrap_or(end);
                return Some(bytes.clone());
            }
            let room = max_bytes.saturating_sub(copied).max(1);
            if rest.len() <= room {
                out.extend_from_slice(rest);
                spot.byte = bytes.len();
                spot.end = next_first.unwrap_or(end);
            } else {
                let mut records = Records::new(spot.end, rest);
                while rest.len() - records.rest().len() < room && records.next().is_some() {}
                let taken = rest.len() - records.rest().len();
                out.extend_from_slice(&rest[..taken]);
                spot.byte += taken;
                spot.end = records.end_seq();
            }
            if next_first.is_none() || out.len() - start >= max_bytes {
                break;
            }
        }
        None
    }

    /// Moves a place forward to the end of the last record that ends at `upto` or before. Returns
    /// the bytes in between.
    pub(super) fn advance(&self, spot: &mut Spot, upto: Seq, end: Seq) -> usize {
        let mut passed = 0;
        while let Some(segment) = self.list.get(spot.segment) {
            let next_first = self.list.get(spot.segment + 1).map(|next| next.first);
            let bytes = segment.bytes();
            let rest = &bytes[spot.byte.min(bytes.len())..];
            let segment_end = next_first.unwrap_or(end);
            if segment_end <= upto {
                passed += rest.len();
                spot.end = segment_end;
                spot.byte = bytes.len();
            } else {
                let mut records = Records::new(spot.end, rest);
                let mut taken = 0;
                while records
                    .next()
                    .is_some_and(|record| record.next_seq() <= upto)
                {
                    taken = rest.len() - records.rest().len();
                    spot.end = records.end_seq();
                }
                spot.byte += taken;
                return passed + taken;
            }
            if next_first.is_none() {
                break;
            }
            spot.segment += 1;
            spot.byte = 0;
        }
        passed
    }
}
