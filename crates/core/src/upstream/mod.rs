//! Upstreams: the model servers that answer requests.
//!
//! ```text
//!   generation ─▶ Router ─▶ failover ─▶ hedge ─▶ ConcurrencyLimit ─▶ Endpoint ─▶ socket
//!                   │                                                  │
//!                   └──────── EndpointStats (breaker, latency) ◀───────┘
//! ```
//!
//! An [`Endpoint`] is one model server and knows of no other. The [`Router`] holds all endpoints
//! and the statistics that all workers share. It chooses one for a request. As long as nothing of
//! the answer was kept, a failed request is sent again to the same endpoint or another.

mod asked;
mod attachment;
mod attempt;
mod attempt_trace;
mod balance;
#[cfg(feature = "openai")]
mod body;
mod breaker;
mod concurrency_limit;
mod continuation;
pub mod decode;
mod endpoint;
mod endpoint_stats;
mod failover;
mod failover_stream;
mod failure;
mod hedge;
#[cfg(feature = "openai")]
mod http1;
#[cfg(feature = "openai")]
mod inflate;
mod latency;
#[cfg(feature = "openai")]
mod openai;
mod pauses;
mod prefetch;
mod reasoning;
#[cfg(feature = "openai")]
mod response_meta;
mod retry;
mod retry_after;
mod route;
mod routed;
mod router;
mod scope;
#[cfg(feature = "openai")]
mod tls;
pub mod translate;
#[cfg(feature = "openai")]
mod transport_error;

pub use asked::Asked;
pub use attachment::{AttachRequest, Attachment};
pub(crate) use attachment::{lasting_headers, may_come_back};
pub use attempt_trace::{AttemptObserver, AttemptOutcome, EndedAttempt, RequestTrace};
pub use breaker::{Breaker, BreakerPolicy, BreakerState};
pub use concurrency_limit::{ConcurrencyLimit, ConcurrencyPolicy};
pub use continuation::Continuation;
pub use endpoint::Endpoint;
pub use endpoint_stats::{Counter, Counters, EndpointStats, HealthStatus, Reservation};
pub use hedge::Hedge;
pub use latency::Latency;
#[cfg(feature = "openai")]
pub use openai::{OpenAi, OpenAiOptions};
pub use reasoning::{AnswerOrigin, CarriedReasoning};
pub use retry::{RetryBudget, RetryPolicy};
pub use retry_after::parse_retry_after;
pub use route::{ModelBinding, ModelMap, Route};
pub use router::{Router, RouterOptions};
pub use scope::Scope;
/// A client's own key, as requests carry it.
pub use secrecy::SecretString;
#[cfg(feature = "openai")]
pub use tls::UpstreamTls;

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::model::error::ApiError;
use crate::model::event::Failure;
use crate::model::snapshot::Api;
use crate::request::ChatSettings;
use crate::upstream::decode::{Flow, SseEvent};
use crate::upstream::translate::BodyEnd;

/// A request to a model.
#[derive(Clone)]
pub struct UpstreamRequest {
    /// The API of `body`.
    pub api: Api,
    /// The client's name for the model. The body holds the endpoint's own name.
    pub model: String,
    /// The JSON body.
    pub body: Bytes,
    /// Writes the body for an endpoint with other [`ChatSettings`]. `None` if the body is the same
    /// everywhere.
    pub writer: Option<BodyWriter>,
    /// Forwarded request headers of the client, lower case.
    pub headers: Vec<(String, String)>,
    /// Index of the endpoint that was chosen ([`Target::endpoint`]).
    pub endpoint: usize,
    /// Whether the answer is streamed, so that its time to first token is comparable.
    pub streamed: bool,
    /// Time after which a missing first token counts as a failure of the endpoint; zero: never.
    pub first_token_timeout: Duration,
    /// The client's own key, for endpoints that are configured to accept it.
    pub client_key: Option<SecretString>,
    /// Counts the request as outstanding until it is sent ([`Target::reservation`]).
    pub reservation: Reservation,
    /// What it says of encrypted reasoning; `None` for a chat upstream.
    pub reasoning: Option<Box<CarriedReasoning>>,
    /// Counts the attempts that an upstream may have worked on.
    pub asked: Asked,
    /// The trace that it belongs to, where there is one.
    pub trace: Option<RequestTrace>,
    /// Whether the answer may go on at the upstream without a connection, where the endpoint can
    /// [be attached to](Upstream::attach) again.
    pub reattach: bool,
}

