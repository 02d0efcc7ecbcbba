//! The answer of a request that asks for none (`generate: false`).

use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use secrecy::SecretString;

use crate::model::error::{ApiError, ErrorCode};
use crate::upstream::decode::{Flow, SseEvent};
use crate::upstream::translate::BodyEnd;
use crate::upstream::{
    OpenError, StreamStep, Target, TokenStream, Upstream, UpstreamHead, UpstreamRequest,
    UpstreamResponse,
};

/// An upstream that answers with a completed response without output.
#[derive(Debug)]
pub(super) struct Silence;

/// Its stream, and whether it was read.
struct SilentStream(bool);

impl Upstream for Silence {
    fn route(&self, _: Option<&str>, _: Option<&SecretString>) -> Result<Target, ApiError> {
        let message = "No upstream is asked for a response without output.";
        Err(ApiError::new(ErrorCode::InternalError, message))
    }

    fn open(&self, _: UpstreamRequest) -> BoxFuture<'static, Result<UpstreamResponse, OpenError>> {
        let response = UpstreamResponse {
            head: UpstreamHead::default(),
            stream: Box::new(SilentStream(false)),
        };
        ready(Ok(response)).boxed()
    }
}

impl TokenStream for SilentStream {
    fn poll_events(
        &mut self,
        _: &mut Context<'_>,
        sink: &mut dyn FnMut(SseEvent<'_>) -> Flow,
    ) -> Poll<StreamStep> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(StreamStep::Ended(BodyEnd::Clean));
        }
        for data in [
            br#"{"type":"response.in_progress"}"#.as_slice(),
            br#"{"type":"response.completed"}"#,
        ] {
            sink(SseEvent::Data {
                name: None,
                data,
                terminated: true,
            });
        }
        Poll::Ready(StreamStep::Read)
    }
}
