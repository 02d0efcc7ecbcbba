//! The counters of all nodes, in the Redis that they share.
//!
//! One script admits a request, one settles it. Both work on a hash for each key and owner:
//!
//! | field | meaning |
//! | --- | --- |
//! | `requests`, `tokens` | when nothing of the rate will be used any more, in microseconds of Redis' clock |
//! | `day`, `today`, `month` | the last day that something was spent on, and what was spent on it and in its month |
//! | `streams:<tag>`, `held:<tag>` | what one node has running and reserved |
//! | `lease:<tag>` | until when that counts; renewed each second while the node has something running |
//!
//! The slots of a node that is lost are free once its lease has lapsed. `usage:<day>` has the rows of
//! `/v1/usage`. `running:<tag>` has the answers that a node writes, so that another one settles them if
//! it is lost; `nodes` has the tags. `admitted:<call>` has the reply to an admission for 5 s. All keys
//! are in one slot of a Redis Cluster, whose client repeats a call when its connection is lost.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use parking_lot::Mutex;
use redis::{Pipeline, Script, cmd};
use tokenwire_store::redis::{RedisClient, RedisError};
use tokio::runtime::Handle;

use super::calendar::Day;
use super::parties::Parties;
use super::shared_use::{NoRoom, SharedUse};
use super::subject::{Amount, Moment, SubjectId};
use super::usage_records::RunningRecord;
use super::usage_table::{RowKey, Usage, UsageTable};
use crate::config::client_limits::{ClientLimits, StoreAway};

/// How long the slots of a node count without being renewed.
const LEASE: Duration = Duration::from_secs(10);
/// How long counters are kept after their last change: longer than a month.
const KEPT: Duration = Duration::from_secs(40 * 24 * 60 * 60);
/// How long usage is kept.
const USAGE_KEPT: Duration = Duration::from_secs(70 * 24 * 60 * 60);
/// How long it is known that an answer was settled.
const SETTLED_KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the reply to an admission is kept: a Redis Cluster repeats a call no later than that.
const REPEATED_WITHIN: Duration = Duration::from_secs(5);
/// Settlements that wait for Redis to come back.
const MAX_WAITING: usize = 100_000;
/// Arguments of a script that are those of one key or owner.
const NO_LIMIT: i64 = -1;

/// What all scripts begin with.
const COMMON: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function read(key)
  local list, all = redis.call('HGETALL', key), {}
  for i = 1, #list, 2 do all[list[i]] = list[i + 1] end
  for field, value in pairs(all) do
    local tag = string.match(field, '^lease:(.+)$')
    if tag and tonumber(value) < now then
      redis.call('HDEL', key, field, 'streams:' .. tag, 'held:' .. tag)
      all['streams:' .. tag], all['held:' .. tag] = nil, nil
    end
  end
  return all
end
local function number(text) return tonumber(text or 0) end
local function spent(all, day, month)
  local known = number(all.day)
  if day <= known then return known, number(all.today), number(all.month) end
  if month > known then return day, 0, 0 end
  return day, 0, number(all.month)
end
local function time_of(limit, count) return math.floor(count * 60000000 / limit) end
";

