//! Builds the gateway from its configuration, serves until a signal, and drains.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle};
use actix_web::middleware::from_fn;
use actix_web::{App, web};
use tokenwire_core::upstream::RetryBudget;
use tokenwire_simulator::{Options, Simulator};
use tokio::signal::unix::{SignalKind, signal};

use crate::admission::{ConnectionLimits, RESERVED_CONNECTIONS};
use crate::config::schema::Config;
use crate::descriptors::refuse_without_descriptors;
use crate::health_check::check_upstreams;
use crate::http::{configure, configure_operations, request_middleware};
use crate::metrics::{Deliveries, Metrics, Upstreams};
use crate::service::{Service, Shared, shared_engine};
use secrecy::SecretString;
use tokenwire_connection::{ConnectionOptions, connections};
use tokenwire_webhooks::{WebhookOptions, Webhooks};

/// After the generations have ended or timed out, connections have this long to write the rest.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// Minimum time for the last attempts of webhooks, however long the generations took to end.
const LAST_WEBHOOKS: Duration = Duration::from_secs(5);

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
        let simulator = if config.uses_simulator() {
            Some(Simulator::start(Options::default()).map_err(ServeError::Simulator)?)
        } else {
            None
        };
        let listening = &config.server;
        let address = format!("{}:{}", bracketed(&listening.host), listening.port);
        let listener = listen(&address, listening.backlog)?;
        let spare = listener.try_clone()?;
        let address = listener.local_addr()?;
        let operations = match &listening.operations {
            Some(operations) => Some(listen(operations, listening.backlog)?),
            None => None,
        };
        let webhooks = Webhooks::new(webhook_options(&config)).map_err(ServeError::Webhooks)?;
        let shared = share(
            config,
            webhooks,
            simulator.as_ref().map(Simulator::base_url),
        );
        // Built once here, so that an error is reported before the workers start.
        Service::new(&shared).map_err(ServeError::Upstream)?;
        let operations = match operations {
            Some(listener) => {
                let address = listener.local_addr()?;
                Some((operations_server(&shared, listener)?, address))
            }
            None => None,
        };
        let server = server(&shared, listener)?;
        Ok(Self {
            server,
            operations,
            listener: spare,
            address,
            shared,
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
            _simulator,
            ..
        } = self;
        let handle = server.handle();
        let signals = tokio::spawn(stop_on_signal(handle, shared.clone()));
        let checks = tokio::spawn(check_upstreams(shared.clone()));
        let dispatcher = tokio::spawn(shared.webhooks.clone().run());
        let watch = tokio::spawn(refuse_without_descriptors(listener));
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
        checks.abort();
        dispatcher.abort();
        shared.webhooks.abandon();
        signals.abort();
        Ok(served?)
    }
}

fn listen(address: &str, backlog: u32) -> Result<std::net::TcpListener, ServeError> {
    let failed = |source| ServeError::Listen {
        address: address.to_owned(),
        source,
    };
    let resolved = std::net::ToSocketAddrs::to_socket_addrs(address)
        .map_err(failed)?
        .next();
    let resolved =
        resolved.ok_or_else(|| failed(std::io::Error::other("the name has no address")))?;
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(resolved),
        socket2::Type::STREAM,
        None,
    )
    .map_err(failed)?;
    socket.set_reuse_address(true).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    socket.bind(&resolved.into()).map_err(failed)?;
    socket
        .listen(i32::try_from(backlog).unwrap_or(i32::MAX))
        .map_err(failed)?;
    Ok(socket.into())
}

fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

fn share(config: Config, webhooks: Webhooks, simulator: Option<String>) -> Shared {
    let engine = shared_engine(&config);
    let metrics = Metrics::new(&config, engine.registry().clone());
    let upstreams = Shared::upstreams(&config, simulator);
    metrics.collect(Upstreams(upstreams.clone()));
    metrics.collect(Deliveries(webhooks.counters().clone()));
    Shared {
        engine,
        metrics,
        upstreams,
        retry_budget: Arc::new(RetryBudget::new(config.retry.budget_percent)),
        webhooks,
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

fn server(shared: &Shared, listener: std::net::TcpListener) -> Result<Server, ServeError> {
    let config = shared.config.clone();
    let workers = config.server.workers();
    let for_workers = shared.clone();
    let limits = Arc::new(ConnectionLimits::new(&config));
    // The limits themselves refuse connections. This one only holds if they are accepted faster
    // than refused ones are closed.
    let most = config
        .limits
        .connections
        .saturating_add(2 * RESERVED_CONNECTIONS);
    let builder = Server::build()
        .workers(workers)
        .max_concurrent_connections(most.div_ceil(workers))
        .shutdown_timeout(LAST_WRITES.as_secs())
        .disable_signals();
    let admitting = limits.clone();
    let options = ConnectionOptions {
        admit: Some(Arc::new(move |socket| admitting.admit(socket))),
        slow_reader: config.streams.slow_reader_timeout,
        open: shared.metrics.gauges().connections.clone(),
        direct_writes: config.server.direct_writes,
        ..ConnectionOptions::new(builder.graceful_shutdown_signal())
    };
    let application = move || {
        #[expect(
            clippy::expect_used,
            reason = "the same service was built before the workers started"
        )]
        let service = Service::new(&for_workers).expect("a worker's service");
        App::new()
            .app_data(web::Data::new(service))
            .app_data(web::Data::from(limits.clone()))
            .wrap(from_fn(request_middleware))
            .configure(configure)
    };
    let http = move || connections(application(), &options);
    Ok(builder.listen("http", listener, http)?.run())
}

/// Serves operations on their own listener and worker, which the limits of clients do not affect.
fn operations_server(
    shared: &Shared,
    listener: std::net::TcpListener,
) -> Result<Server, ServeError> {
    let shared = shared.clone();
    let builder = Server::build().workers(1).disable_signals();
    let options = ConnectionOptions {
        direct_writes: false,
        ..ConnectionOptions::new(builder.graceful_shutdown_signal())
    };
    let http = move || {
        #[expect(
            clippy::expect_used,
            reason = "the same service was built before the workers started"
        )]
        let service = Service::new(&shared).expect("a worker's service");
        let application = App::new()
            .app_data(web::Data::new(service))
            .wrap(from_fn(request_middleware))
            .configure(configure_operations);
        connections(application, &options)
    };
    Ok(builder.listen("operations", listener, http)?.run())
}

async fn stop_on_signal(handle: ServerHandle, shared: Shared) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        tracing::error!("signals cannot be listened to; stop the gateway with SIGKILL");
        return;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    let patience = shared.config.server.shutdown_timeout;
    tracing::info!(
        open_streams = shared.engine.registry().open(),
        ?patience,
        "stopping: new streams are refused, those that run may end"
    );
    let begun = tokio::time::Instant::now();
    let drained = async {
        // Background generations have no connection that the server would wait for.
        shared.engine.drain(patience).await;
        shared
            .webhooks
            .finish(patience.saturating_sub(begun.elapsed()).max(LAST_WEBHOOKS))
            .await;
        handle.stop(true).await;
    };
    tokio::select! {
        () = drained => {}
        _ = interrupt.recv() => handle.stop(false).await,
        _ = terminate.recv() => handle.stop(false).await,
    }
}
