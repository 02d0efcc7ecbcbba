//! Reads a certificate and its key.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::validity::Validity;
use crate::config::schema::Server;

/// Maximum size of a file. A chain of certificates has a few KiB.
pub(super) const MAX_FILE: u64 = 1 << 20;

/// The time before the end of a certificate in which a renewal is overdue.
const RENEWAL: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// A certificate that handshakes can use.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    /// What a handshake needs.
    pub(crate) config: Arc<ServerConfig>,
    validity: Option<Validity>,
    /// The file of the certificate, for messages.
    file: PathBuf,
}

/// Why the certificate or its key cannot be used. The text names the key, the file and a remedy.
#[derive(Debug, thiserror::Error)]
#[error("{}; {}", self.problem(), self.remedy())]
pub enum CertificateError {
    /// A file cannot be read.
    Unreadable {
        /// The key of the configuration.
        key: &'static str,
        /// Its value.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// A file does not contain what it should.
    Unusable {
        /// The key of the configuration.
        key: &'static str,
        /// Its value.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The key belongs to another certificate.
    Mismatch {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
}

/// A file of `server.tls`.
struct PemFile<'a> {
    key: &'static str,
    file: &'a Path,
    bytes: Vec<u8>,
}

// === impl CertificateError ===

impl CertificateError {
    /// Returns the key of the configuration, the file, and what is wrong with it.
    #[must_use]
    pub fn problem(&self) -> String {
        match self {
            Self::Unreadable {
                key, file, source, ..
            } => format!("{key}: cannot read {}: {source}", file.display()),
            Self::Unusable {
                key, file, problem, ..
            } => format!("{key}: {} {problem}", file.display()),
            Self::Mismatch { cert, key } => format!(
                "server.tls.key: {} is not the key of the certificate in {}",
                key.display(),
                cert.display()
            ),
        }
    }

    /// Returns what to do.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Unreadable { remedy, .. } | Self::Unusable { remedy, .. } => remedy,
            Self::Mismatch { .. } => {
                "give both files of the same certificate, with the server's own certificate first"
            }
        }
    }
}

// === impl Certificate ===

impl Certificate {
    /// Reads the files of this configuration. `None` without TLS.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub(crate) fn read(server: &Server) -> Result<Option<Self>, CertificateError> {
        let (Some(cert), Some(key)) = (&server.tls.cert, &server.tls.key) else {
            return Ok(None);
        };
        let (cert, key) = (Path::new(cert), Path::new(key));
        let chain = PemFile::read("server.tls.cert", cert)?;
        let certificates = chain.certificates()?;
        let private = PemFile::read("server.tls.key", key)?;
        let signing = default_provider()
            .key_provider
            .load_private_key(private.private_key()?)
            .map_err(|error| {
                private.unusable(
                    format!("has a key that cannot be used ({error})"),
                    "use an ECDSA key (P-256, P-384), Ed25519, or RSA with at least 2048 bits",
                )
            })?;
        let validity = certificates.first().and_then(|first| Validity::of(first));
        let certified = CertifiedKey::new(certificates, signing);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                return Err(CertificateError::Mismatch {
                    cert: cert.to_owned(),
                    key: key.to_owned(),
                });
            }
            Err(error) => {
                return Err(chain.unusable(
                    format!("has a certificate that cannot be used ({error})"),
                    "have it made again",
                ));
            }
        }
        Ok(Some(Self {
            config: Arc::new(server_config(certified, server.http2).map_err(|error| {
                chain.unusable(
                    format!("cannot be used ({error})"),
                    "have the certificate made again",
                )
            })?),
            validity,
            file: cert.to_owned(),
        }))
    }

    /// Returns when the certificate ends.
    pub(crate) fn ends(&self) -> Option<SystemTime> {
        self.validity.map(|validity| validity.until)
    }

    /// Returns why clients refuse the certificate now, or soon will.
    pub(crate) fn warning(&self, now: SystemTime) -> Option<String> {
        let Validity { from, until } = self.validity?;
        let file = self.file.display();
        let date = |time| humantime::format_rfc3339_seconds(time);
        if now >= until {
            return Some(format!(
                "the certificate in {file} expired at {}; clients refuse it until it is renewed",
                date(until)
            ));
        }
        if now < from {
            return Some(format!(
                "the certificate in {file} is valid from {} on; clients refuse it until then: is the clock right?",
                date(from)
            ));
        }
        (until.duration_since(now).unwrap_or_default() < RENEWAL).then(|| {
            format!(
                "the certificate in {file} expires at {}; renew it",
                date(until)
            )
        })
    }
}

