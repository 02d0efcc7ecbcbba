//! The response body of a WebSocket.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::Error;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use bytes::Bytes;
use tokenwire_core::model::gauge::GaugeGuard;

use crate::session::SocketSession;

/// Pulls from the session. Dropping it detaches the socket's readers.
pub(crate) struct SocketBody {
    /// The body that actix-ws made, which has nothing to send. Dropping it ends the stream of the
    /// client's messages.
    _unused: BoxBody,
    socket: Option<Rc<RefCell<SocketSession>>>,
    _present: GaugeGuard,
}

impl SocketBody {
    pub(crate) fn new(
        unused: BoxBody,
        socket: Rc<RefCell<SocketSession>>,
        present: GaugeGuard,
    ) -> Self {
        Self {
            _unused: unused,
            socket: Some(socket),
            _present: present,
        }
    }
}

impl MessageBody for SocketBody {
    type Error = Error;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Error>>> {
        let this = &mut *self;
        let Some(socket) = &this.socket else {
            return Poll::Ready(None);
        };
        let mut session = socket.borrow_mut();
        let frames = session.poll_frames(cx);
        if !frames.is_empty() {
            return Poll::Ready(Some(Ok(frames)));
        }
        if !session.has_ended() {
            return Poll::Pending;
        }
        drop(session);
        this.socket = None;
        Poll::Ready(None)
    }
}
