//! The content of an answer, decided before its first byte. The dialects only format it.

use crate::answer;
use crate::conversation::{Conversation, Format, ToolChoice};
use crate::dice::{Dice, fingerprint};
use crate::error::ApiError;
use crate::occasion::Occasion;
use crate::pieces::{HELD_LIMIT, Pieces};
use crate::schema;
use crate::steering::{Steering, Wording};

/// A complete answer.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) model: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// The seed of ids, log probabilities and obfuscation.
    pub(crate) identity: u64,
    pub(crate) choices: Vec<Choice>,
    pub(crate) prompt_tokens: u64,
    /// Whether a stream ends with a usage chunk.
    pub(crate) usage: bool,
    pub(crate) logprobs: Option<usize>,
    pub(crate) obfuscation: bool,
    /// Whether reasoning is sent as a summary (Responses).
    pub(crate) summary: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Choice {
    pub(crate) reasoning: Pieces,
    pub(crate) output: Output,
    pub(crate) finish: String,
}

#[derive(Debug, Clone)]
pub(crate) enum Output {
    Text(Pieces),
    Refusal(Pieces),
    Calls(Vec<Call>),
}

#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) arguments: Pieces,
}

/// Characters per token of a call's arguments.
const ARGUMENT_PIECE: usize = 4;

// === impl Plan ===

impl Plan {
    /// Plans the answer to `conversation`. `body` is the request as received; the ids of a seeded
    /// request depend on it.
    pub(crate) fn make(
        conversation: &Conversation,
        steering: &Steering,
        body: &[u8],
        occasion: &Occasion,
    ) -> Result<Self, ApiError> {
        let seed = steering.seed.or(conversation.seed);
        let (identity, created) = match seed {
            Some(seed) => (
                Dice::at(seed, fingerprint(body)),
                1_700_000_000 + seed % 100_000_000,
            ),
            None => (occasion.unique, occasion.now),
        };
        let words = seed.unwrap_or(0);
        let mut choices = Vec::with_capacity(conversation.choices);
        for index in 0..conversation.choices {
            choices.push(choice(
                conversation,
                steering,
                occasion,
                words.wrapping_add(index as u64),
                Dice::at(identity, index as u64 + 1),
                index,
            )?);
        }
        let plan = Self {
            model: conversation.model.clone(),
            created,
            identity,
            choices,
            prompt_tokens: conversation.prompt_tokens,
            usage: steering.usage.unwrap_or(conversation.include_usage),
            logprobs: conversation.logprobs,
            obfuscation: conversation.obfuscation,
            summary: conversation.summary,
        };
        if !conversation.stream {
            plan.check_held()?;
        }
        Ok(plan)
    }

    /// Returns an error if the answer must be held in memory at once and is too large for that.
    pub(crate) fn check_held(&self) -> Result<(), ApiError> {
        let bytes: u64 = self
            .choices
            .iter()
            .map(Choice::bytes_at_most)
            .fold(0, u64::saturating_add);
        if bytes > HELD_LIMIT {
            return Err(too_large(bytes));
        }
        Ok(())
    }

    /// Returns the same plan with another text, for an upstream that answers anew.
    pub(crate) fn with_other_text(&self) -> Self {
        let mut other = self.clone();
        for choice in &mut other.choices {
            choice.output = Output::Text(Pieces::written(
                "Another answer than the one before, with other words.",
            ));
        }
        other
    }

    pub(crate) fn reasoning_tokens(&self) -> u64 {
        self.choices
            .iter()
            .map(|choice| choice.reasoning.len())
            .sum()
    }

    pub(crate) fn completion_tokens(&self) -> u64 {
        self.choices.iter().map(Choice::tokens).sum()
    }

    /// Returns an id unique to this answer, for the `purpose`-th object in it.
    pub(crate) fn dice(&self, purpose: u64) -> Dice {
        Dice::new(Dice::at(self.identity, 1 << 32 | purpose))
    }
}

fn too_large(bytes: u64) -> ApiError {
    ApiError::invalid(
        "x-simulator",
        "answer_too_large",
        format!(
            "The answer asked for may take {bytes} bytes, and this request needs it in one piece: ask for at most {HELD_LIMIT}, or stream chat completions."
        ),
    )
}

