//! Room for running answers: which of them grow while all together hold more than the limit.
//!
//! A running answer is counted whether or not it fits, so that it is never lost. One that has grown
//! while more than the limit is held asks for room before its upstream is read on:
//!
//! ```text
//!               ┌─ no more than the limit is held ─────▶ goes on, the best first
//!   asks ─▶ waits ─ nothing can be released ───────────▶ the best one gets the turn: it goes on to its end
//!               └─ none of them went on for 30 s ──────▶ the youngest is ended
//! ```
//!
//! Answers whose readers have taken all that is there come before the others, older ones before
//! younger ones. The turn is held until the answer is dropped, so what is held exceeds the limit by
//! one answer and what the others grew by since they last asked.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

use super::{Account, Full};

/// The longest wait while no other one that waits goes on. Then the youngest answer is ended.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// A waiting answer looks again after this time: small releases wake none.
const INTERVAL: Duration = Duration::from_millis(50);
/// The time in which a batch of answers that may go on has grown.
const BATCH: Duration = Duration::from_millis(10);
/// What an answer grows by until it asks again: records, and the object that repeats them.
const STEP: usize = 160 * 1024;

/// The answers that wait.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Their number.
    waiting: AtomicUsize,
    next_number: AtomicU64,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// The best one first.
    waiting: BTreeMap<Rank, Waiter>,
    /// The answer that may exceed the limit.
    turn: Option<Age>,
    /// Those that are to end.
    ended: BTreeSet<Age>,
    /// When the last batch began, and how many of it may still go on.
    batch: Option<(Instant, usize)>,
    /// When one that waited last went on.
    went_on: Option<Instant>,
    /// When what is kept was last asked to give way.
    relieved: Option<Instant>,
}

#[derive(Debug)]
struct Waiter {
    since: Instant,
    waker: Waker,
}

/// The start of an answer, and a number that tells apart those of one moment.
type Age = (Instant, u64);

/// The order of waiting answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Whether a reader has not yet taken what is there.
    is_behind: bool,
    age: Age,
}

/// The growth of one running answer.
#[derive(Debug)]
pub struct Growth {
    account: Account,
    age: Age,
    /// Set while it waits.
    waits: Option<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    rank: Rank,
    timer: Pin<Box<Sleep>>,
}

/// The right of one answer to exceed the limit. Dropping it passes it on.
#[derive(Debug)]
pub struct Turn {
    account: Account,
    age: Age,
}

/// What an answer that asks is told.
#[derive(Debug, PartialEq, Eq)]
enum Reply {
    GoOn,
    TakeTurn,
    End,
    Wait,
}

// === impl Room ===

impl Room {
    /// Whether an answer waits.
    #[inline]
    pub(super) fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Wakes the best of the waiting answers.
    #[cold]
    pub(super) fn wake_best(&self) {
        // Called where memory is released, which may be under locks of the caller.
        if let Some(queue) = self.queue.try_lock() {
            queue.wake_best();
        }
    }
}

// === impl Queue ===

impl Queue {
    fn wake_best(&self) {
        if let Some((_, best)) = self.waiting.first_key_value() {
            best.waker.wake_by_ref();
        }
    }

    /// Whether what is kept is to give way now, rather than with every answer that asks.
    fn is_relief_due(&mut self, now: Instant) -> bool {
        let is_due = |relieved: Instant| now.duration_since(relieved) >= BATCH;
        let due = self.relieved.is_none_or(is_due);
        if due {
            self.relieved = Some(now);
        }
        due
    }

    fn leave(&mut self, rank: Rank) -> Option<Waiter> {
        self.waiting.remove(&rank)
    }

    /// Decides about an answer that waits, with `free` bytes of the limit left; `None` if it is
    /// exceeded.
    fn ask(&mut self, rank: Rank, free: Option<usize>, now: Instant) -> Reply {
        if self.ended.remove(&rank.age) {
            return Reply::End;
        }
        if self.turn == Some(rank.age) {
            if free.is_some() {
                self.turn = None;
            }
            return Reply::GoOn;
        }
        let is_best = self.waiting.keys().next() == Some(&rank);
        if let Some(free) = free {
            self.turn = None;
            let (began, left) = self
                .batch
                .filter(|(began, _)| now.duration_since(*began) < BATCH)
                .unwrap_or((now, (free / STEP).max(1)));
            let goes_on = is_best && left > 0;
            self.batch = Some((began, left - usize::from(goes_on)));
            if goes_on {
                self.went_on = Some(now);
                return Reply::GoOn;
            }
        } else if is_best && self.turn.is_none() {
            self.turn = Some(rank.age);
            self.went_on = Some(now);
            return Reply::TakeTurn;
        }
        let since = self.waiting.get(&rank).map(|waiter| waiter.since);
        let since = since.max(self.went_on);
        if since.is_some_and(|since| now.duration_since(since) >= LONGEST_WAIT) {
            return self.end_youngest(rank, now);
        }
        Reply::Wait
    }

