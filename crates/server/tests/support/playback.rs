//! An upstream that answers every request with the same bytes, split as the test says.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Answers each POST with a head and a body, and closes. It ends when it is dropped.
pub(crate) struct Playback {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Playback {
    /// Serves an event stream in writes of `piece` bytes.
    pub(crate) async fn events(body: Vec<u8>, piece: usize) -> Self {
        Self::start("200 OK", "content-type: text/event-stream\r\n", body, piece).await
    }

    /// Serves an endless event stream as fast as the socket takes it: `body`, then `tail`
    /// repeatedly.
    pub(crate) async fn endless(body: &'static [u8], tail: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let flood: Arc<[u8]> = tail.repeat(64 * 1024 / tail.len()).into();
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let flood = flood.clone();
                // On its own thread, so that it is faster than the reader.
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_io()
                        .build()
                        .unwrap();
                    runtime.block_on(talk_on(socket.into_std().unwrap(), body, flood));
                });
            }
        });
        Self { address, task }
    }

    /// Serves a complete answer: status line, header lines, body.
    pub(crate) async fn start(status: &str, headers: &str, body: Vec<u8>, piece: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let head: Arc<str> = format!(
            "HTTP/1.1 {status}\r\n{headers}transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
        )
        .into();
        let body: Arc<[u8]> = body.into();
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(answer(socket, head.clone(), body.clone(), piece));
            }
        });
        Self { address, task }
    }

    pub(crate) fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }
}

impl Drop for Playback {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    mut socket: TcpStream,
    head: Arc<str>,
    body: Arc<[u8]>,
    piece: usize,
) -> Option<()> {
    socket.set_nodelay(true).ok()?;
    read_request(&mut socket).await?;
    socket.write_all(head.as_bytes()).await.ok()?;
    for part in body.chunks(piece.max(1)) {
        let mut chunk = format!("{:x}\r\n", part.len()).into_bytes();
        chunk.extend_from_slice(part);
        chunk.extend_from_slice(b"\r\n");
        socket.write_all(&chunk).await.ok()?;
    }
    socket.write_all(b"0\r\n\r\n").await.ok()
}

async fn talk_on(socket: std::net::TcpStream, body: &[u8], flood: Arc<[u8]>) -> Option<()> {
    let mut socket = TcpStream::from_std(socket).ok()?;
    read_request(&mut socket).await?;
    socket
        .write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n",
        )
        .await
        .ok()?;
    socket.write_all(body).await.ok()?;
    loop {
        socket.write_all(&flood).await.ok()?;
    }
}

/// Reads a request with its body, so that closing does not reset the connection.
pub(crate) async fn read_request(socket: &mut TcpStream) -> Option<()> {
    let mut received = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let length = socket
            .read(&mut buffer)
            .await
            .ok()
            .filter(|length| *length > 0)?;
        received.extend_from_slice(&buffer[..length]);
        let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&received[..end]).to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .and_then(|value| value.trim().parse().ok());
        if received.len() >= end + 4 + length.unwrap_or(0) {
            return Some(());
        }
    }
}
