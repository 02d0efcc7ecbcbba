//! Lets the bodies of an application leave actix.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_http::header;
use actix_http::{
    BoxedPayloadStream, ConnectionType, Method, Payload, Request, Response, ResponseHead,
    StatusCode, Version,
};
use actix_service::Service;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::ServiceResponse;
use actix_web::error::PayloadError;
use bytes::Bytes;
use futures::Stream;
use pin_project_lite::pin_project;

use crate::client_socket::{ActiveGuard, ClientSocket, Kind};

/// Wraps an application, so that its streaming bodies can be detached.
#[derive(Debug)]
pub(crate) struct Detaching<S>(S);

pin_project! {
    /// The response of a wrapped application.
    pub(crate) struct DetachingFuture<F> {
        #[pin]
        response: F,
        detach: Option<Detach>,
        active: Option<ActiveGuard>,
    }
}

/// What is needed to detach the response of one request. Made before the request is handled.
struct Detach {
    client: Rc<ClientSocket>,
    kind: Kind,
}

/// The body of a request. The connection stays with actix until it was read or dropped.
struct TrackedPayload {
    payload: Payload,
    client: Rc<ClientSocket>,
    open: bool,
}

/// A stream that actix writes.
struct ActiveBody {
    body: BoxBody,
    _active: ActiveGuard,
}

/// Stands in actix for a body that is stored in the [`ClientSocket`].
struct DetachableBody {
    client: Rc<ClientSocket>,
    _active: ActiveGuard,
}

// === impl Detaching ===

impl<S> Detaching<S> {
    pub(crate) fn new(application: S) -> Self {
        Self(application)
    }
}

impl<S, B> Service<Request> for Detaching<S>
where
    S: Service<Request, Response = ServiceResponse<B>>,
    B: MessageBody + 'static,
{
    type Response = Response<BoxBody>;
    type Error = S::Error;
    type Future = DetachingFuture<S::Future>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&self, request: Request) -> Self::Future {
        let client = request.conn_data::<Rc<ClientSocket>>();
        let active = client.map(|client| {
            client.on_dispatch();
            client.set_ends_by_close(request.head().version < Version::HTTP_11);
            client.activate()
        });
        let (detach, request) = Detach::prepare(request);
        DetachingFuture {
            active,
            detach,
            response: self.0.call(request),
        }
    }
}

// === impl DetachingFuture ===

impl<F, B, E> Future for DetachingFuture<F>
where
    F: Future<Output = Result<ServiceResponse<B>, E>>,
    B: MessageBody + 'static,
{
    type Output = Result<Response<BoxBody>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.response.poll(cx))?;
        let response = Response::from(response).map_into_boxed_body();
        let Some(active) = this.active.take() else {
            return Poll::Ready(Ok(response));
        };
        if response.body().size() != BodySize::Stream {
            return Poll::Ready(Ok(response));
        }
        Poll::Ready(Ok(response.map_body(|head, body| {
            let end = this.detach.take().and_then(|detach| detach.end(head));
            match end {
                Some((end, kind)) => DetachableBody::offer(active, body, end, kind),
                None => BoxBody::new(ActiveBody {
                    body,
                    _active: active,
                }),
            }
        })))
    }
}

// === impl Detach ===

impl Detach {
    /// Tracks the body of a request. There is no `Detach` without direct writes, and for requests
    /// whose head does not say whether another may follow.
    fn prepare(request: Request) -> (Option<Self>, Request) {
        let client = request.conn_data::<Rc<ClientSocket>>().cloned();
        let Some(client) = client.filter(|client| client.direct_writes()) else {
            return (None, request);
        };
        let head = request.head();
        let kind = match head.connection_type() {
            ConnectionType::Upgrade => Kind::Upgraded,
            kind => Kind::Chunked {
                keep_alive: kind == ConnectionType::KeepAlive,
            },
        };
        if head.version != Version::HTTP_11
            || head.method == Method::HEAD
            || head.headers.contains_key(header::EXPECT)
        {
            return (None, request);
        }
        let request = match kind {
            Kind::Chunked { .. } => TrackedPayload::wrap(request, &client),
            Kind::Upgraded => request,
        };
        (Some(Self { client, kind }), request)
    }

    /// Returns the position after the request, if a stream with this head can be detached.
    fn end(self, head: &ResponseHead) -> Option<(u64, Kind)> {
        let expected = match self.kind {
            Kind::Chunked { .. } => {
                head.status.is_success() && !head.headers().contains_key(header::CONNECTION)
            }
            Kind::Upgraded => {
                head.status == StatusCode::SWITCHING_PROTOCOLS
                    && self.client.inbound().is_installed()
            }
        };
        let end = self.client.end_of_request(self.kind)?;
        expected.then_some((end, self.kind))
    }
}

// === impl TrackedPayload ===

impl TrackedPayload {
    /// Tracks the body of a request, if it has one.
    fn wrap(request: Request, client: &Rc<ClientSocket>) -> Request {
        let (request, payload) = request.replace_payload(Payload::None);
        if matches!(payload, Payload::None) {
            return request;
        }
        client.open_payload();
        let payload: BoxedPayloadStream = Box::pin(Self {
            payload,
            client: client.clone(),
            open: true,
        });
        request.replace_payload(Payload::Stream { payload }).0
    }

    fn close(&mut self) {
        if std::mem::take(&mut self.open) {
            self.client.close_payload();
        }
    }
}

impl Stream for TrackedPayload {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = Pin::new(&mut self.payload).poll_next(cx);
        if let Poll::Ready(None | Some(Err(_))) = polled {
            self.close();
        }
        polled
    }
}

impl Drop for TrackedPayload {
    fn drop(&mut self) {
        self.close();
    }
}

// === impl ActiveBody ===

impl MessageBody for ActiveBody {
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

// === impl DetachableBody ===

impl DetachableBody {
    /// Stores a body in the socket of its connection.
    fn offer(active: ActiveGuard, body: BoxBody, end: u64, kind: Kind) -> BoxBody {
        let client = active.client().clone();
        client.offer(body, end, kind);
        BoxBody::new(Self {
            client,
            _active: active,
        })
    }
}

impl MessageBody for DetachableBody {
    type Error = Box<dyn Error>;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        self.client
            .poll_body(|body| body.poll_next(cx))
            .unwrap_or(Poll::Ready(None))
    }
}

impl Drop for DetachableBody {
    fn drop(&mut self) {
        self.client.withdraw();
    }
}
