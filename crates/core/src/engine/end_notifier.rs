//! Hook that runs when a generation ends, such as a webhook.
//!
//! The hook is held by a guard of the task that writes the generation. It runs when that task drops
//! the guard, for any reason: the end of the answer, a cancel, a panic, the end of the worker. The
//! terminal event is in the log by then.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

use super::StartRequest;
use crate::generation::Generation;
use crate::model::error::{ApiError, ErrorCode};
use crate::model::id::GenerationId;
use crate::request::StreamRequest;

/// Runs at the end of one generation, on the thread that wrote it. It must not block or panic.
///
/// [`Generation::outcome`] is `None` if the generation was deleted while it ran.
pub struct OnEnd {
    start: Option<StartHook>,
    end: Hook,
    taken_over: Option<Hook>,
}

type Hook = Box<dyn FnOnce(&Generation) + Send>;
type StartHook = Box<dyn FnOnce(&GenerationId) -> BoxFuture<'static, ()> + Send>;

impl fmt::Debug for OnEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnEnd").finish_non_exhaustive()
    }
}

// === impl OnEnd ===

impl OnEnd {
    /// Runs this at the end.
    #[must_use]
    pub fn new(end: impl FnOnce(&Generation) + Send + 'static) -> Self {
        Self {
            start: None,
            end: Box::new(end),
            taken_over: None,
        }
    }

    /// Runs this before the start as well: what is to happen at the end can be kept by the
    /// generation's id. Nothing is started, the upstream is not asked and the client is not answered
    /// before the future is ready, which must be so in bounded time. If it is dropped before that, the
    /// generation never starts, and none of the hooks runs.
    #[must_use]
    pub fn with_start(
        self,
        start: impl FnOnce(&GenerationId) -> BoxFuture<'static, ()> + Send + 'static,
    ) -> Self {
        Self {
            start: Some(Box::new(start)),
            ..self
        }
    }

    /// Runs the hook of the start, if there is one.
    pub(super) fn start(&mut self, id: &GenerationId) -> Option<BoxFuture<'static, ()>> {
        self.start.take().map(|start| start(id))
    }

    /// Runs this in place of the end if another process has taken the log over. It must not block or
    /// panic.
    #[must_use]
    pub fn with_taken_over(self, taken_over: impl FnOnce(&Generation) + Send + 'static) -> Self {
        Self {
            taken_over: Some(Box::new(taken_over)),
            ..self
        }
    }
}

/// Decides which generations have a hook.
pub trait EndNotifier: Send + Sync + fmt::Debug {
    /// Returns the hook of the generation that this request starts, or `None`. Called before
    /// anything is started; the hook is dropped unused if nothing is.
    ///
    /// # Errors
    /// A fault of what the request asks for.
    fn on_end(&self, request: &StartRequest) -> Result<Option<OnEnd>, ApiError>;
}

/// Runs one of its hooks when it is dropped.
pub(super) struct OnEndGuard {
    generation: Arc<Generation>,
    on_end: Option<OnEnd>,
}

/// Returns the hook of this request. Without a notifier a request for a webhook is refused, since
/// it would wait for ever.
pub(super) fn on_end(
    notifier: Option<&Arc<dyn EndNotifier>>,
    request: &StartRequest,
) -> Result<Option<OnEnd>, ApiError> {
    if request.refuses_webhooks
        && let StreamRequest::Responses(responses) = &request.body
        && responses.webhook_url().is_some()
    {
        let message = "This credential cannot ask for webhooks. Send a key instead.";
        return Err(ApiError::new(ErrorCode::TicketNotAllowed, message).param("webhook"));
    }
    match (notifier, &request.body) {
        (Some(notifier), _) => notifier.on_end(request),
        (None, StreamRequest::Responses(responses)) if responses.webhook_url().is_some() => {
            let error = ApiError::new(
                ErrorCode::UnsupportedParameter,
                "Unsupported parameter: 'webhook'. No webhooks are sent here.",
            );
            Err(error.param("webhook"))
        }
        (None, _) => Ok(None),
    }
}

// === impl OnEndGuard ===

impl OnEndGuard {
    pub(super) fn new(generation: Arc<Generation>, on_end: Option<OnEnd>) -> Self {
        Self { generation, on_end }
    }
}

impl Drop for OnEndGuard {
    fn drop(&mut self) {
        let Some(on_end) = self.on_end.take() else {
            return;
        };
        // The end of a log that was taken over is not in this generation.
        if !self.generation.is_fenced() {
            (on_end.end)(&self.generation);
        } else if let Some(taken_over) = on_end.taken_over {
            taken_over(&self.generation);
        }
    }
}
