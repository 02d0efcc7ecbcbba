//! Output items of a Responses upstream, folded from its events.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;

use crate::model::folded_json::{FoldedJson, FoldedString, FoldedWriter, TextRef, folded_string};
use crate::model::json::{self, Members};
use crate::model::text::Text;
use crate::model::text_place::{TextKind, TextPlace};

/// Shorter texts are repeated in the events that close them.
const FOLD_FROM: usize = 256;
/// A string is compared with at most this many texts of its length.
const MAX_COMPARED: usize = 32;

/// The output items of a Responses upstream, by `output_index`. A copy shares them.
#[derive(Clone, Default)]
pub(crate) struct RelayedItems(Option<Arc<BTreeMap<u64, Arc<RelayedItem>>>>);

/// An item, and the texts that were streamed to it.
#[derive(Clone, Default)]
struct RelayedItem {
    value: Arc<Value>,
    /// Whether strings of the value may refer to texts.
    is_folded: bool,
    /// They stay with the item: later events refer to them by their numbers.
    texts: Vec<StreamedText>,
    memory_size: usize,
}

/// A text that was streamed to an item.
#[derive(Clone)]
struct StreamedText {
    place: Place,
    /// JSON-escaped.
    text: Text,
    /// Whether the item has it beyond its value, which was set before it began.
    is_open: bool,
}

/// A string of an item.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    /// The list of parts and the index of one. Otherwise the string is the item's own.
    part: Option<(&'static str, usize)>,
    field: &'static str,
}

/// What an event does to an item. It is parsed before the snapshot is locked.
#[derive(Clone, Debug)]
pub(crate) struct RelayedUpdate {
    index: u64,
    change: Change,
}

#[derive(Clone, Debug)]
enum Change {
    Item {
        value: Value,
        /// Whether strings of the value may refer to texts.
        is_folded: bool,
    },
    Part {
        list: &'static str,
        at: usize,
        part: Value,
    },
    Text {
        part: Option<(&'static str, usize)>,
        kind: &'static str,
        field: &'static str,
        delta: String,
    },
    Whole {
        field: &'static str,
        text: FoldedString,
    },
}

impl RelayedUpdate {
    /// Parses an event of the item with this index. Closing events are in their folded form. None if
    /// it changes no item.
    pub(crate) fn parse(name: &str, index: u64, members: &Members<'_>) -> Option<Self> {
        let value = |name: &str| {
            members
                .get(name)
                .and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok())
        };
        let whole = |field: &'static str| match value(field) {
            Some(Value::String(text)) => {
                let text = folded_string(&text).unwrap_or(FoldedString::Literal(text));
                Some(Change::Whole { field, text })
            }
            _ => None,
        };
        let item = |is_folded| value("item").map(|value| Change::Item { value, is_folded });
        let at = |name: &str| members.number(name).unwrap_or(0) as usize;
        let text = |part, field| {
            Some(Change::Text {
                part,
                kind: part_type(name),
                field,
                delta: members
                    .get("delta")
                    .and_then(json::string_inside)
                    .unwrap_or_default()
                    .to_owned(),
            })
        };
        let part = |list, index| {
            value("part").map(|part| Change::Part {
                list,
                at: at(index),
                part,
            })
        };
        let change = match name {
            "response.output_item.added" => item(false),
            "response.output_item.done" => item(true),
            "response.output_text.delta"
            | "response.reasoning_text.delta"
            | "response.reasoning.delta" => text(Some(("content", at("content_index"))), "text"),
            "response.refusal.delta" => text(Some(("content", at("content_index"))), "refusal"),
            "response.reasoning_summary_text.delta" => {
                text(Some(("summary", at("summary_index"))), "text")
            }
            "response.function_call_arguments.delta" => text(None, "arguments"),
            "response.custom_tool_call_input.delta" => text(None, "input"),
            "response.function_call_arguments.done" => whole("arguments"),
            "response.custom_tool_call_input.done" => whole("input"),
            "response.content_part.added" => part("content", "content_index"),
            "response.reasoning_summary_part.added" => part("summary", "summary_index"),
            _ => None,
        }?;
        Some(Self { index, change })
    }

    /// The item's index.
    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    /// Returns the place of a piece of text, and the piece, JSON-escaped.
    pub(crate) fn piece(&self) -> Option<(TextPlace, &str)> {
        let Change::Text {
            part, kind, delta, ..
        } = &self.change
        else {
            return None;
        };
        Some((text_place(self.index, *part, kind), delta))
    }

    /// Whether the item is complete: no piece of it follows.
    pub(crate) fn completes_item(&self) -> bool {
        matches!(self.change, Change::Item { is_folded, .. } if is_folded)
    }
}

