//! A response body that breaks off when the credential that opened it is revoked.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use bytes::Bytes;

use crate::auth::{OpenBody, Revocation};

/// A body that breaks off.
pub(super) struct RevocableBody {
    body: BoxBody,
    open: OpenBody,
    is_cut: bool,
}

/// Why it broke off.
#[derive(Debug, thiserror::Error)]
#[error("the credential was revoked")]
struct Revoked;

impl RevocableBody {
    /// Makes a streaming body one that breaks off. Other bodies are written at once.
    pub(super) fn attach(body: BoxBody, revocation: &Arc<Revocation>) -> BoxBody {
        match body.size() {
            BodySize::Stream => BoxBody::new(Self {
                body,
                open: revocation.open(),
                is_cut: false,
            }),
            _ => body,
        }
    }
}

impl MessageBody for RevocableBody {
    type Error = Box<dyn Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        if !self.open.poll_cut(cx.waker()) {
            return self.body.as_pin_mut().poll_next(cx);
        }
        if self.is_cut {
            return Poll::Ready(Some(Err(Box::new(Revoked))));
        }
        // What was returned before is written first, as with an error of the stream.
        self.is_cut = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
