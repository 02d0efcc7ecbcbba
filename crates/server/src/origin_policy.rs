//! Which web pages may use the gateway: CORS, and refusal of requests that CORS does not cover.

use actix_web::HttpResponse;
use actix_web::dev::RequestHead;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use url::Url;

use crate::host_policy::{ClientHost, host_of, is_label, is_loopback};

/// Response headers that pages may read, beside every `x-ratelimit-*`.
const EXPOSED: &str = "Location, X-Request-Id, X-Upstream-Request-Id, Retry-After, X-Should-Retry, \
                       Server-Timing, Tokenwire-Cache, Tokenwire-Dropped-Tools, \
                       x-ratelimit-limit-requests, x-ratelimit-limit-tokens, \
                       x-ratelimit-remaining-requests, x-ratelimit-remaining-tokens, \
                       x-ratelimit-reset-requests, x-ratelimit-reset-tokens";

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Rules for requests from web pages.
#[derive(Clone, Debug)]
pub struct OriginPolicy {
    /// Allowed origins, such as `https://app.example.com`. `https://*.example.com` matches one
    /// label.
    pub allowed: Vec<String>,
    /// Whether pages from loopback origins are allowed.
    pub loopback: bool,
    /// The origin of the configured public URL, which is the gateway's own.
    pub public: Option<String>,
    /// Whether a GET without `Origin` and `Sec-Fetch-*` may start a generation on any host.
    pub allow_get_start: bool,
}

/// The page that a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PageOrigin {
    /// The request has no `Origin`.
    Unnamed,
    /// The gateway's own page.
    Own,
    /// A page of this origin, which is listed, or which the ticket is for.
    Allowed(String),
    /// A page of this origin on the client's own machine, where those are allowed.
    Loopback(String),
    /// A page that is not allowed. The text says why and names a remedy.
    Foreign(String),
}

/// What a request may do, as far as the origin rules are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It reads what any page may request, though not read.
    None,
    /// It changes state, opens a WebSocket or reads a stream.
    Protected,
    /// It is a GET that starts a generation, which a page can send by an image or a link.
    StartsByGet,
}

// === impl OriginPolicy ===

impl OriginPolicy {
    /// Classifies a request by its `Origin`.
    pub(crate) fn classify(&self, head: &RequestHead, host: Option<&ClientHost>) -> PageOrigin {
        let mut origins = head.headers().get_all(header::ORIGIN);
        let Some(origin) = origins.next() else {
            return PageOrigin::Unnamed;
        };
        let origin = origin.to_str().unwrap_or("?");
        if origins.next().is_some() || origin == "null" {
            return foreign(origin);
        }
        let lower = origin.to_ascii_lowercase();
        if self.allowed.iter().any(|allowed| matches(allowed, &lower)) {
            return PageOrigin::Allowed(origin.to_owned());
        }
        let Ok(url) = Url::parse(origin) else {
            return foreign(origin);
        };
        let is_public = self.public.as_ref() == Some(&lower);
        if is_public || host.is_some_and(|host| host.is_own(&url)) {
            return PageOrigin::Own;
        }
        let is_web = matches!(url.scheme(), "http" | "https");
        if self.loopback && is_web && host_of(&url).is_some_and(|host| is_loopback(&host)) {
            return PageOrigin::Loopback(origin.to_owned());
        }
        foreign(origin)
    }

    /// Classifies a request whose ticket is for pages of one origin.
    pub(crate) fn classify_by_ticket(
        &self,
        head: &RequestHead,
        host: Option<&ClientHost>,
        only: &str,
    ) -> PageOrigin {
        let mut origins = head.headers().get_all(header::ORIGIN);
        match (origins.next(), origins.next()) {
            (Some(origin), None) if origin.as_bytes().eq_ignore_ascii_case(only.as_bytes()) => {
                if self.is_own(host, only) {
                    PageOrigin::Own
                } else {
                    PageOrigin::Allowed(only.to_owned())
                }
            }
            // The gateway's own pages send no origin with a GET, others always do.
            (None, _) if self.is_own(host, only) => PageOrigin::Unnamed,
            _ => PageOrigin::Foreign(format!(
                "The ticket is for pages of the origin '{only}'. Get one for this page with POST /v1/tickets."
            )),
        }
    }

