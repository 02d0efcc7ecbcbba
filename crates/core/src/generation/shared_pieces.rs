//! Bytes of a generation that are on their way to one reader in pieces.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::Generation;
use crate::dialect::{FrameReader, Framing, LargeFrames};
use crate::model::account::{AccountKind, Charge};
use crate::model::include::{Form, Include};
use crate::model::pieces::{MAX_PIECE, Pieces};

/// A frame, the rest of one, or a response object, in pieces of at most 32 KiB. Most of them are
/// shared with the generation, which is kept until the last is returned.
pub struct SharedPieces {
    rest: FrameReader,
    len: usize,
    /// Counts a piece that is being sent, and what is not shared.
    _charge: Charge,
    /// What counts the shared bytes.
    _owner: Arc<dyn fmt::Debug + Send + Sync>,
    _generation: Arc<Generation>,
}

impl fmt::Debug for SharedPieces {
    /// Omits the content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedPieces").finish_non_exhaustive()
    }
}

impl SharedPieces {
    pub(super) fn new(
        generation: &Arc<Generation>,
        rest: FrameReader,
        owner: Arc<dyn fmt::Debug + Send + Sync>,
    ) -> Self {
        let account = generation.account();
        Self {
            rest,
            len: 0,
            _charge: account.charge(AccountKind::Frames, MAX_PIECE),
            _owner: owner,
            _generation: generation.clone(),
        }
    }

    fn whole(generation: &Arc<Generation>, rest: FrameReader, len: usize, own: usize) -> Self {
        let account = generation.account();
        Self {
            rest,
            len,
            _charge: account.charge(AccountKind::Frames, own + len.min(MAX_PIECE)),
            _owner: Arc::new(()),
            _generation: generation.clone(),
        }
    }

    /// Returns the length of a response object in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns true for a response object without a byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Iterator for SharedPieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        self.rest.next()
    }
}

impl Generation {
    /// Returns the response object as it is now, as [`Generation::response_in`] does.
    #[must_use]
    pub fn response_pieces(self: &Arc<Self>, form: Form) -> SharedPieces {
        let mut object = Pieces::default();
        self.with_snapshot(|snapshot| snapshot.write_response(self.meta(), form, &mut object));
        object.close();
        let (len, own) = (object.len(), object.memory_size());
        SharedPieces::whole(self, object.into(), len, own)
    }

    /// Returns the frame of a `tokenwire:reset` with the response object as it is now.
    #[must_use]
    pub fn reset_frame(self: &Arc<Self>, framing: &dyn Framing, include: Include) -> SharedPieces {
        let (seq, event) = self.reset_pieces(include);
        let frames = LargeFrames::one(framing, &self.meta().id, seq, event);
        let own = frames.memory_size();
        SharedPieces::whole(self, frames.into(), 0, own)
    }
}
