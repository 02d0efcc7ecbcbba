//! Cases of reading, waiting and being woken.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokenwire_core::log::{AppendError, LogReader, ReadError, ReadPosition};
use tokenwire_core::model::id::Seq;
use tokenwire_core::model::record::RecordBatch;

use super::support::{
    Alarm, FIRST, Factory, Waiter, batch, listed, payload, records, roomy, standing,
};

const SHAPE: [u64; 7] = [2, 1, 3, 1, 1, 5, 1];

pub fn a_reader_starts_at_any_event(make: &Factory<'_>) {
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
        assert_eq!(standing(&log, from), expected, "from {from}");
    }
}

pub fn a_reader_in_the_middle_of_a_record_is_given_the_record(make: &Factory<'_>) {
    let log = make(roomy());
    log.append(FIRST, &batch(0, &[1, 4, 1])).unwrap();
    let mut reader = LogReader::new(log, Seq(3));
    let mut out = RecordBatch::default();
    let tail = reader.read_now(1, &mut out).unwrap();
    assert_eq!(tail.next, Seq(6));
    assert_eq!(
        (out.first_seq(), listed(&out)),
        (Seq(1), vec![(1, 4, payload(1))]),
        "the whole record, numbered as it is"
    );
    assert_eq!(reader.position(), Seq(5), "and the cursor stands after it");
}

pub fn a_read_takes_whole_records_up_to_its_bound(make: &Factory<'_>) {
    let log = make(roomy());
    log.append(FIRST, &batch(0, &[1; 9])).unwrap();
    let each = payload(0).len();
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
            .read_now(bound, &mut out)
            .unwrap();
        assert_eq!(
            out.len(),
            expected,
            "with a bound of {bound} bytes on records of {each}"
        );
    }
}

pub fn cursors_with_and_without_a_hint_agree(make: &Factory<'_>) {
    let log = make(roomy());
    let shape: Vec<u64> = (0..40).map(|index| 1 + index % 4).collect();
    log.append(FIRST, &batch(0, &shape)).unwrap();
    let mut hinted = Waiter::new(&log, 0);
    let mut plain = Waiter::new(&log, 0);
    loop {
        let (a, b) = (hinted.read(30), plain.read(30));
        assert_eq!(a, b);
        assert_eq!(
            (hinted.cursor.next, listed(&hinted.out)),
            (plain.cursor.next, listed(&plain.out))
        );
        plain.cursor.hint = None;
        if a.is_pending() {
            break;
        }
    }
    // What is appended later is found by both, too.
    let next = hinted.cursor.next.0;
    log.append(FIRST, &batch(next, &[2, 1])).unwrap();
    assert!(hinted.read(1 << 10).is_ready());
    assert!(plain.read(1 << 10).is_ready());
    assert_eq!(listed(&hinted.out), records(next, &[2, 1]));
    assert_eq!(listed(&plain.out), records(next, &[2, 1]));
    hinted.leave();
    plain.leave();
}

impl Waiter {
    fn read(&mut self, max_bytes: usize) -> Poll<Result<tokenwire_core::log::Tail, ReadError>> {
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

pub fn a_reader_at_the_tail_waits(make: &Factory<'_>) {
    let log = make(roomy());
    let mut early = Waiter::new(&log, 0);
    assert!(early.poll().is_pending(), "there is nothing yet");
    log.append(FIRST, &batch(0, &[2])).unwrap();
    let mut late = Waiter::new(&log, 2);
    assert!(late.poll().is_pending(), "there is nothing after it yet");
    assert_eq!(late.cursor.next, Seq(2), "waiting does not move a cursor");
    early.leave();
    late.leave();
}

pub fn an_append_wakes_a_waiting_reader(make: &Factory<'_>) {
    let log = make(roomy());
    let mut waiter = Waiter::new(&log, 0);
    for round in 0..3 {
        assert!(waiter.poll().is_pending());
        log.append(FIRST, &batch(round, &[1])).unwrap();
        waiter.alarm.wait();
        assert_eq!(waiter.next().map(|tail| tail.next), Ok(Seq(round + 1)));
        assert_eq!(listed(&waiter.out), records(round, &[1]));
    }
    waiter.leave();
}

pub fn a_seal_wakes_a_waiting_reader(make: &Factory<'_>) {
    let log = make(roomy());
    log.append(FIRST, &batch(0, &[1])).unwrap();
    let mut waiter = Waiter::new(&log, 1);
    assert!(waiter.poll().is_pending());
    log.seal(FIRST, &batch(1, &[])).unwrap();
    waiter.alarm.wait();
    assert_eq!(waiter.next().map(|tail| tail.sealed), Ok(true));
    assert!(waiter.out.is_empty(), "that is the end");
    waiter.leave();
}

pub fn an_expiry_wakes_a_waiting_reader(make: &Factory<'_>) {
    let log = make(roomy());
    let mut waiter = Waiter::new(&log, 0);
    assert!(waiter.poll().is_pending());
    log.expire();
    waiter.alarm.wait();
    assert_eq!(waiter.next(), Err(ReadError::Expired));
    waiter.leave();
}

pub fn every_waiting_reader_is_woken(make: &Factory<'_>) {
    let log = make(roomy());
    let mut waiters: Vec<Waiter> = (0..20).map(|_| Waiter::new(&log, 0)).collect();
    for waiter in &mut waiters {
        assert!(waiter.poll().is_pending());
    }
    log.append(FIRST, &batch(0, &[1])).unwrap();
    for waiter in &mut waiters {
        waiter.alarm.wait();
        assert!(waiter.next().is_ok());
        assert_eq!(listed(&waiter.out), records(0, &[1]));
    }
    waiters.into_iter().for_each(Waiter::leave);
}

pub fn the_last_waker_counts(make: &Factory<'_>) {
    let log = make(roomy());
    let mut waiter = Waiter::new(&log, 0);
    assert!(waiter.poll().is_pending());
    // The reader has moved to another task, and brings that one's waker.
    waiter.alarm = Arc::new(Alarm::default());
    assert!(waiter.poll().is_pending());
    log.append(FIRST, &batch(0, &[1])).unwrap();
    waiter.alarm.wait();
    waiter.leave();
}

pub fn slots_are_used_again(make: &Factory<'_>) {
    let log = make(roomy());
    let mut largest = 0;
    for _ in 0..1000 {
        let (a, b) = (log.enroll(), log.enroll());
        assert_ne!(a, b, "two readers share a place");
        largest = largest.max(a.0).max(b.0);
        log.leave(a);
        log.leave(b);
    }
    assert!(largest < 16, "places are never used again: {largest}");
}

pub fn leaving_disturbs_nobody(make: &Factory<'_>) {
    let log = make(roomy());
    let mut waiters: Vec<Waiter> = (0..6).map(|_| Waiter::new(&log, 0)).collect();
    for waiter in &mut waiters {
        assert!(waiter.poll().is_pending());
    }
    let gone = Arc::clone(&waiters[2].alarm);
    for index in [5, 2, 0] {
        waiters.remove(index).leave();
    }
    // A newcomer takes a place that became free.
    let mut newcomer = Waiter::new(&log, 0);
    assert!(newcomer.poll().is_pending());
    waiters.push(newcomer);
    log.append(FIRST, &batch(0, &[1])).unwrap();
    for waiter in &mut waiters {
        waiter.alarm.wait();
        assert!(waiter.next().is_ok());
    }
    assert_eq!(gone.rung(), 0, "one who has left is not woken");
    waiters.into_iter().for_each(Waiter::leave);
}

pub fn a_refused_append_is_not_read(make: &Factory<'_>) {
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