impl RelayedItems {
    /// Applies a parsed event.
    pub(crate) fn update(&mut self, update: RelayedUpdate) {
        let RelayedUpdate { index, change } = update;
        if let Change::Item { value, is_folded } = change {
            let item = self.items().entry(index).or_default();
            Arc::make_mut(item).set(value, is_folded);
            return;
        }
        let Some(item) = self.items().get_mut(&index).map(Arc::make_mut) else {
            return;
        };
        match change {
            Change::Item { .. } => {}
            Change::Part { list, at, part } => item.add_part(list, at, part),
            Change::Text {
                part,
                kind,
                field,
                delta,
            } => item.push(Place { part, field }, kind, delta),
            Change::Whole { field, text } => item.set_text(field, text),
        }
    }

    /// Returns the items to change. A list that a copy shares is copied first.
    fn items(&mut self) -> &mut BTreeMap<u64, Arc<RelayedItem>> {
        Arc::make_mut(self.0.get_or_insert_default())
    }

    /// Returns the item with this index.
    pub(crate) fn get(&self, index: u64) -> Option<Cow<'_, Value>> {
        self.0.as_ref()?.get(&index).map(|item| item.merged())
    }

    /// Takes over an item of others.
    pub(crate) fn adopt(&mut self, index: u64, others: &Self) {
        if let Some(item) = others.0.as_ref().and_then(|items| items.get(&index)) {
            self.items().insert(index, item.clone());
        }
    }

    /// Returns a text that was streamed to an item, as far as an event refers to it.
    pub(crate) fn text(&self, text: TextRef) -> Option<Text> {
        let item = self.0.as_ref()?.get(&text.item)?;
        item.text(text)
    }

    /// Returns the item with this index with references in place of the texts that were streamed to
    /// it; `None` if there is no such item, or it may have strings that look like references.
    pub(crate) fn get_folded(&self, index: u64) -> Option<Cow<'_, Value>> {
        self.0.as_ref()?.get(&index)?.folded(index)
    }

    /// Whether this is the whole text of a part so far. It is JSON-escaped.
    pub(crate) fn is_text(&self, index: u64, list: &str, at: usize, text: &str) -> bool {
        let item = self.0.as_ref().and_then(|items| items.get(&index));
        item.is_some_and(|item| item.is_text(list, at, text))
    }

    /// Returns JSON with references in place of the strings that equal a streamed text.
    pub(crate) fn fold(&self, json: String) -> FoldedJson {
        let folded = self.fold_texts(&json);
        folded.unwrap_or_else(|| FoldedJson::plain(json))
    }

    /// As [`RelayedItems::fold`]; `None` if no text can be referred to.
    pub(crate) fn fold_texts(&self, json: &str) -> Option<FoldedJson> {
        if json.len() < FOLD_FROM {
            return None;
        }
        let mut texts = HashMap::<usize, Vec<(TextRef, &Text)>>::new();
        for (item, known) in self.0.iter().flat_map(|items| items.iter()) {
            for (text, streamed) in known.texts.iter().enumerate() {
                let bytes = streamed.text.len();
                let text = TextRef {
                    item: *item,
                    text,
                    bytes,
                };
                if bytes >= FOLD_FROM {
                    texts.entry(bytes).or_default().push((text, &streamed.text));
                }
            }
        }
        if texts.is_empty() {
            return None;
        }
        let mut folded = FoldedWriter::default();
        let (mut copied, mut at) = (0, 0);
        while let Some(quote) = memchr::memchr(b'"', &json.as_bytes()[at..]) {
            let start = at + quote + 1;
            let Some(length) = json::string_inside_len(&json.as_bytes()[start..]) else {
                break;
            };
            let end = start + length;
            let known = texts.get(&length).and_then(|texts| {
                let mut compared = texts.iter().take(MAX_COMPARED);
                compared.find(|(_, text)| text.equals(&json[start..end]))
            });
            if let Some((text, _)) = known {
                folded.literal(&json[copied..start]);
                folded.text(*text);
                copied = end;
            }
            at = end + 1;
        }
        folded.literal(&json[copied..]);
        Some(folded.end())
    }

    /// Sets the status of all items that are in progress.
    pub(crate) fn close(&mut self, status: &str) {
        if self.is_empty() {
            return;
        }
        for item in self.items().values_mut() {
            if item
                .value
                .get("status")
                .is_some_and(|status| status == "in_progress")
            {
                let item = Arc::make_mut(item);
                Arc::make_mut(&mut item.value)["status"] = Value::from(status);
            }
        }
    }

    /// Removes all but the texts, which events refer to.
    pub(crate) fn keep_texts(&mut self) {
        if self.is_empty() {
            return;
        }
        for item in self.items().values_mut() {
            Arc::make_mut(item).set(Value::Null, false);
        }
    }

    /// Returns the memory that the items hold, in bytes.
    pub(crate) fn memory_size(&self) -> usize {
        let texts = |item: &RelayedItem| {
            item.texts
                .iter()
                .map(|streamed| streamed.text.memory_size() + 96)
                .sum::<usize>()
        };
        self.0
            .iter()
            .flat_map(|items| items.values())
            .map(|item| item.memory_size + texts(item) + 128)
            .sum()
    }

    /// Returns the bytes of the texts that were streamed.
    pub(crate) fn text_len(&self) -> usize {
        let items = self.0.iter().flat_map(|items| items.values());
        items
            .flat_map(|item| &item.texts)
            .map(|streamed| streamed.text.len())
            .sum()
    }

    /// Returns true if there is no item.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|items| items.is_empty())
    }

    /// Returns the texts that may go on, JSON-escaped.
    pub(crate) fn open_texts(&self) -> Vec<(TextPlace, String)> {
        let items = self.0.iter().flat_map(|items| items.iter());
        let texts = items.flat_map(|(index, item)| {
            let open = item.texts.iter().filter(|streamed| streamed.is_open);
            open.map(|streamed| {
                let StreamedText { place, text, .. } = streamed;
                let kind = item.part_type(*place);
                (text_place(*index, place.part, &kind), text.to_string())
            })
        });
        texts.collect()
    }

    /// Returns the text that was streamed to this place, JSON-escaped.
    pub(crate) fn streamed_text(&self, at: TextPlace) -> String {
        let item = self.0.as_ref().and_then(|items| items.get(&at.item));
        let texts = item.into_iter().flat_map(|item| &item.texts);
        let is_there = |place: Place| match (place.part, at.kind) {
            (None, kind) => kind == TextKind::Arguments,
            (Some((list, part)), kind) => {
                part == at.part as usize
                    && kind != TextKind::Arguments
                    && (list == "summary") == (kind == TextKind::Summary)
            }
        };
        let mut there = texts.filter(|streamed| is_there(streamed.place));
        there
            .next_back()
            .map_or_else(String::new, |streamed| streamed.text.to_string())
    }

    /// Iterates over the items in the order of their indexes.
    pub(crate) fn values(&self) -> impl Iterator<Item = Cow<'_, Value>> {
        let items = self.0.iter().flat_map(|items| items.values());
        items.map(|item| item.merged())
    }
}

