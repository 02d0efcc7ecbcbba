//! How requests are written for an upstream that speaks chat completions.

use serde::{Deserialize, Serialize};
use tokenwire_core::request::chat::{self, ChatSettings, ReasoningBack as Back, ReasoningField};

use super::units::word;

/// What differs between servers that speak chat completions. `auto` is what works at the vendor of
/// `base_url`, or at most servers if the vendor is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Chat {
    /// Name of the output limit.
    #[serde(deserialize_with = "word")]
    pub max_tokens_field: MaxTokensField,
    /// How reasoning of earlier turns goes back where they called tools.
    #[serde(deserialize_with = "word")]
    pub reasoning_back: ReasoningBack,
    /// Role of a developer's messages.
    #[serde(deserialize_with = "word")]
    pub developer_role: DeveloperRole,
    /// What happens to a tool that the server cannot run.
    #[serde(deserialize_with = "word")]
    pub unsupported_tools: UnsupportedTools,
    /// How a custom tool is declared.
    #[serde(deserialize_with = "word")]
    pub custom_tools: CustomTools,
    /// Whether usage is asked for by `stream_options`.
    #[serde(deserialize_with = "word")]
    pub stream_options: StreamOptions,
}

/// Name of the output limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaxTokensField {
    /// As the vendor reads it.
    #[default]
    Auto,
    /// `max_tokens`
    MaxTokens,
    /// `max_completion_tokens`
    MaxCompletionTokens,
}

/// How reasoning of earlier turns goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasoningBack {
    /// Under the name that it was received by, else as the vendor reads it.
    #[default]
    Auto,
    /// Never.
    None,
    /// As `reasoning_content`, an empty text where there is none.
    ReasoningContent,
    /// As `reasoning`, an empty text where there is none.
    Reasoning,
}

/// Role of a developer's messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeveloperRole {
    /// As the vendor reads it.
    #[default]
    Auto,
    /// `system`
    System,
    /// `developer`
    Developer,
}

/// What happens to a tool that the server cannot run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnsupportedTools {
    /// The request is refused.
    #[default]
    Refuse,
    /// It is left out, and a header of the response names its type.
    Drop,
}

/// How a custom tool is declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CustomTools {
    /// As the vendor reads it.
    #[default]
    Auto,
    /// As a function with one text argument.
    Function,
    /// As a tool of type `custom`.
    Custom,
}

/// Whether usage is asked for by `stream_options`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamOptions {
    /// As the vendor reads it.
    #[default]
    Auto,
    /// They are sent.
    Send,
    /// They are left out.
    LeaveOut,
}

// === impl Chat ===

impl Chat {
    /// Returns the settings of an upstream with this base URL.
    #[must_use]
    pub fn settings(self, base_url: &str) -> ChatSettings {
        let vendor = ChatSettings::for_url(base_url);
        ChatSettings {
            max_tokens_field: match self.max_tokens_field {
                MaxTokensField::Auto => vendor.max_tokens_field,
                MaxTokensField::MaxTokens => chat::MaxTokensField::MaxTokens,
                MaxTokensField::MaxCompletionTokens => chat::MaxTokensField::MaxCompletionTokens,
            },
            reasoning_back: match self.reasoning_back {
                ReasoningBack::Auto => vendor.reasoning_back,
                ReasoningBack::None => Back::Never,
                ReasoningBack::ReasoningContent => Back::As(ReasoningField::ReasoningContent),
                ReasoningBack::Reasoning => Back::As(ReasoningField::Reasoning),
            },
            developer_role: match self.developer_role {
                DeveloperRole::Auto => vendor.developer_role,
                DeveloperRole::System => chat::DeveloperRole::System,
                DeveloperRole::Developer => chat::DeveloperRole::Developer,
            },
            unsupported_tools: match self.unsupported_tools {
                UnsupportedTools::Refuse => chat::UnsupportedTools::Refuse,
                UnsupportedTools::Drop => chat::UnsupportedTools::Drop,
            },
            custom_tools: match self.custom_tools {
                CustomTools::Auto => vendor.custom_tools,
                CustomTools::Function => chat::CustomTools::Function,
                CustomTools::Custom => chat::CustomTools::Custom,
            },
            stream_options: match self.stream_options {
                StreamOptions::Auto => vendor.stream_options,
                StreamOptions::Send => chat::StreamOptions::Send,
                StreamOptions::LeaveOut => chat::StreamOptions::LeaveOut,
            },
        }
    }
}
