//! One HTTP/2 connection, from the handshake of TLS to its end.
//!
//! ```text
//!   accept ──▶ streams (one future each) ──▶ GOAWAY ──▶ the last stream ends ──▶ close
//! ```
//!
//! One task drives the connection and all its streams, so tokens of several streams that arrive
//! together leave in one write. A stream is woken alone.

use std::any::Any;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
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
use h2::{Ping, PingPong, Reason, RecvStream};
use tokenwire_core::model::gauge::{Gauge, GaugeGuard};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use crate::connection::ConnectionContext;
use crate::h2_message::{self, Http2Stream};
use crate::h2_stream::{SEND_BUFFER, StreamEnd, serve};

/// Bytes of a request body that a client may send before they are read.
const STREAM_WINDOW: u32 = 64 * 1024;

/// The same for all request bodies of a connection.
const CONNECTION_WINDOW: u32 = 256 * 1024;

/// Maximum size of the headers of a request, as RFC 9113, section 6.5.2 counts it.
const MAX_HEADERS: u32 = 32 * 1024;

/// Maximum number of streams that this side has reset and the client may still send to.
const MAX_RESET_STREAMS: usize = 64;

/// Maximum number of streams that this side resets because of invalid frames.
const MAX_INVALID_STREAMS: usize = 256;

/// Resets by a client that are accepted at once.
const RESET_BURST: f64 = 512.0;

/// Resets by a client that are accepted in each second.
const RESET_RATE: f64 = 100.0;

/// Options of HTTP/2.
#[derive(Clone, Debug)]
pub struct Http2Options {
    /// Maximum number of open streams of one connection. 128 by default.
    pub max_streams: u32,
    /// Time between two pings. 20 s by default.
    pub ping_interval: Duration,
    /// Maximum time for the answer to a ping. 10 s by default.
    pub ping_timeout: Duration,
    /// Number of open connections.
    pub connections: Gauge,
    /// Number of open streams.
    pub streams: Gauge,
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
    http: Connection<T, Bytes>,
    context: H2Context<A>,
    /// Ready once the server drains or stops.
    leave: LocalBoxFuture<'static, ()>,
    is_leaving: bool,
    /// Ends a connection without streams.
    quiet: Option<Pin<Box<Sleep>>>,
    keep_alive: KeepAlive,
    resets: ResetBudget,
    is_first: bool,
    _open: GaugeGuard,
}

/// Finds clients that are gone without a word.
struct KeepAlive {
    pings: Option<PingPong>,
    timer: Pin<Box<Sleep>>,
    is_waiting: bool,
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
            ping_interval: Duration::from_secs(20),
            ping_timeout: Duration::from_secs(10),
            connections: Gauge::default(),
            streams: Gauge::default(),
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
        .max_local_error_reset_streams(Some(MAX_INVALID_STREAMS));
    let timeout = context.connection.timeouts.head;
    let preface = tokio::time::timeout(timeout, builder.handshake::<_, Bytes>(io));
    let Ok(Ok(http)) = preface.await else {
        return;
    };
    H2Connection::new(http, context).await;
}

// === impl H2Connection ===

impl<A, B, T> H2Connection<A, T>
where
    A: Service<Request, Response = ServiceResponse<B>, Error = actix_web::Error> + 'static,
    A::Future: 'static,
    B: MessageBody + 'static,
    T: AsyncRead + AsyncWrite + Unpin,
{
    fn new(mut http: Connection<T, Bytes>, context: H2Context<A>) -> Self {
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
                timer: Box::pin(tokio::time::sleep(context.options.ping_interval)),
                is_waiting: false,
            },
            http,
            leave: Box::pin(leave),
            is_leaving: false,
            quiet: None,
            resets: ResetBudget {
                left: RESET_BURST,
                counted: Instant::now(),
            },
            is_first: true,
            _open: context.options.connections.enter(),
            context,
        }
    }

    /// Starts a stream.
    fn start(&mut self, received: http::Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        self.is_first = false;
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
                timeouts.linger
            } else if self.is_first {
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
                if end == StreamEnd::Left && !this.resets.take() {
                    tracing::debug!(peer = ?this.context.peer, "a client resets too many streams");
                    this.http.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    this.streams.clear();
                    this.is_leaving = true;
                }
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
        if this
            .keep_alive
            .poll_lost(&this.context.options, cx)
            .is_ready()
        {
            return Poll::Ready(());
        }
        this.poll_quiet(cx)
    }
}

impl<A, T: AsyncRead + AsyncWrite + Unpin> Unpin for H2Connection<A, T> {}

// === impl KeepAlive ===

impl KeepAlive {
    /// Waits until a ping was not answered in time.
    fn poll_lost(&mut self, options: &Http2Options, cx: &mut Context<'_>) -> Poll<()> {
        let Some(pings) = &mut self.pings else {
            return Poll::Pending;
        };
        loop {
            if self.is_waiting && pings.poll_pong(cx).is_ready() {
                self.is_waiting = false;
                self.timer.set(tokio::time::sleep(options.ping_interval));
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.is_waiting {
                return Poll::Ready(());
            }
            // An error means that the connection ends.
            self.is_waiting = pings.send_ping(Ping::opaque()).is_ok();
            let time = if self.is_waiting {
                options.ping_timeout
            } else {
                options.ping_interval
            };
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
