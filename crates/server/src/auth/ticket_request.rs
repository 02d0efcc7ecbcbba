//! The body of `POST /v1/tickets`.

use serde::Deserialize;
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::{GenerationId, Owner, random_id};
use url::Url;

use super::identity::Identity;
use super::ticket::{Right, Ticket, TicketKind, not_allowed, unix_now, unix_seconds};
use crate::config::auth::is_owner;

/// Seconds within which a ticket is used first, by default and at most.
const CONNECT_WITHIN: u64 = 60;
const LONGEST_CONNECT: u64 = 24 * 60 * 60;
/// Seconds after which an owner ticket and a cookie end by default.
const OWNER_VALID: u64 = 60 * 60;
const COOKIE_VALID: u64 = 12 * 60 * 60;
/// The longest name of an owner, in bytes.
const MAX_OWNER: usize = 256;
/// The longest list of models, in bytes.
const MAX_MODELS: usize = 1024;

/// What a client asks for.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TicketRequest {
    stream: Option<String>,
    may: Option<Vec<Right>>,
    #[serde(rename = "for")]
    sub_owner: Option<String>,
    models: Option<Vec<String>>,
    origin: Option<String>,
    connect_by: Option<u64>,
    valid_until: Option<u64>,
    cookie: bool,
}

// === impl TicketRequest ===

impl TicketRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// `invalid_json` and `invalid_value`. The message names the field.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        serde_json::from_slice(body).map_err(|error| {
            let code = if error.is_data() {
                ErrorCode::InvalidValue
            } else {
                ErrorCode::InvalidJson
            };
            ApiError::new(
                code,
                format!("The body is no request for a ticket: {error}."),
            )
        })
    }

    /// Returns the stream that the ticket is for.
    ///
    /// # Errors
    /// `not_found` for what is no id.
    pub(crate) fn stream(&self) -> Result<Option<GenerationId>, ApiError> {
        let Some(text) = &self.stream else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| {
            let message = "Stream not found: the id is not one of the gateway's.";
            ApiError::new(ErrorCode::NotFound, message).param("stream")
        })
    }

    /// Returns the ticket of this client. One for a stream is good for `longest` seconds at most.
    ///
    /// # Errors
    /// A fault of the request, or a right that the client does not have.
    pub(super) fn ticket(self, identity: &Identity, longest: u64) -> Result<Ticket, ApiError> {
        let may = self.may.clone().unwrap_or_else(|| vec![Right::Read]);
        let kind = self.kind(&may)?;
        let owner = self.owner(identity)?;
        let now = unix_now();
        let connect_by = self.connect_by.unwrap_or(now + CONNECT_WITHIN);
        if !(now + 1..=now + LONGEST_CONNECT).contains(&connect_by) {
            let message = "'connect_by' must be a time within the next day, in Unix seconds.";
            return Err(invalid(message, "connect_by"));
        }
        let default = match kind {
            TicketKind::Stream | TicketKind::Start => longest,
            TicketKind::Owner => OWNER_VALID,
            TicketKind::Cookie => COOKIE_VALID,
        };
        let mut valid_until = self.valid_until.unwrap_or(now + default);
        if valid_until <= now {
            let message = "'valid_until' must be a time to come, in Unix seconds.";
            return Err(invalid(message, "valid_until"));
        }
        if matches!(kind, TicketKind::Stream | TicketKind::Start) {
            valid_until = valid_until.min(now + longest);
        }
        if let Some(expires) = identity.expires() {
            valid_until = valid_until.min(unix_seconds(expires));
        }
        Ok(Ticket {
            id: random_id(""),
            kind,
            issuer: identity.issuer(),
            owner: match owner {
                Owner::Anonymous => None,
                Owner::Named(name) => Some(name.to_string()),
            },
            may,
            models: self.checked_models()?,
            stream: self.stream,
            origin: self.origin.as_deref().map(origin).transpose()?,
            issued: now,
            connect_by: connect_by.min(valid_until),
            valid_until,
        })
    }

    fn kind(&self, may: &[Right]) -> Result<TicketKind, ApiError> {
        let (reads, starts) = (may.contains(&Right::Read), may.contains(&Right::Start));
        if may.is_empty() {
            return Err(invalid("'may' needs at least one right.", "may"));
        }
        match (&self.stream, self.cookie) {
            (Some(_), true) => Err(invalid(
                "A cookie is for no single stream. Leave 'stream' out.",
                "stream",
            )),
            (Some(_), false) if starts => Err(invalid(
                "A ticket for a stream starts nothing. Leave 'start' or 'stream' out.",
                "may",
            )),
            (Some(_), false) => Ok(TicketKind::Stream),
            (None, true) if self.origin.is_some() => Err(invalid(
                "A cookie is for the gateway's own and listed origins. Leave 'origin' out.",
                "origin",
            )),
            (None, true) => Ok(TicketKind::Cookie),
            (None, false) if reads => Ok(TicketKind::Owner),
            (None, false) if starts => Ok(TicketKind::Start),
            (None, false) => Err(invalid(
                "A ticket that only cancels needs the 'stream' that it cancels.",
                "stream",
            )),
        }
    }

    /// Returns the owner that `for` names: below the client's own, or, after a `/`, any.
    pub(crate) fn owner(&self, identity: &Identity) -> Result<Owner, ApiError> {
        let own = identity.owner();
        let Some(name) = &self.sub_owner else {
            return Ok(own);
        };
        let full = match name.strip_prefix('/') {
            None => {
                if !is_owner(name) {
                    let message = "'for' must be a name of 1 to 128 characters out of A-Z, a-z, 0-9, '_', '.', '@', ':' and '-'.";
                    return Err(invalid(message, "for"));
                }
                let own = match &own {
                    Owner::Anonymous => "anonymous",
                    Owner::Named(own) => own,
                };
                format!("{own}/{name}")
            }
            Some(full) => {
                if !identity.is_operator() {
                    let message = "A ticket for another owner needs a key with the role 'operator'. Leave out the '/' for an owner below your own.";
                    return Err(ApiError::new(ErrorCode::RoleRequired, message).param("for"));
                }
                if !full.split('/').all(is_owner) {
                    let message = "'for' must be '/' and the name of an owner.";
                    return Err(invalid(message, "for"));
                }
                full.to_owned()
            }
        };
        if full.len() > MAX_OWNER {
            return Err(invalid("'for' is too long.", "for"));
        }
        Ok(Owner::Named(full.into()))
    }

    fn checked_models(&self) -> Result<Vec<String>, ApiError> {
        let models = self.models.clone().unwrap_or_default();
        if self.models.as_ref().is_some_and(Vec::is_empty) {
            let message = "'models' is empty. Leave it out for all models.";
            return Err(invalid(message, "models"));
        }
        if models.iter().map(String::len).sum::<usize>() > MAX_MODELS {
            return Err(invalid("'models' is too long.", "models"));
        }
        Ok(models)
    }
}

