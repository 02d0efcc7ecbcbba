//! One process: an engine, the flusher that stores its logs, and what it took over from the process
//! before.
//!
//! The engine knows no store yet, so this module brings the two together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokenwire_core::engine::{
    Cursor, Engine, ReaderKind, Resumption, SharedEngine, StartRequest, Started,
};
use tokenwire_core::generation::{Generation, ReaderGuard};
use tokenwire_core::log::{
    Epoch, FlushOptions, Flusher, LogLimits, LogStore, MemoryAccount, StoreError,
};
use tokenwire_core::model::error::ApiError;
use tokenwire_core::model::event::{Ending, EventKind, Failure, Outcome};
use tokenwire_core::model::id::{GenerationId, Owner, Seq};
use tokenwire_core::model::record::RecordBatch;
use tokenwire_core::model::time::unix_now;
use tokenwire_core::upstream::translate::RecordWriter;
use tokio::time::sleep;

use super::tail::track;
use super::upstream::SimulatedUpstream;
use super::world::{SeededIds, World};

/// The pause before an operation of the store is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// See the documentation of the module.
pub(super) struct Process {
    world: Arc<World>,
    pub(super) shared: SharedEngine,
    pub(super) engine: Engine,
    pub(super) flusher: Flusher,
    store: Arc<dyn LogStore>,
    /// The generations of earlier processes.
    restored: Mutex<BTreeMap<GenerationId, Restored>>,
    /// Counts the records of restored logs.
    pub(super) account: MemoryAccount,
}

/// A generation of an earlier process, and where its epochs ended.
type Restored = (Arc<Generation>, Vec<Seq>);

/// What a reader gets that comes back.
pub(super) enum Resumed {
    Read(ReaderGuard, Seq),
    NothingLeft,
    /// `tokenwire:reset`, and what is read after it.
    Reset(Seq, Vec<u8>, Option<(ReaderGuard, Seq)>),
}

impl Process {
    /// Begins a process over this store: ends what ran when the process before ended.
    pub(super) async fn open(world: &Arc<World>, store: Arc<dyn LogStore>) -> Arc<Self> {
        let shared = Engine::builder()
            .retention(world.plan.retention)
            .log_limits(LogLimits {
                bytes: 1 << 20,
                events: 1 << 16,
            })
            .disconnect_grace(world.plan.grace)
            .ids(Arc::new(SeededIds(world.clone())))
            .build();
        let engine = shared.engine(Arc::new(SimulatedUpstream(world.clone())));
        let flusher = Flusher::new(store.clone(), FlushOptions::default());
        tokio::spawn(flusher.clone().run());
        let process = Arc::new(Self {
            world: world.clone(),
            shared,
            engine,
            flusher,
            store,
            restored: Mutex::default(),
            account: MemoryAccount::default(),
        });
        let known: Vec<GenerationId> = {
            let model = world.model.lock();
            model
                .generations
                .iter()
                .map(|known| known.id.clone())
                .collect()
        };
        for id in known {
            process.recover(&id).await;
        }
        process
    }

    /// Restores the generation of an earlier process, and ends it if it ran.
    async fn recover(&self, id: &GenerationId) {
        loop {
            match self.try_recover(id).await {
                Ok(()) => return,
                Err(error) if error.is_gone() => return,
                Err(StoreError::Corrupt | StoreError::UnknownVersion { .. }) => {
                    self.world.fail(format!("{id} cannot be restored"));
                    return;
                }
                // Unavailable, or another attempt of this process came in between.
                Err(_) => sleep(RETRY).await,
            }
        }
    }

    async fn try_recover(&self, id: &GenerationId) -> Result<(), StoreError> {
        let mut stored = self.store.open(id).await?;
        while !stored.sealed {
            let epoch = match self.store.adopt(id).await {
                Err(StoreError::Sealed) => stored.epoch(),
                adopted => adopted?,
            };
            stored = self.store.open(id).await?;
            if !stored.sealed {
                let ending = producer_lost(stored.end, epoch);
                self.store.seal(id, epoch, ending, None).await?;
                stored = self.store.open(id).await?;
            }
        }
        let restored = Generation::restore(&*self.store, id, self.account.clone()).await?;
        self.world.trace.note(format_args!(
            "restored {id}: epochs end at {:?}, all at {}",
            stored.epoch_ends, stored.end
        ));
        let entry = (restored, stored.epoch_ends);
        self.restored.lock().insert(id.clone(), entry);
        Ok(())
    }

