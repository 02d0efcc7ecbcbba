//! Middleware around every request: a request id, the origin rules, and a guard against panics.

use std::panic::AssertUnwindSafe;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{ConnectionType, Method};
use actix_web::middleware::Next;
use actix_web::{Error, HttpResponse, web};
use futures::FutureExt as _;
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::random_alphanumeric;

use super::body_deadline::limit_body;
use super::guarded_body::GuardedBody;
use super::outbound::error_response;
use crate::admission::ConnectionLimits;
use crate::origins::PageOrigin;
use crate::service::Service;
use tokenwire_connection::Reserved;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Handles a request: the outermost middleware of the application.
///
/// # Errors
/// Errors that carry a complete response.
pub async fn request_middleware(
    mut request: ServiceRequest,
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
    let mut close = request.conn_data::<Reserved>().is_some();
    let limits = request.app_data::<web::Data<ConnectionLimits>>();
    let admitted = limits.map_or(Ok(None), |limits| limits.check(&request));
    let (counted, refusal) = match (admitted, &origin) {
        (Err(error), _) => (None, Some(error)),
        (Ok(_), PageOrigin::Foreign(why)) if has_effects(&request) => {
            let error = ApiError::new(ErrorCode::OriginForbidden, why.clone());
            (None, Some(error))
        }
        (Ok(counted), _) => (counted, None),
    };
    let server = &service.config.server;
    let late = limit_body(&mut request, server.body_timeout, server.min_body_rate);
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
    if late.get() {
        let error = ApiError::new(
            ErrorCode::RequestTimeout,
            "The body did not arrive within server.body_timeout.",
        );
        response = response.into_response(error_response(&error));
        close = true;
    }
    if close {
        let head = response.response_mut().head_mut();
        head.set_connection_type(ConnectionType::Close);
    }
    add_headers(response.headers_mut(), &origin, id);
    Ok(match counted {
        Some(counted) => response.map_body(|_, body| GuardedBody::attach(body, counted)),
        None => response,
    })
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
