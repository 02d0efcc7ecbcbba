//! Revokes keys, owners and tickets at every node.
//!
//! What is revoked is kept in the store, as a [`RevocationList`]. Each node looks twice a second
//! whether it has changed, and ends what a revoked credential has open. A key that a file does not
//! have any more ends in the same way.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use parking_lot::{Mutex, RwLock};
use tokenwire_core::model::error::{ApiError, ErrorCode};

use super::revocation::Revocation;
use super::revocation_file;
use super::revocation_list::{Entry, Holder, RevocationList};
use super::ticket::{longest, unix_now};
use crate::config::Config;
use crate::config::schema::StoreKind;
use crate::time_limit::beside_runtime;

/// How often the list is looked at. A revocation takes effect within this and the time that readers
/// have for the last events, so within a second.
const POLL: Duration = Duration::from_millis(500);

/// Entries of the list. Beyond it nothing more can be revoked.
const MAX_ENTRIES: usize = 100_000;

/// Open credentials among which those that are closed are looked for.
const PRUNE: usize = 1024;

/// Keeps the list where all nodes find it.
pub trait SharedRevocations: Send + Sync + std::fmt::Debug {
    /// Adds an entry, and removes those that are over.
    ///
    /// # Errors
    /// `store_unavailable`.
    fn add<'a>(
        &'a self,
        field: &'a str,
        value: u64,
        over: &'a [String],
    ) -> BoxFuture<'a, Result<(), ApiError>>;

    /// Returns the version of the list.
    ///
    /// # Errors
    /// `store_unavailable`.
    fn version(&self) -> BoxFuture<'_, Result<u64, ApiError>>;

    /// Returns all entries.
    ///
    /// # Errors
    /// `store_unavailable`.
    fn entries(&self) -> BoxFuture<'_, Result<HashMap<String, u64>, ApiError>>;
}

/// The keys of which some can be on the list.
pub(crate) trait RevocableKeys: Send + Sync {
    /// Revokes those that are.
    fn revoke_listed(&self) -> BoxFuture<'_, ()>;
}

/// Where the list is kept beside the memory.
#[derive(Debug)]
enum Beyond {
    /// Nowhere: it ends with the process.
    Memory,
    /// In this file of the store.
    File(PathBuf),
    /// Where all nodes find it.
    Nodes(Arc<dyn SharedRevocations>),
}

/// What is revoked, and what tickets and tokens have open. All workers share one.
#[derive(Debug)]
pub struct Revocations {
    list: RwLock<RevocationList>,
    /// The version that was read last.
    seen: Mutex<Option<u64>>,
    beyond: Beyond,
    /// Whether the store answered last.
    reached: AtomicBool,
    /// How long a ticket or token is good at most, in seconds.
    longest: u64,
    /// The tickets and tokens in use, by their names.
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    known: HashMap<String, Weak<Revocation>>,
    prune_at: usize,
}

// === impl Revocations ===

impl Default for Revocations {
    /// Knows nothing, and keeps nothing.
    fn default() -> Self {
        Self {
            list: RwLock::default(),
            seen: Mutex::default(),
            beyond: Beyond::Memory,
            reached: AtomicBool::new(true),
            longest: u64::MAX,
            open: Mutex::default(),
        }
    }
}

impl Revocations {
    /// Returns the revocations of this configuration. Reads the list, and blocks for it.
    #[must_use]
    pub fn of(config: &Config, nodes: Option<Arc<dyn SharedRevocations>>) -> Self {
        let beyond = match (nodes, config.store.kind, &config.store.path) {
            (Some(nodes), _, _) => Beyond::Nodes(nodes),
            (None, StoreKind::Disk, Some(path)) => {
                Beyond::File(revocation_file::path(Path::new(path)))
            }
            _ => Beyond::Memory,
        };
        let issuers = config.auth.jwt.iter().map(|issuer| issuer.max_age);
        let tokens = issuers.max().unwrap_or_default();
        let this = Self {
            beyond,
            longest: longest(config).max(tokens.as_secs() + 60),
            ..Self::default()
        };
        futures::executor::block_on(this.read());
        this
    }

    /// Whether the store that knows what is revoked answered last.
    pub(crate) fn is_reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    /// Whether the key of this id is revoked.
    pub(super) fn has_key(&self, id: &str) -> bool {
        self.list.read().has_key(id)
    }

