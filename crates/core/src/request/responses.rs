//! A request in the Responses dialect, with the members of the gateway's own that stand around it.

use std::fmt;

use secrecy::SecretString;
use serde_json::value::RawValue;

use super::fields::RequestFields;
use super::item;
use super::json::{ObjectWriter, push_array, raw_string};
use super::node::{Kind, Node, invalid, missing, quote, unsupported};
use super::object::{RawObject, read};
use super::translation;
use crate::model::error::{ApiError, ErrorCode};

/// Members that are said to the gateway and never to an upstream.
pub(super) const ENVELOPE: &[&str] = &[
    "type",
    "stream_id",
    "generate",
    "webhook",
    "idempotency_key",
];

/// The longest `idempotency_key`, in bytes.
const MAX_IDEMPOTENCY_KEY: usize = 255;
/// The longest `stream_id`, in bytes.
const MAX_STREAM_ID: usize = 256;

/// The bounds that OpenAI sets on `metadata`: pairs, and characters of a key and of a value.
const METADATA_PAIRS: usize = 16;
const METADATA_KEY: usize = 64;
const METADATA_VALUE: usize = 512;

/// What a member must look like, whatever the upstream.
#[derive(Clone, Copy)]
enum Shape {
    Text,
    Boolean,
    Number(f64, f64),
    Integer(u64, u64),
    Object,
    TextOrObject,
    ArrayOf(Kind),
}

const SHAPES: &[(&str, Shape)] = &[
    ("background", Shape::Boolean),
    ("frequency_penalty", Shape::Number(-2.0, 2.0)),
    ("generate", Shape::Boolean),
    ("idempotency_key", Shape::Text),
    ("include", Shape::ArrayOf(Kind::String)),
    ("instructions", Shape::Text),
    ("max_output_tokens", Shape::Integer(1, u64::MAX)),
    ("max_tool_calls", Shape::Integer(0, u64::MAX)),
    ("metadata", Shape::Object),
    ("model", Shape::Text),
    ("parallel_tool_calls", Shape::Boolean),
    ("presence_penalty", Shape::Number(-2.0, 2.0)),
    ("previous_response_id", Shape::Text),
    ("prompt_cache_key", Shape::Text),
    ("prompt_cache_retention", Shape::Text),
    ("reasoning", Shape::Object),
    ("reasoning.effort", Shape::Text),
    ("reasoning.generate_summary", Shape::Text),
    ("reasoning.summary", Shape::Text),
    ("safety_identifier", Shape::Text),
    ("service_tier", Shape::Text),
    ("store", Shape::Boolean),
    ("stream", Shape::Boolean),
    ("stream_id", Shape::Text),
    ("stream_options", Shape::Object),
    ("stream_options.include_obfuscation", Shape::Boolean),
    ("temperature", Shape::Number(0.0, 2.0)),
    ("text", Shape::Object),
    ("text.format", Shape::Object),
    ("text.verbosity", Shape::Text),
    ("tool_choice", Shape::TextOrObject),
    ("tools", Shape::ArrayOf(Kind::Object)),
    ("top_logprobs", Shape::Integer(0, 20)),
    ("top_p", Shape::Number(0.0, 1.0)),
    ("truncation", Shape::Text),
    ("type", Shape::Text),
    ("user", Shape::Text),
    ("webhook", Shape::Object),
    ("webhook.secret", Shape::Text),
    ("webhook.url", Shape::Text),
];

/// The body of `POST /v1/responses` and of the WebSocket's `response.create`.
///
/// Types and ranges of the known members are checked when it is read, so what is asked for later
/// has the type it must have. `Debug` shows no contents.
#[derive(Clone)]
pub struct ResponsesRequest {
    raw: RawObject,
    /// One for each item of the input, in its order.
    item_ids: Vec<String>,
}

