//! The side that reads generations of another process.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokenwire_core::engine::{Peer, PeerError, ReadControl, RemoteLog, RemotePart};
use tokenwire_core::model::id::{GenerationId, Owner, Seq};
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadHalf, WriteHalf, split};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::frame::{FrameError, read_frame, write_frame};
use crate::handshake::{Secret, connect};
use crate::message::{
    ANSWER_BYTES, Answer, Arrived, HEARTBEAT, KeyAnswer, Request, owner_name, write_control,
};
use crate::socket_path::SocketPath;
use crate::{ANSWER, CONNECT, LOST};

/// Parts of a log that wait for its reader: about 256 KiB.
const PARTS: usize = 4;

/// Where another process listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The Unix socket.
    pub socket: PathBuf,
    /// The file with the secret, which is read for each connection.
    pub secret: PathBuf,
}

impl Address {
    /// The address of the process that has this folder.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        Self {
            socket: folder.join("peer.sock"),
            secret: folder.join("peer.secret"),
        }
    }
}

/// Another process of this machine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    name: Arc<str>,
    address: Arc<Address>,
    failed: Arc<AtomicBool>,
}

impl Client {
    /// Creates a client. It connects when it is asked for something.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, address: Address) -> Self {
        Self {
            name: name.into(),
            address: Arc::new(address),
            failed: Arc::default(),
        }
    }

    /// Returns whether a connection has failed since the last call: the process may have ended.
    #[must_use]
    pub fn take_failed(&self) -> bool {
        self.failed.swap(false, Ordering::AcqRel)
    }

    /// Returns whether the process has this generation.
    ///
    /// # Errors
    /// [`PeerError::Unreachable`].
    pub async fn has(&self, id: &GenerationId) -> Result<bool, PeerError> {
        let id = id.clone();
        match self.ask(Request::Has { id }).await? {
            Answer::Has(has) => Ok(has),
            _ => Err(PeerError::Unreachable("it cannot answer now".into())),
        }
    }

    /// Returns what the process knows of an idempotency key.
    ///
    /// # Errors
    /// [`PeerError::Unreachable`].
    pub async fn key(&self, owner: &Owner, key: &str) -> Result<KeyAnswer, PeerError> {
        let request = Request::Key {
            owner: owner_name(owner),
            key: key.to_owned(),
        };
        match self.ask(request).await? {
            Answer::Key(known) => Ok(known),
            _ => Err(PeerError::Unreachable("it cannot answer now".into())),
        }
    }

    /// Stops and forgets a generation. Durable once it returns.
    ///
    /// # Errors
    /// [`PeerError::Unreachable`].
    pub async fn delete(&self, id: &GenerationId) -> Result<(), PeerError> {
        let id = id.clone();
        match self.ask(Request::Delete { id }).await? {
            Answer::Done => Ok(()),
            _ => Err(PeerError::Unreachable("it cannot answer now".into())),
        }
    }

    async fn ask(&self, request: Request) -> Result<Answer, PeerError> {
        let (_, answer) = self.request(request).await?;
        Ok(answer)
    }

    /// Connects and sends a request. Returns the connection and the first answer.
    async fn request(&self, request: Request) -> Result<(UnixStream, Answer), PeerError> {
        let connected = async {
            let secret = Secret::read(&self.address.secret)?;
            let path = SocketPath::new(&self.address.socket)?;
            let mut stream = UnixStream::connect(path.as_path()).await?;
            connect(&mut stream, &secret).await?;
            request.write(&mut stream).await?;
            Ok::<_, FrameError>(stream)
        };
        let answered = async {
            let connected = timeout(CONNECT, connected).await;
            let mut stream = connected.map_err(|_| FrameError::Timeout)??;
            let mut body = Vec::new();
            let read = timeout(ANSWER, read_frame(&mut stream, ANSWER_BYTES, &mut body)).await;
            let kind = read.map_err(|_| FrameError::Timeout)??;
            Ok((stream, Answer::read(kind, &body)?))
        };
        answered.await.map_err(|error: FrameError| {
            self.failed.store(true, Ordering::Release);
            let error: Cow<'static, str> = error.to_string().into();
            PeerError::Unreachable(error)
        })
    }
}

