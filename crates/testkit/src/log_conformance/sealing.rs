//! Cases about the two ends of a log: sealing and expiry.

use std::task::Poll;

use tokenwire_core::log::{AppendError, LogReader, ReadError};
use tokenwire_core::model::id::Seq;
use tokenwire_core::model::record::RecordBatch;

use super::support::{FIRST, Factory, Waiter, batch, contents, follow, listed, records, roomy};

pub fn sealed_log_refuses_appends(make: &Factory<'_>) {
    let log = make(roomy());
    log.append(FIRST, &batch(0, &[1])).unwrap();
    log.seal(FIRST, &batch(1, &[2])).unwrap();
    let before = contents(&log);
    assert_eq!((before.0.next, before.0.sealed), (Seq(3), true));
    assert_eq!(log.append(FIRST, &batch(3, &[1])), Err(AppendError::Sealed));
    assert_eq!(log.seal(FIRST, &batch(3, &[1])), Err(AppendError::Sealed));
    // Nor after a takeover.
    let epoch = log.begin_epoch();
    assert_eq!(log.append(epoch, &batch(3, &[1])), Err(AppendError::Sealed));
    assert_eq!(log.seal(epoch, &batch(3, &[])), Err(AppendError::Sealed));
    assert_eq!(contents(&log), before);
}

pub fn readers_of_a_sealed_log_reach_its_end(make: &Factory<'_>) {
    let log = make(roomy());
    log.append(FIRST, &batch(0, &[1, 2])).unwrap();
    log.seal(FIRST, &batch(3, &[1])).unwrap();
    assert_eq!(follow(&log, 0), Ok(records(0, &[1, 2, 1])));
    let mut waiter = Waiter::new(&log, 4);
    for _ in 0..3 {
        match waiter.poll() {
            Poll::Ready(Ok(tail)) => assert_eq!(
                (tail.next, tail.sealed, waiter.out.is_empty()),
                (Seq(4), true, true)
            ),
            other => panic!("a reader after the end of a sealed log got {other:?}"),
        }
    }
    waiter.leave();
}

pub fn log_can_be_sealed_with_an_empty_batch(make: &Factory<'_>) {
    let log = make(roomy());
    log.append(FIRST, &batch(0, &[2])).unwrap();
    log.seal(FIRST, &batch(2, &[])).unwrap();
    assert_eq!(follow(&log, 0), Ok(records(0, &[2])));
    assert_eq!(follow(&log, 2), Ok(vec![]));
}

pub fn empty_log_can_be_sealed(make: &Factory<'_>) {
    let log = make(roomy());
    log.seal(FIRST, &batch(0, &[])).unwrap();
    let (tail, all) = contents(&log);
    assert_eq!((tail.next, tail.sealed, all), (Seq(0), true, vec![]));
    assert_eq!(follow(&log, 0), Ok(vec![]));
}

pub fn expired_log_refuses_appends_and_reads(make: &Factory<'_>) {
    for sealed in [false, true] {
        let log = make(roomy());
        log.append(FIRST, &batch(0, &[1])).unwrap();
        if sealed {
            log.seal(FIRST, &batch(1, &[1])).unwrap();
        }
        log.expire();
        assert_eq!(log.end(), Err(ReadError::Expired));
        assert_eq!(follow(&log, 0), Err(ReadError::Expired));
        assert_eq!(
            log.append(FIRST, &batch(1, &[1])),
            Err(AppendError::Expired)
        );
        assert_eq!(
            log.append(FIRST, &batch(0, &[1])),
            Err(AppendError::Expired),
            "an expired log does not restart at 0"
        );
        assert_eq!(log.seal(FIRST, &batch(1, &[1])), Err(AppendError::Expired));
        assert_eq!(log.end(), Err(ReadError::Expired));
    }
}

pub fn expiry_fails_later_reads(make: &Factory<'_>) {
    let log = make(roomy());
    log.seal(FIRST, &batch(0, &[1; 10])).unwrap();
    let mut reader = LogReader::new(log.clone(), Seq(0));
    let mut out = RecordBatch::default();
    reader.read(1, &mut out).unwrap();
    assert_eq!(listed(&out), records(0, &[1]));
    log.expire();
    assert_eq!(reader.read(1, &mut out), Err(ReadError::Expired));
    assert_eq!(reader.read(1, &mut out), Err(ReadError::Expired));
}

pub fn second_expiry_has_no_effect(make: &Factory<'_>) {
    let log = make(roomy());
    log.append(FIRST, &batch(0, &[1])).unwrap();
    log.expire();
    log.expire();
    assert_eq!(log.end(), Err(ReadError::Expired));
}

pub fn expired_log_releases_memory(make: &Factory<'_>) {
    let empty = make(roomy()).memory_size();
    let log = make(roomy());
    let mut large = RecordBatch::default();
    large.restart(Seq(0));
    large.push(1, &[b'x'; 1 << 20]);
    log.append(FIRST, &large).unwrap();
    log.expire();
    assert!(
        log.memory_size() <= empty,
        "{} bytes are held by an expired log, {empty} by an empty one",
        log.memory_size()
    );
}
