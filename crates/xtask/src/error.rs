//! Why a step failed.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

/// Each message names the subject, the problem and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("failed to start `{command}`: {source}")]
    Spawn {
        command: String,
        source: std::io::Error,
    },
    #[error("`{command}` ended with {status}")]
    Status { command: String, status: ExitStatus },
    #[error("failed to {action} {}: {source}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{what} is missing: {remedy}")]
    Missing { what: String, remedy: String },
    #[error("there is no step `{name}`; the steps are {known}")]
    UnknownStep { name: String, known: String },
    #[error("arguments after `--` need one step, and {count} were named; name one with --only")]
    RestWithoutStep { count: usize },
    #[error(
        "more than {limit} % more instructions than recorded: {which}; if the change is intended, run `cargo xtask record` and commit the figures with the reason"
    )]
    Slower { which: String, limit: u64 },
    #[error("{name} did not answer {url} within {} s; the end of its log, {}:\n{tail}", waited.as_secs(), log.display())]
    NotReady {
        name: &'static str,
        url: String,
        waited: Duration,
        log: PathBuf,
        tail: String,
    },
    #[error("{name} ended with {status} before it was ready; the end of its log, {}:\n{tail}", log.display())]
    Ended {
        name: &'static str,
        status: ExitStatus,
        log: PathBuf,
        tail: String,
    },
    #[error("{name} ended with {status} while the clients were using it; the end of its log, {}:\n{tail}", log.display())]
    Died {
        name: &'static str,
        status: ExitStatus,
        log: PathBuf,
        tail: String,
    },
    #[error("`cargo build` reported no executable `{0}`; was the binary target renamed?")]
    NoExecutable(&'static str),
}

impl Error {
    /// Returns a function for `map_err` on file operations.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }
}
