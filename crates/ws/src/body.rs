//! The response body of a WebSocket: data frames from the session, control frames from actix-ws.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::Error;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use bytes::Bytes;
use tokenwire_core::model::gauge::GaugeGuard;

use crate::session::SocketSession;

/// Pulls from the session, then from the body that actix-ws made. Dropping it detaches the socket's
/// readers.
pub(crate) struct SocketBody {
    control: BoxBody,
    socket: Option<Rc<RefCell<SocketSession>>>,
    _present: GaugeGuard,
}

impl SocketBody {
    pub(crate) fn new(
        control: BoxBody,
        socket: Rc<RefCell<SocketSession>>,
        present: GaugeGuard,
    ) -> Self {
        Self {
            control,
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
        if let Some(socket) = &this.socket {
            let frames = socket.borrow_mut().poll_frames(cx);
            if !frames.is_empty() {
                return Poll::Ready(Some(Ok(frames)));
            }
        }
        match Pin::new(&mut this.control).poll_next(cx) {
            Poll::Ready(None) => {
                this.socket = None;
                Poll::Ready(None)
            }
            polled => polled
                .map_err(|error| actix_web::error::ErrorInternalServerError(error.to_string())),
        }
    }
}
