//! A gauge that is counted by guards, so that panics and early returns decrement it too.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A shared counter. Clones count into the same value.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicUsize>);

/// Guard of one count. Decrements the [`Gauge`] when it is dropped.
#[derive(Debug)]
pub struct GaugeGuard(Arc<AtomicUsize>);

impl Gauge {
    /// Increments the gauge until the guard is dropped.
    #[must_use]
    pub fn enter(&self) -> GaugeGuard {
        self.0.fetch_add(1, Ordering::Relaxed);
        GaugeGuard(self.0.clone())
    }

    /// As [`Gauge::enter`], unless that would exceed `max`. Also returns the value before.
    ///
    /// Two threads never get the last place both.
    #[must_use]
    pub fn try_enter(&self, max: usize) -> Option<(GaugeGuard, usize)> {
        let add = |count| (count < max).then_some(count + 1);
        let before = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .ok()?;
        Some((GaugeGuard(self.0.clone()), before))
    }

    /// Returns the current value.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
