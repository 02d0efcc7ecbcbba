//! One connection, from an accepted socket to its end.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_server::GracefulShutdownSignal;
use actix_service::Service;
use bytes::{Buf as _, Bytes};
use futures::future::LocalBoxFuture;
use tokenwire_core::model::gauge::{Gauge, GaugeGuard};
use tokio::io::AsyncWrite as _;
use tokio::time::Sleep;

use crate::actix_io::ActixIo;
use crate::admission::Admission;
use crate::client_socket::ClientSocket;
use crate::draining::Draining;
use crate::request_tracker::Part;
use crate::stream_writer::{End, StreamWriter};

/// Timeouts of a connection outside actix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionTimeouts {
    /// Between a response and the next request.
    pub(crate) keep_alive: Duration,
    /// For the head of a request.
    pub(crate) head: Duration,
    /// Between the last byte written and the close.
    pub(crate) linger: Duration,
}

/// Options of a connection.
#[derive(Clone)]
pub(crate) struct ConnectionContext {
    pub(crate) timeouts: ConnectionTimeouts,
    pub(crate) shutdown: GracefulShutdownSignal,
    /// Counts the streams that are written directly.
    pub(crate) direct: Gauge,
    /// Whether the server drains.
    pub(crate) draining: Option<Arc<dyn Draining>>,
}

/// The future of one connection.
pub(crate) struct Connection<S: Service<(ActixIo, Option<SocketAddr>)>> {
    client: Rc<ClientSocket>,
    peer: Option<SocketAddr>,
    http: Rc<S>,
    context: ConnectionContext,
    phase: Phase<S::Future>,
    /// Closes a reserved connection.
    reserved_end: Option<LocalBoxFuture<'static, ()>>,
    /// Closes a connection whose client owes the rest of this request.
    stall: Option<Box<Stall>>,
    _open: GaugeGuard,
    _admitted: Option<Box<dyn Any>>,
}

/// An incomplete request, and the end of the time for it.
struct Stall {
    request: (u64, Part),
    timer: Pin<Box<Sleep>>,
}

enum Phase<F> {
    /// actix reads a request or writes a response. Boxed, since a stream does without it.
    Http(Pin<Box<F>>),
    /// A refusal is being written.
    Refusing(Bytes),
    /// A detached body is being written.
    Stream {
        writer: StreamWriter,
        _direct: GaugeGuard,
    },
    /// Our side is shut down, and the peer has some time to read the rest.
    Closing {
        timer: Pin<Box<Sleep>>,
        shut_down: bool,
    },
    /// No request is in progress.
    Idle {
        timer: Pin<Box<Sleep>>,
        shutdown: LocalBoxFuture<'static, ()>,
    },
}

// === impl ConnectionContext ===

impl ConnectionContext {
    fn drains(&self) -> bool {
        let draining = self.draining.as_ref();
        draining.is_some_and(|draining| draining.is_draining())
    }
}

// === impl Connection ===

impl<S> Connection<S>
where
    S: Service<(ActixIo, Option<SocketAddr>), Response = (), Error = DispatchError>,
{
    /// Starts with a dispatcher of actix, unless the connection is refused.
    pub(crate) fn new(
        client: Rc<ClientSocket>,
        peer: Option<SocketAddr>,
        http: Rc<S>,
        context: ConnectionContext,
        open: GaugeGuard,
        admission: Admission,
    ) -> Self {
        let (admitted, reserved_end, phase) = match admission {
            Admission::Refuse(bytes) => (None, None, Phase::Refusing(bytes)),
            Admission::Serve(guard) => (Some(guard), None, start(&*http, &client, peer)),
            Admission::Reserve { guard, end } => {
                (Some(guard), Some(end), start(&*http, &client, peer))
            }
        };
        Self {
            client,
            peer,
            http,
            context,
            phase,
            reserved_end,
            stall: None,
            _open: open,
            _admitted: admitted,
        }
    }

    /// Waits for the end of the time for an incomplete request. actix limits only the first head of a
    /// connection, and waits without a limit for the rest of a body that no handler reads.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(request) = self.client.stalled() else {
            self.stall = None;
            return Poll::Pending;
        };
        let timeout = match request.1 {
            Part::Head => self.context.timeouts.head + self.context.timeouts.linger,
            Part::Body => self.context.timeouts.linger,
            // As between two requests.
            Part::Unknown => self.context.timeouts.keep_alive + self.context.timeouts.linger,
        };
        let timer = match &mut self.stall {
            Some(stall) if stall.request == request => &mut stall.timer,
            stall => {
                let timer = Box::pin(tokio::time::sleep(timeout));
                &mut stall.insert(Box::new(Stall { request, timer })).timer
            }
        };
        timer.as_mut().poll(cx)
    }

    fn closing(&self) -> Phase<S::Future> {
        Phase::Closing {
            timer: Box::pin(tokio::time::sleep(self.context.timeouts.linger)),
            shut_down: false,
        }
    }

    fn idle(&self) -> Phase<S::Future> {
        let timer = Box::pin(tokio::time::sleep(self.context.timeouts.keep_alive));
        let signal = self.context.shutdown.clone();
        Phase::Idle {
            timer,
            shutdown: Box::pin(async move { signal.notified().await }),
        }
    }
}

