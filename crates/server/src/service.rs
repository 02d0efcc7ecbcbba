//! What every request handler of a worker shares.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::HeaderMap;
use secrecy::SecretString;
use tokenwire_core::engine::{Engine, LogStore, Registry, Reuse, ReuseOptions};
use tokenwire_core::model::id::Owner;
use tokenwire_core::model::snapshot::Api;
use tokenwire_core::upstream::{
    BreakerPolicy, ConcurrencyPolicy, Continuation, EndpointStats, Hedge, ModelBinding, OpenAi,
    OpenAiOptions, RetryBudget, RetryPolicy, Route, Router, RouterOptions, Timeouts,
};
use tokenwire_sse::SseOptions;
use tokenwire_ws::WebSocketOptions;
use tokio_util::task::TaskTracker;
use url::Url;

use crate::config::schema;
use crate::config::schema::Config;
use crate::hosts::HostPolicy;
use crate::metrics::Metrics;
use crate::origins::OriginPolicy;
pub use crate::upstreams::SharedUpstream;
use tokenwire_webhooks::Webhooks;

/// One worker's view of the gateway.
#[derive(Debug)]
pub struct Service {
    /// The configuration.
    pub config: Arc<Config>,
    /// Starts and finds generations.
    pub engine: Engine,
    /// The upstreams.
    pub router: Router,
    /// The hosts that are served.
    pub hosts: HostPolicy,
    /// Which web pages may ask.
    pub origins: OriginPolicy,
    /// Who is told of ends.
    pub webhooks: Webhooks,
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
    /// The upstreams, or the embedded simulator where none are configured.
    pub upstreams: Arc<[SharedUpstream]>,
    /// What may be spent on retries.
    pub retry_budget: Arc<RetryBudget>,
    /// Who is told of ends.
    pub webhooks: Webhooks,
}

/// What of a client's request goes to the upstream beside its body.
#[derive(Debug, Default)]
pub struct Forwarded {
    /// The headers that `forward_headers` lists.
    pub headers: Vec<(String, String)>,
    /// The client's own key.
    pub client_key: Option<SecretString>,
}

impl Shared {
    /// The upstreams that a configuration comes to; `simulator` is the base URL of the embedded
    /// one, where it answers.
    #[must_use]
    pub fn upstreams(config: &Config, simulator: Option<String>) -> Arc<[SharedUpstream]> {
        let simulated = simulator.map(|base_url| schema::Upstream {
            name: "simulator".to_owned(),
            base_url,
            ..schema::Upstream::default()
        });
        let breaker = BreakerPolicy {
            failures: config.breaker.failures,
            cooldown: config.breaker.cooldown,
        };
        let of = |upstream: &schema::Upstream| {
            let schema::UpstreamLimits {
                concurrent,
                queued,
                wait,
            } = upstream.limits;
            SharedUpstream {
                config: upstream.clone(),
                stats: EndpointStats::new(
                    breaker,
                    ConcurrencyPolicy {
                        concurrent,
                        queued,
                        wait,
                    },
                ),
            }
        };
        match &simulated {
            Some(simulator) => [of(simulator)].into(),
            None => config.upstreams.iter().map(of).collect(),
        }
    }
}

impl Service {
    /// A worker's service, with HTTP clients of its own: a client that is used on two runtimes
    /// times out.
    ///
    /// # Errors
    /// An upstream that cannot be set up, by name.
    pub fn new(shared: &Shared) -> Result<Self, String> {
        let config = shared.config.clone();
        let routes = shared
            .upstreams
            .iter()
            .map(|upstream| route(&config, upstream))
            .collect::<Result<_, _>>()?;
        let schema::Retry {
            attempts,
            backoff,
            max_wait,
            budget_percent,
            hedge,
            ..
        } = config.retry;
        let router = Router::new(
            routes,
            RouterOptions {
                default_model: config.default_model().map(str::to_owned),
                retry: RetryPolicy {
                    attempts,
                    backoff,
                    max_wait,
                    budget_percent,
                },
                budget: shared.retry_budget.clone(),
                hedge: match hedge {
                    schema::Hedging::Off => Hedge::Never,
                    schema::Hedging::P95 => Hedge::P95,
                    schema::Hedging::After(time) => Hedge::After(time),
                },
            },
        );
        let grace = config.streams.disconnect_grace;
        let engine = Engine::new(
            shared.registry.clone(),
            shared.store.clone(),
            Arc::new(router.clone()),
            shared.tasks.clone(),
            grace,
        )
        .sharing(shared.reuse.clone())
        .observed_by(shared.metrics.observer())
        .with_announcer(Arc::new(shared.webhooks.clone()));
        let server = &config.server;
        let public_url = server
            .public_url
            .as_ref()
            .and_then(|url| Url::parse(url).ok());
        let origins = OriginPolicy {
            allowed: server.allowed_origins.clone(),
            loopback: server.allow_loopback_origins,
            public: public_url
                .as_ref()
                .map(|url| url.origin().ascii_serialization()),
            allow_get_start: server.allow_get_start,
        };
        let proxies = server.trusted_proxies.iter();
        let proxies = proxies.filter_map(|proxy| proxy.parse().ok()).collect();
        let hosts = HostPolicy::new(&server.allowed_hosts, public_url, proxies);
        Ok(Self {
            config,
            engine,
            router,
            hosts,
            origins,
            webhooks: shared.webhooks.clone(),
            metrics: shared.metrics.clone(),
        })
    }

