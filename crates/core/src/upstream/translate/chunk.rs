//! The members of a chat chunk, read leniently and without copying.
//!
//! Every member is a raw value: a wrong type in an unimportant place must not end an answer.

use std::borrow::Cow;
use std::fmt;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::finish_reason::FinishReason;
use crate::model::json::{self, Members};

/// Defines structs of raw members. Of a repeated member the last one counts, as for most readers of
/// JSON. serde's derive would reject the object, and with it a piece of the answer.
macro_rules! raw_members {
    ($($(#[$doc:meta])* $name:ident { $($field:ident),* })*) => { $(
        $(#[$doc])*
        #[derive(Debug, Default)]
        #[allow(non_snake_case, reason = "named as the members are")]
        pub(super) struct $name<'a> {
            $(pub(super) $field: Option<&'a RawValue>),*
        }

        impl<'de: 'a, 'a> Deserialize<'de> for $name<'a> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                #[derive(Deserialize)]
                #[serde(field_identifier)]
                #[allow(non_camel_case_types, reason = "named as the members are")]
                enum Field {
                    $($field,)*
                    #[serde(other)]
                    Unknown,
                }
                struct Members;
                impl<'de> Visitor<'de> for Members {
                    type Value = $name<'de>;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                        let mut members = $name::default();
                        while let Some(field) = map.next_key()? {
                            let value = map.next_value::<&'de RawValue>()?;
                            match field {
                                $(Field::$field => members.$field = Some(value),)*
                                Field::Unknown => {}
                            }
                        }
                        Ok(members)
                    }
                }
                deserializer.deserialize_map(Members)
            }
        }
    )* };
}

raw_members! {
    /// A chunk or a completion.
    Chunk {
        choices, usage, usage_metadata, usageMetadata, token_usage, error, base_resp, x_groq,
        obfuscation, p, object
    }

    /// One choice of a chunk.
    Choice { index, delta, message, text, finish_reason, logprobs, usage }

    /// The delta or message of a choice.
    Delta {
        content, reasoning_content, reasoning, reasoning_text, thinking, thinking_content, thought,
        reasoning_details, thinking_blocks, refusal, tool_calls, function_call, annotations, images, audio, usage
    }

    /// A piece of a tool call.
    ToolCall { index, id, r#type, function, custom, extra_content, name, arguments }

    /// The function of a call and its arguments.
    Function { name, arguments }

    /// A custom tool and its input.
    Custom { name, input }

    /// An element of a list of content parts, images or reasoning details.
    Part {
        r#type, text, content, thinking, summary, image_url, url, b64_json, image_base64, data,
        source, inline_data, inlineData
    }

    /// Audio of a delta.
    Audio { data, transcript }
}

/// An error that an upstream reports within a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct UpstreamFault {
    pub(super) code: Option<String>,
    pub(super) message: Option<String>,
}

/// Parses `raw` if it is present and of this type.
fn read<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>) -> Option<T> {
    serde_json::from_str(json::present(raw)?.get()).ok()
}

/// Returns true if the name `usage` may occur in this JSON more than `known` times. Runs over every
/// chunk.
fn names_usage(json: &str, known: usize) -> bool {
    static NAME: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"usage\""));
    NAME.find_iter(json.as_bytes()).nth(known).is_some()
}

/// Returns the elements of an array; empty for other values.
fn list(raw: Option<&RawValue>) -> Vec<&RawValue> {
    // The check avoids the cost of a serde error: this runs for the content of every delta.
    read(raw.filter(|raw| raw.get().starts_with('['))).unwrap_or_default()
}

/// Returns the content of a string that is not empty.
pub(super) fn text(raw: Option<&RawValue>) -> Option<&str> {
    json::string_inside(json::present(raw)?).filter(|inside| !inside.is_empty())
}

