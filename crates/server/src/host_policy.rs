//! The host that a client asked for, and the hosts that are served.
//!
//! A page of `evil.example` can make its own name resolve to this machine (DNS rebinding). Its
//! requests are then of the same origin as the gateway for the browser, and only their `Host` shows
//! where they come from. So the gateway serves names that no stranger can make resolve to it, and
//! names that are configured.

use std::cell::RefCell;
use std::rc::Rc;

use actix_web::dev::RequestHead;
use actix_web::http::Version;
use actix_web::http::header::{self, HeaderName};
use url::{Host, Url};

use crate::config::address_range::AddressRange;

const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Rules for the host of a request.
#[derive(Clone, Debug, Default)]
pub struct HostPolicy {
    allowed: Vec<String>,
    public_url: Option<Url>,
    proxies: Vec<AddressRange>,
    machine: Option<String>,
    /// Whether clients reach the listener over TLS.
    tls: bool,
    /// The last host that was served. Most requests name the same one.
    last: RefCell<Option<Rc<ServedHost>>>,
}

/// A host that is served.
#[derive(Debug, PartialEq, Eq)]
struct ServedHost {
    /// As the client wrote it, with the port.
    text: String,
    host: Host,
    port: Option<u16>,
    /// The scheme, unless a proxy that ends TLS may be in front.
    scheme: Option<&'static str>,
}

/// The host of a request, as the client named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientHost {
    /// Absent in HTTP/1.0.
    served: Option<Rc<ServedHost>>,
    /// The scheme, unless a proxy that ends TLS may be in front.
    scheme: Option<&'static str>,
    /// Whether the peer is a trusted proxy.
    is_trusted: bool,
    /// Whether the connection comes from this machine.
    is_local_peer: bool,
}

/// A host that is not served, as the client named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostNotAllowed(pub(crate) String);

// === impl HostPolicy ===

impl HostPolicy {
    /// Makes the rules. `allowed` are host names; `*.example.com` stands for one label.
    #[must_use]
    pub fn new(allowed: &[String], public_url: Option<Url>, proxies: Vec<AddressRange>) -> Self {
        let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        Self {
            allowed: allowed.iter().map(|name| normal(name)).collect(),
            public_url,
            proxies,
            machine: machine.map(|name| normal(name.trim())),
            tls: false,
            last: RefCell::default(),
        }
    }

    /// Returns the policy of a listener that clients reach over TLS, or not.
    #[must_use]
    pub fn over_tls(self, tls: bool) -> Self {
        Self { tls, ..self }
    }

    /// Returns the host that the client named, if it is served.
    ///
    /// That is `:authority` in HTTP/2 and `Host` in HTTP/1.1. `X-Forwarded-Host` and
    /// `X-Forwarded-Proto` count only where the peer is a trusted proxy.
    pub(crate) fn check(&self, head: &RequestHead) -> Result<ClientHost, HostNotAllowed> {
        let peer = head.peer_addr.map(|peer| peer.ip());
        let is_trusted =
            peer.is_some_and(|peer| self.proxies.iter().any(|proxy| proxy.contains(peer)));
        // The nearest proxy writes the last value.
        let forwarded = |name: HeaderName| {
            if !is_trusted {
                return None;
            }
            let value = head.headers().get_all(name).last()?.to_str().ok()?;
            value.rsplit(',').next().map(str::trim)
        };
        let mut client = ClientHost {
            served: None,
            scheme: Some(if self.tls { "https" } else { "http" }),
            is_trusted,
            is_local_peer: peer.is_none_or(|peer| peer.to_canonical().is_loopback()),
        };
        let named = forwarded(X_FORWARDED_HOST);
        let authority = head.uri.authority().map(|authority| authority.as_str());
        let hosts = head.headers().get_all(header::HOST);
        let hosts = hosts.map(|host| host.to_str().unwrap_or("?"));
        let mut named = named
            .into_iter()
            .chain(authority.into_iter().chain(hosts))
            .take(if named.is_some() { 1 } else { usize::MAX });
        // Several names that differ are an attempt to show one to a proxy and another to us.
        let Some(first) = named.next().filter(|name| !name.is_empty()) else {
            return Ok(client);
        };
        let refused = || HostNotAllowed(first.chars().take(200).collect());
        if named.any(|name| !name.eq_ignore_ascii_case(first)) {
            return Err(refused());
        }
        let served = self.serve(first).ok_or_else(refused)?;
        client.scheme = match forwarded(X_FORWARDED_PROTO) {
            Some(proto) if proto.eq_ignore_ascii_case("https") => Some("https"),
            Some(_) => Some("http"),
            None => served.scheme,
        };
        client.served = Some(served);
        Ok(client)
    }

