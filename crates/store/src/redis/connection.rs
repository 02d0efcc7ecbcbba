//! The one connection of a client: made when it is needed, dropped when it failed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::error::RedisError;

/// The pause after a failed attempt. It doubles with each further one.
const MIN_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Requests that wait to be written. More of them wait in their tasks.
const QUEUED: usize = 16;

/// A connection, and which one it is.
#[derive(Clone)]
pub(super) struct Connection {
    /// Counts the client's connections from 1.
    pub(super) number: u64,
    pub(super) inner: MultiplexedConnection,
}

/// Makes connections, one at a time.
pub(super) struct Connector {
    client: Client,
    config: AsyncConnectionConfig,
    timeout: Duration,
    /// The number of the current connection; 0 if there is none.
    pub(super) current: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    current: Option<MultiplexedConnection>,
    number: u64,
    failures: u32,
    /// Until when attempts fail with this error, so that a flood of requests is no flood of
    /// connections.
    refused: Option<(Instant, RedisError)>,
}

// === impl Connector ===

impl Connector {
    pub(super) fn new(client: Client, timeout: Duration) -> Self {
        Self {
            client,
            config: AsyncConnectionConfig::new()
                .set_connection_timeout(Some(timeout))
                .set_response_timeout(Some(timeout))
                .set_pipeline_buffer_size(QUEUED),
            timeout,
            current: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// Returns the connection, or makes one. Requests wait for the same attempt.
    pub(super) async fn connection(&self) -> Result<Connection, RedisError> {
        let mut state = self.state.lock().await;
        if let Some(inner) = &state.current {
            return Ok(Connection {
                number: state.number,
                inner: inner.clone(),
            });
        }
        if let Some((until, error)) = &state.refused
            && *until > Instant::now()
        {
            return Err(error.clone());
        }
        let connecting = self
            .client
            .get_multiplexed_async_connection_with_config(&self.config);
        // The library's timeout does not cover the answers to its first commands.
        let connected = match timeout(self.timeout, connecting).await {
            Ok(connected) => connected.map_err(RedisError::from),
            Err(_) => Err(RedisError::Timeout(self.timeout)),
        };
        match connected {
            Ok(inner) => {
                state.current = Some(inner.clone());
                state.number += 1;
                self.current.store(state.number, Ordering::Release);
                state.failures = 0;
                state.refused = None;
                Ok(Connection {
                    number: state.number,
                    inner,
                })
            }
            Err(error) => {
                let pause = MIN_PAUSE.saturating_mul(1 << state.failures.min(10));
                state.failures = state.failures.saturating_add(1);
                state.refused = Some((Instant::now() + pause.min(MAX_PAUSE), error.clone()));
                Err(error)
            }
        }
    }

    /// Drops this connection, with all that waits on it, if it is the current one.
    pub(super) async fn drop_connection(&self, number: u64) {
        let mut state = self.state.lock().await;
        if state.number == number {
            state.current = None;
            self.current.store(0, Ordering::Release);
        }
    }
}