impl<'a> Chunk<'a> {
    /// Returns the choices; empty for `null` and a missing member. Skips other elements.
    pub(super) fn choices(&self) -> Vec<Choice<'a>> {
        // Parse all at once; one by one only if some elements are no choices.
        match read(self.choices.filter(|raw| raw.get().starts_with('['))) {
            Some(choices) => choices,
            None => list(self.choices)
                .into_iter()
                .filter_map(|raw| read(Some(raw)))
                .collect(),
        }
    }

    /// Returns true if it has a member that is specific to chunks and completions.
    pub(super) fn is_recognised(&self) -> bool {
        self.choices.is_some()
            || self.usage.is_some()
            || self.object.is_some()
            || self.x_groq.is_some()
            || self.base_resp.is_some()
    }

    /// Returns the usage at the top, inside a choice (Moonshot) or its delta, or inside a member of
    /// the vendor such as `x_groq`. `text` is the JSON of the chunk.
    pub(super) fn usage(&self, text: &'a str, choices: &[Choice<'a>]) -> Option<&'a RawValue> {
        [
            self.usage,
            self.usage_metadata,
            self.usageMetadata,
            self.token_usage,
        ]
        .into_iter()
        .find_map(json::present)
        .or_else(|| choices.iter().find_map(Choice::own_usage))
        .or_else(|| {
            // The check avoids a second parse of nearly every chunk: most have one that is `null`.
            let is_elsewhere = names_usage(text, usize::from(self.usage.is_some()));
            let members: Members<'a> = is_elsewhere.then(|| serde_json::from_str(text).ok())??;
            members
                .iter()
                .filter(|(_, raw)| raw.get().starts_with('{') && names_usage(raw.get(), 0))
                .find_map(|(_, raw)| {
                    let vendor: Members<'a> = serde_json::from_str(raw.get()).ok()?;
                    vendor.get("usage")
                })
        })
    }

    /// Returns true for a `chat.completion`, false for a chunk and other objects.
    pub(super) fn is_completion(&self) -> bool {
        text(self.object) == Some("chat.completion")
    }

    /// Returns true for an object that is an error itself (vLLM).
    pub(super) fn is_error(&self) -> bool {
        text(self.object) == Some("error") && self.choices.is_none()
    }

    /// Returns the `error` member, unless that says nothing (`{}`, `""`, `false`), or a `base_resp` (MiniMax) whose status is not 0.
    pub(super) fn fault(&self) -> Option<UpstreamFault> {
        let says_nothing =
            |raw: &&RawValue| matches!(raw.get(), "{}" | "[]" | "\"\"" | "false" | "0");
        if let Some(error) = json::present(self.error).filter(|raw| !says_nothing(raw)) {
            return Some(UpstreamFault::read(error));
        }
        #[derive(Deserialize)]
        struct BaseResp {
            status_code: i64,
            #[serde(default)]
            status_msg: String,
        }
        let resp: BaseResp = read(self.base_resp)?;
        (resp.status_code != 0).then(|| UpstreamFault {
            code: Some(resp.status_code.to_string()),
            message: Some(resp.status_msg),
        })
    }
}

impl UpstreamFault {
    /// Returns true if it has a code or a message.
    pub(super) fn is_explained(&self) -> bool {
        self.code.is_some() || self.message.as_ref().is_some_and(|text| !text.is_empty())
    }

    /// Reads an error object, a string, or any other value.
    pub(super) fn read(raw: &RawValue) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Object {
            code: serde_json::Value,
            #[serde(rename = "type")]
            kind: serde_json::Value,
            message: serde_json::Value,
            error: serde_json::Value,
            detail: serde_json::Value,
        }
        let word = |value: &serde_json::Value| match value {
            serde_json::Value::String(text) if !text.is_empty() => Some(text.clone()),
            serde_json::Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        if let Ok(text) = serde_json::from_str::<String>(raw.get()) {
            return Self {
                code: None,
                message: Some(text),
            };
        }
        let object: Object = serde_json::from_str(raw.get()).unwrap_or_default();
        if object.error.is_object()
            && let Ok(inner) = serde_json::value::to_raw_value(&object.error)
        {
            return Self::read(&inner);
        }
        Self {
            code: word(&object.code).or_else(|| word(&object.kind)),
            message: word(&object.message)
                .or_else(|| word(&object.detail))
                .or_else(|| word(&object.error)),
        }
    }
}

impl<'a> Choice<'a> {
    /// Returns the index; 0 if it is missing or negative.
    pub(super) fn index(&self) -> u32 {
        read(self.index).unwrap_or(0)
    }