    fn is_own(&self, host: Option<&ClientHost>, origin: &str) -> bool {
        let is_public = self
            .public
            .as_ref()
            .is_some_and(|public| public.eq_ignore_ascii_case(origin));
        let url = Url::parse(origin).ok();
        is_public || url.is_some_and(|url| host.is_some_and(|host| host.is_own(&url)))
    }

    /// Returns why a request is refused that has only a cookie. It must come from the gateway's own
    /// page or a listed one: a page on another port of this machine has the same cookies.
    pub(crate) fn cookie_refusal(head: &RequestHead, origin: &PageOrigin) -> Option<String> {
        match origin {
            PageOrigin::Own | PageOrigin::Allowed(_) => None,
            PageOrigin::Foreign(why) => Some(why.clone()),
            PageOrigin::Loopback(origin) => Some(format!(
                "Pages of the origin '{origin}' may not use the cookie. Add it to server.allowed_origins if they should."
            )),
            PageOrigin::Unnamed => {
                let mut sites = head.headers().get_all(SEC_FETCH_SITE).peekable();
                let is_named = sites.peek().is_some();
                let is_own = is_named
                    && sites.all(|site| matches!(site.as_bytes(), b"same-origin" | b"none"));
                (!is_own).then(|| {
                    "A cookie counts only for requests that a browser marks as the gateway's own. Send a key instead."
                        .to_owned()
                })
            }
        }
    }

    /// Returns why a request is refused, or `None` if it may go on. A request with an `Origin` is
    /// judged by that alone, one without by its `Sec-Fetch-*`. A credential in a header shows that no
    /// foreign page made the request start by GET.
    pub(crate) fn refusal(
        &self,
        head: &RequestHead,
        host: &ClientHost,
        origin: &PageOrigin,
        effect: Effect,
        has_credential: bool,
    ) -> Option<String> {
        if effect == Effect::None {
            return None;
        }
        match origin {
            PageOrigin::Own | PageOrigin::Allowed(_) | PageOrigin::Loopback(_) => return None,
            PageOrigin::Foreign(why) => return Some(why.clone()),
            PageOrigin::Unnamed => {}
        }
        let header = |name: HeaderName| head.headers().get(name).map(HeaderValue::as_bytes);
        let site = header(SEC_FETCH_SITE);
        let mut sites = head.headers().get_all(SEC_FETCH_SITE);
        if !sites.all(|site| matches!(site.as_bytes(), b"same-origin" | b"none")) {
            return Some(
                "A web page of another site sent this request without its origin; such requests are refused."
                    .to_owned(),
            );
        }
        if effect == Effect::Protected {
            return None;
        }
        let mode = header(HeaderName::from_static("sec-fetch-mode"));
        let is_prefetch = ["sec-purpose", "purpose", "x-moz"].iter().any(|name| {
            header(HeaderName::from_static(name))
                .is_some_and(|value| value.to_ascii_lowercase().starts_with(b"prefetch"))
        });
        if is_prefetch || mode == Some(b"no-cors") {
            return Some(
                "A prefetch, an image or another request without CORS starts nothing.".to_owned(),
            );
        }
        let may_start = match site {
            Some(b"none") => mode == Some(b"navigate"),
            Some(_) => true,
            None => self.allow_get_start || has_credential || host.is_loopback(head),
        };
        (!may_start).then(|| {
            "A GET starts nothing unless its headers show that no foreign page sent it. Use POST, or set server.allow_get_start."
                .to_owned()
        })
    }
}

/// Whether the origin is the listed one, or has one label in the place of its `*`.
fn matches(pattern: &str, origin: &str) -> bool {
    match pattern.split_once('*') {
        Some((before, after)) => origin
            .strip_prefix(before)
            .and_then(|rest| rest.strip_suffix(after))
            .is_some_and(is_label),
        None => pattern.eq_ignore_ascii_case(origin),
    }
}

