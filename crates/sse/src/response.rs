//! The response head.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpResponse, HttpResponseBuilder};

use crate::body::SseBody;

/// Tells nginx not to buffer.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Returns a `text/event-stream` response. `no-transform` and `X-Accel-Buffering` keep proxies from
/// holding tokens back.
pub fn event_stream(
    response: &mut HttpResponseBuilder,
    body: impl MessageBody + 'static,
) -> HttpResponse {
    finish(
        response,
        HeaderValue::from_static("text/event-stream"),
        body,
    )
}

/// Returns a `text/plain` response.
pub(crate) fn plain_text(response: &mut HttpResponseBuilder, body: SseBody) -> HttpResponse {
    finish(
        response,
        HeaderValue::from_static("text/plain; charset=utf-8"),
        body,
    )
}

fn finish(
    response: &mut HttpResponseBuilder,
    content_type: HeaderValue,
    body: impl MessageBody + 'static,
) -> HttpResponse {
    response
        .insert_header((header::CONTENT_TYPE, content_type))
        .insert_header((
            header::CACHE_CONTROL,
            HeaderValue::from_static("no-cache, no-transform"),
        ))
        .insert_header((X_ACCEL_BUFFERING, HeaderValue::from_static("no")))
        .insert_header((
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ))
        // Boxed here, since actix moves the body several times before it boxes it.
        .body(BoxBody::new(body))
}
