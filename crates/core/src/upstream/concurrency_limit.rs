//! Limits the concurrent requests of an endpoint, with a bounded queue before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::model::error::{ApiError, ErrorCode};

/// `Retry-After` of a request that finds the queue full.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The limits of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConcurrencyPolicy {
    /// Concurrent requests; 0: no limit.
    pub concurrent: usize,
    /// Requests that may wait in the queue.
    pub queued: usize,
    /// Longest wait in the queue; zero: no limit.
    pub wait: Duration,
}

/// The concurrency limit of one endpoint. Shared by all workers; first in, first out.
#[derive(Debug)]
pub struct ConcurrencyLimit {
    policy: ConcurrencyPolicy,
    slots: Option<Arc<Semaphore>>,
    running: AtomicUsize,
    waiting: AtomicUsize,
}

/// A slot at the endpoint, released when dropped.
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

    /// Returns the number of requests at the endpoint now.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// Returns the number of requests in the queue.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Returns whether a slot is free.
    pub(super) fn is_free(&self) -> bool {
        self.slots
            .as_ref()
            .is_none_or(|slots| slots.available_permits() > 0)
    }

    /// Returns whether a slot or a place in the queue is free.
    pub(super) fn has_capacity(&self) -> bool {
        self.is_free() || self.waiting() < self.policy.queued
    }

    /// Returns a slot if one is free.
    pub(super) fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let slot = match &self.slots {
            None => None,
            Some(slots) => Some(slots.clone().try_acquire_owned().ok()?),
        };
        Some(self.permit(slot))
    }

    /// Waits for a slot.
    ///
    /// # Errors
    /// [`ErrorCode::UpstreamBusy`] if the queue is full or the wait times out.
    pub(super) async fn acquire(self: &Arc<Self>) -> Result<Permit, ApiError> {
        let slot = match &self.slots {
            None => None,
            Some(slots) => Some(match slots.clone().try_acquire_owned() {
                Ok(slot) => slot,
                Err(_) => self.queue(slots.clone()).await?,
            }),
        };
        Ok(self.permit(slot))
    }

    fn permit(self: &Arc<Self>, slot: Option<OwnedSemaphorePermit>) -> Permit {
        self.running.fetch_add(1, Ordering::Relaxed);
        Permit {
            limit: self.clone(),
            _slot: slot,
        }
    }

    async fn queue(&self, slots: Arc<Semaphore>) -> Result<OwnedSemaphorePermit, ApiError> {
        // A request that is refused is never counted, so it takes no place from another one.
        let place = |waiting| (waiting < self.policy.queued).then_some(waiting + 1);
        self.waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, place)
            .map_err(|_| self.busy())?;
        let _waiting = Waiting(&self.waiting);
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
        ApiError::new(ErrorCode::UpstreamBusy, message).retry_after(RETRY_AFTER)
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
    async fn queued_request_gets_the_next_released_slot() {
        let limit = limit(2, 1);
        let (first, _second) = (
            limit.acquire().await.unwrap(),
            limit.acquire().await.unwrap(),
        );
        let mut third = Box::pin(limit.acquire());
        assert!(third.as_mut().now_or_never().is_none());
        assert_eq!(
            (limit.running(), limit.waiting(), limit.has_capacity()),
            (2, 1, false)
        );
        assert!(
            limit
                .acquire()
                .await
                .unwrap_err()
                .is(ErrorCode::UpstreamBusy)
        );
        drop(first);
        let _third = third.await.unwrap();
        assert_eq!((limit.running(), limit.waiting()), (2, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn queue_wait_times_out_and_dropped_waits_are_not_counted() {
        let limit = limit(1, 2);
        let _held = limit.acquire().await.unwrap();
        let mut left = Box::pin(limit.acquire());
        assert!(left.as_mut().now_or_never().is_none());
        drop(left);
        assert_eq!(limit.waiting(), 0);
        let error = limit.acquire().await.unwrap_err();
        assert_eq!((error.status, error.retry_after), (429, Some(RETRY_AFTER)));
        assert_eq!((limit.running(), limit.waiting()), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_all_requests_pass_and_are_counted() {
        let limit = limit(0, 0);
        let permits: Vec<_> = futures::future::join_all((0..1000).map(|_| limit.acquire())).await;
        assert_eq!((limit.running(), limit.has_capacity()), (1000, true));
        drop(permits);
        assert_eq!(limit.running(), 0);
    }
}
