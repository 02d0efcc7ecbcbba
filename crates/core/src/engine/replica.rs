//! The store that other nodes read, beside the process' own.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::persistence::{Beginning, Persistence};
use crate::generation::{Role, WriteLease, Writer};
use crate::log::{FlushOptions, Flusher, LogHeader, LogStore};
use crate::model::error::ApiError;
use crate::model::id::{GenerationId, Seq};
use crate::model::snapshot::Meta;

/// Which generations other processes take over while they run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replicated {
    /// Those of background responses.
    #[default]
    Background,
    /// All.
    All,
}

/// A second store, which other nodes read. It has its own flusher and cursor: while it hangs or is
/// away no stream stops, and no memory grows.
///
/// It gets the header of a stored response at its start, and log and object at its end. Of
/// [replicated](Replicated) generations it gets the records of each tick, and their terminal event is
/// shown once it is stored there, at most 5 s later.
#[derive(Clone, Debug)]
pub struct ReplicaOptions {
    /// The store.
    pub store: Arc<dyn LogStore>,
    /// Which running generations it has.
    pub running: Replicated,
    /// How its flushers work.
    pub flush: FlushOptions,
    /// Larger logs than this many bytes are not stored there.
    pub max_bytes: usize,
    /// Says whether replicated generations may go on.
    pub lease: Option<Arc<dyn WriteLease>>,
}

/// A worker's side of the second store. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Replica {
    persistence: Persistence,
    options: Arc<ReplicaOptions>,
}

/// A second store that is ready for a generation's records.
pub(super) struct ReplicaBeginning {
    beginning: Beginning,
    role: Role,
    lease: Option<Arc<dyn WriteLease>>,
}

// === impl ReplicaOptions ===

impl ReplicaOptions {
    /// Whether other processes take this generation over.
    pub(super) fn is_replicated(&self, meta: &Meta) -> bool {
        meta.background || self.running == Replicated::All
    }

    /// Whether the store may have something of this generation.
    pub(super) fn may_have(&self, meta: &Meta) -> bool {
        meta.store || self.is_replicated(meta)
    }
}

// === impl Replica ===

impl Replica {
    /// Uses a flusher, which runs on this runtime.
    pub(super) fn new(
        options: Arc<ReplicaOptions>,
        flusher: Flusher,
        wait: std::time::Duration,
        runtime: Option<&Handle>,
    ) -> Self {
        let store = options.store.clone();
        let persistence = match runtime {
            Some(runtime) => Persistence::run(store, flusher, wait, runtime),
            None => Persistence::with(store, flusher, wait),
        };
        Self {
            persistence,
            options,
        }
    }

    /// Prepares the store for a generation, if it is to have something of it. The header of one that
    /// is keyed or replicated from its first event on is stored when this returns.
    pub(super) async fn begin(
        &self,
        header: &Arc<LogHeader>,
    ) -> Result<Option<ReplicaBeginning>, ApiError> {
        let meta = &header.meta;
        if !self.options.may_have(meta) {
            return Ok(None);
        }
        let first = meta.background || header.idempotency.is_some();
        let max_bytes = self.options.max_bytes;
        Ok(Some(ReplicaBeginning {
            beginning: self.persistence.begin(header, first).await?,
            role: if self.options.is_replicated(meta) {
                Role::Replica { max_bytes }
            } else {
                Role::Copy { max_bytes }
            },
            lease: self.options.lease.clone(),
        }))
    }

    /// As [`Persistence::go_on`].
    pub(super) fn go_on(&self, writer: &mut Writer, stored: Seq) {
        let role = Role::Replica {
            max_bytes: self.options.max_bytes,
        };
        let lease = self.options.lease.clone();
        self.persistence.replicate_on(writer, stored, role, lease);
    }

    /// As [`Persistence::renew`].
    pub(super) fn renew(&self, ids: Vec<GenerationId>) {
        self.persistence.renew(ids);
    }

    /// Removes for good what the store has of a generation. The store notes the deletion of one that it
    /// does not have as well, if it can: without that, it would be taken for one that was lost with its
    /// process.
    pub(super) async fn delete(&self, meta: &Meta) -> Result<(), ApiError> {
        let deleted = self.persistence.delete(&meta.id).await;
        if self.options.may_have(meta) {
            deleted
        } else {
            Ok(())
        }
    }
}

// === impl ReplicaBeginning ===

impl ReplicaBeginning {
    /// Has the writer's records stored from now on.
    pub(super) fn attach(self, writer: &mut Writer) {
        self.beginning.replicate(writer, self.role, self.lease);
    }
}
