//! Logs in Redis.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::redis::{ErrorKind, Pipeline, RedisResult, Script, ScriptInvocation, Value, cmd};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use tokenwire_core::log::{
    Appended, Block, Blocks, Epoch, LogHeader, LogStore, StoreError, StoreFuture, StoredLog,
};
use tokenwire_core::model::id::{GenerationId, Seq};
use tokenwire_core::model::record::RecordBatch;

use super::client::RedisClient;
use super::error::RedisError;
use super::layout::{Keys, Phase, State, entry_id, first_id};
use super::scripts;
use super::verified::{Verified, Way};
use crate::entry_body;

/// Most blocks that are appended at a time with a look at their log.
const CONCURRENT: usize = 16;

/// How often a block is tried again because its log has changed in between.
const ATTEMPTS: usize = 8;

/// How long Redis keeps what is stored.
#[derive(Clone, Copy, Debug)]
pub struct RedisRetention {
    /// A running log, after it was last written.
    pub running: Duration,
    /// The records of an ended log.
    pub logs: Duration,
    /// A response object.
    pub objects: Duration,
    /// That a log was deleted. Longer than a late request of another node can take.
    pub deletions: Duration,
}

/// Logs that all nodes share, in Redis. The layout is in `REDIS.md`.
///
/// Redis refuses what an earlier epoch writes. An append whose answer is lost can be repeated. A log
/// that Redis has lost is [`NotFound`](StoreError::NotFound), and one whose end it has lost is a
/// [`Gap`](StoreError::Gap): the owner writes it again from its tail.
pub struct RedisStore {
    client: RedisClient,
    retention: RedisRetention,
    verified: Verified,
}

// === impl RedisRetention ===

impl Default for RedisRetention {
    fn default() -> Self {
        Self {
            running: Duration::from_secs(60 * 60),
            logs: Duration::from_secs(10 * 60),
            objects: Duration::from_secs(24 * 60 * 60),
            deletions: Duration::from_secs(25 * 60 * 60),
        }
    }
}

// === impl RedisStore ===

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("client", &self.client)
            .field("retention", &self.retention)
            .finish_non_exhaustive()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Returns a block's records as an entry holds them.
fn encode(block: &Block<'_>) -> Vec<u8> {
    let mut value = Vec::with_capacity(block.bytes.len() + 10);
    entry_body::encode(&block.first.0, &mut value);
    value.extend_from_slice(block.bytes);
    value
}

impl RedisStore {
    /// Creates a store over this client.
    #[must_use]
    pub fn new(client: RedisClient, retention: RedisRetention) -> Self {
        Self {
            client,
            retention,
            verified: Verified::new(retention.running),
        }
    }

    fn keys(&self, id: &GenerationId) -> Keys {
        Keys::new(&self.client.key(""), id)
    }

    async fn script<T>(
        &self,
        script: &'static Script,
        id: &GenerationId,
        arguments: impl FnOnce(&mut ScriptInvocation<'static>) + Send,
    ) -> Result<T, StoreError>
    where
        T: ::redis::FromRedisValue + Send + 'static,
    {
        let keys = self.keys(id);
        let answer = self.client.script(script, |invocation| {
            arguments(invocation.key(keys.log).key(keys.object));
        });
        Ok(answer.await?)
    }

    async fn create_now(&self, header: &LogHeader) -> Result<Epoch, StoreError> {
        let id = &header.meta.id;
        let encoded = header.encode();
        let kept = millis(self.retention.running);
        let create = |call: &mut ScriptInvocation<'static>| {
            call.arg(encoded.as_slice()).arg(kept);
        };
        let answer: Vec<String> = self.script(&scripts::CREATE, id, create).await?;
        let state = State::parse(&answer)?;
        if state.phase == Phase::Done {
            return Ok(Epoch(1));
        }
        let stored = self.open_now(id).await?;
        if state.epoch_ends.is_empty() && stored.header.encode() == encoded {
            Ok(Epoch(1))
        } else {
            Err(StoreError::Exists)
        }
    }