fn server_config(certified: CertifiedKey, http2: bool) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = if http2 {
        vec![b"h2".to_vec(), b"http/1.1".to_vec()]
    } else {
        vec![b"http/1.1".to_vec()]
    };
    // Sessions are resumed without memory of this process.
    config.ticketer = Ticketer::new()?;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(config)
}

// === impl PemFile ===

impl<'a> PemFile<'a> {
    fn read(key: &'static str, file: &'a Path) -> Result<Self, CertificateError> {
        let mut bytes = Vec::new();
        let read = File::open(file).and_then(|open| open.take(MAX_FILE).read_to_end(&mut bytes));
        match read {
            Ok(_) => Ok(Self { key, file, bytes }),
            Err(source) => Err(CertificateError::Unreadable {
                key,
                file: file.to_owned(),
                remedy: match source.kind() {
                    io::ErrorKind::NotFound => "is the path right, and absolute?",
                    io::ErrorKind::PermissionDenied => {
                        "let the gateway's user read it (chgrp, chmod g+r; the folders above need x)"
                    }
                    _ => "give a file in PEM",
                },
                source,
            }),
        }
    }

    fn unusable(&self, problem: String, remedy: &'static str) -> CertificateError {
        CertificateError::Unusable {
            key: self.key,
            file: self.file.to_owned(),
            problem,
            remedy,
        }
    }

    fn contains(&self, text: &str) -> bool {
        memchr::memmem::find(&self.bytes, text.as_bytes()).is_some()
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.bytes).collect();
        let all = all.map_err(|error| {
            let problem = format!("is not valid PEM ({error})");
            self.unusable(problem, "copy the file again, all of it")
        })?;
        if !all.is_empty() {
            return Ok(all);
        }
        Err(if self.contains("PRIVATE KEY-----") {
            self.unusable(
                "has a private key and no certificate".to_owned(),
                "are server.tls.cert and server.tls.key swapped?",
            )
        } else if self.bytes.starts_with(&[0x30]) {
            self.unusable(
                "is not PEM but DER".to_owned(),
                "convert it: openssl x509 -inform der -in FILE -out FILE.pem",
            )
        } else {
            self.unusable(
                "has no certificate in PEM".to_owned(),
                "give a file with a line -----BEGIN CERTIFICATE-----",
            )
        })
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, CertificateError> {
        PrivateKeyDer::from_pem_slice(&self.bytes).map_err(|error| {
            if self.contains("BEGIN ENCRYPTED PRIVATE KEY")
                || self.contains("Proc-Type: 4,ENCRYPTED")
            {
                self.unusable(
                    "has a key that is encrypted".to_owned(),
                    "decrypt it: openssl pkey -in FILE -out FILE.pem",
                )
            } else if self.contains("BEGIN CERTIFICATE") {
                self.unusable(
                    "has a certificate and no private key".to_owned(),
                    "are server.tls.cert and server.tls.key swapped?",
                )
            } else if self.bytes.starts_with(&[0x30]) {
                self.unusable(
                    "is not PEM but DER".to_owned(),
                    "convert it: openssl pkey -inform der -in FILE -out FILE.pem",
                )
            } else {
                self.unusable(
                    format!("has no private key in PEM ({error})"),
                    "give a file with a line -----BEGIN PRIVATE KEY-----",
                )
            }
        })
    }
}
