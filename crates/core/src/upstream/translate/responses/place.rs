//! The content that an event of an item belongs to.

use crate::model::json::Members;
use crate::upstream::translate::opened_items::List;

/// The kinds of content that an event of an item can belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Text,
    Refusal,
    Reasoning,
    Summary,
    Arguments,
    Input,
    /// A `….part.added` or `….part.done` event.
    PartAdded(List),
    PartDone(List),
}

impl Place {
    /// Returns the place of an event of this name.
    pub(super) fn of(name: &str) -> Option<Self> {
        let name = name.strip_prefix("response.")?;
        let (place, _) = name.rsplit_once('.')?;
        Some(match (place, name) {
            (_, "content_part.added") => Self::PartAdded(List::Content),
            (_, "reasoning_summary_part.added") => Self::PartAdded(List::Summary),
            (_, "content_part.done") => Self::PartDone(List::Content),
            (_, "reasoning_summary_part.done") => Self::PartDone(List::Summary),
            ("output_text", "output_text.delta" | "output_text.done") => Self::Text,
            ("refusal", _) => Self::Refusal,
            ("reasoning_text" | "reasoning", _) => Self::Reasoning,
            ("reasoning_summary_text", _) => Self::Summary,
            ("function_call_arguments", _) => Self::Arguments,
            ("custom_tool_call_input", _) => Self::Input,
            _ => return None,
        })
    }

    /// Returns the place of a part of a complete item.
    pub(super) fn of_part(part: &Members<'_>, list: List) -> Option<Self> {
        Some(match (list, &*part.text("type").unwrap_or_default()) {
            (List::Summary, _) => Self::Summary,
            (List::Content, "output_text" | "text") => Self::Text,
            (List::Content, "refusal") => Self::Refusal,
            (List::Content, "reasoning_text" | "reasoning") => Self::Reasoning,
            _ => return None,
        })
    }

    /// The type of the item.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Text | Self::Refusal => "message",
            Self::PartAdded(List::Content) | Self::PartDone(List::Content) => "message",
            Self::Reasoning | Self::Summary => "reasoning",
            Self::PartAdded(List::Summary) | Self::PartDone(List::Summary) => "reasoning",
            Self::Arguments => "function_call",
            Self::Input => "custom_tool_call",
        }
    }

    /// The list that holds the part; `None` for arguments and input.
    pub(super) fn list(self) -> Option<List> {
        match self {
            Self::Text | Self::Refusal | Self::Reasoning => Some(List::Content),
            Self::Summary => Some(List::Summary),
            Self::PartAdded(list) | Self::PartDone(list) => Some(list),
            Self::Arguments | Self::Input => None,
        }
    }

    /// The member of a `….done` event that holds the complete text.
    pub(super) fn done_field(self) -> Option<&'static str> {
        match self {
            Self::Text | Self::Reasoning | Self::Summary => Some("text"),
            Self::Refusal => Some("refusal"),
            _ => None,
        }
    }

    /// The name of a delta event.
    pub(super) fn delta(self) -> &'static str {
        match self {
            Self::Refusal => "response.refusal.delta",
            Self::Reasoning => "response.reasoning_text.delta",
            Self::Summary => "response.reasoning_summary_text.delta",
            _ => "response.output_text.delta",
        }
    }

    /// The name of the event that announces a part, and the part without its text.
    pub(super) fn empty_part(self) -> (&'static str, &'static str) {
        match self {
            Self::Summary | Self::PartDone(List::Summary) => (
                "response.reasoning_summary_part.added",
                r#"{"type":"summary_text","text":""}"#,
            ),
            Self::Refusal => (
                "response.content_part.added",
                r#"{"type":"refusal","refusal":""}"#,
            ),
            Self::Reasoning => (
                "response.content_part.added",
                r#"{"type":"reasoning_text","text":""}"#,
            ),
            _ => (
                "response.content_part.added",
                r#"{"type":"output_text","text":"","annotations":[],"logprobs":[]}"#,
            ),
        }
    }
}
