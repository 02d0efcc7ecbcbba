//! `/v1/webhooks/deliveries`: the list of webhook deliveries, and their retry.

use actix_web::{HttpRequest, HttpResponse, web};
use tokenwire_core::model::error::{ApiError, ErrorCode};

use super::inbound::Query;
use super::outbound::HttpError;
use crate::service::Service;
use tokenwire_webhooks::{NoRetry, Status};

/// `GET /v1/webhooks/deliveries`: newest first, optionally of one `status`, in pages of `limit`
/// after the delivery `after`.
pub(super) async fn list(
    request: HttpRequest,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    let query = Query::of(&request);
    let status = match query.get("status") {
        None => None,
        Some(name) => {
            let known = Status::ALL
                .into_iter()
                .find(|status| status.as_str() == name);
            Some(known.ok_or_else(|| {
                ApiError::new(
                    ErrorCode::InvalidValue,
                    "'status' must be 'pending', 'delivered' or 'failed'.",
                )
                .param("status")
            })?)
        }
    };
    let limit = query.get("limit").map_or(Some(20), |text| {
        text.parse().ok().filter(|limit| (1..=100).contains(limit))
    });
    let limit = limit.ok_or_else(|| {
        ApiError::new(
            ErrorCode::InvalidValue,
            "'limit' must be a number from 1 to 100.",
        )
        .param("limit")
    })?;
    let page = service
        .webhooks
        .list(&service.owner(&request)?, status, query.get("after"), limit)
        .ok_or_else(|| {
            ApiError::new(
                ErrorCode::InvalidValue,
                "'after' must be the id of a delivery.",
            )
            .param("after")
        })?;
    let id = |delivery: Option<&serde_json::Value>| delivery.map(|delivery| delivery["id"].clone());
    let (first, last) = (id(page.deliveries.first()), id(page.deliveries.last()));
    Ok(HttpResponse::Ok().json(serde_json::json!({
        "object": "list",
        "data": page.deliveries,
        "first_id": first,
        "last_id": last,
        "has_more": page.has_more,
    })))
}

/// `POST /v1/webhooks/deliveries/{id}/retry`: sends the event again now, whatever its status.
pub(super) async fn retry(
    request: HttpRequest,
    id: web::Path<String>,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    match service.webhooks.retry(&service.owner(&request)?, &id) {
        Ok(delivery) => Ok(HttpResponse::Ok().json(delivery)),
        Err(NoRetry::NotFound) => {
            let shown: String = id.chars().take(64).collect();
            let message = format!(
                "Webhook delivery with id '{shown}' not found; ended deliveries are kept up to webhooks.max_kept."
            );
            Err(ApiError::new(ErrorCode::NotFound, message).into())
        }
        Err(NoRetry::QueueFull) => {
            let message = "The number of pending webhook deliveries has reached webhooks.max_pending, or that of matches a quarter of it.";
            Err(ApiError::new(ErrorCode::Overloaded, message).into())
        }
    }
}
