//! The subscriptions of one socket, polled in turn.

use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokenwire_core::generation::{SharedPieces, Subscription, SubscriptionError};
use tokenwire_core::model::gauge::{Gauge, GaugeGuard};
use tokenwire_core::model::id::GenerationId;

use crate::lanes::LaneKey;
use crate::text_frames::StreamId;

/// The most that one poll of the body gives, give or take what one reader has.
pub(crate) const POLL_BYTES: usize = 64 * 1024;

/// The subscriptions of one socket.
pub(crate) struct Readers {
    list: Vec<Reader>,
    /// The reader that is polled next: a busy lane must not starve the others.
    turn: usize,
    /// The rest of a frame that was begun. It may outlive its reader.
    unfinished: Option<Box<SharedPieces>>,
    /// Counts the readers of all sockets.
    gauge: Gauge,
}

struct Reader {
    subscription: Subscription,
    /// The lane that this reader's generation runs on; `None` for a reader that resumed.
    lane: Option<LaneKey>,
    /// The name that its frames carry.
    stream_id: Option<StreamId>,
    _counted: GaugeGuard,
}

/// A reader that gives nothing more.
pub(crate) struct Ended {
    /// The lane that waits for its end.
    pub(crate) lane: Option<LaneKey>,
    /// Set if the stream broke off.
    pub(crate) broken: Option<Broken>,
}

/// A stream that broke off before its end.
pub(crate) struct Broken {
    pub(crate) id: GenerationId,
    pub(crate) stream_id: Option<StreamId>,
    pub(crate) error: SubscriptionError,
}

/// Frames on their way out. A single piece, the usual case, is not copied.
#[derive(Default)]
pub(crate) struct Frames {
    first: Bytes,
    more: Option<BytesMut>,
}

impl Readers {
    pub(crate) fn new(gauge: Gauge) -> Self {
        Self {
            list: Vec::new(),
            turn: 0,
            unfinished: None,
            gauge,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty() && self.unfinished.is_none()
    }

    /// Whether no frame is begun.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.unfinished.is_none()
    }

    /// Collects the rest of a frame that was begun. Returns whether it is complete: before that,
    /// nothing else may be sent (RFC 6455, section 5.4).
    #[inline]
    pub(crate) fn finish_frame(&mut self, out: &mut Frames) -> bool {
        let Some(frame) = &mut self.unfinished else {
            return true;
        };
        while out.len() < POLL_BYTES {
            let Some(piece) = frame.next() else {
                self.unfinished = None;
                return true;
            };
            out.push(piece);
        }
        false
    }

    pub(crate) fn push(
        &mut self,
        subscription: Subscription,
        stream_id: Option<StreamId>,
        lane: Option<LaneKey>,
    ) {
        // Most sockets read one stream, and a reader is large.
        self.list.reserve_exact(1);
        self.list.push(Reader {
            subscription,
            lane,
            stream_id,
            _counted: self.gauge.enter(),
        });
    }

    /// Removes all readers. A frame that was begun is still completed.
    pub(crate) fn clear(&mut self) {
        self.list.clear();
    }

    /// Notes that the framing of all readers has changed.
    pub(crate) fn framing_changed(&mut self) {
        for reader in &mut self.list {
            reader.subscription.framing_changed();
        }
    }

    /// Removes the reader of this generation, and returns the lane that waits for its end.
    pub(crate) fn take(&mut self, id: &GenerationId) -> Option<Option<LaneKey>> {
        let at = self
            .list
            .iter()
            .position(|reader| reader.subscription.generation().meta().id == *id)?;
        Some(self.list.remove(at).lane)
    }

    /// Collects what is ready, up to the first reader that reached its end, which is returned.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, out: &mut Frames) -> Option<Ended> {
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
                    self.unfinished = reader.subscription.take_unfinished().map(Box::new);
                    if !self.finish_frame(out) {
                        return None;
                    }
                    // A body that gave something is polled again, and so is this reader then: only
                    // Pending registers its waker.
                    self.turn += 1;
                }
                Poll::Ready(Some(Err(error))) => {
                    let reader = self.list.remove(self.turn);
                    return Some(Ended {
                        lane: reader.lane,
                        broken: Some(Broken {
                            id: reader.subscription.generation().meta().id.clone(),
                            stream_id: reader.stream_id,
                            error,
                        }),
                    });
                }
                Poll::Ready(None) => {
                    return Some(Ended {
                        lane: self.list.remove(self.turn).lane,
                        broken: None,
                    });
                }
                Poll::Pending => self.turn += 1,
            }
        }
        None
    }
}

impl Frames {
    pub(crate) fn len(&self) -> usize {
        self.first.len() + self.more.as_ref().map_or(0, BytesMut::len)
    }

    pub(crate) fn push(&mut self, bytes: Bytes) {
        if self.first.is_empty() {
            self.first = bytes;
        } else {
            let more = self.more.get_or_insert_default();
            more.extend_from_slice(&bytes);
        }
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        let Some(more) = self.more else {
            return self.first;
        };
        let mut all = BytesMut::with_capacity(self.first.len() + more.len());
        all.extend_from_slice(&self.first);
        all.extend_from_slice(&more);
        all.freeze()
    }
}
