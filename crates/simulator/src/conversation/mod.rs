//! The content of a request of either API.

pub(crate) mod chat;
pub(crate) mod responses;

use serde_json::Value;

use crate::error::ApiError;

/// A checked request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Conversation {
    pub(crate) model: String,
    pub(crate) stream: bool,
    /// Messages (Responses: input items) in the conversation.
    pub(crate) messages: usize,
    /// The text of the last user message.
    pub(crate) question: String,
    /// The text of the user message before that.
    pub(crate) earlier_question: Option<String>,
    /// The result of a tool, if there is one after the last user message.
    pub(crate) tool_result: Option<String>,
    /// The media types (or the addresses) of the images in the last user message.
    pub(crate) images: Vec<String>,
    pub(crate) prompt_tokens: u64,
    pub(crate) tools: Vec<Tool>,
    pub(crate) tool_choice: ToolChoice,
    pub(crate) parallel_calls: bool,
    pub(crate) format: Format,
    pub(crate) reasons: bool,
    /// Responses only: whether the reasoning is sent as a summary.
    pub(crate) summary: bool,
    pub(crate) token_limit: Option<u64>,
    pub(crate) stops: Vec<String>,
    pub(crate) choices: usize,
    /// The number of alternatives for each token's log probability.
    pub(crate) logprobs: Option<usize>,
    pub(crate) seed: Option<u64>,
    pub(crate) include_usage: bool,
    pub(crate) obfuscation: bool,
}

/// A function that can be called.
#[derive(Debug, Clone)]
pub(crate) struct Tool {
    pub(crate) name: String,
    pub(crate) parameters: Value,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    #[default]
    Auto,
    None,
    Required,
    Named(String),
}

/// The required format of the answer's text.
#[derive(Debug, Clone, Default)]
pub(crate) enum Format {
    #[default]
    Text,
    Json,
    Schema(Value),
}

/// The most choices of one request, as with OpenAI.
const MAX_CHOICES: u64 = 128;

// === reading JSON ===

/// Returns a member that exists and is not null.
fn member<'a>(body: &'a Value, name: &str) -> Option<&'a Value> {
    body.get(name).filter(|value| !value.is_null())
}

fn text<'a>(body: &'a Value, name: &str) -> Result<Option<&'a str>, ApiError> {
    member(body, name)
        .map(|value| {
            value
                .as_str()
                .ok_or_else(|| ApiError::wrong_type(name, "a string", value))
        })
        .transpose()
}

fn flag(body: &Value, name: &str) -> Result<Option<bool>, ApiError> {
    member(body, name)
        .map(|value| {
            value
                .as_bool()
                .ok_or_else(|| ApiError::wrong_type(name, "a boolean", value))
        })
        .transpose()
}

fn whole(body: &Value, name: &str) -> Result<Option<u64>, ApiError> {
    member(body, name)
        .map(|value| {
            value
                .as_u64()
                .ok_or_else(|| ApiError::wrong_type(name, "an integer", value))
        })
        .transpose()
}

/// Returns a signed integer, such as the seed.
fn seed(body: &Value) -> Result<Option<u64>, ApiError> {
    let Some(value) = member(body, "seed") else {
        return Ok(None);
    };
    let seed = value
        .as_u64()
        .or_else(|| value.as_i64().map(i64::cast_unsigned));
    seed.map(Some)
        .ok_or_else(|| ApiError::wrong_type("seed", "an integer", value))
}

fn model(body: &Value) -> Result<String, ApiError> {
    match text(body, "model")? {
        Some(model) if !model.is_empty() => Ok(model.to_owned()),
        _ => Err(ApiError::bad_request("you must provide a model parameter")),
    }
}

/// Returns an estimate of the tokens of a prompt from its words, the same each time.
fn words(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}

/// Returns the media type of a `data:` URL, or else the URL.
fn media_type(address: &str) -> String {
    match address.strip_prefix("data:") {
        Some(data) => data
            .split([';', ','])
            .next()
            .unwrap_or_default()
            .chars()
            .take(64)
            .collect(),
        None => address.chars().take(200).collect(),
    }
}
