//! Checks credentials against the keys, and follows changes of the file of keys.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::HeaderMap;
use parking_lot::{Mutex, RwLock};
use tokenwire_core::model::error::ApiError;

use super::credential::{credential, invalid};
use super::identity::{Identity, expired};
use super::key::{Key, Rights};
use super::keyring::Keyring;
use super::keys_file::{KeysFile, KeysFileError, Version};
use crate::config::auth::{Auth, KeyEntry};
use crate::key_hash::KeyHash;

/// How often the file is looked at. A revocation takes effect within this and the time that readers
/// have for the last events, so within a second.
const POLL: Duration = Duration::from_millis(500);

/// Checks the credentials of requests. All workers share one.
#[derive(Debug)]
pub struct Authenticator {
    keys: RwLock<Arc<Keyring>>,
    rights: Mutex<AllRights>,
    file: Option<Mutex<WatchedFile>>,
}

/// The rights of all keys, by where they come from.
#[derive(Debug)]
struct AllRights {
    configured: Vec<Rights>,
    in_file: Vec<Rights>,
}

#[derive(Debug)]
struct WatchedFile {
    file: KeysFile,
    /// The version that was read last; `None` without a file.
    seen: Option<Version>,
    /// Whether the last attempt failed.
    failed: bool,
}

// === impl Authenticator ===

impl Authenticator {
    /// Returns the authenticator of the configured keys; `None` where none are configured.
    ///
    /// # Errors
    /// The file of keys cannot be read.
    pub fn of(config: &Auth) -> Result<Option<Self>, KeysFileError> {
        if !config.has_keys() {
            return Ok(None);
        }
        let fixed = rights(&config.keys);
        let file = config.keys_file.as_ref().map(KeysFile::at);
        Self::new(fixed, file).map(Some)
    }

    /// Returns the authenticator of one key with all rights, whose owner is the anonymous one.
    #[must_use]
    pub fn of_anonymous(key: &str) -> Self {
        let fixed = vec![Rights::of_anonymous(KeyHash::of(key))];
        Self {
            keys: RwLock::new(Arc::new(Keyring::new(fixed.clone(), &Keyring::default()))),
            rights: Mutex::new(AllRights {
                configured: fixed,
                in_file: Vec::new(),
            }),
            file: None,
        }
    }

    fn new(fixed: Vec<Rights>, file: Option<KeysFile>) -> Result<Self, KeysFileError> {
        let mut in_file = Vec::new();
        let mut watched = None;
        if let Some(file) = file {
            let seen = file.version()?;
            in_file = rights(&file.read()?);
            watched = Some(Mutex::new(WatchedFile {
                file,
                seen,
                failed: false,
            }));
        }
        let rights = AllRights {
            configured: fixed,
            in_file,
        };
        Ok(Self {
            keys: RwLock::new(Arc::new(Keyring::new(rights.all(), &Keyring::default()))),
            rights: Mutex::new(rights),
            file: watched,
        })
    }

    /// Returns who sent a request with these headers.
    ///
    /// # Errors
    /// `invalid_api_key` for a credential that is missing, wrong or expired, and
    /// `ambiguous_credential` for two that differ.
    pub(crate) fn identify(&self, headers: &HeaderMap) -> Result<Identity, ApiError> {
        let Some(given) = credential(headers)? else {
            let message = "The request has no credential. Send 'Authorization: Bearer <key>'.";
            return Err(invalid(message));
        };
        let hash = KeyHash::of(given);
        let keys = self.keys.read();
        let Some(key) = keys.find(&hash) else {
            return Err(invalid("The key is not valid."));
        };
        if key.is_expired() {
            return Err(expired());
        }
        Ok(Identity::of_key(key.clone()))
    }

    /// Returns the key whose hash begins so.
    pub(super) fn key_of(&self, prefix: u64) -> Option<Arc<Key>> {
        self.keys.read().find_by_prefix(prefix).cloned()
    }

    /// Reads the file again if it has changed, and revokes the keys that it does not have any more. A
    /// file that cannot be read changes nothing.
    pub(crate) async fn reload(&self) {
        let Some(watched) = &self.file else {
            return;
        };
        let Some(entries) = changed(watched) else {
            return;
        };
        self.change(|known| known.in_file = rights(&entries)).await;
    }

    /// Replaces the keys of the configuration, and revokes those that are gone.
    pub(crate) async fn replace_keys(&self, entries: &[KeyEntry]) {
        self.change(|known| known.configured = rights(entries))
            .await;
    }

    async fn change(&self, change: impl FnOnce(&mut AllRights)) {
        let (later, gone) = {
            let mut known = self.rights.lock();
            change(&mut known);
            let earlier = self.keys.read().clone();
            let later = Arc::new(Keyring::new(known.all(), &earlier));
            *self.keys.write() = later.clone();
            let gone = earlier.missing_in(&later);
            (later, gone)
        };
        tracing::info!(
            keys = later.len(),
            revoked = gone.len(),
            "the keys were read again"
        );
        futures::future::join_all(gone.iter().map(|key| key.revocation.revoke())).await;
    }

    /// Follows changes of the file. Never returns.
    pub(crate) async fn watch(&self) {
        let mut tick = tokio::time::interval(POLL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.reload().await;
        }
    }
}

// === impl AllRights ===

impl AllRights {
    fn all(&self) -> impl Iterator<Item = Rights> {
        self.configured.iter().chain(&self.in_file).cloned()
    }
}

/// Returns the entries of the file if it has changed and can be read.
fn changed(watched: &Mutex<WatchedFile>) -> Option<Vec<KeyEntry>> {
    let mut watched = watched.lock();
    let version = watched.file.version();
    if version
        .as_ref()
        .is_ok_and(|version| *version == watched.seen)
    {
        return None;
    }
    let read = version.and_then(|version| Ok((version, watched.file.read()?)));
    match read {
        // A file that vanished may be on its way back; what it held stays valid.
        Ok((None, _)) => {
            if !watched.failed {
                let path = watched.file.path().display();
                tracing::error!(%path, "the file of keys is gone; its keys stay as they were");
            }
            watched.failed = true;
            None
        }
        Ok((version, entries)) => {
            watched.seen = version;
            watched.failed = false;
            Some(entries)
        }
        Err(error) => {
            if !watched.failed {
                tracing::error!(%error, "the file of keys cannot be read; the keys stay as they were");
            }
            watched.failed = true;
            None
        }
    }
}

fn rights(entries: &[KeyEntry]) -> Vec<Rights> {
    entries.iter().filter_map(Rights::of).collect()
}
