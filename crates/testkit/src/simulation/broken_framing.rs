//! A framing that loses or repeats frames, to see that it is noticed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BytesMut;
use tokenwire_core::dialect::{Dialect, Frame, Framing};
use tokenwire_core::model::id::GenerationId;

/// See the documentation of the module.
#[derive(Debug)]
pub struct BrokenFraming {
    /// What writes the frames.
    pub inner: Arc<dyn Framing>,
    /// The last one of this many frames is wrong.
    pub every: usize,
    /// How often a wrong frame is written.
    pub times: usize,
    /// Frames so far, of all readers.
    pub frames: Arc<AtomicUsize>,
}

impl Framing for BrokenFraming {
    fn frame(&self, stream: &GenerationId, frame: &Frame<'_>, out: &mut BytesMut) {
        let count = self.frames.fetch_add(1, Ordering::Relaxed) + 1;
        let is_wrong = count.is_multiple_of(self.every);
        for _ in 0..if is_wrong { self.times } else { 1 } {
            self.inner.frame(stream, frame, out);
        }
    }

    fn shows_extensions(&self) -> bool {
        self.inner.shows_extensions()
    }

    fn sends_done(&self, dialect: Dialect) -> bool {
        self.inner.sends_done(dialect)
    }

    fn share_key(&self) -> Option<&'static str> {
        self.inner.share_key()
    }
}
