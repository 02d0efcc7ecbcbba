//! Who sent a request.

use std::sync::Arc;

use tokenwire_core::engine::{GenerationEnd, Meter, Metered, MeteredStart};
use tokenwire_core::generation::Generation;
use tokenwire_core::model::error::ApiError;
use tokenwire_core::model::id::Owner;
use tokenwire_core::upstream::Scope;

use super::credential::invalid;
use super::key::Key;
use super::revocation::{Revocation, Running};
use crate::config::auth::Role;

/// Who sent a request: the holder of a key, or where credentials are not checked the anonymous owner,
/// who may do everything.
#[derive(Clone, Debug, Default)]
pub struct Identity(pub(super) Option<Arc<Key>>);

// === impl Identity ===

impl Identity {
    /// Returns the owner of what it starts.
    #[must_use]
    pub fn owner(&self) -> Owner {
        match &self.0 {
            Some(key) => key.rights.owner.clone(),
            None => Owner::Anonymous,
        }
    }

    /// Whether it may see what concerns all owners.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|key| key.rights.role == Role::Operator)
    }

    /// Whether it may use the model that clients call so.
    #[must_use]
    pub fn has_model(&self, name: &str) -> bool {
        self.0.as_ref().is_none_or(|key| key.rights.has_model(name))
    }

    /// Whether it may use the upstream of this name.
    #[must_use]
    pub fn has_upstream(&self, name: &str) -> bool {
        self.0
            .as_ref()
            .is_none_or(|key| key.rights.has_upstream(name))
    }

    /// Returns what it may use of the upstreams; `None` for all.
    pub(crate) fn scope(&self) -> Option<&Arc<Scope>> {
        self.0.as_ref()?.scope.as_ref()
    }

    /// Returns what ends its open connections.
    pub(crate) fn revocation(&self) -> Option<&Arc<Revocation>> {
        self.0.as_ref().map(|key| &key.revocation)
    }

    /// Returns what admits the generations that it starts.
    pub(crate) fn meter(&self) -> Option<Arc<dyn Meter>> {
        let key = self.0.clone()?;
        Some(Arc::new(KeyMeter(key)))
    }

    /// Whether credentials are checked.
    pub(crate) fn is_checked(&self) -> bool {
        self.0.is_some()
    }
}

/// Admits what a key starts while it is valid: a socket outlives the check of its request.
#[derive(Debug)]
struct KeyMeter(Arc<Key>);

/// A generation that a key started.
#[derive(Debug)]
struct KeyMetered {
    revocation: Arc<Revocation>,
    running: Option<Running>,
}

impl Meter for KeyMeter {
    fn admit(&self, _start: &MeteredStart<'_>) -> Result<Box<dyn Metered>, ApiError> {
        if self.0.revocation.is_revoked() {
            return Err(invalid("The key is revoked."));
        }
        if self.0.is_expired() {
            return Err(expired());
        }
        Ok(Box::new(KeyMetered {
            revocation: self.0.revocation.clone(),
            running: None,
        }))
    }
}

impl Metered for KeyMetered {
    fn started(&mut self, generation: &Arc<Generation>) {
        self.running = Some(self.revocation.run(generation));
    }

    fn ended(&mut self, _end: &GenerationEnd<'_>) {
        self.running = None;
    }
}

/// Refuses a key that has expired.
pub(super) fn expired() -> ApiError {
    invalid("The key has expired. Ask the operator of the gateway for a new one.")
}
