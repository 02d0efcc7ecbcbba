//! Bytes that a WebSocket's client sends after its connection has left actix.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};

/// Maximum number of unread bytes. Beyond it the socket is not read.
const MAX_UNREAD: usize = 32 * 1024;

/// The buffer between the connection, which reads the socket, and the WebSocket's payload.
#[derive(Debug, Default)]
pub(crate) struct InboundBuffer {
    unread: RefCell<BytesMut>,
    /// Wakes the payload's reader once there are bytes.
    payload_waker: RefCell<Option<Waker>>,
    /// Wakes the connection once there is room.
    connection_waker: RefCell<Option<Waker>>,
    /// Payload bytes that came through actix.
    through_actix: Cell<u64>,
    /// Whether the payload reads from here, and so survives a detach.
    installed: Cell<bool>,
    /// Whether the connection reads the socket itself.
    direct: Cell<bool>,
    closed: Cell<bool>,
}

// === impl InboundBuffer ===

impl InboundBuffer {
    /// Notes that a payload reads from this buffer.
    pub(crate) fn install(&self) {
        self.installed.set(true);
    }

    pub(crate) fn is_installed(&self) -> bool {
        self.installed.get()
    }

    /// Returns the number of payload bytes that came through actix.
    pub(crate) fn through_actix(&self) -> u64 {
        self.through_actix.get()
    }

    /// Counts payload bytes that came through actix.
    pub(crate) fn count_through_actix(&self, bytes: usize) {
        self.through_actix
            .set(self.through_actix.get() + bytes as u64);
    }

    /// Notes that the connection reads the socket from now on.
    pub(crate) fn go_direct(&self) {
        self.direct.set(true);
        self.wake_payload();
    }

    pub(crate) fn is_direct(&self) -> bool {
        self.direct.get()
    }

    /// Waits until there is room for more bytes.
    pub(crate) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.unread.borrow().len() < MAX_UNREAD {
            return Poll::Ready(());
        }
        self.connection_waker.replace(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// Appends bytes that were read from the socket.
    pub(crate) fn on_message(&self, bytes: &[u8]) {
        self.unread.borrow_mut().extend_from_slice(bytes);
        self.wake_payload();
    }

    /// Ends the payload.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.wake_payload();
    }

    /// Registers the payload's reader for the next change.
    pub(crate) fn wake_on_change(&self, cx: &Context<'_>) {
        self.payload_waker.replace(Some(cx.waker().clone()));
    }

    /// Takes all unread bytes; `None` once the buffer is closed and empty.
    pub(crate) fn poll_inbound(&self, cx: &Context<'_>) -> Poll<Option<Bytes>> {
        let bytes = std::mem::take(&mut *self.unread.borrow_mut()).freeze();
        if let Some(waker) = self.connection_waker.take() {
            waker.wake();
        }
        if !bytes.is_empty() {
            return Poll::Ready(Some(bytes));
        }
        if self.closed.get() {
            return Poll::Ready(None);
        }
        self.wake_on_change(cx);
        Poll::Pending
    }

    fn wake_payload(&self) {
        if let Some(waker) = self.payload_waker.take() {
            waker.wake();
        }
    }
}
