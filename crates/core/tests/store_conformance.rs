//! The store in memory passes the conformance suite, also behind faults that no caller can see.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;
use std::time::Duration;

use tokenwire_core::log::{Epoch, LogStore, MemoryStore, StoreError};
use tokenwire_core::model::id::{GenerationId, Seq};
use tokenwire_core::model::record::RecordBatch;
use tokenwire_testkit::store_conformance::header;
use tokenwire_testkit::{Fault, FaultyStore, Operation};

fn memory() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new(1 << 24))
}

mod bare {
    tokenwire_testkit::store_conformance!(super::memory);
}

/// Every operation is slow, and now and then happens twice.
mod slow_and_repeating {
    use super::*;

    tokenwire_testkit::store_conformance!(|| {
        let store = FaultyStore::new(memory(), 7);
        store.always(Operation::Open, Fault::Slow(Duration::from_micros(100)));
        for operation in [
            Operation::Create,
            Operation::Append,
            Operation::Seal,
            Operation::Read,
            Operation::Delete,
        ] {
            store.always(operation, Fault::Repeat);
        }
        Arc::new(store)
    });
}

#[tokio::test]
async fn full_store_refuses_whole_operations_until_a_log_is_deleted() {
    let first = header();
    let size = first.encode().len();
    let store = MemoryStore::new(2 * size + 1000);
    let id = &first.meta.id;
    let mut block = RecordBatch::default();
    block.push(1, &[0; 900]);
    store.create(first.clone()).await.unwrap();
    // The object has no room, so the block is not stored either.
    let block_bytes = block.as_block().to_vec();
    let object = Some(vec![0; 2000].into());
    let sealed = store.seal(id, Epoch(1), block, object).await;
    assert!(sealed.unwrap_err().is_retryable());
    assert_eq!(store.open(id).await.unwrap().end, Seq(0));
    assert_eq!(store.used(), size);

    let block = RecordBatch::parse(Seq(0), block_bytes).unwrap();
    assert_eq!(store.seal(id, Epoch(1), block, None).await, Ok(()));
    store.create(header()).await.unwrap();
    let third = header();
    let refused = store.create(third.clone()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable(_)));
    store.delete(id).await.unwrap();
    assert_eq!(store.create(third).await, Ok(Epoch(1)));
}

#[tokio::test]
async fn memory_store_remembers_which_logs_were_deleted() {
    let store = memory();
    let header = header();
    store.create(header.clone()).await.unwrap();
    store.delete(&header.meta.id).await.unwrap();
    assert_eq!(store.used(), 0);
    let deleted = store.open(&header.meta.id).await.unwrap_err();
    let unknown = store.open(&GenerationId::random()).await.unwrap_err();
    assert_eq!(
        (deleted, unknown),
        (StoreError::Deleted, StoreError::NotFound)
    );
}
