//! Answers: errors in OpenAI's shape, JSON, and streams.

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpResponse, HttpResponseBuilder};
use tokenwire_core::engine::Reused;
use tokenwire_core::generation::Generation;
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::upstream::{OpenError, Refusal, UpstreamHead};

/// Seconds after which to come back where nobody knows better.
const DEFAULT_RETRY_AFTER: u64 = 1;

const TOKENWIRE_CACHE: HeaderName = HeaderName::from_static("tokenwire-cache");
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// An [`ApiError`] on its way out of a handler.
#[derive(Debug)]
pub(crate) struct HttpError(pub(crate) ApiError);

impl From<ApiError> for HttpError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl std::fmt::Display for HttpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl actix_web::ResponseError for HttpError {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        error_response(&self.0)
    }
}

/// The answer to a request that failed before its head.
pub(crate) fn error_response(error: &ApiError) -> HttpResponse {
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

/// The SDKs send a request again, twice, on any 5xx. That is right only where nothing can have been
/// billed and another try is likely to find the gateway in a better state.
fn should_retry(error: &ApiError) -> &'static str {
    let ours = error.is(ErrorCode::Overloaded) || error.is(ErrorCode::ShuttingDown);
    if ours && error.retryable {
        "true"
    } else {
        "false"
    }
}

/// The upstream's own refusal, body and all; or an error of ours.
pub(crate) fn open_error_response(error: &OpenError) -> HttpResponse {
    match error {
        OpenError::Refused(refusal) => refusal_response(refusal),
        OpenError::Failed(error) => error_response(error),
    }
}

fn refusal_response(refusal: &Refusal) -> HttpResponse {
    let json = serde_json::from_slice::<serde::de::IgnoredAny>(&refusal.body).is_ok();
    if !json {
        // An HTML page of some proxy's: the SDKs, and people, are better served with the status in
        // OpenAI's shape.
        let mut response = error_response(&refusal.to_api_error());
        add_headers(response.headers_mut(), &refusal.headers);
        return response;
    }
    let mut response = HttpResponse::build(
        StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_GATEWAY),
    );
    response
        .content_type(
            refusal
                .content_type
                .as_deref()
                .unwrap_or("application/json"),
        )
        .insert_header((X_SHOULD_RETRY, "false"));
    if matches!(refusal.status, 429 | 503) {
        // Where the upstream does not say when to come back, somebody has to; what it says itself
        // overwrites this.
        response.insert_header((header::RETRY_AFTER, DEFAULT_RETRY_AFTER));
    }
    let mut response = response.body(refusal.body.clone());
    add_headers(response.headers_mut(), &refusal.headers);
    response
}

fn add_headers(to: &mut header::HeaderMap, headers: &[(String, String)]) {
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (
            HeaderName::try_from(name.as_str()),
            HeaderValue::try_from(value),
        ) {
            to.insert(name, value);
        }
    }
}

fn location(generation: &Generation) -> String {
    format!("/v1/streams/{}", generation.meta().id)
}

/// Says where the generation is that an answer belongs to; also one that failed can be looked at.
pub(crate) fn located(generation: &Generation, mut response: HttpResponse) -> HttpResponse {
    if let Ok(value) = HeaderValue::try_from(location(generation)) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

/// A 200 that belongs to a generation: where its stream is, and what its upstream's head said.
pub(crate) fn of_generation(
    generation: &Generation,
    head: Option<&UpstreamHead>,
) -> HttpResponseBuilder {
    let mut response = HttpResponse::Ok();
    response.insert_header((header::LOCATION, location(generation)));
    for (name, value) in head.map_or(&[][..], |head| &head.headers) {
        response.insert_header((name.as_str(), value.as_str()));
    }
    response
}

/// Says whether the answer is shared, where answers are.
pub(crate) fn marked(reused: Option<Reused>, mut response: HttpResponse) -> HttpResponse {
    if let Some(reused) = reused {
        response
            .headers_mut()
            .insert(TOKENWIRE_CACHE, HeaderValue::from_static(reused.as_str()));
    }
    response
}

/// JSON that is already written.
pub(crate) fn json(
    response: &mut HttpResponseBuilder,
    body: impl Into<bytes::Bytes>,
) -> HttpResponse {
    response.content_type("application/json").body(body.into())
}
