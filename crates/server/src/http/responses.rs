//! `/v1/responses`: create, poll, stream again, cancel, delete.

use std::sync::Arc;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::value::RawValue;
use tokenwire_core::dialect::Dialect;
use tokenwire_core::engine::StartRequest;
use tokenwire_core::generation::{Generation, ReaderGuard, Subscription};
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::event::Ending;
use tokenwire_core::model::id::{GenerationId, Seq};
use tokenwire_core::request::{ResponsesRequest, StreamRequest};
use tokenwire_sse::{Sdk, SseBody, event_stream};

use super::inbound::{
    ContentType, Query, body, freshness, idempotency_key, last_event_id, unwanted_body,
};
use super::outbound::{HttpError, json, located, marked, of_generation, open_error_response};
use super::streams::{committed, resume_sdk};
use crate::service::Service;

/// How long a cancel waits for the terminal event, which follows at once.
const CANCEL_WAIT: Duration = Duration::from_secs(5);

/// `POST /v1/responses`
pub(super) async fn create(
    request: HttpRequest,
    payload: web::Payload,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    if let Some(cursor) = last_event_id(&request)? {
        unwanted_body(payload, service.config.limits.body).await;
        return resume_sdk(&service, &cursor.id, Dialect::Responses, Some(cursor.after));
    }
    let bytes = body(
        &request,
        payload,
        ContentType::Json,
        service.config.limits.body,
    )
    .await?;
    let asked = ResponsesRequest::parse(&bytes)?;
    let (stream, background) = (asked.stream(), asked.background());
    let header_key = idempotency_key(&request)?;
    let forwarded = service.forwarded(request.headers());
    let started = service.engine.start(StartRequest {
        idempotency_key: header_key.or_else(|| asked.idempotency_key()),
        fingerprint: asked.fingerprint(),
        body: StreamRequest::Responses(asked),
        owner: service.owner(),
        route: "/v1/responses",
        headers: forwarded.headers,
        client_key: forwarded.client_key,
        freshness: freshness(request.headers(), false),
    })?;
    let response = answer(&service, started.guard, stream, background).await;
    Ok(marked(started.reused, response))
}

async fn answer(
    service: &Service,
    guard: ReaderGuard,
    stream: bool,
    background: bool,
) -> HttpResponse {
    if stream && background {
        let mut response = of_generation(guard.generation(), None);
        let subscription = Subscription::new(guard, Seq(0), Dialect::Responses, Arc::new(Sdk));
        return event_stream(
            &mut response,
            SseBody::new(Some(subscription), service.sse("")),
        );
    }
    if stream {
        return committed(
            service,
            guard,
            Dialect::Responses,
            Arc::new(Sdk),
            service.sse(""),
        )
        .await;
    }
    if background {
        return object(guard.generation());
    }
    whole(guard).await
}

/// The object once it is whole. What failed before the upstream's head keeps its status, since SDKs
/// live by it.
async fn whole(guard: ReaderGuard) -> HttpResponse {
    let generation = guard.generation();
    generation.ended().await;
    match generation.response_head().now() {
        Some(Err(error)) => located(generation, open_error_response(&error)),
        Some(Ok(head)) => json(
            &mut of_generation(generation, Some(&head)),
            generation.response_json(),
        ),
        None => object(generation),
    }
}

/// The object as it is now.
fn object(generation: &Generation) -> HttpResponse {
    json(
        &mut of_generation(generation, None),
        generation.response_json(),
    )
}

/// An ending that is no answer, as an error.
pub(super) fn ending_error(ending: Option<Ending>) -> ApiError {
    match ending {
        Some(Ending::Failed(failure)) => ApiError::from(&failure),
        Some(Ending::Cancelled) => {
            ApiError::new(ErrorCode::Cancelled, "The generation was cancelled.")
        }
        _ => ApiError::new(
            ErrorCode::InternalError,
            "The generation ended without an answer.",
        ),
    }
}

