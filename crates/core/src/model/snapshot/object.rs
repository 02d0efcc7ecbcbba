//! The JSON of a snapshot: parts, items and the response object.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::{Item, Meta, Part, Snapshot, Status};
use crate::model::event::{Ending, EventKind, ItemHead, Outcome, PartKind, item_id};
use crate::model::folded_json::{self, FoldedJson, FoldedPart, TextRef};
use crate::model::id::GenerationId;
use crate::model::include::{ENCRYPTED, Form, Include, PRIVATE};
use crate::model::json::{self, Members};
use crate::model::output::Output;
use crate::model::text::{self, Text};

/// The response object of a Responses upstream.
#[derive(Clone)]
struct RelayedObject(Arc<Outcome>);

impl AsRef<[u8]> for RelayedObject {
    fn as_ref(&self) -> &[u8] {
        let relayed = self.0.relayed.as_ref();
        relayed.map_or(&[], |relayed| relayed.as_str().as_bytes())
    }
}

/// The data of an image.
#[derive(Clone)]
struct ImageData(Arc<ItemHead>);

impl AsRef<[u8]> for ImageData {
    fn as_ref(&self) -> &[u8] {
        match &*self.0 {
            ItemHead::Image {
                result: Some(data), ..
            } => data.as_bytes(),
            _ => &[],
        }
    }
}

impl Snapshot {
    /// Appends a part's JSON with its current text.
    pub(crate) fn write_part(&self, item: u32, part: u32, out: &mut impl Output) {
        if let Some(part) = self.part(item, part) {
            part.write(out);
        }
    }

    /// Appends an item's current JSON in this form.
    pub(crate) fn write_item(
        &self,
        id: &GenerationId,
        number: u32,
        form: Form,
        out: &mut impl Output,
    ) {
        let Some(item) = self.items.get(number as usize) else {
            return;
        };
        write_item_head(id, number, &item.head, item.status, out);
        match &*item.head {
            ItemHead::Message { .. } | ItemHead::Reasoning { .. } => {
                out.extend_from_slice(b",\"content\":[");
                for (index, part) in item.parts.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    part.write(out);
                }
                out.push(b']');
                if let Some(private) = &item.private {
                    write_private(private, form, out);
                }
                out.push(b'}');
            }
            ItemHead::FunctionCall { extra, .. } => {
                out.extend_from_slice(b",\"arguments\":\"");
                out.text(&item.arguments);
                out.push(b'"');
                if let Some(extra) = extra {
                    for piece in [",\"extra_content\":", extra] {
                        out.extend_from_slice(piece.as_bytes());
                    }
                }
                out.push(b'}');
            }
            ItemHead::CustomToolCall { .. } => {
                out.extend_from_slice(b",\"input\":\"");
                out.text(&item.arguments);
                out.extend_from_slice(b"\"}");
            }
            ItemHead::Image { result: None, .. } => {
                out.extend_from_slice(b",\"result\":null}");
            }
            ItemHead::Image { .. } => {
                out.extend_from_slice(b",\"result\":\"");
                out.share(&ImageData(item.head.clone()));
                out.extend_from_slice(b"\"}");
            }
        }
    }

    /// Appends an array of the output items in this form.
    pub(crate) fn write_output(&self, id: &GenerationId, form: Form, out: &mut impl Output) {
        if let Some(relayed) = self
            .outcome
            .as_ref()
            .and_then(|outcome| outcome.relayed.as_ref())
        {
            let output = serde_json::from_str::<Members<'_>>(relayed.as_str())
                .ok()
                .and_then(|members| members.get("output"));
            let output = output.map_or("[]", |raw| raw.get());
            self.write_folded(&form.items(output), out);
            return;
        }
        out.push(b'[');
        for number in 0..self.items.len() as u32 {
            if number > 0 {
                out.push(b',');
            }
            self.write_item(id, number, form, out);
        }
        for (index, value) in self.relayed.values().enumerate() {
            if index > 0 || !self.items.is_empty() {
                out.push(b',');
            }
            // A JSON value always serialises.
            let kept = serde_json::to_string(&*value).unwrap_or_default();
            out.extend_from_slice(form.item(&kept).as_bytes());
        }
        out.push(b']');
    }

    /// Appends the current response object in this form, with every field that Open Responses
    /// requires.
    pub(crate) fn write_response(&self, meta: &Meta, form: Form, out: &mut impl Output) {
        if let Some(outcome) = &self.outcome
            && let Some(relayed) = &outcome.relayed
        {
            let failed = matches!(outcome.ending, Ending::Failed(_));
            if failed && let Some(completed) = self.failed(relayed) {
                out.extend_from_slice(form.response(&completed).as_bytes());
                return;
            }
            match form.response(relayed.as_str()) {
                Cow::Borrowed(object) if !folded_json::has_marks(object) => {
                    out.share(&RelayedObject(outcome.clone()));
                }
                Cow::Borrowed(_) => {
                    let object = Bytes::from_owner(RelayedObject(outcome.clone()));
                    self.write_shared(relayed.as_str(), &object, out);
                }
                Cow::Owned(shown) => {
                    let object = Bytes::from(shown.clone());
                    self.write_shared(&shown, &object, out);
                }
            }
            return;
        }
        let head = ResponseObject {
            meta,
            status: self.status,
            outcome: self.outcome.as_deref(),
            continued: self.continued,
        };
        head.write(out, |out| self.write_output(&meta.id, form, out));
    }

    /// Appends JSON of an event in place of its folded form.
    pub(crate) fn write_folded(&self, json: &str, out: &mut impl Output) {
        for part in folded_json::parts(json) {
            match part {
                FoldedPart::Literal(range) => out.extend_from_slice(json[range].as_bytes()),
                FoldedPart::Text(text) => self.write_streamed(text, out),
            }
        }
    }

    /// As [`Snapshot::write_folded`]. `bytes` are those of the folded form.
    fn write_shared(&self, json: &str, bytes: &Bytes, out: &mut impl Output) {
        for part in folded_json::parts(json) {
            match part {
                FoldedPart::Literal(range) => out.share(&bytes.slice(range)),
                FoldedPart::Text(text) => self.write_streamed(text, out),
            }
        }
    }

    fn write_streamed(&self, text: TextRef, out: &mut impl Output) {
        if let Some(text) = self.relayed.text(text) {
            out.text(&text);
        }
    }

    /// Returns the object of a failed upstream with the streamed items, if it has no items.
    fn failed(&self, relayed: &FoldedJson) -> Option<String> {
        if self.relayed.is_empty() {
            return None;
        }
        let mut object = Vec::new();
        self.write_folded(relayed.as_str(), &mut object);
        let object: Members<'_> = serde_json::from_slice(&object).unwrap_or_default();
        let told = object
            .get("output")
            .is_some_and(|output| !output.get().trim_matches(['[', ']', ' ']).is_empty());
        if told {
            return None;
        }
        let items: Vec<Cow<'_, Value>> = self.relayed.values().collect();
        // JSON values always serialise.
        let output = serde_json::to_string(&items).unwrap_or_else(|_| "[]".to_owned());
        Some(object.write_with(&[("output", &output)]))
    }

    /// Returns about the size of the text that this event repeats, in bytes.
    pub(crate) fn repeated_bytes(&self, event: &EventKind) -> usize {
        match event {
            EventKind::TextDone { item, part } | EventKind::PartDone { item, part } => {
                self.part(*item, *part).map_or(0, Part::len)
            }
            EventKind::ArgumentsDone { item } => self.arguments(*item).len(),
            EventKind::ItemDone { item, .. } => self.items.get(*item as usize).map_or(0, Item::len),
            EventKind::Relayed(relayed) if relayed.is_closing() => {
                folded_json::text_bytes(&relayed.json)
            }
            EventKind::End(Outcome {
                relayed: Some(relayed),
                ..
            }) => relayed.as_str().len() + folded_json::text_bytes(relayed.as_str()),
            EventKind::End(_) => self.items.iter().map(Item::len).sum(),
            _ => 0,
        }
    }
}

