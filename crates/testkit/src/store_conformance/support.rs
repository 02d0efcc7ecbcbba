//! Headers, blocks and reads for the cases.

use std::sync::Arc;

use tokenwire_core::log::{
    Block, Blocks, Epoch, IdempotencyKey, LogHeader, LogStore, StoreError, StoredLog,
};
use tokenwire_core::model::id::{GenerationId, Owner, Seq};
use tokenwire_core::model::record::RecordBatch;
use tokenwire_core::model::snapshot::{Api, Meta};

/// A record as the cases compare it: the number of its first event, its event count, its payload.
pub(super) type Record = (u64, u64, Vec<u8>);

/// The epoch of a log's first writer.
pub(super) const FIRST: Epoch = Epoch(1);

/// The first number of the second epoch.
pub(super) const SECOND_EPOCH: u64 = 1 << 24;

/// Runs a case with the store that `factory` makes.
///
/// # Panics
/// If the case does.
pub fn run<F: Future<Output = ()>>(
    factory: impl Fn() -> Arc<dyn LogStore>,
    case: impl Fn(Arc<dyn LogStore>) -> F,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async { case(factory()).await });
}

/// Makes the header of a new log.
#[must_use]
pub fn header() -> Arc<LogHeader> {
    let meta = Meta {
        id: GenerationId::random(),
        owner: Owner::Named("owner".into()),
        created_at: 1_700_000_000,
        model: "model".to_owned(),
        request_fields: r#""temperature":1"#.into(),
        api: Api::Chat,
        background: true,
        store: true,
        include_usage: true,
    };
    Arc::new(LogHeader {
        idempotency: Some(IdempotencyKey {
            key: "key".into(),
            fingerprint: [7; 16],
        }),
        predecessor: Some(GenerationId::random()),
        ..LogHeader::new(meta, "upstream")
    })
}

/// Makes a block that starts at `first`, of records with these event counts. Each payload names
/// its position.
#[must_use]
pub fn block(first: u64, events: &[u64]) -> RecordBatch {
    block_after_hole(first, 0, events)
}

/// As [`block`], but the first record leaves out `skip` numbers.
pub(super) fn block_after_hole(first: u64, skip: u64, events: &[u64]) -> RecordBatch {
    let mut batch = RecordBatch::default();
    batch.restart(Seq(first));
    batch.skip(skip);
    for count in events {
        let payload = format!("record at {}", batch.next_seq());
        batch.push(*count, payload.as_bytes());
    }
    batch
}

/// Returns the records that [`block`] makes.
pub(super) fn records(first: u64, events: &[u64]) -> Vec<Record> {
    listed(&block(first, events))
}

pub(super) fn listed(batch: &RecordBatch) -> Vec<Record> {
    batch
        .iter()
        .map(|record| (record.first_seq.0, record.events, record.payload.to_vec()))
        .collect()
}

pub(super) fn as_block<'a>(
    id: &'a GenerationId,
    epoch: Epoch,
    batch: &'a RecordBatch,
) -> Block<'a> {
    Block {
        id,
        epoch,
        first: batch.first_seq(),
        next: batch.end_seq(),
        bytes: batch.as_block(),
    }
}

/// Creates a log and returns its id.
pub(super) async fn create(store: &Arc<dyn LogStore>) -> GenerationId {
    let header = header();
    assert_eq!(store.create(header.clone()).await, Ok(FIRST));
    header.meta.id.clone()
}

/// Appends one block.
pub(super) async fn append(
    store: &Arc<dyn LogStore>,
    id: &GenerationId,
    epoch: Epoch,
    batch: &RecordBatch,
) -> Result<Seq, StoreError> {
    let mut blocks = Blocks::default();
    blocks.push(as_block(id, epoch, batch));
    let (_, mut results) = store.append(blocks).await;
    assert_eq!(results.len(), 1, "one result per block");
    results.remove(0)
}

/// Returns what is stored of a log, and all its records.
///
/// # Panics
/// If the log cannot be opened or read.
pub async fn log_contents(
    store: &Arc<dyn LogStore>,
    id: &GenerationId,
) -> (StoredLog, Vec<(u64, u64, Vec<u8>)>) {
    let log = store.open(id).await.expect("the log is stored");
    let mut all = Vec::new();
    let mut from = Seq(0);
    loop {
        let batch = store.read(id, from, 64).await.expect("the log is stored");
        if batch.is_empty() {
            assert_eq!(batch.first_seq(), log.end);
            return (log, all);
        }
        all.extend(listed(&batch));
        from = batch.end_seq();
    }
}

/// Checks the end and the records of a running or sealed log.
pub(super) async fn expect(
    store: &Arc<dyn LogStore>,
    id: &GenerationId,
    sealed: bool,
    expected: &[Record],
) {
    let (log, all) = log_contents(store, id).await;
    let end = expected
        .last()
        .map_or(0, |(first, events, _)| first + events);
    assert_eq!((log.end, log.sealed), (Seq(end), sealed));
    assert_eq!(all, expected);
}
