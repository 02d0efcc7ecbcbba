//! Messages of clients, and the replies that are no events.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::request::RawObject;

/// A client's message by its type.
#[derive(Debug)]
pub(crate) enum Command {
    /// `response.create`; the whole message is the request.
    Create,
    /// `tokenwire:resume`
    Resume(Resume),
    /// `tokenwire:cancel`
    Cancel(Named),
    /// `tokenwire:unsubscribe`
    Unsubscribe(Named),
    /// `tokenwire:ping`
    Ping,
    /// `tokenwire:auth`
    Auth(Auth),
    /// `tokenwire:watch`
    Watch(Watch),
    /// `tokenwire:unwatch`
    Unwatch,
}

/// The members of `tokenwire:watch`.
#[derive(Debug, Deserialize)]
pub(crate) struct Watch {
    /// The id of the last event that the client has seen.
    #[serde(default)]
    pub(crate) after: Option<String>,
}

/// The members of `tokenwire:resume`.
#[derive(Debug, Deserialize)]
pub(crate) struct Resume {
    pub(crate) response_id: String,
    #[serde(default)]
    pub(crate) starting_after: Option<u64>,
    #[serde(default)]
    pub(crate) stream_id: Option<String>,
    /// What the reader asks to be shown.
    #[serde(default)]
    pub(crate) include: Vec<String>,
}

/// A message that names a response.
#[derive(Debug, Deserialize)]
pub(crate) struct Named {
    pub(crate) response_id: String,
}

/// The members of `tokenwire:auth`.
#[derive(Deserialize)]
pub(crate) struct Auth {
    pub(crate) ticket: String,
}

impl std::fmt::Debug for Auth {
    /// Omits the ticket.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Auth")
    }
}

/// A message that was refused.
#[derive(Debug)]
pub(crate) struct Rejected {
    pub(crate) error: ApiError,
    /// Whether the message was a `tokenwire:` command, whose errors are `tokenwire:error`.
    pub(crate) ours: bool,
    pub(crate) response_id: Option<String>,
    /// The lane that the message named, if the name is valid.
    pub(crate) stream_id: Option<String>,
}

const TYPES: &str = "'response.create', 'tokenwire:resume', 'tokenwire:cancel', 'tokenwire:unsubscribe', 'tokenwire:watch', 'tokenwire:unwatch', 'tokenwire:auth' and 'tokenwire:ping'";

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default)]
    response_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    stream_id: Option<&'a RawValue>,
}

fn text(raw: Option<&RawValue>) -> Option<String> {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok())
}

impl Command {
    /// Whether it is a `tokenwire:` message.
    pub(crate) fn is_ours(&self) -> bool {
        !matches!(self, Self::Create)
    }

