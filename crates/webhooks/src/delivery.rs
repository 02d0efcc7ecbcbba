//! One event on its way to one endpoint.

use std::time::Duration;

use serde_json::{Value, json};
use tokenwire_core::model::id::Owner;
use tokenwire_core::model::time::unix_now;
use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::event::Event;

/// A delivery's place in the order in which they came.
pub type Number = u64;

/// What is on record about a delivery.
#[derive(Debug)]
pub struct Delivery {
    pub event: Event,
    pub owner: Owner,
    pub endpoint: Endpoint,
    pub state: State,
    /// Attempts so far, those before a retry by hand included.
    pub attempts: u32,
    /// Failures since it was last begun, which the wait for the next attempt depends on.
    pub failures: u32,
    /// After this time no attempt is made.
    pub until: Instant,
    /// The status of the last answer, if the last attempt got one.
    pub last_status: Option<u16>,
    /// What was wrong with the last attempt.
    pub last_error: Option<DeliveryError>,
}

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// To be tried at that time.
    Waiting(Instant),
    /// To be tried as soon as there is room.
    Ready,
    /// Being tried.
    InFlight,
    /// Answered with a 2xx.
    Delivered,
    /// Given up: a dead letter.
    Failed(Reason),
}

/// What a list may be narrowed down to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Pending,
    Delivered,
    Failed,
}

/// Why a delivery was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The time for retries is over.
    Exhausted,
    /// The endpoint answered 410.
    Gone,
    /// The endpoint had answered 410 to an earlier delivery.
    Disabled,
    /// As many deliveries were pending as may be.
    QueueFull,
    /// The gateway stopped.
    Stopped,
}

/// Why an attempt did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
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

/// What came of an attempt: the status, a 2xx, or why not and when the endpoint wants to be asked
/// again.
pub type Attempted = Result<u16, (DeliveryError, Option<Duration>)>;

// === impl Delivery ===

impl Delivery {
    /// As a client sees it.
    pub fn describe(&self, now: Instant) -> Value {
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
            "host": self.endpoint.host(),
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
    pub fn status(self) -> Status {
        match self {
            Self::Waiting(_) | Self::Ready | Self::InFlight => Status::Pending,
            Self::Delivered => Status::Delivered,
            Self::Failed(_) => Status::Failed,
        }
    }
}

// === impl Status ===

impl Status {
    pub const ALL: [Self; 3] = [Self::Pending, Self::Delivered, Self::Failed];

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
    pub fn as_str(self) -> &'static str {
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
    /// The status that came back, if one did.
    pub fn status(self) -> Option<u16> {
        match self {
            Self::Status(status) | Self::Redirect(status) => Some(status),
            Self::Gone => Some(410),
            _ => None,
        }
    }
}
