//! The key and the owner that a request counts for.

use std::sync::Arc;

use parking_lot::MutexGuard;

use super::subject::{Counters, Subject, SubjectId};
use crate::config::client_limits::ClientLimits;

/// A key or an owner whose limits apply to a client.
#[derive(Clone, Debug)]
pub(super) struct Party {
    pub(super) id: SubjectId,
    pub(super) subject: Arc<Subject>,
    pub(super) limits: ClientLimits,
    pub(super) is_owner: bool,
}

/// The key and the owner of a client, where they are limited.
#[derive(Clone, Debug)]
pub(super) struct Parties(pub(super) [Option<Party>; 2]);

/// A party and its counters, which are locked.
pub(super) type Locked<'a> = (&'a Party, MutexGuard<'a, Counters>);

// === impl Parties ===

impl Parties {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Party> {
        self.0.iter().flatten()
    }

    /// Locks the counters: the key's before the owner's, so that no two requests wait for each other.
    pub(super) fn lock(&self) -> [Option<Locked<'_>>; 2] {
        self.0
            .each_ref()
            .map(|party| party.as_ref().map(|party| (party, party.subject.lock())))
    }
}