fn foreign(origin: &str) -> PageOrigin {
    let origin: String = origin.chars().take(200).collect();
    let remedy = if origin == "null" {
        "It cannot be listed; serve the page from an origin with a name."
    } else {
        "Add it to server.allowed_origins if they should."
    };
    PageOrigin::Foreign(format!(
        "Pages of the origin '{origin}' may not use this gateway. {remedy}"
    ))
}

// === impl PageOrigin ===

impl PageOrigin {
    /// Adds the headers that let the page read the response. Where the cookie is in use
    /// (`has_cookies`), listed pages may send it.
    pub(crate) fn expose(&self, headers: &mut HeaderMap, has_cookies: bool) {
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        let (Self::Allowed(origin) | Self::Loopback(origin)) = self else {
            return;
        };
        if has_cookies && matches!(self, Self::Allowed(_)) {
            headers.insert(
                HeaderName::from_static("access-control-allow-credentials"),
                HeaderValue::from_static("true"),
            );
        }
        let Ok(origin) = HeaderValue::try_from(origin) else {
            return;
        };
        headers.insert(
            HeaderName::from_static("access-control-allow-origin"),
            origin,
        );
        let others: Vec<&str> = headers
            .keys()
            .map(HeaderName::as_str)
            .filter(|name| name.starts_with("x-ratelimit-") && !EXPOSED.contains(name))
            .collect();
        let exposed = if others.is_empty() {
            HeaderValue::from_static(EXPOSED)
        } else {
            let all = format!("{EXPOSED}, {}", others.join(", "));
            HeaderValue::try_from(all).unwrap_or(HeaderValue::from_static(EXPOSED))
        };
        headers.insert(
            HeaderName::from_static("access-control-expose-headers"),
            exposed,
        );
    }

    /// Returns the response to a preflight, which allows all requested headers.
    /// [`PageOrigin::expose`] adds the rest.
    pub(crate) fn preflight(&self, asked: &HeaderMap) -> HttpResponse {
        let mut response = HttpResponse::NoContent();
        response
            .insert_header(("access-control-allow-methods", "GET, HEAD, POST, DELETE"))
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
    use crate::host_policy::HostPolicy;
    use actix_web::test::TestRequest;

    fn policy() -> OriginPolicy {
        OriginPolicy {
            allowed: vec![
                "https://app.example.com".to_owned(),
                "https://*.apps.example.com".to_owned(),
            ],
            loopback: true,
            public: Some("https://public.example.org".to_owned()),
            allow_get_start: false,
        }
    }

    /// `own`, `allowed`, `foreign`; or without an origin, what the request may do.
    fn judge(policy: &OriginPolicy, headers: &[(&'static str, &'static str)]) -> &'static str {
        let mut request = TestRequest::default();
        for header in headers {
            request = request.append_header(*header);
        }
        let request = request.to_http_request();
        let host = HostPolicy::default().check(request.head()).unwrap();
        let origin = policy.classify(request.head(), Some(&host));
        let may = |effect| {
            policy
                .refusal(request.head(), &host, &origin, effect, false)
                .is_none()
        };
        match origin {
            PageOrigin::Own => "own",
            PageOrigin::Allowed(_) | PageOrigin::Loopback(_) => "allowed",
            PageOrigin::Foreign(_) => "foreign",
            PageOrigin::Unnamed if may(Effect::StartsByGet) => "starts",
            PageOrigin::Unnamed if may(Effect::Protected) => "posts",
            PageOrigin::Unnamed => "refused",
        }
    }

