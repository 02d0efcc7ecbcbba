//! The side that has the generations.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::{fmt, io};

use tokenwire_core::engine::{ReadControl, ServedKey, ServedLog, SharedEngine};
use tokenwire_core::log::{Formats, LogReader};
use tokenwire_core::model::id::{GenerationId, Seq, Tag};
use tokenwire_core::model::record::RecordBatch;
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadHalf, WriteHalf, split};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::frame::{FrameError, read_frame, write_frame};
use crate::handshake::{Secret, accept};
use crate::lazy_timeout::LazyTimeout;
use crate::message::{
    Answer, HEARTBEAT, KeyAnswer, REQUEST_BYTES, Request, owner_of, read_control, write_records,
};
use crate::movable::Movable;
use crate::socket_path::SocketPath;
use crate::strangers::Strangers;
use crate::{CONNECT, LOST};

/// Connections at once. Further ones wait to be accepted.
const CONNECTIONS: usize = 16 * 1024;
/// Bytes of records that one frame has, unless one record has more.
const READ_BYTES: usize = 64 * 1024;
/// The pause after a connection could not be accepted: no descriptor is left.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Answers other processes: those of this machine over a Unix socket, or those of other nodes over
/// TCP.
pub struct Server {
    listening: Listening,
    secret: Secret,
    engine: SharedEngine,
    formats: Formats,
    connections: TaskTracker,
    strangers: Arc<Strangers>,
}

enum Listening {
    Unix(UnixListener),
    Tcp { listener: TcpListener, tag: Tag },
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    /// Listens on a new socket, in a folder that only its owner can enter. Call it on a Tokio
    /// runtime.
    ///
    /// The socket's file stays when this is dropped, and goes with the folder. As long as the folder
    /// is this process's, others must find the socket and get no answer: without it they would
    /// take the process for one that has nothing.
    ///
    /// # Errors
    /// Those of the system.
    pub fn bind(path: &Path, secret: Secret, engine: SharedEngine) -> io::Result<Self> {
        let listener = UnixListener::bind(SocketPath::new(path)?.as_path())?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self::on(Listening::Unix(listener), secret, engine))
    }

    /// Answers other nodes on this socket, as the process of this tag. Call it on a Tokio runtime.
    ///
    /// # Errors
    /// Those of the system.
    pub fn over_tcp(
        listener: std::net::TcpListener,
        tag: Tag,
        secret: Secret,
        engine: SharedEngine,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        Ok(Self::on(Listening::Tcp { listener, tag }, secret, engine))
    }

    fn on(listening: Listening, secret: Secret, engine: SharedEngine) -> Self {
        Self {
            listening,
            secret,
            engine,
            formats: Formats::CURRENT,
            connections: TaskTracker::new(),
            strangers: Arc::default(),
        }
    }

    /// Announces these formats in place of those of this program.
    #[must_use]
    pub fn formats(mut self, formats: Formats) -> Self {
        self.formats = formats;
        self
    }

    /// Returns the connections that are open. Wait for it after the generations have ended, so that
    /// their readers get the last records.
    #[must_use]
    pub fn connections(&self) -> TaskTracker {
        self.connections.clone()
    }

    /// Returns the connections that have not proven the secret.
    #[must_use]
    pub fn strangers(&self) -> Arc<Strangers> {
        self.strangers.clone()
    }

    /// Accepts and answers connections until it is dropped. Those that are open then go on.
    pub async fn run(self) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(permit) = room.clone().acquire_owned().await else {
                return;
            };
            let accepted = match &self.listening {
                Listening::Unix(listener) => match listener.accept().await {
                    Ok((mut stream, _)) => {
                        let (secret, engine) = (self.secret.clone(), self.engine.clone());
                        let (formats, connections) = (self.formats, self.connections.clone());
                        self.connections.spawn(async move {
                            let answered = async {
                                let received = receive(&mut stream, &secret, None, formats);
                                let (request, version) = received.await?;
                                respond_there(stream, request, &engine, version, &connections).await
                            };
                            if let Err(error) = answered.await {
                                tracing::debug!(%error, "a connection of another process ended");
                            }
                            drop(permit);
                        });
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
                Listening::Tcp { listener, tag } => match listener.accept().await {
                    Ok((stream, from)) => {
                        let answering = Answering {
                            secret: self.secret.clone(),
                            engine: self.engine.clone(),
                            tag: tag.clone(),
                            formats: self.formats,
                            strangers: self.strangers.clone(),
                            connections: self.connections.clone(),
                        };
                        self.connections.spawn(async move {
                            answering.run(stream, from).await;
                            drop(permit);
                        });
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = accepted {
                tracing::warn!(%error, "cannot accept a connection of another process");
                sleep(PAUSE).await;
            }
        }
    }
}

/// What a connection over TCP needs.
struct Answering {
    secret: Secret,
    engine: SharedEngine,
    tag: Tag,
    formats: Formats,
    strangers: Arc<Strangers>,
    connections: TaskTracker,
}

impl Answering {
    async fn run(self, mut stream: TcpStream, from: SocketAddr) {
        let _ = stream.set_nodelay(true);
        let mut stranger = self.strangers.enter();
        let asked = tokio::select! {
            asked = receive(&mut stream, &self.secret, Some(&self.tag), self.formats) => asked,
            () = stranger.evicted() => Err(FrameError::Timeout),
        };
        drop(stranger);
        let ended = match asked {
            Ok((request, version)) => {
                let (engine, connections) = (&self.engine, &self.connections);
                respond_there(stream, request, engine, version, connections).await
            }
            Err(error) => {
                self.strangers.refuse(from, &error);
                return;
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, %from, "a connection of another node ended");
        }
    }
}

/// Answers the one request of a connection. Records are sent in the form that both sides' formats
/// have.
///
/// # Errors
/// [`FrameError`]: the other side did not prove the secret, sent what cannot be read, or is lost.
pub async fn answer<S>(
    mut stream: S,
    secret: &Secret,
    engine: &SharedEngine,
    formats: Formats,
) -> Result<(), FrameError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (request, version) = receive(&mut stream, secret, None, formats).await?;
    respond(stream, request, engine, version).await
}

/// As [`answer`], as the process of this tag, which another node asks.
///
/// # Errors
/// As [`answer`].
pub async fn answer_node<S>(
    mut stream: S,
    tag: &Tag,
    secret: &Secret,
    engine: &SharedEngine,
) -> Result<(), FrameError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let received = receive(&mut stream, secret, Some(tag), Formats::CURRENT);
    let (request, version) = received.await?;
    respond(stream, request, engine, version).await
}

