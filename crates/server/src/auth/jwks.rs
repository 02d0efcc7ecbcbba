//! The keys of one issuer: configured, or published at a URL and cached.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use parking_lot::RwLock;
use tokio::sync::Mutex;
use url::Url;

use super::jwk::{Jwk, parse};
use crate::config::jwt_issuer::Algorithm;

/// How often keys are fetched again at most.
const REFRESH: Duration = Duration::from_secs(60);
/// How often it is tried while there are no keys yet.
const RETRY: Duration = Duration::from_secs(5);
/// How long keys are good that cannot be fetched again.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);
/// After this they are fetched again, beside the requests that use them.
const OLD: Duration = Duration::from_secs(15 * 60);
/// Maximum time of a fetch.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum size of a set of keys, in bytes.
const MAX_BYTES: usize = 256 * 1024;
/// Redirects that are followed, to the same host.
const MAX_REDIRECTS: usize = 3;

/// The keys of an issuer.
#[derive(Debug)]
pub(super) struct Jwks {
    /// `None` for configured keys.
    url: Option<Url>,
    keys: RwLock<Fetched>,
    /// Counts the fetches.
    version: AtomicU64,
    /// When keys were fetched last, or it was tried. Held while they are.
    attempt: Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Fetched {
    keys: Vec<Jwk>,
    at: Option<Instant>,
}

/// Why a signature is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unverified {
    #[error("The token's signature is not valid.")]
    Signature,
    #[error("The issuer has no key for the token.")]
    NoKey,
    #[error("The keys of the token's issuer cannot be fetched.")]
    NoKeys,
}

// === impl Jwks ===

impl Jwks {
    /// The keys of this set.
    pub(super) fn fixed(keys: Vec<Jwk>) -> Self {
        Self {
            url: None,
            keys: RwLock::new(Fetched { keys, at: None }),
            version: AtomicU64::new(0),
            attempt: Mutex::default(),
        }
    }

    /// The keys at this URL. They are fetched when the first token comes.
    pub(super) fn published(url: Url) -> Self {
        Self {
            url: Some(url),
            keys: RwLock::default(),
            version: AtomicU64::new(0),
            attempt: Mutex::default(),
        }
    }

