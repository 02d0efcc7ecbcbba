//! The chat dialect: a chat upstream's own chunks, byte for byte, or chunks made from the events of
//! a Responses upstream.

use super::chat_delta::ChatDelta;
use super::chat_record::ChatRecord;
use super::frame_output::FrameOutput;
use super::{Frame, Rendered, Renderer, View};
use crate::model::event::{Ending, EventKind, Outcome};
use crate::model::id::Seq;
use crate::model::json;
use crate::model::record::{CLOSING_NUMBERS, CorruptRecord, FullRecord, RecordRef};
use crate::model::snapshot::{Api, Meta, Snapshot};
use crate::upstream::translate::{chat_usage, is_error_object, is_usage_chunk};

/// The finish and usage chunks that are made of a terminal event.
#[derive(Default)]
struct ClosingChunks {
    finish: Option<Vec<u8>>,
    usage: Option<Vec<u8>>,
}

impl Renderer {
    /// As [`Renderer::chat`], of a chat upstream's record in its stored form. `None` if the answer ends
    /// with it: then its events say what a reader is shown, and it is to be decoded.
    pub(super) fn chat_record(
        &self,
        view: &impl View,
        stored: &[u8],
        record: RecordRef<'_>,
        from: Seq,
        out: &mut impl FrameOutput,
    ) -> Result<Option<Rendered>, CorruptRecord> {
        let seq = Seq(record.next_seq().0 - 1);
        if seq < from {
            return Ok(Some(Rendered::Open));
        }
        let meta = view.meta();
        let read = ChatRecord::read(stored)?;
        if read.is_end {
            return Ok(None);
        }
        let is_shown = |raw: &&[u8]| is_shown(view, seq, raw, read.is_alone);
        if let Some(raw) = read.raw.filter(is_shown) {
            out.put_frame(&*self.framing, &meta.id, &Frame::unnamed(seq, raw));
        }
        Ok(Some(Rendered::Open))
    }

    pub(super) fn chat(
        &mut self,
        view: &impl View,
        full: &FullRecord<'_>,
        record: RecordRef<'_>,
        from: Seq,
        out: &mut impl FrameOutput,
    ) -> Rendered {
        let seq = Seq(record.next_seq().0 - 1);
        let meta = view.meta();
        let mut emit = |seq: Seq, data: &[u8]| {
            if seq < from {
                return;
            }
            let frame = Frame::unnamed(seq, data);
            out.put_frame(&*self.framing, &meta.id, &frame);
        };
        let raw = full.raw.as_ref().filter(|_| meta.api == Api::Chat);
        let is_alone = matches!(full.events.as_slice(), [EventKind::Chunk]);
        if let Some(raw) = raw.filter(|raw| is_shown(view, seq, raw, is_alone)) {
            emit(seq, raw);
        }
        let mut rendered = Rendered::Open;
        for event in &full.events {
            match event {
                // A Responses upstream that did not begin with a response object.
                EventKind::InProgress if meta.api == Api::Responses => {
                    emit(seq, &delta_chunk(meta, &ChatDelta::role()));
                }
                EventKind::Relayed(relayed) => {
                    if let Some(delta) = ChatDelta::of(view, relayed, seq) {
                        emit(seq, &delta_chunk(meta, &delta));
                    }
                }
                EventKind::End(outcome) => {
                    if meta.api == Api::Responses || record.skip == CLOSING_NUMBERS {
                        let closing = ClosingChunks::of(view, outcome);
                        // They have the numbers that the record skips.
                        let number = Seq(record.first_seq.0.saturating_sub(CLOSING_NUMBERS));
                        if let Some(chunk) = closing.finish {
                            emit(number, &chunk);
                        }
                        if let Some(chunk) = closing.usage {
                            emit(number.next(), &chunk);
                        }
                    }
                    let raw = raw.map(|raw| &raw[..]);
                    if let Some(payload) = last_payload(&outcome.ending, raw) {
                        emit(seq, &payload);
                    }
                    rendered = Rendered::Ended;
                }
                _ => {}
            }
        }
        rendered
    }
}

/// Whether a chat reader is shown a chunk. A usage chunk is a record of its own, and the upstream may
/// send one that was not requested.
fn is_shown(view: &impl View, seq: Seq, chunk: &[u8], is_alone: bool) -> bool {
    let is_usage = || view.is_usage_chunk(seq) || is_usage_chunk(chunk);
    !is_alone || view.meta().include_usage || !is_usage()
}

/// Returns the payload after the terminal record's own chunk: `[DONE]` after an answer, else an
/// error object. `None` if the chunk is the upstream's own error object.
fn last_payload(ending: &Ending, raw: Option<&[u8]>) -> Option<Vec<u8>> {
    let (code, kind, message) = match ending {
        Ending::Completed | Ending::Incomplete { .. } => return Some(b"[DONE]".to_vec()),
        Ending::Failed(_) if raw.is_some_and(is_error_object) => return None,
        Ending::Failed(failure) => (&*failure.code, &*failure.kind, &*failure.message),
        Ending::Cancelled => ("cancelled", "cancelled", "The generation was cancelled."),
    };
    let (code, kind, message) = (
        json::escape(code),
        json::escape(kind),
        json::escape(message),
    );
    Some(
        format!(
            r#"{{"error":{{"message":"{message}","type":"{kind}","param":null,"code":"{code}"}}}}"#
        )
        .into_bytes(),
    )
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

impl ClosingChunks {
    /// Returns the finish chunk of all choices that have none yet, and the usage chunk if usage was requested and is known.
    fn of(view: &impl View, outcome: &Outcome) -> Self {
        let meta = view.meta();
        let has_calls = match meta.api {
            Api::Responses => view.item_index(|index| index.has_calls()),
            Api::Chat => view.with_snapshot(Snapshot::has_calls),
        };
        let Some(reason) = finish_reason(&outcome.ending, has_calls) else {
            return Self::default();
        };
        let mut choices = match meta.api {
            Api::Responses => Vec::new(),
            Api::Chat => view.with_snapshot(Snapshot::unfinished_choices),
        };
        if choices.is_empty() {
            choices.push(0);
        }
        let finish = |index| {
            format!(
                r#"{{"index":{index},"delta":{{}},"logprobs":null,"finish_reason":"{reason}"}}"#
            )
        };
        // One chunk for all: it has one number, after which a reader may come back.
        let choices: Vec<String> = choices.into_iter().map(finish).collect();
        let choices = format!("[{}]", choices.join(","));
        let usage = outcome.usage.as_deref().filter(|_| meta.include_usage);
        Self {
            finish: Some(chunk(meta, &choices, "null")),
            usage: usage
                .and_then(chat_usage)
                .map(|usage| chunk(meta, "[]", &usage)),
        }
    }
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
