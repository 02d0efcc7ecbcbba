//! `GET /metrics`

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};

use super::inbound::text;
use crate::metrics::Format;
use crate::service::Service;

/// Writes all metrics, in the format that the scraper accepts.
pub(super) async fn expose(request: HttpRequest, service: web::Data<Service>) -> HttpResponse {
    let format = Format::accepted(text(request.headers(), header::ACCEPT.as_str()));
    HttpResponse::Ok()
        .content_type(format.content_type())
        .body(service.metrics.expose(format))
}
