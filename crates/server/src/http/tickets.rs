//! `POST /v1/tickets`: credentials for browsers, which cannot send headers, and their revocation.

use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;
use tokenwire_core::model::error::{ApiError, ErrorCode};

use super::inbound::{ContentType, Received, body};
use super::outbound::HttpError;
use super::presented::COOKIE;
use crate::auth::{RevocationRequest, Ticket, TicketKind, TicketRequest};
use crate::service::Service;

/// `POST /v1/tickets`
pub(super) async fn create(
    request: HttpRequest,
    payload: web::Payload,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    let Received { bytes, charge } = body(&request, payload, ContentType::Json, &service).await?;
    let asked = TicketRequest::parse(&bytes)?;
    drop((bytes, charge));
    let identity = service.identity(&request)?;
    if let Some(id) = asked.stream()? {
        service.engine.find(&id, &asked.owner(&identity)?).await?;
    }
    let ticket = service.tickets.issue(asked, &identity)?;
    let text = service.tickets.seal(&ticket)?;
    let base = service.config.server.public_url.as_deref();
    let base = base.unwrap_or_default().trim_end_matches('/');
    let mut response = HttpResponse::Ok();
    response.insert_header((header::CACHE_CONTROL, "no-store"));
    if ticket.kind == TicketKind::Cookie {
        response.insert_header((
            header::SET_COOKIE,
            set_cookie(&request, &service, &ticket, &text)?,
        ));
        return Ok(response.json(json!({"ticket": null, "url": format!("{base}/")})));
    }
    let path = ticket.path();
    let url = format!("{base}{path}?ticket={text}");
    Ok(response.json(json!({"ticket": text, "url": url})))
}

/// `POST /v1/tickets/revoke`: ends what was issued.
pub(super) async fn revoke(
    request: HttpRequest,
    payload: web::Payload,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    let Received { bytes, charge } = body(&request, payload, ContentType::Json, &service).await?;
    let asked = RevocationRequest::parse(&bytes)?;
    drop((bytes, charge));
    let identity = service.identity(&request)?;
    let auth = service.auth.as_deref();
    service.tickets.revoke(&asked, &identity, auth).await?;
    Ok(HttpResponse::Ok().json(json!({"revoked": true})))
}

/// Returns the cookie with this ticket.
///
/// # Errors
/// `invalid_value` where the client does not use https: browsers would not keep it.
fn set_cookie(
    request: &HttpRequest,
    service: &Service,
    ticket: &Ticket,
    text: &str,
) -> Result<HeaderValue, ApiError> {
    let refused = |message: &str| ApiError::new(ErrorCode::InvalidValue, message).param("cookie");
    if !service.hosts.is_https(request.head()) {
        let message = "A cookie is set over https only. Use https, and set server.public_url where a proxy ends TLS.";
        return Err(refused(message));
    }
    let seconds = ticket.seconds_left();
    let cookie =
        format!("{COOKIE}={text}; Max-Age={seconds}; Path=/; Secure; HttpOnly; SameSite=Strict");
    HeaderValue::try_from(cookie).map_err(|_| refused("The cookie cannot be made."))
}
