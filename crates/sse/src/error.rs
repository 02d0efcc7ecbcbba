//! Errors as responses.

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName};
use actix_web::{HttpResponse, ResponseError};
use tokenwire_core::model::error::{ApiError, ErrorCode};

/// `Retry-After` in seconds where neither the upstream nor the error gives one.
pub const DEFAULT_RETRY_AFTER: u64 = 1;

/// Tells the official OpenAI SDKs whether to repeat a request.
pub const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// An [`ApiError`] as the error of a handler, which `?` makes of it.
#[derive(Debug)]
pub struct HttpError(pub ApiError);

impl From<ApiError> for HttpError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl ResponseError for HttpError {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        error_response(&self.0)
    }
}

/// Returns the response to a request that failed before its head: status and body in OpenAI's shape,
/// with `Retry-After` and `X-Should-Retry`.
#[must_use]
pub fn error_response(error: &ApiError) -> HttpResponse {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::build(status);
    response
        .content_type("application/json")
        .insert_header((X_SHOULD_RETRY, should_retry(error)));
    match error.retry_after {
        Some(after) => {
            response.insert_header((header::RETRY_AFTER, after.as_secs().max(1)));
        }
        None if matches!(error.status, 429 | 503) => {
            response.insert_header((header::RETRY_AFTER, DEFAULT_RETRY_AFTER));
        }
        None => {}
    }
    response.body(error.body())
}

/// The SDKs repeat a request twice on any 5xx. That is right only where nothing can have been billed
/// and another attempt is likely to succeed.
fn should_retry(error: &ApiError) -> &'static str {
    let ours = [
        ErrorCode::Overloaded,
        ErrorCode::OutOfDescriptors,
        ErrorCode::ShuttingDown,
    ]
    .iter()
    .any(|code| error.is(*code));
    // An upstream's limit has the same code.
    let is_limited = error.is(ErrorCode::RateLimitExceeded) && error.kind == "rate_limit_error";
    if (ours || is_limited) && error.retryable {
        "true"
    } else {
        "false"
    }
}