    /// Who asks. Without keys everybody is the same.
    #[must_use]
    pub fn owner(&self) -> Owner {
        Owner::Anonymous
    }

    /// What of this request goes to the upstream beside its body.
    #[must_use]
    pub fn forwarded(&self, headers: &HeaderMap) -> Forwarded {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let forwarded = self
            .config
            .forward_headers
            .0
            .iter()
            .filter_map(|name| Some((name.to_ascii_lowercase(), text(name)?.to_owned())));
        let own = || {
            text("authorization")?
                .trim()
                .strip_prefix("Bearer ")
                .map(str::trim)
                .filter(|key| !key.is_empty())
        };
        let accepted = self
            .config
            .upstreams
            .iter()
            .any(|upstream| upstream.accept_client_key);
        Forwarded {
            headers: forwarded.collect(),
            client_key: if accepted {
                own().map(SecretString::from)
            } else {
                None
            },
        }
    }

    /// The names by which clients may ask for a model of this upstream's.
    #[must_use]
    pub fn public_names(&self, upstream: &str, model: &str) -> Vec<String> {
        match self
            .config
            .upstreams
            .iter()
            .find(|known| known.name == upstream)
        {
            Some(known) => known.models.public_names(model),
            None => vec![model.to_owned()],
        }
    }

    /// What goes around an event stream.
    #[must_use]
    pub fn sse(&self, preface: impl Into<bytes::Bytes>) -> SseOptions {
        let readers = self.metrics.gauges().sse.clone();
        SseOptions {
            heartbeat: Some(self.config.streams.heartbeat),
            preface: preface.into(),
            readers,
        }
    }

    /// What goes around bare text.
    #[must_use]
    pub fn text(&self) -> SseOptions {
        SseOptions {
            readers: self.metrics.gauges().text.clone(),
            ..SseOptions::default()
        }
    }

    /// Bounds and clocks of a socket.
    #[must_use]
    pub fn websocket(&self, headers: &HeaderMap) -> WebSocketOptions {
        let Forwarded {
            headers,
            client_key,
        } = self.forwarded(headers);
        let streams = &self.config.streams;
        WebSocketOptions {
            owner: self.owner(),
            max_message: self.config.limits.websocket_frame(),
            max_lanes: streams.max_lanes,
            max_queued: streams.max_queued_creates,
            ping_interval: streams.ping_interval,
            ping_timeout: streams.ping_timeout,
            headers,
            client_key,
            sockets: self.metrics.gauges().sockets.clone(),
            readers: self.metrics.gauges().websocket.clone(),
        }
    }

    /// How long an SDK's head waits for the upstream's status: no longer than until a heartbeat is
    /// due.
    #[must_use]
    pub fn commit_after(&self) -> Duration {
        self.config
            .streams
            .commit_after
            .min(self.config.streams.heartbeat)
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

fn core_timeouts(timeouts: &schema::Timeouts) -> Timeouts {
    Timeouts {
        connect: timeouts.connect,
        first_token: timeouts.first_token,
        between_tokens: timeouts.between_tokens,
        total: timeouts.total,
    }
}

fn route(config: &Config, shared: &SharedUpstream) -> Result<Route, String> {
    let upstream = &shared.config;
    let timeouts = config.timeouts_of(upstream);
    let options = OpenAiOptions {
        name: upstream.name.clone(),
        base_url: upstream.base_url.clone(),
        api_key: upstream
            .api_key
            .as_ref()
            .map(|key| SecretString::from(key.expose())),
        connect_timeout: timeouts.connect,
        max_event: config.limits.event,
        accept_client_key: upstream.accept_client_key,
    };
    let api = match upstream.api {
        schema::Api::Chat => Api::Chat,
        schema::Api::Responses => Api::Responses,
    };
    let server =
        OpenAi::new(options).map_err(|error| format!("upstream '{}': {error}", upstream.name))?;
    let models = upstream.models.clone();
    let served = move |public: &str| {
        let name = models.upstream_name(public)?.to_owned();
        let timeouts = models.timeouts(public).map_or_else(
            || core_timeouts(&timeouts),
            |own| core_timeouts(&timeouts.with(own)),
        );
        Some(ModelBinding { name, timeouts })
    };
    // Without a region on either side there is nothing to prefer.
    let far = matches!((&config.server.region, &upstream.region), (Some(here), Some(there)) if here != there);
    Ok(Route {
        server: Arc::new(server),
        api,
        models: Arc::new(served),
        weight: upstream.weight,
        locality: u32::from(far),
        continuation: match upstream.continuation {
            schema::Continuation::None => Continuation::None,
            schema::Continuation::Message => Continuation::Message,
            schema::Continuation::Prefix => Continuation::Prefix,
            schema::Continuation::FinalMessage => Continuation::FinalMessage,
        },
        stats: shared.stats.clone(),
    })
}
