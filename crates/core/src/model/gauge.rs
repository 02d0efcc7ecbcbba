//! A gauge that is counted by guards, so that panics and early returns decrement it too.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// A shared counter. Clones count into the same value.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<Counter>);

#[derive(Debug, Default)]
struct Counter {
    count: AtomicUsize,
    /// Those of [handles](Gauge::handle).
    handles: Mutex<Vec<Gauge>>,
}

/// Guard of one count. Decrements the [`Gauge`] when it is dropped.
#[derive(Debug)]
pub struct GaugeGuard(Gauge);

impl Gauge {
    /// Returns a gauge for one worker, which this one includes. Workers that count apart do not wait
    /// for each other's processors. A handle counts for as long as this gauge exists.
    #[must_use]
    pub fn handle(&self) -> Self {
        let handle = Self::default();
        self.0.handles.lock().push(handle.clone());
        handle
    }

    /// Increments the gauge until the guard is dropped.
    #[must_use]
    pub fn enter(&self) -> GaugeGuard {
        self.0.count.fetch_add(1, Ordering::Relaxed);
        GaugeGuard(self.clone())
    }

    /// As [`Gauge::enter`], unless that would exceed `max`. Also returns the value before. Handles
    /// are not counted.
    ///
    /// Two threads never get the last place both.
    #[must_use]
    pub fn try_enter(&self, max: usize) -> Option<(GaugeGuard, usize)> {
        let add = |count| (count < max).then_some(count + 1);
        let before = self
            .0
            .count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .ok()?;
        Some((GaugeGuard(self.clone()), before))
    }

    /// Returns the current value, with that of its handles.
    #[must_use]
    pub fn count(&self) -> usize {
        let handles = self.0.handles.lock();
        let own = self.0.count.load(Ordering::Relaxed);
        own + handles.iter().map(Self::count).sum::<usize>()
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauge_includes_its_handles() {
        let gauge = Gauge::default();
        let (one, other) = (gauge.handle(), gauge.handle());
        let guards = [gauge.enter(), one.enter(), other.enter(), other.enter()];
        assert_eq!((gauge.count(), one.count(), other.count()), (4, 1, 2));
        drop(guards);
        assert_eq!(gauge.count(), 0);
    }
}
