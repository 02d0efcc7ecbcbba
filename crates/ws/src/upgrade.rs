//! From an HTTP request to a running socket.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::{FromRequest as _, HttpRequest, HttpResponse, web};
use actix_ws::CloseReason;
use tokenwire_core::engine::{Caller, Engine};
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::gauge::Gauge;

use crate::activity::ActivityFeed;
use crate::body::SocketBody;
use crate::frame_guard::{FrameGuard, MessageLimits};
use crate::read_loop::{CREDENTIAL_REFUSED, KeepAlive, read_loop};
use crate::session::{SessionOptions, SocketSession};
use crate::socket_credential::{SocketCredential, TicketCheck};

/// Bounds and timeouts of one socket. The defaults suit a socket of one browser tab.
#[derive(Clone, Debug)]
pub struct WebSocketOptions {
    /// The client behind the socket.
    pub caller: Caller,
    /// The largest message that a client may send, in bytes, over all its fragments.
    pub max_message: usize,
    /// Maximum time from the first byte of a message to its last.
    pub message_timeout: Duration,
    /// Bytes of a message that extend `message_timeout` by a second.
    pub min_message_rate: usize,
    /// Most streams that it reads, and most lanes that it runs, side by side.
    pub max_lanes: usize,
    /// Most creates that wait on it.
    pub max_queued: usize,
    /// Interval of protocol pings.
    pub ping_interval: Duration,
    /// A peer that is silent for this long after a ping was due is cut.
    pub ping_timeout: Duration,
    /// Whether the socket closes at once when the gateway drains and another process reads its
    /// streams on. If not, it closes once nothing runs on it.
    pub leaves: bool,
    /// What the client may do, and how long.
    pub credential: SocketCredential,
    /// Checks the tickets that clients send. Without it `tokenwire:auth` changes nothing.
    pub tickets: Option<Rc<dyn TicketCheck>>,
    /// Gives the events of `tokenwire:watch`. Without it that message is refused.
    pub activity: Option<Rc<dyn ActivityFeed>>,
    /// Counts the sockets.
    pub sockets: Gauge,
    /// Counts the streams that sockets read.
    pub readers: Gauge,
}

impl Default for WebSocketOptions {
    /// An anonymous caller, messages up to 64 KiB, 8 lanes, 8 waiting creates, a ping every 20 s
    /// that is answered within 10 s.
    fn default() -> Self {
        Self {
            caller: Caller::default(),
            max_message: 64 * 1024,
            message_timeout: Duration::from_secs(30),
            min_message_rate: 1024,
            max_lanes: 8,
            max_queued: 8,
            ping_interval: Duration::from_secs(20),
            ping_timeout: Duration::from_secs(10),
            leaves: false,
            credential: SocketCredential::default(),
            tickets: None,
            activity: None,
            sockets: Gauge::default(),
            readers: Gauge::default(),
        }
    }
}

type BoxedPayloadStream =
    std::pin::Pin<Box<dyn futures::Stream<Item = Result<bytes::Bytes, PayloadError>>>>;

/// The time that a client has to answer a close.
const LAST_CLOSE: Duration = Duration::from_secs(1);

/// The only subprotocol. Clients need not offer it; the SDKs do not.
const SUBPROTOCOL: &str = "tokenwire.v1";

/// Answers the upgrade and runs the socket. An offered `permessage-deflate` is declined: it would
/// hold tokens back.
///
/// The payload is the request's own, taken with `Payload::take` in an extractor; `web::Payload`
/// works as well, through [`web::Payload::into_inner`].
///
/// # Errors
/// [`ErrorCode::InvalidUpgrade`] if the request is not a WebSocket upgrade by RFC 6455.
pub fn upgrade(
    request: &HttpRequest,
    payload: Payload,
    engine: Engine,
    options: WebSocketOptions,
) -> Result<HttpResponse, ApiError> {
    let limits = MessageLimits {
        // What has no room when it is started is not read.
        size: options.max_message.min(engine.account().largest_request()),
        timeout: options.message_timeout,
        min_rate: options.min_message_rate,
    };
    let (guard, refusal) = FrameGuard::new(payload, limits, engine.account().clone());
    let guard: BoxedPayloadStream = Box::pin(guard);
    let mut guarded = Payload::Stream { payload: guard };
    let payload = web::Payload::from_request(request, &mut guarded)
        .into_inner()
        .map_err(|error| invalid(&error))?;
    // The session writes its control frames itself.
    let (response, _, messages) = actix_ws::handle_with_protocols(request, payload, &[SUBPROTOCOL])
        .map_err(|error| invalid(&error))?;
    let messages = messages
        .max_frame_size(options.max_message)
        .aggregate_continuations()
        .max_continuation_size(options.max_message);
    let session_options = SessionOptions {
        caller: options.caller,
        max_lanes: options.max_lanes,
        max_queued: options.max_queued,
        readers: options.readers,
        credential: options.credential,
        tickets: options.tickets,
        activity: options.activity,
        extensions: offers_subprotocol(request),
    };
    let socket = Rc::new(RefCell::new(SocketSession::new(engine, session_options)));
    let keep_alive = KeepAlive {
        ping_interval: options.ping_interval,
        ping_timeout: options.ping_timeout,
        leaves: options.leaves,
    };
    // The body owns the session. When the connection ends, the body is dropped, and the readers
    // with it.
    actix_web::rt::spawn(read_loop(
        Rc::downgrade(&socket),
        messages,
        refusal,
        keep_alive,
    ));
    let (head, unused) = response.into_parts();
    Ok(head
        .set_body(SocketBody::new(unused, socket, options.sockets.enter()))
        .map_into_boxed_body())
}

/// Answers the upgrade and closes the socket with 4401: a page cannot see a status.
///
/// # Errors
/// As [`upgrade`].
pub fn refuse(
    request: &HttpRequest,
    mut payload: Payload,
    reason: &str,
) -> Result<HttpResponse, ApiError> {
    let payload = web::Payload::from_request(request, &mut payload)
        .into_inner()
        .map_err(|error| invalid(&error))?;
    let (response, session, mut messages) =
        actix_ws::handle_with_protocols(request, payload, &[SUBPROTOCOL])
            .map_err(|error| invalid(&error))?;
    let reason = CloseReason {
        code: CREDENTIAL_REFUSED.into(),
        // A close frame has room for 123 bytes.
        description: Some(reason.chars().filter(char::is_ascii).take(123).collect()),
    };
    actix_web::rt::spawn(async move {
        let _ = session.close(Some(reason)).await;
        // The client's own close ends the connection in order.
        let gone = async { while let Some(Ok(_)) = messages.recv().await {} };
        let _ = tokio::time::timeout(LAST_CLOSE, gone).await;
    });
    Ok(response)
}

/// Whether the client offers [`SUBPROTOCOL`].
fn offers_subprotocol(request: &HttpRequest) -> bool {
    request
        .headers()
        .get_all("sec-websocket-protocol")
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|offered| offered.trim() == SUBPROTOCOL)
}

fn invalid(error: &actix_web::Error) -> ApiError {
    ApiError::new(
        ErrorCode::InvalidUpgrade,
        format!("The WebSocket upgrade is malformed: {error}."),
    )
}
