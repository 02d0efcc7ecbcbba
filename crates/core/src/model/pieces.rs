//! Bytes in pieces, the large ones of which are shared with what they were written from.
//!
//! An answer of some MiB is repeated in its closing events, in its response object and in a reset.
//! In pieces, each of them costs a few hundred bytes, however many readers take it at whatever pace.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::output::Output;
use super::text::{ClosedPiece, ClosedText, Text};

/// Shorter pieces are copied.
const SHARE_FROM: usize = 1024;

/// The most bytes that a [`PieceReader`] returns at once.
pub(crate) const MAX_PIECE: usize = 32 * 1024;

/// Bytes in pieces.
#[derive(Default)]
pub struct Pieces {
    list: Vec<Piece>,
    /// What follows them.
    open: Vec<u8>,
    len: usize,
    /// Bytes of these pieces that nothing else holds.
    owned: usize,
    /// Large slices of it are shared.
    source: Option<Bytes>,
}

enum Piece {
    Bytes(Bytes),
    Text(ClosedText),
}

impl fmt::Debug for Pieces {
    /// Omits the content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pieces")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Pieces {
    /// Creates empty pieces that share the bytes which `source` has as well.
    pub(crate) fn of(source: Option<Bytes>) -> Self {
        Self {
            source,
            ..Self::default()
        }
    }

    /// Returns the length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns true if there is no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the memory that only these pieces hold, in bytes.
    pub(crate) fn memory_size(&self) -> usize {
        self.owned + self.list.capacity() * size_of::<Piece>()
    }

    /// Returns the last byte, unless it belongs to a shared text.
    pub(crate) fn last(&self) -> Option<u8> {
        let last = match self.list.last() {
            Some(Piece::Bytes(bytes)) => bytes.last(),
            _ => None,
        };
        self.open.last().or(last).copied()
    }

    /// Removes the last byte, unless it belongs to a shared text.
    pub(crate) fn pop(&mut self) {
        if self.open.pop().is_some() {
            self.len -= 1;
        } else if let Some(Piece::Bytes(bytes)) = self.list.last_mut() {
            bytes.truncate(bytes.len() - 1);
            self.len -= 1;
        }
    }

    /// Returns all bytes, in pieces of at most 32 KiB.
    #[must_use]
    pub fn read(mut self) -> PieceReader {
        self.close();
        Arc::new(self).into()
    }

    /// Ends the buffer that is appended to.
    pub(crate) fn close(&mut self) {
        if !self.open.is_empty() {
            let open = std::mem::take(&mut self.open).into_boxed_slice();
            self.owned += open.len();
            self.list.push(Piece::Bytes(open.into()));
        }
    }

    fn add(&mut self, piece: Piece, len: usize) {
        self.close();
        self.list.push(piece);
        self.len += len;
    }

    /// Returns the slice of the source that equals these bytes.
    fn find(&self, bytes: &[u8]) -> Option<Bytes> {
        let source = self.source.as_ref()?;
        // Usually the bytes lie in the source. Those that were decoded are a copy of it.
        let at = (bytes.as_ptr() as usize).wrapping_sub(source.as_ptr() as usize);
        let end = at.saturating_add(bytes.len());
        if end <= source.len() {
            return Some(source.slice(at..end));
        }
        let at = memchr::memmem::find(source, bytes)?;
        Some(source.slice(at..at + bytes.len()))
    }
}

impl Output for Pieces {
    fn extend_from_slice(&mut self, bytes: &[u8]) {
        match (bytes.len() >= SHARE_FROM).then(|| self.find(bytes)) {
            Some(Some(shared)) => self.add(Piece::Bytes(shared), bytes.len()),
            _ => {
                self.len += bytes.len();
                self.open.extend_from_slice(bytes);
            }
        }
    }

    fn push(&mut self, byte: u8) {
        self.len += 1;
        self.open.push(byte);
    }

