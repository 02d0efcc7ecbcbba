//! Batches, reads and wakers for the cases.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokenwire_core::log::{
    Epoch, LogLimits, LogReader, LogTail, ReadError, ReadPosition, ReaderSlot, TailEnd,
};
use tokenwire_core::model::id::Seq;
use tokenwire_core::model::record::RecordBatch;

/// Makes an empty log with these limits.
pub type Factory<'a> = dyn Fn(LogLimits) -> Arc<LogTail> + 'a;

/// Limits that only the cases about limits reach.
#[must_use]
pub fn roomy() -> LogLimits {
    LogLimits {
        bytes: 1 << 24,
        events: 1 << 20,
    }
}

/// A record as the cases compare it: the number of its first event, its event count, its payload.
pub(super) type Record = (u64, u64, Vec<u8>);

/// The epoch of the first writer.
pub(super) const FIRST: Epoch = Epoch::FIRST;

/// How long to wait for a wake-up. A correct log needs far less.
const WAKE_TIMEOUT: Duration = Duration::from_secs(20);

/// Makes a batch of records with these event counts. Each payload names its position.
pub(super) fn batch(first: u64, events: &[u64]) -> RecordBatch {
    let mut batch = RecordBatch::default();
    batch.restart(Seq(first));
    let mut next = first;
    for count in events {
        batch.push(*count, payload(next).as_slice());
        next += count;
    }
    batch
}

/// As [`batch`], for the first batch of an epoch: it follows the end of the log.
pub(super) fn epoch_batch(log: &LogTail, epoch: Epoch, events: &[u64]) -> RecordBatch {
    let end = log.end().expect("the log has not expired").next;
    let mut batch = RecordBatch::default();
    batch.restart(end);
    batch.skip(epoch.first_seq().0 - end.0);
    for count in events {
        batch.push(*count, payload(batch.next_seq().0).as_slice());
    }
    batch
}

/// Returns the payload of the record whose first event has this number.
pub(super) fn payload(first: u64) -> Vec<u8> {
    format!("record at {first}").into_bytes()
}

/// Returns the records that [`batch`] makes.
pub(super) fn records(first: u64, events: &[u64]) -> Vec<Record> {
    let mut next = first;
    events
        .iter()
        .map(|count| {
            let record = (next, *count, payload(next));
            next += count;
            record
        })
        .collect()
}

pub(super) fn listed(batch: &RecordBatch) -> Vec<Record> {
    batch
        .iter()
        .map(|record| (record.first_seq.0, record.events, record.payload.to_vec()))
        .collect()
}

/// Returns all records that a new reader gets from `from` on without waiting.
pub(super) fn read_all(log: &Arc<LogTail>, from: u64) -> Vec<Record> {
    let mut reader = LogReader::new(log.clone(), Seq(from));
    let mut batch = RecordBatch::default();
    let mut all = Vec::new();
    loop {
        reader
            .read(64, &mut batch)
            .expect("the log has not expired");
        if batch.is_empty() {
            return all;
        }
        all.extend(listed(&batch));
    }
}

/// Returns the tail and all records, which a refused append must not change.
pub(super) fn contents(log: &Arc<LogTail>) -> (TailEnd, Vec<Record>) {
    (
        log.end().expect("the log has not expired"),
        read_all(log, 0),
    )
}

/// A waker that a test can wait for.
#[derive(Debug, Default)]
pub(super) struct TestWaker {
    wakes: Mutex<usize>,
    changed: Condvar,
}

impl Wake for TestWaker {
    fn wake(self: Arc<Self>) {
        *self.wakes.lock() += 1;
        self.changed.notify_all();
    }
}

impl TestWaker {
    pub(super) fn wakes(&self) -> usize {
        *self.wakes.lock()
    }

    /// Waits until it was woken since the last call.
    pub(super) fn wait(&self) {
        let mut wakes = self.wakes.lock();
        let deadline = Instant::now() + WAKE_TIMEOUT;
        while *wakes == 0 {
            assert!(
                !self.changed.wait_until(&mut wakes, deadline).timed_out(),
                "a waiting reader was not woken"
            );
        }
        *wakes = 0;
    }
}

/// A reader's slot, cursor and waker.
pub(super) struct Waiter {
    pub(super) log: Arc<LogTail>,
    pub(super) slot: ReaderSlot,
    pub(super) cursor: ReadPosition,
    pub(super) waker: Arc<TestWaker>,
    pub(super) out: RecordBatch,
}

impl Waiter {
    pub(super) fn new(log: &Arc<LogTail>, next: u64) -> Self {
        let slot = log.enroll();
        Self {
            log: log.clone(),
            slot,
            cursor: ReadPosition::at(Seq(next)),
            waker: Arc::default(),
            out: RecordBatch::default(),
        }
    }

    pub(super) fn poll(&mut self) -> Poll<Result<TailEnd, ReadError>> {
        let waker = Waker::from(self.waker.clone());
        self.log.poll_read(
            self.slot,
            &mut Context::from_waker(&waker),
            &mut self.cursor,
            1 << 16,
            &mut self.out,
        )
    }

    /// Polls until it is ready, waiting for the waker in between.
    pub(super) fn next(&mut self) -> Result<TailEnd, ReadError> {
        loop {
            match self.poll() {
                Poll::Ready(result) => return result,
                Poll::Pending => self.waker.wait(),
            }
        }
    }

    pub(super) fn leave(self) {
        self.log.leave(self.slot);
    }
}

/// Reads to the end of a log. Returns all records once it is sealed.
pub(super) fn follow(log: &Arc<LogTail>, from: u64) -> Result<Vec<Record>, ReadError> {
    let mut waiter = Waiter::new(log, from);
    let mut all = Vec::new();
    let result = loop {
        match waiter.next() {
            Err(error) => break Err(error),
            Ok(_) if waiter.out.is_empty() => break Ok(all),
            Ok(_) => all.extend(listed(&waiter.out)),
        }
    };
    waiter.leave();
    result
}
