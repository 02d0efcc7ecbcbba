//! The body of `POST /v1/tickets/revoke`.

use serde::Deserialize;
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::Owner;

use crate::config::auth::is_owner;

/// What a client wants to be revoked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RevocationRequest {
    /// One ticket.
    Ticket(String),
    /// All keys, tickets and tokens of this owner until now, and those of owners below it.
    Owner(String),
    /// The key with this id, and its tickets.
    Key(String),
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Fields {
    ticket: Option<String>,
    owner: Option<String>,
    key: Option<String>,
}

// === impl RevocationRequest ===

impl RevocationRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// `invalid_json` and `invalid_value`. The message quotes no value, which may be a credential.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let fields: Fields = serde_json::from_slice(body).map_err(|error| {
            let message = "The body has to be an object with 'ticket', 'owner' or 'key', a text.";
            let code = if error.is_data() {
                ErrorCode::InvalidValue
            } else {
                ErrorCode::InvalidJson
            };
            ApiError::new(code, message)
        })?;
        match fields {
            Fields {
                ticket: Some(text),
                owner: None,
                key: None,
            } => Ok(Self::Ticket(text)),
            Fields {
                ticket: None,
                owner: Some(name),
                key: None,
            } => {
                if !name.split('/').all(is_part) {
                    let message = "'owner' is not the name of an owner.";
                    return Err(ApiError::new(ErrorCode::InvalidValue, message).param("owner"));
                }
                Ok(Self::Owner(name))
            }
            Fields {
                ticket: None,
                owner: None,
                key: Some(id),
            } => Ok(Self::Key(id)),
            _ => {
                let message = "Send one of 'ticket', 'owner' and 'key'.";
                Err(ApiError::new(ErrorCode::InvalidValue, message))
            }
        }
    }
}

/// Whether an owner's name may have this part. Those of tokens have `%` and two digits for other
/// characters.
fn is_part(part: &str) -> bool {
    part.len() <= 3 * 128 && is_owner(&part.replace('%', "_"))
}

/// Returns the owner of this name.
pub(super) fn owner_of(name: &str) -> Owner {
    match name {
        "anonymous" => Owner::Anonymous,
        name => Owner::Named(name.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_names_one_thing_and_errors_quote_nothing() {
        let parse = |body: &str| RevocationRequest::parse(body.as_bytes());
        let ticket = RevocationRequest::Ticket("tkt_a".to_owned());
        assert_eq!(parse(r#"{"ticket":"tkt_a"}"#), Ok(ticket));
        let owner = RevocationRequest::Owner("corp/a%2Fb".to_owned());
        assert_eq!(parse(r#"{"owner":"corp/a%2Fb"}"#), Ok(owner));
        let key = RevocationRequest::Key("0123".to_owned());
        assert_eq!(parse(r#"{"key":"0123"}"#), Ok(key));
        for body in [
            "",
            "{}",
            "[]",
            r#"{"ticket":"secret","owner":"a"}"#,
            r#"{"ticket":7}"#,
            r#"{"tickets":"secret"}"#,
            r#"{"owner":"a b secret"}"#,
            r#"{"owner":"a//b"}"#,
            r#"{"owner":""}"#,
        ] {
            let error = parse(body).unwrap_err();
            assert_eq!(error.status, 400, "{body}");
            assert!(!error.message.contains("secret"), "{}", error.message);
        }
    }
}