    /// Whether the client of this request uses https, as far as that can be known.
    pub(crate) fn is_https(&self, head: &RequestHead) -> bool {
        match self.check(head).map(|host| host.scheme) {
            Ok(Some(scheme)) => scheme == "https",
            Ok(None) | Err(_) if self.tls => true,
            // A proxy that ends TLS may be in front: a browser says so by its page's origin.
            Ok(None) | Err(_) => {
                let origin = head.headers().get(header::ORIGIN);
                origin.is_some_and(|origin| origin.as_bytes().starts_with(b"https://"))
            }
        }
    }

    /// Returns a host that is not among those that are served, for a request with a credential: no
    /// page can have made that up.
    pub(crate) fn unlisted(&self) -> ClientHost {
        ClientHost {
            served: None,
            scheme: None,
            is_trusted: false,
            is_local_peer: false,
        }
    }

    /// Returns the host with this name and port, if it is served.
    fn serve(&self, text: &str) -> Option<Rc<ServedHost>> {
        if let Some(last) = &*self.last.borrow()
            && last.text == text
        {
            return Some(last.clone());
        }
        let (host, port) = parse(text)?;
        let is_listed = self.is_listed(&host);
        if !is_listed && !self.is_safe(&host) {
            return None;
        }
        let scheme = if self.tls {
            Some("https")
        } else if self.is_public(&host) {
            self.public_scheme()
        } else if is_listed {
            None
        } else {
            Some("http")
        };
        let served = Rc::new(ServedHost {
            text: text.to_owned(),
            host,
            port,
            scheme,
        });
        *self.last.borrow_mut() = Some(served.clone());
        Some(served)
    }

    fn public_scheme(&self) -> Option<&'static str> {
        self.public_url.as_ref().map(|url| match url.scheme() {
            "https" => "https",
            _ => "http",
        })
    }

    fn is_public(&self, host: &Host) -> bool {
        let public = self.public_url.as_ref().and_then(Url::host);
        public.is_some_and(|public| public == *host)
    }

    /// Whether the host is configured.
    fn is_listed(&self, host: &Host) -> bool {
        let name = host.to_string();
        self.is_public(host) || self.allowed.iter().any(|pattern| matches(pattern, &name))
    }

    /// Whether no public DNS name can be the host.
    fn is_safe(&self, host: &Host) -> bool {
        let Host::Domain(name) = host else {
            return true;
        };
        let is_below = |zone: &str| name.ends_with(zone);
        !name.contains('.')
            || [".localhost", ".internal", ".local"]
                .into_iter()
                .any(is_below)
            || self.machine.as_ref() == Some(name)
    }
}

// === impl ClientHost ===

impl ClientHost {
    /// Whether `origin` is the gateway's own: scheme, host and port as the client named them.
    pub(crate) fn is_own(&self, origin: &Url) -> bool {
        let (Some(served), Some(origin_host)) = (&self.served, host_of(origin)) else {
            return false;
        };
        let default = match origin.scheme() {
            "http" => 80,
            "https" => 443,
            _ => return false,
        };
        origin_host == served.host
            && origin.port_or_known_default() == Some(served.port.unwrap_or(default))
            && self.scheme.is_none_or(|scheme| scheme == origin.scheme())
    }

