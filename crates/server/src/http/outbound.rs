//! Writes responses: errors in OpenAI's shape, JSON, and streams.

use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use tokenwire_core::engine::{Cursor, Reused};
use tokenwire_core::generation::ReaderGuard;
use tokenwire_core::model::id::GenerationId;
use tokenwire_core::model::log_scope::LogScope;
use tokenwire_core::upstream::{OpenError, Refusal, UpstreamHead};
use tokenwire_sse::{DEFAULT_RETRY_AFTER, SseReader, X_SHOULD_RETRY};
pub(crate) use tokenwire_sse::{HttpError, error_response};

use super::timing::for_upstream;
use crate::service::Service;

const TOKENWIRE_CACHE: HeaderName = HeaderName::from_static("tokenwire-cache");
const TOKENWIRE_DROPPED_TOOLS: HeaderName = HeaderName::from_static("tokenwire-dropped-tools");

/// Returns the upstream's own refusal with its body, or an error of the gateway.
pub(crate) fn open_error_response(error: &OpenError) -> HttpResponse {
    match error {
        OpenError::Refused(refusal) => refusal_response(refusal),
        OpenError::Failed(error) => error_response(error),
    }
}

fn refusal_response(refusal: &Refusal) -> HttpResponse {
    let json = serde_json::from_slice::<serde::de::IgnoredAny>(&refusal.body).is_ok();
    if !json {
        // The HTML page of a proxy: the SDKs need the status in OpenAI's shape.
        let mut response = error_response(&refusal.to_api_error());
        add_headers(response.headers_mut(), &refusal.headers);
        return response;
    }
    let mut response = HttpResponse::build(
        StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_GATEWAY),
    );
    response
        .content_type(
            refusal
                .content_type
                .as_deref()
                .unwrap_or("application/json"),
        )
        .insert_header((X_SHOULD_RETRY, "false"));
    if matches!(refusal.status, 429 | 503) {
        // A default, which the upstream's own header overwrites.
        response.insert_header((header::RETRY_AFTER, DEFAULT_RETRY_AFTER));
    }
    let mut response = response.body(refusal.body.clone());
    add_headers(response.headers_mut(), &refusal.headers);
    response
}

fn add_headers(to: &mut header::HeaderMap, headers: &[(String, String)]) {
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (
            HeaderName::try_from(name.as_str()),
            HeaderValue::try_from(value),
        ) {
            to.insert(name, value);
        }
    }
}

fn location(id: &GenerationId) -> String {
    ["/v1/streams/", id.as_str()].concat()
}

/// Adds the `Location` of the generation that a response belongs to. A failed one has it as well.
pub(crate) fn located(id: &GenerationId, mut response: HttpResponse) -> HttpResponse {
    if let Ok(value) = HeaderValue::try_from(location(id)) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

/// Returns a 200 that belongs to a generation: with its `Location` and its upstream's headers.
pub(crate) fn of_generation(id: &GenerationId, head: Option<&UpstreamHead>) -> HttpResponseBuilder {
    LogScope::note_generation(id);
    let mut response = HttpResponse::Ok();
    response.insert_header((header::LOCATION, location(id)));
    for (name, value) in head.map_or(&[][..], |head| &head.headers) {
        response.insert_header((name.as_str(), value.as_str()));
    }
    response
}

/// Adds `Tokenwire-Cache`, where answers are shared, and `Tokenwire-Dropped-Tools`, where tools of
/// these types were left out.
pub(crate) fn marked(
    reused: Option<Reused>,
    dropped_tools: &[String],
    mut response: HttpResponse,
) -> HttpResponse {
    if !dropped_tools.is_empty() {
        let mut types = dropped_tools.join(", ");
        // The types are what the client sent.
        types.retain(|c| matches!(c, ' '..='~'));
        if let Ok(value) = HeaderValue::try_from(types) {
            response
                .headers_mut()
                .insert(TOKENWIRE_DROPPED_TOOLS, value);
        }
    }
    if let Some(reused) = reused {
        response
            .headers_mut()
            .insert(TOKENWIRE_CACHE, HeaderValue::from_static(reused.as_str()));
    }
    response
}

/// Returns JSON that is already serialised.
pub(crate) fn json(
    response: &mut HttpResponseBuilder,
    body: impl Into<bytes::Bytes>,
) -> HttpResponse {
    response.content_type("application/json").body(body.into())
}

/// Streams a new generation to a client that lives by status codes: waits for the upstream's status
/// before the head leaves.
pub(crate) async fn committed(
    service: &Service,
    guard: ReaderGuard,
    reader: &SseReader,
) -> Result<HttpResponse, HttpError> {
    let generation = guard.generation().clone();
    let id = &generation.meta().id;
    let head = generation.response_head().wait();
    let head = for_upstream(tokio::time::timeout(service.commit_after(), head));
    let response = match head.await {
        Ok(Ok(head)) => of_generation(id, Some(&head)),
        Ok(Err(error)) => return Ok(located(id, open_error_response(&error))),
        Err(_) => of_generation(id, None),
    };
    Ok(tokenwire_sse::read(
        response,
        &service.engine,
        guard,
        reader,
    )?)
}

/// Answers a reader that comes back at this cursor.
pub(crate) async fn resumed(
    request: &HttpRequest,
    service: &Service,
    cursor: &Cursor,
    reader: &SseReader,
) -> Result<HttpResponse, HttpError> {
    let owner = service.reader_of(request, &cursor.id).await?;
    let response = tokenwire_sse::resume_at(&service.engine, &owner, cursor, reader).await?;
    Ok(located(&cursor.id, response))
}

/// Answers a GET, or a HEAD with the same head, that reads from this cursor. A HEAD is no reader.
pub(crate) async fn attached(
    request: &HttpRequest,
    service: &Service,
    cursor: &Cursor,
    reader: &SseReader,
) -> Result<HttpResponse, HttpError> {
    if request.method() != Method::HEAD {
        return resumed(request, service, cursor, reader).await;
    }
    let owner = service.reader_of(request, &cursor.id).await?;
    let response = tokenwire_sse::head_at(&service.engine, &owner, cursor, reader).await?;
    Ok(located(&cursor.id, response))
}
