//! Where a webhook goes, and what it is signed with.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use url::{Host, Url};

use super::address::is_public;
use super::signature::SigningKey;

/// The longest URL, in bytes.
pub const MAX_URL: usize = 2048;

/// A checked URL and the key of its owner's. `Debug` shows the host only: people put tokens into
/// paths and queries.
#[derive(Clone)]
pub struct Endpoint {
    url: Arc<Url>,
    key: SigningKey,
}

/// Why a URL is not taken. Its text never quotes the URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlProblem {
    #[error("is longer than {MAX_URL} bytes")]
    TooLong,
    #[error("is not a URL; write it whole, as https://example.com/hook")]
    Unparsable,
    #[error("has a scheme that is neither https nor http")]
    Scheme,
    #[error(
        "holds a user name or a password, which would reach logs on its way; the signature says who sends it"
    )]
    Credentials,
    #[error("holds a fragment, which is never sent")]
    Fragment,
    #[error("names port 0, which nothing listens on")]
    NoPort,
    #[error(
        "names a port of another protocol; 80, 443 and those from 1024 on are taken, unless webhooks.allow_private is set"
    )]
    Port,
    #[error(
        "leads to a private, loopback or otherwise special address, which webhooks.allow_private has to allow"
    )]
    Private,
}

/// Reads a URL and checks all of it that can be checked without asking anybody. What a name
/// resolves to is checked at every attempt.
pub fn parse_url(text: &str, allow_private: bool) -> Result<Url, UrlProblem> {
    if text.len() > MAX_URL {
        return Err(UrlProblem::TooLong);
    }
    let url = Url::parse(text).map_err(|_| UrlProblem::Unparsable)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(UrlProblem::Scheme);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(UrlProblem::Credentials);
    }
    if url.fragment().is_some() {
        return Err(UrlProblem::Fragment);
    }
    match url.port_or_known_default() {
        Some(0) | None => return Err(UrlProblem::NoPort),
        Some(80 | 443 | 1024..) => {}
        Some(_) if allow_private => {}
        Some(_) => return Err(UrlProblem::Port),
    }
    if !allow_private && leads_inside(&url) {
        return Err(UrlProblem::Private);
    }
    Ok(url)
}

/// Whether the host is an address that is not public, in whatever notation, or a name that is never
/// anything else.
pub fn leads_inside(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => !is_public(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => !is_public(IpAddr::V6(address)),
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
        None => true,
    }
}

// === impl Endpoint ===

impl Endpoint {
    pub fn new(url: Url, key: SigningKey) -> Self {
        Self {
            url: Arc::new(url),
            key,
        }
    }

    pub fn url(&self) -> &Url {
        &self.url
    }

    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// The host and, if it is not the scheme's, the port: all of the URL that is shown to anybody.
    pub fn host(&self) -> String {
        let host = self.machine();
        self.url
            .port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// The host without its port: what deliveries share a machine by.
    pub fn machine(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("host", &self.host())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, UrlProblem>) {
        let found = parse_url(text, false).map(|url| url.host_str().unwrap_or_default().to_owned());
        assert_eq!(
            found.as_deref().map_err(|problem| *problem),
            expected,
            "{text}"
        );
    }

    #[test]
    fn urls_are_taken_only_as_they_should_be() {
        check("https://example.com/hook?token=1", Ok("example.com"));
        check("http://example.com:8080/", Ok("example.com"));
        check("https://8.8.8.8/", Ok("8.8.8.8"));
        check(
            &format!("https://example.com/{}", "a".repeat(MAX_URL)),
            Err(UrlProblem::TooLong),
        );
        for text in [
            "",
            "example.com/hook",
            "https://",
            "https://exa mple.com",
            "https://example.com:99999/",
            "https://[::1",
            "//example.com",
        ] {
            check(text, Err(UrlProblem::Unparsable));
        }
        for text in [
            "ftp://example.com/",
            "file:///etc/passwd",
            "gopher://example.com/",
            "javascript:alert(1)",
            "unix:/run/docker.sock",
        ] {
            check(text, Err(UrlProblem::Scheme));
        }
        check("https://user@example.com/", Err(UrlProblem::Credentials));
        check(
            "https://:password@example.com/",
            Err(UrlProblem::Credentials),
        );
        check("https://example.com/#part", Err(UrlProblem::Fragment));
        check("https://example.com:0/", Err(UrlProblem::NoPort));
        for port in [22, 25, 1023] {
            check(
                &format!("http://example.com:{port}/"),
                Err(UrlProblem::Port),
            );
        }
    }

    #[test]
    fn addresses_are_seen_through_in_every_notation() {
        for host in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "0x7f.1",
            "127.0.0.1.",
            "0",
            "0.0.0.0",
            "%31%32%37.0.0.1",
            "１２７.0.0.1",
            "169.254.169.254",
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[0:0:0:0:0:ffff:a9fe:a9fe]",
            "[64:ff9b::7f00:1]",
            "[fd00::1]",
            "[fe80::1]",
            "localhost",
            "LOCALHOST",
            "localhost.",
            "a.localhost",
        ] {
            check(&format!("http://{host}/"), Err(UrlProblem::Private));
            assert!(
                parse_url(&format!("http://{host}/"), true).is_ok(),
                "{host} is refused where it is allowed"
            );
        }
    }

    #[test]
    fn nothing_but_the_host_is_shown() {
        let url = parse_url("https://example.com:8443/secret-path?token=secret", false).unwrap();
        let key = SigningKey::parse(&format!("whsec_{}", "A".repeat(32))).unwrap();
        let endpoint = Endpoint::new(url, key);
        assert_eq!(
            (endpoint.host().as_str(), endpoint.machine()),
            ("example.com:8443", "example.com")
        );
        assert_eq!(
            format!("{endpoint:?}"),
            "Endpoint { host: \"example.com:8443\", .. }"
        );
    }
}
