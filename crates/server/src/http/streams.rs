//! `/v1/streams`: start, attach and resume in the framing that EventSource wants, or as bare text.

use std::sync::Arc;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use tokenwire_core::dialect::{Dialect, Frame, Framing};
use tokenwire_core::engine::{Resumption, StartRequest};
use tokenwire_core::generation::{Generation, ReaderGuard, Subscription};
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::{GenerationId, Seq};
use tokenwire_core::request::{ResponsesRequest, StreamRequest};
use tokenwire_sse::{Bare, EventSource, Sdk, SseBody, SseOptions, event_stream, plain_text};

use super::inbound::{
    ContentType, Cursor, Query, body, freshness, idempotency_key, last_event_id, unwanted_body,
    wants_text,
};
use super::outbound::{HttpError, located, marked, of_generation, open_error_response};
use crate::service::Service;

/// First line of the first block: how long an EventSource waits before it comes back.
const RETRY: &[u8] = b"retry: 2000\n";

/// The dialect that a reader of `/v1/streams` wants.
fn wanted(request: &HttpRequest, query: &Query) -> Result<Dialect, ApiError> {
    match query.get("dialect") {
        None if wants_text(request.headers()) => Ok(Dialect::Text),
        None | Some("responses") => Ok(Dialect::Responses),
        Some("chat") => Ok(Dialect::Chat),
        Some("text") => Ok(Dialect::Text),
        Some(other) => {
            let shown: String = other.chars().take(64).collect();
            let message =
                format!("'dialect' is '{shown}'; expected 'responses', 'chat' or 'text'.");
            Err(ApiError::new(ErrorCode::InvalidValue, message).param("dialect"))
        }
    }
}

/// `POST /v1/streams`
pub(super) async fn create(
    request: HttpRequest,
    payload: web::Payload,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    let query = Query::of(&request);
    let dialect = wanted(&request, &query)?;
    if let Some(cursor) = last_event_id(&request)? {
        unwanted_body(payload, service.config.limits.body).await;
        return resume(&service, dialect, &cursor.id, Some(cursor.after));
    }
    let bytes = body(
        &request,
        payload,
        ContentType::Any,
        service.config.limits.body,
    )
    .await?;
    let forwarded = service.forwarded(request.headers());
    let start = StartRequest {
        body: StreamRequest::parse(&bytes)?,
        owner: service.owner(),
        idempotency_key: idempotency_key(&request)?,
        route: "/v1/streams",
        fingerprint: bytes.to_vec(),
        headers: forwarded.headers,
        client_key: forwarded.client_key,
        freshness: freshness(request.headers(), false),
    };
    begin(&request, &service, dialect, start).await
}

/// `GET /v1/streams?input=…&model=…&key=…`
pub(super) async fn create_by_query(
    request: HttpRequest,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    let query = Query::of(&request);
    let dialect = wanted(&request, &query)?;
    if let Some(cursor) = last_event_id(&request)? {
        return resume(&service, dialect, &cursor.id, Some(cursor.after));
    }
    let Some(input) = query.get("input") else {
        let message = "Missing required parameter: 'input'. Ask with GET /v1/streams?input=…, or POST a body.";
        return Err(ApiError::new(ErrorCode::MissingParameter, message)
            .param("input")
            .into());
    };
    let model = query.get("model");
    let fingerprint = serde_json::json!([input, model]).to_string().into_bytes();
    let forwarded = service.forwarded(request.headers());
    let start = StartRequest {
        body: StreamRequest::Responses(ResponsesRequest::from_input(input, model)),
        owner: service.owner(),
        idempotency_key: query
            .get("key")
            .filter(|key| !key.is_empty())
            .map(str::to_owned),
        route: "GET /v1/streams",
        fingerprint,
        headers: forwarded.headers,
        client_key: forwarded.client_key,
        freshness: freshness(request.headers(), true),
    };
    begin(&request, &service, dialect, start).await
}

