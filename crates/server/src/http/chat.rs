//! `POST /v1/chat/completions`

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use tokenwire_core::dialect::Dialect;
use tokenwire_core::engine::StartRequest;
use tokenwire_core::generation::ReaderGuard;
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::event::Ending;
use tokenwire_core::request::{ChatRequest, StreamRequest};
use tokenwire_sse::Sdk;

use super::inbound::{ContentType, body, freshness, idempotency_key, last_event_id, unwanted_body};
use super::outbound::{
    HttpError, error_response, json, located, marked, of_generation, open_error_response,
};
use super::streams::{committed, resume_sdk};
use crate::service::Service;

/// A chat completion, streamed or whole. What a chat upstream sent comes out byte for byte.
pub(super) async fn create(
    request: HttpRequest,
    payload: web::Payload,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    if let Some(cursor) = last_event_id(&request)? {
        unwanted_body(payload, service.config.limits.body).await;
        return resume_sdk(&service, &cursor.id, Dialect::Chat, Some(cursor.after));
    }
    let bytes = body(
        &request,
        payload,
        ContentType::Json,
        service.config.limits.body,
    )
    .await?;
    let chat = ChatRequest::parse(&bytes)?;
    let stream = chat.stream();
    let forwarded = service.forwarded(request.headers());
    let started = service.engine.start(StartRequest {
        body: StreamRequest::Chat(chat),
        owner: service.owner(),
        idempotency_key: idempotency_key(&request)?,
        route: "/v1/chat/completions",
        fingerprint: bytes.to_vec(),
        headers: forwarded.headers,
        client_key: forwarded.client_key,
        freshness: freshness(request.headers(), false),
    })?;
    if stream {
        let response = committed(
            &service,
            started.guard,
            Dialect::Chat,
            Arc::new(Sdk),
            service.sse(""),
        )
        .await;
        return Ok(marked(started.reused, response));
    }
    Ok(marked(started.reused, whole(started.guard).await))
}

/// The whole completion: as the upstream sent it, or made of the response object where it speaks
/// Responses.
async fn whole(guard: ReaderGuard) -> HttpResponse {
    let generation = guard.generation();
    generation.ended().await;
    let head = match generation.response_head().now() {
        Some(Err(error)) => return located(generation, open_error_response(&error)),
        Some(Ok(head)) => Some(head),
        None => None,
    };
    match generation.outcome().map(|outcome| outcome.ending) {
        Some(Ending::Completed { .. } | Ending::Incomplete { .. }) => {
            let Some(completion) = generation.chat_completion() else {
                let error = ApiError::new(
                    ErrorCode::UpstreamMalformed,
                    "The upstream's answer held no completion.",
                );
                return located(generation, error_response(&error));
            };
            json(&mut of_generation(generation, head.as_ref()), completion)
        }
        ending => located(
            generation,
            error_response(&super::responses::ending_error(ending)),
        ),
    }
}
