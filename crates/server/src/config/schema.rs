//! The typed tree of the configuration, with its defaults.
//!
//! Every key that exists has an effect, and every key has a default, so that an empty file is a
//! whole configuration. A key that is added here must be added to `config/tokenwire.yaml` as well;
//! a test holds the two together.

use std::time::Duration;

use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

use super::secret::Secret;
use super::units::{duration, size};
pub use super::upstream::{
    Api, Breaker, Continuation, HealthCheck, Hedging, Retry, TimeoutOverrides, Timeouts, Upstream,
    UpstreamLimits,
};

/// The name of the model that the embedded simulator answers under.
pub const SIMULATOR_MODEL: &str = "simulator";

/// Where OpenAI's own API is.
pub const OPENAI_BASE_URL: &str = "https://api.openai.com/v1";

/// The whole configuration of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the gateway listens.
    pub server: Server,
    /// The model of a request that names none; [`Config::default_model`] resolves it.
    pub default_model: Option<String>,
    /// The model servers. Empty: the embedded simulator answers.
    pub upstreams: Vec<Upstream>,
    /// Request headers of clients that go to the upstreams.
    pub forward_headers: ForwardHeaders,
    /// How long an upstream may take; each upstream, and each model of it, may override each.
    pub timeouts: Timeouts,
    /// When a request is sent again.
    pub retry: Retry,
    /// When an upstream that keeps failing is left alone.
    pub breaker: Breaker,
    /// The life of a stream and of its readers.
    pub streams: Streams,
    /// Bounds on what clients and upstreams may send or hold open.
    pub limits: Limits,
    /// Which requests share an answer instead of asking twice.
    pub reuse: Reuse,
    /// Where the logs of the streams are kept.
    pub store: Store,
    /// Who is told that a background response has ended.
    pub webhooks: Webhooks,
    /// What is logged, and how.
    pub log: Log,
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

/// Where the gateway listens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// The address or host name to listen on.
    pub host: String,
    /// The TCP port; 0 takes any free one.
    pub port: u16,
    /// The number of worker threads; 0 is one per core. [`Server::workers`] resolves it.
    pub workers: usize,
    /// Origins of web pages that may start streams, such as `https://app.example.com`.
    pub allowed_origins: Vec<String>,
    /// Whether pages from loopback origins (`http://localhost:5173`) may as well.
    pub allow_loopback_origins: bool,
    /// How long a shutdown waits for open streams.
    #[serde(with = "duration")]
    pub shutdown_timeout: Duration,
    /// How many connections the kernel may hold that are not accepted yet.
    pub backlog: u32,
    /// Where the gateway stands: upstreams of the same region are preferred.
    pub region: Option<String>,
}

/// The life of a stream and of its readers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Streams {
    /// After how long a silence an SSE comment is sent.
    #[serde(with = "duration")]
    pub heartbeat: Duration,
    /// How long the SDK routes wait for the upstream's status before they answer 200.
    #[serde(with = "duration")]
    pub commit_after: Duration,
    /// How long a generation that nobody reads runs on before it is cancelled; `0s`: not at all.
    #[serde(with = "duration")]
    pub disconnect_grace: Duration,
    /// After how long a reader that takes nothing is cut.
    #[serde(with = "duration")]
    pub slow_reader_timeout: Duration,
    /// How long the events of a finished stream can still be read.
    #[serde(with = "duration")]
    pub retain_events: Duration,
    /// How long its response object can still be read.
    #[serde(with = "duration")]
    pub retain_responses: Duration,
    /// Memory for all logs and response objects together; the oldest finished ones go first.
    #[serde(with = "size")]
    pub max_memory: usize,
    /// Memory for the log of one stream. [`Streams::max_stream_bytes`] holds it to `max_memory`.
    #[serde(with = "size")]
    pub max_stream_bytes: usize,
    /// The number of events of one stream.
    pub max_stream_events: u64,
    /// After how long a WebSocket is pinged, and again.
    #[serde(with = "duration")]
    pub ping_interval: Duration,
    /// How long after a ping a silent peer is cut.
    #[serde(with = "duration")]
    pub ping_timeout: Duration,
    /// How many lanes of one WebSocket may run side by side.
    pub max_lanes: usize,
    /// How many `response.create` of one WebSocket may wait behind others.
    pub max_queued_creates: usize,
}

