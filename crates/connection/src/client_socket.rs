//! The socket of one client, shared by actix and the connection.

use std::cell::{Cell, RefCell};
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::body::BoxBody;
use socket2::SockRef;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use crate::client_stream::ClientStream;
use crate::inbound_buffer::InboundBuffer;
use crate::request_tracker::{Part, RequestTracker};

/// Maximum number of bytes that a client may send ahead while a stream is written to it. Beyond it
/// the socket is not read until the stream is over.
const MAX_PIPELINED: usize = 8 * 1024;

/// One client's socket. actix reads and writes it through [`ActixIo`](crate::actix_io::ActixIo), a
/// detached stream through [`StreamWriter`](crate::stream_writer::StreamWriter).
#[derive(Debug)]
pub(crate) struct ClientSocket {
    socket: RefCell<Option<ClientStream>>,
    /// Bytes that were read during a stream: the beginning of the next request.
    pipelined: RefCell<Vec<u8>>,
    requests: RefCell<RequestTracker>,
    /// Request bodies that the application may still read.
    open_payloads: Cell<usize>,
    /// Whether a write waits for the client.
    blocked: Cell<bool>,
    /// Whether actix was kept from reading the next request.
    withheld: Cell<bool>,
    /// Whether only the end of the connection ends the response (HTTP/1.0).
    ends_by_close: Cell<bool>,
    offer: RefCell<Option<Offer>>,
    inbound: InboundBuffer,
    /// Handlers that run, and streams that are written.
    active: Cell<usize>,
    reserved: bool,
    direct_writes: bool,
}

/// Counts a handler, and then the stream that it returns.
#[derive(Debug)]
pub(crate) struct ActiveGuard(Rc<ClientSocket>);

/// A body that may leave actix.
#[derive(Debug)]
struct Offer {
    body: BoxBody,
    /// Position after the request. If more was read, the body stays with actix.
    end: u64,
    /// Whether the body was pending when it was last polled.
    pending: bool,
    kind: Kind,
}

/// How a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// In chunks. Another request may follow with `keep_alive`.
    Chunked { keep_alive: bool },
    /// Bytes in both directions after a switch of protocols.
    Upgraded,
}

/// A body that has left actix.
#[derive(Debug)]
pub(crate) struct Detached {
    pub(crate) body: BoxBody,
    pub(crate) kind: Kind,
}

// === impl ClientSocket ===

impl ClientSocket {
    pub(crate) fn new(socket: ClientStream, reserved: bool, direct_writes: bool) -> Self {
        Self {
            socket: RefCell::new(Some(socket)),
            pipelined: RefCell::default(),
            requests: RefCell::default(),
            open_payloads: Cell::new(0),
            blocked: Cell::new(false),
            withheld: Cell::new(false),
            ends_by_close: Cell::new(false),
            offer: RefCell::default(),
            inbound: InboundBuffer::default(),
            active: Cell::new(0),
            reserved,
            direct_writes,
        }
    }

    /// Whether the connection is [reserved](crate::Reserved).
    pub(crate) fn is_reserved(&self) -> bool {
        self.reserved
    }

    /// Whether bodies may be [offered](Self::offer).
    pub(crate) fn direct_writes(&self) -> bool {
        self.direct_writes
    }

    /// Counts a handler or a stream until the guard is dropped.
    pub(crate) fn activate(self: &Rc<Self>) -> ActiveGuard {
        self.active.set(self.active.get() + 1);
        ActiveGuard(self.clone())
    }

    /// Returns the incomplete request that nothing but the client delays.
    pub(crate) fn stalled(&self) -> Option<(u64, Part)> {
        if self.active.get() > 0 {
            return None;
        }
        self.requests.borrow().incomplete()
    }

    /// Returns the buffer of a WebSocket's client.
    pub(crate) fn inbound(&self) -> &InboundBuffer {
        &self.inbound
    }

