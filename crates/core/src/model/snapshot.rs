//! Folds the events of a generation into its response object.
//!
//! The same fold serves polls, the terminal event, resets, `stream: false`, the history of a
//! conversation and the texts of `….done` events, so that all of them agree.
//!
//! The writer keeps it. A reader copies it under the writer's lock and renders the copy: a copy
//! shares items, texts and outcome.

mod live;
mod meta;
mod object;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::event::{DeltaKind, DeltaTarget, Ending, EventKind, ItemHead, Outcome, PartKind};
use crate::model::folded_json::FoldedJson;
use crate::model::id::Seq;
use crate::model::json::Members;
use crate::model::relayed_items::{RelayedItems, RelayedUpdate};
use crate::model::shared_list::{SharedList, one_more};
use crate::model::text::{self, Text};
use crate::model::text_place::{TextKind, TextPlace};

pub(crate) use live::LiveSnapshot;
pub use meta::{Api, Meta};
pub(crate) use object::{ResponseObject, write_empty_part, write_item_head};

/// The status of a response object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// Accepted, not yet started.
    #[default]
    Queued,
    /// The upstream is writing it.
    InProgress,
    /// Ended successfully.
    Completed,
    /// Ended early, by a length limit or a content filter.
    Incomplete,
    /// Failed.
    Failed,
    /// Cancelled by its owner.
    Cancelled,
}

impl Status {
    /// Returns the status as the API spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Returns true for a final status.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::Queued | Self::InProgress)
    }
}

/// The state of a generation after a prefix of its events. Cheap to copy.
#[derive(Clone, Default)]
pub struct Snapshot {
    next: Seq,
    status: Status,
    /// Whether the upstream has sent anything.
    begun: bool,
    items: SharedList<Item>,
    /// Items of an upstream that speaks Responses, by `output_index`.
    relayed: RelayedItems,
    outcome: Option<Arc<Outcome>>,
    /// Number of times that another upstream took over.
    continued: u32,
    /// Number of events. A log has fewer than 2^24 in each of its few epochs.
    events: u32,
    /// Number of events with a piece of text, reasoning, refusal or arguments.
    deltas: u32,
}

/// An event as the snapshot takes it: decoded, parsed and owned, so that nothing of that is done
/// under the writer's lock.
#[derive(Debug)]
pub(crate) enum Change {
    /// An event of the gateway.
    Event(EventKind),
    /// An event of a Responses upstream.
    Relayed {
        /// Whether it holds a piece of text, reasoning, refusal or arguments.
        is_delta: bool,
        /// Whether it is the upstream's first.
        begins: bool,
        update: Option<RelayedUpdate>,
    },
}

impl From<EventKind> for Change {
    fn from(event: EventKind) -> Self {
        let EventKind::Relayed(relayed) = &event else {
            return Self::Event(event);
        };
        Self::Relayed {
            is_delta: relayed.is_delta(),
            begins: relayed.name == "response.in_progress",
            update: serde_json::from_str::<Members<'_>>(&relayed.json)
                .ok()
                .and_then(|members| {
                    let index = members.number("output_index").unwrap_or(0);
                    RelayedUpdate::parse(&relayed.name, index, &members)
                }),
        }
    }
}

#[derive(Clone)]
struct Item {
    head: Arc<ItemHead>,
    parts: Vec<Part>,
    arguments: Text,
    status: &'static str,
    /// A JSON object that clients are not shown.
    private: Option<Arc<str>>,
}

#[derive(Clone)]
struct Part {
    kind: PartKind,
    /// JSON-escaped.
    text: Text,
    /// What few parts have.
    details: Option<Box<Details>>,
}

#[derive(Clone, Default)]
struct Details {
    /// Raw elements of all arrays, separated by commas.
    logprobs: Text,
    /// JSON objects, separated by commas.
    annotations: Text,
}

impl Part {
    fn logprobs(&self) -> &Text {
        let details = self.details.as_deref();
        details.map_or(&text::EMPTY, |details| &details.logprobs)
    }

    fn annotations(&self) -> &Text {
        let details = self.details.as_deref();
        details.map_or(&text::EMPTY, |details| &details.annotations)
    }

    /// Appends the elements of a raw JSON array.
    fn push_logprobs(&mut self, array: &str) {
        let inside = elements(array);
        if !inside.is_empty() {
            push_elements(&mut self.details_mut().logprobs, inside);
        }
    }

    fn details_mut(&mut self) -> &mut Details {
        self.details.get_or_insert_default()
    }
}

