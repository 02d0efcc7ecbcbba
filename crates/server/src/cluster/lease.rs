//! This process' lease, as its writers see it.

use std::fmt;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokenwire_core::generation::WriteLease;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Tells whether the process slept for longer than its lease since it was renewed last.
///
/// While Redis is away the lease cannot be renewed. That is no loss: no node adopts anything until its
/// own lease has held for a while again.
pub(super) struct Lease {
    duration: Duration,
    clock: Mutex<Clock>,
    renewed: Notify,
}

struct Clock {
    /// When the task that renews it has run last.
    last: Instant,
    asleep: bool,
    losses: u64,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").finish_non_exhaustive()
    }
}

// === impl Lease ===

impl Lease {
    pub(super) fn new(duration: Duration) -> Self {
        Self {
            duration,
            clock: Mutex::new(Clock {
                last: Instant::now(),
                asleep: false,
                losses: 0,
            }),
            renewed: Notify::new(),
        }
    }

    /// Notes that the task that renews it runs. Returns how often it was lost.
    pub(super) fn tick(&self) -> u64 {
        let mut clock = self.clock.lock();
        clock.look(self.duration);
        clock.last = Instant::now();
        clock.losses
    }

    /// Notes that it was renewed after it had been lost this often. An answer to a question from
    /// before a loss says nothing.
    pub(super) fn renewed(&self, losses: u64) {
        let mut clock = self.clock.lock();
        if clock.losses == losses {
            clock.asleep = false;
            drop(clock);
            self.renewed.notify_waiters();
        }
    }
}

impl Clock {
    fn look(&mut self, duration: Duration) {
        let now = Instant::now();
        if now.duration_since(self.last) > duration {
            self.last = now;
            self.asleep = true;
            self.losses += 1;
        }
    }
}

impl WriteLease for Lease {
    fn is_held(&self) -> bool {
        let mut clock = self.clock.lock();
        clock.look(self.duration);
        !clock.asleep
    }

    fn losses(&self) -> u64 {
        let mut clock = self.clock.lock();
        clock.look(self.duration);
        clock.losses
    }

    fn held(&self) -> BoxFuture<'_, ()> {
        async move {
            loop {
                let renewed = self.renewed.notified();
                tokio::pin!(renewed);
                renewed.as_mut().enable();
                if self.is_held() {
                    return;
                }
                renewed.await;
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(3);

    #[tokio::test(start_paused = true)]
    async fn lease_is_lost_by_sleeping_and_held_again_after_a_renewal() {
        let lease = Lease::new(LEASE);
        for _ in 0..5 {
            tokio::time::advance(Duration::from_secs(2)).await;
            lease.tick();
            assert!(lease.is_held(), "Redis is away, the process runs");
        }
        let asked = lease.tick();
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(!lease.is_held());
        lease.renewed(asked);
        assert!(!lease.is_held(), "the answer is from before");
        assert!(lease.held().now_or_never().is_none());
        let asked = lease.tick();
        lease.renewed(asked);
        lease.held().await;
        assert_eq!(lease.losses(), 1);
    }
}
