//! One process: an engine, the flusher that stores its logs, and the store behind both.
//!
//! The engine does not store its logs itself yet, so this module brings the two together.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokenwire_core::engine::{
    Cursor, Engine, GenerationSource, Located, ReaderKind, Resumption, SharedEngine, StartRequest,
    Started, StoredGeneration,
};
use tokenwire_core::generation::Generation;
use tokenwire_core::log::{
    Epoch, FlushOptions, Flusher, LogLimits, LogStore, StoreError, StoredLog,
};
use tokenwire_core::model::error::{ApiError, ErrorCode};
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
}

/// Finds generations in the store.
#[derive(Debug)]
struct Stored(Arc<dyn LogStore>);

impl GenerationSource for Stored {
    fn locate(&self, id: &GenerationId) -> BoxFuture<'_, Result<Located, ApiError>> {
        let id = id.clone();
        let locate = async move {
            match self.0.open(&id).await {
                Ok(stored) if stored.sealed => Ok(Located::Stored(StoredGeneration {
                    store: self.0.clone(),
                    header: stored.header,
                })),
                Ok(_) => Ok(Located::Gone),
                Err(error) if error.is_gone() => Ok(Located::Gone),
                Err(error) => Err(ApiError::new(ErrorCode::Overloaded, error.to_string())),
            }
        };
        locate.boxed()
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").finish_non_exhaustive()
    }
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
            .source(Arc::new(Stored(store.clone())))
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
        });
        let known: Vec<GenerationId> = {
            let model = world.model.lock();
            let known = model.generations.iter();
            known.map(|known| known.id.clone()).collect()
        };
        for id in known {
            process.recover(&id).await;
        }
        process
    }

    /// Ends the generation of an earlier process, if it ran.
    async fn recover(&self, id: &GenerationId) {
        loop {
            match self.try_recover(id).await {
                Ok(stored) => {
                    let (ends, end) = (stored.epoch_ends, stored.end);
                    let trace = &self.world.trace;
                    trace.note(format_args!(
                        "recovered {id}: epochs end at {ends:?}, all at {end}"
                    ));
                    self.world.model.lock().recovered(id, &ends);
                    return;
                }
                Err(error) if error.is_gone() => return,
                Err(StoreError::Corrupt | StoreError::UnknownVersion { .. }) => {
                    self.world.fail(format!("{id} cannot be read"));
                    return;
                }
                // Unavailable, or another attempt of this process came in between.
                Err(_) => sleep(RETRY).await,
            }
        }
    }

    async fn try_recover(&self, id: &GenerationId) -> Result<StoredLog, StoreError> {
        loop {
            let stored = self.store.open(id).await?;
            if stored.sealed {
                return Ok(stored);
            }
            let epoch = self.store.adopt(id).await?;
            let end = self.store.open(id).await?.end;
            let ending = producer_lost(end, epoch);
            self.store.seal(id, epoch, ending, None).await?;
        }
    }

    /// Starts a generation, whose records are stored from then on.
    pub(super) async fn start(&self, request: StartRequest) -> Result<Started, ApiError> {
        let started = self.engine.start(request).await?;
        if started.fresh {
            track(&self.world, &self.flusher, started.guard.generation());
        }
        Ok(started)
    }

    /// Returns the generation of this id.
    pub(super) async fn find(&self, id: &GenerationId) -> Result<Arc<Generation>, ApiError> {
        self.engine.find(id, &Owner::Anonymous).await
    }

    /// Returns the generation of this id if it is in memory.
    pub(super) fn find_local(&self, id: &GenerationId) -> Option<Arc<Generation>> {
        self.engine.find_local(id, &Owner::Anonymous)
    }

    /// Applies the resume table.
    pub(super) async fn resume(
        &self,
        cursor: &Cursor,
        kind: ReaderKind,
    ) -> Result<Resumption, ApiError> {
        self.engine.resume(cursor, &Owner::Anonymous, kind).await
    }

    /// Deletes a generation, in the store first.
    pub(super) async fn delete(&self, generation: &Arc<Generation>) {
        while self.store.delete(&generation.meta().id).await.is_err() {
            sleep(RETRY).await;
        }
        while self.engine.delete(generation).await.is_err() {
            sleep(RETRY).await;
        }
    }
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
    block.skip(epoch.first_seq().0.saturating_sub(end.0));
    for record in records.batch().iter() {
        block.push(record.events, record.payload);
    }
    block
}
