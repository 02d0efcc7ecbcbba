//! `POST /v1/chat/completions`

use actix_web::{HttpRequest, HttpResponse, web};
use tokenwire_core::dialect::Dialect;
use tokenwire_core::generation::ReaderGuard;
use tokenwire_core::model::account::AccountKind;
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::event::Ending;
use tokenwire_core::request::{ChatRequest, StreamRequest};
use tokenwire_sse::{SseFraming, last_event_id};

use super::inbound::{ContentType, Received, body, discard_body, idempotency_key, start_request};
use super::outbound::{
    HttpError, committed, error_response, json, located, marked, of_generation,
    open_error_response, resumed,
};
use super::timing::for_upstream;
use crate::service::Service;

/// A chat completion, streamed or whole. A chat upstream's chunks are relayed byte for byte.
pub(super) async fn create(
    request: HttpRequest,
    payload: web::Payload,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    let reader = service.sse(Dialect::Chat, SseFraming::Sdk);
    if let Some(cursor) = last_event_id(&request)? {
        discard_body(payload, service.config.limits.body).await;
        return resumed(&request, &service, &cursor, &reader).await;
    }
    let Received { bytes, charge } = body(&request, payload, ContentType::Json, &service).await?;
    let chat = ChatRequest::parse(&bytes)?;
    drop(bytes);
    let stream = chat.stream();
    let key = idempotency_key(&request, None)?;
    let body = StreamRequest::Chat(chat);
    let start = start_request(&request, &service, body, "/v1/chat/completions", key)?;
    let engine = service.engine_of(&service.identity(&request)?);
    let started = engine.start(start).await?;
    drop(charge);
    let response = if stream {
        committed(&service, started.guard, &reader).await?
    } else {
        whole(started.guard).await
    };
    Ok(marked(started.reused, &started.dropped_tools, response))
}

/// Returns the whole completion: as a chat upstream sent it, or made of the response object of a
/// Responses upstream.
async fn whole(guard: ReaderGuard) -> HttpResponse {
    let generation = guard.generation();
    let id = &generation.meta().id;
    for_upstream(generation.ended()).await;
    let head = match generation.response_head().now() {
        Some(Err(error)) => return located(id, open_error_response(&error)),
        Some(Ok(head)) => Some(head),
        None => None,
    };
    match generation.outcome().map(|outcome| outcome.ending.clone()) {
        Some(Ending::Completed | Ending::Incomplete { .. }) => {
            let Some(completion) = generation.chat_completion() else {
                let error = ApiError::new(
                    ErrorCode::UpstreamMalformed,
                    "The upstream's answer held no completion.",
                );
                return located(id, error_response(&error));
            };
            let completion = generation.account().hold(AccountKind::Frames, completion);
            json(&mut of_generation(id, head.as_ref()), completion)
        }
        ending => located(id, error_response(&super::responses::ending_error(ending))),
    }
}
