//! Instances of a JSON schema, for the arguments of calls and for structured outputs.

mod instance;
mod pattern;
mod rules;
#[cfg(test)]
mod tests;

use serde_json::{Value, json};

pub(crate) use instance::instance;

/// Returns the answer to `response_format: {"type": "json_object"}`.
pub(crate) fn any_object(question: &str, messages: usize) -> Value {
    json!({"answer": "This is the Tokenwire simulator.", "question": question, "messages": messages, "streaming": true})
}
