//! The measured data as JSON, from which pages can be regenerated without measuring.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Summary;
use crate::measure::Run;
use crate::process::{machine, profile};

/// One document: the runs and their circumstances.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The version of the bench.
    pub(crate) version: String,
    pub(crate) machine: String,
    /// The cargo profile of the bench, the gateway and the simulator.
    #[serde(default)]
    pub(crate) profile: String,
    /// Seconds since 1970.
    pub(crate) written: u64,
    pub(crate) command: Vec<String>,
    /// The versions of the measured programs.
    #[serde(default)]
    pub(crate) versions: BTreeMap<String, String>,
    /// Computed from the runs, for programs that read the document.
    #[serde(skip_deserializing)]
    summaries: Vec<Summary>,
    pub(crate) runs: Vec<Run>,
    /// The targets that could not be measured.
    #[serde(default)]
    pub(crate) failures: Vec<Failure>,
}

/// A target that could not be measured in a scenario, and why.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) scenario: String,
    pub(crate) target: String,
    pub(crate) why: String,
}

#[derive(Debug, Error)]
pub(crate) enum RecordError {
    #[error("failed to read {}: {source}; measure it with `tokenwire-bench results`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is no record of this program: {source}; measure it anew", path.display())]
    Parse {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("there is no record in {}; measure with `tokenwire-bench results`", path.display())]
    None { path: PathBuf },
}

// === impl Record ===

impl Record {
    pub(crate) fn new(versions: BTreeMap<String, String>) -> Self {
        // The path of the program is private and of no use.
        let name = std::iter::once(env!("CARGO_BIN_NAME").to_owned());
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            machine: machine(),
            profile: profile(),
            command: name.chain(std::env::args().skip(1)).collect(),
            versions,
            ..Self::default()
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.failures.is_empty()
    }

    /// Replaces the file atomically: an interruption leaves the previous one.
    pub(crate) fn write(&mut self, path: &Path) -> io::Result<()> {
        self.summaries = Summary::all(&self.runs);
        self.written = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let mut text = serde_json::to_vec(self).map_err(io::Error::other)?;
        text.push(b'\n');
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or_else(|| Path::new("."));
        fs::create_dir_all(folder)?;
        let mut beside = tempfile::NamedTempFile::new_in(folder)?;
        io::Write::write_all(&mut beside, &text)?;
        // Temporary files are private to their owner; this one shall be readable.
        fs::set_permissions(
            beside.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o644),
        )?;
        beside.persist(path)?;
        Ok(())
    }

    fn read(path: &Path) -> Result<Self, RecordError> {
        let text = fs::read(path).map_err(|source| RecordError::Read {
            path: path.to_owned(),
            source,
        })?;
        serde_json::from_slice(&text).map_err(|source| RecordError::Parse {
            path: path.to_owned(),
            source,
        })
    }

    /// Reads all records of a directory in the order of their names.
    pub(crate) fn read_all(dir: &Path) -> Result<Vec<Self>, RecordError> {
        let entries = fs::read_dir(dir).map_err(|source| RecordError::Read {
            path: dir.to_owned(),
            source,
        })?;
        let mut paths: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        paths.retain(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        });
        paths.sort();
        if paths.is_empty() {
            return Err(RecordError::None {
                path: dir.to_owned(),
            });
        }
        paths.iter().map(|path| Self::read(path)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_survives_a_write_and_a_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = Record::new(BTreeMap::new());
        record.runs.push(Run {
            scenario: "paced".to_owned(),
            tokens: 7,
            first_token_curve: vec![1.5],
            ..Run::default()
        });
        record.failures.push(Failure {
            scenario: "paced".to_owned(),
            target: "smg".to_owned(),
            why: "absent".to_owned(),
        });
        record.write(&dir.path().join("paced.json")).unwrap();
        fs::write(dir.path().join("notes.txt"), "not a record").unwrap();
        let records = Record::read_all(dir.path()).unwrap();
        let [read] = records.as_slice() else {
            panic!("{records:?}")
        };
        assert_eq!(read.runs[0].tokens, 7);
        assert_eq!(read.runs[0].first_token_curve, [1.5]);
        assert_eq!(read.failures[0].why, "absent");
        assert!(read.written > 1_700_000_000);
    }

    #[test]
    fn empty_directory_error_names_the_command() {
        let dir = tempfile::tempdir().unwrap();
        let error = Record::read_all(dir.path()).unwrap_err().to_string();
        assert!(error.contains("tokenwire-bench results"), "{error}");
    }
}
