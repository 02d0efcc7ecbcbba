//! Which web pages may use the gateway: CORS, and refusal of requests that CORS does not cover.

use std::net::IpAddr;

use actix_web::HttpResponse;
use actix_web::dev::RequestHead;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

/// Response headers that pages may read.
const EXPOSED: &str =
    "Location, X-Request-Id, X-Upstream-Request-Id, Retry-After, X-Should-Retry, Tokenwire-Cache";

/// Rules for requests from web pages.
#[derive(Clone, Debug)]
pub struct OriginPolicy {
    /// Allowed origins, such as `https://app.example.com`.
    pub allowed: Vec<String>,
    /// Whether pages from loopback origins are allowed.
    pub loopback: bool,
    /// Whether the gateway listens on loopback only. Then a page whose host name resolves to this
    /// machine (DNS rebinding) is not the gateway's own page.
    pub local_only: bool,
}

/// The page that a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PageOrigin {
    /// No page, as far as the headers show.
    NoPage,
    /// The gateway's own page.
    Own,
    /// A page of this origin, which is allowed.
    Allowed(String),
    /// A page that is not allowed. The text says why and names a remedy.
    Foreign(String),
}

// === impl OriginPolicy ===

impl OriginPolicy {
    /// Classifies a request by its `Origin` and `Sec-Fetch-Site`.
    pub(crate) fn classify(&self, head: &RequestHead) -> PageOrigin {
        let header = |name: &str| {
            head.headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        match header("origin") {
            Some(origin) => {
                let origin = origin.trim_end_matches('/');
                if self
                    .allowed
                    .iter()
                    .any(|allowed| allowed.trim_end_matches('/').eq_ignore_ascii_case(origin))
                {
                    return PageOrigin::Allowed(origin.to_owned());
                }
                let Some(host) = Url::parse(origin)
                    .ok()
                    .and_then(|url| url.host_str().map(str::to_owned))
                else {
                    return foreign(origin);
                };
                let own = header("host").is_some_and(|host| same_host(origin, host));
                if own && (is_loopback(&host) || !self.local_only) {
                    return PageOrigin::Own;
                }
                if self.loopback && is_loopback(&host) {
                    return PageOrigin::Allowed(origin.to_owned());
                }
                foreign(origin)
            }
            None if header("sec-fetch-site") == Some("cross-site") => PageOrigin::Foreign(
                "A web page of another site sent this request without its origin; such requests are refused."
                    .to_owned(),
            ),
            None => PageOrigin::NoPage,
        }
    }
}

fn foreign(origin: &str) -> PageOrigin {
    let origin: String = origin.chars().take(200).collect();
    PageOrigin::Foreign(format!(
        "Pages of the origin '{origin}' may not use this gateway. Add it to server.allowed_origins if they should."
    ))
}

/// Whether the origin (`http://host:port`) names the requested host.
fn same_host(origin: &str, host: &str) -> bool {
    origin
        .split_once("://")
        .is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost")
        || bare.to_ascii_lowercase().ends_with(".localhost")
        || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

// === impl PageOrigin ===

impl PageOrigin {
    /// Adds the headers that let the page read the response.
    pub(crate) fn expose(&self, headers: &mut HeaderMap) {
        headers.append(
            HeaderName::from_static("vary"),
            HeaderValue::from_static("Origin"),
        );
        if let Self::Allowed(origin) = self
            && let Ok(origin) = HeaderValue::try_from(origin)
        {
            headers.insert(
                HeaderName::from_static("access-control-allow-origin"),
                origin,
            );
            headers.insert(
                HeaderName::from_static("access-control-allow-credentials"),
                HeaderValue::from_static("true"),
            );
            headers.insert(
                HeaderName::from_static("access-control-expose-headers"),
                HeaderValue::from_static(EXPOSED),
            );
        }
    }

    /// Returns the response to a preflight, which allows all requested headers.
    /// [`PageOrigin::expose`] adds the rest.
    pub(crate) fn preflight(&self, asked: &HeaderMap) -> HttpResponse {
        let mut response = HttpResponse::NoContent();
        response
            .insert_header(("access-control-allow-methods", "GET, POST, DELETE"))
            .insert_header(("access-control-max-age", "600"));
        if let Some(names) = asked.get("access-control-request-headers") {
            response.insert_header(("access-control-allow-headers", names.clone()));
        }
        response.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    fn check(policy: &OriginPolicy, headers: &[(&'static str, &'static str)], expected: &str) {
        let mut request = TestRequest::default();
        for header in headers {
            request = request.insert_header(*header);
        }
        let request = request.to_http_request();
        let origin = match policy.classify(request.head()) {
            PageOrigin::NoPage => "no page",
            PageOrigin::Own => "own",
            PageOrigin::Allowed(_) => "allowed",
            PageOrigin::Foreign(_) => "foreign",
        };
        assert_eq!(origin, expected, "{headers:?}");
    }

    #[test]
    fn pages_are_allowed_by_origin() {
        let local = OriginPolicy {
            allowed: vec!["https://app.example.com".to_owned()],
            loopback: true,
            local_only: true,
        };
        check(&local, &[("host", "localhost:3000")], "no page");
        check(
            &local,
            &[
                ("host", "localhost:3000"),
                ("origin", "http://localhost:3000"),
            ],
            "own",
        );
        check(
            &local,
            &[
                ("host", "localhost:3000"),
                ("origin", "http://localhost:5173"),
            ],
            "allowed",
        );
        check(
            &local,
            &[("host", "127.0.0.1:3000"), ("origin", "http://[::1]:5173")],
            "allowed",
        );
        check(
            &local,
            &[
                ("host", "localhost:3000"),
                ("origin", "https://app.example.com"),
            ],
            "allowed",
        );
        check(
            &local,
            &[
                ("host", "localhost:3000"),
                ("origin", "https://evil.example"),
            ],
            "foreign",
        );
        check(
            &local,
            &[
                ("host", "localhost:3000"),
                ("origin", "http://localhost.evil.example"),
            ],
            "foreign",
        );
        check(
            &local,
            &[("host", "localhost:3000"), ("origin", "null")],
            "foreign",
        );
        check(
            &local,
            &[("host", "localhost:3000"), ("sec-fetch-site", "cross-site")],
            "foreign",
        );
        check(
            &local,
            &[
                ("host", "localhost:3000"),
                ("sec-fetch-site", "same-origin"),
            ],
            "no page",
        );
        // DNS rebinding: a foreign name that resolves to this machine.
        check(
            &local,
            &[
                ("host", "evil.example:3000"),
                ("origin", "http://evil.example:3000"),
            ],
            "foreign",
        );

        let strict = OriginPolicy {
            loopback: false,
            ..local.clone()
        };
        check(
            &strict,
            &[
                ("host", "localhost:3000"),
                ("origin", "http://localhost:5173"),
            ],
            "foreign",
        );
        let public = OriginPolicy {
            local_only: false,
            ..local
        };
        check(
            &public,
            &[("host", "chat.example"), ("origin", "http://chat.example")],
            "own",
        );
    }
}
