//! State that the request handlers of a worker share.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::{self, AsHeaderName, HeaderMap, HeaderName};
use actix_web::{HttpMessage as _, HttpRequest};
use secrecy::SecretString;
use tokenwire_core::dialect::Dialect;
use tokenwire_core::engine::{
    Caller, Engine, GenerationSource, ReplicaOptions, Retention, ReuseOptions, SharedEngine,
};
use tokenwire_core::generation::watch::Watch;
use tokenwire_core::log::{LogLimits, LogStore};
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::{GenerationId, Owner, Tag, TaggedIds};
use tokenwire_core::model::include::Include;
use tokenwire_core::model::snapshot::Api;
use tokenwire_core::model::trace::{TRACEPARENT, TRACESTATE};
use tokenwire_core::upstream::{
    BreakerPolicy, ConcurrencyPolicy, Continuation, EndpointStats, Hedge, ModelBinding, OpenAi,
    RequestTrace, RetryBudget, RetryPolicy, Route, Router, RouterOptions, Timeouts, UpstreamTls,
};
use tokenwire_sse::{HeartbeatKind, SseFraming, SseReader};
use tokenwire_store::DiskStore;
use tokenwire_ws::WebSocketOptions;
use url::Url;

use crate::activity::{Activity, ActivityObserver, Scope};
use crate::auth::{Authenticator, CREDENTIAL_HEADERS, Identity, Revocations, Tickets};
use crate::cluster::Cluster;
use crate::config::address_range::AddressRange;
use crate::config::schema;
use crate::config::schema::Config;
use crate::config::secret::Secret;
use crate::host_policy::HostPolicy;
use crate::limits::Limits;
use crate::metrics::{Gauges, Metrics};
use crate::neighbours::Neighbours;
use crate::origin_policy::OriginPolicy;
use crate::sealing;
pub use crate::shared_upstream::SharedUpstream;
use crate::telemetry::{Server, Telemetry, Tracer};
use crate::upstream_tls;
use crate::watch_rules::watch_of;
use tokenwire_webhooks::Webhooks;

const X_UPSTREAM_AUTHORIZATION: HeaderName = HeaderName::from_static("x-upstream-authorization");

/// State of one worker.
#[derive(Debug)]
pub struct Service {
    /// The configuration.
    pub config: Arc<Config>,
    /// Starts and finds generations.
    pub engine: Engine,
    /// The upstreams.
    pub router: Router,
    /// The upstreams, as all workers share them.
    pub(crate) upstreams: Arc<[SharedUpstream]>,
    /// The hosts that are served.
    pub hosts: HostPolicy,
    /// Which web pages may send requests.
    pub origins: OriginPolicy,
    /// Delivers webhooks.
    pub webhooks: Webhooks,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Keeps the logs, where they outlive the process.
    pub store: Option<Arc<DiskStore>>,
    /// Checks credentials; `None` where every request is the anonymous owner's.
    pub auth: Option<Arc<Authenticator>>,
    /// Makes and opens tickets.
    pub tickets: Arc<Tickets>,
    /// The node, where there are several.
    pub cluster: Option<Arc<Cluster>>,
    /// Limits of clients, and what they have used.
    pub limits: Arc<Limits>,
    /// Begins traces.
    pub(crate) tracer: Arc<Tracer>,
    /// What happens, for those that watch.
    pub activity: Activity,
    /// The clients of the upstreams, with what they were made from.
    endpoints: Vec<(EndpointKey, Arc<OpenAi>)>,
    /// The worker's part of the gauges.
    gauges: Gauges,
    /// Request headers that go to the upstream.
    forwarded: Vec<HeaderName>,
    /// Goes on with answers of lost processes, where an upstream can be attached to again.
    _reattaching: Option<Reattaching>,
}

/// A task of a worker, which ends with the worker's state.
#[derive(Debug)]
struct Reattaching(tokio::task::AbortHandle);

