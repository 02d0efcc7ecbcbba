//! The flusher brings every record to the store exactly once, whatever the store does meanwhile.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokenwire_core::log::{
    Appended, BlockRange, Blocks, Epoch, FlushHandle, FlushOptions, FlushSource, Flusher,
    LogHeader, LogStore, MemoryStore, ReadError, Released, StoreError, StoreFuture, StoredLog,
    TailEnd,
};
use tokenwire_core::model::id::{GenerationId, Seq};
use tokenwire_core::model::record::RecordBatch;
use tokenwire_testkit::store_conformance::{header, log_contents};
use tokenwire_testkit::{Fault, FaultyStore, Operation, settle};
use tokio::time::Instant;

/// A tail that keeps its records, and what the flusher tells it.
#[derive(Debug)]
struct TestTail {
    header: Arc<LogHeader>,
    epoch: Epoch,
    state: Mutex<TailState>,
}

#[derive(Debug, Default)]
struct TailState {
    records: Vec<RecordBatch>,
    next: Seq,
    sealed: bool,
    expired: bool,
    committed: Seq,
    released: Vec<Released>,
}

impl TestTail {
    fn push(&self, payload: &[u8]) {
        let mut state = self.state.lock();
        let mut record = RecordBatch::default();
        record.restart(state.next);
        record.push(1 + state.next.0 % 3, payload);
        state.next = record.end_seq();
        state.records.push(record);
    }

    fn listed(&self) -> Vec<(u64, u64, Vec<u8>)> {
        let state = self.state.lock();
        let records = state.records.iter().flat_map(RecordBatch::iter);
        records
            .map(|record| (record.first_seq.0, record.events, record.payload.to_vec()))
            .collect()
    }

    fn committed(&self) -> Seq {
        self.state.lock().committed
    }

    fn released(&self) -> Vec<Released> {
        self.state.lock().released.clone()
    }
}

