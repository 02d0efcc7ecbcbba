//! One request to one endpoint.

use super::endpoint_stats::Attempt;
use super::failure::classify;
use super::route::Route;
use super::{OpenError, TokenStream, UpstreamHead, UpstreamRequest, UpstreamResponse};

/// A stream that an endpoint has begun, and the attempt that it counts for.
pub(super) struct AttemptStream {
    pub(super) head: UpstreamHead,
    pub(super) stream: Box<dyn TokenStream>,
    pub(super) attempt: Attempt,
    /// Index of the endpoint in the router.
    pub(super) endpoint: usize,
}

/// Sends the request to the endpoint of `route` once it has a free slot, and waits for the head.
pub(super) async fn start(
    route: &Route,
    request: UpstreamRequest,
) -> Result<AttemptStream, OpenError> {
    let endpoint = request.endpoint;
    let key = route.key_of(request.client_key.as_ref());
    let permit = route.stats.limit.acquire().await.map_err(|error| {
        route.stats.counters.refused_busy.add();
        OpenError::Failed(error)
    })?;
    let mut attempt = route
        .stats
        .begin(permit, request.first_token_timeout, request.streamed, key);
    match route.endpoint.open(request).await {
        Ok(UpstreamResponse { head, stream }) => Ok(AttemptStream {
            head,
            stream,
            attempt,
            endpoint,
        }),
        Err(error) => {
            attempt.fail(classify(&error).1);
            Err(error)
        }
    }
}
