//! Finds the generations of other nodes for the engine.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use tokenwire_core::engine::{GenerationSource, KeyClaimed, Located, Peer as _};
use tokenwire_core::model::error::ApiError;
use tokenwire_core::model::id::{GenerationId, Owner, Tag};
use tokenwire_peer::Client;
use tokio::time::timeout;

use super::Cluster;
use super::membership;
use crate::neighbours::{Neighbours, no_answer};

/// How long a process whose lease has lapsed has for an answer.
const PROBE: Duration = Duration::from_secs(1);

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
            return self.find_here(id).await;
        };
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
            located => return Ok(located),
        }
        match owner? {
            membership::Owner::Alive(client) => Ok(Located::Remote(Arc::new(client))),
            membership::Owner::Lapsed(client) => Ok(probe(id, client).await),
            membership::Owner::Unknown => Ok(Located::Gone),
        }
    }

    async fn find_here(&self, id: &GenerationId) -> Result<Located, ApiError> {
        match &self.neighbours {
            Some(neighbours) => neighbours.locate(id).await,
            None => Ok(Located::Gone),
        }
    }

    /// Deletes a generation at the node that has it.
    async fn delete_at_owner(&self, id: &GenerationId, tag: &Tag) -> Result<(), ApiError> {
        let client = match self.cluster.known(tag.as_str()) {
            Some(client) => client,
            None => match self.cluster.owner(tag).await? {
                membership::Owner::Alive(client) | membership::Owner::Lapsed(client) => client,
                membership::Owner::Unknown => return Ok(()),
            },
        };
        if client.delete(id).await.is_ok() {
            return Ok(());
        }
        match self.cluster.owner(tag).await? {
            membership::Owner::Alive(client) => Err(no_answer(&client)),
            // What it had is gone with it.
            membership::Owner::Lapsed(_) | membership::Owner::Unknown => Ok(()),
        }
    }

    /// Deletes the copies that other nodes have read.
    async fn delete_copies(&self, id: &GenerationId, except: Option<&Tag>) {
        let mut others = self.cluster.others();
        others.retain(|tag| Some(tag) != except);
        let deletes = others.iter().map(|tag| async move {
            let client = match self.cluster.known(tag.as_str()) {
                Some(client) => Some(client),
                None => match self.cluster.owner(tag).await {
                    Ok(membership::Owner::Alive(client)) => Some(client),
                    _ => None,
                },
            };
            if let Some(client) = client
                && let Err(error) = client.delete(id).await
            {
                tracing::warn!(generation = %id, node = client.name(), %error, "a copy may not be deleted");
            }
        });
        join_all(deletes).await;
    }
}

/// Asks a process whose lease has lapsed: it may be cut off from Redis only.
async fn probe(id: &GenerationId, client: Client) -> Located {
    match timeout(PROBE, client.has(id)).await {
        Ok(Ok(true)) => Located::Remote(Arc::new(client)),
        Ok(Ok(false)) => Located::Gone,
        Ok(Err(_)) | Err(_) => Located::Lost,
    }
}

impl GenerationSource for ClusterSource {
    fn locate(&self, id: &GenerationId) -> BoxFuture<'_, Result<Located, ApiError>> {
        let id = id.clone();
        async move { self.find(&id).await }.boxed()
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
