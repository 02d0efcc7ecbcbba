//! The tool calls of one choice.
//!
//! Servers send names and ids late, in pieces or repeatedly. So a call's item is added only once it
//! has a name and its first arguments, the next call, or the finish has arrived. Until then its
//! arguments are held.
//!
//! A piece with the index of a known call and another id begins another call, unless the known
//! one's arguments are still incomplete JSON and the piece names no other tool: some servers change
//! the id with every piece. Without ids, a named piece after complete arguments begins another call.

use std::collections::{HashMap, HashSet};

use super::RecordWriter;
use super::arguments::Arguments;
use super::chunk::ToolCall;
use super::custom_input::CustomInput;
use crate::model::event::{DeltaKind, DeltaTarget, EventKind, ItemHead};
use crate::model::id::random_id;
use crate::model::record::Template;
use crate::request::ToolNames;
use crate::request::canonical::ToolKind;

/// State that all choices of a stream share.
pub(super) struct Context<'a> {
    pub(super) choice: u32,
    /// Call ids that are in use.
    pub(super) used_ids: &'a mut HashSet<String>,
    pub(super) records: &'a mut RecordWriter,
    /// Templates of the stream, by number.
    pub(super) templates: &'a dyn Fn(usize) -> Option<&'a Template>,
    /// The tools that the client knows under another name or as another kind.
    pub(super) tools: &'a ToolNames,
}

/// The tool calls of one choice, in the order in which they began.
#[derive(Debug, Default)]
pub(super) struct ToolCalls {
    calls: Vec<Call>,
    /// The latest call of each upstream index.
    by_index: HashMap<u32, usize>,
    /// The latest call of each upstream id.
    by_id: HashMap<String, usize>,
    /// Calls before this one are closed.
    open_from: usize,
    /// The call that the last piece belonged to.
    recent: usize,
}

#[derive(Debug, Default)]
struct Call {
    /// The item's number, once it is added.
    item: Option<u32>,
    upstream_id: Option<String>,
    name: String,
    custom: bool,
    extra: Option<Box<str>>,
    /// JSON-escaped arguments that are not appended yet: of an item that is not added, or an empty
    /// object that may only stand for arguments to come.
    held: String,
    /// Whether a later call has the same index.
    superseded: bool,
    /// The arguments so far.
    arguments: Arguments,
    /// Set where the client has a custom tool and the upstream a function.
    input: Option<Box<CustomInput>>,
}

impl ToolCalls {
    /// The call that the last piece belonged to.
    pub(super) fn recent(&self) -> usize {
        self.recent
    }

    /// Returns true if a piece like an earlier one of this call continues it: no other call has
    /// taken its index, and no arguments are held.
    pub(super) fn takes(&self, call: usize) -> bool {
        self.calls
            .get(call)
            .is_some_and(|call| !call.superseded && call.held.is_empty())
    }

    /// Returns true if the arguments of the call differ from what its events have.
    pub(super) fn is_translated(&self, call: usize) -> bool {
        self.calls
            .get(call)
            .is_some_and(|call| call.input.is_some())
    }

    /// Counts arguments that were appended by a template.
    pub(super) fn grow(&mut self, call: usize, text: &[u8]) {
        if let Some(call) = self.calls.get_mut(call) {
            call.arguments.push(text);
        }
    }

    /// Adds a piece of a call. Returns false if it only repeats what is known.
    pub(super) fn piece(&mut self, piece: &ToolCall<'_>, context: &mut Context<'_>) -> bool {
        let arguments = piece.arguments();
        let at = match self.find(piece) {
            Some(at) if at < self.open_from => {
                // A call of an answer that has finished: a repetition, or a new call with its id.
                if self.calls[at].repeats(piece, arguments.as_deref()) {
                    return false;
                }
                self.begin(piece, context)
            }
            Some(at) => {
                let repeated = piece.name().is_some() && piece.id().is_some();
                if repeated && self.calls[at].repeats(piece, arguments.as_deref()) {
                    return false;
                }
                at
            }
            None => {
                let latest = piece.index().and_then(|index| self.by_index.get(&index));
                let is_repetition = piece.id().is_none()
                    && latest
                        .is_some_and(|at| self.calls[*at].repeats(piece, arguments.as_deref()));
                if is_repetition {
                    return false;
                }
                self.begin(piece, context)
            }
        };
        self.recent = at;
        if let Some(index) = piece.index()
            && let Some(before) = self.by_index.insert(index, at)
            && before != at
        {
            self.calls[before].superseded = true;
        }
        if let Some(id) = piece.id() {
            self.by_id.insert(id.to_owned(), at);
        }
        let is_last = at + 1 == self.calls.len();
        let call = &mut self.calls[at];
        call.describe(piece);
        if let Some(arguments) = &arguments {
            if call.holds_placeholder() && arguments.starts_with('{') {
                call.held.clear();
                call.arguments = Arguments::default();
            }
            call.arguments.push(arguments.as_bytes());
            call.held.push_str(arguments);
        }
        if call.item.is_none() && !call.name.is_empty() && (!call.held.is_empty() || !is_last) {
            call.add(context);
        }
        if !call.holds_placeholder() {
            call.release(context.records);
        }
        true
    }

