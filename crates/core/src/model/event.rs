//! The events of a generation, as Open Responses defines them, without transport and JSON.
//!
//! An event does not repeat an earlier one. `….done` events name the item, and the terminal event
//! names the outcome. The dialects add the rest from the snapshot, so a log holds a text once, not
//! five times.

use std::fmt;

use crate::model::folded_json::FoldedJson;
use crate::model::id::GenerationId;
use serde::{Deserialize, Serialize};

/// One event. Its number follows from its position in the log.
///
/// The stored form is read in a second place, by [`crate::dialect`] for chat readers.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub enum EventKind {
    /// `response.created`: always the first event.
    Created,
    /// `response.queued`: a background generation waits to be started.
    Queued,
    /// `response.in_progress`: the upstream has sent its first chunk.
    InProgress,
    /// `response.output_item.added`. Items are numbered in the order of opening. The number is the
    /// `output_index`.
    ItemAdded {
        /// The item's number.
        item: u32,
        /// The item's type and constant fields.
        head: ItemHead,
    },
    /// `response.content_part.added` of an item. Parts are numbered within their item.
    PartAdded {
        /// The item's number.
        item: u32,
        /// The part's number.
        part: u32,
        /// The type of the part.
        kind: PartKind,
    },
    /// `response.output_text.delta`, `….refusal.delta`, `….reasoning_text.delta`,
    /// `….function_call_arguments.delta` or `….custom_tool_call_input.delta`.
    Delta {
        /// The item and part that the text is appended to.
        target: DeltaTarget,
        /// The JSON-escaped text, without quotes.
        text: String,
        /// The upstream's `logprobs.content` array, raw JSON, if it sent one.
        logprobs: Option<String>,
    },
    /// `response.output_text.annotation.added`, the annotation as raw JSON in the Responses shape.
    Annotation {
        /// The item's number.
        item: u32,
        /// The part's number.
        part: u32,
        /// The annotation's number within the part.
        index: u32,
        /// The annotation object.
        json: String,
    },
    /// `….done` of a part's text or refusal, or of a reasoning text.
    TextDone {
        /// The item's number.
        item: u32,
        /// The part's number.
        part: u32,
    },
    /// `response.function_call_arguments.done`, or `response.custom_tool_call_input.done`.
    ArgumentsDone {
        /// The item's number.
        item: u32,
    },
    /// `response.content_part.done`.
    PartDone {
        /// The item's number.
        item: u32,
        /// The part's number.
        part: u32,
    },
    /// `response.output_item.done`.
    ItemDone {
        /// The item's number.
        item: u32,
        /// Whether the item's status is `completed` or `incomplete`.
        complete: bool,
        /// A JSON object that is kept with the item and that clients are not shown: how its content
        /// goes back to the upstream.
        private: Option<Box<str>>,
    },
    /// `tokenwire:chunk`: an upstream chunk that maps to no other event. The chunk is the record's
    /// raw data.
    Chunk,
    /// An event of a Responses upstream.
    Relayed(Relayed),
    /// `tokenwire:continued`: the upstream failed here, and another one continues the text.
    Continued {
        /// The other upstream's name.
        upstream: String,
    },
    /// The terminal event.
    End(Outcome),
}

/// The type and constant fields of an output item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ItemHead {
    /// An assistant's message.
    Message {
        /// The chat choice that it comes from.
        choice: u32,
    },
    /// Reasoning.
    Reasoning {
        /// The chat choice that it comes from.
        choice: u32,
    },
    /// A function call.
    FunctionCall {
        /// The chat choice that it comes from.
        choice: u32,
        /// The call's id, unique in the response.
        call_id: String,
        /// The function's name, JSON-escaped.
        name: String,
        /// The raw provider fields (`extra_content`), which go back with the call in the next turn.
        extra: Option<Box<str>>,
        /// The function's namespace, JSON-escaped.
        namespace: Option<Box<str>>,
    },
    /// A call of a custom tool, whose input is free text.
    CustomToolCall {
        /// The chat choice that it comes from.
        choice: u32,
        /// The call's id, unique in the response.
        call_id: String,
        /// The tool's name, JSON-escaped.
        name: String,
        /// The tool's namespace, JSON-escaped.
        namespace: Option<Box<str>>,
    },
    /// An image (`image_generation_call`).
    Image {
        /// The chat choice that it comes from.
        choice: u32,
        /// The base64 data, JSON-escaped; `None` for an image that is referred to by a URL.
        result: Option<String>,
    },
}

impl EventKind {
    /// Whether it ends a text, a part, an item or the answer, and repeats only what came before.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        matches!(
            self,
            Self::TextDone { .. }
                | Self::ArgumentsDone { .. }
                | Self::PartDone { .. }
                | Self::ItemDone { .. }
                | Self::End(_)
        )
    }
}

impl ItemHead {
    /// Returns the chat choice that the item comes from.
    pub(crate) fn choice(&self) -> u32 {
        match self {
            Self::Message { choice }
            | Self::Reasoning { choice }
            | Self::FunctionCall { choice, .. }
            | Self::CustomToolCall { choice, .. }
            | Self::Image { choice, .. } => *choice,
        }
    }

    /// Returns true for a message of the first choice, whose text is the bare answer.
    pub(crate) fn is_first_message(&self) -> bool {
        matches!(self, Self::Message { choice: 0 })
    }

