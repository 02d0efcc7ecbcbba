//! The socket of a connection. It reports what hyper does not: when all written bytes have reached
//! the kernel.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::stats::{Guard, Recorder};

/// A socket, counted while it is open.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    control: Arc<Control>,
    recorder: Arc<Recorder>,
}

/// The state of the socket that a response body uses.
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// How often hyper's buffer was flushed to the kernel.
    flushes: AtomicU64,
    waiting: Mutex<Option<Waker>>,
    /// Requests whose answers are written but not flushed.
    finished: Mutex<Vec<Guard>>,
    reset: AtomicBool,
}

// === impl Socket ===

impl Socket {
    pub(crate) fn new(stream: TcpStream, recorder: Arc<Recorder>) -> (Self, Arc<Control>) {
        recorder.connected();
        let control = Arc::new(Control::default());
        (
            Self {
                stream,
                control: Arc::clone(&control),
                recorder,
            },
            control,
        )
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.control.reset.load(Ordering::Relaxed) {
            // A linger of zero turns the close into a reset.
            let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
        self.control.finished.lock().clear();
        self.recorder.disconnected();
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper calls this only when its own buffer is empty.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.control.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

// === impl Control ===

impl Control {
    fn flushed(&self) {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        if let Some(waker) = self.waiting.lock().take() {
            waker.wake();
        }
        let finished = std::mem::take(&mut *self.finished.lock());
        finished.into_iter().for_each(Guard::end);
    }

    pub(crate) fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    /// Pending until there is a flush after the `seen`-th.
    pub(crate) fn poll_flushed_since(&self, seen: u64, cx: &Context<'_>) -> Poll<()> {
        if self.flushes() > seen {
            return Poll::Ready(());
        }
        *self.waiting.lock() = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Ends the request of `guard` at the next flush. If the connection is lost before that, the
    /// request counts as aborted.
    pub(crate) fn end_at_flush(&self, guard: Guard) {
        self.finished.lock().push(guard);
    }

    /// Turns the following close into a reset.
    pub(crate) fn reset_on_close(&self) {
        self.reset.store(true, Ordering::Relaxed);
    }
}
