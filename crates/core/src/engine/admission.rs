//! Admission: whether one more generation may start, and how many run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::model::error::{ApiError, ErrorCode};

/// Counts the generations that run, and refuses those past the limit and those that come while the
/// gateway shuts down.
#[derive(Debug)]
pub(super) struct Admission {
    max_open: usize,
    open: Arc<AtomicUsize>,
    closed: AtomicBool,
    draining: AtomicBool,
    readers_leave: AtomicBool,
    drain: Notify,
}

/// A permit of the limit on running generations. Dropping it releases the permit.
#[derive(Debug)]
pub(super) struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

// === impl Admission ===

impl Admission {
    pub(super) fn new(max_open: usize) -> Self {
        Self {
            max_open,
            open: Arc::default(),
            closed: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            readers_leave: AtomicBool::new(false),
            drain: Notify::new(),
        }
    }

    /// Number of generations that run now.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Notes that the gateway drains. New generations are still admitted.
    pub(super) fn begin_drain(&self, readers_leave: bool) {
        self.readers_leave.store(readers_leave, Ordering::Release);
        self.draining.store(true, Ordering::Release);
        self.drain.notify_waiters();
    }

    /// Whether the gateway drains.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Whether readers that can resume elsewhere are to leave.
    pub(super) fn readers_leave(&self) -> bool {
        self.readers_leave.load(Ordering::Acquire)
    }

    /// Waits until the gateway drains.
    pub(super) async fn draining(&self) {
        let notified = self.drain.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        if !self.is_draining() {
            notified.await;
        }
    }

    /// Refuses new generations from now on.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        if !self.draining.swap(true, Ordering::AcqRel) {
            self.drain.notify_waiters();
        }
    }

    /// Whether new generations are refused.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Returns a permit for one more generation.
    pub(super) fn permit(&self) -> Result<Permit, ApiError> {
        if self.is_closed() {
            return Err(shutting_down());
        }
        // A start that is refused is never counted, so it takes no place from another one.
        let place = |open| (open < self.max_open).then_some(open + 1);
        match self
            .open
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, place)
        {
            Ok(_) => Ok(Permit(self.open.clone())),
            Err(open) => {
                let message = format!("{open} streams are open, as many as the gateway takes.");
                let error = ApiError::new(ErrorCode::Overloaded, message);
                Err(error.retry_after(Duration::from_secs(1)))
            }
        }
    }
}

/// Returns the error of a start that comes after [`Admission::close`].
pub(super) fn shutting_down() -> ApiError {
    let error = ApiError::new(ErrorCode::ShuttingDown, "The gateway is shutting down.");
    error.retry_after(Duration::from_secs(1))
}
