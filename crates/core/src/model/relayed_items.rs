//! Output items of a Responses upstream, folded from its events.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::model::json::{self, Members};
use crate::model::shown::PRIVATE;
use crate::model::text::Text;

/// The output items of a Responses upstream, by `output_index`. A copy shares them.
#[derive(Clone, Default)]
pub(crate) struct RelayedItems(Option<Arc<BTreeMap<u64, Arc<RelayedItem>>>>);

/// An item, and the texts that were streamed to it since it was set.
#[derive(Clone, Default)]
struct RelayedItem {
    value: Arc<Value>,
    texts: Vec<(Place, Text)>,
    memory_size: usize,
}

/// A string of an item.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    /// The list of parts and the index of one. Otherwise the string is the item's own.
    part: Option<(&'static str, usize)>,
    field: &'static str,
}

/// What an event does to an item. It is parsed before the snapshot is locked.
#[derive(Debug)]
pub(crate) struct RelayedUpdate {
    index: u64,
    change: Change,
}

#[derive(Debug)]
enum Change {
    Item(Value),
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
        text: String,
    },
}

impl RelayedUpdate {
    /// Parses an event of the item with this index. None if it changes no item.
    pub(crate) fn parse(name: &str, index: u64, members: &Members<'_>) -> Option<Self> {
        let value = |name: &str| {
            members
                .get(name)
                .and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok())
        };
        let whole = |field: &'static str| match value(field) {
            Some(Value::String(text)) => Some(Change::Whole { field, text }),
            _ => None,
        };
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
            "response.output_item.added" | "response.output_item.done" => {
                value("item").map(Change::Item)
            }
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
}

impl RelayedItems {
    /// Applies an event of the item with this index.
    pub(crate) fn apply(&mut self, name: &str, index: u64, members: &Members<'_>) {
        if let Some(update) = RelayedUpdate::parse(name, index, members) {
            self.update(update);
        }
    }

    /// Applies a parsed event.
    pub(crate) fn update(&mut self, update: RelayedUpdate) {
        let RelayedUpdate { index, change } = update;
        if let Change::Item(value) = change {
            let item = RelayedItem {
                memory_size: memory_size(&value),
                value: Arc::new(value),
                texts: Vec::new(),
            };
            self.items().insert(index, Arc::new(item));
            return;
        }
        let Some(item) = self.items().get_mut(&index).map(Arc::make_mut) else {
            return;
        };
        match change {
            Change::Item(_) => {}
            Change::Part { list, at, part } => item.add_part(list, at, part),
            Change::Text {
                part,
                kind,
                field,
                delta,
            } => {
                let place = Place { part, field };
                // Most deltas continue the text of the one before.
                if item.texts.last().is_none_or(|(last, _)| *last != place)
                    && !item.open(place, kind)
                {
                    return;
                }
                if let Some((_, text)) = item.texts.iter_mut().rfind(|(known, _)| *known == place) {
                    text.push_string(delta);
                }
            }
            Change::Whole { field, text } => {
                item.texts
                    .retain(|(place, _)| *place != Place { part: None, field });
                if let Some(object) = Arc::make_mut(&mut item.value).as_object_mut() {
                    item.memory_size += text.len();
                    object.insert(field.to_owned(), Value::String(text));
                }
            }
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

    /// Sets the id of an item.
    pub(crate) fn set_id(&mut self, index: u64, id: &str) {
        if let Some(item) = self.items().get_mut(&index).map(Arc::make_mut)
            && let Some(object) = Arc::make_mut(&mut item.value).as_object_mut()
        {
            object.insert("id".to_owned(), Value::from(id));
        }
    }

    /// Sets what is kept beside an item, a JSON object.
    pub(crate) fn set_private(&mut self, index: u64, json: &str) {
        if let Some(item) = self.items().get_mut(&index).map(Arc::make_mut)
            && let Some(object) = Arc::make_mut(&mut item.value).as_object_mut()
            && let Ok(value) = serde_json::from_str(json)
        {
            object.insert(PRIVATE.to_owned(), value);
        }
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

    /// Removes all items.
    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }

    /// Returns the memory that the items hold, in bytes.
    pub(crate) fn memory_size(&self) -> usize {
        let texts = |item: &RelayedItem| {
            item.texts
                .iter()
                .map(|(_, text)| text.memory_size() + 96)
                .sum::<usize>()
        };
        self.0
            .iter()
            .flat_map(|items| items.values())
            .map(|item| item.memory_size + texts(item) + 128)
            .sum()
    }

    /// Returns true if there is no item.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|items| items.is_empty())
    }

    /// Iterates over the items in the order of their indexes.
    pub(crate) fn values(&self) -> impl Iterator<Item = Cow<'_, Value>> {
        let items = self.0.iter().flat_map(|items| items.values());
        items.map(|item| item.merged())
    }
}

impl RelayedItem {
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

    /// Begins a text at this place. False if the item has no such place.
    fn open(&mut self, place: Place, kind: &str) -> bool {
        if self.texts.iter().any(|(known, _)| *known == place) {
            return true;
        }
        if let Some((list, at)) = place.part {
            let Some(parts) = self.parts(list) else {
                return false;
            };
            // Some servers do not announce their parts.
            if at == parts.len() {
                parts.push(serde_json::json!({"type": kind}));
            }
            if !parts.get(at).is_some_and(Value::is_object) {
                return false;
            }
        } else if !self.value.is_object() {
            return false;
        }
        self.texts.push((place, Text::default()));
        true
    }

    fn parts(&mut self, list: &str) -> Option<&mut Vec<Value>> {
        Arc::make_mut(&mut self.value)
            .as_object_mut()?
            .entry(list)
            .or_insert_with(|| Value::Array(Vec::new()))
            .as_array_mut()
    }

    /// Returns the item with its texts.
    fn merged(&self) -> Cow<'_, Value> {
        if self.texts.is_empty() {
            return Cow::Borrowed(&self.value);
        }
        let mut value = Value::clone(&self.value);
        for (place, text) in &self.texts {
            let holder = match place.part {
                Some((list, at)) => value.get_mut(list).and_then(|parts| parts.get_mut(at)),
                None => Some(&mut value),
            };
            let Some(holder) = holder.and_then(Value::as_object_mut) else {
                continue;
            };
            // Only the joined pieces can be unescaped: a token may end inside a surrogate pair.
            let text = json::unescape(&text.to_string());
            match holder.get_mut(place.field) {
                Some(Value::String(before)) => before.push_str(&text),
                _ => drop(holder.insert(place.field.to_owned(), Value::String(text))),
            }
        }
        Cow::Owned(value)
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

    #[test]
    fn memory_size_includes_texts() {
        let mut items = RelayedItems::default();
        let added = r#"{"item":{"type":"message","content":[{"type":"output_text","text":""}]}}"#;
        items.apply(
            "response.output_item.added",
            0,
            &serde_json::from_str(added).unwrap(),
        );
        let empty = items.memory_size();
        let delta = format!(r#"{{"content_index":0,"delta":"{}"}}"#, "x".repeat(1000));
        for _ in 0..100 {
            let members = serde_json::from_str(&delta).unwrap();
            items.apply("response.output_text.delta", 0, &members);
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
            items.apply(name, 0, &serde_json::from_str(&event).unwrap());
        }
        let item = items.get(0).unwrap();
        assert_eq!(item["content"][0]["text"], "a\u{1F600}\n");
    }
}
