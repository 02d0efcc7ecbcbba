//! The keys that seal tickets.
//!
//! ```text
//!   tkt_ <key id> . <base64url of: nonce, ciphertext, tag>
//! ```
//!
//! The content is encrypted as well as authenticated (ChaCha20-Poly1305), so a ticket shows neither
//! its owner nor its issuer. Nonces are random; that is safe for some billion tickets of one key.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngCore as _;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;

use super::ticket::{Ticket, invalid_ticket};
use tokenwire_core::model::error::ApiError;

/// What a ticket begins with.
const PREFIX: &str = "tkt_";

/// The longest ticket that is looked at, in bytes.
const MAX_BYTES: usize = 4096;

/// The key that seals tickets, and those that earlier tickets were sealed with.
pub(super) struct TicketKeys {
    /// The first one seals.
    keys: Vec<SealingKey>,
}

struct SealingKey {
    /// 8 hexadecimal digits.
    id: String,
    key: LessSafeKey,
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.keys.iter().map(|key| &key.id);
        f.debug_list().entries(ids).finish()
    }
}

// === impl TicketKeys ===

impl TicketKeys {
    /// Keys that follow from these secrets. The first seals, all open.
    pub(super) fn new<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self {
            keys: secrets.into_iter().map(SealingKey::new).collect(),
        }
    }

    /// Seals a ticket: characters of `[A-Za-z0-9_.-]`. `None` without a key.
    pub(super) fn seal(&self, ticket: &Ticket) -> Option<String> {
        let SealingKey { id, key } = self.keys.first()?;
        let mut nonce = [0; NONCE_LEN];
        rand::rng().fill_bytes(&mut nonce);
        let mut content = serde_json::to_vec(ticket).ok()?;
        let unique = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(unique, Aad::from(id.as_bytes()), &mut content)
            .ok()?;
        let mut bytes = nonce.to_vec();
        bytes.append(&mut content);
        Some(format!("{PREFIX}{id}.{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// Opens a ticket that one of the keys has sealed.
    ///
    /// # Errors
    /// `invalid_ticket` for any other text.
    pub(super) fn open(&self, text: &str) -> Result<Ticket, ApiError> {
        let refused = || invalid_ticket("The ticket is not valid.");
        if text.len() > MAX_BYTES {
            return Err(refused());
        }
        self.try_open(text).ok_or_else(refused)
    }

    fn try_open(&self, text: &str) -> Option<Ticket> {
        let (id, sealed) = text.strip_prefix(PREFIX)?.split_once('.')?;
        let SealingKey { id, key } = self.keys.iter().find(|key| key.id == id)?;
        let mut bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, content) = bytes.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let plain = key.open_in_place(nonce, Aad::from(id.as_bytes()), content);
        serde_json::from_slice(plain.ok()?).ok()
    }
}

// === impl SealingKey ===

impl SealingKey {
    fn new(secret: &[u8]) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let id = hmac::sign(&root, b"ticket key id");
        let id = id.as_ref().iter().take(4);
        // A digest has the length of the cipher's key, so this does not fail.
        #[allow(clippy::expect_used, reason = "both lengths are constants")]
        let key = UnboundKey::new(
            &CHACHA20_POLY1305,
            hmac::sign(&root, b"ticket content").as_ref(),
        )
        .expect("a SHA-256 digest is a ChaCha20 key");
        Self {
            id: id.map(|byte| format!("{byte:02x}")).collect(),
            key: LessSafeKey::new(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ticket::{Issuer, Right, TicketKind};
    use super::*;

    fn ticket() -> Ticket {
        Ticket {
            id: "abc".to_owned(),
            kind: TicketKind::Stream,
            issuer: Issuer::Key(u64::MAX),
            owner: Some("alice/one".to_owned()),
            may: vec![Right::Read],
            models: Vec::new(),
            stream: Some("resp_a".to_owned()),
            origin: None,
            issued: 0,
            connect_by: 1,
            valid_until: 2,
        }
    }

    fn code(result: &Result<Ticket, ApiError>) -> Option<&str> {
        result
            .as_ref()
            .err()
            .and_then(|error| error.code.as_deref())
    }

    #[test]
    fn ticket_is_sealed_and_opened_and_shows_nothing() {
        let keys = TicketKeys::new([&b"one"[..]]);
        let (a, b) = (keys.seal(&ticket()).unwrap(), keys.seal(&ticket()).unwrap());
        assert_ne!(a, b, "nonces repeat");
        assert_eq!(keys.open(&a), Ok(ticket()));
        let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        assert!(a.bytes().all(is_safe), "{a}");
        let content = a.split('.').nth(1).unwrap();
        let shown = URL_SAFE_NO_PAD.decode(content).unwrap();
        assert!(!String::from_utf8_lossy(&shown).contains("alice"));
    }

    #[test]
    fn changed_and_foreign_tickets_are_refused() {
        let keys = TicketKeys::new([&b"one"[..]]);
        let whole = keys.seal(&ticket()).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert_eq!(code(&keys.open(&changed)), Some("invalid_ticket"), "{at}");
        }
        for end in 0..whole.len() {
            assert!(keys.open(&whole[..end]).is_err(), "{end}");
        }
        for text in [format!("{whole}A"), "x".repeat(10_000), "tkt_.".to_owned()] {
            assert_eq!(code(&keys.open(&text)), Some("invalid_ticket"));
        }
        let other = TicketKeys::new([&b"two"[..]]);
        assert!(other.open(&whole).is_err());
    }

    #[test]
    fn tickets_of_the_previous_key_are_opened_and_new_ones_sealed_with_the_current() {
        let earlier = TicketKeys::new([&b"one"[..]]);
        let later = TicketKeys::new([&b"two"[..], b"one"]);
        assert!(later.open(&earlier.seal(&ticket()).unwrap()).is_ok());
        let new = later.seal(&ticket()).unwrap();
        assert!(earlier.open(&new).is_err());
        assert!(TicketKeys::new([&b"two"[..]]).open(&new).is_ok());
    }
}
