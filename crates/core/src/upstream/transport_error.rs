//! Errors below HTTP: no connection, or one that broke before the head.

use super::http1::SendError;
use crate::model::error::{ApiError, ErrorCode};

/// Logs an error of a plain connection and converts it for the client.
pub(super) fn of_send(upstream: &str, error: &SendError) -> ApiError {
    tracing::warn!(%upstream, cause = %error, "request to the upstream failed");
    match error {
        SendError::ConnectTimeout => connect_timeout(),
        SendError::Connect(_) => unreachable(),
        SendError::Disconnected(_) => disconnected(),
    }
}

/// Logs an error of reqwest and converts it for the client.
pub(super) fn of_reqwest(upstream: &str, error: &reqwest::Error) -> ApiError {
    // The error's own text holds the URL, which may hold a secret; its root cause does not.
    tracing::warn!(%upstream, cause = %root_cause(error), "request to the upstream failed");
    if error.is_timeout() {
        connect_timeout()
    } else if error.is_connect() {
        unreachable()
    } else {
        disconnected()
    }
}

/// The error for a body that broke off or exceeds its limit.
pub(super) fn truncated() -> ApiError {
    ApiError::new(
        ErrorCode::UpstreamTruncated,
        "The upstream's answer broke off or is too large.",
    )
}

fn connect_timeout() -> ApiError {
    ApiError::new(
        ErrorCode::ConnectTimeout,
        "The upstream did not accept the connection in time.",
    )
}

fn unreachable() -> ApiError {
    ApiError::new(
        ErrorCode::UpstreamUnreachable,
        "The upstream could not be connected to.",
    )
}

fn disconnected() -> ApiError {
    ApiError::new(
        ErrorCode::UpstreamDisconnected,
        "The upstream closed the connection before it answered.",
    )
}

fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
