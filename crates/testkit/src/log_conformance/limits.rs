//! Cases of what one log may hold.

use std::sync::Arc;

use tokenwire_core::log::{AppendError, LogLimits, TokenLog};
use tokenwire_core::model::id::Seq;
use tokenwire_core::model::record::RecordBatch;

use super::support::{FIRST, Factory, contents};

/// Records of ten bytes and one event each.
fn tens(first: u64, count: usize) -> RecordBatch {
    let mut batch = RecordBatch::default();
    batch.restart(Seq(first));
    (0..count).for_each(|_| batch.push(1, b"ten bytes!"));
    batch
}

fn refuses(log: &Arc<dyn TokenLog>, batch: &RecordBatch, limits: LogLimits) {
    let before = contents(log);
    assert_eq!(log.append(FIRST, batch), Err(AppendError::Full { limits }));
    assert_eq!(
        contents(log),
        before,
        "a refused batch left something behind"
    );
}

pub fn a_log_over_its_bytes_refuses_the_batch_whole(make: &Factory<'_>) {
    let limits = LogLimits {
        bytes: 50,
        events: 1000,
    };
    let log = make(limits);
    log.append(FIRST, &tens(0, 3)).unwrap();
    refuses(&log, &tens(3, 3), limits);
    log.append(FIRST, &tens(3, 2))
        .unwrap_or_else(|e| panic!("what fits exactly was refused: {e}"));
    refuses(&log, &tens(5, 1), limits);
}

pub fn a_log_over_its_events_refuses_the_batch_whole(make: &Factory<'_>) {
    let limits = LogLimits {
        bytes: 1 << 20,
        events: 5,
    };
    let log = make(limits);
    log.append(FIRST, &tens(0, 3)).unwrap();
    refuses(&log, &tens(3, 3), limits);
    log.append(FIRST, &tens(3, 2))
        .unwrap_or_else(|e| panic!("what fits exactly was refused: {e}"));
    refuses(&log, &tens(5, 1), limits);
}

pub fn a_full_log_takes_what_still_fits(make: &Factory<'_>) {
    let limits = LogLimits {
        bytes: 35,
        events: 1000,
    };
    let log = make(limits);
    log.append(FIRST, &tens(0, 2)).unwrap();
    refuses(&log, &tens(2, 2), limits);
    log.append(FIRST, &tens(2, 1)).unwrap();
    assert_eq!(contents(&log).0.next, Seq(3));
}

pub fn an_ending_always_fits(make: &Factory<'_>) {
    for limits in [
        LogLimits {
            bytes: 10,
            events: 1000,
        },
        LogLimits {
            bytes: 1 << 20,
            events: 1,
        },
        LogLimits {
            bytes: 0,
            events: 0,
        },
    ] {
        let log = make(limits);
        let first = if limits.bytes == 0 { 0 } else { 1 };
        log.append(FIRST, &tens(0, first as usize)).unwrap();
        refuses(&log, &tens(first, 1), limits);
        log.seal(FIRST, &tens(first, 4))
            .unwrap_or_else(|e| panic!("an ending was refused: {e}"));
        assert_eq!(
            (contents(&log).0.next, contents(&log).1.len() as u64),
            (Seq(first + 4), first + 4)
        );
    }
}
