//! The documentation in the binary: `/openapi.json` for programs, `/docs` for people, and the
//! reference pages at `/docs/<page>`.
//!
//! Requests are read by the core's parser and responses are written as bytes, so no types exist
//! that a description could be derived from. The API is described once, in [`operations`] and
//! [`schemas`]; the API page and the OpenAPI document are both made from that. Error codes come
//! from [`ErrorCode::ALL`]. Tests compare the description with the table of routes.
//!
//! The reference pages are the Markdown files in `crates/server/docs`, see [`pages`].
//!
//! All pages are plain HTML without scripts and load nothing from elsewhere.

mod layout;
mod markdown;
mod openapi;
mod operations;
mod page;
mod pages;
mod schemas;

use std::sync::LazyLock;

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use bytes::Bytes;
use tokenwire_core::model::error::{ApiError, ErrorCode};

use super::outbound::error_response;
use super::resource::resource;
use pages::PAGES;

const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'";

static OPENAPI: LazyLock<Bytes> = LazyLock::new(|| openapi::document().to_string().into());
static PAGE: LazyLock<Bytes> = LazyLock::new(|| page::render().into());
static REFERENCE: LazyLock<Vec<Bytes>> = LazyLock::new(|| {
    PAGES
        .iter()
        .map(|page| markdown::render(page).into())
        .collect()
});
static STYLE: Bytes = Bytes::from_static(include_bytes!("documentation/docs.css"));

/// `GET /openapi.json`
async fn openapi() -> HttpResponse {
    answer("application/json", OPENAPI.clone())
}

/// `GET /docs`
async fn docs() -> HttpResponse {
    answer("text/html; charset=utf-8", PAGE.clone())
}

/// `GET /docs/{page}`
async fn reference(name: web::Path<String>) -> HttpResponse {
    let known = PAGES.iter().zip(REFERENCE.iter());
    for (page, html) in known {
        if page.name == *name {
            return answer("text/html; charset=utf-8", html.clone());
        }
    }
    let names: Vec<String> = PAGES
        .iter()
        .map(|page| format!("/docs/{}", page.name))
        .collect();
    error_response(&ApiError::new(
        ErrorCode::UnknownUrl,
        format!(
            "This page does not exist. The pages are /docs, {}.",
            names.join(", ")
        ),
    ))
}

/// `GET /docs/docs.css`
async fn style() -> HttpResponse {
    answer("text/css; charset=utf-8", STYLE.clone())
}

/// Registers the pages and the OpenAPI document.
pub(super) fn configure(app: &mut web::ServiceConfig) {
    app.service(
        resource("/openapi.json", "GET, HEAD")
            .route(web::get().to(openapi))
            .route(web::head().to(openapi)),
    )
    .service(
        resource("/docs", "GET, HEAD")
            .route(web::get().to(docs))
            .route(web::head().to(docs)),
    )
    .service(
        resource("/docs/docs.css", "GET, HEAD")
            .route(web::get().to(style))
            .route(web::head().to(style)),
    )
    .service(
        resource("/docs/{page}", "GET, HEAD")
            .route(web::get().to(reference))
            .route(web::head().to(reference)),
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
