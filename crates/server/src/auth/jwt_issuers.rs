//! Tokens of other issuers (RFC 7519): who sent a request, as a login server says.
//!
//! A token is checked against the one issuer that its `iss` names: signature, algorithm, audience and
//! times. What a token says of keys (`jku`, `x5u`, `jwk`, `x5c`) is not looked at.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokenwire_core::model::error::ApiError;
use tokenwire_core::model::id::Owner;
use url::Url;

use super::credential::invalid;
use super::jwk::parse;
use super::jwks::Jwks;
use super::key::{Key, Rights};
use super::ticket::TokenRights;
use super::verified_tokens::KeysVersion;
use crate::config::auth::Role;
use crate::config::client_limits::ClientLimits;
use crate::config::jwt_issuer::JwtIssuer;
use crate::key_hash::KeyHash;

/// The longest token that is looked at, in bytes.
const MAX_BYTES: usize = 16 * 1024;
/// By how much clocks may differ.
const LEEWAY: Duration = Duration::from_secs(30);
/// The longest value of the claim that names the owner, in bytes.
const MAX_OWNER: usize = 128;

/// The issuers whose tokens are accepted.
#[derive(Debug, Default)]
pub(super) struct JwtIssuers(Vec<Issuer>);

#[derive(Debug)]
struct Issuer {
    config: JwtIssuer,
    keys: Arc<Jwks>,
}

/// A token that is good.
pub(super) struct Checked {
    pub(super) key: Key,
    /// When it was issued, in Unix seconds; 0 if it does not say so.
    pub(super) issued: u64,
    pub(super) keys: KeysVersion,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

// === impl JwtIssuers ===

impl JwtIssuers {
    /// Returns the issuers of this configuration, which was checked.
    pub(super) fn of(config: &[JwtIssuer]) -> Self {
        let issuers = config.iter().map(|config| {
            let fixed = config.jwks.as_ref().and_then(|set| {
                let keys = parse(set.expose().as_bytes(), true)?;
                Some(Jwks::fixed(keys))
            });
            let url = config
                .jwks_url
                .as_ref()
                .and_then(|url| Url::parse(url).ok());
            let keys = match (fixed, url) {
                (Some(fixed), _) => fixed,
                (None, Some(url)) => Jwks::published(url),
                (None, None) => Jwks::fixed(Vec::new()),
            };
            Issuer {
                config: config.clone(),
                keys: Arc::new(keys),
            }
        });
        Self(issuers.collect())
    }

    /// Whether a credential has the form of a token, and issuers are configured.
    pub(super) fn takes(&self, credential: &str) -> bool {
        !self.0.is_empty() && credential.starts_with("ey") && credential.matches('.').count() == 2
    }

    /// Whether an issuer of this name is configured.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|issuer| issuer.config.name == name)
    }

    /// Returns what stands for the token that a ticket was made with.
    pub(super) fn of_ticket(&self, token: &TokenRights, expires: SystemTime) -> Option<Arc<Key>> {
        let mut issuers = self.0.iter();
        let issuer = issuers.find(|issuer| issuer.config.name == token.issuer)?;
        let rights = issuer.rights_of(&token.owner, token.role, token.limits, expires);
        Some(Arc::new(Key::new(rights, None)))
    }

    /// Whether these keys are still those of their issuer.
    pub(super) fn is_current(&self, keys: KeysVersion) -> bool {
        let issuer = self.0.get(keys.issuer);
        issuer.is_some_and(|issuer| issuer.keys.is_current(keys.version))
    }

    /// Returns the holder of a token.
    ///
    /// # Errors
    /// `invalid_api_key`. The message says what is wrong with the token, and quotes nothing of it.
    pub(super) async fn check(&self, token: &str) -> Result<Checked, ApiError> {
        let malformed = || invalid("The token is malformed.");
        if token.len() > MAX_BYTES {
            return Err(invalid("The token is too long."));
        }
        let (signed, signature) = token.rsplit_once('.').ok_or_else(malformed)?;
        let (header, claims) = signed.split_once('.').ok_or_else(malformed)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed());
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| malformed())?;
        let claims: Map<String, Value> =
            serde_json::from_slice(&decode(claims)?).map_err(|_| malformed())?;
        let signature = decode(signature)?;
        if header.crit.is_some() {
            return Err(invalid(
                "The token has critical extensions, which are not known.",
            ));
        }
        let named = claims.get("iss").and_then(Value::as_str);
        let mut issuers = self.0.iter().enumerate().filter(|(_, issuer)| {
            named == Some(&issuer.config.issuer) && has_audience(&claims, &issuer.config.audience)
        });
        let (index, issuer) = issuers.next().ok_or_else(|| {
            invalid("The token's issuer and audience are not those that are accepted.")
        })?;
        let algorithms = &issuer.config.algorithms;
        let algorithm = algorithms
            .iter()
            .copied()
            .find(|algorithm| algorithm.is_named(&header.alg))
            .ok_or_else(|| invalid("The token's algorithm is not accepted."))?;
        let kid = header.kid.as_deref();
        let keys = &issuer.keys;
        // Keys that are fetched meanwhile make the token be checked again.
        let version = keys.version();
        let verified = keys.verify(kid, algorithm, signed.as_bytes(), &signature);
        verified.await.map_err(|why| invalid(why.to_string()))?;
        let expires = check_times(&claims, issuer.config.max_age)?;
        let rights = issuer.rights(&claims, expires)?;
        let issued = claims.get("iat").and_then(Value::as_f64);
        Ok(Checked {
            key: Key::new(rights, None),
            issued: Duration::from_secs_f64(issued.unwrap_or_default()).as_secs(),
            keys: KeysVersion {
                issuer: index,
                version,
            },
        })
    }
}

