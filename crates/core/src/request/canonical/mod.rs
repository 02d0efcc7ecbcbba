//! The canonical form of a request, which every language is read into and written from.
//!
//! ```text
//!   chat ──read──▶                   ──write──▶ chat
//!                  CanonicalRequest
//!   responses ──▶                    ──write──▶ responses
//! ```
//!
//! A language knows this form and no other language. The form borrows the JSON that it was read
//! from, so texts, numbers and schemas keep their bytes. Every part knows the parameter that it came
//! from, so that a refusal names what the client sent. What the form does not model is in the
//! `extra` of its part: a language either sends such members or refuses them by name.
//!
//! A request whose upstream speaks its own language is not brought into this form.

mod extra;
mod format;
mod item;
mod part;
mod tool;
mod value;

pub use extra::Extra;
pub use format::{Format, FormatKind};
pub use item::{Call, Item, Message, Output, Reasoning, Role, ToolKind, Unmodelled};
pub use part::{Part, PartKind};
pub(in crate::request) use tool::Choosable;
pub use tool::{Allowed, CustomTool, FunctionTool, NamedTool, Namespace, Tool, ToolChoice};
pub use value::Value;

/// A request in canonical form. A member that is `None` or empty was not given.
///
/// `Debug` shows no contents.
#[derive(Clone, Default)]
pub struct CanonicalRequest<'a> {
    /// The instructions of this turn, a string. They come before all items.
    pub instructions: Option<Value<'a>>,
    /// The conversation, oldest item first.
    pub items: Vec<Item<'a>>,
    /// The tools that the model may call.
    pub tools: Vec<Tool<'a>>,
    /// Which of them it may or must call.
    pub tool_choice: Option<ToolChoice<'a>>,
    /// Whether it may call several at once, a boolean.
    pub parallel_tool_calls: Option<Value<'a>>,
    /// The form of the answer's text.
    pub format: Option<Format<'a>>,
    /// How long the answer should be, a string.
    pub verbosity: Option<Value<'a>>,
    /// How much the model should think, a string.
    pub reasoning_effort: Option<Value<'a>>,
    /// The most tokens of the answer, reasoning included.
    pub max_output_tokens: Option<Value<'a>>,
    /// Whether the answer has log probabilities.
    pub logprobs: bool,
    /// The number of likely tokens that are reported at each position.
    pub top_logprobs: Option<Value<'a>>,
    /// Settings that have the same name and meaning in every language that has them.
    pub settings: Vec<(Setting, Value<'a>)>,
    /// Whether the upstream pads the events of the stream, a boolean.
    pub include_obfuscation: Option<Value<'a>>,
    /// Whether the upstream itself keeps the answer.
    pub store: bool,
    /// Members that the request's own language knows and no other: every other one refuses them.
    pub specific: Vec<Extra<'a>>,
    /// Members that are not modelled. Chat servers each have members of their own.
    pub extra: Vec<Extra<'a>>,
    /// Options of the stream that are not modelled.
    pub stream_extra: Vec<Extra<'a>>,
}

/// A setting with the same name and meaning in every language that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Setting {
    /// `temperature`
    Temperature,
    /// `top_p`
    TopP,
    /// `presence_penalty`
    PresencePenalty,
    /// `frequency_penalty`
    FrequencyPenalty,
    /// `metadata`
    Metadata,
    /// `user`
    User,
    /// `safety_identifier`
    SafetyIdentifier,
    /// `prompt_cache_key`
    PromptCacheKey,
    /// `prompt_cache_retention`
    PromptCacheRetention,
    /// `service_tier`
    ServiceTier,
    /// `stop`
    Stop,
    /// `seed`
    Seed,
    /// `logit_bias`
    LogitBias,
    /// `n`: the number of answers
    Choices,
}

// === impl Setting ===

impl Setting {
    /// Every setting, in the order in which they are written.
    pub const ALL: &[Self] = &[
        Self::Temperature,
        Self::TopP,
        Self::PresencePenalty,
        Self::FrequencyPenalty,
        Self::Metadata,
        Self::User,
        Self::SafetyIdentifier,
        Self::PromptCacheKey,
        Self::PromptCacheRetention,
        Self::ServiceTier,
        Self::Stop,
        Self::Seed,
        Self::LogitBias,
        Self::Choices,
    ];

    /// Returns the name of the member.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Temperature => "temperature",
            Self::TopP => "top_p",
            Self::PresencePenalty => "presence_penalty",
            Self::FrequencyPenalty => "frequency_penalty",
            Self::Metadata => "metadata",
            Self::User => "user",
            Self::SafetyIdentifier => "safety_identifier",
            Self::PromptCacheKey => "prompt_cache_key",
            Self::PromptCacheRetention => "prompt_cache_retention",
            Self::ServiceTier => "service_tier",
            Self::Stop => "stop",
            Self::Seed => "seed",
            Self::LogitBias => "logit_bias",
            Self::Choices => "n",
        }
    }

    /// Returns the setting of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|setting| setting.name() == name)
    }
}

// === impl CanonicalRequest ===

impl CanonicalRequest<'_> {
    /// Copies what is borrowed.
    #[must_use]
    pub fn into_owned(self) -> CanonicalRequest<'static> {
        CanonicalRequest {
            instructions: self.instructions.map(Value::into_owned),
            items: self.items.into_iter().map(Item::into_owned).collect(),
            tools: self.tools.into_iter().map(Tool::into_owned).collect(),
            tool_choice: self.tool_choice.map(ToolChoice::into_owned),
            parallel_tool_calls: self.parallel_tool_calls.map(Value::into_owned),
            format: self.format.map(Format::into_owned),
            verbosity: self.verbosity.map(Value::into_owned),
            reasoning_effort: self.reasoning_effort.map(Value::into_owned),
            max_output_tokens: self.max_output_tokens.map(Value::into_owned),
            logprobs: self.logprobs,
            top_logprobs: self.top_logprobs.map(Value::into_owned),
            settings: self
                .settings
                .into_iter()
                .map(|(setting, value)| (setting, value.into_owned()))
                .collect(),
            include_obfuscation: self.include_obfuscation.map(Value::into_owned),
            store: self.store,
            specific: extra::owned(self.specific),
            extra: extra::owned(self.extra),
            stream_extra: extra::owned(self.stream_extra),
        }
    }
}

impl std::fmt::Debug for CanonicalRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CanonicalRequest")
            .field("items", &self.items.len())
            .field("tools", &self.tools.len())
            .finish_non_exhaustive()
    }
}
