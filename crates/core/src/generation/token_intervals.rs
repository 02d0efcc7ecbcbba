//! Times between the tokens of one generation.

use std::time::Duration;

/// Counts of the times between tokens, by length. Tokens that come in one read count once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenIntervals {
    /// Counts per bucket; the last is for what is longer than all bounds.
    counts: [u32; TokenIntervals::BUCKETS],
    sum: Duration,
}

// === impl TokenIntervals ===

impl TokenIntervals {
    /// Upper bounds of the buckets in microseconds.
    pub const BOUNDS: [u32; 13] = [
        1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
        2_500_000, 10_000_000, 60_000_000,
    ];
    /// Number of buckets.
    pub const BUCKETS: usize = Self::BOUNDS.len() + 1;

    /// Counts a time. Costs a few comparisons.
    pub(crate) fn add(&mut self, time: Duration) {
        let bucket = Self::BOUNDS
            .iter()
            .position(|bound| time <= Duration::from_micros(u64::from(*bound)))
            .unwrap_or(Self::BOUNDS.len());
        if let Some(count) = self.counts.get_mut(bucket) {
            *count = count.saturating_add(1);
        }
        self.sum = self.sum.saturating_add(time);
    }

    /// Returns whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| *count == 0)
    }

    /// Returns the counts: one for each bound, of times up to it and above the bound before, and the
    /// rest.
    #[must_use]
    pub fn counts(&self) -> &[u32; Self::BUCKETS] {
        &self.counts
    }

    /// Returns the sum of all times.
    #[must_use]
    pub fn sum(&self) -> Duration {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_in_the_bucket_of_the_next_bound() {
        let mut intervals = TokenIntervals::default();
        assert!(intervals.is_empty());
        for micros in [0, 1_000, 1_001, 20_000, 61_000_000, 999_000_000] {
            intervals.add(Duration::from_micros(micros));
        }
        let counts = intervals.counts();
        assert_eq!((counts[0], counts[1], counts[4], counts[13]), (2, 1, 1, 2));
        assert_eq!(counts.iter().sum::<u32>(), 6);
        assert_eq!(intervals.sum(), Duration::from_micros(1_060_022_001));
    }
}