impl Drop for Reattaching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// State that all workers share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The configuration.
    pub config: Arc<Config>,
    /// Registry, logs, tasks and shared answers.
    pub engine: SharedEngine,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The upstreams, or the embedded simulator where none are configured.
    pub upstreams: Arc<[SharedUpstream]>,
    /// Limits retries.
    pub retry_budget: Arc<RetryBudget>,
    /// Delivers webhooks.
    pub webhooks: Webhooks,
    /// Keeps the logs, where they outlive the process.
    pub store: Option<Arc<DiskStore>>,
    /// Checks credentials; `None` where every request is the anonymous owner's.
    pub auth: Option<Arc<Authenticator>>,
    /// Makes and opens tickets.
    pub tickets: Arc<Tickets>,
    /// What is revoked.
    pub revocations: Arc<Revocations>,
    /// The other processes on the same store.
    pub neighbours: Option<Arc<Neighbours>>,
    /// The node, where there are several.
    pub cluster: Option<Arc<Cluster>>,
    /// Limits of clients, and what they have used.
    pub limits: Arc<Limits>,
    /// What is recorded for collectors.
    pub telemetry: Arc<Telemetry>,
    /// What happens, for those that watch.
    pub activity: Activity,
    /// The watch rules, if there are some.
    pub watch: Option<Watch>,
}

/// What a client of an upstream is made from.
#[derive(Clone, Debug, PartialEq)]
struct EndpointKey {
    name: String,
    base_url: String,
    api_key: Option<Secret>,
    connect_timeout: Duration,
    max_event: usize,
    accept_client_key: bool,
    key_header: String,
    headers: BTreeMap<String, Secret>,
    tls: UpstreamTls,
}

impl Shared {
    /// Returns the state with another configuration. Upstreams that stay the same keep their health
    /// and counters.
    ///
    /// # Errors
    /// Files of an upstream that cannot be used.
    pub(crate) fn with_config(&self, config: Config) -> Result<Self, String> {
        let running = &self.config;
        let keeps = config.breaker == running.breaker;
        let fresh = if config.uses_simulator() {
            self.upstreams.clone()
        } else {
            Self::upstreams(&config, None)?
        };
        let tls = |upstreams: &[SharedUpstream]| -> Vec<_> {
            upstreams
                .iter()
                .map(|upstream| upstream.tls.clone())
                .collect()
        };
        let is_same = config.upstreams == running.upstreams && tls(&fresh) == tls(&self.upstreams);
        let upstreams = if keeps && is_same {
            self.upstreams.clone()
        } else {
            let known = |name: &str| {
                let mut upstreams = self.upstreams.iter();
                upstreams.find(|known| keeps && known.config.name == name)
            };
            let fresh = fresh.iter().cloned();
            fresh
                .map(|upstream| match known(&upstream.config.name) {
                    Some(known) => upstream.after(known),
                    None => upstream,
                })
                .collect()
        };
        let budget = config.retry.budget_percent;
        let watch = match config.watch == running.watch {
            true => self.watch.clone(),
            // A configuration that is applied was checked.
            false => watch_of(&config, &self.activity, &self.webhooks)
                .inspect_err(|error| tracing::error!(%error, "no watch rules"))
                .unwrap_or_default(),
        };
        Ok(Self {
            watch,
            upstreams,
            retry_budget: match budget == running.retry.budget_percent {
                true => self.retry_budget.clone(),
                false => Arc::new(RetryBudget::new(budget)),
            },
            config: Arc::new(config),
            ..self.clone()
        })
    }

    /// Returns the configured upstreams, or the embedded simulator if `simulator` has its base URL.
    ///
    /// # Errors
    /// Files of an upstream that cannot be used, with its name.
    pub fn upstreams(
        config: &Config,
        simulator: Option<String>,
    ) -> Result<Arc<[SharedUpstream]>, String> {
        let simulated = simulator.map(|base_url| schema::Upstream {
            name: "simulator".to_owned(),
            base_url,
            ..schema::Upstream::default()
        });
        let breaker = BreakerPolicy {
            failures: config.breaker.failures,
            cooldown: config.breaker.cooldown,
            max_rest: config.breaker.max_rest,
        };
        let of = |upstream: &schema::Upstream| {
            let schema::UpstreamLimits {
                concurrent,
                queued,
                wait,
            } = upstream.limits;
            let tls = upstream_tls::read(&upstream.tls)
                .map_err(|error| format!("upstream '{}': {error}", upstream.name))?;
            Ok(SharedUpstream {
                tls,
                config: upstream.clone(),
                stats: EndpointStats::new(
                    breaker,
                    ConcurrencyPolicy {
                        concurrent,
                        queued,
                        wait,
                    },
                ),
                models: Arc::default(),
            })
        };
        match &simulated {
            Some(simulator) => Ok([of(simulator)?].into()),
            None => config.upstreams.iter().map(of).collect(),
        }
    }
}

