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

use std::sync::atomic::{AtomicBool, Ordering};
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
    /// Upper bound of the pause that an endpoint asks for with status 429 (`Retry-After`).
    pub max_rest: Duration,
}

impl Default for BreakerPolicy {
    /// Five failures, ten seconds, pauses of at most a minute.
    fn default() -> Self {
        Self {
            failures: 5,
            cooldown: Duration::from_secs(10),
            max_rest: Duration::from_secs(60),
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
    /// The cooldown is over: one trial request is admitted, or under way.
    HalfOpen,
}

/// A circuit breaker of one endpoint. Shared by all workers.
#[derive(Debug)]
pub struct Breaker {
    policy: BreakerPolicy,
    /// Whether it is closed and the last request succeeded: then nothing is to be looked at or
    /// changed, and the workers need not take turns at the lock.
    sound: AtomicBool,
    inner: Mutex<Inner>,
}

/// The request that tests whether an endpoint is back, by the number of the opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trial(u64);

#[derive(Debug)]
struct Inner {
    failures: u32,
    /// Openings so far.
    openings: u64,
    /// Set while it is not closed.
    open: Option<OpenState>,
}

#[derive(Debug)]
struct OpenState {
    until: Instant,
    cooldown: Duration,
    /// When the trial was admitted, if one is under way.
    trial: Option<Instant>,
}

impl OpenState {
    fn new(now: Instant, cooldown: Duration) -> Self {
        Self {
            until: add(now, cooldown),
            cooldown,
            trial: None,
        }
    }

    /// Returns whether a trial may start. A trial without a result blocks the next for one cooldown
    /// only.
    fn admits_trial(&self, now: Instant) -> bool {
        now >= self.until
            && self
                .trial
                .is_none_or(|since| now >= add(since, self.cooldown))
    }
}

/// `at + time`, or a time far ahead where that overflows.
fn add(at: Instant, time: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    at.checked_add(time).unwrap_or_else(|| at + YEAR)
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub fn new(policy: BreakerPolicy) -> Self {
        Self {
            policy,
            sound: AtomicBool::new(true),
            inner: Mutex::new(Inner {
                failures: 0,
                openings: 0,
                open: None,
            }),
        }
    }

    /// Returns whether the endpoint may get a request now.
    #[must_use]
    pub fn admits(&self) -> bool {
        if self.sound.load(Ordering::Acquire) {
            return true;
        }
        let inner = self.inner.lock();
        inner
            .open
            .as_ref()
            .is_none_or(|open| open.admits_trial(Instant::now()))
    }

    /// Returns its state.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        match &self.inner.lock().open {
            None => BreakerState::Closed,
            Some(open) if Instant::now() < open.until => BreakerState::Open,
            Some(_) => BreakerState::HalfOpen,
        }
    }

    /// Records that a request is sent to the endpoint. Returns whether it is the trial; a request
    /// that is sent although the breaker does not admit it is not.
    pub(super) fn begin(&self) -> Option<Trial> {
        if self.sound.load(Ordering::Acquire) {
            return None;
        }
        let now = Instant::now();
        let mut inner = self.inner.lock();
        let openings = inner.openings;
        let open = inner.open.as_mut().filter(|open| open.admits_trial(now))?;
        open.trial = Some(now);
        Some(Trial(openings))
    }

    /// Records an answer. Closes the breaker.
    pub(super) fn success(&self) {
        if self.sound.load(Ordering::Acquire) {
            return;
        }
        let mut inner = self.inner.lock();
        inner.failures = 0;
        inner.open = None;
        self.sound.store(true, Ordering::Release);
    }

    /// Records a good health check. Closes the breaker if it is not closed, without resetting the
    /// count of failures otherwise: a health check may pass while requests fail.
    pub(super) fn recovered(&self) {
        let mut inner = self.inner.lock();
        if inner.open.take().is_some() {
            inner.failures = 0;
        }
    }

    /// Records the failure of a request. Returns whether it opened the breaker.
    pub(super) fn failure(&self, trial: Option<Trial>) -> bool {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        self.sound.store(false, Ordering::Release);
        inner.failures = inner.failures.saturating_add(1);
        let cooldown = match &inner.open {
            // Only the trial tells something new. Other requests were sent before the breaker
            // opened, or as a last resort.
            Some(open) if trial == Some(Trial(inner.openings)) => {
                let longest = self.policy.cooldown.saturating_mul(MAX_COOLDOWN_FACTOR);
                open.cooldown.saturating_mul(2).min(longest)
            }
            Some(_) => return false,
            None if self.policy.failures > 0 && inner.failures >= self.policy.failures => {
                self.policy.cooldown
            }
            None => return false,
        };
        inner.openings += 1;
        inner.open = Some(OpenState::new(now, cooldown));
        true
    }