    /// Appends what the log lacks of a block, with a look at the log.
    async fn append_checked(&self, block: Block<'_>) -> Result<Seq, StoreError> {
        let connection = self.client.connection();
        let kept = millis(self.retention.running);
        let mut new = block;
        for _ in 0..ATTEMPTS {
            let append = |call: &mut ScriptInvocation<'static>| {
                call.arg(new.epoch.0)
                    .arg(new.first.0)
                    .arg(entry_id(new.epoch, new.next))
                    .arg(encode(&new))
                    .arg(kept);
            };
            // An empty block cannot be appended, but it tells what the log is.
            let answer: Vec<String> = if new.bytes.is_empty() {
                let (state, _): (_, Vec<Vec<u8>>) =
                    self.script(&scripts::OPEN, block.id, |_| {}).await?;
                state
            } else {
                self.script(&scripts::APPEND, block.id, append).await?
            };
            let state = State::parse(&answer)?;
            if state.phase == Phase::Done {
                // If the connection was another one in between, the next append checks again.
                if let Some(connection) = connection {
                    let end = new.next;
                    self.verified.insert(block.id, block.epoch, end, connection);
                }
                return Ok(new.next);
            }
            new = state.lacks(block)?;
            if new.bytes.is_empty() {
                return Ok(state.end);
            }
        }
        Err(StoreError::Unavailable("the log keeps changing".into()))
    }

    /// Appends blocks whose log's end is known: one pipeline. Returns a result for each of them;
    /// none for one that is to be checked.
    async fn append_plain(
        &self,
        blocks: &[(usize, Block<'_>, bool)],
        connection: u64,
    ) -> Vec<(usize, Option<Result<Seq, StoreError>>)> {
        let mut pipeline = Pipeline::with_capacity(blocks.len());
        pipeline.ignore_errors();
        for (_, block, renew) in blocks {
            let key = self.keys(block.id).log;
            if *renew {
                let kept = millis(self.retention.running);
                pipeline.cmd("PEXPIRE").arg(&key).arg(kept).ignore();
            }
            pipeline
                .cmd("XADD")
                .arg(key)
                .arg("NOMKSTREAM")
                .arg(entry_id(block.epoch, block.next))
                .arg("r")
                .arg(encode(block));
        }
        let answer = self.client.run(move |mut current| async move {
            if current.number != connection {
                return Ok(None);
            }
            let answers = pipeline.query_async(&mut current.inner).await?;
            Ok::<Option<Vec<RedisResult<Value>>>, _>(Some(answers))
        });
        let mut answers = match answer.await {
            Ok(Some(answers)) => answers.into_iter(),
            Ok(None) => return blocks.iter().map(|(index, ..)| (*index, None)).collect(),
            Err(error) => {
                let error = StoreError::from(error);
                let failed = blocks.iter().map(|(index, block, _)| {
                    self.verified.forget(block.id);
                    (*index, Some(Err(error.clone())))
                });
                return failed.collect();
            }
        };
        let result = |(index, block, _): &(usize, Block<'_>, bool)| {
            let result = match answers.next() {
                Some(Ok(Value::Nil)) => Some(Err(StoreError::NotFound)),
                Some(Ok(_)) => Some(Ok(block.next)),
                // Refused: another epoch, or the end of the log.
                Some(Err(error)) if error.kind() == ErrorKind::Server(REFUSED) => None,
                Some(Err(error)) => Some(Err(RedisError::from(error).into())),
                None => Some(Err(StoreError::Unavailable("an answer is missing".into()))),
            };
            match &result {
                Some(Ok(end)) => self.verified.advance(block.id, *end),
                _ => self.verified.forget(block.id),
            }
            (*index, result)
        };
        blocks.iter().map(result).collect()
    }

    async fn append_now(&self, blocks: Blocks) -> Appended {
        let connection = self.client.connection().unwrap_or(0);
        let mut results = vec![None; blocks.len()];
        let (mut plain, mut names) = (Vec::new(), std::collections::HashSet::new());
        for (index, block) in blocks.iter().enumerate() {
            // A second block of a log follows the first one, whose result is not known.
            let is_first = names.insert(block.id);
            if let Err(error) = block.check() {
                results[index] = Some(Err(error));
                continue;
            }
            if let Way::Plain { renew } = self.verified.way(&block, connection)
                && is_first
                && !block.bytes.is_empty()
            {
                plain.push((index, block, renew));
            }
        }
        if !plain.is_empty() {
            for (index, result) in self.append_plain(&plain, connection).await {
                results[index] = result;
            }
        }
        drop((plain, names));
        let rest = blocks.iter().enumerate();
        let rest = rest.filter(|(index, _)| results[*index].is_none());
        let rest: Vec<_> = rest
            .map(|(index, block)| async move { (index, self.append_checked(block).await) })
            .collect();
        // In order, as far as two blocks of one log are concerned: each waits for its turn in Redis.
        let checked: Vec<_> = futures::stream::iter(rest)
            .buffered(CONCURRENT)
            .collect()
            .await;
        for (index, result) in checked {
            results[index] = Some(result);
        }
        let unanswered = || Err(StoreError::Unavailable("an answer is missing".into()));
        let results = results.into_iter();
        let results = results.map(|result| result.unwrap_or_else(unanswered));
        let results = results.collect();
        (blocks, results)
    }

    async fn seal_now(
        &self,
        id: &GenerationId,
        epoch: Epoch,
        batch: &RecordBatch,
        object: Option<Bytes>,
    ) -> Result<(), StoreError> {
        self.verified.forget(id);
        let block = Block {
            id,
            epoch,
            first: batch.first_seq(),
            next: batch.end_seq(),
            bytes: batch.as_block(),
        };
        block.check()?;
        let mut new = block;
        for _ in 0..ATTEMPTS {
            let seal = |call: &mut ScriptInvocation<'static>| {
                call.arg(epoch.0)
                    .arg(new.first.0)
                    .arg(new.next.0)
                    .arg(encode(&new))
                    .arg(millis(self.retention.logs))
                    .arg(millis(self.retention.objects));
                if let Some(object) = &object {
                    call.arg(object.as_ref());
                }
            };
            let answer: Vec<String> = self.script(&scripts::SEAL, id, seal).await?;
            let state = State::parse(&answer)?;
            if state.phase == Phase::Done {
                return Ok(());
            }
            new = state.lacks(block)?;
            if state.end > block.next {
                return Err(StoreError::Gap {
                    expected: state.end,
                    found: block.next,
                });
            }
            if state.has_ended() {
                return Ok(());
            }
        }
        Err(StoreError::Unavailable("the log keeps changing".into()))
    }

    async fn open_now(&self, id: &GenerationId) -> Result<StoredLog, StoreError> {
        let (state, header): (Vec<String>, Vec<Vec<u8>>) =
            self.script(&scripts::OPEN, id, |_| {}).await?;
        let state = State::parse(&state)?;
        let header = match header.as_slice() {
            [name, header] if name == b"h1" => LogHeader::decode(header)?,
            [name, ..] if name.first() == Some(&b'h') => {
                let version = std::str::from_utf8(&name[1..]).ok();
                let found = version.and_then(|version| version.parse().ok());
                return Err(StoreError::UnknownVersion {
                    found: found.unwrap_or(u8::MAX),
                });
            }
            _ => return Err(StoreError::Corrupt),
        };
        Ok(StoredLog {
            header: Arc::new(header),
            sealed: state.has_ended(),
            epoch_ends: state.epoch_ends,
            end: state.end,
        })
    }

    async fn read_now(
        &self,
        id: &GenerationId,
        from: Seq,
        max_bytes: usize,
    ) -> Result<RecordBatch, StoreError> {
        let read = |call: &mut ScriptInvocation<'static>| {
            call.arg(first_id(from)).arg(max_bytes);
        };
        let (state, entries): (Vec<String>, Vec<Vec<u8>>) =
            self.script(&scripts::READ, id, read).await?;
        let state = State::parse(&state)?;
        if state.phase == Phase::Kept {
            return Err(StoreError::Expired);
        }
        let mut batch = RecordBatch::default();
        batch.restart(state.end);
        let mut reached = from;
        for entry in entries {
            let (first, records) = entry_body::records(&entry)?;
            if first > reached {
                // A hole. What follows is not given out as if it were next.
                return if batch.is_empty() {
                    Err(StoreError::Corrupt)
                } else {
                    Ok(batch)
                };
            }
            let records = RecordBatch::parse(first, records.to_vec())?;
            // An append that was late and its repetition may hold the same records.
            for record in records.iter().filter(|record| record.next_seq() > reached) {
                if batch.is_empty() {
                    batch.restart(record.start_seq());
                }
                batch.skip(record.skip);
                batch.push(record.events, record.payload);
                if batch.byte_len() >= max_bytes {
                    return Ok(batch);
                }
            }
            reached = reached.max(records.end_seq());
        }
        Ok(batch)
    }

    async fn object_now(&self, id: &GenerationId) -> Result<Option<Bytes>, StoreError> {
        let (state, object): (Vec<String>, Option<Vec<u8>>) =
            self.script(&scripts::OBJECT, id, |_| {}).await?;
        State::parse(&state)?;
        Ok(object.map(Bytes::from))
    }

    async fn adopt_now(&self, id: &GenerationId) -> Result<Epoch, StoreError> {
        self.verified.forget(id);
        let kept = millis(self.retention.running);
        let adopt = |call: &mut ScriptInvocation<'static>| {
            call.arg(kept);
        };
        let answer: Vec<String> = self.script(&scripts::ADOPT, id, adopt).await?;
        let state = State::parse(&answer)?;
        if state.phase == Phase::Done {
            Ok(state.epoch)
        } else {
            Err(StoreError::Sealed)
        }
    }

    async fn delete_now(&self, id: &GenerationId) -> Result<(), StoreError> {
        self.verified.forget(id);
        let kept = millis(self.retention.deletions);
        let delete = |call: &mut ScriptInvocation<'static>| {
            call.arg(kept);
        };
        let _: Vec<String> = self.script(&scripts::DELETE, id, delete).await?;
        Ok(())
    }

    async fn renew_now(&self, ids: Vec<GenerationId>) {
        let mut pipeline = Pipeline::with_capacity(ids.len());
        for id in &ids {
            let key = self.keys(id).object;
            let kept = millis(self.retention.objects);
            pipeline.add_command(cmd("PEXPIRE").arg(key).arg(kept).to_owned());
        }
        if let Err(error) = self.client.pipeline::<Vec<u64>>(pipeline).await {
            tracing::warn!(%error, "response objects may be kept for less long than they should");
        }
    }
}

