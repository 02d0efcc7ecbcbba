//! The items of a Responses upstream: which ids and indexes the client knows them by.

use std::collections::{HashMap, VecDeque};

use crate::model::json::Members;

/// An item that was opened.
#[derive(Debug)]
pub(super) struct OpenedItem {
    /// The id that the client knows, decoded. It is never the upstream's.
    pub(super) id: String,
    /// The item's `type`.
    pub(super) kind: String,
    /// Whether `response.output_item.done` was relayed.
    pub(super) done: bool,
    /// Content and summary parts that were announced.
    parts: [u64; 2],
    /// Content and summary parts that are complete.
    done_parts: [u64; 2],
    /// Whether its announcement had arguments or input, which deltas may repeat.
    pub(super) announced_arguments: bool,
    /// Whether the `….done` event of arguments or input was relayed.
    pub(super) arguments_done: bool,
}

/// Opened items by the client's `output_index`, which is the order of opening.
///
/// Upstreams name an item by its id, its index or both, and some change the id with every event.
#[derive(Debug, Default)]
pub(super) struct OpenedItems {
    items: Vec<OpenedItem>,
    by_id: HashMap<String, u64>,
    by_index: HashMap<u64, u64>,
}

/// The lists of parts that an item has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    Content,
    Summary,
}

impl List {
    /// The member of an item that holds the list.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Summary => "summary",
        }
    }

    /// The member of an event that names a part.
    pub(super) fn index_name(self) -> &'static str {
        match self {
            Self::Content => "content_index",
            Self::Summary => "summary_index",
        }
    }
}

impl OpenedItems {
    pub(super) fn len(&self) -> u64 {
        self.items.len() as u64
    }

    pub(super) fn get(&self, at: u64) -> Option<&OpenedItem> {
        self.items.get(at as usize)
    }

    pub(super) fn get_mut(&mut self, at: u64) -> Option<&mut OpenedItem> {
        self.items.get_mut(at as usize)
    }

    /// Finds the item that an event belongs to. An event without index and with no known id belongs
    /// to the last item, if that is of this kind and open: some servers change the id with every
    /// event.
    pub(super) fn find(
        &self,
        id: Option<&str>,
        upstream_index: Option<u64>,
        kind: Option<&str>,
    ) -> Option<u64> {
        if let Some(at) = id.and_then(|id| self.by_id.get(id)) {
            return Some(*at);
        }
        if let Some(index) = upstream_index {
            return self.by_index.get(&index).copied();
        }
        let last = self.items.last()?;
        let belongs = !last.done && kind == Some(last.kind.as_str());
        belongs.then(|| self.len() - 1)
    }

    /// Returns true if the upstream opened the item at this index under this id.
    pub(super) fn is(&self, at: u64, id: &str) -> bool {
        self.by_id.get(id) == Some(&at)
    }

    /// Opens an item and returns its index. `id` is the upstream's.
    pub(super) fn open(
        &mut self,
        id: Option<&str>,
        kind: &str,
        upstream_index: Option<u64>,
        own_id: impl FnOnce(u64) -> String,
    ) -> u64 {
        let at = self.len();
        if let Some(id) = id.filter(|id| !id.is_empty()) {
            self.by_id.entry(id.to_owned()).or_insert(at);
        }
        let id = own_id(at);
        if let Some(index) = upstream_index {
            self.by_index.insert(index, at);
        }
        self.items.push(OpenedItem {
            id,
            kind: kind.to_owned(),
            done: false,
            parts: [0; 2],
            done_parts: [0; 2],
            announced_arguments: false,
            arguments_done: false,
        });
        at
    }

    /// Matches the items of a terminal object to opened ones: by id, else in order by type.
    pub(super) fn match_output(&self, output: &[Members<'_>]) -> Vec<Option<u64>> {
        let mut taken = vec![false; self.items.len()];
        let mut matched: Vec<Option<u64>> = output
            .iter()
            .map(|item| {
                let at = *self.by_id.get(&*item.text("id")?)?;
                (!std::mem::replace(taken.get_mut(at as usize)?, true)).then_some(at)
            })
            .collect();
        let mut left: HashMap<&str, VecDeque<u64>> = HashMap::new();
        for (at, item) in (0..).zip(&self.items) {
            if !taken[at as usize] {
                left.entry(item.kind.as_str()).or_default().push_back(at);
            }
        }
        for (item, at) in output.iter().zip(&mut matched) {
            if at.is_none() {
                let kind = item.text("type").unwrap_or_default();
                *at = left.get_mut(&*kind).and_then(VecDeque::pop_front);
            }
        }
        matched
    }
}

impl OpenedItem {
    /// Returns the number of announced parts.
    pub(super) fn parts(&self, list: List) -> u64 {
        self.parts[list as usize]
    }

    /// Returns true if the part with this index is complete, or a later one is.
    pub(super) fn is_part_done(&self, list: List, part: u64) -> bool {
        part < self.done_parts[list as usize]
    }

    /// Notes that the part with this index is complete.
    pub(super) fn finish_part(&mut self, list: List, part: u64) {
        let done = &mut self.done_parts[list as usize];
        *done = (*done).max(part.saturating_add(1));
    }

    /// Notes that the part with this index was announced.
    pub(super) fn announce(&mut self, list: List, part: u64) {
        let parts = &mut self.parts[list as usize];
        *parts = (*parts).max(part.saturating_add(1));
    }
}
