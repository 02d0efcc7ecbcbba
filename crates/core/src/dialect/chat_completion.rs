//! A `chat.completion` made from the response object, for chat requests with `stream: false` over a
//! Responses upstream, or over a chat upstream that streams all the same.
//!
//! It has the same content as the chunks that [`chat`](super::chat) makes of the same generation.
//! Texts stay JSON-escaped.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::chat::finish_reason;
use super::chat_delta::{annotation, call_id, image};
use super::item_index::inside;
use crate::model::event::ItemHead;
use crate::model::include::Form;
use crate::model::json::{self, Members};
use crate::model::snapshot::{Meta, Snapshot};
use crate::upstream::translate::{chat_usage, complete_logprobs};

/// The chat message of the output items. Strings are JSON-escaped; list elements are raw JSON.
#[derive(Default)]
struct Message {
    content: Option<String>,
    refusal: Option<String>,
    reasoning: String,
    annotations: Vec<String>,
    calls: Vec<String>,
    images: Vec<String>,
    /// Elements of the parts' arrays, without brackets.
    logprobs: Vec<String>,
}

/// Returns the `chat.completion` of a generation that has ended with an answer.
#[must_use]
pub(crate) fn chat_completion(meta: &Meta, snapshot: &Snapshot) -> Option<Vec<u8>> {
    let outcome = snapshot.outcome()?;
    finish_reason(&outcome.ending, false)?;
    let mut output = Vec::new();
    snapshot.write_output(&meta.id, Form::default(), &mut output);
    let mut messages = messages(&String::from_utf8_lossy(&output), snapshot);
    messages.entry(0).or_default();
    let mut out = format!(
        r#"{{"id":"chatcmpl-{}","object":"chat.completion","created":{},"model":"{}","choices":["#,
        meta.id.suffix(),
        meta.created_at,
        json::escape(&meta.model)
    );
    for (place, (index, message)) in messages.iter().enumerate() {
        if place > 0 {
            out.push(',');
        }
        out.push_str(&format!(r#"{{"index":{index},"message":"#));
        message.write(&mut out);
        out.push_str(",\"logprobs\":");
        if message.logprobs.is_empty() {
            out.push_str("null");
        } else {
            out.push_str(&format!(
                r#"{{"content":[{}],"refusal":null}}"#,
                message.logprobs.join(",")
            ));
        }
        let reason = finish_reason(&outcome.ending, !message.calls.is_empty())?;
        out.push_str(&format!(r#","finish_reason":"{reason}"}}"#));
    }
    out.push(']');
    if let Some(usage) = outcome.usage.as_deref().and_then(chat_usage) {
        out.push_str(",\"usage\":");
        out.push_str(&usage);
    }
    let object: Members<'_> = outcome
        .relayed
        .as_ref()
        .and_then(|object| serde_json::from_str(object.as_str()).ok())
        .unwrap_or_default();
    if let Some(tier) = object.get("service_tier") {
        out.push_str(",\"service_tier\":");
        out.push_str(tier.get());
    }
    out.push('}');
    Some(out.into_bytes())
}

/// Returns the messages of the output items, by choice.
fn messages(output: &str, snapshot: &Snapshot) -> BTreeMap<u32, Message> {
    let items: Vec<&RawValue> = serde_json::from_str(output).unwrap_or_default();
    let mut messages = BTreeMap::<u32, Message>::new();
    for (number, raw) in (0u32..).zip(items) {
        let item: Members<'_> = serde_json::from_str(raw.get()).unwrap_or_default();
        let choice = snapshot.head(number).map_or(0, ItemHead::choice);
        messages.entry(choice).or_default().add(&item);
    }
    messages
}

impl Message {
    fn add(&mut self, item: &Members<'_>) {
        match item.text("type").as_deref() {
            Some("message") => item
                .objects("content")
                .iter()
                .for_each(|part| self.part(part)),
            Some("reasoning") => {
                let summary = item.objects("summary");
                let paragraphs: Vec<&str> =
                    summary.iter().map(|part| inside(part, "text")).collect();
                self.reasoning.push_str(&paragraphs.join(r"\n\n"));
                item.objects("content")
                    .iter()
                    .for_each(|part| self.reasoning.push_str(inside(part, "text")));
            }
            Some("function_call") => self.call(item),
            Some("custom_tool_call") => self.custom_call(item),
            Some("image_generation_call") => {
                let data = inside(item, "result");
                if !data.is_empty() {
                    self.images.push(image(data));
                }
            }
            // Built-in tools have no counterpart in chat; the message shows their result.
            _ => {}
        }
    }

    fn part(&mut self, part: &Members<'_>) {
        match part.text("type").as_deref() {
            Some("output_text") => {
                self.content
                    .get_or_insert_default()
                    .push_str(inside(part, "text"));
                self.annotations
                    .extend(part.objects("annotations").iter().filter_map(annotation));
                if let Some(tokens) = part.get("logprobs").map(complete_logprobs) {
                    let tokens = tokens.trim_start_matches('[').trim_end_matches(']');
                    self.logprobs
                        .extend((!tokens.is_empty()).then(|| tokens.to_owned()));
                }
            }
            Some("refusal") => self
                .refusal
                .get_or_insert_default()
                .push_str(inside(part, "refusal")),
            _ => {}
        }
    }

    fn call(&mut self, item: &Members<'_>) {
        let (id, name, arguments) = (
            call_id(item),
            inside(item, "name"),
            inside(item, "arguments"),
        );
        let extra = item
            .get("extra_content")
            .map(|raw| format!(r#","extra_content":{}"#, raw.get()))
            .unwrap_or_default();
        self.calls.push(format!(r#"{{"id":"{id}","type":"function","function":{{"name":"{name}","arguments":"{arguments}"}}{extra}}}"#));
    }

    fn custom_call(&mut self, item: &Members<'_>) {
        let (id, name, input) = (call_id(item), inside(item, "name"), inside(item, "input"));
        self.calls.push(format!(
            r#"{{"id":"{id}","type":"custom","custom":{{"name":"{name}","input":"{input}"}}}}"#
        ));
    }

    fn write(&self, out: &mut String) {
        let text = |text: &Option<String>| {
            text.as_ref()
                .map_or_else(|| "null".to_owned(), |text| format!("\"{text}\""))
        };
        out.push_str(&format!(
            r#"{{"role":"assistant","content":{},"refusal":{}"#,
            text(&self.content),
            text(&self.refusal)
        ));
        out.push_str(&format!(
            r#","annotations":[{}]"#,
            self.annotations.join(",")
        ));
        if !self.reasoning.is_empty() {
            out.push_str(&format!(r#","reasoning_content":"{}""#, self.reasoning));
        }
        if !self.images.is_empty() {
            out.push_str(&format!(r#","images":[{}]"#, self.images.join(",")));
        }
        if !self.calls.is_empty() {
            out.push_str(&format!(r#","tool_calls":[{}]"#, self.calls.join(",")));
        }
        out.push('}');
    }
}
