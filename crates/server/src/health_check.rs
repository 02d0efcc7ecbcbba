//! Active health checks of the upstreams.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokenwire_core::model::error::ErrorCode;
use tokenwire_core::upstream::{Endpoint as _, OpenAi, OpenError};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::service::SharedUpstream;

/// Consecutive failures that mark an upstream as down. A single one may be a lost packet.
const FAILURES: u32 = 2;

/// Checks every upstream that has a `health_check`, until it is dropped. Runs once per process.
/// Starts anew when a reload has changed the upstreams.
pub(crate) async fn check_upstreams(mut changes: watch::Receiver<Arc<[SharedUpstream]>>) {
    loop {
        let upstreams = changes.borrow_and_update().clone();
        let checked = upstreams
            .iter()
            .filter(|upstream| !upstream.config.health_check.interval.is_zero());
        tokio::select! {
            never = join_all(checked.map(check)) => drop(never),
            changed = changes.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

async fn check(upstream: &SharedUpstream) {
    let config = &upstream.config;
    let options = upstream.options(config.health_check.timeout, 0);
    // The workers have built a client from the same options, so this does not fail.
    let Ok(client) = OpenAi::new(options) else {
        return;
    };
    let mut clock = interval(config.health_check.interval.max(Duration::from_millis(1)));
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failures = 0;
    loop {
        clock.tick().await;
        let status = client
            .probe(&config.health_check.path, config.health_check.timeout)
            .await;
        let healthy = match status {
            Ok(status) => status < 500,
            // Tells nothing of the upstream.
            Err(OpenError::Failed(error)) if error.is(ErrorCode::OutOfDescriptors) => continue,
            Err(_) => false,
        };
        failures = if healthy { 0 } else { failures + 1 };
        if failures == 0 || failures >= FAILURES {
            upstream.stats.set_healthy(healthy);
        }
        if failures == FAILURES {
            tracing::warn!(upstream = %config.name, "the health check failed; the upstream gets no requests while another serves its models");
        }
    }
}
