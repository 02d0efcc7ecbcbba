//! Resources that answer 405 to methods that they do not have.

use actix_web::http::header;
use actix_web::{HttpRequest, Resource, web};
use tokenwire_core::model::error::{ApiError, ErrorCode};

use super::outbound::error_response;

/// Creates the resource of one path. Answers 405 with the allowed methods to any other method.
pub(super) fn resource(path: &'static str, methods: &'static str) -> Resource {
    web::resource(path).default_service(web::to(move |request: HttpRequest| async move {
        let method = request.method();
        let error = ApiError::new(
            ErrorCode::MethodNotAllowed,
            format!(
                "Not allowed to {method} on {}; allowed: {methods}.",
                request.path()
            ),
        );
        let mut response = error_response(&error);
        if let Ok(value) = header::HeaderValue::try_from(methods.replace(" (WebSocket)", "")) {
            response.headers_mut().insert(header::ALLOW, value);
        }
        response
    }))
}