/// Returns an origin as browsers write it.
fn origin(text: &str) -> Result<String, ApiError> {
    let parsed = Url::parse(text).ok();
    let parsed = parsed.filter(|url| matches!(url.scheme(), "http" | "https"));
    let written = parsed.map(|url| url.origin().ascii_serialization());
    written
        .filter(|written| written.eq_ignore_ascii_case(text))
        .ok_or_else(|| {
            let message =
                "'origin' must be an origin such as 'https://app.example.com', without a path.";
            invalid(message, "origin")
        })
}

fn invalid(message: &str, param: &'static str) -> ApiError {
    ApiError::new(ErrorCode::InvalidValue, message).param(param)
}

/// Refuses a ticket to a client that has only a ticket itself.
pub(super) fn only_with_a_key() -> ApiError {
    not_allowed("A ticket makes no tickets. Send a key.")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const LONGEST: u64 = 100_000;

    fn made(body: &Value) -> Result<Ticket, ApiError> {
        let request = TicketRequest::parse(body.to_string().as_bytes())?;
        request.ticket(&Identity::default(), LONGEST)
    }

    #[test]
    fn rights_and_stream_decide_what_a_ticket_is_good_for() {
        for (body, kind) in [
            (json!({"stream": "resp_a"}), TicketKind::Stream),
            (
                json!({"stream": "resp_a", "may": ["read", "cancel"]}),
                TicketKind::Stream,
            ),
            (json!({"may": ["start"]}), TicketKind::Start),
            (json!({"may": ["start", "cancel"]}), TicketKind::Start),
            (json!({}), TicketKind::Owner),
            (json!({"may": ["read", "start"]}), TicketKind::Owner),
            (json!({"cookie": true}), TicketKind::Cookie),
        ] {
            assert_eq!(made(&body).unwrap().kind, kind, "{body}");
        }
    }

    #[test]
    fn requests_that_cannot_work_are_refused_with_the_field() {
        let now = unix_now();
        for (body, param) in [
            (json!({"stream": "resp_a", "may": ["start"]}), Some("may")),
            (json!({"may": []}), Some("may")),
            (json!({"may": ["cancel"]}), Some("stream")),
            (json!({"may": ["admin"]}), None),
            (json!({"stream": "resp_a", "cookie": true}), Some("stream")),
            (
                json!({"cookie": true, "origin": "https://a.example"}),
                Some("origin"),
            ),
            (json!({"origin": "https://a.example/path"}), Some("origin")),
            (json!({"origin": "null"}), Some("origin")),
            (json!({"origin": "file:///a"}), Some("origin")),
            (json!({"connect_by": now}), Some("connect_by")),
            (json!({"connect_by": now + 100_000}), Some("connect_by")),
            (json!({"connect_by": -1}), None),
            (json!({"valid_until": now}), Some("valid_until")),
            (json!({"for": "a b"}), Some("for")),
            (json!({"for": "a/b"}), Some("for")),
            (json!({"for": "//b"}), Some("for")),
            (json!({"models": []}), Some("models")),
            (json!({"models": ["x".repeat(2000)]}), Some("models")),
            (json!({"unknown": 1}), None),
        ] {
            let error = made(&body).unwrap_err();
            assert_eq!(error.status, 400, "{body}");
            assert_eq!(error.param.as_deref(), param, "{body}: {}", error.message);
        }
    }

    #[test]
    fn times_have_defaults_and_bounds() {
        let now = unix_now();
        let ticket = made(&json!({"stream": "resp_a"})).unwrap();
        assert!((now + 59..now + 70).contains(&ticket.connect_by));
        assert!((now + LONGEST..now + LONGEST + 10).contains(&ticket.valid_until));
        let ticket = made(&json!({"valid_until": now + 10})).unwrap();
        assert_eq!(
            (ticket.connect_by, ticket.valid_until),
            (now + 10, now + 10)
        );
        let ticket = made(&json!({"stream": "resp_a", "valid_until": now + 10 * LONGEST})).unwrap();
        assert!(ticket.valid_until < now + 2 * LONGEST);
    }

    #[test]
    fn sub_owners_are_below_their_issuer() {
        let owner = |body| made(&body).unwrap().owner();
        assert_eq!(owner(json!({})), Owner::Anonymous);
        let below = Owner::Named("anonymous/one@example.com".into());
        assert_eq!(owner(json!({"for": "one@example.com"})), below);
        // Without credentials a client may do everything.
        assert_eq!(
            owner(json!({"for": "/bob/x"})),
            Owner::Named("bob/x".into())
        );
    }
}
