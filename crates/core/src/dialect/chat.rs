//! The chat dialect: a chat upstream's own chunks, byte for byte, or chunks made from the events of
//! a Responses upstream.

use bytes::BytesMut;
use serde_json::value::RawValue;

use super::{Frame, Rendered, Renderer, View};
use crate::model::event::{ChatHint, Ending, EventKind, Outcome};
use crate::model::id::Seq;
use crate::model::json::{self, Members};
use crate::model::record::{FullRecord, RecordRef};
use crate::model::snapshot::{Api, Meta};
use crate::upstream::translate::{UNREQUESTED, chat_usage};

impl Renderer {
    pub(super) fn chat(
        &mut self,
        view: &impl View,
        full: &FullRecord<'_>,
        record: RecordRef<'_>,
        out: &mut BytesMut,
    ) -> Rendered {
        let seq = Seq(record.first_seq.0 + record.events.saturating_sub(1));
        let meta = view.meta();
        let mut emit = |data: &[u8]| {
            self.framing.frame(
                &meta.id,
                &Frame {
                    seq,
                    name: None,
                    relayed_name: None,
                    data,
                },
                out,
            )
        };
        let raw = full.raw.as_ref().filter(|_| meta.api == Api::Chat);
        if let Some(raw) = raw.filter(|raw| !raw.ends_with(UNREQUESTED)) {
            emit(raw);
        }
        let mut rendered = Rendered::Open;
        for event in &full.events {
            match event {
                // A Responses upstream that did not begin with a response object.
                EventKind::InProgress if meta.api == Api::Responses => {
                    if let Some(chunk) = hint_chunk(meta, &ChatHint::Role) {
                        emit(&chunk);
                    }
                }
                EventKind::Relayed(relayed) => {
                    if let Some(chunk) = hint_chunk(meta, &relayed.chat) {
                        emit(&chunk);
                    }
                }
                EventKind::End(outcome) => {
                    for payload in last_payloads(meta, outcome, raw.map(|raw| &raw[..])) {
                        emit(&payload);
                    }
                    rendered = Rendered::Ended;
                }
                _ => {}
            }
        }
        rendered
    }
}

/// Returns the payloads after the terminal record's own chunk: `[DONE]` after an answer, else an
/// error object.
fn last_payloads(meta: &Meta, outcome: &Outcome, raw: Option<&[u8]>) -> Vec<Vec<u8>> {
    let error = |code: &str, kind: &str, message: &str| {
        let (code, kind, message) = (
            json::escape(code),
            json::escape(kind),
            json::escape(message),
        );
        format!(
            r#"{{"error":{{"message":"{message}","type":"{kind}","param":null,"code":"{code}"}}}}"#
        )
        .into_bytes()
    };
    let mut payloads = match &outcome.ending {
        Ending::Completed { .. } | Ending::Incomplete { .. } if meta.api == Api::Responses => {
            closing_chunks(meta, outcome)
        }
        Ending::Completed { .. } | Ending::Incomplete { .. } => Vec::new(),
        // The chunk is the upstream's own error object.
        Ending::Failed(_) if raw.is_some_and(has_error) => return Vec::new(),
        Ending::Failed(failure) => {
            return vec![error(&failure.code, &failure.kind, &failure.message)];
        }
        Ending::Cancelled => {
            return vec![error(
                "cancelled",
                "cancelled",
                "The generation was cancelled.",
            )];
        }
    };
    payloads.push(b"[DONE]".to_vec());
    payloads
}

/// Returns true if the SDKs raise on this payload.
fn has_error(raw: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(raw)
        .ok()
        .and_then(|raw| serde_json::from_str::<Members<'_>>(raw.get()).ok())
        .is_some_and(|members| members.get("error").is_some())
}

/// Returns the chat `finish_reason` of an ending; `None` for failures and cancellation.
pub(super) fn finish_reason(ending: &Ending) -> Option<&'static str> {
    match ending {
        Ending::Completed { tool_calls: true } => Some("tool_calls"),
        Ending::Completed { tool_calls: false } => Some("stop"),
        Ending::Incomplete { reason } if reason == "content_filter" => Some("content_filter"),
        Ending::Incomplete { .. } => Some("length"),
        Ending::Failed(_) | Ending::Cancelled => None,
    }
}

