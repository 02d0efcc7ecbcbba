//! The key behind what the gateway gives to clients and takes back from them.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngCore as _;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use serde_json::value::RawValue;

use crate::model::id::Owner;
use crate::model::json::{self, Members};

/// What sealed texts begin with: the version of their form.
const PREFIX: &str = "tw1.";

/// A secret key, from which others are derived. Cheap to clone.
#[derive(Clone)]
pub struct Secret(Arc<Keys>);

struct Keys {
    tags: hmac::Key,
    nonces: hmac::Key,
    content: LessSafeKey,
}

/// Seals reasoning for one owner and upstream.
#[derive(Clone, Debug)]
pub(crate) struct Seal {
    secret: Secret,
    owner: Owner,
    upstream: Arc<str>,
}

/// Reasoning that was sealed, and the upstream that made it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) upstream: String,
    /// The JSON-escaped text.
    pub(crate) text: String,
    /// How the text goes back to the upstream: a JSON object.
    pub(crate) private: String,
}

impl Secret {
    /// A key that no other process has.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0; 32];
        rand::rng().fill_bytes(&mut bytes);
        Self::new(&bytes)
    }

    /// The key that follows from these bytes: the same in every process.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, bytes);
        let derived = |purpose: &str| hmac::sign(&root, purpose.as_bytes());
        let key = |purpose| hmac::Key::new(hmac::HMAC_SHA256, derived(purpose).as_ref());
        // A digest has the length of the cipher's key, so neither fails.
        #[allow(clippy::expect_used, reason = "both lengths are constants")]
        let content = UnboundKey::new(&CHACHA20_POLY1305, derived("content").as_ref())
            .expect("a SHA-256 digest is a ChaCha20 key");
        Self(Arc::new(Keys {
            tags: key("tags"),
            nonces: key("nonces"),
            content: LessSafeKey::new(content),
        }))
    }

    /// Returns a keyed hash of these parts, 32 hexadecimal digits.
    #[must_use]
    pub fn tag(&self, parts: &[&str]) -> String {
        let mut context = hmac::Context::with_key(&self.0.tags);
        for part in parts {
            context.update(&part.len().to_le_bytes());
            context.update(part.as_bytes());
        }
        let digest = context.sign();
        let bytes = digest.as_ref().iter().take(16);
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }

    /// Opens a sealed text of this owner. `None` if it is no such text, was changed, or is another
    /// owner's or key's.
    pub(crate) fn open(&self, owner: &Owner, sealed: &str) -> Option<Opened> {
        let mut bytes = URL_SAFE_NO_PAD.decode(sealed.strip_prefix(PREFIX)?).ok()?;
        let (nonce, content) = bytes.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let plain = self.0.content.open_in_place(nonce, bound(owner), content);
        let members: Members<'_> = serde_json::from_slice(plain.ok()?).ok()?;
        Some(Opened {
            upstream: members.text("upstream")?.into_owned(),
            text: members
                .get("text")
                .and_then(json::string_inside)?
                .to_owned(),
            private: members.get("private").map(RawValue::get)?.to_owned(),
        })
    }

    /// Whether this text has the form of a sealed one.
    pub(crate) fn is_sealed(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// A seal for this owner and upstream.
    pub(crate) fn seal(&self, owner: Owner, upstream: Arc<str>) -> Seal {
        Seal {
            secret: self.clone(),
            owner,
            upstream,
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Seal {
    /// Seals a JSON-escaped text, and how it goes back to the upstream. The same content yields the
    /// same bytes.
    pub(crate) fn seal(&self, text: &str, private: &str) -> Option<String> {
        let upstream = json::quoted(&self.upstream);
        let plain = format!(r#"{{"upstream":{upstream},"text":"{text}","private":{private}}}"#);
        let keys = &self.secret.0;
        // Derived from owner and content: one nonce never serves two contents.
        let mut context = hmac::Context::with_key(&keys.nonces);
        context.update(bound(&self.owner).as_ref());
        context.update(&[0]);
        context.update(plain.as_bytes());
        let digest = context.sign();
        let nonce = digest.as_ref().get(..NONCE_LEN)?;
        let mut out = nonce.to_vec();
        let mut content = plain.into_bytes();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let sealed = keys
            .content
            .seal_in_place_append_tag(nonce, bound(&self.owner), &mut content);
        sealed.ok()?;
        out.extend_from_slice(&content);
        Some(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&out)))
    }
}

/// What a sealed text is bound to.
fn bound(owner: &Owner) -> Aad<String> {
    Aad::from(match owner {
        Owner::Anonymous => String::new(),
        Owner::Named(name) => format!("owner {name}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_text_opens_for_its_owner_and_key_only() {
        let secret = Secret::new(b"key");
        let owner = Owner::Named("a".into());
        let seal = secret.seal(owner.clone(), "up".into());
        let sealed = seal
            .seal(r"so\n", r#"{"field":"reasoning_content"}"#)
            .unwrap();
        assert_eq!(
            seal.seal(r"so\n", r#"{"field":"reasoning_content"}"#),
            Some(sealed.clone())
        );
        let opened = Secret::new(b"key").open(&owner, &sealed).unwrap();
        assert_eq!(opened.upstream, "up");
        assert_eq!(opened.text, r"so\n");
        assert_eq!(opened.private, r#"{"field":"reasoning_content"}"#);
        assert!(secret.open(&Owner::Anonymous, &sealed).is_none());
        assert!(secret.open(&Owner::Named("b".into()), &sealed).is_none());
        assert!(Secret::new(b"other").open(&owner, &sealed).is_none());
    }

    #[test]
    fn changed_text_does_not_open() {
        let secret = Secret::random();
        let seal = secret.seal(Owner::Anonymous, "up".into());
        let sealed = seal.seal("text", "{}").unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            // The unused bits of the last character do not count.
            if at + 1 < sealed.len() {
                assert!(secret.open(&Owner::Anonymous, &changed).is_none(), "{at}");
            }
            assert!(secret.open(&Owner::Anonymous, &sealed[..at]).is_none());
        }
        for text in ["", "tw1.", "tw1.AAAA", "gAAAAA"] {
            assert!(secret.open(&Owner::Anonymous, text).is_none());
        }
    }

    #[test]
    fn tags_differ_by_parts_and_key() {
        let secret = Secret::new(b"key");
        let tag = secret.tag(&["https://a", "sk-1"]);
        assert_eq!(tag.len(), 32);
        assert_eq!(tag, Secret::new(b"key").tag(&["https://a", "sk-1"]));
        assert_ne!(tag, secret.tag(&["https://a", "sk-2"]));
        assert_ne!(tag, secret.tag(&["https://as", "k-1"]));
        assert_ne!(tag, Secret::new(b"other").tag(&["https://a", "sk-1"]));
    }
}
