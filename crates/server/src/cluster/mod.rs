//! Several nodes that share a Redis: each finds the streams of the others there, and reads them from
//! the node that writes them.
//!
//! Redis is asked once for a stream of another node, never per token: `membership` says where the
//! process of a tag listens and whether it is alive, as `node_registration` says it there, and
//! `claims` has the idempotency keys.
//! `shared_logs` has what outlives a node: what it stored of ended responses, and the records of those
//! that are replicated while they run. `owners` asks for a process once for all that look for it, and
//! `source` puts these together for the engine. `sweep` and
//! `deliveries` go on with what a lost node left, and `lease` keeps a node that slept from going on
//! with what another one has taken over. `tickets` has the tickets that were used.

mod claims;
mod deliveries;
mod lease;
mod lost_usage;
mod membership;
mod node_record;
mod node_registration;
mod options;
mod owners;
mod revocations;
mod shared_logs;
mod source;
mod sweep;
mod tickets;

pub use deliveries::ClusterDeliveries;
pub use membership::ClusterStatus;
pub use options::ClusterOptions;
pub use source::ClusterSource;

use std::collections::HashMap;
use std::fmt;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use redis::{Pipeline, Script, cmd};
use tokenwire_core::engine::{ReplicaOptions, Replicated, SharedEngine};
use tokenwire_core::log::{FlushOptions, LogStore};
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::Tag;
use tokenwire_peer::{Client, Network, NodeAddress, Secret, Server, Strangers, Tcp};
use tokenwire_store::DiskStore;
use tokenwire_store::redis::{
    RedisClient, RedisError, RedisOptions, RedisRetention, RedisStore, ServerInfo,
};

use crate::config::schema::{self, Config, Replicate};
use crate::listeners::handover_path;
use crate::serve_error::ServeError;
use deliveries::Deliveries;
use lease::Lease;
use membership::{LEASE_MS, Membership};
use node_record::NodeRecord;
use node_registration::NodeRegistration;
use owners::Owners;
use shared_logs::SharedLogs;

/// Addresses of nodes that are remembered.
const KNOWN: usize = 1024;
/// The time between two appends of a running log.
const TICK: Duration = Duration::from_millis(250);
/// The longest pause after a failed append.
const RETRY_MAX: Duration = Duration::from_secs(1);
/// Larger logs are not copied to Redis.
const LARGEST_COPY: usize = 16 * 1024 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// The commands that are used, with what follows the key. They leave no key.
const COMMANDS: [(&str, &[&str]); 23] = [
    ("XADD", &["1-0", "a", "1"]),
    ("XRANGE", &["-", "+"]),
    ("XREVRANGE", &["+", "-"]),
    ("PEXPIRE", &["1000"]),
    ("UNLINK", &[]),
    ("HSET", &["a", "1"]),
    ("HINCRBY", &["a", "1"]),
    ("EXPIRE", &["1"]),
    ("HGETALL", &[]),
    ("HGET", &["a"]),
    ("HMGET", &["a"]),
    ("HDEL", &["a"]),
    ("SADD", &["a"]),
    ("SMEMBERS", &[]),
    ("SREM", &["a"]),
    ("ZADD", &["1", "a"]),
    ("ZRANGE", &["0", "-1"]),
    ("ZREM", &["a"]),
    ("ZREMRANGEBYSCORE", &["-inf", "1"]),
    ("SET", &["1", "PX", "1000"]),
    ("GET", &[]),
    ("EXISTS", &[]),
    ("DEL", &[]),
];

/// A script that does nothing but what its user may not do elsewhere.
static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new("return #redis.call('TIME')"));

