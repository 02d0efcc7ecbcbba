//! Builds what the engines of all workers share.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::task::TaskTracker;

use super::persistence::Persistence;
use super::registry::Reattach;
use super::replica::{Replica, ReplicaOptions};
use super::{
    Engine, GenerationSource, HistoryLimits, Registry, Retention, Reuse, ReuseOptions, StoredSource,
};
use crate::log::{FlushOptions, Flusher, LogLimits, LogStore};
use crate::model::account::{Account, Relief};
use crate::model::id::{IdSource, RandomIds};
use crate::model::secret::Secret;
use crate::upstream::Upstream;

/// The terminal events of generations that are stopped are written within this time.
const LAST_EVENTS: Duration = Duration::from_secs(1);
/// With them the answers are cancelled that upstreams go on with, within this time.
const LAST_CANCELS: Duration = Duration::from_secs(5);
/// The last records are stored within this time.
const LAST_BLOCKS: Duration = Duration::from_secs(5);

/// Configures a [`SharedEngine`]. The defaults suit one process of a small service; see each
/// method.
#[derive(Clone, Debug)]
pub struct EngineBuilder {
    retention: Retention,
    log_limits: LogLimits,
    grace: Duration,
    history_limits: HistoryLimits,
    source: Option<Arc<dyn GenerationSource>>,
    store: Option<Arc<dyn LogStore>>,
    flush: FlushOptions,
    store_wait: Duration,
    replica: Option<Arc<ReplicaOptions>>,
    reuse: Option<ReuseOptions>,
    reattach: bool,
    sweep_interval: Option<Duration>,
    ids: Arc<dyn IdSource>,
    secret: Secret,
}

/// What the engines of all workers share: the registry, the logs and their memory account, the
/// tasks of running generations, shared answers and the sweeper. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SharedEngine {
    pub(super) registry: Arc<Registry>,
    log_limits: LogLimits,
    pub(super) account: Account,
    tasks: TaskTracker,
    grace: Duration,
    history_limits: HistoryLimits,
    pub(super) store: Option<Arc<dyn LogStore>>,
    flush: FlushOptions,
    pub(super) store_wait: Duration,
    pub(super) replica: Option<Arc<ReplicaOptions>>,
    /// The flushers of the engines.
    flushers: Arc<Mutex<Vec<Flusher>>>,
    reuse: Option<Arc<Reuse>>,
    sweep_interval: Option<Duration>,
    sweeper: Arc<OnceLock<()>>,
    ids: Arc<dyn IdSource>,
    secret: Secret,
}

// === impl EngineBuilder ===

impl Default for EngineBuilder {
    fn default() -> Self {
        Self {
            retention: Retention {
                events: Duration::from_secs(10 * 60),
                responses: Duration::from_secs(24 * 60 * 60),
                max_memory: 256 * 1024 * 1024,
                max_open: 1000,
            },
            log_limits: LogLimits {
                bytes: 8 * 1024 * 1024,
                events: 100_000,
            },
            grace: Duration::from_secs(30),
            history_limits: HistoryLimits::default(),
            source: None,
            store: None,
            flush: FlushOptions::default(),
            store_wait: Duration::from_secs(2),
            replica: None,
            reuse: None,
            reattach: false,
            sweep_interval: Some(Duration::from_secs(1)),
            ids: Arc::new(RandomIds),
            secret: Secret::random(),
        }
    }
}

impl EngineBuilder {
    /// Sets how long and how much is kept. Default: logs 10 minutes, response objects 24 hours,
    /// 256 MiB, 1,000 running generations.
    #[must_use]
    pub fn retention(self, retention: Retention) -> Self {
        Self { retention, ..self }
    }

    /// Sets what one log may hold. Default: 8 MiB and 100,000 events.
    #[must_use]
    pub fn log_limits(self, log_limits: LogLimits) -> Self {
        Self { log_limits, ..self }
    }

    /// Sets how long a generation runs on without a reader. Default: 30 s.
    #[must_use]
    pub fn disconnect_grace(self, grace: Duration) -> Self {
        Self { grace, ..self }
    }

    /// Sets how long a conversation may be that a turn builds on. Default: 1,000 turns, 64 MiB.
    #[must_use]
    pub fn history_limits(self, history_limits: HistoryLimits) -> Self {
        Self {
            history_limits,
            ..self
        }
    }