    pub(crate) fn parse(message: &str) -> Result<Self, Box<Rejected>> {
        let unreadable = |error: ApiError| {
            Box::new(Rejected {
                error,
                ours: false,
                response_id: None,
                stream_id: None,
            })
        };
        let invalid = |why: &str| {
            let text = format!("The message is not a JSON object with a 'type': {why}.");
            unreadable(ApiError::new(ErrorCode::InvalidJson, text))
        };
        if !message.trim_start().starts_with('{') {
            return Err(invalid("it does not begin with '{'"));
        }
        let envelope: Envelope<'_> =
            serde_json::from_str(message).map_err(|error| match repeated(message) {
                Some(error) => unreadable(error),
                None => invalid(&error.to_string()),
            })?;
        let kind = text(envelope.kind);
        let reject = |error: ApiError| {
            Box::new(Rejected {
                error,
                ours: kind
                    .as_deref()
                    .is_some_and(|kind| kind.starts_with("tokenwire:")),
                response_id: text(envelope.response_id),
                stream_id: text(envelope.stream_id).filter(|id| is_stream_id(id)),
            })
        };
        if let Some(id) = envelope.stream_id.filter(|raw| raw.get() != "null")
            && !text(Some(id)).is_some_and(|id| is_stream_id(&id))
        {
            let message = "Invalid 'stream_id': expected 1 to 256 characters out of A-Z, a-z, 0-9, '_', '.' and '-'.";
            return Err(reject(
                ApiError::new(ErrorCode::InvalidStreamId, message).param("stream_id"),
            ));
        }
        match kind.as_deref() {
            Some("response.create") => Ok(Self::Create),
            Some("tokenwire:resume") => read(message).map(Self::Resume).map_err(reject),
            Some("tokenwire:cancel") => read(message).map(Self::Cancel).map_err(reject),
            Some("tokenwire:unsubscribe") => read(message).map(Self::Unsubscribe).map_err(reject),
            Some("tokenwire:ping") => Ok(Self::Ping),
            Some("tokenwire:unwatch") => Ok(Self::Unwatch),
            Some("tokenwire:watch") => match serde_json::from_str(message) {
                Ok(watch) => Ok(Self::Watch(watch)),
                Err(_) => {
                    let message = "Expected 'after' as the id of an event, a text.";
                    let error = ApiError::new(ErrorCode::InvalidType, message);
                    Err(reject(error.param("after")))
                }
            },
            Some("tokenwire:auth") => match serde_json::from_str(message) {
                Ok(auth) => Ok(Self::Auth(auth)),
                // The error of the parser might quote the ticket.
                Err(_) => {
                    let error = ApiError::new(
                        ErrorCode::MissingParameter,
                        "Missing required parameter: 'ticket', a text.",
                    );
                    Err(reject(error.param("ticket")))
                }
            },
            Some(other) => {
                let message = format!(
                    "Messages of type '{}' are not understood here; those that are: {TYPES}.",
                    shorten(other)
                );
                Err(reject(
                    ApiError::new(ErrorCode::UnknownMessageType, message).param("type"),
                ))
            }
            None => Err(reject(
                ApiError::new(
                    ErrorCode::MissingParameter,
                    format!("Missing required parameter: 'type', one of {TYPES}."),
                )
                .param("type"),
            )),
        }
    }
}

fn read<'a, T: Deserialize<'a>>(message: &'a str) -> Result<T, ApiError> {
    serde_json::from_str(message).map_err(|error| {
        if let Some(error) = repeated(message) {
            return error;
        }
        let missing = error.to_string().starts_with("missing field");
        if missing {
            ApiError::new(ErrorCode::MissingParameter, "Missing required parameter: 'response_id'.").param("response_id")
        } else {
            let text = format!("Expected 'response_id' as a string and 'starting_after' as a number from 0 on: {error}.");
            ApiError::new(ErrorCode::InvalidType, text)
        }
    })
}

/// The error for a repeated member, if that is what is wrong with the message.
fn repeated(message: &str) -> Option<ApiError> {
    let error = RawObject::parse(message.as_bytes()).err()?;
    error.param.is_some().then_some(error)
}

fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Returns the lane that a message names, if the name is valid.
pub(crate) fn stream_id(message: &str) -> Option<String> {
    let envelope: Envelope<'_> = serde_json::from_str(message).ok()?;
    text(envelope.stream_id).filter(|id| is_stream_id(id))
}