    /// Counts a ticket or token as in use. Returns what ends it, the same for all its requests;
    /// `None` if it is revoked.
    pub(super) fn hold(&self, name: &str, holder: Holder) -> Option<Arc<Revocation>> {
        let held = self.open.lock().hold(name, holder);
        // After it is known, so that a change of the list meanwhile finds it.
        let is_refused = held.is_revoked() || self.list.read().has(held.holder());
        (!is_refused).then_some(held)
    }

    /// Ends all tickets and tokens in use that this holds for.
    pub(super) async fn revoke(&self, is_meant: impl Fn(&Holder) -> bool) {
        let open: Vec<_> = {
            let open = self.open.lock();
            open.known.values().filter_map(Weak::upgrade).collect()
        };
        let meant = open.iter().filter(|held| is_meant(held.holder()));
        join_all(meant.map(|held| held.revoke())).await;
    }

    /// Revokes what these entries name, here when it returns and at other nodes within a second.
    ///
    /// # Errors
    /// `store_unavailable` if one of them cannot be kept. The others are revoked.
    pub(super) async fn add(
        &self,
        entries: Vec<Entry>,
        keys: Option<&dyn RevocableKeys>,
    ) -> Result<(), ApiError> {
        let mut result = Ok(());
        for entry in entries {
            let added = self.add_one(entry).await;
            result = result.and(added);
        }
        self.apply(keys).await;
        result
    }

    async fn add_one(&self, entry: Entry) -> Result<(), ApiError> {
        let over = {
            let mut list = self.list.write();
            let over = list.remove_over(unix_now(), self.longest);
            if list.len() >= MAX_ENTRIES {
                let message = "More is revoked than the gateway can keep. Change the keys, or auth.tickets.secret.";
                return Err(ApiError::new(ErrorCode::StoreUnavailable, message));
            }
            over
        };
        self.keep(&entry, &over).await?;
        self.list.write().add(entry);
        Ok(())
    }

    async fn keep(&self, entry: &Entry, over: &[String]) -> Result<(), ApiError> {
        match &self.beyond {
            Beyond::Memory => Ok(()),
            Beyond::File(path) => {
                let (path, entry) = (path.clone(), entry.clone());
                let kept = beside_runtime(move || revocation_file::add(&path, &entry)).await;
                kept.map_err(|error| {
                    tracing::warn!(%error, "a revocation cannot be kept");
                    let message = "The store that keeps what is revoked does not answer.";
                    ApiError::new(ErrorCode::StoreUnavailable, message)
                })
            }
            Beyond::Nodes(nodes) => nodes.add(&entry.field, entry.value, over).await,
        }
    }

    /// Ends what revoked credentials have open.
    async fn apply(&self, keys: Option<&dyn RevocableKeys>) {
        let list = self.list.read().clone();
        if list.is_empty() {
            return;
        }
        let of_keys = async {
            if let Some(keys) = keys {
                keys.revoke_listed().await;
            }
        };
        tokio::join!(of_keys, self.revoke(|holder| list.has(holder)));
    }

    /// Reads the list again if it has changed. Returns whether it has.
    async fn read(&self) -> bool {
        let read = self.read_changed().await;
        let was_reached = self.reached.swap(read.is_ok(), Ordering::Relaxed);
        match read {
            Ok(None) => false,
            Ok(Some((version, list))) => {
                let lost = self.list.write().take_in(list, unix_now(), self.longest);
                *self.seen.lock() = Some(version);
                // A store that has lost everything learns it again.
                for entry in lost {
                    if let Err(error) = self.keep(&entry, &[]).await {
                        tracing::debug!(%error, "a revocation is not kept again");
                        *self.seen.lock() = None;
                        break;
                    }
                }
                true
            }
            Err(error) => {
                if was_reached {
                    tracing::error!(%error, "what is revoked cannot be read: revocations take effect once it can");
                }
                false
            }
        }
    }

    async fn read_changed(&self) -> Result<Option<(u64, RevocationList)>, String> {
        let seen = *self.seen.lock();
        match &self.beyond {
            Beyond::Memory => Ok(None),
            Beyond::File(path) => {
                let path = path.clone();
                let read = beside_runtime(move || revocation_file::read(&path, seen)).await;
                read.map_err(|error| error.to_string())
            }
            Beyond::Nodes(nodes) => {
                let version = nodes.version().await.map_err(|error| error.message)?;
                if seen == Some(version) {
                    return Ok(None);
                }
                let entries = nodes.entries().await.map_err(|error| error.message)?;
                Ok(Some((version, entries.into_iter().collect())))
            }
        }
    }

    /// Follows changes of the list. Never returns.
    pub(crate) async fn watch(&self, keys: Option<&dyn RevocableKeys>) {
        if matches!(self.beyond, Beyond::Memory) {
            return std::future::pending().await;
        }
        let mut tick = tokio::time::interval(POLL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if self.read().await {
                self.apply(keys).await;
            }
        }
    }
}

