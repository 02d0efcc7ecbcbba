//! Cases about sealing and deleting.

use std::sync::Arc;

use bytes::Bytes;
use tokenwire_core::log::{LogStore, StoreError};
use tokenwire_core::model::id::{GenerationId, Seq};

use super::support::{
    FIRST, append, block, block_after_hole, create, expect, header, listed, records,
};

fn object() -> Option<Bytes> {
    Some(Bytes::from_static(br#"{"object":"response"}"#))
}

pub async fn sealed_log_has_its_last_block_and_object(store: Arc<dyn LogStore>) {
    let id = create(&store).await;
    append(&store, &id, FIRST, &block(0, &[1])).await.unwrap();
    let sealed = store.seal(&id, FIRST, block(1, &[2, 1]), object()).await;
    assert_eq!(sealed, Ok(()));
    expect(&store, &id, true, &records(0, &[1, 2, 1])).await;
    assert_eq!(store.object(&id).await, Ok(object()));
}

pub async fn log_can_be_sealed_without_a_block(store: Arc<dyn LogStore>) {
    let id = create(&store).await;
    append(&store, &id, FIRST, &block(0, &[3])).await.unwrap();
    assert_eq!(store.seal(&id, FIRST, block(3, &[]), None).await, Ok(()));
    expect(&store, &id, true, &records(0, &[3])).await;
    assert_eq!(store.object(&id).await, Ok(None));
}

pub async fn seal_can_be_repeated(store: Arc<dyn LogStore>) {
    let id = create(&store).await;
    append(&store, &id, FIRST, &block(0, &[1])).await.unwrap();
    for _ in 0..3 {
        // The first attempt's block may have begun earlier than what is new.
        let sealed = store.seal(&id, FIRST, block(0, &[1, 2]), object()).await;
        assert_eq!(sealed, Ok(()));
    }
    expect(&store, &id, true, &records(0, &[1, 2])).await;
    assert_eq!(store.object(&id).await, Ok(object()));
}

pub async fn seal_after_a_gap_is_refused(store: Arc<dyn LogStore>) {
    let id = create(&store).await;
    append(&store, &id, FIRST, &block(0, &[1])).await.unwrap();
    let gap = StoreError::Gap {
        expected: Seq(1),
        found: Seq(2),
    };
    assert_eq!(
        store.seal(&id, FIRST, block(2, &[1]), object()).await,
        Err(gap.clone())
    );
    assert_eq!(
        store.seal(&id, FIRST, block(2, &[]), object()).await,
        Err(gap)
    );
    expect(&store, &id, false, &records(0, &[1])).await;
    assert_eq!(store.object(&id).await, Ok(None));
}

pub async fn sealed_log_takes_nothing_new(store: Arc<dyn LogStore>) {
    let id = create(&store).await;
    let last = || block_after_hole(1, 2, &[1]);
    append(&store, &id, FIRST, &block(0, &[1])).await.unwrap();
    store.seal(&id, FIRST, last(), object()).await.unwrap();
    assert_eq!(
        append(&store, &id, FIRST, &block(4, &[1])).await,
        Err(StoreError::Sealed)
    );
    assert_eq!(
        store.seal(&id, FIRST, block(4, &[1]), None).await,
        Err(StoreError::Sealed)
    );
    // What it has is acknowledged still.
    assert_eq!(append(&store, &id, FIRST, &last()).await, Ok(Seq(4)));
    let all = [records(0, &[1]), listed(&last())].concat();
    expect(&store, &id, true, &all).await;
    assert_eq!(store.object(&id).await, Ok(object()));
}

async fn expect_gone(store: &Arc<dyn LogStore>, id: &GenerationId) {
    let gone = |error: Option<StoreError>| {
        let error = error.expect("the log is gone");
        assert!(error.is_gone(), "{error:?}");
    };
    gone(store.open(id).await.err());
    gone(store.read(id, Seq(0), 100).await.err());
    gone(store.object(id).await.err());
    gone(store.adopt(id).await.err());
    gone(append(store, id, FIRST, &block(0, &[1])).await.err());
    gone(append(store, id, FIRST, &block(2, &[1])).await.err());
    gone(store.seal(id, FIRST, block(2, &[1]), None).await.err());
}

pub async fn deleted_log_is_gone(store: Arc<dyn LogStore>) {
    let (running, sealed, other) = (
        create(&store).await,
        create(&store).await,
        create(&store).await,
    );
    for id in [&running, &sealed, &other] {
        append(&store, id, FIRST, &block(0, &[2])).await.unwrap();
    }
    let ended = store.seal(&sealed, FIRST, block(2, &[1]), object()).await;
    assert_eq!(ended, Ok(()));
    for id in [&running, &sealed] {
        assert_eq!(store.delete(id).await, Ok(()));
        expect_gone(&store, id).await;
    }
    expect(&store, &other, false, &records(0, &[2])).await;
}

pub async fn delete_can_be_repeated(store: Arc<dyn LogStore>) {
    let id = create(&store).await;
    for _ in 0..2 {
        assert_eq!(store.delete(&id).await, Ok(()));
    }
    assert_eq!(store.delete(&GenerationId::random()).await, Ok(()));
}

pub async fn append_after_a_delete_recreates_nothing(store: Arc<dyn LogStore>) {
    let id = create(&store).await;
    append(&store, &id, FIRST, &block(0, &[2])).await.unwrap();
    store.delete(&id).await.unwrap();
    for first in [0, 2] {
        let error = append(&store, &id, FIRST, &block(first, &[1])).await;
        assert!(error.unwrap_err().is_gone());
    }
    expect_gone(&store, &id).await;
}

pub async fn create_after_a_delete_recreates_nothing(store: Arc<dyn LogStore>) {
    let header = header();
    let id = header.meta.id.clone();
    store.create(header.clone()).await.unwrap();
    store.delete(&id).await.unwrap();
    assert_eq!(store.create(header).await, Err(StoreError::Deleted));
    expect_gone(&store, &id).await;
}
