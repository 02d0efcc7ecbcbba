//! The typed tree of the configuration, with its defaults.
//!
//! Every key has an effect and a default, so an empty file is a valid configuration. A new key must
//! also be added to `config/tokenwire.yaml`; a test compares the two.

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use super::auth::{Auth, KeyEntry, Role};
pub use super::chat::{
    Chat, CustomTools, DeveloperRole, MaxTokensField, ReasoningBack, StreamOptions,
    UnsupportedTools,
};
pub use super::client_limits::{ClientLimits, Overrun, Price, Prices, StoreAway};
pub use super::cluster::Cluster;
use super::secret::Secret;
pub use super::telemetry::{OptIn, Otlp, OtlpProtocol, Ratio, Telemetry};
pub use super::timeouts::{TimeoutOverrides, Timeouts};
use super::units::{duration, size, word};
pub use super::upstream::{
    Api, Breaker, Continuation, HealthCheck, Hedging, Retry, Upstream, UpstreamLimits, UpstreamTls,
};
pub use super::watch::{Action, WatchEntry, WatchedPart};

/// Model name of the embedded simulator.
pub const SIMULATOR_MODEL: &str = "simulator";

/// Base URL of OpenAI's API.
pub const OPENAI_BASE_URL: &str = "https://api.openai.com/v1";

/// The configuration of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Listener, workers and connections.
    pub server: Server,
    /// Who may use the gateway.
    pub auth: Auth,
    /// Model of requests without one. [`Config::default_model`] resolves it.
    pub default_model: Option<String>,
    /// The model servers. If empty, the embedded simulator answers.
    pub upstreams: Vec<Upstream>,
    /// Request headers that are forwarded to the upstreams.
    pub forward_headers: ForwardHeaders,
    /// Timeouts of upstreams. Each upstream and each of its models may override them.
    pub timeouts: Timeouts,
    /// Retries and hedging.
    pub retry: Retry,
    /// Circuit breakers.
    pub breaker: Breaker,
    /// Streams and their readers.
    pub streams: Streams,
    /// Limits of requests, connections and events, and of what clients may use.
    pub limits: Limits,
    /// Prices of models, which budgets are counted by.
    pub prices: Prices,
    /// Sharing of answers between identical requests.
    pub reuse: Reuse,
    /// Storage of stream logs.
    pub store: Store,
    /// Several nodes behind one address.
    pub cluster: Cluster,
    /// Webhooks for background responses.
    pub webhooks: Webhooks,
    /// What is looked for in answers while they stream.
    pub watch: Vec<WatchEntry>,
    /// Logging.
    pub log: Log,
    /// Traces and metrics for collectors.
    pub telemetry: Telemetry,
}

/// Names of request headers, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ForwardHeaders(pub Vec<String>);

impl Default for ForwardHeaders {
    fn default() -> Self {
        Self(
            [
                "openai-organization",
                "openai-project",
                "traceparent",
                "tracestate",
            ]
            .map(str::to_owned)
            .to_vec(),
        )
    }
}

/// Listener, workers and connections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Address or host name to listen on.
    pub host: String,
    /// TCP port. 0 takes a free one.
    pub port: u16,
    /// Number of worker threads; 0 is one per core. [`Server::workers`] resolves it.
    pub workers: usize,
    /// Origins of web pages that are allowed, such as `https://app.example.com`.
    pub allowed_origins: Vec<String>,
    /// Whether pages from loopback origins (`http://localhost:5173`) are allowed.
    pub allow_loopback_origins: bool,
    /// Public host names of the gateway, such as `chat.example.com`. `*.example.com` matches one
    /// label.
    pub allowed_hosts: Vec<String>,
    /// URL by which clients reach the gateway, such as `https://chat.example.com`.
    pub public_url: Option<String>,
    /// Whether a GET without any sign of where it comes from may start a generation on hosts that
    /// are not loopback.
    pub allow_get_start: bool,
    /// Maximum time that a shutdown waits for open streams.
    #[serde(with = "duration")]
    pub shutdown_timeout: Duration,
    /// Maximum number of connections that wait to be accepted.
    pub backlog: u32,
    /// Region of the gateway. Upstreams of the same region are preferred.
    pub region: Option<String>,
    /// Whether waiting streams are written without the buffers of the HTTP server.
    pub direct_writes: bool,
    /// Address of a second listener for operations only; none if left out.
    pub operations: Option<String>,
    /// Maximum time for a request body or a WebSocket message. Every `min_body_rate` bytes extend it
    /// by a second.
    #[serde(with = "duration")]
    pub body_timeout: Duration,
    /// Minimum rate in bytes per second of a body that takes longer than `body_timeout`.
    #[serde(with = "size")]
    pub min_body_rate: usize,
    /// Maximum number of connections of one client address; 0 is unlimited.
    pub max_connections_per_address: usize,
    /// Addresses and networks of proxies whose `X-Forwarded-*` and `Forwarded` are believed.
    pub trusted_proxies: Vec<String>,
    /// TLS for clients. Without files they use plain HTTP.
    pub tls: ServerTls,
    /// Whether clients may use HTTP/2 over TLS.
    pub http2: bool,
}

