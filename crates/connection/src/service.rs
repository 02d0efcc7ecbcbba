//! Turns an application into connections.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_http::h1::{ExpectHandler, H1ServiceHandler, UpgradeHandler};
use actix_http::{HttpService, Request};
use actix_server::GracefulShutdownSignal;
use actix_service::{IntoServiceFactory, Service, ServiceFactory, map_config};
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{AppConfig, ServiceResponse};
use actix_web::rt::net::TcpStream;
use futures::future::{LocalBoxFuture, Ready, ready};
use tokenwire_core::model::gauge::{Gauge, GaugeGuard};

use crate::actix_io::ActixIo;
use crate::admission::{Admission, Admit, Reserved};
use crate::client_socket::ClientSocket;
use crate::client_stream::ClientStream;
use crate::connection::{Connection, ConnectionContext, ConnectionTimeouts};
use crate::detach::Detaching;
use crate::draining::Draining;
use crate::h2_connection::{H2Context, Http2Options, serve_http2};
use crate::tls::{Secured, Tls};

/// Timeouts and other options of connections.
#[derive(Clone)]
pub struct ConnectionOptions {
    /// Maximum time between a response and the next request. 75 s by default.
    pub keep_alive: Duration,
    /// Maximum time for the head of a request. 10 s by default. The rest of a body that is not read is
    /// awaited for `linger` only.
    pub head_timeout: Duration,
    /// Maximum time that a closing connection waits for the peer's end, so that the peer can read
    /// the last response before a reset overtakes it. 1 s by default.
    ///
    /// actix takes this time from a clock that it sets twice a second, and misses a deadline that
    /// has already passed. With 500 ms or less some connections would never close.
    pub linger: Duration,
    /// Maximum time that written bytes stay unacknowledged (`TCP_USER_TIMEOUT`). 30 s by default.
    pub slow_reader: Duration,
    /// Number of open connections.
    pub open: Gauge,
    /// Number of streams that are being written directly.
    pub direct: Gauge,
    /// Decides about each accepted socket. All are served by default.
    pub admit: Option<Admit>,
    /// Whether waiting streams are written directly. If not, actix writes all responses. `true` by
    /// default.
    pub direct_writes: bool,
    /// Whether the server drains. A connection then closes after the stream that it carries. Never by
    /// default.
    pub draining: Option<Arc<dyn Draining>>,
    /// TLS. Without it connections are plain HTTP/1. None by default.
    pub tls: Option<Tls>,
    /// Options of HTTP/2, which clients may choose over TLS.
    pub http2: Http2Options,
    /// The server's signal. Connections without a request close when it fires.
    pub shutdown: GracefulShutdownSignal,
}

// === impl ConnectionOptions ===

impl ConnectionOptions {
    /// Returns the default timeouts.
    #[must_use]
    pub fn new(shutdown: GracefulShutdownSignal) -> Self {
        Self {
            keep_alive: Duration::from_secs(75),
            head_timeout: Duration::from_secs(10),
            linger: Duration::from_secs(1),
            slow_reader: Duration::from_secs(30),
            open: Gauge::default(),
            direct: Gauge::default(),
            admit: None,
            direct_writes: true,
            draining: None,
            tls: None,
            http2: Http2Options::default(),
            shutdown,
        }
    }

    fn timeouts(&self) -> ConnectionTimeouts {
        ConnectionTimeouts {
            keep_alive: self.keep_alive,
            head: self.head_timeout,
            linger: self.linger,
        }
    }

    fn context(&self) -> ConnectionContext {
        ConnectionContext {
            timeouts: self.timeouts(),
            shutdown: self.shutdown.clone(),
            direct: self.direct.clone(),
            draining: self.draining.clone(),
        }
    }

    /// Sets the options of an accepted socket.
    fn prepare(&self, socket: &TcpStream) {
        // Without it the first token of a WebSocket waits for the peer's delayed acknowledgement.
        let _ = socket.set_nodelay(true);
        // A body is not polled while its socket is blocked, so it cannot time itself out: the
        // kernel does. It also ends an HTTP/2 connection whose peer is gone and has left a ping
        // unacknowledged.
        let _ = socket2::SockRef::from(socket).set_tcp_user_timeout(Some(self.slow_reader));
    }
}

