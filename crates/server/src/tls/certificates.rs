//! The certificate in force, which follows its files.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::{Mutex, RwLock};
use rustls::ServerConfig;
use tokenwire_connection::{Handshakes, Tls};

use super::certificate::{Certificate, CertificateError, MAX_FILE};
use crate::config::schema::Server;

/// The certificate of the listener. Shared by all workers.
#[derive(Debug)]
pub(crate) struct Certificates {
    server: Server,
    /// The versions of the files that were read at the start.
    first: [FileVersion; 2],
    current: RwLock<Certificate>,
    /// Digest of the files of `current`.
    contents: Mutex<Contents>,
    handshakes: Arc<Handshakes>,
}

/// What tells one state of a file from another: time of change, size and inode.
pub(crate) type FileVersion = Option<(i64, i64, u64, u64)>;

/// Bytes of both files, as a hash.
type Contents = Option<[u8; 32]>;

// === impl Certificates ===

impl Certificates {
    /// Reads the files. `None` without TLS. Warns of a certificate that clients refuse.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub(crate) fn open(server: &Server) -> Result<Option<Self>, CertificateError> {
        let (first, contents) = (versions(server), contents(server));
        let Some(certificate) = Certificate::read(server)? else {
            return Ok(None);
        };
        warn(&certificate);
        Ok(Some(Self {
            server: server.clone(),
            first,
            current: RwLock::new(certificate),
            contents: Mutex::new(contents),
            handshakes: Arc::default(),
        }))
    }

    /// Reads the files again. Returns what [`Self::put_in_force`] takes; `None` if they are the same.
    /// Blocks while it reads.
    ///
    /// # Errors
    /// [`CertificateError`]. Nothing has changed then.
    pub(crate) fn read(&self) -> Result<Option<(Certificate, Contents)>, CertificateError> {
        let contents = contents(&self.server);
        if contents.is_some() && contents == *self.contents.lock() {
            return Ok(None);
        }
        let certificate = Certificate::read(&self.server)?;
        Ok(certificate.map(|certificate| (certificate, contents)))
    }

    /// Uses a certificate from the next handshake on.
    pub(crate) fn put_in_force(&self, (certificate, contents): (Certificate, Contents)) {
        warn(&certificate);
        *self.contents.lock() = contents;
        *self.current.write() = certificate;
    }

    /// Returns the versions of the files that were read at the start.
    pub(crate) fn first_versions(&self) -> [FileVersion; 2] {
        self.first
    }

    /// Returns the versions of the files that are there now.
    pub(crate) fn versions(&self) -> [FileVersion; 2] {
        versions(&self.server)
    }

    /// Returns when the certificate in force ends.
    pub(crate) fn ends(&self) -> Option<SystemTime> {
        self.current.read().ends()
    }

    pub(crate) fn handshakes(&self) -> &Arc<Handshakes> {
        &self.handshakes
    }

    /// Returns what connections need.
    pub(crate) fn tls(self: &Arc<Self>) -> Tls {
        let this = self.clone();
        Tls {
            config: Arc::new(move || this.config()),
            handshakes: self.handshakes.clone(),
        }
    }

    fn config(&self) -> Arc<ServerConfig> {
        self.current.read().config.clone()
    }
}

fn warn(certificate: &Certificate) {
    if let Some(warning) = certificate.warning(SystemTime::now()) {
        tracing::warn!("server.tls.cert: {warning}");
    }
}

fn versions(server: &Server) -> [FileVersion; 2] {
    [&server.tls.cert, &server.tls.key].map(|file| {
        let data = fs::metadata(file.as_ref()?).ok()?;
        Some((data.mtime(), data.mtime_nsec(), data.size(), data.ino()))
    })
}

/// Hashes the files. `None` if one cannot be read.
fn contents(server: &Server) -> Contents {
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    for file in [&server.tls.cert, &server.tls.key] {
        let mut bytes = Vec::new();
        let mut open = File::open(file.as_ref()?).ok()?.take(MAX_FILE);
        open.read_to_end(&mut bytes).ok()?;
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(&bytes);
    }
    hash.finish().as_ref().try_into().ok()
}