    /// Returns the memory that the head holds beside its own size, in bytes.
    pub(crate) fn memory_size(&self) -> usize {
        let length = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
        match self {
            Self::Message { .. } | Self::Reasoning { .. } => 0,
            Self::FunctionCall {
                call_id,
                name,
                extra,
                namespace,
                ..
            } => call_id.len() + name.len() + length(extra) + length(namespace),
            Self::CustomToolCall {
                call_id,
                name,
                namespace,
                ..
            } => call_id.len() + name.len() + length(namespace),
            Self::Image { result, .. } => result.as_ref().map_or(0, String::len),
        }
    }

    /// Returns the head without the data of an image, which may be large.
    pub(crate) fn without_content(&self) -> Self {
        match self {
            Self::Image { choice, .. } => Self::Image {
                choice: *choice,
                result: None,
            },
            other => other.clone(),
        }
    }
}

/// The type of a content part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PartKind {
    /// `output_text`
    Text,
    /// `refusal`
    Refusal,
    /// `reasoning_text`
    Reasoning,
}

/// The place that a delta's text is appended to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaTarget {
    /// The item's number.
    pub item: u32,
    /// The part's number; 0 for arguments and input.
    pub part: u32,
    /// The kind of delta.
    pub kind: DeltaKind,
}

/// The kinds of delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeltaKind {
    /// `response.output_text.delta`
    Text,
    /// `response.refusal.delta`
    Refusal,
    /// `response.reasoning_text.delta`
    Reasoning,
    /// `response.function_call_arguments.delta`
    Arguments,
    /// `response.custom_tool_call_input.delta`
    Input,
}

/// An event of a Responses upstream, with the gateway's ids and number.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Relayed {
    /// The event's `type`.
    pub name: String,
    /// The event's JSON, with `sequence_number`, `response.id` and `previous_response_id` replaced.
    /// That of a [closing event](Self::is_closing) is [folded](FoldedJson).
    pub json: String,
}

impl Relayed {
    /// Returns true if the event has a piece of text, reasoning, refusal or arguments.
    pub(crate) fn is_delta(&self) -> bool {
        self.name.ends_with(".delta")
    }

    /// Returns true if the event ends a text, a part or an item, and repeats its text.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.name.ends_with(".done")
    }
}

/// How a generation ended.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The kind of ending.
    pub ending: Ending,
    /// Unix time of the end, in seconds.
    pub at: u64,
    /// The usage as raw JSON in the Responses shape, if the upstream sent it.
    pub usage: Option<String>,
    /// The raw response object of a Responses upstream's terminal event, with the gateway's ids.
    pub relayed: Option<FoldedJson>,
}

/// The three terminal events, and cancellation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// `response.completed`
    Completed,
    /// `response.incomplete` with `max_output_tokens` or `content_filter`.
    Incomplete {
        /// The reason as Open Responses spells it.
        reason: String,
    },
    /// `response.failed`
    Failed(Failure),
    /// `response.incomplete`, the response's status `cancelled`.
    Cancelled,
}

/// Why a generation failed, as clients see it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// An error code of the gateway, or the upstream's own code.
    pub code: String,
    /// OpenAI's error type.
    pub kind: String,
    /// Human-readable message.
    pub message: String,
    /// Whether the same request may succeed when sent again.
    pub retryable: bool,
}

// === Debug ===
//
// Events hold message content, which must not reach a log through `{:?}`.

impl fmt::Debug for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Created => "Created",
            Self::Queued => "Queued",
            Self::InProgress => "InProgress",
            Self::ItemAdded { .. } => "ItemAdded",
            Self::PartAdded { .. } => "PartAdded",
            Self::Delta { target, text, .. } => {
                return f
                    .debug_struct("Delta")
                    .field("target", target)
                    .field("bytes", &text.len())
                    .finish_non_exhaustive();
            }
            Self::Annotation { .. } => "Annotation",
            Self::TextDone { .. } => "TextDone",
            Self::ArgumentsDone { .. } => "ArgumentsDone",
            Self::PartDone { .. } => "PartDone",
            Self::ItemDone { .. } => "ItemDone",
            Self::Chunk => "Chunk",
            Self::Continued { .. } => "Continued",
            Self::Relayed(relayed) => return relayed.fmt(f),
            Self::End(outcome) => return outcome.fmt(f),
        };
        f.write_str(name)
    }
}

impl fmt::Debug for Relayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relayed")
            .field("name", &self.name)
            .field("bytes", &self.json.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Failure {
    /// Omits the message: an upstream's message may quote the conversation.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure")
            .field("code", &self.code)
            .field("retryable", &self.retryable)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcome")
            .field("ending", &self.ending)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

/// Returns the id of the item with this number: the same in every event, in the response object and
/// on every node.
pub(crate) fn item_id(generation: &GenerationId, head: &ItemHead, item: u32) -> String {
    let prefix = match head {
        ItemHead::Message { .. } => "msg",
        ItemHead::Reasoning { .. } => "rs",
        ItemHead::FunctionCall { .. } => "fc",
        ItemHead::CustomToolCall { .. } => "ctc",
        ItemHead::Image { .. } => "ig",
    };
    format!("{prefix}_{}{item:04}", generation.suffix())
}
