//! From an HTTP request to a running socket.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::{FromRequest as _, HttpRequest, HttpResponse, web};
use secrecy::SecretString;
use tokenwire_core::engine::Engine;
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::gauge::Gauge;
use tokenwire_core::model::id::Owner;

use crate::body::SocketBody;
use crate::frame_guard::FrameGuard;
use crate::read_loop::{Pace, read_loop};
use crate::session::{HubOptions, SocketSession};

/// Bounds and clocks of one socket.
#[derive(Clone, Debug)]
pub struct WebSocketOptions {
    /// Whose socket it is.
    pub owner: Owner,
    /// The largest message that a client may send, in bytes, over all its fragments.
    pub max_message: usize,
    /// How many streams it may read, and lanes it may run, side by side.
    pub max_lanes: usize,
    /// How many creates may wait on it.
    pub max_queued: usize,
    /// A protocol ping goes out this often.
    pub ping_interval: Duration,
    /// A peer that is silent for this long after a ping was due is cut.
    pub ping_timeout: Duration,
    /// Request headers that go to the upstream.
    pub headers: Vec<(String, String)>,
    /// The client's own key, for upstreams that take it.
    pub client_key: Option<SecretString>,
    /// Counts the sockets.
    pub sockets: Gauge,
    /// Counts the streams that sockets read.
    pub readers: Gauge,
}

type BoxedPayloadStream =
    std::pin::Pin<Box<dyn futures::Stream<Item = Result<bytes::Bytes, PayloadError>>>>;

/// The only subprotocol. Clients need not offer it; the SDKs do not.
const SUBPROTOCOL: &str = "tokenwire.v1";

/// Answers the upgrade and runs the socket. An offered `permessage-deflate` is declined: it would
/// hold tokens back.
///
/// # Errors
/// [`ErrorCode::InvalidUpgrade`] if the request is not a WebSocket upgrade as RFC 6455 wants it.
pub fn upgrade(
    request: &HttpRequest,
    payload: Payload,
    engine: Engine,
    options: WebSocketOptions,
) -> Result<HttpResponse, ApiError> {
    let (guard, oversized) = FrameGuard::new(payload, options.max_message);
    let guard: BoxedPayloadStream = Box::pin(guard);
    let mut guarded = Payload::Stream { payload: guard };
    let payload = web::Payload::from_request(request, &mut guarded)
        .into_inner()
        .map_err(|error| invalid(&error))?;
    let (response, session, messages) =
        actix_ws::handle_with_protocols(request, payload, &[SUBPROTOCOL])
            .map_err(|error| invalid(&error))?;
    let messages = messages
        .max_frame_size(options.max_message)
        .aggregate_continuations()
        .max_continuation_size(options.max_message);
    let hub_options = HubOptions {
        owner: options.owner,
        max_lanes: options.max_lanes,
        max_queued: options.max_queued,
        headers: options.headers,
        client_key: options.client_key,
        readers: options.readers,
    };
    let socket = Rc::new(RefCell::new(SocketSession::new(engine, hub_options)));
    let pace = Pace {
        ping_interval: options.ping_interval,
        ping_timeout: options.ping_timeout,
    };
    // The body owns the hub: when the socket dies the body is dropped, and the readers with it.
    actix_web::rt::spawn(read_loop(
        Rc::downgrade(&socket),
        session,
        messages,
        oversized,
        pace,
    ));
    let (head, control) = response.into_parts();
    Ok(head
        .set_body(SocketBody::new(control, socket, options.sockets.enter()))
        .map_into_boxed_body())
}

fn invalid(error: &actix_web::Error) -> ApiError {
    ApiError::new(
        ErrorCode::InvalidUpgrade,
        format!("The WebSocket upgrade is malformed: {error}."),
    )
}