/// Reads the request of a connection that proves the secret. Returns the version of logs for it.
async fn receive<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    secret: &Secret,
    tag: Option<&Tag>,
    formats: Formats,
) -> Result<(Request, u8), FrameError> {
    let asked = async {
        let theirs = accept(stream, secret, tag, formats).await?;
        let mut body = Vec::new();
        let kind = read_frame(stream, REQUEST_BYTES, &mut body).await?;
        let request = Request::read(kind, &body)?;
        Ok((request, formats.shared_with(theirs.read)))
    };
    timeout(CONNECT, asked)
        .await
        .map_err(|_| FrameError::Timeout)?
}

/// As [`respond`]; a log is sent by the runtime that writes it, which saves a wake-up of another
/// thread for each record.
async fn respond_there<S: Movable>(
    stream: S,
    request: Request,
    engine: &SharedEngine,
    version: u8,
    connections: &TaskTracker,
) -> Result<(), FrameError> {
    let (served, from) = match handle(request, engine).await {
        Ok(asked) => asked,
        Err(answer) => return write_answer(stream, &answer).await,
    };
    let here = Handle::current().id();
    let Some(runtime) = served.runtime.clone().filter(|there| there.id() != here) else {
        return send_log(stream, served, from, version).await;
    };
    let socket = stream.into_socket()?;
    let sending = async move { send_log(S::of(socket)?, served, from, version).await };
    let sent = connections.spawn_on(sending, &runtime).await;
    // The runtime may end, and with it the generation.
    sent.map_err(io::Error::other)?
}

async fn respond<S>(
    stream: S,
    request: Request,
    engine: &SharedEngine,
    version: u8,
) -> Result<(), FrameError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    match handle(request, engine).await {
        Ok((served, from)) => send_log(stream, served, from, version).await,
        Err(answer) => write_answer(stream, &answer).await,
    }
}

async fn write_answer<S>(mut stream: S, answer: &Answer) -> Result<(), FrameError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let written = timeout(LOST, answer.write(&mut stream)).await;
    written.map_err(|_| FrameError::Timeout)?
}

/// Returns the log that is to be sent, and from which number on; to any other request the answer.
async fn handle(request: Request, engine: &SharedEngine) -> Result<(ServedLog, Seq), Answer> {
    Err(match request {
        Request::Open { id, from } => match engine.serve(&id).await {
            Ok(Some(served)) => return Ok((served, Seq(from))),
            Ok(None) => Answer::Gone,
            Err(_) => Answer::Failed,
        },
        Request::Has { id } => engine.has(&id).await.map_or(Answer::Failed, Answer::Has),
        Request::Key { owner, key } => {
            let known = engine.served_key(&owner_of(owner), &key).await;
            known.map_or(Answer::Failed, |known| Answer::Key(known.into()))
        }
        Request::Delete { id } => delete(engine, &id).await,
    })
}

