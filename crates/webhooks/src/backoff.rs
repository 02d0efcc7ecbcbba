//! When a delivery that failed is tried again: exponential backoff with full jitter.
//!
//! After the n-th failure the wait is a random time between nothing and [`ceiling`], so that
//! deliveries that failed together do not come back together. The ceilings are 5 s, 10 s, 20 s, …
//! up to 2 h; over a day that is some thirty attempts.

use std::time::Duration;

use rand::Rng;

/// The first ceiling.
const FIRST: Duration = Duration::from_secs(5);
/// The highest ceiling.
const HIGHEST: Duration = Duration::from_secs(2 * 60 * 60);
/// The longest that a receiver's `Retry-After` is honoured for.
pub(crate) const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// The longest wait after so many failures, of which there is at least one.
pub(crate) fn ceiling(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    (FIRST * (1 << doublings)).min(HIGHEST)
}

/// The wait after so many failures: random, and no shorter than what the receiver asked for, up to
/// [`LONGEST_RETRY_AFTER`].
pub(crate) fn wait(failures: u32, retry_after: Option<Duration>, rng: &mut impl Rng) -> Duration {
    let jittered = ceiling(failures).mul_f64(rng.random::<f64>());
    jittered.max(retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER))
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
    fn jitter_is_full_and_never_beyond_the_ceiling() {
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
    fn a_receiver_may_ask_for_more_time_but_not_for_ever() {
        let mut rng = StdRng::seed_from_u64(7);
        let asked = |seconds, rng: &mut StdRng| wait(1, Some(Duration::from_secs(seconds)), rng);
        assert_eq!(asked(60, &mut rng), Duration::from_secs(60));
        assert_eq!(asked(1_000_000_000, &mut rng), LONGEST_RETRY_AFTER);
        assert!(
            (0..100).any(|_| asked(1, &mut rng) > Duration::from_secs(1)),
            "what is asked for is the least, not the most"
        );
    }
}
