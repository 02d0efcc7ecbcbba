//! The side that reads generations of another process.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokenwire_core::engine::{Peer, PeerError, ReadControl, RemoteLog, RemotePart};
use tokenwire_core::log::Formats;
use tokenwire_core::model::id::{GenerationId, Owner, Seq, Tag};
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadHalf, WriteHalf, split};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use crate::frame::{FrameError, read_frame, write_frame};
use crate::handshake::{Secret, connect};
use crate::lazy_timeout::LazyTimeout;
use crate::message::{
    ANSWER_BYTES, Answer, Arrived, HEARTBEAT, KeyAnswer, Request, owner_name, write_control,
};
use crate::network::{Connection, Network, Tcp};
use crate::socket_path::SocketPath;
use crate::{ANSWER, CONNECT, LOST};

/// Parts of a log that wait for its reader: about 256 KiB.
const PARTS: usize = 4;
/// How long a process is not asked that has refused the secret.
const REST: Duration = Duration::from_secs(1);

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

/// Where the process of another node listens.
#[derive(Clone, Debug)]
pub struct NodeAddress {
    /// Host and port.
    pub address: String,
    /// The process. Another one may have taken its place.
    pub tag: Tag,
    /// The secret of all nodes.
    pub secret: Secret,
}

#[derive(Debug)]
enum Target {
    Folder(Address),
    Node(NodeAddress, Arc<dyn Network>),
}

/// Another process, of this machine or of another node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    name: Arc<str>,
    target: Arc<Target>,
    formats: Formats,
    failed: Arc<AtomicBool>,
    refused: Arc<Mutex<Option<Refused>>>,
}

/// A process that has refused the secret, or this one its proof.
#[derive(Debug)]
struct Refused {
    /// It is not asked again until then.
    until: Instant,
    why: String,
}

impl Client {
    /// Creates a client of a process of this machine. It connects when it is asked for something.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, address: Address) -> Self {
        Self::of(name.into(), Target::Folder(address))
    }

    /// Creates a client of another node. It connects when it is asked for something.
    #[must_use]
    pub fn node(name: impl Into<Arc<str>>, address: NodeAddress) -> Self {
        Self::node_over(name, address, Arc::new(Tcp))
    }

    /// As [`Client::node`], over another network than TCP.
    #[must_use]
    pub fn node_over(
        name: impl Into<Arc<str>>,
        address: NodeAddress,
        network: Arc<dyn Network>,
    ) -> Self {
        Self::of(name.into(), Target::Node(address, network))
    }

    fn of(name: Arc<str>, target: Target) -> Self {
        Self {
            name,
            target: Arc::new(target),
            formats: Formats::CURRENT,
            failed: Arc::default(),
            refused: Arc::default(),
        }
    }

    /// Announces these formats in place of those of this program.
    #[must_use]
    pub fn formats(mut self, formats: Formats) -> Self {
        self.formats = formats;
        self
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
    async fn request(&self, request: Request) -> Result<(Connection, Answer), PeerError> {
        if let Some(refused) = &*self.refused.lock()
            && refused.until > Instant::now()
        {
            return Err(PeerError::Unreachable(refused.why.clone().into()));
        }
        let connected = async {
            let (mut stream, is_other) = self.connect().await?;
            request.write(&mut stream).await?;
            Ok::<_, FrameError>((stream, is_other))
        };
        let answered = async {
            let connected = timeout(CONNECT, connected).await;
            let (mut stream, is_other) = connected.map_err(|_| FrameError::Timeout)??;
            let mut body = Vec::new();
            let read = timeout(ANSWER, read_frame(&mut stream, ANSWER_BYTES, &mut body)).await;
            let kind = read.map_err(|_| FrameError::Timeout)??;
            let answer = Answer::read(kind, &body)?;
            if is_other && matches!(answer, Answer::Gone | Answer::Has(false)) {
                // It cannot know what the one before it had.
                return Err(FrameError::Other);
            }
            Ok((stream, answer))
        };
        match answered.await {
            Ok(answered) => {
                *self.refused.lock() = None;
                Ok(answered)
            }
            Err(error) => Err(self.note(&error)),
        }
    }

    async fn connect(&self) -> Result<(Connection, bool), FrameError> {
        match &*self.target {
            Target::Folder(address) => {
                let secret = Secret::read(&address.secret)?;
                let path = SocketPath::new(&address.socket)?;
                let mut stream = UnixStream::connect(path.as_path()).await?;
                connect(&mut stream, &secret, self.formats).await?;
                Ok((Box::new(stream), false))
            }
            Target::Node(node, network) => {
                let mut stream = network.connect(&node.address).await?;
                let tag = connect(&mut stream, &node.secret, self.formats).await?;
                let is_other = tag.as_ref() != Some(&node.tag);
                Ok((stream, is_other))
            }
        }
    }

    /// Notes a failure. One that no second attempt mends is logged once, and keeps this side from
    /// asking for a while.
    fn note(&self, error: &FrameError) -> PeerError {
        self.failed.store(true, Ordering::Release);
        let why = error.to_string();
        if matches!(error, FrameError::Refused(_)) {
            let refused = Refused {
                until: Instant::now() + REST,
                why: why.clone(),
            };
            if self.refused.lock().replace(refused).is_none() {
                tracing::warn!(
                    node = %self.name, %error,
                    "another node and this one do not recognise each other: is cluster.secret the same on both?"
                );
            }
        }
        PeerError::Unreachable(Cow::Owned(why))
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
            if stored.header.meta.id != *id || stored.header.version > self.formats.read {
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
    stream: Connection,
    parts: mpsc::Sender<RemotePart>,
    wanted: watch::Receiver<ReadControl>,
    failed: Arc<AtomicBool>,
) {
    let (reading, writing) = split(stream);
    let told = async {
        if let Err(error) = tell(writing, wanted).await {
            // The other side closes after the last part, and what it has sent is still to be read. One
            // that is gone is found out by reading.
            tracing::debug!(%error, "another process cannot be told what is wanted");
            std::future::pending::<()>().await;
        }
    };
    let result = tokio::select! {
        biased;
        received = receive_parts(reading, &parts) => received,
        () = parts.closed() => Ok(()),
        () = told => Ok(()),
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
    let mut silence = LazyTimeout::new(LOST);
    loop {
        let read = read_frame(&mut reading, ANSWER_BYTES, &mut body);
        let kind = silence.run(read).await.ok_or(FrameError::Timeout)??;
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

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;
    use crate::message::write_records;

    #[tokio::test(start_paused = true)]
    async fn last_parts_are_read_although_the_other_side_has_closed() {
        // Which of the two halves is polled first must not matter.
        for _ in 0..20 {
            let (ours, mut theirs) = duplex(1024);
            let batch = tokenwire_testkit::store_conformance::block(3, &[1]);
            write_records(&mut theirs, &batch).await.unwrap();
            Answer::Sealed.write(&mut theirs).await.unwrap();
            drop(theirs);
            let (parts, mut read) = mpsc::channel(PARTS);
            let (control, wanted) = watch::channel(ReadControl::default());
            control.send_modify(|wanted| wanted.held = true);
            receive(Box::new(ours), parts, wanted, Arc::default()).await;
            assert!(matches!(read.recv().await, Some(RemotePart::Records(_))));
            assert!(matches!(read.recv().await, Some(RemotePart::Sealed)));
            assert!(read.recv().await.is_none());
        }
    }
}
