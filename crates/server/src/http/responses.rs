//! `/v1/responses`: create, poll, stream again, cancel, delete.

use std::sync::Arc;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::value::RawValue;
use tokenwire_core::dialect::Dialect;
use tokenwire_core::generation::{Generation, ReaderGuard};
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::event::Ending;
use tokenwire_core::model::id::{GenerationId, Owner};
use tokenwire_core::model::include::Include;
use tokenwire_core::model::snapshot::Api;
use tokenwire_core::request::{ResponsesRequest, StreamRequest};
use tokenwire_sse::{SseFraming, last_event_id};

use super::inbound::{
    ContentType, Query, Received, body, cursor, discard_body, idempotency_key, start_request,
};
use super::object_body::object_json;
use super::outbound::{
    HttpError, attached, committed, json, located, marked, of_generation, open_error_response,
    resumed,
};
use super::timing::for_upstream;
use super::unknown_path::unknown;
use crate::service::Service;

/// How long a cancel waits for the terminal event, which follows at once.
const CANCEL_WAIT: Duration = Duration::from_secs(5);

/// `POST /v1/responses`
pub(super) async fn create(
    request: HttpRequest,
    payload: web::Payload,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    let reader = service.sse(Dialect::Responses, SseFraming::Sdk);
    if let Some(cursor) = last_event_id(&request)? {
        discard_body(payload, service.config.limits.body).await;
        return resumed(&request, &service, &cursor, &reader).await;
    }
    let Received { bytes, charge } = body(&request, payload, ContentType::Json, &service).await?;
    let asked = ResponsesRequest::parse(&bytes)?;
    drop(bytes);
    let (stream, background) = (asked.stream(), asked.background());
    let key = idempotency_key(&request, None)?;
    let body = StreamRequest::Responses(asked);
    let start = start_request(&request, &service, body, "/v1/responses", key)?;
    let engine = service.engine_of(&service.identity(&request)?);
    let started = engine.start(start).await?;
    drop(charge);
    let include = started.include;
    let reader = reader.including(include);
    let response = match (stream, background) {
        (true, true) => {
            let response = of_generation(&started.guard.generation().meta().id, None);
            tokenwire_sse::read(response, &service.engine, started.guard, &reader)?
        }
        (true, false) => committed(&service, started.guard, &reader).await?,
        (false, true) => object(started.guard.generation(), include),
        (false, false) => whole(started.guard, include).await,
    };
    Ok(marked(started.reused, &started.dropped_tools, response))
}

/// `POST /v1/responses/input_tokens`
pub(super) async fn input_tokens(
    request: HttpRequest,
    payload: web::Payload,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    relay(request, payload, service, "/responses/input_tokens").await
}

/// Where upstreams compact a conversation. They require a model, so no default stands in for it.
const COMPACT: &str = "/responses/compact";

/// `POST /v1/responses/compact`
pub(super) async fn compact(
    request: HttpRequest,
    payload: web::Payload,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    relay(request, payload, service, COMPACT).await
}

/// Passes a request on whose answer is no response, with the conversation that it names.
async fn relay(
    request: HttpRequest,
    payload: web::Payload,
    service: web::Data<Service>,
    path: &'static str,
) -> Result<HttpResponse, HttpError> {
    let routes = service.router.routes();
    if routes.iter().all(|route| route.api == Api::Chat) {
        discard_body(payload, service.config.limits.body).await;
        return Ok(unknown(request).await);
    }
    let Received { bytes, charge } = body(&request, payload, ContentType::Json, &service).await?;
    let asked = ResponsesRequest::parse_partial(&bytes)?;
    drop(bytes);
    if path == COMPACT && asked.model().is_none() {
        let message = "Missing required parameter: 'model'.";
        return Err(ApiError::new(ErrorCode::MissingParameter, message)
            .param("model")
            .into());
    }
    let body = StreamRequest::Responses(asked);
    let start = start_request(&request, &service, body, "/v1/responses", None)?;
    let engine = service.engine_of(&service.identity(&request)?);
    let answer = for_upstream(engine.relay(start, path)).await;
    drop(charge);
    Ok(match answer? {
        None => unknown(request).await,
        Some(Ok(answer)) => json(&mut HttpResponse::Ok(), answer),
        Some(Err(error)) => open_error_response(&error),
    })
}

