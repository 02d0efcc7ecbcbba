//! Records: the events that one upstream chunk caused, in their stored form.
//!
//! Most chunks of a token stream differ in their text only. A [`Template`] holds the constant part
//! once per generation. A record of such a chunk is the template's number and the text of its
//! holes. Every other record is a `FullRecord`. Both forms return the chunk byte for byte.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::event::{DeltaTarget, EventKind};
use crate::model::id::Seq;
use crate::model::json;

/// A chunk with holes: literal bytes, and between them the contents of JSON strings that differ
/// from token to token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Template {
    /// One more literal than holes.
    literals: Vec<serde_bytes::ByteBuf>,
    /// Index of the hole that holds the delta's text.
    text_hole: usize,
    /// The item and part that the delta's text is appended to.
    pub target: DeltaTarget,
}

/// Maximum holes per template: the text, and up to three padding fields.
pub(crate) const MAX_HOLES: usize = 4;

/// The contents of a chunk's holes, borrowed from the chunk.
pub(crate) type Holes<'a> = smallvec::SmallVec<[&'a [u8]; MAX_HOLES]>;

impl Template {
    /// Cuts `holes` (byte ranges of string contents, in order, at most [`MAX_HOLES`]) out of
    /// `chunk`.
    pub(crate) fn cut(
        chunk: &[u8],
        holes: &[std::ops::Range<usize>],
        text_hole: usize,
        target: DeltaTarget,
    ) -> Option<Self> {
        if holes.is_empty() || holes.len() > MAX_HOLES || text_hole >= holes.len() {
            return None;
        }
        let mut literals = Vec::with_capacity(holes.len() + 1);
        let mut at = 0;
        for hole in holes {
            literals.push(serde_bytes::ByteBuf::from(chunk.get(at..hole.start)?));
            at = hole.end;
        }
        literals.push(serde_bytes::ByteBuf::from(chunk.get(at..)?));
        Some(Self {
            literals,
            text_hole,
            target,
        })
    }

    /// Returns the holes of `chunk` if it matches this template and its text is not empty.
    pub(crate) fn match_chunk<'a>(&self, chunk: &'a [u8]) -> Option<Holes<'a>> {
        let (first, others) = self.literals.split_first()?;
        let (last, _) = others.split_last()?;
        let mut rest = chunk.strip_prefix(first.as_slice())?;
        // Check the end first: it is cheap, and most other chunks differ there.
        if !chunk.ends_with(last) {
            return None;
        }
        let mut holes = Holes::new();
        for literal in others {
            let length = json::string_inside_len(rest)?;
            let (inside, after) = rest.split_at(length);
            if !json::is_string_inside(inside) {
                return None;
            }
            holes.push(inside);
            rest = after.strip_prefix(literal.as_slice())?;
        }
        (rest.is_empty() && !holes[self.text_hole].is_empty()).then_some(holes)
    }

    /// Returns the length of the text among the holes of a chunk, in bytes.
    pub(crate) fn text_len(&self, holes: &[&[u8]]) -> usize {
        holes.get(self.text_hole).map_or(0, |text| text.len())
    }

    /// Returns the memory that the template holds, in bytes.
    pub(crate) fn memory_size(&self) -> usize {
        self.literals.iter().map(|literal| literal.len() + 24).sum()
    }

    fn holes(&self) -> usize {
        self.literals.len().saturating_sub(1)
    }
}

/// A record that is stored in full.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct FullRecord<'a> {
    /// At least one event.
    pub events: Vec<EventKind>,
    /// The upstream's chunk.
    #[serde(borrow)]
    pub raw: Option<&'a serde_bytes::Bytes>,
}

const TAG_DELTA: u8 = 1;
const TAG_FULL: u8 = 2;
/// The first delta of a template, with the template before it. A reader that starts at the
/// beginning of the log gets the template here.
const TAG_FIRST_DELTA: u8 = 3;

