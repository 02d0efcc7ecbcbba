//! Pauses that an endpoint asked for with status 429, each for one API key.
//!
//! A pause of the gateway's key holds for all requests with that key. A pause of a client's own key
//! holds for that key alone.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::Instant;

/// Most client keys whose pauses are kept. With more, the ones that end first are dropped.
const MAX_KEYS: usize = 1024;

/// The API key of a request, as far as pauses have to tell keys apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum KeyId {
    /// The key that is configured for the endpoint.
    Gateway,
    /// A client's own key, by a hash that is seeded per process.
    Client(u64),
}

/// The pauses of one endpoint.
#[derive(Debug)]
pub(super) struct Pauses {
    /// Upper bound of a pause.
    longest: Duration,
    /// Whether there are any, so that the workers need not take turns at the lock where there are
    /// none.
    any: AtomicBool,
    inner: Mutex<HashMap<KeyId, Pause>>,
}

#[derive(Clone, Copy, Debug)]
struct Pause {
    since: Instant,
    until: Instant,
}

impl KeyId {
    /// The identity of a client's own key.
    pub(super) fn of_client(key: &SecretString) -> Self {
        static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        Self::Client(SEED.hash_one(key.expose_secret()))
    }
}

impl Pauses {
    /// No pauses so far. `longest` caps each.
    pub(super) fn new(longest: Duration) -> Self {
        Self {
            longest,
            any: AtomicBool::new(false),
            inner: Mutex::default(),
        }
    }

    /// Records that the endpoint asked for a pause.
    pub(super) fn pause(&self, key: KeyId, time: Duration) {
        let since = Instant::now();
        let Some(until) = since.checked_add(time.min(self.longest)) else {
            return;
        };
        let mut pauses = self.inner.lock();
        if pauses.len() >= MAX_KEYS && !pauses.contains_key(&key) {
            pauses.retain(|_, pause| since < pause.until);
            if pauses.len() >= MAX_KEYS
                && let Some(first) = pauses
                    .iter()
                    .filter(|(key, _)| **key != KeyId::Gateway)
                    .min_by_key(|(_, pause)| pause.until)
                    .map(|(key, _)| *key)
            {
                pauses.remove(&first);
            }
        }
        pauses.insert(key, Pause { since, until });
        self.any.store(true, Ordering::Release);
    }

    /// Records that a request that was sent at `sent` was answered. Ends a pause that began before.
    pub(super) fn answered(&self, key: KeyId, sent: Instant) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut pauses = self.inner.lock();
        if pauses.get(&key).is_some_and(|pause| pause.since <= sent) {
            pauses.remove(&key);
            self.any.store(!pauses.is_empty(), Ordering::Release);
        }
    }

    /// Returns whether requests with this key have to wait.
    pub(super) fn is_paused(&self, key: KeyId) -> bool {
        self.any.load(Ordering::Acquire)
            && self
                .inner
                .lock()
                .get(&key)
                .is_some_and(|pause| Instant::now() < pause.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn pause_holds_for_its_key_until_it_ends() {
        let pauses = Pauses::new(60 * SECOND);
        let client = KeyId::of_client(&"sk-a".into());
        pauses.pause(client, SECOND);
        assert_eq!(client, KeyId::of_client(&"sk-a".into()));
        assert!(pauses.is_paused(client));
        assert!(!pauses.is_paused(KeyId::of_client(&"sk-b".into())));
        assert!(!pauses.is_paused(KeyId::Gateway));
        tokio::time::advance(SECOND).await;
        assert!(!pauses.is_paused(client));
    }

    #[tokio::test(start_paused = true)]
    async fn pause_is_capped_and_never_overflows() {
        let pauses = Pauses::new(60 * SECOND);
        for time in [86_400 * SECOND, Duration::MAX] {
            pauses.pause(KeyId::Gateway, time);
            tokio::time::advance(59 * SECOND).await;
            assert!(pauses.is_paused(KeyId::Gateway), "{time:?}");
            tokio::time::advance(SECOND).await;
            assert!(!pauses.is_paused(KeyId::Gateway), "{time:?}");
        }
        Pauses::new(Duration::MAX).pause(KeyId::Gateway, Duration::MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_request_sent_after_the_pause_began_ends_it() {
        let pauses = Pauses::new(60 * SECOND);
        let before = Instant::now();
        tokio::time::advance(SECOND).await;
        pauses.pause(KeyId::Gateway, 30 * SECOND);
        pauses.answered(KeyId::Gateway, before);
        assert!(pauses.is_paused(KeyId::Gateway));
        tokio::time::advance(SECOND).await;
        pauses.answered(KeyId::Gateway, Instant::now());
        assert!(!pauses.is_paused(KeyId::Gateway));
    }

    #[tokio::test(start_paused = true)]
    async fn number_of_keys_is_bounded() {
        let pauses = Pauses::new(60 * SECOND);
        pauses.pause(KeyId::Gateway, SECOND);
        for key in 0..2 * MAX_KEYS as u64 {
            pauses.pause(KeyId::Client(key), 30 * SECOND);
        }
        assert_eq!(pauses.inner.lock().len(), MAX_KEYS);
        assert!(pauses.is_paused(KeyId::Gateway));
    }
}
