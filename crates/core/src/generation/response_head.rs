//! The upstream's response before the first token. SDKs depend on status codes, so some responses
//! wait for it.

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::model::error::{ApiError, ErrorCode};
use crate::upstream::{OpenError, UpstreamHead};

/// The upstream's head, or the reason why there is none, once known.
#[derive(Debug, Default)]
pub struct ResponseHead {
    /// The error is boxed: it is large and rare, and the result is kept with the generation.
    result: Mutex<Option<Result<UpstreamHead, Box<OpenError>>>>,
    changed: Notify,
}

impl ResponseHead {
    /// The result, if it is known.
    #[must_use]
    pub fn now(&self) -> Option<Result<UpstreamHead, OpenError>> {
        let result = self.result.lock();
        match result.as_ref()? {
            Ok(head) => Some(Ok(head.clone())),
            Err(error) => Some(Err((**error).clone())),
        }
    }

    /// Waits for the result.
    ///
    /// # Errors
    /// The reason why the generation failed before its upstream answered with a stream.
    pub async fn wait(&self) -> Result<UpstreamHead, OpenError> {
        loop {
            let notified = self.changed.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if let Some(result) = self.now() {
                return result;
            }
            notified.await;
        }
    }

    /// Bytes that the head holds.
    pub(super) fn memory_size(&self) -> usize {
        match &*self.result.lock() {
            Some(Ok(head)) => head
                .headers
                .iter()
                .map(|(name, value)| name.capacity() + value.capacity() + 48)
                .sum(),
            _ => 0,
        }
    }

    /// Sets the result. Only the first call has an effect.
    pub(crate) fn set(&self, result: Result<UpstreamHead, OpenError>) {
        let result = result.map_err(Box::new);
        self.result.lock().get_or_insert(result);
        self.changed.notify_waiters();
    }
}

/// Returns what a request gets whose generation ended without a head.
pub(super) fn ended_before_head() -> OpenError {
    OpenError::Failed(ApiError::new(
        ErrorCode::InternalError,
        "The generation ended before its upstream answered.",
    ))
}
