//! Where the logs of new generations are made.

use std::fmt;
use std::sync::Arc;

use crate::log::{LogLimits, MemoryLog, TokenLog};
use crate::model::account::Account;
use crate::model::id::GenerationId;

/// Makes the logs of new generations.
pub trait LogStore: Send + Sync + fmt::Debug {
    /// Returns an empty log for this generation.
    fn create(&self, id: &GenerationId) -> Arc<dyn TokenLog>;
}

/// Makes logs in memory.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    /// Limits of each log.
    pub limits: LogLimits,
    /// Counts the bytes of all logs.
    pub account: Account,
}

impl LogStore for MemoryStore {
    fn create(&self, _id: &GenerationId) -> Arc<dyn TokenLog> {
        Arc::new(MemoryLog::new(self.limits, self.account.clone()))
    }
}
