//! The [`Router`] as an [`Upstream`]: a choice, then attempts with retries, failover and hedging.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use secrecy::SecretString;

use super::failover::Failover;
use super::failover_stream;
use super::router::Router;
use super::{OpenError, Target, Upstream, UpstreamRequest, UpstreamResponse};
use crate::model::error::ApiError;
use crate::request::ChatSettings;

impl Upstream for Router {
    fn route(
        &self,
        model: Option<&str>,
        client_key: Option<&SecretString>,
    ) -> Result<Target, ApiError> {
        self.target(model, client_key)
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

    fn open(
        &self,
        request: UpstreamRequest,
    ) -> BoxFuture<'static, Result<UpstreamResponse, OpenError>> {
        failover_stream::open(Failover::new(self.clone(), request)).boxed()
    }
}
