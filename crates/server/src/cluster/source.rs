//! Finds the generations of other nodes for the engine.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use tokenwire_core::engine::{GenerationSource, KeyClaimed, Located, StoredGeneration};
use tokenwire_core::log::{Epoch, LogStore as _, StoreError, StoredLog};
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::{GenerationId, Owner, Seq, Tag};
use tokenwire_peer::Client;
use tokio::time::{sleep, timeout};

use super::{Cluster, membership, store_unavailable};
use crate::neighbours::{Neighbours, no_answer};

/// How long a process whose lease has lapsed has for an answer.
const PROBE: Duration = Duration::from_secs(1);

/// How often Redis is asked for those that have copies, and a copy is to be deleted, or that noted.
const TRIES: usize = 3;
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// The process that wrote a log, as far as the one that looks for it knows.
enum Writer {
    /// This one.
    Own,
    /// One whose lease has lapsed.
    Lapsed(Client),
    /// One that answers and does not have it: it was deleted, or taken over while that one slept.
    Fenced,
    /// One of which Redis knows nothing any more, or none.
    Unknown,
}

/// The other nodes, and the other processes on this node's store.
#[derive(Debug)]
pub struct ClusterSource {
    cluster: Arc<Cluster>,
    neighbours: Option<Arc<Neighbours>>,
}

impl ClusterSource {
    /// Creates a source. `neighbours` are asked as well.
    #[must_use]
    pub fn new(cluster: Arc<Cluster>, neighbours: Option<Arc<Neighbours>>) -> Self {
        Self {
            cluster,
            neighbours,
        }
    }

    /// Returns the tag of another process that an id names.
    fn foreign(&self, id: &GenerationId) -> Option<Tag> {
        let tag: Tag = id.tag()?.parse().ok()?;
        (tag != *self.cluster.tag()).then_some(tag)
    }

    async fn find(&self, id: &GenerationId) -> Result<Located, ApiError> {
        let Some(tag) = self.foreign(id) else {
            return match self.find_here(id).await? {
                Located::Gone => self.find_stored(id, Writer::Own).await,
                located => Ok(located),
            };
        };
        if self.cluster.has_taken(&tag) {
            return match self.find_here(id).await? {
                Located::Gone => self.find_stored(id, Writer::Unknown).await,
                Located::Stored(stored) => self.unless_deleted(id, stored).await,
                located => Ok(located),
            };
        }
        if let Some(client) = self.cluster.known(tag.as_str())
            && !client.take_failed()
        {
            return Ok(Located::Remote(Arc::new(client)));
        }
        let owner = self.cluster.owner(&tag).await;
        if let Ok(membership::Owner::Alive(client)) = owner {
            return Ok(Located::Remote(Arc::new(client)));
        }
        // Another process on this node's store may have what the owner has left.
        match self.find_here(id).await? {
            Located::Gone => {}
            Located::Stored(stored) => return self.unless_deleted(id, stored).await,
            located => return Ok(located),
        }
        match owner? {
            membership::Owner::Alive(client) => Ok(Located::Remote(Arc::new(client))),
            membership::Owner::Lapsed(client) => self.find_stored(id, Writer::Lapsed(client)).await,
            membership::Owner::Unknown => self.find_stored(id, Writer::Unknown).await,
        }
    }

    /// Returns what this node's own store has of another process. It may have been deleted while no
    /// process had the folder.
    async fn unless_deleted(
        &self,
        id: &GenerationId,
        stored: StoredGeneration,
    ) -> Result<Located, ApiError> {
        if !matches!(self.cluster.logs.open(id).await, Err(StoreError::Deleted)) {
            return Ok(Located::Stored(stored));
        }
        if let Err(error) = stored.store.delete(id).await {
            tracing::warn!(generation = %id, %error, "a deleted stream stays in the store");
        }
        Ok(Located::Gone)
    }

