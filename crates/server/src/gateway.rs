//! Builds the gateway from its configuration, serves until a signal, and drains.

use std::net::SocketAddr;
use std::sync::Arc;

use actix_web::dev::{Server, ServerHandle};
use secrecy::SecretString;
use tokenwire_core::engine::GenerationSource;
use tokenwire_core::log::LogStore;
use tokenwire_core::model::id::{GenerationId, Tag};
use tokenwire_core::upstream::RetryBudget;
use tokenwire_simulator::{Options, Simulator};
use tokenwire_store::DiskStore;
use tokenwire_webhooks::{DeliveryRecords, WebhookOptions, Webhooks};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::activity::Activity;
use crate::allocator::return_memory;
use crate::auth::{
    Authenticator, MadeKey, RevocableKeys, Revocations, SharedRevocations, SharedUses, Tickets,
    made_key,
};
use crate::cluster::{Cluster, ClusterDeliveries, ClusterSource};
use crate::config::schema::Config;
use crate::descriptors::refuse_without_descriptors;
use crate::drain::{self, Drain, LAST_RECORDS, Signals};
use crate::health_check::check_upstreams;
use crate::limits::{Limits, Unsettled};
use crate::listeners::{Inherited, Listeners, Sockets, handover_path};
use crate::metrics::{
    Clients, ConfigReloads, Deliveries, Exports, Format, Metrics, Nodes, Reloads, Storage,
    StoreLag, TlsState, Upstreams,
};
use crate::neighbours::Neighbours;
use crate::reload::{self, ConfigSource, Reloader};
pub use crate::serve_error::ServeError;
use crate::servers::{client_server, operations_server};
use crate::service::{Service, Shared, shared_engine};
use crate::service_manager;
use crate::storage;
use crate::takeover::{Predecessor, TakeoverSocket};
use crate::telemetry::{Exporter, Telemetry};
use crate::time_limit::{START, within};
use crate::tls::Certificates;
use crate::watch_rules::watch_of;

/// Bytes of requests that the embedded simulator keeps for its `/requests`.
const RECORDED_BYTES: usize = 1024 * 1024;