/// Bounds on what clients and upstreams may send or hold open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The body of one request.
    #[serde(with = "size")]
    pub body: usize,
    /// Generations that run at the same time.
    pub streams: usize,
    /// TCP connections open at the same time.
    pub connections: usize,
    /// One WebSocket message from a client; left out: as `body`. [`Limits::websocket_frame`]
    /// resolves it.
    #[serde(with = "size::option")]
    pub websocket_frame: Option<usize>,
    /// One event from an upstream.
    #[serde(with = "size")]
    pub event: usize,
}

/// Which requests share an answer instead of asking twice. Two are identical that would send the
/// same body and the same headers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reuse {
    /// Whether identical requests in flight share one upstream stream.
    pub coalesce: bool,
    /// Whether identical requests that are deterministic (`temperature: 0` or a `seed`) get the
    /// answer that an earlier one got.
    pub cache: bool,
    /// How long after its end an answer may be given again; at most [`Streams::retain_events`].
    #[serde(with = "duration")]
    pub cache_ttl: Duration,
    /// How many answers are remembered; the oldest go first.
    pub cache_entries: usize,
    /// Tokens a second at which a remembered answer is given; 0 is full speed.
    pub pace: u32,
    /// Whether one owner's answer may be another's.
    pub across_owners: bool,
}

/// Where the logs of the streams are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// The kind of store.
    #[serde(deserialize_with = "word")]
    pub kind: StoreKind,
}

/// The kinds of store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// In the memory of the process: gone when it ends.
    #[default]
    Memory,
}

/// Who is told that a background response has ended, and how hard is tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webhooks {
    /// Is told of every background response; needs `secret`.
    pub url: Option<String>,
    /// What is signed with where a request brings no secret of its own: `whsec_` and padded base64.
    pub secret: Option<Secret>,
    /// Whether URLs may lead to private and loopback addresses.
    pub allow_private: bool,
    /// How long one attempt may take.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// For how long a delivery is tried again.
    #[serde(with = "duration")]
    pub retry_for: Duration,
    /// Deliveries that are not over.
    pub max_pending: usize,
    /// Deliveries that are over and can still be listed: of those that succeeded, and again of
    /// those that were given up.
    pub max_kept: usize,
    /// Attempts at the same time.
    pub concurrency: usize,
    /// Attempts at the same time to one host.
    pub concurrency_per_host: usize,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// A level, or a filter in the syntax of `RUST_LOG`: `info,tokenwire=debug`.
    pub filter: String,
    /// The shape of a line.
    #[serde(deserialize_with = "word")]
    pub format: LogFormat,
}

/// The shape of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// Reads an enum from its name alone: serde would take the number of a variant as well.
pub(super) fn word<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<T, D::Error> {
    T::deserialize(String::deserialize(deserializer)?.into_deserializer())
}

// === impl Config ===

impl Config {
    /// Whether the embedded simulator answers, because no upstream is configured.
    #[must_use]
    pub fn uses_simulator(&self) -> bool {
        self.upstreams.is_empty()
    }

    /// The model of a request that names none.
    ///
    /// Where none is configured: the simulator's; else the first model that the first upstream
    /// lists by its full name; else, for OpenAI itself, a small one. `None` means that nothing can
    /// be assumed about the upstream and that such a request is refused.
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

    /// The timeouts that hold for `upstream`.
    #[must_use]
    pub fn timeouts_of(&self, upstream: &Upstream) -> Timeouts {
        self.timeouts.with(&upstream.timeouts)
    }
}

// === impl Server ===

impl Server {
    /// The number of worker threads to start, never 0.
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
            shutdown_timeout: Duration::from_secs(30),
            backlog: 4096,
            region: None,
        }
    }
}

// === impl Streams ===

impl Streams {
    /// The bound of one stream's log in bytes: one stream cannot hold more than all together may.
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
            retain_responses: Duration::from_secs(24 * 60 * 60),
            max_memory: 1 << 30,
            max_stream_bytes: 64 << 20,
            max_stream_events: 1_000_000,
            ping_interval: Duration::from_secs(20),
            ping_timeout: Duration::from_secs(10),
            max_lanes: 32,
            max_queued_creates: 32,
        }
    }
}

// === impl Limits ===

impl Limits {
    /// The largest WebSocket message in bytes: as large as a body, unless configured, since it
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
            websocket_frame: None,
            event: 16 << 20,
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