    /// Sets the store that keeps the logs. Default: none, and logs end with the process.
    ///
    /// Each engine runs a [`Flusher`]. A keyed or background request is sent to its upstream only
    /// once its header is stored. Generations that are not in memory are read from the store; those
    /// that ran when their process died are [adopted](SharedEngine::adopt) by the caller.
    ///
    /// An idempotency key is known as long as its generation is in memory, and as long as the store
    /// [knows it](LogStore::keyed).
    #[must_use]
    pub fn store(self, store: Arc<dyn LogStore>) -> Self {
        Self {
            store: Some(store),
            ..self
        }
    }

    /// Sets how the engines' flushers work. Default: each 50 ms.
    #[must_use]
    pub fn flush(self, flush: FlushOptions) -> Self {
        Self { flush, ..self }
    }

    /// Sets how long a request waits for the store. Default: 2 s.
    #[must_use]
    pub fn store_wait(self, store_wait: Duration) -> Self {
        Self { store_wait, ..self }
    }

    /// Sets a second store, which other nodes read. Default: none.
    #[must_use]
    pub fn replica(self, replica: ReplicaOptions) -> Self {
        Self {
            replica: Some(Arc::new(replica)),
            ..self
        }
    }

    /// Sets who knows of generations that are not in this process. Default: the
    /// [store](EngineBuilder::store), if there is one.
    #[must_use]
    pub fn source(self, source: Arc<dyn GenerationSource>) -> Self {
        Self {
            source: Some(source),
            ..self
        }
    }

    /// Lets identical requests share answers. Default: they do not.
    #[must_use]
    pub fn reuse(self, reuse: ReuseOptions) -> Self {
        Self {
            reuse: Some(reuse),
            ..self
        }
    }

    /// Sets whether answers of lost writers go on where their upstreams can be
    /// [attached to](crate::upstream::Upstream::attach) again. Then each worker has to run
    /// [`Engine::reattach`]. Default: they end.
    #[must_use]
    pub fn reattach(self, reattach: bool) -> Self {
        Self { reattach, ..self }
    }

    /// Sets how often ended generations are looked through for those that have been kept long
    /// enough; `None` leaves that to calls of [`Registry::sweep`]. Default: 1 s.
    #[must_use]
    pub fn sweep_interval(self, sweep_interval: Option<Duration>) -> Self {
        Self {
            sweep_interval,
            ..self
        }
    }

    /// Sets what makes the ids of generations. Default: they are random.
    #[must_use]
    pub fn ids(self, ids: Arc<dyn IdSource>) -> Self {
        Self { ids, ..self }
    }

    /// Sets the key that seals reasoning for clients. Default: a random one, so that what one process
    /// has sealed no other opens.
    #[must_use]
    pub fn secret(self, secret: Secret) -> Self {
        Self { secret, ..self }
    }

    /// Builds the shared part. [`SharedEngine::engine`] makes an engine of it for each worker.
    #[must_use]
    pub fn build(self) -> SharedEngine {
        let account = Account::new(self.retention.max_memory);
        let source = self.source.or_else(|| {
            let source = StoredSource::new(self.store.clone()?, self.store_wait);
            Some(Arc::new(source))
        });
        let reattach = self.reattach.then_some(Reattach {
            log_limits: self.log_limits,
            grace: self.grace,
        });
        let registry = Registry::with(self.retention, account.clone(), source, reattach);
        let relief: Arc<dyn Relief> = registry.clone();
        account.set_relief(Arc::downgrade(&relief));
        SharedEngine {
            registry,
            store: self.store,
            flush: self.flush,
            store_wait: self.store_wait,
            replica: self.replica,
            flushers: Arc::default(),
            log_limits: self.log_limits,
            account,
            tasks: TaskTracker::new(),
            grace: self.grace,
            history_limits: self.history_limits,
            reuse: self.reuse.and_then(Reuse::new),
            sweep_interval: self.sweep_interval,
            sweeper: Arc::default(),
            ids: self.ids,
            secret: self.secret,
        }
    }
}

// === impl SharedEngine ===

