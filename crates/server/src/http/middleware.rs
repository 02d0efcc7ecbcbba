//! What goes around every request: an id, the origin rules, and a net under panics.

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

use super::cross_origin::Verdict;
use super::outbound::error_response;
use crate::service::Service;
use tokenwire_connection::Detach;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The outermost layer of the application.
///
/// # Errors
/// Only such as carry a whole answer.
pub async fn envelope(
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
    let ticket = Detach::of(&request);
    let verdict = service.origins.judge(request.head());
    let refusal = match &verdict {
        Verdict::Foreign(why) if starts_something(&request) => {
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
            let answer = verdict.preflight(request.headers());
            request.into_response(answer)
        }
        // Routing wants the request to itself, so nothing of it may be held here meanwhile.
        None => match AssertUnwindSafe(next.call(request)).catch_unwind().await {
            Ok(Ok(response)) => response.map_into_boxed_body(),
            Ok(Err(error)) => return Err(complete(error.error_response(), &verdict, id)),
            Err(_) => {
                // The panic itself was reported by the panic hook.
                tracing::error!(request_id = %id, "a request handler panicked");
                let error = ApiError::new(
                    ErrorCode::InternalError,
                    "The gateway failed while it handled this request.",
                );
                return Err(complete(error_response(&error), &verdict, id));
            }
        },
    };
    finish(response.headers_mut(), &verdict, id);
    Ok(match ticket {
        Some(ticket) => ticket.show(response),
        None => response,
    })
}

fn finish(headers: &mut HeaderMap, verdict: &Verdict, id: String) {
    verdict.expose(headers);
    if let Ok(value) = HeaderValue::try_from(id) {
        headers.insert(X_REQUEST_ID, value);
    }
}

/// An answer for which the request is not at hand any more.
fn complete(mut response: HttpResponse, verdict: &Verdict, id: String) -> Error {
    finish(response.headers_mut(), verdict, id);
    InternalError::from_response("answered", response).into()
}

/// Whether the request could spend the key, change something, or open a socket.
fn starts_something(request: &ServiceRequest) -> bool {
    let upgrade = request.headers().contains_key("upgrade");
    let asks = request.path() == "/v1/streams";
    match *request.method() {
        Method::GET => upgrade || asks,
        Method::HEAD => false,
        // A preflight asks on behalf of a request that could.
        _ => true,
    }
}
