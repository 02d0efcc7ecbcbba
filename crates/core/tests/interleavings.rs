//! The log's wake-ups under a model checker. In every order of its threads an append, a seal
//! and an expiry wake the waiting readers. A lost wake-up is a deadlock, which shuttle reports with
//! the schedule that leads to it.
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
use tokenwire_core::log::{AppendError, Epoch, LogLimits, LogReader, LogTail, ReadError};
use tokenwire_core::model::account::Account;
use tokenwire_core::model::id::Seq;
use tokenwire_core::model::record::RecordBatch;

const LIMITS: LogLimits = LogLimits {
    bytes: 1 << 20,
    events: 1 << 20,
};
const SCHEDULES: usize = 3000;
/// Preemptions per run in the second strategy. Few suffice for nearly every bug of this kind.
const DEPTH: usize = 4;

/// A lock whose steps the checker can schedule.
struct CheckedLock(AtomicBool);

// SAFETY: `lock` and `try_lock` succeed for one holder at a time, since the swap gives `false` to
// one only until `unlock`.
#[allow(
    unsafe_code,
    reason = "RawMutex is an unsafe trait, and the checker needs a lock that it can schedule"
)]
unsafe impl lock_api::RawMutex for CheckedLock {
    #[allow(
        clippy::declare_interior_mutable_const,
        reason = "the trait requires it as the initial value"
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

type Log = Arc<LogTail<CheckedLock>>;

fn log() -> (Log, Account) {
    let account = Account::default();
    let log = LogTail::with_lock(LIMITS, account.clone());
    log.begin_epoch();
    (Arc::new(log), account)
}

fn one(seq: u64) -> RecordBatch {
    let mut batch = RecordBatch::default();
    batch.restart(Seq(seq));
    batch.push(1, &seq.to_le_bytes());
    batch
}

/// Reads until the end. Returns the numbers of the events and the result.
fn follow(log: Log, from: u64) -> (Vec<u64>, Result<(), ReadError>) {
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
fn readers_receive_all_records_until_the_seal() {
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
            log.append(Epoch::FIRST, &one(seq)).unwrap();
        }
        log.seal(Epoch::FIRST, &one(3)).unwrap();
        for (from, reader) in readers {
            assert_eq!(reader.join().unwrap(), ((from..4).collect(), Ok(())));
        }
        drop(log);
        assert_eq!(account.used(), 0);
    });
}

#[test]
fn expiry_wakes_every_reader() {
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
                    .map(|seq| log.append(Epoch::FIRST, &one(seq)))
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
            "an append succeeded after the expiry: {appended:?}"
        );
        assert_eq!(account.used(), 0, "an expired log holds memory");
    });
}

#[test]
fn leaving_reader_does_not_consume_another_readers_wake_up() {
    check(|| {
        let (log, _) = log();
        let stayer = thread::spawn({
            let log = log.clone();
            move || follow(log, 0)
        });
        let leaver = thread::spawn({
            let log = log.clone();
            move || {
                // Registers a waker and leaves; the second takes the same slot.
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
        log.append(Epoch::FIRST, &one(0)).unwrap();
        log.seal(Epoch::FIRST, &one(1)).unwrap();
        leaver.join().unwrap();
        assert_eq!(stayer.join().unwrap(), (vec![0, 1], Ok(())));
    });
}

#[test]
fn new_epoch_fences_the_earlier_writer() {
    check(|| {
        let (log, _) = log();
        let stale = thread::spawn({
            let log = log.clone();
            move || {
                (0..3).find_map(|seq| {
                    log.append(Epoch::FIRST, &one(seq))
                        .err()
                        .map(|error| (seq, error))
                })
            }
        });
        let epoch = log.begin_epoch();
        let next = log.end().unwrap().next.0;
        let start = epoch.first_seq().0;
        let mut last = RecordBatch::default();
        last.restart(Seq(next));
        last.skip(start - next);
        last.push(1, b"last");
        log.seal(epoch, &last).unwrap();
        match stale.join().unwrap() {
            Some((written, error)) => {
                assert_eq!(
                    (written, error),
                    (
                        next,
                        AppendError::Fenced {
                            held: Epoch::FIRST,
                            current: epoch
                        }
                    )
                );
            }
            None => assert_eq!(next, 3),
        }
        assert_eq!(follow(log, 0), ((0..next).chain([start]).collect(), Ok(())));
    });
}
