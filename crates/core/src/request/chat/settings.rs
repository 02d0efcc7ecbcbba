//! What differs between servers that speak chat completions.

/// How requests are written for one server. The values that work at a known vendor come from
/// [`ChatSettings::for_url`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChatSettings {
    /// The name of the output limit.
    pub max_tokens_field: MaxTokensField,
    /// How reasoning of earlier turns goes back.
    pub reasoning_back: ReasoningBack,
    /// The role of a developer's messages.
    pub developer_role: DeveloperRole,
    /// What happens to tools that the server cannot run.
    pub unsupported_tools: UnsupportedTools,
    /// How custom tools are declared.
    pub custom_tools: CustomTools,
    /// Whether usage is asked for.
    pub stream_options: StreamOptions,
}

/// The name of the output limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaxTokensField {
    /// `max_completion_tokens`
    #[default]
    MaxCompletionTokens,
    /// `max_tokens`
    MaxTokens,
}

/// How reasoning of earlier turns goes back. It goes back in turns that call tools only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReasoningBack {
    /// Under the name that it was received by; under this one if that is not known, or not at all.
    AsReceived(Option<ReasoningField>),
    /// Under this name, in every message with calls, as an empty string where there is none.
    As(ReasoningField),
    /// Never.
    Never,
}

/// A member of a message that holds reasoning as a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReasoningField {
    /// `reasoning_content`
    ReasoningContent,
    /// `reasoning`
    Reasoning,
}

/// The role of a developer's messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeveloperRole {
    /// `system`
    #[default]
    System,
    /// `developer`
    Developer,
}

/// What happens to tools that the server cannot run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnsupportedTools {
    /// The request is refused.
    #[default]
    Refuse,
    /// They are left out.
    Drop,
}

/// How custom tools are declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CustomTools {
    /// As functions with one text argument. Every server that has functions understands them.
    #[default]
    Function,
    /// As tools of type `custom`, which few servers besides OpenAI's have.
    Custom,
}

/// Whether usage is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StreamOptions {
    /// By `stream_options`.
    #[default]
    Send,
    /// No `stream_options` are sent. The server gives usage unasked, or refuses them.
    LeaveOut,
}

/// The servers of a vendor: the end of their host, and their settings.
const VENDORS: &[(&str, ChatSettings)] = &[
    // platform.openai.com/docs/api-reference/chat: `max_tokens` is refused by reasoning models.
    ("openai.com", OPENAI),
    ("openai.azure.com", OPENAI),
    // api-docs.deepseek.com/guides/thinking_mode: 400 for calls without `reasoning_content`.
    ("deepseek.com", REASONING_REQUIRED),
    // platform.moonshot.ai, docs.z.ai: reasoning is kept between the calls of a turn.
    ("moonshot.ai", REASONING_CONTENT),
    ("moonshot.cn", REASONING_CONTENT),
    ("z.ai", REASONING_CONTENT),
    ("bigmodel.cn", REASONING_CONTENT),
    // platform.minimax.io/docs/api-reference: `max_tokens` is deprecated; the whole message goes
    // back.
    ("minimax.io", DEFAULT),
    ("minimaxi.com", DEFAULT),
    // docs.mistral.ai/api: 422 for members that it does not know, `reasoning_content` and
    // `stream_options.include_usage` among them. Usage comes unasked.
    ("mistral.ai", MISTRAL),
    // console.groq.com/docs/openai, ai.google.dev/gemini-api/docs/openai: 400 for members of
    // messages that they do not know.
    ("groq.com", STRICT),
    ("googleapis.com", STRICT),
    // docs.together.ai/reference/chat-completions: knows `max_tokens` only.
    ("together.ai", REASONING_CONTENT),
    ("together.xyz", REASONING_CONTENT),
    // openrouter.ai/docs/use-cases/reasoning-tokens: `reasoning`, `reasoning_details`.
    ("openrouter.ai", OPENROUTER),
];

const DEFAULT: ChatSettings = ChatSettings {
    max_tokens_field: MaxTokensField::MaxCompletionTokens,
    reasoning_back: ReasoningBack::AsReceived(Some(ReasoningField::ReasoningContent)),
    developer_role: DeveloperRole::System,
    unsupported_tools: UnsupportedTools::Refuse,
    custom_tools: CustomTools::Function,
    stream_options: StreamOptions::Send,
};