async fn delete(engine: &SharedEngine, id: &GenerationId) -> Answer {
    match engine.delete_here(id).await {
        Ok(()) => Answer::Done,
        Err(_) => Answer::Failed,
    }
}

impl From<ServedKey> for KeyAnswer {
    fn from(known: ServedKey) -> Self {
        match known {
            ServedKey::Unknown => Self::Unknown,
            ServedKey::Starting => Self::Starting,
            ServedKey::Known(id) => Self::Known(id),
        }
    }
}

/// Sends a log from this number on, until it ends.
async fn send_log<S>(stream: S, served: ServedLog, from: Seq, version: u8) -> Result<(), FrameError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (reading, mut writing) = split(stream);
    let object = served.object.as_deref();
    let answer = Answer::log(&served.stored, version, object);
    let written = timeout(LOST, answer.write(&mut writing)).await;
    written.map_err(|_| FrameError::Timeout)??;
    if served.object.is_some() {
        return Ok(());
    }
    let (control, wanted) = watch::channel(ReadControl::default());
    tokio::select! {
        biased;
        () = obey(&served, wanted) => Ok(()),
        listened = listen(reading, control) => listened,
        sent = send_records(&mut writing, &served, from, version) => sent,
    }
}

async fn send_records<S>(
    writing: &mut WriteHalf<S>,
    served: &ServedLog,
    from: Seq,
    version: u8,
) -> Result<(), FrameError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut reader = LogReader::new(served.generation.log().clone(), from);
    let mut batch = RecordBatch::default();
    let mut silence = LazyTimeout::new(crate::HEARTBEAT);
    loop {
        let read = poll_fn(|cx| reader.poll_read(cx, READ_BYTES, &mut batch));
        let read = silence.run(read).await;
        let sent = async {
            match read {
                None => write_frame(writing, HEARTBEAT, &[]).await.map(|()| false),
                Some(Err(_)) => Answer::Gone.write(writing).await.map(|()| true),
                Some(Ok(_)) if batch.is_empty() => {
                    Answer::Sealed.write(writing).await.map(|()| true)
                }
                Some(Ok(_)) => {
                    let older = served.generation.in_version(version, &batch);
                    let records = older.as_ref().unwrap_or(&batch);
                    write_records(writing, records).await.map(|()| false)
                }
            }
        };
        // A reader that takes nothing is lost, as one that says nothing.
        let sent = timeout(LOST, sent).await;
        if sent.map_err(|_| FrameError::Timeout)?? {
            return Ok(());
        }
        tokio::task::consume_budget().await;
    }
}

/// Reads what the other side sends. It is lost once it is silent.
async fn listen<S>(
    reading: ReadHalf<S>,
    control: watch::Sender<ReadControl>,
) -> Result<(), FrameError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut reading = BufReader::with_capacity(256, reading);
    let mut body = Vec::new();
    loop {
        let read = timeout(LOST, read_frame(&mut reading, REQUEST_BYTES, &mut body)).await;
        let kind = read.map_err(|_| FrameError::Timeout)??;
        if let Some(wanted) = read_control(kind, &body)? {
            let _ = control.send(wanted);
        }
    }
}

/// Counts the other side's readers as one, and cancels for it.
async fn obey(served: &ServedLog, mut wanted: watch::Receiver<ReadControl>) {
    let mut guard = None;
    loop {
        let now = *wanted.borrow_and_update();
        if now.held {
            guard.get_or_insert_with(|| served.generation.attach());
        } else {
            guard = None;
        }
        if now.cancelled {
            served.generation.cancel();
        }
        if wanted.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokenwire_core::engine::Engine;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::handshake::connect;

    /// Sends bytes to a server, after the proof of the secret or in its place.
    fn send(bytes: &[u8], proven: bool) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let engine = Engine::builder().build();
            let secret = Secret::new(b"secret");
            let (mut ours, theirs) = tokio::io::duplex(1024);
            let answering = answer(theirs, &secret, &engine, Formats::CURRENT);
            let asking = async {
                if proven {
                    connect(&mut ours, &secret, Formats::CURRENT).await.unwrap();
                }
                let _ = ours.write_all(bytes).await;
                let mut rest = Vec::new();
                let _ = ours.read_to_end(&mut rest).await;
            };
            // It ends by itself, whatever is sent or left out.
            let _ = tokio::join!(answering, asking);
        });
    }

    #[test]
    fn connection_that_asks_nothing_is_closed() {
        send(&[], false);
        send(&[], true);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn arbitrary_bytes_end_their_connection(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
            framed: bool,
            kind in 15_u8..36,
            proven: bool,
        ) {
            if framed {
                let mut frame = (bytes.len() as u32).to_le_bytes().to_vec();
                frame.push(kind);
                frame.append(&mut bytes);
                bytes = frame;
            }
            send(&bytes, proven);
        }
    }
}