impl std::fmt::Debug for Snapshot {
    /// Omits the content.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("next", &self.next)
            .field("status", &self.status)
            .field("items", &self.items.len())
            .finish_non_exhaustive()
    }
}

impl Snapshot {
    /// Returns the number of the next event to apply.
    #[must_use]
    pub fn next(&self) -> Seq {
        self.next
    }

    /// Returns the generation's status.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status
    }

    /// Returns the outcome once the generation has ended.
    #[must_use]
    pub fn outcome(&self) -> Option<&Arc<Outcome>> {
        self.outcome.as_ref()
    }

    /// Returns the approximate memory size, in bytes.
    #[must_use]
    pub fn memory_size(&self) -> usize {
        let parts = |item: &Item| {
            item.parts
                .iter()
                .map(|part| {
                    part.text.memory_size()
                        + part.details.as_ref().map_or(0, |details| {
                            details.logprobs.memory_size()
                                + details.annotations.memory_size()
                                + size_of::<Details>()
                        })
                        + size_of::<Part>()
                })
                .sum::<usize>()
        };
        let items: usize = self
            .items
            .iter()
            .map(|item| {
                let private = item.private.as_ref().map_or(0, |json| json.len());
                parts(item) + item.arguments.memory_size() + item.head.memory_size() + private + 200
            })
            .sum();
        let outcome = self.outcome.as_ref().map_or(0, |outcome| {
            outcome.relayed.as_ref().map_or(0, FoldedJson::capacity) + 200
        });
        items + outcome + self.relayed.memory_size()
    }

    /// Returns the bytes of texts that this snapshot does not share with a copy.
    #[cfg(test)]
    pub(crate) fn unshared_bytes(&self, copy: &Self) -> usize {
        self.items
            .iter()
            .enumerate()
            .filter(|(index, item)| {
                !copy
                    .items
                    .get(*index)
                    .is_some_and(|other| std::ptr::eq(*item, other))
            })
            .flat_map(|(_, item)| {
                let parts = item.parts.iter();
                parts
                    .flat_map(|part| [&part.text, part.logprobs(), part.annotations()])
                    .chain([&item.arguments])
            })
            .map(Text::open_bytes)
            .sum()
    }

    /// Applies the event with this number. Events must be applied in order, each once.
    pub(crate) fn apply(&mut self, seq: Seq, change: impl Into<Change>) {
        self.next = seq.next();
        self.events += 1;
        match change.into() {
            Change::Event(event) => self.event(event),
            Change::Relayed {
                is_delta,
                begins,
                update,
            } => {
                self.deltas += u32::from(is_delta);
                if begins {
                    self.begin();
                }
                if let Some(update) = update {
                    self.relayed.update(update);
                }
            }
        }
    }

    fn event(&mut self, event: EventKind) {
        match event {
            EventKind::Created => self.status = Status::InProgress,
            EventKind::InProgress => self.begin(),
            EventKind::Queued => self.status = Status::Queued,
            EventKind::ItemAdded { head, .. } => {
                self.items.push(Item {
                    head: Arc::new(head),
                    parts: Vec::new(),
                    arguments: Text::default(),
                    status: "in_progress",
                    private: None,
                });
            }
            EventKind::PartAdded { item, kind, .. } => {
                if let Some(item) = self.item_mut(item) {
                    let part = Part {
                        kind,
                        text: Text::default(),
                        details: None,
                    };
                    one_more(&mut item.parts);
                    item.parts.push(part);
                }
            }
            EventKind::Delta {
                target,
                text,
                logprobs,
            } => {
                self.deltas += 1;
                if let Some(place) = self.text_mut(target) {
                    place.push_string(text);
                }
                if let (Some(part), Some(logprobs)) =
                    (self.part_mut(target.item, target.part), logprobs)
                {
                    part.push_logprobs(&logprobs);
                }
            }
            EventKind::Annotation {
                item, part, json, ..
            } => {
                if let Some(part) = self.part_mut(item, part) {
                    push_elements(&mut part.details_mut().annotations, json.trim());
                }
            }
            EventKind::ItemDone {
                item,
                complete,
                private,
            } => {
                if let Some(item) = self.item_mut(item) {
                    item.private = private.map(Into::into);
                    item.status = if complete { "completed" } else { "incomplete" };
                    item.arguments.close();
                    for part in &mut item.parts {
                        part.text.close();
                        if let Some(details) = &mut part.details {
                            details.logprobs.close();
                            details.annotations.close();
                        }
                    }
                }
            }
            // A change without an event that was parsed.
            EventKind::Relayed(_) => {}
            EventKind::End(outcome) => {
                self.status = match outcome.ending {
                    Ending::Completed => Status::Completed,
                    Ending::Incomplete { .. } => Status::Incomplete,
                    Ending::Failed(_) => Status::Failed,
                    Ending::Cancelled => Status::Cancelled,
                };
                // The object of a failure often has no output. The streamed items are kept.
                if outcome.relayed.is_some() && self.status != Status::Failed {
                    self.relayed.keep_texts();
                }
                self.outcome = Some(Arc::new(outcome));
                // The upstream ended before it closed these items.
                self.relayed.close("incomplete");
            }
            EventKind::Continued { .. } => self.continued += 1,
            EventKind::TextDone { .. }
            | EventKind::ArgumentsDone { .. }
            | EventKind::PartDone { .. }
            | EventKind::Chunk => {}
        }
    }

    /// Applies so many deltas of one text, which are stored by their template. `last` is the number of
    /// the last one.
    pub(crate) fn apply_deltas(&mut self, last: Seq, count: u32, target: DeltaTarget, text: &str) {
        self.next = last.next();
        self.events += count;
        self.deltas += count;
        if let Some(place) = self.text_mut(target) {
            place.push_str(text);
        }
    }

    fn begin(&mut self) {
        self.begun = true;
        self.status = Status::InProgress;
    }

    /// Returns the number of events.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events.into()
    }

    /// Returns the number of events with a piece of text, reasoning, refusal or arguments.
    #[must_use]
    pub fn deltas(&self) -> u64 {
        self.deltas.into()
    }

    /// Estimates the tokens of the answer so far: one for each delta, but at least one for four bytes
    /// of text, since a delta may hold several tokens.
    #[must_use]
    pub fn estimated_tokens(&self) -> u64 {
        let texts = self.items.iter().map(|item| {
            let parts: usize = item.parts.iter().map(|part| part.text.len()).sum();
            parts + item.arguments.len()
        });
        let bytes = texts.sum::<usize>() + self.relayed.text_len();
        self.deltas().max(bytes.div_ceil(4) as u64)
    }

    /// Returns true once the upstream has sent anything.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Returns the items of a Responses upstream that have these texts.
    pub(crate) fn relayed_items(&self) -> &RelayedItems {
        &self.relayed
    }

    /// Returns the events that close the open items, for an end that the translator does not write.
    pub(crate) fn closing_events(&self) -> Vec<EventKind> {
        let mut events = Vec::new();
        for (item, open) in (0..)
            .zip(self.items.iter())
            .filter(|(_, item)| item.status == "in_progress")
        {
            for part in 0..open.parts.len() as u32 {
                events.extend([
                    EventKind::TextDone { item, part },
                    EventKind::PartDone { item, part },
                ]);
            }
            if matches!(
                *open.head,
                ItemHead::FunctionCall { .. } | ItemHead::CustomToolCall { .. }
            ) {
                events.push(EventKind::ArgumentsDone { item });
            }
            events.push(EventKind::ItemDone {
                item,
                complete: false,
                private: None,
            });
        }
        events
    }

    /// Returns the text that this delta is appended to.
    #[inline]
    fn text_mut(&mut self, target: DeltaTarget) -> Option<&mut Text> {
        if matches!(target.kind, DeltaKind::Arguments | DeltaKind::Input) {
            self.item_mut(target.item).map(|item| &mut item.arguments)
        } else {
            self.part_mut(target.item, target.part)
                .map(|part| &mut part.text)
        }
    }

    /// Returns an item to change. One that a reader's copy shares is copied first.
    fn item_mut(&mut self, item: u32) -> Option<&mut Item> {
        self.items.get_mut(item as usize)
    }

    fn part_mut(&mut self, item: u32, part: u32) -> Option<&mut Part> {
        self.item_mut(item)?.parts.get_mut(part as usize)
    }

    fn part(&self, item: u32, part: u32) -> Option<&Part> {
        self.items.get(item as usize)?.parts.get(part as usize)
    }

    /// Returns the head of an item.
    pub(crate) fn head(&self, item: u32) -> Option<&ItemHead> {
        self.items.get(item as usize).map(|item| &*item.head)
    }

    /// Returns true if the answer has a call of a function or a custom tool.
    pub(crate) fn has_calls(&self) -> bool {
        self.items.iter().any(|item| {
            matches!(
                *item.head,
                ItemHead::FunctionCall { .. } | ItemHead::CustomToolCall { .. }
            )
        })
    }

    /// Returns the chat choices that have begun and whose last item is not complete, in order.
    pub(crate) fn unfinished_choices(&self) -> Vec<u32> {
        let items = self.items.iter();
        let last: BTreeMap<u32, bool> = items
            .map(|item| (item.head.choice(), item.status != "completed"))
            .collect();
        let unfinished = last.into_iter().filter(|(_, is_open)| *is_open);
        unfinished.map(|(choice, _)| choice).collect()
    }

    /// Returns a part's kind and its JSON-escaped text.
    pub(crate) fn part_text(&self, item: u32, part: u32) -> Option<(PartKind, &Text)> {
        self.part(item, part).map(|part| (part.kind, &part.text))
    }

    /// Returns a part's logprobs as array elements, without brackets.
    pub(crate) fn part_logprobs(&self, item: u32, part: u32) -> &Text {
        self.part(item, part).map_or(&text::EMPTY, Part::logprobs)
    }

    /// Returns a call's JSON-escaped arguments or input.
    pub(crate) fn arguments(&self, item: u32) -> &Text {
        self.items
            .get(item as usize)
            .map_or(&text::EMPTY, |item| &item.arguments)
    }

    /// Returns the JSON-escaped text that was streamed to this place.
    pub(crate) fn text_of(&self, target: DeltaTarget) -> &Text {
        if matches!(target.kind, DeltaKind::Arguments | DeltaKind::Input) {
            return self.arguments(target.item);
        }
        self.part_text(target.item, target.part)
            .map_or(&text::EMPTY, |(_, text)| text)
    }

    /// Returns the texts that may go on, JSON-escaped.
    pub(crate) fn open_texts(&self) -> Vec<(TextPlace, String)> {
        let mut texts = self.relayed.open_texts();
        for (number, item) in (0..).zip(self.items.iter()) {
            if item.status != "in_progress" {
                continue;
            }
            let mut add = |part, kind, text: &Text| {
                let (item, relayed) = (number, false);
                let place = TextPlace {
                    item,
                    part,
                    kind,
                    relayed,
                };
                texts.push((place, text.to_string()));
            };
            for (part, open) in (0..).zip(&item.parts) {
                add(part, text_kind(open.kind), &open.text);
            }
            add(0, TextKind::Arguments, &item.arguments);
        }
        texts
    }

    /// Returns the text of this place, JSON-escaped.
    pub(crate) fn text_at(&self, place: TextPlace) -> String {
        if place.relayed {
            return self.relayed.streamed_text(place);
        }
        let item = u32::try_from(place.item).unwrap_or(u32::MAX);
        match place.kind {
            TextKind::Arguments => self.arguments(item).to_string(),
            _ => self
                .part_text(item, place.part)
                .map_or_else(String::new, |(_, text)| text.to_string()),
        }
    }

    /// Returns the JSON-escaped text and refusals of the first choice (`output_text`).
    #[must_use]
    pub fn plain_text(&self) -> String {
        let messages = self
            .items
            .iter()
            .filter(|item| matches!(*item.head, ItemHead::Message { choice: 0 }));
        messages
            .flat_map(|item| &item.parts)
            .flat_map(|part| part.text.pieces())
            .collect()
    }

    /// Returns the JSON-escaped text so far if the answer is a single unfinished text. Another
    /// upstream can continue from such a text.
    pub(crate) fn continuable_text(&self) -> Option<String> {
        let item = self.items.get(0).filter(|_| self.items.len() == 1)?;
        let [part] = item.parts.as_slice() else {
            return None;
        };
        let plain = matches!(*item.head, ItemHead::Message { choice: 0 })
            && part.kind == PartKind::Text
            && part.annotations().is_empty();
        (plain && !part.text.is_empty() && item.status == "in_progress" && self.outcome.is_none())
            .then(|| part.text.to_string())
    }
}

fn text_kind(kind: PartKind) -> TextKind {
    match kind {
        PartKind::Text => TextKind::Text,
        PartKind::Refusal => TextKind::Refusal,
        PartKind::Reasoning => TextKind::Reasoning,
    }
}

/// Returns the elements of a raw JSON array without brackets.
fn elements(array: &str) -> &str {
    array
        .trim()
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or_default()
        .trim()
}

/// Appends elements to a list of elements without brackets.
fn push_elements(list: &mut Text, elements: &str) {
    if !list.is_empty() {
        list.push_str(",");
    }
    list.push_str(elements);
}