/// Refuses members of messages that it does not know.
const STRICT: ChatSettings = ChatSettings {
    reasoning_back: ReasoningBack::AsReceived(None),
    ..DEFAULT
};

const MISTRAL: ChatSettings = ChatSettings {
    max_tokens_field: MaxTokensField::MaxTokens,
    stream_options: StreamOptions::LeaveOut,
    ..STRICT
};

const OPENAI: ChatSettings = ChatSettings {
    developer_role: DeveloperRole::Developer,
    custom_tools: CustomTools::Custom,
    ..STRICT
};

const REASONING_CONTENT: ChatSettings = ChatSettings {
    max_tokens_field: MaxTokensField::MaxTokens,
    ..DEFAULT
};

const REASONING_REQUIRED: ChatSettings = ChatSettings {
    max_tokens_field: MaxTokensField::MaxTokens,
    reasoning_back: ReasoningBack::As(ReasoningField::ReasoningContent),
    ..DEFAULT
};

const OPENROUTER: ChatSettings = ChatSettings {
    reasoning_back: ReasoningBack::AsReceived(Some(ReasoningField::Reasoning)),
    ..DEFAULT
};

/// Ollama reads `max_tokens` only, and has this port unless it is configured otherwise.
const OLLAMA_PORT: &str = ":11434";

// === impl ChatSettings ===

impl ChatSettings {
    /// Returns the settings that work at the server with this base URL: those of a known vendor, else
    /// the default.
    #[must_use]
    pub fn for_url(base_url: &str) -> Self {
        let after_scheme = base_url
            .split_once("://")
            .map_or(base_url, |(_, rest)| rest);
        let authority = after_scheme
            .split(['/', '?', '#'])
            .next()
            .unwrap_or_default();
        let address = authority.rsplit('@').next().unwrap_or_default();
        if address.ends_with(OLLAMA_PORT) {
            return REASONING_CONTENT;
        }
        let host = address.split(':').next().unwrap_or_default();
        let host = host.to_ascii_lowercase();
        let is_of = |vendor: &str| {
            host.strip_suffix(vendor)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        VENDORS
            .iter()
            .find(|(vendor, _)| is_of(vendor))
            .map_or(DEFAULT, |(_, settings)| *settings)
    }
}

impl Default for ChatSettings {
    /// What most servers accept: `max_completion_tokens`, reasoning as it was received, the role
    /// `system`, no tools of other types, custom tools as functions, usage that is asked for.
    fn default() -> Self {
        DEFAULT
    }
}

// === impl MaxTokensField ===

impl MaxTokensField {
    /// Returns the name of the member.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MaxCompletionTokens => "max_completion_tokens",
            Self::MaxTokens => "max_tokens",
        }
    }
}

// === impl ReasoningField ===

impl ReasoningField {
    /// Returns the name of the member.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReasoningContent => "reasoning_content",
            Self::Reasoning => "reasoning",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vendor_is_known_by_the_host_of_the_base_url() {
        let check = |url: &str, settings: ChatSettings| {
            assert_eq!(ChatSettings::for_url(url), settings, "{url}");
        };
        check("https://api.openai.com/v1", OPENAI);
        check("https://EU.api.openai.com:443/v1", OPENAI);
        check("https://name.openai.azure.com/openai/v1", OPENAI);
        check("https://api.deepseek.com", REASONING_REQUIRED);
        check("https://api.mistral.ai/v1", MISTRAL);
        check("https://api.together.xyz/v1", REASONING_CONTENT);
        check("https://api.minimax.io/v1", DEFAULT);
        check("https://api.x.ai/v1", DEFAULT);
        check("https://api.fireworks.ai/inference/v1", DEFAULT);
        check("http://localhost:11434/v1", REASONING_CONTENT);
        check("https://api.z.ai/api/paas/v4", REASONING_CONTENT);
        check("https://openrouter.ai/api/v1", OPENROUTER);
        check("https://notopenai.com/v1", DEFAULT);
        check("https://proxy.example.com/api.openai.com/v1", DEFAULT);
        check("http://10.0.0.7:8000/v1", DEFAULT);
    }
}
