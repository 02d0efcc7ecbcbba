//! Output items of a Responses upstream, folded from its events.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::model::json::Members;

/// The output items of a Responses upstream, by `output_index`.
#[derive(Default)]
pub(crate) struct RelayedItems(BTreeMap<u64, Value>);

impl RelayedItems {
    /// Applies an event of the item with this index.
    pub(crate) fn apply(&mut self, name: &str, index: u64, members: &Members<'_>) {
        let value = |name: &str| {
            members
                .get(name)
                .and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok())
        };
        let (field, list, at) =
            match name {
                "response.output_item.added" | "response.output_item.done" => {
                    if let Some(item) = value("item") {
                        self.0.insert(index, item);
                    }
                    return;
                }
                "response.output_text.delta"
                | "response.reasoning_text.delta"
                | "response.reasoning.delta" => ("text", "content", "content_index"),
                "response.refusal.delta" => ("refusal", "content", "content_index"),
                "response.reasoning_summary_text.delta" => ("text", "summary", "summary_index"),
                "response.function_call_arguments.delta"
                | "response.function_call_arguments.done" => ("arguments", "", ""),
                "response.custom_tool_call_input.delta"
                | "response.custom_tool_call_input.done" => ("input", "", ""),
                "response.content_part.added" => ("", "content", "content_index"),
                "response.reasoning_summary_part.added" => ("", "summary", "summary_index"),
                _ => return,
            };
        let Some(item) = self.0.get_mut(&index).and_then(Value::as_object_mut) else {
            return;
        };
        let holder = if list.is_empty() {
            if name.ends_with(".done") {
                if let Some(Value::String(text)) = value(field) {
                    item.insert(field.to_owned(), Value::String(text));
                }
                return;
            }
            item
        } else {
            let at = members.number(at).unwrap_or(0) as usize;
            let parts = item.entry(list).or_insert_with(|| Value::Array(Vec::new()));
            let Some(parts) = parts.as_array_mut() else {
                return;
            };
            if field.is_empty() {
                if at == parts.len()
                    && let Some(part) = value("part")
                {
                    parts.push(part);
                }
                return;
            }
            // Some servers do not announce their parts.
            if at == parts.len() {
                parts.push(serde_json::json!({"type": part_type(name)}));
            }
            let Some(part) = parts.get_mut(at).and_then(Value::as_object_mut) else {
                return;
            };
            part
        };
        let delta = members.text("delta").unwrap_or_default();
        match holder.get_mut(field) {
            Some(Value::String(text)) => text.push_str(&delta),
            _ => drop(holder.insert(field.to_owned(), Value::String(delta.into_owned()))),
        }
    }

    /// Returns the item with this index.
    pub(crate) fn get(&self, index: u64) -> Option<&Value> {
        self.0.get(&index)
    }

    /// Sets the id of an item.
    pub(crate) fn set_id(&mut self, index: u64, id: &str) {
        if let Some(item) = self.0.get_mut(&index).and_then(Value::as_object_mut) {
            item.insert("id".to_owned(), Value::from(id));
        }
    }

    /// Sets the status of all items that are in progress.
    pub(crate) fn close(&mut self, status: &str) {
        for item in self.0.values_mut() {
            if item
                .get("status")
                .is_some_and(|status| status == "in_progress")
            {
                item["status"] = Value::from(status);
            }
        }
    }

    /// Returns the approximate memory size, in bytes.
    pub(crate) fn memory_size(&self) -> usize {
        self.0.values().map(|item| memory_size(item) + 64).sum()
    }

    /// Gives back what the texts of the items do not use.
    pub(crate) fn shrink(&mut self) {
        self.0.values_mut().for_each(shrink);
    }

    /// Removes all items.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Returns true if there is no item.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Iterates over the items in the order of their indexes.
    pub(crate) fn values(&self) -> impl Iterator<Item = &Value> {
        self.0.values()
    }
}

fn memory_size(value: &Value) -> usize {
    /// Bytes of a member beside its name and what its value refers to.
    const MEMBER: usize = size_of::<String>() + size_of::<Value>() + 16;
    match value {
        Value::String(text) => text.capacity(),
        Value::Array(list) => {
            let spare = (list.capacity() - list.len()) * size_of::<Value>();
            let of_one = |value| memory_size(value) + size_of::<Value>();
            spare + list.iter().map(of_one).sum::<usize>()
        }
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| name.len() + memory_size(value) + MEMBER)
            .sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

fn shrink(value: &mut Value) {
    match value {
        Value::String(text) => text.shrink_to_fit(),
        Value::Array(list) => list.iter_mut().for_each(shrink),
        Value::Object(members) => members.values_mut().for_each(shrink),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
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
    fn memory_size_includes_texts_and_shrinks_with_them() {
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
        items.shrink();
        assert_eq!(items.memory_size(), empty + 100_000);
    }
}
