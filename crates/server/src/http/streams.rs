//! `/v1/streams`: start, attach and resume in the framing of EventSource, or as bare text.

use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use tokenwire_core::dialect::Dialect;
use tokenwire_core::engine::StartRequest;
use tokenwire_core::model::account::Charge;
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::GenerationId;
use tokenwire_core::request::{ResponsesRequest, StreamRequest};
use tokenwire_sse::{HeartbeatKind, SseFraming, SseReader, come_back, last_event_id};

use super::inbound::{
    ContentType, Query, Received, body, cursor, discard_body, idempotency_key, start_request,
    wants_text,
};
use super::outbound::{HttpError, attached, committed, marked, of_generation, resumed};
use crate::service::Service;

/// Pause of a reader whose next connection reaches another process.
const AT_ONCE: Duration = Duration::from_millis(20);

/// Returns how the client of `/v1/streams` reads.
fn reader(request: &HttpRequest, query: &Query, service: &Service) -> Result<SseReader, ApiError> {
    let dialect = match query.get("dialect") {
        None if wants_text(request.headers()) => Dialect::Text,
        None | Some("responses") => Dialect::Responses,
        Some("chat") => Dialect::Chat,
        Some("text") => Dialect::Text,
        Some(other) => {
            let shown: String = other.chars().take(64).collect();
            let message =
                format!("'dialect' is '{shown}'; expected 'responses', 'chat' or 'text'.");
            return Err(ApiError::new(ErrorCode::InvalidValue, message).param("dialect"));
        }
    };
    let framing = match dialect {
        Dialect::Text => SseFraming::Bare,
        Dialect::Responses | Dialect::Chat => SseFraming::EventSource,
    };
    let heartbeat_kind = match query.get("heartbeat") {
        None | Some("comment") => HeartbeatKind::Comment,
        Some("event") => HeartbeatKind::Event,
        Some(other) => {
            let shown: String = other.chars().take(64).collect();
            let message = format!("'heartbeat' is '{shown}'; expected 'comment' or 'event'.");
            return Err(ApiError::new(ErrorCode::InvalidValue, message).param("heartbeat"));
        }
    };
    Ok(SseReader {
        heartbeat_kind,
        include: query.include(),
        ..service.sse(dialect, framing)
    })
}

/// `POST /v1/streams`
pub(super) async fn create(
    request: HttpRequest,
    payload: web::Payload,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    let query = Query::of(&request);
    let reader = reader(&request, &query, &service)?;
    if let Some(cursor) = last_event_id(&request)? {
        discard_body(payload, service.config.limits.body).await;
        return resumed(&request, &service, &cursor, &reader).await;
    }
    let Received { bytes, charge } = body(&request, payload, ContentType::Any, &service).await?;
    let body = StreamRequest::parse(&bytes)?;
    drop(bytes);
    let key = idempotency_key(&request, None)?;
    let start = start_request(&request, &service, body, "/v1/streams", key)?;
    begin(&request, &service, &reader, start, Some(charge)).await
}

/// `GET /v1/streams?input=…&model=…&previous_response_id=…&key=…`
pub(super) async fn create_by_query(
    request: HttpRequest,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    let query = Query::of(&request);
    let reader = reader(&request, &query, &service)?;
    if let Some(cursor) = last_event_id(&request)? {
        return match leaving(&request, &service) {
            Some(response) => Ok(response),
            None => resumed(&request, &service, &cursor, &reader).await,
        };
    }
    let registry = service.engine.registry();
    if registry.is_draining() && is_event_source(&request) {
        let after = if registry.readers_leave() {
            AT_ONCE
        } else {
            registry.come_back_after()
        };
        return Ok(come_back(after));
    }
    let Some(input) = query.get("input") else {
        let message = "Missing required parameter: 'input'. Ask with GET /v1/streams?input=…, or POST a body.";
        return Err(ApiError::new(ErrorCode::MissingParameter, message)
            .param("input")
            .into());
    };
    let mut asked = serde_json::Map::new();
    asked.insert("input".to_owned(), input.into());
    for name in ["model", "previous_response_id"] {
        if let Some(value) = query.get(name) {
            asked.insert(name.to_owned(), value.into());
        }
    }
    let asked = serde_json::Value::Object(asked).to_string();
    let body = StreamRequest::Responses(ResponsesRequest::parse(asked.as_bytes())?);
    let key = idempotency_key(&request, Some(&query))?;
    let start = start_request(&request, &service, body, "GET /v1/streams", key)?;
    begin(&request, &service, &reader, start, None).await
}

/// `GET /v1/streams/{id}`
pub(super) async fn attach(
    request: HttpRequest,
    id: web::Path<String>,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    let query = Query::of(&request);
    let reader = reader(&request, &query, &service)?;
    let id: GenerationId = id.parse().map_err(|_| {
        ApiError::new(
            ErrorCode::NotFound,
            "Stream not found: the id is not one of the gateway's.",
        )
    })?;
    if let Some(response) = leaving(&request, &service) {
        return Ok(response);
    }
    let cursor = cursor(&request, id, "after", &query)?;
    attached(&request, &service, &cursor, &reader).await
}

async fn begin(
    request: &HttpRequest,
    service: &Service,
    reader: &SseReader,
    start: StartRequest,
    body: Option<Charge>,
) -> Result<HttpResponse, HttpError> {
    let engine = service.engine_of(&service.identity(request)?);
    let started = match engine.start(start).await {
        Ok(started) => started,
        Err(error) => return later(request, error),
    };
    drop(body);
    let reader = &reader.including(started.include);
    let response = match reader.framing {
        SseFraming::Bare | SseFraming::Sdk => committed(service, started.guard, reader).await?,
        SseFraming::EventSource => {
            let response = of_generation(&started.guard.generation().meta().id, None);
            tokenwire_sse::read(response, &service.engine, started.guard, reader)?
        }
    };
    Ok(marked(started.reused, &started.dropped_tools, response))
}

/// Tells an EventSource to come back at once if another process reads the streams on. That process
/// has the listening socket, and this connection closes with the answer. A browser keeps up to six
/// connections and tries one after the other, so a longer pause would add up.
fn leaving(request: &HttpRequest, service: &Service) -> Option<HttpResponse> {
    let registry = service.engine.registry();
    let leaves = registry.readers_leave() && is_event_source(request);
    leaves.then(|| come_back(AT_ONCE))
}

/// Refuses a request. An EventSource is told to come back, where that may help.
pub(super) fn later(request: &HttpRequest, error: ApiError) -> Result<HttpResponse, HttpError> {
    if !(is_event_source(request) && comes_back(&error)) {
        return Err(error.into());
    }
    let after = error.retry_after.unwrap_or(Duration::from_secs(2));
    let bounds = (Duration::from_secs(1), Duration::from_secs(60));
    Ok(come_back(after.clamp(bounds.0, bounds.1)))
}

/// Whether an EventSource is to come back: under overload, and when it is limited for a time.
fn comes_back(error: &ApiError) -> bool {
    error.status == 503 || (error.is(ErrorCode::RateLimitExceeded) && error.retry_after.is_some())
}

/// Whether an EventSource asks. It gives up for good on any status but 200, so under overload it is
/// told to come back later.
fn is_event_source(request: &HttpRequest) -> bool {
    let accept = request.headers().get(header::ACCEPT);
    request.method() == actix_web::http::Method::GET
        && accept.is_some_and(|accept| accept.as_bytes() == b"text/event-stream")
}
