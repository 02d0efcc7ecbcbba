//! The delivery of one event to one endpoint.

use std::time::Duration;

use serde_json::{Value, json};
use tokenwire_core::model::id::Owner;
use tokenwire_core::model::time::unix_now;
use tokio::time::Instant;

use crate::endpoint::Endpoint;
use crate::event::Event;

/// Number of a delivery, in the order of acceptance.
pub(crate) type Number = u64;

/// The record of a delivery.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) event: Event,
    pub(crate) owner: Owner,
    pub(crate) endpoint: Endpoint,
    pub(crate) state: State,
    /// Attempts so far, including those before a manual retry.
    pub(crate) attempts: u32,
    /// Failures since the start or the last manual retry. The next wait depends on it.
    pub(crate) failures: u32,
    /// No attempt is made after this time.
    pub(crate) until: Instant,
    /// HTTP status of the last attempt, if it got a response.
    pub(crate) last_status: Option<u16>,
    /// Error of the last attempt.
    pub(crate) last_error: Option<DeliveryError>,
}

/// State of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Waits for its next attempt at this time.
    Waiting(Instant),
    /// Due. Waits for a free place.
    Ready,
    /// An attempt is running.
    InFlight,
    /// Answered with a 2xx.
    Delivered,
    /// A dead letter.
    Failed(Reason),
}

/// State of a delivery as clients see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Waits for an attempt, or is being attempted.
    Pending,
    /// Answered with a 2xx.
    Delivered,
    /// A dead letter.
    Failed,
}

/// Why a delivery became a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The time for retries ran out.
    Exhausted,
    /// The endpoint answered 410.
    Gone,
    /// The endpoint had answered 410 to an earlier delivery.
    Disabled,
    /// Too many deliveries were pending.
    QueueFull,
    /// The gateway stopped.
    Stopped,
}

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DeliveryError {
    #[error("the endpoint answered {0}")]
    Status(u16),
    #[error("the endpoint answered with a redirect ({0}), which is not followed")]
    Redirect(u16),
    #[error("the endpoint is gone (410)")]
    Gone,
    #[error("no answer came in time")]
    TimedOut,
    #[error(
        "the host's address is private, loopback or otherwise special, and webhooks.allow_private is not set"
    )]
    Refused,
    #[error("the host's name could not be resolved")]
    Unresolved,
    #[error("no connection could be made, or it broke")]
    Connection,
    #[error("the gateway failed")]
    Internal,
}

/// Result of an attempt: the status (a 2xx), or the error with the endpoint's `Retry-After`.
pub(crate) type Attempted = Result<u16, (DeliveryError, Option<Duration>)>;

// === impl Delivery ===

impl Delivery {
    /// Returns the delivery as a JSON object for clients.
    pub(crate) fn describe(&self, now: Instant) -> Value {
        let next = match self.state {
            State::Waiting(at) => Some(unix_now() + at.saturating_duration_since(now).as_secs()),
            State::Ready | State::InFlight => Some(unix_now()),
            State::Delivered | State::Failed(_) => None,
        };
        let reason = if let State::Failed(reason) = self.state {
            Some(reason.as_str())
        } else {
            None
        };
        json!({
            "id": self.event.id,
            "object": "webhook.delivery",
            "status": self.state.status().as_str(),
            "type": self.event.kind,
            "response_id": self.event.response.as_str(),
            "host": self.endpoint.host_and_port(),
            "created_at": self.event.created_at,
            "attempts": self.attempts,
            "last_status": self.last_status,
            "last_error": self.last_error.map(|error| error.to_string()),
            "next_attempt_at": next,
            "reason": reason,
        })
    }
}

// === impl State ===

impl State {
    pub(crate) fn status(self) -> Status {
        match self {
            Self::Waiting(_) | Self::Ready | Self::InFlight => Status::Pending,
            Self::Delivered => Status::Delivered,
            Self::Failed(_) => Status::Failed,
        }
    }
}

// === impl Status ===

impl Status {
    /// Every status.
    pub const ALL: [Self; 3] = [Self::Pending, Self::Delivered, Self::Failed];

    /// Returns the name that the API uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}

// === impl Reason ===

impl Reason {
    /// Every reason.
    const ALL: [Self; 5] = [
        Self::Exhausted,
        Self::Gone,
        Self::Disabled,
        Self::QueueFull,
        Self::Stopped,
    ];

    /// Returns the reason of this name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Gone => "gone",
            Self::Disabled => "disabled",
            Self::QueueFull => "queue_full",
            Self::Stopped => "stopped",
        }
    }
}

// === impl DeliveryError ===

impl DeliveryError {
    /// Returns the HTTP status of the response, if there was one.
    pub(crate) fn status(self) -> Option<u16> {
        match self {
            Self::Status(status) | Self::Redirect(status) => Some(status),
            Self::Gone => Some(410),
            _ => None,
        }
    }
}
