//! Where a generation is, and who finds those that are not in this process.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::generation::Generation;
use crate::log::{LogHeader, LogStore};
use crate::model::error::ApiError;
use crate::model::id::GenerationId;

/// Where a generation is.
#[derive(Debug)]
pub enum Located {
    /// In this process.
    Local(Arc<Generation>),
    /// In a store. It has ended.
    Stored(StoredGeneration),
    /// On another node, which is alive.
    Remote {
        /// The node's name.
        node: String,
    },
    /// It ran on a node that is lost, and nothing of it is stored.
    Lost,
    /// Nothing is known of it, or it is another owner's.
    Gone,
}

/// A generation whose log is in a store and sealed.
#[derive(Clone, Debug)]
pub struct StoredGeneration {
    /// The store.
    pub store: Arc<dyn LogStore>,
    /// The first part of the log.
    pub header: Arc<LogHeader>,
}

/// Finds generations that are not in this process: those in a store, and those of other nodes.
pub trait GenerationSource: Send + Sync + fmt::Debug {
    /// Says where the generation of this id is. The engine compares the owner.
    ///
    /// # Errors
    /// Why that cannot be said now.
    fn locate(&self, id: &GenerationId) -> BoxFuture<'_, Result<Located, ApiError>>;
}
