//! Errors as clients see them: all error codes, the party at fault and whether a retry helps.
//!
//! [`ErrorCode`] is API: clients branch on it, so a code is never renamed. [`ApiError`] is the
//! error of a response, in OpenAI's shape (`{"error":{"message","type","param","code"}}`). Internal
//! causes (socket errors, URLs, keys) never enter it. They are logged through `tracing` where they
//! occur.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::model::event::Failure;

/// The party that caused an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request is wrong. The same request fails again.
    Client,
    /// The model server failed, was unreachable or sent invalid data.
    Upstream,
    /// The gateway itself failed or is out of capacity.
    Gateway,
}

macro_rules! codes {
    ($( $(#[$doc:meta])* $variant:ident = $code:literal, $status:literal, $fault:ident, $retryable:literal, $remedy:literal; )*) => {
        /// Error codes of the gateway, with their HTTP status.
        ///
        /// An upstream's own codes pass through unchanged and are not listed here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode { $( $(#[$doc])* $variant, )* }

        impl ErrorCode {
            /// All codes, in the order of the documentation.
            pub const ALL: &'static [ErrorCode] = &[ $( ErrorCode::$variant, )* ];

            /// Returns the code as clients see it.
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $( ErrorCode::$variant => $code, )* } }

            /// Returns the HTTP status, used while no response head was sent.
            #[must_use]
            pub const fn status(self) -> u16 { match self { $( ErrorCode::$variant => $status, )* } }

            /// Returns the party at fault.
            #[must_use]
            pub const fn fault(self) -> Fault { match self { $( ErrorCode::$variant => Fault::$fault, )* } }

            /// Returns true if the same request may succeed when it is sent again.
            #[must_use]
            pub const fn retryable(self) -> bool { match self { $( ErrorCode::$variant => $retryable, )* } }

            /// Returns the remedy, one sentence.
            #[must_use]
            pub const fn remedy(self) -> &'static str { match self { $( ErrorCode::$variant => $remedy, )* } }
        }
    };
}

