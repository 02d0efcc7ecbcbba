//! For those who operate it.

use actix_web::{HttpResponse, web};
use tokenwire_core::error::{ApiError, ErrorCode};

use super::outbound::error_response;
use crate::service::Service;

/// The process answers.
pub(super) async fn alive() -> HttpResponse {
    HttpResponse::Ok().json(serde_json::json!({"status": "ok"}))
}

/// New streams are taken.
pub(super) async fn ready(service: web::Data<Service>) -> HttpResponse {
    let registry = service.engine.registry();
    if registry.is_closed() {
        return error_response(&ApiError::new(ErrorCode::ShuttingDown, "The gateway is shutting down."));
    }
    HttpResponse::Ok().json(serde_json::json!({"status": "ready", "open_streams": registry.open()}))
}
