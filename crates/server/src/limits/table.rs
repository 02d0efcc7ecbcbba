//! The limits of all clients, and the counters that keep to them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;
use parking_lot::{Mutex, RwLock};
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::Owner;
use tokenwire_core::model::usage::TokenUsage;
use tokenwire_store::redis::RedisClient;

use super::calendar::{Day, today};
use super::cost::cost;
use super::parties::Party;
use super::rate;
use super::refusals::{LimitKind, Refusals};
use super::shared_counters::{SettledParty, Settlement, SharedCounters};
use super::subject::{Subject, SubjectId};
use super::usage_records::{PREFIX, Record, RecordsWriter, RunningRecord, UsageRecords};
use super::usage_table::{Grouping, RowKey, Usage, UsageRow, UsageTable};
use crate::config::client_limits::{ClientLimits, Overrun, Prices, StoreAway};
use crate::config::schema::Config;

/// How often the counters of all nodes are told what this one has running.
const RENEW: Duration = Duration::from_secs(1);
/// How often, among these times, what is idle or old is forgotten.
const SWEEP: u32 = 60;

/// The limits of all clients, with their counters. All workers share one.
#[derive(Debug)]
pub struct Limits {
    settings: RwLock<Arc<LimitSettings>>,
    subjects: Mutex<HashMap<SubjectId, Arc<Subject>, RandomState>>,
    usage: Mutex<UsageTable>,
    refusals: Refusals,
    totals: Totals,
    records: OnceLock<RecordsWriter>,
    /// The counters of all nodes, where there are several.
    shared: OnceLock<Arc<SharedCounters>>,
    store_away: StoreAway,
}

/// What the configuration says of limits. A reload replaces it.
#[derive(Debug)]
pub(super) struct LimitSettings {
    pub(super) per_key: ClientLimits,
    pub(super) per_owner: ClientLimits,
    pub(super) reserve_output: u64,
    pub(super) on_overrun: Overrun,
    pub(super) prices: Prices,
}

/// What was used since the start of the process.
#[derive(Debug, Default)]
struct Totals([AtomicU64; 5]);

/// An answer that a process was writing when it died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// Its id.
    pub id: String,
    pub(super) record: RunningRecord,
    /// The key of its record; empty if it was another node's.
    key: String,
}

// === impl Limits ===

impl Limits {
    /// The limits of a configuration. Nothing is used yet.
    #[must_use]
    pub fn new(config: &Config) -> Arc<Self> {
        Arc::new(Self {
            settings: RwLock::new(Arc::new(LimitSettings::of(config))),
            subjects: Mutex::default(),
            usage: Mutex::default(),
            refusals: Refusals::default(),
            totals: Totals::default(),
            records: OnceLock::new(),
            shared: OnceLock::new(),
            store_away: config.limits.store_away,
        })
    }

    /// Applies the limits and prices of another configuration to what is asked for from now on.
    /// Counters go on.
    pub(crate) fn configure(&self, config: &Config) {
        *self.settings.write() = Arc::new(LimitSettings::of(config));
    }

    /// Returns the settings of now. A lock that is held instead would deadlock where they are asked for
    /// twice while others replace them.
    pub(super) fn settings(&self) -> Arc<LimitSettings> {
        self.settings.read().clone()
    }

    pub(super) fn party(
        &self,
        limits: ClientLimits,
        is_owner: bool,
        id: impl FnOnce() -> SubjectId,
    ) -> Option<Party> {
        (!limits.is_empty()).then(|| {
            let id = id();
            Party {
                subject: self.subject(&id),
                id,
                limits,
                is_owner,
            }
        })
    }

    fn subject(&self, id: &SubjectId) -> Arc<Subject> {
        let mut subjects = self.subjects.lock();
        if let Some(known) = subjects.get(id) {
            return known.clone();
        }
        let day = today();
        let (spent_today, spent_this_month) = self.usage.lock().spent(id, day);
        let subject = Arc::new(Subject::new(day, spent_today, spent_this_month));
        subjects.insert(id.clone(), subject.clone());
        subject
    }

    pub(super) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Counts what a request has used, and writes its record.
    pub(super) fn used(&self, row: &RowKey, usage: &Usage) {
        self.totals.add(usage);
        self.usage.lock().add(row, usage);
        if self.records.get().is_some() {
            self.flush();
        }
    }

