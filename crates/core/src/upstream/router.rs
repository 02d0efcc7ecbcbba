//! Which server answers for which model.
//!
//! Of the servers that serve it: those that are up; of these the nearest; of these one with room;
//! among equals the one that gives its first token soonest, though every twentieth request goes to
//! another, to see whether that is still so. Servers whose weights differ are no equals: they get
//! their shares.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rand::Rng as _;
use smallvec::SmallVec;

use super::failover::Failover;
use super::{
    BreakerPolicy, ConcurrencyPolicy, Continuation, EndpointStats, HealthStatus, Hedge, OpenError,
    Opened, RetryBudget, RetryPolicy, Server, Target, Timeouts, Upstream, UpstreamRequest,
};
use crate::model::error::{ApiError, ErrorCode};
use crate::model::snapshot::Api;

/// One request in so many goes to a server that is not the fastest.
const EXPLORE: u32 = 20;
/// A server that is slower than the fastest by less than this part is as good.
const AS_GOOD: f64 = 1.2;

/// How a server serves a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelBinding {
    /// What it calls the model.
    pub name: String,
    /// How long it may take.
    pub timeouts: Timeouts,
}

/// How a server serves the model that clients call `name`; `None` if it does not.
pub type ModelMap = Arc<dyn Fn(&str) -> Option<ModelBinding> + Send + Sync>;

/// One server and what it serves.
#[derive(Clone)]
pub struct Route {
    /// The server.
    pub server: Arc<dyn Server>,
    /// Its language.
    pub api: Api,
    /// Its models.
    pub models: ModelMap,
    /// Its share of the requests for a model that several servers serve, relative to the others.
    pub weight: u32,
    /// How far away it is: while nearer servers are up, it is not asked.
    pub locality: u32,
    /// How it is told to go on with an answer that another server broke off.
    pub continuation: Continuation,
    /// What all workers know of it.
    pub stats: Arc<EndpointStats>,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route")
            .field("server", &self.server)
            .field("api", &self.api)
            .field("weight", &self.weight)
            .finish_non_exhaustive()
    }
}

/// What holds for all servers.
#[derive(Clone, Debug)]
pub struct RouterOptions {
    /// The model of a request that names none.
    pub default_model: Option<String>,
    /// When a request is sent again.
    pub retry: RetryPolicy,
    /// What all workers may spend on it.
    pub budget: Arc<RetryBudget>,
    /// When a second server is asked because the first is slow.
    pub hedge: Hedge,
}

impl Route {
    /// A server that serves every model under the name that clients use, without bounds of its own.
    #[must_use]
    pub fn to(server: impl Server + 'static, api: Api, timeouts: Timeouts) -> Self {
        let models: ModelMap = Arc::new(move |model| {
            Some(ModelBinding {
                name: model.to_owned(),
                timeouts,
            })
        });
        let stats = EndpointStats::new(BreakerPolicy::default(), ConcurrencyPolicy::default());
        Self {
            server: Arc::new(server),
            api,
            models,
            weight: 1,
            locality: 0,
            continuation: Continuation::None,
            stats,
        }
    }
}

impl Default for RouterOptions {
    /// No default model, no retries, no hedging.
    fn default() -> Self {
        Self {
            default_model: None,
            retry: RetryPolicy::default(),
            budget: Arc::new(RetryBudget::new(0)),
            hedge: Hedge::Never,
        }
    }
}

/// See the [module](self). Cheap to clone.
#[derive(Clone, Debug)]
pub struct Router(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    routes: Vec<Route>,
    options: RouterOptions,
}

/// A server that was chosen for a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) server: usize,
    pub(super) binding: ModelBinding,
    /// Whether it is asked although it seems to be down, because there is no other.
    pub(super) last_resort: bool,
}

impl Router {
    /// A router over these servers.
    #[must_use]
    pub fn new(routes: Vec<Route>, options: RouterOptions) -> Self {
        Self(Arc::new(Inner { routes, options }))
    }