impl fmt::Debug for UpstreamRequest {
    /// Omits the body, which holds the conversation.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamRequest")
            .field("api", &self.api)
            .field("model", &self.model)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// Writes a body from an endpoint's name for the model and its settings.
type WriteBody = dyn Fn(&str, &ChatSettings) -> Option<Bytes> + Send + Sync;

/// Writes the body of a request for an endpoint: with its name for the model and its settings. Returns
/// `None` if the request cannot be written for it.
#[derive(Clone)]
pub struct BodyWriter(Arc<WriteBody>);

impl BodyWriter {
    /// A writer that calls `write` with the endpoint's name for the model and its settings.
    pub fn new(
        write: impl Fn(&str, &ChatSettings) -> Option<Bytes> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(write))
    }

    /// Writes the body.
    pub(crate) fn write(&self, model: &str, settings: &ChatSettings) -> Option<Bytes> {
        (self.0)(model, settings)
    }
}

impl fmt::Debug for BodyWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BodyWriter")
    }
}

/// Timeouts of a request. Zero means no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the connection, TLS included. Enforced by the endpoint; the generation enforces the
    /// others.
    pub connect: Duration,
    /// From the request to the first content, reasoning or tool delta.
    pub first_token: Duration,
    /// From one delta to the next.
    pub between_tokens: Duration,
    /// For the whole generation.
    pub total: Duration,
}

impl Default for Timeouts {
    /// 10 s to connect, 120 s to the first token, 60 s between tokens, 30 minutes in total.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            first_token: Duration::from_secs(120),
            between_tokens: Duration::from_secs(60),
            total: Duration::from_secs(30 * 60),
        }
    }
}

/// An error response of the upstream, passed on unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The `Content-Type`.
    pub content_type: Option<String>,
    /// The body, at most 1 MiB.
    pub body: Bytes,
    /// Headers for the client: `retry-after`, rate limits, the upstream's request id.
    pub headers: Vec<(String, String)>,
    /// What the upstream's `x-should-retry` says.
    pub should_retry: Option<bool>,
}

/// Why a request gave no stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The upstream answered with an error.
    Refused(Refusal),
    /// There was no answer, or one that is not passed on to clients.
    Failed(ApiError),
}

/// The parts of an upstream's response head that clients get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamHead {
    /// Headers for the client: rate limits, the upstream's request id.
    pub headers: Vec<(String, String)>,
}

/// A successful response whose body is still to be read.
pub struct UpstreamResponse {
    /// Its head.
    pub head: UpstreamHead,
    /// Its body, decoded.
    pub stream: Box<dyn TokenStream>,
}

impl fmt::Debug for UpstreamResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamResponse")
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}

/// Result of one read of a stream, beside its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamStep {
    /// Bytes were read.
    Read,
    /// The body ended.
    Ended(BodyEnd),
    /// The body cannot be decoded further.
    Failed(ApiError),
}

/// A decoded upstream body. Dropping it closes the connection, which cancels the generation
/// upstream.
pub trait TokenStream: Send {
    /// Reads once and passes every completed event to `sink`, borrowed from the read buffer.
    fn poll_events(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(SseEvent<'_>) -> Flow,
    ) -> Poll<StreamStep>;

    /// Returns the memory that the part of an event takes which was received so far, in bytes.
    fn buffered(&self) -> usize {
        0
    }

    /// Called once, when the first token was read.
    fn first_token(&mut self) {}

    /// The stream failed for good. Counts against the endpoint if no token was received.
    fn failed(&mut self, _failure: &Failure) {}

    /// The stream failed and nothing of it was kept. Returns whether it starts again from the
    /// beginning, with another attempt.
    fn retry(&mut self, _failure: &Failure) -> bool {
        false
    }

    /// The stream failed after `text` (JSON-escaped) was kept. Returns the name of the endpoint
    /// that continues from there, if one does; the next read is of its stream.
    fn continue_from(&mut self, _failure: &Failure, _text: &str) -> Option<String> {
        None
    }
}

/// Answers requests for models. Cheap to share within one worker.
pub trait Upstream: Send + Sync + fmt::Debug {
    /// Returns where a request for `model` goes: the API, the model's name there, and the timeouts.
    /// `client_key` is the client's own key, if the request has one.
    ///
    /// # Errors
    /// If no upstream serves the model, or its queue is full.
    fn route(
        &self,
        model: Option<&str>,
        client_key: Option<&SecretString>,
    ) -> Result<Target, ApiError>;

    /// As [`Upstream::route`], but prefers an endpoint that is up and takes the reasoning of the
    /// credential with this tag.
    ///
    /// # Errors
    /// As [`Upstream::route`].
    fn route_to(
        &self,
        model: Option<&str>,
        client_key: Option<&SecretString>,
        _credential: &str,
    ) -> Result<Target, ApiError> {
        self.route(model, client_key)
    }

