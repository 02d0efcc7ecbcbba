//! WebSocket upgrades.

use actix_web::http::Version;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use tokenwire_connection::websocket_payload;
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_ws::WebSocketOptions;

use super::outbound::{HttpError, error_response};
use crate::service::Service;

/// `GET /v1/ws`
pub(super) async fn connect(
    request: HttpRequest,
    payload: web::Payload,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    // Its clients resume.
    upgrade(&request, payload, &service, true)
}

fn upgrade(
    request: &HttpRequest,
    payload: web::Payload,
    service: &Service,
    leaves: bool,
) -> Result<HttpResponse, HttpError> {
    if service.engine.registry().is_closed() {
        return Err(ApiError::new(ErrorCode::ShuttingDown, "The gateway is shutting down.").into());
    }
    if request.version() < Version::HTTP_11 {
        // RFC 6455, section 4.2.1.
        let message = "A WebSocket needs HTTP/1.1. A proxy in front has to be told to use it.";
        return Err(ApiError::new(ErrorCode::InvalidUpgrade, message).into());
    }
    let identity = service.identity(request)?;
    let options = WebSocketOptions {
        leaves,
        ..service.websocket(&identity, request.headers())
    };
    Ok(tokenwire_ws::upgrade(
        request,
        websocket_payload(request, payload.into_inner()),
        service.engine_of(&identity).into_owned(),
        options,
    )?)
}

/// `GET /v1/responses`: OpenAI's path of the same socket. Other GETs are not allowed there.
pub(super) async fn responses(
    request: HttpRequest,
    payload: web::Payload,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    if !request.headers().contains_key("upgrade") {
        let message = "Not allowed to GET on /v1/responses without a WebSocket upgrade; allowed: POST, or GET with an upgrade.";
        let mut response = error_response(&ApiError::new(ErrorCode::MethodNotAllowed, message));
        response
            .headers_mut()
            .insert(header::ALLOW, HeaderValue::from_static("POST"));
        return Ok(response);
    }
    // The SDKs do not resume.
    upgrade(&request, payload, &service, false)
}
