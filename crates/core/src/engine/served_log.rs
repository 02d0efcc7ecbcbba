//! What other processes may do with the generations of this one.

use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;

use super::directory::KeyedHere;
use super::{Located, SharedEngine, StoredSource};
use crate::generation::Generation;
use crate::log::StoredLog;
use crate::model::error::ApiError;
use crate::model::id::{GenerationId, Owner, Seq};
use crate::model::include::Form;

/// A generation of this process, for another one.
#[derive(Debug)]
pub struct ServedLog {
    /// The generation. Its records are read from its log.
    pub generation: Arc<Generation>,
    /// What there is of it now.
    pub stored: StoredLog,
    /// The response object, if the records are not kept any more.
    pub object: Option<Bytes>,
    /// The runtime that writes it, where it is best read. `None` if none does any more, or if it may
    /// end before the reader.
    pub runtime: Option<Handle>,
}

/// What this process knows of an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServedKey {
    /// Nothing.
    Unknown,
    /// A request under the key is just being started.
    Starting,
    /// It started this generation.
    Known(GenerationId),
}

impl SharedEngine {
    /// Returns whether this process has the generation, in memory or in its store. A copy of what
    /// another process has does not count.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn has(&self, id: &GenerationId) -> Result<bool, ApiError> {
        let known = self.registry.directory.any(id);
        if let Some(own) = known.filter(|known| !known.is_remote()) {
            return Ok(!own.is_deleted());
        }
        if let Some(source) = self.own_store() {
            let located = super::GenerationSource::locate(&source, id).await?;
            return Ok(!matches!(located, Located::Gone));
        }
        Ok(false)
    }

    /// Returns a generation of this process for another one, which compares the owner. One that only a
    /// store has is read from there.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn serve(&self, id: &GenerationId) -> Result<Option<ServedLog>, ApiError> {
        let known = self.registry.directory.any(id);
        if known.as_ref().is_some_and(|known| known.is_remote()) {
            return if self.has(id).await? {
                // The task that reads the copy is about to take the log over. Ask again.
                Err(super::unreachable(id, "that takes it over"))
            } else {
                // Read from here, a copy could outlast the deletion of what it is a copy of.
                Ok(None)
            };
        }
        if known.as_ref().is_some_and(|known| known.is_deleted()) {
            return Ok(None);
        }
        // What another process has taken over is not this one's.
        let known = known.filter(|known| !known.is_fenced());
        let kept = known.clone().filter(|known| known.tail().is_ok());
        let own = match (&kept, self.own_store()) {
            (Some(kept), _) => Some(kept.clone()),
            (None, Some(source)) => match super::GenerationSource::locate(&source, id).await? {
                Located::Stored(stored) => self.registry.restore(stored).await?,
                // It is being ended.
                Located::Unreachable { node } => return Err(super::unreachable(id, &node)),
                _ => known,
            },
            (None, None) => known,
        };
        let own = match own {
            Some(own) => Some(own),
            None => self.serve_replica(id).await?,
        };
        // It may have been deleted while it was read.
        let served = own.map(|own| {
            let mut served = ServedLog::new(own);
            if !served.stored.sealed && !self.registry.is_draining() {
                served.runtime = served.generation.runtime().cloned();
            }
            served
        });
        Ok(served.filter(|served| !served.generation.is_deleted()))
    }

    /// Returns a generation that only the store of all nodes has.
    async fn serve_replica(&self, id: &GenerationId) -> Result<Option<Arc<Generation>>, ApiError> {
        let Some(replica) = &self.replica else {
            return Ok(None);
        };
        let source = StoredSource::new(replica.store.clone(), self.store_wait);
        match super::GenerationSource::locate(&source, id).await? {
            Located::Stored(stored) => self.registry.restore(stored).await,
            _ => Ok(None),
        }
    }

    /// Says what this process knows of an idempotency key, in memory or in its store.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn served_key(&self, owner: &Owner, key: &str) -> Result<ServedKey, ApiError> {
        match self.registry.directory.keyed_here(owner, key) {
            KeyedHere::Starting => return Ok(ServedKey::Starting),
            KeyedHere::Known(id) => return Ok(ServedKey::Known(id)),
            KeyedHere::Unknown => {}
        }
        let Some(store) = &self.store else {
            return Ok(ServedKey::Unknown);
        };
        let answer = tokio::time::timeout(self.store_wait, store.keyed(owner, key)).await;
        let answer = answer.unwrap_or_else(|_| Err(super::stored_source::no_answer()));
        match answer {
            Ok(Some(id)) => Ok(ServedKey::Known(id)),
            Ok(None) => Ok(ServedKey::Unknown),
            Err(error) => Err(super::persistence::unavailable(&error.to_string())),
        }
    }

    /// Stops and forgets a generation, also in the store. Durable once it returns.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn delete_here(&self, id: &GenerationId) -> Result<(), ApiError> {
        if let Some(generation) = self.registry.directory.any(id) {
            generation.delete();
        }
        if let Some(store) = &self.store {
            let answer = tokio::time::timeout(self.store_wait, store.delete(id)).await;
            let answer = answer.unwrap_or_else(|_| Err(super::stored_source::no_answer()));
            if let Err(error) = answer
                && !error.is_gone()
            {
                return Err(super::persistence::unavailable(&error.to_string()));
            }
        }
        self.registry.forget(id);
        Ok(())
    }

    fn own_store(&self) -> Option<StoredSource> {
        Some(StoredSource::new(self.store.clone()?, self.store_wait))
    }
}

impl ServedLog {
    pub(super) fn new(generation: Arc<Generation>) -> Self {
        let log = generation.log();
        let (epoch_ends, tail) = (log.epoch_ends(), log.end());
        let object = tail
            .is_err()
            .then(|| generation.response_in(Form::Kept).into());
        let stored = StoredLog {
            header: generation.header().clone(),
            epoch_ends,
            end: tail.map_or(Seq(0), |tail| tail.next),
            sealed: tail.map_or(true, |tail| tail.sealed),
        };
        Self {
            generation,
            stored,
            object,
            runtime: None,
        }
    }
}
