//! The one connection of a client: made when it is needed, dropped when it failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::redis::cluster::{ClusterClient, ClusterClientBuilder};
use ::redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use ::redis::{AsyncConnectionConfig, Client, ConnectionAddr, TlsMode};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::address::{Address, Watched};
use super::error::RedisError;
use super::link::Link;
use super::transport::Transport;

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
    pub(super) inner: Link,
}

/// What connections are made by.
enum Source {
    Server(Client),
    Cluster(ClusterClient),
    /// Asks the Sentinels for the master each time.
    Sentinel(Mutex<SentinelClient>),
    Other(Arc<dyn Transport>),
}

/// How often a request to a Redis Cluster is sent on: its slot may have moved. It is also sent again when
/// its connection is lost, so each command must be one that can be repeated.
const REDIRECTIONS: u32 = 3;

/// Makes connections, one at a time.
pub(super) struct Connector {
    source: Source,
    config: AsyncConnectionConfig,
    timeout: Duration,
    /// The number of the current connection; 0 if there is none.
    pub(super) current: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    current: Option<Link>,
    number: u64,
    failures: u32,
    /// Until when attempts fail with this error, so that a flood of requests is no flood of
    /// connections.
    refused: Option<(Instant, RedisError)>,
}

// === impl Source ===

impl Source {
    fn of(address: Address, timeout: Duration) -> ::redis::RedisResult<Self> {
        Ok(match address {
            Address::Server(url) => Self::Server(Client::open(url)?),
            Address::Cluster(urls) => {
                let builder = ClusterClientBuilder::new(urls)
                    .connection_timeout(timeout)
                    .response_timeout(timeout)
                    .retries(REDIRECTIONS);
                Self::Cluster(builder.build()?)
            }
            Address::Sentinel(watched) => Self::Sentinel(Mutex::new(sentinel(&watched)?)),
        })
    }

    async fn connect(&self, config: &AsyncConnectionConfig) -> ::redis::RedisResult<Link> {
        match self {
            Self::Server(client) => {
                let connection = client.get_multiplexed_async_connection_with_config(config);
                connection.await.map(Link::Server)
            }
            Self::Cluster(client) => client.get_async_connection().await.map(Link::Cluster),
            Self::Sentinel(client) => {
                let mut client = client.lock().await;
                let connection = client.get_async_connection_with_config(config);
                connection.await.map(Link::Server)
            }
            Self::Other(transport) => {
                transport.connect().await?;
                Ok(Link::Other(transport.clone()))
            }
        }
    }
}

fn sentinel(watched: &Watched) -> ::redis::RedisResult<SentinelClient> {
    let sentinels = watched.sentinels.iter().map(|(host, port)| {
        if watched.tls {
            ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: false,
                tls_params: None,
            }
        } else {
            ConnectionAddr::Tcp(host.clone(), *port)
        }
    });
    let mut builder =
        SentinelClientBuilder::new(sentinels, &watched.name, SentinelServerType::Master)?
            .set_client_to_redis_db(watched.database);
    if watched.tls {
        builder = builder
            .set_client_to_redis_tls_mode(TlsMode::Secure)
            .set_client_to_sentinel_tls_mode(TlsMode::Secure);
    }
    if let Some(user) = &watched.user {
        builder = builder.set_client_to_redis_username(user);
    }
    if let Some(password) = &watched.password {
        builder = builder.set_client_to_redis_password(password);
    }
    builder.build()
}

// === impl Connector ===

impl Connector {
    /// # Errors
    /// [`RedisError::Address`] if no client can be made of the address.
    pub(super) fn new(address: Address, timeout: Duration) -> Result<Self, RedisError> {
        let source = Source::of(address, timeout).map_err(|_| RedisError::Address)?;
        Ok(Self::of(source, timeout))
    }

    /// Sends requests over this transport.
    pub(super) fn over(transport: Arc<dyn Transport>, timeout: Duration) -> Self {
        Self::of(Source::Other(transport), timeout)
    }

    fn of(source: Source, timeout: Duration) -> Self {
        Self {
            source,
            config: AsyncConnectionConfig::new()
                .set_connection_timeout(Some(timeout))
                .set_response_timeout(Some(timeout))
                .set_pipeline_buffer_size(QUEUED),
            timeout,
            current: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// Whether it leads to a Redis Cluster, where one connection stands for many.
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.source, Source::Cluster(_))
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
        let connecting = self.source.connect(&self.config);
        // The library's timeout does not cover the answers to its first commands. Several servers are
        // asked before there is a connection to a cluster, or to a master that Sentinels know.
        let limit = match self.source {
            Source::Server(_) | Source::Other(_) => self.timeout,
            Source::Cluster(_) | Source::Sentinel(_) => self.timeout * 3,
        };
        let connected = match timeout(limit, connecting).await {
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
