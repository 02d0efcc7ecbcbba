//! Responses: requests with the members that are meant for the gateway, read into canonical form,
//! and written from it.

mod content;
mod history_ids;
mod items;
mod read;
mod relay;
mod tools;
mod validation;
mod write;

pub use write::write;

use std::fmt;

use secrecy::SecretString;
use serde_json::value::RawValue;

use super::canonical::CanonicalRequest;
use super::fields::RequestFields;
use super::item::{self, ItemId};
use crate::model::error::{ApiError, ErrorCode};
use crate::model::json::{Node, RawObject, missing, raw_string, raw_value, read_object};
use history_ids::joined;
use validation::{GATEWAY_MEMBERS, find};

/// The advice for what only an upstream of this language has.
const REMEDY: &str = "Leave it out, or use an upstream that speaks the Responses API.";

/// The value of `include` that asks for log probabilities.
const LOGPROBS: &str = "message.output_text.logprobs";

/// The body of `POST /v1/responses` and of the WebSocket's `response.create`.
///
/// Types and ranges of the known members are checked when it is parsed, so the accessors return
/// valid values. `Debug` shows no contents.
#[derive(Clone)]
pub struct ResponsesRequest {
    raw: RawObject,
    /// For each item of the input in order: its id, or the prefix of the id that it gets.
    item_ids: Vec<ItemId>,
}

