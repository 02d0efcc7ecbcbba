//! Numbers events, opens and closes items, and appends records to a batch.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::model::event::{DeltaKind, DeltaTarget, EventKind, ItemHead, PartKind};
use crate::model::id::{Epoch, Seq};
use crate::model::record::{
    BatchPosition, CLOSING_NUMBERS, Content, FullRecord, RecordBatch, Template,
};
use crate::model::relayed_items::RelayedItems;
use crate::model::snapshot::Change;

/// The text of a stream that was already appended to its log.
pub(crate) trait History: Send + Sync {
    /// Returns the JSON-escaped text that was appended to this place.
    fn text(&self, target: DeltaTarget) -> String;

    /// Returns the items of a Responses upstream as they are after what was appended.
    fn relayed(&self) -> RelayedItems;
}

thread_local! {
    static MEMORY: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Collects the events of one payload into one record.
#[derive(Default)]
pub struct RecordWriter {
    batch: RecordBatch,
    events: Vec<EventKind>,
    /// The events of the batch's full records, as the snapshot takes them.
    changes: Vec<Change>,
    /// Templates that were not published to readers yet.
    unpublished: Vec<(Option<ItemHead>, Template)>,
    heads: Vec<ItemHead>,
    /// The number of a chunk of the batch that reports the usage and nothing else: the last such.
    usage_chunk: Option<Seq>,
    /// Without one, the batch holds the complete stream.
    history: Option<Arc<dyn History>>,
    /// The items of a Responses upstream after the batch, as far as they were asked for.
    relayed: Option<Box<KnownItems>>,
}

/// Bytes of most terminal records, with the head of the record before it.
const END_BYTES: usize = 256;
/// Events of most terminal records, and one of the record before it.
const END_CHANGES: usize = 2;

/// Items of a Responses upstream.
#[derive(Default)]
struct KnownItems {
    items: RelayedItems,
    /// Their indexes, unless they are all.
    some: Option<BTreeSet<u64>>,
}

impl fmt::Debug for RecordWriter {
    /// Omits the events, which hold message content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordWriter")
            .field("batch", &self.batch)
            .field("pending", &self.events.len())
            .finish_non_exhaustive()
    }
}

impl RecordWriter {
    /// Creates a writer for an empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a writer for an epoch of a log that ended at `end` before it.
    #[must_use]
    pub fn in_epoch(end: Seq, epoch: Epoch) -> Self {
        let mut writer = Self::default();
        writer.batch.restart(end);
        writer.batch.skip(epoch.first_seq().0.saturating_sub(end.0));
        writer
    }

    /// Sets the log that [cleared](RecordWriter::clear) records were appended to.
    pub(crate) fn set_history(&mut self, history: Arc<dyn History>) {
        self.history = Some(history);
    }

