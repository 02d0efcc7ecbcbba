//! Emits the events of items that the upstream left out.

use serde_json::Value;

use super::ResponsesTranslator;
use super::place::Place;
use crate::model::event::{EventKind, Relayed};
use crate::model::folded_json::FoldedJson;
use crate::model::json::{self, Members};
use crate::upstream::translate::RecordWriter;
use crate::upstream::translate::opened_items::List;

impl ResponsesTranslator {
    /// Emits `output_item.added` for an item without its content.
    pub(super) fn emit_added(
        &mut self,
        at: u64,
        item: Option<&Members<'_>>,
        records: &mut RecordWriter,
    ) {
        let Some(known) = self.opened.get(at) else {
            return;
        };
        let (id, kind) = (json::quoted(&known.id), json::quoted(&known.kind));
        let mut members = vec![("id", id.as_str()), ("type", kind.as_str())];
        let empty: &[(&str, &str)] = match known.kind.as_str() {
            "message" => &[
                ("status", r#""in_progress""#),
                ("role", r#""assistant""#),
                ("content", "[]"),
            ],
            "reasoning" => &[("summary", "[]"), ("content", "[]")],
            "function_call" => &[("status", r#""in_progress""#), ("arguments", r#""""#)],
            "custom_tool_call" => &[("status", r#""in_progress""#), ("input", r#""""#)],
            _ => &[("status", r#""in_progress""#)],
        };
        members.extend_from_slice(empty);
        let none = Members::default();
        let item = item.unwrap_or(&none);
        if item.get("status").is_none() && known.kind == "reasoning" {
            members.retain(|(name, _)| *name != "status");
        }
        let item = item.write_with(&members);
        self.emit(
            "response.output_item.added",
            at,
            &format!(r#","item":{item}"#),
            records,
        );
    }

    /// Announces the parts of an item up to this one, as far as the upstream did not.
    pub(super) fn announce(
        &mut self,
        at: u64,
        place: Place,
        list: List,
        part: u64,
        records: &mut RecordWriter,
    ) {
        let announced = self.opened.get(at).map_or(0, |item| item.parts(list));
        // A gap in the upstream's indexes cannot be large for a part that is real.
        if part < announced || part - announced > 64 {
            return;
        }
        for part in announced..=part {
            let (name, empty) = place.empty_part();
            if let Some(item) = self.opened.get_mut(at) {
                item.announce(list, part);
            }
            self.emit(
                name,
                at,
                &format!(r#","{}":{part},"part":{empty}"#, list.index_name()),
                records,
            );
        }
    }

    /// Emits what follows the streamed text of a part in its complete text, a member of `object`.
    pub(super) fn emit_rest(
        &mut self,
        at: u64,
        place: Place,
        (list, part): (List, u64),
        (object, field): (&Members<'_>, &str),
        records: &mut RecordWriter,
    ) {
        // A delta has no complete text. What was streamed is not joined for each of them.
        let escaped = object.get(field).and_then(json::string_inside);
        let Some(escaped) = escaped.filter(|escaped| !escaped.is_empty()) else {
            return;
        };
        // Nor for one that has just this text.
        let (name, index) = (list.name(), part as usize);
        if records.relayed_item(at).is_text(at, name, index, escaped) {
            return;
        }
        let text = object.text(field).unwrap_or_default();
        let streamed = records.relayed_item(at).get(at);
        let known = streamed
            .as_ref()
            .map_or("", |item| part_text(&item[list.name()][part as usize]));
        let Some(rest) = text.strip_prefix(known).filter(|rest| !rest.is_empty()) else {
            return;
        };
        let rest = json::escape(rest);
        self.announce(at, place, list, part, records);
        let logprobs = if place == Place::Text {
            r#","logprobs":[]"#
        } else {
            ""
        };
        self.emit(
            place.delta(),
            at,
            &format!(
                r#","{}":{part},"delta":"{rest}"{logprobs}"#,
                list.index_name()
            ),
            records,
        );
    }

    /// Emits the text that a complete item has beyond what was streamed. `closing` adds the
    /// `….done` events of its parts, and its arguments.
    pub(super) fn supplement(
        &mut self,
        at: u64,
        item: &Members<'_>,
        closing: bool,
        records: &mut RecordWriter,
    ) {
        let kind = item.text("type").unwrap_or_default();
        for list in [List::Summary, List::Content] {
            if !matches!(&*kind, "message" | "reasoning") {
                break;
            }
            for (part, object) in (0..).zip(item.objects(list.name())) {
                let Some(place) = Place::of_part(&object, list) else {
                    continue;
                };
                let field = if place == Place::Refusal {
                    "refusal"
                } else {
                    "text"
                };
                self.emit_rest(at, place, (list, part), (&object, field), records);
                if closing
                    && !self
                        .opened
                        .get(at)
                        .is_some_and(|i| i.is_part_done(list, part))
                {
                    self.announce(at, place, list, part, records);
                    self.emit_part_done(at, place, list, part, &object, records);
                }
            }
        }
        let (field, event) = match &*kind {
            "function_call" => ("arguments", "response.function_call_arguments"),
            "custom_tool_call" => ("input", "response.custom_tool_call_input"),
            _ => return,
        };
        let arguments_done = self.opened.get(at).is_none_or(|item| item.arguments_done);
        if !closing || arguments_done {
            return;
        }
        let text = item.text(field).unwrap_or_default();
        let streamed = records.relayed_item(at).get(at);
        let known = streamed
            .as_ref()
            .and_then(|item| item[field].as_str())
            .unwrap_or_default();
        if let Some(rest) = text.strip_prefix(known).filter(|rest| !rest.is_empty()) {
            let rest = json::escape(rest);
            self.emit(
                &format!("{event}.delta"),
                at,
                &format!(r#","delta":"{rest}""#),
                records,
            );
        }
        let name = match item.get("name") {
            Some(name) if field == "arguments" => format!(r#","name":{}"#, name.get()),
            _ => String::new(),
        };
        let text = json::escape(&text);
        self.emit(
            &format!("{event}.done"),
            at,
            &format!(r#"{name},"{field}":"{text}""#),
            records,
        );
        if let Some(item) = self.opened.get_mut(at) {
            item.arguments_done = true;
        }
    }

    pub(super) fn emit_part_done(
        &mut self,
        at: u64,
        place: Place,
        list: List,
        part: u64,
        object: &Members<'_>,
        records: &mut RecordWriter,
    ) {
        let (field, logprobs) = match place {
            Place::Refusal => ("refusal", ""),
            Place::Text => ("text", r#","logprobs":[]"#),
            _ => ("text", ""),
        };
        let index = list.index_name();
        let text = object.get(field).map_or(r#""""#, |raw| raw.get());
        self.emit(
            &place.delta().replace(".delta", ".done"),
            at,
            &format!(r#","{index}":{part},"{field}":{text}{logprobs}"#),
            records,
        );
        let name = match list {
            List::Content => "response.content_part.done",
            List::Summary => "response.reasoning_summary_part.done",
        };
        let object = object.write_with(&[]);
        self.emit(
            name,
            at,
            &format!(r#","{index}":{part},"part":{object}"#),
            records,
        );
    }

    /// Emits `output_item.done` with an item in its kept form.
    pub(super) fn emit_item_done(&mut self, at: u64, item: &str, records: &mut RecordWriter) {
        let Some(known) = self.opened.get_mut(at) else {
            return;
        };
        known.done = true;
        self.emit(
            "response.output_item.done",
            at,
            &format!(r#","item":{item}"#),
            records,
        );
    }

    /// Appends an event of an item that the upstream did not send. `members` follow the ids and
    /// begin with a comma.
    pub(super) fn emit(&mut self, name: &str, at: u64, members: &str, records: &mut RecordWriter) {
        let item_id = match self.opened.get(at) {
            Some(item) if !name.starts_with("response.output_item.") => {
                format!(r#","item_id":{}"#, json::quoted(&item.id))
            }
            _ => String::new(),
        };
        let json = format!(
            r#"{{"type":"{name}","sequence_number":{}{item_id},"output_index":{at}{members}}}"#,
            records.next_seq()
        );
        push(name, Some(at), json, records);
    }
}

/// Appends an event in its folded form.
pub(super) fn push_folded(name: &str, json: String, records: &mut RecordWriter) {
    records.event(EventKind::Relayed(Relayed {
        name: name.to_owned(),
        json,
    }));
    records.record(None);
}

/// Appends an event of the item with this index. Texts that were streamed are not repeated.
pub(super) fn push(name: &str, at: Option<u64>, json: String, records: &mut RecordWriter) {
    let mut relayed = Relayed {
        name: name.to_owned(),
        json,
    };
    if relayed.is_closing() {
        let folded = match at {
            Some(at) => records.relayed_item(at).fold(relayed.json),
            None => FoldedJson::plain(relayed.json),
        };
        relayed.json = folded.into_string();
    }
    records.event(EventKind::Relayed(relayed));
    records.record(None);
}

/// Returns the text or refusal of a part.
pub(super) fn part_text(part: &Value) -> &str {
    part["text"]
        .as_str()
        .or_else(|| part["refusal"].as_str())
        .unwrap_or_default()
}
