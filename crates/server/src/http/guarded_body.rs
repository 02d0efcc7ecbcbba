//! A response body that counts as long as it is written.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use bytes::Bytes;

/// A body with a guard that is dropped with it.
pub(super) struct GuardedBody<G> {
    body: BoxBody,
    _guard: G,
}

impl<G: Unpin + 'static> GuardedBody<G> {
    /// Attaches a guard to a body, unless there are no bytes to write. A body whose size is known is
    /// not written at once, either, when the client's window has no room.
    pub(super) fn attach(body: BoxBody, guard: G) -> BoxBody {
        match body.size() {
            BodySize::None | BodySize::Sized(0) => body,
            BodySize::Sized(_) | BodySize::Stream => BoxBody::new(Self {
                body,
                _guard: guard,
            }),
        }
    }
}

impl<G: Unpin> MessageBody for GuardedBody<G> {
    type Error = Box<dyn Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        self.body.as_pin_mut().poll_next(cx)
    }
}
