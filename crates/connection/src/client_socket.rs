//! The socket, and what is known of the request that came over it last.

use std::cell::{Cell, RefCell};
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::body::BoxBody;
use actix_web::rt::net::TcpStream;
use tokio::io::{AsyncRead as _, ReadBuf};

use crate::inbound::InboundBuffer;

/// The most that a client may send ahead while a stream is written to it. Past that the socket is
/// not read until the stream is over.
pub(super) const MAX_PIPELINED: usize = 8 * 1024;

/// One client's socket. Whoever writes to it, [actix](super::ActixIo) or [a
/// stream](super::stream_writer::StreamWriter), does so through this.
#[derive(Debug)]
pub struct ClientSocket {
    socket: RefCell<Option<TcpStream>>,
    /// What came during a stream: the beginning of the next request.
    pipelined: RefCell<Vec<u8>>,
    request: RefCell<Request>,
    /// Whether a write waits for the client.
    blocked: Cell<bool>,
    body: RefCell<Option<Offer>>,
    /// What a WebSocket's client sends.
    pub(super) inbound: InboundBuffer,
}

/// How much was read of the request at hand, and where its head ends.
#[derive(Debug, Default)]
struct Request {
    /// Bytes since the connection began.
    total_read: u64,
    /// Bytes since the last answer.
    bytes: u64,
    /// Of these, the head.
    head: Option<u64>,
    /// How much of `\r\n\r\n` was just seen.
    matched: usize,
    /// Whether something was written since; the next byte is another request's.
    answered: bool,
}

/// A body that could leave actix.
#[derive(Debug)]
struct Offer {
    body: BoxBody,
    /// What [`Request::ever`] must still be.
    total_read: u64,
    /// Whether it had nothing to say when it was last asked.
    waits: bool,
    kind: Kind,
}

/// What kind of answer a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// In chunks, and whether another request may follow.
    Chunked { keep_alive: bool },
    /// What comes after a switch of protocols: bytes both ways.
    Upgraded,
}

/// A body that has left actix.
#[derive(Debug)]
pub(super) struct Detached {
    pub(super) body: BoxBody,
    pub(super) kind: Kind,
}

impl ClientSocket {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self {
            socket: RefCell::new(Some(socket)),
            pipelined: RefCell::default(),
            request: RefCell::default(),
            blocked: Cell::new(false),
            body: RefCell::default(),
            inbound: InboundBuffer::default(),
        }
    }

    /// Does something with the socket, if it is open still.
    pub(super) fn with_socket<T>(
        &self,
        use_it: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match &mut *self.socket.borrow_mut() {
            Some(socket) => use_it(Pin::new(socket)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Closes the socket, whoever may hold the line still.
    pub(super) fn close(&self) {
        self.socket.take();
        self.body.take();
        self.inbound.close();
    }

    /// Reads for actix: first what came ahead.
    pub(super) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let mut pipelined = self.pipelined.borrow_mut();
        if pipelined.is_empty() {
            ready!(self.with_socket(|socket| socket.poll_read(cx, into)))?;
        } else {
            let take = pipelined.len().min(into.remaining());
            into.put_slice(&pipelined[..take]);
            pipelined.drain(..take);
            if pipelined.is_empty() {
                *pipelined = Vec::new();
            }
        }
        self.request.borrow_mut().read(&into.filled()[before..]);
        Poll::Ready(Ok(()))
    }

    /// Reads what a client sends while a stream is written to it. `Ready` means that it has gone.
    pub(super) fn poll_peer_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
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

    /// Throws away what comes, until the client has ended its side too.
    pub(super) fn poll_end(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut space = [const { MaybeUninit::uninit() }; 4096];
            let mut into = ReadBuf::uninit(&mut space);
            match ready!(self.with_socket(|socket| socket.poll_read(cx, &mut into))) {
                Ok(()) if !into.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
    }

    /// Reads what a WebSocket's client sends, as far as there is room for it. `Ready` means that it
    /// has gone.
    pub(super) fn poll_inbound(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.inbound.poll_room(cx));
            let mut space = [const { MaybeUninit::uninit() }; 4096];
            let mut into = ReadBuf::uninit(&mut space);
            match ready!(self.with_socket(|socket| socket.poll_read(cx, &mut into))) {
                Ok(()) if !into.filled().is_empty() => self.inbound.put(into.filled()),
                _ => return Poll::Ready(()),
            }
        }
    }

    /// Whether there is something for actix to read: bytes, or the end.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.pipelined.borrow().is_empty() {
            return Poll::Ready(());
        }
        self.with_socket(|socket| socket.poll_read_ready(cx))
            .map(|_| ())
    }

    /// Notes what became of a write.
    pub(super) fn wrote(&self, result: &Poll<io::Result<usize>>) {
        self.blocked.set(result.is_pending());
        self.request.borrow_mut().answered = true;
    }

    /// A mark of the request at hand if its head and `length` more bytes are all that was read.
    pub(super) fn whole_request(&self, length: u64) -> Option<u64> {
        let request = self.request.borrow();
        let head = request.head?;
        (!request.answered && head.checked_add(length) == Some(request.bytes))
            .then_some(request.total_read)
    }

    /// Takes a body in, for actix to [poll](Self::poll_body) and perhaps for the connection to
    /// [take out](Self::take). `ever` is the mark of its request.
    pub(super) fn offer(&self, body: BoxBody, total_read: u64, kind: Kind) {
        *self.body.borrow_mut() = Some(Offer {
            body,
            total_read,
            waits: false,
            kind,
        });
    }

    /// The offered body's next piece; outside, `None` is a body that has been taken out or
    /// withdrawn.
    pub(super) fn poll_body<T>(
        &self,
        poll: impl FnOnce(Pin<&mut BoxBody>) -> Poll<T>,
    ) -> Option<Poll<T>> {
        let mut offer = self.body.borrow_mut();
        let offer = offer.as_mut()?;
        let polled = poll(offer.body.as_pin_mut());
        offer.waits = polled.is_pending();
        Some(polled)
    }

    /// The body is dropped by actix.
    pub(super) fn withdraw(&self) {
        self.body.take();
    }

    /// The body, if it waits, everything before it was written, and nothing was read after its
    /// request.
    pub(super) fn detach(&self) -> Option<Detached> {
        let mut offer = self.body.borrow_mut();
        let read = |offer: &Offer| {
            offer.total_read + self.inbound.through_actix() == self.request.borrow().total_read
        };
        let ready = |offer: &Offer| offer.waits && !self.blocked.get() && read(offer);
        if !offer.as_ref().is_some_and(ready) {
            return None;
        }
        let Offer { body, kind, .. } = offer.take()?;
        if kind == Kind::Upgraded {
            self.inbound.go_direct();
        }
        Some(Detached { body, kind })
    }
}

