//! Watch rules: words and expressions that are looked for in answers while they stream.
//!
//! ```text
//!   batch ──▶ Watcher ──▶ log and snapshot ──▶ WatchListener
//!               │ one state per part of the answer: of the words, and of each expression
//! ```
//!
//! The writer looks at each batch once, before it appends it, whatever reads the generation. Between
//! two deltas it keeps the states of the automata and no text, so that a match may span any number of
//! deltas. A rule matches when the last character of a match has come, and once in each part of an
//! answer. What comes before that has been delivered. A rule that stops ends the answer with the record
//! that completes the match.
//!
//! Reading a log again matches nothing: only a writer looks.

mod expression;
mod rule_problem;
mod rules;
mod watcher;
mod words;

pub use rule_problem::RuleProblem;
pub use rules::{Pattern, RuleError, WatchRule, WatchRules, WatchedKinds};
pub(crate) use watcher::Watcher;

use std::fmt;
use std::sync::Arc;

use super::Generation;
use crate::model::id::Seq;
use crate::model::json;
use crate::model::text_place::{TextKind, TextPlace};

/// A rule has matched.
#[derive(Clone, Debug)]
pub struct RuleMatch {
    /// The rule's number in [`WatchRules`].
    pub rule: usize,
    /// The rule's name.
    pub name: Arc<str>,
    /// Whether the answer ends here.
    pub stops: bool,
    /// The number of the event with the last character of the match.
    pub seq: Seq,
    /// The chat choice.
    pub choice: u32,
    /// Bytes of the part's text in UTF-8 up to the end of the match.
    pub offset: u64,
    place: TextPlace,
}

/// Is told of matches. Called on the generation's worker after the match was appended; it must not
/// block.
pub trait WatchListener: Send + Sync + fmt::Debug {
    /// A rule has matched.
    fn matched(&self, generation: &Generation, found: &RuleMatch);
}

/// The rules of an engine, and what is told of their matches.
#[derive(Clone, Debug)]
pub struct Watch {
    /// What is looked for.
    pub rules: Arc<WatchRules>,
    /// Is told of each match.
    pub listener: Arc<dyn WatchListener>,
}

// === impl RuleMatch ===

impl RuleMatch {
    /// What the text is.
    #[must_use]
    pub fn kind(&self) -> TextKind {
        self.place.kind
    }

    /// The item's number in the answer (`output_index`).
    #[must_use]
    pub fn output_index(&self) -> u64 {
        self.place.item
    }

    /// The part's number in its item (`content_index`); 0 for arguments.
    #[must_use]
    pub fn content_index(&self) -> u32 {
        self.place.part
    }

    /// Returns the end of the part's text up to the end of the match: at most this many bytes, cut
    /// at a character.
    #[must_use]
    pub fn text(&self, generation: &Generation, max_bytes: usize) -> String {
        let escaped = generation.with_snapshot(|snapshot| snapshot.text_at(self.place));
        let text = json::unescape(&escaped);
        let end = usize::try_from(self.offset).unwrap_or(usize::MAX);
        let end = text.floor_char_boundary(end.min(text.len()));
        let start = text.ceil_char_boundary(end.saturating_sub(max_bytes));
        text[start..end].to_owned()
    }
}
