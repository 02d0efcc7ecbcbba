//! Templates: the constant part of a stream's chunks.

use serde::{Deserialize, Serialize};

use crate::model::event::DeltaTarget;
use crate::model::json;

/// A chunk with holes: literal bytes, and between them the contents of JSON strings that differ
/// from token to token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Template {
    /// One more literal than holes.
    pub(super) literals: Vec<serde_bytes::ByteBuf>,
    /// Index of the hole that holds the delta's text.
    pub(super) text_hole: usize,
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

    /// Returns the text among the holes of a chunk, JSON-escaped.
    pub(crate) fn text<'a>(&self, holes: &[&'a [u8]]) -> &'a [u8] {
        holes.get(self.text_hole).copied().unwrap_or_default()
    }

    /// Returns the bytes that its chunks begin with.
    pub(crate) fn beginning(&self) -> &[u8] {
        self.literals.first().map_or(&[], |literal| literal)
    }

    /// Returns the memory that the template holds, in bytes.
    pub(crate) fn memory_size(&self) -> usize {
        self.literals.iter().map(|literal| literal.len() + 24).sum()
    }

    pub(super) fn holes(&self) -> usize {
        self.literals.len().saturating_sub(1)
    }
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