    /// Starts a generation, whose records are stored from then on.
    pub(super) fn start(&self, request: StartRequest) -> Result<Started, ApiError> {
        let started = self.engine.start(request)?;
        if started.fresh {
            track(&self.world, &self.flusher, started.guard.generation());
        }
        Ok(started)
    }

    /// Returns the generation of this id.
    pub(super) fn find(&self, id: &GenerationId) -> Result<Arc<Generation>, ApiError> {
        if let Some((restored, _)) = self.restored.lock().get(id) {
            return Ok(restored.clone());
        }
        self.engine.find(id, &Owner::Anonymous)
    }

    /// Applies the resume table.
    pub(super) fn resume(&self, cursor: &Cursor, kind: ReaderKind) -> Result<Resumed, ApiError> {
        let generation = self.find(&cursor.id)?;
        if let Some(resumed) = self.resume_lost(cursor, kind) {
            return resumed;
        }
        Ok(
            match self.engine.read(generation.attach(), cursor.after, kind)? {
                Resumption::Read { guard, from } => Resumed::Read(guard, from),
                Resumption::NothingLeft { .. } => Resumed::NothingLeft,
                Resumption::Reset { seq, event, .. } => Resumed::Reset(seq, event, None),
            },
        )
    }

    /// Returns what a reader gets whose last event was never stored; `None` for others.
    fn resume_lost(&self, cursor: &Cursor, kind: ReaderKind) -> Option<Result<Resumed, ApiError>> {
        let after = cursor.after?;
        let (generation, epoch_ends) = self.restored.lock().get(&cursor.id)?.clone();
        let epochs = epoch_ends.iter().zip(2..);
        let mut starts = epochs.map(|(end, epoch)| (*end, first_seq(epoch)));
        let (_, next) = starts.find(|(end, next)| end.0 <= after && after < next.0)?;
        let guard = generation.attach();
        // All that follows is the ending.
        if kind == ReaderKind::Sdk {
            return Some(Ok(Resumed::Read(guard, next)));
        }
        let (seq, event) = generation.reset_event();
        Some(Ok(Resumed::Reset(seq, event, Some((guard, seq.next())))))
    }

    /// Deletes a generation, in the store first.
    pub(super) async fn delete(&self, generation: &Arc<Generation>) {
        let id = &generation.meta().id;
        while self.store.delete(id).await.is_err() {
            sleep(RETRY).await;
        }
        self.engine.delete(generation);
        self.restored.lock().remove(id);
    }

    /// Lets go of the generations of earlier processes.
    pub(super) fn forget_restored(&self) {
        self.restored.lock().clear();
    }
}

/// Returns the first number of an epoch.
fn first_seq(epoch: u64) -> Seq {
    tokenwire_core::model::id::Epoch(epoch).first_seq()
}

/// Returns the block that ends a log whose process is gone, as `epoch` writes it.
fn producer_lost(end: Seq, epoch: Epoch) -> RecordBatch {
    let mut records = RecordWriter::new();
    if end == Seq(0) {
        // Only the header was stored. The first event is always `response.created`.
        records.event(EventKind::Created);
    }
    records.event(EventKind::End(Outcome {
        ending: Ending::Failed(Failure {
            code: "producer_lost".to_owned(),
            kind: "server_error".to_owned(),
            message: "The process that wrote this answer is gone.".to_owned(),
            retryable: true,
        }),
        at: unix_now(),
        usage: None,
        relayed: None,
    }));
    records.record(None);
    let mut block = RecordBatch::default();
    block.restart(end);
    block.skip(first_seq(epoch.0).0.saturating_sub(end.0));
    for record in records.batch().iter() {
        block.push(record.events, record.payload);
    }
    block
}
