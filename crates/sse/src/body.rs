//! The response body: pulls from the subscription, and sends heartbeats while it is silent.

use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, MessageBody};
use bytes::{Bytes, BytesMut};
use tokenwire_core::engine::LostStream;
use tokenwire_core::engine::Registry;
use tokenwire_core::engine::resume::position_gone;
use tokenwire_core::generation::{SharedPieces, Subscription, SubscriptionError};
use tokenwire_core::model::gauge::{Gauge, GaugeGuard};
use tokio::time::{Instant, Sleep};

/// What a heartbeat looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeartbeatKind {
    /// A comment line with no blank line after it. A blank line after a comment makes openai-python
    /// raise.
    #[default]
    Comment,
    /// `{"type":"tokenwire:heartbeat"}` as an event without id, which a page can see.
    Event,
}

impl HeartbeatKind {
    const fn bytes(self) -> &'static [u8] {
        match self {
            Self::Comment => b":\n",
            Self::Event => b"data: {\"type\":\"tokenwire:heartbeat\"}\n\n",
        }
    }
}

/// What goes around the events.
#[derive(Clone, Debug, Default)]
pub(crate) struct SseOptions {
    /// A heartbeat is sent after this long a silence; `None` for never (bare text has none).
    pub(crate) heartbeat: Option<Duration>,
    /// What a heartbeat looks like.
    pub(crate) heartbeat_kind: HeartbeatKind,
    /// Bytes before the first event, such as `retry: 2000\n` or a reset.
    pub(crate) preface: Bytes,
    /// Whether an error event is the last one where the log is gone before its end. Without it the
    /// body breaks off, which an EventSource answers by coming back.
    pub(crate) shows_expiry: bool,
    /// Counts the open bodies.
    pub(crate) readers: Gauge,
    /// Says when the reader is to come back elsewhere. `None` for one that cannot.
    pub(crate) drain: Option<Arc<Registry>>,
}

/// A response body that pulls from a [`Subscription`]. Dropping it detaches the reader.
pub(crate) struct SseBody {
    subscription: Option<Subscription>,
    preface: Bytes,
    shows_expiry: bool,
    /// A frame after the preface, for a body without a subscription.
    frame: Option<SharedPieces>,
    heartbeat: Option<Heartbeat>,
    broken: Option<SubscriptionError>,
    /// Says when the reader is to leave.
    drain: Option<Arc<Registry>>,
    /// Whether the reader has seen an event, and so knows where to come back.
    placed: bool,
    _present: GaugeGuard,
}

/// The longest interval between heartbeats.
const LONGEST_HEARTBEAT: Duration = Duration::from_secs(24 * 60 * 60);

/// A timer that is not reset for every token. When it fires too early it is set to the time left.
struct Heartbeat {
    every: Duration,
    kind: HeartbeatKind,
    last_sent: Instant,
    timer: Pin<Box<Sleep>>,
}

impl fmt::Debug for SseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SseBody")
            .field("subscription", &self.subscription)
            .finish_non_exhaustive()
    }
}

impl SseBody {
    /// Returns a body of the preface and of all that the subscription gives, if there is one.
    pub(crate) fn new(subscription: Option<Subscription>, options: SseOptions) -> Self {
        let heartbeat = options.heartbeat.map(|every| {
            // A longer one would not fit the clock.
            let every = every.min(LONGEST_HEARTBEAT);
            let last_sent = Instant::now();
            Heartbeat {
                every,
                kind: options.heartbeat_kind,
                last_sent,
                timer: Box::pin(tokio::time::sleep_until(last_sent + every)),
            }
        });
        Self {
            subscription,
            preface: options.preface,
            shows_expiry: options.shows_expiry,
            frame: None,
            heartbeat,
            broken: None,
            drain: options.drain,
            placed: false,
            _present: options.readers.enter(),
        }
    }

    /// Adds a frame after the preface.
    pub(crate) fn followed_by(mut self, frame: SharedPieces) -> Self {
        self.frame = Some(frame);
        self
    }

    /// Ends the stream between two events if another process can read it on. The reader is told to
    /// come back after a time that spreads all readers.
    fn leave(&mut self) -> Option<Bytes> {
        let registry = self.drain.as_ref().filter(|drain| drain.readers_leave())?;
        let subscription = self.subscription.as_ref()?;
        if !self.placed || !subscription.is_between_frames() {
            return None;
        }
        let retry = registry.come_back_after().as_millis();
        self.subscription = None;
        Some(format!("retry: {retry}\n\n").into())
    }

    fn sent(&mut self) {
        if let Some(heartbeat) = &mut self.heartbeat {
            heartbeat.last_sent = Instant::now();
        }
    }
}

impl Heartbeat {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let due = self.last_sent + self.every;
            if due <= Instant::now() {
                self.last_sent = Instant::now();
                self.timer.as_mut().reset(self.last_sent + self.every);
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(due);
        }
        Poll::Pending
    }
}

impl MessageBody for SseBody {
    type Error = SubscriptionError;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, SubscriptionError>>> {
        let this = &mut *self;
        if let Some(error) = this.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        if let Some(last) = this.leave() {
            return Poll::Ready(Some(Ok(last)));
        }
        let polled = match &mut this.subscription {
            Some(subscription) => subscription.poll_next(cx),
            None => Poll::Ready(None),
        };
        let preface = std::mem::take(&mut this.preface);
        match polled {
            Poll::Ready(Some(Ok(bytes))) => {
                this.sent();
                this.placed = true;
                if preface.is_empty() {
                    return Poll::Ready(Some(Ok(bytes)));
                }
                let mut both = BytesMut::with_capacity(preface.len() + bytes.len());
                both.extend_from_slice(&preface);
                both.extend_from_slice(&bytes);
                Poll::Ready(Some(Ok(both.freeze())))
            }
            // The preface goes first; the end or the error follows with the next poll.
            Poll::Ready(None) if !preface.is_empty() => {
                this.subscription = None;
                Poll::Ready(Some(Ok(preface)))
            }
            Poll::Pending if !preface.is_empty() => {
                this.sent();
                Poll::Ready(Some(Ok(preface)))
            }
            Poll::Ready(None) => {
                let piece = this.frame.as_mut().and_then(Iterator::next);
                Poll::Ready(piece.map(Ok))
            }
            Poll::Ready(Some(Err(
                error @ (SubscriptionError::Expired | SubscriptionError::ProducerLost),
            ))) if this.shows_expiry => {
                let expired = this.subscription.take().map(|subscription| {
                    let id = &subscription.generation().meta().id;
                    let error = match error {
                        SubscriptionError::ProducerLost => LostStream::new(id).error,
                        _ => position_gone(id),
                    };
                    format!("data: {}\n\n", error.body())
                });
                let expired = expired.unwrap_or_default();
                Poll::Ready(Some(Ok([&preface, expired.as_bytes()].concat().into())))
            }
            Poll::Ready(Some(Err(error))) => {
                // On an error the server drops the connection with what it has not written yet: the
                // head, or the last tokens. The error is returned one poll later, so that those are
                // written first.
                this.subscription = None;
                this.broken = Some(error);
                if !preface.is_empty() {
                    return Poll::Ready(Some(Ok(preface)));
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => match &mut this.heartbeat {
                Some(heartbeat) => heartbeat
                    .poll(cx)
                    .map(|()| Some(Ok(Bytes::from_static(heartbeat.kind.bytes())))),
                None => Poll::Pending,
            },
        }
    }
}

#[cfg(test)]
mod tests;
