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
use tokenwire_core::model::gauge::{Gauge, GaugeGuard};
use tokio::io::AsyncWrite as _;
use tokio::time::Sleep;

use crate::actix_io::ActixIo;
use crate::client_socket::ClientSocket;
use crate::stream_writer::{End, StreamWriter};

/// How long a connection may do nothing.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Between an answer and the next request.
    pub keep_alive: Duration,
    /// Between the last word and the end.
    pub linger: Duration,
    /// What was written may stay unacknowledged this long.
    pub slow_reader: Duration,
}

/// Makes a worker's connections over actix's HTTP/1 service.
pub struct Connections<F> {
    http: F,
    timeouts: Timeouts,
    shutdown: GracefulShutdownSignal,
    open: Gauge,
}

/// A worker's connections.
pub struct Worker<S> {
    http: Rc<S>,
    timeouts: Timeouts,
    shutdown: GracefulShutdownSignal,
    open: Gauge,
}

/// One connection.
pub struct Connection<S: Service<(ActixIo, Option<SocketAddr>)>> {
    client: Rc<ClientSocket>,
    peer: Option<SocketAddr>,
    http: Rc<S>,
    timeouts: Timeouts,
    shutdown: GracefulShutdownSignal,
    phase: Phase<S::Future>,
    _present: GaugeGuard,
}

enum Phase<F> {
    /// actix reads a request, or writes an answer. In a box, since a stream does without it.
    Http(Pin<Box<F>>),
    /// A stream is being written.
    StreamWriter(StreamWriter),
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
    pub fn new(http: F, timeouts: Timeouts, shutdown: GracefulShutdownSignal, open: Gauge) -> Self {
        Self {
            http,
            timeouts,
            shutdown,
            open,
        }
    }
}

impl<F> ServiceFactory<TcpStream> for Connections<F>
where
    F: ServiceFactory<
            (ActixIo, Option<SocketAddr>),
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
        let (timeouts, shutdown, open) = (self.timeouts, self.shutdown.clone(), self.open.clone());
        Box::pin(async move {
            Ok(Worker {
                http: Rc::new(http.await?),
                timeouts,
                shutdown,
                open,
            })
        })
    }
}

impl<S> Service<TcpStream> for Worker<S>
where
    S: Service<(ActixIo, Option<SocketAddr>), Response = (), Error = DispatchError>,
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
        let _ =
            socket2::SockRef::from(&socket).set_tcp_user_timeout(Some(self.timeouts.slow_reader));
        let peer = socket.peer_addr().ok();
        let client = Rc::new(ClientSocket::new(socket));
        let phase = Phase::Http(Box::pin(self.http.call((ActixIo(client.clone()), peer))));
        let (http, shutdown) = (self.http.clone(), self.shutdown.clone());
        Connection {
            client,
            peer,
            http,
            timeouts: self.timeouts,
            shutdown,
            phase,
            _present: self.open.enter(),
        }
    }
}

impl<S: Service<(ActixIo, Option<SocketAddr>)>> fmt::Debug for Connection<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl<S: Service<(ActixIo, Option<SocketAddr>)>> Unpin for Connection<S> {}

impl<S: Service<(ActixIo, Option<SocketAddr>)>> Drop for Connection<S> {
    fn drop(&mut self) {
        self.client.close();
    }
}

impl<S> Connection<S>
where
    S: Service<(ActixIo, Option<SocketAddr>), Response = (), Error = DispatchError>,
{
    fn closing(&self) -> Phase<S::Future> {
        Phase::Closing {
            timer: Box::pin(tokio::time::sleep(self.timeouts.linger)),
            told: false,
        }
    }

    fn idle(&self) -> Phase<S::Future> {
        let timer = Box::pin(tokio::time::sleep(self.timeouts.keep_alive));
        let signal = self.shutdown.clone();
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
        loop {
            this.phase = match &mut this.phase {
                Phase::Http(dispatcher) => {
                    if let Poll::Ready(result) = dispatcher.as_mut().poll(cx) {
                        return Poll::Ready(result);
                    }
                    match this.client.detach() {
                        Some(taken) => Phase::StreamWriter(StreamWriter::new(taken)),
                        None => return Poll::Pending,
                    }
                }
                Phase::StreamWriter(direct) => match ready!(direct.poll(&this.client, cx)) {
                    End::Next => this.idle(),
                    End::Last => this.closing(),
                    End::Broken => return Poll::Ready(Ok(())),
                },
                Phase::Closing { timer, told } => {
                    if !*told {
                        *told = true;
                        let _ = ready!(this.client.with_socket(|socket| socket.poll_shutdown(cx)));
                    }
                    // To close with something unread is to take back what was said last.
                    if this.client.poll_end(cx).is_pending() {
                        ready!(timer.as_mut().poll(cx));
                    }
                    return Poll::Ready(Ok(()));
                }
                Phase::Idle { timer, shutdown } => {
                    if this.client.poll_readable(cx).is_ready() {
                        Phase::Http(Box::pin(
                            this.http.call((ActixIo(this.client.clone()), this.peer)),
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
