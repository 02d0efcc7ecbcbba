//! What several readers see alike is encoded once.
//!
//! Readers of one stream that keep up stand at the same place, and want the same bytes. The first
//! to come encodes them and leaves them here; the others take them as they are. Nothing waits for
//! anybody: a reader that stands elsewhere encodes for itself.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::dialect::{Dialect, Rendered};
use crate::id::Seq;

/// How many pieces are kept, and how many bytes.
const MAX_PIECES: usize = 16;
const MAX_BYTES: usize = 128 * 1024;

/// A dialect, and a framing that wraps alike for every reader.
pub(crate) type Shape = (Dialect, &'static str);

/// Encoded records from one place on.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) shape: Shape,
    /// The first event of the first record.
    pub(crate) first: Seq,
    /// The event after the last.
    pub(crate) next: Seq,
    pub(crate) bytes: Bytes,
    pub(crate) rendered: Rendered,
}

/// The latest pieces of one generation.
#[derive(Debug, Default)]
pub(crate) struct Shared(Mutex<Pieces>);

#[derive(Debug, Default)]
struct Pieces {
    pieces: VecDeque<Piece>,
    bytes: usize,
}

impl Shared {
    pub(crate) fn get(&self, shape: Shape, first: Seq) -> Option<Piece> {
        self.0
            .lock()
            .pieces
            .iter()
            .rev()
            .find(|piece| piece.first == first && piece.shape == shape)
            .cloned()
    }

    pub(crate) fn put(&self, piece: Piece) {
        let mut shared = self.0.lock();
        shared.bytes += piece.bytes.len();
        shared.pieces.push_back(piece);
        while shared.pieces.len() > MAX_PIECES || shared.bytes > MAX_BYTES {
            let Some(oldest) = shared.pieces.pop_front() else {
                break;
            };
            shared.bytes -= oldest.bytes.len();
        }
    }

    /// There is nobody left to share with.
    pub(crate) fn clear(&self) {
        *self.0.lock() = Pieces::default();
    }
}
