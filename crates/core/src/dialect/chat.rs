//! The chat dialect: a chat upstream's own chunks, byte for byte, or chunks made from the events of
//! a Responses upstream.

use bytes::BytesMut;

use super::chat_delta::ChatDelta;
use super::{Frame, Rendered, Renderer, View};
use crate::model::event::{Ending, EventKind, Outcome};
use crate::model::id::Seq;
use crate::model::json;
use crate::model::record::{FullRecord, RecordRef};
use crate::model::snapshot::{Api, Meta};
use crate::upstream::translate::{chat_usage, is_error_object, is_usage_chunk};

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
        // A usage chunk is a record of its own. The upstream may send one that was not requested.
        let alone = matches!(full.events.as_slice(), [EventKind::Chunk]);
        if let Some(raw) = raw
            && (!alone || meta.include_usage || !is_usage_chunk(raw))
        {
            emit(raw);
        }
        let mut rendered = Rendered::Open;
        for event in &full.events {
            match event {
                // A Responses upstream that did not begin with a response object.
                EventKind::InProgress if meta.api == Api::Responses => {
                    emit(&delta_chunk(meta, &ChatDelta::role()));
                }
                EventKind::Relayed(relayed) => {
                    if let Some(delta) = ChatDelta::of(view, relayed, seq) {
                        emit(&delta_chunk(meta, &delta));
                    }
                }
                EventKind::End(outcome) => {
                    for payload in last_payloads(view, outcome, raw.map(|raw| &raw[..])) {
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
fn last_payloads(view: &impl View, outcome: &Outcome, raw: Option<&[u8]>) -> Vec<Vec<u8>> {
    let meta = view.meta();
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
        Ending::Completed | Ending::Incomplete { .. } if meta.api == Api::Responses => {
            let has_calls = view.item_index(|index| index.has_calls());
            closing_chunks(meta, outcome, has_calls)
        }
        Ending::Completed | Ending::Incomplete { .. } => Vec::new(),
        // The chunk is the upstream's own error object.
        Ending::Failed(_) if raw.is_some_and(is_error_object) => return Vec::new(),
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

/// Returns the chat `finish_reason` of an ending; `None` for failures and cancellation.
pub(super) fn finish_reason(ending: &Ending, has_calls: bool) -> Option<&'static str> {
    match ending {
        Ending::Completed if has_calls => Some("tool_calls"),
        Ending::Completed => Some("stop"),
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

/// Returns the finish chunk, and the usage chunk if usage was requested and is known.
fn closing_chunks(meta: &Meta, outcome: &Outcome, has_calls: bool) -> Vec<Vec<u8>> {
    let Some(reason) = finish_reason(&outcome.ending, has_calls) else {
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

fn delta_chunk(meta: &Meta, delta: &ChatDelta) -> Vec<u8> {
    let logprobs = match &delta.logprobs {
        Some(tokens) => format!(r#"{{"content":{tokens},"refusal":null}}"#),
        None => "null".to_owned(),
    };
    let delta = &delta.json;
    chunk(
        meta,
        &format!(r#"[{{"index":0,"delta":{delta},"logprobs":{logprobs},"finish_reason":null}}]"#),
        "null",
    )
}
