//! Cases about epochs.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::join_all;
use tokenwire_core::log::{Epoch, LogStore, StoreError};
use tokenwire_core::model::id::Seq;

use super::support::{
    FIRST, SECOND_EPOCH, append, block, block_after_hole, create, expect, listed, log_contents,
    records,
};

fn fenced(held: u64, current: u64) -> StoreError {
    StoreError::Fenced {
        held: Epoch(held),
        current: Epoch(current),
    }
}

pub async fn adopter_writes_in_the_next_epoch(store: Arc<dyn LogStore>) {
    let id = create(&store).await;
    append(&store, &id, FIRST, &block(0, &[2, 1]))
        .await
        .unwrap();
    let epoch = store.adopt(&id).await.unwrap();
    let log = store.open(&id).await.unwrap();
    assert_eq!((epoch, log.epoch(), log.end), (Epoch(2), Epoch(2), Seq(3)));
    assert_eq!(log.epoch_ends, [Seq(3)]);
    let second = || block_after_hole(3, SECOND_EPOCH - 3, &[1]);
    append(&store, &id, epoch, &second()).await.unwrap();
    let last = || block(SECOND_EPOCH + 1, &[1]);
    store.seal(&id, epoch, last(), None).await.unwrap();
    let all = [records(0, &[2, 1]), listed(&second()), listed(&last())].concat();
    expect(&store, &id, true, &all).await;
    assert_eq!(store.open(&id).await.unwrap().epoch_ends, [Seq(3)]);
}

pub async fn adoption_fences_the_earlier_writer(store: Arc<dyn LogStore>) {
    let id = create(&store).await;
    append(&store, &id, FIRST, &block(0, &[2])).await.unwrap();
    assert_eq!(store.adopt(&id).await, Ok(Epoch(2)));
    // Also what is stored already: the earlier writer has to learn that it is not the owner.
    for first in [0, 2, 9] {
        assert_eq!(
            append(&store, &id, FIRST, &block(first, &[2])).await,
            Err(fenced(1, 2))
        );
    }
    assert_eq!(
        store.seal(&id, FIRST, block(2, &[1]), None).await,
        Err(fenced(1, 2))
    );
    // An epoch that was never given out cannot append either.
    assert_eq!(
        append(&store, &id, Epoch(3), &block(2, &[1])).await,
        Err(fenced(3, 2))
    );
    expect(&store, &id, false, &records(0, &[2])).await;
}

pub async fn epoch_without_records_keeps_its_end(store: Arc<dyn LogStore>) {
    let id = create(&store).await;
    append(&store, &id, FIRST, &block(0, &[2])).await.unwrap();
    for epoch in 2..5 {
        assert_eq!(store.adopt(&id).await, Ok(Epoch(epoch)));
    }
    let (log, _) = log_contents(&store, &id).await;
    assert_eq!(log.epoch_ends, [Seq(2); 3]);
    let fourth = block_after_hole(2, 3 * SECOND_EPOCH - 2, &[1]);
    let end = append(&store, &id, Epoch(4), &fourth).await;
    assert_eq!(end, Ok(Seq(3 * SECOND_EPOCH + 1)));
    expect(
        &store,
        &id,
        false,
        &[records(0, &[2]), listed(&fourth)].concat(),
    )
    .await;
}

pub async fn sealed_log_cannot_be_adopted(store: Arc<dyn LogStore>) {
    let id = create(&store).await;
    let sealed = store.seal(&id, FIRST, block(0, &[1]), None).await;
    assert_eq!(sealed, Ok(()));
    assert_eq!(store.adopt(&id).await, Err(StoreError::Sealed));
    // Its writer may still repeat the seal.
    let repeated = store.seal(&id, FIRST, block(0, &[1]), None).await;
    assert_eq!(repeated, Ok(()));
}

/// Runs the future on a thread with a runtime.
fn on_thread<T: Send>(future: impl Future<Output = T> + Send) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(future)
}

pub async fn adopters_at_once_get_distinct_epochs(store: Arc<dyn LogStore>) {
    let id = create(&store).await;
    append(&store, &id, FIRST, &block(0, &[2])).await.unwrap();
    let epochs: Vec<Epoch> = std::thread::scope(|scope| {
        let adopt = || on_thread(async { store.adopt(&id).await.unwrap() });
        let adopters: Vec<_> = (0..8).map(|_| scope.spawn(adopt)).collect();
        let joined = adopters.into_iter().map(|adopter| adopter.join().unwrap());
        joined.collect()
    });
    let distinct: BTreeSet<Epoch> = epochs.iter().copied().collect();
    assert_eq!(distinct, (2..10).map(Epoch).collect());
    let appends = epochs.iter().map(|epoch| {
        let (store, id, epoch) = (&store, &id, *epoch);
        async move {
            let first = SECOND_EPOCH * (epoch.0 - 1);
            let batch = block_after_hole(2, first - 2, &[1]);
            (epoch, append(store, id, epoch, &batch).await)
        }
    });
    for (epoch, result) in join_all(appends).await {
        let last = Ok(Seq(8 * SECOND_EPOCH + 1));
        let expected = if epoch == Epoch(9) {
            last
        } else {
            Err(fenced(epoch.0, 9))
        };
        assert_eq!(result, expected);
    }
}

pub async fn adoption_during_appends_loses_nothing_that_was_acknowledged(store: Arc<dyn LogStore>) {
    let id = create(&store).await;
    let acknowledged = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            on_thread(async {
                for first in 0.. {
                    match append(&store, &id, FIRST, &block(first, &[1])).await {
                        Ok(end) => assert_eq!(end, Seq(first + 1)),
                        Err(error) => {
                            assert_eq!(error, fenced(1, 2));
                            return first;
                        }
                    }
                }
                unreachable!("the adopter fences this writer")
            })
        });
        let adopter = scope.spawn(|| {
            on_thread(async {
                while store.open(&id).await.unwrap().end < Seq(5) {}
                assert_eq!(store.adopt(&id).await, Ok(Epoch(2)));
            });
        });
        adopter.join().unwrap();
        writer.join().unwrap()
    });
    let (log, all) = log_contents(&store, &id).await;
    assert_eq!(log.end, Seq(all.len() as u64));
    assert_eq!(log.epoch_ends, [log.end]);
    // The answer to the last block may be lost, but not the block.
    assert!((acknowledged..=acknowledged + 1).contains(&log.end.0));
}
