//! The credential of a request.

use actix_web::http::header::{self, HeaderMap, HeaderName};
use tokenwire_core::model::error::{ApiError, ErrorCode};

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const API_KEY: HeaderName = HeaderName::from_static("api-key");

/// Headers that carry the gateway's credentials, or the client's for an upstream. None of them is
/// forwarded where credentials are checked.
pub(crate) const CREDENTIAL_HEADERS: [&str; 6] = [
    "authorization",
    "x-api-key",
    "api-key",
    "cookie",
    "proxy-authorization",
    "x-upstream-authorization",
];

/// Returns the key that a request carries: `Authorization: Bearer`, `x-api-key` or `api-key`. The
/// same key may stand in several headers.
///
/// # Errors
/// `ambiguous_credential` for two that differ, and `invalid_api_key` for one that is no key.
pub(super) fn credential(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let bearers = headers.get_all(header::AUTHORIZATION).map(|value| {
        let text = value.to_str().ok()?.trim();
        let (scheme, key) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
    });
    let plain = headers.get_all(X_API_KEY).chain(headers.get_all(API_KEY));
    let plain = plain.map(|value| value.to_str().ok().map(str::trim));
    let mut found = None;
    for key in bearers.chain(plain) {
        let Some(key) = key.filter(|key| !key.is_empty()) else {
            return Err(invalid(
                "The credential is malformed: send 'Authorization: Bearer <key>'.",
            ));
        };
        match found {
            Some(first) if first != key => {
                let message = "The request carries two different credentials. Send one.";
                return Err(ApiError::new(ErrorCode::AmbiguousCredential, message));
            }
            _ => found = Some(key),
        }
    }
    Ok(found)
}

/// Whether a request carries something in the place of a key.
pub(crate) fn has_credential(headers: &HeaderMap) -> bool {
    [header::AUTHORIZATION, X_API_KEY, API_KEY]
        .iter()
        .any(|name| headers.contains_key(name))
}

/// Refuses a credential, or a request without one.
pub(super) fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::InvalidApiKey, message)
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn of(headers: &[(&'static str, &'static str)]) -> Result<Option<String>, Option<String>> {
        let mut request = TestRequest::default();
        for header in headers {
            request = request.append_header(*header);
        }
        let request = request.to_http_request();
        credential(request.headers())
            .map(|key| key.map(str::to_owned))
            .map_err(|error| error.code.map(|code| code.into_owned()))
    }

    #[test]
    fn credential_is_taken_from_any_of_its_headers() {
        let key = Ok(Some("a".to_owned()));
        for headers in [
            &[("authorization", "Bearer a")][..],
            &[("authorization", "bearer  a ")],
            &[("x-api-key", "a")],
            &[("api-key", "a")],
            &[
                ("authorization", "Bearer a"),
                ("x-api-key", "a"),
                ("api-key", "a"),
            ],
        ] {
            assert_eq!(of(headers), key, "{headers:?}");
        }
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[("cookie", "a=b")]), Ok(None));
    }

    #[test]
    fn two_different_credentials_are_ambiguous_and_other_schemes_invalid() {
        for headers in [
            &[("authorization", "Bearer a"), ("x-api-key", "b")][..],
            &[("authorization", "Bearer a"), ("authorization", "Bearer b")],
            &[("api-key", "a"), ("x-api-key", "b")],
        ] {
            let ambiguous = Err(Some("ambiguous_credential".to_owned()));
            assert_eq!(of(headers), ambiguous, "{headers:?}");
        }
        for headers in [
            &[("authorization", "Basic YTpi")][..],
            &[("authorization", "Bearer")],
            &[("authorization", "Bearer ")],
            &[("authorization", "a")],
            &[("x-api-key", "")],
        ] {
            let invalid = Err(Some("invalid_api_key".to_owned()));
            assert_eq!(of(headers), invalid, "{headers:?}");
        }
    }
}
