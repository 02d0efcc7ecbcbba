//! Turns an application into connections.

use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_http::{HttpService, Request};
use actix_server::GracefulShutdownSignal;
use actix_service::{IntoServiceFactory, Service, ServiceFactory, map_config};
use actix_web::body::MessageBody;
use actix_web::dev::{AppConfig, ServiceResponse};
use actix_web::rt::net::TcpStream;
use futures::future::LocalBoxFuture;
use tokenwire_core::model::gauge::Gauge;

use crate::actix_io::ActixIo;
use crate::admission::{Admission, Admit, Reserved};
use crate::client_socket::ClientSocket;
use crate::connection::{Connection, ConnectionContext, ConnectionTimeouts};
use crate::detach::Detaching;
use crate::draining::Draining;

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
    pub draining: Option<Draining>,
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

    /// Sets the options of an accepted socket.
    fn prepare(&self, socket: &TcpStream) {
        // Without it the first token of a WebSocket waits for the peer's delayed acknowledgement.
        let _ = socket.set_nodelay(true);
        // A body is not polled while its socket is blocked, so it cannot time itself out: the
        // kernel does.
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
    let application = map_config(application.into_factory(), |()| AppConfig::default());
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
        .h1(Detaching::new(application));
    Connections {
        http,
        options: options.clone(),
    }
}

/// Makes a worker's service out of actix's HTTP/1 service.
struct Connections<F> {
    http: F,
    options: ConnectionOptions,
}

/// Makes connections on one worker.
struct WorkerConnections<S> {
    http: Rc<S>,
    options: ConnectionOptions,
}

// === impl Connections ===

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
    type Service = WorkerConnections<F::Service>;
    type InitError = F::InitError;
    type Future = LocalBoxFuture<'static, Result<Self::Service, Self::InitError>>;

    fn new_service(&self, (): ()) -> Self::Future {
        let (http, options) = (self.http.new_service(()), self.options.clone());
        Box::pin(async move {
            Ok(WorkerConnections {
                http: Rc::new(http.await?),
                options,
            })
        })
    }
}

// === impl WorkerConnections ===

impl<S> Service<TcpStream> for WorkerConnections<S>
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
        self.options.prepare(&socket);
        let peer = socket.peer_addr().ok();
        let admission = match &self.options.admit {
            Some(admit) => admit(&socket),
            None => Admission::Serve(Box::new(())),
        };
        let reserved = matches!(admission, Admission::Reserve { .. });
        Connection::new(
            Rc::new(ClientSocket::new(
                socket,
                reserved,
                self.options.direct_writes,
            )),
            peer,
            self.http.clone(),
            ConnectionContext {
                timeouts: self.options.timeouts(),
                shutdown: self.options.shutdown.clone(),
                direct: self.options.direct.clone(),
                draining: self.options.draining.clone(),
            },
            self.options.open.enter(),
            admission,
        )
    }
}
