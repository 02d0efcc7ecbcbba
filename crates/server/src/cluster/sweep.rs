//! Takes over what lost processes were running in the background, unasked.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use redis::{Script, cmd};
use tokenwire_core::engine::SharedEngine;
use tokenwire_core::log::StoreError;
use tokenwire_core::model::id::{GenerationId, Tag};
use tokenwire_store::redis::RedisError;
use tokenwire_webhooks::Webhooks;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::Cluster;
use super::membership::Owner;
use super::source::answers;
use crate::storage::report_later;

/// How often lost processes are looked for.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long one node has for what a lost process ran. Then another one tries.
const CLAIM_MS: u64 = 5000;
/// Logs that are ended at a time.
const AT_ONCE: usize = 32;

/// KEYS: the claim. ARGV: the process that claims, milliseconds. Returns whether it has the claim.
static CLAIM: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local holder = redis.call('GET', KEYS[1])
         if holder and holder ~= ARGV[1] then return 0 end
         redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
         return 1",
    )
});

/// Why a sweep is to be tried again.
#[derive(Debug, thiserror::Error)]
enum Unfinished {
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{count} streams cannot be ended now")]
    Running { count: usize },
}

impl Cluster {
    /// Looks for lost processes, ends what they ran in the background, and goes on with the webhooks
    /// that they owed, and with those of its own streams that other processes have ended, until it is
    /// dropped.
    pub async fn sweep(self: Arc<Self>, engine: SharedEngine, webhooks: Webhooks) {
        // Responses whose webhooks are this process' own, and whose end is not known yet. No later sweep
        // finds those that it has taken over. One that goes on at another node takes its time, and must
        // not delay what lost processes have left.
        let owed = Mutex::new(BTreeSet::new());
        tokio::join!(
            self.sweep_owed(&engine, &webhooks, &owed),
            self.sweep_lost(&engine, &webhooks, &owed),
        );
    }

    /// Reports the ends of responses whose webhooks this process owes.
    async fn sweep_owed(
        &self,
        engine: &SharedEngine,
        webhooks: &Webhooks,
        owed: &Mutex<BTreeSet<GenerationId>>,
    ) {
        let mut ticks = ticks();
        // Responses of this process that others have taken over, with the keys of their records.
        let mut taken_over = Vec::new();
        loop {
            ticks.tick().await;
            if !self.may_adopt() {
                continue;
            }
            taken_over.extend(webhooks.take_taken_over());
            let keys = taken_over.iter().map(|(key, _)| key);
            match self.own_records(keys).await {
                Ok(own) => {
                    let (kept, lost): (Vec<_>, Vec<_>) = std::mem::take(&mut taken_over)
                        .into_iter()
                        .partition(|(key, _)| own.contains(key));
                    let mut owed = owed.lock();
                    owed.extend(kept.into_iter().map(|(_, id)| id));
                    for (key, id) in lost.iter().filter(|(_, id)| !owed.contains(id)) {
                        tracing::debug!(generation = %id, delivery = %key, "another node sends this webhook");
                        webhooks.forget(id);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "webhooks of streams that were taken over wait")
                }
            }
            let ids = std::mem::take(&mut *owed.lock());
            let left = self.end_each(ids, engine, Some(webhooks)).await;
            owed.lock().extend(left);
        }
    }