/// Whether the text may name a lane.
fn is_stream_id(text: &str) -> bool {
    (1..=256).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// Returns OpenAI's error message: for a `response.create` that started nothing, and for a message
/// of unknown type.
pub(crate) fn error(error: &ApiError) -> Vec<u8> {
    json!({"type": "error", "status": error.status, "error": object(error)})
        .to_string()
        .into_bytes()
}

/// Returns the error message of a failed `tokenwire:` command.
pub(crate) fn command_error(response_id: Option<&str>, error: &ApiError) -> Vec<u8> {
    let mut message =
        json!({"type": "tokenwire:error", "status": error.status, "error": object(error)});
    if let (Some(id), Some(object)) = (response_id, message.as_object_mut()) {
        object.insert("response_id".to_owned(), Value::from(id));
    }
    message.to_string().into_bytes()
}

/// The code is never `null`: the SDKs require a string.
fn object(error: &ApiError) -> Value {
    json!({"type": error.kind, "code": error.code.as_deref().unwrap_or("error"), "message": error.message, "param": error.param})
}

/// Returns `tokenwire:resumed`.
pub(crate) fn resumed(response_id: &str, from: u64, head: Option<u64>, status: &str) -> Vec<u8> {
    json!({"type": "tokenwire:resumed", "response_id": response_id, "from": from, "head": head, "status": status}).to_string().into_bytes()
}

/// Returns `tokenwire:tools_dropped`.
pub(crate) fn tools_dropped(response_id: &str, types: &[String]) -> Vec<u8> {
    json!({"type": "tokenwire:tools_dropped", "response_id": response_id, "tools": types})
        .to_string()
        .into_bytes()
}

/// Returns `tokenwire:auth_expiring`: the credential ends in this many seconds.
pub(crate) fn auth_expiring(seconds: u64) -> Vec<u8> {
    json!({"type": "tokenwire:auth_expiring", "expires_in": seconds})
        .to_string()
        .into_bytes()
}

/// `tokenwire:pong`
pub(crate) const PONG: &[u8] = br#"{"type":"tokenwire:pong"}"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_parse_and_other_messages_are_refused() {
        for (message, expected) in [
            (r#"{"type":"response.create","input":"x"}"#, "Create"),
            (
                r#"{"type":"tokenwire:resume","response_id":"resp_a","starting_after":3}"#,
                "Resume",
            ),
            (
                r#"{"type":"tokenwire:cancel","response_id":"resp_a"}"#,
                "Cancel",
            ),
            (r#"{"type":"tokenwire:ping"}"#, "Ping"),
            (r#"{"type":"tokenwire:watch","after":"b.3"}"#, "Watch"),
            (r#"{"type":"tokenwire:watch","after":3}"#, "invalid_type"),
            (r#"{"type":"tokenwire:unwatch"}"#, "Unwatch"),
            ("hello", "invalid_json"),
            ("[]", "invalid_json"),
            (r#"{"input":"x"}"#, "missing_required_parameter"),
            (r#"{"type":7}"#, "missing_required_parameter"),
            (r#"{"type":"response.steer"}"#, "unknown_message_type"),
            (
                r#"{"type":"tokenwire:resume"}"#,
                "missing_required_parameter",
            ),
            (
                r#"{"type":"tokenwire:resume","response_id":"resp_a","starting_after":-1}"#,
                "invalid_type",
            ),
            (
                r#"{"type":"response.create","stream_id":"a b"}"#,
                "invalid_stream_id",
            ),
            (
                r#"{"type":"response.create","stream_id":""}"#,
                "invalid_stream_id",
            ),
            (
                r#"{"type":"response.create","stream_id":7}"#,
                "invalid_stream_id",
            ),
        ] {
            let got = match Command::parse(message) {
                Ok(command) => format!("{command:?}").split('(').next().unwrap().to_owned(),
                Err(rejected) => rejected.error.code.unwrap().into_owned(),
            };
            assert_eq!(got, expected, "{message}");
        }
    }

    #[test]
    fn repeated_members_are_refused_by_name() {
        for (message, param) in [
            (
                r#"{"type":"response.create","type":"tokenwire:ping"}"#,
                "type",
            ),
            (
                r#"{"type":"response.create","stream_id":"a","stream_id":"b"}"#,
                "stream_id",
            ),
            (
                r#"{"type":"tokenwire:resume","response_id":"a","starting_after":1,"starting_after":2}"#,
                "starting_after",
            ),
            (
                r#"{"type":"tokenwire:cancel","response_id":"a","response_id":"b"}"#,
                "response_id",
            ),
        ] {
            let error = Command::parse(message).unwrap_err().error;
            assert_eq!(
                (error.status, error.code.as_deref(), error.param.as_deref()),
                (400, Some("invalid_value"), Some(param)),
                "{message}"
            );
        }
    }
}
