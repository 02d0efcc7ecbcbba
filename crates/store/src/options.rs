//! How a disk store works.

use std::path::PathBuf;
use std::time::Duration;

use tokenwire_core::log::Formats;

/// Where a [`DiskStore`](crate::DiskStore) keeps its files, and for how long.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// A folder on a local file system, which is created. Several processes may share it.
    pub path: PathBuf,
    /// The time between two `fdatasync`: what a loss of power takes at most.
    pub sync: Duration,
    /// Most bytes of all files, or 0. Past it the oldest kept files go first; then writes fail until
    /// there is room.
    pub max_bytes: u64,
    /// How long the records of ended logs are kept, at least.
    pub retain_logs: Duration,
    /// How long response objects are kept, at least.
    pub retain_objects: Duration,
    /// Bytes from which on another journal or kept file is begun.
    pub file_bytes: u64,
    /// Most journal files. Logs that run for longer are written again.
    pub journal_files: usize,
    /// The versions of logs that are read and written. Logs of later versions are left alone.
    pub formats: Formats,
}

impl DiskOptions {
    /// Returns the defaults for this folder: a sync each second, no bound on the bytes, logs for 10
    /// minutes, objects for 24 hours, files of 64 MiB, 8 journal files.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            sync: Duration::from_secs(1),
            max_bytes: 0,
            retain_logs: Duration::from_secs(10 * 60),
            retain_objects: Duration::from_secs(24 * 60 * 60),
            file_bytes: 64 << 20,
            journal_files: 8,
            formats: Formats::CURRENT,
        }
    }
}
