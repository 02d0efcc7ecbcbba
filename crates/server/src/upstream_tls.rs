//! Reads the files that TLS to an upstream is set up with.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use tokenwire_core::upstream::UpstreamTls;

use crate::config::schema;

/// The largest file that is read, in bytes. The authorities of a system take some hundred KiB.
const MAX_FILE: u64 = 4 << 20;

/// Why TLS to an upstream cannot be set up. Names the key, the file and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UpstreamTlsError {
    /// A file cannot be read.
    #[error(
        "tls.{key}: cannot read {path}: {why}; name a PEM file that the user of the gateway may read"
    )]
    Unreadable {
        /// The key below `tls`.
        key: &'static str,
        /// The file.
        path: String,
        /// The system's error.
        why: String,
    },
    /// A file has no certificate, or no key.
    #[error(
        "tls.{key}: {path} holds no {wanted} in PEM; it has to have a line `-----BEGIN {begin}-----`"
    )]
    NotPem {
        /// The key below `tls`.
        key: &'static str,
        /// The file.
        path: String,
        /// What is missing.
        wanted: &'static str,
        /// What such a block begins with.
        begin: &'static str,
    },
    /// The two files do not belong together.
    #[error(
        "tls.key: {key} is not the key of the first certificate in {cert} ({why}); name the key that the certificate was made with"
    )]
    Mismatch {
        /// The file of the key.
        key: String,
        /// The file of the certificate.
        cert: String,
        /// The library's error.
        why: String,
    },
}

/// Reads the files of an upstream. Blocks while it reads.
///
/// # Errors
/// A file that is missing, unreadable or no PEM, and a key of another certificate.
pub(crate) fn read(tls: &schema::UpstreamTls) -> Result<UpstreamTls, UpstreamTlsError> {
    let authorities = match &tls.ca {
        Some(path) => {
            let pem = read_file("ca", path)?;
            certificates("ca", path, &pem)?;
            Some(pem.into())
        }
        None => None,
    };
    let identity = match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => Some(identity(cert, key)?),
        _ => None,
    };
    Ok(UpstreamTls {
        authorities,
        identity,
    })
}

/// Returns the files that TLS to these upstreams is set up with.
pub(crate) fn files(upstreams: &[schema::Upstream]) -> Vec<PathBuf> {
    let tls = upstreams.iter().map(|upstream| &upstream.tls);
    let paths = tls.flat_map(|tls| [&tls.ca, &tls.cert, &tls.key]);
    paths.flatten().map(PathBuf::from).collect()
}

fn identity(cert: &str, key: &str) -> Result<Arc<[u8]>, UpstreamTlsError> {
    let mut pem = read_file("cert", cert)?;
    let chain = certificates("cert", cert, &pem)?;
    let key_pem = read_file("key", key)?;
    let not_pem = |_| UpstreamTlsError::NotPem {
        key: "key",
        path: key.to_owned(),
        wanted: "private key",
        begin: "PRIVATE KEY",
    };
    let private = PrivateKeyDer::from_pem_slice(&key_pem).map_err(not_pem)?;
    CertifiedKey::from_der(chain, private, &default_provider()).map_err(|error| {
        UpstreamTlsError::Mismatch {
            key: key.to_owned(),
            cert: cert.to_owned(),
            why: error.to_string(),
        }
    })?;
    pem.push(b'\n');
    pem.extend_from_slice(&key_pem);
    Ok(pem.into())
}

fn certificates(
    key: &'static str,
    path: &str,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, UpstreamTlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = read.unwrap_or_default();
    if found.is_empty() {
        return Err(UpstreamTlsError::NotPem {
            key,
            path: path.to_owned(),
            wanted: "certificate",
            begin: "CERTIFICATE",
        });
    }
    Ok(found)
}

fn read_file(key: &'static str, path: &str) -> Result<Vec<u8>, UpstreamTlsError> {
    let unreadable = |why: String| UpstreamTlsError::Unreadable {
        key,
        path: path.to_owned(),
        why,
    };
    let data = fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
    if !data.is_file() {
        return Err(unreadable("it is not a file".to_owned()));
    }
    if data.len() > MAX_FILE {
        return Err(unreadable("it is larger than 4 MiB".to_owned()));
    }
    fs::read(path).map_err(|error| unreadable(error.to_string()))
}
