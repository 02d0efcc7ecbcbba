//! Where a generation is, and who finds those that are not in this process.

use std::fmt;
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt as _, ready};

use super::peer::Peer;
use crate::generation::Generation;
use crate::log::{LogHeader, LogStore};
use crate::model::error::ApiError;
use crate::model::id::{GenerationId, Owner};

/// Where a generation is.
#[derive(Debug)]
pub enum Located {
    /// In this process.
    Local(Arc<Generation>),
    /// In a store. It has ended.
    Stored(StoredGeneration),
    /// In another process, which is alive.
    Remote(Arc<dyn Peer>),
    /// In another process, which is alive and does not answer.
    Unreachable {
        /// Its name.
        node: String,
    },
    /// In a store. It has not ended, and the process that wrote it is lost: it is to be
    /// [adopted](super::SharedEngine::adopt).
    Orphaned(StoredGeneration),
    /// It ran on a node that is lost, and no record of it is stored. Its header may be.
    Lost(Option<Arc<LogHeader>>),
    /// Nothing is known of it, or it is another owner's.
    Gone,
}

/// A generation whose log is in a store, and that no process writes.
#[derive(Clone, Debug)]
pub struct StoredGeneration {
    /// The store.
    pub store: Arc<dyn LogStore>,
    /// The first part of the log.
    pub header: Arc<LogHeader>,
}

/// An idempotency key, and the generation that starts under it.
#[derive(Clone, Copy, Debug)]
pub struct KeyClaimed<'a> {
    /// The owner, whose keys are its own.
    pub owner: &'a Owner,
    /// The key.
    pub key: &'a str,
    /// Identifies the request.
    pub fingerprint: &'a [u8; 16],
    /// The generation.
    pub id: &'a GenerationId,
}

/// Finds generations that are not in this process: those in a store, and those of other nodes.
pub trait GenerationSource: Send + Sync + fmt::Debug {
    /// Says where the generation of this id is. The engine compares the owner.
    ///
    /// # Errors
    /// Why that cannot be said now.
    fn locate(&self, id: &GenerationId) -> BoxFuture<'_, Result<Located, ApiError>>;

    /// Says where a generation is that the process which [`Self::locate`] has named does not have any
    /// more: another one may have taken it over while that one slept. The default knows of nothing.
    ///
    /// # Errors
    /// Why that cannot be said now.
    fn locate_lost<'a>(&'a self, id: &'a GenerationId) -> BoxFuture<'a, Result<Located, ApiError>> {
        let _ = id;
        ready(Ok(Located::Gone)).boxed()
    }

    /// Returns the generation that another process started under this idempotency key. The default
    /// knows of none.
    ///
    /// # Errors
    /// Why that cannot be said now: another process may be starting it.
    fn keyed<'a>(
        &'a self,
        owner: &'a Owner,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<GenerationId>, ApiError>> {
        let _ = (owner, key);
        ready(Ok(None)).boxed()
    }

    /// Claims an idempotency key for a generation that starts now, if no other process has. Returns
    /// the generation whose claim stands instead, unless that is `stale`. The default claims nothing.
    ///
    /// # Errors
    /// Why that cannot be said now.
    fn claim<'a>(
        &'a self,
        claim: KeyClaimed<'a>,
        stale: Option<&'a GenerationId>,
    ) -> BoxFuture<'a, Result<Option<GenerationId>, ApiError>> {
        let _ = (claim, stale);
        ready(Ok(None)).boxed()
    }

    /// Deletes what other processes have of this generation. The default knows of none.
    ///
    /// # Errors
    /// If one of them does not answer.
    fn delete<'a>(&'a self, id: &'a GenerationId) -> BoxFuture<'a, Result<(), ApiError>> {
        let _ = id;
        ready(Ok(())).boxed()
    }
}
