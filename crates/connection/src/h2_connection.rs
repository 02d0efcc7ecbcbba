//! One HTTP/2 connection, from the handshake of TLS to its end.
//!
//! ```text
//!   accept ──▶ streams (one future each) ──▶ GOAWAY ──▶ the last stream ends ──▶ close
//! ```
//!
//! One task drives the connection and all its streams, so tokens of several streams that arrive
//! together leave in one write. A stream is woken alone.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_http::Request;
use actix_service::Service;
use actix_web::body::MessageBody;
use actix_web::dev::ServiceResponse;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::LocalBoxFuture;
use futures::stream::FuturesUnordered;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use tokenwire_core::model::gauge::{Gauge, GaugeGuard};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use crate::connection::{ConnectionContext, ConnectionTimeouts};
use crate::h2_message::{self, Http2Stream};
use crate::h2_stream::{SEND_BUFFER, StreamEnd, serve};
use crate::lingering_io::{Blocked, LingeringIo};

/// Bytes of a request body that a client may send before they are read.
const STREAM_WINDOW: u32 = 64 * 1024;

/// The same for all request bodies of a connection.
const CONNECTION_WINDOW: u32 = 256 * 1024;

/// Maximum size of the headers of a request, as RFC 9113, section 6.5.2 counts it.
const MAX_HEADERS: u32 = 32 * 1024;

/// Maximum number of streams that this side has reset and the client may still send to.
const MAX_RESET_STREAMS: usize = 512;

/// How long such a stream is kept.
const RESET_STREAM_TIME: Duration = Duration::from_secs(30);

/// Maximum number of streams that this side resets because of invalid frames, in the whole life of a
/// connection. One more ends it with all its streams.
const MAX_INVALID_STREAMS: usize = 1024;

/// Streams after which a connection is replaced by another, so that what is counted for its whole life
/// stays small in a long one.
const MAX_STREAMS: u32 = 10_000;

/// Resets by a client that are accepted at once.
const RESET_BURST: f64 = 512.0;

/// Resets by a client that are accepted in each second.
const RESET_RATE: f64 = 100.0;

/// Options of HTTP/2.
#[derive(Clone)]
pub struct Http2Options {
    /// Maximum number of open streams of one connection. 128 by default.
    pub max_streams: u32,
    /// Returns the times of pings, each time that one begins. Those of [`PingTimes::default`] by
    /// default.
    pub pings: Arc<dyn Fn() -> PingTimes + Send + Sync>,
    /// Number of open connections.
    pub connections: Gauge,
    /// Number of open streams.
    pub streams: Gauge,
}

/// Times of pings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PingTimes {
    /// Time between two pings. 20 s by default.
    pub interval: Duration,
    /// Maximum time for the answer to a ping, while no stream is open. 10 s by default.
    pub timeout: Duration,
}

/// What a connection needs of its server.
pub(crate) struct H2Context<A> {
    pub(crate) application: Rc<A>,
    pub(crate) connection: ConnectionContext,
    pub(crate) options: Http2Options,
    pub(crate) slow_reader: Duration,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) is_reserved: bool,
    /// Dropped when the connection closes.
    pub(crate) _guards: (GaugeGuard, Box<dyn Any>),
}

type OpenStreams = FuturesUnordered<LocalBoxFuture<'static, StreamEnd>>;

/// The future of one connection after the HTTP/2 preface.
struct H2Connection<A, T: AsyncRead + AsyncWrite + Unpin> {
    /// Before the connection, so that handlers end before their streams.
    streams: OpenStreams,
    http: Connection<LingeringIo<T>, Bytes>,
    /// Streams that are reset once what waits in the connection is written. They count as open.
    broken: Vec<SendStream<Bytes>>,
    blocked: Blocked,
    context: H2Context<A>,
    /// Ready once the server drains or stops.
    leave: LocalBoxFuture<'static, ()>,
    is_leaving: bool,
    /// Ends a connection without streams.
    quiet: Option<Pin<Box<Sleep>>>,
    keep_alive: KeepAlive,
    resets: ResetBudget,
    /// Streams that the client has started.
    started: u32,
    _open: GaugeGuard,
}

