//! An upstream that keeps connections alive, with a scripted reply to each request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::playback::read_request;

/// What happens to a request once it was read.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// A response with this status line, content type and body; the connection stays open.
    Body(&'static str, &'static str, Vec<u8>),
    /// The same, but the connection is closed after it.
    BodyThenClose(&'static str, &'static str, Vec<u8>),
    /// No byte for this long, then the connection is closed.
    CloseAfter(Duration),
}

/// Serves until it is dropped.
pub(crate) struct KeepAlive {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    script: Vec<Reply>,
    requests: AtomicUsize,
    connections: AtomicUsize,
    closed: Semaphore,
}

impl KeepAlive {
    /// Replies to request number `n` with entry `n` of the script, and to later ones with its last.
    pub(crate) async fn start(script: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script,
            requests: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            closed: Semaphore::new(0),
        });
        let serving = shared.clone();
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                serving.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(socket, serving.clone()));
            }
        });
        Self {
            address,
            shared,
            task,
        }
    }

    pub(crate) fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Returns the number of complete requests so far.
    pub(crate) fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Returns the number of connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Waits until a connection was closed that no earlier call waited for.
    pub(crate) async fn closed(&self) {
        self.shared.closed.acquire().await.unwrap().forget();
    }
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut socket: TcpStream, shared: Arc<Shared>) {
    while read_request(&mut socket).await.is_some() {
        let number = shared.requests.fetch_add(1, Ordering::SeqCst);
        let reply = &shared.script[number.min(shared.script.len() - 1)];
        let (status, kind, body) = match reply {
            Reply::CloseAfter(time) => {
                tokio::time::sleep(*time).await;
                break;
            }
            Reply::Body(status, kind, body) | Reply::BodyThenClose(status, kind, body) => {
                (status, kind, body)
            }
        };
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        if socket
            .write_all(&[head.as_bytes(), body].concat())
            .await
            .is_err()
            || matches!(reply, Reply::BodyThenClose(..))
        {
            break;
        }
    }
    drop(socket);
    shared.closed.add_permits(1);
}
