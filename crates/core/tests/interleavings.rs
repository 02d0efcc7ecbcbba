//! The memory log's wake-ups under a model checker: whatever order its threads run in, no reader
//! sleeps through an append, a seal or an expiry. A lost wake-up shows as a deadlock, which shuttle
//! reports with the schedule that leads to it.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::lock_api;
use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::{future, thread};
use tokenwire_core::log::{
    AppendError, Epoch, LogLimits, LogReader, MemoryAccount, MemoryLog, ReadError, TokenLog,
};
use tokenwire_core::model::id::Seq;
use tokenwire_core::model::record::RecordBatch;

const LIMITS: LogLimits = LogLimits {
    bytes: 1 << 20,
    events: 1 << 20,
};
const SCHEDULES: usize = 3000;
/// Preemptions that the second strategy spreads over a run: few suffice for nearly every bug of
/// this kind.
const DEPTH: usize = 4;

/// A lock whose every step the checker sees.
struct CheckedLock(AtomicBool);

// SAFETY: `lock` and `try_lock` succeed for one holder at a time, since the swap gives `false` to
// one only until `unlock`.
#[allow(
    unsafe_code,
    reason = "a lock of the checker's own is what lets it see the log's steps; this is a test"
)]
unsafe impl lock_api::RawMutex for CheckedLock {
    #[allow(
        clippy::declare_interior_mutable_const,
        reason = "the trait asks for it as the initial value"
    )]
    const INIT: Self = Self(AtomicBool::new(false));
    type GuardMarker = lock_api::GuardSend;

    fn lock(&self) {
        while !self.try_lock() {
            thread::yield_now();
        }
    }

    fn try_lock(&self) -> bool {
        !self.0.swap(true, Ordering::SeqCst)
    }

    unsafe fn unlock(&self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

fn log() -> (Arc<dyn TokenLog>, MemoryAccount) {
    let account = MemoryAccount::default();
    (
        Arc::new(MemoryLog::<CheckedLock>::with_lock(LIMITS, account.clone())),
        account,
    )
}

fn one(seq: u64) -> RecordBatch {
    let mut batch = RecordBatch::default();
    batch.restart(Seq(seq));
    batch.push(1, &seq.to_le_bytes());
    batch
}

/// Reads until the end; gives the numbers of the events and how it ended.
fn follow(log: Arc<dyn TokenLog>, from: u64) -> (Vec<u64>, Result<(), ReadError>) {
    let mut reader = LogReader::new(log, Seq(from));
    let mut batch = RecordBatch::default();
    let mut seen = Vec::new();
    loop {
        match future::block_on(std::future::poll_fn(|cx| {
            reader.poll_read(cx, 1 << 10, &mut batch)
        })) {
            Err(error) => return (seen, Err(error)),
            Ok(_) if batch.is_empty() => return (seen, Ok(())),
            Ok(_) => seen.extend(batch.iter().map(|record| record.first_seq.0)),
        }
    }
}

fn check(scenario: fn()) {
    shuttle::check_random(scenario, SCHEDULES);
    shuttle::check_pct(scenario, SCHEDULES, DEPTH);
}

#[test]
fn readers_follow_a_writer_to_the_seal() {
    check(|| {
        let (log, account) = log();
        let readers: Vec<_> = [0, 0, 2]
            .map(|from| {
                (
                    from,
                    thread::spawn({
                        let log = log.clone();
                        move || follow(log, from)
                    }),
                )
            })
            .into();
        for seq in 0..3 {
            log.append(Epoch(0), &one(seq)).unwrap();
        }
        log.seal(Epoch(0), &one(3)).unwrap();
        for (from, reader) in readers {
            assert_eq!(reader.join().unwrap(), ((from..4).collect(), Ok(())));
        }
        drop(log);
        assert_eq!(account.used(), 0);
    });
}

#[test]
fn expiry_reaches_every_reader() {
    check(|| {
        let (log, account) = log();
        let readers: Vec<_> = (0..2)
            .map(|_| {
                thread::spawn({
                    let log = log.clone();
                    move || follow(log, 0)
                })
            })
            .collect();
        let writer = thread::spawn({
            let log = log.clone();
            move || {
                (0..3)
                    .map(|seq| log.append(Epoch(0), &one(seq)))
                    .collect::<Vec<_>>()
            }
        });
        log.expire();
        for reader in readers {
            let (seen, end) = reader.join().unwrap();
            assert_eq!(end, Err(ReadError::Expired));
            assert_eq!(seen, (0..seen.len() as u64).collect::<Vec<_>>());
        }
        let appended = writer.join().unwrap();
        assert!(
            appended.is_sorted_by_key(|result| result.is_err()),
            "an append after the expiry: {appended:?}"
        );
        assert_eq!(account.used(), 0, "an expired log holds memory");
    });
}

#[test]
fn a_reader_that_leaves_takes_nobody_elses_wake_up_along() {
    check(|| {
        let (log, _) = log();
        let stayer = thread::spawn({
            let log = log.clone();
            move || follow(log, 0)
        });
        let leaver = thread::spawn({
            let log = log.clone();
            move || {
                // Waits once, then goes; another takes its place.
                for _ in 0..2 {
                    let mut reader = LogReader::new(log.clone(), Seq(0));
                    let poll = reader.poll_read(
                        &mut Context::from_waker(Waker::noop()),
                        1 << 10,
                        &mut RecordBatch::default(),
                    );
                    assert!(matches!(poll, Poll::Pending | Poll::Ready(Ok(_))));
                }
            }
        });
        log.append(Epoch(0), &one(0)).unwrap();
        log.seal(Epoch(0), &one(1)).unwrap();
        leaver.join().unwrap();
        assert_eq!(stayer.join().unwrap(), (vec![0, 1], Ok(())));
    });
}

#[test]
fn a_take_over_lets_one_writer_through() {
    check(|| {
        let (log, _) = log();
        let stale = thread::spawn({
            let log = log.clone();
            move || {
                (0..3).find_map(|seq| {
                    log.append(Epoch(0), &one(seq))
                        .err()
                        .map(|error| (seq, error))
                })
            }
        });
        let epoch = log.take_over();
        let next = log.tail().unwrap().next.0;
        log.seal(epoch, &one(next)).unwrap();
        match stale.join().unwrap() {
            Some((written, error)) => {
                assert_eq!(
                    (written, error),
                    (
                        next,
                        AppendError::Fenced {
                            held: Epoch(0),
                            current: epoch
                        }
                    )
                );
            }
            None => assert_eq!(next, 3),
        }
        assert_eq!(follow(log, 0), ((0..=next).collect(), Ok(())));
    });
}