impl RelayedItem {
    /// Returns the type of the part with this string; empty for the item's own.
    fn part_type(&self, place: Place) -> String {
        let part = place
            .part
            .and_then(|(list, at)| self.value.get(list)?.get(at));
        let kind = part
            .and_then(|part| part.get("type"))
            .and_then(Value::as_str);
        kind.unwrap_or_default().to_owned()
    }

    /// Sets the value, which has everything that was streamed before.
    fn set(&mut self, value: Value, is_folded: bool) {
        self.memory_size = memory_size(&value);
        self.value = Arc::new(value);
        self.is_folded = is_folded;
        for streamed in &mut self.texts {
            streamed.is_open = false;
            streamed.text.close();
        }
        self.texts.shrink_to_fit();
    }

    /// Adds the part with this index, if it is the next one.
    fn add_part(&mut self, list: &str, at: usize, part: Value) {
        let size = memory_size(&part);
        if let Some(parts) = self.parts(list)
            && at == parts.len()
        {
            parts.push(part);
            self.memory_size += size;
        }
    }

    /// Appends to the text at this place.
    fn push(&mut self, place: Place, kind: &str, delta: String) {
        let is_here = |streamed: &StreamedText| streamed.is_open && streamed.place == place;
        // Most deltas continue the text of the one before.
        let known = self.texts.iter().rposition(is_here);
        let at = match known {
            Some(at) => at,
            None if self.has_place(place, kind) => {
                self.texts.push(StreamedText {
                    place,
                    text: Text::default(),
                    is_open: true,
                });
                self.texts.len() - 1
            }
            None => return,
        };
        if let Some(streamed) = self.texts.get_mut(at) {
            streamed.text.push_string(delta);
        }
    }

