//! One request to one endpoint.

use super::attachment;
use super::attempt_trace::RequestTrace;
use super::concurrency_limit::Permit;
use super::endpoint_stats::Attempt;
use super::failure::classify;
use super::route::Route;
use super::{
    AttachRequest, OpenError, TokenStream, UpstreamHead, UpstreamRequest, UpstreamResponse,
};
use crate::model::error::ErrorCode;

/// A stream that an endpoint has begun, and the attempt that it counts for.
pub(super) struct AttemptStream {
    pub(super) head: UpstreamHead,
    pub(super) stream: Box<dyn TokenStream>,
    pub(super) attempt: Attempt,
    /// Index of the endpoint in the router.
    pub(super) endpoint: usize,
}

/// Waits for a free slot at the endpoint of `route`. Also returns whether there was a wait, during
/// which the endpoint may have become unavailable.
pub(super) async fn acquire(route: &Route) -> Result<(Permit, bool), OpenError> {
    let limit = &route.stats.limit;
    if let Some(permit) = limit.try_acquire() {
        return Ok((permit, false));
    }
    match limit.acquire().await {
        Ok(permit) => Ok((permit, true)),
        Err(error) => {
            route.stats.counters.refused_busy.add();
            Err(OpenError::Failed(error))
        }
    }
}

/// Sends the request to the endpoint of `route`, and waits for the head.
pub(super) async fn start(
    route: &Route,
    permit: Permit,
    mut request: UpstreamRequest,
) -> Result<AttemptStream, OpenError> {
    let endpoint = request.endpoint;
    if route.holds(&request)
        && let Some(body) = attachment::held_body(&request.body)
    {
        request.body = body;
    }
    let key = route.key_of(request.client_key.as_ref());
    let mut attempt = route
        .stats
        .begin(permit, request.first_token_timeout, request.streamed, key);
    let asked = request.asked.clone();
    asked.begin();
    attempt.trace = RequestTrace::begin(&mut request, route.endpoint.name());
    let opened = route.endpoint.open(request).await;
    if let Err(error) = &opened {
        if !may_have_worked(error) {
            asked.undo();
        }
        if let Some(trace) = &mut attempt.trace {
            trace.not_opened(error);
        }
    }
    begun(opened, attempt, endpoint)
}

/// Asks the endpoint of `route` for a response that it goes on with, and waits for the head.
pub(super) async fn attach(
    route: &Route,
    endpoint: usize,
    request: AttachRequest,
) -> Result<AttemptStream, OpenError> {
    let (permit, _) = acquire(route).await?;
    let key = route.key_of(request.client_key.as_ref());
    let timeout = request.first_token_timeout;
    let attempt = route.stats.begin(permit, timeout, false, key);
    let opened = route.endpoint.attach(request).await;
    begun(opened, attempt, endpoint)
}

/// Joins what the endpoint has begun with its attempt. A failure counts against the endpoint.
fn begun(
    opened: Result<UpstreamResponse, OpenError>,
    mut attempt: Attempt,
    endpoint: usize,
) -> Result<AttemptStream, OpenError> {
    match opened {
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

/// Whether the upstream may have worked on a request that failed so: it was sent, and not refused.
fn may_have_worked(error: &OpenError) -> bool {
    let OpenError::Failed(error) = error else {
        return false;
    };
    let unsent = [
        ErrorCode::UpstreamUnreachable,
        ErrorCode::ConnectTimeout,
        ErrorCode::OutOfDescriptors,
        ErrorCode::UpstreamAuth,
        ErrorCode::UpstreamBusy,
    ];
    !unsent.iter().any(|code| error.is(*code))
}