    /// Records that the trial ended without a result. The next request is the trial.
    pub(super) fn release(&self, trial: Trial) {
        let mut inner = self.inner.lock();
        if trial == Trial(inner.openings)
            && let Some(open) = &mut inner.open
        {
            open.trial = None;
        }
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
            ..BreakerPolicy::default()
        })
    }

    fn opened() -> Breaker {
        let breaker = breaker();
        assert!(!breaker.failure(None) && !breaker.failure(None) && breaker.failure(None));
        breaker
    }

    fn check(breaker: &Breaker, state: BreakerState, admits: bool) {
        assert_eq!((breaker.state(), breaker.admits()), (state, admits));
    }

    #[tokio::test(start_paused = true)]
    async fn opens_after_consecutive_failures_only() {
        let breaker = breaker();
        for _ in 0..5 {
            assert!(!breaker.failure(None) && !breaker.failure(None));
            breaker.success();
        }
        check(&breaker, BreakerState::Closed, true);
        check(&opened(), BreakerState::Open, false);
    }

    #[tokio::test(start_paused = true)]
    async fn admits_one_trial_after_the_cooldown() {
        let breaker = opened();
        tokio::time::advance(SECOND).await;
        check(&breaker, BreakerState::HalfOpen, true);
        assert!(breaker.begin().is_some());
        check(&breaker, BreakerState::HalfOpen, false);
        assert!(breaker.begin().is_none());
        breaker.success();
        check(&breaker, BreakerState::Closed, true);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_trial_doubles_the_cooldown_up_to_a_bound() {
        let breaker = opened();
        let mut cooldown = SECOND;
        for _ in 0..8 {
            tokio::time::advance(cooldown - Duration::from_millis(1)).await;
            assert!(!breaker.admits(), "{cooldown:?}");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(breaker.admits(), "{cooldown:?}");
            let trial = breaker.begin();
            assert!(trial.is_some() && breaker.failure(trial));
            cooldown = (cooldown * 2).min(SECOND * MAX_COOLDOWN_FACTOR);
        }
        assert_eq!(cooldown, SECOND * MAX_COOLDOWN_FACTOR);
    }

    #[tokio::test(start_paused = true)]
    async fn concurrent_failures_double_the_cooldown_once() {
        let breaker = opened();
        tokio::time::advance(SECOND).await;
        // All of them saw the breaker admit a request; one of them is the trial.
        let sent: Vec<_> = (0..20).map(|_| breaker.begin()).collect();
        assert_eq!(sent.iter().flatten().count(), 1);
        let opened = sent.into_iter().filter(|trial| breaker.failure(*trial));
        assert_eq!(opened.count(), 1);
        tokio::time::advance(2 * SECOND).await;
        check(&breaker, BreakerState::HalfOpen, true);
    }

    #[tokio::test(start_paused = true)]
    async fn last_resort_requests_are_no_trials() {
        let breaker = opened();
        for _ in 0..50 {
            let trial = breaker.begin();
            assert!(trial.is_none() && !breaker.failure(trial));
        }
        tokio::time::advance(SECOND).await;
        check(&breaker, BreakerState::HalfOpen, true);
    }

    #[tokio::test(start_paused = true)]
    async fn late_failure_of_an_earlier_trial_is_ignored() {
        let breaker = opened();
        tokio::time::advance(SECOND).await;
        let first = breaker.begin();
        tokio::time::advance(SECOND).await;
        // The first trial has no result so far; another one fails.
        let second = breaker.begin();
        assert!(second.is_some() && breaker.failure(second));
        assert!(!breaker.failure(first));
    }

    #[tokio::test(start_paused = true)]
    async fn trial_without_a_result_expires_after_the_cooldown_or_is_released() {
        let breaker = opened();
        tokio::time::advance(SECOND).await;
        let trial = breaker.begin();
        tokio::time::advance(SECOND).await;
        assert!(breaker.admits());
        breaker.begin();
        assert!(!breaker.admits());
        breaker.release(trial.unwrap());
        assert!(breaker.admits());
    }

    #[tokio::test(start_paused = true)]
    async fn good_health_check_closes_an_open_breaker_only() {
        let breaker = opened();
        breaker.recovered();
        check(&breaker, BreakerState::Closed, true);
        // The count of failures goes on while it is closed.
        assert!(!breaker.failure(None) && !breaker.failure(None));
        breaker.recovered();
        assert!(breaker.failure(None));
    }

    #[tokio::test(start_paused = true)]
    async fn zero_failures_disables_the_breaker() {
        let breaker = Breaker::new(BreakerPolicy {
            failures: 0,
            cooldown: SECOND,
            ..BreakerPolicy::default()
        });
        assert!((0..1000).all(|_| !breaker.failure(None)) && breaker.admits());
    }

    #[tokio::test(start_paused = true)]
    async fn longest_cooldown_does_not_overflow() {
        let breaker = Breaker::new(BreakerPolicy {
            failures: 1,
            cooldown: Duration::MAX,
            ..BreakerPolicy::default()
        });
        assert!(breaker.failure(None));
        check(&breaker, BreakerState::Open, false);
    }
}