/// Finds clients that are gone without a word.
///
/// Some clients read only while the application asks for the next piece of a response, so a ping that
/// is not answered closes no connection with an open stream. What a dead peer does not acknowledge, the
/// ping or a piece of a stream, ends the connection with the socket's `TCP_USER_TIMEOUT`.
struct KeepAlive {
    pings: Option<PingPong>,
    timer: Pin<Box<Sleep>>,
    /// A ping was sent. There is at most one.
    is_waiting: bool,
    /// The time for its answer has passed while a stream was open.
    is_overdue: bool,
}

/// Bounds how many streams a client may start only to reset them: each costs a handler.
struct ResetBudget {
    left: f64,
    counted: Instant,
}

// === impl Http2Options ===

impl Default for Http2Options {
    fn default() -> Self {
        Self {
            max_streams: 128,
            pings: Arc::new(PingTimes::default),
            connections: Gauge::default(),
            streams: Gauge::default(),
        }
    }
}

impl fmt::Debug for Http2Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2Options")
            .field("max_streams", &self.max_streams)
            .field("pings", &(self.pings)())
            .finish_non_exhaustive()
    }
}

// === impl PingTimes ===

impl Default for PingTimes {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(20),
            timeout: Duration::from_secs(10),
        }
    }
}

/// Serves a connection until its end.
pub(crate) async fn serve_http2<A, B, T>(io: T, context: H2Context<A>)
where
    A: Service<Request, Response = ServiceResponse<B>, Error = actix_web::Error> + 'static,
    A::Future: 'static,
    B: MessageBody + 'static,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(context.options.max_streams)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADERS)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(MAX_RESET_STREAMS)
        .reset_stream_duration(RESET_STREAM_TIME)
        .max_local_error_reset_streams(Some(MAX_INVALID_STREAMS));
    let ConnectionTimeouts {
        head: timeout,
        linger,
        ..
    } = context.connection.timeouts;
    let io = LingeringIo::new(io, linger);
    let blocked = io.blocked();
    let preface = tokio::time::timeout(timeout, builder.handshake::<_, Bytes>(io));
    let Ok(Ok(http)) = preface.await else {
        return;
    };
    H2Connection::new(http, blocked, context).await;
}

// === impl H2Connection ===

