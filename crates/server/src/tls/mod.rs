//! TLS on the listener of clients: the certificate, and how it follows its files.
//!
//! ```text
//!   server.tls.cert, server.tls.key ──▶ read (Certificate) ──▶ Certificates ──▶ the next handshake
//! ```
//!
//! The files are read at the start, and again when they change and at each reload. Files that cannot
//! be used change nothing. Connections that are open keep the certificate that they were shown.

mod certificate;
mod certificates;
mod validity;

pub(crate) use certificate::Certificate;
pub use certificate::CertificateError;
pub(crate) use certificates::Certificates;
