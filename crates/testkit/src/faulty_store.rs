//! A store that is slow, hangs, fails, lies and repeats, when the test says so.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokenwire_core::log::{
    Appended, Block, Blocks, Epoch, LogHeader, LogStore, StoreError, StoreFuture, StoredLog,
};
use tokenwire_core::model::id::{GenerationId, Owner, Seq};
use tokenwire_core::model::record::RecordBatch;
use tokio::sync::watch;

/// An operation of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the methods of `LogStore`")]
pub enum Operation {
    Create,
    Append,
    Seal,
    Open,
    Read,
    Object,
    Adopt,
    Delete,
}

/// What goes wrong with one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call begins after this time.
    Slow(Duration),
    /// The call begins when the faults are healed.
    Hang,
    /// Nothing is done. The caller is told so.
    Fail,
    /// It is done, but the caller is told that it failed.
    LoseAnswer,
    /// Nothing is done, but it is acknowledged. Operations with a result, which cannot be made up,
    /// fail.
    Lie,
    /// It is done twice. The caller gets the second answer.
    Repeat,
}

/// Wraps a store with faults. Without any it passes every call on.
pub struct FaultyStore {
    inner: Arc<dyn LogStore>,
    faults: Mutex<Faults>,
    /// Raised by [`FaultyStore::heal`].
    healed: watch::Sender<u64>,
    hanging: watch::Sender<usize>,
}

struct Faults {
    random: StdRng,
    /// Faults of the next calls.
    next: HashMap<Operation, VecDeque<Fault>>,
    /// The fault of all further calls.
    always: HashMap<Operation, Fault>,
    /// The chance of a fault in percent, and what it may be.
    chance: (u32, Vec<Fault>),
    calls: HashMap<Operation, usize>,
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyStore")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

// === impl FaultyStore ===

impl FaultyStore {
    /// Wraps a store. Random faults depend on `seed` alone.
    #[must_use]
    pub fn new(inner: Arc<dyn LogStore>, seed: u64) -> Self {
        Self {
            inner,
            faults: Mutex::new(Faults {
                random: StdRng::seed_from_u64(seed),
                next: HashMap::new(),
                always: HashMap::new(),
                chance: (0, Vec::new()),
                calls: HashMap::new(),
            }),
            healed: watch::Sender::new(0),
            hanging: watch::Sender::new(0),
        }
    }

    /// Adds a fault of the next call of this operation. Repeated, it is of the one after.
    pub fn next(&self, operation: Operation, fault: Fault) {
        let mut faults = self.faults.lock();
        faults.next.entry(operation).or_default().push_back(fault);
    }

    /// Sets the fault of all further calls of this operation.
    pub fn always(&self, operation: Operation, fault: Fault) {
        self.faults.lock().always.insert(operation, fault);
    }

    /// Makes one of these faults happen to `percent` of all calls. Each block of an append has a
    /// chance of its own.
    pub fn randomly(&self, percent: u32, faults: &[Fault]) {
        self.faults.lock().chance = (percent, faults.to_vec());
    }

    /// Ends all faults. Calls that hang begin.
    pub fn heal(&self) {
        let mut faults = self.faults.lock();
        faults.next.clear();
        faults.always.clear();
        faults.chance = (0, Vec::new());
        drop(faults);
        self.healed.send_modify(|healed| *healed += 1);
    }

    /// Returns how often this operation was called.
    #[must_use]
    pub fn calls(&self, operation: Operation) -> usize {
        let faults = self.faults.lock();
        faults.calls.get(&operation).copied().unwrap_or_default()
    }

    /// Waits until a call hangs.
    pub async fn hanging(&self) {
        let mut hanging = self.hanging.subscribe();
        // The sender lives as long as this store.
        let _ = hanging.wait_for(|count| *count > 0).await;
    }

    fn draw(&self, operation: Operation) -> Option<Fault> {
        let mut faults = self.faults.lock();
        *faults.calls.entry(operation).or_default() += 1;
        let next = faults.next.get_mut(&operation);
        next.and_then(VecDeque::pop_front)
            .or_else(|| faults.always.get(&operation).copied())
            .or_else(|| faults.random())
    }

    /// Delays the call. Subscribed before the fault was drawn, so that healing is not missed.
    async fn delay(&self, fault: Option<Fault>, mut healed: watch::Receiver<u64>) {
        match fault {
            Some(Fault::Slow(time)) => tokio::time::sleep(time).await,
            Some(Fault::Hang) => {
                self.hanging.send_modify(|count| *count += 1);
                let guard = Hanging(&self.hanging);
                let _ = healed.changed().await;
                drop(guard);
            }
            _ => {}
        }
    }

    /// Makes a call with the fault that is drawn for it. `lie` is the made-up answer.
    async fn call<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        operation: Operation,
        lie: Option<T>,
        call: impl Fn() -> F,
    ) -> Result<T, StoreError> {
        let healed = self.healed.subscribe();
        let fault = self.draw(operation);
        self.delay(fault, healed).await;
        match fault {
            Some(Fault::Fail) => Err(unavailable()),
            Some(Fault::Lie) => lie.ok_or_else(unavailable),
            Some(Fault::LoseAnswer) => {
                let _ = call().await;
                Err(unavailable())
            }
            Some(Fault::Repeat) => {
                let _ = call().await;
                call().await
            }
            None | Some(Fault::Slow(_) | Fault::Hang) => call().await,
        }
    }