    /// Notes an answer that is being written, for the case that the process dies.
    pub(super) fn running(&self, id: &str, record: impl Fn() -> RunningRecord) {
        if let Some(records) = self.records.get() {
            records.running(id, Some(&record()));
        }
        if let Some(shared) = self.shared.get().cloned() {
            let (id, record) = (id.to_owned(), record());
            let runtime = shared.runtime().clone();
            runtime.spawn(async move { shared.note(id, record).await });
        }
    }

    /// Returns the other nodes that may have left answers, by their tags. None while Redis is away.
    pub(crate) async fn other_nodes(&self) -> Vec<String> {
        match self.shared.get() {
            Some(shared) => shared.nodes().await.unwrap_or_default(),
            None => Vec::new(),
        }
    }

    /// Returns the answers that a lost node was writing.
    pub(crate) async fn left_by(&self, tag: &str) -> Vec<Unsettled> {
        let Some(shared) = self.shared.get() else {
            return Vec::new();
        };
        let left = shared.left_by(tag).await.unwrap_or_default();
        let unsettled = left.into_iter().map(|(id, record)| Unsettled {
            id,
            record,
            key: String::new(),
        });
        unsettled.collect()
    }

    /// Forgets a lost node, whose answers are settled.
    pub(crate) async fn forget_node(&self, tag: &str) {
        if let Some(shared) = self.shared.get()
            && let Err(error) = shared.forget(tag).await
        {
            tracing::debug!(%error, "a lost node is looked at again");
        }
    }

    /// The answer has ended, and is settled.
    pub(super) fn over(&self, id: &str) {
        if let Some(records) = self.records.get() {
            records.running(id, None);
        }
    }

    /// Returns the usage of these days by group. With an owner only what is that one's. With several
    /// nodes it is that of all.
    ///
    /// # Errors
    /// `store_unavailable` while the Redis of the cluster is away.
    pub(crate) async fn list(
        &self,
        days: (Day, Day),
        by: Grouping,
        owner: Option<&Owner>,
    ) -> Result<Vec<UsageRow>, ApiError> {
        let Some(shared) = self.shared.get() else {
            return Ok(self.usage.lock().list(days, by, owner));
        };
        let table = shared.usage(days).await.map_err(|error| {
            tracing::debug!(%error, "the usage of all nodes cannot be read");
            let message = "The usage of all nodes cannot be read now.";
            ApiError::new(ErrorCode::StoreUnavailable, message).retry_after(Duration::from_secs(1))
        })?;
        Ok(table.list(days, by, owner))
    }

    /// Shares the counters with all nodes of a cluster, through their Redis. `tag` is the name of this
    /// process.
    pub fn share_over(&self, redis: RedisClient, tag: &str) {
        let shared = SharedCounters::new(redis, tag, self.store_away);
        let _ = self.shared.set(shared);
    }

    pub(super) fn shared(&self) -> Option<&Arc<SharedCounters>> {
        self.shared.get()
    }

    /// Tells the counters of all nodes what an answer has used.
    pub(super) fn share(&self, settlement: impl FnOnce() -> Settlement) {
        if let Some(shared) = self.shared.get().cloned() {
            let settlement = settlement();
            let runtime = shared.runtime().clone();
            runtime.spawn(async move { shared.settle(settlement).await });
        }
    }

    /// Keeps what this node has running alive in the counters of all nodes.
    async fn renew(&self) {
        let Some(shared) = self.shared.get() else {
            return;
        };
        let running = {
            let subjects = self.subjects.lock();
            let now = rate::now();
            let running = subjects.iter().filter_map(|(id, subject)| {
                let (streams, held) = subject.lock().running(now)?;
                Some((id.clone(), streams, held))
            });
            running.collect::<Vec<_>>()
        };
        shared.renew(running).await;
    }

    /// Returns how many requests this limit has refused.
    #[must_use]
    pub fn refused(&self, kind: LimitKind) -> u64 {
        self.refusals.count(kind)
    }

