//! Authorities and certificates for one upstream.

use std::fmt;
use std::sync::Arc;

/// What TLS to an upstream is set up with, in PEM. By default the authorities of the system, and no
/// certificate.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The certificates of the authorities that sign the upstream's. They replace those of the system.
    pub authorities: Option<Arc<[u8]>>,
    /// The certificate that the gateway shows, with those that lead to its authority, and its key.
    pub identity: Option<Arc<[u8]>>,
}

impl fmt::Debug for UpstreamTls {
    /// Omits the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamTls")
            .field("authorities", &self.authorities.is_some())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

// === impl UpstreamTls ===

impl UpstreamTls {
    /// Sets up a client with it.
    ///
    /// # Errors
    /// Text that is not PEM.
    pub fn apply(
        &self,
        mut client: reqwest::ClientBuilder,
    ) -> Result<reqwest::ClientBuilder, String> {
        if let Some(pem) = &self.authorities {
            let authorities = reqwest::Certificate::from_pem_bundle(pem)
                .map_err(|error| format!("the certificates of authorities: {error}"))?;
            client = client.tls_certs_only(authorities);
        }
        if let Some(pem) = &self.identity {
            let identity = reqwest::Identity::from_pem(pem)
                .map_err(|error| format!("the certificate of the gateway: {error}"))?;
            client = client.identity(identity);
        }
        Ok(client)
    }
}