    /// Returns the JSON-escaped text that was streamed to this place so far. This decodes every
    /// record of the batch, so it is for rare cases only.
    pub(crate) fn streamed<'a>(
        &self,
        target: DeltaTarget,
        templates: &dyn Fn(usize) -> Option<&'a Template>,
    ) -> String {
        let mut text = match &self.history {
            Some(history) => history.text(target),
            None => String::new(),
        };
        for record in self.batch.iter() {
            match Content::decode(record.payload) {
                Ok(Content::Delta { template, holes }) => {
                    let template = templates(template).filter(|t| t.target == target);
                    let piece = template.and_then(|template| holes.text(template));
                    text.push_str(std::str::from_utf8(piece.unwrap_or_default()).unwrap_or(""));
                }
                Ok(Content::Full(full)) => push_deltas(&full.events, target, &mut text),
                Err(_) => {}
            }
        }
        push_deltas(&self.events, target, &mut text);
        text
    }

    /// Returns the records since the last [`RecordWriter::clear`].
    #[must_use]
    pub fn batch(&self) -> &RecordBatch {
        &self.batch
    }

    /// Takes the events of the batch's full records, in order. What applies them to the snapshot
    /// need not decode the records.
    pub(crate) fn take_changes(&mut self) -> Vec<Change> {
        // What is changed next must not be shared.
        self.relayed = None;
        std::mem::take(&mut self.changes)
    }

    /// Gives back what [`RecordWriter::take_changes`] took of records that were not appended.
    pub(crate) fn give_back(&mut self, mut changes: Vec<Change>) {
        changes.append(&mut self.changes);
        self.changes = changes;
    }

    /// Drops the records after this place, and what was collected for the next one: the answer ends
    /// here. Not to be written to any more once the rest is appended.
    pub(crate) fn cut(&mut self, at: BatchPosition) {
        self.batch.truncate(at);
        self.events.clear();
        self.usage_chunk = None;
    }

    /// Removes the records after they were appended. Numbers continue.
    pub fn clear(&mut self) {
        self.batch.clear();
        self.changes = Vec::new();
        self.usage_chunk = None;
    }

    /// Takes this thread's memory for records, which its writers use in turn: it is in the processor's
    /// cache with each token, where that of each writer would not be.
    pub(crate) fn borrow_memory(&mut self) {
        if self.batch.is_empty()
            && let Ok(mut memory) = MEMORY.try_with(Cell::take)
        {
            self.batch.swap_memory(&mut memory);
        }
    }

    /// Gives the thread's memory back, unless there are records. A writer that waits holds none.
    pub(crate) fn give_back_memory(&mut self) {
        if self.batch.is_empty() && self.batch.has_memory() {
            let memory = self.batch.take_memory();
            // A thread that ends needs none.
            let _ = MEMORY.try_with(|shared| {
                let other = shared.take();
                shared.set(if other.capacity() > memory.capacity() {
                    other
                } else {
                    memory
                });
            });
        }
    }

    /// Returns true if nothing was collected since the last [`RecordWriter::clear`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.events.is_empty()
    }

    /// Frees the memory of a large batch.
    pub fn release(&mut self) {
        self.batch.release();
    }

    /// Returns the number that the next event gets.
    #[must_use]
    pub fn next_seq(&self) -> Seq {
        Seq(self.batch.next_seq().0 + self.events.len() as u64)
    }

    /// Leaves out `count` numbers before the current record.
    pub fn skip(&mut self, count: u64) {
        self.batch.skip(count);
    }

    /// Leaves room before the terminal event for the numbers of the finish and usage chunks that
    /// the chat dialect makes of it. To be called before the events of its record.
    pub(crate) fn leave_closing_numbers(&mut self) {
        self.skip(CLOSING_NUMBERS);
    }

    /// Adds an event to the current record.
    pub fn event(&mut self, event: EventKind) {
        self.events.push(event);
    }

    /// Returns the number of events in the current record.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.events.len()
    }

    /// Returns the target of the current record if it is a single delta.
    pub(crate) fn only_delta(&self) -> Option<DeltaTarget> {
        match self.events.as_slice() {
            [EventKind::Delta { target, .. }] => Some(*target),
            _ => None,
        }
    }

    /// Closes the current record, [a single delta](Self::only_delta), as the first of a template.
    /// Later records may use the template by its number. The template was cut from the delta's
    /// chunk, and `holes` are the chunk's holes.
    pub(crate) fn first_delta(&mut self, number: usize, template: &Template, holes: &[&[u8]]) {
        // Most answers have one template, and then neither list is used again.
        self.unpublished.reserve_exact(1);
        self.unpublished.push((
            self.heads.get(template.target.item as usize).cloned(),
            template.clone(),
        ));
        self.batch.push_first_delta(number, template, holes);
        self.events = Vec::new();
    }

    /// Takes the templates defined since the last call, each with the head of its item.
    pub(crate) fn take_templates(&mut self) -> Vec<(Option<ItemHead>, Template)> {
        std::mem::take(&mut self.unpublished)
    }

    /// Appends a record of one delta that matches a template.
    pub(crate) fn delta(&mut self, template: usize, holes: &[&[u8]]) {
        self.batch.push_delta(template, holes);
    }

    /// Takes the number of the chunk of the batch that reports the usage and nothing else.
    pub(crate) fn take_usage_chunk(&mut self) -> Option<Seq> {
        self.usage_chunk.take()
    }

    /// Closes the current record with a chunk that reports the usage and nothing else.
    pub(crate) fn usage_chunk(&mut self, raw: &[u8]) {
        // With events it is no record of its own.
        if self.events.is_empty() {
            self.usage_chunk = Some(self.next_seq());
        }
        // Nearly always the end follows.
        self.batch.reserve(raw.len() + END_BYTES);
        self.changes.reserve_exact(END_CHANGES);
        self.record(Some(raw));
    }

    /// Closes the current record. Without events it is dropped, or becomes a `tokenwire:chunk` if
    /// there is a raw chunk.
    pub fn record(&mut self, raw: Option<&[u8]>) {
        if self.events.is_empty() {
            if let Some(raw) = raw {
                self.batch.push_chunk(raw);
                self.changes.push(Change::Event(EventKind::Chunk));
            }
            return;
        }
        let record = FullRecord {
            events: std::mem::take(&mut self.events),
            raw: raw.map(serde_bytes::Bytes::new),
        };
        self.batch.push_full(&record);
        let changes = record.events.into_iter().map(Change::from);
        if let Some(known) = &mut self.relayed {
            for change in changes {
                if let Change::Relayed {
                    update: Some(update),
                    ..
                } = &change
                    && known.has(update.index())
                {
                    known.items.update(update.clone());
                }
                self.changes.push(change);
            }
        } else if self.changes.is_empty() {
            self.changes = changes.collect();
        } else {
            self.changes.extend(changes);
        }
    }

    /// Returns the item of a Responses upstream with this index, among others.
    pub(crate) fn relayed_item(&mut self, index: u64) -> &mut RelayedItems {
        self.known_items(Some(index))
    }

    /// Returns all items of a Responses upstream so far. Changes to them are not recorded.
    pub(crate) fn relayed_items(&mut self) -> &mut RelayedItems {
        self.known_items(None)
    }

    fn known_items(&mut self, index: Option<u64>) -> &mut RelayedItems {
        let known = self.relayed.get_or_insert_with(|| {
            let some = Some(BTreeSet::new());
            let items = RelayedItems::default();
            Box::new(KnownItems { items, some })
        });
        let is_known = known
            .some
            .as_ref()
            .is_none_or(|some| index.is_some_and(|at| some.contains(&at)));
        if !is_known {
            let history = self.history.as_ref().map(|history| history.relayed());
            let history = history.unwrap_or_default();
            match (index, &mut known.some) {
                (Some(index), Some(some)) => {
                    some.insert(index);
                    known.items.adopt(index, &history);
                }
                _ => {
                    known.items = history;
                    known.some = None;
                }
            }
            for change in &self.changes {
                if let Change::Relayed {
                    update: Some(update),
                    ..
                } = change
                    && index.is_none_or(|index| index == update.index())
                {
                    known.items.update(update.clone());
                }
            }
        }
        &mut known.items
    }

    /// Opens an item and returns its number.
    pub(crate) fn open_item(&mut self, head: ItemHead) -> u32 {
        let item = self.heads.len() as u32;
        if self.heads.is_empty() {
            // Most answers are one item.
            self.heads.reserve_exact(1);
        }
        self.heads.push(head.without_content());
        self.event(EventKind::ItemAdded { item, head });
        item
    }

    pub(crate) fn text(&mut self, target: DeltaTarget, text: &str, logprobs: Option<String>) {
        self.event(EventKind::Delta {
            target,
            text: text.to_owned(),
            logprobs,
        });
    }
}

