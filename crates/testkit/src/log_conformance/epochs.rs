//! Cases about the numbers of later epochs.

use tokenwire_core::log::{AppendError, Epoch, Position};
use tokenwire_core::model::id::Seq;

use super::support::{
    FIRST, Factory, batch, contents, epoch_batch, follow, read_all, records, roomy,
};

/// The first number of epoch 2.
const SECOND: u64 = 1 << 24;

pub fn writer_that_does_not_skip_to_its_epoch_is_refused(make: &Factory<'_>) {
    let log = make(roomy());
    log.append(FIRST, &batch(0, &[2])).unwrap();
    let epoch = log.begin_epoch();
    let before = contents(&log);
    assert_eq!(
        log.append(epoch, &batch(2, &[1])),
        Err(AppendError::Gap {
            expected: Seq(SECOND),
            found: Seq(2)
        })
    );
    // Without the record's skip a reader could not tell where it belongs.
    assert_eq!(
        log.append(epoch, &batch(SECOND, &[1])),
        Err(AppendError::Gap {
            expected: Seq(2),
            found: Seq(SECOND)
        })
    );
    assert_eq!(contents(&log), before);
}

pub fn reader_in_the_hole_before_an_epoch_gets_the_epoch(make: &Factory<'_>) {
    let log = make(roomy());
    log.append(FIRST, &batch(0, &[1, 2])).unwrap();
    // Epoch 2 writes nothing.
    log.begin_epoch();
    let epoch = log.begin_epoch();
    let start = epoch.first_seq().0;
    assert_eq!(start, 2 * SECOND);
    log.append(epoch, &epoch_batch(&log, epoch, &[2, 1]))
        .unwrap();
    log.seal(epoch, &batch(start + 3, &[1])).unwrap();
    let rest = records(start, &[2, 1, 1]);
    for from in [3, 4, SECOND, SECOND + 7, start, start + 1] {
        assert_eq!(read_all(&log, from), rest, "from {from}");
        assert_eq!(follow(&log, from).as_ref(), Ok(&rest), "from {from}");
    }
}

pub fn positions_are_told_apart(make: &Factory<'_>) {
    let log = make(roomy());
    let place = |after| log.place(Seq(after)).unwrap();
    assert_eq!(place(0), Position::PastHead);
    log.append(FIRST, &batch(0, &[3])).unwrap();
    assert_eq!(
        [0, 1, 2, 3, SECOND, u64::MAX].map(place),
        [
            Position::InLog,
            Position::InLog,
            Position::AtTail,
            Position::PastHead,
            Position::PastHead,
            Position::PastHead,
        ]
    );
    let epoch = log.begin_epoch();
    let before_its_first = [2, 3, SECOND - 1, SECOND].map(place);
    assert_eq!(
        before_its_first,
        [
            Position::AtTail,
            Position::Lost,
            Position::Lost,
            Position::PastHead
        ]
    );
    log.append(epoch, &epoch_batch(&log, epoch, &[2])).unwrap();
    assert_eq!(
        [1, 2, 3, SECOND - 1, SECOND, SECOND + 1, SECOND + 2].map(place),
        [
            Position::InLog,
            Position::InLog,
            Position::Lost,
            Position::Lost,
            Position::InLog,
            Position::AtTail,
            Position::PastHead,
        ]
    );
    // Skipped numbers within an epoch are not lost.
    let mut last = batch(SECOND + 2, &[]);
    last.skip(2);
    last.push(1, b"terminal");
    log.seal(epoch, &last).unwrap();
    assert_eq!(
        [SECOND + 1, SECOND + 2, SECOND + 3, SECOND + 4, SECOND + 5].map(place),
        [
            Position::InLog,
            Position::InLog,
            Position::InLog,
            Position::AtTail,
            Position::PastHead,
        ]
    );
    for from in [SECOND + 2, SECOND + 3, SECOND + 4] {
        assert_eq!(
            read_all(&log, from),
            [(SECOND + 4, 1, b"terminal".to_vec())]
        );
    }
    assert_eq!(log.epoch(), Epoch(2));
}
