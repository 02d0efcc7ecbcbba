//! Paces the replay of a kept answer.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// Emits tokens at a fixed rate, from the first on.
pub(super) struct Pace {
    per_second: u32,
    emitted: u32,
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Pace {
    pub(super) fn new(per_second: u32) -> Self {
        let since = Instant::now();
        Self {
            per_second,
            emitted: 0,
            since,
            timer: Box::pin(tokio::time::sleep_until(since)),
        }
    }

    /// Ready when the next token is due, which then counts as emitted.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let due = self.since + Duration::from_secs(1) * self.emitted / self.per_second;
        if due > Instant::now() {
            if self.timer.deadline() != due {
                self.timer.as_mut().reset(due);
            }
            ready!(self.timer.as_mut().poll(cx));
        }
        self.emitted = self.emitted.saturating_add(1);
        Poll::Ready(())
    }
}
