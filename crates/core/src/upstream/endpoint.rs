//! One model server.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use secrecy::SecretString;

use super::{AttachRequest, OpenError, UpstreamRequest, UpstreamResponse, not_served};
use crate::model::secret::Secret;

/// One model server. The [`Router`](super::Router) decides which endpoint gets a request, and
/// whether it is sent again.
pub trait Endpoint: Send + Sync + fmt::Debug {
    /// Its name in logs and metrics.
    fn name(&self) -> &str;

    /// Whether it sends a client's own key where a request has one.
    fn accepts_client_key(&self) -> bool {
        false
    }

    /// Returns the tag of the credential that requests are sent with, by this key.
    fn credential(&self, _secret: &Secret, _client_key: Option<&SecretString>) -> Option<String> {
        None
    }

    /// Sends the request and waits for the head. Dropping the future cancels the request.
    fn open(
        &self,
        request: UpstreamRequest,
    ) -> BoxFuture<'static, Result<UpstreamResponse, OpenError>>;

    /// Sends the body to this path, which is relative to the base URL, and returns the body of the
    /// answer.
    fn relay(
        &self,
        _request: UpstreamRequest,
        _path: &'static str,
    ) -> BoxFuture<'static, Result<Bytes, OpenError>> {
        Box::pin(std::future::ready(Err(OpenError::Failed(not_served()))))
    }

    /// Reads a response again that the server goes on with. Waits for the head.
    fn attach(
        &self,
        _request: AttachRequest,
    ) -> BoxFuture<'static, Result<UpstreamResponse, OpenError>> {
        Box::pin(std::future::ready(Err(OpenError::Failed(not_served()))))
    }

    /// Ends a response that the server goes on with.
    fn cancel(&self, _request: AttachRequest) -> BoxFuture<'static, Result<(), OpenError>> {
        Box::pin(std::future::ready(Err(OpenError::Failed(not_served()))))
    }

    /// Returns the body of `GET /models`.
    fn models(&self, timeout: Duration) -> BoxFuture<'static, Result<Bytes, OpenError>>;

    /// Returns the status of a GET of `path`, which is relative to the base URL.
    fn probe(&self, path: &str, timeout: Duration) -> BoxFuture<'static, Result<u16, OpenError>>;
}