    /// Sets a string of the item.
    fn set_text(&mut self, field: &'static str, text: FoldedString) {
        let place = Place { part: None, field };
        let text = match text {
            FoldedString::Literal(text) => text,
            FoldedString::Text(text) => {
                let known = self.texts.get(text.text);
                if known.is_some_and(|streamed| streamed.is_open && streamed.place == place) {
                    return;
                }
                let text = self.text(text).unwrap_or_default();
                json::unescape(&text.to_string())
            }
        };
        for streamed in self.texts.iter_mut().filter(|text| text.place == place) {
            streamed.is_open = false;
        }
        if let Some(object) = Arc::make_mut(&mut self.value).as_object_mut() {
            self.memory_size += text.len();
            object.insert(field.to_owned(), Value::String(text));
        }
    }

    /// Whether the item has a place for a text. Adds a part that the upstream did not announce.
    fn has_place(&mut self, place: Place, kind: &str) -> bool {
        let Some((list, at)) = place.part else {
            return self.value.is_object();
        };
        let Some(parts) = self.parts(list) else {
            return false;
        };
        if at == parts.len() {
            parts.push(serde_json::json!({"type": kind}));
        }
        parts.get(at).is_some_and(Value::is_object)
    }

    fn parts(&mut self, list: &str) -> Option<&mut Vec<Value>> {
        Arc::make_mut(&mut self.value)
            .as_object_mut()?
            .entry(list)
            .or_insert_with(|| Value::Array(Vec::new()))
            .as_array_mut()
    }

    fn text(&self, text: TextRef) -> Option<Text> {
        self.texts.get(text.text)?.text.prefix(text.bytes)
    }

