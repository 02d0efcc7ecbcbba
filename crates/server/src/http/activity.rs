//! `GET /v1/activity`: what happens, as `text/event-stream`.

use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use actix_web::body::{BodySize, MessageBody};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::future::LocalBoxFuture;
use tokio::time::{Instant, Sleep};

use super::inbound::{Query, text};
use super::outbound::HttpError;
use super::streams::later;
use crate::activity::Watcher;
use crate::service::Service;

/// Pause of a watcher before it comes back.
const RETRY: Duration = Duration::from_secs(2);
/// Bytes that one read returns at most, and one event beyond them.
const READ_BYTES: usize = 16 * 1024;

/// The events of one watcher. Nothing is queued: each read takes what the watcher has.
struct ActivityBody {
    watcher: Watcher,
    /// Bytes before the next event.
    preface: BytesMut,
    /// The gateway drains.
    draining: LocalBoxFuture<'static, ()>,
    is_over: bool,
    /// When the credential ends, and with it the watch.
    expires: Option<SystemTime>,
    /// When a comment is due.
    heartbeat: Duration,
    silent_until: Pin<Box<Sleep>>,
}

impl fmt::Debug for ActivityBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.watcher.fmt(f)
    }
}

/// `GET /v1/activity`
pub(super) async fn watch(
    request: HttpRequest,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    let identity = service.identity(&request)?;
    let query = Query::of(&request);
    let after = text(request.headers(), "last-event-id").filter(|id| !id.is_empty());
    let after = after.or_else(|| query.get("after"));
    let scope = Service::activity_scope(&identity);
    let watcher = match service.activity.watch(scope, after) {
        Ok(watcher) => watcher,
        Err(error) => return later(&request, error),
    };
    let registry = service.engine.registry().clone();
    let heartbeat = service.config.streams.heartbeat;
    let mut preface = BytesMut::new();
    preface.extend_from_slice(format!("retry: {}\n", RETRY.as_millis()).as_bytes());
    let body = ActivityBody {
        watcher,
        preface,
        draining: Box::pin(async move { registry.draining().await }),
        is_over: false,
        expires: identity.expires(),
        heartbeat,
        silent_until: Box::pin(tokio::time::sleep(heartbeat)),
    };
    Ok(tokenwire_sse::event_stream(&mut HttpResponse::Ok(), body))
}

impl MessageBody for ActivityBody {
    type Error = actix_web::Error;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        // There are rates at least once a second, so that this is seen in time.
        self.is_over |= self.expires.is_some_and(|end| end <= SystemTime::now());
        if self.is_over {
            return Poll::Ready(None);
        }
        let mut out = std::mem::take(&mut self.preface);
        let mut waits = false;
        while out.len() < READ_BYTES && !waits {
            match self.watcher.poll_next(cx) {
                Poll::Ready(json) => {
                    if let Some(id) = self.watcher.id() {
                        out.put_slice(b"id: ");
                        out.put_slice(id.as_bytes());
                        out.put_slice(b"\n");
                    }
                    out.put_slice(b"data: ");
                    out.put_slice(json.as_bytes());
                    out.put_slice(b"\n\n");
                }
                Poll::Pending => waits = true,
            }
        }
        if waits && self.draining.as_mut().poll(cx).is_ready() {
            // A whole event is the last thing that is sent: the watcher resumes elsewhere.
            self.is_over = true;
            if out.is_empty() {
                return Poll::Ready(None);
            }
        }
        if out.is_empty() && self.silent_until.as_mut().poll(cx).is_ready() {
            out.put_slice(b":\n");
        }
        if out.is_empty() {
            return Poll::Pending;
        }
        let silent_until = Instant::now() + self.heartbeat;
        self.silent_until.as_mut().reset(silent_until);
        Poll::Ready(Some(Ok(out.freeze())))
    }
}
