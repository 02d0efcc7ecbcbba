//! The store below a simulation, which outlives its processes.

use std::fmt;
use std::sync::Arc;

use tokenwire_core::log::{LogStore, MemoryStore};

/// Where the logs of a simulation are.
pub trait SimulatedDisk: fmt::Debug + Send + Sync {
    /// Returns the store as a process opens it. The one before has crashed.
    fn open(&self) -> Arc<dyn LogStore>;

    /// Makes durable what was written, as it happens from time to time.
    fn sync(&self) {}

    /// The process has crashed, and nothing uses its store any more. Returns whether what was written
    /// since the last sync may be lost.
    fn crash(&self, draw: &mut dyn FnMut(u64) -> u64) -> bool {
        let _ = draw;
        false
    }
}

/// A store in memory, which loses nothing.
#[derive(Debug)]
pub(super) struct Memory(Arc<MemoryStore>);

impl Default for Memory {
    fn default() -> Self {
        Self(Arc::new(MemoryStore::new(1 << 26)))
    }
}

impl SimulatedDisk for Memory {
    fn open(&self) -> Arc<dyn LogStore> {
        self.0.clone()
    }
}