/// A decoded record.
#[derive(Debug)]
pub(crate) enum Content<'a> {
    /// A template's number and the holes' bytes, which the template splits.
    Delta {
        template: usize,
        holes: StoredHoles<'a>,
    },
    /// Any other record.
    Full(Box<FullRecord<'a>>),
}

/// The holes of a stored delta.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoredHoles<'a>(&'a [u8]);

impl<'a> StoredHoles<'a> {
    /// Returns the delta's text, JSON-escaped.
    pub(crate) fn text(self, template: &Template) -> Option<&'a [u8]> {
        self.split(template.holes())?
            .get(template.text_hole)
            .copied()
    }

    /// Appends the chunk that the template and these holes came from.
    pub(crate) fn chunk(self, template: &Template, out: &mut Vec<u8>) -> Option<()> {
        let holes = self.split(template.holes())?;
        let (first, others) = template.literals.split_first()?;
        out.extend_from_slice(first);
        for (inside, literal) in holes.iter().zip(others) {
            out.extend_from_slice(inside);
            out.extend_from_slice(literal);
        }
        Some(())
    }

    /// Splits the bytes: each hole but the last is preceded by its length.
    fn split(self, count: usize) -> Option<Holes<'a>> {
        let mut holes = Holes::new();
        let mut rest = self.0;
        for _ in 1..count {
            let length = take_varint(&mut rest)?;
            let (inside, after) = rest.split_at_checked(length)?;
            holes.push(inside);
            rest = after;
        }
        holes.push(rest);
        Some(holes)
    }
}

/// The payload of a record cannot be decoded: it is damaged or was written by another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stored record cannot be decoded")]
pub struct CorruptRecord;

impl<'a> Content<'a> {
    /// Decodes a record's payload.
    pub(crate) fn decode(payload: &'a [u8]) -> Result<Self, CorruptRecord> {
        let (&tag, mut rest) = payload.split_first().ok_or(CorruptRecord)?;
        match tag {
            TAG_DELTA => {
                let template = take_varint(&mut rest).ok_or(CorruptRecord)?;
                Ok(Self::Delta {
                    template,
                    holes: StoredHoles(rest),
                })
            }
            TAG_FIRST_DELTA => {
                let template = take_varint(&mut rest).ok_or(CorruptRecord)?;
                let length = take_varint(&mut rest).ok_or(CorruptRecord)?;
                let holes = rest.get(length..).ok_or(CorruptRecord)?;
                Ok(Self::Delta {
                    template,
                    holes: StoredHoles(holes),
                })
            }
            TAG_FULL => postcard::from_bytes(rest)
                .map(|full| Self::Full(Box::new(full)))
                .map_err(|_| CorruptRecord),
            _ => Err(CorruptRecord),
        }
    }
}

/// Encoded records in order: the unit of appending and reading. Batches are reused, so that a token
/// costs no allocation.
#[derive(Default)]
pub struct RecordBatch {
    first: Seq,
    bytes: Vec<u8>,
    ends: Vec<End>,
}

impl fmt::Debug for RecordBatch {
    /// Omits the records, which hold message content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordBatch")
            .field("first", &self.first)
            .field("records", &self.ends.len())
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug)]
struct End {
    next_seq: u64,
    byte: usize,
}

/// One record of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// The number of its first event.
    pub first_seq: Seq,
    /// Number of events, at least one.
    pub events: u64,
    /// The encoded record.
    pub payload: &'a [u8],
}

impl RecordBatch {
    /// Empties the batch; the next record pushed starts at `first`.
    pub fn restart(&mut self, first: Seq) {
        self.first = first;
        self.bytes.clear();
        self.ends.clear();
        // A large chunk must not keep its memory for the rest of the stream.
        self.bytes.shrink_to(16 * 1024);
        self.ends.shrink_to(256);
    }

    /// Empties the batch and frees its memory, for a batch that may wait long for its next use.
    pub fn release(&mut self) {
        let next = self.next_seq();
        *self = Self {
            first: next,
            ..Self::default()
        };
    }

