//! WebSocket upgrades.

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
use std::future::{Ready, ready};
use tokenwire_core::model::error::{ApiError, ErrorCode};

use super::outbound::{HttpError, error_response};
use crate::service::Service;
use tokenwire_connection::websocket_payload;

/// The request's payload as it is, for the upgrade to wrap.
pub(super) struct RawPayload(Payload);

impl FromRequest for RawPayload {
    type Error = std::convert::Infallible;
    type Future = Ready<Result<Self, Self::Error>>;

    fn from_request(_request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        ready(Ok(Self(payload.take())))
    }
}

/// `GET /v1/ws`
pub(super) async fn connect(
    request: HttpRequest,
    payload: RawPayload,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    if service.engine.registry().is_closed() {
        return Err(ApiError::new(ErrorCode::ShuttingDown, "The gateway is shutting down.").into());
    }
    let options = service.websocket(request.headers());
    Ok(tokenwire_ws::upgrade(
        &request,
        websocket_payload(&request, payload.0),
        service.engine.clone(),
        options,
    )?)
}

/// `GET /v1/responses`: OpenAI's path of the same socket. Without an upgrade there is nothing to
/// get.
pub(super) async fn responses(
    request: HttpRequest,
    payload: RawPayload,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    if !request.headers().contains_key("upgrade") {
        let message = "Not allowed to GET on /v1/responses without a WebSocket upgrade; allowed: POST, or GET with an upgrade.";
        let mut response = error_response(&ApiError::new(ErrorCode::MethodNotAllowed, message));
        response.headers_mut().insert(
            actix_web::http::header::ALLOW,
            actix_web::http::header::HeaderValue::from_static("POST"),
        );
        return Ok(response);
    }
    connect(request, payload, service).await
}
