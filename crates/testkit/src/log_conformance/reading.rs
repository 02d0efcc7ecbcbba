//! Cases about reading, waiting and wake-ups.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokenwire_core::log::{AppendError, LogReader, ReadError, ReadPosition};
use tokenwire_core::model::id::Seq;
use tokenwire_core::model::record::RecordBatch;

use super::support::{
    FIRST, Factory, TestWaker, Waiter, batch, listed, payload, read_all, records, roomy,
};

const SHAPE: [u64; 7] = [2, 1, 3, 1, 1, 5, 1];

pub fn reader_starts_at_any_event(make: &Factory<'_>) {
    let log = make(roomy());
    log.append(FIRST, &batch(0, &SHAPE)).unwrap();
    let all = records(0, &SHAPE);
    let total: u64 = SHAPE.iter().sum();
    for from in 0..=total {
        let expected: Vec<_> = all
            .iter()
            .filter(|(first, events, _)| first + events > from)
            .cloned()
            .collect();
        assert_eq!(read_all(&log, from), expected, "from {from}");
    }
}

pub fn reader_inside_a_record_gets_the_record(make: &Factory<'_>) {
    let log = make(roomy());
    log.append(FIRST, &batch(0, &[1, 4, 1])).unwrap();
    let mut reader = LogReader::new(log, Seq(3));
    let mut out = RecordBatch::default();
    let tail = reader.read(1, &mut out).unwrap();
    assert_eq!(tail.next, Seq(6));
    assert_eq!(
        (out.first_seq(), listed(&out)),
        (Seq(1), vec![(1, 4, payload(1))]),
        "the reader gets the record from its first event"
    );
    assert_eq!(reader.position(), Seq(5), "the cursor is after the record");
}

pub fn read_stops_at_its_byte_limit(make: &Factory<'_>) {
    let log = make(roomy());
    log.append(FIRST, &batch(0, &[1; 9])).unwrap();
    // One byte of head.
    let each = payload(0).len() + 1;
    for (bound, expected) in [
        (0, 1),
        (1, 1),
        (each, 1),
        (each + 1, 2),
        (each * 3, 3),
        (each * 9, 9),
        (usize::MAX, 9),
    ] {
        let mut out = RecordBatch::default();
        LogReader::new(log.clone(), Seq(0))
            .read(bound, &mut out)
            .unwrap();
        assert_eq!(
            out.iter().count(),
            expected,
            "with a limit of {bound} bytes and records of {each}"
        );
    }
}

pub fn cursor_hint_does_not_change_the_result(make: &Factory<'_>) {
    let log = make(roomy());
    let shape: Vec<u64> = (0..40).map(|index| 1 + index % 4).collect();
    log.append(FIRST, &batch(0, &shape)).unwrap();
    let mut hinted = Waiter::new(&log, 0);
    let mut plain = Waiter::new(&log, 0);
    loop {
        let (a, b) = (hinted.read(30), plain.read(30));
        assert_eq!(a, b);
        assert_eq!(
            (hinted.cursor.next(), listed(&hinted.out)),
            (plain.cursor.next(), listed(&plain.out))
        );
        plain.cursor = ReadPosition::at(plain.cursor.next());
        if a.is_pending() {
            break;
        }
    }
    // Both find later appends, too.
    let next = hinted.cursor.next().0;
    log.append(FIRST, &batch(next, &[2, 1])).unwrap();
    assert!(hinted.read(1 << 10).is_ready());
    assert!(plain.read(1 << 10).is_ready());
    assert_eq!(listed(&hinted.out), records(next, &[2, 1]));
    assert_eq!(listed(&plain.out), records(next, &[2, 1]));
    hinted.leave();
    plain.leave();
}

impl Waiter {
    fn read(&mut self, max_bytes: usize) -> Poll<Result<tokenwire_core::log::TailEnd, ReadError>> {
        let mut cx = Context::from_waker(Waker::noop());
        self.log.poll_read(
            self.slot,
            &mut cx,
            &mut self.cursor,
            max_bytes,
            &mut self.out,
        )
    }
}

pub fn reader_at_the_tail_waits(make: &Factory<'_>) {
    let log = make(roomy());
    let mut early = Waiter::new(&log, 0);
    assert!(early.poll().is_pending(), "the log is empty");
    log.append(FIRST, &batch(0, &[2])).unwrap();
    let mut late = Waiter::new(&log, 2);
    assert!(late.poll().is_pending(), "there is nothing after event 1");
    assert_eq!(late.cursor.next(), Seq(2), "waiting does not move a cursor");
    early.leave();
    late.leave();
}