impl Service {
    /// Creates the state of a worker, with its own HTTP clients: a client that is used on two
    /// runtimes times out.
    ///
    /// # Errors
    /// An upstream that cannot be set up, by name.
    pub fn new(shared: &Shared) -> Result<Self, String> {
        Self::build(shared, &[])
    }

    /// Creates the state of a worker after a reload. Clients of upstreams that stay the same are
    /// kept, with their connections.
    ///
    /// # Errors
    /// An upstream that cannot be set up, by name.
    pub(crate) fn following(shared: &Shared, earlier: &Self) -> Result<Self, String> {
        Self::build(shared, &earlier.endpoints)
    }

    fn build(shared: &Shared, known: &[(EndpointKey, Arc<OpenAi>)]) -> Result<Self, String> {
        let config = shared.config.clone();
        let mut routes = Vec::new();
        let mut endpoints = Vec::new();
        for upstream in shared.upstreams.iter() {
            let (key, endpoint) = endpoint(&config, upstream, known)?;
            routes.push(route(&config, upstream, endpoint.clone()));
            endpoints.push((key, endpoint));
        }
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
                secret: shared.engine.secret().clone(),
                hedge: match hedge {
                    schema::Hedging::Off => Hedge::Never,
                    schema::Hedging::P95 => Hedge::P95,
                    schema::Hedging::After(time) => Hedge::After(time),
                },
            },
        );
        let servers = shared.upstreams.iter();
        let servers = servers.map(|upstream| Server::of(&upstream.config));
        let tracer = Tracer::new(shared.telemetry.clone(), &config, servers.collect());
        let upstreams = shared.upstreams.iter();
        let observer = ActivityObserver::new(
            tracer.observing(shared.metrics.observer()),
            shared.activity.clone(),
            upstreams.map(|known| known.config.name.clone()).collect(),
        );
        let engine = shared
            .engine
            .engine(Arc::new(router.clone()))
            .observed_by(Arc::new(observer))
            .watched_by(shared.watch.clone())
            .with_end_notifier(Arc::new(shared.webhooks.clone()));
        let reattaches = config.upstreams.iter().any(|upstream| upstream.reattach);
        let reattaching = tokio::runtime::Handle::try_current()
            .ok()
            .filter(|_| reattaches)
            .map(|runtime| Reattaching(runtime.spawn(engine.clone().reattach()).abort_handle()));
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
        let proxies = proxies
            .filter_map(|range| AddressRange::parse(range))
            .collect();
        let hosts = HostPolicy::new(&server.allowed_hosts, public_url, proxies)
            .over_tls(server.tls.is_on());
        let names = config.forward_headers.0.iter();
        let forwarded = names
            .filter_map(|name| HeaderName::try_from(name.as_str()).ok())
            // Written anew for each attempt.
            .filter(|name| !matches!(name.as_str(), TRACEPARENT | TRACESTATE))
            .collect();
        Ok(Self {
            _reattaching: reattaching,
            config,
            engine,
            router,
            upstreams: shared.upstreams.clone(),
            hosts,
            origins,
            webhooks: shared.webhooks.clone(),
            gauges: shared.metrics.gauges().handles(),
            metrics: shared.metrics.clone(),
            store: shared.store.clone(),
            auth: shared.auth.clone(),
            tickets: shared.tickets.clone(),
            cluster: shared.cluster.clone(),
            limits: shared.limits.clone(),
            tracer,
            activity: shared.activity.clone(),
            endpoints,
            forwarded,
        })
    }

    /// Returns who sent a request.
    ///
    /// # Errors
    /// `invalid_api_key` where credentials are checked, and this request's was not.
    pub(crate) fn identity(&self, request: &HttpRequest) -> Result<Identity, ApiError> {
        let known = request.extensions().get::<Identity>().cloned();
        match (known, &self.auth) {
            (Some(identity), _) => Ok(identity),
            (None, None) => Ok(Identity::default()),
            (None, Some(_)) => {
                let message = "The request has no credential.";
                Err(ApiError::new(ErrorCode::InvalidApiKey, message))
            }
        }
    }

    /// Checks that a request may read this stream, and returns the owner that it reads as.
    ///
    /// # Errors
    /// `ticket_not_allowed` with a ticket of another stream, and `not_found` with one that has not
    /// started it. Those of [`Service::identity`].
    pub(crate) async fn reader_of(
        &self,
        request: &HttpRequest,
        id: &GenerationId,
    ) -> Result<Owner, ApiError> {
        let identity = self.identity(request)?;
        let owner = identity.owner();
        let Some(ticket) = identity.ticket() else {
            return Ok(owner);
        };
        ticket.check_stream(id)?;
        if ticket.start_key().is_some() {
            let found = self.engine.find(id, &owner).await?;
            if !ticket.has_started(&found) {
                let message = format!("Response with id '{id}' not found.");
                return Err(ApiError::new(ErrorCode::NotFound, message));
            }
        }
        Ok(owner)
    }

    /// Returns the owner of a request. Without credentials all requests have the same one.
    ///
    /// # Errors
    /// Those of [`Service::identity`].
    pub(crate) fn owner(&self, request: &HttpRequest) -> Result<Owner, ApiError> {
        Ok(self.identity(request)?.owner())
    }

    /// Returns the engine as this client may use it.
    pub(crate) fn engine_of(&self, identity: &Identity) -> Cow<'_, Engine> {
        match identity.scope() {
            None => Cow::Borrowed(&self.engine),
            Some(scope) => {
                let router = self.router.within(scope.clone());
                Cow::Owned(self.engine.clone().with_upstream(Arc::new(router)))
            }
        }
    }

    /// The client behind a request with these headers. Where credentials are checked, none of the
    /// gateway's goes to an upstream, and a client's own key for an upstream comes in a header of its
    /// own.
    #[must_use]
    pub fn caller(
        &self,
        identity: &Identity,
        headers: &HeaderMap,
        trace: Option<RequestTrace>,
    ) -> Caller {
        fn text(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
            headers.get(name).and_then(|value| value.to_str().ok())
        }
        let is_checked = identity.is_checked();
        let forwarded = self
            .forwarded
            .iter()
            .filter(|name| !is_checked || !CREDENTIAL_HEADERS.contains(&name.as_str()))
            .filter_map(|name| Some((name.as_str().to_owned(), text(headers, name)?.to_owned())));
        let own = || {
            let name = if is_checked {
                X_UPSTREAM_AUTHORIZATION
            } else {
                header::AUTHORIZATION
            };
            text(headers, name)?
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
        Caller {
            owner: identity.owner(),
            headers: forwarded.collect(),
            client_key: if accepted {
                own().map(SecretString::from)
            } else {
                None
            },
            meter: identity.meter(&self.limits),
            only_key: identity
                .ticket()
                .and_then(|ticket| ticket.start_key())
                .map(Into::into),
            refuses_webhooks: identity.ticket().is_some(),
            trace,
        }
    }

    /// Returns the names that clients may use for a model of this upstream.
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

    /// Returns how a client reads events of this dialect in this framing.
    #[must_use]
    pub fn sse(&self, dialect: Dialect, framing: SseFraming) -> SseReader {
        let readers = match framing {
            SseFraming::Bare => &self.gauges.text,
            SseFraming::EventSource | SseFraming::Sdk => &self.gauges.sse,
        };
        SseReader {
            dialect,
            framing,
            heartbeat: Some(self.config.streams.heartbeat),
            heartbeat_kind: HeartbeatKind::Comment,
            readers: readers.clone(),
            include: Include::default(),
        }
    }

    /// Returns the bounds and timeouts of a socket.
    #[must_use]
    pub fn websocket(
        &self,
        identity: &Identity,
        headers: &HeaderMap,
        trace: Option<RequestTrace>,
    ) -> WebSocketOptions {
        let streams = &self.config.streams;
        WebSocketOptions {
            caller: self.caller(identity, headers, trace),
            credential: identity.socket_credential(),
            tickets: None,
            activity: None,
            max_message: self.config.limits.websocket_frame(),
            message_timeout: self.config.server.body_timeout,
            min_message_rate: self.config.server.min_body_rate,
            max_lanes: streams.max_lanes,
            max_queued: streams.max_queued_creates,
            ping_interval: streams.ping_interval,
            ping_timeout: streams.ping_timeout,
            leaves: false,
            sockets: self.gauges.sockets.clone(),
            readers: self.gauges.websocket.clone(),
        }
    }

    /// Returns what this client sees of the activity.
    pub(crate) fn activity_scope(identity: &Identity) -> Scope {
        match identity.is_operator() {
            true => Scope::All,
            false => Scope::Owner(identity.owner()),
        }
    }

    /// Returns how long the response head of an SDK request waits for the upstream's status: at
    /// most until a heartbeat is due.
    #[must_use]
    pub fn commit_after(&self) -> Duration {
        self.config
            .streams
            .commit_after
            .min(self.config.streams.heartbeat)
    }
}

