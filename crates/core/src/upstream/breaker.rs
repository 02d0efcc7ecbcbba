//! A circuit breaker: an endpoint that keeps failing gets no requests for a cooldown, then one
//! trial.
//!
//! ```text
//!   Closed ──failures in a row──▶ Open ──cooldown──▶ HalfOpen ──success──▶ Closed
//!                                  ▲                    │
//!                                  └────── failure ─────┘
//!                                     cooldown doubles
//! ```
//!
//! Only failures before the first token count. An endpoint whose answers are cut later is up.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Upper bound of the cooldown, as a multiple of [`BreakerPolicy::cooldown`].
const MAX_COOLDOWN_FACTOR: u32 = 16;

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Consecutive failures that open it; 0: it never opens.
    pub failures: u32,
    /// How long it stays open before it admits a trial request.
    pub cooldown: Duration,
}

impl Default for BreakerPolicy {
    /// Five failures, ten seconds.
    fn default() -> Self {
        Self {
            failures: 5,
            cooldown: Duration::from_secs(10),
        }
    }
}

/// The state of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Requests are admitted.
    Closed,
    /// No request is admitted.
    Open,
    /// One trial request is under way.
    HalfOpen,
}

/// A circuit breaker of one endpoint. Shared by all workers.
#[derive(Debug)]
pub struct Breaker {
    policy: BreakerPolicy,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    failures: u32,
    /// Set while it is not closed.
    open: Option<OpenState>,
    /// End of the pause that the endpoint asked for (`Retry-After`).
    resting: Option<Instant>,
}

#[derive(Debug)]
struct OpenState {
    until: Instant,
    cooldown: Duration,
    /// When the trial was admitted, if one was.
    trial: Option<Instant>,
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub fn new(policy: BreakerPolicy) -> Self {
        Self {
            policy,
            inner: Mutex::new(Inner {
                failures: 0,
                open: None,
                resting: None,
            }),
        }
    }

    /// Returns whether the endpoint may get a request now.
    #[must_use]
    pub fn admits(&self) -> bool {
        let now = Instant::now();
        let inner = self.inner.lock();
        if inner.resting.is_some_and(|until| now < until) {
            return false;
        }
        // A trial without a result (its client left) blocks the next for one cooldown only.
        inner.open.as_ref().is_none_or(|open| {
            now >= open.until && open.trial.is_none_or(|since| now >= since + open.cooldown)
        })
    }

    /// Returns its state.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        match &self.inner.lock().open {
            None => BreakerState::Closed,
            Some(open) if open.trial.is_some() => BreakerState::HalfOpen,
            Some(_) => BreakerState::Open,
        }
    }

    /// Records that a request is sent to the endpoint.
    pub(super) fn begin(&self) {
        if let Some(open) = &mut self.inner.lock().open {
            open.trial = Some(Instant::now());
        }
    }

    /// Records an answer. Closes the breaker.
    pub(super) fn success(&self) {
        let mut inner = self.inner.lock();
        inner.failures = 0;
        inner.open = None;
        inner.resting = None;
    }

    /// Records a failure. Returns whether it opened the breaker.
    pub(super) fn failure(&self) -> bool {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        inner.failures = inner.failures.saturating_add(1);
        let failures = inner.failures;
        match &mut inner.open {
            // A request that was under way when the breaker opened tells nothing new.
            Some(open) if open.trial.is_none() => false,
            Some(open) => {
                let cooldown = (open.cooldown * 2).min(self.policy.cooldown * MAX_COOLDOWN_FACTOR);
                *open = OpenState {
                    until: now + cooldown,
                    cooldown,
                    trial: None,
                };
                true
            }
            None if self.policy.failures > 0 && failures >= self.policy.failures => {
                let cooldown = self.policy.cooldown;
                inner.open = Some(OpenState {
                    until: now + cooldown,
                    cooldown,
                    trial: None,
                });
                true
            }
            None => false,
        }
    }

    /// Records that the endpoint asked for a pause.
    pub(super) fn rest(&self, time: Duration) {
        self.inner.lock().resting = Some(Instant::now() + time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker() -> Breaker {
        Breaker::new(BreakerPolicy {
            failures: 3,
            cooldown: SECOND,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn opens_after_consecutive_failures_only() {
        let breaker = breaker();
        for _ in 0..5 {
            assert!(!breaker.failure() && !breaker.failure());
            breaker.success();
        }
        assert_eq!(
            (breaker.state(), breaker.admits()),
            (BreakerState::Closed, true)
        );
        assert!(!breaker.failure() && !breaker.failure() && breaker.failure());
        assert_eq!(
            (breaker.state(), breaker.admits()),
            (BreakerState::Open, false)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn admits_one_trial_after_the_cooldown() {
        let breaker = breaker();
        for _ in 0..3 {
            breaker.failure();
        }
        tokio::time::advance(SECOND).await;
        assert!(breaker.admits());
        breaker.begin();
        assert_eq!(
            (breaker.state(), breaker.admits()),
            (BreakerState::HalfOpen, false)
        );
        breaker.success();
        assert_eq!(
            (breaker.state(), breaker.admits()),
            (BreakerState::Closed, true)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failed_trial_doubles_the_cooldown_up_to_a_bound() {
        let breaker = breaker();
        for _ in 0..3 {
            breaker.failure();
        }
        let mut cooldown = SECOND;
        for _ in 0..8 {
            tokio::time::advance(cooldown - Duration::from_millis(1)).await;
            assert!(!breaker.admits(), "{cooldown:?}");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(breaker.admits(), "{cooldown:?}");
            breaker.begin();
            assert!(breaker.failure());
            cooldown = (cooldown * 2).min(SECOND * MAX_COOLDOWN_FACTOR);
        }
        assert_eq!(cooldown, SECOND * MAX_COOLDOWN_FACTOR);
    }

    #[tokio::test(start_paused = true)]
    async fn trial_without_a_result_expires_after_the_cooldown() {
        let breaker = breaker();
        for _ in 0..3 {
            breaker.failure();
        }
        tokio::time::advance(SECOND).await;
        breaker.begin();
        tokio::time::advance(SECOND).await;
        assert!(breaker.admits());
    }

    #[tokio::test(start_paused = true)]
    async fn requested_pause_blocks_requests_until_it_ends() {
        let breaker = breaker();
        breaker.rest(SECOND);
        assert_eq!(
            (breaker.admits(), breaker.state()),
            (false, BreakerState::Closed)
        );
        tokio::time::advance(SECOND).await;
        assert!(breaker.admits());
    }

    #[tokio::test(start_paused = true)]
    async fn zero_failures_disables_the_breaker() {
        let breaker = Breaker::new(BreakerPolicy {
            failures: 0,
            cooldown: SECOND,
        });
        assert!((0..1000).all(|_| !breaker.failure()) && breaker.admits());
    }
}
