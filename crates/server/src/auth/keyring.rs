//! All keys, by their hashes.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::key::{Key, Rights};
use crate::config::auth::Role;
use crate::key_hash::KeyHash;

/// The keys of the configuration and of the file.
///
/// A key is looked up by a part of its hash, and then compared in constant time. How long the lookup
/// takes tells something of the hash only.
#[derive(Debug, Default)]
pub(super) struct Keyring(HashMap<u64, Vec<Arc<Key>>, RandomState>);

impl Keyring {
    /// Makes a ring of keys with these rights. Those that `earlier` has too stay the same keys. Of
    /// two with one hash the first counts.
    pub(super) fn new(all: impl IntoIterator<Item = Rights>, earlier: &Self) -> Self {
        let mut ring = Self::default();
        for rights in all {
            if ring.find(&rights.hash).is_some() {
                continue;
            }
            // A key that was given to another owner, or sees less than before, is a new one.
            let known = earlier.find(&rights.hash);
            let known = known.filter(|known| {
                let sees_as_much =
                    known.rights.role == rights.role || rights.role == Role::Operator;
                known.rights.owner == rights.owner && sees_as_much
            });
            let key = match known {
                Some(known) if known.rights == rights => known.clone(),
                known => Arc::new(Key::new(rights, known.map(|known| &**known))),
            };
            ring.0
                .entry(key.rights.hash.prefix())
                .or_default()
                .push(key);
        }
        ring
    }

    pub(super) fn find(&self, hash: &KeyHash) -> Option<&Arc<Key>> {
        let candidates = self.0.get(&hash.prefix())?;
        candidates.iter().find(|key| key.rights.hash == *hash)
    }

    /// Returns the key whose hash begins so. `None` if two do.
    pub(super) fn find_by_prefix(&self, prefix: u64) -> Option<&Arc<Key>> {
        match self.0.get(&prefix)?.as_slice() {
            [key] => Some(key),
            _ => None,
        }
    }

    /// Returns the keys that `later` does not have any more.
    pub(super) fn missing_in(&self, later: &Self) -> Vec<Arc<Key>> {
        let keys = self.0.values().flatten();
        let is_gone = |key: &&Arc<Key>| {
            let known = later.find(&key.rights.hash);
            known.is_none_or(|known| !Arc::ptr_eq(&known.revocation, &key.revocation))
        };
        keys.filter(is_gone).cloned().collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Key>> {
        self.0.values().flatten()
    }

    pub(super) fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }
}
