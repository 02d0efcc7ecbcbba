//! Tokens whose signature was checked: a client sends the same one with each request, and a check
//! costs as much as some tens of tokens.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::key::Key;
use crate::key_hash::KeyHash;

/// Tokens that are remembered. Beyond it those that have ended are forgotten, or else all.
const MAX_TOKENS: usize = 4096;

/// The tokens that were checked lately.
#[derive(Debug, Default)]
pub(super) struct VerifiedTokens(Mutex<HashMap<u64, Verified>>);

#[derive(Debug)]
struct Verified {
    hash: KeyHash,
    key: Arc<Key>,
    /// The keys of its issuer that it was checked with.
    keys: KeysVersion,
}

/// Tells the keys of an issuer from later ones, and from those of other issuers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeysVersion {
    pub(super) issuer: usize,
    pub(super) version: u64,
}

// === impl VerifiedTokens ===

impl VerifiedTokens {
    /// Returns the holder of a token that was checked, if the keys that `is_current` knows are still
    /// those and it has not ended.
    pub(super) fn find(
        &self,
        hash: &KeyHash,
        is_current: impl FnOnce(KeysVersion) -> bool,
    ) -> Option<Arc<Key>> {
        let known = self.0.lock();
        let found = known.get(&hash.prefix())?;
        let is_good = found.hash == *hash && !found.key.is_expired() && is_current(found.keys);
        is_good.then(|| found.key.clone())
    }

    pub(super) fn add(&self, hash: KeyHash, key: Arc<Key>, keys: KeysVersion) {
        let mut known = self.0.lock();
        if known.len() >= MAX_TOKENS {
            known.retain(|_, verified| !verified.key.is_expired());
            if known.len() >= MAX_TOKENS {
                known.clear();
            }
        }
        known.insert(hash.prefix(), Verified { hash, key, keys });
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::auth::key::Rights;

    const KEYS: KeysVersion = KeysVersion {
        issuer: 0,
        version: 1,
    };

    fn key(expires: SystemTime) -> Arc<Key> {
        let rights = Rights {
            expires: Some(expires),
            ..Rights::of_anonymous(KeyHash::of("owner"))
        };
        Arc::new(Key::new(rights, None))
    }

    fn later() -> SystemTime {
        SystemTime::now() + Duration::from_secs(60)
    }

    #[test]
    fn token_is_known_until_it_ends_or_the_keys_change() {
        let tokens = VerifiedTokens::default();
        let (good, ended) = (KeyHash::of("good"), KeyHash::of("ended"));
        tokens.add(good, key(later()), KEYS);
        tokens.add(ended, key(SystemTime::now()), KEYS);
        assert!(tokens.find(&good, |keys| keys == KEYS).is_some());
        assert!(tokens.find(&good, |_| false).is_none());
        assert!(tokens.find(&ended, |_| true).is_none());
        assert!(tokens.find(&KeyHash::of("other"), |_| true).is_none());
    }

    #[test]
    fn memory_of_tokens_is_bounded() {
        let tokens = VerifiedTokens::default();
        let key = key(later());
        for number in 0..2 * MAX_TOKENS {
            let hash = KeyHash::of(&number.to_string());
            tokens.add(hash, key.clone(), KEYS);
            assert!(tokens.find(&hash, |_| true).is_some());
        }
        assert!(tokens.0.lock().len() <= MAX_TOKENS);
    }
}
