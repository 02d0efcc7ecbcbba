//! The history of earlier turns before the input of this one.

use std::collections::HashSet;

use serde_json::value::RawValue;

use crate::model::json::{Node, ObjectWriter, push_array};
use crate::request::item::type_of;

/// The ids of the items of the history, read when first needed.
pub(super) struct HistoryIds<'a, 'h> {
    history: &'h [&'a RawValue],
    ids: Option<HashSet<String>>,
}

impl<'a, 'h> HistoryIds<'a, 'h> {
    pub(super) fn new(history: &'h [&'a RawValue]) -> Self {
        Self { history, ids: None }
    }

    /// Whether `item` is a reference to an item of the history.
    pub(super) fn resolves(&mut self, item: &Node<'_>) -> bool {
        let Ok(object) = item.object() else {
            return false;
        };
        type_of(&object).is_ok_and(|kind| kind == "item_reference")
            && object
                .node("id")
                .and_then(|id| id.text().ok())
                .is_some_and(|id| self.contains(&id))
    }

    pub(super) fn contains(&mut self, id: &str) -> bool {
        let history = self.history;
        let ids = self.ids.get_or_insert_with(|| {
            let id_of = |item: &RawValue| {
                Some(
                    Node::new(item, "")
                        .object()
                        .ok()?
                        .node("id")?
                        .text()
                        .ok()?
                        .into_owned(),
                )
            };
            history.iter().filter_map(|item| id_of(item)).collect()
        });
        ids.contains(id)
    }
}

/// Writes the items of the history and of the input as one array. References to items of the
/// history are dropped, since the upstream does not know their ids.
pub(super) fn joined(history: &[&RawValue], input: &Node<'_>) -> String {
    let mut known = HistoryIds::new(history);
    let list = input.array().ok();
    let message = list.is_none().then(|| {
        let mut out = String::new();
        let mut item = ObjectWriter::begin(&mut out);
        item.raw("type", "\"message\"");
        item.raw("role", "\"user\"");
        item.raw("content", input.raw.get());
        item.end();
        out
    });
    let list = list.unwrap_or_default();
    let items: Vec<&str> = list
        .iter()
        .filter(|item| !known.resolves(item))
        .map(|item| item.raw.get())
        .chain(message.as_deref())
        .collect();
    let history = history.iter().map(|item| item.get());
    // Long conversations are copied once, into a buffer of their size.
    let length: usize = history
        .clone()
        .chain(items.iter().copied())
        .map(str::len)
        .sum();
    let mut out = String::with_capacity(length + history.len() + items.len() + 2);
    push_array(&mut out, history.chain(items), String::push_str);
    out
}