pub fn append_wakes_a_waiting_reader(make: &Factory<'_>) {
    let log = make(roomy());
    let mut waiter = Waiter::new(&log, 0);
    for round in 0..3 {
        assert!(waiter.poll().is_pending());
        log.append(FIRST, &batch(round, &[1])).unwrap();
        waiter.waker.wait();
        assert_eq!(waiter.next().map(|tail| tail.next), Ok(Seq(round + 1)));
        assert_eq!(listed(&waiter.out), records(round, &[1]));
    }
    waiter.leave();
}

pub fn seal_wakes_a_waiting_reader(make: &Factory<'_>) {
    let log = make(roomy());
    log.append(FIRST, &batch(0, &[1])).unwrap();
    let mut waiter = Waiter::new(&log, 1);
    assert!(waiter.poll().is_pending());
    log.seal(FIRST, &batch(1, &[])).unwrap();
    waiter.waker.wait();
    assert_eq!(waiter.next().map(|tail| tail.sealed), Ok(true));
    assert!(waiter.out.is_empty(), "an empty batch is the end");
    waiter.leave();
}

pub fn expiry_wakes_a_waiting_reader(make: &Factory<'_>) {
    let log = make(roomy());
    let mut waiter = Waiter::new(&log, 0);
    assert!(waiter.poll().is_pending());
    log.expire();
    waiter.waker.wait();
    assert_eq!(waiter.next(), Err(ReadError::Expired));
    waiter.leave();
}

pub fn append_wakes_every_waiting_reader(make: &Factory<'_>) {
    let log = make(roomy());
    let mut waiters: Vec<Waiter> = (0..20).map(|_| Waiter::new(&log, 0)).collect();
    for waiter in &mut waiters {
        assert!(waiter.poll().is_pending());
    }
    log.append(FIRST, &batch(0, &[1])).unwrap();
    for waiter in &mut waiters {
        waiter.waker.wait();
        assert!(waiter.next().is_ok());
        assert_eq!(listed(&waiter.out), records(0, &[1]));
    }
    waiters.into_iter().for_each(Waiter::leave);
}

pub fn latest_waker_is_woken(make: &Factory<'_>) {
    let log = make(roomy());
    let mut waiter = Waiter::new(&log, 0);
    assert!(waiter.poll().is_pending());
    // The reader has moved to another task with another waker.
    waiter.waker = Arc::new(TestWaker::default());
    assert!(waiter.poll().is_pending());
    log.append(FIRST, &batch(0, &[1])).unwrap();
    waiter.waker.wait();
    waiter.leave();
}

pub fn slots_are_reused(make: &Factory<'_>) {
    let log = make(roomy());
    let mut largest = 0;
    for _ in 0..1000 {
        let (a, b) = (log.enroll(), log.enroll());
        assert_ne!(a, b, "two readers share a slot");
        largest = largest.max(a.0).max(b.0);
        log.leave(a);
        log.leave(b);
    }
    assert!(largest < 16, "slots are not reused: {largest}");
}

pub fn leaving_does_not_affect_other_readers(make: &Factory<'_>) {
    let log = make(roomy());
    let mut waiters: Vec<Waiter> = (0..6).map(|_| Waiter::new(&log, 0)).collect();
    for waiter in &mut waiters {
        assert!(waiter.poll().is_pending());
    }
    let left = Arc::clone(&waiters[2].waker);
    for index in [5, 2, 0] {
        waiters.remove(index).leave();
    }
    // A new reader takes a free slot.
    let mut new_reader = Waiter::new(&log, 0);
    assert!(new_reader.poll().is_pending());
    waiters.push(new_reader);
    log.append(FIRST, &batch(0, &[1])).unwrap();
    for waiter in &mut waiters {
        waiter.waker.wait();
        assert!(waiter.next().is_ok());
    }
    assert_eq!(left.wakes(), 0, "a reader that left was woken");
    waiters.into_iter().for_each(Waiter::leave);
}

pub fn refused_append_is_not_read(make: &Factory<'_>) {
    let log = make(roomy());
    let mut waiter = Waiter::new(&log, 0);
    assert!(waiter.poll().is_pending());
    assert!(matches!(
        log.append(FIRST, &batch(1, &[1])),
        Err(AppendError::Gap { .. })
    ));
    assert!(waiter.poll().is_pending());
    assert_eq!(waiter.cursor, ReadPosition::at(Seq(0)));
    waiter.leave();
}