    /// Returns true if the batch holds no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns the number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns the size of all payloads, in bytes.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the number of the first event.
    #[must_use]
    pub fn first_seq(&self) -> Seq {
        self.first
    }

    /// Returns the number that the next event gets.
    #[must_use]
    pub fn next_seq(&self) -> Seq {
        self.ends.last().map_or(self.first, |end| Seq(end.next_seq))
    }

    /// Appends an encoded record.
    pub fn push(&mut self, events: u64, payload: &[u8]) {
        self.bytes.extend_from_slice(payload);
        self.close(events);
    }

    /// Appends a delta that matches a template.
    pub(crate) fn push_delta(&mut self, template: usize, holes: &[&[u8]]) {
        self.bytes.push(TAG_DELTA);
        push_varint(&mut self.bytes, template);
        self.push_holes(holes);
    }

    /// Appends the first delta of a template, together with the template, which gets this number.
    pub(crate) fn push_first_delta(&mut self, number: usize, template: &Template, holes: &[&[u8]]) {
        self.bytes.push(TAG_FIRST_DELTA);
        push_varint(&mut self.bytes, number);
        // Serializing plain data into a Vec cannot fail.
        let template = postcard::to_stdvec(template).unwrap_or_default();
        push_varint(&mut self.bytes, template.len());
        self.bytes.extend_from_slice(&template);
        self.push_holes(holes);
    }

    #[inline]
    fn push_holes(&mut self, holes: &[&[u8]]) {
        if let Some((last, sized)) = holes.split_last() {
            for inside in sized {
                push_varint(&mut self.bytes, inside.len());
                self.bytes.extend_from_slice(inside);
            }
            self.bytes.extend_from_slice(last);
        }
        self.close(1);
    }

    /// Appends a full record.
    pub(crate) fn push_full(&mut self, full: &FullRecord<'_>) {
        self.bytes.push(TAG_FULL);
        let bytes = std::mem::take(&mut self.bytes);
        // Serializing plain data into a Vec cannot fail.
        self.bytes = postcard::to_extend(full, bytes).unwrap_or_default();
        self.close(full.events.len() as u64);
    }

    fn close(&mut self, events: u64) {
        let next_seq = self.next_seq().0 + events;
        self.ends.push(End {
            next_seq,
            byte: self.bytes.len(),
        });
    }

    /// Returns the record at `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<RecordRef<'_>> {
        let end = self.ends.get(index)?;
        let (first_seq, start) = match index
            .checked_sub(1)
            .and_then(|before| self.ends.get(before))
        {
            Some(before) => (before.next_seq, before.byte),
            None => (self.first.0, 0),
        };
        Some(RecordRef {
            first_seq: Seq(first_seq),
            events: end.next_seq - first_seq,
            payload: &self.bytes[start..end.byte],
        })
    }

    /// Iterates over the records in order.
    pub fn iter(&self) -> impl Iterator<Item = RecordRef<'_>> {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

