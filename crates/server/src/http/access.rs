//! Which requests need a credential.
//!
//! Every path under `/v1` does. Those under `/admin` need an operator's key in a header, or without
//! `auth` a client on this machine. `/metrics` is for operators, for this machine, and for the listener
//! of operations. What is open is the same for everyone: the page, its modules, the documentation,
//! and health checks, which show the status only.

use actix_web::HttpMessage as _;
use actix_web::dev::ServiceRequest;
use actix_web::http::header;
use tokenwire_core::model::error::{ApiError, ErrorCode};

use super::health::StatusOnly;
use super::presented;
use crate::auth::{Asked, Authenticator, Identity, check_route, has_credential};
use crate::host_policy::ClientHost;
use crate::service::Service;

/// Returns who sent a request to a path under `/v1`. Without `auth` credentials are ignored, but for
/// tickets that were made here.
async fn client(request: &ServiceRequest, service: &Service) -> Result<Option<Identity>, ApiError> {
    let headers = request.headers();
    let ticket = presented::ticket(request.query_string(), headers)?;
    let Some(auth) = &service.auth else {
        let known = ticket.and_then(|text| service.tickets.identify(&text, None).ok());
        let Some(identity) = known else {
            return Ok(None);
        };
        return of_ticket(request, identity, false).map(Some);
    };
    let Some(text) = ticket else {
        return by_header_or_cookie(request, service, auth).await.map(Some);
    };
    if has_credential(headers) {
        let message = "The request carries a ticket and a key. Send one of them.";
        return Err(ApiError::new(ErrorCode::AmbiguousCredential, message));
    }
    let identity = service.tickets.identify(&text, Some(auth))?;
    of_ticket(request, identity, false).map(Some)
}

async fn by_header_or_cookie(
    request: &ServiceRequest,
    service: &Service,
    auth: &Authenticator,
) -> Result<Identity, ApiError> {
    let headers = request.headers();
    if !has_credential(headers)
        && let Some(text) = presented::cookie(headers)?
    {
        let identity = service.tickets.identify(&text, Some(auth))?;
        return of_ticket(request, identity, true);
    }
    auth.identify(headers).await
}

/// Checks that a ticket came where it belongs, and is for this request.
fn of_ticket(
    request: &ServiceRequest,
    identity: Identity,
    in_cookie: bool,
) -> Result<Identity, ApiError> {
    if identity.is_by_cookie() != in_cookie {
        return Err(presented::wrong_place());
    }
    if let Some(ticket) = identity.ticket() {
        let headers = request.headers();
        check_route(
            ticket,
            Asked {
                method: request.method(),
                path: request.match_info().as_str(),
                upgrades: headers.contains_key(header::UPGRADE),
                resumes: headers
                    .get("last-event-id")
                    .is_some_and(|id| !id.is_empty()),
            },
        )?;
    }
    Ok(identity)
}

/// Marks the listener for operations, which only operators reach.
#[derive(Clone, Copy, Debug)]
pub struct Operations;

/// Returns who sent a request; `None` if it needs no credential. The path is the one that is routed.
///
/// # Errors
/// The credential is missing, wrong, or not enough.
pub(super) async fn identify(
    request: &ServiceRequest,
    service: &Service,
    host: Option<&ClientHost>,
) -> Result<Option<Identity>, ApiError> {
    let path = request.match_info().as_str();
    if path == "/v1" || path.starts_with("/v1/") {
        return client(request, service).await;
    }
    if path == "/admin" || path.starts_with("/admin/") {
        return operator(request, service, host).await;
    }
    let Some(auth) = &service.auth else {
        return Ok(None);
    };
    if !matches!(path, "/metrics" | "/readyz") {
        return Ok(None);
    }
    if is_near(request, host) {
        return Ok(None);
    }
    let identity = auth.identify(request.headers()).await;
    if path == "/readyz" {
        // Health checks send none, or whatever they are configured with.
        let identity = identity.ok().filter(Identity::is_operator);
        if identity.is_none() {
            request.extensions_mut().insert(StatusOnly);
        }
        return Ok(identity);
    }
    let identity = identity?;
    if identity.is_operator() {
        return Ok(Some(identity));
    }
    let message =
        "Metrics need a key with the role 'operator', or the listener of server.operations.";
    Err(ApiError::new(ErrorCode::RoleRequired, message))
}

/// Returns the operator who sent a request: by a key in a header, never by a ticket or a cookie.
/// Without `auth` a client on this machine, or of the listener for operations, counts as one.
async fn operator(
    request: &ServiceRequest,
    service: &Service,
    host: Option<&ClientHost>,
) -> Result<Option<Identity>, ApiError> {
    let message = match &service.auth {
        Some(auth) => {
            let identity = auth.identify(request.headers()).await?;
            if identity.is_operator() {
                return Ok(Some(identity));
            }
            "This needs a key with the role 'operator'."
        }
        None if is_near(request, host) => return Ok(None),
        None => {
            "Without auth.keys this is for clients on the gateway's own machine and for the listener of server.operations."
        }
    };
    Err(ApiError::new(ErrorCode::RoleRequired, message))
}

/// Whether a request comes from this machine, or over the listener for operations.
fn is_near(request: &ServiceRequest, host: Option<&ClientHost>) -> bool {
    request.app_data::<Operations>().is_some()
        || host.is_some_and(|host| host.is_local(request.head()))
}
