//! The API's documentation out of the binary: `/openapi.json` for programs, `/docs` for people.
//!
//! Requests are read by the core's own checked parser and answers are written as bytes, so there
//! are no types that a description could be derived from without describing something else. What is
//! served is therefore described once, in [`operations`] and [`schemas`], and both forms are made
//! of that. The codes of errors are [`ErrorCode::ALL`](tokenwire_core::model::error::ErrorCode::ALL). A
//! test holds the description against the table of routes and asks the running gateway for every
//! path and method in it.
//!
//! The page is plain HTML: no script, nothing fetched from elsewhere, so it reads as well through a
//! terminal's browser.

mod openapi;
mod operations;
mod page;
mod schemas;

use std::sync::LazyLock;

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use bytes::Bytes;

const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'";

static OPENAPI: LazyLock<Bytes> = LazyLock::new(|| openapi::document().to_string().into());
static PAGE: LazyLock<Bytes> = LazyLock::new(|| page::render().into());
static STYLE: Bytes = Bytes::from_static(include_bytes!("documentation/docs.css"));

/// `GET /openapi.json`
async fn openapi() -> HttpResponse {
    answer("application/json", OPENAPI.clone())
}

/// `GET /docs`
async fn docs() -> HttpResponse {
    answer("text/html; charset=utf-8", PAGE.clone())
}

/// `GET /docs/docs.css`
async fn style() -> HttpResponse {
    answer("text/css; charset=utf-8", STYLE.clone())
}

/// Registers the three.
pub(super) fn configure(app: &mut web::ServiceConfig) {
    use super::routes::resource;
    app.service(
        resource("/openapi.json", "GET")
            .route(web::get().to(openapi))
            .route(web::head().to(openapi)),
    )
    .service(
        resource("/docs", "GET")
            .route(web::get().to(docs))
            .route(web::head().to(docs)),
    )
    .service(
        resource("/docs/docs.css", "GET")
            .route(web::get().to(style))
            .route(web::head().to(style)),
    );
}

fn answer(content_type: &'static str, body: Bytes) -> HttpResponse {
    HttpResponse::Ok()
        .content_type(content_type)
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .body(body)
}
