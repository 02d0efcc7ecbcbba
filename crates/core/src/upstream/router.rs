//! Which server answers for which model.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::{Clocks, OpenAi, OpenError, Opened, Target, Upstream, UpstreamRequest};
use crate::error::{ApiError, ErrorCode};
use crate::snapshot::Api;

/// What a server calls the model that clients call `name`; `None` if it does not serve it.
pub type ModelMap = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// One server and what it serves.
#[derive(Clone)]
pub struct Route {
    /// The server.
    pub upstream: OpenAi,
    /// Its language.
    pub api: Api,
    /// Its models.
    pub models: ModelMap,
    /// How long it may take.
    pub clocks: Clocks,
}

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Route").field("upstream", &self.upstream).field("api", &self.api).finish_non_exhaustive()
    }
}

/// The servers in the order in which they are asked: the first that serves a model answers for it.
#[derive(Clone, Debug)]
pub struct Router {
    routes: Arc<[Route]>,
    default_model: Option<String>,
}

impl Router {
    /// A router over these servers. A request without a model takes `default_model`.
    #[must_use]
    pub fn new(routes: Vec<Route>, default_model: Option<String>) -> Self {
        Self { routes: routes.into(), default_model }
    }

    fn find(&self, model: &str) -> Option<(&Route, String)> {
        self.routes.iter().find_map(|route| Some((route, (route.models)(model)?)))
    }

    /// The names of the servers and the bodies of their model lists, as far as they answered, and the first error of those that did not.
    pub async fn models(&self, timeout: Duration) -> (Vec<(String, bytes::Bytes)>, Option<OpenError>) {
        let answers = futures::future::join_all(self.routes.iter().map(|route| route.upstream.models(timeout))).await;
        let (mut bodies, mut first_error) = (Vec::new(), None);
        for (route, answer) in self.routes.iter().zip(answers) {
            match answer {
                Ok(body) => bodies.push((route.upstream.name().to_owned(), body)),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        (bodies, first_error)
    }
}

impl Upstream for Router {
    fn route(&self, model: Option<&str>) -> Result<Target, ApiError> {
        let named = model.or(self.default_model.as_deref());
        let Some(name) = named else {
            let message = "Missing required parameter: 'model'. The gateway has no default_model for requests that name none.";
            return Err(ApiError::new(ErrorCode::MissingParameter, message).param("model"));
        };
        let Some((route, upstream_model)) = self.find(name) else {
            let mut error =
                ApiError::new(ErrorCode::NotFound, format!("The model '{name}' is not served by any configured upstream.")).param("model");
            error.code = Some("model_not_found".into());
            return Err(error);
        };
        let renamed = model.is_none() || upstream_model != name;
        Ok(Target { model: name.to_owned(), upstream_model: renamed.then_some(upstream_model), api: route.api, clocks: route.clocks })
    }

    fn open(&self, request: UpstreamRequest) -> BoxFuture<'static, Result<Opened, OpenError>> {
        match self.find(&request.model) {
            Some((route, _)) => route.upstream.open(request),
            None => {
                let error = ApiError::new(ErrorCode::NotFound, "The model is not served any more.");
                Box::pin(std::future::ready(Err(OpenError::Failed(error))))
            }
        }
    }
}
