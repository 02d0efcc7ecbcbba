//! Whether an upstream was asked, for those that count what a request costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the attempts of one request that an upstream may have worked on. By default nothing is
/// counted.
#[derive(Clone, Debug, Default)]
pub struct Asked(Option<Arc<AtomicUsize>>);

impl Asked {
    /// A count that begins at zero.
    #[must_use]
    pub fn counted() -> Self {
        Self(Some(Arc::default()))
    }

    /// Counts the attempts from now on, also where nothing was counted.
    pub(crate) fn count(&mut self) {
        self.0.get_or_insert_default();
    }

    /// Counts an attempt, which is sent now.
    pub fn begin(&self) {
        if let Some(attempts) = &self.0 {
            attempts.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Takes an attempt back that no upstream has worked on: it was refused, or not sent.
    pub fn undo(&self) {
        if let Some(attempts) = &self.0 {
            attempts.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Whether an upstream may have worked on the request. False where nothing is counted.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        let attempts = self.0.as_ref();
        attempts.is_some_and(|attempts| attempts.load(Ordering::Acquire) > 0)
    }
}
