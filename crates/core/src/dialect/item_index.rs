//! The items of a Responses upstream, as readers of chat and of bare text need to know them.
//!
//! Chat numbers the calls of an answer, and some servers send a call's arguments only once they are
//! complete. The text dialect shows the first message. Both depend on earlier events, so the index
//! notes them in order, once per generation. Each fact is kept with the number of its event. So a
//! reader gets the same bytes at a position, however far the index is.

use crate::model::event::{EventKind, Relayed};
use crate::model::id::Seq;
use crate::model::json::{Members, string_inside};

/// The items by `output_index`, which is the order of opening.
#[derive(Debug, Default)]
pub(crate) struct ItemIndex {
    /// The event after the last one that was noted.
    next: Seq,
    items: Vec<Item>,
    calls: u32,
    first_message: Option<usize>,
}

#[derive(Debug)]
struct Item {
    /// The number of its `response.output_item.added`.
    added: Seq,
    call: Option<Call>,
}

/// A call of a function or a custom tool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    /// The call's index among all calls.
    pub(super) number: u32,
    custom: bool,
    /// The first event with arguments.
    arguments: Option<Seq>,
}

/// Returns a member's string, JSON-escaped; empty if it is missing.
pub(super) fn inside<'a>(members: &Members<'a>, name: &str) -> &'a str {
    members
        .get(name)
        .and_then(string_inside)
        .unwrap_or_default()
}

impl ItemIndex {
    /// Returns the event to note next.
    pub(crate) fn next(&self) -> Seq {
        self.next
    }

    /// Returns the memory that the index holds beside its own size, in bytes.
    pub(crate) fn memory_size(&self) -> usize {
        self.items.capacity() * size_of::<Item>()
    }

    /// Notes the events of a record, unless they were noted before. Records must be given in order.
    pub(super) fn note(&mut self, first: Seq, events: &[EventKind]) {
        let end = Seq(first.0 + events.len() as u64);
        if end <= self.next {
            return;
        }
        self.next = end;
        for (seq, event) in (first.0..).map(Seq).zip(events) {
            if let EventKind::Relayed(relayed) = event {
                self.note_relayed(seq, relayed);
            }
        }
    }

    fn note_relayed(&mut self, seq: Seq, relayed: &Relayed) {
        let (field, complete) = match relayed.name.as_str() {
            "response.output_item.added" => return self.add(seq, relayed),
            "response.output_item.done" => ("item", true),
            "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta" => {
                ("delta", false)
            }
            "response.function_call_arguments.done" => ("arguments", true),
            "response.custom_tool_call_input.done" => ("input", true),
            _ => return,
        };
        let Ok(members) = serde_json::from_str::<Members<'_>>(&relayed.json) else {
            return;
        };
        let Some(call) = members
            .number("output_index")
            .and_then(|at| self.items.get_mut(at as usize))
            .and_then(|item| item.call.as_mut())
            .filter(|call| call.arguments.is_none())
        else {
            return;
        };
        let text = match (field, members.object("item")) {
            ("item", Some(item)) => inside(&item, call.field()),
            _ => inside(&members, field),
        };
        if !complete || !text.is_empty() {
            call.arguments = Some(seq);
        }
    }

    fn add(&mut self, seq: Seq, relayed: &Relayed) {
        let Ok(members) = serde_json::from_str::<Members<'_>>(&relayed.json) else {
            return;
        };
        if members.number("output_index") != Some(self.items.len() as u64) {
            return;
        }
        let kind = members.object("item").and_then(|item| item.text("type"));
        let mut call = None;
        match kind.as_deref() {
            Some("message") => drop(self.first_message.get_or_insert(self.items.len())),
            Some(kind @ ("function_call" | "custom_tool_call")) => {
                call = Some(Call {
                    number: self.calls,
                    custom: kind == "custom_tool_call",
                    arguments: None,
                });
                self.calls += 1;
            }
            _ => {}
        }
        self.items.push(Item { added: seq, call });
    }

    fn item(&self, at: u64, seq: Seq) -> Option<&Item> {
        let item = self.items.get(usize::try_from(at).ok()?)?;
        (item.added <= seq).then_some(item)
    }

    /// Returns true if the item was opened by the event `seq` or before.
    pub(super) fn is_open(&self, at: u64, seq: Seq) -> bool {
        self.item(at, seq).is_some()
    }

    /// Returns the item's call, as known at the event `seq`.
    pub(super) fn call(&self, at: u64, seq: Seq) -> Option<Call> {
        self.item(at, seq)?.call
    }

    /// Returns true if a text of this item at the event `seq` belongs to the first message.
    pub(super) fn is_first_message(&self, at: u64, seq: Seq) -> bool {
        self.first_message
            .filter(|first| self.is_open(*first as u64, seq))
            .is_none_or(|first| first as u64 == at)
    }

    /// Returns true if the answer has a call. For the end of a stream: all events are noted.
    pub(super) fn has_calls(&self) -> bool {
        self.calls > 0
    }
}

impl Call {
    /// The call's `type` in chat, and the member that holds its name.
    pub(super) fn kind(self) -> &'static str {
        if self.custom { "custom" } else { "function" }
    }

    /// The member of the item that holds the arguments.
    pub(super) fn field(self) -> &'static str {
        if self.custom { "input" } else { "arguments" }
    }

    /// Returns true if no event before `seq` had arguments.
    pub(super) fn first_arguments_at(self, seq: Seq) -> bool {
        self.arguments == Some(seq)
    }
}
