//! Middleware around every request: a request id, the origin rules, and a guard against panics.

use std::panic::AssertUnwindSafe;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::http::Method;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpResponse, web};
use futures::FutureExt as _;
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::random_alphanumeric;

use super::outbound::error_response;
use crate::origins::PageOrigin;
use crate::service::Service;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Handles a request: the outermost middleware of the application.
///
/// # Errors
/// Errors that carry a complete response.
pub async fn request_middleware(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let id = format!("req_{}", random_alphanumeric(24));
    let Some(service) = request.app_data::<web::Data<Service>>().cloned() else {
        return next
            .call(request)
            .await
            .map(ServiceResponse::map_into_boxed_body);
    };
    let origin = service.origins.classify(request.head());
    let refusal = match &origin {
        PageOrigin::Foreign(why) if has_effects(&request) => {
            Some(ApiError::new(ErrorCode::OriginForbidden, why.clone()))
        }
        _ => None,
    };
    let preflight = request.method() == Method::OPTIONS
        && request
            .headers()
            .contains_key("access-control-request-method");
    let mut response = match refusal {
        Some(error) => request.into_response(error_response(&error)),
        None if preflight => {
            let answer = origin.preflight(request.headers());
            request.into_response(answer)
        }
        // Routing requires that no other reference to the request exists.
        None => match AssertUnwindSafe(next.call(request)).catch_unwind().await {
            Ok(Ok(response)) => response.map_into_boxed_body(),
            Ok(Err(error)) => return Err(complete(error.error_response(), &origin, id)),
            Err(_) => {
                // The panic hook has reported the panic.
                tracing::error!(request_id = %id, "a request handler panicked");
                let error = ApiError::new(
                    ErrorCode::InternalError,
                    "The gateway failed while it handled this request.",
                );
                return Err(complete(error_response(&error), &origin, id));
            }
        },
    };
    add_headers(response.headers_mut(), &origin, id);
    Ok(response)
}

fn add_headers(headers: &mut HeaderMap, origin: &PageOrigin, id: String) {
    origin.expose(headers);
    if let Ok(value) = HeaderValue::try_from(id) {
        headers.insert(X_REQUEST_ID, value);
    }
}

/// Makes an error out of a response, where the request is no longer available.
fn complete(mut response: HttpResponse, origin: &PageOrigin, id: String) -> Error {
    add_headers(response.headers_mut(), origin, id);
    InternalError::from_response("answered", response).into()
}

/// Whether the request can use the upstream's key, change state, or open a WebSocket.
fn has_effects(request: &ServiceRequest) -> bool {
    let upgrade = request.headers().contains_key("upgrade");
    let asks = request.path() == "/v1/streams";
    match *request.method() {
        Method::GET => upgrade || asks,
        Method::HEAD => false,
        // OPTIONS too: a preflight asks for a request that has effects.
        _ => true,
    }
}