impl fmt::Debug for ConnectionOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionOptions")
            .field("keep_alive", &self.keep_alive)
            .field("head_timeout", &self.head_timeout)
            .field("linger", &self.linger)
            .field("slow_reader", &self.slow_reader)
            .field("direct_writes", &self.direct_writes)
            .finish_non_exhaustive()
    }
}

/// Serves an actix application over connections that write waiting streams themselves.
///
/// `application` is an [`App`](actix_web::App). The result is a service factory for
/// [`actix_server::ServerBuilder::listen`].
pub fn connections<A, F, B>(
    application: A,
    options: &ConnectionOptions,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = DispatchError, InitError = ()>
+ use<A, F, B>
where
    A: IntoServiceFactory<F, Request>,
    F: ServiceFactory<
            Request,
            Config = AppConfig,
            Response = ServiceResponse<B>,
            Error = actix_web::Error,
            InitError = (),
        > + 'static,
    F::Future: 'static,
    F::Service: 'static,
    <F::Service as Service<Request>>::Future: 'static,
    B: MessageBody + 'static,
{
    Connections {
        application: map_config(application.into_factory(), |()| AppConfig::default()),
        options: options.clone(),
    }
}

/// Makes a worker's service out of an application.
struct Connections<F> {
    application: F,
    options: ConnectionOptions,
}

/// Makes connections on one worker.
struct WorkerConnections<A, H> {
    /// Serves requests of HTTP/2.
    application: Rc<A>,
    /// Serves connections of HTTP/1 with the same application.
    http: Rc<H>,
    options: ConnectionOptions,
}

/// The application of a worker, as the factory that actix asks for.
struct Made<A>(Rc<A>);

/// The future of an accepted socket.
#[expect(
    clippy::large_enum_variant,
    reason = "a plain connection does without another allocation"
)]
enum Accepted<H: Service<(ActixIo, Option<SocketAddr>)>> {
    Plain(Connection<H>),
    Secured(LocalBoxFuture<'static, Result<(), DispatchError>>),
}

/// A worker's service of HTTP/1.
type Http1<A> = H1ServiceHandler<ActixIo, Detaching<Rc<A>>, BoxBody, ExpectHandler, UpgradeHandler>;

// === impl Connections ===

impl<F, B> ServiceFactory<TcpStream> for Connections<F>
where
    F: ServiceFactory<
            Request,
            Config = (),
            Response = ServiceResponse<B>,
            Error = actix_web::Error,
            InitError = (),
        >,
    F::Future: 'static,
    F::Service: 'static,
    <F::Service as Service<Request>>::Future: 'static,
    B: MessageBody + 'static,
{
    type Response = ();
    type Error = DispatchError;
    type Config = ();
    type Service = WorkerConnections<F::Service, Http1<F::Service>>;
    type InitError = ();
    type Future = LocalBoxFuture<'static, Result<Self::Service, ()>>;

    fn new_service(&self, (): ()) -> Self::Future {
        let (application, options) = (self.application.new_service(()), self.options.clone());
        Box::pin(async move {
            let application = Rc::new(application.await?);
            let signal = options.shutdown.clone();
            let http = HttpService::build()
                .keep_alive(options.keep_alive)
                .client_request_timeout(options.head_timeout)
                .client_disconnect_timeout(options.linger)
                // A client's FIN must be seen while the upstream is silent.
                .h1_allow_half_closed(false)
                .graceful_shutdown_signal(move || {
                    let signal = signal.clone();
                    async move { signal.notified().await }
                })
                .on_connect_ext(|io: &ActixIo, extensions| {
                    extensions.insert(io.socket());
                    if io.socket().is_reserved() {
                        extensions.insert(Reserved);
                    }
                })
                .h1(Made(application.clone()));
            Ok(WorkerConnections {
                application,
                http: Rc::new(http.new_service(()).await?),
                options,
            })
        })
    }
}

// === impl Made ===

impl<A, B> ServiceFactory<Request> for Made<A>
where
    A: Service<Request, Response = ServiceResponse<B>, Error = actix_web::Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = actix_http::Response<BoxBody>;
    type Error = actix_web::Error;
    type Config = ();
    type Service = Detaching<Rc<A>>;
    type InitError = ();
    type Future = Ready<Result<Self::Service, ()>>;

