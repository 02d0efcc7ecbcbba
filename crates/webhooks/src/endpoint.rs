//! Destination of a webhook: its URL and signing key.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use url::{Host, Url};

use crate::address::is_public;
use crate::signing_key::SigningKey;

/// Maximum length of a URL in bytes.
pub(crate) const MAX_URL: usize = 2048;

/// A checked URL and its signing key. `Debug` shows the host only: paths and queries may hold
/// tokens.
#[derive(Clone)]
pub(crate) struct Endpoint {
    url: Arc<Url>,
    key: SigningKey,
}

/// Why a URL is refused. The text never quotes the URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlProblem {
    /// Longer than 2,048 bytes.
    #[error("is longer than {MAX_URL} bytes")]
    TooLong,
    /// Not an absolute URL.
    #[error("is not a URL; write it whole, as https://example.com/hook")]
    Unparsable,
    /// Neither https nor http.
    #[error("has a scheme that is neither https nor http")]
    Scheme,
    /// Contains a user name or a password.
    #[error(
        "holds a user name or a password, which could reach logs; the signature proves the sender"
    )]
    Credentials,
    /// Contains a fragment.
    #[error("holds a fragment, which is never sent")]
    Fragment,
    /// Port 0.
    #[error("names port 0, which nothing listens on")]
    NoPort,
    /// A port below 1024 other than 80 and 443.
    #[error(
        "names a port of another protocol; 80, 443 and ports from 1024 are accepted, unless webhooks.allow_private is set"
    )]
    Port,
    /// Leads to an address outside the public internet.
    #[error(
        "leads to a private, loopback or otherwise special address, which webhooks.allow_private has to allow"
    )]
    Private,
}

/// Parses a URL and checks it without the network. The addresses of its host are checked at every
/// attempt.
///
/// # Errors
/// [`UrlProblem`].
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

/// Whether the host is a non-public address in any notation, or a name of the local machine.
pub(crate) fn leads_inside(url: &Url) -> bool {
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
    pub(crate) fn new(url: Url, key: SigningKey) -> Self {
        Self {
            url: Arc::new(url),
            key,
        }
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    pub(crate) fn key(&self) -> &SigningKey {
        &self.key
    }

    /// Returns the host, with the port if it is not the scheme's default. No other part of the URL
    /// is ever shown.
    pub(crate) fn host_and_port(&self) -> String {
        let host = self.host();
        self.url
            .port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// Returns the host without its port. Limits apply to each host.
    pub(crate) fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("host", &self.host_and_port())
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
    fn invalid_urls_are_refused() {
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
    fn private_addresses_are_refused_in_every_notation() {
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
                "{host} was refused although private hosts are allowed"
            );
        }
    }

    #[test]
    fn debug_shows_only_the_host() {
        let url = parse_url("https://example.com:8443/secret-path?token=secret", false).unwrap();
        let key = SigningKey::parse(&format!("whsec_{}", "A".repeat(32))).unwrap();
        let endpoint = Endpoint::new(url, key);
        assert_eq!(
            (endpoint.host_and_port().as_str(), endpoint.host()),
            ("example.com:8443", "example.com")
        );
        assert_eq!(
            format!("{endpoint:?}"),
            "Endpoint { host: \"example.com:8443\", .. }"
        );
    }
}
