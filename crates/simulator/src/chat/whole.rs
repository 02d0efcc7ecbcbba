//! A chat completion that is not streamed.

use serde_json::{Value, json};

use super::{FINGERPRINT, id, logprob, usage};
use crate::pieces::Pieces;
use crate::plan::{Choice, Output, Plan};

/// Returns the `chat.completion` object of a plan.
pub(crate) fn completion(plan: &Plan) -> Value {
    let choices: Vec<Value> = plan
        .choices
        .iter()
        .enumerate()
        .map(|(index, one)| choice(plan, index, one))
        .collect();
    json!({
        "id": id(plan),
        "object": "chat.completion",
        "created": plan.created,
        "model": plan.model,
        "choices": choices,
        "usage": usage(plan),
        "service_tier": "default",
        "system_fingerprint": FINGERPRINT,
    })
}

fn choice(plan: &Plan, index: usize, choice: &Choice) -> Value {
    let mut message =
        json!({"role": "assistant", "content": null, "refusal": null, "annotations": []});
    let mut logprobs = Value::Null;
    match &choice.output {
        Output::Text(pieces) => {
            message["content"] = Value::String(pieces.text());
            logprobs = plan.logprobs.map_or(
                Value::Null,
                |top| json!({"content": tokens(plan, index, pieces, top), "refusal": null}),
            );
        }
        Output::Refusal(pieces) => message["refusal"] = Value::String(pieces.text()),
        Output::Calls(calls) => {
            let calls = calls.iter().map(
                |call| json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments.text()}}),
            );
            message["tool_calls"] = Value::Array(calls.collect());
        }
    }
    if choice.reasoning.len() > 0 {
        message["reasoning_content"] = Value::String(choice.reasoning.text());
    }
    json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish})
}

fn tokens(plan: &Plan, choice: usize, pieces: &Pieces, top: usize) -> Vec<Value> {
    let mut token = String::new();
    (0..pieces.len())
        .map(|index| {
            token.clear();
            pieces.write(index, &mut token);
            logprob(plan, choice, index, &token, top)
        })
        .collect()
}
