//! The endpoints, and which of them gets a request.
//!
//! Of the endpoints that serve the model: those that are up; of these the nearest; of these the
//! ones with a free slot, else the ones with room in their queue; of these one by
//! [balance](super::balance).

use std::sync::Arc;

use secrecy::SecretString;
use smallvec::SmallVec;

use super::Target;
use super::balance;
use super::continuation::Continuation;
use super::endpoint_stats::{HealthStatus, Reservation};
use super::hedge::Hedge;
use super::retry::{RetryBudget, RetryPolicy};
use super::route::{ModelBinding, Route};
use super::scope::{Scope, not_allowed};
use crate::model::error::{ApiError, ErrorCode};
use crate::model::secret::Secret;
use crate::model::snapshot::Api;

/// Options that hold for all endpoints.
#[derive(Clone, Debug)]
pub struct RouterOptions {
    /// The model of a request that names none.
    pub default_model: Option<String>,
    /// When a request is sent again.
    pub retry: RetryPolicy,
    /// Limits the retries of all workers together.
    pub budget: Arc<RetryBudget>,
    /// When a second endpoint is asked because the first is slow.
    pub hedge: Hedge,
    /// The key of the tags of credentials. All workers and nodes need the same.
    pub secret: Secret,
}

impl Default for RouterOptions {
    /// No default model, no retries, no hedging, a random key.
    fn default() -> Self {
        Self {
            default_model: None,
            retry: RetryPolicy::default(),
            budget: Arc::new(RetryBudget::new(0)),
            hedge: Hedge::Never,
            secret: Secret::random(),
        }
    }
}

/// Holds the endpoints and chooses one for each request. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Router(Arc<Inner>, Option<Arc<Scope>>);

#[derive(Debug)]
struct Inner {
    routes: Vec<Route>,
    options: RouterOptions,
    chat_settings_vary: bool,
}

/// An endpoint that was chosen for a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// Index of the endpoint in the router.
    pub(super) endpoint: usize,
    pub(super) binding: ModelBinding,
    /// Whether the endpoint is down and was chosen because all are.
    pub(super) last_resort: bool,
}

impl Router {
    /// A router over these endpoints.
    #[must_use]
    pub fn new(routes: Vec<Route>, options: RouterOptions) -> Self {
        let mut chat = routes.iter().filter(|route| route.api == Api::Chat);
        let first = chat.next().map(|route| route.chat);
        let chat_settings_vary = chat.any(|route| Some(route.chat) != first);
        Self(
            Arc::new(Inner {
                routes,
                options,
                chat_settings_vary,
            }),
            None,
        )
    }

    /// The same endpoints, for a client that may use this much of them. Indexes of endpoints stay
    /// the same.
    #[must_use]
    pub fn within(&self, scope: Arc<Scope>) -> Self {
        Self(self.0.clone(), Some(scope))
    }

    /// The endpoints.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.0.routes
    }

    pub(super) fn options(&self) -> &RouterOptions {
        &self.0.options
    }

    /// Returns true if endpoints differ in how requests in chat completions are written.
    pub(super) fn chat_settings_vary(&self) -> bool {
        self.0.chat_settings_vary
    }

    /// Returns whether any endpoint can continue the answer of another.
    pub(super) fn can_continue(&self) -> bool {
        self.0
            .routes
            .iter()
            .any(|route| route.continuation != Continuation::None)
    }

    /// Returns whether any endpoint is up or half-open.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0
            .routes
            .iter()
            .any(|route| route.stats.health() != HealthStatus::Down)
    }

    /// Returns where a request for `model` goes, and how it has to be written.
    pub(super) fn target(
        &self,
        model: Option<&str>,
        client_key: Option<&SecretString>,
        credential: Option<&str>,
    ) -> Result<Target, ApiError> {
        let named = model.or(self.0.options.default_model.as_deref());
        let Some(name) = named else {
            let message = "Missing required parameter: 'model'. The gateway has no default_model for requests that name none.";
            return Err(ApiError::new(ErrorCode::MissingParameter, message).param("model"));
        };
        let scope = self.1.as_deref();
        if scope.is_some_and(|scope| !scope.has_model(name)) {
            return Err(not_allowed(name));
        }
        let chosen = credential
            .and_then(|tag| self.choose_account(name, client_key, tag))
            .or_else(|| self.choose(name, None, client_key, &[]))
            .and_then(|choice| Some((self.0.routes.get(choice.endpoint)?, choice)));
        let Some((route, choice)) = chosen else {
            let serves = |route: &Route| (route.models)(name).is_some();
            if scope.is_some() && self.0.routes.iter().any(serves) {
                return Err(not_allowed(name));
            }
            let mut error = ApiError::new(
                ErrorCode::NotFound,
                format!("The model '{name}' is not served by any configured upstream."),
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
            endpoint: choice.endpoint,
            queued: !route.stats.limit.is_free(),
            // Without a choice there is nothing to balance.
            reservation: match self.0.routes.len() {
                1 => Reservation::default(),
                _ => route.stats.reserve(),
            },
        })
    }

    /// Returns the tag of the credential that requests to an endpoint are sent with.
    pub(super) fn credential(
        &self,
        endpoint: usize,
        client_key: Option<&SecretString>,
    ) -> Option<String> {
        let route = self.0.routes.get(endpoint)?;
        route
            .endpoint
            .credential(&self.0.options.secret, client_key)
    }

    /// Chooses an endpoint that serves the model and takes the reasoning of the credential with
    /// this tag. `None` if none of these is up and has capacity.
    fn choose_account(
        &self,
        model: &str,
        client_key: Option<&SecretString>,
        tag: &str,
    ) -> Option<Choice> {
        let others: SmallVec<[usize; 8]> = (0..self.0.routes.len())
            .filter(|at| self.credential(*at, client_key).as_deref() != Some(tag))
            .collect();
        let choice = self.choose(model, Some(Api::Responses), client_key, &others)?;
        let route = self.0.routes.get(choice.endpoint)?;
        (!choice.last_resort && route.stats.limit.has_capacity()).then_some(choice)
    }

    /// Chooses one of the endpoints that serve the model through `api` (or any API), except those
    /// in `tried`.
    pub(super) fn choose(
        &self,
        model: &str,
        api: Option<Api>,
        client_key: Option<&SecretString>,
        tried: &[usize],
    ) -> Option<Choice> {
        let serving = self
            .0
            .routes
            .iter()
            .enumerate()
            .filter(|(endpoint, route)| {
                api.is_none_or(|api| route.api == api)
                    && !tried.contains(endpoint)
                    && self
                        .1
                        .as_ref()
                        .is_none_or(|scope| scope.has_endpoint(route))
            });
        let mut candidates: SmallVec<[(usize, &Route, ModelBinding); 4]> = serving
            .filter_map(|(endpoint, route)| Some((endpoint, route, (route.models)(model)?)))
            .collect();
        let available: SmallVec<[bool; 4]> = candidates
            .iter()
            .map(|(_, route, _)| route.is_available(client_key))
            .collect();
        let last_resort = !available.contains(&true);
        if !last_resort {
            let mut available = available.into_iter();
            candidates.retain(|_| available.next().unwrap_or(false));
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
        let routes: SmallVec<[&Route; 4]> = candidates.iter().map(|(_, route, _)| *route).collect();
        let (endpoint, _, binding) = candidates.swap_remove(balance::pick(&routes));
        Some(Choice {
            endpoint,
            binding,
            last_resort,
        })
    }
}