impl KnownItems {
    fn has(&self, index: u64) -> bool {
        self.some.as_ref().is_none_or(|some| some.contains(&index))
    }
}

/// Appends the texts of all deltas to this place.
fn push_deltas(events: &[EventKind], place: DeltaTarget, out: &mut String) {
    for event in events {
        if let EventKind::Delta { target, text, .. } = event
            && *target == place
        {
            out.push_str(text);
        }
    }
}

/// An open item with content parts: a message or reasoning.
#[derive(Debug)]
pub(crate) struct OpenItem {
    pub(crate) item: u32,
    parts: Vec<PartKind>,
    annotations: u32,
}

impl OpenItem {
    pub(crate) fn open(records: &mut RecordWriter, head: ItemHead) -> Self {
        Self {
            item: records.open_item(head),
            parts: Vec::new(),
            annotations: 0,
        }
    }

    /// Returns the target of a text of this kind. Opens the part if it is the first.
    pub(crate) fn target(&mut self, records: &mut RecordWriter, kind: PartKind) -> DeltaTarget {
        let part = self
            .parts
            .iter()
            .position(|k| *k == kind)
            .unwrap_or_else(|| {
                let part = self.parts.len();
                records.event(EventKind::PartAdded {
                    item: self.item,
                    part: part as u32,
                    kind,
                });
                self.parts.push(kind);
                part
            });
        let delta = match kind {
            PartKind::Text => DeltaKind::Text,
            PartKind::Refusal => DeltaKind::Refusal,
            PartKind::Reasoning => DeltaKind::Reasoning,
        };
        DeltaTarget {
            item: self.item,
            part: part as u32,
            kind: delta,
        }
    }

    pub(crate) fn annotation(&mut self, records: &mut RecordWriter, json: String) {
        let target = self.target(records, PartKind::Text);
        records.event(EventKind::Annotation {
            item: target.item,
            part: target.part,
            index: self.annotations,
            json,
        });
        self.annotations += 1;
    }

    /// Returns the item's number and the events that close it. `private` is kept with the item.
    pub(crate) fn close(self, complete: bool, private: Option<Box<str>>) -> (u32, Vec<EventKind>) {
        let item = self.item;
        let mut events = Vec::with_capacity(self.parts.len() * 2 + 1);
        for part in 0..self.parts.len() as u32 {
            events.push(EventKind::TextDone { item, part });
            events.push(EventKind::PartDone { item, part });
        }
        events.push(EventKind::ItemDone {
            item,
            complete,
            private,
        });
        (item, events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_chunk_is_known_if_it_is_a_record_of_its_own() {
        let mut records = RecordWriter::new();
        records.event(EventKind::Created);
        records.record(None);
        records.usage_chunk(b"{}");
        assert_eq!(records.take_usage_chunk(), Some(Seq(1)));
        assert_eq!(records.take_usage_chunk(), None);
        let chunks = records.take_changes();
        assert!(matches!(&chunks[1..], [Change::Event(EventKind::Chunk)]));

        records.event(EventKind::InProgress);
        records.usage_chunk(b"{}");
        assert_eq!(records.take_usage_chunk(), None);
        records.usage_chunk(b"{}");
        records.clear();
        assert_eq!(records.take_usage_chunk(), None, "it was not appended");
        assert_eq!(records.next_seq(), Seq(4));
    }
}
