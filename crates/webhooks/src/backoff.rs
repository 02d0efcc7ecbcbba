//! Exponential backoff with full jitter between the attempts of a delivery.
//!
//! After the n-th failure the wait is a random time between 0 and [`ceiling`], so that deliveries
//! that failed together are not retried together. The ceilings are 5 s, 10 s, 20 s, … up to 2 h,
//! which is about 30 attempts in a day.

use std::time::Duration;

use rand::Rng;

/// The first ceiling.
const FIRST: Duration = Duration::from_secs(5);
/// The highest ceiling.
const HIGHEST: Duration = Duration::from_secs(2 * 60 * 60);
/// The longest `Retry-After` of a receiver that is honoured.
pub(crate) const MAX_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// Returns the longest wait after `failures` failures (at least 1).
pub(crate) fn ceiling(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    (FIRST * (1 << doublings)).min(HIGHEST)
}

/// Returns a random wait after `failures` failures. It is at least `retry_after`, up to
/// [`MAX_RETRY_AFTER`].
pub(crate) fn wait(failures: u32, retry_after: Option<Duration>, rng: &mut impl Rng) -> Duration {
    let jittered = ceiling(failures).mul_f64(rng.random::<f64>());
    jittered.max(retry_after.unwrap_or_default().min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn ceilings_double_up_to_two_hours() {
        let ceilings: Vec<u64> = (1..=13)
            .map(|failures| ceiling(failures).as_secs())
            .collect();
        assert_eq!(
            ceilings,
            [
                5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 7200, 7200
            ]
        );
        assert_eq!(ceiling(u32::MAX), HIGHEST);
    }

    #[test]
    fn jitter_is_full_and_below_the_ceiling() {
        let mut rng = StdRng::seed_from_u64(7);
        for failures in 1..15 {
            let waits: Vec<Duration> = (0..1000).map(|_| wait(failures, None, &mut rng)).collect();
            let limit = ceiling(failures);
            assert!(
                waits.iter().all(|wait| *wait <= limit),
                "after {failures} failures"
            );
            assert!(
                waits.iter().any(|wait| *wait < limit / 20)
                    && waits.iter().any(|wait| *wait > limit * 19 / 20),
                "after {failures} failures"
            );
        }
    }

    #[test]
    fn retry_after_is_honoured_up_to_its_maximum() {
        let mut rng = StdRng::seed_from_u64(7);
        let asked = |seconds, rng: &mut StdRng| wait(1, Some(Duration::from_secs(seconds)), rng);
        assert_eq!(asked(60, &mut rng), Duration::from_secs(60));
        assert_eq!(asked(1_000_000_000, &mut rng), MAX_RETRY_AFTER);
        assert!(
            (0..100).any(|_| asked(1, &mut rng) > Duration::from_secs(1)),
            "Retry-After must be a minimum, not a maximum"
        );
    }
}
