//! Frames in pieces.
//!
//! ```text
//!   before   payload                                             after
//!   ┌───────┬────────┬──────────────┬──────────────┬────────────┬──────┐
//!   │ data: │ {"type │ shared piece │ shared piece │ …","status │ ⏎⏎   │
//!   └───────┴────────┴──────────────┴──────────────┴────────────┴──────┘
//! ```

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};

use super::frame_output::{FrameOutput, FrameTarget};
use super::{Frame, Framing};
use crate::model::id::{GenerationId, Seq};
use crate::model::output::Output as _;
use crate::model::pieces::{PieceReader, Pieces};

/// One event for one reader, before framing, whose payload is in pieces.
#[derive(Clone, Copy, Debug)]
pub struct FrameHead<'a> {
    /// As [`Frame::seq`].
    pub seq: Seq,
    /// As [`Frame::name`].
    pub name: Option<&'static str>,
    /// As [`Frame::relayed_name`].
    pub relayed_name: Option<&'a str>,
    /// The payload's length in bytes.
    pub length: usize,
    /// The payload's last byte.
    pub last: Option<u8>,
}

/// What a framing puts around a payload.
#[derive(Clone, Debug, Default)]
pub struct Wrapping {
    /// The bytes before the payload.
    pub before: BytesMut,
    /// Whether the payload's last byte is left out.
    pub cuts_last: bool,
    /// The bytes after the payload.
    pub after: BytesMut,
    /// What replaces a line end (CR, LF or CRLF) of the payload, unless it stays.
    pub line_end: Option<&'static [u8]>,
}

/// A frame whose payload is in pieces.
#[derive(Debug)]
struct LargeFrame {
    before: Bytes,
    payload: Arc<Pieces>,
    after: Bytes,
    line_end: Option<&'static [u8]>,
}

/// The frames of one record.
#[derive(Debug, Default)]
pub(crate) struct LargeFrames {
    /// Large slices of it are shared.
    source: Option<Bytes>,
    list: Vec<LargeFrame>,
}

/// Returns a frame in order, in pieces.
#[derive(Debug)]
pub(crate) struct FrameReader {
    before: Bytes,
    payload: PieceReader,
    after: Bytes,
    line_end: Option<&'static [u8]>,
    /// Whether the last piece ended with CR. An LF after it belongs to the same line end.
    after_cr: bool,
}

// === impl LargeFrames ===

impl LargeFrames {
    /// Creates an empty list for a record, whose bytes are `source` if they are shared.
    pub(crate) fn of(source: Option<Bytes>) -> Self {
        Self {
            source,
            list: Vec::new(),
        }
    }

    /// Returns the frame of one event without a name.
    pub(crate) fn one(framing: &dyn Framing, id: &GenerationId, seq: Seq, payload: Pieces) -> Self {
        let mut frames = Self::default();
        let head = FrameHead {
            seq,
            name: None,
            relayed_name: None,
            length: payload.len(),
            last: payload.last(),
        };
        frames.push(framing, id, &head, payload);
        frames
    }

    /// Returns the memory that only these frames hold, in bytes.
    pub(crate) fn memory_size(&self) -> usize {
        let frame = |frame: &LargeFrame| {
            size_of::<LargeFrame>()
                + frame.before.len()
                + frame.after.len()
                + frame.payload.memory_size()
        };
        self.list.iter().map(frame).sum()
    }

    /// Returns the number of frames.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// Begins with the frame of this index.
    pub(crate) fn read(&self, index: usize) -> Option<FrameReader> {
        self.list.get(index).map(|frame| FrameReader {
            before: frame.before.clone(),
            payload: frame.payload.clone().into(),
            after: frame.after.clone(),
            line_end: frame.line_end,
            after_cr: false,
        })
    }

    fn push(
        &mut self,
        framing: &dyn Framing,
        id: &GenerationId,
        frame: &FrameHead<'_>,
        mut payload: Pieces,
    ) {
        let Some(wrapping) = framing.wrap(id, frame) else {
            return self.push_whole(framing, id, frame, payload);
        };
        if wrapping.cuts_last {
            payload.pop();
        }
        payload.close();
        self.list.push(LargeFrame {
            before: wrapping.before.freeze(),
            payload: Arc::new(payload),
            after: wrapping.after.freeze(),
            line_end: wrapping.line_end,
        });
    }

