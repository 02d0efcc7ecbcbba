//! The client's socket as actix-http needs it: an `AsyncRead` and `AsyncWrite`.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::client_socket::ClientSocket;

/// actix's end of a [`ClientSocket`]. Dropping it leaves the socket open: the connection decides
/// what comes next.
#[derive(Debug)]
pub(crate) struct ActixIo(Rc<ClientSocket>);

// === impl ActixIo ===

impl ActixIo {
    pub(crate) fn new(client: Rc<ClientSocket>) -> Self {
        Self(client)
    }

    /// Returns the socket, for the handlers of its requests.
    pub(crate) fn socket(&self) -> Rc<ClientSocket> {
        self.0.clone()
    }
}

impl AsyncRead for ActixIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.poll_read(cx, into)
    }
}

impl AsyncWrite for ActixIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.0.with_socket(|socket| socket.poll_write(cx, bytes));
        self.0.on_write(&written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self
            .0
            .with_socket(|socket| socket.poll_write_vectored(cx, slices));
        self.0.on_write(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.with_socket(|socket| socket.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.with_socket(|socket| socket.poll_shutdown(cx))
    }
}