    /// Whether the client is a program on this machine, as far as headers show: no proxy is between.
    pub(crate) fn is_local(&self, head: &RequestHead) -> bool {
        self.is_local_peer && self.is_loopback(head)
    }

    /// Whether a browser would have sent `Sec-Fetch-*` with this request. Browsers send them over
    /// plain HTTP only to loopback hosts; a proxy may have rewritten the host to one, unless it is
    /// trusted and names the client's. HTTP/1.0 with a host is how nginx forwards by default.
    pub(crate) fn is_loopback(&self, head: &RequestHead) -> bool {
        let has = |name: HeaderName| head.headers().contains_key(name);
        let is_forwarded = has(header::FORWARDED)
            || has(header::VIA)
            || has(X_FORWARDED_FOR)
            || has(X_FORWARDED_HOST)
            || (head.version < Version::HTTP_11 && self.served.is_some());
        let is_direct = !is_forwarded || (self.is_trusted && has(X_FORWARDED_HOST));
        is_direct
            && match &self.served {
                Some(served) => is_loopback(&served.host),
                None => self.is_local_peer,
            }
    }
}

/// Returns the host of an origin. As in a `Host`, a final dot does not count.
pub(crate) fn host_of(origin: &Url) -> Option<Host<&str>> {
    origin.host().map(|host| match host {
        Host::Domain(name) => Host::Domain(name.strip_suffix('.').unwrap_or(name)),
        address => address,
    })
}

/// Whether the host is a loopback address or name.
pub(crate) fn is_loopback<S: AsRef<str>>(host: &Host<S>) -> bool {
    match host {
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
        Host::Domain(name) => {
            let name = name.as_ref();
            name == "localhost" || name.ends_with(".localhost")
        }
    }
}

/// Whether `name` is the pattern's name, or has one label in the place of its `*`.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(rest) => name.strip_suffix(rest).is_some_and(is_label),
        None => pattern == name,
    }
}

/// Whether the text is one label of a host name.
pub(crate) fn is_label(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !text.is_empty() && text.bytes().all(is_letter)
}

fn normal(name: &str) -> String {
    match parse(name) {
        Some((host, _)) if !name.starts_with('*') => host.to_string(),
        _ => name.to_ascii_lowercase(),
    }
}

