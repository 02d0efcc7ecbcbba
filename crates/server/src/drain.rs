//! Drains the gateway on a signal.

use std::time::Duration;

use actix_web::dev::ServerHandle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::service::Shared;

/// Minimum time for the last attempts of webhooks, however long the generations took to end.
const LAST_WEBHOOKS: Duration = Duration::from_secs(5);

/// Waits for SIGINT or SIGTERM, lets the generations and webhooks end, and stops the server. A
/// second signal stops it at once.
///
/// `watch` holds a copy of the listener. It is aborted before the server stops, so that the listener
/// closes.
pub(crate) async fn drain_on_signal(handle: ServerHandle, shared: Shared, watch: AbortHandle) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        tracing::error!("failed to listen for signals; stop the gateway with SIGKILL");
        return;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    let timeout = shared.config.server.shutdown_timeout;
    tracing::info!(
        open_streams = shared.engine.registry().open(),
        ?timeout,
        "stopping: new streams are refused, running ones may end"
    );
    let start = Instant::now();
    let drained = async {
        // Background generations have no connection that the server would wait for.
        shared.engine.drain(timeout).await;
        let left = timeout.saturating_sub(start.elapsed());
        shared.webhooks.finish(left.max(LAST_WEBHOOKS)).await;
        watch.abort();
        handle.stop(true).await;
    };
    tokio::select! {
        () = drained => {}
        _ = interrupt.recv() => handle.stop(false).await,
        _ = terminate.recv() => handle.stop(false).await,
    }
}
