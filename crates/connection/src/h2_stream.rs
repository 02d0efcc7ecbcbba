//! One stream of an HTTP/2 connection: a request, and the response to it.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_http::{HttpMessage as _, Request, Response};
use actix_service::Service;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::ServiceResponse;
use bytes::{Bytes, BytesMut};
use futures::ready;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use tokio::time::Sleep;

use crate::h2_message;

/// Bytes of a stream that wait in the connection, for the client's window or the socket.
pub(crate) const SEND_BUFFER: usize = 16 * 1024;

/// How a stream ended.
#[derive(Debug)]
pub(crate) enum StreamEnd {
    /// The response is complete.
    Complete,
    /// The client reset the stream, or the connection is gone.
    Left,
    /// This side has reset the stream.
    Reset,
    /// The response broke off. A reset drops what waits in the connection, so the stream is to be
    /// reset once that is written.
    Broken(SendStream<Bytes>),
}

/// How the writing of a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyEnd {
    Complete,
    /// As [`StreamEnd::Left`].
    Left,
    /// The client reads too slowly.
    Slow,
    /// The body has failed.
    Broken,
}

/// Writes a body as the client's window has room.
struct BodyWriter {
    body: BoxBody,
    send: SendStream<Bytes>,
    /// Bytes that the window has no room for.
    rest: Bytes,
    /// The body has no more bytes for now. It has registered the waker.
    is_pending: bool,
    end: Option<BodyEnd>,
    /// Maximum time in which the client makes room for [`SEND_BUFFER`].
    slow_reader: Duration,
    stalled: Option<Stall>,
}

/// Bytes wait for room.
struct Stall {
    timer: Pin<Box<Sleep>>,
    /// Bytes that were sent since it began.
    sent: usize,
}

/// Serves one request. Dropping the future, like a reset by the client, ends the handler or the body
/// as the end of an HTTP/1 connection would. A panic of either ends this stream only.
pub(crate) async fn serve<A, B>(
    application: Rc<A>,
    request: Request,
    mut respond: SendResponse<Bytes>,
    slow_reader: Duration,
) -> StreamEnd
where
    A: Service<Request, Response = ServiceResponse<B>, Error = actix_web::Error>,
    B: MessageBody + 'static,
{
    let is_head = request.method() == actix_http::Method::HEAD;
    if request.headers().contains_key("expect") {
        let mut more = http::Response::new(());
        *more.status_mut() = http::StatusCode::CONTINUE;
        let _ = respond.send_informational(more);
    }
    let handler = catch_unwind(AssertUnwindSafe(|| application.call(request)));
    let Ok(handler) = handler else {
        respond.send_reset(Reason::INTERNAL_ERROR);
        return StreamEnd::Reset;
    };
    // Freed before the body is written.
    let mut handler = Box::pin(handler);
    let handled = poll_fn(|cx| {
        if respond.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(StreamEnd::Left));
        }
        // What has panicked is dropped, and not polled again.
        match catch_unwind(AssertUnwindSafe(|| handler.as_mut().poll(cx))) {
            Ok(handled) => handled.map(Ok),
            Err(_) => Poll::Ready(Err(StreamEnd::Reset)),
        }
    });
    let response: Response<BoxBody> = match handled.await {
        Err(end) => {
            if let StreamEnd::Reset = end {
                respond.send_reset(Reason::INTERNAL_ERROR);
            }
            return end;
        }
        Ok(Ok(response)) => Response::from(response).map_into_boxed_body(),
        Ok(Err(error)) => Response::from(error),
    };
    drop(handler);
    let size = h2_message::body_size(response.head(), response.body().size());
    let head = h2_message::response(response.head(), size);
    let has_body = !is_head && !matches!(size, BodySize::None | BodySize::Sized(0));
    let Ok(send) = respond.send_response(head, !has_body) else {
        return StreamEnd::Left;
    };
    if !has_body {
        return StreamEnd::Complete;
    }
    let mut writer = BodyWriter {
        body: response.into_body(),
        send,
        rest: Bytes::new(),
        is_pending: false,
        end: None,
        slow_reader,
        stalled: None,
    };
    match poll_fn(|cx| writer.poll(cx)).await {
        BodyEnd::Complete => StreamEnd::Complete,
        BodyEnd::Left => StreamEnd::Left,
        BodyEnd::Slow => {
            writer.send.send_reset(Reason::CANCEL);
            StreamEnd::Reset
        }
        BodyEnd::Broken => StreamEnd::Broken(writer.send),
    }
}

