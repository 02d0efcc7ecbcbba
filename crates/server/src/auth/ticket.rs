//! A ticket: what a browser may do for a key, without the key.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::{GenerationId, Owner};

use crate::config::Config;
use crate::config::auth::Role;
use crate::config::client_limits::ClientLimits;
use crate::config::models::matches;

/// What a ticket says. It is sealed before it leaves the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ticket {
    /// Names the ticket: 24 random characters.
    #[serde(rename = "i")]
    pub(crate) id: String,
    #[serde(rename = "k")]
    pub(crate) kind: TicketKind,
    #[serde(rename = "b")]
    pub(super) issuer: Issuer,
    /// `None` for the anonymous owner.
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    pub(super) owner: Option<String>,
    #[serde(rename = "m")]
    pub(super) may: Vec<Right>,
    /// Patterns of models, within those of the issuer. Empty: all of them.
    #[serde(rename = "a", default, skip_serializing_if = "Vec::is_empty")]
    pub(super) models: Vec<String>,
    /// The stream of a stream ticket.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub(super) stream: Option<String>,
    /// The only origin whose pages may use it.
    #[serde(rename = "g", default, skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<String>,
    /// When it was issued, in Unix seconds.
    #[serde(rename = "t", default)]
    pub(super) issued: u64,
    /// The time until which it is used first, in Unix seconds.
    #[serde(rename = "c")]
    pub(super) connect_by: u64,
    /// The time at which it ends, in Unix seconds.
    #[serde(rename = "e")]
    pub(super) valid_until: u64,
}

/// What a ticket is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TicketKind {
    /// Reads one stream.
    #[serde(rename = "s")]
    Stream,
    /// Starts one generation, and then reads it.
    #[serde(rename = "t")]
    Start,
    /// Opens one WebSocket, once.
    #[serde(rename = "o")]
    Owner,
    /// The session of a browser.
    #[serde(rename = "c")]
    Cookie,
}

/// A right of a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Right {
    /// Reads streams and response objects.
    Read,
    /// Starts generations.
    Start,
    /// Cancels generations.
    Cancel,
}

/// Whose ticket it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Issuer {
    /// The key whose hash begins so.
    #[serde(rename = "k")]
    Key(u64),
    /// A token of an issuer.
    #[serde(rename = "j")]
    Token(Box<TokenRights>),
    /// A client of a gateway that checks no credentials.
    #[serde(rename = "o")]
    Open,
}

/// What the holder of a token may do: no later request has the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TokenRights {
    /// The name of the issuer.
    #[serde(rename = "n")]
    pub(super) issuer: String,
    #[serde(rename = "o")]
    pub(super) owner: String,
    #[serde(rename = "r")]
    pub(super) role: Role,
    #[serde(rename = "l", default, skip_serializing_if = "ClientLimits::is_empty")]
    pub(super) limits: ClientLimits,
}

// === impl Ticket ===

impl Ticket {
    /// Returns the owner of what it starts and reads.
    pub(crate) fn owner(&self) -> Owner {
        match &self.owner {
            Some(name) => Owner::Named(name.as_str().into()),
            None => Owner::Anonymous,
        }
    }

    /// Returns the stream of a stream ticket.
    pub(super) fn stream_id(&self) -> Option<GenerationId> {
        self.stream.as_ref()?.parse().ok()
    }

    /// Whether it has this right.
    pub(crate) fn may(&self, right: Right) -> bool {
        self.may.contains(&right)
    }

    /// Whether it may use the model that clients call so, if its issuer may.
    pub(super) fn has_model(&self, name: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|pattern| matches(pattern, name))
    }

    /// Whether it has ended.
    pub(crate) fn is_expired(&self) -> bool {
        self.valid_until <= unix_now()
    }

    /// Whether the time for its first use is over.
    pub(super) fn is_late(&self) -> bool {
        self.connect_by <= unix_now()
    }

    /// Returns the time at which it ends.
    pub(crate) fn expiry(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.valid_until)
    }

    /// Returns the seconds until it ends.
    pub(crate) fn seconds_left(&self) -> u64 {
        self.valid_until.saturating_sub(unix_now())
    }

    /// Returns the path that it is used at.
    pub(crate) fn path(&self) -> String {
        match (self.kind, &self.stream) {
            (TicketKind::Stream, Some(stream)) => format!("/v1/streams/{stream}"),
            (TicketKind::Owner, _) => "/v1/ws".to_owned(),
            (TicketKind::Start | TicketKind::Stream, _) => "/v1/streams".to_owned(),
            (TicketKind::Cookie, _) => "/".to_owned(),
        }
    }

    /// Returns the idempotency key under which a start ticket starts its generation. No client can
    /// send it, since it has a space.
    pub(crate) fn start_key(&self) -> Option<String> {
        (self.kind == TicketKind::Start).then(|| format!("ticket {}", self.id))
    }
}

/// Returns how long a ticket is good for a stream at most, in seconds: a stream runs for a while
/// before it is kept.
pub(super) fn longest(config: &Config) -> u64 {
    config.retain_responses().as_secs() + 24 * 60 * 60
}

/// Returns the time in Unix seconds.
pub(super) fn unix_now() -> u64 {
    unix_seconds(SystemTime::now())
}

pub(super) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Refuses a ticket.
pub(super) fn invalid_ticket(why: &str) -> ApiError {
    let message = format!("{why} Get a new one with POST /v1/tickets.");
    ApiError::new(ErrorCode::InvalidTicket, message)
}

/// Refuses a ticket that has ended.
pub(super) fn expired_ticket() -> ApiError {
    invalid_ticket("The ticket has expired.")
}

/// Refuses a ticket whose first use came too late.
pub(super) fn late_ticket() -> ApiError {
    invalid_ticket("The ticket was not used in time.")
}

/// Refuses a request that its ticket is not for.
pub(crate) fn not_allowed(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::TicketNotAllowed, message.into())
}