/// This node, and what it knows of the others.
pub struct Cluster {
    config: schema::Cluster,
    tag: Tag,
    name: String,
    secret: Secret,
    redis: RedisClient,
    network: Arc<dyn Network>,
    replicated: Replicated,
    logs: Arc<SharedLogs>,
    deliveries: Deliveries,
    lease: Arc<Lease>,
    /// How long a claim of an idempotency key is kept.
    retain: Duration,
    membership: Membership,
    registration: Arc<NodeRegistration>,
    strangers: OnceLock<Arc<Strangers>>,
    /// The clients of other nodes and what they were made of, by tag.
    clients: Mutex<HashMap<Tag, (NodeRecord, Client)>>,
    owners: Owners,
    /// The node's own store, where it has one.
    store: Option<Arc<DiskStore>>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("tag", &self.tag)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// Creates this node, if the gateway is one of several. Asks Redis whether it can be used, and
    /// blocks for at most a second. A Redis that does not answer may come back later.
    ///
    /// # Errors
    /// [`ServeError::Cluster`] if Redis refuses the password, a command or TLS, is too old, or drops
    /// data when it is full.
    pub(crate) fn open(
        config: &Config,
        tag: Tag,
        store: Option<Arc<DiskStore>>,
    ) -> Result<Option<Arc<Self>>, ServeError> {
        let (Some(url), Some(secret)) = (&config.cluster.url, &config.cluster.secret) else {
            return Ok(None);
        };
        let refused = |error: &dyn fmt::Display| ServeError::Cluster(error.to_string());
        let redis = RedisClient::new(RedisOptions::new(url.expose()));
        let redis = redis.map_err(|error| refused(&error))?;
        let retention = RedisRetention {
            logs: config.streams.retain_events,
            objects: config.retain_responses(),
            ..RedisRetention::default()
        };
        let options = ClusterOptions {
            tag,
            name: config.cluster.name.clone().unwrap_or_else(machine),
            secret: Secret::new(secret.expose().as_bytes()),
            redis,
            network: Arc::new(Tcp),
            retention,
            replicated: match config.store.replicate {
                Replicate::Background => Replicated::Background,
                Replicate::All => Replicated::All,
            },
        };
        let this = Self {
            store,
            config: config.cluster.clone(),
            ..Self::new(options)
        };
        match futures::executor::block_on(this.check()) {
            Ok(info) => {
                if let Some(problem) = problem(&info) {
                    return Err(refused(&problem));
                }
            }
            Err(error) if error.is_retryable() => tracing::warn!(
                %error,
                "the Redis of cluster.url does not answer: streams of this node work, those of other nodes once it does"
            ),
            Err(error) => return Err(refused(&error)),
        }
        Ok(Some(Arc::new(this)))
    }

    /// Creates a node that has no store of its own and does not listen: what connects to it is
    /// [announced](Self::announce).
    #[must_use]
    pub fn new(options: ClusterOptions) -> Self {
        let ClusterOptions {
            tag,
            name,
            secret,
            redis,
            network,
            retention,
            replicated,
        } = options;
        let logs = RedisStore::new(redis.clone(), retention);
        let registration = Arc::new(NodeRegistration::new(redis.clone(), tag.clone()));
        let logs = SharedLogs::new(logs, redis.clone(), tag.clone(), registration.clone());
        Self {
            config: schema::Cluster::default(),
            tag,
            name,
            secret,
            redis,
            network,
            replicated,
            logs: Arc::new(logs),
            deliveries: Deliveries::default(),
            lease: Arc::new(Lease::new(Duration::from_millis(LEASE_MS))),
            retain: retention.objects + Duration::from_secs(60 * 60),
            membership: Membership::default(),
            registration,
            strangers: OnceLock::new(),
            clients: Mutex::default(),
            owners: Owners::default(),
            store: None,
        }
    }

    /// Asks Redis what it is, and tries the commands that nodes use.
    async fn check(&self) -> Result<ServerInfo, RedisError> {
        let info = self.redis.check().await?;
        let key = self.redis.key(format_args!("probe:{}", self.tag));
        let mut commands = Pipeline::new();
        for (name, rest) in COMMANDS {
            let command = cmd(name).arg(&key).arg(rest).to_owned();
            commands.add_command(command).ignore();
        }
        self.redis.pipeline::<()>(commands).await?;
        let _: u64 = self.redis.script(&SCRIPT, |_| {}).await?;
        Ok(info)
    }

    /// Returns the name of this process.
    #[must_use]
    pub fn tag(&self) -> &Tag {
        &self.tag
    }

    /// Returns the name of this node.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the client of the Redis that all nodes share.
    #[must_use]
    pub fn redis(&self) -> &RedisClient {
        &self.redis
    }