    /// Checks a signature. Fetches the keys again where none has the token's id.
    ///
    /// # Errors
    /// The signature is not that of a key of the issuer.
    pub(super) async fn verify(
        self: &Arc<Self>,
        id: Option<&str>,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Unverified> {
        let key = match self.find(id, algorithm) {
            Some(key) => {
                self.refresh_beside();
                key
            }
            None => {
                self.refresh().await;
                let key = self.find(id, algorithm);
                key.ok_or_else(|| self.missing())?
            }
        };
        if key.verifies(algorithm, message, signature) {
            Ok(())
        } else {
            Err(Unverified::Signature)
        }
    }

    /// Returns what changes when the keys are fetched again.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether a signature that was checked with the keys of this version is still good.
    pub(super) fn is_current(self: &Arc<Self>, version: u64) -> bool {
        self.refresh_beside();
        self.version() == version && (self.url.is_none() || self.is_younger(STALE))
    }

    fn missing(&self) -> Unverified {
        if self.url.is_some() && !self.is_younger(STALE) {
            Unverified::NoKeys
        } else {
            Unverified::NoKey
        }
    }

    /// Returns the key with this id. A token without an id is checked with the only key for its
    /// algorithm.
    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<Jwk> {
        let fetched = self.keys.read();
        if self.url.is_some() && fetched.at.is_none_or(|at| at.elapsed() >= STALE) {
            return None;
        }
        let mut fitting = fetched.keys.iter().filter(|key| key.is_for(algorithm));
        match id {
            Some(id) => fitting.find(|key| key.id.as_deref() == Some(id)).cloned(),
            None => {
                let only = fitting.next()?;
                fitting.next().is_none().then(|| only.clone())
            }
        }
    }

    fn is_younger(&self, age: Duration) -> bool {
        let at = self.keys.read().at;
        at.is_some_and(|at| at.elapsed() < age)
    }

    /// Fetches keys that are old, beside the request that uses them.
    fn refresh_beside(self: &Arc<Self>) {
        if self.url.is_none() || self.is_younger(OLD) {
            return;
        }
        let is_due = |last: Option<Instant>| last.is_none_or(|at| at.elapsed() >= REFRESH);
        if self.attempt.try_lock().is_ok_and(|last| is_due(*last)) {
            let this = self.clone();
            tokio::spawn(async move { this.refresh().await });
        }
    }

    /// Fetches the keys, at most once a minute while there are some.
    async fn refresh(&self) {
        let Some(url) = &self.url else {
            return;
        };
        // Requests that come meanwhile wait for the same fetch.
        let mut attempt = self.attempt.lock().await;
        let pause = if self.is_younger(STALE) {
            REFRESH
        } else {
            RETRY
        };
        if attempt.is_some_and(|at| at.elapsed() < pause) {
            return;
        }
        *attempt = Some(Instant::now());
        let fetched = fetch(url.clone()).await;
        // Those that have waited for it do not try again.
        *attempt = Some(Instant::now());
        match fetched {
            Ok(keys) => {
                tracing::debug!(%url, keys = keys.len(), "the keys of an issuer were fetched");
                let at = Some(Instant::now());
                *self.keys.write() = Fetched { keys, at };
                self.version.fetch_add(1, Ordering::Release);
            }
            Err(error) => tracing::warn!(%url, error, "the keys of an issuer cannot be fetched"),
        }
    }
}

/// Fetches a set of keys. The text of an error has no part of the answer.
async fn fetch(url: Url) -> Result<Vec<Jwk>, String> {
    let host = url.host_str().map(str::to_owned);
    let scheme = url.scheme().to_owned();
    let redirects = reqwest::redirect::Policy::custom(move |attempt| {
        let to = attempt.url();
        let is_same = to.host_str() == host.as_deref() && to.scheme() == scheme;
        if is_same && attempt.previous().len() <= MAX_REDIRECTS {
            attempt.follow()
        } else {
            attempt.error("it redirects to another host")
        }
    });
    // A client belongs to one runtime, and this is called on any.
    // An error means that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .redirect(redirects)
        .retry(reqwest::retry::never())
        .referer(false)
        .timeout(TIMEOUT)
        .user_agent(concat!("tokenwire/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| error.to_string())?;
    let answer = client.get(url).send().await;
    let answer = answer.map_err(|error| error.without_url().to_string())?;
    if !answer.status().is_success() {
        return Err(format!("the status is {}", answer.status()));
    }
    let mut body = Vec::new();
    let mut pieces = answer.bytes_stream();
    while let Some(piece) = pieces.next().await {
        body.extend_from_slice(&piece.map_err(|error| error.without_url().to_string())?);
        if body.len() > MAX_BYTES {
            return Err("the answer is too large".to_owned());
        }
    }
    parse(&body, false).ok_or_else(|| "the answer is no set of keys".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use parking_lot::Mutex as Lock;
    use ring::rand::SystemRandom;
    use ring::signature::{Ed25519KeyPair, KeyPair as _};
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// An issuer whose keys change.
    #[derive(Clone, Default)]
    struct Published {
        /// `None` while it is away.
        set: Arc<Lock<Option<Value>>>,
        fetches: Arc<AtomicUsize>,
    }

    impl Published {
        async fn serve(&self) -> Arc<Jwks> {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/jwks", listener.local_addr().unwrap());
            let this = self.clone();
            tokio::spawn(async move {
                while let Ok((mut socket, _)) = listener.accept().await {
                    this.fetches.fetch_add(1, Ordering::SeqCst);
                    let Some(body) = this.set.lock().as_ref().map(Value::to_string) else {
                        continue;
                    };
                    let _ = socket.read(&mut [0; 4096]).await;
                    let length = body.len();
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
                    );
                    let _ = socket.write_all(answer.as_bytes()).await;
                }
            });
            Arc::new(Jwks::published(Url::parse(&url).unwrap()))
        }

        fn publish(&self, keys: &[(&str, &Ed25519KeyPair)]) {
            let keys = keys.iter().map(|(id, pair)| {
                let x = URL_SAFE_NO_PAD.encode(pair.public_key());
                json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": x})
            });
            *self.set.lock() = Some(json!({"keys": keys.collect::<Vec<_>>()}));
        }

        fn fetches(&self) -> usize {
            self.fetches.load(Ordering::SeqCst)
        }
    }

    impl Jwks {
        /// Lets this time pass.
        async fn age(&self, time: Duration) {
            let earlier = |at: Instant| at.checked_sub(time).unwrap();
            let mut attempt = self.attempt.lock().await;
            *attempt = attempt.map(earlier);
            let mut keys = self.keys.write();
            keys.at = keys.at.map(earlier);
        }

        async fn check(
            self: &Arc<Self>,
            id: &str,
            pair: &Ed25519KeyPair,
        ) -> Result<(), Unverified> {
            let signature = pair.sign(b"message");
            let checked = self.verify(Some(id), Algorithm::EdDSA, b"message", signature.as_ref());
            checked.await
        }
    }

    fn pair() -> Ed25519KeyPair {
        let bytes = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Ed25519KeyPair::from_pkcs8(bytes.as_ref()).unwrap()
    }

    #[tokio::test]
    async fn rotated_keys_are_fetched_once_a_minute_and_removed_ones_are_refused() {
        let (issuer, one, two) = (Published::default(), pair(), pair());
        issuer.publish(&[("one", &one)]);
        let keys = issuer.serve().await;
        assert_eq!(keys.check("one", &one).await, Ok(()));
        assert_eq!(keys.check("one", &two).await, Err(Unverified::Signature));
        issuer.publish(&[("two", &two)]);
        for _ in 0..100 {
            assert_eq!(keys.check("two", &two).await, Err(Unverified::NoKey));
        }
        assert_eq!(
            issuer.fetches(),
            1,
            "unknown ids fetch the keys once a minute"
        );
        keys.age(REFRESH).await;
        assert_eq!(keys.check("two", &two).await, Ok(()));
        assert_eq!(keys.check("one", &one).await, Err(Unverified::NoKey));
        assert_eq!(issuer.fetches(), 2);
    }

    #[tokio::test]
    async fn keys_stay_good_for_a_day_while_the_issuer_is_away() {
        let (issuer, one) = (Published::default(), pair());
        let keys = issuer.serve().await;
        assert_eq!(keys.check("one", &one).await, Err(Unverified::NoKeys));
        issuer.publish(&[("one", &one)]);
        assert_eq!(keys.check("one", &one).await, Err(Unverified::NoKeys));
        keys.age(RETRY).await;
        assert_eq!(keys.check("one", &one).await, Ok(()));
        *issuer.set.lock() = None;
        let fetches = issuer.fetches();
        for _ in 0..23 {
            keys.age(Duration::from_secs(60 * 60)).await;
            assert_eq!(keys.check("one", &one).await, Ok(()));
        }
        while issuer.fetches() == fetches {
            tokio::task::yield_now().await;
        }
        keys.age(Duration::from_secs(60 * 60)).await;
        assert_eq!(keys.check("one", &one).await, Err(Unverified::NoKeys));
    }

    #[tokio::test]
    async fn removed_key_ends_with_the_next_refresh_of_old_keys() {
        let (issuer, one, two) = (Published::default(), pair(), pair());
        issuer.publish(&[("one", &one)]);
        let keys = issuer.serve().await;
        assert_eq!(keys.check("one", &one).await, Ok(()));
        let version = keys.version();
        assert!(keys.is_current(version));
        issuer.publish(&[("two", &two)]);
        keys.age(OLD).await;
        // Fetches beside this check.
        assert_eq!(keys.check("one", &one).await, Ok(()));
        while !keys.is_younger(OLD) {
            tokio::task::yield_now().await;
        }
        assert_eq!(keys.check("one", &one).await, Err(Unverified::NoKey));
        assert!(
            !keys.is_current(version),
            "what was checked before is checked again"
        );
        let version = keys.version();
        *issuer.set.lock() = None;
        keys.age(STALE).await;
        assert!(!keys.is_current(version), "the keys are stale");
    }

    #[tokio::test]
    async fn issuer_that_hangs_is_asked_once_and_bounds_the_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        let keys = Arc::new(Jwks::published(Url::parse(&url).unwrap()));
        let one = pair();
        let begun = Instant::now();
        let checks = (0..20).map(|_| keys.check("one", &one));
        let answers = futures::future::join_all(checks).await;
        assert!(begun.elapsed() < 2 * TIMEOUT);
        assert!(
            answers
                .iter()
                .all(|answer| *answer == Err(Unverified::NoKeys))
        );
        let _first = listener.accept().await.unwrap();
        let second = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
        assert!(second.is_err(), "the keys were fetched twice");
    }
}
