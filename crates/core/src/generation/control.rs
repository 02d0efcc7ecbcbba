//! The strings that others pull on a generation: readers come and go, somebody cancels.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
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

/// Whether the clocks on the upstream run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeoutState {
    /// They run.
    Running,
    /// They do not: what is waited for is not a model.
    Paused,
    /// They run, from this moment on.
    Resumed,
}

const RUNNING: u8 = 0;
const PAUSED: u8 = 1;
const RESUMED: u8 = 2;

#[derive(Debug)]
pub(crate) struct Control {
    cancelled: AtomicBool,
    shutting_down: AtomicBool,
    readers: AtomicUsize,
    /// Generations whose upstream is this one's log.
    followers: AtomicUsize,
    timeouts: AtomicU8,
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
            followers: AtomicUsize::new(0),
            timeouts: AtomicU8::new(RUNNING),
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
        self.shutting_down
            .load(Ordering::Acquire)
            .then_some(Stop::ShuttingDown)
    }

    /// The grace that has begun to run, if nobody reads and it matters.
    pub(super) fn abandoned(&self) -> Option<Duration> {
        self.grace
            .filter(|_| self.readers.load(Ordering::Acquire) == 0)
    }

    /// Whether another generation is made of this one. Then it is not given up, although its own
    /// grace runs.
    pub(super) fn is_followed(&self) -> bool {
        self.followers.load(Ordering::Acquire) > 0
    }

    /// Stops the clocks on the upstream, for an answer that another generation's clocks watch over.
    pub(crate) fn pause_timeouts(&self) {
        self.timeouts.store(PAUSED, Ordering::Release);
    }

    /// Has the clocks begin now: a model is asked after all.
    pub(crate) fn resume_timeouts(&self) {
        self.timeouts.store(RESUMED, Ordering::Release);
        self.driver.wake();
    }

    /// What became of the clocks; a restart is told once.
    pub(super) fn timeouts(&self) -> TimeoutState {
        match self.timeouts.load(Ordering::Acquire) {
            RUNNING => TimeoutState::Running,
            PAUSED => TimeoutState::Paused,
            _ => {
                self.timeouts.store(RUNNING, Ordering::Release);
                TimeoutState::Resumed
            }
        }
    }
}

/// A reader's presence. A generation without one runs on for its grace and is then cancelled.
#[derive(Debug)]
pub struct ReaderGuard(Arc<Generation>);

impl ReaderGuard {
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

impl Drop for ReaderGuard {
    fn drop(&mut self) {
        match self.0.control.readers.fetch_sub(1, Ordering::AcqRel) {
            1 => self.0.control.driver.wake(),
            2 => self.0.render_cache.clear(),
            _ => {}
        }
    }
}

/// A hold of one generation on another, which its answer is made of. While it lasts, the other is
/// not given up for want of readers and its log is kept; with the last hold the grace that has run
/// meanwhile counts.
#[derive(Debug)]
pub(crate) struct FollowerGuard(Arc<Generation>);

impl FollowerGuard {
    pub(crate) fn new(leader: Arc<Generation>) -> Self {
        leader.control.followers.fetch_add(1, Ordering::AcqRel);
        leader.control.driver.wake();
        Self(leader)
    }

    /// The generation that is followed.
    pub(crate) fn leader(&self) -> &Arc<Generation> {
        &self.0
    }
}

impl Drop for FollowerGuard {
    fn drop(&mut self) {
        if self.0.control.followers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.control.driver.wake();
        }
    }
}
