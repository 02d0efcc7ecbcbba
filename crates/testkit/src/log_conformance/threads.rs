//! Cases of readers and writers on threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokenwire_core::log::{AppendError, LogReader, ReadError, TokenLog};
use tokenwire_core::model::id::Seq;
use tokenwire_core::model::record::RecordBatch;

use super::support::{
    FIRST, Factory, Record, Waiter, batch, follow, listed, records, roomy, standing,
};

/// Batches as a generation writes them: mostly one record of one event, sometimes several of
/// several.
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

fn write_all(log: &Arc<dyn TokenLog>) {
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

pub fn many_readers_follow_one_writer(make: &Factory<'_>) {
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
                "a reader from {from} lost, doubled or changed something"
            );
        }
    });
}

pub fn readers_come_and_go_while_it_is_written(make: &Factory<'_>) {
    let log = make(roomy());
    let expected = everything();
    let written = AtomicBool::new(false);
    thread::scope(|scope| {
        for seed in 0..4usize {
            let (log, written, expected) = (&log, &written, &expected);
            scope.spawn(move || {
                // Each round reads a while, leaves, and comes back at the number after its last.
                let mut all: Vec<Record> = Vec::new();
                let mut round = seed;
                loop {
                    let ended = written.load(Ordering::Acquire);
                    let from = all.last().map_or(0, |(first, events, _)| first + events);
                    let mut reader = LogReader::new(log.clone(), Seq(from));
                    let mut out = RecordBatch::default();
                    for _ in 0..=round % 5 {
                        reader.read_now(1 + round % 300, &mut out).unwrap();
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
                    "a reader that came back lost or doubled something"
                );
            });
        }
        scope.spawn(|| {
            write_all(&log);
            written.store(true, Ordering::Release);
        });
    });
}

pub fn a_take_over_in_the_middle_of_writing_leaves_no_gap(make: &Factory<'_>) {
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
        // Not before the first has begun.
        waiter.next().unwrap();
        waiter.leave();
        let epoch = log.take_over();
        let next = log.tail().unwrap().next.0;
        log.seal(epoch, &batch(next, &[2]))
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
            "the stale writer believes something else than the log holds"
        );
        let mut shape = vec![1; next as usize];
        shape.push(2);
        assert_eq!(standing(&log, 0), records(0, &shape));
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