/// Admits a request if all its parties have room. Returns why not, the party, how long to wait, and
/// for each party what is used. The last key has the reply to this call once it is admitted: one that is
/// repeated, since its connection was lost, is admitted once.
static ADMIT: LazyLock<Script> = LazyLock::new(|| {
    let body = "
local admitted, last = KEYS[#KEYS], #KEYS - 1
local before = redis.call('GET', admitted)
if before then
  local reply = {}
  for word in string.gmatch(before, '%S+') do reply[#reply + 1] = word end
  return reply
end
local tag, lease = ARGV[1], tonumber(ARGV[2])
local tokens, cost, day, month = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local why, party, wait, parties = 'ok', 0, 0, {}
for i = 1, last do
  local key = KEYS[i]
  local at = 6 + (i - 1) * 5
  local limit = {}
  for j = 1, 5 do limit[j] = tonumber(ARGV[at + j]) end
  local all = read(key)
  local streams, held = 0, 0
  for field, value in pairs(all) do
    if string.sub(field, 1, 8) == 'streams:' then streams = streams + value end
    if string.sub(field, 1, 5) == 'held:' then held = held + value end
  end
  local today, of_day, of_month = spent(all, day, month)
  local requests = math.max(number(all.requests), now)
  local used = math.max(number(all.tokens), now)
  parties[i] = {limit, requests, used, today, of_day, of_month, held}
  local function refuse(reason, time)
    if why == 'ok' then why, party, wait = reason, i, time end
  end
  if limit[4] >= 0 and (of_day >= limit[4] or of_day + held + cost > limit[4]) then refuse('budget_per_day', 0) end
  if limit[5] >= 0 and (of_month >= limit[5] or of_month + held + cost > limit[5]) then refuse('budget_per_month', 0) end
  if limit[3] >= 0 and streams >= limit[3] then refuse('streams', 0) end
  if limit[1] >= 0 then
    local over = requests - now + time_of(limit[1], 1) - 60000000
    if over > 0 then refuse('requests', over) end
  end
  if limit[2] >= 0 then
    local over = used - now + time_of(limit[2], tokens) - 60000000
    if over > 0 then refuse('tokens', over) end
  end
end
local result = {why, tostring(party), string.format('%.0f', wait)}
for i = 1, last do
  local key = KEYS[i]
  local limit, requests, used, today, of_day, of_month, held = unpack(parties[i])
  if why == 'ok' then
    if limit[1] >= 0 then requests = requests + time_of(limit[1], 1) end
    if limit[2] >= 0 then used = used + time_of(limit[2], tokens) end
    redis.call('HSET', key, 'requests', string.format('%.0f', requests), 'tokens', string.format('%.0f', used),
      'day', today, 'today', string.format('%.0f', of_day), 'month', string.format('%.0f', of_month),
      'lease:' .. tag, string.format('%.0f', now + lease))
    redis.call('HINCRBY', key, 'streams:' .. tag, 1)
    redis.call('HINCRBY', key, 'held:' .. tag, ARGV[4])
    redis.call('PEXPIRE', key, KEPT)
  end
  local own = number(redis.call('HGET', key, 'held:' .. tag))
  if why == 'ok' then own = own - cost end
  for _, value in ipairs({requests - now, used - now, of_day, of_month, held - own}) do
    result[#result + 1] = string.format('%.0f', value)
  end
end
if why == 'ok' then redis.call('SET', admitted, table.concat(result, ' '), 'PX', REPEATED) end
return result";
    Script::new(&format!("{COMMON}{}", with_times(body)))
});

/// Settles an answer once, and adds its row of usage.
static SETTLE: LazyLock<Script> = LazyLock::new(|| {
    let body = "
local settled, usage, row = KEYS[1], KEYS[2], ARGV[2]
redis.call('HDEL', KEYS[3], ARGV[#ARGV])
if not redis.call('SET', settled, '1', 'NX', 'PX', SETTLED) then return 0 end
local tag, day, month, cost = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
for i = 1, 6 do
  local count = ARGV[5 + i]
  if count ~= '0' then redis.call('HINCRBY', usage, i .. row, count) end
end
if ARGV[6] ~= '0' then redis.call('PEXPIRE', usage, USAGE) end
for i = 4, #KEYS do
  local key, at = KEYS[i], 11 + (i - 4) * 6
  local rate, reserved, used = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local all = read(key)
  if rate >= 0 then
    local free = number(all.tokens) - time_of(rate, reserved)
    free = math.max(free, now) + time_of(rate, used)
    redis.call('HSET', key, 'tokens', string.format('%.0f', free))
  end
  if ARGV[at + 5] ~= '-1' then
    local free = number(all.requests) - time_of(tonumber(ARGV[at + 5]), 1)
    redis.call('HSET', key, 'requests', string.format('%.0f', free))
  end
  if ARGV[at + 6] == '1' and all['streams:' .. tag] then
    if redis.call('HINCRBY', key, 'streams:' .. tag, -1) < 0 then redis.call('HSET', key, 'streams:' .. tag, 0) end
    local held = math.max(number(all['held:' .. tag]) - tonumber(ARGV[at + 4]), 0)
    redis.call('HSET', key, 'held:' .. tag, string.format('%.0f', held))
  end
  local today, of_day, of_month = spent(all, day, month)
  if today == day then of_day = of_day + cost end
  if month <= today then of_month = of_month + cost end
  redis.call('HSET', key, 'day', today, 'today', string.format('%.0f', of_day), 'month', string.format('%.0f', of_month))
  redis.call('PEXPIRE', key, KEPT)
end
return 1";
    Script::new(&format!("{COMMON}{}", with_times(body)))
});

/// Notes an answer that a node writes, unless it is settled already.
static NOTE: LazyLock<Script> = LazyLock::new(|| {
    let body = "
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], KEPT)
return redis.call('SADD', KEYS[3], ARGV[3])";
    Script::new(&with_times(body))
});

/// Renews the lease of a node that has something running. Corrects its counts if they have not changed
/// for a while and are not what the node has: the reply to an admission may have been lost. Returns its
/// streams.
static RENEW: LazyLock<Script> = LazyLock::new(|| {
    let body = "
local key, tag, lease = KEYS[1], ARGV[1], tonumber(ARGV[2])
local all = read(key)
local streams = number(all['streams:' .. tag])
if ARGV[5] == tostring(streams) and ARGV[3] ~= ARGV[5] then
  redis.call('HSET', key, 'streams:' .. tag, ARGV[3], 'held:' .. tag, ARGV[4])
  streams = tonumber(ARGV[3])
end
if ARGV[3] ~= '0' then redis.call('HSET', key, 'lease:' .. tag, string.format('%.0f', now + lease)) end
return streams";
    Script::new(&format!("{COMMON}{body}"))
});

fn with_times(body: &str) -> String {
    let millis = |time: Duration| time.as_millis().to_string();
    body.replace("KEPT", &millis(KEPT))
        .replace("USAGE", &millis(USAGE_KEPT))
        .replace("SETTLED", &millis(SETTLED_KEPT))
        .replace("REPEATED", &millis(REPEATED_WITHIN))
}

/// The counters of all nodes.
#[derive(Debug)]
pub(super) struct SharedCounters {
    redis: RedisClient,
    /// The name of this process.
    tag: String,
    store_away: StoreAway,
    runtime: Handle,
    /// Settlements that Redis has not taken yet.
    waiting: Mutex<VecDeque<Settlement>>,
    /// What was renewed last, by key of Redis.
    renewed: Mutex<HashMap<String, Renewed>>,
}

/// What this node had running at the last renewal, and what Redis knew of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Renewed {
    local: u64,
    in_redis: u64,
}

/// An admission's reply: what each party uses, and whether there was room.
pub(super) type Reply = (Vec<SharedUse>, Result<(), NoRoom>);

/// What an answer has used, to be counted once.
#[derive(Clone, Debug)]
pub(super) struct Settlement {
    /// Tells it from others.
    pub(super) id: String,
    pub(super) row: RowKey,
    pub(super) usage: Usage,
    pub(super) parties: Vec<SettledParty>,
}

/// The part of a settlement that is a key's or an owner's.
#[derive(Clone, Debug)]
pub(super) struct SettledParty {
    pub(super) subject: SubjectId,
    pub(super) limits: ClientLimits,
    /// What Redis has reserved; `None` if the answer was admitted while Redis was away.
    pub(super) reserved: Option<Amount>,
    /// Whether the request has started nothing.
    pub(super) is_cancelled: bool,
}

// === impl SharedCounters ===

impl SharedCounters {
    pub(super) fn new(redis: RedisClient, tag: &str, store_away: StoreAway) -> Arc<Self> {
        Arc::new(Self {
            redis,
            tag: tag.to_owned(),
            store_away,
            runtime: Handle::current(),
            waiting: Mutex::default(),
            renewed: Mutex::default(),
        })
    }

    /// What happens to requests while Redis is away.
    pub(super) fn store_away(&self) -> StoreAway {
        self.store_away
    }

    fn key_of(&self, subject: &SubjectId) -> String {
        match subject {
            SubjectId::Key(id) => self.redis.key(format_args!("{{limits}}:key:{id}")),
            SubjectId::Owner(Some(name)) => self.redis.key(format_args!("{{limits}}:owner:{name}")),
            SubjectId::Owner(None) => self.redis.key("{limits}:anonymous"),
        }
    }

    fn usage_key(&self, day: u32) -> String {
        self.redis.key(format_args!("{{limits}}:usage:{day}"))
    }

    fn settled_key(&self, id: &str) -> String {
        self.redis.key(format_args!("{{limits}}:settled:{id}"))
    }

    fn running_key(&self, tag: &str) -> String {
        self.redis.key(format_args!("{{limits}}:running:{tag}"))
    }

    fn nodes_key(&self) -> String {
        self.redis.key("{limits}:nodes")
    }

    /// Notes an answer that this node writes. While Redis is away it is not noted.
    pub(super) async fn note(&self, id: String, record: RunningRecord) {
        let keys = [
            self.settled_key(&id),
            self.running_key(&self.tag),
            self.nodes_key(),
        ];
        let record = serde_json::to_string(&record).unwrap_or_default();
        let noted: Result<i64, RedisError> = self
            .redis
            .script(&NOTE, |script| {
                for key in keys {
                    script.key(key);
                }
                script.arg(id).arg(record).arg(&self.tag);
            })
            .await;
        if let Err(error) = noted {
            tracing::debug!(%error, "an answer is not noted for the other nodes");
        }
    }

    /// Returns the tags of other nodes that may have left answers.
    pub(super) async fn nodes(&self) -> Result<Vec<String>, RedisError> {
        let command = cmd("SMEMBERS").arg(self.nodes_key()).to_owned();
        let mut tags: Vec<String> = self.redis.query(command).await?;
        tags.retain(|tag| *tag != self.tag);
        Ok(tags)
    }

    /// Returns what a node has left, by the ids of the answers.
    pub(super) async fn left_by(
        &self,
        tag: &str,
    ) -> Result<HashMap<String, RunningRecord>, RedisError> {
        let command = cmd("HGETALL").arg(self.running_key(tag)).to_owned();
        let all: HashMap<String, String> = self.redis.query(command).await?;
        let read = all
            .into_iter()
            .filter_map(|(id, record)| Some((id, serde_json::from_str(&record).ok()?)));
        Ok(read.collect())
    }

    /// Forgets a lost node, once what it left is settled.
    pub(super) async fn forget(&self, tag: &str) -> Result<(), RedisError> {
        let mut both = Pipeline::new();
        both.add_command(cmd("DEL").arg(self.running_key(tag)).to_owned());
        both.add_command(cmd("SREM").arg(self.nodes_key()).arg(tag).to_owned());
        self.redis.pipeline::<(i64, i64)>(both).await.map(drop)
    }

    /// The runtime that settles: it outlives the workers, whose last answers are settled as well.
    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Reserves for a request, if all nodes together have room for it.
    pub(super) async fn admit(
        &self,
        parties: &Parties,
        amount: Amount,
        at: Moment,
    ) -> Result<Reply, RedisError> {
        let count = parties.iter().count();
        let mut keys: Vec<String> = parties.iter().map(|party| self.key_of(&party.id)).collect();
        let call = rand::random::<u128>();
        keys.push(
            self.redis
                .key(format_args!("{{limits}}:admitted:{call:032x}")),
        );
        let limits: Vec<i64> = parties
            .iter()
            .flat_map(|party| arguments(&party.limits))
            .collect();
        let reply: Vec<String> = self
            .redis
            .script(&ADMIT, |script| {
                for key in keys {
                    script.key(key);
                }
                script
                    .arg(&self.tag)
                    .arg(LEASE.as_micros().to_string())
                    .arg(amount.tokens)
                    .arg(amount.cost)
                    .arg(at.day.0)
                    .arg(at.day.first_of_month().0);
                for limit in limits {
                    script.arg(limit);
                }
            })
            .await?;
        Ok(parsed(&reply, count))
    }

    /// Settles an answer; later, if Redis is away.
    pub(super) async fn settle(&self, settlement: Settlement) {
        if !self.waiting.lock().is_empty() || self.try_settle(&settlement).await.is_err() {
            let mut waiting = self.waiting.lock();
            if waiting.len() >= MAX_WAITING {
                tracing::error!("usage of an answer is lost: Redis is away for too long");
                waiting.pop_front();
            }
            waiting.push_back(settlement);
        }
    }

    async fn try_settle(&self, settlement: &Settlement) -> Result<(), RedisError> {
        let day = Day(settlement.row.day);
        let row = serde_json::to_string(&settlement.row).unwrap_or_default();
        let usage = &settlement.usage;
        let settled = self.settled_key(&settlement.id);
        let mut keys = vec![settled, self.usage_key(day.0), self.running_key(&self.tag)];
        let mut arguments: Vec<String> = vec![
            self.tag.clone(),
            row,
            day.0.to_string(),
            day.first_of_month().0.to_string(),
            usage.cost.to_string(),
        ];
        let counts = [
            usage.requests,
            usage.input,
            usage.cached,
            usage.output,
            usage.cost,
            usage.estimated,
        ];
        arguments.extend(counts.map(|count| count.to_string()));
        let used = usage.input.saturating_add(usage.output);
        for party in &settlement.parties {
            keys.push(self.key_of(&party.subject));
            let reserved = party.reserved.unwrap_or_default();
            let requests = party
                .limits
                .requests_per_minute
                .filter(|_| party.is_cancelled);
            arguments.extend([
                limit(party.limits.tokens_per_minute).to_string(),
                reserved.tokens.to_string(),
                used.to_string(),
                reserved.cost.to_string(),
                limit(requests).to_string(),
                u8::from(party.reserved.is_some()).to_string(),
            ]);
        }
        arguments.push(settlement.id.clone());
        let _: i64 = self
            .redis
            .script(&SETTLE, |script| {
                for key in keys {
                    script.key(key);
                }
                for argument in arguments {
                    script.arg(argument);
                }
            })
            .await?;
        Ok(())
    }

    /// Renews the leases of what this node has running (streams and their cost), and settles what
    /// waited for Redis.
    pub(super) async fn renew(&self, running: Vec<(SubjectId, u64, u64)>) {
        while let Some(first) = { self.waiting.lock().front().cloned() } {
            if self.try_settle(&first).await.is_err() {
                return;
            }
            self.waiting.lock().pop_front();
        }
        let before = std::mem::take(&mut *self.renewed.lock());
        for (subject, streams, held) in running {
            let key = self.key_of(&subject);
            let known = before.get(&key).copied();
            // Counts that change are not corrected: a script may be on its way.
            let seen = known.filter(|known| known.local == streams);
            let seen = seen.map_or_else(|| "-".to_owned(), |seen| seen.in_redis.to_string());
            let renewed: Result<u64, RedisError> = self
                .redis
                .script(&RENEW, |script| {
                    script
                        .key(key.clone())
                        .arg(&self.tag)
                        .arg(LEASE.as_micros().to_string())
                        .arg(streams)
                        .arg(held)
                        .arg(seen);
                })
                .await;
            let Ok(in_redis) = renewed else {
                return;
            };
            let renewed = Renewed {
                local: streams,
                in_redis,
            };
            self.renewed.lock().insert(key, renewed);
        }
    }

    /// Reads what all nodes have used on these days.
    pub(super) async fn usage(&self, (from, to): (Day, Day)) -> Result<UsageTable, RedisError> {
        let mut table = UsageTable::default();
        let first = from.0.max(to.earlier(super::usage_table::KEPT_DAYS).0);
        if first > to.0 {
            return Ok(table);
        }
        let mut days = Pipeline::new();
        for day in first..=to.0 {
            days.add_command(cmd("HGETALL").arg(self.usage_key(day)).to_owned());
        }
        let days: Vec<HashMap<String, u64>> = self.redis.pipeline(days).await?;
        for (field, count) in days.into_iter().flatten() {
            let Some((part, row)) = field.split_at_checked(1) else {
                continue;
            };
            let Ok(row) = serde_json::from_str::<RowKey>(row) else {
                continue;
            };
            let mut usage = Usage::default();
            match part {
                "1" => usage.requests = count,
                "2" => usage.input = count,
                "3" => usage.cached = count,
                "4" => usage.output = count,
                "5" => usage.cost = count,
                _ => usage.estimated = count,
            }
            table.add_elsewhere(row, &usage);
        }
        Ok(table)
    }
}

fn limit(limit: Option<u64>) -> i64 {
    limit.map_or(NO_LIMIT, |limit| i64::try_from(limit).unwrap_or(i64::MAX))
}

/// Returns limits in the order of the scripts.
fn arguments(limits: &ClientLimits) -> [i64; 5] {
    [
        limit(limits.requests_per_minute),
        limit(limits.tokens_per_minute),
        limit(limits.streams),
        limit(limits.budget_per_day.map(|budget| budget.micros())),
        limit(limits.budget_per_month.map(|budget| budget.micros())),
    ]
}

/// Reads the reply to an admission.
fn parsed(reply: &[String], parties: usize) -> Reply {
    let number = |at: usize| -> u64 {
        reply
            .get(at)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    };
    let used = (0..parties).map(|party| {
        let at = 3 + 5 * party;
        SharedUse {
            requests: Duration::from_micros(number(at)),
            tokens: Duration::from_micros(number(at + 1)),
            spent_today: number(at + 2),
            spent_this_month: number(at + 3),
            held_elsewhere: number(at + 4),
        }
    });
    let why = reply.first().map_or("", String::as_str);
    let room = match why {
        "ok" => Ok(()),
        why => Err(NoRoom {
            party: usize::try_from(number(1)).unwrap_or(0).saturating_sub(1),
            why: why.to_owned(),
            wait: Duration::from_micros(number(2)),
        }),
    };
    (used.collect(), room)
}

#[cfg(test)]
mod tests {
    use tokenwire_store::redis::RedisOptions;
    use tokenwire_testkit::RedisServer;

    use super::*;

    #[tokio::test]
    async fn call_that_is_repeated_is_admitted_once() {
        let server = RedisServer::start();
        let redis = RedisClient::new(RedisOptions::new(server.url())).unwrap();
        let admit = async |call: &str| -> Vec<String> {
            let reply = redis.script(&ADMIT, |script| {
                script.key("tw:{limits}:anonymous");
                script.key(format!("tw:{{limits}}:admitted:{call}"));
                script.arg("node").arg(10_000_000).arg(100).arg(0);
                script.arg(20_000).arg(19_990);
                // Requests, tokens, streams and budgets.
                script
                    .arg(60)
                    .arg(NO_LIMIT)
                    .arg(2)
                    .arg(NO_LIMIT)
                    .arg(NO_LIMIT);
            });
            reply.await.unwrap()
        };
        let first = admit("a").await;
        assert_eq!(first[0], "ok");
        assert_eq!(admit("a").await, first);
        let streams = || server.command(&["HGET", "tw:{limits}:anonymous", "streams:node"]);
        assert_eq!(streams(), "1");
        assert_eq!(admit("b").await[0], "ok");
        assert_eq!(streams(), "2");
        assert_eq!(admit("c").await[0], "streams");
    }
}