/// The kind of the error for an id that is not above all others of a stream.
const REFUSED: ::redis::ServerErrorKind = ::redis::ServerErrorKind::ResponseError;

impl LogStore for RedisStore {
    fn create(&self, header: Arc<LogHeader>) -> StoreFuture<'_, Epoch> {
        async move { self.create_now(&header).await }.boxed()
    }

    fn append(&self, blocks: Blocks) -> BoxFuture<'_, Appended> {
        self.append_now(blocks).boxed()
    }

    fn seal<'a>(
        &'a self,
        id: &'a GenerationId,
        epoch: Epoch,
        block: RecordBatch,
        object: Option<Bytes>,
    ) -> StoreFuture<'a, ()> {
        async move { self.seal_now(id, epoch, &block, object).await }.boxed()
    }

    fn open<'a>(&'a self, id: &'a GenerationId) -> StoreFuture<'a, StoredLog> {
        self.open_now(id).boxed()
    }

    fn read<'a>(
        &'a self,
        id: &'a GenerationId,
        from: Seq,
        max_bytes: usize,
    ) -> StoreFuture<'a, RecordBatch> {
        self.read_now(id, from, max_bytes).boxed()
    }

    fn object<'a>(&'a self, id: &'a GenerationId) -> StoreFuture<'a, Option<Bytes>> {
        self.object_now(id).boxed()
    }

    fn adopt<'a>(&'a self, id: &'a GenerationId) -> StoreFuture<'a, Epoch> {
        self.adopt_now(id).boxed()
    }

    fn delete<'a>(&'a self, id: &'a GenerationId) -> StoreFuture<'a, ()> {
        self.delete_now(id).boxed()
    }

    fn renew(&self, ids: Vec<GenerationId>) -> BoxFuture<'_, ()> {
        self.renew_now(ids).boxed()
    }
}
