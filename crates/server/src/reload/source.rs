//! Where the configuration comes from.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::cli::Cli;
use crate::config::{Config, ConfigError, Loaded};

/// The flags, the environment and the file that the configuration was loaded from.
#[derive(Clone)]
pub struct ConfigSource {
    cli: Cli,
    environment: Vec<(String, String)>,
    file: Option<PathBuf>,
    first_version: FileVersion,
}

/// What tells one state of a file from another: time of change, size and inode. `None` without a file.
pub(super) type FileVersion = Option<(i64, i64, u64, u64)>;

// === impl ConfigSource ===

impl ConfigSource {
    /// Returns the sources of a configuration that was loaded from these flags and this environment.
    /// A file that was read must exist from now on, also if its path is the default.
    #[must_use]
    pub fn new(
        cli: &Cli,
        environment: impl IntoIterator<Item = (String, String)>,
        loaded: &Loaded,
    ) -> Self {
        let mut cli = cli.clone();
        if let Some(file) = &loaded.file {
            cli.config = Some(file.clone());
        }
        Self {
            cli,
            environment: environment.into_iter().collect(),
            file: loaded.file.clone(),
            first_version: loaded.file.as_deref().and_then(version),
        }
    }

    /// Returns the file that was read at the start.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Returns the version of the file that was read at the start.
    pub(super) fn first_version(&self) -> FileVersion {
        self.first_version
    }

    /// Returns the version of the file that is there now.
    pub(super) fn version(&self) -> FileVersion {
        self.file().and_then(version)
    }

    /// Loads the configuration again. Blocks while it reads.
    ///
    /// # Errors
    /// All problems, as at the start.
    pub fn read(&self) -> Result<Config, ConfigError> {
        let loaded = Config::load(&self.cli, self.environment.iter().cloned())?;
        Ok(loaded.config)
    }
}

impl std::fmt::Debug for ConfigSource {
    /// Without the environment, which holds secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConfigSource")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

/// Returns the version of a file that is there now.
pub(super) fn version(file: &Path) -> FileVersion {
    let data = fs::metadata(file).ok()?;
    Some((data.mtime(), data.mtime_nsec(), data.size(), data.ino()))
}
