//! The chat completions dialect: chunks as OpenAI sends them, and full completions.

mod chunks;
mod whole;

pub(crate) use chunks::Chunks;
pub(crate) use whole::completion;

use serde_json::{Value, json};

use crate::dice::Dice;
use crate::plan::Plan;

/// The value of `system_fingerprint`, the same for all answers, as for one build of a model.
pub(super) const FINGERPRINT: &str = "fp_70ce317e51";

pub(super) fn id(plan: &Plan) -> String {
    format!("chatcmpl-{}", plan.dice(0).letters(29))
}

pub(super) fn usage(plan: &Plan) -> Value {
    json!({
        "prompt_tokens": plan.prompt_tokens,
        "completion_tokens": plan.completion_tokens(),
        "total_tokens": plan.prompt_tokens + plan.completion_tokens(),
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": plan.reasoning_tokens(),
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    })
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
