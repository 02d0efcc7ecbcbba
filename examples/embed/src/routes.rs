//! The application's routes.

use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::web::{self, Query, ServiceConfig};
use actix_web::{FromRequest, HttpRequest, HttpResponse};
use tokenwire_core::dialect::Dialect;
use tokenwire_core::engine::{Engine, Freshness, Resumption, StartRequest};
use tokenwire_core::generation::{ReaderGuard, Subscription};
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::gauge::Gauge;
use tokenwire_core::model::id::{GenerationId, Owner, Seq};
use tokenwire_core::request::{ResponsesRequest, StreamRequest};
use tokenwire_sse::{EventSource, SseBody, SseOptions, event_stream};
use tokenwire_ws::{WebSocketOptions, upgrade};

pub(crate) fn configure(app: &mut ServiceConfig) {
    app.route("/", web::get().to(home))
        .route("/haiku", web::get().to(haiku))
        .route("/socket", web::get().to(socket));
}

async fn home() -> &'static str {
    "An application of somebody else's. Try: curl -N 'localhost:8000/haiku?on=rain'\n"
}

#[derive(serde::Deserialize)]
struct Haiku {
    on: String,
}

/// Starts an answer; a reconnect, which names the last event that it has, goes on with the one it
/// began.
async fn haiku(
    request: HttpRequest,
    asked: Query<Haiku>,
    engine: web::Data<Engine>,
) -> HttpResponse {
    if let Some(last) = request.headers().get("last-event-id") {
        return last.to_str().ok().and_then(position).map_or_else(
            || HttpResponse::BadRequest().finish(),
            |(id, after)| resume(&engine, &id, after),
        );
    }
    let prompt = format!("Write a haiku on {}.", asked.on);
    let started = engine.start(StartRequest {
        body: StreamRequest::Responses(ResponsesRequest::from_input(&prompt, None)),
        owner: Owner::Anonymous,
        idempotency_key: None,
        route: "/haiku",
        fingerprint: prompt.into_bytes(),
        headers: Vec::new(),
        client_key: None,
        freshness: Freshness::Any,
    });
    match started {
        Ok(started) => read(started.guard, Seq(0)),
        Err(error) => refuse(&error),
    }
}

fn resume(engine: &Engine, id: &GenerationId, after: u64) -> HttpResponse {
    let generation = match engine.find(id, &Owner::Anonymous) {
        Ok(generation) => generation,
        Err(error) => return refuse(&error),
    };
    match engine.resume(&generation, Some(after)) {
        Resumption::Read { guard, from } => read(guard, from),
        // The only answer after which an EventSource stays away. A page that shows long answers
        // again after their events are gone would be sent the whole object instead.
        Resumption::NothingLeft | Resumption::LogGone => HttpResponse::NoContent().finish(),
        Resumption::PastHead { head } => refuse(&ApiError::new(
            ErrorCode::InvalidCursor,
            format!("The last event is number {head}."),
        )),
    }
}

fn read(guard: ReaderGuard, from: Seq) -> HttpResponse {
    let subscription = Subscription::new(guard, from, Dialect::Responses, Arc::new(EventSource));
    let options = SseOptions {
        heartbeat: Some(Duration::from_secs(15)),
        preface: "retry: 2000\n".into(),
        ..SseOptions::default()
    };
    event_stream(
        &mut HttpResponse::Ok(),
        SseBody::new(Some(subscription), options),
    )
}

/// `<id>.<number>`, as the events' ids are.
fn position(last: &str) -> Option<(GenerationId, u64)> {
    let (id, number) = last.split_once('.')?;
    Some((id.parse().ok()?, number.parse().ok()?))
}

/// The body as it is, for the upgrade to wrap.
struct RawPayload(Payload);

impl FromRequest for RawPayload {
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self, Self::Error>>;

    fn from_request(_request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        std::future::ready(Ok(Self(payload.take())))
    }
}

/// Any number of answers over one connection; see the protocol's chapter on WebSockets.
async fn socket(
    request: HttpRequest,
    payload: RawPayload,
    engine: web::Data<Engine>,
) -> HttpResponse {
    let options = WebSocketOptions {
        owner: Owner::Anonymous,
        max_message: 64 * 1024,
        max_lanes: 8,
        max_queued: 8,
        ping_interval: Duration::from_secs(20),
        ping_timeout: Duration::from_secs(10),
        headers: Vec::new(),
        client_key: None,
        sockets: Gauge::default(),
        readers: Gauge::default(),
    };
    upgrade(&request, payload.0, engine.get_ref().clone(), options)
        .unwrap_or_else(|error| refuse(&error))
}

fn refuse(error: &ApiError) -> HttpResponse {
    let status = actix_web::http::StatusCode::from_u16(error.status)
        .unwrap_or(actix_web::http::StatusCode::INTERNAL_SERVER_ERROR);
    HttpResponse::build(status)
        .content_type("application/json")
        .body(error.body())
}
