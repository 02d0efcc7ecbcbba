//! Builds the gateway from its configuration, serves until a signal, and drains.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle};
use secrecy::SecretString;
use tokenwire_core::log::LogStore;
use tokenwire_core::model::id::GenerationId;
use tokenwire_core::upstream::RetryBudget;
use tokenwire_simulator::{Options, Simulator};
use tokenwire_store::{DiskStore, OpenError};
use tokenwire_webhooks::{WebhookOptions, Webhooks};

use crate::allocator::return_memory;
use crate::config::schema::Config;
use crate::descriptors::refuse_without_descriptors;
use crate::drain::drain_on_signal;
use crate::health_check::check_upstreams;
use crate::metrics::{Deliveries, Metrics, Storage, Upstreams};
use crate::neighbours::Neighbours;
use crate::servers::{bracketed, client_server, listen, operations_server};
use crate::service::{Service, Shared, shared_engine};
use crate::storage;

/// Bytes of requests that the embedded simulator keeps for its `/requests`.
const RECORDED_BYTES: usize = 1024 * 1024;

/// The time in which readers in other processes get the last records.
const LAST_RECORDS: Duration = Duration::from_secs(2);

/// Why the gateway cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be bound.
    #[error(
        "cannot listen on {address}: {source}; is another program using the port? Choose another with --port"
    )]
    Listen {
        /// The address.
        address: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// An upstream cannot be set up.
    #[error("{0}")]
    Upstream(String),
    /// Webhooks cannot be set up.
    #[error("{0}")]
    Webhooks(String),
    /// The store cannot be opened.
    #[error("store.path: {0}; set it to a folder on a local disk that the gateway may write")]
    Store(#[from] OpenError),
    /// Other processes on the same store cannot be answered.
    #[error("cannot listen for other processes in store.path: {0}; choose a shorter path")]
    Peers(std::io::Error),
    /// The embedded simulator does not start.
    #[error("the embedded simulator does not start: {0}")]
    Simulator(std::io::Error),
    /// Serving ended with an error.
    #[error("serving ended: {0}")]
    Serve(#[from] std::io::Error),
}

/// A gateway that listens but does not serve yet.
pub struct Gateway {
    server: Server,
    /// The second listener.
    operations: Option<(Server, SocketAddr)>,
    /// A copy of the listener, for the time without descriptors.
    listener: std::net::TcpListener,
    address: SocketAddr,
    shared: Shared,
    /// Streams of an earlier process that are not ended yet.
    unfinished: Vec<GenerationId>,
    /// Answers other processes on the same store.
    peers: Option<tokenwire_peer::Server>,
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
        let listening = &config.server;
        let store = storage::open(&config)?;
        let address = format!("{}:{}", bracketed(&listening.host), listening.port);
        let listener = bind(&address, listening.backlog)?;
        let spare = listener.try_clone()?;
        let address = listener.local_addr()?;
        let operations = match &listening.operations {
            Some(operations) => Some(bind(operations, listening.backlog)?),
            None => None,
        };
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
        let webhooks = Webhooks::new(webhook_options(&config)).map_err(ServeError::Webhooks)?;
        let shared = share(
            config,
            webhooks,
            simulator.as_ref().map(Simulator::base_url),
            store,
        );
        let store = shared.store.as_ref();
        let unfinished =
            store.map(|store| storage::recover(store, &shared.engine, &shared.webhooks));
        if let Some(simulator) = &simulator {
            let account = shared.engine.account().clone();
            simulator.runtime().spawn(return_memory(account));
        }
        let peers = match &shared.neighbours {
            Some(neighbours) => Some(
                neighbours
                    .listen(shared.engine.clone())
                    .map_err(ServeError::Peers)?,
            ),
            None => None,
        };
        // Built once here, so that an error is reported before the workers start.
        Service::new(&shared).map_err(ServeError::Upstream)?;
        let operations = match operations {
            Some(listener) => {
                let address = listener.local_addr()?;
                Some((operations_server(&shared, listener)?, address))
            }
            None => None,
        };
        let server = client_server(&shared, listener)?;
        Ok(Self {
            server,
            operations,
            listener: spare,
            address,
            shared,
            unfinished: unfinished.unwrap_or_default(),
            peers,
            _simulator: simulator,
        })
    }

    /// Returns the address that the gateway listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
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

    /// Serves until SIGINT or SIGTERM, then drains: new streams are refused, and running ones may end
    /// within `server.shutdown_timeout`. A second signal stops it at once.
    ///
    /// # Errors
    /// [`ServeError::Serve`].
    pub async fn serve(self) -> Result<(), ServeError> {
        let Self {
            server,
            operations,
            listener,
            shared,
            unfinished,
            peers,
            _simulator,
            ..
        } = self;
        let handle = server.handle();
        let watch = tokio::spawn(refuse_without_descriptors(listener));
        let drain = drain_on_signal(handle, shared.clone(), watch.abort_handle());
        let signals = tokio::spawn(drain);
        let checks = tokio::spawn(check_upstreams(shared.clone()));
        let ending = tokio::spawn(storage::recover_rest(
            unfinished,
            shared.engine.clone(),
            shared.webhooks.clone(),
        ));
        let peers = peers.map(|server| (server.connections(), tokio::spawn(server.run())));
        let looking = shared.neighbours.clone().map(|neighbours| {
            let (engine, webhooks) = (shared.engine.clone(), shared.webhooks.clone());
            tokio::spawn(async move { neighbours.watch(&engine, &webhooks).await })
        });
        let memory = tokio::spawn(return_memory(shared.engine.account().clone()));
        let dispatcher = tokio::spawn(shared.webhooks.clone().run());
        let operations = operations.map(|(server, _)| {
            let handle = server.handle();
            (actix_web::rt::spawn(server), handle)
        });
        let served = server.await;
        watch.abort();
        if let Some((serving, handle)) = operations {
            handle.stop(false).await;
            serving.abort();
        }
        if let Some((connections, accepting)) = peers {
            accepting.abort();
            connections.close();
            // Readers in other processes get the last records.
            let _ = tokio::time::timeout(LAST_RECORDS, connections.wait()).await;
        }
        if let Some(looking) = looking {
            looking.abort();
        }
        checks.abort();
        ending.abort();
        memory.abort();
        dispatcher.abort();
        shared.webhooks.abandon();
        signals.abort();
        Ok(served?)
    }
}

fn bind(address: &str, backlog: u32) -> Result<std::net::TcpListener, ServeError> {
    listen(address, backlog).map_err(|source| ServeError::Listen {
        address: address.to_owned(),
        source,
    })
}

fn share(
    config: Config,
    webhooks: Webhooks,
    simulator: Option<String>,
    store: Option<Arc<DiskStore>>,
) -> Shared {
    let neighbours = store.clone().map(Neighbours::new).map(Arc::new);
    let engine = shared_engine(
        &config,
        store.clone().map(|store| store as Arc<dyn LogStore>),
        neighbours.as_ref(),
    );
    let metrics = Metrics::new(&config, engine.registry().clone());
    let upstreams = Shared::upstreams(&config, simulator);
    metrics.collect(Upstreams(upstreams.clone()));
    metrics.collect(Deliveries(webhooks.counters().clone()));
    metrics.collect(Storage(store.clone()));
    Shared {
        engine,
        metrics,
        upstreams,
        retry_budget: Arc::new(RetryBudget::new(config.retry.budget_percent)),
        webhooks,
        store,
        neighbours,
        config: Arc::new(config),
    }
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
