//! TLS on a listener: the handshake, and how handshakes end.

use std::fmt;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix_web::rt::net::TcpStream;
use tokio::io::AsyncWriteExt as _;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;

/// Protocol name of HTTP/2 (RFC 9113, section 3.1).
const H2: &[u8] = b"h2";

/// First byte of a TLS record that holds a handshake (RFC 8446, section 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// Bytes that a session holds for a socket that accepts no more.
const WRITE_BUFFER: usize = 32 * 1024;

/// Answers a request without TLS.
const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\
    content-type: text/plain\r\ncontent-length: 47\r\n\r\n\
    This port speaks TLS. Use https:// in the URL.\n";

/// TLS of a listener.
#[derive(Clone)]
pub struct Tls {
    /// Returns the configuration of the next handshake. Its ALPN protocols say which versions of HTTP
    /// are offered: `h2` and `http/1.1`.
    pub config: Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>,
    /// Counts handshakes.
    pub handshakes: Arc<Handshakes>,
}

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeResult {
    /// The connection is secured.
    Completed,
    /// The client did not complete it in time.
    Timeout,
    /// The client sent a request without TLS.
    PlainHttp,
    /// The client disconnected.
    Disconnected,
    /// The two sides have nothing in common, or the client does not trust the certificate.
    Failed,
}

/// Counts of handshakes by their result.
#[derive(Debug, Default)]
pub struct Handshakes([AtomicU64; HandshakeResult::ALL.len()]);

/// A connection after the handshake.
#[derive(Debug)]
pub(crate) struct Secured {
    pub(crate) stream: TlsStream<TcpStream>,
    /// Whether the client speaks HTTP/2.
    pub(crate) is_http2: bool,
}

// === impl HandshakeResult ===

impl HandshakeResult {
    /// All results.
    pub const ALL: [Self; 5] = [
        Self::Completed,
        Self::Timeout,
        Self::PlainHttp,
        Self::Disconnected,
        Self::Failed,
    ];

    /// Returns a name for labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Timeout => "timeout",
            Self::PlainHttp => "plain_http",
            Self::Disconnected => "disconnected",
            Self::Failed => "failed",
        }
    }
}

// === impl Handshakes ===

impl Handshakes {
    /// Returns how many handshakes ended so.
    #[must_use]
    pub fn count(&self, result: HandshakeResult) -> u64 {
        self.0[result as usize].load(Ordering::Relaxed)
    }

    fn add(&self, result: HandshakeResult) {
        self.0[result as usize].fetch_add(1, Ordering::Relaxed);
    }
}

// === impl Tls ===

impl Tls {
    /// Secures an accepted socket. `None` if that fails or takes longer than `timeout`; the socket is
    /// closed then. A socket that has sent nothing holds no state of TLS.
    pub(crate) async fn accept(&self, socket: TcpStream, timeout: Duration) -> Option<Secured> {
        let handshake = tokio::time::timeout(timeout, self.handshake(socket)).await;
        let secured = handshake.unwrap_or(Err(HandshakeResult::Timeout));
        let result = secured
            .as_ref()
            .map_or_else(|why| *why, |_| HandshakeResult::Completed);
        self.handshakes.add(result);
        secured.ok()
    }

    async fn handshake(&self, mut socket: TcpStream) -> Result<Secured, HandshakeResult> {
        let mut first = [0];
        match socket.peek(&mut first).await {
            Ok(0) | Err(_) => return Err(HandshakeResult::Disconnected),
            Ok(_) => {}
        }
        if first[0] != HANDSHAKE_RECORD && first[0].is_ascii_uppercase() {
            // The client may not wait for it.
            let _ = socket.write_all(PLAIN_HTTP).await;
            let _ = socket.shutdown().await;
            discard(&mut socket).await;
            return Err(HandshakeResult::PlainHttp);
        }
        let acceptor = TlsAcceptor::from((self.config)());
        let limited = acceptor.accept_with(socket, |session| {
            session.set_buffer_limit(Some(WRITE_BUFFER));
        });
        let stream = limited.await.map_err(|error| {
            tracing::debug!(%error, "a TLS handshake failed");
            match error.kind() {
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                    HandshakeResult::Disconnected
                }
                _ => HandshakeResult::Failed,
            }
        })?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(H2);
        Ok(Secured { stream, is_http2 })
    }
}

/// Reads what the client sends until its end, so that the close sends no reset. The time for the
/// handshake bounds it.
async fn discard(socket: &mut TcpStream) {
    use tokio::io::AsyncReadExt as _;
    let mut discarded = [0; 1024];
    while let Ok(1..) = socket.read(&mut discarded).await {}
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_to_plain_http_has_its_length() {
        let text = str::from_utf8(PLAIN_HTTP).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())));
    }
}
