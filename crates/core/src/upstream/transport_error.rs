//! Errors below HTTP: no connection, or one that broke before the head.

use std::io;
use std::time::Duration;

use super::http1::SendError;
use crate::model::error::{ApiError, ErrorCode};

/// Logs an error of a plain connection and converts it for the client.
pub(super) fn of_send(upstream: &str, error: &SendError) -> ApiError {
    if let SendError::Connect(error) = error
        && is_out_of_descriptors(error)
    {
        return out_of_descriptors(upstream);
    }
    tracing::warn!(%upstream, cause = %error, "request to the upstream failed");
    match error {
        SendError::ConnectTimeout => connect_timeout(),
        SendError::Connect(_) => unreachable(),
        SendError::Disconnected(_) => disconnected(),
    }
}

/// Logs an error of reqwest and converts it for the client.
pub(super) fn of_reqwest(upstream: &str, error: &reqwest::Error) -> ApiError {
    if error.is_connect() && io_cause(error).is_some_and(is_out_of_descriptors) {
        return out_of_descriptors(upstream);
    }
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

/// `ENFILE` and `EMFILE`, the limits of the system and of the process, on every Unix.
const LIMITS: [i32; 2] = [23, 24];

/// Returns whether a connection failed because no file descriptor is left.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    let is_limit = |error: &io::Error| error.raw_os_error().is_some_and(|os| LIMITS.contains(&os));
    // A failed name lookup does not say why it failed, so a file is opened for comparison.
    is_limit(error)
        || error.raw_os_error().is_none()
            && std::fs::File::open("/dev/null").is_err_and(|error| is_limit(&error))
}

fn out_of_descriptors(upstream: &str) -> ApiError {
    tracing::warn!(
        %upstream,
        "no file descriptor is left for a connection; raise the limit of open files (`ulimit -n`)"
    );
    ApiError::new(
        ErrorCode::OutOfDescriptors,
        "The gateway has no file descriptor left for a connection to the upstream.",
    )
    .retry_after(Duration::from_secs(1))
}

/// Returns the I/O error that caused an error of reqwest.
fn io_cause(error: &reqwest::Error) -> Option<&io::Error> {
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |error| error.source())
        .find_map(|error| error.downcast_ref::<io::Error>())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_descriptors_are_told_from_an_unreachable_upstream() {
        for (error, code) in [
            (
                io::Error::from_raw_os_error(24),
                ErrorCode::OutOfDescriptors,
            ),
            (
                io::Error::from_raw_os_error(23),
                ErrorCode::OutOfDescriptors,
            ),
            (
                io::Error::from(io::ErrorKind::ConnectionRefused),
                ErrorCode::UpstreamUnreachable,
            ),
            (
                io::Error::other("failed to lookup address information"),
                ErrorCode::UpstreamUnreachable,
            ),
        ] {
            let shown = error.to_string();
            let error = of_send("x", &SendError::Connect(error));
            assert!(error.is(code), "{shown}: {error:?}");
        }
    }
}