impl<S> Future for Connection<S>
where
    S: Service<(ActixIo, Option<SocketAddr>), Response = (), Error = DispatchError>,
{
    type Output = Result<(), DispatchError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Some(end) = &mut this.reserved_end {
            // The client sees the connection close.
            if end.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
        }
        loop {
            this.phase = match &mut this.phase {
                Phase::Http(dispatcher) => {
                    if let Poll::Ready(result) = dispatcher.as_mut().poll(cx) {
                        if let Err(DispatchError::Body(_)) = &result {
                            this.client.on_broken();
                        }
                        return Poll::Ready(result);
                    }
                    if this.client.take_withheld() {
                        cx.waker().wake_by_ref();
                    }
                    match this.client.detach() {
                        Some(detached) => Phase::Stream {
                            writer: StreamWriter::new(detached),
                            _direct: this.context.direct.enter(),
                        },
                        None => return this.poll_stalled(cx).map(Ok),
                    }
                }
                Phase::Refusing(bytes) => {
                    while !bytes.is_empty() {
                        match ready!(
                            this.client
                                .with_socket(|socket| socket.poll_write(cx, bytes))
                        ) {
                            Ok(written) if written > 0 => bytes.advance(written),
                            _ => return Poll::Ready(Ok(())),
                        }
                    }
                    let _ = ready!(this.client.with_socket(|socket| socket.poll_shutdown(cx)));
                    // What has arrived is read, so that the close sends no reset.
                    let _ = this.client.poll_end(cx);
                    return Poll::Ready(Ok(()));
                }
                Phase::Stream { writer, .. } => match ready!(writer.poll(&this.client, cx)) {
                    // The client comes back to another process.
                    End::KeepAlive if this.context.drains() => this.closing(),
                    End::KeepAlive => this.idle(),
                    End::Close => this.closing(),
                    End::Broken => return Poll::Ready(Ok(())),
                },
                Phase::Closing { timer, shut_down } => {
                    if !*shut_down {
                        let done = this.client.with_socket(|socket| socket.poll_shutdown(cx));
                        *shut_down = done.is_ready();
                        if done.is_pending() {
                            ready!(timer.as_mut().poll(cx));
                            return Poll::Ready(Ok(()));
                        }
                    }
                    // Closing a socket with unread bytes sends a reset, which can discard the last
                    // response at the peer.
                    if this.client.poll_end(cx).is_pending() {
                        ready!(timer.as_mut().poll(cx));
                    }
                    return Poll::Ready(Ok(()));
                }
                Phase::Idle { timer, shutdown } => {
                    if this.client.poll_readable(cx).is_ready() {
                        start(&*this.http, &this.client, this.peer)
                    } else if timer.as_mut().poll(cx).is_ready()
                        || shutdown.as_mut().poll(cx).is_ready()
                    {
                        this.closing()
                    } else {
                        return Poll::Pending;
                    }
                }
            };
        }
    }
}

/// Starts a dispatcher of actix.
fn start<S: Service<(ActixIo, Option<SocketAddr>)>>(
    http: &S,
    client: &Rc<ClientSocket>,
    peer: Option<SocketAddr>,
) -> Phase<S::Future> {
    Phase::Http(Box::pin(http.call((ActixIo::new(client.clone()), peer))))
}

impl<S: Service<(ActixIo, Option<SocketAddr>)>> Unpin for Connection<S> {}

impl<S: Service<(ActixIo, Option<SocketAddr>)>> Drop for Connection<S> {
    fn drop(&mut self) {
        self.client.close();
    }
}

impl<S: Service<(ActixIo, Option<SocketAddr>)>> fmt::Debug for Connection<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}
