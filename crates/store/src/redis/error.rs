//! Why a request to Redis failed, and which side has to change for it to succeed.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use ::redis::{ErrorKind, ServerErrorKind};
use tokenwire_core::log::StoreError;

/// Why Redis did not do what it was asked to. The messages hold no key, value, address or password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisError {
    /// The configured address is not one of Redis. Fault of the configuration.
    #[error(
        "the address is no Redis URL; it looks like redis://user:password@host:6379/0, redis+cluster://host:6379,host:6379 or redis+sentinel://host:26379/name, or rediss for TLS"
    )]
    Address,
    /// The address asks for what there is not. Fault of the configuration.
    #[error("{0}")]
    Unsupported(&'static str),
    /// Redis refused the user or the password. Fault of the configuration.
    #[error("Redis refused the user or the password of its URL")]
    Credentials,
    /// The user may not run a command or use a key. Fault of the rights that it has in Redis.
    #[error("the Redis user lacks a right: {0}")]
    Forbidden(String),
    /// The server is older than what is needed. Fault of the server.
    #[error("Redis has version {found}, but 6.2 or newer is needed")]
    TooOld {
        /// Its version.
        found: String,
    },
    /// There is no TLS with it. Fault of the configuration or of its certificate.
    #[error("TLS with Redis failed: {0}")]
    Tls(&'static str),
    /// No connection: nothing listens, or it was cut. Fault of the network or the server.
    #[error("Redis cannot be reached: {0}")]
    Unreachable(String),
    /// No answer in time. The request may have been carried out.
    #[error("Redis has not answered for {} ms", .0.as_millis())]
    Timeout(Duration),
    /// Redis has reached its `maxmemory`. Nothing of the command was carried out.
    #[error("Redis is full: it has reached its maxmemory")]
    Full,
    /// Redis answers but cannot do this now: it loads, fails over, or is a replica.
    #[error("Redis is not ready: {0}")]
    NotReady(String),
    /// Redis does not understand the request. Fault of this program, or of what answers at the
    /// address.
    #[error("Redis rejected a request: {0}")]
    Rejected(String),
    /// The client's thread has ended.
    #[error("the Redis client is closed")]
    Closed,
}

// === impl RedisError ===

impl RedisError {
    /// Returns true if the same request may succeed later without a change of the configuration.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_) | Self::Timeout(_) | Self::Full | Self::NotReady(_)
        )
    }

    /// Returns true if the connection is of no use any more. A server that became a replica keeps
    /// its connections, but its successor is elsewhere.
    pub(super) fn ends_connection(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_)
                | Self::Timeout(_)
                | Self::NotReady(_)
                | Self::Credentials
                | Self::Tls(_)
        )
    }
}

impl From<::redis::RedisError> for RedisError {
    fn from(error: ::redis::RedisError) -> Self {
        // The error of a pipeline is that of its first command that failed.
        let first = error.clone().into_server_errors();
        let first = first.and_then(|errors| errors.first().map(|(_, error)| error.clone()));
        let error = first.map_or(error, ::redis::RedisError::from);
        let detail = || match (error.code(), error.detail()) {
            (Some(code), Some(detail)) => format!("{code} {detail}"),
            (Some(code), None) => code.to_owned(),
            (None, _) => error.category().to_owned(),
        };
        match (error.kind(), error.code()) {
            (ErrorKind::AuthenticationFailed, _) | (_, Some("WRONGPASS" | "NOAUTH")) => {
                Self::Credentials
            }
            (ErrorKind::Server(ServerErrorKind::NoPerm), _) => Self::Forbidden(detail()),
            (ErrorKind::InvalidClientConfig, _) => Self::Address,
            (ErrorKind::Server(ServerErrorKind::CrossSlot), _) => Self::Rejected(detail()),
            (ErrorKind::ClusterConnectionNotFound, _) => Self::NotReady(detail()),
            (
                ErrorKind::MasterNameNotFoundBySentinel | ErrorKind::NoValidReplicasFoundBySentinel,
                _,
            ) => Self::NotReady(detail()),
            (_, Some("OOM")) => Self::Full,
            (_, Some("MISCONF" | "NOREPLICAS" | "UNKILLABLE" | "BUSY")) => Self::NotReady(detail()),
            (
                ErrorKind::Server(
                    ServerErrorKind::BusyLoading
                    | ServerErrorKind::ClusterDown
                    | ServerErrorKind::MasterDown
                    | ServerErrorKind::ReadOnly
                    | ServerErrorKind::TryAgain,
                ),
                _,
            ) => Self::NotReady(detail()),
            // Without its text, which may name the address.
            (ErrorKind::Io, _) => match tls_cause(&error) {
                Some(cause) => Self::Tls(cause),
                None => Self::Unreachable(io_cause(&error)),
            },
            _ if error
                .detail()
                .is_some_and(|text| text.contains("cluster support disabled")) =>
            {
                Self::Unsupported("it is no Redis Cluster: begin its URL with redis://")
            }
            _ => Self::Rejected(detail()),
        }
    }
}

fn io_error(error: &::redis::RedisError) -> Option<&std::io::Error> {
    let source = std::error::Error::source(error)?;
    // The library gives its pointer to the error as the source.
    match source.downcast_ref::<Arc<dyn std::error::Error + Send + Sync>>() {
        Some(inner) => inner.downcast_ref(),
        None => source.downcast_ref(),
    }
}

/// Returns why TLS failed, if it did.
fn tls_cause(error: &::redis::RedisError) -> Option<&'static str> {
    let text = io_error(error)?.get_ref()?.to_string();
    let causes = [
        (
            "UnknownIssuer",
            "no authority that this system trusts has signed its certificate; SSL_CERT_FILE can name a file with others",
        ),
        (
            "not valid for name",
            "its certificate is for another host name",
        ),
        ("expired", "its certificate has expired"),
        ("invalid peer certificate", "its certificate is not valid"),
        (
            "corrupt message",
            "it does not answer in TLS, which rediss:// in the URL asks for",
        ),
    ];
    let cause = causes.iter().find(|(part, _)| text.contains(part));
    cause.map(|(_, cause)| *cause)
}

fn io_cause(error: &::redis::RedisError) -> String {
    match io_error(error) {
        Some(error) => error.kind().to_string(),
        None => "the connection failed".to_owned(),
    }
}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        Self::Unavailable(Cow::Owned(error.to_string()))
    }
}