codes! {
    /// The body is not JSON.
    InvalidJson = "invalid_json", 400, Client, false, "Send a JSON object; the message names the position of the mistake.";
    /// A required parameter is missing.
    MissingParameter = "missing_required_parameter", 400, Client, false, "Add the parameter named in `param`.";
    /// A parameter has the wrong type.
    InvalidType = "invalid_type", 400, Client, false, "Give the parameter named in `param` the type that the message asks for.";
    /// A parameter has an invalid value.
    InvalidValue = "invalid_value", 400, Client, false, "Give the parameter named in `param` one of the values that the message lists.";
    /// A parameter is known but not supported by this upstream. It is never dropped silently.
    UnsupportedParameter = "unsupported_parameter", 400, Client, false, "Leave the parameter named in `param` out, or use an upstream that speaks the API that it belongs to.";
    /// A cursor (`Last-Event-ID`, `after`, `starting_after`) is malformed, of another stream, or
    /// past the head.
    InvalidCursor = "invalid_cursor", 400, Client, false, "Resume with the number of the last event that was received on this very stream.";
    /// A WebSocket offers a ticket without the subprotocol beside it.
    SubprotocolMissing = "subprotocol_missing", 400, Client, false, "Offer `tokenwire.v1` beside the ticket: `new WebSocket(url, [\"tokenwire.v1\", \"tokenwire-ticket.…\"])`.";
    /// The HTTP upgrade is malformed.
    InvalidUpgrade = "invalid_upgrade", 400, Client, false, "Open the WebSocket as RFC 6455 says: GET, `Connection: Upgrade`, `Upgrade: websocket`, version 13 and a 16-byte key.";
    /// A `stream_id` is not 1 to 256 of `[A-Za-z0-9_.-]`.
    InvalidStreamId = "invalid_stream_id", 400, Client, false, "Name a lane with 1 to 256 characters out of A-Z, a-z, 0-9, `_`, `.` and `-`.";
    /// A WebSocket message of a type that is not known.
    UnknownMessageType = "unknown_message_type", 400, Client, false, "Send one of the message types that the error lists.";
    /// The credential is missing or wrong.
    InvalidApiKey = "invalid_api_key", 401, Client, false, "Send `Authorization: Bearer <key>` with a key that is valid.";
    /// The ticket is malformed, changed, expired or used, or its issuer is no longer valid.
    InvalidTicket = "invalid_ticket", 401, Client, false, "Get a new ticket with POST /v1/tickets.";
    /// The request carries two different credentials.
    AmbiguousCredential = "ambiguous_credential", 400, Client, false, "Send one credential, in one header.";
    /// The credential does not have the role that the request needs.
    RoleRequired = "role_required", 403, Client, false, "Use a key with the role that the message names.";
    /// The ticket is valid, but not for this request.
    TicketNotAllowed = "ticket_not_allowed", 403, Client, false, "Get a ticket for what the message names, or send a key.";
    /// The credential may not use the model, or no upstream that serves it.
    ModelNotAllowed = "model_not_allowed", 403, Client, false, "Use one of the models that /v1/models lists for this key, or ask the operator for access.";
    /// A page of a foreign origin sent the request.
    OriginForbidden = "origin_forbidden", 403, Client, false, "Add the page's origin to `server.allowed_origins`.";
    /// The request's host is not one that the gateway serves.
    HostNotAllowed = "host_not_allowed", 403, Client, false, "Add the name to `server.allowed_hosts` if the gateway is reached by it.";
    /// The object does not exist, or belongs to another owner.
    NotFound = "not_found", 404, Client, false, "Check the id; finished answers are kept for `streams.retain_responses`.";
    /// A path that the gateway does not serve.
    UnknownUrl = "unknown_url", 404, Client, false, "See the list of paths in the README or at /openapi.json.";
    /// The previous response does not exist, or belongs to another owner.
    PreviousResponseNotFound = "previous_response_not_found", 404, Client, false, "Send the whole conversation in `input`, or name a response that was stored and is still kept.";
    /// The previous response has not ended, or ended without an answer.
    PreviousResponseUnusable = "previous_response_unusable", 400, Client, false, "Wait until the previous response has completed, or send the whole conversation in `input`.";
    /// The path is served, with other methods.
    MethodNotAllowed = "method_not_allowed", 405, Client, false, "Use one of the methods in the `Allow` header.";
    /// The log has expired; only the response object is left.
    PositionGone = "position_gone", 410, Client, false, "Fetch the whole object with GET /v1/responses/{id}.";
    /// The node that wrote the answer is lost, and so is the answer.
    ProducerLost = "producer_lost", 410, Gateway, true, "Send the request again under a new key; the upstream may have been asked already.";
    /// The request's body did not arrive in time.
    RequestTimeout = "request_timeout", 408, Client, true, "Send the body without long pauses; the settings are `server.body_timeout` and `server.min_body_rate`.";
    /// The body is larger than `limits.body`.
    BodyTooLarge = "body_too_large", 413, Client, false, "Send less, or raise `limits.body`.";
    /// The route does not accept the body's content type.
    UnsupportedMediaType = "unsupported_media_type", 415, Client, false, "Send `Content-Type: application/json`.";
    /// The same idempotency key was used with another body.
    IdempotencyMismatch = "idempotency_mismatch", 422, Client, false, "Use a new key for a new request.";
    /// The gateway's limit of open generations is reached.
    Overloaded = "overloaded", 503, Gateway, true, "Try again after `Retry-After`.";
    /// The client's address has reached its limit of connections.
    TooManyConnections = "too_many_connections", 429, Client, true, "Close connections; the setting is `server.max_connections_per_address`.";
    /// No file descriptor is left for a connection to the upstream.
    OutOfDescriptors = "out_of_descriptors", 503, Gateway, true, "Try again after `Retry-After`. The operator has to raise the limit of open files (`ulimit -n`).";
    /// The configuration that a reload has read cannot be used.
    ReloadFailed = "reload_failed", 422, Client, false, "Correct what the message names; the earlier configuration stays in force until then.";
    /// The key or its owner has reached a limit of requests, tokens or streams.
    RateLimitExceeded = "rate_limit_exceeded", 429, Client, true, "Try again after `Retry-After`; the limits are `limits.per_key`, `limits.per_owner` and those of the key.";
    /// The request needs more than a limit of the key or its owner ever allows.
    RequestTooLargeForLimit = "request_too_large_for_limit", 400, Client, false, "Shorten the request, or lower `max_output_tokens`; what is reserved without it is `limits.reserve_output`.";
    /// The budget of the key or its owner is spent.
    BudgetExceeded = "budget_exceeded", 402, Client, false, "Wait for the next day or month (UTC), or ask the operator for a higher budget.";
    /// A WebSocket has reached its limit of lanes or queued creates.
    WebsocketStreamLimitReached = "websocket_stream_limit_reached", 429, Client, true, "Wait for one of this socket's responses to end, or open another socket.";
    /// The upstream's concurrency limit and its queue are full.
    UpstreamBusy = "upstream_busy", 429, Gateway, true, "Try again after `Retry-After`; the bounds are `upstreams[].limits`.";
    /// The gateway is shutting down.
    ShuttingDown = "shutting_down", 503, Gateway, true, "Try again; another instance or the restarted one will answer.";
    /// The node that writes the answer is alive but cannot be reached.
    OwnerUnreachable = "owner_unreachable", 503, Gateway, true, "Try again after `Retry-After`; the answer goes on.";
    /// The store does not answer, and the request needs it.
    StoreUnavailable = "store_unavailable", 503, Gateway, true, "Try again after `Retry-After`; the operator has to look after the store.";
    /// A bug in the gateway.
    InternalError = "internal_error", 500, Gateway, true, "Try again; report it with the `X-Request-Id` if it comes back.";
    /// The connection to the upstream failed.
    UpstreamUnreachable = "upstream_unreachable", 502, Upstream, true, "Check that the model server runs and that its `base_url` is right.";
    /// The upstream refused the gateway's own key.
    UpstreamAuth = "upstream_auth", 502, Gateway, false, "The operator has to correct the upstream's `api_key`.";
    /// The upstream closed the connection before the end of the answer.
    UpstreamTruncated = "upstream_truncated", 502, Upstream, true, "Try again; the response keeps the text received so far.";
    /// The upstream closed the connection before it answered.
    UpstreamDisconnected = "upstream_disconnected", 502, Upstream, true, "Try again.";
    /// The upstream sent bytes that are not UTF-8.
    UpstreamInvalidUtf8 = "upstream_invalid_utf8", 502, Upstream, true, "Try again; report it to the operator of the model server.";
    /// The upstream sent an event that is not JSON, or not a chunk.
    UpstreamMalformed = "upstream_malformed", 502, Upstream, true, "Try again; report it to the operator of the model server.";
    /// An event or body of the upstream exceeds the gateway's limit.
    UpstreamEventTooLarge = "upstream_event_too_large", 502, Upstream, false, "Request a shorter answer.";
    /// The upstream reported an error within its stream.
    UpstreamError = "upstream_error", 502, Upstream, true, "See the message, which is the upstream's own.";
    /// The upstream did not accept the connection in time.
    ConnectTimeout = "connect_timeout", 504, Upstream, true, "Try again; the setting is `timeouts.connect`.";
    /// The first token did not arrive in time.
    FirstTokenTimeout = "first_token_timeout", 504, Upstream, true, "Try again; the setting is `timeouts.first_token`.";
    /// The next token did not arrive in time.
    BetweenTokensTimeout = "between_tokens_timeout", 504, Upstream, true, "Try again; the setting is `timeouts.between_tokens`.";
    /// The answer took too long in total.
    TotalTimeout = "total_timeout", 504, Upstream, true, "Request a shorter answer, or raise `timeouts.total`.";
    /// The answer exceeds the size limit of a stream.
    StreamTooLarge = "stream_too_large", 500, Gateway, false, "Request a shorter answer, or raise `streams.max_stream_bytes`.";
    /// The answer was shared with an identical request, which was cancelled or deleted.
    SharedAnswerLost = "shared_answer_lost", 503, Gateway, true, "Try again; the upstream is then asked again. `reuse.coalesce` shares answers between identical requests.";
    /// The generation was cancelled.
    Cancelled = "cancelled", 499, Client, true, "Start it again if it is still needed.";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error as clients see it: OpenAI's error object, its HTTP status and retry advice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The HTTP status, used while no response head was sent.
    pub status: u16,
    /// OpenAI's error type, such as `invalid_request_error`.
    pub kind: Cow<'static, str>,
    /// An [`ErrorCode`], or the upstream's own code.
    pub code: Option<Cow<'static, str>>,
    /// The parameter at fault, as a path such as `input[0].content`.
    pub param: Option<String>,
    /// Human-readable message, without secrets and message content.
    pub message: String,
    /// Whether the same request may succeed when sent again.
    pub retryable: bool,
    /// Time to wait before a retry, if known.
    pub retry_after: Option<Duration>,
}

