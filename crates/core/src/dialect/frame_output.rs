//! Where frames are written: into one buffer, or in pieces.

use bytes::BytesMut;

use super::{Frame, Framing};
use crate::model::id::{GenerationId, Seq};
use crate::model::output::Output;

/// What a frame has beside its payload.
pub(super) struct FrameTarget<'a> {
    pub(super) framing: &'a dyn Framing,
    pub(super) id: &'a GenerationId,
    pub(super) seq: Seq,
    pub(super) relayed_name: Option<&'a str>,
}

/// Takes frames as they are rendered.
pub(super) trait FrameOutput {
    /// What a payload is written into.
    type Payload: Output;

    /// Appends a frame.
    fn put_frame(&mut self, framing: &dyn Framing, id: &GenerationId, frame: &Frame<'_>);

    /// Appends a frame whose payload `write` writes. It returns the event's type.
    fn write_frame(
        &mut self,
        to: &FrameTarget<'_>,
        scratch: &mut Vec<u8>,
        write: impl FnOnce(&mut Self::Payload) -> Option<&'static str>,
    );
}

impl FrameOutput for BytesMut {
    type Payload = Vec<u8>;

    fn put_frame(&mut self, framing: &dyn Framing, id: &GenerationId, frame: &Frame<'_>) {
        framing.frame(id, frame, self);
    }

    fn write_frame(
        &mut self,
        to: &FrameTarget<'_>,
        scratch: &mut Vec<u8>,
        write: impl FnOnce(&mut Vec<u8>) -> Option<&'static str>,
    ) {
        scratch.clear();
        let name = write(scratch);
        let frame = Frame {
            seq: to.seq,
            name,
            relayed_name: to.relayed_name,
            data: scratch,
        };
        to.framing.frame(to.id, &frame, self);
    }
}
