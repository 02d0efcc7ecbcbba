//! Cases about the limits of one log.

use std::sync::Arc;

use tokenwire_core::log::{AppendError, LogLimits, LogTail};
use tokenwire_core::model::id::Seq;
use tokenwire_core::model::record::RecordBatch;

use super::support::{FIRST, Factory, contents};

/// Records of ten bytes with their heads, and one event each.
fn tens(first: u64, count: usize) -> RecordBatch {
    let mut batch = RecordBatch::default();
    batch.restart(Seq(first));
    (0..count).for_each(|_| batch.push(1, b"nine byte"));
    batch
}

fn refuses(log: &Arc<LogTail>, batch: &RecordBatch, limits: LogLimits) {
    let before = contents(log);
    assert_eq!(log.append(FIRST, batch), Err(AppendError::Full { limits }));
    assert_eq!(contents(log), before, "a refused batch changed the log");
}

pub fn batch_over_the_byte_limit_is_refused(make: &Factory<'_>) {
    let limits = LogLimits {
        bytes: 50,
        events: 1000,
    };
    let log = make(limits);
    log.append(FIRST, &tens(0, 3)).unwrap();
    refuses(&log, &tens(3, 3), limits);
    log.append(FIRST, &tens(3, 2))
        .unwrap_or_else(|e| panic!("a batch that fits exactly was refused: {e}"));
    refuses(&log, &tens(5, 1), limits);
}

pub fn batch_over_the_event_limit_is_refused(make: &Factory<'_>) {
    let limits = LogLimits {
        bytes: 1 << 20,
        events: 5,
    };
    let log = make(limits);
    log.append(FIRST, &tens(0, 3)).unwrap();
    refuses(&log, &tens(3, 3), limits);
    log.append(FIRST, &tens(3, 2))
        .unwrap_or_else(|e| panic!("a batch that fits exactly was refused: {e}"));
    refuses(&log, &tens(5, 1), limits);
}

pub fn smaller_batch_fits_after_a_refusal(make: &Factory<'_>) {
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

pub fn limits_do_not_apply_to_the_seal(make: &Factory<'_>) {
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
            .unwrap_or_else(|e| panic!("a seal was refused: {e}"));
        assert_eq!(
            (contents(&log).0.next, contents(&log).1.len() as u64),
            (Seq(first + 4), first + 4)
        );
    }
}
