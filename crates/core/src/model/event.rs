//! What can happen in a generation: the events of Open Responses, without transport and without
//! JSON around them.
//!
//! An event does not repeat what an earlier one said. `….done` events name the item whose text is
//! already known, and the terminal event names the outcome; the dialects fill in the rest from the
//! [`Snapshot`](crate::model::snapshot::Snapshot). So a log holds a text once, not five times.

use std::fmt;

use crate::model::id::GenerationId;
use serde::{Deserialize, Serialize};

/// One numbered event. Its number is not in it: it follows from its place in the log.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub enum EventKind {
    /// `response.created`: always the first event.
    Created,
    /// `response.queued`: a background generation waits for its turn.
    Queued,
    /// `response.in_progress`: the upstream's first chunk came.
    InProgress,
    /// `response.output_item.added`. Items are numbered in the order of opening; that number is the
    /// `output_index`.
    ItemAdded {
        /// The item's number.
        item: u32,
        /// What it is.
        head: ItemHead,
    },
    /// `response.content_part.added` of an item. Parts are numbered within their item.
    PartAdded {
        /// The item's number.
        item: u32,
        /// The part's number.
        part: u32,
        /// What the part holds.
        kind: PartKind,
    },
    /// `response.output_text.delta`, `….refusal.delta`, `….reasoning_text.delta` or
    /// `….function_call_arguments.delta`.
    Delta {
        /// What the text belongs to.
        target: DeltaTarget,
        /// The text, JSON-escaped, as it stands between the quotes.
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
        /// Its number among the part's annotations.
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
    /// `response.function_call_arguments.done`.
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
        /// Whether the item is whole (`completed`) or was cut short (`incomplete`).
        complete: bool,
    },
    /// `tokenwire:chunk`: a chunk of the upstream's that says nothing in the vocabulary of events.
    /// The chunk is the record's raw.
    Chunk,
    /// An event of an upstream that speaks Responses itself.
    Relayed(Relayed),
    /// `tokenwire:continued`: the upstream broke off here, and this other one goes on from the text
    /// so far.
    Continued {
        /// The other upstream's name.
        upstream: String,
    },
    /// The terminal event.
    End(Outcome),
}

/// What an output item is, said when it opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ItemHead {
    /// An assistant's message.
    Message {
        /// The chat choice that it comes from.
        choice: u32,
    },
    /// Reasoning.
    Reasoning,
    /// A call of a function.
    FunctionCall {
        /// The call's id, unique in the response.
        call_id: String,
        /// The function's name, JSON-escaped.
        name: String,
    },
}

/// What a content part holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PartKind {
    /// `output_text`
    Text,
    /// `refusal`
    Refusal,
    /// `reasoning_text`
    Reasoning,
}

/// What a delta's text is appended to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaTarget {
    /// The item's number.
    pub item: u32,
    /// The part's number; 0 for arguments.
    pub part: u32,
    /// Which kind of delta it is.
    pub kind: DeltaKind,
    /// Whether the text dialect shows it: text or refusal of the first choice.
    pub plain: bool,
}

/// The four kinds of delta.
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
}

/// An event of an upstream that speaks Responses, already carrying our ids and number.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Relayed {
    /// Its `type`.
    pub name: String,
    /// The whole event, with `sequence_number`, `response.id` and `previous_response_id` mapped to
    /// ours.
    pub json: String,
    /// What a chat client sees of it.
    pub chat: ChatHint,
}

impl Relayed {
    /// Whether it brings a piece of text, reasoning, refusal or arguments.
    pub(crate) fn is_delta(&self) -> bool {
        self.name.ends_with(".delta")
    }
}

/// What a relayed Responses event is to a chat client. Worked out once, by the translator, which
/// knows what came before.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChatHint {
    /// Nothing.
    Nothing,
    /// The first chunk, which names the role.
    Role,
    /// A piece of text; `plain` as in [`DeltaTarget`].
    Text {
        /// The text, JSON-escaped.
        text: String,
        /// Whether the text dialect shows it.
        plain: bool,
        /// The tokens' log probabilities, a raw JSON array, if the upstream sent any.
        logprobs: Option<String>,
    },
    /// A piece of a refusal.
    Refusal {
        /// The text, JSON-escaped.
        text: String,
        /// Whether the text dialect shows it.
        plain: bool,
    },
    /// A piece of reasoning.
    Reasoning(String),
    /// A function call opens.
    CallAdded {
        /// Its place among the calls.
        index: u32,
        /// The call's id, JSON-escaped.
        call_id: String,
        /// The function's name, JSON-escaped.
        name: String,
        /// What is known of its arguments already, JSON-escaped: nothing, or all of them.
        arguments: String,
    },
    /// A piece of a call's arguments.
    CallArguments {
        /// The call's place among the calls.
        index: u32,
        /// The piece, JSON-escaped.
        text: String,
    },
    /// An annotation, raw JSON in chat's shape.
    Annotation(String),
}

/// How a generation ended.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The ending itself.
    pub ending: Ending,
    /// Unix time of the end, in seconds.
    pub at: u64,
    /// The usage, raw JSON in the Responses shape, if the upstream told it.
    pub usage: Option<String>,
    /// For an upstream that speaks Responses: its terminal event's response object, raw, ids
    /// mapped.
    pub relayed: Option<String>,
}

/// The three terminal events, and cancellation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// `response.completed`
    Completed {
        /// The chat `finish_reason` that says so, for chat chunks made from events.
        tool_calls: bool,
    },
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

/// Why a generation failed, as its reader may see it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// One of [`ErrorCode`](crate::model::error::ErrorCode)'s strings, or the upstream's own code.
    pub code: String,
    /// OpenAI's coarse class.
    pub kind: String,
    /// For people.
    pub message: String,
    /// Whether the same request may succeed when sent again.
    pub retryable: bool,
}

impl From<&crate::model::error::ApiError> for Failure {
    fn from(error: &crate::model::error::ApiError) -> Self {
        Self {
            code: error.code.as_deref().unwrap_or("upstream_error").to_owned(),
            kind: error.kind.to_string(),
            message: error.message.clone(),
            retryable: error.retryable,
        }
    }
}

// === Debug ===
//
// Events hold what people wrote and read. None of that may reach a log by way of a `{:?}`.

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

impl fmt::Debug for ChatHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatHint").finish_non_exhaustive()
    }
}

impl fmt::Debug for Failure {
    /// Without the message, which is the upstream's where the failure is, and may quote the
    /// conversation.
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

/// The id of the item with this number: the same in every event, in the response object and on
/// every node.
pub(crate) fn item_id(generation: &GenerationId, head: &ItemHead, item: u32) -> String {
    let prefix = match head {
        ItemHead::Message { .. } => "msg",
        ItemHead::Reasoning => "rs",
        ItemHead::FunctionCall { .. } => "fc",
    };
    format!("{prefix}_{}{item:04}", generation.suffix())
}
