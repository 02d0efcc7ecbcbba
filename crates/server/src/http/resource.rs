//! Resources that answer 405 to methods that they do not have.

use actix_web::http::header;
use actix_web::{FromRequest, Handler, HttpRequest, Resource, Responder, web};
use tokenwire_core::model::error::{ApiError, ErrorCode};

use super::outbound::error_response;

/// Adds a handler for GET, and for HEAD with the same headers.
pub(super) fn get<F, Args>(resource: Resource, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    resource
        .route(web::get().to(handler.clone()))
        .route(web::head().to(handler))
}

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
