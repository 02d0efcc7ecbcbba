//! The new process: asks a running one for its listening sockets.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::channel::Channel;
use super::message::{Draining, Hello, Offer, Ready, TAKEOVER, can_read};
use super::{ANSWER, Beside, READS};

/// The time between two attempts to reach a process that is just being replaced.
const AGAIN: Duration = Duration::from_millis(50);

/// A running gateway that gave its sockets, and goes on until it hears that they are served.
#[derive(Debug)]
pub(crate) struct Predecessor {
    channel: Channel,
    process: u32,
}

/// Why a running gateway did not give its sockets.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeoverError {
    /// There is no store beside which gateways meet.
    #[error("a running gateway hands its address over only with store.kind: disk")]
    NoStore,
    /// No gateway with this store listens on the port.
    #[error("no gateway with this store.path listens there")]
    NoPredecessor,
    /// It does not answer.
    #[error(
        "the running gateway (process {process}) did not answer within {} s; if it hangs, end it with kill -9 {process}",
        ANSWER.as_secs()
    )]
    Hangs {
        /// Its process id.
        process: u32,
    },
    /// It listens on another address.
    #[error(
        "the running gateway (process {process}) listens on {others}; keep that address, or stop it first"
    )]
    OtherAddress {
        /// Its process id.
        process: u32,
        /// Its addresses.
        others: String,
    },
    /// The conversation failed.
    #[error("the running gateway cannot be asked for its socket: {0}")]
    Io(#[from] io::Error),
}

impl Predecessor {
    /// Asks the gateway that has the first of these addresses for its sockets. Returns those of the
    /// addresses, in their order. Blocks for at most the time of one answer.
    ///
    /// # Errors
    /// [`TakeoverError`]. The other process goes on then.
    pub(crate) fn ask(
        store: &Path,
        addresses: &[SocketAddr],
    ) -> Result<(Self, Vec<TcpListener>), TakeoverError> {
        let Some(first) = addresses.first() else {
            return Err(TakeoverError::NoPredecessor);
        };
        let beside = Beside::new(store)?;
        let path = beside.socket(first.port());
        let deadline = Instant::now() + ANSWER;
        loop {
            match Self::try_ask(&path, addresses) {
                // It may be handing its sockets to another process, which can be asked then.
                Err(TakeoverError::Io(error)) if is_replaced(&error) => {
                    if Instant::now() >= deadline {
                        return Err(error.into());
                    }
                }
                result => return result,
            }
            sleep(AGAIN);
        }
    }

    fn try_ask(
        path: &Path,
        addresses: &[SocketAddr],
    ) -> Result<(Self, Vec<TcpListener>), TakeoverError> {
        let stream = match UnixStream::connect(path) {
            Ok(stream) => stream,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused
                ) =>
            {
                return Err(TakeoverError::NoPredecessor);
            }
            Err(error) => return Err(error.into()),
        };
        let mut channel = Channel::new(stream);
        let process = channel.peer()?;
        let hello = Hello {
            takeover: TAKEOVER,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            reads: READS,
        };
        channel.send(&hello, &[], ANSWER)?;
        let offer: Offer = channel
            .receive(ANSWER)
            .map_err(|error| match error.kind() {
                ErrorKind::TimedOut => TakeoverError::Hangs { process },
                _ => error.into(),
            })?;
        let sockets = channel.take_descriptors();
        let mut sockets: Vec<_> = sockets.into_iter().map(TcpListener::from).collect();
        let mut wanted = Vec::new();
        for address in addresses {
            let is_wanted = |socket: &TcpListener| socket.local_addr().ok() == Some(*address);
            let Some(at) = sockets.iter().position(is_wanted) else {
                let others: Vec<_> = offer.sockets.iter().map(ToString::to_string).collect();
                let others = others.join(", ");
                return Err(TakeoverError::OtherAddress { process, others });
            };
            let socket = sockets.swap_remove(at);
            socket.set_nonblocking(true)?;
            wanted.push(socket);
        }
        tracing::info!(process, version = offer.version, "taking over its sockets");
        if !can_read(READS, offer.speaks) {
            tracing::warn!(
                process,
                version = offer.version,
                "its streams cannot be read by this process: they go on there until they end"
            );
        }
        Ok((Self { channel, process }, wanted))
    }

    /// Says that the sockets are served, and waits until the other process accepts no more.
    pub(crate) fn replace(mut self) {
        let ready = Ready { ready: true };
        let replaced = self.channel.send(&ready, &[], ANSWER);
        let replaced = replaced.and_then(|()| self.channel.receive::<Draining>(ANSWER));
        let process = self.process;
        match replaced {
            Ok(_) => tracing::info!(process, "it accepts no more connections and drains"),
            Err(error) => {
                tracing::warn!(process, %error, "it did not say that it stops accepting");
            }
        }
    }
}

/// Whether the conversation ended because the process hands its sockets to another one.
fn is_replaced(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    )
}
