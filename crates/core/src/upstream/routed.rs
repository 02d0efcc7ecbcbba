//! The [`Router`] as an [`Upstream`]: a choice, then attempts with retries, failover and hedging.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use secrecy::SecretString;

use super::attempt;
use super::attempt_trace::RequestTrace;
use super::failover::Failover;
use super::failover_stream;
use super::router::Router;
use super::{
    AttachRequest, OpenError, Target, Upstream, UpstreamRequest, UpstreamResponse, not_served,
};
use crate::model::error::ApiError;
use crate::request::ChatSettings;

impl Upstream for Router {
    fn route(
        &self,
        model: Option<&str>,
        client_key: Option<&SecretString>,
    ) -> Result<Target, ApiError> {
        self.target(model, client_key, None)
    }

    fn route_to(
        &self,
        model: Option<&str>,
        client_key: Option<&SecretString>,
        credential: &str,
    ) -> Result<Target, ApiError> {
        self.target(model, client_key, Some(credential))
    }

    fn credential(&self, endpoint: usize, client_key: Option<&SecretString>) -> Option<String> {
        Self::credential(self, endpoint, client_key)
    }

    fn may_encrypt(&self, endpoint: usize, model: &str) -> bool {
        self.routes()
            .get(endpoint)
            .is_none_or(|route| !route.stats.plain_models.contains(model))
    }

    fn relay(
        &self,
        mut request: UpstreamRequest,
        path: &'static str,
    ) -> BoxFuture<'static, Result<Bytes, OpenError>> {
        match self.routes().get(request.endpoint) {
            Some(route) => {
                let mut trace = RequestTrace::begin(&mut request, route.endpoint.name());
                let answer = route.endpoint.relay(request, path);
                async move {
                    let answer = answer.await;
                    if let Some(trace) = &mut trace {
                        match &answer {
                            Ok(_) => trace.answered(),
                            Err(error) => trace.not_opened(error),
                        }
                    }
                    answer
                }
                .boxed()
            }
            None => ready(Err(OpenError::Failed(not_served()))).boxed(),
        }
    }

    fn endpoint_name(&self, endpoint: usize) -> Option<&str> {
        let route = self.routes().get(endpoint)?;
        Some(route.endpoint.name())
    }

    fn chat_settings(&self, endpoint: usize) -> ChatSettings {
        let route = self.routes().get(endpoint);
        route.map(|route| route.chat).unwrap_or_default()
    }

    fn chat_settings_vary(&self) -> bool {
        self.chat_settings_vary()
    }

    fn reattach_window(&self, endpoint: &str) -> Option<Duration> {
        self.routes().get(self.endpoint_index(endpoint)?)?.reattach
    }

    fn endpoint_index(&self, name: &str) -> Option<usize> {
        let mut routes = self.routes().iter();
        routes.position(|route| route.endpoint.name() == name)
    }

    fn attach(
        &self,
        request: AttachRequest,
    ) -> BoxFuture<'static, Result<UpstreamResponse, OpenError>> {
        let this = self.clone();
        async move {
            let endpoint = this.endpoint_index(&request.attachment.upstream);
            let found = endpoint.and_then(|at| Some((at, this.routes().get(at)?)));
            let Some((endpoint, route)) = found else {
                return Err(OpenError::Failed(not_served()));
            };
            attempt::attach(route, endpoint, request)
                .await
                .map(failover_stream::attached)
        }
        .boxed()
    }

    fn cancel(&self, request: AttachRequest) -> BoxFuture<'static, Result<(), OpenError>> {
        let endpoint = self.endpoint_index(&request.attachment.upstream);
        match endpoint.and_then(|endpoint| self.routes().get(endpoint)) {
            Some(route) => route.endpoint.cancel(request),
            None => ready(Err(OpenError::Failed(not_served()))).boxed(),
        }
    }

    fn open(
        &self,
        request: UpstreamRequest,
    ) -> BoxFuture<'static, Result<UpstreamResponse, OpenError>> {
        failover_stream::open(Box::new(Failover::new(self.clone(), request))).boxed()
    }
}