    /// Adds a call of a complete message, the one at `position`, as far as it was not streamed.
    /// Returns false if there was nothing to add.
    pub(super) fn complete(
        &mut self,
        position: usize,
        whole: &ToolCall<'_>,
        context: &mut Context<'_>,
    ) -> bool {
        let known = whole
            .id()
            .and_then(|id| self.by_id.get(id).copied())
            .or_else(|| {
                let call = self.calls.get(position)?;
                let named = whole.name().is_none_or(|name| name == call.name);
                named.then_some(position)
            });
        let Some(at) = known else {
            return self.piece(whole, context);
        };
        let Some(arguments) = whole.arguments().filter(|_| at >= self.open_from) else {
            return false;
        };
        let call = &mut self.calls[at];
        if arguments.len() <= call.arguments.len() {
            return false;
        }
        let streamed = call.streamed(context);
        let rest = match arguments.strip_prefix(streamed.as_str()) {
            Some(rest) => rest,
            None if call.holds_placeholder() => {
                call.held.clear();
                call.arguments = Arguments::default();
                &*arguments
            }
            None => return false,
        };
        call.describe(whole);
        call.arguments.push(rest.as_bytes());
        call.held.push_str(rest);
        if call.item.is_none() {
            call.add(context);
        }
        if !call.holds_placeholder() {
            call.release(context.records);
        }
        true
    }

    /// Finds the call of a piece: by id or index, else the last one.
    fn find(&self, piece: &ToolCall<'_>) -> Option<usize> {
        let (index, id, name) = (piece.index(), piece.id(), piece.name());
        let by_id = id.and_then(|id| self.by_id.get(id).copied());
        let Some(index) = index else {
            return by_id.or_else(|| {
                let last = self.calls.len().checked_sub(1)?;
                let (open, call) = (last >= self.open_from, &self.calls[last]);
                let continues = name.is_none() || call.awaits_name();
                (open && continues && !call.differs(piece)).then_some(last)
            });
        };
        match self.by_index.get(&index) {
            Some(&at) if !self.calls[at].differs(piece) => Some(at),
            // Some servers number all calls alike.
            Some(_) => by_id,
            // A known id with a new index and a name is another call: some servers repeat ids.
            None => by_id.filter(|at| name.is_none() || *at < self.open_from),
        }
    }

    /// Begins a call. The previous one is complete then.
    fn begin(&mut self, piece: &ToolCall<'_>, context: &mut Context<'_>) -> usize {
        if let Some(previous) = self.calls.last_mut()
            && !previous.name.is_empty()
        {
            if previous.item.is_none() {
                previous.add(context);
            }
            if !previous.holds_placeholder() {
                previous.release(context.records);
            }
        }
        self.calls.push(Call {
            custom: piece.is_custom(),
            ..Call::default()
        });
        self.calls.len() - 1
    }

    /// Adds the items that wait for a name or arguments, and closes all open calls. Appends the
    /// number and the closing events of each item.
    pub(super) fn close(
        &mut self,
        complete: bool,
        closing: &mut Vec<(u32, Vec<EventKind>)>,
        context: &mut Context<'_>,
    ) {
        let open_from = std::mem::replace(&mut self.open_from, self.calls.len());
        self.by_index.clear();
        for call in self.calls.iter_mut().skip(open_from) {
            let blank = call.name.is_empty() && call.held.is_empty();
            if call.item.is_none() && !blank {
                call.add(context);
            }
            let Some(item) = call.item else { continue };
            let mut events = Vec::new();
            let mut rest = std::mem::take(&mut call.held);
            if let Some(input) = &mut call.input {
                rest = input.push(&rest);
                rest.push_str(&input.finish());
            }
            if !rest.is_empty()
                && let Some(target) = call.target()
            {
                events.push(EventKind::Delta {
                    target,
                    text: rest,
                    logprobs: None,
                });
            }
            if call.arguments.is_empty() && complete && !call.is_custom() {
                // Without arguments it is a function without parameters.
                call.arguments.push(b"{}");
                events.push(EventKind::Delta {
                    target: target(item, DeltaKind::Arguments),
                    text: "{}".to_owned(),
                    logprobs: None,
                });
            }
            events.push(EventKind::ArgumentsDone { item });
            events.push(EventKind::ItemDone {
                item,
                complete,
                private: None,
            });
            closing.push((item, events));
        }
    }
}

