//! Keys of token issuers (RFC 7517, RFC 7518), and the signatures that they verify.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, EcdsaVerificationAlgorithm,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;

use crate::config::jwt_issuer::Algorithm;

/// One key.
#[derive(Clone, Debug)]
pub(super) struct Jwk {
    pub(super) id: Option<String>,
    algorithm: Option<String>,
    material: Material,
}

#[derive(Clone)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
    Secret(Vec<u8>),
}

impl std::fmt::Debug for Material {
    /// Omits the key, which may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Rsa { .. } => "Rsa",
            Self::P256(_) => "P256",
            Self::P384(_) => "P384",
            Self::Ed25519(_) => "Ed25519",
            Self::Secret(_) => "Secret",
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Fields {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    crv: String,
    n: String,
    e: String,
    x: String,
    y: String,
    k: String,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

/// Most keys of one issuer. Beyond it the rest is ignored.
const MAX_KEYS: usize = 100;

/// The shortest secret of an HMAC, in bytes: that of SHA-256 (RFC 7518, section 3.2).
const MIN_SECRET: usize = 32;

/// Reads a set of keys. Those of unknown kinds, and those for encryption, are ignored. `secrets`:
/// whether there may be keys of HMACs, which no issuer publishes.
pub(super) fn parse(text: &[u8], secrets: bool) -> Option<Vec<Jwk>> {
    let set: Set = serde_json::from_slice(text).ok()?;
    let keys = set.keys.into_iter().filter_map(|key| {
        let fields = serde_json::from_value(key).ok()?;
        Jwk::of(fields).filter(|key| secrets || !matches!(key.material, Material::Secret(_)))
    });
    Some(keys.take(MAX_KEYS).collect())
}

// === impl Jwk ===

impl Jwk {
    fn of(fields: Fields) -> Option<Self> {
        if fields.purpose.is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).ok().filter(|b| !b.is_empty());
        let point = |length: usize| {
            let (x, y) = (bytes(&fields.x)?, bytes(&fields.y)?);
            (x.len() == length && y.len() == length).then(|| [&[4][..], &x, &y].concat())
        };
        let material = match (&*fields.kty, &*fields.crv) {
            ("RSA", _) => Material::Rsa {
                n: bytes(&fields.n)?,
                e: bytes(&fields.e)?,
            },
            ("EC", "P-256") => Material::P256(point(32)?),
            ("EC", "P-384") => Material::P384(point(48)?),
            ("OKP", "Ed25519") => Material::Ed25519(bytes(&fields.x)?),
            ("oct", _) => Material::Secret(bytes(&fields.k).filter(|k| k.len() >= MIN_SECRET)?),
            _ => return None,
        };
        Some(Self {
            id: fields.kid,
            algorithm: fields.alg,
            material,
        })
    }

    /// Whether the key is for this algorithm: by its kind, and by the name that it may carry. So a
    /// public key is never taken for the secret of an HMAC.
    pub(super) fn is_for(&self, algorithm: Algorithm) -> bool {
        use Algorithm::{
            ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512,
        };

        let by_kind = match self.material {
            Material::Rsa { .. } => {
                matches!(algorithm, RS256 | RS384 | RS512 | PS256 | PS384 | PS512)
            }
            Material::P256(_) => algorithm == ES256,
            Material::P384(_) => algorithm == ES384,
            Material::Ed25519(_) => algorithm == EdDSA,
            Material::Secret(_) => matches!(algorithm, HS256 | HS384 | HS512),
        };
        let name = self.algorithm.as_deref();
        by_kind && name.is_none_or(|name| algorithm.is_named(name))
    }

    /// Whether this is the key's signature of the message.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        if !self.is_for(algorithm) {
            return false;
        }
        match &self.material {
            Material::Rsa { n, e } => rsa(algorithm).is_some_and(|parameters| {
                let key = RsaPublicKeyComponents { n, e };
                key.verify(parameters, message, signature).is_ok()
            }),
            Material::P256(point) => ecdsa(&ECDSA_P256_SHA256_FIXED, point, message, signature),
            Material::P384(point) => ecdsa(&ECDSA_P384_SHA384_FIXED, point, message, signature),
            Material::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key)
                .verify(message, signature)
                .is_ok(),
            Material::Secret(secret) => {
                let algorithm = match algorithm {
                    Algorithm::HS384 => hmac::HMAC_SHA384,
                    Algorithm::HS512 => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                let key = hmac::Key::new(algorithm, secret);
                hmac::verify(&key, message, signature).is_ok()
            }
        }
    }
}

fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        Algorithm::RS256 => &RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

fn ecdsa(
    algorithm: &'static EcdsaVerificationAlgorithm,
    point: &[u8],
    message: &[u8],
    signature: &[u8],
) -> bool {
    UnparsedPublicKey::new(algorithm, point)
        .verify(message, signature)
        .is_ok()
}
