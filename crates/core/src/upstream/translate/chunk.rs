//! The shape of a chat chunk, read as leniently as servers write it, and without copying.
//!
//! Every member is a raw value: a wrong type in a place that does not matter must not end an
//! answer.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::model::json;

/// A struct of raw members. Of a member that stands twice the last counts, as for most readers of
/// JSON; serde's own derive would refuse the object, and with it a piece of the answer.
macro_rules! raw_members {
    ($($(#[$doc:meta])* $name:ident { $($field:ident),* })*) => { $(
        $(#[$doc])*
        #[derive(Debug, Default)]
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
    /// A chunk or a whole completion.
    Chunk { choices, usage, error, base_resp, x_groq, obfuscation, p, object }

    /// One choice of a chunk.
    Choice { index, delta, message, text, finish_reason, logprobs, usage }

    /// What a choice adds.
    Delta { content, reasoning_content, reasoning, refusal, tool_calls, function_call, annotations }

    /// A piece of a tool call.
    ToolCall { index, id, function }

    /// What is called, and with what.
    Function { name, arguments }
}

/// Error, as an upstream tells it in the middle of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct UpstreamFault {
    pub(super) code: Option<String>,
    pub(super) message: Option<String>,
}

/// Parses `raw` if it is there and has the shape.
fn read<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>) -> Option<T> {
    serde_json::from_str(json::present(raw)?.get()).ok()
}

/// The elements of an array, or nothing.
fn list(raw: Option<&RawValue>) -> Vec<&RawValue> {
    // To ask serde for an array where there is none costs an error with its text; a delta's content
    // is asked every time.
    read(raw.filter(|raw| raw.get().starts_with('['))).unwrap_or_default()
}

/// A string's inside if it is a string and not empty.
fn text(raw: Option<&RawValue>) -> Option<&str> {
    json::string_inside(json::present(raw)?).filter(|inside| !inside.is_empty())
}

impl<'a> Chunk<'a> {
    /// The choices; `null`, a missing member and elements of another shape are none.
    pub(super) fn choices(&self) -> Vec<Choice<'a>> {
        // In one go where all elements are choices, and each on its own where some are not.
        match read(self.choices.filter(|raw| raw.get().starts_with('['))) {
            Some(choices) => choices,
            None => list(self.choices)
                .into_iter()
                .filter_map(|raw| read(Some(raw)))
                .collect(),
        }
    }

    /// Whether it says anything that only a chunk or completion says.
    pub(super) fn is_recognised(&self) -> bool {
        self.choices.is_some()
            || self.usage.is_some()
            || self.object.is_some()
            || self.x_groq.is_some()
            || self.base_resp.is_some()
    }

    /// Usage at the top, inside a choice (Moonshot) or under `x_groq`.
    pub(super) fn usage(&self, choices: &[Choice<'a>]) -> Option<&'a RawValue> {
        #[derive(Deserialize)]
        struct Groq<'a> {
            #[serde(borrow)]
            usage: Option<&'a RawValue>,
        }
        json::present(self.usage)
            .or_else(|| {
                choices
                    .iter()
                    .find_map(|choice| json::present(choice.usage))
            })
            .or_else(|| read::<Groq<'a>>(self.x_groq).and_then(|groq| json::present(groq.usage)))
    }

    /// An `error` member, or a `base_resp` (MiniMax) whose status is not 0.
    pub(super) fn fault(&self) -> Option<UpstreamFault> {
        if let Some(error) = json::present(self.error) {
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
    /// From an error object, a bare string, or anything else.
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
    /// Its index; missing and negative ones are 0.
    pub(super) fn index(&self) -> u32 {
        read(self.index).unwrap_or(0)
    }

    /// The delta; else the message of a whole completion; a legacy completion's `text` counts as
    /// content.
    pub(super) fn delta(&self) -> Delta<'a> {
        let mut delta: Delta<'a> = read(self.delta)
            .or_else(|| read(self.message))
            .unwrap_or_default();
        if delta.content.is_none() {
            delta.content = self.text;
        }
        delta
    }

    /// The finish reason, decoded. An empty string is one too: some servers mean "stop" by it.
    pub(super) fn finish_reason(&self) -> Option<String> {
        read(self.finish_reason)
    }

    /// `logprobs.content` or `logprobs.refusal`, if it holds anything.
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

    /// Whether `logprobs` is neither missing nor `null`.
    pub(super) fn has_logprobs(&self) -> bool {
        json::present(self.logprobs).is_some()
    }

    /// Whether the choice tells usage itself.
    pub(super) fn has_usage(&self) -> bool {
        json::present(self.usage).is_some()
    }
}

/// Text of a delta: borrowed from one string, or put together from a list of parts.
pub(super) type Text<'a> = Cow<'a, str>;

/// Text that is meant for people, and reasoning.
#[derive(Debug, Default)]
pub(super) struct Texts<'a> {
    pub(super) content: Option<Text<'a>>,
    pub(super) reasoning: Option<Text<'a>>,
}

impl<'a> Delta<'a> {
    /// The raw reasoning string: servers that send two names for it mean the same text.
    pub(super) fn reasoning_raw(&self) -> Option<&'a RawValue> {
        [self.reasoning_content, self.reasoning]
            .into_iter()
            .find(|raw| text(*raw).is_some())
            .flatten()
    }

    pub(super) fn texts(&self) -> Texts<'a> {
        let mut texts = Texts {
            content: text(self.content).map(Cow::Borrowed),
            reasoning: text(self.reasoning_raw()).map(Cow::Borrowed),
        };
        // Mistral: a list of parts, among them thinking.
        for part in list(self.content) {
            content_part(part, &mut texts);
        }
        texts
    }

    pub(super) fn refusal_text(&self) -> Option<&'a str> {
        text(self.refusal)
    }

    pub(super) fn tool_calls(&self) -> Vec<ToolCall<'a>> {
        list(self.tool_calls)
            .into_iter()
            .filter_map(|raw| read(Some(raw)))
            .collect()
    }

    /// The way of calling a function before there were tools.
    pub(super) fn legacy_call(&self) -> Option<ToolCall<'a>> {
        json::present(self.function_call).map(|function| ToolCall {
            index: None,
            id: None,
            function: Some(function),
        })
    }

    /// URL citations (OpenRouter, OpenAI), as Responses writes them.
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
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Part<'a> {
        #[serde(borrow)]
        text: Option<&'a RawValue>,
        #[serde(borrow)]
        thinking: Option<&'a RawValue>,
    }
    let Some(part) = read::<Part<'a>>(Some(raw)) else {
        return;
    };
    if let Some(piece) = text(part.text) {
        append(&mut texts.content, piece);
    }
    if let Some(piece) = text(part.thinking) {
        append(&mut texts.reasoning, piece);
    }
    for inner in list(part.thinking) {
        if let Some(piece) = read::<Part<'a>>(Some(inner)).and_then(|inner| text(inner.text)) {
            append(&mut texts.reasoning, piece);
        }
    }
}