impl Request {
    fn read(&mut self, bytes: &[u8]) {
        if self.answered && !bytes.is_empty() {
            *self = Self {
                total_read: self.total_read,
                ..Self::default()
            };
        }
        self.total_read += bytes.len() as u64;
        if self.head.is_none() {
            for (index, byte) in bytes.iter().enumerate() {
                self.matched = match (self.matched, byte) {
                    (0 | 2, b'\r') | (1 | 3, b'\n') => self.matched + 1,
                    (_, b'\r') => 1,
                    _ => 0,
                };
                if self.matched == 4 {
                    self.head = Some(self.bytes + index as u64 + 1);
                    break;
                }
            }
        }
        self.bytes += bytes.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the pieces as one request, and says whether `length` bytes after the head are all of
    /// it.
    fn check(pieces: &[&str], length: u64, whole: bool) {
        let mut request = Request::default();
        for piece in pieces {
            request.read(piece.as_bytes());
        }
        assert_eq!(
            request
                .head
                .is_some_and(|head| head + length == request.bytes),
            whole,
            "{pieces:?}"
        );
    }

    #[test]
    fn a_request_is_whole_when_its_body_is_there_and_nothing_else() {
        check(&["POST / HTTP/1.1\r\na: b\r\n\r\n{}"], 2, true);
        check(
            &["POST / HTTP/1.1\r\na: b\r", "\n\r", "\n", "{", "}"],
            2,
            true,
        );
        check(&["GET / HTTP/1.1\r\n\r\n"], 0, true);
        check(&["POST / HTTP/1.1\r\n\r\n{"], 2, false);
        check(&["POST / HTTP/1.1\r\n\r\n{}GET"], 2, false);
        check(&["GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n"], 0, false);
        check(&["GET / HTTP/1.1\n\n"], 0, false);
        check(&["GET / HTTP/1.1\r\n\r\r\n\r\n"], 0, true);
    }

    #[test]
    fn what_comes_after_an_answer_is_another_request() {
        let mut request = Request::default();
        request.read(b"GET / HTTP/1.1\r\n\r\n");
        request.answered = true;
        request.read(b"GET /2 HTTP/1.1\r\n\r\n");
        assert_eq!(
            (request.total_read, request.bytes, request.head),
            (37, 19, Some(19))
        );
        assert!(!request.answered);
    }
}