impl ResponsesRequest {
    /// Reads and checks a body.
    ///
    /// # Errors
    /// As [`RawObject::parse`]; `missing_required_parameter` without `input`; `invalid_type` and
    /// `invalid_value` that name the parameter for wrong types and ranges, and for repeated members
    /// of the objects that the gateway reads; `invalid_stream_id`;
    /// `invalid_value` if both `messages` and `input` are given; `unsupported_parameter` for
    /// unknown members of `webhook`; `invalid_value` for a `webhook` without `background: true`.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let (_, members) = read_object(body)?;
        Self::from_object(members.into())
    }

    /// As [`ResponsesRequest::parse`], for a request whose input may be missing because it names a
    /// conversation.
    ///
    /// # Errors
    /// As [`ResponsesRequest::parse`].
    pub fn parse_partial(body: &[u8]) -> Result<Self, ApiError> {
        let (_, members) = read_object(body)?;
        let mut raw = RawObject::from(members);
        if raw.get("input").is_none() && raw.get("previous_response_id").is_some() {
            raw.insert_raw("input", raw_value("[]".to_owned()));
        }
        Self::from_object(raw)
    }

    pub(super) fn from_object(raw: RawObject) -> Result<Self, ApiError> {
        if raw.get("messages").is_some() && raw.get("input").is_some() {
            return Err(both_dialects());
        }
        let input = raw.node("input").ok_or_else(|| missing("input"))?;
        validation::check(&raw)?;
        let item_ids = item::identify(&input)?;
        Ok(Self { raw, item_ids })
    }

    /// Makes the request of a bare `GET /v1/streams?input=…&model=…`.
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

    /// Any member as raw JSON, unknown ones included; `None` where it is absent or `null`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&RawValue> {
        self.raw.get(name)
    }

    /// The request as it was received, the gateway's own members included. White space between
    /// members is not kept.
    #[must_use]
    pub fn raw(&self) -> &RawObject {
        &self.raw
    }

    /// Returns the bytes that it holds.
    #[must_use]
    pub fn memory_size(&self) -> usize {
        let members = self.raw.iter();
        let members = members.map(|(name, raw)| name.len() + raw.get().len() + 40);
        let ids = self.item_ids.iter();
        let ids = ids.map(|id| id.as_ref().map_or(0, String::capacity) + 24);
        members.sum::<usize>() + ids.sum::<usize>()
    }

    /// The requested model.
    #[must_use]
    pub fn model(&self) -> Option<String> {
        self.text("model")
    }

    /// The instructions, which apply to this turn only.
    #[must_use]
    pub fn instructions(&self) -> Option<String> {
        self.text("instructions")
    }

    /// Whether the client asks for a stream.
    #[must_use]
    pub fn stream(&self) -> bool {
        self.raw.get_bool("stream").unwrap_or(false)
    }

    /// Whether the generation runs on without a reader.
    #[must_use]
    pub fn background(&self) -> bool {
        self.raw.get_bool("background").unwrap_or(false)
    }

    /// Whether the response is kept for later turns. Defaults to true.
    #[must_use]
    pub fn store(&self) -> bool {
        self.raw.get_bool("store").unwrap_or(true)
    }

    /// The response that this one continues.
    #[must_use]
    pub fn previous_response_id(&self) -> Option<String> {
        self.text("previous_response_id")
    }

    /// The address that is notified of the end, from `webhook: {"url"}`.
    #[must_use]
    pub fn webhook_url(&self) -> Option<String> {
        let node = find(&self.raw, "webhook", Some("url")).ok()??;
        Some(node.text().ok()?.into_owned())
    }

    /// The secret that signs the notification, from `webhook: {"secret"}`.
    #[must_use]
    pub fn webhook_secret(&self) -> Option<SecretString> {
        let node = find(&self.raw, "webhook", Some("secret")).ok()??;
        Some(SecretString::from(node.text().ok()?.into_owned()))
    }

    /// The key under which a repeated request finds the generation of the first, 1 to 255 bytes.
    #[must_use]
    pub fn idempotency_key(&self) -> Option<String> {
        self.text("idempotency_key")
    }

    /// Returns the bytes that two requests under one idempotency key must have in common: every
    /// member in sorted order, except those that select the transport (`type`, `stream_id`,
    /// `stream`) and the key. So a create on a WebSocket can be repeated over HTTP.
    #[must_use]
    pub fn fingerprint(&self) -> Vec<u8> {
        let transport = ["type", "stream_id", "stream", "idempotency_key"];
        let mut members: Vec<(&str, &str)> = self
            .raw
            .iter()
            .map(|(name, raw)| (name, raw.get()))
            .filter(|(name, _)| !transport.contains(name))
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

    /// The WebSocket lane, 1 to 256 of `[A-Za-z0-9_.-]`.
    #[must_use]
    pub fn stream_id(&self) -> Option<String> {
        self.text("stream_id")
    }

    /// The type of the WebSocket message, `response.create`.
    #[must_use]
    pub fn message_type(&self) -> Option<String> {
        self.text("type")
    }

    /// Reads the request into canonical form. `history` are the items of the earlier turns in their
    /// order.
    ///
    /// Accepted and not read: `id`, `status` and `phase` of items, `annotations` and `logprobs` of
    /// texts, references to items of the history (which are there in full), `store`, `background`,
    /// `previous_response_id`, `max_tool_calls` (it limits built-in tools), `truncation: "disabled"`,
    /// summaries of reasoning, and values of `include` that only some upstreams can honour.
    ///
    /// # Errors
    /// `unsupported_parameter` for what no other language has; `invalid_type`, `invalid_value` or
    /// `missing_required_parameter` for invalid items, parts and tools. Each names the parameter,
    /// down to the part.
    pub fn canonical<'a>(
        &'a self,
        history: &[&'a RawValue],
    ) -> Result<CanonicalRequest<'a>, ApiError> {
        read::read(&self.raw, history)
    }

    /// Returns the body for an upstream that speaks Responses: as it was received, without the
    /// gateway's own members, `background` and `previous_response_id`; with `history` before the
    /// input, `stream: true` and `store: false`.
    #[must_use]
    pub fn to_responses(&self, history: &[&RawValue], model: &str) -> Vec<u8> {
        let mut raw = self.raw.clone();
        for name in GATEWAY_MEMBERS
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
            raw.insert_raw("input", raw_value(joined(history, &input)));
        }
        raw.to_bytes()
    }

    /// The members of the request that its response object repeats.
    #[must_use]
    pub fn request_fields(&self) -> RequestFields {
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

pub(super) fn both_dialects() -> ApiError {
    let message = "Invalid value for 'messages': expected either 'input' (a responses request) or 'messages' (a chat request), but got both. Leave one out.";
    ApiError::new(ErrorCode::InvalidValue, message).param("messages")
}

#[cfg(test)]
mod tests;
