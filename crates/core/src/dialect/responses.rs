//! The responses dialect: Open Responses' streaming events.

use super::frame_output::{FrameOutput, FrameTarget};
use super::{Frame, KnownTemplate, Rendered, Renderer, View};
use crate::model::event::item_id;
use crate::model::event::{DeltaKind, DeltaTarget, Ending, EventKind, ItemHead, PartKind};
use crate::model::folded_json::has_marks;
use crate::model::id::Seq;
use crate::model::include::{Form, Include};
use crate::model::json;
use crate::model::output::Output;
use crate::model::record::FullRecord;
use crate::model::snapshot::{
    Meta, ResponseObject, Snapshot, Status, write_empty_part, write_item_head,
};
use crate::model::text;

fn delta_name(kind: DeltaKind) -> &'static str {
    match kind {
        DeltaKind::Text => "response.output_text.delta",
        DeltaKind::Refusal => "response.refusal.delta",
        DeltaKind::Reasoning => "response.reasoning_text.delta",
        DeltaKind::Arguments => "response.function_call_arguments.delta",
        DeltaKind::Input => "response.custom_tool_call_input.delta",
    }
}

/// `{"type":"…","sequence_number":N`
fn open(name: &str, seq: Seq, out: &mut impl Output) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\",\"sequence_number\":");
    json::push_number(out, seq.0);
}

/// `,"name":N`
fn number(name: &str, value: u32, out: &mut impl Output) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    json::push_number(out, u64::from(value));
}

fn item_reference(id: &str, item: u32, part: Option<u32>, out: &mut impl Output) {
    out.extend_from_slice(b",\"item_id\":\"");
    out.extend_from_slice(id.as_bytes());
    out.push(b'"');
    number("output_index", item, out);
    if let Some(part) = part {
        number("content_index", part, out);
    }
}

/// Appends the bytes between a delta's number and its text.
pub(super) fn write_delta_middle(id: &str, target: DeltaTarget, out: &mut impl Output) {
    let is_call = matches!(target.kind, DeltaKind::Arguments | DeltaKind::Input);
    let part = (!is_call).then_some(target.part);
    item_reference(id, target.item, part, out);
    out.extend_from_slice(b",\"delta\":\"");
}

/// Appends a delta that is stored by its template. Runs once per token.
pub(super) fn write_delta(
    seq: Seq,
    known: &KnownTemplate,
    text: &[u8],
    out: &mut impl Output,
) -> &'static str {
    let kind = known.template.target.kind;
    let name = delta_name(kind);
    open(name, seq, out);
    out.extend_from_slice(&known.event_middle);
    out.extend_from_slice(text);
    out.extend_from_slice(if kind == DeltaKind::Text {
        b"\",\"logprobs\":[]}"
    } else {
        b"\"}"
    });
    name
}

impl Renderer {
    pub(super) fn responses(
        &mut self,
        view: &impl View,
        full: &FullRecord<'_>,
        first: Seq,
        from: Seq,
        out: &mut impl FrameOutput,
    ) -> Rendered {
        let mut rendered = Rendered::Open;
        let (framing, scratch) = (&*self.framing, &mut self.scratch);
        let include = self.include;
        for (seq, event) in (first.0..).map(Seq).zip(&full.events) {
            if seq < from {
                continue;
            }
            if matches!(event, EventKind::Chunk | EventKind::Continued { .. })
                && !framing.shows_extensions()
            {
                continue;
            }
            let id = &view.meta().id;
            let relayed_name = if let EventKind::Relayed(relayed) = event {
                Some(relayed.name.as_str())
            } else {
                None
            };
            let raw = full.raw.map(|raw| &raw[..]);
            let to = FrameTarget {
                framing,
                id,
                seq,
                relayed_name,
            };
            out.write_frame(&to, scratch, |data| {
                write_event(view, seq, event, raw, include, data)
            });
            if matches!(event, EventKind::End(_)) {
                if framing.sends_done(self.dialect) {
                    let done = Frame::unnamed(seq, b"[DONE]");
                    out.put_frame(framing, id, &done);
                }
                rendered = Rendered::Ended;
            }
        }
        rendered
    }
}