    /// Polls the socket; an error if it is closed.
    pub(crate) fn with_socket<T>(
        &self,
        poll: impl FnOnce(Pin<&mut ClientStream>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match &mut *self.socket.borrow_mut() {
            Some(socket) => poll(Pin::new(socket)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Closes the socket, even if handlers still hold a reference to it.
    pub(crate) fn close(&self) {
        self.socket.take();
        self.offer.take();
        self.inbound.close();
    }

    /// Notes whether only the end of the connection ends the response.
    pub(crate) fn set_ends_by_close(&self, ends_by_close: bool) {
        self.ends_by_close.set(ends_by_close);
    }

    /// Makes the close of the socket a reset if only that tells a response that broke off from a
    /// complete one.
    pub(crate) fn on_broken(&self) {
        if self.ends_by_close.get()
            && let Some(socket) = &*self.socket.borrow()
        {
            // Without it the client cannot see the failure; there is nothing else to do.
            let _ = SockRef::from(socket.tcp()).set_linger(Some(Duration::ZERO));
        }
    }

    /// Reads for actix: pipelined bytes first, then the socket. A request is not read before the
    /// response to the one before it is complete: actix frames a response by the method, version and
    /// `Connection` of the last request that it has read.
    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.accepts_request() {
            self.withheld.set(true);
            // The end is passed on at once. Nothing is filled, which says so.
            return self.poll_peer_closed(cx).map(Ok);
        }
        self.withheld.set(false);
        let mut pipelined = self.pipelined.borrow_mut();
        let mut requests = self.requests.borrow_mut();
        if pipelined.is_empty() {
            let before = into.filled().len();
            ready!(self.with_socket(|socket| socket.poll_read(cx, into)))?;
            let end = before + requests.on_read(&into.filled()[before..]);
            pipelined.extend_from_slice(&into.filled()[end..]);
            into.set_filled(end);
        } else {
            let most = pipelined.len().min(into.remaining());
            let take = requests.on_read(&pipelined[..most]);
            into.put_slice(&pipelined[..take]);
            pipelined.drain(..take);
            if pipelined.is_empty() {
                *pipelined = Vec::new();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether actix may read: more of a request, or the next one.
    fn accepts_request(&self) -> bool {
        let requests = self.requests.borrow();
        !requests.is_between()
            || (requests.is_dispatched() && self.active.get() == 0 && !self.blocked.get())
    }

    /// Whether actix must be polled again, since it may now read a request that was withheld.
    pub(crate) fn take_withheld(&self) -> bool {
        let readable =
            self.withheld.get() && !self.pipelined.borrow().is_empty() && self.accepts_request();
        if readable {
            self.withheld.set(false);
        }
        readable
    }

    /// Waits for the client's disconnect during a stream, and keeps the bytes that it sends.
    pub(crate) fn poll_peer_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut pipelined = self.pipelined.borrow_mut();
        while pipelined.len() < MAX_PIPELINED {
            let mut space = [const { MaybeUninit::uninit() }; 1024];
            let mut into = ReadBuf::uninit(&mut space);
            match self.with_socket(|socket| socket.poll_read(cx, &mut into)) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) if into.filled().is_empty() => return Poll::Ready(()),
                Poll::Ready(Ok(())) => pipelined.extend_from_slice(into.filled()),
            }
        }
        Poll::Pending
    }

    /// Discards what the client sends until it has ended its side.
    pub(crate) fn poll_end(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut space = [const { MaybeUninit::uninit() }; 4096];
            let mut into = ReadBuf::uninit(&mut space);
            match ready!(self.with_socket(|socket| socket.poll_read(cx, &mut into))) {
                Ok(()) if !into.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
    }

    /// Moves what a WebSocket's client sends into its [`InboundBuffer`], as far as there is room.
    /// `Ready` if the client has disconnected.
    pub(crate) fn poll_inbound(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.inbound.poll_room(cx));
            let mut space = [const { MaybeUninit::uninit() }; 4096];
            let mut into = ReadBuf::uninit(&mut space);
            match ready!(self.with_socket(|socket| socket.poll_read(cx, &mut into))) {
                Ok(()) if !into.filled().is_empty() => self.inbound.on_message(into.filled()),
                _ => return Poll::Ready(()),
            }
        }
    }

    /// Waits until actix has something to read: bytes, or the end.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.pipelined.borrow().is_empty() {
            return Poll::Ready(());
        }
        if let Some(ClientStream::Plain(socket)) = &*self.socket.borrow() {
            return socket.poll_read_ready(cx).map(|_| ());
        }
        // Only the session knows whether the bytes of the socket are data.
        let mut space = [const { MaybeUninit::uninit() }; 1024];
        let mut into = ReadBuf::uninit(&mut space);
        let _ = ready!(self.with_socket(|socket| socket.poll_read(cx, &mut into)));
        self.pipelined.borrow_mut().extend_from_slice(into.filled());
        Poll::Ready(())
    }

