//! `/healthz` and `/readyz`.

use actix_web::{HttpMessage as _, HttpRequest, HttpResponse, web};
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::upstream::{HealthStatus, Route};

use super::outbound::error_response;
use crate::service::Service;

/// Marks a request that may learn the status only, because its host is not one that is served.
pub(super) struct StatusOnly;

/// `GET /healthz`: the process answers.
pub(super) async fn alive() -> HttpResponse {
    HttpResponse::Ok().json(serde_json::json!({"status": "ok"}))
}

/// `GET /readyz`: new streams are accepted and an upstream is up.
pub(super) async fn ready(request: HttpRequest, service: web::Data<Service>) -> HttpResponse {
    let registry = service.engine.registry();
    if registry.is_draining() {
        return error_response(&ApiError::new(
            ErrorCode::ShuttingDown,
            "The gateway is shutting down.",
        ));
    }
    let ready = service.router.is_ready();
    let upstreams: Vec<_> = service.router.routes().iter().map(describe).collect();
    let status = if ready { "ready" } else { "no upstream is up" };
    let body = if request.extensions().contains::<StatusOnly>() {
        serde_json::json!({"status": status})
    } else {
        let mut body = serde_json::json!({"status": status, "open_streams": registry.open(), "upstreams": upstreams});
        if let Some(store) = &service.store {
            // Streams run on while it is full or fails, so the gateway stays ready.
            body["store"] = store.status().state.as_str().into();
        }
        if !service.tickets.is_revocation_reached() {
            // What is revoked elsewhere is good here until the store answers.
            body["revocations"] = "store unavailable".into();
        }
        if let Some(cluster) = &service.cluster {
            // So they do while Redis is away.
            let status = cluster.status();
            body["cluster"] = serde_json::json!({
                "redis": if status.connected { "up" } else { "away" },
                "error": status.error,
                "nodes": status.nodes,
                "name": cluster.name(),
                "tag": cluster.tag().as_str(),
            });
        }
        body
    };
    if ready {
        HttpResponse::Ok().json(body)
    } else {
        HttpResponse::ServiceUnavailable()
            .insert_header(("retry-after", 1))
            .json(body)
    }
}

fn describe(route: &Route) -> serde_json::Value {
    let stats = &route.stats;
    let status = match stats.health() {
        HealthStatus::Up => "up",
        HealthStatus::HalfOpen => "half_open",
        HealthStatus::Down => "down",
    };
    serde_json::json!({
        "name": route.endpoint.name(),
        "status": status,
        "running": stats.limit.running(),
        "waiting": stats.limit.waiting(),
        "first_token_ms": stats.latency.average().map(|average| average.as_millis() as u64),
    })
}
