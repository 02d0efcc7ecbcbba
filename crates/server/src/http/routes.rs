//! The table of routes.

use actix_web::web;

use super::resource::{get, resource};
use super::unknown_path::unknown;
use super::{
    activity, chat, documentation, health, metrics, models, page, reload, responses, sockets,
    streams, tickets, usage, webhooks,
};

/// Registers every route.
pub fn configure(app: &mut web::ServiceConfig) {
    app.service(resource("/v1/chat/completions", "POST").route(web::post().to(chat::create)))
        .service(
            resource("/v1/responses", "POST, GET (WebSocket)")
                .route(web::post().to(responses::create))
                .route(web::get().to(sockets::responses)),
        )
        // Before the ids of responses, which they look like.
        .service(
            resource("/v1/responses/input_tokens", "POST")
                .route(web::post().to(responses::input_tokens)),
        )
        .service(
            resource("/v1/responses/compact", "POST").route(web::post().to(responses::compact)),
        )
        .service(
            get(
                resource("/v1/responses/{id}", "GET, HEAD, DELETE"),
                responses::retrieve,
            )
            .route(web::delete().to(responses::delete)),
        )
        .service(
            resource("/v1/responses/{id}/cancel", "POST").route(web::post().to(responses::cancel)),
        )
        .service(get(
            resource("/v1/responses/{id}/input_items", "GET, HEAD"),
            responses::input_items,
        ))
        .service(
            resource("/v1/streams", "GET, POST")
                .route(web::post().to(streams::create))
                .route(web::get().to(streams::create_by_query)),
        )
        .service(get(
            resource("/v1/streams/{id}", "GET, HEAD"),
            streams::attach,
        ))
        .service(resource("/v1/activity", "GET").route(web::get().to(activity::watch)))
        .service(resource("/v1/ws", "GET (WebSocket)").route(web::get().to(sockets::connect)))
        .service(resource("/v1/tickets", "POST").route(web::post().to(tickets::create)))
        .service(resource("/v1/tickets/revoke", "POST").route(web::post().to(tickets::revoke)))
        .service(get(
            resource("/v1/webhooks/deliveries", "GET, HEAD"),
            webhooks::list,
        ))
        .service(
            resource("/v1/webhooks/deliveries/{id}/retry", "POST")
                .route(web::post().to(webhooks::retry)),
        )
        .service(get(resource("/v1/usage", "GET, HEAD"), usage::list))
        .service(get(resource("/v1/models", "GET, HEAD"), models::list))
        .service(get(
            resource("/v1/models/{id:.+}", "GET, HEAD"),
            models::retrieve,
        ))
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
    app.service(get(resource("/healthz", "GET, HEAD"), health::alive))
        .service(get(resource("/health", "GET, HEAD"), health::alive))
        .service(get(resource("/readyz", "GET, HEAD"), health::ready))
        .service(get(resource("/metrics", "GET, HEAD"), metrics::expose))
        .service(resource("/admin/reload", "POST").route(web::post().to(reload::reload)));
}
