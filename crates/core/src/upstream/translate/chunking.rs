//! Makes chunks of a completion that an upstream sent in one piece although a stream was requested.

use serde_json::value::RawValue;

use super::chunk::{Delta, Text};
use crate::model::id::GenerationId;
use crate::model::json::{Members, ObjectWriter};

/// What chunks need beside the completion.
#[derive(Clone, Debug)]
pub(crate) struct Chunking {
    /// The generation, whose id chunks get if the completion has none.
    pub(crate) id: GenerationId,
    /// Unix time of the chunks if the completion has none, in seconds.
    pub(crate) created_at: u64,
    /// The model of the chunks if the completion names none.
    pub(crate) model: String,
}

impl Chunking {
    /// Returns the chunks that add up to a completion: per choice its message and its finish
    /// reason, then the usage. Returns `None` if `completion` is no object.
    pub(super) fn split(&self, completion: &str) -> Option<Vec<Vec<u8>>> {
        let completion: Members<'_> = serde_json::from_str(completion).ok()?;
        let mut chunks = Vec::new();
        for (number, choice) in (0u64..).zip(completion.objects("choices")) {
            let index = choice.number("index").unwrap_or(number);
            let message = choice.object("message").unwrap_or_default();
            let calls = calls(&message);
            let mut replaced = Vec::new();
            if let Some(calls) = &calls {
                replaced.push(("tool_calls", calls.as_str()));
            }
            if message.get("role").is_none() {
                replaced.push(("role", "\"assistant\""));
            }
            let texts = choice.get("message").and_then(texts_of_parts);
            for (name, text) in texts.iter().flatten().flatten() {
                replaced.push((name, text));
            }
            let delta = message.write_with(&replaced);
            let logprobs = choice.get("logprobs").map_or("null", RawValue::get);
            chunks.push(self.chunk(
                &completion,
                &format!(
                    r#"[{{"index":{index},"delta":{delta},"logprobs":{logprobs},"finish_reason":null}}]"#
                ),
                None,
            ));
            let default = if calls.is_some() {
                "tool_calls"
            } else {
                "stop"
            };
            let finish = choice
                .get("finish_reason")
                .map_or_else(|| format!("\"{default}\""), |raw| raw.get().to_owned());
            chunks.push(self.chunk(
                &completion,
                &format!(
                    r#"[{{"index":{index},"delta":{{}},"logprobs":null,"finish_reason":{finish}}}]"#
                ),
                None,
            ));
        }
        if let Some(usage) = completion.get("usage") {
            chunks.push(self.chunk(&completion, "[]", Some(usage)));
        }
        Some(chunks)
    }

    /// Writes a chunk with the completion's other members.
    fn chunk(&self, completion: &Members<'_>, choices: &str, usage: Option<&RawValue>) -> Vec<u8> {
        let mut out = String::new();
        let mut chunk = ObjectWriter::begin(&mut out);
        for (name, raw) in completion.iter() {
            let written_below = matches!(name, "choices" | "usage" | "object");
            if !written_below && raw.get() != "null" {
                chunk.raw(name, raw.get());
            }
        }
        if completion.get("id").is_none() {
            chunk.string("id", &format!("chatcmpl-{}", self.id.suffix()));
        }
        if completion.get("created").is_none() {
            chunk.raw("created", &self.created_at.to_string());
        }
        if completion.get("model").is_none() {
            chunk.string("model", &self.model);
        }
        chunk.string("object", "chat.completion.chunk");
        chunk.raw("choices", choices);
        if let Some(usage) = usage {
            chunk.raw("usage", usage.get());
        }
        chunk.end();
        out.into_bytes()
    }
}

/// Returns content and reasoning of a message whose content is a list of parts, as strings: deltas
/// have no parts. `None` for other messages, and for parts that are not text.
fn texts_of_parts(message: &RawValue) -> Option<[Option<(&'static str, String)>; 2]> {
    let message: Delta<'_> = serde_json::from_str(message.get()).ok()?;
    message.content.filter(|raw| raw.get().starts_with('['))?;
    let texts = message.texts();
    let member = |name, text: Option<Text<'_>>| text.map(|text| (name, format!("\"{text}\"")));
    texts.images.is_empty().then(|| {
        [
            member("content", texts.content),
            member("reasoning_content", texts.reasoning),
        ]
    })
}

/// Returns the message's tool calls with the index that deltas need, or `None` if it has none.
fn calls(message: &Members<'_>) -> Option<String> {
    let calls: Vec<String> = message
        .objects("tool_calls")
        .iter()
        .enumerate()
        .map(|(index, call)| call.write_with(&[("index", &index.to_string())]))
        .collect();
    (!calls.is_empty()).then(|| format!("[{}]", calls.join(",")))
}
