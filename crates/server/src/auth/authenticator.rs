//! Checks credentials against the keys, and follows changes of the file of keys.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use actix_web::http::header::HeaderMap;
use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use parking_lot::{Mutex, RwLock};
use tokenwire_core::model::error::ApiError;
use tokenwire_core::model::id::Owner;

use super::credential::{credential, invalid};
use super::identity::{Identity, expired, revoked};
use super::jwt_issuers::{Checked, JwtIssuers};
use super::key::{Key, Rights};
use super::keyring::Keyring;
use super::keys_file::{KeysFile, KeysFileError, Version};
use super::revocation_list::Holder;
use super::revocations::{RevocableKeys, Revocations};
use super::ticket::TokenRights;
use super::verified_tokens::VerifiedTokens;
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
    issuers: JwtIssuers,
    /// Tokens of them that were checked.
    verified: VerifiedTokens,
    revocations: Arc<Revocations>,
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
        Self::new(fixed, file, JwtIssuers::of(&config.jwt)).map(Some)
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
            issuers: JwtIssuers::default(),
            verified: VerifiedTokens::default(),
            revocations: Arc::default(),
        }
    }

    fn new(
        fixed: Vec<Rights>,
        file: Option<KeysFile>,
        issuers: JwtIssuers,
    ) -> Result<Self, KeysFileError> {
        let mut in_file = Vec::new();
        let mut watched = None;
        if let Some(file) = file {
            let seen = file.version()?;
            in_file = below_no_issuer(rights(&file.read()?), &issuers);
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
            issuers,
            verified: VerifiedTokens::default(),
            revocations: Arc::default(),
        })
    }

    /// Refuses what is revoked there.
    #[must_use]
    pub fn with(mut self, revocations: Arc<Revocations>) -> Self {
        self.revocations = revocations;
        self.close_listed();
        self
    }

    /// Returns who sent a request with these headers.
    ///
    /// # Errors
    /// `invalid_api_key` for a credential that is missing, wrong or expired, and
    /// `ambiguous_credential` for two that differ.
    pub(crate) async fn identify(&self, headers: &HeaderMap) -> Result<Identity, ApiError> {
        let Some(given) = credential(headers)? else {
            let message = "The request has no credential. Send 'Authorization: Bearer <key>'.";
            return Err(invalid(message));
        };
        if self.issuers.takes(given) {
            return self.of_token(given).await;
        }
        let hash = KeyHash::of(given);
        let keys = self.keys.read();
        let Some(key) = keys.find(&hash) else {
            return Err(invalid("The key is not valid."));
        };
        if key.revocation.is_revoked() {
            return Err(revoked());
        }
        if key.is_expired() {
            return Err(expired());
        }
        Ok(Identity::of_key(key.clone()))
    }

    async fn of_token(&self, token: &str) -> Result<Identity, ApiError> {
        let refused = || invalid("The token is revoked. Get a new one.");
        let hash = KeyHash::of(token);
        let is_current = |keys| self.issuers.is_current(keys);
        if let Some(key) = self.verified.find(&hash, is_current) {
            if key.revocation.is_revoked() {
                return Err(refused());
            }
            return Ok(Identity::of_key(key));
        }
        let Checked { key, issued, keys } = self.issuers.check(token).await?;
        let holder = Holder {
            ticket: None,
            key: Some(key.id.to_string()),
            owners: vec![key.rights.owner.clone()],
            issued,
        };
        let held = self.revocations.hold(&hash.to_string(), holder);
        let key = Arc::new(key.ended_by(held.ok_or_else(refused)?));
        self.verified.add(hash, key.clone(), keys);
        Ok(Identity::of_key(key))
    }

    /// Returns what stands for the token that a ticket was made with, until this time. `None` if its
    /// issuer is not configured any more.
    pub(super) fn key_of_token(
        &self,
        token: &TokenRights,
        expires: SystemTime,
    ) -> Option<Arc<Key>> {
        self.issuers.of_ticket(token, expires)
    }

    /// Returns the ids of the keys of an owner.
    pub(super) fn keys_of(&self, owner: &Owner) -> Vec<Arc<str>> {
        let keys = self.keys.read();
        let own = keys.iter().filter(|key| key.rights.owner == *owner);
        own.map(|key| key.id.clone()).collect()
    }

    /// Whether there is a key with this id.
    pub(super) fn has_key(&self, id: &str) -> bool {
        self.keys.read().iter().any(|key| *key.id == *id)
    }

    fn listed(&self) -> Vec<Arc<Key>> {
        let keys = self.keys.read();
        let listed = keys.iter().filter(|key| self.revocations.has_key(&key.id));
        listed.cloned().collect()
    }

    /// Refuses the keys that are on the list.
    fn close_listed(&self) {
        for key in self.listed() {
            key.revocation.close();
        }
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
        let in_file = below_no_issuer(rights(&entries), &self.issuers);
        self.change(|known| known.in_file = in_file).await;
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
        self.close_listed();
        // Tickets end with the key that they were made with.
        let has_key = |id: &str| gone.iter().any(|key| *key.id == *id);
        let tickets = self
            .revocations
            .revoke(|holder| holder.key.as_deref().is_some_and(has_key));
        let keys = join_all(gone.iter().map(|key| key.revocation.revoke()));
        tokio::join!(keys, tickets);
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

impl RevocableKeys for Authenticator {
    fn revoke_listed(&self) -> BoxFuture<'_, ()> {
        let listed = self.listed();
        let revoked = async move {
            join_all(listed.iter().map(|key| key.revocation.revoke())).await;
        };
        revoked.boxed()
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

/// Removes the keys of owners that have the name of an issuer: the owners below that name are those
/// of its tokens.
fn below_no_issuer(mut all: Vec<Rights>, issuers: &JwtIssuers) -> Vec<Rights> {
    all.retain(|rights| {
        let is_taken = matches!(&rights.owner, Owner::Named(name) if issuers.has(name));
        if is_taken {
            tracing::error!(key = %rights.hash.id(), "the owner of a key has the name of an issuer; it is refused");
        }
        !is_taken
    });
    all
}