    /// Returns the tag of the credential that requests to an endpoint are sent with: a keyed hash,
    /// which is equal for equal credentials of one server.
    fn credential(&self, _endpoint: usize, _client_key: Option<&SecretString>) -> Option<String> {
        None
    }

    /// Whether an endpoint may be asked for the encrypted reasoning of a model.
    fn may_encrypt(&self, _endpoint: usize, _model: &str) -> bool {
        true
    }

    /// Sends the body to another path of the endpoint, such as `/responses/compact`, and returns the
    /// body of its answer.
    fn relay(
        &self,
        _request: UpstreamRequest,
        _path: &'static str,
    ) -> BoxFuture<'static, Result<Bytes, OpenError>> {
        Box::pin(std::future::ready(Err(OpenError::Failed(not_served()))))
    }

    /// Returns the configured name of an endpoint ([`Target::endpoint`]), if it has one.
    fn endpoint_name(&self, _endpoint: usize) -> Option<&str> {
        None
    }

    /// Returns how requests in chat completions are written for an endpoint.
    fn chat_settings(&self, _endpoint: usize) -> ChatSettings {
        ChatSettings::default()
    }

    /// Returns true if endpoints have different [`ChatSettings`], so that a body is not the same for
    /// all of them.
    fn chat_settings_vary(&self) -> bool {
        false
    }

    /// Returns how long an endpoint can be attached to a response that it writes; `None` if it is not
    /// there or cannot.
    fn reattach_window(&self, _endpoint: &str) -> Option<Duration> {
        None
    }

    /// Returns the index of an endpoint, by its configured name.
    fn endpoint_index(&self, _name: &str) -> Option<usize> {
        None
    }

    /// Reads a response again that an endpoint goes on with.
    fn attach(
        &self,
        _request: AttachRequest,
    ) -> BoxFuture<'static, Result<UpstreamResponse, OpenError>> {
        Box::pin(std::future::ready(Err(OpenError::Failed(not_served()))))
    }

    /// Ends a response that an endpoint goes on with.
    fn cancel(&self, _request: AttachRequest) -> BoxFuture<'static, Result<(), OpenError>> {
        Box::pin(std::future::ready(Err(OpenError::Failed(not_served()))))
    }

    /// Sends the request and waits for the head. Dropping the future cancels the request. Counts the
    /// attempts in [`UpstreamRequest::asked`].
    fn open(
        &self,
        request: UpstreamRequest,
    ) -> BoxFuture<'static, Result<UpstreamResponse, OpenError>>;
}

/// Where a request for a model goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The client's name for the model.
    pub model: String,
    /// The upstream's name for the model, if it differs from what the client sent.
    pub upstream_model: Option<String>,
    /// The API that the upstream speaks.
    pub api: Api,
    /// The timeouts of the request.
    pub timeouts: Timeouts,
    /// Index of the endpoint, where there are several.
    pub endpoint: usize,
    /// Whether the request has to wait in the queue of the endpoint.
    pub queued: bool,
    /// Counts the request as outstanding at the endpoint until it is sent.
    pub reservation: Reservation,
}

/// The error of a path that an upstream does not have.
pub(crate) fn not_served() -> ApiError {
    let message = "The upstream does not serve this path.";
    ApiError::new(crate::model::error::ErrorCode::UnknownUrl, message)
}

impl Refusal {
    /// Converts the refusal for readers that get no status line. Keeps the upstream's code and
    /// message.
    #[must_use]
    pub fn to_api_error(&self) -> ApiError {
        let code = match self.status {
            429 => "rate_limit_exceeded".to_owned(),
            status => format!("upstream_status_{status}"),
        };
        let fault = crate::upstream::translate::fault_in_body(&self.body);
        let mut error = ApiError::new(
            crate::model::error::ErrorCode::UpstreamError,
            fault
                .1
                .unwrap_or_else(|| format!("The upstream answered with status {}.", self.status)),
        );
        error.status = self.status;
        error.code = Some(fault.0.unwrap_or(code).into());
        error.retryable = matches!(self.status, 408 | 409 | 429) || self.status >= 500;
        error.retry_after = retry_after::retry_after(&self.headers, SystemTime::now());
        error
    }
}

impl OpenError {
    /// Converts to the gateway's error type.
    #[must_use]
    pub fn to_api_error(&self) -> ApiError {
        match self {
            Self::Refused(refusal) => refusal.to_api_error(),
            Self::Failed(error) => error.clone(),
        }
    }
}
