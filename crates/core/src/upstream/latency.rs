//! Recent times to first token of one endpoint.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Weight of a new observation in the moving average.
const WEIGHT: f64 = 0.2;
/// Number of observations that the percentile is taken from.
const KEPT: usize = 128;
/// Fewest observations that give a percentile.
const ENOUGH: usize = 20;

/// Times to first token. Shared by all workers; updated twice per request.
#[derive(Debug)]
#[repr(align(128))]
pub struct Latency(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    average: Option<f64>,
    /// The last observations in microseconds, oldest overwritten first.
    recent: Vec<u32>,
    next: usize,
    /// Requests that wait for their first token.
    pending: usize,
    /// When the last of these was answered, or the first of them was sent.
    silent_since: Option<Instant>,
}

impl Latency {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Inner {
            average: None,
            recent: Vec::new(),
            next: 0,
            pending: 0,
            silent_since: None,
        }))
    }

    /// Records that a request is sent.
    pub(super) fn begin(&self) {
        let now = Instant::now();
        let mut inner = self.0.lock();
        inner.pending += 1;
        if inner.pending == 1 {
            inner.silent_since = Some(now);
        }
    }

    /// Records that a request no longer waits for its first token, and its time to first token if
    /// that is known.
    pub(super) fn end(&self, time: Option<Duration>) {
        let now = Instant::now();
        let mut inner = self.0.lock();
        inner.pending = inner.pending.saturating_sub(1);
        inner.silent_since = (inner.pending > 0).then_some(now);
        if let Some(time) = time {
            inner.record(time);
        }
    }

    /// Returns how long no request was answered while one waits for its first token. An endpoint
    /// that hangs is known by this before it has a latency.
    pub(super) fn silence(&self) -> Duration {
        let since = self.0.lock().silent_since;
        since.map_or(Duration::ZERO, |since| since.elapsed())
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

impl Inner {
    fn record(&mut self, time: Duration) {
        let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let average = self.average.map_or(f64::from(micros), |average| {
            average + WEIGHT * (f64::from(micros) - average)
        });
        self.average = Some(average);
        if self.recent.len() < KEPT {
            self.recent.push(micros);
        } else {
            self.recent[self.next] = micros;
            self.next = (self.next + 1) % KEPT;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn average_follows_recent_observations() {
        let latency = Latency::new();
        assert_eq!(latency.average(), None);
        (0..100).for_each(|_| latency.end(Some(Duration::from_millis(100))));
        assert_eq!(latency.average(), Some(Duration::from_millis(100)));
        (0..10).for_each(|_| latency.end(Some(Duration::from_millis(900))));
        assert!(
            latency.average().unwrap() > Duration::from_millis(700),
            "{:?}",
            latency.average()
        );
    }

    #[test]
    fn percentile_covers_the_last_observations_only() {
        let latency = Latency::new();
        (0..19).for_each(|_| latency.end(Some(Duration::from_secs(9))));
        assert_eq!(latency.p95(), None);
        // 128 newer observations, 1 to 128 ms; index 121 of the sorted list.
        (1..=128).for_each(|millis| latency.end(Some(Duration::from_millis(millis))));
        assert_eq!(latency.p95(), Some(Duration::from_millis(122)));
    }
    #[tokio::test(start_paused = true)]
    async fn silence_is_the_time_without_an_answer_while_requests_wait() {
        let latency = Latency::new();
        let seconds = Duration::from_secs;
        assert_eq!(latency.silence(), Duration::ZERO);
        latency.begin();
        tokio::time::advance(seconds(2)).await;
        latency.begin();
        tokio::time::advance(seconds(1)).await;
        assert_eq!(latency.silence(), seconds(3));
        latency.end(Some(seconds(1)));
        tokio::time::advance(seconds(1)).await;
        assert_eq!(latency.silence(), seconds(1));
        latency.end(None);
        tokio::time::advance(seconds(1)).await;
        assert_eq!(latency.silence(), Duration::ZERO);
    }
}
