//! Types and ranges of the known members of a responses request.

use crate::model::error::{ApiError, ErrorCode};
use crate::model::json::{Kind, Node, RawObject, invalid, quote};
use crate::request::check_idempotency_key;

/// Members that are meant for the gateway and never go upstream.
pub(super) const GATEWAY_MEMBERS: &[&str] = &[
    "type",
    "stream_id",
    "generate",
    "webhook",
    "idempotency_key",
];

/// The longest `stream_id`, in bytes.
const MAX_STREAM_ID: usize = 256;

/// The bounds that OpenAI sets on `metadata`: pairs, and characters of a key and of a value.
const METADATA_PAIRS: usize = 16;
const METADATA_KEY: usize = 64;
const METADATA_VALUE: usize = 512;

/// The type and range that a member must have, for any upstream.
#[derive(Clone, Copy)]
enum Shape {
    Text,
    Boolean,
    Number(f64, f64),
    Integer(u64, u64),
    Object,
    TextOrObject,
    Texts,
    Objects,
}

/// A member, one within it, and what that must be.
const SHAPES: &[(&str, Option<&str>, Shape)] = &[
    ("background", None, Shape::Boolean),
    ("frequency_penalty", None, Shape::Number(-2.0, 2.0)),
    ("generate", None, Shape::Boolean),
    ("idempotency_key", None, Shape::Text),
    ("include", None, Shape::Texts),
    ("instructions", None, Shape::Text),
    ("max_output_tokens", None, Shape::Integer(1, u64::MAX)),
    ("max_tool_calls", None, Shape::Integer(0, u64::MAX)),
    ("metadata", None, Shape::Object),
    ("model", None, Shape::Text),
    ("parallel_tool_calls", None, Shape::Boolean),
    ("presence_penalty", None, Shape::Number(-2.0, 2.0)),
    ("previous_response_id", None, Shape::Text),
    ("prompt_cache_key", None, Shape::Text),
    ("prompt_cache_retention", None, Shape::Text),
    ("reasoning", None, Shape::Object),
    ("reasoning", Some("effort"), Shape::Text),
    ("reasoning", Some("generate_summary"), Shape::Text),
    ("reasoning", Some("summary"), Shape::Text),
    ("safety_identifier", None, Shape::Text),
    ("service_tier", None, Shape::Text),
    ("store", None, Shape::Boolean),
    ("stream", None, Shape::Boolean),
    ("stream_id", None, Shape::Text),
    ("stream_options", None, Shape::Object),
    (
        "stream_options",
        Some("include_obfuscation"),
        Shape::Boolean,
    ),
    ("temperature", None, Shape::Number(0.0, 2.0)),
    ("text", None, Shape::Object),
    ("text", Some("format"), Shape::Object),
    ("text", Some("verbosity"), Shape::Text),
    ("tool_choice", None, Shape::TextOrObject),
    ("tools", None, Shape::Objects),
    ("top_logprobs", None, Shape::Integer(0, 20)),
    ("top_p", None, Shape::Number(0.0, 1.0)),
    ("truncation", None, Shape::Text),
    ("type", None, Shape::Text),
    ("user", None, Shape::Text),
    ("webhook", None, Shape::Object),
    ("webhook", Some("secret"), Shape::Text),
    ("webhook", Some("url"), Shape::Text),
];

/// Checks every known member.
pub(super) fn check(raw: &RawObject) -> Result<(), ApiError> {
    for (name, inner, shape) in SHAPES {
        if let Some(node) = find(raw, name, *inner)? {
            shape.check(&node)?;
        }
    }
    check_metadata(raw)?;
    check_gateway_members(raw)
}

impl Shape {
    fn check(self, node: &Node<'_>) -> Result<(), ApiError> {
        match self {
            Self::Text => node.text().map(drop),
            Self::Boolean => node.boolean().map(drop),
            Self::Number(low, high) => node.number(low, high).map(drop),
            Self::Integer(low, high) => node.integer(low, high).map(drop),
            Self::Object => node.object().map(drop),
            Self::TextOrObject if node.kind() == Kind::String => node.text().map(drop),
            Self::TextOrObject if node.kind() == Kind::Object => node.object().map(drop),
            Self::TextOrObject => Err(node.wrong_type("a string or an object")),
            Self::Texts => node
                .array()?
                .iter()
                .try_for_each(|element| element.text().map(drop)),
            Self::Objects => node
                .array()?
                .iter()
                .try_for_each(|element| element.object().map(drop)),
        }
    }
}

/// Returns a member, or the one within it if that is named; `None` where it is absent or `null`.
pub(super) fn find<'a>(
    raw: &'a RawObject,
    name: &str,
    inner: Option<&str>,
) -> Result<Option<Node<'a>>, ApiError> {
    let Some(node) = raw.node(name) else {
        return Ok(None);
    };
    match inner {
        Some(inner) => Ok(node.object()?.node(inner)),
        None => Ok(Some(node)),
    }
}

fn check_metadata(raw: &RawObject) -> Result<(), ApiError> {
    let Some(node) = raw.node("metadata") else {
        return Ok(());
    };
    let object = node.object()?;
    if object.len() > METADATA_PAIRS {
        return Err(invalid(
            "metadata",
            &format!("at most {METADATA_PAIRS} pairs"),
            &object.len().to_string(),
        ));
    }
    for (key, value) in object.iter() {
        let value = Node::new(value, object.path_of(&quote(key)));
        if key.chars().count() > METADATA_KEY {
            return Err(value.invalid(
                &format!("a key of at most {METADATA_KEY} characters"),
                &key.chars().count().to_string(),
            ));
        }
        let length = value.text()?.chars().count();
        if length > METADATA_VALUE {
            return Err(value.invalid(
                &format!("a string of at most {METADATA_VALUE} characters"),
                &length.to_string(),
            ));
        }
    }
    Ok(())
}

fn check_gateway_members(raw: &RawObject) -> Result<(), ApiError> {
    if let Some(id) = raw.get_str("stream_id") {
        let named = id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        if !named || id.is_empty() || id.len() > MAX_STREAM_ID {
            let message = format!(
                "Invalid 'stream_id': expected 1 to {MAX_STREAM_ID} characters out of A-Z, a-z, 0-9, '_', '.' and '-'."
            );
            return Err(ApiError::new(ErrorCode::InvalidStreamId, message).param("stream_id"));
        }
    }
    if let Some(key) = raw.get_str("idempotency_key") {
        check_idempotency_key(&key, "idempotency_key")?;
    }
    if let Some(webhook) = raw.node("webhook") {
        let object = webhook.object()?;
        object.require("url")?;
        object.only(
            &["url", "secret"],
            "A webhook takes 'url' and 'secret' and nothing else.",
        )?;
        if raw.get_bool("background") != Some(true) {
            let message = "Invalid value for 'webhook': it announces the end of a background response, but this request has no \"background\": true.";
            return Err(ApiError::new(ErrorCode::InvalidValue, message).param("webhook"));
        }
    }
    Ok(())
}
