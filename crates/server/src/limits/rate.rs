//! A rate per minute, as a generic cell rate algorithm.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// The length of the window.
const MINUTE: u64 = 60_000_000_000;

/// Nanoseconds since the start of the process.
pub(super) fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// How much of a limit per minute is used. It fills up evenly, within a minute from empty to full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rate {
    /// When nothing will be used any more.
    free_at: u64,
}

// === impl Rate ===

impl Rate {
    /// A rate of which nothing will be used any more after this time.
    pub(super) fn used_for(time: Duration, now: u64) -> Self {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self {
            free_at: now.saturating_add(time),
        }
    }

    /// Checks that this many fit.
    ///
    /// # Errors
    /// How long it takes until they do.
    pub(super) fn check(self, limit: u64, now: u64, count: u64) -> Result<(), Duration> {
        let wait = self
            .used(now)
            .saturating_add(time_of(limit, count))
            .saturating_sub(MINUTE);
        if wait == 0 {
            Ok(())
        } else {
            Err(Duration::from_nanos(wait))
        }
    }

    /// Uses this many, whether or not they fit.
    pub(super) fn take(&mut self, limit: u64, now: u64, count: u64) {
        let from = self.free_at.max(now);
        self.free_at = from.saturating_add(time_of(limit, count));
    }

    /// Gives back what was taken.
    pub(super) fn give_back(&mut self, limit: u64, count: u64) {
        self.free_at = self.free_at.saturating_sub(time_of(limit, count));
    }

    /// Returns how many fit now.
    pub(super) fn remaining(self, limit: u64, now: u64) -> u64 {
        let free = u128::from(MINUTE.saturating_sub(self.used(now)));
        u64::try_from(free * u128::from(limit) / u128::from(MINUTE)).unwrap_or(u64::MAX)
    }

    /// Returns the time until nothing is used any more.
    pub(super) fn reset(self, now: u64) -> Duration {
        Duration::from_nanos(self.used(now))
    }

    fn used(self, now: u64) -> u64 {
        self.free_at.saturating_sub(now)
    }
}

/// Returns the time in which this many become free.
fn time_of(limit: u64, count: u64) -> u64 {
    let time = u128::from(count) * u128::from(MINUTE) / u128::from(limit.max(1));
    u64::try_from(time).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn limit_fits_at_once_and_then_one_at_a_time() {
        let mut rate = Rate::default();
        for left in (0..10).rev() {
            assert_eq!(rate.check(10, SECOND, 1), Ok(()));
            rate.take(10, SECOND, 1);
            assert_eq!(rate.remaining(10, SECOND), left);
        }
        assert_eq!(rate.check(10, SECOND, 1), Err(Duration::from_secs(6)));
        assert_eq!(rate.reset(SECOND), Duration::from_secs(60));
        assert_eq!(rate.check(10, 7 * SECOND, 1), Ok(()));
        assert_eq!(rate.check(10, 7 * SECOND, 2), Err(Duration::from_secs(6)));
        rate.give_back(10, 4);
        assert_eq!(rate.remaining(10, 7 * SECOND), 5);
        // More than the limit never fits, however long it takes.
        assert!(rate.check(10, 1000 * SECOND, 11).is_err());
    }

    proptest! {
        #[test]
        fn what_is_given_back_leaves_no_trace(
            limit in 1..1_000_000_u64,
            taken in proptest::collection::vec(0..1_000_000_u64, 0..20),
        ) {
            let mut rate = Rate::default();
            taken.iter().for_each(|count| rate.take(limit, 5, *count));
            taken.iter().for_each(|count| rate.give_back(limit, *count));
            prop_assert_eq!(rate.remaining(limit, 5), limit);
        }

        #[test]
        fn no_more_fit_than_the_limit_and_what_time_has_freed(
            limit in 1..1000_u64,
            steps in proptest::collection::vec(0..20 * SECOND, 1..200),
        ) {
            let (mut rate, mut now, mut fitted) = (Rate::default(), 0, 0_u64);
            for step in steps {
                now += step;
                while rate.check(limit, now, 1).is_ok() {
                    rate.take(limit, now, 1);
                    fitted += 1;
                }
            }
            let freed = u128::from(now) * u128::from(limit) / u128::from(MINUTE);
            prop_assert!(u128::from(fitted) <= u128::from(limit) + freed + 1);
        }
    }
}