    /// The servers.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.0.routes
    }

    pub(super) fn options(&self) -> &RouterOptions {
        &self.0.options
    }

    /// Whether any server can go on with another's answer.
    pub(super) fn can_continue(&self) -> bool {
        self.0
            .routes
            .iter()
            .any(|route| route.continuation != Continuation::None)
    }

    /// Whether any server is up, or being tried.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0
            .routes
            .iter()
            .any(|route| route.stats.health() != HealthStatus::Down)
    }

    /// One of the servers that serve the model through this API, or any; but none of those already
    /// tried.
    pub(super) fn choose(&self, model: &str, api: Option<Api>, tried: &[usize]) -> Option<Choice> {
        let serving = self.0.routes.iter().enumerate().filter(|(server, route)| {
            api.is_none_or(|api| route.api == api) && !tried.contains(server)
        });
        let mut candidates: SmallVec<[(usize, &Route, ModelBinding); 4]> = serving
            .filter_map(|(server, route)| Some((server, route, (route.models)(model)?)))
            .collect();
        let last_resort = !candidates
            .iter()
            .any(|(_, route, _)| route.stats.is_available());
        if !last_resort {
            candidates.retain(|(_, route, _)| route.stats.is_available());
        }
        let nearest = candidates
            .iter()
            .map(|(_, route, _)| route.locality)
            .min()?;
        candidates.retain(|(_, route, _)| route.locality == nearest);
        for has_capacity in [
            |route: &Route| route.stats.limit.is_free(),
            |route: &Route| route.stats.limit.has_capacity(),
        ] {
            if candidates.iter().any(|(_, route, _)| has_capacity(route)) {
                candidates.retain(|(_, route, _)| has_capacity(route));
                break;
            }
        }
        let at = if candidates.len() > 1 {
            pick(
                &candidates
                    .iter()
                    .map(|(_, route, _)| *route)
                    .collect::<SmallVec<[_; 4]>>(),
            )
        } else {
            0
        };
        let (server, _, binding) = candidates.swap_remove(at);
        Some(Choice {
            server,
            binding,
            last_resort,
        })
    }

    /// The names of the servers and the bodies of their model lists, as far as they answered, and
    /// the first error of those that did not.
    pub async fn models(
        &self,
        timeout: Duration,
    ) -> (Vec<(String, bytes::Bytes)>, Option<OpenError>) {
        let answers = futures::future::join_all(
            self.0
                .routes
                .iter()
                .map(|route| route.server.models(timeout)),
        )
        .await;
        let (mut bodies, mut first_error) = (Vec::new(), None);
        for (route, answer) in self.0.routes.iter().zip(answers) {
            match answer {
                Ok(body) => bodies.push((route.server.name().to_owned(), body)),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        (bodies, first_error)
    }
}

/// One of several: by weight where the weights differ, else by speed.
fn pick(routes: &[&Route]) -> usize {
    let mut random = rand::rng();
    let first = routes.first().map_or(1, |route| route.weight);
    if routes.iter().any(|route| route.weight != first) {
        let total: u64 = routes.iter().map(|route| u64::from(route.weight)).sum();
        let mut ticket = random.random_range(0..total.max(1));
        return routes
            .iter()
            .position(|route| {
                let here = ticket < u64::from(route.weight);
                ticket = ticket.saturating_sub(u64::from(route.weight));
                here
            })
            .unwrap_or(0);
    }
    let speeds: SmallVec<[Option<f64>; 4]> = routes
        .iter()
        .map(|route| {
            route
                .stats
                .latency
                .average()
                .map(|average| average.as_secs_f64())
        })
        .collect();
    // One of which nothing is known is worth a look before all others.
    let good: SmallVec<[usize; 4]> = match speeds.iter().flatten().copied().min_by(f64::total_cmp) {
        Some(best) if speeds.iter().all(Option::is_some) => {
            let as_good = |speed: &Option<f64>| speed.is_some_and(|speed| speed <= best * AS_GOOD);
            let explore = random.random_range(0..EXPLORE) == 0;
            let slower: SmallVec<[usize; 4]> = positions(&speeds, |speed| !as_good(speed));
            if explore && !slower.is_empty() {
                slower
            } else {
                positions(&speeds, as_good)
            }
        }
        _ => positions(&speeds, Option::is_none),
    };
    good.get(random.random_range(0..good.len().max(1)))
        .copied()
        .unwrap_or(0)
}

fn positions(speeds: &[Option<f64>], fits: impl Fn(&Option<f64>) -> bool) -> SmallVec<[usize; 4]> {
    speeds
        .iter()
        .enumerate()
        .filter(|(_, speed)| fits(speed))
        .map(|(at, _)| at)
        .collect()
}

impl Upstream for Router {
    fn route(&self, model: Option<&str>) -> Result<Target, ApiError> {
        let named = model.or(self.0.options.default_model.as_deref());
        let Some(name) = named else {
            let message = "Missing required parameter: 'model'. The gateway has no default_model for requests that name none.";
            return Err(ApiError::new(ErrorCode::MissingParameter, message).param("model"));
        };
        let chosen = self
            .choose(name, None, &[])
            .and_then(|choice| Some((self.0.routes.get(choice.server)?, choice)));
        let Some((route, choice)) = chosen else {
            let mut error = ApiError::new(
                ErrorCode::NotFound,
                format!("The model '{name}' is not binding by any configured upstream."),
            )
            .param("model");
            error.code = Some("model_not_found".into());
            return Err(error);
        };
        if !route.stats.limit.has_capacity() {
            route.stats.counters.refused_busy.add();
            return Err(route.stats.limit.busy());
        }
        let renamed = model.is_none() || choice.binding.name != name;
        Ok(Target {
            model: name.to_owned(),
            upstream_model: renamed.then_some(choice.binding.name),
            api: route.api,
            timeouts: choice.binding.timeouts,
            server: choice.server,
            queued: !route.stats.limit.is_free(),
        })
    }

    fn open(&self, request: UpstreamRequest) -> BoxFuture<'static, Result<Opened, OpenError>> {
        Failover::new(self.clone(), request).open().boxed()
    }
}