    /// Returns the delta. The `text` of a legacy completion is its content.
    pub(super) fn delta(&self) -> Delta<'a> {
        let mut delta: Delta<'a> = read(self.delta).unwrap_or_default();
        if delta.content.is_none() {
            delta.content = self.text;
        }
        delta
    }

    /// Returns the complete message, which some servers send at the end or instead of deltas.
    pub(super) fn message(&self) -> Option<Delta<'a>> {
        read(self.message)
    }

    /// Returns true if the choice has a complete message and no delta.
    pub(super) fn is_complete(&self) -> bool {
        let delta = json::present(self.delta).map_or("", RawValue::get);
        let is_empty = delta.trim_matches(['{', '}', ' ']).is_empty();
        json::present(self.message).is_some() && is_empty
    }

    /// Returns the finish reason; `None` while the answer goes on.
    pub(super) fn finish_reason(&self) -> Option<FinishReason> {
        FinishReason::read(self.finish_reason?)
    }

    /// Returns `logprobs.content` or `logprobs.refusal` if it is not empty.
    pub(super) fn logprobs(&self) -> Option<&'a RawValue> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Logprobs<'a> {
            #[serde(borrow)]
            content: Option<&'a RawValue>,
            #[serde(borrow)]
            refusal: Option<&'a RawValue>,
        }
        let logprobs: Logprobs<'a> = read(self.logprobs)?;
        [logprobs.content, logprobs.refusal]
            .into_iter()
            .flatten()
            .find(|raw| !list(Some(raw)).is_empty())
    }

    /// Returns true if `logprobs` is neither missing nor `null`.
    pub(super) fn has_logprobs(&self) -> bool {
        json::present(self.logprobs).is_some()
    }

    /// Returns the usage within the choice or its delta.
    pub(super) fn own_usage(&self) -> Option<&'a RawValue> {
        json::present(self.usage).or_else(|| {
            // The check avoids a second parse of nearly every delta.
            let delta = self.delta.filter(|raw| names_usage(raw.get(), 0));
            json::present(read::<Delta<'a>>(delta)?.usage)
        })
    }
}

/// Text of a delta: borrowed from one string, or concatenated from a list of parts.
pub(super) type Text<'a> = Cow<'a, str>;

/// Content and reasoning of a delta.
#[derive(Debug, Default)]
pub(super) struct Texts<'a> {
    pub(super) content: Option<Text<'a>>,
    pub(super) reasoning: Option<Text<'a>>,
    pub(super) images: Vec<Image<'a>>,
}

/// An image of a delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Image<'a> {
    /// Base64 data, JSON-escaped.
    Data(&'a str),
    /// An image that is referred to by its URL.
    Remote,
}

impl<'a> Image<'a> {
    /// Reads an element of `images`, or an image part of the content.
    fn read(raw: &'a RawValue) -> Option<Self> {
        if let Some(url) = text(Some(raw)) {
            return Some(Self::of_url(url));
        }
        let part: Part<'a> = read(Some(raw))?;
        let inline = [part.source, part.inline_data, part.inlineData]
            .into_iter()
            .find_map(read::<Part<'a>>)
            .and_then(|source| source.data);
        if let Some(data) = [part.b64_json, part.image_base64, part.data, inline]
            .into_iter()
            .find_map(text)
        {
            return Some(Self::of_url(data).unless_remote(data));
        }
        let nested: Option<Part<'a>> = read(part.image_url);
        [
            text(part.image_url),
            nested.and_then(|part| text(part.url)),
            text(part.url),
        ]
        .into_iter()
        .flatten()
        .next()
        .map(Self::of_url)
    }

    /// Returns the data of a data URL, else `data` itself.
    fn unless_remote(self, data: &'a str) -> Self {
        match self {
            Self::Data(inner) => Self::Data(inner),
            Self::Remote => Self::Data(data),
        }
    }

    /// Classifies a JSON-escaped URL.
    fn of_url(url: &'a str) -> Self {
        url.strip_prefix("data:")
            .and_then(|rest| rest.split_once(";base64,"))
            .map_or(Self::Remote, |(_, data)| Self::Data(data))
    }
}

impl<'a> Delta<'a> {
    /// Returns the raw reasoning string. Servers that send two names for it mean the same text.
    pub(super) fn reasoning_raw(&self) -> Option<&'a RawValue> {
        [
            self.reasoning_content,
            self.reasoning,
            self.reasoning_text,
            self.thinking,
            self.thinking_content,
            self.thought,
        ]
        .into_iter()
        .find(|raw| text(*raw).is_some())
        .flatten()
    }

