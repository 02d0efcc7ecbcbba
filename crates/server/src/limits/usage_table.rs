//! What was used, by day, key, owner and model.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use serde::{Deserialize, Serialize};
use tokenwire_core::model::id::Owner;
use tokenwire_core::model::usage::TokenUsage;

use super::calendar::Day;
use super::subject::SubjectId;

/// Days that are kept: those of this month, and those of the month before.
pub(super) const KEPT_DAYS: u32 = 62;
/// Rows beyond which models are not told from one another any more: their names are the clients'.
const MAX_ROWS: usize = 50_000;
/// The name of all models then.
const OTHER: &str = "other";

/// What requests have used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Usage {
    pub(crate) requests: u64,
    pub(crate) input: u64,
    pub(crate) cached: u64,
    pub(crate) output: u64,
    /// Millionths.
    pub(crate) cost: u64,
    /// Requests whose tokens are estimated, since the upstream did not report them.
    pub(crate) estimated: u64,
}

/// Who used which model, and when. The anonymous owner has no name, and needs no key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct RowKey {
    pub(super) day: u32,
    pub(super) key: Option<Arc<str>>,
    pub(super) owner: Option<Arc<str>>,
    pub(super) model: Arc<str>,
}

#[derive(Debug, Default)]
struct Row {
    /// What other processes have used, which their own records tell.
    elsewhere: Usage,
    /// What this process has counted.
    own: Usage,
    /// The number of its record, once it was written.
    record: Option<u64>,
    is_changed: bool,
}

/// All usage of the last two months.
#[derive(Debug, Default)]
pub(super) struct UsageTable {
    rows: HashMap<RowKey, Row, RandomState>,
    changed: Vec<RowKey>,
    records: u64,
    swept: Day,
}

/// A record to write, or to remove.
pub(super) struct RecordChange {
    pub(super) number: u64,
    pub(super) value: Option<(RowKey, Usage)>,
}

/// What a list of usage is grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grouping {
    Key,
    Owner,
    Model,
}

/// The usage of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UsageRow {
    /// `None` for what is used without a key, or by the anonymous owner.
    pub(crate) group: Option<Arc<str>>,
    /// The owner of a key.
    pub(crate) owner: Option<Arc<str>>,
    pub(crate) usage: Usage,
}

// === impl Usage ===

