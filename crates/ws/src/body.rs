//! The response body of a WebSocket: data frames from the hub, control frames from actix-ws.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::Error;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use bytes::Bytes;
use tokenwire_core::presence::Present;

use crate::hub::Hub;

/// Pulls from the hub, then from the body that actix-ws made. Dropping it detaches the socket's
/// readers.
pub(crate) struct SocketBody {
    control: BoxBody,
    hub: Option<Rc<RefCell<Hub>>>,
    _present: Present,
}

impl SocketBody {
    pub(crate) fn new(control: BoxBody, hub: Rc<RefCell<Hub>>, present: Present) -> Self {
        Self {
            control,
            hub: Some(hub),
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
        if let Some(hub) = &this.hub {
            let frames = hub.borrow_mut().poll_frames(cx);
            if !frames.is_empty() {
                return Poll::Ready(Some(Ok(frames)));
            }
        }
        match Pin::new(&mut this.control).poll_next(cx) {
            Poll::Ready(None) => {
                this.hub = None;
                Poll::Ready(None)
            }
            polled => polled
                .map_err(|error| actix_web::error::ErrorInternalServerError(error.to_string())),
        }
    }
}
