//! Which processes are alive, and where they listen.
//!
//! `tw:node:<tag>` has the address of a process and lasts 25 h, longer than its streams are asked
//! for. `tw:alive:<tag>` is its lease: 3 s, renewed each second. `tw:members` lists the tags whose
//! lease holds, by the time of Redis; no clock of a node is compared with another. `tw:tags` lists
//! those too that may have left something when they were lost. `tw:deleted:<tag>` has the responses of
//! a process that were deleted while it did not answer: it deletes them once it runs again.

use std::sync::LazyLock;
use std::time::Duration;

use parking_lot::Mutex;
use redis::{Pipeline, Script, cmd};
use tokenwire_core::engine::SharedEngine;
use tokenwire_core::model::error::ApiError;
use tokenwire_core::model::id::{GenerationId, Tag};
use tokenwire_peer::Client;
use tokenwire_store::redis::RedisError;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::owners::OwnerAnswer;
use super::{Cluster, NodeRecord, problem, store_unavailable, unavailable};

/// How long the address of a process is kept, in seconds.
pub(super) const KEPT_S: u64 = 25 * 60 * 60;
/// How long a process is taken for alive, in milliseconds.
pub(super) const LEASE_MS: u64 = 3000;
const RENEWAL: Duration = Duration::from_secs(1);
/// How long this process' own lease must have held before it takes another one for dead: after an
/// outage of Redis every lease has lapsed.
const SETTLED: Duration = Duration::from_secs(6);

/// Adds a tag to the members, and removes those whose lease has lapsed. Returns the members.
static MEMBERS: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local time = redis.call('TIME')
         local now = time[1] * 1000 + math.floor(time[2] / 1000)
         redis.call('ZADD', KEYS[1], now, ARGV[1])
         redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
         redis.call('PEXPIRE', KEYS[1], 90000000)
         return redis.call('ZRANGE', KEYS[1], 0, -1)",
    )
});

/// This process' lease.
#[derive(Debug, Default)]
pub(super) struct Membership(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Since when the lease has held without a gap; `None` while Redis is away.
    held: Option<Held>,
    /// When Redis went away, and why.
    away: Option<(Instant, String)>,
    /// Whether Redis has been found to be usable.
    checked: bool,
    /// Whether Redis had run for long when this process joined, so that it knew all others.
    joined_settled: bool,
    /// Responses of this process that were deleted while it did not answer.
    deleted: Vec<GenerationId>,
    /// The processes whose lease holds, this one among them.
    members: Vec<Tag>,
}

#[derive(Clone, Copy, Debug)]
enum Held {
    /// Since this process joined a Redis that knew all others.
    Ever(Instant),
    /// Since Redis lost it, was away, or started.
    Since(Instant),
}

/// The state of the cluster, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatus {
    /// Whether Redis answers.
    pub connected: bool,
    /// Number of nodes that are alive, this one among them; as known last while Redis is away.
    pub nodes: usize,
    /// Why Redis does not answer.
    pub error: Option<String>,
}

/// What Redis knows of a process.
pub(super) enum Owner {
    /// Its lease holds.
    Alive(Client),
    /// Its lease has lapsed.
    Lapsed(Client),
    /// Nothing. It ended more than 25 h ago, or there was none.
    Unknown,
}

impl Cluster {
    /// Returns the state of the cluster.
    #[must_use]
    pub fn status(&self) -> ClusterStatus {
        let state = self.membership.0.lock();
        ClusterStatus {
            connected: state.held.is_some(),
            nodes: state.members.len().max(1),
            error: state.away.as_ref().map(|(_, why)| why.clone()),
        }
    }

    /// Returns the other processes that were alive last.
    pub(super) fn others(&self) -> Vec<Tag> {
        let state = self.membership.0.lock();
        let others = state.members.iter().filter(|tag| **tag != self.tag);
        others.cloned().collect()
    }

    /// Returns the other processes that may have copies of a stream: those that Redis knows now, some of
    /// which this one has not heard of yet.
    pub(super) async fn others_now(&self) -> Result<Vec<Tag>, RedisError> {
        let command = cmd("SMEMBERS").arg(self.tags()).to_owned();
        let tags: Vec<String> = self.redis.query(command).await?;
        let tags = tags.iter().filter_map(|tag| tag.parse().ok());
        let mut others = self.others();
        others.extend(tags.filter(|tag| *tag != self.tag));
        others.sort();
        others.dedup();
        Ok(others)
    }

    /// Renews this process' lease each second, until it is dropped. Deletes what other nodes have
    /// deleted while this one did not answer.
    pub async fn run(&self, engine: &SharedEngine) {
        let mut ticks = interval(RENEWAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.renew().await;
            self.delete_late(engine).await;
        }
    }

