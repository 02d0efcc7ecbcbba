//! Cases about appending and fencing.

use tokenwire_core::log::{AppendError, Epoch};
use tokenwire_core::model::id::Seq;
use tokenwire_core::model::record::RecordBatch;

use super::support::{FIRST, Factory, batch, contents, epoch_batch, read_all, records, roomy};

pub fn new_log_is_empty_and_open(make: &Factory<'_>) {
    let log = make(roomy());
    let (tail, all) = contents(&log);
    assert_eq!((tail.next, tail.sealed), (Seq(0), false));
    assert_eq!(all, []);
}

pub fn records_are_read_in_append_order(make: &Factory<'_>) {
    let log = make(roomy());
    log.append(FIRST, &batch(0, &[2, 3])).unwrap();
    log.append(FIRST, &batch(5, &[1])).unwrap();
    log.append(FIRST, &batch(6, &[1, 1, 4])).unwrap();
    let (tail, all) = contents(&log);
    assert_eq!((tail.next, tail.sealed), (Seq(12), false));
    assert_eq!(all, records(0, &[2, 3, 1, 1, 1, 4]));
}

pub fn payloads_are_read_byte_for_byte(make: &Factory<'_>) {
    let log = make(roomy());
    let payloads = [
        vec![],
        vec![0],
        vec![0xFF, 0, b'\n', 0xFE],
        "häß€😊".as_bytes().to_vec(),
        (0..=255).cycle().take(100_000).collect(),
    ];
    for (index, payload) in payloads.iter().enumerate() {
        let mut batch = RecordBatch::default();
        batch.restart(Seq(index as u64));
        batch.push(1, payload);
        log.append(FIRST, &batch).unwrap();
    }
    let found: Vec<Vec<u8>> = read_all(&log, 0)
        .into_iter()
        .map(|(_, _, payload)| payload)
        .collect();
    assert_eq!(found, payloads);
}

pub fn batch_after_a_gap_is_refused(make: &Factory<'_>) {
    let log = make(roomy());
    log.append(FIRST, &batch(0, &[2])).unwrap();
    let before = contents(&log);
    for first in [3, 7, 1 << 40] {
        let gap = AppendError::Gap {
            expected: Seq(2),
            found: Seq(first),
        };
        assert_eq!(log.append(FIRST, &batch(first, &[1, 1])), Err(gap));
        assert_eq!(log.seal(FIRST, &batch(first, &[1])), Err(gap));
    }
    assert_eq!(contents(&log), before);
}

pub fn batch_with_repeated_numbers_is_refused(make: &Factory<'_>) {
    let log = make(roomy());
    log.append(FIRST, &batch(0, &[2, 1])).unwrap();
    let before = contents(&log);
    for first in [0, 1, 2] {
        let repeats = AppendError::Gap {
            expected: Seq(3),
            found: Seq(first),
        };
        // Its end is past the tail, but no part of it may be appended.
        assert_eq!(log.append(FIRST, &batch(first, &[1, 1, 5])), Err(repeats));
    }
    assert_eq!(contents(&log), before);
}

pub fn empty_batch_changes_nothing(make: &Factory<'_>) {
    let log = make(roomy());
    log.append(FIRST, &batch(0, &[1])).unwrap();
    let before = contents(&log);
    assert_eq!(log.append(FIRST, &batch(1, &[])), Ok(()));
    assert_eq!(contents(&log), before);
}

pub fn new_epoch_fences_the_earlier_writer(make: &Factory<'_>) {
    let log = make(roomy());
    log.append(FIRST, &batch(0, &[1])).unwrap();
    let current = log.begin_epoch();
    let before = contents(&log);
    assert_eq!(
        log.append(FIRST, &batch(1, &[1])),
        Err(AppendError::Fenced {
            held: FIRST,
            current
        })
    );
    // An epoch that was never given out cannot append either.
    let future = Epoch(current.0 + 1);
    assert_eq!(
        log.append(future, &batch(1, &[1])),
        Err(AppendError::Fenced {
            held: future,
            current
        })
    );
    assert_eq!(contents(&log), before);
}

pub fn fenced_writer_cannot_seal(make: &Factory<'_>) {
    let log = make(roomy());
    let current = log.begin_epoch();
    let before = contents(&log);
    assert_eq!(
        log.seal(FIRST, &batch(0, &[1])),
        Err(AppendError::Fenced {
            held: FIRST,
            current
        })
    );
    assert_eq!(contents(&log), before);
    assert_eq!(log.seal(current, &epoch_batch(&log, current, &[1])), Ok(()));
}

pub fn new_epoch_is_the_next_one(make: &Factory<'_>) {
    let log = make(roomy());
    assert_eq!(log.epoch(), FIRST);
    for number in 2..7 {
        assert_eq!(log.begin_epoch(), Epoch(number));
        assert_eq!(log.epoch(), Epoch(number));
    }
    assert_eq!(log.epoch_ends(), vec![Seq(0); 5]);
}

pub fn new_epoch_starts_at_its_first_number(make: &Factory<'_>) {
    let log = make(roomy());
    log.append(FIRST, &batch(0, &[2])).unwrap();
    let epoch = log.begin_epoch();
    assert_eq!(
        contents(&log).1,
        records(0, &[2]),
        "a new epoch changed a record"
    );
    log.append(epoch, &epoch_batch(&log, epoch, &[1])).unwrap();
    let start = 1 << 24;
    log.append(epoch, &batch(start + 1, &[3])).unwrap();
    let mut expected = records(0, &[2]);
    expected.extend(records(start, &[1, 3]));
    assert_eq!(contents(&log).1, expected);
    assert_eq!(log.epoch_ends(), [Seq(2)]);
    for from in [0, 1] {
        assert_eq!(read_all(&log, from), expected);
    }
}
