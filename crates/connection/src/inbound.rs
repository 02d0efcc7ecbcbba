//! What a WebSocket's client sends, whoever reads the socket: actix at first, the connection itself
//! later.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use actix_web::HttpRequest;
use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use bytes::{Bytes, BytesMut};
use futures::Stream;

use crate::client_socket::ClientSocket;

/// What may wait for the conversation. Past that the socket is not read.
const MAX_WAITING: usize = 32 * 1024;

/// The bytes between the connection that reads them and the conversation that hears them.
#[derive(Debug, Default)]
pub(super) struct InboundBuffer {
    waiting: RefCell<BytesMut>,
    /// The conversation, when there is nothing for it.
    listener: RefCell<Option<Waker>>,
    /// The connection, when there is too much.
    reader: RefCell<Option<Waker>>,
    /// Bytes that the conversation got from actix; none where there is no conversation.
    through_actix: Cell<u64>,
    installed: Cell<bool>,
    /// Whether the connection reads the socket by itself.
    direct: Cell<bool>,
    closed: Cell<bool>,
}

/// A WebSocket's payload that outlives actix's part in it.
struct Incoming {
    actix: Payload,
    client: Rc<ClientSocket>,
    through_actix: bool,
}

/// The payload of a WebSocket upgrade, so that its connection may leave actix; another connection's
/// payload stays as it is.
pub fn incoming(request: &HttpRequest, payload: Payload) -> Payload {
    let Some(client) = request.conn_data::<Rc<ClientSocket>>().cloned() else {
        return payload;
    };
    client.inbound.installed.set(true);
    Payload::Stream {
        payload: Box::pin(Incoming {
            actix: payload,
            client,
            through_actix: true,
        }),
    }
}

impl InboundBuffer {
    pub(super) fn is_installed(&self) -> bool {
        self.installed.get()
    }

    pub(super) fn through_actix(&self) -> u64 {
        self.through_actix.get()
    }

    /// The connection reads from now on.
    pub(super) fn go_direct(&self) {
        self.direct.set(true);
        self.wake_hearer();
    }

    /// Whether there is room; if not, the connection is woken once there is.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.waiting.borrow().len() < MAX_WAITING {
            return Poll::Ready(());
        }
        self.reader.replace(Some(cx.waker().clone()));
        Poll::Pending
    }

    pub(super) fn put(&self, bytes: &[u8]) {
        self.waiting.borrow_mut().extend_from_slice(bytes);
        self.wake_hearer();
    }

    /// Nothing more will come.
    pub(super) fn close(&self) {
        self.closed.set(true);
        self.wake_hearer();
    }

    fn wake_hearer(&self) {
        if let Some(waker) = self.listener.take() {
            waker.wake();
        }
    }

    fn poll_take(&self, cx: &Context<'_>) -> Poll<Option<Bytes>> {
        let bytes = std::mem::take(&mut *self.waiting.borrow_mut()).freeze();
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
        if !bytes.is_empty() {
            return Poll::Ready(Some(bytes));
        }
        if self.closed.get() {
            return Poll::Ready(None);
        }
        self.listener.replace(Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl Stream for Incoming {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let inbound = &this.client.inbound;
        if this.through_actix {
            let polled = Pin::new(&mut this.actix).poll_next(cx);
            match polled {
                Poll::Ready(Some(Ok(bytes))) => {
                    inbound
                        .through_actix
                        .set(inbound.through_actix.get() + bytes.len() as u64);
                    return Poll::Ready(Some(Ok(bytes)));
                }
                // What actix had left was heard before.
                _ if inbound.direct.get() => this.through_actix = false,
                Poll::Pending => {
                    inbound.listener.replace(Some(cx.waker().clone()));
                    return Poll::Pending;
                }
                over => return over,
            }
        }
        // A client that left without a word is an error to the conversation, as with actix.
        inbound
            .poll_take(cx)
            .map(|bytes| Some(bytes.ok_or(PayloadError::Incomplete(None))))
    }
}
