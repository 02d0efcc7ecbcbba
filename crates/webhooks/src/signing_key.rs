//! Signatures of Standard Webhooks: HMAC-SHA256.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};

/// Prefix of a secret.
const PREFIX: &str = "whsec_";
/// Key length in bytes, as Standard Webhooks recommends.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A key that signs webhooks. `Debug` does not show it.
#[derive(Clone)]
pub struct SigningKey(Arc<SecretSlice<u8>>);

/// Why a secret is invalid. The text never quotes the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretProblem {
    /// Does not begin with `whsec_`.
    #[error("does not begin with {PREFIX}")]
    Prefix,
    /// Not padded base64.
    #[error("is not {PREFIX} and padded base64")]
    Base64,
    /// Not 24 to 64 bytes.
    #[error("holds {0} bytes, where 24 to 64 are wanted")]
    Length(usize),
}

// === impl SigningKey ===

impl SigningKey {
    /// The format of a secret, and a command that makes one.
    pub const EXPECTED: &str = "whsec_ and the base64 of 24 to 64 random bytes, as `echo whsec_$(openssl rand -base64 32)` makes it";

    /// Parses `whsec_` and padded base64.
    ///
    /// # Errors
    /// [`SecretProblem`].
    pub fn parse(secret: &str) -> Result<Self, SecretProblem> {
        let encoded = secret.strip_prefix(PREFIX).ok_or(SecretProblem::Prefix)?;
        let bytes = STANDARD
            .decode(encoded)
            .map_err(|_| SecretProblem::Base64)?;
        if !KEY_BYTES.contains(&bytes.len()) {
            return Err(SecretProblem::Length(bytes.len()));
        }
        Ok(Self(Arc::new(SecretSlice::from(bytes))))
    }

    /// Returns the secret that it was parsed from.
    pub(crate) fn to_secret(&self) -> SecretString {
        let encoded = STANDARD.encode(self.0.expose_secret());
        SecretString::from(format!("{PREFIX}{encoded}"))
    }

    /// Returns the value of `webhook-signature`. `timestamp` is the Unix time in seconds.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: u64, body: &str) -> String {
        let mut context =
            hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, self.0.expose_secret()));
        for piece in [id, ".", &timestamp.to_string(), ".", body] {
            context.update(piece.as_bytes());
        }
        format!("v1,{}", STANDARD.encode(context.sign()))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(secret: &str) -> SecretProblem {
        SigningKey::parse(secret).unwrap_err()
    }

    #[test]
    fn signature_matches_the_standard_example() {
        // From the tests of the Standard Webhooks libraries.
        let key = SigningKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = key.sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn invalid_secrets_are_refused() {
        assert_eq!(
            problem("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
            SecretProblem::Prefix
        );
        assert_eq!(
            problem("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS"),
            SecretProblem::Base64
        );
        assert_eq!(
            problem("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
            SecretProblem::Base64
        );
        assert_eq!(problem("whsec_!"), SecretProblem::Base64);
        assert_eq!(problem("whsec_"), SecretProblem::Length(0));
        assert_eq!(problem("whsec_AAAA"), SecretProblem::Length(3));
        assert_eq!(
            problem(&format!("whsec_{}", "A".repeat(88))),
            SecretProblem::Length(66)
        );
    }

    #[test]
    fn debug_does_not_show_the_key() {
        let key = SigningKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        assert_eq!(format!("{key:?}"), "SigningKey(..)");
    }
}