    /// Ends what lost processes ran in the background.
    async fn sweep_lost(
        &self,
        engine: &SharedEngine,
        webhooks: &Webhooks,
        owed: &Mutex<BTreeSet<GenerationId>>,
    ) {
        let mut ticks = ticks();
        let mut under_way = BTreeSet::new();
        let mut sweeps = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(tag) = sweeps.next() => {
                    under_way.remove(&tag);
                    continue;
                }
                _ = ticks.tick() => {}
            }
            if !self.may_adopt() {
                continue;
            }
            let lost = match self.lost().await {
                Ok(lost) => lost,
                Err(error) => {
                    tracing::debug!(%error, "lost processes cannot be looked for");
                    continue;
                }
            };
            for tag in lost {
                if under_way.insert(tag.clone()) {
                    sweeps.push(async move {
                        if let Err(error) = self.sweep_after(&tag, engine, webhooks, owed).await {
                            tracing::debug!(%tag, %error, "what a lost process left is looked at again");
                        }
                        tag
                    });
                }
            }
        }
    }

    /// Returns the processes that have left something and whose lease has lapsed.
    async fn lost(&self) -> Result<Vec<Tag>, RedisError> {
        let command = cmd("SMEMBERS").arg(self.tags()).to_owned();
        let tags: Vec<String> = self.redis.query(command).await?;
        let tags = tags.iter().filter_map(|tag| tag.parse().ok());
        Ok(tags.filter(|tag| !self.is_member(tag)).collect())
    }

    /// Whether a process has lost its lease, and does not answer.
    pub(super) async fn is_lost(&self, tag: &Tag) -> bool {
        match self.owner(tag).await {
            // It may be cut off from Redis only.
            Ok(Owner::Lapsed(client)) => {
                answers(&GenerationId::tagged(tag), &client).await.is_none()
            }
            Ok(Owner::Unknown) => true,
            Ok(Owner::Alive(_)) | Err(_) => false,
        }
    }

    async fn sweep_after(
        &self,
        tag: &Tag,
        engine: &SharedEngine,
        webhooks: &Webhooks,
        owed: &Mutex<BTreeSet<GenerationId>>,
    ) -> Result<(), Unfinished> {
        // It ends what it answers for as well.
        if !self.has_taken(tag) && !self.is_lost(tag).await {
            return Ok(());
        }
        let (claim, own) = (
            self.redis.key(format_args!("sweep:{tag}")),
            self.tag.clone(),
        );
        let claimed: bool = self
            .redis
            .script(&CLAIM, move |script| {
                script.key(claim).arg(own.as_str()).arg(CLAIM_MS);
            })
            .await?;
        if !claimed {
            return Ok(());
        }
        let running = self.logs.running(tag.as_str()).await?;
        if !running.is_empty() {
            tracing::debug!(%tag, count = running.len(), "taking over the background responses of a lost node");
        }
        let left = self.end_each(running, engine, None).await.len();
        let taken = webhooks.take_over(self.take_deliveries(tag.as_str()).await?);
        owed.lock().extend(taken);
        if left > 0 {
            return Err(Unfinished::Running { count: left });
        }
        let known = cmd("SREM").arg(self.tags()).arg(tag.as_str()).to_owned();
        let _: u64 = self.redis.query(known).await?;
        Ok(())
    }

    /// Ends these responses. Returns those that cannot be ended now.
    async fn end_each(
        &self,
        ids: impl IntoIterator<Item = GenerationId>,
        engine: &SharedEngine,
        webhooks: Option<&Webhooks>,
    ) -> Vec<GenerationId> {
        let end = |id: GenerationId| async move {
            let ended = self.end_lost(&id, engine, webhooks).await;
            (!ended).then_some(id)
        };
        let ended = futures::stream::iter(ids).map(end);
        let left: Vec<Option<GenerationId>> = ended.buffer_unordered(AT_ONCE).collect().await;
        left.into_iter().flatten().collect()
    }

    async fn end_lost(
        &self,
        id: &GenerationId,
        engine: &SharedEngine,
        webhooks: Option<&Webhooks>,
    ) -> bool {
        match engine.adopt_replica(id).await {
            // Its upstream goes on with it, and so does this node: it stays on the list of the lost one,
            // where others find it if this one is lost as well.
            Ok(generation) if !generation.is_over() => {
                return match webhooks {
                    Some(webhooks) => {
                        report_later(generation, webhooks.clone());
                        true
                    }
                    None => false,
                };
            }
            Ok(generation) => {
                if let Some(webhooks) = webhooks {
                    webhooks.ended(&generation);
                }
            }
            Err(error) if error.is_retryable() => {
                tracing::debug!(generation = %id, %error, "a lost stream cannot be ended now");
                return false;
            }
            Err(error) => {
                if let Some(webhooks) = webhooks {
                    webhooks.forget(id);
                }
                if !error.is_gone() {
                    tracing::error!(generation = %id, %error, "a lost stream cannot be ended");
                }
            }
        }
        self.logs.note_end(id).await;
        true
    }
}

fn ticks() -> Interval {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