    /// Looks for what is stored in Redis.
    async fn find_stored(&self, id: &GenerationId, writer: Writer) -> Result<Located, ApiError> {
        let stored = match self.cluster.logs.open(id).await {
            Ok(stored) => stored,
            Err(StoreError::NotFound) => {
                return Ok(match writer {
                    Writer::Own | Writer::Fenced | Writer::Unknown => Located::Gone,
                    Writer::Lapsed(client) => match answers(id, &client).await {
                        Some(true) => Located::Remote(Arc::new(client)),
                        Some(false) => Located::Gone,
                        None => Located::Lost(None),
                    },
                });
            }
            Err(StoreError::Deleted) => return Ok(Located::Gone),
            Err(error) => return Err(unreadable(id, &error)),
        };
        if stored.sealed {
            return Ok(Located::Stored(self.in_redis(&stored)));
        }
        if stored.epoch() > Epoch(1)
            && let Some(client) = self.holder(id).await?
        {
            return Ok(Located::Remote(Arc::new(client)));
        }
        match writer {
            // Another process has adopted it, and may be lost as well.
            Writer::Own if stored.epoch() > Epoch(1) => self.orphan(&stored),
            // Its end is about to be stored.
            Writer::Own => Ok(Located::Unreachable {
                node: self.cluster.name().to_owned(),
            }),
            Writer::Lapsed(client) => match answers(id, &client).await {
                Some(true) => Ok(Located::Remote(Arc::new(client))),
                Some(false) => self.orphan_of_fenced(&stored),
                None => self.orphan(&stored),
            },
            Writer::Fenced => self.orphan_of_fenced(&stored),
            Writer::Unknown => self.orphan(&stored),
        }
    }

    /// Returns the other process that took a log over last, if it lives and goes on with it. One whose
    /// lease holds may go on with it also while it does not answer: that is an error.
    async fn holder(&self, id: &GenerationId) -> Result<Option<Client>, ApiError> {
        let holder = self.cluster.logs.holder(id).await;
        let holder = holder.map_err(|error| unreadable(id, &error))?;
        let Some(tag) = holder.filter(|tag| *tag != *self.cluster.tag()) else {
            return Ok(None);
        };
        match self.cluster.owner(&tag).await? {
            membership::Owner::Alive(client) => match answers(id, &client).await {
                Some(has) => Ok(has.then_some(client)),
                None => Err(no_answer(&client)),
            },
            membership::Owner::Lapsed(client) => {
                let has = answers(id, &client).await;
                Ok(has.unwrap_or(false).then_some(client))
            }
            membership::Owner::Unknown => Ok(None),
        }
    }

    fn in_redis(&self, stored: &StoredLog) -> StoredGeneration {
        StoredGeneration {
            store: self.cluster.logs.clone(),
            header: stored.header.clone(),
        }
    }

    /// Says what becomes of a log whose first writer does not have it, and that no other one goes on with.
    fn orphan_of_fenced(&self, stored: &StoredLog) -> Result<Located, ApiError> {
        if stored.epoch() > Epoch(1) {
            return self.orphan(stored);
        }
        // No process has taken it over: it starts, or is being deleted.
        Ok(Located::Gone)
    }

    /// Says what becomes of a log whose writer is lost.
    fn orphan(&self, stored: &StoredLog) -> Result<Located, ApiError> {
        let header = &stored.header;
        // One that is not replicated has its header only.
        if !header.meta.background && stored.end == Seq(0) {
            return Ok(Located::Lost(Some(header.clone())));
        }
        if self.cluster.may_adopt() {
            return Ok(Located::Orphaned(self.in_redis(stored)));
        }
        Err(store_unavailable(
            "The node that wrote it is lost, and this one has just joined. It is ended in some seconds.",
        ))
    }

    async fn find_here(&self, id: &GenerationId) -> Result<Located, ApiError> {
        match &self.neighbours {
            Some(neighbours) => neighbours.locate(id).await,
            None => Ok(Located::Gone),
        }
    }

    /// Deletes a generation at the node that has it.
    async fn delete_at_owner(&self, id: &GenerationId, tag: &Tag) -> Result<(), ApiError> {
        if self.cluster.has_taken(tag) {
            return Ok(());
        }
        let known = self.cluster.known(tag.as_str());
        if let Some(client) = &known
            && client.delete(id).await.is_ok()
        {
            return Ok(());
        }
        // Another process may answer for it by now.
        let (client, is_alive) = match self.cluster.owner(tag).await? {
            membership::Owner::Alive(client) => (client, true),
            membership::Owner::Lapsed(_) if known.is_some() => {
                return self.cluster.note_deleted(id, tag).await;
            }
            membership::Owner::Lapsed(client) => (client, false),
            membership::Owner::Unknown => return Ok(()),
        };
        match client.delete(id).await {
            Err(_) if is_alive => Err(no_answer(&client)),
            // It may have been paused only.
            Err(_) => self.cluster.note_deleted(id, tag).await,
            Ok(()) => Ok(()),
        }
    }