// === impl BodyWriter ===

impl BodyWriter {
    /// Writes until the body is pending or has ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<BodyEnd> {
        if self.send.poll_reset(cx).is_ready() {
            return Poll::Ready(BodyEnd::Left);
        }
        self.is_pending = false;
        loop {
            if !self.rest.is_empty() {
                match ready!(self.poll_room(cx)) {
                    Ok(room) => {
                        let part = self.rest.split_to(room.min(self.rest.len()));
                        self.count_sent(part.len());
                        let is_last = self.rest.is_empty() && self.end == Some(BodyEnd::Complete);
                        if self.send.send_data(part, is_last).is_err() {
                            return Poll::Ready(BodyEnd::Left);
                        }
                        if is_last {
                            return Poll::Ready(BodyEnd::Complete);
                        }
                        continue;
                    }
                    Err(end) => return Poll::Ready(end),
                }
            }
            match self.end {
                Some(BodyEnd::Complete) => {
                    // The window does not count an empty frame.
                    let sent = self.send.send_data(Bytes::new(), true);
                    return Poll::Ready(sent.map_or(BodyEnd::Left, |()| BodyEnd::Complete));
                }
                // The client must not take what it has for the whole.
                Some(end) => return Poll::Ready(end),
                None if self.is_pending => return Poll::Pending,
                None => self.gather(cx),
            }
        }
    }

    /// Waits for room in the window, and returns how many bytes may be sent.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, BodyEnd>> {
        self.send.reserve_capacity(self.rest.len().min(SEND_BUFFER));
        loop {
            match self.send.capacity() {
                0 => match self.send.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(_) => return Poll::Ready(Err(BodyEnd::Left)),
                    Poll::Pending => break,
                },
                room => return Poll::Ready(Ok(room)),
            }
        }
        let timeout = self.slow_reader;
        let stalled = self.stalled.get_or_insert_with(|| Stall {
            timer: Box::pin(tokio::time::sleep(timeout)),
            sent: 0,
        });
        ready!(stalled.timer.as_mut().poll(cx));
        Poll::Ready(Err(BodyEnd::Slow))
    }

    /// Counts bytes as sent. A client that makes room for a byte now and then stays a slow one.
    fn count_sent(&mut self, bytes: usize) {
        if let Some(stalled) = &mut self.stalled {
            stalled.sent += bytes;
            if stalled.sent >= SEND_BUFFER || self.rest.is_empty() {
                self.stalled = None;
            }
        }
    }

    /// Takes what the body has now. Several small pieces make one frame.
    fn gather(&mut self, cx: &mut Context<'_>) {
        let mut many = BytesMut::new();
        loop {
            let body = self.body.as_pin_mut();
            let Ok(polled) = catch_unwind(AssertUnwindSafe(|| body.poll_next(cx))) else {
                self.end = Some(BodyEnd::Broken);
                break;
            };
            match polled {
                Poll::Pending => {
                    self.is_pending = true;
                    break;
                }
                Poll::Ready(Some(Ok(piece))) if self.rest.is_empty() => self.rest = piece,
                Poll::Ready(Some(Ok(piece))) => {
                    if many.is_empty() {
                        many.extend_from_slice(&self.rest);
                    }
                    many.extend_from_slice(&piece);
                }
                Poll::Ready(None) => {
                    self.end = Some(BodyEnd::Complete);
                    break;
                }
                Poll::Ready(Some(Err(_))) => {
                    self.end = Some(BodyEnd::Broken);
                    break;
                }
            }
            if self.rest.len().max(many.len()) >= SEND_BUFFER {
                break;
            }
        }
        if !many.is_empty() {
            self.rest = many.freeze();
        }
    }
}