impl ResponsesRequest {
    /// Reads and checks a body.
    ///
    /// # Errors
    /// As [`RawObject::parse`]; `missing_required_parameter` without `input`; `invalid_type` and
    /// `invalid_value` that name the parameter for wrong types and ranges; `invalid_stream_id`;
    /// `invalid_value` if `messages` stands beside `input`; `unsupported_parameter` for `generate:
    /// false` and for members of `webhook` that are not known; `invalid_value` for a `webhook`
    /// without `background: true`.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let (_, written) = read(body)?;
        Self::from_object(written.into())
    }

    pub(super) fn from_object(raw: RawObject) -> Result<Self, ApiError> {
        if raw.get("messages").is_some() && raw.get("input").is_some() {
            return Err(both_dialects());
        }
        let input = raw.node("input").ok_or_else(|| missing("input"))?;
        for (name, shape) in SHAPES {
            if let Some(node) = find(&raw, name)? {
                shape.check(&node)?;
            }
        }
        check_metadata(&raw)?;
        check_envelope(&raw)?;
        let item_ids = item::identify(&input)?;
        Ok(Self { raw, item_ids })
    }

    /// The request that a bare `GET /v1/streams?input=…&model=…` stands for.
    #[must_use]
    pub fn from_input(input: &str, model: Option<&str>) -> Self {
        let mut raw = RawObject::default();
        if let Some(model) = model {
            raw.set("model", model);
        }
        let text = raw_string(input);
        let item_ids = item::identify(&Node::new(&text, "input")).unwrap_or_default();
        raw.insert_raw("input", text);
        Self { raw, item_ids }
    }

    /// Any member, the nested and the unknown ones included, as raw JSON; `None` where it is absent
    /// or `null`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&RawValue> {
        self.raw.get(name)
    }

    /// The whole request as it came, the gateway's own members included; white space between
    /// members aside.
    #[must_use]
    pub fn raw(&self) -> &RawObject {
        &self.raw
    }

    /// The model asked for.
    #[must_use]
    pub fn model(&self) -> Option<String> {
        self.text("model")
    }

    /// The instructions, which hold for this turn only.
    #[must_use]
    pub fn instructions(&self) -> Option<String> {
        self.text("instructions")
    }

    /// Whether the answer is wanted as a stream.
    #[must_use]
    pub fn stream(&self) -> bool {
        self.raw.get_bool("stream").unwrap_or(false)
    }

    /// Whether the generation goes on without a reader.
    #[must_use]
    pub fn background(&self) -> bool {
        self.raw.get_bool("background").unwrap_or(false)
    }

    /// Whether the response is kept for later turns; so if nothing is said.
    #[must_use]
    pub fn store(&self) -> bool {
        self.raw.get_bool("store").unwrap_or(true)
    }

    /// The response that this one goes on from.
    #[must_use]
    pub fn previous_response_id(&self) -> Option<String> {
        self.text("previous_response_id")
    }

    /// Where to announce the end, from `webhook: {"url"}`.
    #[must_use]
    pub fn webhook_url(&self) -> Option<String> {
        let node = find(&self.raw, "webhook.url").ok()??;
        Some(node.text().ok()?.into_owned())
    }

    /// What that announcement is signed with, from `webhook: {"secret"}`.
    #[must_use]
    pub fn webhook_secret(&self) -> Option<SecretString> {
        let node = find(&self.raw, "webhook.secret").ok()??;
        Some(SecretString::from(node.text().ok()?.into_owned()))
    }

    /// The key under which a repeated request finds the first one's generation, 1 to 255 bytes.
    #[must_use]
    pub fn idempotency_key(&self) -> Option<String> {
        self.text("idempotency_key")
    }

    /// What makes two requests under one idempotency key the same: every member but those that say
    /// how the answer travels (`type`, `stream_id`, `stream`, the key itself), in an order of its
    /// own. A create that was sent on a WebSocket and is repeated over HTTP finds its generation.
    #[must_use]
    pub fn fingerprint(&self) -> Vec<u8> {
        let travels = ["type", "stream_id", "stream", "idempotency_key"];
        let mut members: Vec<(&str, &str)> = self
            .raw
            .iter()
            .map(|(name, raw)| (name, raw.get()))
            .filter(|(name, _)| !travels.contains(name))
            .collect();
        members.sort_unstable();
        let mut out = Vec::new();
        for (name, value) in members {
            for piece in [name, "\0", value, "\0"] {
                out.extend_from_slice(piece.as_bytes());
            }
        }
        out
    }

    /// The lane of the WebSocket, 1 to 256 of `[A-Za-z0-9_.-]`.
    #[must_use]
    pub fn stream_id(&self) -> Option<String> {
        self.text("stream_id")
    }

    /// The type of the WebSocket message that the request came in.
    #[must_use]
    pub fn message_type(&self) -> Option<String> {
        self.text("type")
    }

    /// The input as items, each with its `id`; messages with `type`, `status` and their content as
    /// parts.
    ///
    /// Ids that the client did not give are made once, when the request is read, and stay.
    /// References to earlier items are left out, since what they refer to is in the history
    /// already.
    #[must_use]
    pub fn input_items(&self) -> Vec<Box<RawValue>> {
        self.input()
            .map(|input| item::listed(&input, &self.item_ids))
            .unwrap_or_default()
    }

    /// The body of a streaming chat completion that asks for the same, `history` being the items of
    /// the earlier turns in their order.
    ///
    /// Accepted and not sent: `reasoning` items (a chat server either ignores or refuses them),
    /// `id`, `status` and `phase` of items, `annotations` and `logprobs` of texts, references to
    /// items of the history (which are sent anyway), `metadata`, `store`, `background`,
    /// `previous_response_id`, `max_tool_calls` (it bounds built-in tools, of which there are
    /// none), `truncation: "disabled"`, `reasoning.summary: "auto"` (which leaves the choice to the
    /// server), and what has no effect without tools (an empty list of them, `parallel_tool_calls`,
    /// a `tool_choice` of `auto` or `none`).
    ///
    /// # Errors
    /// `unsupported_parameter` for what a chat request cannot say, `invalid_type`, `invalid_value`
    /// or `missing_required_parameter` for items, parts and tools that are not as they must be.
    /// Each names the parameter, down to the part.
    pub fn to_chat(&self, history: &[Box<RawValue>], model: &str) -> Result<Vec<u8>, ApiError> {
        translation::to_chat(&self.raw, history, model)
    }

    /// The body for an upstream that speaks Responses: as it came, less the gateway's own members,
    /// `background` and `previous_response_id`; with `history` before the input, `stream: true` and
    /// `store: false`.
    #[must_use]
    pub fn to_responses(&self, history: &[Box<RawValue>], model: &str) -> Vec<u8> {
        let mut raw = self.raw.clone();
        for name in ENVELOPE
            .iter()
            .chain(&["background", "previous_response_id"])
        {
            raw.remove(name);
        }
        raw.set("model", model);
        raw.insert_raw("stream", RawValue::TRUE.to_owned());
        raw.insert_raw("store", RawValue::FALSE.to_owned());
        if !history.is_empty()
            && let Some(input) = self.input()
        {
            raw.insert_raw("input", super::json::raw_value(joined(history, &input)));
        }
        raw.to_bytes()
    }

    /// The members that the response object repeats.
    #[must_use]
    pub fn echo(&self) -> RequestFields {
        RequestFields::from_responses(&self.raw)
    }

    fn input(&self) -> Option<Node<'_>> {
        self.raw.node("input")
    }

    fn text(&self, name: &str) -> Option<String> {
        Some(self.raw.get_str(name)?.into_owned())
    }
}