/// The certificate of the listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerTls {
    /// File with the certificate and those of its issuers, in PEM.
    pub cert: Option<String>,
    /// File with the key of the certificate, in PEM.
    pub key: Option<String>,
}

/// Streams and their readers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Streams {
    /// Time without events after which an SSE comment is sent.
    #[serde(with = "duration")]
    pub heartbeat: Duration,
    /// Maximum time that the SDK routes wait for the upstream's status before they answer 200.
    #[serde(with = "duration")]
    pub commit_after: Duration,
    /// Time after which a generation without readers is cancelled. `0s` cancels it at once.
    #[serde(with = "duration")]
    pub disconnect_grace: Duration,
    /// Time after which a reader that accepts no bytes is disconnected.
    #[serde(with = "duration")]
    pub slow_reader_timeout: Duration,
    /// Time for which the events of a finished stream are kept.
    #[serde(with = "duration")]
    pub retain_events: Duration,
    /// Time for which the response object of a finished stream is kept.
    /// [`Config::retain_responses`] has the default, which depends on the store.
    #[serde(with = "duration::option")]
    pub retain_responses: Option<Duration>,
    /// Memory for all requests and answers, from the first byte of a body on. The oldest finished
    /// answers are removed first. Past it requests are refused, and running streams wait for each
    /// other.
    #[serde(with = "size")]
    pub max_memory: usize,
    /// Memory for the log of one stream. [`Streams::max_stream_bytes`] caps it at `max_memory`.
    #[serde(with = "size")]
    pub max_stream_bytes: usize,
    /// Maximum number of events of one stream, at most 8,388,608.
    pub max_stream_events: u64,
    /// Time between two pings of a WebSocket.
    #[serde(with = "duration")]
    pub ping_interval: Duration,
    /// Time after a ping until a silent peer is disconnected.
    #[serde(with = "duration")]
    pub ping_timeout: Duration,
    /// Maximum number of concurrent lanes of one WebSocket.
    pub max_lanes: usize,
    /// Maximum number of queued `response.create` of one WebSocket.
    pub max_queued_creates: usize,
    /// Key that seals reasoning for clients that give it back. Without one it is kept in the store's
    /// folder, or each process makes its own.
    pub sealing_key: Option<Secret>,
}

/// Limits of requests, connections and events, and of what clients may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Size of a request body.
    #[serde(with = "size")]
    pub body: usize,
    /// Number of running generations.
    pub streams: usize,
    /// Number of open TCP connections.
    pub connections: usize,
    /// Number of open streams of one HTTP/2 connection. Those beyond the first count as connections.
    pub streams_per_connection: u32,
    /// Size of a client's WebSocket message; `body` if left out. [`Limits::websocket_frame`] resolves
    /// it.
    #[serde(with = "size::option")]
    pub websocket_frame: Option<usize>,
    /// Size of an event from an upstream.
    #[serde(with = "size")]
    pub event: usize,
    /// What each key may use.
    pub per_key: ClientLimits,
    /// What each owner may use, with all its keys.
    pub per_owner: ClientLimits,
    /// Output tokens that are reserved for a request which sets no limit, if the price of its model
    /// has none.
    pub reserve_output: u64,
    /// What happens to an answer that outgrows what its owner may use.
    #[serde(deserialize_with = "word")]
    pub on_overrun: Overrun,
    /// What happens to requests with limits while the Redis of the cluster is away.
    #[serde(deserialize_with = "word")]
    pub store_away: StoreAway,
}