/// Parses `host` or `host:port`, with IPv6 addresses in brackets.
fn parse(text: &str) -> Option<(Host, Option<u16>)> {
    if let Ok(address) = text.parse() {
        return Some((Host::Ipv6(address), None));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (text, ""),
    };
    let port = match port {
        "" => None,
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
        _ => return None,
    };
    // The zone of a link-local address is not part of a URL's host.
    if let Some((address, _)) = host.strip_prefix('[').and_then(|host| host.split_once('%')) {
        return Some((Host::Ipv6(address.parse().ok()?), port));
    }
    let host = Host::parse(host.strip_suffix('.').unwrap_or(host)).ok()?;
    Some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::HttpRequest;
    use actix_web::test::TestRequest;

    fn policy() -> HostPolicy {
        HostPolicy {
            machine: Some("box.lan.example".to_owned()),
            ..HostPolicy::new(
                &[
                    "Chat.Example.com".to_owned(),
                    "*.apps.example.com".to_owned(),
                ],
                Some(Url::parse("https://public.example.org:8443").unwrap()),
                vec![AddressRange::parse("10.0.0.0/8").unwrap()],
            )
        }
    }

    fn request(peer: &str, headers: &[(&'static str, &'static str)]) -> HttpRequest {
        let peer = format!("{peer}:1234").parse().unwrap();
        let mut request = TestRequest::default().peer_addr(peer);
        for header in headers {
            request = request.append_header(*header);
        }
        request.to_http_request()
    }

    fn check(peer: &str, headers: &[(&'static str, &'static str)]) -> Result<ClientHost, String> {
        let request = request(peer, headers);
        policy().check(request.head()).map_err(|refused| refused.0)
    }

    #[test]
    fn last_served_host_vouches_for_no_other() {
        let policy = policy();
        let serves = |host| policy.check(request("127.0.0.1", &[("host", host)]).head());
        for _ in 0..2 {
            let public = serves("public.example.org:8443").unwrap();
            assert_eq!(public.scheme, Some("https"));
            assert!(serves("evil.example").is_err());
            assert!(serves("public.example.org:844").is_ok());
            let local = serves("localhost:8443").unwrap();
            assert_eq!(local.scheme, Some("http"));
            assert!(!local.is_own(&Url::parse("https://public.example.org:8443").unwrap()));
            assert!(serves("localhost:8443").is_ok() && serves("LOCALHOST:x").is_err());
        }
    }

    #[test]
    fn names_that_only_strangers_use_are_refused() {
        for host in [
            "127.0.0.1:3000",
            "127.1",
            "192.168.1.5",
            "203.0.113.9:80",
            "[::1]:3000",
            "[fe80::1%25eth0]:3000",
            "[2001:db8::1]",
            "localhost",
            "LOCALHOST:3000",
            "localhost.",
            "app.localhost",
            "host.docker.internal:3000",
            "gateway.internal",
            "printer.local",
            "gateway",
            "my_gateway:3000",
            "box.lan.example",
            "chat.example.com",
            "CHAT.example.com:8080",
            "chat.example.com.",
            "a.apps.example.com",
            "public.example.org",
            "",
        ] {
            assert!(check("127.0.0.1", &[("host", host)]).is_ok(), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:3000",
            "localhost.evil.example",
            "evil.localhost.example",
            "127.0.0.1.nip.io",
            "internal.example",
            "example.com",
            "apps.example.com",
            "a.b.apps.example.com",
            "xchat.example.com",
            "evil.example/",
            "user@localhost",
            "localhost:port",
            "local host",
            "evil.example#.local",
        ] {
            assert_eq!(check("127.0.0.1", &[("host", host)]), Err(host.to_owned()));
        }
        assert!(check("127.0.0.1", &[]).is_ok());
        assert!(check("127.0.0.1", &[("host", "localhost"), ("host", "localhost")]).is_ok());
        assert!(
            check(
                "127.0.0.1",
                &[("host", "localhost"), ("host", "evil.example")]
            )
            .is_err()
        );
    }

    #[test]
    fn forwarded_hosts_count_only_from_trusted_proxies() {
        let headers = [("host", "localhost"), ("x-forwarded-host", "evil.example")];
        assert!(check("127.0.0.1", &headers).is_ok());
        assert_eq!(check("10.1.2.3", &headers), Err("evil.example".to_owned()));
        let headers = [("host", "evil.example"), ("x-forwarded-host", "localhost")];
        assert!(check("127.0.0.1", &headers).is_err());
        assert!(check("10.1.2.3", &headers).is_ok());
        let appended = [("x-forwarded-host", "localhost, evil.example")];
        assert!(check("10.1.2.3", &appended).is_err());
    }

    #[test]
    fn own_origins_have_scheme_host_and_port_of_the_request() {
        let own = |peer, headers: &[_], origin: &str| {
            check(peer, headers)
                .unwrap()
                .is_own(&Url::parse(origin).unwrap())
        };
        for (host, origin, expected) in [
            ("localhost:3000", "http://localhost:3000", true),
            ("localhost:3000", "https://localhost:3000", false),
            ("localhost:3000", "http://localhost:3001", false),
            ("localhost", "http://localhost", true),
            ("localhost.:3000", "http://localhost.:3000", true),
            ("chat.example.com.", "https://chat.example.com.", true),
            ("localhost:80", "http://localhost", true),
            ("[::1]:3000", "http://[::1]:3000", true),
            ("192.168.1.5:3000", "http://192.168.1.5:3000", true),
            // A name that is listed may be served by a proxy that ends TLS.
            ("chat.example.com", "https://chat.example.com", true),
            ("chat.example.com", "http://chat.example.com", true),
            ("chat.example.com", "https://chat.example.com:8443", false),
            (
                "public.example.org:8443",
                "https://public.example.org:8443",
                true,
            ),
            (
                "public.example.org:8443",
                "http://public.example.org:8443",
                false,
            ),
        ] {
            assert_eq!(
                own("127.0.0.1", &[("host", host)], origin),
                expected,
                "{host} {origin}"
            );
        }
        let https = [("host", "192.168.1.5"), ("x-forwarded-proto", "https")];
        assert!(own("10.1.2.3", &https, "https://192.168.1.5"));
        assert!(!own("10.1.2.3", &https, "http://192.168.1.5"));
        assert!(!own("127.0.0.1", &https, "https://192.168.1.5"));
    }

    #[test]
    fn own_origins_over_tls_are_https() {
        let policy = policy().over_tls(true);
        let own = |request: HttpRequest, origin: &str| {
            let host = policy.check(request.head()).unwrap();
            host.is_own(&Url::parse(origin).unwrap())
        };
        for (host, origin, expected) in [
            ("localhost:3000", "https://localhost:3000", true),
            ("localhost:3000", "http://localhost:3000", false),
            ("chat.example.com", "https://chat.example.com", true),
            ("chat.example.com", "http://chat.example.com", false),
        ] {
            let old = request("127.0.0.1", &[("host", host)]);
            assert_eq!(own(old, origin), expected, "{host} {origin}");
            // HTTP/2 names the host in the URI.
            let new = TestRequest::with_uri(&format!("https://{host}/"));
            assert_eq!(own(new.to_http_request(), origin), expected, "{host}");
        }
        let two = TestRequest::with_uri("https://localhost:3000/")
            .insert_header(("host", "evil.example"))
            .to_http_request();
        assert!(policy.check(two.head()).is_err());
        let foreign = TestRequest::with_uri("https://evil.example/").to_http_request();
        assert!(policy.check(foreign.head()).is_err() && policy.is_https(foreign.head()));
    }

    #[test]
    fn loopback_is_judged_by_the_host_and_not_behind_proxies() {
        for (peer, headers, expected) in [
            ("127.0.0.1", &[("host", "localhost:3000")][..], true),
            // A container's port that is published on the host's loopback.
            ("172.17.0.1", &[("host", "127.0.0.1:3000")], true),
            ("127.0.0.1", &[("host", "gateway.local")], false),
            ("127.0.0.1", &[("host", "0.0.0.0:3000")], false),
            ("127.0.0.1", &[], true),
            ("192.168.1.7", &[], false),
            (
                "127.0.0.1",
                &[("host", "localhost"), ("x-forwarded-for", "192.168.1.7")],
                false,
            ),
            // A trusted proxy that does not say which host the client named.
            (
                "10.1.2.3",
                &[("host", "localhost"), ("x-forwarded-for", "192.168.1.7")],
                false,
            ),
            (
                "10.1.2.3",
                &[("host", "10.0.0.1"), ("x-forwarded-host", "localhost:8080")],
                true,
            ),
        ] {
            let request = request(peer, headers);
            let host = policy().check(request.head()).unwrap();
            assert_eq!(host.is_loopback(request.head()), expected, "{headers:?}");
        }
        let old = TestRequest::default()
            .version(Version::HTTP_10)
            .peer_addr("127.0.0.1:1".parse().unwrap())
            .insert_header(("host", "127.0.0.1:3000"))
            .to_http_request();
        let host = policy().check(old.head()).unwrap();
        assert!(!host.is_loopback(old.head()));
    }
}
