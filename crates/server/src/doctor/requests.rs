//! HTTP requests of the checks.

use std::error::Error as _;
use std::time::Duration;

use reqwest::{Client, ClientBuilder, RequestBuilder};
use tokenwire_core::upstream::UpstreamTls;

/// The time in which an answer must be complete.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes of a body that are looked at.
const MAX_BODY: usize = 4 << 20;

/// A client that follows no redirect: a key must not go to another host.
pub(super) fn client() -> Result<Client, String> {
    client_with(&UpstreamTls::default())
}

/// The same with what TLS to an upstream is set up with.
pub(super) fn client_with(tls: &UpstreamTls) -> Result<Client, String> {
    builder(tls)?.build().map_err(|error| reason(&error))
}

/// A client that takes any certificate, for the gateway of this machine. Send it no key.
pub(super) fn any_certificate() -> Result<Client, String> {
    let client = builder(&UpstreamTls::default())?.tls_danger_accept_invalid_certs(true);
    client.build().map_err(|error| reason(&error))
}

fn builder(tls: &UpstreamTls) -> Result<ClientBuilder, String> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(tls
        .apply(Client::builder())?
        .connect_timeout(TIMEOUT)
        .tcp_nodelay(true)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("tokenwire-doctor/", env!("CARGO_PKG_VERSION"))))
}

/// Sends a request. Returns the status and the body.
pub(super) async fn get_text(request: RequestBuilder) -> Result<(u16, String), String> {
    let sent = request.timeout(TIMEOUT).send().await;
    let mut response = sent.map_err(|error| reason(&error))?;
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while body.len() < MAX_BODY {
        match response.chunk().await {
            Ok(Some(bytes)) => body.extend_from_slice(&bytes),
            Ok(None) => break,
            Err(error) => return Err(reason(&error)),
        }
    }
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// Returns the innermost reason of an error, without the URL, which may hold a secret.
pub(super) fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", TIMEOUT.as_secs());
    }
    let mut source = error.source();
    let mut innermost = None;
    while let Some(inner) = source {
        innermost = Some(inner.to_string());
        source = inner.source();
    }
    innermost.unwrap_or_else(|| "the request failed".to_owned())
}
