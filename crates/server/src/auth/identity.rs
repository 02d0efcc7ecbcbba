//! Who sent a request.

use std::sync::Arc;

use parking_lot::Mutex;
use tokenwire_core::engine::{Admission, GenerationEnd, Meter, Metered, MeteredStart};
use tokenwire_core::generation::{Generation, OutputMeter};
use tokenwire_core::model::error::ApiError;
use tokenwire_core::model::id::Owner;
use tokenwire_core::upstream::Scope;

use super::credential::invalid;
use super::key::Key;
use super::revocation::{Revocation, Running};
use crate::config::auth::Role;
use crate::limits::{ClientMeter, Limits, Reservation, Reserving};

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

    /// Returns the limits that apply to it, and the counters of what it uses; `None` where nothing of
    /// clients is counted.
    pub(crate) fn client(&self, limits: &Arc<Limits>) -> Option<ClientMeter> {
        let Some(key) = &self.0 else {
            return limits.anonymous();
        };
        let rights = &key.rights;
        Some(limits.client(Some((key.id.clone(), &rights.limits)), &rights.owner))
    }

    /// Returns what admits the generations that it starts.
    pub(crate) fn meter(&self, limits: &Arc<Limits>) -> Option<Arc<dyn Meter>> {
        let client = self.client(limits)?;
        Some(match &self.0 {
            Some(key) => Arc::new(KeyMeter {
                key: key.clone(),
                client,
            }),
            None => Arc::new(client),
        })
    }

    /// Whether credentials are checked.
    pub(crate) fn is_checked(&self) -> bool {
        self.0.is_some()
    }
}

/// Admits what a key starts while it is valid: a socket outlives the check of its request.
#[derive(Debug)]
struct KeyMeter {
    key: Arc<Key>,
    client: ClientMeter,
}

/// A generation that a key started.
#[derive(Debug)]
struct KeyMetered {
    reservation: Arc<Reservation>,
    revocation: Arc<Revocation>,
    running: Mutex<Option<Running>>,
}

// === impl KeyMeter ===

impl KeyMeter {
    /// Checks that the key is still valid.
    fn check(&self) -> Result<(), ApiError> {
        if self.key.revocation.is_revoked() {
            return Err(invalid("The key is revoked."));
        }
        if self.key.is_expired() {
            return Err(expired());
        }
        Ok(())
    }
}

impl Meter for KeyMeter {
    fn needs_usage(&self) -> bool {
        self.client.needs_usage()
    }

    fn admit(&self, start: &MeteredStart<'_>) -> Admission {
        if let Err(error) = self.check() {
            return Admission::Now(Err(error));
        }
        let revocation = self.key.revocation.clone();
        let metered = |reservation| {
            let running = Mutex::default();
            Arc::new(KeyMetered {
                reservation,
                revocation,
                running,
            }) as Arc<dyn Metered>
        };
        match self.client.reserve(start) {
            Reserving::Now(reserved) => Admission::Now(reserved.map(metered)),
            Reserving::Later(reserved) => {
                Admission::Later(Box::pin(async move { reserved.await.map(metered) }))
            }
        }
    }
}

// === impl KeyMetered ===

impl OutputMeter for KeyMetered {
    fn reserved(&self) -> Option<u64> {
        self.reservation.reserved()
    }

    fn extend(&self, output: u64) -> Option<u64> {
        self.reservation.extend(output)
    }

    fn continued_without_usage(&self, output: u64) {
        self.reservation.continued_without_usage(output);
    }
}

impl Metered for KeyMetered {
    fn started(&self, generation: &Arc<Generation>) {
        self.reservation.started(generation);
        *self.running.lock() = Some(self.revocation.run(generation));
    }

    fn ended(&self, end: &GenerationEnd<'_>) {
        self.running.lock().take();
        self.reservation.ended(end);
    }
}

/// Refuses a key that has expired.
pub(super) fn expired() -> ApiError {
    invalid("The key has expired. Ask the operator of the gateway for a new one.")
}