/// A gateway that listens but does not serve yet.
pub struct Gateway {
    server: Server,
    /// The second listener.
    operations: Option<(Server, SocketAddr)>,
    /// Copies of the listening sockets.
    sockets: Sockets,
    /// The process that had them, which goes on until this one serves.
    predecessor: Option<Predecessor>,
    address: SocketAddr,
    /// The key that was made for this run.
    made_key: Option<MadeKey>,
    shared: Shared,
    /// Applies a configuration that was read again.
    reloader: Arc<Reloader>,
    /// Streams of an earlier process that are not ended yet.
    unfinished: Vec<GenerationId>,
    /// Answers of an earlier process whose usage is not settled yet.
    unsettled: Vec<Unsettled>,
    /// Answer other processes: those on the same store, and other nodes.
    peers: Vec<tokenwire_peer::Server>,
    /// Sends traces and metrics, where that is configured.
    exporter: Option<Exporter>,
    /// Runs as long as the gateway.
    _simulator: Option<Simulator>,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Gateway {
    /// Builds the parts and binds the address. Call it on an actix runtime.
    ///
    /// # Errors
    /// [`ServeError`], with a remedy.
    pub fn bind(config: Config) -> Result<Self, ServeError> {
        Self::bind_with(config, Inherited::default())
    }

    /// Builds the parts and binds the address, or takes it from these sockets, or from a running
    /// gateway with the same store, which goes on until this one serves. Call it on an actix runtime.
    ///
    /// # Errors
    /// [`ServeError`], with a remedy.
    pub fn bind_with(config: Config, inherited: Inherited) -> Result<Self, ServeError> {
        let certificates = Certificates::open(&config.server)?.map(Arc::new);
        let store = storage::open(&config)?;
        let listeners = Listeners::open(&config, inherited)?;
        let address = listeners.address()?;
        let simulator = if config.uses_simulator() {
            let options = Options {
                gateway: Some(address),
                recorded_bytes: RECORDED_BYTES,
                ..Options::default()
            };
            Some(Simulator::start(options).map_err(ServeError::Simulator)?)
        } else {
            None
        };
        let made_key = made_key(&config, address);
        let auth = match &made_key {
            Some(made) => Some(Authenticator::of_anonymous(&made.key)),
            None => Authenticator::of(&config.auth)?,
        };
        let webhooks = Webhooks::new(webhook_options(&config)).map_err(ServeError::Webhooks)?;
        let reloader = share(
            config,
            address,
            webhooks,
            simulator.as_ref().map(Simulator::base_url),
            store,
            auth,
            certificates,
        )?;
        let shared = reloader.shared();
        let reloader = Arc::new(reloader);
        let store = shared.store.as_ref();
        let records = delivery_records(store, shared.cluster.as_ref());
        let unfinished = records
            .map(|records| storage::recover(store, records, &shared.engine, &shared.webhooks));
        let unsettled =
            store.map(|store| storage::recover_usage(store, &shared.engine, &shared.limits));
        if let Some(simulator) = &simulator {
            let account = shared.engine.account().clone();
            simulator.runtime().spawn(return_memory(account));
        }
        let mut peers = Vec::new();
        if let Some(neighbours) = &shared.neighbours {
            let server = neighbours.listen(shared.engine.clone());
            peers.push(server.map_err(ServeError::Peers)?);
        }
        if let Some(cluster) = &shared.cluster {
            peers.push(cluster.listen(shared.engine.clone(), &shared.config)?);
        }
        // Built once here, so that an error is reported before the workers start.
        Service::new(&shared).map_err(ServeError::Upstream)?;
        let metrics = shared.metrics.clone();
        let exposition = Box::new(move || metrics.expose(Format::OpenMetrics));
        let exporter = Exporter::new(shared.telemetry.clone(), &shared.config, exposition)
            .map_err(ServeError::Telemetry)?;
        // Last, since a running gateway waits for this one from now on.
        let (sockets, predecessor) = listeners.take(&shared.config)?;
        let address = sockets.clients.local_addr()?;
        let server = client_server(&shared, &reloader, sockets.clients.try_clone()?)?;
        let operations = match &sockets.operations {
            Some(listener) => {
                let address = listener.local_addr()?;
                Some((
                    operations_server(&reloader, listener.try_clone()?)?,
                    address,
                ))
            }
            None => None,
        };
        Ok(Self {
            server,
            operations,
            sockets,
            predecessor,
            address,
            made_key,
            shared,
            reloader,
            unfinished: unfinished.unwrap_or_default(),
            unsettled: unsettled.unwrap_or_default(),
            peers,
            exporter,
            _simulator: simulator,
        })
    }

    /// Returns the address that the gateway listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the key that was made for this run, if one was.
    #[must_use]
    pub fn made_key(&self) -> Option<&MadeKey> {
        self.made_key.as_ref()
    }

    /// Returns the address of the listener for operations, if there is one.
    #[must_use]
    pub fn operations_address(&self) -> Option<SocketAddr> {
        self.operations.as_ref().map(|(_, address)| *address)
    }

    /// Returns a handle that stops the server, for tests and applications that embed the gateway.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        self.server.handle()
    }

    /// Follows the configuration of this source from now on: its file, and with SIGHUP and
    /// `POST /admin/reload` all of it.
    pub fn reload_from(&self, source: ConfigSource) {
        self.reloader.read_from(source);
    }