/// Builds what all workers share of the engine. Without a store logs end with the process. `place`
/// is the name of this process among others, and what finds their generations; `replica` what other
/// nodes read.
#[must_use]
pub fn shared_engine(
    config: &Config,
    store: Option<Arc<dyn LogStore>>,
    place: Option<(Tag, Arc<dyn GenerationSource>)>,
    replica: Option<ReplicaOptions>,
) -> SharedEngine {
    let (streams, reuse) = (&config.streams, &config.reuse);
    let builder = match store {
        Some(store) => Engine::builder().store(store),
        None => Engine::builder(),
    };
    let builder = match place {
        Some((tag, source)) => builder.ids(Arc::new(TaggedIds(tag))).source(source),
        None => builder,
    };
    let builder = match replica {
        Some(replica) => builder.replica(replica),
        None => builder,
    };
    builder
        .retention(Retention {
            events: streams.retain_events,
            responses: config.retain_responses(),
            max_memory: streams.max_memory,
            max_open: config.limits.streams,
        })
        .log_limits(LogLimits {
            bytes: streams.max_stream_bytes(),
            events: streams.max_stream_events,
        })
        .disconnect_grace(streams.disconnect_grace)
        .secret(sealing::secret(config))
        .reattach(config.upstreams.iter().any(|upstream| upstream.reattach))
        .reuse(ReuseOptions {
            coalesce: reuse.coalesce,
            cache: reuse.cache,
            ttl: reuse.cache_ttl,
            entries: reuse.cache_entries,
            pace: reuse.pace,
            across_owners: reuse.across_owners,
        })
        .build()
}

