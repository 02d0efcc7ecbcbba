//! What can go wrong, in one place: every error code of the wire, who is at fault and whether a
//! retry helps.
//!
//! [`ErrorCode`] is API: a client may branch on it, so a code is never renamed. [`ApiError`] is
//! what a client sees, in OpenAI's shape (`{"error":{"message","type","param","code"}}`). Internal
//! causes (socket errors, URLs, keys) never enter it; they go to the log through `tracing` where
//! they occur.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// The party whose doing the error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request was wrong; sending it again unchanged fails again.
    Client,
    /// The model server failed, was unreachable or spoke nonsense.
    Upstream,
    /// The gateway itself failed or is out of capacity.
    Gateway,
}

macro_rules! codes {
    ($( $(#[$doc:meta])* $variant:ident = $code:literal, $status:literal, $fault:ident, $retryable:literal, $remedy:literal; )*) => {
        /// Every error code that the gateway itself gives, with its HTTP status.
        ///
        /// An upstream's own codes pass through as they are and are not listed here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode { $( $(#[$doc])* $variant, )* }

        impl ErrorCode {
            /// All codes, in the order of the documentation.
            pub const ALL: &'static [ErrorCode] = &[ $( ErrorCode::$variant, )* ];

            /// The string on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $( ErrorCode::$variant => $code, )* } }

            /// The HTTP status that goes with it where a head can still be sent.
            #[must_use]
            pub const fn status(self) -> u16 { match self { $( ErrorCode::$variant => $status, )* } }

            /// Who is at fault.
            #[must_use]
            pub const fn fault(self) -> Fault { match self { $( ErrorCode::$variant => Fault::$fault, )* } }

            /// Whether the same request may succeed when sent again.
            #[must_use]
            pub const fn retryable(self) -> bool { match self { $( ErrorCode::$variant => $retryable, )* } }

            /// What the reader of the error can do about it, one sentence.
            #[must_use]
            pub const fn remedy(self) -> &'static str { match self { $( ErrorCode::$variant => $remedy, )* } }
        }
    };
}

codes! {
    /// The body is not JSON.
    InvalidJson = "invalid_json", 400, Client, false, "Send a JSON object; the message names the position of the mistake.";
    /// A parameter that must be there is not.
    MissingParameter = "missing_required_parameter", 400, Client, false, "Add the parameter named in `param`.";
    /// A parameter has the wrong type.
    InvalidType = "invalid_type", 400, Client, false, "Give the parameter named in `param` the type that the message asks for.";
    /// A parameter has a value that is not allowed.
    InvalidValue = "invalid_value", 400, Client, false, "Give the parameter named in `param` one of the values that the message lists.";
    /// A parameter is understood but cannot be honoured here; it is never dropped in silence.
    UnsupportedParameter = "unsupported_parameter", 400, Client, false, "Leave the parameter named in `param` out, or use an upstream that speaks the API that it belongs to.";
    /// A cursor (`Last-Event-ID`, `after`, `starting_after`) is malformed, of another stream, or
    /// past the head.
    InvalidCursor = "invalid_cursor", 400, Client, false, "Resume with the number of the last event that was received on this very stream.";
    /// The HTTP upgrade is malformed.
    InvalidUpgrade = "invalid_upgrade", 400, Client, false, "Open the WebSocket as RFC 6455 says: GET, `Connection: Upgrade`, `Upgrade: websocket`, version 13 and a 16-byte key.";
    /// A `stream_id` is not 1 to 256 of `[A-Za-z0-9_.-]`.
    InvalidStreamId = "invalid_stream_id", 400, Client, false, "Name a lane with 1 to 256 characters out of A-Z, a-z, 0-9, `_`, `.` and `-`.";
    /// A WebSocket message of a type that is not known.
    UnknownMessageType = "unknown_message_type", 400, Client, false, "Send one of the message types that the error lists.";
    /// No usable credential.
    InvalidApiKey = "invalid_api_key", 401, Client, false, "Send `Authorization: Bearer <key>`, or a fresh ticket where headers cannot be set.";
    /// A page of a foreign origin asked to spend the key.
    OriginForbidden = "origin_forbidden", 403, Client, false, "Add the page's origin to `server.allowed_origins`.";
    /// The request's host is not one that the gateway serves.
    HostNotAllowed = "host_not_allowed", 403, Client, false, "Add the name to `server.allowed_hosts` if the gateway is reached by it.";
    /// Nothing is known of the thing, or it is somebody else's.
    NotFound = "not_found", 404, Client, false, "Check the id; finished answers are kept for `streams.retain_responses`.";
    /// A path that the gateway does not serve.
    UnknownUrl = "unknown_url", 404, Client, false, "See the list of paths in the README or at /openapi.json.";
    /// A predecessor that is not known, or is somebody else's.
    PreviousResponseNotFound = "previous_response_not_found", 404, Client, false, "Send the whole conversation in `input`, or name a response that was stored and is still kept.";
    /// The predecessor has not ended, or ended without an answer to build on.
    PreviousResponseUnusable = "previous_response_unusable", 400, Client, false, "Wait until the predecessor has completed, or send the whole conversation in `input`.";
    /// The path is served, but not with this method.
    MethodNotAllowed = "method_not_allowed", 405, Client, false, "Use one of the methods in the `Allow` header.";
    /// The log is gone; only the response object is left.
    PositionGone = "position_gone", 410, Client, false, "Fetch the whole object with GET /v1/responses/{id}.";
    /// The body is larger than `limits.body`.
    BodyTooLarge = "body_too_large", 413, Client, false, "Send less, or raise `limits.body`.";
    /// The body is of a type that the route does not take.
    UnsupportedMediaType = "unsupported_media_type", 415, Client, false, "Send `Content-Type: application/json`.";
    /// The same idempotency key came with another body.
    IdempotencyMismatch = "idempotency_mismatch", 422, Client, false, "Use a new key for a new request.";
    /// The gateway's bound on open generations is reached.
    Overloaded = "overloaded", 503, Gateway, true, "Try again after `Retry-After`.";
    /// A socket has as many lanes or waiting creates as it may have.
    WebsocketStreamLimitReached = "websocket_stream_limit_reached", 429, Client, true, "Wait for one of this socket's responses to end, or open another socket.";
    /// The upstream has as many requests as it may have, and as many wait for it as may.
    UpstreamBusy = "upstream_busy", 429, Gateway, true, "Try again after `Retry-After`; the bounds are `upstreams[].limits`.";
    /// The gateway is shutting down.
    ShuttingDown = "shutting_down", 503, Gateway, true, "Try again; another instance or the restarted one will answer.";
    /// A bug of the gateway's.
    InternalError = "internal_error", 500, Gateway, true, "Try again; report it with the `X-Request-Id` if it comes back.";
    /// The upstream could not be connected to.
    UpstreamUnreachable = "upstream_unreachable", 502, Upstream, true, "Check that the model server runs and that its `base_url` is right.";
    /// The upstream refused the gateway's own key.
    UpstreamAuth = "upstream_auth", 502, Gateway, false, "The operator has to mend the upstream's `api_key`.";
    /// The upstream closed the connection in the middle of the answer.
    UpstreamTruncated = "upstream_truncated", 502, Upstream, true, "Try again; what came before the cut is kept in the response.";
    /// The upstream broke the connection before it answered.
    UpstreamDisconnected = "upstream_disconnected", 502, Upstream, true, "Try again.";
    /// The upstream sent bytes that are not UTF-8.
    UpstreamInvalidUtf8 = "upstream_invalid_utf8", 502, Upstream, true, "Try again; report it to whoever runs the model server.";
    /// The upstream sent an event that is not JSON, or not a chunk.
    UpstreamMalformed = "upstream_malformed", 502, Upstream, true, "Try again; report it to whoever runs the model server.";
    /// One event or body of the upstream's is larger than the gateway takes.
    UpstreamEventTooLarge = "upstream_event_too_large", 502, Upstream, false, "Ask for less in one piece.";
    /// The upstream reported an error in the middle of its stream.
    UpstreamError = "upstream_error", 502, Upstream, true, "See the message; it is the upstream's own.";
    /// The upstream did not accept the connection in time.
    ConnectTimeout = "connect_timeout", 504, Upstream, true, "Try again; the clock is `timeouts.connect`.";
    /// The first token did not come in time.
    FirstTokenTimeout = "first_token_timeout", 504, Upstream, true, "Try again; the clock is `timeouts.first_token`.";
    /// The next token did not come in time.
    BetweenTokensTimeout = "between_tokens_timeout", 504, Upstream, true, "Try again; the clock is `timeouts.between_tokens`.";
    /// The whole answer took too long.
    TotalTimeout = "total_timeout", 504, Upstream, true, "Ask for less, or raise `timeouts.total`.";
    /// The answer outgrew the bound on one stream.
    StreamTooLarge = "stream_too_large", 500, Gateway, false, "Ask for less, or raise `streams.max_stream_bytes`.";
    /// The answer was made of another request's, and that was stopped or removed in the middle.
    SharedAnswerLost = "shared_answer_lost", 503, Gateway, true, "Try again; it is then asked for anew. `reuse.coalesce` shares answers between identical requests.";
    /// Somebody with the right to do so stopped it.
    Cancelled = "cancelled", 499, Client, true, "Start it again if it is still wanted.";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error as the client sees it: OpenAI's shape, with the status and the advice that go around
/// it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The HTTP status where a head can still be sent.
    pub status: u16,
    /// OpenAI's coarse class, such as `invalid_request_error`.
    pub kind: Cow<'static, str>,
    /// The code, ours ([`ErrorCode`]) or the upstream's own.
    pub code: Option<Cow<'static, str>>,
    /// The parameter that is at fault, as a path such as `input[0].content`.
    pub param: Option<String>,
    /// For people; without secrets and without the contents of messages.
    pub message: String,
    /// Whether the same request may succeed when sent again.
    pub retryable: bool,
    /// When to come back, if that is known.
    pub retry_after: Option<Duration>,
}

impl ApiError {
    /// An error of ours, with the status and class that belong to its code.
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

    /// The same error, blamed on one parameter.
    #[must_use]
    pub fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// The same error, with the time after which to come back.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Whether this error carries `code`.
    #[must_use]
    pub fn is(&self, code: ErrorCode) -> bool {
        self.code.as_deref() == Some(code.as_str())
    }

    /// The inner object: `{"message","type","param","code"}`.
    #[must_use]
    pub fn object(&self) -> ErrorObject<'_> {
        ErrorObject {
            message: &self.message,
            kind: &self.kind,
            param: self.param.as_deref(),
            code: self.code.as_deref(),
        }
    }

    /// The body of an HTTP answer: `{"error":{…}}`.
    #[must_use]
    pub fn body(&self) -> String {
        #[derive(Serialize)]
        struct Body<'a> {
            error: ErrorObject<'a>,
        }
        // A struct of strings always serialises.
        serde_json::to_string(&Body {
            error: self.object(),
        })
        .unwrap_or_default()
    }
}

/// OpenAI's error object, borrowed from an [`ApiError`].
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ErrorObject<'a> {
    /// For people.
    pub message: &'a str,
    /// The coarse class.
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
    fn codes_are_unique_and_carry_a_remedy() {
        let mut seen = HashSet::new();
        for code in ErrorCode::ALL {
            assert!(seen.insert(code.as_str()), "{code} stands twice");
            assert!((400..600).contains(&code.status()), "{code}");
            assert!(code.remedy().ends_with('.'), "{code}");
        }
    }

    #[test]
    fn the_body_has_openais_shape() {
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
