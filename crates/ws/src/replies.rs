//! What a socket is told beside its streams, in order.

use std::collections::VecDeque;

use bytes::BytesMut;
use tokenwire_core::generation::SharedPieces;

use crate::control_frames::ControlFrame;
use crate::readers::{Frames, POLL_BYTES};
use crate::text_frames::put_text;

/// The bytes of waiting replies beyond which nothing is done that causes another.
const MAX_REPLIES: usize = 1024 * 1024;
/// What a frame in pieces counts as.
const FRAME_BYTES: usize = 32 * 1024;

/// The replies that wait to be sent.
#[derive(Default)]
pub(crate) struct Replies {
    list: VecDeque<Reply>,
    /// Whole frames after those of the list.
    last: BytesMut,
    /// What the list counts as.
    bytes: usize,
}

enum Reply {
    Frames(BytesMut),
    Pieces(SharedPieces),
}

impl Replies {
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty() && self.last.is_empty()
    }

    /// Whether there is room for more.
    pub(crate) fn has_room(&self) -> bool {
        self.bytes + self.last.len() <= MAX_REPLIES
    }

    /// Adds a text frame with this JSON object.
    pub(crate) fn push(&mut self, json: &[u8], stream_id: Option<&str>) {
        put_text(json, stream_id, &mut self.last);
    }

    /// Adds a control frame.
    pub(crate) fn push_control(&mut self, frame: ControlFrame<'_>) {
        frame.write(&mut self.last);
    }

    /// Adds a frame in pieces.
    pub(crate) fn push_pieces(&mut self, frame: SharedPieces) {
        if !self.last.is_empty() {
            self.bytes += self.last.len();
            self.list.push_back(Reply::Frames(self.last.split()));
        }
        self.bytes += FRAME_BYTES;
        self.list.push_back(Reply::Pieces(frame));
    }

    /// Moves replies to `out`. Returns whether all are there: if not, a frame may be incomplete, and
    /// nothing but the rest of the replies may follow.
    pub(crate) fn take(&mut self, out: &mut Frames) -> bool {
        while let Some(reply) = self.list.front_mut() {
            match reply {
                Reply::Frames(frames) => {
                    self.bytes -= frames.len();
                    out.push(frames.split().freeze());
                }
                Reply::Pieces(frame) => {
                    while out.len() < POLL_BYTES
                        && let Some(piece) = frame.next()
                    {
                        out.push(piece);
                    }
                    if out.len() >= POLL_BYTES {
                        return false;
                    }
                    self.bytes -= FRAME_BYTES;
                }
            }
            self.list.pop_front();
        }
        // Splitting an empty buffer would allocate.
        if !self.last.is_empty() {
            out.push(self.last.split().freeze());
        }
        true
    }
}