    /// Passes on what TLS has accepted and the socket has not. Without TLS there is nothing.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with_socket(|socket| socket.poll_flush(cx))
    }

    /// Notes the result of a write or a flush by actix.
    pub(crate) fn on_write<T>(&self, result: &Poll<io::Result<T>>) {
        self.blocked.set(result.is_pending());
    }

    /// Counts a request that actix passes to the application.
    pub(crate) fn on_dispatch(&self) {
        self.requests.borrow_mut().on_dispatch();
    }

    /// Counts a request body that the application may read.
    pub(crate) fn open_payload(&self) {
        self.open_payloads.set(self.open_payloads.get() + 1);
    }

    /// Counts a request body as read or dropped.
    pub(crate) fn close_payload(&self) {
        self.open_payloads
            .set(self.open_payloads.get().saturating_sub(1));
    }

    /// Returns the position after the current request, if it was read completely.
    pub(crate) fn end_of_request(&self, kind: Kind) -> Option<u64> {
        let requests = self.requests.borrow();
        match kind {
            Kind::Chunked { .. } => requests.end_of_request(),
            Kind::Upgraded => requests.end_of_upgrade(),
        }
    }

    /// Stores a body, which actix [polls](Self::poll_body) and the connection may
    /// [detach](Self::detach). `end` is the position after its request.
    pub(crate) fn offer(&self, body: BoxBody, end: u64, kind: Kind) {
        *self.offer.borrow_mut() = Some(Offer {
            body,
            end,
            pending: false,
            kind,
        });
    }

    /// Polls the offered body; `None` if it was detached or withdrawn.
    pub(crate) fn poll_body<T>(
        &self,
        poll: impl FnOnce(Pin<&mut BoxBody>) -> Poll<T>,
    ) -> Option<Poll<T>> {
        let mut offer = self.offer.borrow_mut();
        let offer = offer.as_mut()?;
        let polled = poll(offer.body.as_pin_mut());
        offer.pending = polled.is_pending();
        Some(polled)
    }

    /// Drops the offered body.
    pub(crate) fn withdraw(&self) {
        self.offer.take();
    }

    /// Takes the offered body if it is pending, everything before it was written, and nothing was
    /// read after its request but what a WebSocket's payload has taken.
    pub(crate) fn detach(&self) -> Option<Detached> {
        let mut offer = self.offer.borrow_mut();
        let total_read = self.requests.borrow().total_read();
        let can_detach = |offer: &Offer| {
            offer.pending
                && !self.blocked.get()
                && self.open_payloads.get() == 0
                && offer.end + self.inbound.through_actix() == total_read
        };
        if !offer.as_ref().is_some_and(can_detach) {
            return None;
        }
        let Offer { body, kind, .. } = offer.take()?;
        if kind == Kind::Upgraded {
            self.inbound.go_direct();
        }
        Some(Detached { body, kind })
    }
}

// === impl ActiveGuard ===

impl ActiveGuard {
    pub(crate) fn client(&self) -> &Rc<ClientSocket> {
        &self.0
    }
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        let active = self.0.active.get();
        self.0.active.set(active.saturating_sub(1));
    }
}
