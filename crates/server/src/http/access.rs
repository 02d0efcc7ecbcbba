//! Which requests need a credential.
//!
//! Every path under `/v1` does. `/metrics` is for operators, for this machine, and for the listener
//! of operations. What is open is the same for everyone: the page, its modules, the documentation,
//! and health checks, which show the status only.

use actix_web::HttpMessage as _;
use actix_web::dev::ServiceRequest;
use tokenwire_core::model::error::{ApiError, ErrorCode};

use super::health::StatusOnly;
use crate::auth::{Authenticator, Identity};
use crate::host_policy::ClientHost;

/// Marks the listener for operations, which only operators reach.
#[derive(Clone, Copy, Debug)]
pub struct Operations;

/// Returns who sent a request; `None` if it needs no credential. The path is the one that is routed.
///
/// # Errors
/// The credential is missing, wrong, or not enough.
pub(super) fn identify(
    request: &ServiceRequest,
    auth: &Authenticator,
    host: Option<&ClientHost>,
) -> Result<Option<Identity>, ApiError> {
    let path = request.match_info().as_str();
    if path == "/v1" || path.starts_with("/v1/") {
        return auth.identify(request.headers()).map(Some);
    }
    if !matches!(path, "/metrics" | "/readyz") {
        return Ok(None);
    }
    let is_near = request.app_data::<Operations>().is_some()
        || host.is_some_and(|host| host.is_local(request.head()));
    if is_near {
        return Ok(None);
    }
    let identity = auth.identify(request.headers());
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
