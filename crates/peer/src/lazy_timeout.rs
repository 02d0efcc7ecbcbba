//! A timeout for many short waits.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// Limits each of many waits to the same time. [`tokio::time::timeout`] registers with the timer for
/// each wait; this one does so about once within the time, however many waits there are.
#[derive(Debug)]
pub(crate) struct LazyTimeout {
    time: Duration,
    /// Ends at the deadline of this wait, or of an earlier one.
    sleep: Pin<Box<Sleep>>,
}

impl LazyTimeout {
    pub(crate) fn new(time: Duration) -> Self {
        Self {
            time,
            sleep: Box::pin(sleep(time)),
        }
    }

    /// Returns the result of a future, or `None` if it takes longer than the time.
    pub(crate) async fn run<F: Future>(&mut self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let mut deadline = None;
        poll_fn(|cx| {
            if let Poll::Ready(result) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(result));
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.time);
            while self.sleep.as_mut().poll(cx).is_ready() {
                if Instant::now() >= deadline {
                    return Poll::Ready(None);
                }
                self.sleep.as_mut().reset(deadline);
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const TIME: Duration = Duration::from_secs(3);

    #[tokio::test(start_paused = true)]
    async fn each_wait_has_the_whole_time() {
        let mut timeout = LazyTimeout::new(TIME);
        for _ in 0..5 {
            let within = sleep(TIME - Duration::from_millis(10));
            assert_eq!(timeout.run(within).await, Some(()));
        }
        let begun = Instant::now();
        assert_eq!(timeout.run(pending::<()>()).await, None);
        let waited = begun.elapsed();
        assert!(
            waited >= TIME && waited < TIME + Duration::from_millis(10),
            "{waited:?}"
        );
        assert_eq!(timeout.run(async { 1 }).await, Some(1));
        assert_eq!(timeout.run(sleep(TIME * 2)).await, None);
    }
}
