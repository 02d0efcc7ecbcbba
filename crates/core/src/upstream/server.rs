//! One model server.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{OpenError, Opened, UpstreamRequest};

/// One model server: it is asked, and answers or fails. Which server is asked, and whether again,
/// is the [`Router`](super::Router)'s business.
pub trait Server: Send + Sync + fmt::Debug {
    /// Its name in logs and metrics.
    fn name(&self) -> &str;

    /// Sends the request and waits for the head. Dropping the future takes the request back.
    fn open(&self, request: UpstreamRequest) -> BoxFuture<'static, Result<Opened, OpenError>>;

    /// The body of `GET /models`.
    fn models(&self, timeout: Duration) -> BoxFuture<'static, Result<Bytes, OpenError>>;

    /// The status that a GET of `path`, below the base URL, is answered with.
    fn probe(&self, path: &str, timeout: Duration) -> BoxFuture<'static, Result<u16, OpenError>>;
}