    fn push_whole(
        &mut self,
        framing: &dyn Framing,
        id: &GenerationId,
        head: &FrameHead<'_>,
        payload: Pieces,
    ) {
        let data = payload.read().collect::<Vec<_>>().concat();
        let frame = Frame {
            seq: head.seq,
            name: head.name,
            relayed_name: head.relayed_name,
            data: &data,
        };
        let mut before = BytesMut::new();
        framing.frame(id, &frame, &mut before);
        self.list.push(LargeFrame {
            before: before.freeze(),
            payload: Arc::default(),
            after: Bytes::new(),
            line_end: None,
        });
    }
}

impl FrameOutput for LargeFrames {
    type Payload = Pieces;

    fn put_frame(&mut self, framing: &dyn Framing, id: &GenerationId, frame: &Frame<'_>) {
        let mut payload = Pieces::of(self.source.clone());
        payload.extend_from_slice(frame.data);
        let head = FrameHead {
            seq: frame.seq,
            name: frame.name,
            relayed_name: frame.relayed_name,
            length: payload.len(),
            last: payload.last(),
        };
        self.push(framing, id, &head, payload);
    }

    fn write_frame(
        &mut self,
        to: &FrameTarget<'_>,
        _: &mut Vec<u8>,
        write: impl FnOnce(&mut Pieces) -> Option<&'static str>,
    ) {
        let mut payload = Pieces::of(self.source.clone());
        let head = FrameHead {
            name: write(&mut payload),
            seq: to.seq,
            relayed_name: to.relayed_name,
            length: payload.len(),
            last: payload.last(),
        };
        self.push(to.framing, to.id, &head, payload);
    }
}

// === impl FrameReader ===

/// Begins with the first frame.
impl From<LargeFrames> for FrameReader {
    fn from(frames: LargeFrames) -> Self {
        frames.read(0).unwrap_or_else(|| Pieces::default().into())
    }
}

/// Reads closed pieces as they are.
impl From<Pieces> for FrameReader {
    fn from(payload: Pieces) -> Self {
        Self {
            before: Bytes::new(),
            payload: Arc::new(payload).into(),
            after: Bytes::new(),
            line_end: None,
            after_cr: false,
        }
    }
}

impl FrameReader {
    /// Whether every piece was returned.
    pub(crate) fn is_done(&self) -> bool {
        self.before.is_empty() && self.payload.is_done() && self.after.is_empty()
    }

    /// Replaces the line ends of a piece.
    fn replace_line_ends(&mut self, mut piece: Bytes) -> Bytes {
        let Some(line_end) = self.line_end else {
            return piece;
        };
        if std::mem::take(&mut self.after_cr) && piece.first() == Some(&b'\n') {
            piece = piece.slice(1..);
        }
        if memchr::memchr2(b'\n', b'\r', &piece).is_none() {
            return piece;
        }
        let mut rest = &piece[..];
        let mut out = BytesMut::with_capacity(rest.len() + 64);
        while let Some(at) = memchr::memchr2(b'\n', b'\r', rest) {
            out.put_slice(&rest[..at]);
            out.put_slice(line_end);
            let is_cr = rest[at] == b'\r';
            rest = &rest[at + 1..];
            self.after_cr = is_cr && rest.is_empty();
            if is_cr && rest.first() == Some(&b'\n') {
                rest = &rest[1..];
            }
        }
        out.put_slice(rest);
        out.freeze()
    }
}

impl Iterator for FrameReader {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if !self.before.is_empty() {
            return Some(std::mem::take(&mut self.before));
        }
        while let Some(piece) = self.payload.next() {
            let piece = self.replace_line_ends(piece);
            if !piece.is_empty() {
                return Some(piece);
            }
        }
        (!self.after.is_empty()).then(|| std::mem::take(&mut self.after))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn line_ends_are_replaced_wherever_pieces_end(
            texts in prop::collection::vec("[ab\r\n]{1,6}", 1..8),
        ) {
            let mut payload = Pieces::default();
            for text in &texts {
                // Long enough to be a piece by itself.
                payload.share(&Bytes::from(text.repeat(2000)));
            }
            payload.close();
            let whole: String = texts.iter().map(|text| text.repeat(2000)).collect();
            let mut reader = FrameReader {
                line_end: Some(b"\n> "),
                ..FrameReader::from(payload)
            };
            let mut all = Vec::new();
            for piece in reader.by_ref() {
                prop_assert!(!piece.is_empty());
                all.extend_from_slice(&piece);
            }
            prop_assert!(reader.is_done());
            let expected = whole
                .replace("\r\n", "\n")
                .replace('\r', "\n")
                .replace('\n', "\n> ");
            prop_assert_eq!(String::from_utf8(all).unwrap(), expected);
        }
    }
}