impl SharedEngine {
    /// Makes an engine for the worker that calls, which asks this upstream. An upstream's HTTP
    /// client belongs to one runtime, so each worker needs an upstream and an engine of its own.
    ///
    /// The first call inside a Tokio runtime starts the sweeper there. It runs until the last
    /// engine is dropped. With a store each call starts a flusher there; outside a
    /// runtime nothing but headers is stored.
    #[must_use]
    pub fn engine(&self, upstream: Arc<dyn Upstream>) -> Engine {
        let persistence = self.store.clone().map(|store| {
            let flusher = Flusher::new(store.clone(), self.flush);
            self.flushers.lock().push(flusher.clone());
            match Handle::try_current() {
                Ok(runtime) => Persistence::run(store, flusher, self.store_wait, &runtime),
                Err(_) => Persistence::with(store, flusher, self.store_wait),
            }
        });
        let replica = self.replica.clone().map(|options| {
            let flusher = Flusher::new(options.store.clone(), options.flush);
            self.flushers.lock().push(flusher.clone());
            let runtime = Handle::try_current().ok();
            Replica::new(options, flusher, self.store_wait, runtime.as_ref())
        });
        self.make(upstream, persistence, replica)
    }

    /// As [`SharedEngine::engine`], with a flusher over the engine's store that the caller runs.
    /// Without a store the flusher is not used.
    #[must_use]
    pub fn engine_with(&self, upstream: Arc<dyn Upstream>, flusher: Flusher) -> Engine {
        let persistence = self.store.clone().map(|store| {
            self.flushers.lock().push(flusher.clone());
            Persistence::with(store, flusher, self.store_wait)
        });
        self.make(upstream, persistence, None)
    }

    fn make(
        &self,
        upstream: Arc<dyn Upstream>,
        persistence: Option<Persistence>,
        replica: Option<Replica>,
    ) -> Engine {
        self.start_sweeper();
        Engine {
            registry: self.registry.clone(),
            log_limits: self.log_limits,
            account: self.account.handle(),
            upstream,
            tasks: self.tasks.clone(),
            grace: self.grace,
            history_limits: self.history_limits,
            reuse: self.reuse.clone(),
            persistence,
            replica,
            end_notifier: None,
            observer: None,
            watch: None,
            ids: self.ids.clone(),
            secret: self.secret.clone(),
        }
    }

    /// Every generation that can be asked for.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The tasks that write generations.
    #[must_use]
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// The key that seals reasoning for clients.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Counts the memory of requests and answers.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// The shared answers, where identical requests share.
    #[must_use]
    pub fn shared_answers(&self) -> Option<&Arc<Reuse>> {
        self.reuse.as_ref()
    }

    /// Refuses new generations, and waits up to `timeout` for the running ones. What then still runs
    /// ends with a failure, within 1 s, or 5 s where upstreams have to be told. Returns whether all ended by themselves. With a store it then waits for
    /// the last records to be stored, up to 5 s.
    pub async fn drain(&self, timeout: Duration) -> bool {
        let whole = self.drain_tasks(timeout).await;
        let stored = tokio::time::timeout(LAST_BLOCKS, self.flushed()).await;
        if stored.is_err() {
            tracing::warn!("the last records could not be stored in time");
        }
        whole
    }

    /// Returns how many streams have records that are not stored, and how long the store, of several
    /// the slowest, has taken none of those.
    #[must_use]
    pub fn store_lag(&self) -> (usize, Duration) {
        let flushers = self.flushers.lock();
        let waiting = flushers.iter().map(Flusher::unfinished).sum();
        let longest = flushers.iter().map(Flusher::lag).max();
        (waiting, longest.unwrap_or_default())
    }

    /// Waits until everything that was written is stored.
    pub async fn flushed(&self) {
        let flushers = self.flushers.lock().clone();
        for flusher in flushers {
            flusher.flushed().await;
        }
    }

    async fn drain_tasks(&self, timeout: Duration) -> bool {
        self.registry.close();
        self.tasks.close();
        if tokio::time::timeout(timeout, self.tasks.wait())
            .await
            .is_ok()
        {
            return true;
        }
        tracing::warn!(
            open_streams = self.registry.open(),
            "the shutdown timeout has passed: ending what still runs"
        );
        self.registry.stop_running();
        let within = if self.registry.reattach.is_some() {
            LAST_CANCELS
        } else {
            LAST_EVENTS
        };
        let _ = tokio::time::timeout(within, self.tasks.wait()).await;
        false
    }

    fn start_sweeper(&self) {
        let (Some(interval), Ok(runtime)) = (self.sweep_interval, Handle::try_current()) else {
            return;
        };
        self.sweeper.get_or_init(|| {
            let registry = Arc::downgrade(&self.registry);
            runtime.spawn(async move {
                let mut ticks = tokio::time::interval(interval);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    match registry.upgrade() {
                        Some(registry) => registry.sweep(Instant::now()),
                        None => return,
                    }
                }
            });
        });
    }
}