fn core_timeouts(timeouts: &schema::Timeouts) -> Timeouts {
    Timeouts {
        connect: timeouts.connect,
        first_token: timeouts.first_token,
        between_tokens: timeouts.between_tokens,
        total: timeouts.total,
    }
}

/// Returns the client of an upstream, one of `known` if it is the same.
fn endpoint(
    config: &Config,
    shared: &SharedUpstream,
    known: &[(EndpointKey, Arc<OpenAi>)],
) -> Result<(EndpointKey, Arc<OpenAi>), String> {
    let upstream = &shared.config;
    let key = EndpointKey {
        name: upstream.name.clone(),
        base_url: upstream.base_url.clone(),
        api_key: upstream.api_key.clone(),
        connect_timeout: config.timeouts_of(upstream).connect,
        max_event: config.limits.event,
        accept_client_key: upstream.accept_client_key,
        key_header: upstream.key_header.clone(),
        headers: upstream.headers.clone(),
        tls: shared.tls.clone(),
    };
    if let Some((_, endpoint)) = known.iter().find(|(known, _)| *known == key) {
        return Ok((key, endpoint.clone()));
    }
    let options = shared.options(key.connect_timeout, key.max_event);
    let endpoint =
        OpenAi::new(options).map_err(|error| format!("upstream '{}': {error}", upstream.name))?;
    Ok((key, Arc::new(endpoint)))
}

fn route(config: &Config, shared: &SharedUpstream, endpoint: Arc<OpenAi>) -> Route {
    let upstream = &shared.config;
    let timeouts = config.timeouts_of(upstream);
    let api = match upstream.api {
        schema::Api::Chat => Api::Chat,
        schema::Api::Responses => Api::Responses,
    };
    let models = upstream.models.clone();
    let binding = move |public: &str| {
        let name = models.upstream_name(public)?.to_owned();
        let timeouts = models.timeouts(public).map_or_else(
            || core_timeouts(&timeouts),
            |own| core_timeouts(&timeouts.with(own)),
        );
        Some(ModelBinding { name, timeouts })
    };
    // Without a region on either side no upstream is preferred.
    let far = matches!((&config.server.region, &upstream.region), (Some(here), Some(there)) if here != there);
    Route {
        endpoint,
        api,
        models: Arc::new(binding),
        weight: upstream.weight,
        locality: u32::from(far),
        chat: upstream.chat.settings(&upstream.base_url),
        continuation: match upstream.continuation {
            schema::Continuation::None => Continuation::None,
            schema::Continuation::Message => Continuation::Message,
            schema::Continuation::Prefix => Continuation::Prefix,
            schema::Continuation::FinalMessage => Continuation::FinalMessage,
        },
        reattach: upstream.reattach.then_some(upstream.reattach_window),
        stats: shared.stats.clone(),
    }
}