    /// Returns the item with references in place of its texts.
    fn folded(&self, index: u64) -> Option<Cow<'_, Value>> {
        if !self.is_folded && has_mark(&self.value) {
            return None;
        }
        let mut value = Cow::Borrowed(&*self.value);
        let texts = self.texts.iter().enumerate();
        for (text, streamed) in texts.filter(|(_, streamed)| streamed.is_open) {
            let bytes = streamed.text.len();
            let holder = match streamed.place.part {
                Some((list, at)) => value.to_mut().get_mut(list)?.get_mut(at)?,
                None => value.to_mut(),
            };
            let holder = holder.as_object_mut()?;
            let before = holder.get(streamed.place.field).and_then(Value::as_str);
            // Shorter ones are repeated.
            if bytes < FOLD_FROM || !before.unwrap_or_default().is_empty() {
                return None;
            }
            let item = index;
            let reference = TextRef { item, text, bytes }.string();
            holder.insert(streamed.place.field.to_owned(), Value::String(reference));
        }
        Some(value)
    }

    fn is_text(&self, list: &str, at: usize, text: &str) -> bool {
        let part = self.value.get(list).and_then(|parts| parts.get(at));
        let is_empty = |field| {
            let before = part.and_then(|part| part.get(field));
            before
                .and_then(Value::as_str)
                .unwrap_or_default()
                .is_empty()
        };
        let is_here = |streamed: &&StreamedText| {
            streamed.is_open
                && streamed
                    .place
                    .part
                    .is_some_and(|(of, index)| of == list && index == at)
        };
        let mut here = self.texts.iter().filter(is_here);
        let (streamed, other) = (here.next(), here.next());
        is_empty("text")
            && is_empty("refusal")
            && other.is_none()
            && streamed.is_some_and(|streamed| streamed.text.equals(text))
    }

    /// Returns the item with its texts.
    fn merged(&self) -> Cow<'_, Value> {
        let has_open = self.texts.iter().any(|streamed| streamed.is_open);
        if !has_open && !self.is_folded {
            return Cow::Borrowed(&self.value);
        }
        let mut value = Value::clone(&self.value);
        if self.is_folded {
            self.unfold(&mut value);
        }
        for streamed in self.texts.iter().filter(|streamed| streamed.is_open) {
            let holder = match streamed.place.part {
                Some((list, at)) => value.get_mut(list).and_then(|parts| parts.get_mut(at)),
                None => Some(&mut value),
            };
            let Some(holder) = holder.and_then(Value::as_object_mut) else {
                continue;
            };
            // Only the joined pieces can be unescaped: a token may end inside a surrogate pair.
            let text = json::unescape(&streamed.text.to_string());
            match holder.get_mut(streamed.place.field) {
                Some(Value::String(before)) => before.push_str(&text),
                _ => drop(holder.insert(streamed.place.field.to_owned(), Value::String(text))),
            }
        }
        Cow::Owned(value)
    }

    /// Replaces the references of a value by their texts.
    fn unfold(&self, value: &mut Value) {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
            Value::String(text) => match folded_string(text) {
                None => {}
                Some(FoldedString::Literal(literal)) => *text = literal,
                Some(FoldedString::Text(reference)) => {
                    let streamed = self.text(reference).unwrap_or_default();
                    *text = json::unescape(&streamed.to_string());
                }
            },
            Value::Array(values) => values.iter_mut().for_each(|value| self.unfold(value)),
            Value::Object(members) => members.values_mut().for_each(|value| self.unfold(value)),
        }
    }
}

/// Returns true if a string looks like a reference.
fn has_mark(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
        Value::String(text) => text.starts_with('\u{1}'),
        Value::Array(values) => values.iter().any(has_mark),
        Value::Object(members) => members.values().any(has_mark),
    }
}

/// Returns about the memory that a value holds, in bytes.
fn memory_size(value: &Value) -> usize {
    32 + match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.capacity(),
        Value::Array(values) => values.iter().map(memory_size).sum(),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| name.len() + 32 + memory_size(value))
            .sum(),
    }
}