/// Returns true if the record's events repeat so much text that they are sent in pieces.
pub(super) fn is_large(view: &impl View, full: &FullRecord<'_>, from_bytes: usize) -> bool {
    let repeats = |event: &EventKind| match event {
        EventKind::Relayed(relayed) => relayed.is_closing() && has_marks(&relayed.json),
        event => event.is_closing(),
    };
    full.events.iter().any(repeats)
        && view.with_snapshot(|snapshot| {
            let bytes = full
                .events
                .iter()
                .map(|event| snapshot.repeated_bytes(event));
            bytes.sum::<usize>() > from_bytes
        })
}

/// Appends an event whose response object has no output yet.
fn write_lifecycle(
    name: &'static str,
    seq: Seq,
    meta: &Meta,
    status: Status,
    out: &mut impl Output,
) -> &'static str {
    open(name, seq, out);
    out.extend_from_slice(b",\"response\":");
    let head = ResponseObject {
        meta,
        status,
        outcome: None,
        continued: 0,
    };
    head.write(out, |out| out.extend_from_slice(b"[]"));
    name
}

/// Appends the event's JSON. Returns its type unless the event is relayed.
fn write_event(
    view: &impl View,
    seq: Seq,
    event: &EventKind,
    raw: Option<&[u8]>,
    include: Include,
    out: &mut impl Output,
) -> Option<&'static str> {
    let meta = view.meta();
    let head_of = |snapshot: &Snapshot, item: u32| {
        snapshot
            .head(item)
            .map(|head| item_id(&meta.id, head, item))
            .unwrap_or_default()
    };
    let name = match event {
        EventKind::Created => {
            let status = if meta.background {
                Status::Queued
            } else {
                Status::InProgress
            };
            write_lifecycle("response.created", seq, meta, status, out)
        }
        EventKind::Queued => write_lifecycle("response.queued", seq, meta, Status::Queued, out),
        EventKind::InProgress => {
            write_lifecycle("response.in_progress", seq, meta, Status::InProgress, out)
        }
        EventKind::ItemAdded { item, head } => {
            open("response.output_item.added", seq, out);
            number("output_index", *item, out);
            out.extend_from_slice(b",\"item\":");
            write_item_head(&meta.id, *item, head, "in_progress", out);
            out.extend_from_slice(match head {
                ItemHead::Message { .. } | ItemHead::Reasoning { .. } => b",\"content\":[]}",
                ItemHead::FunctionCall { .. } => b",\"arguments\":\"\"}".as_slice(),
                ItemHead::CustomToolCall { .. } => b",\"input\":\"\"}",
                ItemHead::Image { .. } => b",\"result\":null}",
            });
            "response.output_item.added"
        }
        EventKind::PartAdded { item, part, kind } => {
            open("response.content_part.added", seq, out);
            view.with_snapshot(|snapshot| {
                item_reference(&head_of(snapshot, *item), *item, Some(*part), out)
            });
            out.extend_from_slice(b",\"part\":");
            write_empty_part(*kind, out);
            "response.content_part.added"
        }
        EventKind::Delta {
            target,
            text,
            logprobs,
        } => {
            let name = delta_name(target.kind);
            open(name, seq, out);
            view.with_snapshot(|snapshot| {
                write_delta_middle(&head_of(snapshot, target.item), *target, out)
            });
            out.extend_from_slice(text.as_bytes());
            out.push(b'"');
            if target.kind == DeltaKind::Text {
                out.extend_from_slice(b",\"logprobs\":");
                out.extend_from_slice(logprobs.as_deref().unwrap_or("[]").as_bytes());
            }
            name
        }
        EventKind::Annotation {
            item,
            part,
            index,
            json,
        } => {
            open("response.output_text.annotation.added", seq, out);
            view.with_snapshot(|snapshot| {
                item_reference(&head_of(snapshot, *item), *item, Some(*part), out)
            });
            number("annotation_index", *index, out);
            out.extend_from_slice(b",\"annotation\":");
            out.extend_from_slice(json.as_bytes());
            "response.output_text.annotation.added"
        }
        EventKind::TextDone { item, part } => view.with_snapshot(|snapshot| {
            let (kind, text) = snapshot
                .part_text(*item, *part)
                .unwrap_or((PartKind::Text, &text::EMPTY));
            let (name, field) = match kind {
                PartKind::Text => ("response.output_text.done", ",\"text\":\""),
                PartKind::Refusal => ("response.refusal.done", ",\"refusal\":\""),
                PartKind::Reasoning => ("response.reasoning_text.done", ",\"text\":\""),
            };
            open(name, seq, out);
            item_reference(&head_of(snapshot, *item), *item, Some(*part), out);
            out.extend_from_slice(field.as_bytes());
            out.text(text);
            out.push(b'"');
            if kind == PartKind::Text {
                out.extend_from_slice(b",\"logprobs\":[");
                out.text(snapshot.part_logprobs(*item, *part));
                out.push(b']');
            }
            name
        }),
        EventKind::ArgumentsDone { item } => view.with_snapshot(|snapshot| {
            if matches!(snapshot.head(*item), Some(ItemHead::CustomToolCall { .. })) {
                let name = "response.custom_tool_call_input.done";
                open(name, seq, out);
                item_reference(&head_of(snapshot, *item), *item, None, out);
                out.extend_from_slice(b",\"input\":\"");
                out.text(snapshot.arguments(*item));
                out.push(b'"');
                return name;
            }
            open("response.function_call_arguments.done", seq, out);
            item_reference(&head_of(snapshot, *item), *item, None, out);
            let name = match snapshot.head(*item) {
                Some(ItemHead::FunctionCall { name, .. }) => name.as_str(),
                _ => "",
            };
            for piece in [",\"name\":\"", name, "\",\"arguments\":\""] {
                out.extend_from_slice(piece.as_bytes());
            }
            out.text(snapshot.arguments(*item));
            out.push(b'"');
            "response.function_call_arguments.done"
        }),
        EventKind::PartDone { item, part } => view.with_snapshot(|snapshot| {
            open("response.content_part.done", seq, out);
            item_reference(&head_of(snapshot, *item), *item, Some(*part), out);
            out.extend_from_slice(b",\"part\":");
            snapshot.write_part(*item, *part, out);
            "response.content_part.done"
        }),
        EventKind::ItemDone { item, .. } => view.with_snapshot(|snapshot| {
            open("response.output_item.done", seq, out);
            number("output_index", *item, out);
            out.extend_from_slice(b",\"item\":");
            snapshot.write_item(&meta.id, *item, Form::Shown(include), out);
            "response.output_item.done"
        }),
        EventKind::Chunk => {
            open("tokenwire:chunk", seq, out);
            out.extend_from_slice(b",\"chunk\":");
            out.extend_from_slice(raw.unwrap_or(b"null"));
            "tokenwire:chunk"
        }
        EventKind::Continued { upstream } => {
            open("tokenwire:continued", seq, out);
            out.extend_from_slice(b",\"upstream\":");
            out.extend_from_slice(json::quoted(upstream).as_bytes());
            "tokenwire:continued"
        }
        EventKind::Relayed(relayed) => {
            let shown = include.event(&relayed.name, &relayed.json);
            if relayed.is_closing() && has_marks(&shown) {
                view.with_snapshot(|snapshot| snapshot.write_folded(&shown, out));
            } else {
                out.extend_from_slice(shown.as_bytes());
            }
            return None;
        }
        EventKind::End(outcome) => {
            let name = match outcome.ending {
                Ending::Completed => "response.completed",
                Ending::Incomplete { .. } | Ending::Cancelled => "response.incomplete",
                Ending::Failed(_) => "response.failed",
            };
            open(name, seq, out);
            out.extend_from_slice(b",\"response\":");
            view.with_snapshot(|snapshot| snapshot.write_response(meta, Form::Shown(include), out));
            name
        }
    };
    out.push(b'}');
    Some(name)
}