/// Sharing of answers between identical requests, which send the same body and headers upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reuse {
    /// Whether identical concurrent requests share one upstream stream.
    pub coalesce: bool,
    /// Whether identical deterministic requests (`temperature: 0` or a `seed`) get the answer of an
    /// earlier one.
    pub cache: bool,
    /// Time for which an answer is reused; at most [`Streams::retain_events`].
    #[serde(with = "duration")]
    pub cache_ttl: Duration,
    /// Maximum number of cached answers. Beyond it the oldest are removed.
    pub cache_entries: usize,
    /// Tokens per second of a cached answer; 0 is full speed.
    pub pace: u32,
    /// Whether owners share answers with each other.
    pub across_owners: bool,
}

/// Where the logs of the streams are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// Kind of store.
    #[serde(deserialize_with = "word")]
    pub kind: StoreKind,
    /// Folder of the disk store.
    pub path: Option<String>,
    /// Time between two syncs to the disk.
    #[serde(with = "duration")]
    pub sync: Duration,
    /// Maximum size of the disk store; 0 for the disk's own.
    #[serde(with = "size")]
    pub max_bytes: usize,
    /// Which running streams the nodes of a [`Cluster`] keep in Redis.
    #[serde(deserialize_with = "word")]
    pub replicate: Replicate,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            kind: StoreKind::Memory,
            path: None,
            sync: Duration::from_secs(1),
            max_bytes: 0,
            replicate: Replicate::Background,
        }
    }
}

/// Kinds of store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// The memory of the process. Logs are lost when it ends.
    #[default]
    Memory,
    /// A folder on a local disk.
    Disk,
}

/// Running streams that survive the loss of their node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Replicate {
    /// Those of background responses.
    #[default]
    Background,
    /// All of them.
    All,
}

/// Webhooks for background responses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webhooks {
    /// Endpoint that receives an event for every background response. Requires `secret`.
    pub url: Option<String>,
    /// Secret for requests without their own: `whsec_` and padded base64.
    pub secret: Option<Secret>,
    /// Whether private and loopback addresses are allowed.
    pub allow_private: bool,
    /// Maximum time of one attempt.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// Maximum time for which a delivery is retried.
    #[serde(with = "duration")]
    pub retry_for: Duration,
    /// Maximum number of pending deliveries.
    pub max_pending: usize,
    /// Maximum number of ended deliveries kept for listing: of delivered ones, and again of dead
    /// letters.
    pub max_kept: usize,
    /// Maximum number of concurrent attempts.
    pub concurrency: usize,
    /// Maximum number of concurrent attempts to one host.
    pub concurrency_per_host: usize,
}

/// Logging.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// A level, or a filter in the syntax of `RUST_LOG`: `info,tokenwire=debug`.
    pub filter: String,
    /// Format of a line.
    #[serde(deserialize_with = "word")]
    pub format: LogFormat,
}

/// Format of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For terminals.
    #[default]
    Text,
    /// One JSON object per line, for collectors.
    Json,
}

// === impl Config ===

impl Config {
    /// Returns how long the response object of a finished stream is kept: by default a day in memory,
    /// and 30 days with a store, since clients come back to conversations that they keep by reference.
    #[must_use]
    pub fn retain_responses(&self) -> Duration {
        let day = Duration::from_secs(24 * 60 * 60);
        let default = match self.store.kind {
            StoreKind::Memory => day,
            StoreKind::Disk => 30 * day,
        };
        self.streams.retain_responses.unwrap_or(default)
    }

    /// Whether the embedded simulator answers, since no upstream is configured.
    #[must_use]
    pub fn uses_simulator(&self) -> bool {
        self.upstreams.is_empty()
    }

    /// Whether an upstream has a key that clients without credentials could spend.
    #[must_use]
    pub fn has_upstream_key(&self) -> bool {
        let mut upstreams = self.upstreams.iter();
        upstreams.any(|upstream| upstream.api_key.is_some())
    }

