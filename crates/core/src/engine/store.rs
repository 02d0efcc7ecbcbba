//! Where the logs of new generations are made.

use std::fmt;
use std::sync::Arc;

use crate::log::{LogLimits, LogTail, MemoryAccount};
use crate::model::id::GenerationId;

/// Makes the logs of new generations.
pub trait LogStore: Send + Sync + fmt::Debug {
    /// Returns an empty log for this generation.
    fn create(&self, id: &GenerationId) -> Arc<LogTail>;
}

/// Makes logs in memory.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    /// Limits of each log.
    pub limits: LogLimits,
    /// Counts the bytes of all logs.
    pub account: MemoryAccount,
}

impl LogStore for MemoryStore {
    fn create(&self, _id: &GenerationId) -> Arc<LogTail> {
        Arc::new(LogTail::new(self.limits, self.account.clone()))
    }
}