    /// Returns reasoning that is not one string: objects and lists of parts.
    fn reasoning_parts(&self) -> Option<Text<'a>> {
        [
            self.reasoning_details,
            self.thinking_blocks,
            self.reasoning_content,
            self.reasoning,
            self.thinking,
            self.thought,
        ]
        .into_iter()
        .find_map(|raw| {
            let mut reasoning = None;
            reasoning_part(json::present(raw)?, &mut reasoning, MAX_NESTING);
            reasoning
        })
    }

    /// The members that hold reasoning as one string, by name.
    pub(super) fn reasoning_strings(&self) -> [(&'static str, Option<&'a RawValue>); 6] {
        [
            ("reasoning_content", self.reasoning_content),
            ("reasoning", self.reasoning),
            ("reasoning_text", self.reasoning_text),
            ("thinking", self.thinking),
            ("thinking_content", self.thinking_content),
            ("thought", self.thought),
        ]
    }

    /// The members that hold reasoning as a list of objects, by name.
    pub(super) fn reasoning_lists(&self) -> [(&'static str, Vec<&'a RawValue>); 2] {
        [
            ("reasoning_details", list(self.reasoning_details)),
            ("thinking_blocks", list(self.thinking_blocks)),
        ]
    }

    /// Returns true if the delta has a list of reasoning objects.
    pub(super) fn has_reasoning_list(&self) -> bool {
        self.reasoning_details.is_some() || self.thinking_blocks.is_some()
    }

    /// Returns content, reasoning and images.
    pub(super) fn texts(&self) -> Texts<'a> {
        let mut texts = Texts {
            content: text(self.content).map(Cow::Borrowed),
            reasoning: None,
            images: Vec::new(),
        };
        // Mistral sends a list of parts, which includes thinking.
        for part in list(self.content) {
            content_part(part, &mut texts);
        }
        // The strings, the details and the parts hold the same text where a server sends several.
        if let Some(reasoning) = text(self.reasoning_raw()) {
            texts.reasoning = Some(Cow::Borrowed(reasoning));
        } else if texts.reasoning.is_none() {
            texts.reasoning = self.reasoning_parts();
        }
        if texts.content.is_none() {
            let audio = self.audio().and_then(|audio| text(audio.transcript));
            texts.content = audio.map(Cow::Borrowed);
        }
        texts
            .images
            .extend(list(self.images).into_iter().filter_map(Image::read));
        texts
    }

    fn audio(&self) -> Option<Audio<'a>> {
        read(self.audio.filter(|raw| raw.get().starts_with('{')))
    }

    /// Returns true if the delta has audio data.
    pub(super) fn has_audio(&self) -> bool {
        self.audio().is_some_and(|audio| text(audio.data).is_some())
    }

    pub(super) fn refusal_text(&self) -> Option<&'a str> {
        text(self.refusal)
    }

    pub(super) fn tool_calls(&self) -> Vec<ToolCall<'a>> {
        // Some servers send a single call without its list.
        if let Some(raw) = self.tool_calls.filter(|raw| raw.get().starts_with('{')) {
            return read(Some(raw)).into_iter().collect();
        }
        list(self.tool_calls)
            .into_iter()
            .filter_map(|raw| read(Some(raw)))
            .collect()
    }

    /// Returns the deprecated `function_call` as a tool call.
    pub(super) fn legacy_call(&self) -> Option<ToolCall<'a>> {
        json::present(self.function_call).map(|function| ToolCall {
            function: Some(function),
            ..ToolCall::default()
        })
    }

    /// Returns URL citations (OpenRouter, OpenAI) in the Responses shape.
    pub(super) fn annotations(&self) -> Vec<String> {
        #[derive(Deserialize)]
        struct Annotation {
            url_citation: Citation,
        }
        #[derive(Deserialize)]
        struct Citation {
            url: String,
            #[serde(default)]
            title: String,
            #[serde(default)]
            start_index: u64,
            #[serde(default)]
            end_index: u64,
        }
        list(self.annotations)
            .into_iter()
            .filter_map(|raw| read::<Annotation>(Some(raw)))
            .map(|Annotation { url_citation: c }| {
                serde_json::json!({"type": "url_citation", "url": c.url, "title": c.title, "start_index": c.start_index, "end_index": c.end_index}).to_string()
            })
            .collect()
    }
}

