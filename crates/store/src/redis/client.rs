//! Requests to Redis, on a separate thread.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::redis::{Cmd, FromRedisValue, Pipeline, Script, ScriptInvocation, Value, cmd};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::address::Address;
use super::connection::{Connection, Connector};
use super::error::RedisError;
use super::server_info::ServerInfo;
use super::transport::Transport;

/// How Redis is reached.
#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// `redis://user:password@host:port/database`, `redis+cluster://user:password@host:port,host:port`,
    /// or `redis+sentinel://user:password@host:port,host:port/name/database`; `rediss` in place of
    /// `redis` for TLS.
    pub url: SecretString,
    /// What every key begins with.
    pub prefix: String,
    /// The longest wait for a connection, and for the answer to a request.
    pub timeout: Duration,
}

/// Sends requests to a Redis server. Cheap to clone; all clones share one connection.
///
/// The connection is made when it is needed. A separate thread drives it, so that requests work from
/// every runtime. A request fails after the timeout, and its connection is dropped with all
/// that waits on it: a server that hangs holds no memory. Nothing is repeated here.
#[derive(Clone)]
pub struct RedisClient {
    shared: Arc<Shared>,
}

struct Shared {
    connector: Connector,
    options: RedisOptions,
    runtime: Handle,
    failures: AtomicU64,
    /// Ends the thread when the last client is dropped.
    _open: oneshot::Sender<Infallible>,
}

// === impl RedisOptions ===

impl RedisOptions {
    /// Returns the defaults for this address: keys begin with `tw:`, and a request takes 500 ms at
    /// most.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: SecretString::from(url.into()),
            prefix: "tw:".to_owned(),
            timeout: Duration::from_millis(500),
        }
    }
}

// === impl RedisClient ===

impl fmt::Debug for RedisClient {
    /// Omits the URL, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisClient")
            .field("prefix", &self.shared.options.prefix)
            .finish_non_exhaustive()
    }
}

