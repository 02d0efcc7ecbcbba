//! Builds the gateway from its configuration, serves until it is told to stop, and drains.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_http::HttpService;
use actix_service::map_config;
use actix_web::dev::{AppConfig, Server, ServerHandle};
use actix_web::middleware::from_fn;
use actix_web::{App, web};
use tokenwire_core::upstream::RetryBudget;
use tokenwire_simulator::{Options, Simulator};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::schema::Config;
use crate::health_check::check_upstreams;
use crate::http::{configure, envelope};
use crate::metrics::{Deliveries, Metrics, Upstreams};
use crate::service::{Service, Shared, shared_engine};
use secrecy::SecretString;
use tokenwire_connection::{ActixIo, Connections, Timeouts};
use tokenwire_webhooks::{WebhookOptions, Webhooks};

/// A connection that asks nothing is kept this long.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// A request's head must be there within this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that is closed with something unread stays this long, so that the peer can read the
/// answer before a reset overtakes it. A WebSocket's peer waits as long for the end of a socket
/// that was closed in order. actix counts it from a clock that it sets twice a second, and never
/// notices a deadline that has passed already: with half a second or less some connections would
/// stay for good.
const LINGER: Duration = Duration::from_secs(1);

/// Once the generations have ended or their time is up, connections have this long to write what is
/// left.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// Webhooks have at least this long for their last chance, however much of its patience the gateway
/// has spent on generations.
const LAST_WEBHOOKS: Duration = Duration::from_secs(5);

/// Why the gateway does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {address}: {source}; is another program using the port? Choose another with --port"
    )]
    Listen {
        /// The address.
        address: String,
        /// The system's word.
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
    address: SocketAddr,
    shared: Shared,
    /// Answers for as long as the gateway runs.
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
    /// Builds the parts and binds the address. To be called on an actix runtime.
    ///
    /// # Errors
    /// [`ServeError`], with what to do about it.
    pub fn bind(config: Config) -> Result<Self, ServeError> {
        let simulator = if config.uses_simulator() {
            Some(Simulator::start(Options::default()).map_err(ServeError::Simulator)?)
        } else {
            None
        };
        let listener = listen(&config)?;
        let address = listener.local_addr()?;
        let webhooks = Webhooks::new(webhook_options(&config)).map_err(ServeError::Webhooks)?;
        let shared = share(
            config,
            webhooks,
            simulator.as_ref().map(Simulator::base_url),
            address,
        );
        // Once here, so that a mistake is told before the workers start.
        Service::new(&shared).map_err(ServeError::Upstream)?;
        let server = server(&shared, listener)?;
        Ok(Self {
            server,
            address,
            shared,
            _simulator: simulator,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends the server from outside: for tests and for applications that embed the gateway.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        self.server.handle()
    }

    /// Serves until SIGINT or SIGTERM. Then new streams are refused, those that run may end within
    /// `server.shutdown_timeout`, and a second signal ends it at once.
    ///
    /// # Errors
    /// [`ServeError::Serve`].
    pub async fn serve(self) -> Result<(), ServeError> {
        let Self {
            server,
            shared,
            _simulator,
            ..
        } = self;
        let handle = server.handle();
        let signals = tokio::spawn(stop_on_signal(handle, shared.clone()));
        let checks = tokio::spawn(check_upstreams(shared.clone()));
        let dispatcher = tokio::spawn(shared.webhooks.clone().run());
        let served = server.await;
        checks.abort();
        dispatcher.abort();
        shared.webhooks.abandon();
        signals.abort();
        Ok(served?)
    }
}

fn listen(config: &Config) -> Result<std::net::TcpListener, ServeError> {
    let address = format!("{}:{}", bracketed(&config.server.host), config.server.port);
    let failed = |source| ServeError::Listen {
        address: address.clone(),
        source,
    };
    let resolved = std::net::ToSocketAddrs::to_socket_addrs(&address)
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
        .listen(i32::try_from(config.server.backlog).unwrap_or(i32::MAX))
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

fn share(
    config: Config,
    webhooks: Webhooks,
    simulator: Option<String>,
    address: SocketAddr,
) -> Shared {
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
        local_only: address.ip().is_loopback(),
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
    let timeouts = Timeouts {
        keep_alive: KEEP_ALIVE,
        linger: LINGER,
        slow_reader: config.streams.slow_reader_timeout,
    };
    let for_workers = shared.clone();
    let builder = Server::build()
        .workers(workers)
        .max_concurrent_connections(config.limits.connections.div_ceil(workers))
        .shutdown_timeout(LAST_WRITES.as_secs())
        .disable_signals();
    let shutdown = builder.graceful_shutdown_signal();
    let open = shared.metrics.gauges().connections.clone();
    let connections = move || {
        #[expect(
            clippy::expect_used,
            reason = "the same was built once before the workers started"
        )]
        let service = Service::new(&for_workers).expect("a worker's service");
        let app = App::new()
            .app_data(web::Data::new(service))
            .wrap(from_fn(envelope))
            .configure(configure);
        let signal = shutdown.clone();
        let http = HttpService::build()
            .keep_alive(KEEP_ALIVE)
            .client_request_timeout(HEAD_TIMEOUT)
            .client_disconnect_timeout(LINGER)
            // A client's FIN must be seen while the upstream is silent.
            .h1_allow_half_closed(false)
            .graceful_shutdown_signal(move || {
                let signal = signal.clone();
                async move { signal.notified().await }
            })
            .on_connect_ext(|io: &ActixIo, extensions| drop(extensions.insert(io.socket())))
            .h1(map_config(app, |()| AppConfig::default()));
        Connections::new(http, timeouts, shutdown.clone(), open.clone())
    };
    Ok(builder.listen("http", listener, connections)?.run())
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