    fn text(&mut self, text: &Text) {
        let (closed, rest) = text.split();
        if let Some(closed) = closed {
            let len = closed.len();
            if len >= SHARE_FROM {
                self.add(Piece::Text(closed), len);
            } else {
                for piece in closed.reversed().iter().rev() {
                    self.open.extend_from_slice(piece.as_ref());
                }
                self.len += len;
            }
        }
        self.open.extend_from_slice(rest.as_bytes());
        self.len += rest.len();
    }

    fn share<T: AsRef<[u8]> + Clone + Send + 'static>(&mut self, owner: &T) {
        let len = owner.as_ref().len();
        if len >= SHARE_FROM {
            self.add(Piece::Bytes(Bytes::from_owner(owner.clone())), len);
        } else {
            self.extend_from_slice(owner.as_ref());
        }
    }
}

/// Returns [`Pieces`] in order, each of at most 32 KiB.
pub struct PieceReader {
    pieces: Arc<Pieces>,
    /// The next one.
    next: usize,
    /// The rest of the current text, the last piece first.
    text: Vec<ClosedPiece>,
    rest: Bytes,
}

impl fmt::Debug for PieceReader {
    /// Omits the content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PieceReader")
            .field("pieces", &self.pieces)
            .finish_non_exhaustive()
    }
}

impl From<Arc<Pieces>> for PieceReader {
    /// Reads closed pieces.
    fn from(pieces: Arc<Pieces>) -> Self {
        Self {
            pieces,
            next: 0,
            text: Vec::new(),
            rest: Bytes::new(),
        }
    }
}

impl PieceReader {
    /// Whether every piece was returned.
    pub(crate) fn is_done(&self) -> bool {
        self.rest.is_empty() && self.text.is_empty() && self.next == self.pieces.list.len()
    }
}

impl Iterator for PieceReader {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.rest.is_empty() {
                let length = self.rest.len().min(MAX_PIECE);
                return Some(self.rest.split_to(length));
            }
            if let Some(piece) = self.text.pop() {
                self.rest = Bytes::from_owner(piece);
                continue;
            }
            self.text = Vec::new();
            match self.pieces.list.get(self.next)? {
                Piece::Bytes(bytes) => self.rest = bytes.clone(),
                Piece::Text(text) => self.text = text.reversed(),
            }
            self.next += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(pieces: Pieces) -> Vec<u8> {
        let length = pieces.len();
        let mut all = Vec::new();
        for piece in pieces.read() {
            assert!(!piece.is_empty() && piece.len() <= MAX_PIECE);
            all.extend_from_slice(&piece);
        }
        assert_eq!(all.len(), length);
        all
    }

    #[test]
    fn pieces_are_what_was_written() {
        let mut text = Text::default();
        let mut long = String::new();
        for number in 0..20_000 {
            let token = format!("{number} ");
            text.push_str(&token);
            long.push_str(&token);
        }
        let large = Bytes::from("y".repeat(3 * MAX_PIECE + 7));
        let mut pieces = Pieces::of(Some(large.clone()));
        let mut expected = Vec::new();
        for _ in 0..3 {
            pieces.extend_from_slice(b"head");
            pieces.text(&text);
            pieces.push(b'"');
            pieces.share(&large);
            pieces.extend_from_slice(&large[5..]);
            pieces.share(&"short");
            expected.extend_from_slice(
                [
                    b"head",
                    long.as_bytes(),
                    b"\"",
                    &large,
                    &large[5..],
                    b"short",
                ]
                .concat()
                .as_slice(),
            );
        }
        assert_eq!(pieces.last(), Some(b't'));
        pieces.pop();
        expected.pop();
        pieces.close();
        // Only the open end of the text is copied.
        assert!(pieces.memory_size() < 3 * 16 * 1024 + 2048);
        assert_eq!(joined(pieces), expected);
    }

    #[test]
    fn last_byte_of_a_shared_piece_can_be_removed() {
        let object = Bytes::from(format!("{{{}}}", " ".repeat(5000)));
        let mut pieces = Pieces::of(Some(object.clone()));
        pieces.extend_from_slice(&object);
        assert_eq!(pieces.last(), Some(b'}'));
        pieces.pop();
        assert_eq!(joined(pieces), object[..object.len() - 1]);
    }
}
