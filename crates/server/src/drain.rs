//! Drains the gateway on a signal, or once a successor serves its sockets.

use std::io;
use std::net::TcpListener;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use futures::future::join_all;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::descriptors::refuse_waiting;
use crate::service::Shared;
use crate::service_manager;
use crate::takeover::{Handover, TakeoverSocket};

/// Minimum time for the last attempts of webhooks, however long the generations took to end.
const LAST_WEBHOOKS: Duration = Duration::from_secs(5);

/// Maximum time for connections to send another request, once nothing runs.
const LAST_REQUESTS: Duration = Duration::from_secs(1);

/// The time in which readers that were sent away come back to another node. Its first read of a
/// stream must find this process.
const COME_BACK: Duration = Duration::from_secs(3);

/// The same beside a successor: nothing waits for the exit, and connections that were accepted last
/// may still owe their first request.
const LAST_REQUESTS_BESIDE_SUCCESSOR: Duration = Duration::from_secs(5);

/// The time between two looks at what still runs.
const CHECK: Duration = Duration::from_millis(50);

/// The time in which readers in other processes get the last records.
pub(crate) const LAST_RECORDS: Duration = Duration::from_secs(2);

/// SIGINT and SIGTERM.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

/// What a drain needs.
#[derive(Debug)]
pub(crate) struct Drain {
    pub(crate) shared: Shared,
    /// The configuration as it is at the time.
    pub(crate) updates: watch::Receiver<Shared>,
    pub(crate) clients: ServerHandle,
    pub(crate) operations: Option<ServerHandle>,
    /// The socket of clients, to be closed. None if another process keeps it open.
    pub(crate) listener: Option<TcpListener>,
    /// Accepts connections from a copy of that socket.
    pub(crate) watch: AbortHandle,
    pub(crate) takeover: Option<TakeoverSocket>,
    /// The connections of other processes.
    pub(crate) readers: Vec<TaskTracker>,
}

// === impl Signals ===

impl Signals {
    /// Takes the signals from now on.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

// === impl Drain ===

impl Drain {
    /// Waits for a signal or a successor, lets the generations and webhooks end, and stops the
    /// server. A signal during the drain stops it at once.
    pub(crate) async fn run(mut self, mut signals: Signals) {
        let handover = tokio::select! {
            () = signals.next() => None,
            handover = successor(self.takeover.as_ref()) => Some(handover),
        };
        let clients = self.clients.clone();
        tokio::select! {
            () = self.drain(handover) => {}
            () = signals.next() => clients.stop(false).await,
        }
    }

    async fn drain(&mut self, handover: Option<Handover>) {
        let timeout = self.updates.borrow().config.server.shutdown_timeout;
        let start = Instant::now();
        self.watch.abort();
        if let Some(store) = &self.shared.store {
            store.leave_folders();
        }
        self.clients.pause().await;
        let registry = self.shared.engine.registry();
        tracing::info!(
            open_streams = registry.open(),
            ?timeout,
            successor = handover.is_some(),
            "stopping: no more connections are accepted, running streams may end"
        );
        let (at_least, last_requests) = match handover {
            Some(handover) => {
                if let Some(operations) = &self.operations {
                    operations.pause().await;
                }
                registry.begin_drain(handover.reads);
                handover.confirm();
                (Duration::ZERO, LAST_REQUESTS_BESIDE_SUCCESSOR)
            }
            None => {
                service_manager::stopping();
                // First, so that the readers come back elsewhere.
                if let Some(listener) = self.listener.take() {
                    close(&listener, self.shared.config.server.tls.is_on());
                }
                let cluster = self.shared.cluster.as_ref();
                let other_nodes = cluster.is_some_and(|cluster| cluster.has_others());
                registry.begin_drain(other_nodes);
                if other_nodes {
                    (COME_BACK, COME_BACK)
                } else {
                    (Duration::ZERO, LAST_REQUESTS)
                }
            }
        };
        self.takeover = None;
        self.listener = None;
        self.quiet(start, timeout, at_least, last_requests).await;
        // Background generations have no connection that the server would wait for.
        let left = timeout.saturating_sub(start.elapsed());
        self.shared.engine.drain(left).await;
        let left = timeout.saturating_sub(start.elapsed());
        self.shared.webhooks.finish(left.max(LAST_WEBHOOKS)).await;
        // Some are served by the workers, which end here.
        wait_for(&self.readers).await;
        self.clients.stop(true).await;
    }

    /// Waits until nothing runs, and kept connections have had time for another request. Those
    /// requests are served, each as the last of its connection. Waits `at_least` this long.
    async fn quiet(
        &self,
        start: Instant,
        timeout: Duration,
        at_least: Duration,
        last_requests: Duration,
    ) {
        let gauges = self.shared.metrics.gauges();
        let mut clock = tokio::time::interval(CHECK);
        while start.elapsed() < timeout {
            clock.tick().await;
            if self.shared.engine.registry().open() > 0 || start.elapsed() < at_least {
                continue;
            }
            // Readers of another process's streams, too. Idle WebSockets close themselves.
            let readers = [&gauges.sockets, &gauges.sse, &gauges.text];
            let read = readers.iter().any(|gauge| gauge.count() > 0);
            let late = start.elapsed() >= last_requests && !read;
            if late || gauges.connections.count() == 0 {
                return;
            }
        }
    }
}

/// Waits until readers in other processes have got the last records.
pub(crate) async fn wait_for(readers: &[TaskTracker]) {
    let last = join_all(readers.iter().map(|connections| {
        connections.close();
        connections.wait()
    }));
    let _ = tokio::time::timeout(LAST_RECORDS, last).await;
}

async fn successor(takeover: Option<&TakeoverSocket>) -> Handover {
    match takeover {
        Some(takeover) => takeover.handover().await,
        None => std::future::pending().await,
    }
}

/// Closes a listening socket whose connections are no longer accepted. Closing it would reset those
/// that wait in its queue, so they are answered first.
fn close(listener: &TcpListener, tls: bool) {
    refuse_waiting(listener, tls);
    if let Err(error) = socket2::SockRef::from(listener).shutdown(std::net::Shutdown::Both) {
        tracing::warn!(%error, "the listening socket cannot be closed");
    }
}
