//! A reader that collects the bytes that it was given.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tokenwire_core::dialect::{Dialect, Framing};
use tokenwire_core::generation::{Generation, ReaderGuard, Subscription, SubscriptionError};
use tokenwire_core::model::id::Seq;

use crate::framing::{JsonLines, Line};

/// Notes that the task was woken.
#[derive(Debug, Default)]
struct Yielded(AtomicBool);

impl Wake for Yielded {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// See the documentation of the module.
#[derive(Debug)]
pub struct Reader {
    subscription: Subscription,
    bytes: Vec<u8>,
    end: Option<Result<(), SubscriptionError>>,
}

impl Reader {
    /// Reads from the event `from` on, in [`JsonLines`] with extensions.
    #[must_use]
    pub fn new(guard: ReaderGuard, from: u64, dialect: Dialect) -> Self {
        Self::framed(guard, from, dialect, Arc::new(JsonLines::default()))
    }

    /// As [`Reader::new`], in another framing.
    #[must_use]
    pub fn framed(
        guard: ReaderGuard,
        from: u64,
        dialect: Dialect,
        framing: Arc<dyn Framing>,
    ) -> Self {
        Self {
            subscription: Subscription::new(guard, Seq(from), dialect, framing),
            bytes: Vec::new(),
            end: None,
        }
    }

    /// The generation that is read.
    #[must_use]
    pub fn generation(&self) -> &Arc<Generation> {
        self.subscription.generation()
    }

    /// Reads everything that is available, without waiting.
    pub fn read_now(&mut self) {
        let yielded = Arc::new(Yielded::default());
        let waker = Waker::from(yielded.clone());
        let mut cx = Context::from_waker(&waker);
        // A subscription that lets others run wakes its task at once.
        while self.end.is_none()
            && (self.poll(&mut cx).is_ready() || yielded.0.swap(false, Ordering::Relaxed))
        {}
    }

    /// Polls once without waiting. Returns whether it got bytes or the end.
    pub fn read_piece(&mut self) -> bool {
        self.end.is_none()
            && self
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_ready()
    }

    /// Reads until the end, or until the subscription fails.
    ///
    /// # Errors
    /// As [`Subscription::poll_next`].
    pub async fn read_to_end(&mut self) -> Result<(), SubscriptionError> {
        loop {
            if let Some(end) = self.end {
                return end;
            }
            std::future::poll_fn(|cx| self.poll(cx)).await;
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.subscription.poll_next(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(piece))) => {
                assert!(!piece.is_empty(), "a reader got an empty buffer");
                self.bytes.extend_from_slice(&piece);
            }
            Poll::Ready(Some(Err(error))) => self.end = Some(Err(error)),
            Poll::Ready(None) => self.end = Some(Ok(())),
        }
        Poll::Ready(())
    }

    /// The result, if it has ended.
    #[must_use]
    pub fn end(&self) -> Option<Result<(), SubscriptionError>> {
        self.end
    }

    /// The bytes so far.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The frames so far.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        Line::all(&self.bytes)
    }

    /// The number of the last frame, if there was any. A client would resume after it.
    #[must_use]
    pub fn last_seq(&self) -> Option<u64> {
        self.lines().last().map(|line| line.seq)
    }
}