impl Item {
    /// Returns about the length of its JSON.
    fn len(&self) -> usize {
        let parts = self.parts.iter().map(Part::len).sum::<usize>();
        parts + self.arguments.len() + self.head.memory_size()
    }
}

impl Part {
    /// Returns about the length of its JSON.
    fn len(&self) -> usize {
        self.text.len() + self.logprobs().len() + self.annotations().len()
    }

    fn write(&self, out: &mut impl Output) {
        write_part(
            self.kind,
            &self.text,
            self.annotations(),
            self.logprobs(),
            out,
        );
    }
}

/// Appends what is kept beside an item of a chat upstream: as it is, or the sealed form of it as
/// encrypted content.
fn write_private(private: &str, form: Form, out: &mut impl Output) {
    let (name, value) = match form {
        Form::Kept => (PRIVATE, private),
        Form::Shown(Include {
            encrypted_reasoning: true,
        }) => {
            let sealed = serde_json::from_str::<Members<'_>>(private).ok();
            match sealed.and_then(|members| members.get("sealed")) {
                Some(sealed) => (ENCRYPTED, sealed.get()),
                None => return,
            }
        }
        Form::Shown(_) => return,
    };
    for piece in [",\"", name, "\":", value] {
        out.extend_from_slice(piece.as_bytes());
    }
}

/// Appends the JSON of a part without content.
pub(crate) fn write_empty_part(kind: PartKind, out: &mut impl Output) {
    write_part(kind, &text::EMPTY, &text::EMPTY, &text::EMPTY, out);
}

