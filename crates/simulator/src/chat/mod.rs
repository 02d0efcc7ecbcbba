//! The chat completions dialect: chunks as OpenAI sends them, and full completions.

mod chunks;
mod whole;

pub(crate) use chunks::Chunks;
pub(crate) use whole::completion;

use serde::Serialize;
use serde_json::{Value, json};

use crate::dice::Dice;
use crate::plan::Plan;

/// The value of `system_fingerprint`, the same for all answers, as for one build of a model.
pub(super) const FINGERPRINT: &str = "fp_70ce317e51";

pub(super) fn id(plan: &Plan) -> String {
    format!("chatcmpl-{}", plan.dice(0).letters(29))
}

/// Usage, with its members in OpenAI's order.
#[derive(Serialize)]
pub(super) struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
}

#[derive(Default, Serialize)]
struct PromptDetails {
    cached_tokens: u64,
    audio_tokens: u64,
}

#[derive(Default, Serialize)]
struct CompletionDetails {
    reasoning_tokens: u64,
    audio_tokens: u64,
    accepted_prediction_tokens: u64,
    rejected_prediction_tokens: u64,
}

pub(super) fn usage(plan: &Plan) -> Usage {
    Usage {
        prompt_tokens: plan.prompt_tokens,
        completion_tokens: plan.completion_tokens(),
        total_tokens: plan.prompt_tokens + plan.completion_tokens(),
        prompt_tokens_details: PromptDetails::default(),
        completion_tokens_details: CompletionDetails {
            reasoning_tokens: plan.reasoning_tokens(),
            ..CompletionDetails::default()
        },
    }
}

/// Returns the log probability of one token with its alternatives: made up, but repeatable and in
/// descending order.
pub(super) fn logprob(plan: &Plan, choice: usize, index: u64, token: &str, top: usize) -> Value {
    let entry = |token: String, logprob: f64| json!({"token": token, "logprob": logprob, "bytes": token.as_bytes()});
    let share = (Dice::at(plan.identity ^ choice as u64, index) % 10_000) as f64 / 10_000.0;
    let own = -(share * share);
    let round = |value: f64| (value * 1e6).round() / 1e6;
    let alternatives: Vec<Value> = (0..top)
        .map(|rank| {
            if rank == 0 {
                entry(token.to_owned(), round(own))
            } else {
                entry(format!("{token}{rank}"), round(own - rank as f64))
            }
        })
        .collect();
    let mut entry = entry(token.to_owned(), round(own));
    entry["top_logprobs"] = Value::Array(alternatives);
    entry
}
