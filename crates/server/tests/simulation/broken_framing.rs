//! A framing that loses frames.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BytesMut;
use tokenwire_core::dialect::{Dialect, Frame, Framing};
use tokenwire_core::model::id::GenerationId;

/// Every frame of some many is not written.
#[derive(Debug)]
pub(crate) struct BrokenFraming {
    pub(crate) inner: Arc<dyn Framing>,
    pub(crate) every: usize,
    pub(crate) frames: Arc<AtomicUsize>,
}

impl Framing for BrokenFraming {
    fn frame(&self, stream: &GenerationId, frame: &Frame<'_>, out: &mut BytesMut) {
        let count = self.frames.fetch_add(1, Ordering::Relaxed) + 1;
        if !count.is_multiple_of(self.every) {
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
