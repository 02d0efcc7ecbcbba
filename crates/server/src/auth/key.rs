//! A key, as requests are checked against it.

use std::sync::Arc;
use std::time::SystemTime;

use tokenwire_core::model::id::Owner;
use tokenwire_core::upstream::Scope;

use super::revocation::Revocation;
use crate::config::auth::{KeyEntry, Role};
use crate::config::client_limits::ClientLimits;
use crate::config::models::matches;
use crate::key_hash::KeyHash;

/// A key and what it has open.
#[derive(Debug)]
pub(crate) struct Key {
    /// Its name in lists and logs.
    pub(super) id: Arc<str>,
    pub(super) rights: Rights,
    pub(super) revocation: Arc<Revocation>,
    /// `None` for one that may use every model and upstream.
    pub(super) scope: Option<Arc<Scope>>,
}

/// What a key is, and what it may do.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rights {
    pub(super) hash: KeyHash,
    pub(super) owner: Owner,
    pub(super) role: Role,
    pub(super) models: Vec<String>,
    pub(super) upstreams: Vec<String>,
    pub(super) limits: ClientLimits,
    pub(super) expires: Option<SystemTime>,
    /// The name of the issuer, if this is a token and no key.
    pub(super) issuer: Option<Arc<str>>,
}

// === impl Rights ===

impl Rights {
    /// Returns the rights of a configured key; `None` without a valid hash.
    pub(super) fn of(entry: &KeyEntry) -> Option<Self> {
        Some(Self {
            hash: entry.key_hash()?,
            owner: Owner::Named(entry.owner.as_str().into()),
            role: entry.role,
            models: entry.models.clone(),
            upstreams: entry.upstreams.clone(),
            limits: entry.limits,
            expires: entry.expiry(),
            issuer: None,
        })
    }

    /// The rights of the key that is made at the start: all, as the anonymous owner.
    pub(super) fn of_anonymous(hash: KeyHash) -> Self {
        Self {
            hash,
            owner: Owner::Anonymous,
            role: Role::Operator,
            models: Vec::new(),
            upstreams: Vec::new(),
            limits: ClientLimits::default(),
            expires: None,
            issuer: None,
        }
    }

    pub(super) fn has_model(&self, name: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|pattern| matches(pattern, name))
    }

    pub(super) fn has_upstream(&self, name: &str) -> bool {
        self.upstreams.is_empty() || self.upstreams.iter().any(|known| known == name)
    }
}

// === impl Key ===

impl Key {
    /// A key with these rights. `earlier` is the same key before a change of its rights.
    pub(super) fn new(rights: Rights, earlier: Option<&Self>) -> Self {
        let restricted = !rights.models.is_empty() || !rights.upstreams.is_empty();
        let scope = restricted.then(|| {
            let (models, upstreams) = (rights.clone(), rights.clone());
            Arc::new(Scope::new(
                move |name| models.has_model(name),
                move |name| upstreams.has_upstream(name),
            ))
        });
        Self {
            id: rights.hash.id().into(),
            scope,
            revocation: earlier
                .map(|known| known.revocation.clone())
                .unwrap_or_default(),
            rights,
        }
    }

    /// The same key, whose requests end with this.
    pub(super) fn ended_by(mut self, revocation: Arc<Revocation>) -> Self {
        self.revocation = revocation;
        self
    }

    /// Whether its tickets may be this owner's: its own, one below it, or for an operator any.
    pub(super) fn may_be(&self, owner: &Owner) -> bool {
        let own = match &self.rights.owner {
            Owner::Anonymous => "anonymous",
            Owner::Named(own) => own,
        };
        let is_below = match owner {
            Owner::Anonymous => false,
            Owner::Named(name) => name
                .strip_prefix(own)
                .is_some_and(|rest| rest.starts_with('/')),
        };
        *owner == self.rights.owner || is_below || self.rights.role == Role::Operator
    }

    pub(super) fn is_expired(&self) -> bool {
        self.rights
            .expires
            .is_some_and(|expires| expires <= SystemTime::now())
    }
}
