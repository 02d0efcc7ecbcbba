//! Records: the events that one upstream chunk caused, in their stored form.
//!
//! Most chunks of a token stream differ in their text only. A [`Template`] holds the constant part
//! once per generation. A record of such a chunk is the template's number and the text of its
//! holes. Every other record is a `FullRecord`. Both forms return the chunk byte for byte.

mod batch;
mod template;
mod varint;

use serde::{Deserialize, Serialize};

use crate::model::event::EventKind;
use crate::model::output::Output;

pub use batch::{BatchPosition, RecordBatch, RecordRef, Records};
pub use template::Template;
pub(crate) use template::{Holes, KnownTemplate};

/// The numbers that a terminal event skips if chat readers get a finish chunk and a usage chunk made
/// from it.
pub(crate) const CLOSING_NUMBERS: u64 = 2;

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
        let last = template.holes().checked_sub(1)?;
        let mut rest = self.0;
        for hole in 0..last {
            let length = varint::take_len(&mut rest)?;
            let (inside, after) = rest.split_at_checked(length)?;
            if hole == template.text_hole {
                return Some(inside);
            }
            rest = after;
        }
        (template.text_hole == last).then_some(rest)
    }

    /// Appends the chunk that the template and these holes came from.
    pub(crate) fn chunk(self, template: &Template, out: &mut impl Output) -> Option<()> {
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
            let length = varint::take_len(&mut rest)?;
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
        if let Some((template, holes)) = Self::delta(payload)? {
            return Ok(Self::Delta { template, holes });
        }
        match payload.split_first() {
            Some((&TAG_FULL, rest)) => postcard::from_bytes(rest)
                .map(|full| Self::Full(Box::new(full)))
                .map_err(|_| CorruptRecord),
            _ => Err(CorruptRecord),
        }
    }

    /// Returns the template's number and the holes of a delta; `None` for a record of another form,
    /// which is not decoded.
    #[inline]
    pub(crate) fn delta(
        payload: &'a [u8],
    ) -> Result<Option<(usize, StoredHoles<'a>)>, CorruptRecord> {
        let Some((&tag, mut rest)) = payload.split_first() else {
            return Ok(None);
        };
        if tag != TAG_DELTA && tag != TAG_FIRST_DELTA {
            return Ok(None);
        }
        let template = varint::take_len(&mut rest).ok_or(CorruptRecord)?;
        if tag == TAG_FIRST_DELTA {
            let length = varint::take_len(&mut rest).ok_or(CorruptRecord)?;
            rest = rest.get(length..).ok_or(CorruptRecord)?;
        }
        Ok(Some((template, StoredHoles(rest))))
    }

    /// Returns the stored form of a full record; `None` for a record of another form.
    pub(crate) fn full(payload: &'a [u8]) -> Option<&'a [u8]> {
        payload.strip_prefix(&[TAG_FULL])
    }

    /// Returns the template that a record's payload defines, and its number.
    pub(crate) fn template(payload: &[u8]) -> Result<Option<(usize, Template)>, CorruptRecord> {
        let Some(mut rest) = payload.strip_prefix(&[TAG_FIRST_DELTA]) else {
            return Ok(None);
        };
        let number = varint::take_len(&mut rest).ok_or(CorruptRecord)?;
        let length = varint::take_len(&mut rest).ok_or(CorruptRecord)?;
        let template = rest.get(..length).ok_or(CorruptRecord)?;
        let template = postcard::from_bytes(template).map_err(|_| CorruptRecord)?;
        Ok(Some((number, template)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::{DeltaKind, DeltaTarget};
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
            } = Content::decode(batch.iter().next().unwrap().payload).unwrap()
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
        let payload = batch.iter().next().unwrap().payload;
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
        fn decoding_never_panics(payload in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(Content::Delta { holes, .. }) = Content::decode(&payload) {
                let template = Template { literals: vec![serde_bytes::ByteBuf::new(); 4], text_hole: 1, target: target() };
                let _ = holes.text(&template);
            }
        }
    }
}
