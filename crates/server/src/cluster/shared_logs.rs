//! The logs that all nodes share, and which of them run in the background.
//!
//! `tw:holder:<id>` is the process that took a log over last. `tw:running:<tag>` lists the background responses that a process runs, so that another one finds
//! them once it is lost.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use redis::{Pipeline, cmd};
use tokenwire_core::log::{
    Appended, Blocks, Epoch, LogHeader, LogStore, StoreError, StoreFuture, StoredLog,
};
use tokenwire_core::model::id::{GenerationId, Seq, Tag};
use tokenwire_core::model::record::RecordBatch;
use tokenwire_store::redis::{RedisClient, RedisStore};

use super::membership::KEPT_S;
use super::node_registration::NodeRegistration;

/// A [`RedisStore`] with a list of what runs in the background.
#[derive(Debug)]
pub(super) struct SharedLogs {
    logs: RedisStore,
    redis: RedisClient,
    /// The name of this process.
    tag: Tag,
    registration: Arc<NodeRegistration>,
}

// === impl SharedLogs ===

impl SharedLogs {
    pub(super) fn new(
        logs: RedisStore,
        redis: RedisClient,
        tag: Tag,
        registration: Arc<NodeRegistration>,
    ) -> Self {
        Self {
            logs,
            redis,
            tag,
            registration,
        }
    }

    /// Returns the background responses that the process of this tag was running.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub(super) async fn running(&self, tag: &str) -> Result<Vec<GenerationId>, StoreError> {
        let command = cmd("SMEMBERS").arg(running(&self.redis, tag)).to_owned();
        let ids: Vec<String> = self.redis.query(command).await?;
        Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
    }

    /// Notes that a response does not run any more.
    pub(super) async fn note_end(&self, id: &GenerationId) {
        let Some(tag) = id.tag() else {
            return;
        };
        let key = running(&self.redis, tag);
        let command = cmd("SREM").arg(key).arg(id.as_str()).to_owned();
        let removed: Result<u64, _> = self.redis.query(command).await;
        if let Err(error) = removed {
            tracing::debug!(generation = %id, %error, "an ended response stays on a list");
        }
    }

    /// Returns the process that took a log over last.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub(super) async fn holder(&self, id: &GenerationId) -> Result<Option<Tag>, StoreError> {
        let command = cmd("GET").arg(self.holder_key(id)).to_owned();
        let holder: Option<String> = self.redis.query(command).await?;
        Ok(holder.and_then(|holder| holder.parse().ok()))
    }

    fn holder_key(&self, id: &GenerationId) -> String {
        self.redis.key(format_args!("holder:{id}"))
    }

    /// Notes that this process has taken a log over, so that others find the answer here if it goes
    /// on.
    async fn note_holder(&self, id: &GenerationId) {
        let holder = cmd("SET")
            .arg(self.holder_key(id))
            .arg(self.tag.as_str())
            .arg("EX")
            .arg(KEPT_S)
            .to_owned();
        if let Err(error) = self.redis.query::<()>(holder).await {
            tracing::debug!(generation = %id, %error, "other nodes may take this one's log over");
        }
    }

    async fn note_start(&self, header: &LogHeader) -> Result<(), StoreError> {
        let id = &header.meta.id;
        let Some(tag) = id.tag().filter(|_| header.meta.background) else {
            return Ok(());
        };
        let key = running(&self.redis, tag);
        let mut both = Pipeline::new();
        both.add_command(cmd("SADD").arg(&key).arg(id.as_str()).to_owned())
            .ignore();
        both.add_command(cmd("EXPIRE").arg(&key).arg(KEPT_S).to_owned())
            .ignore();
        let noted: () = self.redis.pipeline(both).await?;
        Ok(noted)
    }
}

fn running(redis: &RedisClient, tag: &str) -> String {
    redis.key(format_args!("running:{tag}"))
}

impl LogStore for SharedLogs {
    fn create(&self, header: Arc<LogHeader>) -> StoreFuture<'_, Epoch> {
        async move {
            self.registration.join().await?;
            self.note_start(&header).await?;
            self.logs.create(header).await
        }
        .boxed()
    }

    fn append(&self, blocks: Blocks) -> BoxFuture<'_, Appended> {
        self.logs.append(blocks)
    }

    fn seal<'a>(
        &'a self,
        id: &'a GenerationId,
        epoch: Epoch,
        block: RecordBatch,
        object: Option<Bytes>,
    ) -> StoreFuture<'a, ()> {
        async move {
            self.logs.seal(id, epoch, block, object).await?;
            self.note_end(id).await;
            Ok(())
        }
        .boxed()
    }

    fn open<'a>(&'a self, id: &'a GenerationId) -> StoreFuture<'a, StoredLog> {
        self.logs.open(id)
    }

    fn read<'a>(
        &'a self,
        id: &'a GenerationId,
        from: Seq,
        max_bytes: usize,
    ) -> StoreFuture<'a, RecordBatch> {
        self.logs.read(id, from, max_bytes)
    }

    fn object<'a>(&'a self, id: &'a GenerationId) -> StoreFuture<'a, Option<Bytes>> {
        self.logs.object(id)
    }

    fn adopt<'a>(&'a self, id: &'a GenerationId) -> StoreFuture<'a, Epoch> {
        async move {
            let epoch = self.logs.adopt(id).await?;
            self.note_holder(id).await;
            Ok(epoch)
        }
        .boxed()
    }

    fn delete<'a>(&'a self, id: &'a GenerationId) -> StoreFuture<'a, ()> {
        async move {
            self.logs.delete(id).await?;
            self.note_end(id).await;
            Ok(())
        }
        .boxed()
    }

    fn renew(&self, ids: Vec<GenerationId>) -> BoxFuture<'_, ()> {
        self.logs.renew(ids)
    }
}
