//! Which tickets were used.
//!
//! An owner ticket is used once: its use is kept until the time for it is over. A stream ticket is
//! good until its end from its first use on, so that is kept until then. Uses are in memory, and
//! beside that in the store, where other processes and later ones find them:
//!
//! ```text
//!   <store>/.tickets/<hour>    one line for each use, `<ticket> <mark>`, in the file of the hour in which
//!                              it is forgotten
//!   tw:ticket:<ticket>         the same in Redis, where there are several nodes
//! ```
//!
//! Of several processes that use a ticket at a time, the first line of the file counts. Lines are
//! appended in one write each, so they do not mix.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::random_id;

use super::line_file::append_line;
use super::ticket::unix_now;
use crate::time_limit::beside_runtime;

/// The folder in the store's that has the uses. The store ignores hidden folders.
pub(super) const FOLDER: &str = ".tickets";

/// Uses that are remembered. Beyond it the oldest are forgotten.
const MAX_USES: usize = 200_000;

const HOUR: u64 = 60 * 60;

/// The tickets that were used.
#[derive(Debug)]
pub(super) struct TicketUses {
    known: Mutex<Known>,
    beyond: Beyond,
}

/// Where uses are kept beside the memory.
#[derive(Debug)]
pub(super) enum Beyond {
    /// Nowhere: they end with the process.
    Memory,
    /// In this folder of the store.
    Folder(PathBuf),
    /// Where all nodes find them.
    Nodes(Arc<dyn SharedUses>),
}

/// Keeps the uses of tickets where all nodes find them.
pub trait SharedUses: Send + Sync + std::fmt::Debug {
    /// Notes the use of a ticket for this many seconds. Returns whether it is the first one.
    ///
    /// # Errors
    /// `store_unavailable`.
    fn claim<'a>(&'a self, ticket: &'a str, seconds: u64) -> BoxFuture<'a, Result<bool, ApiError>>;

    /// Whether a use of the ticket is noted.
    ///
    /// # Errors
    /// `store_unavailable`.
    fn is_used<'a>(&'a self, ticket: &'a str) -> BoxFuture<'a, Result<bool, ApiError>>;
}

#[derive(Debug, Default)]
struct Known {
    /// When each use is forgotten, in Unix seconds.
    until: HashMap<String, u64>,
    oldest: VecDeque<String>,
}

// === impl TicketUses ===

impl TicketUses {
    pub(super) fn new(beyond: Beyond) -> Self {
        if let Beyond::Folder(folder) = &beyond
            && let Err(error) = remove_forgotten(&folder.join(FOLDER), unix_now() / HOUR)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "old uses of tickets cannot be removed");
        }
        Self {
            known: Mutex::default(),
            beyond,
        }
    }

    /// Notes the use of a ticket until this time. Returns whether it is the first one.
    ///
    /// # Errors
    /// `store_unavailable` if the store cannot tell.
    pub(super) async fn claim(&self, ticket: &str, until: u64) -> Result<bool, ApiError> {
        if !self.known.lock().add(ticket, until) {
            return Ok(false);
        }
        let first = match &self.beyond {
            Beyond::Memory => Ok(true),
            Beyond::Folder(folder) => {
                let (path, ticket) = (hour_file(folder, until), ticket.to_owned());
                let claimed = beside_runtime(move || claim_line(&path, &ticket)).await;
                claimed.map_err(|error| away(&error))
            }
            Beyond::Nodes(nodes) => {
                let seconds = until.saturating_sub(unix_now());
                nodes.claim(ticket, seconds).await
            }
        };
        if first.is_err() {
            self.known.lock().until.remove(ticket);
        }
        first
    }

    /// Whether a ticket was used that is forgotten at this time.
    ///
    /// # Errors
    /// `store_unavailable` if the store cannot tell.
    pub(super) async fn is_used(&self, ticket: &str, until: u64) -> Result<bool, ApiError> {
        if self.known.lock().until.contains_key(ticket) {
            return Ok(true);
        }
        let used = match &self.beyond {
            Beyond::Memory => false,
            Beyond::Folder(folder) => {
                let (path, ticket) = (hour_file(folder, until), ticket.to_owned());
                let found = beside_runtime(move || Ok(first_mark(&path, &ticket)?.is_some())).await;
                found.map_err(|error| away(&error))?
            }
            Beyond::Nodes(nodes) => nodes.is_used(ticket).await?,
        };
        if used {
            self.known.lock().add(ticket, until);
        }
        Ok(used)
    }
}

