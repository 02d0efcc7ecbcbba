//! Cases about readers and writers on threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokenwire_core::log::{AppendError, LogReader, LogTail, ReadError};
use tokenwire_core::model::id::Seq;
use tokenwire_core::model::record::RecordBatch;

use super::support::{
    FIRST, Factory, Record, Waiter, batch, epoch_batch, follow, listed, read_all, records, roomy,
};

/// Returns batches as a generation writes them: mostly one record of one event, sometimes several
/// records of several events.
fn shapes() -> Vec<Vec<u64>> {
    (0..1500)
        .map(|index| {
            if index % 7 == 0 {
                vec![1, 3, 2]
            } else {
                vec![1]
            }
        })
        .collect()
}

fn write_all(log: &Arc<LogTail>) {
    let mut next = 0;
    for shape in shapes() {
        log.append(FIRST, &batch(next, &shape)).unwrap();
        next += shape.iter().sum::<u64>();
    }
    log.seal(FIRST, &batch(next, &[1])).unwrap();
}

fn everything() -> Vec<Record> {
    let mut shape: Vec<u64> = shapes().concat();
    shape.push(1);
    records(0, &shape)
}

pub fn readers_on_threads_receive_every_record(make: &Factory<'_>) {
    let log = make(roomy());
    let expected = everything();
    thread::scope(|scope| {
        let readers: Vec<_> = (0..8u64)
            .map(|index| {
                let from = index * 50;
                let log = &log;
                (from, scope.spawn(move || follow(log, from)))
            })
            .collect();
        scope.spawn(|| write_all(&log));
        for (from, reader) in readers {
            let found = reader
                .join()
                .unwrap_or_else(|_| panic!("a reader panicked"));
            let expected: Vec<Record> = expected
                .iter()
                .filter(|(first, events, _)| first + events > from)
                .cloned()
                .collect();
            assert!(
                found.as_ref() == Ok(&expected),
                "a reader from {from} lost, repeated or changed records"
            );
        }
    });
}

pub fn readers_resume_without_loss_while_writing(make: &Factory<'_>) {
    let log = make(roomy());
    let expected = everything();
    let written = AtomicBool::new(false);
    thread::scope(|scope| {
        for seed in 0..4usize {
            let (log, written, expected) = (&log, &written, &expected);
            scope.spawn(move || {
                // Each round reads a few batches, leaves, and resumes after its last number.
                let mut all: Vec<Record> = Vec::new();
                let mut round = seed;
                loop {
                    let ended = written.load(Ordering::Acquire);
                    let from = all.last().map_or(0, |(first, events, _)| first + events);
                    let mut reader = LogReader::new(log.clone(), Seq(from));
                    let mut out = RecordBatch::default();
                    for _ in 0..=round % 5 {
                        reader.read(1 + round % 300, &mut out).unwrap();
                        all.extend(listed(&out));
                    }
                    round += 1;
                    if ended && all.len() == expected.len() {
                        break;
                    }
                    thread::yield_now();
                }
                assert!(
                    all == *expected,
                    "a reader that resumed lost or repeated records"
                );
            });
        }
        scope.spawn(|| {
            write_all(&log);
            written.store(true, Ordering::Release);
        });
    });
}

pub fn new_epoch_while_writing_loses_no_record(make: &Factory<'_>) {
    let log = make(roomy());
    thread::scope(|scope| {
        let stale = scope.spawn(|| {
            let mut next = 0;
            loop {
                match log.append(FIRST, &batch(next, &[1])) {
                    Ok(()) => next += 1,
                    Err(error) => return (next, error),
                }
            }
        });
        let mut waiter = Waiter::new(&log, 0);
        // Wait until the first writer has begun.
        waiter.next().unwrap();
        waiter.leave();
        let epoch = log.begin_epoch();
        let next = log.end().unwrap().next.0;
        log.seal(epoch, &epoch_batch(&log, epoch, &[2]))
            .unwrap_or_else(|e| panic!("the writer that took over was refused: {e}"));
        let (written, error) = stale
            .join()
            .unwrap_or_else(|_| panic!("the stale writer panicked"));
        assert_eq!(
            error,
            AppendError::Fenced {
                held: FIRST,
                current: epoch
            }
        );
        assert_eq!(
            written, next,
            "the stale writer's count differs from the log"
        );
        let mut expected = records(0, &vec![1; next as usize]);
        expected.extend(records(epoch.first_seq().0, &[2]));
        assert_eq!(read_all(&log, 0), expected);
    });
}

pub fn expiry_ends_every_waiting_reader(make: &Factory<'_>) {
    let log = make(roomy());
    thread::scope(|scope| {
        let readers: Vec<_> = (0..8).map(|_| scope.spawn(|| follow(&log, 0))).collect();
        for next in 0..100 {
            log.append(FIRST, &batch(next, &[1])).unwrap();
        }
        log.expire();
        for reader in readers {
            assert_eq!(
                reader
                    .join()
                    .unwrap_or_else(|_| panic!("a reader panicked")),
                Err(ReadError::Expired)
            );
        }
    });
}
