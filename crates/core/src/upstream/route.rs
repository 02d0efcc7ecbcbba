//! One endpoint as the router sees it: its models, its share, and what is known of it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use super::continuation::Continuation;
use super::endpoint::Endpoint;
use super::endpoint_stats::EndpointStats;
use super::pauses::KeyId;
use super::{BreakerPolicy, ConcurrencyPolicy, Timeouts, UpstreamRequest};
use crate::model::snapshot::Api;
use crate::request::ChatSettings;

/// How an endpoint serves a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelBinding {
    /// The endpoint's name for the model.
    pub name: String,
    /// The timeouts of its requests.
    pub timeouts: Timeouts,
}

/// Returns how an endpoint serves the model that clients call `name`; `None` if it does not.
pub type ModelMap = Arc<dyn Fn(&str) -> Option<ModelBinding> + Send + Sync>;

/// One endpoint and what it serves.
#[derive(Clone)]
pub struct Route {
    /// The endpoint.
    pub endpoint: Arc<dyn Endpoint>,
    /// The API that it speaks.
    pub api: Api,
    /// Its models.
    pub models: ModelMap,
    /// Its share of the requests for a model that several endpoints serve, relative to the others.
    pub weight: u32,
    /// Its distance. It gets no request while an endpoint with a lower locality is up.
    pub locality: u32,
    /// How requests in chat completions are written for it.
    pub chat: ChatSettings,
    /// How it is asked to continue an answer that another endpoint broke off.
    pub continuation: Continuation,
    /// How long after its request a response can be read again; `None` if it cannot.
    pub reattach: Option<Duration>,
    /// Health, latency and load. Shared by all workers.
    pub stats: Arc<EndpointStats>,
}

impl Route {
    /// A route that serves every model under the name that clients use, without limits.
    #[must_use]
    pub fn to(endpoint: impl Endpoint + 'static, api: Api, timeouts: Timeouts) -> Self {
        let models: ModelMap = Arc::new(move |model| {
            Some(ModelBinding {
                name: model.to_owned(),
                timeouts,
            })
        });
        let stats = EndpointStats::new(BreakerPolicy::default(), ConcurrencyPolicy::default());
        Self {
            endpoint: Arc::new(endpoint),
            api,
            models,
            weight: 1,
            locality: 0,
            chat: ChatSettings::default(),
            continuation: Continuation::None,
            reattach: None,
            stats,
        }
    }

    /// Whether the answer to this request goes on at the upstream without a connection.
    pub(super) fn holds(&self, request: &UpstreamRequest) -> bool {
        request.reattach && self.api == Api::Responses && self.reattach.is_some()
    }

    /// Returns which key a request is sent with.
    pub(super) fn key_of(&self, client_key: Option<&SecretString>) -> KeyId {
        match client_key {
            Some(key) if self.endpoint.accepts_client_key() => KeyId::of_client(key),
            _ => KeyId::Gateway,
        }
    }

    /// Returns whether it should get a request with this client key while there is a choice.
    pub(super) fn is_available(&self, client_key: Option<&SecretString>) -> bool {
        self.stats.is_available(self.key_of(client_key))
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route")
            .field("endpoint", &self.endpoint)
            .field("api", &self.api)
            .field("weight", &self.weight)
            .finish_non_exhaustive()
    }
}