/// Returns the object once the generation has ended. A failure before the upstream's head keeps its
/// status, which the SDKs rely on.
async fn whole(guard: ReaderGuard, include: Include) -> HttpResponse {
    let generation = guard.generation();
    for_upstream(generation.ended()).await;
    match generation.response_head().now() {
        Some(Err(error)) => located(&generation.meta().id, open_error_response(&error)),
        Some(Ok(head)) => object_json(
            of_generation(&generation.meta().id, Some(&head)),
            generation,
            include,
        ),
        None => object(generation, include),
    }
}

/// Returns the object as it is now.
fn object(generation: &Arc<Generation>, include: Include) -> HttpResponse {
    object_json(
        of_generation(&generation.meta().id, None),
        generation,
        include,
    )
}

/// Returns an ending without an answer as an error.
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

/// Returns the id of a path, and the owner that asks.
async fn asked(
    request: &HttpRequest,
    service: &Service,
    id: &str,
) -> Result<(GenerationId, Owner), ApiError> {
    let parsed: GenerationId = id.parse().map_err(|_| {
        let shown: String = id.chars().take(64).collect();
        ApiError::new(
            ErrorCode::NotFound,
            format!("Response with id '{shown}' not found."),
        )
    })?;
    let owner = service.reader_of(request, &parsed).await?;
    Ok((parsed, owner))
}

async fn find(
    request: &HttpRequest,
    service: &Service,
    id: &str,
) -> Result<Arc<Generation>, ApiError> {
    let (id, owner) = asked(request, service, id).await?;
    service.engine.find(&id, &owner).await
}

/// `GET /v1/responses/{id}`
pub(super) async fn retrieve(
    request: HttpRequest,
    id: web::Path<String>,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    let query = Query::of(&request);
    let generation = find(&request, &service, &id).await?;
    match query.get("stream") {
        None | Some("false" | "") => {}
        Some("true") => {
            let id = generation.meta().id.clone();
            let cursor = cursor(&request, id, "starting_after", &query)?;
            let reader = service.sse(Dialect::Responses, SseFraming::Sdk);
            let reader = reader.including(query.include());
            return attached(&request, &service, &cursor, &reader).await;
        }
        Some(_) => {
            let message = "'stream' must be 'true' or 'false'.";
            return Err(ApiError::new(ErrorCode::InvalidValue, message)
                .param("stream")
                .into());
        }
    }
    Ok(object(&generation, query.include()))
}

/// `POST /v1/responses/{id}/cancel`: stops the generation and returns the object after that.
/// Cancelling an ended generation changes nothing.
pub(super) async fn cancel(
    request: HttpRequest,
    id: web::Path<String>,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    let generation = find(&request, &service, &id).await?;
    generation.cancel();
    // Another task writes the terminal event; before it the status is still in_progress.
    let _ = for_upstream(tokio::time::timeout(CANCEL_WAIT, generation.ended())).await;
    Ok(object(&generation, Include::default()))
}

/// `DELETE /v1/responses/{id}`
pub(super) async fn delete(
    request: HttpRequest,
    id: web::Path<String>,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    let (id, owner) = asked(&request, &service, &id).await?;
    service.engine.delete_by_id(&id, &owner).await?;
    let deleted = serde_json::json!({"id": id.as_str(), "object": "response", "deleted": true});
    Ok(HttpResponse::Ok().json(deleted))
}

/// `GET /v1/responses/{id}/input_items`: the input items, newest first unless `order=asc`, in pages
/// of `limit` after the item `after`.
pub(super) async fn input_items(
    request: HttpRequest,
    id: web::Path<String>,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    let generation = find(&request, &service, &id).await?;
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
    let history = service.engine.history(&generation).await?;
    let mut items = history.items();
    items.extend(generation.header().input.iter().map(|item| &**item));
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
    let include = query.include();
    let shown = items.iter().map(|item| include.item(item.get()));
    let data: Vec<Box<RawValue>> = shown
        .filter_map(|item| RawValue::from_string(item.into_owned()).ok())
        .collect();
    let body = serde_json::json!({
        "object": "list",
        "data": data,
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
