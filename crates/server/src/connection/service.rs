//! From an accepted socket to its end.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_server::GracefulShutdownSignal;
use actix_service::{Service, ServiceFactory};
use actix_web::rt::net::TcpStream;
use futures::future::LocalBoxFuture;
use tokenwire_core::presence::{Presence, Present};
use tokio::io::AsyncWrite as _;
use tokio::time::Sleep;

use super::direct::{Direct, End};
use super::line::Line;
use super::wire::Wire;

/// How long a connection may do nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    /// Between an answer and the next request.
    pub(crate) keep_alive: Duration,
    /// Between the last word and the end.
    pub(crate) linger: Duration,
    /// What was written may stay unacknowledged this long.
    pub(crate) slow_reader: Duration,
}

/// Makes a worker's connections over actix's HTTP/1 service.
pub(crate) struct Connections<F> {
    http: F,
    clocks: Clocks,
    shutdown: GracefulShutdownSignal,
    open: Presence,
}

/// A worker's connections.
pub(crate) struct Worker<S> {
    http: Rc<S>,
    clocks: Clocks,
    shutdown: GracefulShutdownSignal,
    open: Presence,
}

/// One connection.
pub(crate) struct Connection<S: Service<(Wire, Option<SocketAddr>)>> {
    line: Rc<Line>,
    peer: Option<SocketAddr>,
    http: Rc<S>,
    clocks: Clocks,
    shutdown: GracefulShutdownSignal,
    phase: Phase<S::Future>,
    _present: Present,
}

enum Phase<F> {
    /// actix reads a request, or writes an answer. In a box, since a stream does without it.
    Http(Pin<Box<F>>),
    /// A stream is being written.
    Direct(Direct),
    /// The client is told that nothing more will come, and has a while to see it.
    Closing { timer: Pin<Box<Sleep>>, told: bool },
    /// There is nothing to do until the client asks again.
    Idle {
        timer: Pin<Box<Sleep>>,
        shutdown: LocalBoxFuture<'static, ()>,
    },
}

impl<F> Connections<F> {
    /// `open` counts them.
    pub(crate) fn new(
        http: F,
        clocks: Clocks,
        shutdown: GracefulShutdownSignal,
        open: Presence,
    ) -> Self {
        Self {
            http,
            clocks,
            shutdown,
            open,
        }
    }
}

impl<F> ServiceFactory<TcpStream> for Connections<F>
where
    F: ServiceFactory<
            (Wire, Option<SocketAddr>),
            Config = (),
            Response = (),
            Error = DispatchError,
        >,
    F::Future: 'static,
    F::Service: 'static,
{
    type Response = ();
    type Error = DispatchError;
    type Config = ();
    type Service = Worker<F::Service>;
    type InitError = F::InitError;
    type Future = LocalBoxFuture<'static, Result<Self::Service, Self::InitError>>;

    fn new_service(&self, (): ()) -> Self::Future {
        let http = self.http.new_service(());
        let (clocks, shutdown, open) = (self.clocks, self.shutdown.clone(), self.open.clone());
        Box::pin(async move {
            Ok(Worker {
                http: Rc::new(http.await?),
                clocks,
                shutdown,
                open,
            })
        })
    }
}

impl<S> Service<TcpStream> for Worker<S>
where
    S: Service<(Wire, Option<SocketAddr>), Response = (), Error = DispatchError>,
{
    type Response = ();
    type Error = DispatchError;
    type Future = Connection<S>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.http.poll_ready(cx)
    }

    fn call(&self, socket: TcpStream) -> Connection<S> {
        // Without it the first token of a WebSocket waits for the peer's delayed acknowledgement.
        let _ = socket.set_nodelay(true);
        // A body is not polled while its socket is blocked, so it cannot time itself out: the
        // kernel does.
        let _ = socket2::SockRef::from(&socket).set_tcp_user_timeout(Some(self.clocks.slow_reader));
        let peer = socket.peer_addr().ok();
        let line = Rc::new(Line::new(socket));
        let phase = Phase::Http(Box::pin(self.http.call((Wire(line.clone()), peer))));
        let (http, shutdown) = (self.http.clone(), self.shutdown.clone());
        Connection {
            line,
            peer,
            http,
            clocks: self.clocks,
            shutdown,
            phase,
            _present: self.open.enter(),
        }
    }
}

impl<S: Service<(Wire, Option<SocketAddr>)>> fmt::Debug for Connection<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl<S: Service<(Wire, Option<SocketAddr>)>> Unpin for Connection<S> {}

impl<S: Service<(Wire, Option<SocketAddr>)>> Drop for Connection<S> {
    fn drop(&mut self) {
        self.line.close();
    }
}

impl<S> Connection<S>
where
    S: Service<(Wire, Option<SocketAddr>), Response = (), Error = DispatchError>,
{
    fn closing(&self) -> Phase<S::Future> {
        Phase::Closing {
            timer: Box::pin(tokio::time::sleep(self.clocks.linger)),
            told: false,
        }
    }

    fn idle(&self) -> Phase<S::Future> {
        let timer = Box::pin(tokio::time::sleep(self.clocks.keep_alive));
        let signal = self.shutdown.clone();
        Phase::Idle {
            timer,
            shutdown: Box::pin(async move { signal.notified().await }),
        }
    }
}

impl<S> Future for Connection<S>
where
    S: Service<(Wire, Option<SocketAddr>), Response = (), Error = DispatchError>,
{
    type Output = Result<(), DispatchError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            this.phase = match &mut this.phase {
                Phase::Http(dispatcher) => {
                    if let Poll::Ready(result) = dispatcher.as_mut().poll(cx) {
                        return Poll::Ready(result);
                    }
                    match this.line.take() {
                        Some(taken) => Phase::Direct(Direct::new(taken)),
                        None => return Poll::Pending,
                    }
                }
                Phase::Direct(direct) => match ready!(direct.poll(&this.line, cx)) {
                    End::Next => this.idle(),
                    End::Last => this.closing(),
                    End::Broken => return Poll::Ready(Ok(())),
                },
                Phase::Closing { timer, told } => {
                    if !*told {
                        *told = true;
                        let _ = ready!(this.line.with_socket(|socket| socket.poll_shutdown(cx)));
                    }
                    // To close with something unread is to take back what was said last.
                    if this.line.poll_end(cx).is_pending() {
                        ready!(timer.as_mut().poll(cx));
                    }
                    return Poll::Ready(Ok(()));
                }
                Phase::Idle { timer, shutdown } => {
                    if this.line.poll_readable(cx).is_ready() {
                        Phase::Http(Box::pin(
                            this.http.call((Wire(this.line.clone()), this.peer)),
                        ))
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
