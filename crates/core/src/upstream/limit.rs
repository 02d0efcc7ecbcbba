//! How many requests a server gets at once, and how many may wait for their turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::model::error::{ApiError, ErrorCode};

/// What to come back after that finds the queue full, at least.
const COME_BACK: Duration = Duration::from_secs(1);

/// The bounds of one server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConcurrencyPolicy {
    /// Requests that it gets at once; 0: as many as come.
    pub concurrent: usize,
    /// Requests that may wait.
    pub queued: usize,
    /// How long one waits at most; zero: without limit.
    pub wait: Duration,
}

/// See the [module](self). Shared by all workers; first come, first served.
#[derive(Debug)]
pub struct ConcurrencyLimit {
    policy: ConcurrencyPolicy,
    slots: Option<Arc<Semaphore>>,
    running: AtomicUsize,
    waiting: AtomicUsize,
}

/// A place at the server, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    limit: Arc<ConcurrencyLimit>,
    _slot: Option<OwnedSemaphorePermit>,
}

struct Waiting<'a>(&'a AtomicUsize);

impl ConcurrencyLimit {
    pub(super) fn new(policy: ConcurrencyPolicy) -> Arc<Self> {
        let slots = (policy.concurrent > 0).then(|| {
            Arc::new(Semaphore::new(
                policy.concurrent.min(Semaphore::MAX_PERMITS),
            ))
        });
        Arc::new(Self {
            policy,
            slots,
            running: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
        })
    }

    /// Requests at the server now.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// Requests that wait for their turn.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether a request would be let through at once.
    pub(super) fn is_free(&self) -> bool {
        self.slots
            .as_ref()
            .is_none_or(|slots| slots.available_permits() > 0)
    }

    /// Whether a request would be let through or may wait.
    pub(super) fn has_capacity(&self) -> bool {
        self.is_free() || self.waiting() < self.policy.queued
    }

    /// Waits for a place.
    ///
    /// # Errors
    /// [`ErrorCode::UpstreamBusy`] where the queue is full, or the wait is over.
    pub(super) async fn enter(self: &Arc<Self>) -> Result<Permit, ApiError> {
        let slot = match &self.slots {
            None => None,
            Some(slots) => Some(match slots.clone().try_acquire_owned() {
                Ok(slot) => slot,
                Err(_) => self.queue(slots.clone()).await?,
            }),
        };
        self.running.fetch_add(1, Ordering::Relaxed);
        Ok(Permit {
            limit: self.clone(),
            _slot: slot,
        })
    }

    async fn queue(&self, slots: Arc<Semaphore>) -> Result<OwnedSemaphorePermit, ApiError> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= self.policy.queued {
            return Err(self.busy());
        }
        let acquired = if self.policy.wait.is_zero() {
            slots.acquire_owned().await
        } else {
            tokio::time::timeout(self.policy.wait, slots.acquire_owned())
                .await
                .map_err(|_| self.busy())?
        };
        // The semaphore is never closed.
        acquired.map_err(|_| self.busy())
    }

    pub(super) fn busy(&self) -> ApiError {
        let message = format!(
            "The upstream takes {} requests at once, and {} wait already.",
            self.policy.concurrent,
            self.waiting()
        );
        ApiError::new(ErrorCode::UpstreamBusy, message).retry_after(COME_BACK)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limit.running.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    fn limit(concurrent: usize, queued: usize) -> Arc<ConcurrencyLimit> {
        ConcurrencyLimit::new(ConcurrencyPolicy {
            concurrent,
            queued,
            wait: Duration::from_secs(5),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn lets_as_many_through_as_it_may_and_the_next_when_one_leaves() {
        let limit = limit(2, 1);
        let (first, _second) = (limit.enter().await.unwrap(), limit.enter().await.unwrap());
        let mut third = Box::pin(limit.enter());
        assert!(third.as_mut().now_or_never().is_none());
        assert_eq!(
            (limit.running(), limit.waiting(), limit.has_capacity()),
            (2, 1, false)
        );
        assert!(limit.enter().await.unwrap_err().is(ErrorCode::UpstreamBusy));
        drop(first);
        let _third = third.await.unwrap();
        assert_eq!((limit.running(), limit.waiting()), (2, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_he_may_and_who_leaves_is_not_counted() {
        let limit = limit(1, 2);
        let _held = limit.enter().await.unwrap();
        let mut left = Box::pin(limit.enter());
        assert!(left.as_mut().now_or_never().is_none());
        drop(left);
        assert_eq!(limit.waiting(), 0);
        let error = limit.enter().await.unwrap_err();
        assert_eq!((error.status, error.retry_after), (429, Some(COME_BACK)));
        assert_eq!((limit.running(), limit.waiting()), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_bound_everybody_goes_through_and_is_counted() {
        let limit = limit(0, 0);
        let passes: Vec<_> = futures::future::join_all((0..1000).map(|_| limit.enter())).await;
        assert_eq!((limit.running(), limit.has_capacity()), (1000, true));
        drop(passes);
        assert_eq!(limit.running(), 0);
    }
}
