//! The chat dialect: the upstream's own chunks, byte for byte; for an upstream that speaks Responses, chunks made from events.

use bytes::BytesMut;
use serde_json::value::RawValue;

use super::{Frame, Rendered, Renderer};
use crate::event::{ChatHint, Ending, EventKind, Outcome};
use crate::generation::Generation;
use crate::id::Seq;
use crate::json::{self, Members};
use crate::record::{RecordRef, WholeRecord};
use crate::snapshot::{Api, Meta};

impl Renderer {
    pub(super) fn chat(&mut self, generation: &Generation, whole: &WholeRecord<'_>, record: RecordRef<'_>, out: &mut BytesMut) -> Rendered {
        let seq = Seq(record.first_seq.0 + record.events.saturating_sub(1));
        let meta = generation.meta();
        let mut emit = |data: &[u8]| self.framing.frame(&meta.id, &Frame { seq, name: None, relayed_name: None, data }, out);
        let raw = whole.raw.as_ref().filter(|_| meta.api == Api::Chat);
        if let Some(raw) = raw {
            emit(raw);
        }
        let mut rendered = Rendered::Open;
        for event in &whole.events {
            match event {
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

/// What follows the terminal record's own chunk: `[DONE]` after a real end, an error object after any other.
fn last_payloads(meta: &Meta, outcome: &Outcome, raw: Option<&[u8]>) -> Vec<Vec<u8>> {
    let error = |code: &str, kind: &str, message: &str| {
        let (code, kind, message) = (json::escape(code), json::escape(kind), json::escape(message));
        format!(r#"{{"error":{{"message":"{message}","type":"{kind}","param":null,"code":"{code}"}}}}"#).into_bytes()
    };
    let finish = |reason: &str| if meta.api == Api::Responses { vec![finish_chunk(meta, reason)] } else { Vec::new() };
    let mut payloads = match &outcome.ending {
        Ending::Completed { tool_calls } => finish(if *tool_calls { "tool_calls" } else { "stop" }),
        Ending::Incomplete { reason } => finish(if reason == "content_filter" { "content_filter" } else { "length" }),
        // The upstream's own error object says it already.
        Ending::Failed(_) if raw.is_some_and(says_error) => return Vec::new(),
        Ending::Failed(failure) => return vec![error(&failure.code, &failure.kind, &failure.message)],
        Ending::Cancelled => return vec![error("cancelled", "cancelled", "The generation was cancelled.")],
    };
    payloads.push(b"[DONE]".to_vec());
    payloads
}

/// Whether the SDKs raise on this payload.
fn says_error(raw: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(raw)
        .ok()
        .and_then(|raw| serde_json::from_str::<Members<'_>>(raw.get()).ok())
        .is_some_and(|members| members.get("error").is_some())
}

fn chunk(meta: &Meta, choices: &str) -> Vec<u8> {
    format!(
        r#"{{"id":"chatcmpl-{}","object":"chat.completion.chunk","created":{},"model":"{}","choices":{choices}}}"#,
        meta.id.suffix(),
        meta.created_at,
        json::escape(&meta.model)
    )
    .into_bytes()
}

fn finish_chunk(meta: &Meta, reason: &str) -> Vec<u8> {
    chunk(meta, &format!(r#"[{{"index":0,"delta":{{}},"logprobs":null,"finish_reason":"{reason}"}}]"#))
}

fn hint_chunk(meta: &Meta, hint: &ChatHint) -> Option<Vec<u8>> {
    let delta = match hint {
        ChatHint::Nothing => return None,
        ChatHint::Role => r#"{"role":"assistant","content":""}"#.to_owned(),
        ChatHint::Text { text, .. } => format!(r#"{{"content":"{text}"}}"#),
        ChatHint::Refusal { text, .. } => format!(r#"{{"refusal":"{text}"}}"#),
        ChatHint::Reasoning(text) => format!(r#"{{"reasoning_content":"{text}"}}"#),
        ChatHint::CallAdded { index, call_id, name } => {
            format!(
                r#"{{"tool_calls":[{{"index":{index},"id":"{call_id}","type":"function","function":{{"name":"{name}","arguments":""}}}}]}}"#
            )
        }
        ChatHint::CallArguments { index, text } => format!(r#"{{"tool_calls":[{{"index":{index},"function":{{"arguments":"{text}"}}}}]}}"#),
    };
    Some(chunk(meta, &format!(r#"[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":null}}]"#)))
}
