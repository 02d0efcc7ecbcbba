//! Taking over the logs of writers that are lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::located::{Located, StoredGeneration};
use super::reattachment::Adopted;
use super::registry::Reattach;
use super::stored_source::unreadable;
use super::{Registry, SharedEngine, lost_stream, unreachable};
use crate::generation::Generation;
use crate::log::{Block, Blocks, Epoch, LogStore, StoreError, StoredLog};
use crate::model::error::ApiError;
use crate::model::id::GenerationId;
use crate::model::include::Form;
use crate::model::random::random_millis;
use crate::model::snapshot::Api;

/// How long a request waits for an adoption, its own or another process'.
const ADOPTED: Duration = Duration::from_secs(5);
/// Bytes that one read takes from a store.
const READ_BYTES: usize = 256 * 1024;
/// The pause between two looks at a log that another process adopts.
const PAUSE: Duration = Duration::from_millis(100);

impl SharedEngine {
    /// Takes over a stored log whose writer is lost, and ends it in the next epoch: closes what is
    /// open and appends `response.failed` with `producer_lost`. Its readers then get what the
    /// [resume table](super::resume) says. The ending is stored when this returns.
    ///
    /// A log that has ended is only read. A generation that this process has is returned as it is.
    /// The caller makes sure that the writer is lost_stream: one that is alive is fenced, and its readers
    /// are cut off.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] if another process adopted it at the same time,
    /// [`StoreError::NotFound`] and [`StoreError::Deleted`] if there is no such log,
    /// [`StoreError::Corrupt`] and [`StoreError::UnknownVersion`] if it cannot be read. After
    /// [`StoreError::Unavailable`] it may be called again.
    pub async fn adopt(&self, id: &GenerationId) -> Result<Arc<Generation>, StoreError> {
        let store = self.store.as_ref().ok_or(StoreError::NotFound)?;
        if let Some(local) = self.registry.directory.with_log(id) {
            if !local.is_remote() {
                return Ok(local);
            }
            if let Some(local) = self.handed_over(local).await {
                return Ok(local);
            }
        }
        match self.end_with_others(store, id).await? {
            Some(generation) => Ok(generation),
            None => self.registry.adopt_log(store, id).await,
        }
    }

    /// Ends a log of this process' own store as other nodes see it: where they have it as well, the end
    /// is made there, once. What only this store has of it is given to them first. Returns `None` if
    /// they do not have it.
    async fn end_with_others(
        &self,
        own: &Arc<dyn LogStore>,
        id: &GenerationId,
    ) -> Result<Option<Arc<Generation>>, StoreError> {
        let Some(replica) = &self.replica else {
            return Ok(None);
        };
        let here = own.open(id).await?;
        // One that is only copied at its end is ended by no other node.
        if here.sealed || !replica.is_replicated(&here.header.meta) {
            return Ok(None);
        }
        let shared = match replica.store.open(id).await {
            Ok(shared) => shared,
            Err(error) if error.is_gone() => return Ok(None),
            Err(error) => return Err(error),
        };
        if !shared.sealed && shared.epoch_ends == here.epoch_ends {
            append_rest(&**own, &here, &*replica.store, &shared).await?;
        }
        let generation = self.adopt_replica(id).await?;
        // Its numbers may differ from those that would have been given here.
        own.delete(id).await?;
        Ok(Some(generation))
    }

    /// As [`SharedEngine::adopt`], from the store of all nodes. If another process adopts the log at
    /// the same time, waits for its end.
    ///
    /// # Errors
    /// As [`SharedEngine::adopt`], but never [`StoreError::Fenced`].
    pub async fn adopt_replica(&self, id: &GenerationId) -> Result<Arc<Generation>, StoreError> {
        let replica = self.replica.as_ref().ok_or(StoreError::NotFound)?;
        let opening = self.registry.opening.of(id);
        let _one = opening.lock().await;
        self.registry.adopt_from(&replica.store, id).await
    }
}

impl Registry {
    /// Ends a log whose writer is lost, for a request. `None` if it was deleted by now.
    pub(super) async fn adopt(
        &self,
        orphan: StoredGeneration,
    ) -> Result<Option<Arc<Generation>>, ApiError> {
        let id = &orphan.header.meta.id;
        match self.adopt_from(&orphan.store, id).await {
            Ok(generation) => Ok(Some(generation)),
            Err(error) if error.is_gone() => Ok(None),
            Err(error) if error.is_retryable() => {
                tracing::warn!(generation = %id, %error, "a lost stream cannot be ended now");
                Err(unreachable(id, "that ends it"))
            }
            Err(error) => Err(unreadable(id, &error)),
        }
    }

    async fn adopt_from(
        &self,
        store: &Arc<dyn LogStore>,
        id: &GenerationId,
    ) -> Result<Arc<Generation>, StoreError> {
        let deadline = Instant::now() + ADOPTED;
        loop {
            if let Some(known) = self.directory.with_log(id) {
                // The task that reads one of another process adopts it.
                if !known.is_remote() || ended_before(&known, deadline).await {
                    return Ok(known);
                }
            }
            // It may go on at another node, also if that one cannot be asked now.
            if self.reattach.is_some() {
                let found = self.directory.locate_elsewhere(id).await;
                let found = found.map_err(|error| StoreError::Unavailable(error.message.into()))?;
                if let Located::Remote(peer) = found {
                    let node = format!("the node '{}' goes on with it", peer.name());
                    return Err(StoreError::Unavailable(node.into()));
                }
            }
            match self.adopt_log(store, id).await {
                Ok(generation) => return Ok(generation),
                // Another process ends it, if it lives. Before the gateway serves nothing can wait here.
                Err(StoreError::Fenced { .. })
                    if Instant::now() < deadline && Handle::try_current().is_ok() => {}
                Err(StoreError::Fenced { .. }) => {
                    return Err(StoreError::Unavailable("another process adopts it".into()));
                }
                Err(error) => return Err(error),
            }
            let wait = Instant::now() + random_millis(200..600);
            while Instant::now() < wait.min(deadline) {
                sleep(PAUSE).await;
                if matches!(store.open(id).await, Ok(stored) if stored.sealed) {
                    break;
                }
            }
        }
    }
}

