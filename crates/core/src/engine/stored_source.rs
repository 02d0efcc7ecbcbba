//! The generations of a store.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::time::timeout;

use super::located::{GenerationSource, Located, StoredGeneration};
use crate::log::{LogStore, StoreError};
use crate::model::error::{ApiError, ErrorCode};
use crate::model::id::GenerationId;

/// Finds generations in a store that this process, or one before it, has written.
///
/// It does not know which processes are alive. A log that has not ended is taken for one that
/// another process writes, until it is adopted
/// ([`SharedEngine::adopt`](super::SharedEngine::adopt)).
#[derive(Clone, Debug)]
pub struct StoredSource {
    store: Arc<dyn LogStore>,
    wait: Duration,
}

impl StoredSource {
    /// Creates a source over this store, which has this time to answer.
    #[must_use]
    pub fn new(store: Arc<dyn LogStore>, wait: Duration) -> Self {
        Self { store, wait }
    }
}

impl GenerationSource for StoredSource {
    fn locate(&self, id: &GenerationId) -> BoxFuture<'_, Result<Located, ApiError>> {
        let id = id.clone();
        async move {
            let opened = timeout(self.wait, self.store.open(&id)).await;
            match opened.unwrap_or_else(|_| Err(no_answer())) {
                Ok(stored) if stored.sealed => Ok(Located::Stored(StoredGeneration {
                    store: self.store.clone(),
                    header: stored.header,
                })),
                Ok(_) => Ok(Located::Unreachable {
                    node: "another process".to_owned(),
                }),
                Err(error) if error.is_gone() => Ok(Located::Gone),
                Err(error) => Err(unreadable(&id, &error)),
            }
        }
        .boxed()
    }
}

/// The error of a store that does not answer in time.
pub(super) fn no_answer() -> StoreError {
    StoreError::Unavailable("it does not answer in time".into())
}

/// The error of a stored generation that cannot be read.
pub(super) fn unreadable(id: &GenerationId, error: &StoreError) -> ApiError {
    tracing::error!(generation = %id, %error, "a stored generation cannot be read");
    let code = if error.is_retryable() {
        ErrorCode::StoreUnavailable
    } else {
        ErrorCode::InternalError
    };
    let message = format!("'{id}' cannot be read from the store.");
    ApiError::new(code, message).retry_after(Duration::from_secs(1))
}
