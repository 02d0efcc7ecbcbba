//! The answers of `/v1/responses/input_tokens` and `/v1/responses/compact`.

use serde_json::{Value, json};

use super::strict;
use crate::conversation::Conversation;
use crate::dice::Dice;

/// Returns the count of a request's tokens.
pub(crate) fn input_tokens(conversation: &Conversation) -> Value {
    json!({"object": "response.input_tokens", "input_tokens": conversation.prompt_tokens})
}

/// Returns the compacted conversation: what users said, and one item for the rest.
pub(crate) fn compaction(
    request: &Value,
    conversation: &Conversation,
    account: &str,
    created: u64,
    dice: &mut Dice,
) -> Value {
    let id = format!("cmp_{}", dice.hex(48));
    let message = |content: Value| json!({"type": "message", "role": "user", "status": "completed", "id": format!("msg_{}", dice.clone().hex(48)), "content": content});
    let text = |text: &str| json!([{"type": "input_text", "text": text}]);
    let mut output: Vec<Value> = match &request["input"] {
        Value::String(said) => vec![message(text(said))],
        Value::Array(items) => items
            .iter()
            .filter(|item| item["role"] == "user")
            .map(|item| match &item["content"] {
                Value::String(said) => message(text(said)),
                content => message(content.clone()),
            })
            .collect(),
        _ => Vec::new(),
    };
    output.push(
        json!({"type": "compaction", "id": id, "encrypted_content": strict::encrypt(&id, account)}),
    );
    let tokens = conversation.prompt_tokens;
    json!({
        "id": format!("resp_{}", dice.hex(48)),
        "object": "response.compaction",
        "created_at": created,
        "output": output,
        "usage": {
            "input_tokens": tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 8,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": tokens + 8,
        },
    })
}
