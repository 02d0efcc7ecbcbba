//! The stored form of a key.

use std::fmt;

use rand::Rng as _;
use rand::distr::Alphanumeric;
use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq as _;

/// What a key begins with. Scanners for leaked secrets know the first part.
const PREFIX: &str = "sk-tw-";

/// Random characters of a key: 62^43 is more than 2^256.
const LENGTH: usize = 43;

const ALGORITHM: &str = "sha256:";

/// The SHA-256 of a key.
///
/// A slow hash, such as Argon2, protects passwords, which can be guessed. A key of 256 random bits
/// cannot be, so a fast hash is enough, and it costs about a microsecond per request.
#[derive(Clone, Copy)]
pub struct KeyHash([u8; 32]);

// === impl KeyHash ===

impl KeyHash {
    /// Returns the hash of a key.
    #[must_use]
    pub fn of(key: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
        Self(bytes)
    }

    /// Reads `sha256:` and 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.trim().strip_prefix(ALGORITHM)?.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let &[high, low] = pair else { return None };
            *byte = u8::try_from(16 * digit(high)? + digit(low)?).ok()?;
        }
        Some(Self(bytes))
    }

    /// Returns the name of the key in lists and logs: the first 12 digits of the hash.
    #[must_use]
    pub fn id(&self) -> String {
        let mut id = self.to_string().split_off(ALGORITHM.len());
        id.truncate(12);
        id
    }

    /// Returns the part by which a key is looked up. It tells nothing of the key.
    pub(crate) fn prefix(&self) -> u64 {
        self.words()[0]
    }

    fn words(&self) -> [u64; 4] {
        let [a, b, c, d] = self.0.as_chunks::<8>().0 else {
            unreachable!("32 bytes are four words");
        };
        [a, b, c, d].map(|word| u64::from_be_bytes(*word))
    }
}

/// Compares in constant time.
impl PartialEq for KeyHash {
    fn eq(&self, other: &Self) -> bool {
        self.words().ct_eq(&other.words()).into()
    }
}

impl Eq for KeyHash {}

/// Writes what [`KeyHash::parse`] reads.
impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ALGORITHM)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyHash({})", self.id())
    }
}

/// Makes a key of 256 random bits.
#[must_use]
pub fn new_key() -> String {
    let random = rand::rng().sample_iter(Alphanumeric).take(LENGTH);
    PREFIX.chars().chain(random.map(char::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_written_and_read_back() {
        let hash = KeyHash::of("abc");
        let text = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash.to_string(), text);
        assert_eq!(KeyHash::parse(text), Some(hash));
        assert_eq!(hash.id(), "ba7816bf8f01");
        assert_ne!(hash, KeyHash::of("abd"));
        for bad in [
            "",
            "sha256:",
            "sha256:ba",
            &text[7..],
            &text.replace('a', "g"),
        ] {
            assert!(KeyHash::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn new_keys_are_random_and_look_like_keys() {
        let (a, b) = (new_key(), new_key());
        assert_ne!(a, b);
        assert_eq!(a.len(), PREFIX.len() + LENGTH);
        assert!(a.starts_with("sk-tw-"));
        assert!(a[6..].bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }
}