async fn ended_before(generation: &Generation, deadline: Instant) -> bool {
    let ended = tokio::time::timeout_at(deadline, generation.ended()).await;
    ended.is_ok() && generation.tail().is_ok_and(|tail| tail.sealed)
}

impl Registry {
    /// Goes on with a stored log whose writer is lost, if its upstream does, or ends it. One that has
    /// ended is only read. Nothing is shown before the end is stored. The generation is in the
    /// directory when this returns.
    ///
    /// # Errors
    /// As [`SharedEngine::adopt`].
    pub(super) async fn adopt_log(
        &self,
        store: &Arc<dyn LogStore>,
        id: &GenerationId,
    ) -> Result<Arc<Generation>, StoreError> {
        let goes_on = match &self.reattach {
            Some(reattach) if may_go_on(&**store, id).await? => {
                if !self.workers.is_any() {
                    let wait = "its upstream is asked once the gateway has started";
                    return Err(StoreError::Unavailable(wait.into()));
                }
                Some(reattach)
            }
            _ => None,
        };
        let adopted = match store.adopt(id).await {
            Ok(epoch) => Some(epoch),
            Err(StoreError::Sealed) => None,
            Err(error) => return Err(error),
        };
        let account = self.account().clone();
        let generation = match (adopted, goes_on) {
            (Some(_), Some(Reattach { log_limits, grace })) => {
                Generation::restore_running(&**store, id, account, *log_limits, *grace).await?
            }
            _ => Generation::restore(&**store, id, account).await?,
        };
        if let Some(epoch) = adopted {
            if epoch == generation.log().epoch()
                && goes_on.is_some()
                && self.go_on(store, &generation, epoch).await
            {
                return Ok(generation);
            }
            end_log(&**store, &generation, epoch).await?;
        }
        Ok(self.directory.insert_stored(generation, Instant::now()))
    }

    /// Has a worker go on with an answer. Returns whether one does.
    async fn go_on(
        &self,
        store: &Arc<dyn LogStore>,
        generation: &Arc<Generation>,
        epoch: Epoch,
    ) -> bool {
        let Some(attachment) = generation.attachment() else {
            return false;
        };
        let (runs, running) = oneshot::channel();
        self.workers.give(Adopted {
            generation: generation.clone(),
            epoch,
            attachment,
            store: store.clone(),
            runs,
        });
        timeout(ADOPTED, running)
            .await
            .is_ok_and(|runs| runs.is_ok())
    }
}

/// Gives a store the records that it lacks of a running log of another one, in the epoch that the log
/// has. A log that was taken over in between is left as it is.
async fn append_rest(
    from: &dyn LogStore,
    here: &StoredLog,
    to: &dyn LogStore,
    shared: &StoredLog,
) -> Result<(), StoreError> {
    let id = &here.header.meta.id;
    let mut end = shared.end;
    while end < here.end {
        let batch = from.read(id, end, READ_BYTES).await?;
        if batch.is_empty() || batch.first_seq() != end {
            return Err(StoreError::Corrupt);
        }
        let mut blocks = Blocks::default();
        blocks.push(Block {
            id,
            epoch: shared.epoch(),
            first: batch.first_seq(),
            next: batch.end_seq(),
            bytes: batch.as_block(),
        });
        let (_, results) = to.append(blocks).await;
        match results.into_iter().next() {
            Some(Ok(appended)) => end = appended,
            Some(Err(StoreError::Fenced { .. } | StoreError::Sealed)) => return Ok(()),
            Some(Err(error)) => return Err(error),
            None => return Err(StoreError::Corrupt),
        }
    }
    Ok(())
}

/// Whether the upstream of a log may go on with it.
async fn may_go_on(store: &dyn LogStore, id: &GenerationId) -> Result<bool, StoreError> {
    let stored = store.open(id).await?;
    let meta = &stored.header.meta;
    Ok(!stored.sealed && meta.api == Api::Responses && (meta.store || meta.background))
}

/// Ends a log that was taken over in this epoch.
async fn end_log(
    store: &dyn LogStore,
    generation: &Arc<Generation>,
    epoch: Epoch,
) -> Result<(), StoreError> {
    let id = &generation.meta().id;
    {
        let ending = match generation.end_adopted(epoch, &lost_stream::writer_lost(id)) {
            // The one that adopted it after this one has ended it by now.
            Err(StoreError::Fenced { .. }) if generation.is_over() => return Ok(()),
            ending => ending?,
        };
        let stored = generation.meta().store;
        let object = stored.then(|| generation.response_in(Form::Kept).into());
        let version = store.version();
        match generation.older_form(generation.header().version, version) {
            Some(whole) => store.seal_in(version, id, epoch, whole, object).await?,
            None => store.seal(id, epoch, ending, object).await?,
        }
        tracing::info!(generation = %id, ?epoch, "ended the log of a lost writer");
    }
    Ok(())
}