fn find(service: &Service, id: &str) -> Result<Arc<Generation>, ApiError> {
    let parsed: GenerationId = id.parse().map_err(|_| {
        let shown: String = id.chars().take(64).collect();
        ApiError::new(
            ErrorCode::NotFound,
            format!("Response with id '{shown}' not found."),
        )
    })?;
    service.engine.find(&parsed, &service.owner())
}

/// `GET /v1/responses/{id}`
pub(super) async fn retrieve(
    request: HttpRequest,
    id: web::Path<String>,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    let query = Query::of(&request);
    let generation = find(&service, &id)?;
    let stream = match query.get("stream") {
        None | Some("false" | "") => false,
        Some("true") => true,
        Some(_) => {
            return Err(ApiError::new(
                ErrorCode::InvalidValue,
                "'stream' must be 'true' or 'false'.",
            )
            .param("stream")
            .into());
        }
    };
    if stream {
        return resume_sdk(
            &service,
            &generation.meta().id,
            Dialect::Responses,
            query.position("starting_after")?,
        );
    }
    Ok(object(&generation))
}

/// `POST /v1/responses/{id}/cancel`: stops it, and answers with the object as it then is.
/// Cancelling what has ended changes nothing.
pub(super) async fn cancel(
    id: web::Path<String>,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    let generation = find(&service, &id)?;
    generation.cancel();
    // The terminal event is written by another task; without it the status would still say
    // in_progress.
    let _ = tokio::time::timeout(CANCEL_WAIT, generation.ended()).await;
    Ok(object(&generation))
}

/// `DELETE /v1/responses/{id}`
pub(super) async fn delete(
    id: web::Path<String>,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    let generation = find(&service, &id)?;
    service.engine.delete(&generation);
    Ok(HttpResponse::Ok().json(serde_json::json!({"id": generation.meta().id.as_str(), "object": "response", "deleted": true})))
}

/// `GET /v1/responses/{id}/input_items`: what went in, newest first unless `order=asc`, in pages of
/// `limit` after the item `after`.
pub(super) async fn input_items(
    request: HttpRequest,
    id: web::Path<String>,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    let generation = find(&service, &id)?;
    let query = Query::of(&request);
    let limit = match query.get("limit") {
        None => 20,
        Some(text) => text
            .parse()
            .ok()
            .filter(|limit| (1..=100).contains(limit))
            .ok_or_else(|| {
                ApiError::new(
                    ErrorCode::InvalidValue,
                    "'limit' must be a number from 1 to 100.",
                )
                .param("limit")
            })?,
    };
    let conversation = generation.conversation();
    let mut items: Vec<&RawValue> = conversation
        .history
        .iter()
        .chain(&conversation.input)
        .map(|item| &**item)
        .collect();
    match query.get("order") {
        None | Some("desc") => items.reverse(),
        Some("asc") => {}
        Some(_) => {
            return Err(
                ApiError::new(ErrorCode::InvalidValue, "'order' must be 'asc' or 'desc'.")
                    .param("order")
                    .into(),
            );
        }
    }
    if let Some(after) = query.get("after") {
        let at = items
            .iter()
            .position(|item| item_id(item).as_deref() == Some(after))
            .ok_or_else(|| {
                ApiError::new(
                    ErrorCode::InvalidValue,
                    "'after' must be the id of an item of this list.",
                )
                .param("after")
            })?;
        items.drain(..=at);
    }
    let has_more = items.len() > limit;
    items.truncate(limit);
    let body = serde_json::json!({
        "object": "list",
        "data": items,
        "first_id": items.first().and_then(|item| item_id(item)),
        "last_id": items.last().and_then(|item| item_id(item)),
        "has_more": has_more,
    });
    Ok(HttpResponse::Ok().json(body))
}

fn item_id(item: &RawValue) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Item {
        id: String,
    }
    serde_json::from_str::<Item>(item.get())
        .ok()
        .map(|item| item.id)
}