    /// Renews this process' lease. The first call makes it known to the other nodes.
    pub async fn renew(&self) {
        let losses = self.lease.tick();
        let renewed = self.try_renew().await;
        self.lease.tick();
        if renewed.is_ok() {
            self.lease.renewed(losses);
        }
        let mut state = self.membership.0.lock();
        match renewed {
            Ok((held_before, members)) => {
                let now = Instant::now();
                let was_away = state.away.is_some();
                if let Some((since, _)) = state.away.take() {
                    tracing::info!(
                        seconds = (now - since).as_secs(),
                        "the Redis of the cluster answers again"
                    );
                }
                state.held = match state.held {
                    Some(held) if held_before => Some(held),
                    // The first time there was no lease to lose.
                    None if state.members.is_empty() && !was_away && state.joined_settled => {
                        Some(Held::Ever(now))
                    }
                    _ => Some(Held::Since(now)),
                };
                if members.len() != state.members.len() {
                    tracing::info!(nodes = members.len(), tag = %self.tag, name = %self.name, "the nodes of the cluster");
                }
                state.members = members;
            }
            Err(error) => {
                state.held = None;
                let why = error.to_string();
                match &mut state.away {
                    Some((_, known)) => *known = why,
                    None => {
                        tracing::warn!(
                            %error,
                            "the Redis of the cluster is away: streams of this node run on, those of others may be 503"
                        );
                        state.away = Some((Instant::now(), why));
                    }
                }
            }
        }
    }

    /// Returns whether the lease still held, and the members.
    async fn try_renew(&self) -> Result<(bool, Vec<Tag>), RedisError> {
        let Some(own) = self.registration.own() else {
            return Ok((true, Vec::new()));
        };
        if !self.membership.0.lock().checked {
            let info = self.check().await?;
            let mut state = self.membership.0.lock();
            state.checked = true;
            state.joined_settled = info.uptime >= SETTLED;
            drop(state);
            if let Some(problem) = problem(&info) {
                tracing::error!(%problem, "the Redis of cluster.url loses data");
            }
        }
        let mut both = self.registration.commands(own);
        let deleted = cmd("SMEMBERS").arg(self.deleted_of(&self.tag)).to_owned();
        both.add_command(deleted);
        self.announce_taken(own, &mut both);
        let (before, deleted): (Option<String>, Vec<String>) = self.redis.pipeline(both).await?;
        self.registration.note_joined();
        let deleted = deleted.iter().filter_map(|id| id.parse().ok()).collect();
        self.membership.0.lock().deleted = deleted;
        let members = self.redis.key("members");
        let tag = self.tag.clone();
        let tags: Vec<String> = self
            .redis
            .script(&MEMBERS, move |script| {
                script.key(members).arg(tag.as_str()).arg(LEASE_MS);
            })
            .await?;
        let tags = tags.iter().filter_map(|tag| tag.parse().ok()).collect();
        Ok((before.is_some(), tags))
    }

    /// Says that this process answers for those whose folders it has taken.
    fn announce_taken(&self, own: &NodeRecord, pipeline: &mut Pipeline) {
        let record = NodeRecord {
            holder: Some(self.tag.to_string()),
            ..own.clone()
        };
        for tag in self.taken() {
            let (node, alive) = self.keys(&tag);
            let node = [&node, &record.to_json(), "EX", &KEPT_S.to_string()].map(str::to_owned);
            pipeline
                .add_command(cmd("SET").arg(&node).to_owned())
                .ignore();
            let alive = [&alive, "1", "PX", &LEASE_MS.to_string()].map(str::to_owned);
            pipeline
                .add_command(cmd("SET").arg(&alive).to_owned())
                .ignore();
        }
    }

    /// Returns the processes whose folders this one has taken.
    fn taken(&self) -> Vec<Tag> {
        let store = self.store.as_ref();
        store.map(|store| store.taken_tags()).unwrap_or_default()
    }

    /// Whether this process answers for another one, whose folder it has taken.
    pub(super) fn has_taken(&self, tag: &Tag) -> bool {
        let store = self.store.as_ref();
        store.is_some_and(|store| store.has_taken(tag))
    }

    /// Whether other nodes can be read from and can read from this one.
    pub(crate) fn has_others(&self) -> bool {
        let state = self.membership.0.lock();
        state.held.is_some() && state.members.len() > 1
    }