    /// Serves until SIGINT or SIGTERM, or until a successor serves the sockets, then drains: no more
    /// connections are accepted, and running streams may end within `server.shutdown_timeout`. A
    /// signal during the drain stops it at once.
    ///
    /// # Errors
    /// [`ServeError::Serve`].
    pub async fn serve(self) -> Result<(), ServeError> {
        let Self {
            server,
            operations,
            sockets,
            predecessor,
            shared,
            reloader,
            unfinished,
            unsettled,
            peers,
            exporter,
            _simulator,
            ..
        } = self;
        let stop_export = CancellationToken::new();
        let exporting = exporter.map(|exporter| tokio::spawn(exporter.run(stop_export.clone())));
        let signals = Signals::new()?;
        let reloading = tokio::spawn(reload::watch(reloader.clone()));
        if let Some(cluster) = &shared.cluster {
            // Before a client gets an id that no other node could find.
            cluster.renew().await;
        }
        let clients = server.handle();
        let mut serving = actix_web::rt::spawn(server);
        let operations = operations.map(|(server, _)| {
            let handle = server.handle();
            (actix_web::rt::spawn(server), handle)
        });
        // The server takes commands once its workers run and it accepts.
        clients.resume().await;
        if let Some((_, operations)) = &operations {
            operations.resume().await;
        }
        if serving.is_finished() {
            return Ok((&mut serving).await.map_err(std::io::Error::other)??);
        }
        // The readers that leave the predecessor read its streams here.
        let (readers, accepting): (Vec<_>, Vec<_>) = peers
            .into_iter()
            .map(|server| (server.connections(), tokio::spawn(server.run())))
            .unzip();
        let member = match shared.cluster.clone() {
            Some(cluster) => {
                let sweep = cluster.clone();
                let sweep = sweep.sweep(shared.engine.clone(), shared.webhooks.clone());
                let usage = cluster.clone();
                let usage = usage.settle_lost(shared.engine.clone(), shared.limits.clone());
                let engine = shared.engine.clone();
                Some(tokio::spawn(async move {
                    tokio::join!(
                        cluster.run(&engine),
                        cluster.keep_deliveries(),
                        sweep,
                        usage
                    );
                }))
            }
            None => None,
        };
        let looking = shared.neighbours.clone().map(|neighbours| {
            let shared = shared.clone();
            tokio::spawn(async move {
                let Shared {
                    engine,
                    webhooks,
                    limits,
                    ..
                } = &shared;
                neighbours.watch(engine, webhooks, limits).await;
            })
        });
        // Before the predecessor goes, so that a further successor finds one of the two.
        let takeover = takeover_socket(&shared.config, &sockets);
        let took_over = predecessor.is_some();
        if let Some(predecessor) = predecessor {
            let replaced = tokio::task::spawn_blocking(|| predecessor.replace());
            replaced.await.map_err(std::io::Error::other)?;
        }
        service_manager::ready(took_over);
        let watch = tokio::spawn(refuse_without_descriptors(
            sockets.clients.try_clone()?,
            shared.config.server.tls.is_on(),
        ));
        let drain = Drain {
            shared: shared.clone(),
            updates: reloader.updates(),
            clients,
            operations: operations.as_ref().map(|(_, handle)| handle.clone()),
            listener: (!sockets.inherited).then_some(sockets.clients),
            watch: watch.abort_handle(),
            takeover,
            readers: readers.clone(),
        };
        let drain = tokio::spawn(drain.run(signals));
        let checks = tokio::spawn(check_upstreams(reloader.upstreams()));
        let ending = {
            let (engine, webhooks) = (shared.engine.clone(), shared.webhooks.clone());
            let limits = shared.limits.clone();
            tokio::spawn(async move {
                storage::recover_rest(unfinished, engine.clone(), webhooks).await;
                // Afterwards, so that no log is adopted by two tasks at once.
                storage::settle_rest(unsettled, &engine, &limits).await;
            })
        };
        let memory = tokio::spawn(return_memory(shared.engine.account().clone()));
        let keys = shared.auth.clone();
        let revocations = shared.revocations.clone();
        let keys = tokio::spawn(async move {
            let auth = keys.as_deref();
            let files = async {
                if let Some(auth) = auth {
                    auth.watch().await;
                }
            };
            let keys = auth.map(|auth| auth as &dyn RevocableKeys);
            tokio::join!(files, revocations.watch(keys));
        });
        let dispatcher = tokio::spawn(shared.webhooks.clone().run());
        let limits = shared.limits.clone();
        let limits = tokio::spawn(async move { limits.run().await });
        let served = (&mut serving).await;
        watch.abort();
        if let Some((serving, handle)) = operations {
            handle.stop(false).await;
            serving.abort();
        }
        drain::wait_for(&readers).await;
        if let (Some(member), Some(cluster)) = (member, &shared.cluster) {
            member.abort();
            cluster.last_deliveries(LAST_RECORDS).await;
            cluster.leave().await;
        }
        if let Some(looking) = looking {
            looking.abort();
        }
        keys.abort();
        checks.abort();
        reloading.abort();
        ending.abort();
        memory.abort();
        dispatcher.abort();
        limits.abort();
        shared.webhooks.abandon();
        drain.abort();
        stop_export.cancel();
        if let Some(exporting) = exporting {
            // It ends by itself, in bounded time.
            let _ = exporting.await;
        }
        // Last: while this process holds its folder, other ones read what is in it from here.
        for accepting in accepting {
            accepting.abort();
        }
        Ok(served.map_err(std::io::Error::other)??)
    }
}

/// Opens the socket where a successor asks for the listening sockets, if gateways can meet beside a
/// store.
fn takeover_socket(config: &Config, sockets: &Sockets) -> Option<TakeoverSocket> {
    let store = handover_path(config)?.to_owned();
    let all = std::iter::once(&sockets.clients).chain(&sockets.operations);
    let copies: std::io::Result<Vec<_>> = all.map(|socket| socket.try_clone()).collect();
    let runtime = tokio::runtime::Handle::current();
    let open = |copies| {
        within(START, move || {
            let _runtime = runtime.enter();
            TakeoverSocket::open(&store, copies)
        })
    };
    match copies.and_then(open) {
        Ok(takeover) => Some(takeover),
        Err(error) => {
            tracing::warn!(%error, "the next gateway cannot take over from this one");
            None
        }
    }
}