impl FlushSource for TestTail {
    fn header(&self) -> &Arc<LogHeader> {
        &self.header
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn end(&self) -> Result<TailEnd, ReadError> {
        let state = self.state.lock();
        if state.expired {
            return Err(ReadError::Expired);
        }
        Ok(TailEnd {
            next: state.next,
            sealed: state.sealed,
        })
    }

    fn read_block(
        &self,
        from: Seq,
        max_bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<BlockRange, ReadError> {
        let state = self.state.lock();
        let mut range = BlockRange {
            first: from,
            next: from,
        };
        let start = out.len();
        for record in &state.records {
            if record.first_seq() < from {
                continue;
            }
            if out.len() - start >= max_bytes {
                break;
            }
            out.extend_from_slice(record.as_block());
            range.next = record.end_seq();
        }
        Ok(range)
    }

    fn commit(&self, upto: Seq) {
        self.state.lock().committed = upto;
    }

    fn object(&self) -> Option<Bytes> {
        Some(Bytes::from(self.header.meta.id.to_string()))
    }

    fn released(&self, why: Released) {
        self.state.lock().released.push(why);
    }
}

/// A flusher that runs, over a faulty store over a store in memory.
struct Bench {
    stored: Arc<dyn LogStore>,
    faulty: Arc<FaultyStore>,
    flusher: Flusher,
    tails: Vec<(Arc<TestTail>, FlushHandle)>,
}

const BUFFER: usize = 16 * 1024;
const BLOCK: usize = 1024;

fn options() -> FlushOptions {
    FlushOptions {
        tick: Duration::from_millis(50),
        block_bytes: BLOCK,
        buffer_bytes: BUFFER,
        ..FlushOptions::default()
    }
}

impl Bench {
    fn new(tails: usize) -> Self {
        Self::over(Arc::new(MemoryStore::new(1 << 26)), tails, 0)
    }

    fn over(stored: Arc<dyn LogStore>, tails: usize, seed: u64) -> Self {
        let faulty = Arc::new(FaultyStore::new(stored.clone(), seed));
        let flusher = Flusher::new(faulty.clone(), options());
        tokio::spawn(flusher.clone().run());
        let mut bench = Self {
            stored,
            faulty,
            flusher,
            tails: Vec::new(),
        };
        (0..tails).for_each(|_| bench.track(header(), Epoch(1), None));
        bench
    }

    fn track(&mut self, header: Arc<LogHeader>, epoch: Epoch, stored: Option<Seq>) {
        let tail = Arc::new(TestTail {
            header,
            epoch,
            state: Mutex::default(),
        });
        let handle = self.flusher.track(tail.clone(), stored);
        self.tails.push((tail, handle));
    }

    fn id(&self, index: usize) -> &GenerationId {
        &self.tails[index].0.header.meta.id
    }

    /// Appends to every tail.
    fn append(&self, payload: &[u8]) {
        for (tail, handle) in &self.tails {
            tail.push(payload);
            handle.mark();
        }
    }

    fn seal(&self) {
        for (tail, handle) in &self.tails {
            tail.state.lock().sealed = true;
            handle.mark();
        }
    }

    async fn flushed(&self) {
        let flushed = tokio::time::timeout(Duration::from_secs(600), self.flusher.flushed());
        flushed.await.expect("everything is stored in the end");
    }

    /// Checks that the store has what the tails have.
    async fn check(&self, sealed: bool) {
        for (index, (tail, _)) in self.tails.iter().enumerate() {
            let (log, records) = log_contents(&self.stored, self.id(index)).await;
            let next = tail.state.lock().next;
            assert_eq!((log.end, log.sealed), (next, sealed));
            assert_eq!(records, tail.listed());
            assert_eq!(tail.committed(), next);
            assert_eq!(log.header.encode(), tail.header.encode());
            if sealed {
                let object = self.stored.object(self.id(index)).await;
                assert_eq!(object, Ok(tail.object()));
                assert_eq!(tail.released(), [Released::Sealed]);
            } else {
                assert_eq!(tail.released(), []);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn records_and_seals_reach_the_store() {
    let bench = Bench::new(50);
    for round in 0..20u8 {
        bench.append(&[round; 30]);
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
    bench.flushed().await;
    bench.check(false).await;
    bench.append(b"last");
    bench.seal();
    bench.flushed().await;
    bench.check(true).await;
    assert_eq!(bench.flusher.buffered(), 0);
}

/// A store that asks for whole logs, and notes where the blocks of seals begin.
#[derive(Debug)]
struct WholeSeals {
    inner: MemoryStore,
    firsts: Mutex<Vec<Seq>>,
}

impl LogStore for WholeSeals {
    fn create(&self, header: Arc<LogHeader>) -> StoreFuture<'_, Epoch> {
        self.inner.create(header)
    }

    fn append(&self, blocks: Blocks) -> BoxFuture<'_, Appended> {
        self.inner.append(blocks)
    }

    fn seal<'a>(
        &'a self,
        id: &'a GenerationId,
        epoch: Epoch,
        block: RecordBatch,
        object: Option<Bytes>,
    ) -> StoreFuture<'a, ()> {
        self.firsts.lock().push(block.first_seq());
        self.inner.seal(id, epoch, block, object)
    }

    fn seals_whole(&self) -> bool {
        true
    }

    fn open<'a>(&'a self, id: &'a GenerationId) -> StoreFuture<'a, StoredLog> {
        self.inner.open(id)
    }

    fn read<'a>(
        &'a self,
        id: &'a GenerationId,
        from: Seq,
        max_bytes: usize,
    ) -> StoreFuture<'a, RecordBatch> {
        self.inner.read(id, from, max_bytes)
    }

    fn object<'a>(&'a self, id: &'a GenerationId) -> StoreFuture<'a, Option<Bytes>> {
        self.inner.object(id)
    }

    fn adopt<'a>(&'a self, id: &'a GenerationId) -> StoreFuture<'a, Epoch> {
        self.inner.adopt(id)
    }

    fn delete<'a>(&'a self, id: &'a GenerationId) -> StoreFuture<'a, ()> {
        self.inner.delete(id)
    }
}

#[tokio::test(start_paused = true)]
async fn store_that_asks_for_whole_logs_gets_them_unless_they_exceed_a_buffer() {
    let store = Arc::new(WholeSeals {
        inner: MemoryStore::new(1 << 26),
        firsts: Mutex::default(),
    });
    let bench = Bench::over(store.clone(), 2, 0);
    for _ in 0..20 {
        bench.append(&[b'x'; 100]);
        bench.flushed().await;
    }
    // The second log does not fit a buffer.
    let (long, handle) = &bench.tails[1];
    for _ in 0..20 {
        long.push(&[b'y'; BLOCK]);
        handle.mark();
        bench.flushed().await;
    }
    let end = long.state.lock().next;
    bench.seal();
    bench.flushed().await;
    bench.check(true).await;
    let mut firsts = store.firsts.lock().clone();
    firsts.sort();
    assert_eq!(firsts, [Seq(0), end]);
}

#[tokio::test(start_paused = true)]
async fn appends_of_one_tick_share_a_buffer() {
    let bench = Bench::new(10);
    bench.append(b"first");
    settle().await;
    assert_eq!(bench.faulty.calls(Operation::Append), 1);
    for _ in 0..20 {
        bench.append(b"x");
        settle().await;
    }
    bench.flushed().await;
    assert_eq!(bench.faulty.calls(Operation::Append), 2);
    // Nothing to do: no further call.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.faulty.calls(Operation::Append), 2);
    bench.check(false).await;
}

#[tokio::test(start_paused = true)]
async fn backlog_is_stored_without_waiting_for_ticks() {
    let bench = Bench::new(3);
    for _ in 0..500 {
        bench.append(&[b'x'; 100]);
    }
    let start = Instant::now();
    bench.flushed().await;
    assert!(
        bench.faulty.calls(Operation::Append) >= 50,
        "one block each"
    );
    assert!(start.elapsed() < options().tick);
    bench.check(false).await;
}

#[tokio::test(start_paused = true)]
async fn record_larger_than_the_buffer_goes_alone() {
    let bench = Bench::new(3);
    bench.append(b"small");
    bench.append(&vec![b'x'; 3 * BUFFER]);
    bench.append(b"small");
    bench.seal();
    bench.flushed().await;
    bench.check(true).await;
}

#[tokio::test(start_paused = true)]
async fn hanging_store_costs_one_buffer_and_is_caught_up_with() {
    let bench = Bench::new(100);
    bench.append(b"first");
    bench.flushed().await;
    bench.faulty.always(Operation::Append, Fault::Hang);
    bench.append(&[b'x'; 200]);
    bench.faulty.hanging().await;
    let calls = bench.faulty.calls(Operation::Append);
    for _ in 0..200 {
        bench.append(&[b'x'; 200]);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(bench.flusher.buffered() <= BUFFER + BLOCK + 200);
    }
    assert_eq!(bench.faulty.calls(Operation::Append), calls, "one buffer");
    assert!(bench.flusher.unfinished() >= 100);
    bench.faulty.heal();
    bench.seal();
    bench.flushed().await;
    bench.check(true).await;
}

#[tokio::test(start_paused = true)]
async fn slow_store_gets_one_buffer_at_a_time() {
    let bench = Bench::new(20);
    let slow = Fault::Slow(Duration::from_secs(1));
    bench.faulty.always(Operation::Append, slow);
    let start = Instant::now();
    for _ in 0..100 {
        bench.append(b"token");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bench.flushed().await;
    let calls = bench.faulty.calls(Operation::Append) as u64;
    assert!(calls <= start.elapsed().as_secs() + 1);
    bench.check(false).await;
}

#[tokio::test(start_paused = true)]
async fn failing_store_is_asked_less_and_less_often() {
    let bench = Bench::new(5);
    bench.append(b"first");
    bench.flushed().await;
    bench.faulty.always(Operation::Append, Fault::Fail);
    let calls = bench.faulty.calls(Operation::Append);
    for _ in 0..60 {
        bench.append(b"token");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let calls = bench.faulty.calls(Operation::Append) - calls;
    assert!((10..30).contains(&calls), "{calls} calls in a minute");
    bench.faulty.heal();
    let start = Instant::now();
    bench.flushed().await;
    assert!(start.elapsed() <= options().retry_max + options().tick);
    bench.check(false).await;
}

#[tokio::test(start_paused = true)]
async fn full_store_takes_the_rest_once_it_has_room() {
    let store = Arc::new(MemoryStore::new(64 * 1024));
    let other = header();
    store.create(other.clone()).await.unwrap();
    let mut filler = RecordBatch::default();
    filler.push(1, &vec![0; 60 * 1024]);
    let id = &other.meta.id;
    store.seal(id, Epoch(1), filler, None).await.unwrap();
    let bench = Bench::over(store.clone(), 4, 0);
    for _ in 0..100 {
        bench.append(&[b'x'; 100]);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bench.seal();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(bench.flusher.unfinished() > 0);
    assert!(store.used() <= 64 * 1024);
    store.delete(id).await.unwrap();
    bench.flushed().await;
    bench.check(true).await;
}

#[tokio::test(start_paused = true)]
async fn blocks_that_the_store_lost_are_written_again() {
    let bench = Bench::new(10);
    bench.append(b"kept");
    bench.flushed().await;
    bench.faulty.always(Operation::Append, Fault::Lie);
    for _ in 0..10 {
        bench.append(b"acknowledged, then lost");
        bench.flushed().await;
    }
    let (_, stored) = log_contents(&bench.stored, bench.id(0)).await;
    assert_eq!(stored.len(), 1);
    bench.faulty.heal();
    bench.append(b"noticed");
    bench.flushed().await;
    bench.check(false).await;
}

#[tokio::test(start_paused = true)]
async fn lost_blocks_are_noticed_at_the_seal() {
    let bench = Bench::new(10);
    bench.append(b"kept");
    bench.flushed().await;
    bench.faulty.always(Operation::Append, Fault::Lie);
    bench.append(b"acknowledged, then lost");
    bench.flushed().await;
    bench.faulty.heal();
    bench.seal();
    bench.flushed().await;
    bench.check(true).await;
}

#[tokio::test(start_paused = true)]
async fn log_that_the_store_lost_is_created_again() {
    let bench = Bench::new(3);
    bench.faulty.always(Operation::Create, Fault::Lie);
    bench.faulty.always(Operation::Append, Fault::Lie);
    bench.append(b"acknowledged, then lost");
    bench.flushed().await;
    bench.faulty.heal();
    bench.append(b"noticed");
    bench.flushed().await;
    bench.check(false).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_or_doubled_by_random_faults() {
    for seed in 0..30 {
        let stored = Arc::new(MemoryStore::new(1 << 26));
        let bench = Bench::over(stored, 8, seed);
        let slow = Fault::Slow(Duration::from_millis(120));
        let faults = [
            slow,
            Fault::Fail,
            Fault::LoseAnswer,
            Fault::Lie,
            Fault::Repeat,
        ];
        bench.faulty.randomly(50, &faults);
        for round in 0..60u8 {
            bench.append(&vec![round; 1 + usize::from(round) * 7]);
            if round % 7 == 3 {
                tokio::time::sleep(Duration::from_millis(90)).await;
            }
            assert!(bench.flusher.buffered() <= BUFFER + BLOCK + 500);
        }
        bench.faulty.heal();
        bench.append(b"after the faults");
        bench.flushed().await;
        bench.check(false).await;
        // An answer that is lost leaves the seal in the store; a repeated one finds it there.
        bench
            .faulty
            .randomly(50, &[slow, Fault::Fail, Fault::LoseAnswer, Fault::Repeat]);
        bench.append(b"last");
        bench.seal();
        bench.flushed().await;
        bench.faulty.heal();
        bench.check(true).await;
    }
}

#[tokio::test(start_paused = true)]
async fn fenced_writer_is_told_and_writes_nothing_more() {
    let bench = Bench::new(2);
    bench.append(b"first");
    bench.flushed().await;
    assert_eq!(bench.stored.adopt(bench.id(0)).await, Ok(Epoch(2)));
    for _ in 0..3 {
        bench.append(b"more");
        bench.flushed().await;
    }
    bench.seal();
    bench.flushed().await;
    let (fenced, _) = &bench.tails[0];
    assert_eq!(fenced.released(), [Released::Fenced { current: Epoch(2) }]);
    let (log, records) = log_contents(&bench.stored, bench.id(0)).await;
    assert_eq!((log.sealed, records.len()), (false, 1));
    assert_eq!(bench.tails[1].0.released(), [Released::Sealed]);
}

#[tokio::test(start_paused = true)]
async fn adopted_log_goes_on_where_the_store_ends() {
    let mut bench = Bench::new(1);
    bench.append(b"first");
    bench.flushed().await;
    let header = bench.tails[0].0.header.clone();
    let epoch = bench.stored.adopt(&header.meta.id).await.unwrap();
    let end = bench.stored.open(&header.meta.id).await.unwrap().end;
    bench.tails.clear();
    bench.track(header, epoch, Some(end));
    {
        let mut state = bench.tails[0].0.state.lock();
        let mut record = RecordBatch::default();
        record.restart(end);
        record.skip((1 << 24) - end.0);
        record.push(1, b"second epoch");
        state.next = record.end_seq();
        state.records.push(record);
    }
    bench.seal();
    bench.flushed().await;
    let (log, records) = log_contents(&bench.stored, bench.id(0)).await;
    assert_eq!((log.epoch(), log.sealed), (Epoch(2), true));
    let numbers: Vec<u64> = records.iter().map(|(first, _, _)| *first).collect();
    assert_eq!(numbers, [0, 1 << 24]);
    assert_eq!(bench.faulty.calls(Operation::Create), 1);
}

#[tokio::test(start_paused = true)]
async fn deleted_log_is_let_go_of_and_not_created_again() {
    let bench = Bench::new(3);
    bench.append(b"first");
    bench.flushed().await;
    // Deleted in the store only, and here first, as the engine does it.
    bench.stored.delete(bench.id(0)).await.unwrap();
    bench.tails[1].0.state.lock().expired = true;
    bench.stored.delete(bench.id(1)).await.unwrap();
    bench.append(b"more");
    bench.flushed().await;
    assert_eq!(
        bench.tails[0].0.released(),
        [Released::Refused(StoreError::Deleted)]
    );
    assert_eq!(bench.tails[1].0.released(), [Released::Expired]);
    for index in [0, 1] {
        let error = bench.stored.open(bench.id(index)).await.unwrap_err();
        assert_eq!(error, StoreError::Deleted);
    }
    assert_eq!(bench.tails[2].0.released(), []);
}
