//! Counters of deliveries, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the start of the process, and the number of deliveries pending now.
#[derive(Debug, Default)]
pub struct WebhookCounters {
    delivered: AtomicU64,
    failed_attempts: AtomicU64,
    dead: AtomicU64,
    pending: AtomicU64,
}

// === impl WebhookCounters ===

impl WebhookCounters {
    /// Returns the number of deliveries that were answered with a 2xx.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Returns the number of failed attempts.
    #[must_use]
    pub fn failed_attempts(&self) -> u64 {
        self.failed_attempts.load(Ordering::Relaxed)
    }

    /// Returns the number of deliveries that ended as dead letters.
    #[must_use]
    pub fn dead(&self) -> u64 {
        self.dead.load(Ordering::Relaxed)
    }

    /// Returns the number of deliveries that wait for an attempt or are being attempted.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    pub(crate) fn note_delivered(&self) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn note_failed_attempt(&self) {
        self.failed_attempts.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn note_dead(&self) {
        self.dead.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn set_pending(&self, pending: usize) {
        self.pending.store(
            u64::try_from(pending).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }
}