fn push_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(input: &mut &[u8]) -> Option<usize> {
    let mut value = 0usize;
    for shift in (0..usize::BITS).step_by(7) {
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        value |= usize::from(byte & 0x7F).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A template with the constant bytes that the responses dialect writes around its deltas.
#[derive(Debug)]
pub(crate) struct KnownTemplate {
    pub(crate) template: Template,
    /// Whether its text is part of the bare answer: text or refusal of the first choice.
    pub(crate) is_answer: bool,
    /// `,"item_id":"…","output_index":0,"content_index":0,"delta":"`
    pub(crate) event_middle: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::DeltaKind;
    use proptest::prelude::*;

    fn target() -> DeltaTarget {
        DeltaTarget {
            item: 0,
            part: 0,
            kind: DeltaKind::Text,
        }
    }

    #[test]
    fn template_restores_every_matching_chunk() {
        let first = br#"{"id":"x","choices":[{"delta":{"content":"Hi"}}],"obfuscation":"abc"}"#;
        let span = |inside: &str| {
            let start = std::str::from_utf8(first).unwrap().find(inside).unwrap();
            start..start + inside.len()
        };
        let template = Template::cut(first, &[span("Hi"), span("abc")], 0, target()).unwrap();

        for (chunk, expected) in [
            (
                r#"{"id":"x","choices":[{"delta":{"content":" \"you\" "}}],"obfuscation":""}"#,
                Some(r#" \"you\" "#),
            ),
            (
                r#"{"id":"x","choices":[{"delta":{"content":"Hi"}}],"obfuscation":"abc"}"#,
                Some("Hi"),
            ),
            (
                r#"{"id":"x","choices":[{"delta":{"content":""}}],"obfuscation":"abc"}"#,
                None,
            ),
            (
                r#"{"id":"y","choices":[{"delta":{"content":"Hi"}}],"obfuscation":"abc"}"#,
                None,
            ),
            (
                r#"{"id":"x","choices":[{"delta":{"content":"Hi","more":1}}],"obfuscation":"abc"}"#,
                None,
            ),
            (
                r#"{"id":"x","choices":[{"delta":{"content":"\x"}}],"obfuscation":"abc"}"#,
                None,
            ),
        ] {
            let holes = template.match_chunk(chunk.as_bytes());
            assert_eq!(holes.is_some(), expected.is_some(), "{chunk}");
            let (Some(holes), Some(expected)) = (holes, expected) else {
                continue;
            };
            let mut batch = RecordBatch::default();
            batch.push_delta(300, &holes);
            let Content::Delta {
                template: number,
                holes,
            } = Content::decode(batch.get(0).unwrap().payload).unwrap()
            else {
                panic!("a delta")
            };
            assert_eq!(number, 300);
            assert_eq!(holes.text(&template), Some(expected.as_bytes()));
            let mut back = Vec::new();
            holes.chunk(&template, &mut back).unwrap();
            assert_eq!(String::from_utf8(back).unwrap(), chunk);
        }
    }

    #[test]
    fn first_delta_of_a_template_decodes_as_a_delta() {
        let chunk = br#"{"choices":[{"delta":{"content":"Hi"}}]}"#;
        let start = chunk.windows(2).position(|window| window == b"Hi").unwrap();
        let template = Template::cut(
            chunk,
            std::slice::from_ref(&(start..start + 2)),
            0,
            target(),
        )
        .unwrap();
        let mut batch = RecordBatch::default();
        batch.push_first_delta(7, &template, &template.match_chunk(chunk).unwrap());
        let payload = batch.get(0).unwrap().payload;
        let Content::Delta {
            template: number,
            holes,
        } = Content::decode(payload).unwrap()
        else {
            panic!("a delta")
        };
        let mut back = Vec::new();
        holes.chunk(&template, &mut back).unwrap();
        assert_eq!((number, back.as_slice()), (7, chunk.as_slice()));
        for length in 0..payload.len() - 2 {
            assert!(
                Content::decode(&payload[..length]).is_err(),
                "cut to {length}"
            );
        }
    }

    proptest! {
        #[test]
        fn batch_returns_the_pushed_records(records in proptest::collection::vec((1u64..4, proptest::collection::vec(any::<u8>(), 0..20)), 0..20), first in 0u64..1000) {
            let mut batch = RecordBatch::default();
            batch.restart(Seq(first));
            for (events, payload) in &records {
                batch.push(*events, payload);
            }
            let mut next = first;
            for (index, record) in batch.iter().enumerate() {
                prop_assert_eq!(record.first_seq, Seq(next));
                prop_assert_eq!((record.events, record.payload), (records[index].0, records[index].1.as_slice()));
                next += record.events;
            }
            prop_assert_eq!(batch.next_seq(), Seq(next));
            prop_assert_eq!(batch.len(), records.len());
        }

        #[test]
        fn decoding_never_panics(payload in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(Content::Delta { holes, .. }) = Content::decode(&payload) {
                let template = Template { literals: vec![serde_bytes::ByteBuf::new(); 4], text_hole: 1, target: target() };
                let _ = holes.text(&template);
            }
        }
    }
}
