//! Gives memory back to the system after load.
//!
//! The allocator keeps freed pages for the thread that freed them, and returns them only when that
//! thread allocates again. A gateway that is idle after a burst would stay large. So each thread
//! that handles requests looks once a second whether much was released, and returns what it can. After
//! the release of a piece that is large beside the limit it does so right away: a few of them that the
//! allocator keeps would exceed what the account allows.

use std::time::Duration;

// Links the allocator, whose interface in Rust lacks the function that is declared below.
use mimalloc as _;
use tokenwire_core::model::account::Account;
use tokio::time::MissedTickBehavior;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// Bytes released that are worth a collection.
const WORTH: usize = 1024 * 1024;
/// While more than [`WORTH`] is released each second, memory is returned this often only: it would
/// be taken again at once. Not while half of the limit is held: then it must not add to it.
const BUSY: u32 = 5;
/// Time after the release of a very large piece. Those of the same request are released together.
const SHORTLY: Duration = Duration::from_millis(20);
/// Collections after the last release. The first finds the pages of this thread; what other threads
/// free in the meantime is found by the next ones.
const AFTERWARDS: u32 = 3;

/// When a thread collects.
#[derive(Debug, Default)]
struct Schedule {
    /// [`Account::released`] at the last look.
    seen: usize,
    /// Bytes released since the last collection.
    pending: usize,
    /// Looks in a row at which much had been released.
    busy: u32,
    /// Collections that are left.
    left: u32,
}

/// Returns memory of this thread to the system whenever the account says that much was released.
pub(crate) async fn return_memory(account: Account) {
    let mut schedule = Schedule {
        seen: account.released(),
        ..Schedule::default()
    };
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = account.huge_released() => {
                tokio::time::sleep(SHORTLY).await;
                collect();
                continue;
            }
        }
        let is_short = account.used() > account.limit() / 2;
        if schedule.is_due(account.released(), is_short) {
            collect();
        }
    }
}

// === impl Schedule ===

impl Schedule {
    fn is_due(&mut self, released: usize, is_short: bool) -> bool {
        let new = released.wrapping_sub(self.seen);
        self.seen = released;
        self.pending = self.pending.saturating_add(new);
        if self.pending >= WORTH {
            self.left = AFTERWARDS;
        }
        if new >= WORTH {
            self.busy += 1;
            if self.busy < BUSY && !is_short {
                return false;
            }
        }
        self.busy = 0;
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        self.pending = 0;
        true
    }
}

/// Returns the free pages of this thread, and those that belong to none, to the system. Takes
/// a fraction of a millisecond where there are few.
#[expect(
    unsafe_code,
    reason = "the crate `mimalloc` has no safe interface for this"
)]
fn collect() {
    // SAFETY: this is the signature in `mimalloc.h`.
    unsafe extern "C" {
        fn mi_collect(force: bool);
    }
    // SAFETY: the function has no preconditions. It may be called at any time, on any thread, also
    // where mimalloc is not the global allocator.
    unsafe { mi_collect(true) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_collects_after_releases_and_rarely_during_load() {
        let mut schedule = Schedule::default();
        let mut total = 0_usize;
        let mut look = |bytes: usize| {
            total = total.wrapping_add(bytes);
            schedule.is_due(total, false)
        };
        assert!(!look(0));
        assert!(!look(WORTH / 2), "too little");
        // It adds up.
        assert!(look(WORTH / 2));
        assert!(look(0) && look(0) && !look(0));
        // A steady load.
        let due = (0..20).filter(|_| look(10 * WORTH)).count();
        assert_eq!(due, 4);
        assert!(look(0), "after its end");
        collect();
    }

    #[test]
    fn thread_collects_each_time_while_memory_is_short() {
        let mut schedule = Schedule::default();
        let due = (1..=20).filter(|look| schedule.is_due(look * 10 * WORTH, true));
        assert_eq!(due.count(), 20);
    }
}
