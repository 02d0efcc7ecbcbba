//! The running process: gives its listening sockets to a successor.

use std::fs::{self, Permissions};
use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;
use tokio::sync::oneshot;

use super::channel::Channel;
use super::message::{Draining, Hello, Offer, Ready, TAKEOVER, can_read};
use super::{ANSWER, Beside, READS, START};
use crate::time_limit::{END, within};

/// How many successors may wait.
const BACKLOG: i32 = 8;

/// Where a successor can ask for the sockets of this process.
#[derive(Debug)]
pub(crate) struct TakeoverSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Keeps the path valid.
    beside: Option<Beside>,
    /// The file, which a successor replaces by its own.
    inode: u64,
    sockets: Arc<Vec<TcpListener>>,
}

/// A successor that serves the sockets.
#[derive(Debug)]
pub(crate) struct Handover {
    channel: Channel,
    /// Whether the successor can read the streams of this process.
    pub(crate) reads: bool,
}

// === impl TakeoverSocket ===

impl TakeoverSocket {
    /// Opens the socket below the store, and replaces that of a predecessor. Only the same user may
    /// connect to it. The first of `sockets` names it.
    ///
    /// # Errors
    /// Those of the file system and of the socket.
    pub(crate) fn open(store: &Path, sockets: Vec<TcpListener>) -> io::Result<Self> {
        let port = match sockets.first() {
            Some(socket) => socket.local_addr()?.port(),
            None => return Err(io::Error::other("no socket to hand over")),
        };
        let beside = Beside::new(store)?;
        let path = beside.socket(port);
        let new = beside
            .path
            .join(format!(".takeover-{port}-{}", std::process::id()));
        let _ = fs::remove_file(&new);
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(&new)?)?;
        // It can be connected to only from `listen` on.
        fs::set_permissions(&new, Permissions::from_mode(0o600))?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let inode = fs::metadata(&new)?.ino();
        fs::rename(&new, &path)?;
        Ok(Self {
            listener: UnixListener::from_std(std::os::unix::net::UnixListener::from(
                std::os::fd::OwnedFd::from(socket),
            ))?,
            path,
            beside: Some(beside),
            inode,
            sockets: Arc::new(sockets),
        })
    }

    /// Waits until a successor serves the sockets. Attempts that fail before that change nothing.
    pub(crate) async fn handover(&self) -> Handover {
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream.into_std(),
                Err(error) => Err(error),
            };
            let stream = match stream {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a successor cannot be answered");
                    tokio::time::sleep(START).await;
                    continue;
                }
            };
            let sockets = self.sockets.clone();
            let (result, offered) = oneshot::channel();
            // The runtime would wait for a task of its own pool when it is dropped.
            std::thread::spawn(move || {
                let _ = result.send(offer(stream, &sockets));
            });
            match offered.await {
                Ok(Ok(handover)) => return handover,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "a successor did not start; this process goes on");
                }
                Err(_) => tracing::error!("the takeover panicked; this process goes on"),
            }
        }
    }
}

impl Drop for TakeoverSocket {
    fn drop(&mut self) {
        let (path, inode, beside) = (self.path.clone(), self.inode, self.beside.take());
        let _ = within(END, move || {
            // A successor has put its own there.
            let ours = fs::metadata(&path).is_ok_and(|file| file.ino() == inode);
            if ours {
                fs::remove_file(&path)?;
            }
            drop(beside);
            Ok(())
        });
    }
}

/// Gives the sockets away and waits until they are served. Blocks for a bounded time.
fn offer(stream: std::os::unix::net::UnixStream, sockets: &[TcpListener]) -> io::Result<Handover> {
    stream.set_nonblocking(false)?;
    let mut channel = Channel::new(stream);
    let process = channel.peer()?;
    let hello: Hello = channel.receive(ANSWER)?;
    tracing::info!(
        process,
        version = hello.version,
        "a successor asks for the sockets"
    );
    let addresses: io::Result<Vec<_>> = sockets.iter().map(TcpListener::local_addr).collect();
    let offer = Offer {
        takeover: TAKEOVER,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        speaks: READS,
        sockets: addresses?,
    };
    let descriptors: Vec<_> = sockets.iter().map(|socket| socket.as_fd()).collect();
    channel.send(&offer, &descriptors, ANSWER)?;
    let Ready { ready } = channel.receive(START)?;
    if !ready {
        return Err(io::Error::other("it is not ready"));
    }
    let reads = can_read(hello.reads, READS);
    Ok(Handover { channel, reads })
}

// === impl Handover ===

impl Handover {
    /// Tells the successor that this process accepts no more connections.
    pub(crate) fn confirm(mut self) {
        let draining = Draining { draining: true };
        if let Err(error) = self.channel.send(&draining, &[], ANSWER) {
            tracing::warn!(%error, "the successor is gone");
        }
    }
}
