//! The HTTP servers of the gateway: one for clients, and one for operations.

use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::middleware::from_fn;
use actix_web::{App, web};
use futures::future::LocalBoxFuture;
use tokenwire_connection::{ConnectionOptions, Draining, Http2Options, PingTimes, connections};
use tokenwire_core::engine::Registry;

use crate::admission::{ConnectionLimits, RESERVED_CONNECTIONS};
use crate::allocator::return_memory;
use crate::http::{Operations, configure, configure_operations, request_middleware};
use crate::reload::{Reloader, WorkerService};
use crate::service::Shared;

/// Time for connections to write the rest, after the generations have ended or timed out.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// Tells connections that the gateway drains.
struct RegistryDraining(Arc<Registry>);

impl Draining for RegistryDraining {
    fn is_draining(&self) -> bool {
        self.0.is_draining()
    }

    fn begins(&self) -> LocalBoxFuture<'static, ()> {
        let registry = self.0.clone();
        Box::pin(async move { registry.draining().await })
    }
}

/// Serves clients.
pub(crate) fn client_server(
    shared: &Shared,
    reloader: &Arc<Reloader>,
    listener: TcpListener,
) -> io::Result<Server> {
    let config = shared.config.clone();
    let workers = config.server.workers();
    let updates = reloader.updates();
    let limits = Arc::new(ConnectionLimits::new(&config));
    // The limits themselves refuse connections. This one only holds if they are accepted faster
    // than refused ones are closed.
    let most = config
        .limits
        .connections
        .saturating_add(4 * RESERVED_CONNECTIONS);
    let builder = Server::build()
        .workers(workers)
        .max_concurrent_connections(most.div_ceil(workers))
        .shutdown_timeout(LAST_WRITES.as_secs())
        .disable_signals();
    let admitting = limits.clone();
    let gauges = shared.metrics.gauges();
    let account = shared.engine.account().clone();
    let options = ConnectionOptions {
        draining: Some(Arc::new(RegistryDraining(shared.engine.registry().clone()))),
        admit: Some(Arc::new(move |socket| admitting.admit(socket))),
        slow_reader: config.streams.slow_reader_timeout,
        open: gauges.connections.clone(),
        tls: reloader
            .certificates()
            .map(|certificates| certificates.tls()),
        http2: Http2Options {
            max_streams: config.limits.streams_per_connection,
            pings: ping_times(reloader),
            connections: gauges.http2_connections.clone(),
            streams: gauges.http2_streams.clone(),
        },
        direct_writes: config.server.direct_writes,
        ..ConnectionOptions::new(builder.graceful_shutdown_signal())
    };
    let reloader = reloader.clone();
    let application = move || {
        #[expect(
            clippy::expect_used,
            reason = "the same service was built before the workers started"
        )]
        let service = WorkerService::new(updates.clone()).expect("a worker's service");
        actix_web::rt::spawn(return_memory(account.clone()));
        App::new()
            .app_data(Rc::new(service))
            .app_data(web::Data::from(reloader.clone()))
            .app_data(web::Data::from(limits.clone()))
            .wrap(from_fn(request_middleware))
            .configure(configure)
    };
    let http = move || connections(application(), &options);
    Ok(builder.listen("http", listener, http)?.run())
}

/// Returns the times of pings that are in force, also after a reload.
fn ping_times(reloader: &Reloader) -> Arc<dyn Fn() -> PingTimes + Send + Sync> {
    let updates = reloader.updates();
    Arc::new(move || {
        let shared = updates.borrow();
        let streams = &shared.config.streams;
        PingTimes {
            interval: streams.ping_interval,
            timeout: streams.ping_timeout,
        }
    })
}

/// Serves operations on their own listener and worker, which the limits of clients do not affect.
pub(crate) fn operations_server(
    reloader: &Arc<Reloader>,
    listener: TcpListener,
) -> io::Result<Server> {
    let (updates, reloader) = (reloader.updates(), reloader.clone());
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
        let service = WorkerService::new(updates.clone()).expect("a worker's service");
        let application = App::new()
            .app_data(Rc::new(service))
            .app_data(web::Data::from(reloader.clone()))
            .app_data(Operations)
            .wrap(from_fn(request_middleware))
            .configure(configure_operations);
        connections(application, &options)
    };
    Ok(builder.listen("operations", listener, http)?.run())
}
