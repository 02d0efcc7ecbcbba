//! The engine: what adapters and the API talk to.
//!
//! ```text
//!   StartRequest ──start──▶ plan ──▶ generation ──▶ registry ◀──find── Cursor
//!                            │ history, reuse                    resume ──▶ Resumption
//! ```
//!
//! [`Engine::builder`] makes the [`SharedEngine`] of a process: registry, memory account, tasks and
//! sweeper. [`SharedEngine::engine`] makes the [`Engine`] of one worker. It starts generations on
//! the worker that calls, finds them again from any worker, and holds the resume table
//! ([`resume`]).

mod admission;
mod adoption;
mod builder;
mod conversation;
mod directory;
mod end_notifier;
mod fingerprint;
mod follower;
mod generation_end;
mod history;
mod located;
mod lost_stream;
mod meter;
mod metered_relay;
mod observer;
mod peer;
mod persistence;
mod plan;
mod reattachment;
mod registry;
mod remote;
mod replay;
mod replica;
mod resolve;
pub mod resume;
mod retention;
mod reuse;
mod served_log;
mod session_responses;
mod silence;
mod start;
mod start_request;
mod stored_source;
mod upstream_input;

pub use builder::{EngineBuilder, SharedEngine};
pub use end_notifier::{EndNotifier, OnEnd};
pub use generation_end::GenerationEnd;
pub use history::{History, HistoryLimits};
pub use located::{GenerationSource, KeyClaimed, Located, StoredGeneration};
pub use lost_stream::{LOST_SEQ, LostStream};
pub use meter::{Admission, Admitted, Meter, Metered, MeteredStart};
pub use observer::{GenerationStart, Observer};
pub use peer::{Peer, PeerError, ReadControl, RemoteLog, RemotePart};
pub use registry::Registry;
pub use replica::{ReplicaOptions, Replicated};
pub use resume::{Cursor, Place, ReaderKind, Resumption};
pub use retention::Retention;
pub use reuse::{Freshness, Reuse, ReuseOptions, Reused};
pub use served_log::{ServedKey, ServedLog};
pub use session_responses::SessionResponses;
pub use start::Started;
pub use start_request::{Caller, StartRequest};
pub use stored_source::StoredSource;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use directory::Part;
use persistence::Persistence;
use remote::Found;
use replica::Replica;

use crate::generation::Generation;
use crate::generation::watch::Watch;
use crate::log::LogLimits;
use crate::model::account::Account;
use crate::model::error::{ApiError, ErrorCode};
use crate::model::id::{GenerationId, IdSource, Owner};
use crate::model::secret::Secret;
use crate::upstream::Upstream;

/// Starts generations and finds them again. See the [module](self).
#[derive(Clone, Debug)]
pub struct Engine {
    registry: Arc<Registry>,
    log_limits: LogLimits,
    account: Account,
    upstream: Arc<dyn Upstream>,
    tasks: TaskTracker,
    grace: Duration,
    history_limits: HistoryLimits,
    reuse: Option<Arc<Reuse>>,
    persistence: Option<Persistence>,
    replica: Option<Replica>,
    end_notifier: Option<Arc<dyn EndNotifier>>,
    /// In a reference count of this engine's own: each request takes part in it.
    observer: Option<Arc<Arc<dyn Observer>>>,
    watch: Option<Watch>,
    ids: Arc<dyn IdSource>,
    secret: Secret,
}

impl Engine {
    /// Configures what the engines of all workers share.
    #[must_use]
    pub fn builder() -> EngineBuilder {
        EngineBuilder::default()
    }

    /// The same engine, which asks this upstream: for a client that may use a part of it only.
    #[must_use]
    pub fn with_upstream(self, upstream: Arc<dyn Upstream>) -> Self {
        Self { upstream, ..self }
    }

    /// The same engine, with a hook for ends.
    #[must_use]
    pub fn with_end_notifier(self, end_notifier: Arc<dyn EndNotifier>) -> Self {
        Self {
            end_notifier: Some(end_notifier),
            ..self
        }
    }

    /// The same engine, with an observer of starts and ends.
    #[must_use]
    pub fn observed_by(self, observer: Arc<dyn Observer>) -> Self {
        Self {
            observer: Some(Arc::new(observer)),
            ..self
        }
    }

    /// The same engine, which looks for these rules in the answers that it starts. `None` looks for
    /// nothing.
    #[must_use]
    pub fn watched_by(self, watch: Option<Watch>) -> Self {
        Self {
            watch: watch.filter(|watch| !watch.rules.is_empty()),
            ..self
        }
    }