    #[test]
    fn a_request_with_an_origin_is_judged_by_it_alone() {
        for (origin, expected) in [
            ("http://localhost:3000", "own"),
            ("http://localhost:5173", "allowed"),
            ("https://localhost:5173", "allowed"),
            ("http://127.0.0.1:8080", "allowed"),
            ("http://[::1]:5173", "allowed"),
            ("http://app.localhost:5173", "allowed"),
            ("http://localhost.:5173", "allowed"),
            ("https://app.example.com", "allowed"),
            ("https://APP.example.com", "allowed"),
            ("https://app.example.com:8443", "foreign"),
            ("http://app.example.com", "foreign"),
            ("https://a.apps.example.com", "allowed"),
            ("https://apps.example.com", "foreign"),
            ("https://a.b.apps.example.com", "foreign"),
            ("https://.apps.example.com", "foreign"),
            ("https://evil.example/.apps.example.com", "foreign"),
            ("https://evil.example?.apps.example.com", "foreign"),
            ("https://public.example.org", "own"),
            ("http://public.example.org", "foreign"),
            ("https://evil.example", "foreign"),
            ("http://localhost.evil.example", "foreign"),
            ("chrome-extension://localhost", "foreign"),
            ("null", "foreign"),
            ("file://", "foreign"),
            ("", "foreign"),
        ] {
            for site in ["cross-site", "same-origin"] {
                let headers = [
                    ("host", "localhost:3000"),
                    ("origin", origin),
                    ("sec-fetch-site", site),
                ];
                assert_eq!(judge(&policy(), &headers), expected, "{origin} {site}");
            }
        }
        let twice = [
            ("host", "localhost:3000"),
            ("origin", "http://localhost:3000"),
            ("origin", "https://evil.example"),
        ];
        assert_eq!(judge(&policy(), &twice), "foreign");
        let strict = OriginPolicy {
            loopback: false,
            ..policy()
        };
        let dev = [
            ("host", "localhost:3000"),
            ("origin", "http://localhost:5173"),
        ];
        assert_eq!(judge(&strict, &dev), "foreign");
    }

    #[test]
    fn a_request_without_an_origin_is_judged_by_its_fetch_metadata() {
        for (headers, expected) in [
            (&[("host", "localhost:3000")][..], "starts"),
            (&[("host", "192.168.1.5:3000")], "posts"),
            (&[("host", "gateway.local")], "posts"),
            (&[("sec-fetch-site", "cross-site")], "refused"),
            (&[("sec-fetch-site", "same-site")], "refused"),
            (&[("sec-fetch-site", "new-value")], "refused"),
            (
                &[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")],
                "refused",
            ),
            (
                &[
                    ("sec-fetch-site", "same-origin"),
                    ("sec-fetch-mode", "cors"),
                ],
                "starts",
            ),
            (
                &[
                    ("sec-fetch-site", "same-origin"),
                    ("sec-fetch-mode", "no-cors"),
                ],
                "posts",
            ),
            (&[("sec-fetch-mode", "no-cors")], "posts"),
            (
                &[("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")],
                "starts",
            ),
            (
                &[("sec-fetch-site", "none"), ("sec-fetch-mode", "cors")],
                "posts",
            ),
            (&[("sec-fetch-site", "none")], "posts"),
            (
                &[
                    ("sec-fetch-site", "none"),
                    ("sec-fetch-mode", "navigate"),
                    ("sec-purpose", "prefetch;prerender"),
                ],
                "posts",
            ),
            (&[("host", "localhost"), ("purpose", "prefetch")], "posts"),
            (&[("host", "localhost"), ("x-moz", "prefetch")], "posts"),
        ] {
            assert_eq!(judge(&policy(), headers), expected, "{headers:?}");
        }
        let open = OriginPolicy {
            allow_get_start: true,
            ..policy()
        };
        assert_eq!(judge(&open, &[("host", "192.168.1.5:3000")]), "starts");
        assert_eq!(judge(&open, &[("sec-fetch-mode", "no-cors")]), "posts");
    }

    #[test]
    fn every_rate_limit_header_is_exposed() {
        let mut headers = HeaderMap::new();
        for name in ["x-ratelimit-limit-requests", "x-ratelimit-limit-images"] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        PageOrigin::Allowed("http://localhost:5173".to_owned()).expose(&mut headers, false);
        let exposed = headers.get("access-control-expose-headers").unwrap();
        let exposed = exposed.to_str().unwrap();
        assert_eq!(exposed.matches("x-ratelimit-limit-requests").count(), 1);
        assert!(exposed.ends_with(", x-ratelimit-limit-images"), "{exposed}");
    }
}