fn choice(
    conversation: &Conversation,
    steering: &Steering,
    occasion: &Occasion,
    seed: u64,
    identity: u64,
    index: usize,
) -> Result<Choice, ApiError> {
    let generated = |count| Pieces::Generated {
        count,
        wording: steering.text.unwrap_or(Wording::Words),
        // With the fault `oversize`, the size is that of its event, not of each token.
        size: if steering
            .fault
            .is_some_and(|fault| fault == crate::fault::FaultKind::Oversize)
        {
            0
        } else {
            steering.size.unwrap_or(0)
        },
        seed,
    };
    let mut reasoning = match steering.reasoning {
        Some(count) => generated(count),
        None if conversation.reasons => Pieces::written(answer::reasoning(conversation)),
        None => Pieces::written(""),
    };
    let calls = called(conversation, steering);
    let mut finish = "stop";
    let mut output = if steering.refusal {
        Output::Refusal(
            steering
                .tokens
                .map_or_else(|| Pieces::written(answer::REFUSAL), generated),
        )
    } else if !calls.is_empty() {
        finish = "tool_calls";
        let mut dice = Dice::new(identity);
        let call = |(position, (name, parameters)): (usize, (String, serde_json::Value))| Call {
            id: format!("call_{}", dice.letters(24)),
            name,
            arguments: Pieces::chopped(
                steering.arguments.clone().unwrap_or_else(|| {
                    schema::instance(&parameters, seed.wrapping_add(position as u64)).to_string()
                }),
                ARGUMENT_PIECE,
            ),
        };
        Output::Calls(calls.into_iter().enumerate().map(call).collect())
    } else {
        Output::Text(match (&steering.tokens, &conversation.format) {
            (Some(count), _) => generated(*count),
            (None, Format::Schema(schema)) => {
                Pieces::written(schema::instance(schema, seed).to_string())
            }
            (None, Format::Json) => Pieces::written(
                schema::any_object(&conversation.question, conversation.messages).to_string(),
            ),
            (None, Format::Text) => Pieces::written(answer::prose(conversation, occasion, index)),
        })
    };
    if let Output::Text(text) = &mut output
        && !conversation.stops.is_empty()
    {
        let bytes = text.bytes_at_most();
        if bytes > HELD_LIMIT {
            return Err(too_large(bytes));
        }
        text.stop_before(&conversation.stops);
    }
    if let Some(limit) = conversation.token_limit
        && cut(&mut reasoning, &mut output, limit)
    {
        finish = "length";
    }
    Ok(Choice {
        reasoning,
        output,
        finish: steering.finish.clone().unwrap_or_else(|| finish.to_owned()),
    })
}

/// Returns the functions to call with their parameters, or none if the answer is text.
fn called(conversation: &Conversation, steering: &Steering) -> Vec<(String, serde_json::Value)> {
    let wanted = steering.calls.unwrap_or(1);
    let wanted = if conversation.parallel_calls {
        wanted
    } else {
        wanted.min(1)
    };
    let asked_for = steering.calls.is_some_and(|calls| calls > 0);
    let answered =
        conversation.tool_result.is_some() || conversation.tool_choice == ToolChoice::None;
    // An answer of N tokens is text, unless calls are requested as well.
    let text_wanted = steering.tokens.is_some() && conversation.tools.is_empty();
    if wanted == 0 || (!asked_for && (answered || text_wanted)) {
        return Vec::new();
    }
    let tools = &conversation.tools;
    if tools.is_empty() {
        let parameters = serde_json::json!({"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]});
        return if asked_for {
            vec![("lookup".to_owned(), parameters); wanted]
        } else {
            Vec::new()
        };
    }
    let named = match &conversation.tool_choice {
        ToolChoice::Named(name) => tools.iter().position(|tool| tool.name == *name),
        _ => steering
            .tool
            .as_ref()
            .and_then(|name| tools.iter().position(|tool| tool.name == *name)),
    };
    (0..wanted)
        .map(|position| &tools[named.unwrap_or(position % tools.len())])
        .map(|tool| {
            let parameters = if tool.parameters.is_null() {
                serde_json::json!({"type": "object"})
            } else {
                tool.parameters.clone()
            };
            (tool.name.clone(), parameters)
        })
        .collect()
}

/// Keeps `limit` tokens in total, reasoning first. Returns whether any were dropped.
fn cut(reasoning: &mut Pieces, output: &mut Output, limit: u64) -> bool {
    let mut dropped = reasoning.limit(limit);
    let mut left = limit - reasoning.len();
    match output {
        Output::Text(pieces) | Output::Refusal(pieces) => dropped |= pieces.limit(left),
        Output::Calls(calls) => {
            let mut kept = 0;
            for call in calls.iter_mut() {
                if left == 0 {
                    break;
                }
                dropped |= call.arguments.limit(left);
                left -= call.arguments.len();
                kept += 1;
            }
            dropped |= kept < calls.len();
            calls.truncate(kept);
        }
    }
    dropped
}

// === impl Choice ===

impl Choice {
    pub(crate) fn tokens(&self) -> u64 {
        self.reasoning.len() + self.output.tokens()
    }

    fn bytes_at_most(&self) -> u64 {
        let output = match &self.output {
            Output::Text(pieces) | Output::Refusal(pieces) => pieces.bytes_at_most(),
            Output::Calls(calls) => calls
                .iter()
                .map(|call| call.arguments.bytes_at_most())
                .sum(),
        };
        output.saturating_add(self.reasoning.bytes_at_most())
    }
}

// === impl Output ===

impl Output {
    pub(crate) fn tokens(&self) -> u64 {
        match self {
            Self::Text(pieces) | Self::Refusal(pieces) => pieces.len(),
            Self::Calls(calls) => calls.iter().map(|call| call.arguments.len()).sum(),
        }
    }
}