/// Appends a part's JSON. `text` is JSON-escaped; lists are array elements without brackets.
fn write_part(
    kind: PartKind,
    text: &Text,
    annotations: &Text,
    logprobs: &Text,
    out: &mut impl Output,
) {
    let (head, tail) = match kind {
        PartKind::Text => (r#"{"type":"output_text","text":""#, true),
        PartKind::Refusal => (r#"{"type":"refusal","refusal":""#, false),
        PartKind::Reasoning => (r#"{"type":"reasoning_text","text":""#, false),
    };
    out.extend_from_slice(head.as_bytes());
    out.text(text);
    out.push(b'"');
    if tail {
        out.extend_from_slice(b",\"annotations\":[");
        out.text(annotations);
        out.extend_from_slice(b"],\"logprobs\":[");
        out.text(logprobs);
        out.push(b']');
    }
    out.push(b'}');
}

/// Appends an item's JSON up to its content, without the closing brace.
pub(crate) fn write_item_head(
    id: &GenerationId,
    number: u32,
    head: &ItemHead,
    status: &str,
    out: &mut impl Output,
) {
    let kind = match head {
        ItemHead::Message { .. } => "message",
        ItemHead::Reasoning { .. } => "reasoning",
        ItemHead::FunctionCall { .. } => "function_call",
        ItemHead::CustomToolCall { .. } => "custom_tool_call",
        ItemHead::Image { .. } => "image_generation_call",
    };
    for piece in [
        "{\"id\":\"",
        &item_id(id, head, number),
        "\",\"type\":\"",
        kind,
        "\"",
    ] {
        out.extend_from_slice(piece.as_bytes());
    }
    match head {
        ItemHead::Message { .. } => {
            for piece in [",\"status\":\"", status, "\",\"role\":\"assistant\""] {
                out.extend_from_slice(piece.as_bytes());
            }
        }
        ItemHead::Reasoning { .. } => out.extend_from_slice(b",\"summary\":[]"),
        ItemHead::Image { .. } => {
            for piece in [",\"status\":\"", status, "\""] {
                out.extend_from_slice(piece.as_bytes());
            }
        }
        ItemHead::FunctionCall {
            call_id,
            name,
            namespace,
            ..
        }
        | ItemHead::CustomToolCall {
            call_id,
            name,
            namespace,
            ..
        } => {
            for piece in [
                ",\"status\":\"",
                status,
                "\",\"call_id\":\"",
                call_id,
                "\",\"name\":\"",
                name,
                "\"",
            ] {
                out.extend_from_slice(piece.as_bytes());
            }
            if let Some(namespace) = namespace {
                for piece in [",\"namespace\":\"", namespace, "\""] {
                    out.extend_from_slice(piece.as_bytes());
                }
            }
        }
    }
}

/// The response object around its output.
pub(crate) struct ResponseObject<'a> {
    pub(crate) meta: &'a Meta,
    pub(crate) status: Status,
    pub(crate) outcome: Option<&'a Outcome>,
    /// Number of times that another upstream took over.
    pub(crate) continued: u32,
}

impl ResponseObject<'_> {
    pub(crate) fn write<O: Output>(&self, out: &mut O, output: impl FnOnce(&mut O)) {
        let Self {
            meta,
            status,
            outcome,
            continued,
        } = self;
        let mut push = |piece: &str| out.extend_from_slice(piece.as_bytes());
        push("{\"id\":\"");
        push(meta.id.as_str());
        push("\",\"object\":\"response\",\"created_at\":");
        push(itoa::Buffer::new().format(meta.created_at));
        push(",\"completed_at\":");
        match outcome {
            Some(Outcome {
                ending: Ending::Completed,
                at,
                ..
            }) => push(itoa::Buffer::new().format(*at)),
            _ => push("null"),
        }
        push(",\"status\":\"");
        push(status.as_str());
        push("\",\"incomplete_details\":");
        match outcome.map(|outcome| &outcome.ending) {
            Some(Ending::Incomplete { reason }) => {
                push(&format!("{{\"reason\":\"{}\"}}", json::escape(reason)))
            }
            _ => push("null"),
        }
        push(",\"error\":");
        match outcome.map(|outcome| &outcome.ending) {
            Some(Ending::Failed(failure)) => push(&format!(
                "{{\"code\":\"{}\",\"message\":\"{}\",\"retryable\":{}}}",
                json::escape(&failure.code),
                json::escape(&failure.message),
                failure.retryable
            )),
            _ => push("null"),
        }
        push(",\"model\":\"");
        push(&json::escape(&meta.model));
        push("\",");
        push(&meta.request_fields);
        if !meta.request_fields.is_empty() {
            push(",");
        }
        push("\"usage\":");
        push(
            outcome
                .and_then(|outcome| outcome.usage.as_deref())
                .unwrap_or("null"),
        );
        if *continued > 0 {
            push(&format!(",\"tokenwire:continued\":{continued}"));
        }
        push(",\"output\":");
        output(out);
        out.push(b'}');
    }
}