// === impl Open ===

impl Open {
    fn hold(&mut self, name: &str, holder: Holder) -> Arc<Revocation> {
        if let Some(held) = self.known.get(name).and_then(Weak::upgrade) {
            return held;
        }
        if self.known.len() >= self.prune_at.max(PRUNE) {
            self.known.retain(|_, held| held.strong_count() > 0);
            self.prune_at = 2 * self.known.len();
        }
        let held = Arc::new(Revocation::of(holder));
        self.known.insert(name.to_owned(), Arc::downgrade(&held));
        held
    }
}

#[cfg(test)]
mod tests {
    use tokenwire_core::model::id::Owner;

    use super::*;

    fn holder(ticket: &str) -> Holder {
        Holder {
            ticket: Some(ticket.to_owned()),
            owners: vec![Owner::Named("alice".into())],
            issued: unix_now(),
            ..Holder::default()
        }
    }

    #[tokio::test]
    async fn requests_of_one_ticket_share_what_ends_it() {
        let all = Revocations::default();
        let (one, again) = (all.hold("a", holder("a")), all.hold("a", holder("a")));
        let (one, again) = (one.unwrap(), again.unwrap());
        assert!(Arc::ptr_eq(&one, &again));
        let other = all.hold("b", holder("b")).unwrap();
        let until = unix_now() + 60;
        all.add(vec![Entry::ticket("a", until)], None)
            .await
            .unwrap();
        assert!(one.is_revoked() && one.sockets().is_cancelled());
        assert!(!other.is_revoked());
        assert!(all.hold("a", holder("a")).is_none());
        drop((one, again));
        assert!(all.hold("a", holder("a")).is_none());
    }

    /// Nodes that keep all but one entry.
    #[derive(Debug)]
    struct AllBut(&'static str);

    impl SharedRevocations for AllBut {
        fn add<'a>(
            &'a self,
            field: &'a str,
            _: u64,
            _: &'a [String],
        ) -> BoxFuture<'a, Result<(), ApiError>> {
            let kept = if field.contains(self.0) {
                Err(ApiError::new(ErrorCode::StoreUnavailable, "not kept"))
            } else {
                Ok(())
            };
            Box::pin(std::future::ready(kept))
        }

        fn version(&self) -> BoxFuture<'_, Result<u64, ApiError>> {
            Box::pin(std::future::ready(Ok(0)))
        }

        fn entries(&self) -> BoxFuture<'_, Result<HashMap<String, u64>, ApiError>> {
            Box::pin(std::future::ready(Ok(HashMap::new())))
        }
    }

    #[tokio::test]
    async fn entry_that_is_not_kept_leaves_no_other_undone() {
        let all = Revocations {
            beyond: Beyond::Nodes(Arc::new(AllBut("lost"))),
            ..Revocations::default()
        };
        let later = all.hold("later", holder("later")).unwrap();
        let until = unix_now() + 60;
        let entries = vec![Entry::ticket("lost", until), Entry::ticket("later", until)];
        assert!(all.add(entries, None).await.is_err());
        assert!(later.is_revoked());
    }

    #[tokio::test]
    async fn processes_on_one_folder_learn_of_each_others_revocations() {
        let folder = tempfile::tempdir().unwrap();
        let process = || {
            let path = revocation_file::path(folder.path());
            Revocations {
                beyond: Beyond::File(path),
                ..Revocations::default()
            }
        };
        let (one, other) = (process(), process());
        let held = other.hold("a", holder("a")).unwrap();
        assert!(!other.read().await);
        let until = unix_now() + 60;
        one.add(vec![Entry::ticket("a", until)], None)
            .await
            .unwrap();
        assert!(other.read().await);
        other.apply(None).await;
        assert!(held.is_revoked());
        assert!(!other.read().await, "it has not changed");
        let later = process();
        assert!(later.read().await);
        assert!(later.hold("a", holder("a")).is_none());
    }

    #[test]
    fn closed_tickets_are_forgotten() {
        let all = Revocations::default();
        let kept = all.hold("kept", holder("kept"));
        for number in 0..10 * PRUNE {
            let name = number.to_string();
            drop(all.hold(&name, holder(&name)));
        }
        assert!(all.open.lock().known.len() <= 2 * PRUNE);
        let again = all.hold("kept", holder("kept"));
        assert!(Arc::ptr_eq(&kept.unwrap(), &again.unwrap()));
    }
}
