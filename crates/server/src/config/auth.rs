//! Configuration of credentials.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::client_limits::ClientLimits;
use super::jwt_issuer::JwtIssuer;
pub(crate) use super::key_problem::KeyProblem;
use super::role::OWNER_CHARACTERS;
pub use super::role::Role;
pub(crate) use super::role::is_owner;
use super::secret::Secret;
use super::units::word;
use crate::key_hash::KeyHash;

/// Who may use the gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// The keys. One key, or a `keys_file`, makes every request under `/v1` need a credential.
    pub keys: Vec<KeyEntry>,
    /// File with further keys, which is read again when it changes.
    pub keys_file: Option<String>,
    /// Whether no key is made at the start where other machines reach the gateway.
    pub anonymous: bool,
    /// Servers whose tokens are accepted.
    pub jwt: Vec<JwtIssuer>,
    /// The key that seals tickets.
    pub tickets: TicketSecrets,
}

/// Secrets that tickets are sealed with. Without one the key follows from the secret of the cluster,
/// is kept in the store's folder, or is made by each process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TicketSecrets {
    /// Seals tickets: any text of at least 32 characters.
    pub secret: Option<Secret>,
    /// The secret before it. Tickets that it has sealed stay good until they end.
    pub previous: Option<Secret>,
}

/// One key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyEntry {
    /// Name of the owner. Keys of one owner see the same streams.
    pub owner: String,
    /// The key itself, or else its `hash`.
    pub key: Option<Secret>,
    /// SHA-256 of the key: `sha256:` and 64 hexadecimal digits.
    pub hash: Option<String>,
    /// What the key may do.
    #[serde(deserialize_with = "word")]
    pub role: Role,
    /// Models that it may use: names or patterns. Empty means every model.
    pub models: Vec<String>,
    /// Upstreams that it may use, by name. Empty means all.
    pub upstreams: Vec<String>,
    /// What it may use, where that is less than `limits.per_key`.
    pub limits: ClientLimits,
    /// Time after which it is refused: `2027-01-31` or `2027-01-31T12:00:00Z`.
    pub expires: Option<String>,
}

/// The shortest key that may be configured, in bytes.
const MIN_KEY: usize = 20;

/// The shortest secret of tickets, in bytes.
const MIN_SECRET: usize = 32;

// === impl Auth ===

impl Auth {
    /// Whether keys or issuers of tokens are configured.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        !self.keys.is_empty() || self.keys_file.is_some() || !self.jwt.is_empty()
    }
}

// === impl TicketSecrets ===

impl TicketSecrets {
    /// Returns what cannot work.
    pub(crate) fn problems(&self) -> Vec<KeyProblem> {
        let mut problems = Vec::new();
        for (field, secret) in [("secret", &self.secret), ("previous", &self.previous)] {
            let length = secret.as_ref().map(|secret| secret.expose().len());
            if let Some(length) = length.filter(|length| *length < MIN_SECRET) {
                problems.push(KeyProblem {
                    field,
                    found: format!("has {length} characters"),
                    expected: "at least 32 characters",
                    remedy: "`openssl rand -base64 32` makes one.",
                });
            }
        }
        if self.previous.is_some() && self.secret.is_none() {
            problems.push(KeyProblem {
                field: "previous",
                found: "stands alone".to_owned(),
                expected: "a `secret` beside it",
                remedy: "",
            });
        }
        problems
    }
}

// === impl KeyEntry ===

impl KeyEntry {
    /// Returns the hash of the key; `None` if the entry has none, or one that is malformed.
    pub(crate) fn key_hash(&self) -> Option<KeyHash> {
        match (&self.key, &self.hash) {
            (Some(key), None) => Some(KeyHash::of(key.expose())),
            (None, Some(hash)) => KeyHash::parse(hash),
            _ => None,
        }
    }

    /// Returns the time after which the key is refused, if it has one.
    pub(crate) fn expiry(&self) -> Option<SystemTime> {
        self.expires.as_deref().and_then(parse_time)
    }

    /// Returns what cannot work.
    pub(crate) fn problems(&self) -> Vec<KeyProblem> {
        let mut problems = Vec::new();
        let mut add = |field, found: String, expected, remedy| {
            problems.push(KeyProblem {
                field,
                found,
                expected,
                remedy,
            });
        };
        if !is_owner(&self.owner) {
            let found = format!("is {:?}", self.owner);
            add("owner", found, OWNER_CHARACTERS, "");
        }
        let make = "`tokenwire key new` makes a key and its hash.";
        match (&self.key, &self.hash) {
            (Some(key), None) => {
                let key = key.expose();
                if key.len() < MIN_KEY || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                    let found = format!("has {} characters", key.chars().count());
                    add("key", found, "at least 20 visible ASCII characters", make);
                }
            }
            (None, Some(hash)) => {
                if KeyHash::parse(hash).is_none() {
                    let expected = "`sha256:` and 64 hexadecimal digits";
                    add(
                        "hash",
                        "is not the hash of a key".to_owned(),
                        expected,
                        make,
                    );
                }
            }
            (Some(_), Some(_)) => {
                let expected = "either `key` or `hash`";
                add(
                    "key",
                    "stands beside a hash".to_owned(),
                    expected,
                    "Remove one.",
                );
            }
            (None, None) => {
                let expected = "either `key` or `hash`";
                add("key", "is missing".to_owned(), expected, make);
            }
        }
        if let Some(name) = self.limits.zeros().next() {
            let found = format!("has {name}: 0");
            add("limits", found, "more than 0", "Leave it out for no limit.");
        }
        if let Some(text) = &self.expires
            && parse_time(text).is_none()
        {
            let expected = "a date such as 2027-01-31, or a time such as 2027-01-31T12:00:00Z";
            add("expires", format!("is {text:?}"), expected, "");
        }
        problems
    }
}

/// Reads a date, which means its beginning in UTC, or a time in UTC.
pub(crate) fn parse_time(text: &str) -> Option<SystemTime> {
    let time = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        _ => text.to_owned(),
    };
    humantime::parse_rfc3339(&time).ok()
}