impl Peer for Client {
    fn name(&self) -> &str {
        &self.name
    }

    fn open<'a>(
        &'a self,
        id: &'a GenerationId,
        from: Seq,
    ) -> BoxFuture<'a, Result<RemoteLog, PeerError>> {
        async move {
            let request = Request::Open {
                id: id.clone(),
                from: from.0,
            };
            let (stream, answer) = self.request(request).await?;
            if answer == Answer::Gone {
                return Err(PeerError::Gone);
            }
            let unusable = |error: FrameError| PeerError::Unreachable(error.to_string().into());
            let (stored, object) = answer.into_log().map_err(unusable)?;
            if stored.header.meta.id != *id {
                return Err(unusable(FrameError::Malformed));
            }
            let (parts, read) = mpsc::channel(PARTS);
            let (control, wanted) = watch::channel(ReadControl::default());
            if object.is_none() {
                tokio::spawn(receive(stream, parts, wanted, self.failed.clone()));
            }
            Ok(RemoteLog {
                stored,
                object: object.map(Into::into),
                parts: read,
                control,
            })
        }
        .boxed()
    }
}

/// Reads a stream until it ends, the connection is lost, or nothing wants it any more.
async fn receive(
    stream: UnixStream,
    parts: mpsc::Sender<RemotePart>,
    wanted: watch::Receiver<ReadControl>,
    failed: Arc<AtomicBool>,
) {
    let (reading, writing) = split(stream);
    let result = tokio::select! {
        received = receive_parts(reading, &parts) => received,
        told = tell(writing, wanted) => told,
        () = parts.closed() => Ok(()),
    };
    if let Err(error) = result {
        tracing::debug!(%error, "the connection to another process ended");
        failed.store(true, Ordering::Release);
    }
}

async fn receive_parts<S: AsyncRead + AsyncWrite + Unpin>(
    reading: ReadHalf<S>,
    parts: &mpsc::Sender<RemotePart>,
) -> Result<(), FrameError> {
    let mut reading = BufReader::new(reading);
    let mut body = Vec::new();
    loop {
        let read = timeout(LOST, read_frame(&mut reading, ANSWER_BYTES, &mut body)).await;
        let kind = read.map_err(|_| FrameError::Timeout)??;
        let part = match Arrived::read(kind, &body)? {
            Arrived::Heartbeat => continue,
            Arrived::Records(batch) => RemotePart::Records(batch),
            Arrived::Answer(Answer::Sealed) => RemotePart::Sealed,
            Arrived::Answer(Answer::Gone) => RemotePart::Gone,
            Arrived::Answer(_) => return Err(FrameError::Malformed),
        };
        let is_last = !matches!(part, RemotePart::Records(_));
        if parts.send(part).await.is_err() || is_last {
            return Ok(());
        }
        body.shrink_to(256 * 1024);
    }
}

/// Tells the other side what is wanted, and that this side is alive.
async fn tell<S: AsyncRead + AsyncWrite + Unpin>(
    mut writing: WriteHalf<S>,
    mut wanted: watch::Receiver<ReadControl>,
) -> Result<(), FrameError> {
    loop {
        let changed = timeout(crate::HEARTBEAT, wanted.changed()).await;
        let write = async {
            match changed {
                Err(_) => write_frame(&mut writing, HEARTBEAT, &[]).await,
                Ok(Ok(())) => {
                    let control = *wanted.borrow_and_update();
                    write_control(&mut writing, control).await
                }
                // The reader has gone, which ends the other half as well.
                Ok(Err(_)) => std::future::pending().await,
            }
        };
        let written = timeout(LOST, write).await;
        if written.is_err() && wanted.has_changed().is_err() {
            return Ok(());
        }
        written.map_err(|_| FrameError::Timeout)??;
    }
}