    /// Returns what the engine stores where the other nodes read it.
    #[must_use]
    pub fn replica(&self) -> ReplicaOptions {
        ReplicaOptions {
            store: self.logs.clone() as Arc<dyn LogStore>,
            running: self.replicated,
            flush: FlushOptions {
                tick: TICK,
                retry_max: RETRY_MAX,
                ..FlushOptions::default()
            },
            max_bytes: LARGEST_COPY,
            lease: Some(self.lease.clone()),
        }
    }

    /// Returns the number of connections to `cluster.listen` that were closed before they proved the
    /// secret.
    #[must_use]
    pub fn refused_connections(&self) -> u64 {
        self.strangers
            .get()
            .map_or(0, |strangers| strangers.refused())
    }

    /// Listens for the other nodes.
    ///
    /// # Errors
    /// [`ServeError::ClusterListen`].
    pub(crate) fn listen(
        &self,
        engine: SharedEngine,
        config: &Config,
    ) -> Result<Server, ServeError> {
        let address = self.config.listen.clone().unwrap_or_default();
        // Gateways that take over from each other listen both for a while. Each says who it is.
        let shared = handover_path(config).is_some();
        let bound = bind(&address, shared).and_then(|listener| {
            let bound = listener.local_addr()?;
            let (tag, secret) = (self.tag.clone(), self.secret.clone());
            Ok((bound, Server::over_tcp(listener, tag, secret, engine)?))
        });
        let (bound, server) =
            bound.map_err(|source| ServeError::ClusterListen { address, source })?;
        self.announce(self.config.advertised(bound));
        let _ = self.strangers.set(server.strangers());
        Ok(server)
    }

    /// Says where the other nodes reach this one. The lease is renewed from then on.
    pub fn announce(&self, address: String) {
        self.registration.announce(NodeRecord {
            address,
            holder: None,
            name: self.name.clone(),
            protocol: tokenwire_peer::VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        });
    }

    /// Returns the client of a process that was asked before.
    fn known(&self, tag: &str) -> Option<Client> {
        let tag: Tag = tag.parse().ok()?;
        let clients = self.clients.lock();
        clients.get(&tag).map(|(_, client)| client.clone())
    }

    /// Returns the client of a process, and remembers it.
    fn client(&self, tag: &Tag, record: &NodeRecord) -> Client {
        let mut clients = self.clients.lock();
        if let Some((known, client)) = clients.get(tag)
            && known == record
        {
            return client.clone();
        }
        if clients.len() >= KNOWN {
            // Most are of processes that have ended.
            clients.clear();
        }
        let address = NodeAddress {
            address: record.address.clone(),
            tag: record.holder(tag),
            secret: self.secret.clone(),
        };
        let network = self.network.clone();
        let client = Client::node_over(record.name.as_str(), address, network);
        clients.insert(tag.clone(), (record.clone(), client.clone()));
        client
    }
}

/// Returns why a Redis cannot be used.
fn problem(info: &ServerInfo) -> Option<String> {
    (!info.keeps_everything()).then(|| {
        format!(
            "the maxmemory-policy of Redis is {}, by which it drops streams when it is full; set it to noeviction",
            info.eviction_policy
        )
    })
}

fn bind(address: &str, shared: bool) -> std::io::Result<TcpListener> {
    let addresses: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    let mut failed = std::io::ErrorKind::AddrNotAvailable.into();
    for address in addresses {
        let listen = || {
            let domain = socket2::Domain::for_address(address);
            let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.set_reuse_port(shared)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            Ok(socket.into())
        };
        match listen() {
            Ok(listener) => return Ok(listener),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Returns the name of the machine.
fn machine() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "node" } else { name }.to_owned()
}

fn unavailable(error: &RedisError) -> ApiError {
    tracing::debug!(%error, "Redis was asked in vain");
    store_unavailable("The Redis that all nodes share does not answer, which knows of this.")
}

fn store_unavailable(message: &str) -> ApiError {
    ApiError::new(ErrorCode::StoreUnavailable, message).retry_after(Duration::from_secs(1))
}