impl Usage {
    /// One request with these tokens.
    pub(super) fn of(tokens: TokenUsage, cost: u64, is_estimated: bool) -> Self {
        Self {
            requests: 1,
            input: tokens.input,
            cached: tokens.cached,
            output: tokens.output,
            cost,
            estimated: u64::from(is_estimated),
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.requests, other.requests),
            (&mut self.input, other.input),
            (&mut self.cached, other.cached),
            (&mut self.output, other.output),
            (&mut self.cost, other.cost),
            (&mut self.estimated, other.estimated),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

// === impl RowKey ===

impl RowKey {
    pub(super) fn is_of(&self, subject: &SubjectId) -> bool {
        match subject {
            SubjectId::Key(id) => self.key.as_ref() == Some(id),
            SubjectId::Owner(owner) => self.owner == *owner,
        }
    }
}

// === impl Row ===

impl Row {
    /// Adds what this process has counted. Returns whether nothing was counted since the last record.
    fn add(&mut self, usage: &Usage) -> bool {
        self.own.add(usage);
        !std::mem::replace(&mut self.is_changed, true)
    }

    fn total(&self) -> Usage {
        let mut total = self.elsewhere;
        total.add(&self.own);
        total
    }
}

// === impl UsageTable ===

impl UsageTable {
    /// Adds what this process has counted.
    pub(super) fn add(&mut self, key: &RowKey, usage: &Usage) {
        // Nearly every request is of a known row, whose `RowKey` is not cloned.
        if let Some(row) = self.rows.get_mut(key) {
            if row.add(usage) {
                self.changed.push(key.clone());
            }
            return;
        }
        let key = self.bounded(key.clone());
        if self.rows.entry(key.clone()).or_default().add(usage) {
            self.changed.push(key);
        }
    }

    /// Adds what the record of another process tells.
    pub(super) fn add_elsewhere(&mut self, key: RowKey, usage: &Usage) {
        let key = self.bounded(key);
        self.rows.entry(key).or_default().elsewhere.add(usage);
    }

    fn bounded(&self, key: RowKey) -> RowKey {
        if self.rows.len() < MAX_ROWS || self.rows.contains_key(&key) {
            return key;
        }
        RowKey {
            model: OTHER.into(),
            ..key
        }
    }

    /// Whether rows of this day are kept.
    pub(super) fn keeps(day: u32, today: Day) -> bool {
        day >= today.earlier(KEPT_DAYS).0
    }

    /// Returns the records to write, and forgets the days that are not kept any more.
    pub(super) fn take_changes(&mut self, today: Day) -> Vec<RecordChange> {
        let mut changes = Vec::new();
        if self.swept != today {
            self.swept = today;
            self.rows.retain(|key, row| {
                let is_kept = Self::keeps(key.day, today);
                if !is_kept && let Some(number) = row.record {
                    changes.push(RecordChange {
                        number,
                        value: None,
                    });
                }
                is_kept
            });
        }
        for key in self.changed.drain(..) {
            let Some(row) = self.rows.get_mut(&key) else {
                continue;
            };
            row.is_changed = false;
            let number = *row.record.get_or_insert_with(|| {
                self.records += 1;
                self.records
            });
            let value = Some((key, row.own));
            changes.push(RecordChange { number, value });
        }
        changes
    }

    /// Returns what a key or an owner has spent on this day, and in its month.
    pub(super) fn spent(&self, subject: &SubjectId, today: Day) -> (u64, u64) {
        let first = today.first_of_month();
        let rows = self
            .rows
            .iter()
            .filter(|(key, _)| (first.0..=today.0).contains(&key.day) && key.is_of(subject));
        rows.fold((0_u64, 0_u64), |(day, month), (key, row)| {
            let cost = row.total().cost;
            let of_today = if key.day == today.0 { cost } else { 0 };
            (day.saturating_add(of_today), month.saturating_add(cost))
        })
    }

    /// Returns the usage of these days by group, in the order of the groups. With an owner only what
    /// is that one's.
    pub(super) fn list(
        &self,
        (from, to): (Day, Day),
        by: Grouping,
        owner: Option<&Owner>,
    ) -> Vec<UsageRow> {
        let only = owner.map(name_of);
        let mut groups: BTreeMap<_, UsageRow> = BTreeMap::new();
        for (key, row) in &self.rows {
            let is_meant = (from.0..=to.0).contains(&key.day)
                && only.as_ref().is_none_or(|only| key.owner == *only);
            if !is_meant {
                continue;
            }
            let (group, owner) = match by {
                Grouping::Key => (key.key.clone(), key.owner.clone()),
                Grouping::Owner => (key.owner.clone(), None),
                Grouping::Model => (Some(key.model.clone()), None),
            };
            let usage = row.total();
            match groups.entry((group.clone(), owner.clone())) {
                Entry::Occupied(mut known) => known.get_mut().usage.add(&usage),
                Entry::Vacant(free) => {
                    free.insert(UsageRow {
                        group,
                        owner,
                        usage,
                    });
                }
            }
        }
        groups.into_values().collect()
    }
}

/// Returns the name of an owner; `None` for the anonymous one.
pub(super) fn name_of(owner: &Owner) -> Option<Arc<str>> {
    match owner {
        Owner::Anonymous => None,
        Owner::Named(name) => Some(name.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(day: u32, key: &str, owner: &str, model: &str) -> RowKey {
        RowKey {
            day,
            key: Some(key.into()),
            owner: Some(owner.into()),
            model: model.into(),
        }
    }

    fn used(cost: u64) -> Usage {
        let tokens = TokenUsage {
            input: 10,
            cached: 1,
            output: 5,
        };
        Usage::of(tokens, cost, false)
    }

    #[test]
    fn usage_is_summed_by_key_owner_and_model() {
        let today = Day::parse("2026-11-30").unwrap();
        let mut table = UsageTable::default();
        table.add(&key(today.0, "k1", "alice", "a"), &used(1));
        table.add(&key(today.0, "k2", "alice", "b"), &used(2));
        table.add_elsewhere(key(today.0, "k1", "alice", "a"), &used(4));
        table.add(&key(today.0 - 1, "k3", "bob", "a"), &used(8));
        table.add(&key(today.0 - 30, "k1", "alice", "a"), &used(16));
        let sums = |from: u32, by, owner: Option<&str>| {
            let owner = owner.map(|name| Owner::Named(name.into()));
            let days = (Day(today.0 - from), today);
            let rows = table.list(days, by, owner.as_ref());
            let sum = |row: UsageRow| (row.group.unwrap_or_default().to_string(), row.usage.cost);
            rows.into_iter().map(sum).collect::<Vec<_>>()
        };
        let text = |pairs: &[(&str, u64)]| {
            let pairs = pairs.iter().map(|(name, cost)| ((*name).to_owned(), *cost));
            pairs.collect::<Vec<_>>()
        };
        assert_eq!(sums(0, Grouping::Owner, None), text(&[("alice", 7)]));
        assert_eq!(
            sums(1, Grouping::Owner, None),
            text(&[("alice", 7), ("bob", 8)])
        );
        assert_eq!(sums(1, Grouping::Model, None), text(&[("a", 13), ("b", 2)]));
        assert_eq!(
            sums(30, Grouping::Key, Some("alice")),
            text(&[("k1", 21), ("k2", 2)])
        );
        let alice = SubjectId::Owner(Some("alice".into()));
        assert_eq!(
            table.spent(&alice, today),
            (7, 7),
            "the 31st is another month's"
        );
        assert_eq!(table.spent(&SubjectId::Key("k3".into()), today), (0, 8));
    }

    #[test]
    fn changed_rows_are_written_once_and_old_ones_removed() {
        let today = Day::parse("2026-11-30").unwrap();
        let mut table = UsageTable::default();
        table.add_elsewhere(key(today.0, "k1", "alice", "a"), &used(100));
        table.add(&key(today.0, "k1", "alice", "a"), &used(1));
        table.add(&key(today.0, "k1", "alice", "a"), &used(2));
        let changes = table.take_changes(today);
        assert_eq!(changes.len(), 1);
        let written = changes[0].value.as_ref().unwrap();
        assert_eq!(
            written.1.cost, 3,
            "a record has what its process has counted"
        );
        assert!(table.take_changes(today).is_empty());
        table.add(&key(today.0, "k1", "alice", "a"), &used(4));
        let again = table.take_changes(today);
        assert_eq!(again[0].number, changes[0].number);
        let later = table.take_changes(Day(today.0 + KEPT_DAYS + 1));
        assert_eq!(later.len(), 1);
        assert!(later[0].value.is_none());
        assert!(table.rows.is_empty());
    }

    #[test]
    fn number_of_rows_is_bounded_whatever_models_clients_name() {
        let mut table = UsageTable::default();
        for model in 0..MAX_ROWS + 100 {
            table.add(&key(1, "k", "o", &model.to_string()), &used(1));
        }
        assert_eq!(table.rows.len(), MAX_ROWS + 1);
        let other = table.rows.get(&key(1, "k", "o", OTHER)).unwrap();
        assert_eq!(other.own.requests, 100);
    }
}