/// `GET /v1/streams/{id}`
pub(super) async fn attach(
    request: HttpRequest,
    id: web::Path<String>,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    let query = Query::of(&request);
    let dialect = wanted(&request, &query)?;
    let id: GenerationId = id.parse().map_err(|_| {
        ApiError::new(
            ErrorCode::NotFound,
            "Stream not found: the id is not one of the gateway's.",
        )
    })?;
    let after = match last_event_id(&request)? {
        Some(cursor) if cursor.id != id => {
            let message = format!(
                "The Last-Event-ID is of the stream '{}', but '{id}' was asked for.",
                cursor.id
            );
            return Err(ApiError::new(ErrorCode::InvalidCursor, message)
                .param("Last-Event-ID")
                .into());
        }
        Some(Cursor { after, .. }) => Some(after),
        None => query.position("after")?,
    };
    resume(&service, dialect, &id, after)
}

async fn begin(
    request: &HttpRequest,
    service: &Service,
    dialect: Dialect,
    start: StartRequest,
) -> Result<HttpResponse, HttpError> {
    let started = match service.engine.start(start) {
        Ok(started) => started,
        Err(error) if is_patient(request, &error) => return Ok(come_back_later(&error)),
        Err(error) => return Err(error.into()),
    };
    let response = match dialect {
        Dialect::Text => {
            committed(
                service,
                started.guard,
                Dialect::Text,
                Arc::new(Bare),
                service.text(),
            )
            .await
        }
        Dialect::Responses | Dialect::Chat => read(service, dialect, started.guard, Seq(0)),
    };
    Ok(marked(started.reused, response))
}

/// An EventSource gives up for good on any status but 200; under overload it is told to wait
/// instead.
fn is_patient(request: &HttpRequest, error: &ApiError) -> bool {
    let exactly = request
        .headers()
        .get(header::ACCEPT)
        .is_some_and(|accept| accept.as_bytes() == b"text/event-stream");
    exactly && request.method() == actix_web::http::Method::GET && error.status == 503
}

fn come_back_later(error: &ApiError) -> HttpResponse {
    let after = error
        .retry_after
        .map_or(2000, |after| after.as_millis().clamp(1000, 60_000));
    let options = SseOptions {
        preface: format!("retry: {after}\n\n").into(),
        ..SseOptions::default()
    };
    event_stream(&mut HttpResponse::Ok(), SseBody::new(None, options))
}

/// A head that waits for the upstream's status, and then streams. SDKs live by status codes.
pub(super) async fn committed(
    service: &Service,
    guard: ReaderGuard,
    dialect: Dialect,
    framing: Arc<dyn Framing>,
    options: SseOptions,
) -> HttpResponse {
    let generation = guard.generation().clone();
    let settled =
        tokio::time::timeout(service.commit_after(), generation.response_head().wait()).await;
    let head = match settled {
        Ok(Ok(head)) => Some(head),
        Ok(Err(error)) => {
            return located(&generation, open_error_response(&error));
        }
        Err(_) => None,
    };
    let mut response = of_generation(&generation, head.as_ref());
    let body = SseBody::new(
        Some(Subscription::new(guard, Seq(0), dialect, framing)),
        options,
    );
    if dialect == Dialect::Text {
        plain_text(&mut response, body)
    } else {
        event_stream(&mut response, body)
    }
}

/// A stream from `from` on, at once.
fn read(service: &Service, dialect: Dialect, guard: ReaderGuard, from: Seq) -> HttpResponse {
    let generation = guard.generation().clone();
    let mut response = of_generation(&generation, None);
    if dialect == Dialect::Text {
        let body = SseBody::new(
            Some(Subscription::new(
                guard,
                from,
                Dialect::Text,
                Arc::new(Bare),
            )),
            service.text(),
        );
        return plain_text(&mut response, body);
    }
    let subscription = Subscription::new(guard, from, dialect, Arc::new(EventSource));
    let preface = match dialect {
        // `response.created` is not shown in this dialect. Its id is, on its own, so that an
        // EventSource that is cut before the first chunk comes back to this stream instead of
        // starting another.
        Dialect::Chat if from == Seq(0) => [
            RETRY,
            format!("id: {}.0\n\n", generation.meta().id).as_bytes(),
        ]
        .concat(),
        _ => RETRY.to_vec(),
    };
    event_stream(
        &mut response,
        SseBody::new(Some(subscription), service.sse(preface)),
    )
}