    /// Returns the model of requests without one.
    ///
    /// If none is configured: the simulator's; else the first model that the first upstream lists by
    /// its full name; else, for OpenAI, a small one. `None` means that such requests are refused.
    #[must_use]
    pub fn default_model(&self) -> Option<&str> {
        if self.default_model.is_some() {
            return self.default_model.as_deref();
        }
        let Some(first) = self.upstreams.first() else {
            return Some(SIMULATOR_MODEL);
        };
        first.models.first_name().or_else(|| {
            (first.base_url.trim_end_matches('/') == OPENAI_BASE_URL).then_some("gpt-4o-mini")
        })
    }

    /// Returns the timeouts of `upstream`.
    #[must_use]
    pub fn timeouts_of(&self, upstream: &Upstream) -> Timeouts {
        self.timeouts.with(&upstream.timeouts)
    }
}

// === impl Server ===

impl Server {
    /// Returns the number of worker threads to start, at least 1.
    #[must_use]
    pub fn workers(&self) -> usize {
        if self.workers > 0 {
            self.workers
        } else {
            std::thread::available_parallelism().map_or(1, usize::from)
        }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 3000,
            workers: 0,
            allowed_origins: Vec::new(),
            allow_loopback_origins: true,
            allowed_hosts: Vec::new(),
            public_url: None,
            allow_get_start: false,
            shutdown_timeout: Duration::from_secs(30),
            backlog: 4096,
            region: None,
            direct_writes: true,
            operations: None,
            body_timeout: Duration::from_secs(30),
            min_body_rate: 1024,
            max_connections_per_address: 0,
            trusted_proxies: Vec::new(),
            tls: ServerTls::default(),
            http2: true,
        }
    }
}

// === impl ServerTls ===

impl ServerTls {
    /// Returns whether clients use TLS.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.cert.is_some() && self.key.is_some()
    }
}

// === impl Streams ===

impl Streams {
    /// Returns the maximum size of one log in bytes, capped at `max_memory`.
    #[must_use]
    pub fn max_stream_bytes(&self) -> usize {
        self.max_stream_bytes.min(self.max_memory)
    }
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(15),
            commit_after: Duration::from_secs(5),
            disconnect_grace: Duration::from_secs(30),
            slow_reader_timeout: Duration::from_secs(30),
            retain_events: Duration::from_secs(10 * 60),
            retain_responses: None,
            max_memory: 1 << 30,
            max_stream_bytes: 64 << 20,
            max_stream_events: 1_000_000,
            ping_interval: Duration::from_secs(20),
            ping_timeout: Duration::from_secs(10),
            max_lanes: 32,
            max_queued_creates: 32,
            sealing_key: None,
        }
    }
}

// === impl Limits ===

impl Limits {
    /// Returns the maximum size of a WebSocket message in bytes: that of a body by default, since it
    /// carries the same requests.
    #[must_use]
    pub fn websocket_frame(&self) -> usize {
        self.websocket_frame.unwrap_or(self.body)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 32 << 20,
            streams: 10_000,
            connections: 25_000,
            streams_per_connection: 128,
            websocket_frame: None,
            event: 16 << 20,
            per_key: ClientLimits::default(),
            per_owner: ClientLimits::default(),
            reserve_output: 4096,
            on_overrun: Overrun::default(),
            store_away: StoreAway::default(),
        }
    }
}

// === impl Webhooks ===

impl Default for Webhooks {
    fn default() -> Self {
        Self {
            url: None,
            secret: None,
            allow_private: false,
            timeout: Duration::from_secs(15),
            retry_for: Duration::from_secs(24 * 60 * 60),
            max_pending: 10_000,
            max_kept: 1000,
            concurrency: 32,
            concurrency_per_host: 4,
        }
    }
}

// === impl Reuse ===

impl Default for Reuse {
    fn default() -> Self {
        Self {
            coalesce: false,
            cache: false,
            cache_ttl: Duration::from_secs(10 * 60),
            cache_entries: 10_000,
            pace: 0,
            across_owners: false,
        }
    }
}

// === impl Log ===

impl Default for Log {
    fn default() -> Self {
        Self {
            filter: "info".to_owned(),
            format: LogFormat::default(),
        }
    }
}
