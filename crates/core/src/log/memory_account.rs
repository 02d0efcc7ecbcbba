//! The bytes that all logs of a process hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the bytes that all logs of a process hold. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct MemoryAccount(Arc<AtomicUsize>);

impl MemoryAccount {
    /// Bytes held now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn resize(&self, from: usize, to: usize) {
        // Two's complement: adding the wrapped difference also subtracts.
        self.0.fetch_add(to.wrapping_sub(from), Ordering::Relaxed);
    }
}
