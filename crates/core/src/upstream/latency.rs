//! How soon a server gives its first token, as seen lately.

use std::time::Duration;

use parking_lot::Mutex;

/// What one more observation weighs in the average.
const WEIGHT: f64 = 0.2;
/// How many of the last observations the percentile is taken from.
const KEPT: usize = 128;
/// With fewer observations than this nothing is said of a percentile.
const ENOUGH: usize = 20;

/// Times to first token. Shared by all workers; touched once a request.
#[derive(Debug)]
pub struct Latency(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    average: Option<f64>,
    /// The last observations in microseconds, oldest overwritten first.
    recent: Vec<u32>,
    next: usize,
}

impl Latency {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Inner {
            average: None,
            recent: Vec::new(),
            next: 0,
        }))
    }

    pub(super) fn record(&self, time: Duration) {
        let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let mut inner = self.0.lock();
        let average = inner.average.map_or(f64::from(micros), |average| {
            average + WEIGHT * (f64::from(micros) - average)
        });
        inner.average = Some(average);
        if inner.recent.len() < KEPT {
            inner.recent.push(micros);
        } else {
            let at = inner.next;
            inner.recent[at] = micros;
            inner.next = (at + 1) % KEPT;
        }
    }

    /// A decaying average: of the last five observations or so most of all.
    #[must_use]
    pub fn average(&self) -> Option<Duration> {
        self.0
            .lock()
            .average
            .map(|micros| Duration::from_micros(micros as u64))
    }

    /// The time that 95 of the last 100 requests kept to; `None` until there have been 20.
    #[must_use]
    pub fn p95(&self) -> Option<Duration> {
        let mut recent = {
            let inner = self.0.lock();
            if inner.recent.len() < ENOUGH {
                return None;
            }
            inner.recent.clone()
        };
        let at = recent.len() * 95 / 100;
        let (_, micros, _) = recent.select_nth_unstable(at.min(KEPT - 1));
        Some(Duration::from_micros(u64::from(*micros)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_follows_what_was_seen_last() {
        let latency = Latency::new();
        assert_eq!(latency.average(), None);
        (0..100).for_each(|_| latency.record(Duration::from_millis(100)));
        assert_eq!(latency.average(), Some(Duration::from_millis(100)));
        (0..10).for_each(|_| latency.record(Duration::from_millis(900)));
        assert!(
            latency.average().unwrap() > Duration::from_millis(700),
            "{:?}",
            latency.average()
        );
    }

    #[test]
    fn the_percentile_is_that_of_the_last_observations() {
        let latency = Latency::new();
        (0..19).for_each(|_| latency.record(Duration::from_secs(9)));
        assert_eq!(latency.p95(), None);
        // 128 newer ones, 1 to 128 ms: of 128 the one at place 121.
        (1..=128).for_each(|millis| latency.record(Duration::from_millis(millis)));
        assert_eq!(latency.p95(), Some(Duration::from_millis(122)));
    }
}
