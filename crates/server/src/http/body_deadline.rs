//! Limits the time of request bodies.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::HttpMessage as _;
use actix_web::dev::{Payload, ServiceRequest};
use actix_web::error::PayloadError;
use actix_web::http::Method;
use bytes::Bytes;
use futures::Stream;
use tokio::time::{Instant, Sleep};

/// Whether the body of a request was late.
pub(super) type Late = Rc<Cell<bool>>;

/// A body that fails after its deadline.
struct BodyDeadline {
    payload: Payload,
    start: Instant,
    timeout: Duration,
    /// Bytes that extend the deadline by a second.
    rate: usize,
    received: u64,
    /// Created when the body is first waited for.
    timer: Option<Pin<Box<Sleep>>>,
    late: Late,
}

/// Sets a deadline for the body of a request: `timeout`, and a second for every `rate` bytes. The
/// GET of a WebSocket has none; every other method has, whatever its `Connection` says.
pub(super) fn limit_body(request: &mut ServiceRequest, timeout: Duration, rate: usize) -> Late {
    let late = Late::default();
    if request.method() == Method::GET && request.head().upgrade() {
        return late;
    }
    let payload = match request.take_payload() {
        Payload::None => return late,
        payload => BodyDeadline {
            payload,
            start: Instant::now(),
            timeout,
            rate: rate.max(1),
            received: 0,
            timer: None,
            late: late.clone(),
        },
    };
    request.set_payload(Payload::Stream {
        payload: Box::pin(payload),
    });
    late
}

// === impl BodyDeadline ===

impl BodyDeadline {
    fn deadline(&self) -> Instant {
        self.start + self.timeout + Duration::from_secs(self.received / self.rate as u64)
    }
}

impl Stream for BodyDeadline {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Poll::Ready(bytes) = Pin::new(&mut this.payload).poll_next(cx) {
            if let Some(Ok(bytes)) = &bytes {
                this.received += bytes.len() as u64;
            }
            return Poll::Ready(bytes);
        }
        let deadline = this.deadline();
        let timer = this
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        ready!(timer.as_mut().poll(cx));
        this.late.set(true);
        let error = io::Error::new(io::ErrorKind::TimedOut, "the body did not arrive in time");
        Poll::Ready(Some(Err(PayloadError::Io(error))))
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use futures::channel::mpsc;

    use super::*;

    type Sender = mpsc::UnboundedSender<Result<Bytes, PayloadError>>;

    /// A body with a deadline of 10 s, extended by a second for every 100 bytes.
    fn body() -> (Sender, BodyDeadline) {
        let (sender, receiver) = mpsc::unbounded();
        let payload: Pin<Box<dyn Stream<Item = Result<Bytes, PayloadError>>>> = Box::pin(receiver);
        let payload = Payload::Stream { payload };
        let body = BodyDeadline {
            payload,
            start: Instant::now(),
            timeout: Duration::from_secs(10),
            rate: 100,
            received: 0,
            timer: None,
            late: Late::default(),
        };
        (sender, body)
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_extend_the_deadline() {
        let (sender, mut body) = body();
        let start = Instant::now();
        for _ in 0..5 {
            sender
                .unbounded_send(Ok(Bytes::from(vec![0; 100])))
                .unwrap();
            assert!(body.next().await.unwrap().is_ok());
        }
        assert!(body.next().await.unwrap().is_err());
        assert_eq!(start.elapsed().as_secs(), 15);
        assert!(body.late.get());
    }

    #[tokio::test(start_paused = true)]
    async fn slow_bytes_do_not_extend_it_for_ever() {
        let (sender, mut body) = body();
        let start = Instant::now();
        let late = body.late.clone();
        let trickle = async {
            while !late.get() {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let _ = sender.unbounded_send(Ok(Bytes::from_static(b"a")));
            }
        };
        let read = async { while let Some(Ok(_)) = body.next().await {} };
        tokio::join!(trickle, read);
        assert!(
            start.elapsed() <= Duration::from_secs(12),
            "{:?}",
            start.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn complete_body_is_not_late() {
        let (sender, mut body) = body();
        sender
            .unbounded_send(Ok(Bytes::from_static(b"{}")))
            .unwrap();
        drop(sender);
        assert!(body.next().await.unwrap().is_ok());
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(body.next().await.is_none() && !body.late.get());
    }
}
