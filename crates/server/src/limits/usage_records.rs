//! Usage as small records of a store, so that budgets outlive the process.
//!
//! A process writes what it has counted itself, under its own name. What others have counted is in
//! their records, so that nothing is counted twice when a process takes over what another one left.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::usage_table::{RecordChange, RowKey, Usage};

/// The prefix of all records.
pub(super) const PREFIX: &str = "usage/";
const ROWS: &str = "usage/row/";
const RUNNING: &str = "usage/run/";

/// Keeps small records beyond the process.
pub trait UsageRecords: Send + Sync + fmt::Debug {
    /// Sets the record of this key, or removes it if it has no value. Must not block.
    fn set(&self, key: String, value: Option<Vec<u8>>);
}

/// Writes the records of this process.
#[derive(Debug)]
pub(super) struct RecordsWriter {
    records: Arc<dyn UsageRecords>,
    /// The name of the process.
    tag: String,
}

/// An answer that is being written, and what its request has cost if it does not end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunningRecord {
    pub(super) row: RowKey,
    /// The estimated tokens of its request.
    pub(super) input: u64,
}

#[derive(Serialize, Deserialize)]
struct RowRecord {
    row: RowKey,
    usage: Usage,
}

/// A record that was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record {
    Row(RowKey, Usage),
    /// The id of the answer, as text.
    Running(String, RunningRecord),
}

// === impl RecordsWriter ===

impl RecordsWriter {
    pub(super) fn new(records: Arc<dyn UsageRecords>, tag: &str) -> Self {
        Self {
            records,
            tag: tag.to_owned(),
        }
    }

    pub(super) fn change(&self, change: RecordChange) {
        let value = change.value.map(|(row, usage)| RowRecord { row, usage });
        let value = value.and_then(|record| serde_json::to_vec(&record).ok());
        let key = format!("{ROWS}{}/{}", self.tag, change.number);
        self.records.set(key, value);
    }

    pub(super) fn running(&self, id: &str, record: Option<&RunningRecord>) {
        let value = record.and_then(|record| serde_json::to_vec(record).ok());
        self.records.set(format!("{RUNNING}{id}"), value);
    }

    pub(super) fn remove(&self, key: &str) {
        self.records.set(key.to_owned(), None);
    }
}

// === impl Record ===

impl Record {
    /// Reads a record. `None` if it is another one's, or damaged.
    pub(super) fn read(key: &str, value: &[u8]) -> Option<Self> {
        if key.starts_with(ROWS) {
            let RowRecord { row, usage } = serde_json::from_slice(value).ok()?;
            return Some(Self::Row(row, usage));
        }
        let id = key.strip_prefix(RUNNING)?;
        let record = serde_json::from_slice(value).ok()?;
        Some(Self::Running(id.to_owned(), record))
    }
}