impl<A, B, T> H2Connection<A, T>
where
    A: Service<Request, Response = ServiceResponse<B>, Error = actix_web::Error> + 'static,
    A::Future: 'static,
    B: MessageBody + 'static,
    T: AsyncRead + AsyncWrite + Unpin,
{
    fn new(
        mut http: Connection<LingeringIo<T>, Bytes>,
        blocked: Blocked,
        context: H2Context<A>,
    ) -> Self {
        let shutdown = context.connection.shutdown.clone();
        let draining = context.connection.draining.clone();
        let leave = async move {
            let begins = async {
                match draining {
                    Some(draining) => draining.begins().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.notified() => {}
                () = begins => {}
            }
        };
        Self {
            streams: OpenStreams::new(),
            keep_alive: KeepAlive {
                pings: http.ping_pong(),
                timer: Box::pin(tokio::time::sleep((context.options.pings)().interval)),
                is_waiting: false,
                is_overdue: false,
            },
            http,
            broken: Vec::new(),
            blocked,
            leave: Box::pin(leave),
            is_leaving: false,
            quiet: None,
            resets: ResetBudget {
                left: RESET_BURST,
                counted: Instant::now(),
            },
            started: 0,
            _open: context.options.connections.enter(),
            context,
        }
    }

    /// Starts a stream.
    fn start(&mut self, received: http::Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        self.started = self.started.saturating_add(1);
        if self.started >= MAX_STREAMS && !self.is_leaving {
            self.leave();
        }
        self.quiet = None;
        let stream = Http2Stream {
            others: self.streams.len(),
            is_reserved: self.context.is_reserved,
        };
        let Some(request) = h2_message::request(received, self.context.peer, stream) else {
            respond.send_reset(Reason::PROTOCOL_ERROR);
            return;
        };
        let counted = self.context.options.streams.enter();
        let application = self.context.application.clone();
        let slow_reader = self.context.slow_reader;
        self.streams.push(Box::pin(async move {
            let _counted = counted;
            serve(application, request, respond, slow_reader).await
        }));
    }

    /// Lets the open streams end, and refuses new ones.
    fn leave(&mut self) {
        self.is_leaving = true;
        self.quiet = None;
        self.http.graceful_shutdown();
    }

    /// Resets the streams whose response has broken off. The connection has just written all that it
    /// could.
    fn reset_broken(&mut self, cx: &Context<'_>) {
        if self.broken.is_empty() || self.blocked.is_blocked() {
            return;
        }
        for mut stream in self.broken.drain(..) {
            stream.send_reset(Reason::INTERNAL_ERROR);
        }
        // The resets are written by another poll.
        cx.waker().wake_by_ref();
    }

    /// Counts the end of a stream. Ends the connection of a client that resets too many.
    fn end(&mut self, end: StreamEnd) {
        match end {
            StreamEnd::Broken(stream) => self.broken.push(stream),
            StreamEnd::Left if !self.resets.take() => {
                tracing::debug!(peer = ?self.context.peer, "a client resets too many streams");
                self.http.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                self.streams.clear();
                self.broken.clear();
                self.is_leaving = true;
            }
            StreamEnd::Complete | StreamEnd::Left | StreamEnd::Reset => {}
        }
    }

    /// Closes a connection whose streams have ended, after some time for the next one. `Ready` once
    /// the client has not closed it either.
    fn poll_quiet(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.streams.is_empty() {
            self.quiet = None;
            return Poll::Pending;
        }
        let timeouts = self.context.connection.timeouts;
        loop {
            let timeout = if self.is_leaving {
                // GOAWAY names the last stream once the client has answered a ping.
                (self.context.options.pings)().timeout
            } else if self.started == 0 {
                timeouts.head
            } else {
                timeouts.keep_alive
            };
            let quiet = self
                .quiet
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
            if quiet.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.is_leaving {
                return Poll::Ready(());
            }
            self.leave();
            // GOAWAY is written by another poll.
            cx.waker().wake_by_ref();
        }
    }
}

impl<A, B, T> Future for H2Connection<A, T>
where
    A: Service<Request, Response = ServiceResponse<B>, Error = actix_web::Error> + 'static,
    A::Future: 'static,
    B: MessageBody + 'static,
    T: AsyncRead + AsyncWrite + Unpin,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            // First, so that the connection writes what they have.
            while let Poll::Ready(Some(end)) = this.streams.poll_next_unpin(cx) {
                this.end(end);
            }
            if !this.is_leaving && this.leave.as_mut().poll(cx).is_ready() {
                this.leave();
            }
            match this.http.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => this.start(request, respond),
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(peer = ?this.context.peer, %error, "an HTTP/2 connection failed");
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        this.reset_broken(cx);
        let (times, is_idle) = (&*this.context.options.pings, this.streams.is_empty());
        if this.keep_alive.poll_lost(times, is_idle, cx).is_ready() {
            return Poll::Ready(());
        }
        this.poll_quiet(cx)
    }
}

impl<A, T: AsyncRead + AsyncWrite + Unpin> Unpin for H2Connection<A, T> {}

// === impl KeepAlive ===

impl KeepAlive {
    /// Waits until a ping was not answered in time by a client without an open stream.
    fn poll_lost(
        &mut self,
        times: &dyn Fn() -> PingTimes,
        is_idle: bool,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let Some(pings) = &mut self.pings else {
            return Poll::Pending;
        };
        loop {
            if self.is_waiting && pings.poll_pong(cx).is_ready() {
                self.is_waiting = false;
                self.is_overdue = false;
                self.timer.set(tokio::time::sleep(times().interval));
            }
            if self.is_overdue {
                if !is_idle {
                    return Poll::Pending;
                }
                // The client may still have to read the end of the last stream.
                self.is_overdue = false;
                self.timer.set(tokio::time::sleep(times().timeout));
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.is_waiting {
                if is_idle {
                    return Poll::Ready(());
                }
                self.is_overdue = true;
                return Poll::Pending;
            }
            // An error means that the connection ends.
            self.is_waiting = pings.send_ping(Ping::opaque()).is_ok();
            let PingTimes { interval, timeout } = times();
            let time = if self.is_waiting { timeout } else { interval };
            self.timer.set(tokio::time::sleep(time));
        }
    }
}

// === impl ResetBudget ===

impl ResetBudget {
    /// Takes one reset. False if there were too many.
    fn take(&mut self) -> bool {
        let now = Instant::now();
        let passed = now.duration_since(self.counted).as_secs_f64();
        self.counted = now;
        self.left = (self.left + passed * RESET_RATE).min(RESET_BURST) - 1.0;
        self.left >= 0.0
    }
}

#[cfg(test)]
mod tests;
