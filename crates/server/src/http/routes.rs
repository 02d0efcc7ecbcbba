//! The table of routes, and the answer to unknown paths.

use actix_web::{HttpRequest, HttpResponse, web};
use tokenwire_core::model::error::{ApiError, ErrorCode};

use super::outbound::error_response;
use super::resource::resource;
use super::{
    chat, documentation, health, metrics, models, page, responses, sockets, streams, webhooks,
};

/// Registers every route.
pub fn configure(app: &mut web::ServiceConfig) {
    app.service(resource("/v1/chat/completions", "POST").route(web::post().to(chat::create)))
        .service(
            resource("/v1/responses", "POST, GET (WebSocket)")
                .route(web::post().to(responses::create))
                .route(web::get().to(sockets::responses)),
        )
        .service(
            resource("/v1/responses/{id}", "GET, DELETE")
                .route(web::get().to(responses::retrieve))
                .route(web::delete().to(responses::delete)),
        )
        .service(
            resource("/v1/responses/{id}/cancel", "POST").route(web::post().to(responses::cancel)),
        )
        .service(
            resource("/v1/responses/{id}/input_items", "GET")
                .route(web::get().to(responses::input_items)),
        )
        .service(
            resource("/v1/streams", "GET, POST")
                .route(web::post().to(streams::create))
                .route(web::get().to(streams::create_by_query)),
        )
        .service(resource("/v1/streams/{id}", "GET").route(web::get().to(streams::attach)))
        .service(resource("/v1/ws", "GET (WebSocket)").route(web::get().to(sockets::connect)))
        .service(resource("/v1/webhooks/deliveries", "GET").route(web::get().to(webhooks::list)))
        .service(
            resource("/v1/webhooks/deliveries/{id}/retry", "POST")
                .route(web::post().to(webhooks::retry)),
        )
        .service(resource("/v1/models", "GET").route(web::get().to(models::list)))
        .service(resource("/v1/models/{id:.+}", "GET").route(web::get().to(models::retrieve)))
        .configure(operations)
        .configure(documentation::configure)
        .configure(page::configure)
        .default_service(web::to(unknown));
}

/// Registers the routes of the listener for operations.
pub fn configure_operations(app: &mut web::ServiceConfig) {
    app.configure(operations).default_service(web::to(unknown));
}

fn operations(app: &mut web::ServiceConfig) {
    app.service(resource("/healthz", "GET").route(web::get().to(health::alive)))
        .service(resource("/readyz", "GET").route(web::get().to(health::ready)))
        .service(resource("/metrics", "GET").route(web::get().to(metrics::expose)));
}

async fn unknown(request: HttpRequest) -> HttpResponse {
    let path: String = request.path().chars().take(200).collect();
    let openai = [
        "/v1/embeddings",
        "/v1/completions",
        "/v1/audio",
        "/v1/images",
        "/v1/files",
        "/v1/moderations",
        "/v1/batches",
        "/v1/conversations",
        "/v1/threads",
        "/v1/assistants",
    ];
    let why = if openai.iter().any(|known| path.starts_with(known)) {
        "Tokenwire does not serve this part of OpenAI's API, only chat completions, responses and models."
    } else {
        "All paths are listed at /docs."
    };
    error_response(&ApiError::new(
        ErrorCode::UnknownUrl,
        format!("Unknown request URL: {} {path}. {why}", request.method()),
    ))
}
