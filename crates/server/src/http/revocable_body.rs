//! A response body that breaks off when the credential that opened it is revoked.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use bytes::Bytes;

use crate::auth::{OpenBody, Revocation};

/// Bytes of a body of known size that are written without looking for a revocation. A shorter one
/// arrives, also if it answers the request that revokes its own credential.
const PIECE: usize = 16 * 1024;

/// A body that breaks off.
pub(super) struct RevocableBody {
    body: BoxBody,
    /// Longest piece to return.
    longest: usize,
    /// What is left of a longer one.
    rest: Bytes,
    open: OpenBody,
    is_cut: bool,
}

/// Why it broke off.
#[derive(Debug, thiserror::Error)]
#[error("the credential was revoked")]
struct Revoked;

impl RevocableBody {
    /// Makes a body one that breaks off. A long one whose size is known is returned in pieces, since
    /// the client's window may have no room for the whole.
    pub(super) fn attach(body: BoxBody, revocation: &Arc<Revocation>) -> BoxBody {
        let longest = match body.size() {
            BodySize::Stream => usize::MAX,
            BodySize::Sized(size) if size > PIECE as u64 => PIECE,
            BodySize::None | BodySize::Sized(_) => return body,
        };
        BoxBody::new(Self {
            body,
            longest,
            rest: Bytes::new(),
            open: revocation.open(),
            is_cut: false,
        })
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Box<dyn Error>>>> {
        if self.longest == usize::MAX {
            return self.body.as_pin_mut().poll_next(cx);
        }
        if self.rest.is_empty() {
            match ready!(self.body.as_pin_mut().poll_next(cx)) {
                Some(Ok(piece)) => self.rest = piece,
                end => return Poll::Ready(end),
            }
        }
        let length = self.rest.len().min(self.longest);
        Poll::Ready(Some(Ok(self.rest.split_to(length))))
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
            return self.poll_piece(cx);
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn long_body_is_cut_between_pieces_and_a_short_one_arrives() {
        let revocation = Arc::new(Revocation::default());
        let long = BoxBody::new(Bytes::from(vec![b'x'; 2 * PIECE]));
        let mut long = RevocableBody::attach(long, &revocation);
        assert_eq!(long.size(), BodySize::Sized(2 * PIECE as u64));
        let piece = poll_fn(|cx| long.as_pin_mut().poll_next(cx)).await;
        assert_eq!(piece.unwrap().unwrap().len(), PIECE);
        revocation.revoke().await;
        let error = poll_fn(|cx| long.as_pin_mut().poll_next(cx)).await;
        assert!(error.unwrap().unwrap_err().to_string().contains("revoked"));
        let mut short = RevocableBody::attach(BoxBody::new("short"), &revocation);
        let piece = poll_fn(|cx| short.as_pin_mut().poll_next(cx)).await;
        assert_eq!(piece.unwrap().unwrap(), "short");
    }
}
