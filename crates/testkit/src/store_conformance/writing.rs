//! Cases about creating and appending.

use std::sync::Arc;

use futures::future::join_all;
use tokenwire_core::log::{Blocks, LogHeader, LogStore, StoreError};
use tokenwire_core::model::id::{GenerationId, Seq};
use tokenwire_core::model::record::RecordBatch;

use super::support::{
    FIRST, append, as_block, block, create, expect, header, listed, log_contents, records,
};

pub async fn created_log_is_empty_and_open(store: Arc<dyn LogStore>) {
    let id = create(&store).await;
    let (log, all) = log_contents(&store, &id).await;
    assert_eq!((log.end, log.sealed), (Seq(0), false));
    assert_eq!((log.epoch(), log.epoch_ends), (FIRST, vec![]));
    assert_eq!(all, []);
    assert_eq!(store.object(&id).await, Ok(None));
}

pub async fn header_returns_as_it_was_stored(store: Arc<dyn LogStore>) {
    let header = header();
    store.create(header.clone()).await.unwrap();
    let log = store.open(&header.meta.id).await.unwrap();
    assert_eq!(log.header.encode(), header.encode());
}

pub async fn create_can_be_repeated(store: Arc<dyn LogStore>) {
    let header = header();
    let id = header.meta.id.clone();
    assert_eq!(store.create(header.clone()).await, Ok(FIRST));
    append(&store, &id, FIRST, &block(0, &[1])).await.unwrap();
    assert_eq!(store.create(header).await, Ok(FIRST));
    expect(&store, &id, false, &records(0, &[1])).await;
}

pub async fn create_does_not_replace_another_log(store: Arc<dyn LogStore>) {
    let first = header();
    store.create(first.clone()).await.unwrap();
    let other = Arc::new(LogHeader {
        upstream: "another".into(),
        ..LogHeader::clone(&first)
    });
    assert_eq!(store.create(other).await, Err(StoreError::Exists));
    let log = store.open(&first.meta.id).await.unwrap();
    assert_eq!(log.header.encode(), first.encode());
    // After an adoption the first epoch is not given out again.
    store.adopt(&first.meta.id).await.unwrap();
    assert_eq!(store.create(first).await, Err(StoreError::Exists));
}

pub async fn unknown_log_is_not_found(store: Arc<dyn LogStore>) {
    let id = GenerationId::random();
    let missing = StoreError::NotFound;
    assert_eq!(
        append(&store, &id, FIRST, &block(0, &[1])).await,
        Err(missing.clone())
    );
    let sealed = store.seal(&id, FIRST, block(0, &[1]), None).await;
    assert_eq!(sealed, Err(missing.clone()));
    assert_eq!(store.open(&id).await.unwrap_err(), missing);
    assert_eq!(store.read(&id, Seq(0), 100).await.unwrap_err(), missing);
    assert_eq!(store.object(&id).await, Err(missing.clone()));
    assert_eq!(store.adopt(&id).await, Err(missing));
}

pub async fn blocks_are_read_as_they_were_appended(store: Arc<dyn LogStore>) {
    let id = create(&store).await;
    let mut all = RecordBatch::default();
    let payloads = [
        vec![],
        vec![0],
        vec![0xFF, 0, b'\n', 0xFE],
        (0..=255).cycle().take(100_000).collect(),
    ];
    for (index, payload) in payloads.iter().enumerate() {
        let events = index as u64 + 1;
        let mut batch = RecordBatch::default();
        batch.restart(all.end_seq());
        batch.push(events, payload);
        all.push(events, payload);
        assert_eq!(append(&store, &id, FIRST, &batch).await, Ok(all.end_seq()));
    }
    expect(&store, &id, false, &listed(&all)).await;
}

pub async fn one_append_holds_blocks_of_many_logs(store: Arc<dyn LogStore>) {
    let ids = join_all((0..20).map(|_| create(&store))).await;
    for round in 0..3 {
        let batches: Vec<_> = (0..ids.len() as u64)
            .map(|count| block(round * (count + 1), &vec![1; count as usize + 1]))
            .collect();
        let mut blocks = Blocks::default();
        for (id, batch) in ids.iter().zip(&batches) {
            blocks.push(as_block(id, FIRST, batch));
        }
        let (_, results) = store.append(blocks).await;
        let ends: Vec<_> = batches.iter().map(|batch| Ok(batch.end_seq())).collect();
        assert_eq!(results, ends);
    }
    for (count, id) in ids.iter().enumerate() {
        expect(&store, id, false, &records(0, &vec![1; 3 * (count + 1)])).await;
    }
}

