//! What every request handler of a worker shares.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokenwire_core::engine::{Engine, LogStore, Registry, Reuse, ReuseOptions};
use tokenwire_core::id::Owner;
use tokenwire_core::snapshot::Api;
use tokenwire_core::upstream::{Clocks, OpenAi, OpenAiOptions, Route, Router};
use tokenwire_sse::SseOptions;
use tokenwire_ws::WebSocketOptions;
use tokio_util::task::TaskTracker;

use crate::config::schema;
use crate::config::schema::Config;
use crate::http::OriginPolicy;
use crate::metrics::Metrics;

/// One worker's view of the gateway.
#[derive(Debug)]
pub struct Service {
    /// The configuration.
    pub config: Arc<Config>,
    /// Starts and finds generations.
    pub engine: Engine,
    /// The upstreams.
    pub router: Router,
    /// Which web pages may ask.
    pub origins: OriginPolicy,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// What all workers share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The configuration.
    pub config: Arc<Config>,
    /// Every generation that can be asked for.
    pub registry: Arc<Registry>,
    /// Where logs are kept.
    pub store: Arc<dyn LogStore>,
    /// Which requests share an answer.
    pub reuse: Option<Arc<Reuse>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The tasks that write generations.
    pub tasks: TaskTracker,
    /// The embedded simulator's base URL, where it answers.
    pub simulator: Option<String>,
    /// Whether the gateway listens on loopback only.
    pub local_only: bool,
}

impl Service {
    /// A worker's service, with HTTP clients of its own: a client that is used on two runtimes times out.
    ///
    /// # Errors
    /// An upstream that cannot be set up, by name.
    pub fn new(shared: &Shared) -> Result<Self, String> {
        let config = shared.config.clone();
        let routes = match &shared.simulator {
            Some(base_url) => {
                let simulator =
                    schema::Upstream { name: "simulator".to_owned(), base_url: base_url.clone(), ..schema::Upstream::default() };
                vec![route(&config, &simulator)?]
            }
            None => config.upstreams.iter().map(|upstream| route(&config, upstream)).collect::<Result<_, _>>()?,
        };
        let router = Router::new(routes, config.default_model().map(str::to_owned));
        let grace = config.streams.disconnect_grace;
        let engine = Engine::new(shared.registry.clone(), shared.store.clone(), Arc::new(router.clone()), shared.tasks.clone(), grace)
            .sharing(shared.reuse.clone())
            .observed_by(shared.metrics.observer());
        let origins = OriginPolicy {
            allowed: config.server.allowed_origins.clone(),
            loopback: config.server.allow_loopback_origins,
            local_only: shared.local_only,
        };
        Ok(Self { config, engine, router, origins, metrics: shared.metrics.clone() })
    }

    /// Who asks. Without keys everybody is the same.
    #[must_use]
    pub fn owner(&self) -> Owner {
        Owner::Anonymous
    }

    /// The names by which clients may ask for a model of this upstream's.
    #[must_use]
    pub fn public_names(&self, upstream: &str, model: &str) -> Vec<String> {
        match self.config.upstreams.iter().find(|known| known.name == upstream) {
            Some(known) => known.models.public_names(model),
            None => vec![model.to_owned()],
        }
    }

    /// What goes around an event stream.
    #[must_use]
    pub fn sse(&self, preface: impl Into<bytes::Bytes>) -> SseOptions {
        let readers = self.metrics.gauges().sse.clone();
        SseOptions { heartbeat: Some(self.config.streams.heartbeat), preface: preface.into(), readers }
    }

    /// What goes around bare text.
    #[must_use]
    pub fn text(&self) -> SseOptions {
        SseOptions { readers: self.metrics.gauges().text.clone(), ..SseOptions::default() }
    }

    /// Bounds and clocks of a socket.
    #[must_use]
    pub fn websocket(&self) -> WebSocketOptions {
        let streams = &self.config.streams;
        WebSocketOptions {
            owner: self.owner(),
            max_message: self.config.limits.websocket_frame(),
            max_lanes: streams.max_lanes,
            max_queued: streams.max_queued_creates,
            ping_interval: streams.ping_interval,
            ping_timeout: streams.ping_timeout,
            headers: Vec::new(),
            sockets: self.metrics.gauges().sockets.clone(),
            readers: self.metrics.gauges().websocket.clone(),
        }
    }

    /// How long an SDK's head waits for the upstream's status: no longer than until a heartbeat is due.
    #[must_use]
    pub fn commit_after(&self) -> Duration {
        self.config.streams.commit_after.min(self.config.streams.heartbeat)
    }
}

/// What is shared between identical requests, as the configuration says.
#[must_use]
pub fn reuse(config: &schema::Reuse) -> Option<Arc<Reuse>> {
    Reuse::new(ReuseOptions {
        coalesce: config.coalesce,
        cache: config.cache,
        ttl: config.cache_ttl,
        entries: config.cache_entries,
        pace: config.pace,
        across_owners: config.across_owners,
    })
}

fn clocks(timeouts: &schema::Timeouts) -> Clocks {
    Clocks { connect: timeouts.connect, first_token: timeouts.first_token, between_tokens: timeouts.between_tokens, total: timeouts.total }
}

fn route(config: &Config, upstream: &schema::Upstream) -> Result<Route, String> {
    let clocks = clocks(&config.timeouts_of(upstream));
    let options = OpenAiOptions {
        name: upstream.name.clone(),
        base_url: upstream.base_url.clone(),
        api_key: upstream.api_key.as_ref().map(|key| SecretString::from(key.expose())),
        connect_timeout: clocks.connect,
        max_event: config.limits.event,
    };
    let api = match upstream.api {
        schema::Api::Chat => Api::Chat,
        schema::Api::Responses => Api::Responses,
    };
    let models = upstream.models.clone();
    let client = OpenAi::new(options).map_err(|error| format!("upstream '{}': {error}", upstream.name))?;
    Ok(Route {
        upstream: client,
        api,
        models: Arc::new(move |name| models.upstream_name(name).map(str::to_owned)),
        clocks,
        weight: upstream.weight,
    })
}
