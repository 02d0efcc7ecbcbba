//! The log passes the conformance suite, and returns what was appended from every position.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;

use proptest::prelude::*;
use tokenwire_core::log::{AppendError, Epoch, LogLimits, LogTail, Position, ReadPosition};
use tokenwire_core::model::account::Account;
use tokenwire_core::model::id::Seq;
use tokenwire_core::model::record::RecordBatch;

const ROOMY: LogLimits = LogLimits {
    bytes: 1 << 26,
    events: LogLimits::MAX_EVENTS,
};

fn log(limits: LogLimits, account: &Account) -> LogTail {
    let log = LogTail::new(limits, account.clone());
    log.begin_epoch();
    log
}

tokenwire_testkit::log_conformance!(|limits: LogLimits| Arc::new(log(limits, &Account::default())));

#[test]
fn memory_account_equals_the_size_of_all_logs() {
    let account = Account::default();
    let logs: Vec<LogTail> = (0..3).map(|_| log(ROOMY, &account)).collect();
    let used = || logs.iter().map(LogTail::memory_size).sum::<usize>();
    let mut batch = RecordBatch::default();
    for seq in 0..500 {
        batch.restart(Seq(seq));
        batch.push(1, b"a payload of some length");
        if seq % 100 == 0 {
            batch.restart(Seq(seq));
            batch.push(1, &[b'x'; 100_000]);
        }
        for log in &logs {
            log.append(Epoch::FIRST, &batch).unwrap();
        }
        assert_eq!(account.used(), used());
    }
    batch.restart(Seq(500));
    logs[0].seal(Epoch::FIRST, &batch).unwrap();
    logs[1].expire();
    assert_eq!(logs[1].memory_size(), 0);
    assert_eq!(account.used(), used());
    drop(logs);
    assert_eq!(account.used(), 0);
}

#[test]
fn log_wastes_at_most_a_quarter_of_its_memory() {
    let account = Account::default();
    let log = log(ROOMY, &account);
    let mut batch = RecordBatch::default();
    // Long enough for the largest segments.
    for seq in 0..60_000u64 {
        batch.restart(Seq(seq));
        batch.push(1, &[b'x'; 120]);
        log.append(Epoch::FIRST, &batch).unwrap();
        let used = (seq as usize + 1) * batch.byte_len();
        let spare = log.memory_size() - used;
        assert!(
            spare <= used / 3 + 1024,
            "{spare} bytes are spare after {used}"
        );
    }
    let used = 60_000 * batch.byte_len();
    log.seal(Epoch::FIRST, &{
        batch.restart(Seq(60_000));
        batch
    })
    .unwrap();
    assert!(
        log.memory_size() < used + used / 50,
        "sealing frees the rest"
    );
}

#[test]
fn long_log_is_read_from_every_position_and_large_records_waste_nothing() {
    let log = log(ROOMY, &Account::default());
    let mut batch = RecordBatch::default();
    let (mut wanted, mut used) = (Vec::new(), 0);
    for seq in 0..8_000u64 {
        // A few large records, each of which ends a segment.
        let length = if seq % 400 == 399 { 100_000 } else { 1000 };
        batch.restart(Seq(seq));
        batch.push(1, &vec![seq as u8; length]);
        log.append(Epoch::FIRST, &batch).unwrap();
        wanted.push(vec![seq as u8; length]);
        used += batch.byte_len();
    }
    let spare = log.memory_size() - used;
    assert!(spare <= used / 3, "{spare} bytes are spare after {used}");
    for from in (0..8_000).step_by(97) {
        let mut position = ReadPosition::at(Seq(from));
        let (mut out, mut next) = (RecordBatch::default(), from);
        while next < (from + 1_000).min(8_000) {
            log.read(&mut position, 64 * 1024, &mut out).unwrap();
            for record in out.iter() {
                assert_eq!(record.first_seq, Seq(next));
                assert!(record.payload == wanted[next as usize], "record {next}");
                next += 1;
            }
        }
    }
}

