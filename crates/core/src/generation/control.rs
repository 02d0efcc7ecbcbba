//! External control of a generation: reader count, cancellation, shutdown.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::task::Context;
use std::time::Duration;

use futures::task::AtomicWaker;

use super::Generation;

/// Why a generation is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A client cancelled it.
    Cancelled,
    /// It has no reader, and none came back within its grace.
    Abandoned,
    /// The gateway stops, and the time to drain is over.
    ShuttingDown,
}

/// Whether the upstream timeouts run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeoutState {
    /// They run.
    Running,
    /// They do not run: the generation follows another one.
    Paused,
    /// They start now.
    Resumed,
}

const RUNNING: u8 = 0;
const PAUSED: u8 = 1;
const RESUMED: u8 = 2;

/// The bit of the holders that says that the log is given up: it had no holder then.
const EXPIRING: u32 = 1 << (u32::BITS - 1);

#[derive(Debug)]
pub(crate) struct Control {
    cancelled: AtomicBool,
    shutting_down: AtomicBool,
    disowned: AtomicBool,
    /// Whether another process writes the log.
    remote: AtomicBool,
    readers: AtomicU32,
    /// Number of readers so far.
    arrivals: AtomicU32,
    /// Number of generations that follow this one's log.
    followers: AtomicU32,
    /// Readers and followers, and [`EXPIRING`].
    holders: AtomicU32,
    timeouts: AtomicU8,
    /// How long it runs without a reader; `None` is without limit.
    grace: Option<Duration>,
    driver: AtomicWaker,
}

impl Control {
    pub(super) fn new(grace: Option<Duration>) -> Self {
        Self {
            cancelled: AtomicBool::new(false),
            shutting_down: AtomicBool::new(false),
            disowned: AtomicBool::new(false),
            remote: AtomicBool::new(false),
            readers: AtomicU32::new(0),
            arrivals: AtomicU32::new(0),
            followers: AtomicU32::new(0),
            holders: AtomicU32::new(0),
            timeouts: AtomicU8::new(RUNNING),
            grace,
            driver: AtomicWaker::new(),
        }
    }

    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.driver.wake();
    }

    /// Notes that the log is another process's now.
    pub(super) fn disown(&self) {
        self.disowned.store(true, Ordering::Release);
    }

    pub(super) fn is_disowned(&self) -> bool {
        self.disowned.load(Ordering::Acquire)
    }

    pub(super) fn set_remote(&self, remote: bool) {
        self.remote.store(remote, Ordering::Release);
    }

    pub(super) fn is_remote(&self) -> bool {
        self.remote.load(Ordering::Acquire)
    }

    pub(super) fn shut_down(&self) {
        self.shutting_down.store(true, Ordering::Release);
        self.driver.wake();
    }

    /// The number of readers.
    pub(super) fn readers(&self) -> u32 {
        self.readers.load(Ordering::Acquire)
    }

    /// Registers the driver's waker. Must be called before the state is read.
    pub(super) fn watch(&self, cx: &Context<'_>) {
        self.driver.register(cx.waker());
    }

    /// The reason to stop at once, with or without readers.
    pub(super) fn stopped(&self) -> Option<Stop> {
        if self.cancelled.load(Ordering::Acquire) {
            return Some(Stop::Cancelled);
        }
        self.shutting_down
            .load(Ordering::Acquire)
            .then_some(Stop::ShuttingDown)
    }

    /// The grace, if it has a limit and there is no reader, and the number of readers so far: a
    /// reader may have come and gone since the last call.
    pub(super) fn abandoned(&self) -> Option<(Duration, u32)> {
        let grace = self.grace?;
        let arrivals = self.arrivals.load(Ordering::Acquire);
        (self.readers.load(Ordering::Acquire) == 0).then_some((grace, arrivals))
    }

    /// Whether another generation follows this one. It is not abandoned then, even when its grace
    /// runs out.
    pub(super) fn is_followed(&self) -> bool {
        self.followers.load(Ordering::Acquire) > 0
    }

    /// Gives the log up unless it is held. A later holder finds that it is given up. Returns whether
    /// it is.
    pub(super) fn give_up_log(&self) -> bool {
        let give_up = |holders: u32| (holders & !EXPIRING == 0).then_some(EXPIRING);
        self.holders
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, give_up)
            .is_ok()
    }

    /// Counts a holder. Returns false if the log was given up before.
    fn hold(&self) -> bool {
        self.holders.fetch_add(1, Ordering::AcqRel) & EXPIRING == 0
    }

    fn release(&self) {
        self.holders.fetch_sub(1, Ordering::AcqRel);
    }

    /// Pauses the upstream timeouts of a generation that follows another, which has its own.
    pub(crate) fn pause_timeouts(&self) {
        self.timeouts.store(PAUSED, Ordering::Release);
    }

    /// Starts the upstream timeouts now: the generation asks an upstream after all.
    pub(crate) fn resume_timeouts(&self) {
        self.timeouts.store(RESUMED, Ordering::Release);
        self.driver.wake();
    }

    /// The state of the timeouts. `Resumed` is returned once.
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