/// Returns a chunk with these choices. As with OpenAI, every chunk has a `usage` member if usage
/// was requested.
fn chunk(meta: &Meta, choices: &str, usage: &str) -> Vec<u8> {
    let (before, usage) = if meta.include_usage {
        (",\"usage\":", usage)
    } else {
        ("", "")
    };
    format!(
        r#"{{"id":"chatcmpl-{}","object":"chat.completion.chunk","created":{},"model":"{}","choices":{choices}{before}{usage}}}"#,
        meta.id.suffix(),
        meta.created_at,
        json::escape(&meta.model)
    )
    .into_bytes()
}

/// Returns an image as chat servers send it. `data` is JSON-escaped base64.
pub(super) fn image(data: &str) -> String {
    // The first character of the data tells the format.
    let format = match data.as_bytes().first() {
        Some(b'/') => "jpeg",
        Some(b'U') => "webp",
        Some(b'R') => "gif",
        _ => "png",
    };
    format!(r#"{{"type":"image_url","image_url":{{"url":"data:image/{format};base64,{data}"}}}}"#)
}

/// Returns the finish chunk, and the usage chunk if usage was requested and is known.
fn closing_chunks(meta: &Meta, outcome: &Outcome) -> Vec<Vec<u8>> {
    let Some(reason) = finish_reason(&outcome.ending) else {
        return Vec::new();
    };
    let mut chunks = vec![chunk(
        meta,
        &format!(r#"[{{"index":0,"delta":{{}},"logprobs":null,"finish_reason":"{reason}"}}]"#),
        "null",
    )];
    if meta.include_usage
        && let Some(usage) = outcome.usage.as_deref().and_then(chat_usage)
    {
        chunks.push(chunk(meta, "[]", &usage));
    }
    chunks
}

fn hint_chunk(meta: &Meta, hint: &ChatHint) -> Option<Vec<u8>> {
    let delta = match hint {
        ChatHint::Nothing => return None,
        ChatHint::Role => r#"{"role":"assistant","content":""}"#.to_owned(),
        ChatHint::Text { text, .. } => format!(r#"{{"content":"{text}"}}"#),
        ChatHint::Refusal { text, .. } => format!(r#"{{"refusal":"{text}"}}"#),
        ChatHint::Reasoning(text) => format!(r#"{{"reasoning_content":"{text}"}}"#),
        ChatHint::CallAdded {
            index,
            call_id,
            name,
            arguments,
        } => {
            format!(
                r#"{{"tool_calls":[{{"index":{index},"id":"{call_id}","type":"function","function":{{"name":"{name}","arguments":"{arguments}"}}}}]}}"#
            )
        }
        ChatHint::CallArguments { index, text } => {
            format!(r#"{{"tool_calls":[{{"index":{index},"function":{{"arguments":"{text}"}}}}]}}"#)
        }
        ChatHint::Image(data) => format!(r#"{{"images":[{}]}}"#, image(data)),
        ChatHint::CustomCallAdded {
            index,
            call_id,
            name,
            input,
        } => {
            format!(
                r#"{{"tool_calls":[{{"index":{index},"id":"{call_id}","type":"custom","custom":{{"name":"{name}","input":"{input}"}}}}]}}"#
            )
        }
        ChatHint::CustomCallInput { index, text } => {
            format!(r#"{{"tool_calls":[{{"index":{index},"custom":{{"input":"{text}"}}}}]}}"#)
        }
        ChatHint::Annotation(annotation) => format!(r#"{{"annotations":[{annotation}]}}"#),
    };
    let logprobs = match hint {
        ChatHint::Text {
            logprobs: Some(tokens),
            ..
        } => format!(r#"{{"content":{tokens},"refusal":null}}"#),
        _ => "null".to_owned(),
    };
    Some(chunk(
        meta,
        &format!(r#"[{{"index":0,"delta":{delta},"logprobs":{logprobs},"finish_reason":null}}]"#),
        "null",
    ))
}