/// Returns the type of the part that a delta event of this name belongs to.
/// Returns the place of a text of the item with this index, by its list and the type of its part.
fn text_place(item: u64, part: Option<(&'static str, usize)>, kind: &str) -> TextPlace {
    let at = |(_, at): (&str, usize)| u32::try_from(at).unwrap_or(u32::MAX);
    TextPlace {
        item,
        part: part.map_or(0, at),
        kind: match (part, kind) {
            (None, _) => TextKind::Arguments,
            (Some(("summary", _)), _) => TextKind::Summary,
            (Some(_), "refusal") => TextKind::Refusal,
            (Some(_), "reasoning_text" | "summary_text") => TextKind::Reasoning,
            // A message's, or reasoning's where its type is `text`.
            (Some(_), _) => TextKind::Text,
        },
        relayed: true,
    }
}

fn part_type(delta: &str) -> &'static str {
    match delta {
        "response.refusal.delta" => "refusal",
        "response.reasoning_text.delta" | "response.reasoning.delta" => "reasoning_text",
        "response.reasoning_summary_text.delta" => "summary_text",
        _ => "output_text",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::folded_json::{self, FoldedPart};

    fn apply(items: &mut RelayedItems, name: &str, event: &str) {
        let members = serde_json::from_str(event).unwrap();
        items.update(RelayedUpdate::parse(name, 0, &members).unwrap());
    }

    fn unfolded(items: &RelayedItems, json: &FoldedJson) -> String {
        let json = json.as_str();
        let part = |part: FoldedPart| match part {
            FoldedPart::Literal(range) => json[range].to_owned(),
            FoldedPart::Text(text) => items.text(text).unwrap().to_string(),
        };
        folded_json::parts(json).into_iter().map(part).collect()
    }

    #[test]
    fn texts_are_kept_once_and_rendered_back() {
        let mut items = RelayedItems::default();
        let added = r#"{"item":{"type":"message","content":[]}}"#;
        apply(&mut items, "response.output_item.added", added);
        let mut streamed = String::new();
        for number in 0..2000 {
            let piece = format!(r"\u00e9 {number}\n");
            streamed.push_str(&piece);
            let delta = format!(r#"{{"content_index":0,"delta":"{piece}"}}"#);
            apply(&mut items, "response.output_text.delta", &delta);
        }
        let part = format!(r#"{{"type":"output_text","text":"{streamed}","x":"\u0001"}}"#);
        let done = format!(r#"{{"item":{{"type":"message","content":[{part},{part}]}}}}"#);
        let folded = items.fold(done.clone());
        assert!(folded.as_str().len() < 300);
        assert_eq!(unfolded(&items, &folded), done);
        apply(&mut items, "response.output_item.done", folded.as_str());
        let expected: Value = serde_json::from_str(&done).unwrap();
        assert_eq!(*items.get(0).unwrap(), expected["item"]);
        let size = items.memory_size();
        assert!(size < streamed.len() + 4096, "{size} bytes");
        // A text that goes on after that is another one.
        let delta = r#"{"content_index":1,"delta":"more"}"#;
        apply(&mut items, "response.output_text.delta", delta);
        assert_eq!(unfolded(&items, &folded), done);
        let text = items.get(0).unwrap()["content"][1]["text"].to_string();
        assert!(text.ends_with(r#"\nmore""#), "{}", &text[text.len() - 20..]);
        // What refers to the texts outlives the items.
        items.keep_texts();
        assert_eq!(unfolded(&items, &folded), done);
    }

    #[test]
    fn arguments_that_equal_the_streamed_ones_are_kept_once() {
        let mut items = RelayedItems::default();
        let added = r#"{"item":{"type":"function_call","arguments":""}}"#;
        apply(&mut items, "response.output_item.added", added);
        let arguments = "x".repeat(1000);
        let delta = format!(r#"{{"delta":"{arguments}"}}"#);
        apply(&mut items, "response.function_call_arguments.delta", &delta);
        let name = "response.function_call_arguments.done";
        for done in [arguments.as_str(), &arguments, "\\u0001other"] {
            let event = items.fold(format!(r#"{{"arguments":"{done}"}}"#));
            apply(&mut items, name, event.as_str());
            let known = items.get(0).unwrap()["arguments"].to_string();
            assert_eq!(known, format!("\"{done}\""));
        }
        let event = items.fold(format!(r#"{{"arguments":"{arguments}"}}"#));
        apply(&mut items, name, event.as_str());
        assert_eq!(items.get(0).unwrap()["arguments"], arguments);
    }

    #[test]
    fn memory_size_includes_texts() {
        let mut items = RelayedItems::default();
        let added = r#"{"item":{"type":"message","content":[{"type":"output_text","text":""}]}}"#;
        apply(&mut items, "response.output_item.added", added);
        let empty = items.memory_size();
        let delta = format!(r#"{{"content_index":0,"delta":"{}"}}"#, "x".repeat(1000));
        for _ in 0..100 {
            apply(&mut items, "response.output_text.delta", &delta);
        }
        assert!(items.memory_size() >= empty + 100_000);
    }

    #[test]
    fn surrogate_pair_that_two_deltas_share_is_one_character() {
        let mut items = RelayedItems::default();
        let added = r#"{"item":{"type":"message","content":[{"type":"output_text","text":""}]}}"#;
        let half = |text: &str| format!(r#"{{"content_index":0,"delta":"{text}"}}"#);
        for (name, event) in [
            ("response.output_item.added", added.to_owned()),
            ("response.output_text.delta", half(r"a\ud83d")),
            ("response.output_text.delta", half(r"\ude00\n")),
        ] {
            apply(&mut items, name, &event);
        }
        let item = items.get(0).unwrap();
        assert_eq!(item["content"][0]["text"], "a\u{1F600}\n");
    }
}