impl Generation {
    /// Counts a holder of the log. If it was given up just before, it expires now: a reader then has
    /// nothing of it, and is not cut off in the middle.
    fn hold(&self) {
        if !self.control.hold() {
            self.log.expire();
        }
    }
}

/// Counts one reader. A generation without readers runs on for its grace and is then cancelled.
#[derive(Debug)]
pub struct ReaderGuard(Arc<Generation>);

impl ReaderGuard {
    pub(super) fn new(generation: Arc<Generation>) -> Self {
        generation.hold();
        generation.control.readers.fetch_add(1, Ordering::AcqRel);
        generation.control.arrivals.fetch_add(1, Ordering::AcqRel);
        generation.control.driver.wake();
        generation.restore_templates();
        Self(generation)
    }

    /// The generation that is read.
    #[must_use]
    pub fn generation(&self) -> &Arc<Generation> {
        &self.0
    }
}

impl Drop for ReaderGuard {
    fn drop(&mut self) {
        let readers = self.0.control.readers.fetch_sub(1, Ordering::AcqRel) - 1;
        // Also with the last reader: it may have added an entry while the other one left.
        if readers < 2 {
            self.0.render_cache.clear();
        }
        if readers == 0 {
            self.0.control.driver.wake();
            self.0.release_templates();
        }
        self.0.control.release();
    }
}

/// Counts one generation that follows another. While it exists, the leader is not abandoned and its
/// log is kept. When the last one is dropped, the grace that has passed in the meantime counts.
#[derive(Debug)]
pub(crate) struct FollowerGuard(Arc<Generation>);

impl FollowerGuard {
    pub(crate) fn new(leader: Arc<Generation>) -> Self {
        leader.hold();
        leader.control.followers.fetch_add(1, Ordering::AcqRel);
        leader.control.driver.wake();
        leader.restore_templates();
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
            self.0.release_templates();
        }
        self.0.control.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_log_is_not_given_up() {
        let control = Control::new(None);
        assert!(control.hold());
        assert!(!control.give_up_log());
        control.release();
        assert!(control.give_up_log());
        // Not again for a holder that came too late.
        assert!(!control.hold());
        assert!(!control.give_up_log());
        control.release();
        assert!(control.give_up_log());
    }

    #[test]
    fn holder_and_expiry_that_race_agree() {
        for _ in 0..2_000 {
            let control = Control::new(None);
            let (held, given_up) = std::thread::scope(|scope| {
                let holder = scope.spawn(|| control.hold());
                let given_up = control.give_up_log();
                (holder.join(), given_up)
            });
            assert_eq!(held.ok(), Some(!given_up));
        }
    }
}
