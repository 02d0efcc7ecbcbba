//! What a worker's engine does with the store: it creates logs and runs a flusher.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::stored_source::no_answer;
use crate::generation::{Role, WriteLease, Writer};
use crate::log::{Flusher, LogHeader, LogStore, StoreError};
use crate::model::error::{ApiError, ErrorCode};
use crate::model::id::{GenerationId, Owner, Seq};

/// A worker's side of the store. Cheap to clone.
#[derive(Clone)]
pub(super) struct Persistence {
    store: Arc<dyn LogStore>,
    flusher: Flusher,
    /// How long a request waits for the store.
    wait: Duration,
    /// Keeps the flusher's task running, if it was started here.
    _running: Option<Arc<oneshot::Sender<Infallible>>>,
}

/// A log that was created for a request that has not started yet. Dropping it deletes the log, which
/// would else be taken for one whose writer is lost.
struct CreatedLog {
    store: Arc<dyn LogStore>,
    wait: Duration,
    /// `None` once the log has a writer.
    id: Option<GenerationId>,
}

impl fmt::Debug for Persistence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Persistence")
            .field("flusher", &self.flusher)
            .finish_non_exhaustive()
    }
}

// === impl Persistence ===

impl Persistence {
    /// Uses a flusher that the caller runs.
    pub(super) fn with(store: Arc<dyn LogStore>, flusher: Flusher, wait: Duration) -> Self {
        Self {
            store,
            flusher,
            wait,
            _running: None,
        }
    }

    /// Runs a flusher on this runtime. It ends when the last engine is dropped and everything is
    /// stored.
    pub(super) fn run(
        store: Arc<dyn LogStore>,
        flusher: Flusher,
        wait: Duration,
        runtime: &Handle,
    ) -> Self {
        let (running, dropped) = oneshot::channel();
        let this = Self::with(store, flusher.clone(), wait);
        runtime.spawn(async move {
            tokio::select! {
                biased;
                () = flusher.clone().run() => {}
                () = async {
                    let _ = dropped.await;
                    flusher.flushed().await;
                } => {}
            }
        });
        Self {
            _running: Some(Arc::new(running)),
            ..this
        }
    }

    /// The store.
    pub(super) fn store(&self) -> &Arc<dyn LogStore> {
        &self.store
    }

    /// Stores the header of a generation that must not be forgotten once its upstream is asked.
    async fn create(&self, header: Arc<LogHeader>) -> Result<CreatedLog, ApiError> {
        let created = CreatedLog {
            store: self.store.clone(),
            wait: self.wait,
            id: Some(header.meta.id.clone()),
        };
        let answer = timeout(self.wait, self.store.create(header)).await;
        match answer.unwrap_or_else(|_| Err(no_answer())) {
            Ok(_) => Ok(created),
            Err(error) => {
                tracing::warn!(%error, "a request was refused: its header could not be stored");
                Err(unavailable(
                    "The request was not sent: the store that would keep it does not answer.",
                ))
            }
        }
    }

    /// Prepares the store for a generation. With `first` its header is stored when this returns.
    pub(super) async fn begin(
        &self,
        header: &Arc<LogHeader>,
        first: bool,
    ) -> Result<Beginning, ApiError> {
        let created = if first {
            Some(self.create(header.clone()).await?)
        } else {
            None
        };
        Ok(Beginning {
            flusher: self.flusher.clone(),
            created,
        })
    }

    /// Has the records of a writer stored that goes on with a log, of which the store has this much.
    pub(super) fn go_on(&self, writer: &mut Writer, stored: Seq) {
        writer.store_with(&self.flusher, Some(stored));
    }

    /// As [`Persistence::go_on`], for a store that other nodes read.
    pub(super) fn replicate_on(
        &self,
        writer: &mut Writer,
        stored: Seq,
        role: Role,
        lease: Option<Arc<dyn WriteLease>>,
    ) {
        writer.replicate_with(&self.flusher, Some(stored), role, lease);
    }

    /// Returns the log that a request under this key started, maybe in an earlier process.
    pub(super) async fn keyed(
        &self,
        owner: &Owner,
        key: &str,
    ) -> Result<Option<GenerationId>, ApiError> {
        let answer = timeout(self.wait, self.store.keyed(owner, key)).await;
        answer
            .unwrap_or_else(|_| Err(no_answer()))
            .map_err(|error| {
                tracing::warn!(%error, "a request was refused: its key could not be looked up");
                unavailable(
                    "The request was not sent: the store that knows its key does not answer.",
                )
            })
    }

    /// Has the objects that a turn builds on kept from now on. Nothing waits for it.
    pub(super) fn renew(&self, ids: Vec<GenerationId>) {
        if let (false, Ok(runtime)) = (ids.is_empty(), Handle::try_current()) {
            let store = self.store.clone();
            runtime.spawn(async move { store.renew(ids).await });
        }
    }

    /// Removes a log for good.
    pub(super) async fn delete(&self, id: &GenerationId) -> Result<(), ApiError> {
        let answer = timeout(self.wait, self.store.delete(id)).await;
        match answer.unwrap_or_else(|_| Err(no_answer())) {
            Ok(()) => Ok(()),
            Err(error) if error.is_gone() => Ok(()),
            Err(error) => {
                tracing::warn!(generation = %id, %error, "a log could not be deleted");
                Err(unavailable(
                    "The response may not be deleted: the store does not answer.",
                ))
            }
        }
    }
}

/// A store that is ready for a generation's records.
pub(super) struct Beginning {
    flusher: Flusher,
    created: Option<CreatedLog>,
}

impl Beginning {
    /// Has the writer's records stored from now on.
    pub(super) fn attach(self, writer: &mut Writer) {
        let stored = self.created.map(CreatedLog::into_stored);
        writer.store_with(&self.flusher, stored);
    }

    /// As [`Beginning::attach`], for a store that other nodes read.
    pub(super) fn replicate(
        self,
        writer: &mut Writer,
        role: Role,
        lease: Option<Arc<dyn WriteLease>>,
    ) {
        let stored = self.created.map(CreatedLog::into_stored);
        writer.replicate_with(&self.flusher, stored, role, lease);
    }
}

// === impl CreatedLog ===

impl CreatedLog {
    /// Keeps the log, which has a writer now. Returns how far it is stored.
    fn into_stored(mut self) -> Seq {
        self.id = None;
        Seq(0)
    }
}

impl Drop for CreatedLog {
    fn drop(&mut self) {
        let (Some(id), Ok(runtime)) = (self.id.take(), Handle::try_current()) else {
            return;
        };
        let (store, wait) = (self.store.clone(), self.wait);
        runtime.spawn(async move {
            let deleted: Result<Result<(), StoreError>, _> = timeout(wait, store.delete(&id)).await;
            if !matches!(deleted, Ok(Ok(()))) {
                tracing::warn!(generation = %id, "the header of a refused request may be stored");
            }
        });
    }
}

pub(super) fn unavailable(message: &str) -> ApiError {
    ApiError::new(ErrorCode::StoreUnavailable, message).retry_after(Duration::from_secs(1))
}