    /// Chooses the youngest answer to be ended, and gives the others more time.
    fn end_youngest(&mut self, asks: Rank, now: Instant) -> Reply {
        self.went_on = Some(now);
        let youngest = self.waiting.keys().max_by_key(|rank| rank.age).copied();
        let Some(youngest) = youngest.filter(|youngest| *youngest != asks) else {
            return Reply::End;
        };
        self.ended.insert(youngest.age);
        if let Some(waiter) = self.waiting.get(&youngest) {
            waiter.waker.wake_by_ref();
        }
        Reply::Wait
    }
}

// === impl Growth ===

impl Growth {
    /// Creates the growth of an answer that started at this time.
    pub(super) fn new(account: Account, started: Instant) -> Self {
        let numbers = &account.0.shared.room.next_number;
        let age = (started, numbers.fetch_add(1, Ordering::Relaxed));
        Self {
            account,
            age,
            waits: None,
        }
    }

    fn room(&self) -> &Room {
        &self.account.0.shared.room
    }

    /// Ready if the answer may grow by some more KiB. A turn is held for as long as what the answer
    /// holds is kept. `is_behind` says that a reader has not yet taken what is there.
    ///
    /// # Errors
    /// [`Full`] if the answer is to end: there was no room for a long time.
    pub fn poll_room(
        &mut self,
        cx: &mut Context<'_>,
        is_behind: bool,
    ) -> Poll<Result<Option<Turn>, Full>> {
        if self.waits.is_none() && !self.account.is_exceeded() {
            return Poll::Ready(Ok(None));
        }
        let now = Instant::now();
        let rank = Rank {
            is_behind,
            age: self.age,
        };
        let room = &self.account.0.shared.room;
        if room.queue.lock().is_relief_due(now) {
            self.account.relieve_excess();
        }
        let mut queue = room.queue.lock();
        let before = self.waits.as_ref().map(|waits| waits.rank);
        let known = before.and_then(|before| queue.leave(before));
        let waiter = Waiter {
            since: known.map_or(now, |waiter| waiter.since),
            waker: cx.waker().clone(),
        };
        queue.waiting.insert(rank, waiter);
        if before.is_none() {
            room.waiting.fetch_add(1, Ordering::Relaxed);
        }
        // Read once it is known to wait: a release after that wakes it.
        let free = self.account.limit().checked_sub(self.account.used());
        let reply = queue.ask(rank, free, now);
        if reply == Reply::Wait {
            let waits = self.waits.get_or_insert_with(|| Waiting {
                rank,
                timer: Box::pin(tokio::time::sleep(INTERVAL)),
            });
            waits.rank = rank;
            drop(queue);
            while waits.timer.as_mut().poll(cx).is_ready() {
                waits.timer.as_mut().reset(Instant::now() + INTERVAL);
            }
            return Poll::Pending;
        }
        queue.leave(rank);
        room.waiting.fetch_sub(1, Ordering::Relaxed);
        queue.wake_best();
        drop(queue);
        self.waits = None;
        Poll::Ready(match reply {
            Reply::End => Err(Full),
            Reply::TakeTurn => Ok(Some(Turn {
                account: self.account.clone(),
                age: self.age,
            })),
            Reply::GoOn | Reply::Wait => Ok(None),
        })
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        let Some(waits) = self.waits.take() else {
            return;
        };
        let room = self.room();
        let mut queue = room.queue.lock();
        queue.leave(waits.rank);
        queue.ended.remove(&self.age);
        room.waiting.fetch_sub(1, Ordering::Relaxed);
        queue.wake_best();
    }
}

// === impl Turn ===

impl Drop for Turn {
    fn drop(&mut self) {
        let mut queue = self.account.0.shared.room.queue.lock();
        if queue.turn == Some(self.age) {
            queue.turn = None;
            queue.wake_best();
        }
    }
}
