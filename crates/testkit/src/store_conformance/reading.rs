//! Cases about reading.

use std::sync::Arc;

use tokenwire_core::log::{Epoch, LogStore};
use tokenwire_core::model::id::Seq;

use super::support::{
    FIRST, SECOND_EPOCH, append, block, block_after_hole, create, listed, records,
};

pub async fn read_starts_with_the_record_of_the_event(store: Arc<dyn LogStore>) {
    let id = create(&store).await;
    append(&store, &id, FIRST, &block(0, &[2, 3]))
        .await
        .unwrap();
    append(&store, &id, FIRST, &block(5, &[1, 4]))
        .await
        .unwrap();
    let all = records(0, &[2, 3, 1, 4]);
    for from in 0..10 {
        let start = all
            .iter()
            .position(|(first, events, _)| from < first + events)
            .expect("the log goes on");
        let batch = store.read(&id, Seq(from), 1 << 20).await.unwrap();
        assert_eq!(listed(&batch), all[start..], "from {from}");
        assert_eq!(batch.first_seq(), Seq(all[start].0));
        assert_eq!(batch.end_seq(), Seq(10));
    }
}

pub async fn read_stops_at_its_byte_limit(store: Arc<dyn LogStore>) {
    let id = create(&store).await;
    append(&store, &id, FIRST, &block(0, &[1; 50]))
        .await
        .unwrap();
    let whole = store.read(&id, Seq(0), 1 << 20).await.unwrap();
    assert_eq!(whole.iter().count(), 50);
    for max_bytes in [0, 1, 20, 100] {
        let batch = store.read(&id, Seq(7), max_bytes).await.unwrap();
        assert_eq!(batch.first_seq(), Seq(7));
        assert!(!batch.is_empty(), "at least one record");
        assert!(
            batch.byte_len() <= max_bytes + 20,
            "about {max_bytes} bytes"
        );
    }
}

pub async fn read_in_steps_returns_each_record_once(store: Arc<dyn LogStore>) {
    let id = create(&store).await;
    let events = [1, 3, 2, 1, 1, 5, 1].repeat(10);
    let all = records(0, &events);
    for (index, chunk) in events.chunks(9).enumerate() {
        let first = all[index * 9].0;
        append(&store, &id, FIRST, &block(first, chunk))
            .await
            .unwrap();
    }
    for max_bytes in [1, 40, 1000] {
        let mut found = Vec::new();
        let mut from = Seq(0);
        loop {
            let batch = store.read(&id, from, max_bytes).await.unwrap();
            assert_eq!(batch.first_seq(), from);
            if batch.is_empty() {
                break;
            }
            found.extend(listed(&batch));
            from = batch.end_seq();
        }
        assert_eq!(found, all);
    }
}

pub async fn read_at_the_tail_is_empty(store: Arc<dyn LogStore>) {
    let id = create(&store).await;
    let batch = store.read(&id, Seq(0), 100).await.unwrap();
    assert!(batch.is_empty());
    append(&store, &id, FIRST, &block(0, &[3])).await.unwrap();
    let batch = store.read(&id, Seq(3), 100).await.unwrap();
    assert!(batch.is_empty());
    assert_eq!((batch.first_seq(), batch.end_seq()), (Seq(3), Seq(3)));
}

pub async fn read_past_the_tail_is_empty_and_says_where_it_is(store: Arc<dyn LogStore>) {
    let id = create(&store).await;
    append(&store, &id, FIRST, &block(0, &[3])).await.unwrap();
    for from in [4, 1000, SECOND_EPOCH, u64::MAX] {
        let batch = store.read(&id, Seq(from), 100).await.unwrap();
        assert!(batch.is_empty());
        assert_eq!((batch.first_seq(), batch.end_seq()), (Seq(3), Seq(3)));
    }
}

pub async fn read_inside_the_hole_of_an_epoch_returns_what_follows(store: Arc<dyn LogStore>) {
    let id = create(&store).await;
    append(&store, &id, FIRST, &block(0, &[2])).await.unwrap();
    let epoch = store.adopt(&id).await.unwrap();
    assert_eq!(epoch, Epoch(2));
    let second = block_after_hole(2, SECOND_EPOCH - 2, &[1, 3]);
    let end = append(&store, &id, epoch, &second).await;
    assert_eq!(end, Ok(Seq(SECOND_EPOCH + 4)));
    for from in [2, 3, SECOND_EPOCH - 1, SECOND_EPOCH] {
        let batch = store.read(&id, Seq(from), 1 << 20).await.unwrap();
        // The batch starts where the record before it ended, so the hole can be seen.
        assert_eq!(batch.first_seq(), Seq(2), "from {from}");
        assert_eq!(listed(&batch), listed(&second));
    }
    let batch = store.read(&id, Seq(0), 1 << 20).await.unwrap();
    assert_eq!(listed(&batch), [records(0, &[2]), listed(&second)].concat());
    // The hole is part of the block: what is stored of it is known again.
    assert_eq!(
        append(&store, &id, epoch, &second).await,
        Ok(Seq(SECOND_EPOCH + 4))
    );
}

pub async fn read_inside_the_hole_of_a_terminal_returns_the_terminal(store: Arc<dyn LogStore>) {
    let id = create(&store).await;
    append(&store, &id, FIRST, &block(0, &[2])).await.unwrap();
    let last = || block_after_hole(2, 2, &[1]);
    store.seal(&id, FIRST, last(), None).await.unwrap();
    for from in 2..5 {
        let batch = store.read(&id, Seq(from), 100).await.unwrap();
        assert_eq!(batch.first_seq(), Seq(2));
        assert_eq!(listed(&batch), listed(&last()));
    }
    assert!(store.read(&id, Seq(5), 100).await.unwrap().is_empty());
}