#[test]
fn epoch_holds_half_of_its_numbers_at_most() {
    let unlimited = LogLimits {
        bytes: usize::MAX,
        events: u64::MAX,
    };
    let log = log(unlimited, &Account::default());
    let capped = LogLimits {
        events: 1 << 23,
        ..unlimited
    };
    let batch = |first: u64, events: u64| {
        let mut batch = RecordBatch::default();
        batch.restart(Seq(first));
        batch.push(events, b"");
        batch
    };
    log.append(Epoch::FIRST, &batch(0, (1 << 23) - 1)).unwrap();
    let full = Err(AppendError::Full { limits: capped });
    assert_eq!(log.append(Epoch::FIRST, &batch((1 << 23) - 1, 2)), full);
    log.append(Epoch::FIRST, &batch((1 << 23) - 1, 1)).unwrap();
    assert_eq!(log.append(Epoch::FIRST, &batch(1 << 23, 1)), full);
    // The next epoch has numbers of its own.
    let epoch = log.begin_epoch();
    let mut first = RecordBatch::default();
    first.restart(Seq(1 << 23));
    first.skip(1 << 23);
    first.push(1 << 23, b"");
    log.append(epoch, &first).unwrap();
    assert_eq!(log.append(epoch, &batch(3 << 23, 1)), full);
}

/// What one append holds.
#[derive(Clone, Debug)]
struct Batch {
    begins_epoch: bool,
    /// Skip, events, payload length.
    records: Vec<(u64, u64, usize)>,
}

fn batches() -> impl Strategy<Value = Vec<Batch>> {
    let skip = prop_oneof![9 => Just(0u64), 1 => 1u64..4];
    let length = prop_oneof![8 => 0usize..60, 2 => 400usize..3000, 1 => 60_000usize..140_000];
    let events = prop_oneof![4 => Just(1u64), 1 => 2u64..6];
    let batch = (
        prop::bool::weighted(0.1),
        prop::collection::vec((skip, events, length), 0..8),
    );
    let batch = batch.prop_map(|(begins_epoch, records)| Batch {
        begins_epoch,
        records,
    });
    prop::collection::vec(batch, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_position_reads_the_records_after_it(batches in batches(), from in any::<prop::sample::Index>(), max_bytes in 1usize..100_000, seals in any::<bool>()) {
        let account = Account::default();
        let log = log(ROOMY, &account);
        let mut epoch = Epoch::FIRST;
        let mut expected: Vec<(u64, u64, Vec<u8>)> = Vec::new();
        let mut epoch_is_empty = true;
        let mut ends = Vec::new();
        for Batch { begins_epoch, records } in batches {
            let end = log.end().unwrap().next.0;
            if begins_epoch {
                epoch = log.begin_epoch();
                ends.push(end);
                epoch_is_empty = true;
            }
            let mut batch = RecordBatch::default();
            batch.restart(Seq(end));
            for (skip, events, length) in records {
                let skip = if epoch_is_empty { epoch.first_seq().0 - end } else { skip };
                epoch_is_empty = false;
                batch.skip(skip);
                let first = batch.next_seq().0;
                let payload = vec![first as u8; length];
                batch.push(events, &payload);
                expected.push((first, events, payload));
            }
            log.append(epoch, &batch).unwrap();
        }
        let end = log.end().unwrap().next.0;
        if seals {
            let mut batch = RecordBatch::default();
            batch.restart(Seq(end));
            log.seal(epoch, &batch).unwrap();
        }
        // A position in a record, between two, in a hole or at the end.
        let mut positions: Vec<u64> = expected.iter().flat_map(|(first, events, _)| [first.saturating_sub(1), *first, first + events - 1, first + events]).collect();
        positions.extend([0, end]);
        let from = *from.get(&positions);
        let wanted: Vec<_> = expected.iter().filter(|(first, events, _)| first + events > from).cloned().collect();

        let mut position = ReadPosition::at(Seq(from));
        let mut out = RecordBatch::default();
        let mut found = Vec::new();
        loop {
            log.read(&mut position, max_bytes, &mut out).unwrap();
            if out.is_empty() {
                break;
            }
            found.extend(out.iter().map(|record| (record.first_seq.0, record.events, record.payload.to_vec())));
        }
        prop_assert_eq!(&found, &wanted);

        // The same as blocks, which a store reads back.
        let mut at = Seq(from.min(end));
        let mut stored = Vec::new();
        loop {
            let mut block = Vec::new();
            let range = log.read_block(at, max_bytes, &mut block).unwrap();
            let parsed = RecordBatch::parse(range.first, block).unwrap();
            prop_assert_eq!(parsed.end_seq(), range.next);
            if range.is_empty() {
                break;
            }
            stored.extend(parsed.iter().map(|record| (record.first_seq.0, record.events, record.payload.to_vec())));
            at = range.next;
        }
        prop_assert_eq!(&stored, &wanted);

        // Lost is what lies above the end of an epoch and below the next.
        if let Some(after) = from.checked_sub(1) {
            let lost = ends.iter().enumerate().any(|(index, end)| *end <= after && after < (index as u64 + 1) << 24);
            prop_assert_eq!(log.place(Seq(after)).unwrap() == Position::Lost, lost);
        }
    }
}