fn resume(
    service: &Service,
    dialect: Dialect,
    id: &GenerationId,
    after: Option<u64>,
) -> Result<HttpResponse, HttpError> {
    let generation = service.engine.find(id, &service.owner())?;
    let text = dialect == Dialect::Text;
    Ok(match service.engine.resume(&generation, after) {
        Resumption::Read { guard, from } => read(service, dialect, guard, from),
        Resumption::NothingLeft if text => plain_text(
            &mut of_generation(&generation, None),
            SseBody::new(None, SseOptions::default()),
        ),
        // The only answer that an EventSource takes as the end.
        Resumption::NothingLeft => of_generation(&generation, None)
            .status(actix_web::http::StatusCode::NO_CONTENT)
            .finish(),
        Resumption::LogGone if text => return Err(gone(id).into()),
        Resumption::LogGone => {
            let (_, preface) = reset(&generation);
            event_stream(
                &mut of_generation(&generation, None),
                SseBody::new(None, service.sse(preface)),
            )
        }
        Resumption::PastHead { head } if text => return Err(past_head(head).into()),
        Resumption::PastHead { .. } => {
            let guard = generation.attach();
            let (head, preface) = reset(&generation);
            let subscription =
                Subscription::new(guard, head.next(), dialect, Arc::new(EventSource));
            let body = SseBody::new(Some(subscription), service.sse(preface));
            event_stream(&mut of_generation(&generation, None), body)
        }
    })
}

/// The number of the last event that the object holds, and the first block with the object in it.
fn reset(generation: &Generation) -> (Seq, Vec<u8>) {
    let mut out = bytes::BytesMut::from(RETRY);
    let (seq, data) = generation.reset_event();
    EventSource.frame(
        &generation.meta().id,
        &Frame {
            seq,
            name: None,
            relayed_name: None,
            data: &data,
        },
        &mut out,
    );
    (seq, out.to_vec())
}

/// The log is gone, the response object is not.
pub(super) fn gone(id: &GenerationId) -> ApiError {
    ApiError::new(
        ErrorCode::PositionGone,
        format!(
            "The events of '{id}' are not kept any more; the response object is: GET /v1/responses/{id}."
        ),
    )
}

/// The position lies past the head.
pub(super) fn past_head(head: Seq) -> ApiError {
    ApiError::new(
        ErrorCode::InvalidCursor,
        format!("The position lies past the last event, which is number {head}."),
    )
}

/// What an SDK gets that resumes, in its own framing.
pub(super) fn resume_sdk(
    service: &Service,
    id: &GenerationId,
    dialect: Dialect,
    after: Option<u64>,
) -> Result<HttpResponse, HttpError> {
    let generation = service.engine.find(id, &service.owner())?;
    let mut response = of_generation(&generation, None);
    Ok(match service.engine.resume(&generation, after) {
        Resumption::Read { guard, from } => {
            let subscription = Subscription::new(guard, from, dialect, Arc::new(Sdk));
            event_stream(
                &mut response,
                SseBody::new(Some(subscription), service.sse("")),
            )
        }
        Resumption::NothingLeft => event_stream(
            &mut response,
            SseBody::new(None, service.sse("data: [DONE]\n\n")),
        ),
        Resumption::LogGone => return Err(gone(id).into()),
        Resumption::PastHead { head } => return Err(past_head(head).into()),
    })
}
