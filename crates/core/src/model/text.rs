//! A long text in pieces, which is copied without its bytes.

use std::ops::Range;
use std::sync::Arc;

/// The size at which a piece is closed. A copy of a text copies fewer bytes than this.
pub(crate) const PIECE_BYTES: usize = 16 * 1024;
/// The longest text whose pieces are gathered at its end. Copying it takes about a millisecond.
const GATHERED_BYTES: usize = 4 * 1024 * 1024;

/// A text that grows at its end. Its closed pieces are shared by all copies.
#[derive(Clone, Default)]
pub(crate) struct Text {
    closed: Option<Arc<Piece>>,
    closed_bytes: usize,
    /// Shorter than [`PIECE_BYTES`].
    open: String,
}

/// A closed piece, with all pieces before it.
struct Piece {
    text: PieceText,
    before: Option<Arc<Self>>,
    /// The length of the text up to the end of this piece, in bytes.
    end: usize,
}

/// The bytes of a piece.
enum PieceText {
    Own(String),
    /// A part of a text that is complete.
    Part(Arc<String>, Range<usize>),
}

/// The closed pieces of a text.
#[derive(Clone)]
pub(crate) struct ClosedText(Arc<Piece>);

/// One of them.
pub(crate) struct ClosedPiece(Arc<Piece>);

impl ClosedText {
    /// Returns the length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.0.end
    }

    /// Returns the pieces, the last one first.
    pub(crate) fn reversed(&self) -> Vec<ClosedPiece> {
        let mut pieces = Vec::new();
        let mut next = Some(&self.0);
        while let Some(piece) = next {
            pieces.push(ClosedPiece(piece.clone()));
            next = piece.before.as_ref();
        }
        pieces
    }
}

impl AsRef<[u8]> for ClosedPiece {
    fn as_ref(&self) -> &[u8] {
        self.0.text().as_bytes()
    }
}

impl Piece {
    fn text(&self) -> &str {
        match &self.text {
            PieceText::Own(text) => text,
            PieceText::Part(text, range) => text.get(range.clone()).unwrap_or_default(),
        }
    }
}

impl Drop for Piece {
    /// Drops the pieces before it one by one: a long text must not fill the stack.
    fn drop(&mut self) {
        let mut before = self.before.take();
        while let Some(mut piece) = before.and_then(Arc::into_inner) {
            before = piece.before.take();
        }
    }
}

/// The empty text.
pub(crate) static EMPTY: Text = Text::new();

impl Text {
    pub(crate) const fn new() -> Self {
        Self {
            closed: None,
            closed_bytes: 0,
            open: String::new(),
        }
    }

    /// Appends to the text.
    #[inline]
    pub(crate) fn push_str(&mut self, text: &str) {
        let length = self.open.len() + text.len();
        if length <= self.open.capacity() {
            self.open.push_str(text);
        } else if length < PIECE_BYTES {
            // A quarter is spare at most: a running stream holds this beside its log.
            self.open
                .reserve_exact(text.len().max(self.open.len() / 4).max(32));
            self.open.push_str(text);
        } else {
            self.push_long(text);
        }
    }

    #[cold]
    fn push_long(&mut self, text: &str) {
        self.close_piece();
        if text.len() < PIECE_BYTES {
            self.open.reserve_exact(text.len().max(32));
            self.open.push_str(text);
        } else {
            self.push_piece(text.to_owned());
        }
    }

    /// As [`Text::push_str`]. A long text is moved instead of copied.
    pub(crate) fn push_string(&mut self, text: String) {
        if text.len() < PIECE_BYTES {
            self.push_str(&text);
        } else {
            self.close_piece();
            self.push_piece(text);
        }
    }

    /// Closes the open piece, for a text that does not grow any more. Gathers the pieces of one of
    /// at most [`GATHERED_BYTES`].
    ///
    /// Texts that grow at the same time have their pieces in the same pages of the allocator. One
    /// that is kept longer than the others would keep those pages.
    pub(crate) fn close(&mut self) {
        self.close_piece();
        if let Some(last) = &self.closed
            && last.before.is_some()
            && last.end <= GATHERED_BYTES
        {
            self.gather();
        }
    }

    #[cold]
    fn gather(&mut self) {
        // Copies that were taken before keep the pieces until they are dropped.
        let pieces = self.pieces();
        let text = Arc::new(pieces.concat());
        let lengths: Vec<usize> = pieces.iter().map(|piece| piece.len()).collect();
        self.closed = None;
        self.closed_bytes = 0;
        let mut start = 0;
        for length in lengths.into_iter().filter(|length| *length > 0) {
            let range = start..start + length;
            start = range.end;
            self.push(PieceText::Part(text.clone(), range), length);
        }
    }

    fn close_piece(&mut self) {
        if !self.open.is_empty() {
            let open = std::mem::take(&mut self.open);
            self.push_piece(open);
        }
    }

    fn push_piece(&mut self, mut text: String) {
        text.shrink_to_fit();
        let length = text.len();
        self.push(PieceText::Own(text), length);
    }

    fn push(&mut self, text: PieceText, length: usize) {
        self.closed_bytes += length + size_of::<Piece>() + 16;
        let before = self.closed.take();
        self.closed = Some(Arc::new(Piece {
            end: before.as_ref().map_or(0, |piece| piece.end) + length,
            text,
            before,
        }));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.closed.is_none() && self.open.is_empty()
    }