    /// The registry that the engines of all workers share.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The account that counts the memory of requests and answers.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Returns the generation of this id, if it is this owner's. One of this process is found
    /// without waiting.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`]; [`ErrorCode::ProducerLost`] if the node that wrote it is lost;
    /// [`ErrorCode::OwnerUnreachable`]; why a store cannot say now.
    pub async fn find(
        &self,
        id: &GenerationId,
        owner: &Owner,
    ) -> Result<Arc<Generation>, ApiError> {
        let found = self.find_or_lost(id, owner, Part::Object).await?;
        found.ok_or_else(|| lost_stream::producer_lost(id))
    }

    /// Returns the generation of this id, if it is in this process and this owner's.
    #[must_use]
    pub fn find_local(&self, id: &GenerationId, owner: &Owner) -> Option<Arc<Generation>> {
        self.registry.directory.local(id, owner)
    }

    /// As [`Engine::find`], but returns `None` for the stream of a lost node. One whose `part` is not
    /// in memory any more is read from the store, if that has it.
    async fn find_or_lost(
        &self,
        id: &GenerationId,
        owner: &Owner,
        part: Part,
    ) -> Result<Option<Arc<Generation>>, ApiError> {
        let located = self.registry.directory.lookup(id, owner, part).await?;
        match self.bring(id, owner, located).await? {
            Found::Here(generation) => Ok(Some(generation)),
            Found::Lost => Ok(None),
            Found::Gone => Err(not_found(id)),
        }
    }

    /// Brings a generation into this process, from where the directory has found it.
    async fn bring(
        &self,
        id: &GenerationId,
        owner: &Owner,
        located: Located,
    ) -> Result<Found, ApiError> {
        Ok(match located {
            Located::Local(generation) => Found::Here(generation),
            Located::Stored(stored) => Found::of(self.registry.restore(stored).await?),
            Located::Orphaned(orphan) => {
                let opening = self.registry.opening.of(id);
                let _one = opening.lock().await;
                Found::of(self.registry.adopt(orphan).await?)
            }
            Located::Remote(peer) => self.remote(id, owner, peer).await?,
            Located::Unreachable { node } => return Err(unreachable(id, &node)),
            Located::Lost(_) => Found::Lost,
            Located::Gone => Found::Gone,
        })
    }

    /// As [`Engine::delete`], by id. The stream of a lost node is deleted from the store of all
    /// nodes, and from the node if that runs again.
    ///
    /// # Errors
    /// As [`Engine::find`] and [`Engine::delete`].
    pub async fn delete_by_id(&self, id: &GenerationId, owner: &Owner) -> Result<(), ApiError> {
        let directory = &self.registry.directory;
        let located = directory.lookup(id, owner, Part::Object).await?;
        match self.bring(id, owner, located).await? {
            Found::Here(generation) => return self.delete(&generation).await,
            Found::Gone => return Err(not_found(id)),
            Found::Lost => {}
        }
        let located = directory.lookup(id, owner, Part::Object).await?;
        let (Located::Lost(Some(header)), Some(replica)) = (located, &self.replica) else {
            return Err(lost_stream::producer_lost(id));
        };
        replica.delete(&header.meta).await?;
        directory.delete_elsewhere(id).await
    }

    /// Stops a generation and forgets it. Its log and its response object are gone when this
    /// returns, also from the store.
    ///
    /// # Errors
    /// [`ErrorCode::StoreUnavailable`]: it is gone from memory, and may be in the store.
    pub async fn delete(&self, generation: &Arc<Generation>) -> Result<(), ApiError> {
        let id = &generation.meta().id;
        generation.delete();
        if let Some(persistence) = &self.persistence {
            persistence.delete(id).await?;
        }
        if let Some(replica) = &self.replica {
            replica.delete(generation.meta()).await?;
        }
        self.registry.directory.delete_elsewhere(id).await?;
        self.registry.forget(id);
        Ok(())
    }

    /// What keeps the flushers running until the last record of a stream is noted, if it is kept
    /// anywhere. Boxed, since the task of each open stream holds it.
    fn held_stores(&self) -> Option<Box<(Option<Persistence>, Option<Replica>)>> {
        let is_kept = self.persistence.is_some() || self.replica.is_some();
        is_kept.then(|| Box::new((self.persistence.clone(), self.replica.clone())))
    }
}

fn not_found(id: &GenerationId) -> ApiError {
    let message = format!("Response with id '{id}' not found.");
    ApiError::new(ErrorCode::NotFound, message)
}

fn unreachable(id: &GenerationId, node: &str) -> ApiError {
    ApiError::new(
        ErrorCode::OwnerUnreachable,
        format!("'{id}' is on the node '{node}', which cannot be reached."),
    )
    .retry_after(Duration::from_secs(1))
}