    fn new_service(&self, (): ()) -> Self::Future {
        ready(Ok(Detaching::new(self.0.clone())))
    }
}

// === impl WorkerConnections ===

impl<A, H, B> Service<TcpStream> for WorkerConnections<A, H>
where
    A: Service<Request, Response = ServiceResponse<B>, Error = actix_web::Error> + 'static,
    A::Future: 'static,
    B: MessageBody + 'static,
    H: Service<(ActixIo, Option<SocketAddr>), Response = (), Error = DispatchError> + 'static,
    H::Future: 'static,
{
    type Response = ();
    type Error = DispatchError;
    type Future = Accepted<H>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.http.poll_ready(cx)
    }

    fn call(&self, socket: TcpStream) -> Accepted<H> {
        self.options.prepare(&socket);
        let peer = socket.peer_addr().ok();
        let admission = match &self.options.admit {
            Some(admit) => admit(&socket),
            None => Admission::Serve(Box::new(())),
        };
        let open = self.options.open.enter();
        let Some(tls) = self.options.tls.clone() else {
            let stream = ClientStream::Plain(socket);
            let (http, options) = (self.http.clone(), &self.options);
            return Accepted::Plain(http1(http, options, stream, peer, open, admission));
        };
        let (guard, end) = match admission {
            Admission::Serve(guard) => (guard, None),
            Admission::Reserve { guard, end } => (guard, Some(end)),
            // What is refused has no response without a handshake, which costs more than it is worth.
            Admission::Refuse(_) => return Accepted::Secured(Box::pin(async { Ok(()) })),
        };
        let (application, http) = (self.application.clone(), self.http.clone());
        let options = self.options.clone();
        let is_reserved = end.is_some();
        let served = async move {
            // Boxed, so that its state is freed before the first request.
            let secured = Box::pin(tls.accept(socket, options.head_timeout)).await;
            let Some(Secured { stream, is_http2 }) = secured else {
                return Ok(());
            };
            if !is_http2 {
                let stream = ClientStream::Tls(Box::new(stream));
                let admission = match is_reserved {
                    // Its end is awaited here, from before the handshake.
                    true => Admission::Reserve {
                        guard,
                        end: Box::pin(std::future::pending()),
                    },
                    false => Admission::Serve(guard),
                };
                return http1(http, &options, stream, peer, open, admission).await;
            }
            let context = H2Context {
                application,
                connection: options.context(),
                options: options.http2,
                slow_reader: options.slow_reader,
                peer,
                is_reserved,
                _guards: (open, guard),
            };
            serve_http2(stream, context).await;
            Ok(())
        };
        Accepted::Secured(match end {
            None => Box::pin(served),
            Some(end) => Box::pin(async move {
                tokio::select! {
                    result = served => result,
                    () = end => Ok(()),
                }
            }),
        })
    }
}

// === impl Accepted ===

impl<H> Future for Accepted<H>
where
    H: Service<(ActixIo, Option<SocketAddr>), Response = (), Error = DispatchError>,
{
    type Output = Result<(), DispatchError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Plain(connection) => Pin::new(connection).poll(cx),
            Self::Secured(connection) => connection.as_mut().poll(cx),
        }
    }
}

/// Starts an HTTP/1 connection.
fn http1<H>(
    http: Rc<H>,
    options: &ConnectionOptions,
    stream: ClientStream,
    peer: Option<SocketAddr>,
    open: GaugeGuard,
    admission: Admission,
) -> Connection<H>
where
    H: Service<(ActixIo, Option<SocketAddr>), Response = (), Error = DispatchError>,
{
    let reserved = matches!(admission, Admission::Reserve { .. });
    let client = ClientSocket::new(stream, reserved, options.direct_writes);
    let context = options.context();
    Connection::new(Rc::new(client), peer, http, context, open, admission)
}