fn append(text: &mut Option<Text<'_>>, piece: &str) {
    text.get_or_insert_default().to_mut().push_str(piece);
}

impl<'a> ToolCall<'a> {
    pub(super) fn index(&self) -> Option<u32> {
        read(self.index)
    }

    /// The call's id, escaped; `null` and `""` are none.
    pub(super) fn id(&self) -> Option<&'a str> {
        text(self.id)
    }

    fn function(&self) -> Function<'a> {
        read(self.function).unwrap_or_default()
    }

    /// The function's name, escaped; `null` and `""` are none.
    pub(super) fn name(&self) -> Option<&'a str> {
        text(self.function().name)
    }

    /// The arguments' raw member, where it is a string that is not empty.
    pub(super) fn arguments_raw(&self) -> Option<&'a RawValue> {
        self.function()
            .arguments
            .filter(|raw| text(Some(raw)).is_some())
    }

    /// A piece of the arguments, escaped. Some servers send an object where a string belongs: its
    /// JSON is the text.
    pub(super) fn arguments(&self) -> Option<Text<'a>> {
        let raw = json::present(self.function().arguments)?;
        match json::string_inside(raw) {
            Some(inside) => (!inside.is_empty()).then_some(Cow::Borrowed(inside)),
            None => Some(Cow::Owned(json::escape(raw.get()))),
        }
    }
}