pub async fn failed_block_does_not_affect_the_others(store: Arc<dyn LogStore>) {
    let (first, second) = (create(&store).await, create(&store).await);
    let unknown = GenerationId::random();
    let (good, gap) = (block(0, &[1, 2]), block(7, &[1]));
    let mut blocks = Blocks::default();
    for (id, batch) in [(&first, &gap), (&unknown, &good), (&second, &good)] {
        blocks.push(as_block(id, FIRST, batch));
    }
    let (_, results) = store.append(blocks).await;
    let gap = StoreError::Gap {
        expected: Seq(0),
        found: Seq(7),
    };
    assert_eq!(results, [Err(gap), Err(StoreError::NotFound), Ok(Seq(3))]);
    expect(&store, &first, false, &[]).await;
    expect(&store, &second, false, &records(0, &[1, 2])).await;
}

pub async fn empty_append_returns_the_buffer(store: Arc<dyn LogStore>) {
    let (blocks, results) = store.append(Blocks::default()).await;
    assert_eq!((blocks.len(), results.len()), (0, 0));
}

pub async fn block_after_a_gap_is_refused(store: Arc<dyn LogStore>) {
    let id = create(&store).await;
    append(&store, &id, FIRST, &block(0, &[2])).await.unwrap();
    for first in [3, 7, 1 << 40] {
        let gap = StoreError::Gap {
            expected: Seq(2),
            found: Seq(first),
        };
        assert_eq!(
            append(&store, &id, FIRST, &block(first, &[1, 1])).await,
            Err(gap)
        );
    }
    expect(&store, &id, false, &records(0, &[2])).await;
}

pub async fn stored_block_is_acknowledged_again(store: Arc<dyn LogStore>) {
    let id = create(&store).await;
    append(&store, &id, FIRST, &block(0, &[2, 1]))
        .await
        .unwrap();
    append(&store, &id, FIRST, &block(3, &[1])).await.unwrap();
    for (first, events) in [(0, [2, 1].as_slice()), (2, &[1]), (3, &[1]), (4, &[])] {
        let end = append(&store, &id, FIRST, &block(first, events)).await;
        assert_eq!(end, Ok(Seq(4)), "the block at {first}");
    }
    expect(&store, &id, false, &records(0, &[2, 1, 1])).await;
}

pub async fn overlapping_block_adds_what_is_new(store: Arc<dyn LogStore>) {
    let id = create(&store).await;
    append(&store, &id, FIRST, &block(0, &[2, 1]))
        .await
        .unwrap();
    let end = append(&store, &id, FIRST, &block(2, &[1, 3])).await;
    assert_eq!(end, Ok(Seq(6)));
    let end = append(&store, &id, FIRST, &block(0, &[2, 1, 3, 1, 1])).await;
    assert_eq!(end, Ok(Seq(8)));
    expect(&store, &id, false, &records(0, &[2, 1, 3, 1, 1])).await;
}

pub async fn block_that_splits_a_stored_record_is_refused(store: Arc<dyn LogStore>) {
    let id = create(&store).await;
    append(&store, &id, FIRST, &block(0, &[2, 1]))
        .await
        .unwrap();
    let error = append(&store, &id, FIRST, &block(0, &[2, 5, 1])).await;
    assert!(matches!(error, Err(StoreError::Gap { .. })), "{error:?}");
    expect(&store, &id, false, &records(0, &[2, 1])).await;
}

pub async fn damaged_block_is_refused(store: Arc<dyn LogStore>) {
    let id = create(&store).await;
    append(&store, &id, FIRST, &block(0, &[1])).await.unwrap();
    let batch = block(1, &[1, 1]);
    let whole = as_block(&id, FIRST, &batch);
    for damaged in [
        // Cut, and with the wrong end.
        tokenwire_core::log::Block {
            bytes: &whole.bytes[..whole.bytes.len() - 1],
            ..whole
        },
        tokenwire_core::log::Block {
            next: Seq(9),
            ..whole
        },
    ] {
        let mut blocks = Blocks::default();
        blocks.push(damaged);
        assert_eq!(store.append(blocks).await.1, [Err(StoreError::Corrupt)]);
    }
    expect(&store, &id, false, &records(0, &[1])).await;
}

pub async fn appends_to_many_logs_run_side_by_side(store: Arc<dyn LogStore>) {
    let ids = join_all((0..8).map(|_| create(&store))).await;
    let writers = ids.iter().map(|id| {
        let store = &store;
        async move {
            for first in (0..60).step_by(3) {
                let end = append(store, id, FIRST, &block(first, &[1, 2])).await;
                assert_eq!(end, Ok(Seq(first + 3)));
            }
        }
    });
    join_all(writers).await;
    for id in &ids {
        expect(&store, id, false, &records(0, &[1, 2].repeat(20))).await;
    }
}