fn content_part<'a>(raw: &'a RawValue, texts: &mut Texts<'a>) {
    let Some(part) = read::<Part<'a>>(Some(raw)) else {
        return;
    };
    let kind = text(part.r#type).unwrap_or_default();
    let reasoning = kind.contains("thinking") || kind.contains("reasoning");
    if let Some(piece) = text(part.text) {
        let into = if reasoning {
            &mut texts.reasoning
        } else {
            &mut texts.content
        };
        append(into, piece);
    }
    for nested in [part.thinking, part.summary].into_iter().flatten() {
        reasoning_part(nested, &mut texts.reasoning, MAX_NESTING);
    }
    if kind.contains("image") {
        texts.images.extend(Image::read(raw));
    }
}

/// Levels of reasoning parts that are read.
const MAX_NESTING: u32 = 4;

/// Appends the text of a reasoning part: a string, an object with a text, or a list of these.
fn reasoning_part<'a>(raw: &'a RawValue, reasoning: &mut Option<Text<'a>>, levels: u32) {
    if let Some(piece) = text(Some(raw)) {
        append(reasoning, piece);
    } else if levels > 0 && raw.get().starts_with('[') {
        for inner in list(Some(raw)) {
            reasoning_part(inner, reasoning, levels - 1);
        }
    } else if levels > 0
        && let Some(part) = read::<Part<'a>>(Some(raw).filter(|raw| raw.get().starts_with('{')))
    {
        let nested = [part.text, part.thinking, part.content, part.summary];
        if let Some(inner) = nested.into_iter().find_map(json::present) {
            reasoning_part(inner, reasoning, levels - 1);
        }
    }
}

fn append(text: &mut Option<Text<'_>>, piece: &str) {
    text.get_or_insert_default().to_mut().push_str(piece);
}

impl<'a> ToolCall<'a> {
    /// Returns the index; `None` if it is missing or no index. Some servers write it as a string
    /// or a float.
    pub(super) fn index(&self) -> Option<u32> {
        let raw = json::present(self.index)?.get();
        raw.parse().ok().or_else(|| {
            let float: f64 = raw.trim_matches('"').parse().ok()?;
            (float.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&float))
                .then_some(float as u32)
        })
    }

    /// Returns the JSON-escaped id of the call, unless it is `null` or `""`.
    pub(super) fn id(&self) -> Option<&'a str> {
        text(self.id)
    }

    /// Returns true for a call of a custom tool.
    pub(super) fn is_custom(&self) -> bool {
        json::present(self.custom).is_some()
            || (text(self.r#type) == Some("custom") && json::present(self.function).is_none())
    }

    /// Returns the raw provider fields, which go back with the call in the next turn.
    pub(super) fn extra_content(&self) -> Option<&'a RawValue> {
        json::present(self.extra_content)
    }

    fn function(&self) -> Function<'a> {
        read(self.function).unwrap_or_default()
    }

    fn custom(&self) -> Custom<'a> {
        read(self.custom).unwrap_or_default()
    }

    /// Returns the JSON-escaped name of the tool, unless it is `null` or `""`. Some servers write
    /// it beside the id instead of in `function`, and the arguments too.
    pub(super) fn name(&self) -> Option<&'a str> {
        [self.function().name, self.custom().name, self.name]
            .into_iter()
            .find_map(text)
    }

    /// Returns the raw arguments or input if they are a string that is not empty.
    pub(super) fn arguments_raw(&self) -> Option<&'a RawValue> {
        [
            self.function().arguments,
            self.custom().input,
            self.arguments,
        ]
        .into_iter()
        .find(|raw| text(*raw).is_some())
        .flatten()
    }

    /// Returns a JSON-escaped piece of the arguments or input. Some servers send an object instead
    /// of a string; its JSON is the text.
    pub(super) fn arguments(&self) -> Option<Text<'a>> {
        let raw = json::present(self.function().arguments)
            .or_else(|| json::present(self.custom().input))
            .or_else(|| json::present(self.arguments))?;
        match json::string_inside(raw) {
            Some(inside) => (!inside.is_empty()).then_some(Cow::Borrowed(inside)),
            None => Some(Cow::Owned(json::escape(raw.get()))),
        }
    }
}
