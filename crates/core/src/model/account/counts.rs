//! The counters of an account, one set for each of some workers.
//!
//! ```text
//!   shard 0   held   Bodies  Messages  …  ─┐
//!   shard 1   held   Bodies  Messages  …  ─┼─ differences of `step` or more ─▶ reported
//!   ⋯                                     ─┘
//! ```
//!
//! A worker writes its own shard. What a check reads is the sum of all shards as far as they have
//! reported it, which changes rarely. Only where that is too close to the bound all shards are read.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::AccountKind;

/// Number of kinds.
const KINDS: usize = AccountKind::ALL.len();
/// Number of shards. Workers beyond it share them.
const SHARDS: usize = 16;
/// The part of the limit that may be unreported, as a divisor.
const UNREPORTED: usize = 16;

/// Counts bytes by kind. All counters wrap around, since bytes that one shard counted may be
/// subtracted in another.
pub(super) struct Counts {
    shards: Box<[Shard; SHARDS]>,
    /// The sums of what the shards have reported.
    reported: Reported,
    /// A shard reports a kind that differs by more than this from what it last reported.
    step: usize,
}

#[derive(Default)]
#[repr(align(128))]
struct Shard {
    held: [AtomicUsize; KINDS],
    reported: [AtomicUsize; KINDS],
    /// Bytes released so far in large pieces.
    released: AtomicUsize,
}

#[derive(Default)]
#[repr(align(128))]
struct Reported([AtomicUsize; KINDS]);

// === impl Counts ===

impl Counts {
    /// Creates counters for an account with this limit. Those of a small account report at once.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            shards: Box::default(),
            reported: Reported::default(),
            step: limit / UNREPORTED / (SHARDS * KINDS),
        }
    }

    /// Adds bytes in a shard; wraps around, so that it subtracts as well.
    #[inline]
    pub(super) fn add(&self, shard: usize, kind: AccountKind, bytes: usize) {
        let shard = &self.shards[shard % SHARDS];
        let before = shard.held[kind as usize].fetch_add(bytes, Ordering::Relaxed);
        let now = before.wrapping_add(bytes);
        let reported = shard.reported[kind as usize].load(Ordering::Relaxed);
        if distance(now, reported) > self.step {
            self.report(shard, kind, now, reported);
        }
    }

    /// Tells of a change. Where another thread of the shard does so at the same time, one of them
    /// tells of both.
    #[cold]
    fn report(&self, shard: &Shard, kind: AccountKind, mut now: usize, mut reported: usize) {
        let (held, place) = (&shard.held[kind as usize], &shard.reported[kind as usize]);
        while distance(now, reported) > self.step {
            let set = place.compare_exchange(reported, now, Ordering::Relaxed, Ordering::Relaxed);
            match set {
                Ok(_) => {
                    let change = now.wrapping_sub(reported);
                    self.reported.0[kind as usize].fetch_add(change, Ordering::Relaxed);
                    reported = now;
                }
                Err(other) => reported = other,
            }
            now = held.load(Ordering::Relaxed);
        }
    }

    /// Notes that a large piece was released.
    pub(super) fn release(&self, shard: usize, bytes: usize) {
        let shard = &self.shards[shard % SHARDS];
        shard.released.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns the bytes released so far in large pieces.
    pub(super) fn released(&self) -> usize {
        let shards = self.shards.iter();
        shards.fold(0, |sum, shard| {
            sum.wrapping_add(shard.released.load(Ordering::Relaxed))
        })
    }

    /// Returns the bytes of this kind.
    pub(super) fn held(&self, kind: AccountKind) -> usize {
        let shards = self.shards.iter();
        let held = shards.fold(0, |sum: usize, shard| {
            sum.wrapping_add(shard.held[kind as usize].load(Ordering::Relaxed))
        });
        positive(held)
    }

    /// Returns true if no more than `most` bytes of this kind are held. It may return false where
    /// the difference is small.
    pub(super) fn is_within(&self, kind: AccountKind, most: usize) -> bool {
        let reported = positive(self.reported.0[kind as usize].load(Ordering::Relaxed));
        reported.saturating_add(self.step * SHARDS) <= most
    }

    /// As [`Counts::is_within`], for all kinds together.
    pub(super) fn are_within(&self, most: usize) -> bool {
        let reported = self.reported.0.iter().fold(0, |sum: usize, reported| {
            sum.saturating_add(positive(reported.load(Ordering::Relaxed)))
        });
        reported.saturating_add(self.step * SHARDS * KINDS) <= most
    }
}

/// Returns by how much two counters differ.
fn distance(one: usize, other: usize) -> usize {
    one.wrapping_sub(other).cast_signed().unsigned_abs()
}

/// A sum that was read while bytes moved between shards can be below zero.
fn positive(sum: usize) -> usize {
    usize::try_from(sum.cast_signed()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_may_be_subtracted_in_another_shard() {
        let counts = Counts::new(1 << 30);
        counts.add(0, AccountKind::Logs, 1 << 20);
        counts.add(3, AccountKind::Logs, (1_usize << 20).wrapping_neg());
        assert_eq!(counts.held(AccountKind::Logs), 0);
        counts.add(3, AccountKind::Logs, 10);
        assert_eq!(counts.held(AccountKind::Logs), 10);
    }

    #[test]
    fn sums_that_were_reported_differ_by_less_than_their_bound() {
        let limit = 1 << 30;
        let counts = Counts::new(limit);
        std::thread::scope(|scope| {
            for shard in 0..2 * SHARDS {
                let counts = &counts;
                scope.spawn(move || {
                    for round in 0..2_000 {
                        counts.add(shard, AccountKind::Logs, 3 * counts.step / 2);
                        counts.add(shard, AccountKind::Frames, counts.step / 3);
                        if round % 2 == 1 {
                            let less = (counts.step / 3).wrapping_neg();
                            counts.add(shard, AccountKind::Frames, less);
                        }
                    }
                });
            }
        });
        for kind in AccountKind::ALL {
            let held = counts.held(kind);
            assert!(!counts.is_within(kind, held.saturating_sub(1)));
            assert!(counts.is_within(kind, held + limit / UNREPORTED));
        }
    }

    #[test]
    fn small_accounts_are_exact() {
        let counts = Counts::new(1000);
        counts.add(5, AccountKind::Inputs, 700);
        counts.add(6, AccountKind::Logs, 300);
        assert!(counts.are_within(1000) && !counts.are_within(999));
        assert!(counts.is_within(AccountKind::Logs, 300));
    }
}
