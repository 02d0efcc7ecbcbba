//! Checks of idempotency keys.

use crate::model::error::{ApiError, ErrorCode};

/// The longest key, in bytes.
const MAX_BYTES: usize = 255;

/// Prefixes of API keys and tokens of well-known services. No tail is needed to refuse them.
const CREDENTIAL_PREFIXES: &[&str] = &[
    "sk-",
    "sk_live_",
    "sk_test_",
    "rk_live_",
    "rk_test_",
    "whsec_",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "xoxa-",
    "xoxb-",
    "xoxp-",
    "xoxr-",
    "xoxs-",
    "xapp-",
    "pypi-",
    "nvapi-",
    "dop_v1_",
    "ya29.",
    "hvs.",
    "hf_",
    "gsk_",
    "npm_",
    "pplx-",
    "tvly-",
    "xai-",
    "csk-",
    "fw_",
    "tgp_v1_",
    "r8_",
    "tkt_",
    "AIza",
    "-----BEGIN",
];

/// Checks an idempotency key: 1 to 255 visible ASCII characters that do not look like a credential.
/// `param` is where the client sent it: `Idempotency-Key`, `key` or `idempotency_key`.
///
/// # Errors
/// `invalid_value` for `param`. The message does not repeat the key.
pub fn check_idempotency_key(key: &str, param: &'static str) -> Result<(), ApiError> {
    let refuse =
        |message: String| Err(ApiError::new(ErrorCode::InvalidValue, message).param(param));
    if looks_like_credential(key) {
        return refuse(format!(
            "Invalid value for '{param}': it looks like a credential. An idempotency key is kept and compared, so it must not be a secret. Send a random value, such as a UUID."
        ));
    }
    if !(1..=MAX_BYTES).contains(&key.len()) {
        return refuse(format!(
            "Invalid value for '{param}': expected 1 to {MAX_BYTES} bytes, but got {}.",
            key.len()
        ));
    }
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return refuse(format!(
            "Invalid value for '{param}': expected visible ASCII characters only, without spaces."
        ));
    }
    Ok(())
}

/// Whether a key looks like an API key, a token or an `Authorization` header. Only known forms count:
/// good keys are random too, so randomness tells nothing.
fn looks_like_credential(key: &str) -> bool {
    let key = key.trim_matches(|c: char| c.is_whitespace() || c == '"' || c == '\'');
    let after_scheme = ["bearer", "basic"].iter().find_map(|scheme| {
        let rest = key.get(scheme.len()..)?;
        let named = key[..scheme.len()].eq_ignore_ascii_case(scheme);
        (named && rest.starts_with([' ', '\t', ':', '+', '%'])).then_some(rest)
    });
    after_scheme.is_some()
        || CREDENTIAL_PREFIXES
            .iter()
            .any(|prefix| key.starts_with(prefix))
        || is_jwt(key)
        || is_aws_key_id(key)
}

/// Whether it is a JSON web token: a header `{"…` in Base64 and at least two more parts.
fn is_jwt(key: &str) -> bool {
    let base64url = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    let parts: Vec<&str> = key.split('.').collect();
    key.starts_with("eyJ")
        && parts.len() >= 3
        && !parts[1].is_empty()
        && parts.iter().all(|part| part.bytes().all(base64url))
}

/// Whether it is an access key id of AWS (`AKIA…`, 20 characters).
fn is_aws_key_id(key: &str) -> bool {
    ["AKIA", "ASIA"]
        .iter()
        .any(|prefix| key.starts_with(prefix))
        && key.len() == 20
        && key
            .bytes()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::Rng as _;
    use rand::distr::Alphanumeric;

    use super::*;

    #[test]
    fn ordinary_keys_are_accepted() {
        for key in [
            "k",
            "8e03978e-40d5-43e8-bc93-6894a57f9324",
            "stainless-python-retry-8e03978e-40d5-43e8-bc93-6894a57f9324",
            "stainless-node-retry-8e03978e-40d5-43e8-bc93-6894a57f9324",
            "\"8e03978e-40d5-43e8-bc93-6894a57f9324\"",
            "8E03978E-40D5-43E8-BC93-6894A57F9324",
            "01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "order-2026-11-26-000000000000000000000001",
            "V1StGXR8_Z5jdHi6B-myT",
            "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "idem_9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "user:42/turn:7",
            "resp_Rzu5ItyJDekDX2BCjLPsM6SZaaBBccDD11",
            "chatcmpl-C8k2LmN4pQ6rS8tU0vW2xY4zA6b",
            "bearer-of-news",
            "skill-tree",
            "eyJ",
            "AKIA",
            "this-is-a-long-key-of-words-and-dashes-only",
            &"k".repeat(255),
        ] {
            assert!(check_idempotency_key(key, "key").is_ok(), "{key}");
        }
    }

    #[test]
    fn invalid_keys_are_refused() {
        for key in [
            "",
            " ",
            "a b",
            "a\tb",
            "häß",
            "a\u{7f}",
            "\n",
            &"k".repeat(256),
        ] {
            let error = check_idempotency_key(key, "Idempotency-Key").unwrap_err();
            assert_eq!(
                (error.status, error.code.as_deref(), error.param.as_deref()),
                (400, Some("invalid_value"), Some("Idempotency-Key")),
                "{key}"
            );
        }
    }

    #[test]
    fn credentials_are_refused_and_not_repeated() {
        for key in [
            "sk-proj-abc",
            "sk-ant-api03-AbCdEf",
            "sk-or-v1-0123456789abcdef",
            "Bearer sk-abc",
            "bearer AbCdEf0123456789",
            "Bearer%20abcdef",
            "Basic dXNlcjpwYXNz",
            "\"sk-abcdef\"",
            " sk-abcdef",
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "sk_live_4eC39HqLyjWDarjtT1zdp7dc",
            "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
            "github_pat_11ABCDEFG0abcdefghijkl",
            "glpat-AbCdEf0123456789abcd",
            "xoxb-123456789012-abcdef",
            "AKIAIOSFODNN7EXAMPLE",
            "AIzaSyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY",
            "ya29.a0AfH6SMBx",
            "hf_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789",
            "gsk_9aB8cD7eF6gH5iJ4kL3mN2oP1qR0sT9uV8wX7yZ6",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
            "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.",
            "-----BEGIN PRIVATE KEY-----",
        ] {
            let error = check_idempotency_key(key, "idempotency_key").unwrap_err();
            assert_eq!(
                (error.status, error.code.as_deref(), error.param.as_deref()),
                (400, Some("invalid_value"), Some("idempotency_key")),
                "{key}"
            );
            assert!(error.message.contains("credential"), "{key}");
            assert!(!error.message.contains(key), "{key}");
        }
    }

    #[test]
    fn random_keys_of_letters_digits_and_dashes_are_accepted() {
        for _ in 0..1000 {
            let tail: String = rand::rng()
                .sample_iter(Alphanumeric)
                .take(40)
                .map(char::from)
                .collect();
            for key in [format!("acme_{tail}"), format!("idem-{tail}"), tail] {
                assert!(check_idempotency_key(&key, "key").is_ok(), "{key}");
            }
        }
    }

    proptest! {
        #[test]
        fn arbitrary_keys_never_panic(key in ".{0,300}") {
            let _ = check_idempotency_key(&key, "key");
        }
    }
}
