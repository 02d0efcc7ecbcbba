//! The right of a process to show what it writes to logs that other processes may take over.

use std::fmt;

use futures::future::BoxFuture;

/// A process' lease on the logs that it writes.
///
/// A process that slept for longer than its lease may have lost its logs. Until it has renewed the
/// lease it appends nothing to them, and shows no terminal event that is not stored.
pub trait WriteLease: Send + Sync + fmt::Debug {
    /// Whether the lease is held. It stays so while it cannot be renewed, as long as the process does
    /// not sleep: then no other process adopts anything either.
    fn is_held(&self) -> bool;

    /// How often the lease was lost.
    fn losses(&self) -> u64;

    /// Waits until the lease is held.
    fn held(&self) -> BoxFuture<'_, ()>;
}
