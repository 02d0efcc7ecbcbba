//! Tells a repetition of a request from another request under the same idempotency key.

use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};

use super::StartRequest;

/// Bytes of a [`Fingerprint`].
const LENGTH: usize = 16;

/// The first 128 bits of a SHA-256 over route, body and credential. It is the same in every process,
/// so the log of another process can be compared with it. The credential is hashed by itself first
/// and cannot be read from it.
pub(super) type Fingerprint = [u8; LENGTH];

/// Returns the fingerprint of a request.
pub(super) fn fingerprint(request: &StartRequest) -> Fingerprint {
    let credential = request
        .client_key
        .as_ref()
        .map(|key| Sha256::digest(key.expose_secret()));
    let mut digest = Sha256::new();
    for part in [
        request.route.as_bytes(),
        &request.fingerprint(),
        credential.as_ref().map_or(&[][..], |digest| digest),
    ] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    let mut fingerprint = [0; LENGTH];
    fingerprint.copy_from_slice(&digest.finalize()[..LENGTH]);
    fingerprint
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::*;
    use crate::engine::Caller;
    use crate::request::StreamRequest;

    fn request(route: &'static str, body: &str, client_key: Option<&str>) -> StartRequest {
        let caller = Caller {
            client_key: client_key.map(|key| SecretString::from(key.to_owned())),
            ..Caller::default()
        };
        let body = StreamRequest::parse(body.as_bytes()).unwrap();
        StartRequest::new(body, caller, route)
    }

    #[test]
    fn fingerprint_is_the_same_in_every_process() {
        let body = r#"{"input":"hi","model":"m"}"#;
        let hex = |bytes: Fingerprint| -> String {
            bytes.iter().map(|byte| format!("{byte:02x}")).collect()
        };
        // Stored logs hold these bytes: they must not change.
        assert_eq!(
            hex(fingerprint(&request("/v1/responses", body, None))),
            "72bf952ab93afaf5e7d06b4edf282585"
        );
        assert_eq!(
            hex(fingerprint(&request("/v1/responses", body, Some("sk-1")))),
            "2d69d56df90fa3fa04f3ab1f0ac13e23"
        );
    }

    #[test]
    fn fingerprint_differs_by_route_body_and_credential() {
        let body = r#"{"input":"hi"}"#;
        let all = [
            request("/v1/responses", body, None),
            request("/v1/streams", body, None),
            request("/v1/responses", r#"{"input":"ho"}"#, None),
            request("/v1/responses", body, Some("")),
            request("/v1/responses", body, Some("a")),
            request("/v1/responses", body, Some("b")),
        ]
        .map(|request| fingerprint(&request));
        for (i, one) in all.iter().enumerate() {
            assert!(!all[..i].contains(one), "{i}");
        }
        let (mut a, mut b) = (request("/a", body, None), request("/ab", body, None));
        (a.fingerprint, b.fingerprint) = (b"bc".to_vec(), b"c".to_vec());
        assert_ne!(fingerprint(&a), fingerprint(&b));
    }
}