impl fmt::Debug for ResponsesRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponsesRequest")
            .field("model", &self.model())
            .field("stream", &self.stream())
            .field("background", &self.background())
            .field("items", &self.item_ids.len())
            .finish_non_exhaustive()
    }
}

/// The history's items and then the input's, as one array. References to the former are dropped,
/// for the upstream does not know our ids.
fn joined(history: &[Box<RawValue>], input: &Node<'_>) -> String {
    let mut known = super::messages::HistoryIds::new(history);
    let mut items: Vec<String> = history.iter().map(|item| item.get().to_owned()).collect();
    match input.array() {
        Ok(list) => items.extend(
            list.iter()
                .filter(|item| !known.resolves(item))
                .map(|item| item.raw.get().to_owned()),
        ),
        Err(_) => {
            let mut out = String::new();
            let mut item = ObjectWriter::begin(&mut out);
            item.raw("type", "\"message\"");
            item.raw("role", "\"user\"");
            item.raw("content", input.raw.get());
            item.end();
            items.push(out);
        }
    }
    let mut out = String::new();
    push_array(&mut out, &items, |out, item| out.push_str(item));
    out
}

pub(super) fn both_dialects() -> ApiError {
    let message = "Invalid value for 'messages': expected either 'input' (a responses request) or 'messages' (a chat request), but got both. Leave one out.";
    ApiError::new(ErrorCode::InvalidValue, message).param("messages")
}