impl ApiError {
    /// Creates an error with the status and type of its code.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let kind = match (code.fault(), code.status()) {
            (_, 401) => "authentication_error",
            (_, 403) => "permission_error",
            (_, 429) => "rate_limit_error",
            (Fault::Client, _) => "invalid_request_error",
            (Fault::Upstream, _) => "upstream_error",
            (Fault::Gateway, _) => "server_error",
        };
        Self {
            status: code.status(),
            kind: Cow::Borrowed(kind),
            code: Some(Cow::Borrowed(code.as_str())),
            param: None,
            message: message.into(),
            retryable: code.retryable(),
            retry_after: None,
        }
    }

    /// Sets the parameter at fault.
    #[must_use]
    pub fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Sets the time to wait before a retry.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Returns true if the error has this code.
    #[must_use]
    pub fn is(&self, code: ErrorCode) -> bool {
        self.code.as_deref() == Some(code.as_str())
    }

    /// Returns the inner object: `{"message","type","param","code"}`.
    #[must_use]
    pub fn object(&self) -> ErrorObject<'_> {
        ErrorObject {
            message: &self.message,
            kind: &self.kind,
            param: self.param.as_deref(),
            code: self.code.as_deref(),
        }
    }

    /// Returns the body of an HTTP response: `{"error":{…}}`.
    #[must_use]
    pub fn body(&self) -> String {
        #[derive(Serialize)]
        struct Body<'a> {
            error: ErrorObject<'a>,
        }
        // Serializing a struct of strings cannot fail.
        serde_json::to_string(&Body {
            error: self.object(),
        })
        .unwrap_or_default()
    }
}