impl Call {
    /// Takes id, name and provider fields of a piece.
    fn describe(&mut self, piece: &ToolCall<'_>) {
        if let Some(id) = piece.id() {
            self.upstream_id = Some(id.to_owned());
        }
        if self.item.is_some() {
            return;
        }
        self.custom |= piece.is_custom();
        if let Some(extra) = piece.extra_content() {
            self.extra = Some(extra.get().into());
        }
        if let Some(name) = piece.name() {
            if name.starts_with(&self.name) {
                self.name.clear();
            }
            self.name.push_str(name);
        }
    }

    /// Returns true if all arguments so far are an empty object. Some servers send it in place of
    /// arguments that follow.
    fn holds_placeholder(&self) -> bool {
        !self.custom && self.held == "{}"
    }

    /// Returns true if another piece of the name may follow.
    fn awaits_name(&self) -> bool {
        self.item.is_none() && self.arguments.is_empty()
    }

    /// Returns true if a piece with the index of this call belongs to another one.
    fn differs(&self, piece: &ToolCall<'_>) -> bool {
        let (id, name) = (piece.id(), piece.name());
        match (&self.upstream_id, id) {
            (Some(known), Some(id)) if known != id => {
                let is_named = name.is_some_and(|name| name != self.name);
                let next = if self.arguments.is_empty() || self.custom {
                    name.is_some() || piece.arguments().is_none()
                } else {
                    self.arguments.is_complete()
                };
                is_named || next
            }
            (Some(_), Some(_)) => false,
            // Without ids only a name tells a new call from the next piece.
            (_, _) => {
                let is_complete = !self.custom && self.arguments.is_complete();
                let begins = |arguments: &str| arguments.trim_start().starts_with('{');
                match (name, piece.arguments()) {
                    (Some(name), Some(_)) if name != self.name => {
                        self.item.is_some() || is_complete
                    }
                    (Some(_), Some(arguments)) => is_complete && begins(&arguments),
                    _ => false,
                }
            }
        }
    }

    /// Returns true if a piece repeats the complete call.
    fn repeats(&self, piece: &ToolCall<'_>, arguments: Option<&str>) -> bool {
        let named = piece.name().is_none_or(|name| name == self.name);
        let text = arguments.unwrap_or_default();
        named
            && text.ends_with('}')
            && text.len() == self.arguments.len()
            && self.arguments.is_same(&Arguments::of(text))
    }

    /// Returns true if the client has a custom tool.
    fn is_custom(&self) -> bool {
        self.custom || self.input.is_some()
    }

    /// Returns the JSON-escaped arguments so far.
    fn streamed(&self, context: &mut Context<'_>) -> String {
        if let Some(input) = &self.input {
            return input.received().to_owned() + &self.held;
        }
        let appended = self
            .target()
            .map(|target| context.records.streamed(target, context.templates));
        appended.unwrap_or_default() + &self.held
    }

    /// Adds the item.
    fn add(&mut self, context: &mut Context<'_>) {
        let call_id = match &self.upstream_id {
            Some(id) if !context.used_ids.contains(id) => id.clone(),
            _ => random_id("call_"),
        };
        context.used_ids.insert(call_id.clone());
        let choice = context.choice;
        let (mut name, mut namespace) = (self.name.clone(), None);
        if let Some(known) = context.tools.get(&self.name) {
            name = known.name.clone().into();
            namespace = known.namespace.clone();
            if known.kind == ToolKind::Custom && !self.custom {
                self.input = Some(Box::default());
            }
        }
        let item = context.records.open_item(if self.is_custom() {
            ItemHead::CustomToolCall {
                choice,
                call_id,
                name,
                namespace,
            }
        } else {
            ItemHead::FunctionCall {
                choice,
                call_id,
                name,
                extra: self.extra.take(),
                namespace,
            }
        });
        self.item = Some(item);
    }

    fn target(&self) -> Option<DeltaTarget> {
        let kind = if self.is_custom() {
            DeltaKind::Input
        } else {
            DeltaKind::Arguments
        };
        self.item.map(|item| target(item, kind))
    }

    /// Appends the arguments that are held, if the item is added.
    fn release(&mut self, records: &mut RecordWriter) {
        if self.held.is_empty() {
            return;
        }
        let Some(target) = self.target() else { return };
        let mut text = std::mem::take(&mut self.held);
        if let Some(input) = &mut self.input {
            text = input.push(&text);
        }
        if !text.is_empty() {
            records.text(target, &text, None);
        }
    }
}

fn target(item: u32, kind: DeltaKind) -> DeltaTarget {
    DeltaTarget {
        item,
        part: 0,
        kind,
    }
}