// === impl Issuer ===

impl Issuer {
    fn rights(&self, claims: &Map<String, Value>, expires: SystemTime) -> Result<Rights, ApiError> {
        let config = &self.config;
        let name = claims.get(&config.owner_claim).and_then(Value::as_str);
        let name = name
            .filter(|name| (1..=MAX_OWNER).contains(&name.len()))
            .ok_or_else(|| {
                invalid(format!(
                    "The token's claim '{}' names no owner.",
                    config.owner_claim
                ))
            })?;
        let owner = format!("{}/{}", config.name, escaped(name));
        Ok(self.rights_of(&owner, self.role(claims)?, self.limits(claims)?, expires))
    }

    fn rights_of(
        &self,
        owner: &str,
        role: Role,
        limits: ClientLimits,
        expires: SystemTime,
    ) -> Rights {
        Rights {
            // The same for each token of an owner, so that a new one begins no new counters.
            hash: KeyHash::of(&format!("token of {owner}")),
            owner: Owner::Named(owner.into()),
            role,
            models: self.config.models.clone(),
            upstreams: self.config.upstreams.clone(),
            limits: self.config.limits.lower(&limits),
            expires: Some(expires),
            issuer: Some(self.config.name.as_str().into()),
        }
    }

    /// Returns the limits that the token carries.
    fn limits(&self, claims: &Map<String, Value>) -> Result<ClientLimits, ApiError> {
        let claim = self.config.limits_claim.as_deref();
        let Some((claim, carried)) = claim.and_then(|claim| Some((claim, claims.get(claim)?)))
        else {
            return Ok(ClientLimits::default());
        };
        ClientLimits::deserialize(carried)
            .map_err(|_| invalid(format!("The token's claim '{claim}' has no limits.")))
    }

    /// Returns the role that the token carries, if its issuer may give it.
    fn role(&self, claims: &Map<String, Value>) -> Result<Role, ApiError> {
        let carried = self.config.role_claim.as_ref();
        let carried = carried.and_then(|claim| claims.get(claim));
        let has = |role: &str| match carried {
            Some(Value::String(one)) => one == role,
            Some(Value::Array(all)) => all.iter().any(|one| one == role),
            _ => false,
        };
        match (has("operator"), self.config.roles.contains(&Role::Operator)) {
            (false, _) => Ok(Role::User),
            (true, true) => Ok(Role::Operator),
            (true, false) => Err(invalid(
                "The token carries a role that its issuer may not give.",
            )),
        }
    }
}

fn has_audience(claims: &Map<String, Value>, wanted: &str) -> bool {
    match claims.get("aud") {
        Some(Value::String(one)) => one == wanted,
        Some(Value::Array(all)) => all.iter().any(|one| one == wanted),
        _ => false,
    }
}

/// Checks the times of a token. Returns when it is refused from.
fn check_times(claims: &Map<String, Value>, max_age: Duration) -> Result<SystemTime, ApiError> {
    let time = |name: &str| match claims.get(name) {
        None => Ok(None),
        // Fractions of a second are allowed.
        Some(value) => match value
            .as_f64()
            .filter(|seconds| (0.0..1e11).contains(seconds))
        {
            Some(seconds) => Ok(Some(UNIX_EPOCH + Duration::from_secs_f64(seconds))),
            None => Err(invalid(format!("The token's claim '{name}' is no time."))),
        },
    };
    let now = SystemTime::now();
    let Some(expires) = time("exp")? else {
        return Err(invalid("The token has no 'exp'."));
    };
    if expires + LEEWAY <= now {
        return Err(invalid("The token has expired."));
    }
    for name in ["nbf", "iat"] {
        if time(name)?.is_some_and(|time| time > now + LEEWAY) {
            return Err(invalid(format!("The token's '{name}' is in the future.")));
        }
    }
    let begins = time("iat")?.unwrap_or(now);
    if expires.duration_since(begins).unwrap_or_default() > max_age + LEEWAY {
        return Err(invalid(
            "The token is good for longer than its issuer may say.",
        ));
    }
    Ok(expires + LEEWAY)
}

/// Writes a name in the characters of owners. Others become `%` and two digits, so that no two names
/// are the same, and none has a `/`.
fn escaped(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"_.@:-".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