fn share(
    config: Config,
    address: SocketAddr,
    webhooks: Webhooks,
    simulator: Option<String>,
    store: Option<Arc<DiskStore>>,
    auth: Option<Authenticator>,
    certificates: Option<Arc<Certificates>>,
) -> Result<Reloader, ServeError> {
    let neighbours = store.clone().map(Neighbours::new).map(Arc::new);
    let tag = neighbours.as_ref().map(|neighbours| neighbours.tag());
    let tag = tag.unwrap_or_else(Tag::random);
    let cluster = Cluster::open(&config, tag.clone(), store.clone())?;
    let source = match (&cluster, neighbours.clone()) {
        (Some(cluster), neighbours) => {
            let source = ClusterSource::new(cluster.clone(), neighbours);
            Some(Arc::new(source) as Arc<dyn GenerationSource>)
        }
        (None, neighbours) => neighbours.map(|source| source as Arc<dyn GenerationSource>),
    };
    let engine = shared_engine(
        &config,
        store.clone().map(|store| store as Arc<dyn LogStore>),
        source.map(|source| (tag, source)),
        cluster.as_ref().map(|cluster| cluster.replica()),
    );
    let nodes = cluster.clone();
    let revocations = nodes.map(|cluster| cluster as Arc<dyn SharedRevocations>);
    let revocations = Arc::new(Revocations::of(&config, revocations));
    let auth = auth.map(|auth| Arc::new(auth.with(revocations.clone())));
    let nodes = cluster
        .clone()
        .map(|cluster| cluster as Arc<dyn SharedUses>);
    let tickets = Arc::new(Tickets::of(&config, nodes, revocations.clone()));
    let metrics = Metrics::new(&config, engine.registry().clone());
    let upstreams = Shared::upstreams(&config, simulator).map_err(ServeError::Upstream)?;
    let changes = watch::Sender::new(upstreams.clone());
    metrics.collect(Upstreams(changes.subscribe()));
    let reloads = Arc::new(Reloads::default());
    metrics.collect(ConfigReloads(reloads.clone()));
    metrics.collect(TlsState(certificates.clone()));
    metrics.collect(Deliveries(webhooks.counters().clone()));
    metrics.collect(Storage(store.clone()));
    metrics.collect(Nodes(cluster.clone()));
    metrics.collect(StoreLag(engine.clone()));
    let limits = Limits::new(&config);
    if let Some(cluster) = &cluster {
        limits.share_over(cluster.redis().clone(), cluster.tag().as_str());
    }
    metrics.collect(Clients(limits.clone()));
    let telemetry = Telemetry::new(&config);
    metrics.collect(Exports(telemetry.clone()));
    let activity = Activity::new(engine.registry().clone(), changes.subscribe());
    let watch = watch_of(&config, &activity, &webhooks).map_err(ServeError::Watch)?;
    let shared = Shared {
        engine,
        activity,
        watch,
        metrics,
        upstreams,
        retry_budget: Arc::new(RetryBudget::new(config.retry.budget_percent)),
        webhooks,
        store,
        auth,
        tickets,
        revocations,
        neighbours,
        cluster,
        limits,
        telemetry,
        config: Arc::new(config),
    };
    let reloader = Reloader::new(shared, changes, reloads, address);
    Ok(reloader.with_certificates(certificates))
}

fn webhook_options(config: &Config) -> WebhookOptions {
    let webhooks = &config.webhooks;
    WebhookOptions {
        url: webhooks.url.clone(),
        secret: webhooks
            .secret
            .as_ref()
            .map(|secret| SecretString::from(secret.expose())),
        allow_private: webhooks.allow_private,
        timeout: webhooks.timeout,
        retry_for: webhooks.retry_for,
        max_pending: webhooks.max_pending,
        max_kept: webhooks.max_kept,
        concurrency: webhooks.concurrency,
        concurrency_per_host: webhooks.concurrency_per_host,
    }
}

/// Returns what keeps the webhooks that are owed beyond this process.
fn delivery_records(
    store: Option<&Arc<DiskStore>>,
    cluster: Option<&Arc<Cluster>>,
) -> Option<Arc<dyn DeliveryRecords>> {
    let own = store.map(storage::own_deliveries);
    match cluster {
        Some(cluster) => Some(Arc::new(ClusterDeliveries::new(cluster.clone(), own))),
        None => own,
    }
}