// === checks ===

impl Shape {
    fn check(self, node: &Node<'_>) -> Result<(), ApiError> {
        match self {
            Self::Text => node.text().map(drop),
            Self::Boolean => node.boolean().map(drop),
            Self::Number(low, high) => node.number(low, high).map(drop),
            Self::Integer(low, high) => node.integer(low, high).map(drop),
            Self::Object => node.of_kind(Kind::Object).map(drop),
            Self::TextOrObject if node.kind() == Kind::String => node.text().map(drop),
            Self::TextOrObject if node.kind() == Kind::Object => Ok(()),
            Self::TextOrObject => Err(node.wrong_type("a string or an object")),
            Self::ArrayOf(kind) => node
                .array()?
                .iter()
                .try_for_each(|element| element.of_kind(kind).map(drop)),
        }
    }
}

/// The member at a path of one or two names; `None` where it is absent or `null`.
fn find<'a>(raw: &'a RawObject, path: &str) -> Result<Option<Node<'a>>, ApiError> {
    match path.split_once('.') {
        None => Ok(raw.node(path)),
        Some((outer, inner)) => match raw.node(outer) {
            Some(node) => Ok(node.object()?.get(inner)),
            None => Ok(None),
        },
    }
}

fn check_metadata(raw: &RawObject) -> Result<(), ApiError> {
    let Some(node) = raw.node("metadata") else {
        return Ok(());
    };
    let object = node.object()?;
    if object.members.len() > METADATA_PAIRS {
        return Err(invalid(
            "metadata",
            &format!("at most {METADATA_PAIRS} pairs"),
            &object.members.len().to_string(),
        ));
    }
    for (key, value) in &object.members {
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

fn check_envelope(raw: &RawObject) -> Result<(), ApiError> {
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
    if let Some(key) = raw.get_str("idempotency_key")
        && !(1..=MAX_IDEMPOTENCY_KEY).contains(&key.len())
    {
        return Err(invalid(
            "idempotency_key",
            &format!("1 to {MAX_IDEMPOTENCY_KEY} bytes"),
            &key.len().to_string(),
        ));
    }
    if let Some(webhook) = raw.node("webhook") {
        let object = webhook.object()?;
        object.require("url")?;
        object.only(
            &["url", "secret"],
            "A webhook takes 'url' and 'secret' and nothing else.",
        )?;
        if raw.get_bool("background") != Some(true) {
            let message = "Invalid value for 'webhook': it tells of the end of a background response, but this request has no \"background\": true.";
            return Err(ApiError::new(ErrorCode::InvalidValue, message).param("webhook"));
        }
    }
    if raw.get_bool("generate") == Some(false) {
        return Err(unsupported(
            "generate",
            "A request always generates here; leave 'generate' out.",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
