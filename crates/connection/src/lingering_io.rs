//! The end of an HTTP/2 connection on its socket.

use std::cell::Cell;
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Bytes that are discarded at once.
const DISCARDED: usize = 1024;

/// A socket whose shutdown waits for the peer's end, since closing a socket with unread bytes sends
/// a reset, which can discard the last response at the peer.
pub(crate) struct LingeringIo<T> {
    io: T,
    /// Maximum time of the shutdown.
    linger: Duration,
    /// Set once the shutdown has begun.
    timer: Option<Pin<Box<Sleep>>>,
    is_shut_down: bool,
    is_blocked: Rc<Cell<bool>>,
}

/// Tells whether a socket accepts no more bytes for now.
#[derive(Clone)]
pub(crate) struct Blocked(Rc<Cell<bool>>);

// === impl LingeringIo ===

impl<T> LingeringIo<T> {
    pub(crate) fn new(io: T, linger: Duration) -> Self {
        Self {
            io,
            linger,
            timer: None,
            is_shut_down: false,
            is_blocked: Rc::default(),
        }
    }

    pub(crate) fn blocked(&self) -> Blocked {
        Blocked(self.is_blocked.clone())
    }

    fn note<P>(&self, written: Poll<P>) -> Poll<P> {
        self.is_blocked.set(written.is_pending());
        written
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for LingeringIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for LingeringIo<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_shut_down {
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.note(flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let linger = this.linger;
        let timer = this
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(linger)));
        if timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        if !this.is_shut_down {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
            this.is_shut_down = true;
        }
        let mut discarded = [0; DISCARDED];
        loop {
            let mut buffer = ReadBuf::new(&mut discarded);
            match ready!(Pin::new(&mut this.io).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                // The peer has closed it, too.
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}

// === impl Blocked ===

impl Blocked {
    pub(crate) fn is_blocked(&self) -> bool {
        self.0.get()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn shutdown_reads_until_the_end_of_the_peer() {
        for (closes, expected) in [(true, 0), (false, 1)] {
            let (mut client, server) = tokio::io::duplex(64);
            let mut io = LingeringIo::new(server, Duration::from_secs(1));
            let begun = Instant::now();
            let sender = tokio::spawn(async move {
                // More than the pipe holds, so that it is read.
                client.write_all(&[0; 1000]).await.unwrap();
                if !closes {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                }
            });
            io.shutdown().await.unwrap();
            assert_eq!(begun.elapsed().as_secs(), expected);
            sender.await.unwrap();
        }
    }
}
