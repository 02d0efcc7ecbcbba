//! A circuit breaker: a server that keeps failing is left alone for a while, then tried with one
//! request.
//!
//! ```text
//!   Closed ──failures in a row──▶ Open ──cooldown──▶ Trying ──success──▶ Closed
//!                                  ▲                   │
//!                                  └── failure, twice ─┘
//!                                      the cooldown
//! ```
//!
//! Only what fails before the first token counts: a server that answers and is cut later is not one
//! that is down.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The cooldown is doubled with every trial that fails, up to this many times its first length.
const LONGEST: u32 = 16;

/// When a breaker opens and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Failures in a row that open it; 0: it never opens.
    pub failures: u32,
    /// How long it stays open before a request is let through to see.
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

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Requests go through.
    Closed,
    /// None does.
    Open,
    /// One is on its way to see whether the server is back.
    Trying,
}

/// See the [module](self). Shared by all workers.
#[derive(Debug)]
pub struct Breaker {
    policy: BreakerPolicy,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    failures: u32,
    /// Set while it is not closed.
    open: Option<Opened>,
    /// The server asked to be left alone until then (`Retry-After`).
    resting: Option<Instant>,
}

#[derive(Debug)]
struct Opened {
    until: Instant,
    cooldown: Duration,
    /// When the trial was let through, if one was.
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

    /// Whether a request may go to the server now.
    #[must_use]
    pub fn admits(&self) -> bool {
        let now = Instant::now();
        let inner = self.inner.lock();
        if inner.resting.is_some_and(|until| now < until) {
            return false;
        }
        // A trial that was never heard of again (its client left) does not bar the next for good.
        inner.open.as_ref().is_none_or(|open| {
            now >= open.until && open.trial.is_none_or(|since| now >= since + open.cooldown)
        })
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        match &self.inner.lock().open {
            None => BreakerState::Closed,
            Some(open) if open.trial.is_some() => BreakerState::Trying,
            Some(_) => BreakerState::Open,
        }
    }

    /// A request goes to the server.
    pub(super) fn begin(&self) {
        if let Some(open) = &mut self.inner.lock().open {
            open.trial = Some(Instant::now());
        }
    }

    /// The server answered.
    pub(super) fn success(&self) {
        let mut inner = self.inner.lock();
        inner.failures = 0;
        inner.open = None;
        inner.resting = None;
    }

    /// The server failed. True if that opened the breaker.
    pub(super) fn failure(&self) -> bool {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        inner.failures = inner.failures.saturating_add(1);
        let failures = inner.failures;
        match &mut inner.open {
            // Requests that were under way when it opened say nothing new.
            Some(open) if open.trial.is_none() => false,
            Some(open) => {
                let cooldown = (open.cooldown * 2).min(self.policy.cooldown * LONGEST);
                *open = Opened {
                    until: now + cooldown,
                    cooldown,
                    trial: None,
                };
                true
            }
            None if self.policy.failures > 0 && failures >= self.policy.failures => {
                let cooldown = self.policy.cooldown;
                inner.open = Some(Opened {
                    until: now + cooldown,
                    cooldown,
                    trial: None,
                });
                true
            }
            None => false,
        }
    }

    /// The server is up but asks to be left alone for this long.
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
    async fn opens_after_failures_in_a_row_only() {
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
    async fn lets_one_request_through_after_the_cooldown() {
        let breaker = breaker();
        for _ in 0..3 {
            breaker.failure();
        }
        tokio::time::advance(SECOND).await;
        assert!(breaker.admits());
        breaker.begin();
        assert_eq!(
            (breaker.state(), breaker.admits()),
            (BreakerState::Trying, false)
        );
        breaker.success();
        assert_eq!(
            (breaker.state(), breaker.admits()),
            (BreakerState::Closed, true)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn every_failed_trial_doubles_the_cooldown_up_to_a_bound() {
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
            cooldown = (cooldown * 2).min(SECOND * LONGEST);
        }
        assert_eq!(cooldown, SECOND * LONGEST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_is_never_heard_of_again_bars_nobody() {
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
    async fn a_server_that_asks_for_rest_gets_it() {
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
    async fn without_a_number_of_failures_it_never_opens() {
        let breaker = Breaker::new(BreakerPolicy {
            failures: 0,
            cooldown: SECOND,
        });
        assert!((0..1000).all(|_| !breaker.failure()) && breaker.admits());
    }
}