impl From<&Failure> for ApiError {
    /// Returns the error with the failure's code. The status is that of the [`ErrorCode`] with the
    /// same name, else 502.
    fn from(failure: &Failure) -> Self {
        let code = ErrorCode::ALL
            .iter()
            // An answer never fails by the gateway's own limits: the code is an upstream's.
            .filter(|code| **code != ErrorCode::RateLimitExceeded)
            .find(|code| code.as_str() == failure.code)
            .unwrap_or(&ErrorCode::UpstreamError);
        Self {
            status: code.status(),
            kind: failure.kind.clone().into(),
            code: Some(failure.code.clone().into()),
            param: None,
            message: failure.message.clone(),
            retryable: failure.retryable,
            retry_after: None,
        }
    }
}

impl From<&ApiError> for Failure {
    fn from(error: &ApiError) -> Self {
        Self {
            code: error.code.as_deref().unwrap_or("upstream_error").to_owned(),
            kind: error.kind.to_string(),
            message: error.message.clone(),
            retryable: error.retryable,
        }
    }
}

/// OpenAI's error object, borrowed from an [`ApiError`].
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ErrorObject<'a> {
    /// Human-readable message.
    pub message: &'a str,
    /// The error type.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// The parameter at fault.
    pub param: Option<&'a str>,
    /// The machine-readable code.
    pub code: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn error_codes_are_unique_and_have_a_remedy() {
        let mut seen = HashSet::new();
        for code in ErrorCode::ALL {
            assert!(seen.insert(code.as_str()), "{code} is listed twice");
            assert!((400..600).contains(&code.status()), "{code}");
            assert!(code.remedy().ends_with('.'), "{code}");
        }
    }

    #[test]
    fn error_body_has_openai_shape() {
        let error = ApiError::new(
            ErrorCode::MissingParameter,
            "Missing required parameter: 'input'.",
        )
        .param("input");
        assert_eq!(
            error.body(),
            r#"{"error":{"message":"Missing required parameter: 'input'.","type":"invalid_request_error","param":"input","code":"missing_required_parameter"}}"#
        );
    }
}