impl RedisClient {
    /// Creates a client. Connects with the first request; [`check`](Self::check) is a good one.
    ///
    /// # Errors
    /// [`RedisError::Address`] if the URL is none, and [`RedisError::Closed`] if the system gives
    /// no thread.
    pub fn new(options: RedisOptions) -> Result<Self, RedisError> {
        let address = Address::parse(options.url.expose_secret())?;
        let connector = Connector::new(address, options.timeout)?;
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|_| RedisError::Closed)?;
        let handle = runtime.handle().clone();
        let (open, closed) = oneshot::channel::<Infallible>();
        std::thread::Builder::new()
            .name("store-redis".to_owned())
            .spawn(move || runtime.block_on(async { drop(closed.await) }))
            .map_err(|_| RedisError::Closed)?;
        Ok(Self {
            shared: Arc::new(Shared {
                connector,
                options,
                runtime: handle,
                failures: AtomicU64::new(0),
                _open: open,
            }),
        })
    }

    /// Creates a client that sends its requests over this transport, in tasks of the runtime that it is
    /// created on. The URL of the options is not used.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    #[must_use]
    pub fn over(transport: Arc<dyn Transport>, options: RedisOptions) -> Self {
        let (open, _) = oneshot::channel::<Infallible>();
        Self {
            shared: Arc::new(Shared {
                connector: Connector::over(transport, options.timeout),
                options,
                runtime: Handle::current(),
                failures: AtomicU64::new(0),
                _open: open,
            }),
        }
    }

    /// Returns the name of a key.
    #[must_use]
    pub fn key(&self, name: impl fmt::Display) -> String {
        format!("{}{name}", self.shared.options.prefix)
    }

    /// Number of requests that failed since the start.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.shared.failures.load(Ordering::Relaxed)
    }

    /// Returns the number of the connection, if there is one and it leads to one server. Another server
    /// of a Redis Cluster may take a slot over without a new connection.
    pub(super) fn connection(&self) -> Option<u64> {
        if self.shared.connector.is_cluster() {
            return None;
        }
        let number = self.shared.connector.current.load(Ordering::Acquire);
        (number > 0).then_some(number)
    }

    /// Returns what the server says of itself.
    ///
    /// # Errors
    /// [`RedisError::TooOld`], and those of every request.
    pub async fn check(&self) -> Result<ServerInfo, RedisError> {
        let info = cmd("INFO").arg("server").to_owned();
        let servers = texts(self.query(info).await?);
        let info = cmd("INFO").arg("memory").to_owned();
        let memory = texts(self.query(info).await?);
        let is_cluster = self.shared.connector.is_cluster();
        let mut worst: Option<ServerInfo> = None;
        for (at, server) in servers.iter().enumerate() {
            // All nodes of a cluster answer, in any order.
            let memory = memory.get(at).map_or("", String::as_str);
            let info = ServerInfo::parse(&format!("{server}\r\n{memory}"), is_cluster)?;
            worst = Some(match worst {
                Some(worst) => worst.or_worse(info),
                None => info,
            });
        }
        worst.ok_or_else(|| RedisError::Rejected("INFO has no answer".to_owned()))
    }

    /// Sends a command.
    ///
    /// # Errors
    /// After [`RedisError::Timeout`] and [`RedisError::Unreachable`] the command may have been
    /// carried out, or still be.
    pub async fn query<T>(&self, command: Cmd) -> Result<T, RedisError>
    where
        T: FromRedisValue + Send + 'static,
    {
        self.run(|mut connection| async move { command.query_async(&mut connection.inner).await })
            .await
    }

    /// Sends commands in one piece. They are not a transaction unless the pipeline says so.
    ///
    /// # Errors
    /// As [`query`](Self::query). An error of a single command is that of the pipeline unless it
    /// ignores errors: then the result is a list of results.
    pub async fn pipeline<T>(&self, pipeline: Pipeline) -> Result<T, RedisError>
    where
        T: FromRedisValue + Send + 'static,
    {
        self.run(|mut connection| async move { pipeline.query_async(&mut connection.inner).await })
            .await
    }

    /// Runs a script with these keys and arguments. Loads it if the server does not know it.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn script<T>(
        &self,
        script: &'static Script,
        prepare: impl FnOnce(&mut ScriptInvocation<'static>) + Send,
    ) -> Result<T, RedisError>
    where
        T: FromRedisValue + Send + 'static,
    {
        let mut invocation = script.prepare_invoke();
        prepare(&mut invocation);
        self.run(
            |mut connection| async move { invocation.invoke_async(&mut connection.inner).await },
        )
        .await
    }

    /// Runs a request on the client's thread, which goes on if this future is dropped.
    pub(super) async fn run<T, F, R>(&self, request: R) -> Result<T, RedisError>
    where
        T: Send + 'static,
        F: Future<Output = ::redis::RedisResult<T>> + Send + 'static,
        R: FnOnce(Connection) -> F + Send + 'static,
    {
        let shared = self.shared.clone();
        let running = self.shared.runtime.spawn(async move {
            let result = shared.request(request).await;
            if result.is_err() {
                shared.failures.fetch_add(1, Ordering::Relaxed);
            }
            result
        });
        running.await.unwrap_or(Err(RedisError::Closed))
    }
}

/// Returns the texts of an answer, of which a cluster gives one for each node.
fn texts(answer: Value) -> Vec<String> {
    match answer {
        Value::Map(nodes) => nodes
            .into_iter()
            .flat_map(|(_, text)| texts(text))
            .collect(),
        Value::Array(all) => all.into_iter().flat_map(texts).collect(),
        other => ::redis::from_redis_value(other).into_iter().collect(),
    }
}

// === impl Shared ===

impl Shared {
    async fn request<T, F, R>(&self, request: R) -> Result<T, RedisError>
    where
        F: Future<Output = ::redis::RedisResult<T>>,
        R: FnOnce(Connection) -> F,
    {
        let connection = self.connector.connection().await?;
        let number = connection.number;
        let limit = self.options.timeout;
        let result = match timeout(limit, request(connection)).await {
            Ok(Err(error)) if error.is_timeout() => Err(RedisError::Timeout(limit)),
            Ok(result) => result.map_err(RedisError::from),
            Err(_) => Err(RedisError::Timeout(limit)),
        };
        if let Err(error) = &result
            && error.ends_connection()
        {
            self.connector.drop_connection(number).await;
        }
        result
    }
}