    /// Ends the lease: this process has ended in order. Where it has a folder the lease lapses by
    /// itself, since another process may answer for it by then.
    pub async fn leave(&self) {
        if self.store.is_some() {
            return;
        }
        let (_, alive) = self.keys(&self.tag);
        let mut both = Pipeline::new();
        both.add_command(cmd("DEL").arg(alive).to_owned()).ignore();
        let members = self.redis.key("members");
        let tag = self.tag.as_str();
        both.add_command(cmd("ZREM").arg(members).arg(tag).to_owned())
            .ignore();
        let left: Result<(), RedisError> = self.redis.pipeline(both).await;
        if let Err(error) = left {
            tracing::debug!(%error, "the lease lapses by itself");
        }
    }

    fn keys(&self, tag: &Tag) -> (String, String) {
        let key = |kind: &str| self.redis.key(format_args!("{kind}:{tag}"));
        (key("node"), key("alive"))
    }

    fn deleted_of(&self, tag: &Tag) -> String {
        self.redis.key(format_args!("deleted:{tag}"))
    }

    /// Notes for a process that does not answer that one of its responses was deleted.
    pub(super) async fn note_deleted(&self, id: &GenerationId, tag: &Tag) -> Result<(), ApiError> {
        let key = self.deleted_of(tag);
        let mut both = Pipeline::new();
        both.add_command(cmd("SADD").arg(&key).arg(id.as_str()).to_owned())
            .ignore();
        both.add_command(cmd("EXPIRE").arg(&key).arg(KEPT_S).to_owned())
            .ignore();
        let noted: Result<(), RedisError> = self.redis.pipeline(both).await;
        noted.map_err(|error| unavailable(&error))
    }

    /// Deletes what was deleted while this process did not answer.
    async fn delete_late(&self, engine: &SharedEngine) {
        let deleted = std::mem::take(&mut self.membership.0.lock().deleted);
        for id in deleted {
            if let Err(error) = engine.delete_here(&id).await {
                tracing::warn!(generation = %id, %error, "a deleted response is still here");
                continue;
            }
            let key = self.deleted_of(&self.tag);
            let forget = cmd("SREM").arg(key).arg(id.as_str()).to_owned();
            if let Err(error) = self.redis.query::<u64>(forget).await {
                tracing::debug!(generation = %id, %error, "a deletion stays noted");
            }
        }
    }

    /// Asks Redis for the process of a tag. Answers are shared for a tenth of a second.
    ///
    /// # Errors
    /// [`ErrorCode::StoreUnavailable`](tokenwire_core::model::error::ErrorCode::StoreUnavailable)
    /// while Redis is away, and for some seconds after that unless the process is known to be alive.
    pub(super) async fn owner(&self, tag: &Tag) -> Result<Owner, ApiError> {
        let answer = self.owners.get(tag, || self.ask_owner(tag)).await;
        let answer = answer.map_err(|error| unavailable(&error))?;
        let client = answer.record.map(|record| self.client(tag, &record));
        match client {
            Some(client) if answer.is_alive => Ok(Owner::Alive(client)),
            // Redis may have lost what it knew.
            _ if !answer.knows_own || !self.is_settled() => Err(store_unavailable(
                "The Redis that all nodes share has just come back, and does not know all nodes yet.",
            )),
            Some(client) => Ok(Owner::Lapsed(client)),
            None => Ok(Owner::Unknown),
        }
    }

    async fn ask_owner(&self, tag: &Tag) -> Result<OwnerAnswer, RedisError> {
        let (node, alive) = self.keys(tag);
        let (_, own) = self.keys(&self.tag);
        let mut all = Pipeline::new();
        all.add_command(cmd("GET").arg(node).to_owned());
        all.add_command(cmd("EXISTS").arg(alive).to_owned());
        all.add_command(cmd("EXISTS").arg(own).to_owned());
        let (record, is_alive, knows_own): (Option<String>, bool, bool) =
            self.redis.pipeline(all).await?;
        Ok(OwnerAnswer {
            record: record.as_deref().and_then(NodeRecord::from_json),
            is_alive,
            knows_own,
        })
    }

    /// Whether this process' lease has held for long enough that the others' would hold as well.
    fn is_settled(&self) -> bool {
        match self.membership.0.lock().held {
            None => false,
            Some(Held::Ever(_)) => true,
            Some(Held::Since(since)) => since.elapsed() >= SETTLED,
        }
    }

    /// Whether this process may take over what lost ones wrote.
    pub(super) fn may_adopt(&self) -> bool {
        match self.membership.0.lock().held {
            None => false,
            Some(Held::Ever(since) | Held::Since(since)) => since.elapsed() >= SETTLED,
        }
    }

    /// Whether the lease of this process held when it was asked for last.
    pub(super) fn is_member(&self, tag: &Tag) -> bool {
        self.membership.0.lock().members.contains(tag)
    }

    /// The key of the tags of all processes that may have left something.
    pub(super) fn tags(&self) -> String {
        self.redis.key("tags")
    }
}
