//! Cases about the blocks that a store gets, and how far it has acknowledged.

use tokenwire_core::log::{BlockRange, ReadError};
use tokenwire_core::model::id::Seq;
use tokenwire_core::model::record::RecordBatch;

use super::support::{FIRST, Factory, batch, epoch_batch, listed, read_all, records, roomy};

pub fn blocks_hold_the_records_as_they_were_appended(make: &Factory<'_>) {
    let log = make(roomy());
    let shape: Vec<u64> = (0..400).map(|index| 1 + index % 4).collect();
    log.append(FIRST, &batch(0, &shape)).unwrap();
    let epoch = log.begin_epoch();
    log.append(epoch, &epoch_batch(&log, epoch, &[2, 1]))
        .unwrap();
    for max_bytes in [0, 1, 100, 5000, usize::MAX] {
        let (mut from, mut found) = (Seq(0), Vec::new());
        loop {
            let mut buffer = b"other blocks".to_vec();
            let range = log.read_block(from, max_bytes, &mut buffer).unwrap();
            assert_eq!(range.first, from);
            let block = buffer.split_off(12);
            assert_eq!(
                (buffer.as_slice(), range.is_empty()),
                (b"other blocks".as_slice(), block.is_empty())
            );
            if range.is_empty() {
                break;
            }
            let parsed = RecordBatch::parse(range.first, block).unwrap();
            assert_eq!(parsed.end_seq(), range.next);
            found.extend(listed(&parsed));
            from = range.next;
        }
        assert_eq!(found, read_all(&log, 0));
    }
}

pub fn block_after_the_end_is_refused(make: &Factory<'_>) {
    let log = make(roomy());
    log.append(FIRST, &batch(0, &[2])).unwrap();
    let mut block = Vec::new();
    let empty = BlockRange {
        first: Seq(2),
        next: Seq(2),
    };
    assert_eq!(log.read_block(Seq(2), 100, &mut block), Ok(empty));
    assert_eq!(
        log.read_block(Seq(3), 100, &mut block),
        Err(ReadError::PastHead)
    );
    log.expire();
    assert_eq!(
        log.read_block(Seq(0), 100, &mut block),
        Err(ReadError::Expired)
    );
    assert!(block.is_empty());
}

pub fn commit_moves_forward_only(make: &Factory<'_>) {
    let log = make(roomy());
    let shape: Vec<u64> = (0..500).map(|index| 1 + index % 3).collect();
    log.append(FIRST, &batch(0, &shape)).unwrap();
    let total = log.uncommitted();
    let mut block = Vec::new();
    while log.uncommitted() > 0 {
        let (committed, before) = (log.committed(), log.uncommitted());
        block.clear();
        let range = log.read_block(committed, 700, &mut block).unwrap();
        log.commit(range.next);
        assert_eq!(log.committed(), range.next);
        assert_eq!(log.uncommitted(), before - block.len());
        // A store that acknowledges twice, or late.
        log.commit(range.next);
        log.commit(range.first);
        log.commit(Seq(0));
        assert_eq!(log.committed(), range.next);
    }
    // Inside a record: the record is not stored.
    let next = log.committed().0;
    log.append(FIRST, &batch(next, &[3, 1])).unwrap();
    log.commit(Seq(next + 2));
    assert_eq!(log.committed(), Seq(next));
    // More than there is.
    log.commit(Seq(u64::MAX));
    assert_eq!((log.committed(), log.uncommitted()), (Seq(next + 4), 0));
    assert!(total > 0);
}

pub fn large_record_is_read_alone(make: &Factory<'_>) {
    let log = make(roomy());
    let large: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let mut mixed = batch(0, &[1, 2]);
    mixed.push(1, &large);
    mixed.push(2, &large);
    mixed.push(1, b"small");
    log.append(FIRST, &mixed).unwrap();
    let mut expected = records(0, &[1, 2]);
    expected.extend([
        (3, 1, large.clone()),
        (4, 2, large),
        (6, 1, b"small".to_vec()),
    ]);
    assert_eq!(read_all(&log, 0), expected);
    assert_eq!(read_all(&log, 5), expected[3..]);
    let mut block = Vec::new();
    let range = log.read_block(Seq(3), usize::MAX, &mut block).unwrap();
    assert_eq!(
        (
            range.first,
            range.next,
            block.len() > 300_000,
            block.len() < 300_010
        ),
        (Seq(3), Seq(4), true, true)
    );
}
