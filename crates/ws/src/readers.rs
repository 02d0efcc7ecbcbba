//! The subscriptions of one socket, polled in turn.

use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokenwire_core::generation::Subscription;
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::gauge::{Gauge, GaugeGuard};
use tokenwire_core::model::id::GenerationId;

use crate::framing::put_text;
use crate::lanes::LaneKey;
use crate::message;

/// The most that one poll of the body gives, give or take what one reader has.
pub(crate) const POLL_BYTES: usize = 64 * 1024;

/// The subscriptions of one socket.
pub(crate) struct Readers {
    list: Vec<Reader>,
    /// The reader that is polled next: a busy lane must not starve the others.
    turn: usize,
    /// Counts the readers of all sockets.
    gauge: Gauge,
}

struct Reader {
    subscription: Subscription,
    /// The lane that this reader's generation runs on; `None` for a reader that resumed.
    lane: Option<LaneKey>,
    _counted: GaugeGuard,
}

/// Frames on their way out. A single piece, the usual case, is not copied.
#[derive(Default)]
pub(crate) struct Frames {
    first: Bytes,
    more: BytesMut,
}

impl Readers {
    pub(crate) fn new(gauge: Gauge) -> Self {
        Self {
            list: Vec::new(),
            turn: 0,
            gauge,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(crate) fn push(&mut self, subscription: Subscription, lane: Option<LaneKey>) {
        self.list.push(Reader {
            subscription,
            lane,
            _counted: self.gauge.enter(),
        });
    }

    /// Removes the reader of this generation, and returns the lane that waits for its end.
    pub(crate) fn take(&mut self, id: &GenerationId) -> Option<Option<LaneKey>> {
        let at = self
            .list
            .iter()
            .position(|reader| reader.subscription.generation().meta().id == *id)?;
        Some(self.list.remove(at).lane)
    }

    /// Collects what is ready, and returns the lanes of the readers that reached their end.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, out: &mut Frames) -> Vec<Option<LaneKey>> {
        let mut ended = Vec::new();
        let mut left = self.list.len();
        while left > 0 && out.len() < POLL_BYTES {
            left -= 1;
            if self.turn >= self.list.len() {
                self.turn = 0;
            }
            let Some(reader) = self.list.get_mut(self.turn) else {
                break;
            };
            match reader.subscription.poll_next(cx) {
                Poll::Ready(Some(Ok(bytes))) => {
                    out.push(bytes);
                    // A body that gave something is polled again, and so is this reader then: only
                    // Pending registers its waker.
                    self.turn += 1;
                }
                Poll::Ready(Some(Err(error))) => {
                    let id = reader.subscription.generation().meta().id.clone();
                    let gone = ApiError::new(
                        ErrorCode::PositionGone,
                        format!("The stream cannot be read any further: {error}."),
                    );
                    let reply = message::command_error(Some(id.as_str()), &gone);
                    ended.push(self.list.remove(self.turn).lane);
                    let mut framed = BytesMut::new();
                    put_text(&reply, None, &mut framed);
                    out.push(framed.freeze());
                }
                Poll::Ready(None) => ended.push(self.list.remove(self.turn).lane),
                Poll::Pending => self.turn += 1,
            }
        }
        ended
    }
}

impl Frames {
    pub(crate) fn len(&self) -> usize {
        self.first.len() + self.more.len()
    }

    pub(crate) fn push(&mut self, bytes: Bytes) {
        if self.first.is_empty() {
            self.first = bytes;
        } else {
            self.more.extend_from_slice(&bytes);
        }
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        if self.more.is_empty() {
            return self.first;
        }
        let mut all = BytesMut::with_capacity(self.len());
        all.extend_from_slice(&self.first);
        all.extend_from_slice(&self.more);
        all.freeze()
    }
}
