//! Configuration of token issuers.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::client_limits::ClientLimits;
use super::key_problem::KeyProblem;
use super::role::{OWNER_CHARACTERS, Role, is_owner};
use super::secret::Secret;
use super::units::duration;

/// A server whose tokens (JWT) are credentials.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JwtIssuer {
    /// Its name here. The owner of a token is `<name>/<claim>`.
    pub name: String,
    /// The exact `iss` of its tokens.
    pub issuer: String,
    /// The `aud` that its tokens have for this gateway.
    pub audience: String,
    /// Algorithms of signatures that are accepted, such as `RS256`.
    pub algorithms: Vec<Algorithm>,
    /// Where it publishes its keys: an https URL.
    pub jwks_url: Option<String>,
    /// Its keys, a JWK set as JSON, instead of `jwks_url`.
    pub jwks: Option<Secret>,
    /// The claim that names the owner.
    pub owner_claim: String,
    /// The claim that has the role, as a text or a list.
    pub role_claim: Option<String>,
    /// Roles that its tokens may carry.
    pub roles: Vec<Role>,
    /// Models that its tokens may use: names or patterns. Empty means every model.
    pub models: Vec<String>,
    /// Upstreams that its tokens may use, by name. Empty means all.
    pub upstreams: Vec<String>,
    /// What each owner of its tokens may use, where that is less than `limits.per_key`.
    pub limits: ClientLimits,
    /// The claim that has limits of one token, an object such as `limits`. They only lower.
    pub limits_claim: Option<String>,
    /// Longest time between a token's `iat` and its `exp`.
    #[serde(with = "duration")]
    pub max_age: Duration,
}

/// Algorithms of signatures. `none` is not one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    HS256,
    /// HMAC with SHA-384.
    HS384,
    /// HMAC with SHA-512.
    HS512,
    /// RSA with SHA-256.
    RS256,
    /// RSA with SHA-384.
    RS384,
    /// RSA with SHA-512.
    RS512,
    /// RSA-PSS with SHA-256.
    PS256,
    /// RSA-PSS with SHA-384.
    PS384,
    /// RSA-PSS with SHA-512.
    PS512,
    /// ECDSA with P-256.
    ES256,
    /// ECDSA with P-384.
    ES384,
    /// Ed25519.
    EdDSA,
}

// === impl Algorithm ===

impl Algorithm {
    /// Whether tokens and keys call it so. EdDSA has a second name (RFC 9864).
    pub(crate) fn is_named(self, name: &str) -> bool {
        name == format!("{self:?}") || (self == Self::EdDSA && name == "Ed25519")
    }
}

// === impl JwtIssuer ===

impl Default for JwtIssuer {
    fn default() -> Self {
        Self {
            name: String::new(),
            issuer: String::new(),
            audience: String::new(),
            algorithms: Vec::new(),
            jwks_url: None,
            jwks: None,
            owner_claim: "sub".to_owned(),
            role_claim: None,
            roles: vec![Role::User],
            models: Vec::new(),
            upstreams: Vec::new(),
            limits: ClientLimits::default(),
            limits_claim: None,
            max_age: Duration::from_secs(24 * 60 * 60),
        }
    }
}

impl JwtIssuer {
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
        if !is_owner(&self.name) {
            let found = format!("is {:?}", self.name);
            add("name", found, OWNER_CHARACTERS, "");
        }
        for (field, value, expected) in [
            ("issuer", &self.issuer, "the `iss` of its tokens"),
            ("audience", &self.audience, "the `aud` of its tokens"),
            ("owner_claim", &self.owner_claim, "the name of a claim"),
        ] {
            if value.is_empty() {
                add(field, "is missing".to_owned(), expected, "");
            }
        }
        if self.limits.zeros().next().is_some() {
            let expected = "limits of more than 0";
            add("limits", "has a 0".to_owned(), expected, "");
        }
        if self.algorithms.is_empty() {
            let expected = "the algorithms of its signatures, such as [RS256]";
            add("algorithms", "is empty".to_owned(), expected, "");
        }
        match (&self.jwks_url, &self.jwks) {
            (Some(url), None) => {
                if !is_safe(url) {
                    let expected = "an https URL";
                    add("jwks_url", "is none".to_owned(), expected, "");
                }
            }
            (None, Some(set)) => {
                let parsed: Option<serde_json::Value> = serde_json::from_str(set.expose()).ok();
                if !parsed.is_some_and(|set| set["keys"].is_array()) {
                    let expected = "a JWK set, `{\"keys\": […]}`";
                    add("jwks", "is none".to_owned(), expected, "");
                }
            }
            (Some(_), Some(_)) => {
                let expected = "either `jwks_url` or `jwks`";
                add(
                    "jwks",
                    "stands beside a URL".to_owned(),
                    expected,
                    "Remove one.",
                );
            }
            (None, None) => {
                let expected = "`jwks_url` or `jwks`";
                add("jwks_url", "is missing".to_owned(), expected, "");
            }
        }
        problems
    }
}

/// Whether keys can be fetched from this URL unchanged: over https, or from this machine.
fn is_safe(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else {
        return false;
    };
    let is_here = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    url.scheme() == "https" || (url.scheme() == "http" && is_here)
}