    /// Returns the length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.closed.as_ref().map_or(0, |piece| piece.end) + self.open.len()
    }

    /// Returns the first `len` bytes; `None` if there is no character boundary. A text that was
    /// closed at this length is shared.
    pub(crate) fn prefix(&self, len: usize) -> Option<Self> {
        if len == self.len() {
            return Some(self.clone());
        }
        let mut closed = self.closed.as_ref();
        while let Some(piece) = closed.filter(|piece| piece.end > len) {
            closed = piece.before.as_ref();
        }
        if let Some(piece) = closed.filter(|piece| piece.end == len) {
            return Some(Self {
                closed: Some(piece.clone()),
                closed_bytes: len,
                open: String::new(),
            });
        }
        let mut prefix = Self::new();
        prefix.push_str(self.to_string().get(..len)?);
        Some(prefix)
    }

    /// Returns true if these are its bytes.
    pub(crate) fn equals(&self, other: &str) -> bool {
        let mut rest = other;
        other.len() == self.len()
            && self.pieces().into_iter().all(|piece| {
                let stripped = rest.strip_prefix(piece);
                rest = stripped.unwrap_or_default();
                stripped.is_some()
            })
    }

    /// Returns the closed pieces, and the rest of the text.
    pub(crate) fn split(&self) -> (Option<ClosedText>, &str) {
        (self.closed.clone().map(ClosedText), &self.open)
    }

    /// Returns the memory that the text holds, in bytes.
    pub(crate) fn memory_size(&self) -> usize {
        self.closed_bytes + self.open.capacity()
    }

    /// Returns the bytes that a copy copies.
    #[cfg(test)]
    pub(crate) fn open_bytes(&self) -> usize {
        self.open.len()
    }

    /// Returns the pieces in order.
    pub(crate) fn pieces(&self) -> Vec<&str> {
        let mut pieces = Vec::new();
        pieces.push(self.open.as_str());
        let mut closed = self.closed.as_deref();
        while let Some(piece) = closed {
            pieces.push(piece.text());
            closed = piece.before.as_deref();
        }
        pieces.reverse();
        pieces
    }

    /// Appends the text's bytes.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        if self.closed.is_some() {
            for piece in self.pieces() {
                out.extend_from_slice(piece.as_bytes());
            }
        } else {
            out.extend_from_slice(self.open.as_bytes());
        }
    }
}

impl std::fmt::Display for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.pieces()
            .into_iter()
            .try_for_each(|piece| f.write_str(piece))
    }
}

impl std::fmt::Debug for Text {
    /// Omits the content.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Text").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_is_the_concatenation_of_what_was_pushed(pushed in prop::collection::vec((0usize..40_000, any::<bool>(), any::<bool>()), 0..12)) {
            let (mut text, mut expected) = (Text::default(), String::new());
            let mut copies = Vec::new();
            for (place, (length, owned, closes)) in pushed.into_iter().enumerate() {
                let piece = char::from(b'a' + place as u8).to_string().repeat(length);
                expected.push_str(&piece);
                if owned { text.push_string(piece) } else { text.push_str(&piece) }
                if closes { text.close() }
                prop_assert!(text.open.len() < PIECE_BYTES);
                copies.push((text.clone(), expected.clone()));
            }
            copies.push((text, expected));
            for (text, expected) in copies {
                let mut written = Vec::new();
                text.write(&mut written);
                prop_assert_eq!(text.is_empty(), expected.is_empty());
                prop_assert!(text.memory_size() >= expected.len());
                prop_assert_eq!(text.len(), expected.len());
                let (closed, rest) = text.split();
                let mut joined = Vec::new();
                for piece in closed.map(|closed| closed.reversed()).unwrap_or_default().iter().rev() {
                    joined.extend_from_slice(piece.as_ref());
                }
                joined.extend_from_slice(rest.as_bytes());
                prop_assert_eq!(joined, expected.as_bytes());
                prop_assert_eq!(text.to_string(), expected.as_str());
                prop_assert!(text.equals(&expected));
                let longer = expected.clone() + "x";
                prop_assert!(!text.equals(&longer));
                for len in [0, expected.len() / 2, expected.len()] {
                    let prefix = text.prefix(len).map(|prefix| prefix.to_string());
                    prop_assert_eq!(prefix.as_deref(), Some(&expected[..len]));
                }
                prop_assert!(text.prefix(expected.len() + 1).is_none());
                prop_assert_eq!(written, expected.into_bytes());
            }
        }
    }

    #[test]
    fn complete_text_is_gathered_unless_it_is_very_long() {
        for (pieces, gathered) in [(3, true), (GATHERED_BYTES / PIECE_BYTES + 1, false)] {
            let mut text = Text::default();
            for _ in 0..pieces {
                text.push_str(&"\u{e9}".repeat(PIECE_BYTES / 2));
            }
            let copy = text.clone();
            text.close();
            text.close();
            let parts = text.pieces();
            let adjacent =
                |pair: &[&str]| pair[0].as_bytes().as_ptr_range().end == pair[1].as_ptr();
            assert_eq!(parts[..pieces].windows(2).all(adjacent), gathered);
            assert!(parts.iter().all(|piece| piece.len() <= PIECE_BYTES));
            assert_eq!(text.to_string(), copy.to_string());
        }
    }

    #[test]
    fn copy_of_a_long_text_shares_its_pieces() {
        let mut text = Text::default();
        for _ in 0..40_000 {
            text.push_str(&"x".repeat(1000));
        }
        let copy = text.clone();
        let (Some(a), Some(b)) = (&text.closed, &copy.closed) else {
            panic!("a long text has closed pieces")
        };
        assert!(Arc::ptr_eq(a, b));
        // Dropping it does not recurse: the stack of a test thread would not take it.
        drop(text);
        drop(copy);
    }
}
