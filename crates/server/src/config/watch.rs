//! Watch rules: what is looked for in answers, and what a match does.

use serde::{Deserialize, Serialize};
use tokenwire_core::generation::watch::{Pattern, WatchRule, WatchedKinds};

use super::units::word;

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WatchEntry {
    /// The name that matches are reported under.
    pub name: String,
    /// Literal texts, with their case. Either these or `regex`.
    pub words: Vec<String>,
    /// A regular expression.
    pub regex: Option<String>,
    /// The parts of an answer that it looks at.
    pub on: Vec<WatchedPart>,
    /// What a match does.
    #[serde(deserialize_with = "word")]
    pub action: Action,
    /// Whether a webhook has the text up to the match.
    pub include_text: bool,
}

/// A part of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WatchedPart {
    /// Texts and refusals of messages.
    Text,
    /// Reasoning and its summaries.
    Reasoning,
    /// Arguments and inputs of tool calls.
    Arguments,
}

/// What a match does. Each is shown as activity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Nothing more.
    #[default]
    Notify,
    /// An event is sent to `webhooks.url`.
    Webhook,
    /// The answer ends.
    Stop,
}

// === impl WatchEntry ===

impl Default for WatchEntry {
    fn default() -> Self {
        Self {
            name: String::new(),
            words: Vec::new(),
            regex: None,
            on: vec![WatchedPart::Text],
            action: Action::default(),
            include_text: false,
        }
    }
}

impl WatchEntry {
    /// Returns the rule as it is watched for.
    #[must_use]
    pub fn rule(&self) -> WatchRule {
        let has = |part| self.on.contains(&part);
        WatchRule {
            name: self.name.clone(),
            pattern: match &self.regex {
                Some(regex) => Pattern::Expression(regex.clone()),
                None => Pattern::Words(self.words.clone()),
            },
            on: WatchedKinds {
                text: has(WatchedPart::Text),
                reasoning: has(WatchedPart::Reasoning),
                arguments: has(WatchedPart::Arguments),
            },
            stops: self.action == Action::Stop,
        }
    }
}

// === impl Action ===

impl Action {
    /// Returns its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Notify => "notify",
            Self::Webhook => "webhook",
            Self::Stop => "stop",
        }
    }
}
