//! The client's socket as actix-http needs it: an `AsyncRead` and `AsyncWrite`.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::client_socket::ClientSocket;

/// actix's end of a [`ClientSocket`]. Dropping it leaves the socket open: the connection decides
/// what comes next.
#[derive(Debug)]
pub(crate) struct ActixIo {
    client: Rc<ClientSocket>,
    old: OldHead,
}

/// Where the head of an HTTP/1.0 response is. actix-http never writes `Connection: close` into one,
/// so it is inserted after the status line.
#[derive(Debug)]
enum OldHead {
    /// Nothing was written yet.
    Unknown,
    /// This many bytes of the status line are left.
    StatusLine(usize),
    /// This part of the inserted header is left.
    Inserting(&'static [u8]),
    /// The header was inserted, or the response is not HTTP/1.0.
    Done,
}

// === impl ActixIo ===

impl ActixIo {
    pub(crate) fn new(client: Rc<ClientSocket>) -> Self {
        Self {
            client,
            old: OldHead::Unknown,
        }
    }

    /// Returns the socket, for the handlers of its requests.
    pub(crate) fn socket(&self) -> Rc<ClientSocket> {
        self.client.clone()
    }
}

// === impl OldHead ===

impl OldHead {
    /// Classifies a response by its first write, which holds the whole head.
    fn of(bytes: &[u8]) -> Self {
        let is_old = bytes.starts_with(b"HTTP/1.0 ");
        let end = bytes.windows(2).position(|pair| pair == b"\r\n");
        match end.filter(|_| is_old) {
            Some(end) => Self::StatusLine(end + 2),
            None => Self::Done,
        }
    }
}

impl AsyncRead for ActixIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.client.poll_read(cx, into)
    }
}

impl AsyncWrite for ActixIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            match &mut this.old {
                OldHead::Unknown => this.old = OldHead::of(bytes),
                OldHead::StatusLine(left) => {
                    let line = &bytes[..bytes.len().min(*left)];
                    let written = this
                        .client
                        .with_socket(|socket| socket.poll_write(cx, line));
                    this.client.on_write(&written);
                    if let Poll::Ready(Ok(length)) = written {
                        *left -= length;
                        if *left == 0 {
                            this.old = OldHead::Inserting(b"connection: close\r\n");
                        }
                    }
                    return written;
                }
                OldHead::Inserting(rest) => {
                    let written = this
                        .client
                        .with_socket(|socket| socket.poll_write(cx, rest));
                    this.client.on_write(&written);
                    *rest = &rest[ready!(written)?..];
                    if rest.is_empty() {
                        this.old = OldHead::Done;
                    }
                }
                OldHead::Done => {
                    let written = this
                        .client
                        .with_socket(|socket| socket.poll_write(cx, bytes));
                    this.client.on_write(&written);
                    return written;
                }
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !matches!(self.old, OldHead::Done) {
            let first = slices.iter().find(|slice| !slice.is_empty());
            return self.poll_write(cx, first.map_or(&[], |slice| slice));
        }
        let written = self
            .client
            .with_socket(|socket| socket.poll_write_vectored(cx, slices));
        self.client.on_write(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.client.poll_flush(cx);
        self.client.on_write(&flushed);
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.client.with_socket(|socket| socket.poll_shutdown(cx))
    }
}
