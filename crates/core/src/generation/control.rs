//! The strings that others pull on a generation: readers come and go, somebody cancels.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Context;
use std::time::Duration;

use futures::task::AtomicWaker;

use super::Generation;

/// Why a generation is stopped from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Somebody with the right to do so said so.
    Cancelled,
    /// Nobody reads it, and nobody came back in time.
    Abandoned,
    /// The gateway stops, and its patience is over.
    ShuttingDown,
}

#[derive(Debug)]
pub(crate) struct Control {
    cancelled: AtomicBool,
    shutting_down: AtomicBool,
    readers: AtomicUsize,
    /// How long it runs on without a reader; `None` for ever.
    grace: Option<Duration>,
    driver: AtomicWaker,
}

impl Control {
    pub(super) fn new(grace: Option<Duration>) -> Self {
        Self {
            cancelled: AtomicBool::new(false),
            shutting_down: AtomicBool::new(false),
            readers: AtomicUsize::new(0),
            grace,
            driver: AtomicWaker::new(),
        }
    }

    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.driver.wake();
    }

    pub(super) fn shut_down(&self) {
        self.shutting_down.store(true, Ordering::Release);
        self.driver.wake();
    }

    /// How many readers there are.
    pub(super) fn readers(&self) -> usize {
        self.readers.load(Ordering::Acquire)
    }

    /// Asks to be woken when anything changes. To be called before looking.
    pub(super) fn watch(&self, cx: &Context<'_>) {
        self.driver.register(cx.waker());
    }

    /// Whether it is to end now, whoever reads.
    pub(super) fn stopped(&self) -> Option<Stop> {
        if self.cancelled.load(Ordering::Acquire) {
            return Some(Stop::Cancelled);
        }
        self.shutting_down.load(Ordering::Acquire).then_some(Stop::ShuttingDown)
    }

    /// The grace that has begun to run, if nobody reads and it matters.
    pub(super) fn abandoned(&self) -> Option<Duration> {
        self.grace.filter(|_| self.readers.load(Ordering::Acquire) == 0)
    }
}

/// A reader's presence. A generation without one runs on for its grace and is then cancelled.
#[derive(Debug)]
pub struct Attachment(Arc<Generation>);

impl Attachment {
    pub(super) fn new(generation: Arc<Generation>) -> Self {
        generation.control.readers.fetch_add(1, Ordering::AcqRel);
        generation.control.driver.wake();
        Self(generation)
    }

    /// What is attached to.
    #[must_use]
    pub fn generation(&self) -> &Arc<Generation> {
        &self.0
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        match self.0.control.readers.fetch_sub(1, Ordering::AcqRel) {
            1 => self.0.control.driver.wake(),
            2 => self.0.shared.clear(),
            _ => {}
        }
    }
}