// === impl Known ===

impl Known {
    /// Returns whether it was not known.
    fn add(&mut self, ticket: &str, until: u64) -> bool {
        if self.until.contains_key(ticket) {
            return false;
        }
        let now = unix_now();
        while let Some(oldest) = self.oldest.front()
            && (self.oldest.len() >= MAX_USES
                || self.until.get(oldest).is_none_or(|until| *until < now))
        {
            if let Some(oldest) = self.oldest.pop_front() {
                self.until.remove(&oldest);
            }
        }
        self.until.insert(ticket.to_owned(), until);
        self.oldest.push_back(ticket.to_owned());
        true
    }
}

fn away(error: &io::Error) -> ApiError {
    tracing::warn!(%error, "a use of a ticket cannot be kept");
    let message = "The store that knows which tickets were used does not answer.";
    ApiError::new(ErrorCode::StoreUnavailable, message)
}

fn hour_file(folder: &Path, until: u64) -> PathBuf {
    folder.join(FOLDER).join((until / HOUR).to_string())
}

/// Adds a line for a use. Returns whether it is the ticket's first.
fn claim_line(path: &Path, ticket: &str) -> io::Result<bool> {
    if first_mark(path, ticket)?.is_some() {
        return Ok(false);
    }
    let mark = random_id("");
    append_line(path, &format!("{ticket} {mark}"))?;
    Ok(first_mark(path, ticket)?.is_some_and(|first| first == mark))
}

/// Returns the mark of a ticket's first line.
fn first_mark(path: &Path, ticket: &str) -> io::Result<Option<String>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    Ok(lines
        .find(|(known, _)| *known == ticket)
        .map(|(_, mark)| mark.to_owned()))
}

/// Removes the files of hours that are over.
fn remove_forgotten(folder: &Path, this_hour: u64) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let hour = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if hour.is_some_and(|hour: u64| hour < this_hour) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn first_use_is_known_to_other_processes_and_later_ones() {
        let folder = tempfile::tempdir().unwrap();
        let process = || TicketUses::new(Beyond::Folder(folder.path().to_owned()));
        let (one, other, until) = (process(), process(), unix_now() + 60);
        assert!(!one.is_used("a", until).await.unwrap());
        assert!(one.claim("a", until).await.unwrap());
        assert!(!one.claim("a", until).await.unwrap());
        assert!(!other.claim("a", until).await.unwrap());
        assert!(process().is_used("a", until).await.unwrap());
        assert!(!other.is_used("ab", until).await.unwrap());
        assert!(other.claim("ab", until).await.unwrap());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_many_concurrent_uses_one_is_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let until = unix_now() + 60;
        for round in 0..20 {
            let ticket = format!("ticket{round}");
            let claims = (0..8).map(|_| {
                let uses = TicketUses::new(Beyond::Folder(folder.path().to_owned()));
                let ticket = ticket.clone();
                tokio::spawn(async move { uses.claim(&ticket, until).await.unwrap() })
            });
            let claims = futures::future::join_all(claims).await;
            let firsts = claims.into_iter().filter(|claim| *claim.as_ref().unwrap());
            assert_eq!(firsts.count(), 1);
        }
    }

    #[tokio::test]
    async fn forgotten_hours_are_removed_and_a_cut_line_hides_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let uses = TicketUses::new(Beyond::Folder(folder.path().to_owned()));
        let (past, until) = (unix_now() - 2 * HOUR, unix_now() + 60);
        assert!(uses.claim("old", past).await.unwrap());
        let path = hour_file(folder.path(), until);
        fs::write(&path, "half a li").unwrap();
        assert!(uses.claim("new", until).await.unwrap());
        let later = TicketUses::new(Beyond::Folder(folder.path().to_owned()));
        assert!(!hour_file(folder.path(), past).exists());
        assert!(later.is_used("new", until).await.unwrap());
    }

    #[test]
    fn memory_of_uses_is_bounded() {
        let mut known = Known::default();
        let until = unix_now() + 60;
        for number in 0..MAX_USES + 10 {
            assert!(known.add(&number.to_string(), until));
        }
        assert_eq!(known.until.len(), MAX_USES);
        assert!(!known.add(&MAX_USES.to_string(), until));
    }
}