    async fn append_all(&self, blocks: Blocks) -> Appended {
        let healed = self.healed.subscribe();
        let drawn = self.draw(Operation::Append);
        self.delay(drawn, healed).await;
        let faults: Vec<Option<Fault>> = {
            let mut faults = self.faults.lock();
            let mut draw = |_| drawn.or_else(|| faults.random());
            blocks.iter().map(&mut draw).collect()
        };
        let done = |fault: &Option<Fault>| !matches!(fault, Some(Fault::Fail | Fault::Lie));
        let mut answers = self.append_some(&blocks, &faults, done).await;
        let repeated = |fault: &Option<Fault>| *fault == Some(Fault::Repeat);
        answers.extend(self.append_some(&blocks, &faults, repeated).await);
        let results = blocks
            .iter()
            .zip(&faults)
            .enumerate()
            .map(|(index, (block, fault))| match fault {
                Some(Fault::Lie) => Ok(block.next),
                Some(Fault::Fail | Fault::LoseAnswer) => Err(unavailable()),
                _ => answers.remove(&index).unwrap_or_else(|| Err(unavailable())),
            })
            .collect();
        (blocks, results)
    }

    /// Appends the blocks whose fault is chosen. Returns their results by index.
    async fn append_some(
        &self,
        blocks: &Blocks,
        faults: &[Option<Fault>],
        chosen: impl Fn(&Option<Fault>) -> bool,
    ) -> HashMap<usize, Result<Seq, StoreError>> {
        let chosen: Vec<(usize, Block<'_>)> = blocks
            .iter()
            .enumerate()
            .filter(|(index, _)| chosen(&faults[*index]))
            .collect();
        if chosen.is_empty() {
            return HashMap::new();
        }
        let mut some = Blocks::default();
        chosen.iter().for_each(|(_, block)| some.push(*block));
        let (_, results) = self.inner.append(some).await;
        let indexes = chosen.iter().map(|(index, _)| *index);
        indexes.zip(results).collect()
    }
}

impl Faults {
    fn random(&mut self) -> Option<Fault> {
        let (percent, faults) = &self.chance;
        if faults.is_empty() || self.random.random_range(0..100) >= *percent {
            return None;
        }
        Some(faults[self.random.random_range(0..faults.len())])
    }
}

/// Counts a call that hangs, until it is dropped.
struct Hanging<'a>(&'a watch::Sender<usize>);

impl Drop for Hanging<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

fn unavailable() -> StoreError {
    StoreError::Unavailable("a fault of the test".into())
}

/// Returns a copy of a batch.
fn copy(batch: &RecordBatch) -> RecordBatch {
    RecordBatch::parse(batch.first_seq(), batch.as_block().to_vec()).expect("a batch is valid")
}

impl LogStore for FaultyStore {
    fn create(&self, header: Arc<LogHeader>) -> StoreFuture<'_, Epoch> {
        let create = move || self.inner.create(header.clone());
        self.call(Operation::Create, Some(Epoch(1)), create).boxed()
    }

    fn append(&self, blocks: Blocks) -> BoxFuture<'_, Appended> {
        self.append_all(blocks).boxed()
    }

    fn seal<'a>(
        &'a self,
        id: &'a GenerationId,
        epoch: Epoch,
        block: RecordBatch,
        object: Option<Bytes>,
    ) -> StoreFuture<'a, ()> {
        let seal = move || self.inner.seal(id, epoch, copy(&block), object.clone());
        self.call(Operation::Seal, Some(()), seal).boxed()
    }

    fn seals_whole(&self) -> bool {
        self.inner.seals_whole()
    }

    fn version(&self) -> u8 {
        self.inner.version()
    }

    fn seal_in<'a>(
        &'a self,
        version: u8,
        id: &'a GenerationId,
        epoch: Epoch,
        block: RecordBatch,
        object: Option<Bytes>,
    ) -> StoreFuture<'a, ()> {
        let seal = move || {
            let (block, object) = (copy(&block), object.clone());
            self.inner.seal_in(version, id, epoch, block, object)
        };
        self.call(Operation::Seal, Some(()), seal).boxed()
    }

    fn open<'a>(&'a self, id: &'a GenerationId) -> StoreFuture<'a, StoredLog> {
        let open = move || self.inner.open(id);
        self.call(Operation::Open, None, open).boxed()
    }

    fn read<'a>(
        &'a self,
        id: &'a GenerationId,
        from: Seq,
        max_bytes: usize,
    ) -> StoreFuture<'a, RecordBatch> {
        let read = move || self.inner.read(id, from, max_bytes);
        self.call(Operation::Read, None, read).boxed()
    }

    fn object<'a>(&'a self, id: &'a GenerationId) -> StoreFuture<'a, Option<Bytes>> {
        let object = move || self.inner.object(id);
        self.call(Operation::Object, None, object).boxed()
    }

    fn adopt<'a>(&'a self, id: &'a GenerationId) -> StoreFuture<'a, Epoch> {
        let adopt = move || self.inner.adopt(id);
        self.call(Operation::Adopt, None, adopt).boxed()
    }

    fn delete<'a>(&'a self, id: &'a GenerationId) -> StoreFuture<'a, ()> {
        let delete = move || self.inner.delete(id);
        self.call(Operation::Delete, Some(()), delete).boxed()
    }

    fn renew(&self, ids: Vec<GenerationId>) -> BoxFuture<'_, ()> {
        self.inner.renew(ids)
    }

    fn keyed<'a>(
        &'a self,
        owner: &'a Owner,
        key: &'a str,
    ) -> StoreFuture<'a, Option<GenerationId>> {
        self.inner.keyed(owner, key)
    }
}
