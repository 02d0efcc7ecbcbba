//! Which server answers for which model.

use rand::Rng as _;
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
    /// Its share of the requests for a model that several servers serve, relative to the others.
    pub weight: u32,
}

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Route").field("upstream", &self.upstream).field("api", &self.api).finish_non_exhaustive()
    }
}

/// The servers. Where several serve a model, each gets its share by weight.
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

    /// One of the servers that serve the model, by weight, and what it calls the model.
    fn choose(&self, model: &str) -> Option<(usize, String)> {
        let serving =
            self.routes.iter().enumerate().filter_map(|(index, route)| Some((index, (route.models)(model)?, u64::from(route.weight))));
        let mut serving: Vec<(usize, String, u64)> = serving.collect();
        let total: u64 = serving.iter().map(|(_, _, weight)| weight).sum();
        let mut ticket = if total > 0 && serving.len() > 1 { rand::rng().random_range(0..total) } else { 0 };
        let at = serving.iter().position(|(_, _, weight)| {
            let here = ticket < *weight;
            ticket = ticket.saturating_sub(*weight);
            here
        });
        let (index, name, _) = serving.swap_remove(at.or((!serving.is_empty()).then_some(0))?);
        Some((index, name))
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
        let chosen = self.choose(name).and_then(|(server, upstream_model)| Some((server, self.routes.get(server)?, upstream_model)));
        let Some((server, route, upstream_model)) = chosen else {
            let mut error =
                ApiError::new(ErrorCode::NotFound, format!("The model '{name}' is not served by any configured upstream.")).param("model");
            error.code = Some("model_not_found".into());
            return Err(error);
        };
        let renamed = model.is_none() || upstream_model != name;
        Ok(Target {
            model: name.to_owned(),
            upstream_model: renamed.then_some(upstream_model),
            api: route.api,
            clocks: route.clocks,
            server,
        })
    }

    fn open(&self, request: UpstreamRequest) -> BoxFuture<'static, Result<Opened, OpenError>> {
        match self.routes.get(request.server) {
            Some(route) => route.upstream.open(request),
            None => {
                let error = ApiError::new(ErrorCode::NotFound, "The model is not served any more.");
                Box::pin(std::future::ready(Err(OpenError::Failed(error))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::OpenAiOptions;

    fn route(name: &str, weight: u32, serves: &'static str) -> Route {
        let options = OpenAiOptions {
            name: name.to_owned(),
            base_url: "http://127.0.0.1:1/v1".to_owned(),
            api_key: None,
            connect_timeout: Duration::from_secs(1),
            max_event: 1024,
        };
        let clocks = Clocks { connect: Duration::ZERO, first_token: Duration::ZERO, between_tokens: Duration::ZERO, total: Duration::ZERO };
        let models: ModelMap = Arc::new(move |model| (model == serves).then(|| format!("{model}-there")));
        Route { upstream: OpenAi::new(options).unwrap(), api: Api::Chat, models, clocks, weight }
    }

    #[test]
    fn servers_of_one_model_share_by_weight() {
        let router = Router::new(vec![route("a", 1, "m"), route("b", 3, "m"), route("c", 9, "other")], Some("m".to_owned()));
        let mut counts = [0usize; 3];
        for _ in 0..4000 {
            let target = router.route(None).unwrap();
            assert_eq!((target.model.as_str(), target.upstream_model.as_deref()), ("m", Some("m-there")));
            counts[target.server] += 1;
        }
        // A quarter of 4,000 give or take nine standard deviations.
        assert!((750..1250).contains(&counts[0]), "{counts:?}");
        assert_eq!(counts[2], 0);
        assert!(router.route(Some("unknown")).is_err());
    }
}