    /// Deletes the copies that other nodes have read. A node that does not answer deletes its copy once
    /// it runs again.
    async fn delete_copies(&self, id: &GenerationId, except: Option<&Tag>) {
        let mut others = self.others().await;
        others.retain(|tag| Some(tag) != except);
        join_all(others.iter().map(|tag| self.delete_copy(id, tag))).await;
    }

    /// Returns the processes that may have copies, as known last while Redis is away. It may not answer
    /// once.
    async fn others(&self) -> Vec<Tag> {
        for _ in 0..TRIES {
            if let Ok(others) = self.cluster.others_now().await {
                return others;
            }
            sleep(PAUSE).await;
        }
        self.cluster.others()
    }

    /// Deletes the copy of this process, or notes for it that it is deleted. Redis may not answer once.
    async fn delete_copy(&self, id: &GenerationId, tag: &Tag) {
        for left in (0..TRIES).rev() {
            let client = match self.cluster.known(tag.as_str()) {
                Some(client) => Some(client),
                None => match self.cluster.owner(tag).await {
                    Ok(membership::Owner::Alive(client) | membership::Owner::Lapsed(client)) => {
                        Some(client)
                    }
                    Ok(membership::Owner::Unknown) => return,
                    Err(_) => None,
                },
            };
            let is_deleted = match client {
                Some(client) => client.delete(id).await.is_ok(),
                // One that runs would show its copy until it reads the note.
                None if left > 0 => {
                    sleep(PAUSE).await;
                    continue;
                }
                None => false,
            };
            if is_deleted || self.cluster.note_deleted(id, tag).await.is_ok() {
                return;
            }
            sleep(PAUSE).await;
        }
        tracing::warn!(generation = %id, process = %tag, "a copy may not be deleted");
    }
}

/// Asks a process whose lease has lapsed, which may be cut off from Redis only, whether it has a
/// generation. `None` if it does not answer.
pub(super) async fn answers(id: &GenerationId, client: &Client) -> Option<bool> {
    timeout(PROBE, client.has(id)).await.ok()?.ok()
}

fn unreadable(id: &GenerationId, error: &StoreError) -> ApiError {
    if error.is_retryable() {
        tracing::debug!(generation = %id, %error, "Redis was asked in vain");
        return store_unavailable(
            "The Redis that all nodes share does not answer, which may have it.",
        );
    }
    tracing::error!(generation = %id, %error, "a log in Redis cannot be read");
    let message = format!("'{id}' cannot be read from the store.");
    ApiError::new(ErrorCode::InternalError, message)
}

impl GenerationSource for ClusterSource {
    fn locate(&self, id: &GenerationId) -> BoxFuture<'_, Result<Located, ApiError>> {
        let id = id.clone();
        async move { self.find(&id).await }.boxed()
    }

    fn locate_lost<'a>(&'a self, id: &'a GenerationId) -> BoxFuture<'a, Result<Located, ApiError>> {
        self.find_stored(id, Writer::Fenced).boxed()
    }

    fn keyed<'a>(
        &'a self,
        owner: &'a Owner,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<GenerationId>, ApiError>> {
        async move {
            if let Some(neighbours) = &self.neighbours
                && let Some(id) = neighbours.keyed(owner, key).await?
            {
                return Ok(Some(id));
            }
            self.cluster.claimed(owner, key).await
        }
        .boxed()
    }

    fn claim<'a>(
        &'a self,
        claim: KeyClaimed<'a>,
        stale: Option<&'a GenerationId>,
    ) -> BoxFuture<'a, Result<Option<GenerationId>, ApiError>> {
        self.cluster.claim(claim, stale).boxed()
    }

    fn delete<'a>(&'a self, id: &'a GenerationId) -> BoxFuture<'a, Result<(), ApiError>> {
        async move {
            if let Some(neighbours) = &self.neighbours {
                neighbours.delete(id).await?;
            }
            let owner = self.foreign(id);
            if let Some(tag) = &owner {
                self.delete_at_owner(id, tag).await?;
            }
            self.delete_copies(id, owner.as_ref()).await;
            Ok(())
        }
        .boxed()
    }
}
