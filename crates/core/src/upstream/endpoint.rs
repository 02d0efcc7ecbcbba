//! One model server.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{OpenError, UpstreamRequest, UpstreamResponse};

/// One model server. The [`Router`](super::Router) decides which endpoint gets a request, and
/// whether it is sent again.
pub trait Endpoint: Send + Sync + fmt::Debug {
    /// Its name in logs and metrics.
    fn name(&self) -> &str;

    /// Whether it sends a client's own key where a request has one.
    fn accepts_client_key(&self) -> bool {
        false
    }

    /// Sends the request and waits for the head. Dropping the future cancels the request.
    fn open(
        &self,
        request: UpstreamRequest,
    ) -> BoxFuture<'static, Result<UpstreamResponse, OpenError>>;

    /// Returns the body of `GET /models`.
    fn models(&self, timeout: Duration) -> BoxFuture<'static, Result<Bytes, OpenError>>;

    /// Returns the status of a GET of `path`, which is relative to the base URL.
    fn probe(&self, path: &str, timeout: Duration) -> BoxFuture<'static, Result<u16, OpenError>>;
}
