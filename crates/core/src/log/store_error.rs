//! Why a store refuses or fails.

use std::borrow::Cow;

use super::Epoch;
use super::header::HeaderError;
use crate::model::id::Seq;
use crate::model::record::CorruptRecord;

/// Why a store did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store has no such log.
    #[error("the store has no such log")]
    NotFound,
    /// The log was deleted.
    #[error("the log was deleted")]
    Deleted,
    /// The records have been kept long enough. The response object is kept.
    #[error("the store keeps only the response object")]
    Expired,
    /// The id is taken by another log.
    #[error("the store has another log of this id")]
    Exists,
    /// Another writer took the log over.
    #[error(
        "the stored log was taken over: this writer's epoch is {held:?}, the log's is {current:?}"
    )]
    Fenced {
        /// The writer's epoch.
        held: Epoch,
        /// The log's epoch.
        current: Epoch,
    },
    /// The log has ended.
    #[error("the stored log is sealed")]
    Sealed,
    /// The block starts after the log's end.
    #[error("the block starts at {found}, but the stored log ends at {expected}")]
    Gap {
        /// Where the log ends.
        expected: Seq,
        /// Where the block starts, or the record that lies across the log's end.
        found: Seq,
    },
    /// The store cannot be reached, is full, or failed. A later attempt may succeed.
    #[error("the store is unavailable: {0}")]
    Unavailable(Cow<'static, str>),
    /// What is stored is damaged, or the block is.
    #[error("the stored log is damaged")]
    Corrupt,
    /// Another version of the program wrote the log.
    #[error("the stored log has version {found}, which is not known")]
    UnknownVersion {
        /// The version that it has.
        found: u8,
    },
}

// === impl StoreError ===

impl StoreError {
    /// Returns true if the same operation may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// Returns true if the log is not there, whether it was or not.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::NotFound | Self::Deleted)
    }
}

impl From<HeaderError> for StoreError {
    fn from(error: HeaderError) -> Self {
        match error {
            HeaderError::UnknownVersion { found } => Self::UnknownVersion { found },
            HeaderError::Damaged { .. } => Self::Corrupt,
        }
    }
}

impl From<CorruptRecord> for StoreError {
    fn from(_: CorruptRecord) -> Self {
        Self::Corrupt
    }
}