    /// Returns the tokens and costs since the start of the process, by name.
    #[must_use]
    pub fn totals(&self) -> [(&'static str, u64); 5] {
        let [requests, input, cached, output, cost] = self
            .totals
            .0
            .each_ref()
            .map(|sum| sum.load(Ordering::Relaxed));
        [
            ("requests", requests),
            ("input", input),
            ("cached", cached),
            ("output", output),
            ("cost", cost),
        ]
    }

    /// Keeps usage in these records from now on. `tag` is the name of this process.
    pub fn keep_in(&self, records: Arc<dyn UsageRecords>, tag: &str) {
        let _ = self.records.set(RecordsWriter::new(records, tag));
    }

    /// Counts what these records of other processes tell. Returns the answers that were being written
    /// and are not settled.
    pub fn take_over<'a>(
        &self,
        entries: impl IntoIterator<Item = &'a (String, Bytes)>,
    ) -> Vec<Unsettled> {
        let today = today();
        let mut unsettled = Vec::new();
        let mut found = Vec::new();
        for (key, value) in entries {
            match Record::read(key, value) {
                Some(Record::Row(row, usage)) if UsageTable::keeps(row.day, today) => {
                    found.push((row, usage));
                }
                Some(Record::Running(id, record)) => unsettled.push(Unsettled {
                    id,
                    record,
                    key: key.clone(),
                }),
                // Too old, or damaged.
                Some(Record::Row(..)) | None if key.starts_with(PREFIX) => {
                    if let Some(records) = self.records.get() {
                        records.remove(key);
                    }
                }
                Some(Record::Row(..)) | None => {}
            }
        }
        let subjects = self.subjects.lock();
        let mut table = self.usage.lock();
        for (row, usage) in found {
            for (_, subject) in subjects.iter().filter(|(id, _)| row.is_of(id)) {
                if row.day >= today.first_of_month().0 {
                    let is_today = row.day == today.0;
                    subject.lock().spend(today, usage.cost, is_today);
                }
            }
            table.add_elsewhere(row, &usage);
        }
        unsettled
    }

    /// Settles an answer whose process died: its request in full, and this many tokens of output.
    pub fn settle_lost(&self, lost: &Unsettled, reported: Option<TokenUsage>, output: u64) {
        let RunningRecord { row, input } = &lost.record;
        let tokens = reported.unwrap_or(TokenUsage {
            input: *input,
            cached: 0,
            output,
        });
        let settings = self.settings();
        let price = settings.prices.of(&row.model);
        let cost = price.map_or(0, |price| cost(price, tokens));
        let today = today();
        let row = RowKey {
            day: today.0,
            ..row.clone()
        };
        {
            let subjects = self.subjects.lock();
            for (_, subject) in subjects.iter().filter(|(id, _)| row.is_of(id)) {
                subject.lock().spend(today, cost, true);
            }
        }
        let usage = Usage::of(tokens, cost, reported.is_none());
        let subjects = [
            row.key.clone().map(SubjectId::Key),
            Some(SubjectId::Owner(row.owner.clone())),
        ];
        self.share(|| Settlement {
            id: lost.id.clone(),
            row: row.clone(),
            usage,
            parties: subjects
                .into_iter()
                .flatten()
                .map(|subject| SettledParty {
                    subject,
                    limits: ClientLimits::default(),
                    reserved: None,
                    is_cancelled: false,
                })
                .collect(),
        });
        self.used(&row, &usage);
        if let Some(records) = self.records.get()
            && !lost.key.is_empty()
        {
            records.remove(&lost.key);
        }
    }

    /// Writes the records that have changed, and removes old ones.
    fn flush(&self) {
        let changes = self.usage.lock().take_changes(today());
        if let Some(records) = self.records.get() {
            changes
                .into_iter()
                .for_each(|change| records.change(change));
        }
    }

    /// Forgets idle keys and owners, and old usage, and keeps the counters of all nodes up to date.
    /// Never returns.
    pub async fn run(&self) {
        let mut tick = tokio::time::interval(RENEW);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ticks = 0_u32;
        loop {
            tick.tick().await;
            self.renew().await;
            ticks = ticks.wrapping_add(1);
            if ticks.is_multiple_of(SWEEP) {
                self.flush();
                self.sweep(rate::now());
            }
        }
    }

    /// Forgets keys and owners that use nothing. The table of usage has what they have spent.
    fn sweep(&self, now: u64) {
        self.subjects.lock().retain(|_, subject| {
            // Nothing else can get hold of it while the map is locked.
            Arc::strong_count(subject) > 1 || !subject.lock().is_idle(now)
        });
    }
}

// === impl LimitSettings ===

impl LimitSettings {
    fn of(config: &Config) -> Self {
        let limits = &config.limits;
        Self {
            per_key: limits.per_key,
            per_owner: limits.per_owner,
            reserve_output: limits.reserve_output,
            on_overrun: limits.on_overrun,
            prices: config.prices.clone(),
        }
    }
}

// === impl Totals ===

impl Totals {
    fn add(&self, usage: &Usage) {
        let parts = [
            usage.requests,
            usage.input,
            usage.cached,
            usage.output,
            usage.cost,
        ];
        for (sum, more) in self.0.iter().zip(parts) {
            sum.fetch_add(more, Ordering::Relaxed);
        }
    }
}
