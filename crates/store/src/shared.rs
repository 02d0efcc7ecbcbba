//! What the threads of a store share.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use parking_lot::Mutex;

use crate::command::Command;
use crate::folder::Folder;
use crate::health::Health;
use crate::index::Index;
use crate::options::DiskOptions;
use crate::queue::Queue;
use crate::syncer::Syncer;

/// Changes that wait for the writer, or are made by it.
const COMMANDS: usize = 64;
/// Reads that wait, or run.
const READS: usize = 64;

/// A read, with its answer.
pub(crate) type ReadJob = Box<dyn FnOnce(&Shared) + Send>;

/// What the threads of a store share. The index is locked for lookups and updates of maps only,
/// never during a read, a write or a sync.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: DiskOptions,
    pub(crate) folder: Folder,
    pub(crate) index: Mutex<Index>,
    pub(crate) health: Health,
    pub(crate) syncer: Syncer,
    pub(crate) commands: Queue<Command>,
    pub(crate) reads: Queue<ReadJob>,
    /// The number of the next file.
    pub(crate) next_file: AtomicU32,
    /// The folders of earlier processes that this one has taken.
    pub(crate) taken: Mutex<HashSet<PathBuf>>,
    /// Whether folders of further processes are left to others.
    pub(crate) leaves_folders: AtomicBool,
    /// The version of logs that is written now.
    version: AtomicU8,
}

impl Shared {
    pub(crate) fn new(
        options: DiskOptions,
        folder: Folder,
        index: Index,
        next_file: u32,
    ) -> Arc<Self> {
        let version = AtomicU8::new(options.formats.shared_with(u8::MAX));
        let health = Health::default();
        let bytes = index.files.values().map(|file| file.len()).sum();
        health.bytes.store(bytes, Ordering::Relaxed);
        Arc::new(Self {
            options,
            folder,
            index: Mutex::new(index),
            health,
            syncer: Syncer::default(),
            commands: Queue::new(COMMANDS),
            reads: Queue::new(READS),
            next_file: AtomicU32::new(next_file),
            taken: Mutex::default(),
            leaves_folders: AtomicBool::new(false),
            version,
        })
    }

    /// The version of logs that is written now.
    pub(crate) fn version(&self) -> u8 {
        self.version.load(Ordering::Relaxed)
    }

    /// Notes the highest version that all other processes on the path read.
    pub(crate) fn note_others(&self, read: u8) {
        let version = self.options.formats.shared_with(read);
        if self.version.swap(version, Ordering::Relaxed) != version {
            tracing::info!(version, "logs are written in this version from now on");
        }
    }
}
