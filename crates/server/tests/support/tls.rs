//! Certificates made by openssl, and clients over TLS: HTTP/2 by the h2 crate, and raw frames.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{RecvStream, SendStream};
use http::{Response, StatusCode};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::patiently;

/// A certificate for `localhost` and its key, in files.
pub(crate) struct Pair {
    folder: TempDir,
}

/// An HTTP/2 connection of a well-behaved client.
pub(crate) struct Http2 {
    pub(crate) send: SendRequest<Bytes>,
    /// Ready once the connection has ended.
    pub(crate) connection: tokio::task::JoinHandle<Result<(), h2::Error>>,
    authority: String,
}

/// A response whose body is being read.
pub(crate) struct Http2Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) stream: RecvStream,
    /// Dropping it does not reset the stream.
    pub(crate) request: SendStream<Bytes>,
    pub(crate) body: Vec<u8>,
}

/// An HTTP/2 connection that sends whatever frames it is told to.
pub(crate) struct RawHttp2(TlsStream<TcpStream>);

/// A frame: its type, flags, stream and payload.
pub(crate) type Frame = (u8, u8, u32, Vec<u8>);

pub(crate) fn openssl(arguments: &[&str]) {
    let mut command = Command::new("openssl");
    let status = command.args(arguments).stdout(Stdio::null());
    let output = status.stderr(Stdio::piped()).output();
    let output = output.expect("openssl can be started");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

// === impl Pair ===

impl Pair {
    /// Makes a pair that is valid for a month.
    pub(crate) fn new() -> Self {
        let this = Self {
            folder: TempDir::new().unwrap(),
        };
        this.make(30);
        this
    }

    /// Makes a pair that has expired.
    pub(crate) fn expired() -> Self {
        let this = Self {
            folder: TempDir::new().unwrap(),
        };
        this.make(-1);
        this
    }

    fn make(&self, days: i64) {
        let (cert, key) = (self.cert(), self.key());
        let folder = self.folder.path().display();
        let (request, extensions) = (format!("{folder}/request"), format!("{folder}/extensions"));
        std::fs::write(
            &extensions,
            "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n",
        )
        .unwrap();
        let curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
        openssl(&[&["genpkey"][..], &curve, &["-out", &key]].concat());
        openssl(&[
            "req",
            "-new",
            "-key",
            &key,
            "-subj",
            "/CN=localhost",
            "-out",
            &request,
        ]);
        let days = days.to_string();
        openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-signkey",
            &key,
            "-days",
            &days,
            "-extfile",
            &extensions,
            "-out",
            &cert,
        ]);
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    pub(crate) fn cert(&self) -> String {
        self.file("cert.pem")
    }

    pub(crate) fn key(&self) -> String {
        self.file("key.pem")
    }

    /// Replaces the files with those of another pair.
    pub(crate) fn replace(&self, other: &Self) {
        for (from, to) in [(other.cert(), self.cert()), (other.key(), self.key())] {
            let part = PathBuf::from(format!("{to}.part"));
            std::fs::copy(from, &part).unwrap();
            std::fs::rename(part, to).unwrap();
        }
    }

    /// Connects as a client that trusts only this certificate, with these protocols.
    pub(crate) async fn connect(
        &self,
        address: SocketAddr,
        protocols: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(self.cert()).unwrap() {
            roots.add(certificate.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let names = protocols.iter().map(|name| name.as_bytes().to_vec());
        config.alpn_protocols = names.collect();
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        patiently("a handshake", connector.connect(name, socket)).await
    }

    /// Connects over HTTP/2.
    pub(crate) async fn http2(&self, address: SocketAddr) -> Http2 {
        self.http2_with(address, &Builder::new()).await
    }

    /// Connects over HTTP/2 with these settings.
    pub(crate) async fn http2_with(&self, address: SocketAddr, builder: &Builder) -> Http2 {
        let stream = self.connect(address, &["h2"]).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (send, connection) = builder.handshake(stream).await.unwrap();
        Http2 {
            send,
            connection: tokio::spawn(connection),
            authority: format!("localhost:{}", address.port()),
        }
    }

    /// Connects over HTTP/2 and sends the preface with empty settings.
    pub(crate) async fn raw_http2(&self, address: SocketAddr) -> RawHttp2 {
        let stream = self.connect(address, &["h2"]).await.unwrap();
        let mut raw = RawHttp2(stream);
        raw.0
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        raw.send(&[(4, 0, 0, Vec::new())]).await;
        raw
    }
}

// === impl Http2 ===

impl Http2 {
    /// Sends a request once a stream is free, and waits for the head of its response.
    pub(crate) async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Http2Answer, h2::Error> {
        let send = self.send.clone().ready();
        let mut send = patiently("a free stream", send).await?;
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.authority));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(()).unwrap();
        let (response, mut sending) = send.send_request(request, body.is_none())?;
        if let Some(body) = body {
            sending.send_data(Bytes::from(body.to_string()), true)?;
        }
        let response: Response<RecvStream> = patiently("a response", response).await?;
        let (head, stream) = response.into_parts();
        Ok(Http2Answer {
            status: head.status,
            headers: head.headers,
            stream,
            request: sending,
            body: Vec::new(),
        })
    }

    pub(crate) async fn get(&self, path: &str) -> Http2Answer {
        self.ask("GET", path, &[], None).await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Http2Answer {
        self.ask("POST", path, &[], Some(body)).await.unwrap()
    }
}

// === impl Http2Answer ===

impl Http2Answer {
    /// Reads a piece of the body. False at its end.
    pub(crate) async fn read(&mut self) -> Result<bool, h2::Error> {
        let Some(data) = patiently("a piece of the body", self.stream.data()).await else {
            return Ok(false);
        };
        let data = data?;
        self.stream.flow_control().release_capacity(data.len())?;
        self.body.extend_from_slice(&data);
        Ok(true)
    }

    /// Reads until the body contains this text.
    pub(crate) async fn until(&mut self, text: &str) {
        while !self.text().contains(text) {
            let more = self.read().await.unwrap();
            assert!(more, "the body ended without {text}: {}", self.text());
        }
    }

    /// Reads the body to its end.
    pub(crate) async fn whole(mut self) -> Result<String, h2::Error> {
        while self.read().await? {}
        Ok(self.text())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

// === impl RawHttp2 ===

impl RawHttp2 {
    /// Sends frames in one write.
    pub(crate) async fn send(&mut self, frames: &[Frame]) {
        let mut bytes = Vec::new();
        for (kind, flags, stream, payload) in frames {
            let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
            bytes.extend_from_slice(&length[1..]);
            bytes.extend_from_slice(&[*kind, *flags]);
            bytes.extend_from_slice(&stream.to_be_bytes());
            bytes.extend_from_slice(payload);
        }
        // The other side may have closed.
        let _ = self.0.write_all(&bytes).await;
        let _ = self.0.flush().await;
    }

    /// Returns the next frame. `None` at the end of the connection.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        let read = self.0.read_exact(&mut head);
        patiently("a frame", read).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length as usize];
        let read = self.0.read_exact(&mut payload);
        patiently("the rest of a frame", read).await.ok()?;
        Some((head[3], head[4], stream, payload))
    }

    /// Returns the payload of the next frame of this type.
    pub(crate) async fn next(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.frame().await?;
            if frame.0 == kind {
                return Some(frame);
            }
        }
    }
}

/// Returns a HEADERS frame with a GET, which ends the stream (RFC 7541, section 6).
pub(crate) fn get_frame(stream: u32, path: &str) -> Frame {
    let text = |index: u8, value: &str| {
        let length = u8::try_from(value.len()).unwrap();
        [&[index, length], value.as_bytes()].concat()
    };
    // Indexed: `:method: GET`, `:scheme: https`. Literal: `:path`, `:authority`.
    let block = [
        &[0x82, 0x87][..],
        &text(0x04, path),
        &text(0x01, "localhost"),
    ]
    .concat();
    (1, 0x05, stream, block)
}
