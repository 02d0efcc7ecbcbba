//! The way to a model: one trait, with everything that is not plain relaying left to decorators
//! around it.
//!
//! ```text
//!   generation ─▶ Router ─▶ pursuit (retry, failover) ─▶ race (hedging) ─▶ gate ─▶ Server ─▶ socket
//!                   │                                                       │
//!                   └────────────── vitals (breaker, latency) ◀─────────────┘
//! ```
//!
//! A [`Server`] is one model server and knows nothing of others. The [`Router`] knows them all and
//! what of their state all workers share: it chooses one, and goes on to the next, or again to the
//! same, as long as nothing of an answer was kept.

#[cfg(feature = "openai")]
mod body;
mod breaker;
mod continuation;
pub mod decode;
mod failover;
mod hedge;
#[cfg(feature = "openai")]
mod http1;
mod latency;
mod limit;
#[cfg(feature = "openai")]
mod openai;
mod retry;
mod router;
mod server;
mod stats;
pub mod translate;

pub use breaker::{Breaker, BreakerPolicy, BreakerState};
pub use continuation::Continuation;
pub use hedge::Hedge;
pub use latency::Latency;
pub use limit::{ConcurrencyLimit, ConcurrencyPolicy};
#[cfg(feature = "openai")]
pub use openai::{OpenAi, OpenAiOptions};
pub use retry::{RetryBudget, RetryPolicy};
pub use router::{ModelBinding, ModelMap, Route, Router, RouterOptions};
pub use server::Server;
pub use stats::{Counter, Counters, EndpointStats, HealthStatus};

use std::fmt;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use secrecy::SecretString;

use crate::model::error::ApiError;
use crate::model::event::Failure;
use crate::model::snapshot::Api;
use crate::upstream::decode::{Flow, SseEvent};
use crate::upstream::translate::BodyEnd;

/// What is sent to a model.
#[derive(Clone)]
pub struct UpstreamRequest {
    /// The language of `body`.
    pub api: Api,
    /// The model as the client named it; the upstream's own name for it stands in the body.
    pub model: String,
    /// The JSON body.
    pub body: Bytes,
    /// Request headers of the client's that go along, lower case.
    pub headers: Vec<(String, String)>,
    /// Which of the router's servers was chosen ([`Target::server`]).
    pub server: usize,
    /// Whether the answer comes token by token, so that the time to its first one says something.
    pub streamed: bool,
    /// How long the first token may take before the server is to blame; zero: for ever.
    pub patience: Duration,
    /// The client's own key, for servers that are configured to take it.
    pub client_key: Option<SecretString>,
}

impl fmt::Debug for UpstreamRequest {
    /// Without the body, which holds the conversation.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamRequest")
            .field("api", &self.api)
            .field("model", &self.model)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// How long to wait for a model. Zero means without limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the connection, TLS included. The upstream's own business; the others are kept by the
    /// generation.
    pub connect: Duration,
    /// From the request to the first content, reasoning or tool delta.
    pub first_token: Duration,
    /// From one delta to the next.
    pub between_tokens: Duration,
    /// For the whole generation.
    pub total: Duration,
}

/// An answer of the upstream's that is not a stream: its own error, to be passed on as it came.
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

/// Why there is no stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The upstream said no.
    Refused(Refusal),
    /// There was no answer, or one that is not passed on.
    Failed(ApiError),
}

/// What an upstream's head said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamHead {
    /// Headers for the client: rate limits, the upstream's request id.
    pub headers: Vec<(String, String)>,
}

/// A stream that has begun.
pub struct Opened {
    /// Its head.
    pub head: UpstreamHead,
    /// Its body, decoded.
    pub stream: Box<dyn TokenStream>,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}

/// What a read of the stream gave, beside the events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamStep {
    /// Some bytes, perhaps whole events.
    Read,
    /// The body has ended.
    Ended(BodyEnd),
    /// The body cannot be decoded any further.
    Failed(ApiError),
}

/// A decoded upstream body. Dropping it closes the connection: that is how a generation is
/// cancelled.
pub trait TokenStream: Send {
    /// Reads once and gives every event that it completes to `sink`, borrowed from the read buffer.
    fn poll_events(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(SseEvent<'_>) -> Flow,
    ) -> Poll<StreamStep>;

    /// The first token has come out of it. Called once.
    fn first_token(&mut self) {}

    /// What came came to this failure, and that is the end of it. What is known of the server
    /// learns of it, if no token had come.
    fn failed(&mut self, _failure: &Failure) {}

    /// What came so far came to this failure, and nothing of it was kept. Whether the stream has
    /// been put back to where it begins, for another attempt.
    fn retry(&mut self, _failure: &Failure) -> bool {
        false
    }

    /// What came so far came to this failure, and this text of it was kept (JSON-escaped). The name
    /// of the server that goes on from there, if one does: what is read next is its stream.
    fn continue_from(&mut self, _failure: &Failure, _text: &str) -> Option<String> {
        None
    }
}

/// A model, or a decorator around one. Cheap to share on one worker.
pub trait Upstream: Send + Sync + fmt::Debug {
    /// How a model is to be asked: the language of its upstream, its own name there, and the
    /// clocks.
    ///
    /// # Errors
    /// Where no upstream offers the model.
    fn route(&self, model: Option<&str>) -> Result<Target, ApiError>;

    /// Sends the request and waits for the head. Dropping the future takes the request back.
    fn open(&self, request: UpstreamRequest) -> BoxFuture<'static, Result<Opened, OpenError>>;
}

/// Where a request for a model goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The model's name for the client.
    pub model: String,
    /// The model's name at the upstream, if it differs from what the client sent.
    pub upstream_model: Option<String>,
    /// The upstream's language.
    pub api: Api,
    /// The clocks that hold.
    pub timeouts: Timeouts,
    /// Which server, where there are several.
    pub server: usize,
    /// Whether the request will have to wait for its turn there.
    pub queued: bool,
}

impl Refusal {
    /// The refusal as an error of ours, for readers that have no status line: the upstream's own
    /// code and message.
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
        error.retry_after = self
            .headers
            .iter()
            .find(|(name, _)| name == "retry-after")
            .and_then(|(_, value)| value.parse().ok())
            .map(Duration::from_secs);
        error
    }
}

impl OpenError {
    /// The same as an error of ours.
    #[must_use]
    pub fn to_api_error(&self) -> ApiError {
        match self {
            Self::Refused(refusal) => refusal.to_api_error(),
            Self::Failed(error) => error.clone(),
        }
    }
}
