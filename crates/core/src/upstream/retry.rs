//! When a request is sent again, and how much of that is allowed.
//!
//! A request is sent again only before anything of the answer was kept. Waits grow exponentially
//! with full jitter, and a budget limits retries to a small share of all requests, so that retries
//! do not amplify an outage. [`failure`](super::failure) says which failures are retried.

use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng as _;
use tokio::time::Instant;

/// How often and after which waits a request is sent again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Attempts after the first, at all endpoints together.
    pub attempts: u32,
    /// Upper bound of the wait before the first repetition at the same endpoint. Doubles with each
    /// repetition; the wait is drawn between zero and the bound.
    pub backoff: Duration,
    /// Upper bound of all waits of one request together. An endpoint that asks for a longer wait is
    /// not asked again.
    pub max_wait: Duration,
    /// Retries per hundred requests. Ten per second are always allowed.
    pub budget_percent: u32,
}

impl Default for RetryPolicy {
    /// No retries.
    fn default() -> Self {
        Self {
            attempts: 0,
            backoff: Duration::ZERO,
            max_wait: Duration::ZERO,
            budget_percent: 0,
        }
    }
}

impl RetryPolicy {
    /// Returns the wait before repetition number `repetition`, from 0: exponential, capped, with
    /// full jitter.
    pub(super) fn wait(&self, repetition: u32) -> Duration {
        let most = self
            .backoff
            .saturating_mul(1 << repetition.min(16))
            .min(self.max_wait);
        if most.is_zero() {
            most
        } else {
            most.mul_f64(rand::rng().random_range(0.0..=1.0))
        }
    }
}

/// A token bucket of retries. Shared by all workers and endpoints.
#[derive(Debug)]
pub struct RetryBudget {
    /// Tokens that one request adds.
    per_request: f64,
    bucket: Mutex<TokenBucket>,
}

#[derive(Debug)]
struct TokenBucket {
    tokens: f64,
    refilled: Instant,
}

/// Tokens per second that are added without requests, so that a gateway with little traffic can
/// retry as well.
const TOKENS_PER_SECOND: f64 = 10.0;
/// Capacity of the bucket.
const CAPACITY: f64 = 100.0;

impl RetryBudget {
    /// A full bucket to which every hundred requests add `percent` retries.
    #[must_use]
    pub fn new(percent: u32) -> Self {
        Self {
            per_request: f64::from(percent) / 100.0,
            bucket: Mutex::new(TokenBucket {
                tokens: CAPACITY,
                refilled: Instant::now(),
            }),
        }
    }

    /// Adds one request's share.
    pub(super) fn credit(&self) {
        let mut bucket = self.bucket.lock();
        bucket.tokens = (bucket.tokens + self.per_request).min(CAPACITY);
    }

    /// Takes one retry. Returns false if none is left.
    pub(super) fn try_acquire(&self) -> bool {
        let mut bucket = self.bucket.lock();
        let now = Instant::now();
        let refill = now.duration_since(bucket.refilled).as_secs_f64() * TOKENS_PER_SECOND;
        bucket.refilled = now;
        bucket.tokens = (bucket.tokens + refill).min(CAPACITY);
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_up_to_max_wait_with_full_jitter() {
        let policy = RetryPolicy {
            attempts: 9,
            backoff: Duration::from_millis(100),
            max_wait: Duration::from_millis(500),
            budget_percent: 20,
        };
        for (repetition, most) in [(0, 100), (1, 200), (2, 400), (3, 500), (30, 500)] {
            let waits: Vec<Duration> = (0..200).map(|_| policy.wait(repetition)).collect();
            assert!(
                waits
                    .iter()
                    .all(|wait| *wait <= Duration::from_millis(most)),
                "{repetition}"
            );
            // Full jitter: of 200 draws some are in each quarter.
            let quarter = Duration::from_millis(most) / 4;
            assert!(
                waits.iter().any(|wait| *wait < quarter)
                    && waits.iter().any(|wait| *wait > quarter * 3),
                "{repetition}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn retry_budget_limits_retries_to_a_share_of_requests() {
        let budget = RetryBudget::new(20);
        assert_eq!((0..1000).filter(|_| budget.try_acquire()).count(), 100);
        (0..100).for_each(|_| budget.credit());
        // A fifth of a hundred, minus rounding.
        let retries = (0..1000).filter(|_| budget.try_acquire()).count();
        assert!((19..=20).contains(&retries), "{retries}");
        tokio::time::advance(Duration::from_secs(1)).await;
        let retries = (0..1000).filter(|_| budget.try_acquire()).count();
        assert!((10..=11).contains(&retries), "{retries}");
    }
}
