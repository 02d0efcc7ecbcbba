//! Recent times to first token of one endpoint.

use std::time::Duration;

use parking_lot::Mutex;

/// Weight of a new observation in the moving average.
const WEIGHT: f64 = 0.2;
/// Number of observations that the percentile is taken from.
const KEPT: usize = 128;
/// Fewest observations that give a percentile.
const ENOUGH: usize = 20;

/// Times to first token. Shared by all workers; updated once per request.
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

    /// Returns the exponential moving average, dominated by the last five observations or so.
    #[must_use]
    pub fn average(&self) -> Option<Duration> {
        self.0
            .lock()
            .average
            .map(|micros| Duration::from_micros(micros as u64))
    }

    /// Returns the 95th percentile of the last 128 requests; `None` until there have been 20.
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
    fn average_follows_recent_observations() {
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
    fn percentile_covers_the_last_observations_only() {
        let latency = Latency::new();
        (0..19).for_each(|_| latency.record(Duration::from_secs(9)));
        assert_eq!(latency.p95(), None);
        // 128 newer observations, 1 to 128 ms; index 121 of the sorted list.
        (1..=128).for_each(|millis| latency.record(Duration::from_millis(millis)));
        assert_eq!(latency.p95(), Some(Duration::from_millis(122)));
    }
}
