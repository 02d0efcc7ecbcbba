//! Connections that another runtime can go on with.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// A connection that another runtime can go on with: each has a reactor of its own.
pub(crate) trait Movable: AsyncRead + AsyncWrite + Unpin + Send + Sized + 'static {
    /// The connection without a reactor.
    type Socket: Send + 'static;

    /// Leaves the reactor.
    fn into_socket(self) -> io::Result<Self::Socket>;

    /// Enters the reactor of the current runtime.
    fn of(socket: Self::Socket) -> io::Result<Self>;
}

impl Movable for TcpStream {
    type Socket = std::net::TcpStream;

    fn into_socket(self) -> io::Result<Self::Socket> {
        self.into_std()
    }

    fn of(socket: Self::Socket) -> io::Result<Self> {
        Self::from_std(socket)
    }
}

impl Movable for UnixStream {
    type Socket = std::os::unix::net::UnixStream;

    fn into_socket(self) -> io::Result<Self::Socket> {
        self.into_std()
    }

    fn of(socket: Self::Socket) -> io::Result<Self> {
        Self::from_std(socket)
    }
}
