//! The places of an answer that have a text.

use super::event::{DeltaKind, DeltaTarget};

/// What a text of an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TextKind {
    /// A message's text.
    Text,
    /// A message's refusal.
    Refusal,
    /// Reasoning.
    Reasoning,
    /// The summary of reasoning that a Responses upstream hides.
    Summary,
    /// The arguments or the input of a tool call.
    Arguments,
}

/// The place of a text in an answer. The places of an item are in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TextPlace {
    /// The item's number, or its index at a Responses upstream.
    pub(crate) item: u64,
    /// The part's number in its item; 0 for arguments.
    pub(crate) part: u32,
    pub(crate) kind: TextKind,
    /// Whether a Responses upstream relays it.
    pub(crate) relayed: bool,
}

// === impl TextKind ===

impl TextKind {
    /// Returns its name in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Refusal => "refusal",
            Self::Reasoning => "reasoning",
            Self::Summary => "reasoning_summary",
            Self::Arguments => "arguments",
        }
    }
}

// === impl TextPlace ===

impl From<DeltaTarget> for TextPlace {
    fn from(target: DeltaTarget) -> Self {
        Self {
            item: u64::from(target.item),
            part: target.part,
            kind: match target.kind {
                DeltaKind::Text => TextKind::Text,
                DeltaKind::Refusal => TextKind::Refusal,
                DeltaKind::Reasoning => TextKind::Reasoning,
                DeltaKind::Arguments | DeltaKind::Input => TextKind::Arguments,
            },
            relayed: false,
        }
    }
}
