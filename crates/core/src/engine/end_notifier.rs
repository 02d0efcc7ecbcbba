//! Somebody who is told how generations end, whoever reads them: webhooks, for one.
//!
//! The announcement is a guard of the task that writes the generation. It is made when that task
//! lets go of it, in whatever way that comes about (the end of the answer, a cancel, a panic, the
//! end of the worker), after the terminal event is in the log.

use std::fmt;
use std::sync::Arc;

use super::StartRequest;
use crate::generation::Generation;
use crate::model::error::{ApiError, ErrorCode};
use crate::request::StreamRequest;

/// What is done at the end of one generation, on the thread that wrote it. It must not block and
/// must not panic.
///
/// [`Generation::outcome`] is `None` where the generation was deleted while it ran.
pub type OnEnd = Box<dyn FnOnce(&Generation) + Send>;

/// Decides which ends are announced.
pub trait EndNotifier: Send + Sync + fmt::Debug {
    /// What is to be done at the end of the generation that this request starts; `None` for
    /// nothing. Asked before anything is started, and without effect if nothing is.
    ///
    /// # Errors
    /// What is wrong with what the request asks for.
    fn promise(&self, request: &StartRequest) -> Result<Option<OnEnd>, ApiError>;
}

/// An announcement that is still to be made. Dropping it makes it.
pub(super) struct OnEndGuard {
    generation: Arc<Generation>,
    announcement: Option<OnEnd>,
}

/// What the request is promised. Without an announcer a request for an announcement is refused: in
/// silence it would wait for ever.
pub(super) fn promised(
    announcer: Option<&Arc<dyn EndNotifier>>,
    request: &StartRequest,
) -> Result<Option<OnEnd>, ApiError> {
    match (announcer, &request.body) {
        (Some(announcer), _) => announcer.promise(request),
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

// === impl Promise ===

impl OnEndGuard {
    pub(super) fn new(generation: Arc<Generation>, announcement: Option<OnEnd>) -> Self {
        Self {
            generation,
            announcement,
        }
    }
}

impl Drop for OnEndGuard {
    fn drop(&mut self) {
        if let Some(announcement) = self.announcement.take() {
            announcement(&self.generation);
        }
    }
}
