//! Relays the events of a Responses upstream, with the gateway's ids and numbers.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::model::error::ErrorCode;
use crate::model::event::{ChatHint, Ending, EventKind, Failure, Outcome, Relayed};
use crate::model::id::GenerationId;
use crate::model::json::{self, Members};
use crate::model::relayed_items::RelayedItems;

use super::chunk::UpstreamFault;
use super::hints::ChatHints;
use super::opened_items::{List, OpenedItems};
use super::usage::Usage;
use super::{BodyEnd, Progress, RecordWriter, Translated, failed};

/// The state of one Responses stream.
pub struct ResponsesTranslator {
    id: String,
    /// The random part of the generation's id.
    suffix: String,
    previous: String,
    started: bool,
    hints: ChatHints,
    opened: OpenedItems,
    /// What was relayed so far.
    items: RelayedItems,
    fault: Option<Failure>,
    /// `response.failed` came without a reason.
    failing: bool,
    /// The upstream's terminal response object, with the gateway's ids.
    last: Option<String>,
}

impl std::fmt::Debug for ResponsesTranslator {
    /// Omits the response object.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponsesTranslator")
            .field("id", &self.id)
            .field("started", &self.started)
            .finish_non_exhaustive()
    }
}

impl ResponsesTranslator {
    /// Creates a translator for the generation with this id and previous response.
    #[must_use]
    pub fn new(id: &GenerationId, previous_response_id: Option<&str>) -> Self {
        let previous = previous_response_id.map_or_else(
            || "null".to_owned(),
            |id| format!("\"{}\"", json::escape(id)),
        );
        Self {
            id: format!("\"{id}\""),
            suffix: id.suffix().to_owned(),
            previous,
            started: false,
            hints: ChatHints::default(),
            opened: OpenedItems::default(),
            items: RelayedItems::default(),
            fault: None,
            failing: false,
            last: None,
        }
    }

    /// Returns true once the upstream has sent anything.
    #[must_use]
    pub fn started(&self) -> bool {
        self.started
    }

    /// Translates one payload. `name` is the SSE event's name, which counts where the payload has no
    /// `type` member.
    pub fn payload(
        &mut self,
        name: Option<&[u8]>,
        data: &[u8],
        terminated: bool,
        records: &mut RecordWriter,
    ) -> Translated {
        let data = data.trim_ascii();
        if data.is_empty() {
            return Translated {
                progress: self.progress(),
                tokens: false,
            };
        }
        if data.eq_ignore_ascii_case(b"[DONE]") {
            return over(self.body_ended(BodyEnd::Clean));
        }
        let Ok(text) = std::str::from_utf8(data) else {
            return over(failed(
                ErrorCode::UpstreamInvalidUtf8,
                "The upstream sent an event that is not valid UTF-8.",
            ));
        };
        let members: Members<'_> = match serde_json::from_str(text) {
            Ok(members) => members,
            Err(_) if !terminated => return over(truncated()),
            Err(error) => {
                let message = format!(
                    "The upstream sent an event that is not a JSON object (column {} of {} bytes).",
                    error.column(),
                    text.len()
                );
                return over(failed(ErrorCode::UpstreamMalformed, message));
            }
        };
        let name = name.and_then(|name| std::str::from_utf8(name).ok());
        let name = name.filter(|name| name.starts_with("response.") || *name == "error");
        if let Some(name) = name.filter(|_| members.get("type").is_none()) {
            let typed = members.write_with(&[("type", &json::quoted(name))]);
            return match serde_json::from_str(&typed) {
                Ok(members) => self.event(&members, typed.as_bytes(), records),
                Err(_) => over(truncated()),
            };
        }
        self.event(&members, data, records)
    }

    /// Returns the ending of a body without a terminal event.
    #[must_use]
    pub fn body_ended(&self, end: BodyEnd) -> Ending {
        match (&self.fault, end) {
            (Some(failure), _) => Ending::Failed(failure.clone()),
            (None, _) if self.failing => unexplained(),
            (None, BodyEnd::Broken) => failed(
                ErrorCode::UpstreamTruncated,
                "The connection to the upstream broke in the middle of the answer.",
            ),
            (None, _) => truncated(),
        }
    }

    /// Writes the terminal event.
    pub fn end(&mut self, ending: Ending, at: u64, records: &mut RecordWriter) {
        let relayed = self.last.take().and_then(|object| match &ending {
            Ending::Failed(failure) => Some(with_error(object, failure)),
            // The generation was cancelled before the reason of a failure arrived.
            _ if self.failing => None,
            _ => Some(object),
        });
        let usage = relayed.as_deref().and_then(|object| {
            serde_json::from_str::<Members<'_>>(object)
                .ok()?
                .get("usage")
                .map(|raw| raw.get().to_owned())
        });
        records.event(EventKind::End(Outcome {
            ending,
            at,
            usage,
            relayed,
        }));
        records.record(None);
    }

    fn event(
        &mut self,
        members: &Members<'_>,
        data: &[u8],
        records: &mut RecordWriter,
    ) -> Translated {
        let name = members.text("type").unwrap_or_default();
        let is_error = name == "error" || (name.is_empty() && members.get("error").is_some());
        let is_object = name.is_empty()
            && members.get("status").is_some()
            && (members.text("object").as_deref() == Some("response")
                || members.get("output").is_some());
        if self.failing && !is_error {
            return over(unexplained());
        }
        match &*name {
            "response.created" | "response.queued" | "response.in_progress" => {
                if !self.started {
                    self.started = true;
                    self.relay_first(self.response(members), records);
                }
                return self.translated(false);
            }
            "response.completed"
            | "response.incomplete"
            | "response.failed"
            | "response.cancelled"
            | "response.done" => {
                self.start(records);
                let response = self.response(members);
                // The status says more than the event where the two disagree.
                let status = members.object("response").and_then(|r| r.text("status"));
                let name = match (&*name, status.as_deref()) {
                    (
                        "response.completed" | "response.done",
                        Some(status @ ("failed" | "incomplete" | "cancelled")),
                    ) => format!("response.{status}"),
                    ("response.done", _) => "response.completed".to_owned(),
                    _ => name.into_owned(),
                };
                return self.terminal(&name, response, records);
            }
            // The complete response object instead of a stream.
            "" if is_object => {
                self.start(records);
                let status = members.text("status").unwrap_or_default();
                let name = match &*status {
                    "completed" | "incomplete" | "failed" | "cancelled" => status,
                    _ => return over(truncated()),
                };
                let response = self.own_ids(members);
                return self.terminal(&format!("response.{name}"), Some(response), records);
            }
            // An error without a type: a server that failed before its stream, under HTTP 200.
            _ if is_error => {
                let fault = match members.get("error") {
                    Some(error) => UpstreamFault::read(error),
                    None => UpstreamFault {
                        code: members.text("code").map(Into::into),
                        message: members.text("message").map(Into::into),
                    },
                };
                let failure = self.fault.get_or_insert(fault.into()).clone();
                self.started = true;
                records.record(Some(data));
                if self.failing {
                    return over(Ending::Failed(failure));
                }
                return self.translated(false);
            }
            _ => {}
        }
        self.start(records);
        if !name.starts_with("response.") {
            // An unknown event such as `keepalive`, on which the SDKs raise: it becomes an
            // extension event.
            records.record(Some(data));
            return self.translated(false);
        }
        if !self.item_event(&name, members, records) {
            records.record(Some(data));
        }
        self.translated(name.ends_with(".delta") || name == "response.output_item.done")
    }

    /// Appends `response.in_progress` if the upstream did not begin with a response object.
    fn start(&mut self, records: &mut RecordWriter) {
        if !self.started {
            self.started = true;
            records.event(EventKind::InProgress);
            records.record(None);
        }
    }

    /// Returns the event's response object with the gateway's ids.
    fn response(&self, members: &Members<'_>) -> Option<String> {
        Some(self.own_ids(&members.object("response")?))
    }

    fn own_ids(&self, response: &Members<'_>) -> String {
        response.write_with(&[("id", &self.id), ("previous_response_id", &self.previous)])
    }

    // === Items ===

    /// Relays an event, with the index and id that the client knows its item by. Returns false for
    /// an event that only repeats an earlier one.
    fn item_event(
        &mut self,
        name: &str,
        members: &Members<'_>,
        records: &mut RecordWriter,
    ) -> bool {
        let item = members.object("item");
        let upstream_index = members.number("output_index");
        let id = match &item {
            Some(item) => item.text("id"),
            None => members.text("item_id"),
        };
        let place = Place::of(name);
        let kind = match (&item, place) {
            (Some(item), _) if name == "response.output_item.done" => item.text("type"),
            (Some(_), _) => None,
            (None, place) => place.map(|place| place.kind().into()),
        };
        let found = self
            .opened
            .find(id.as_deref(), upstream_index, kind.as_deref());
        if let Some(item) = &item {
            match name {
                "response.output_item.added" => {
                    return self.added(found, item, id.as_deref(), members, records);
                }
                "response.output_item.done" => {
                    return self.done(found, item, id.as_deref(), members, records);
                }
                _ => {}
            }
        }
        let at = match (found, place) {
            (Some(at), _) => at,
            // An item that was not announced. Calls wait for their name in `output_item.done`.
            (None, Some(place)) if place.list().is_some() => {
                let at = self.open(id.as_deref(), place.kind(), upstream_index);
                self.emit_added(at, None, records);
                at
            }
            (None, Some(_)) => return false,
            (None, None) => {
                self.relay(name, None, members, &[], records);
                return true;
            }
        };
        // A complete part says what it is a part of.
        let object = members.object("part");
        let inner = match (place, &object) {
            (Some(Place::PartDone(list)), Some(part)) => Place::of_part(part, list),
            _ => None,
        };
        let list = place.and_then(Place::list);
        let part = list.map(|list| members.number(list.index_name()).unwrap_or(0));
        if let (Some(list), Some(part), Some(place)) = (list, part, place) {
            match place {
                Place::PartAdded(_) => {
                    if let Some(item) = self.opened.get_mut(at) {
                        item.announce(list, part);
                    }
                }
                _ => self.announce(at, inner.unwrap_or(place), list, part, records),
            }
            if let (Some(inner), Some(object)) = (inner, &object) {
                let field = inner.done_field().unwrap_or("text");
                let text = object.text(field).unwrap_or_default();
                self.emit_rest(at, inner, list, part, &text, records);
            }
            if let Some(item) = self.opened.get_mut(at)
                && (inner.is_some() || (place.done_field().is_some() && name.ends_with(".done")))
            {
                item.finish_part(list, part);
            }
            if let Some(field) = place.done_field() {
                let text = members.text(field).unwrap_or_default();
                self.emit_rest(at, place, list, part, &text, records);
            }
        }
        if (name.ends_with("_arguments.done") || name.ends_with("_input.done"))
            && let Some(item) = self.opened.get_mut(at)
        {
            item.arguments_done = true;
        }
        let part = part.unwrap_or(0).to_string();
        let mut more = Vec::new();
        if let Some(list) = list.filter(|list| members.get(list.index_name()).is_none()) {
            more.push((list.index_name(), part.as_str()));
        }
        self.relay(name, Some(at), members, &more, records);
        true
    }

    fn added(
        &mut self,
        found: Option<u64>,
        item: &Members<'_>,
        id: Option<&str>,
        members: &Members<'_>,
        records: &mut RecordWriter,
    ) -> bool {
        let kind = item.text("type").unwrap_or_default();
        let repeated = found
            .and_then(|at| self.opened.get(at))
            .is_some_and(|known| {
                !known.done && known.kind == *kind && id.is_none_or(|id| id == known.id)
            });
        if repeated {
            return false;
        }
        let at = self.open(id, &kind, members.number("output_index"));
        let announced = item.objects("content").len() as u64;
        let has_arguments = ["arguments", "input"]
            .iter()
            .any(|field| item.text(field).is_some_and(|text| !text.is_empty()));
        if let Some(known) = self.opened.get_mut(at) {
            known.announced_arguments = has_arguments;
        }
        if let Some(known) = self.opened.get_mut(at)
            && announced > 0
        {
            known.announce(List::Content, announced - 1);
        }
        self.relay(
            "response.output_item.added",
            Some(at),
            members,
            &[],
            records,
        );
        true
    }

    fn done(
        &mut self,
        found: Option<u64>,
        item: &Members<'_>,
        id: Option<&str>,
        members: &Members<'_>,
        records: &mut RecordWriter,
    ) -> bool {
        let kind = item.text("type").unwrap_or_default();
        let known = found.filter(|at| self.opened.get(*at).is_some_and(|item| item.kind == *kind));
        let at = match known {
            Some(at) if self.opened.get(at).is_some_and(|item| item.done) => {
                let same = self.items.get(at).is_some_and(|known| covers(item, &known));
                if same || id.is_some_and(|id| self.opened.get(at).is_some_and(|i| i.id == id)) {
                    return false;
                }
                self.open_complete(item, id, members.number("output_index"), records)
            }
            Some(at) => {
                self.supplement(at, item, false, records);
                let repeats = self.opened.get(at).is_some_and(|i| i.announced_arguments);
                let known = self.items.get(at).filter(|_| !repeats);
                let missing = known.and_then(|known| with_streamed(item, &known));
                if let Some(item) = missing {
                    // The upstream's item lacks what it streamed.
                    let complete = members.write_with(&[("item", &item)]);
                    if let Ok(members) = serde_json::from_str::<Members<'_>>(&complete) {
                        if let Some(item) = self.opened.get_mut(at) {
                            item.done = true;
                        }
                        self.relay(
                            "response.output_item.done",
                            Some(at),
                            &members,
                            &[],
                            records,
                        );
                        return true;
                    }
                }
                at
            }
            None => self.open_complete(item, id, members.number("output_index"), records),
        };
        if let Some(item) = self.opened.get_mut(at) {
            item.done = true;
        }
        self.relay("response.output_item.done", Some(at), members, &[], records);
        true
    }

    fn open(&mut self, id: Option<&str>, kind: &str, upstream_index: Option<u64>) -> u64 {
        let suffix = &self.suffix;
        self.opened.open(id, kind, upstream_index, |at| {
            let prefix = match kind {
                "message" => "msg",
                "reasoning" => "rs",
                "function_call" => "fc",
                "custom_tool_call" => "ctc",
                _ => "item",
            };
            format!("{prefix}_{suffix}{at:04}")
        })
    }

    /// Opens an item that arrives in one piece, with the events that it would have had as a stream
    /// but for `output_item.done`.
    fn open_complete(
        &mut self,
        item: &Members<'_>,
        id: Option<&str>,
        upstream_index: Option<u64>,
        records: &mut RecordWriter,
    ) -> u64 {
        let kind = item.text("type").unwrap_or_default();
        let at = self.open(id, &kind, upstream_index);
        self.emit_added(at, Some(item), records);
        self.supplement(at, item, true, records);
        at
    }

    /// Emits `output_item.added` for an item without its content.
    fn emit_added(&mut self, at: u64, item: Option<&Members<'_>>, records: &mut RecordWriter) {
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
    fn announce(
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

    /// Emits what follows the streamed text of a part in its complete text.
    fn emit_rest(
        &mut self,
        at: u64,
        place: Place,
        list: List,
        part: u64,
        text: &str,
        records: &mut RecordWriter,
    ) {
        let streamed = self.items.get(at);
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
    fn supplement(
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
                let text = object.text(field).unwrap_or_default();
                self.emit_rest(at, place, list, part, &text, records);
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
        let streamed = self.items.get(at);
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

    fn emit_part_done(
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

    /// Appends an event of an item that the upstream did not send. `members` follow the ids and
    /// begin with a comma.
    fn emit(&mut self, name: &str, at: u64, members: &str, records: &mut RecordWriter) {
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
        let chat = match serde_json::from_str::<Members<'_>>(&json) {
            Ok(members) => self.note(name, at, &members),
            Err(_) => ChatHint::Nothing,
        };
        push(name, json, chat, records);
    }

    /// Relays an event of the upstream.
    fn relay(
        &mut self,
        name: &str,
        at: Option<u64>,
        members: &Members<'_>,
        more: &[(&str, &str)],
        records: &mut RecordWriter,
    ) {
        let (number, index) = (records.next_seq().to_string(), at.unwrap_or(0).to_string());
        let response = self.response(members);
        let item = at.and_then(|at| self.opened.get(at));
        let mut replaced = vec![("sequence_number", number.as_str())];
        let (mut item_id, mut object) = (String::new(), String::new());
        if let Some(item) = item {
            if members.number("output_index") != at {
                replaced.push(("output_index", &index));
            }
            match members.object("item") {
                Some(inner) if inner.text("id").as_deref() != Some(&item.id) => {
                    object = inner.write_with(&[("id", &json::quoted(&item.id))]);
                }
                Some(_) => {}
                None if members.text("item_id").as_deref() != Some(&item.id) => {
                    item_id = json::quoted(&item.id);
                }
                None => {}
            }
        }
        if !item_id.is_empty() {
            replaced.push(("item_id", &item_id));
        }
        if !object.is_empty() {
            replaced.push(("item", &object));
        }
        if let Some(response) = &response {
            replaced.push(("response", response));
        }
        replaced.extend_from_slice(more);
        let json = members.write_with(&replaced);
        let chat = match at {
            Some(at) => self.note(name, at, members),
            None => ChatHint::Nothing,
        };
        push(name, json, chat, records);
    }

    /// Folds an event and returns what a chat client gets for it.
    fn note(&mut self, name: &str, at: u64, members: &Members<'_>) -> ChatHint {
        self.items.apply(name, at, members);
        if name.starts_with("response.output_item.")
            && let Some(item) = self.opened.get(at)
        {
            self.items.set_id(at, &item.id);
        }
        self.hints.of(name, at, members)
    }

    /// Relays the first event as `response.in_progress`: the gateway sends `response.created`
    /// itself, before the upstream is asked.
    fn relay_first(&self, response: Option<String>, records: &mut RecordWriter) {
        let Some(members) = response
            .as_deref()
            .and_then(|object| serde_json::from_str::<Members<'_>>(object).ok())
        else {
            records.event(EventKind::InProgress);
            records.record(None);
            return;
        };
        let response = members.write_with(&[("status", "\"in_progress\"")]);
        let json = format!(
            r#"{{"type":"response.in_progress","sequence_number":{},"response":{response}}}"#,
            records.next_seq()
        );
        records.event(EventKind::Relayed(Relayed {
            name: "response.in_progress".to_owned(),
            json,
            chat: ChatHint::Role,
        }));
        records.record(None);
    }

    // === The end ===

    /// Takes the terminal response object. Emits what it has beyond what was streamed, and adds
    /// what it lacks.
    fn terminal(
        &mut self,
        name: &str,
        response: Option<String>,
        records: &mut RecordWriter,
    ) -> Translated {
        let text = response.unwrap_or_else(|| "{}".to_owned());
        let response: Members<'_> = serde_json::from_str(&text).unwrap_or_default();
        let output = response.objects("output");
        let matched = self.opened.match_output(&output);
        let mut tokens = false;
        let mut final_items: BTreeMap<u64, (String, bool)> = BTreeMap::new();
        for (item, at) in output.iter().zip(matched) {
            let before = records.batch().byte_len();
            let at = match at {
                Some(at) => {
                    // A call whose arguments are not all streamed.
                    let open_call = self
                        .opened
                        .get(at)
                        .is_some_and(|item| !item.done && item.kind.ends_with("_call"));
                    self.supplement(at, item, open_call, records);
                    at
                }
                None => {
                    let at = self.open_complete(item, item.text("id").as_deref(), None, records);
                    self.emit_item_done(at, item, records);
                    at
                }
            };
            tokens |= records.batch().byte_len() > before;
            let Some(known) = self.opened.get(at) else {
                continue;
            };
            let renamed = item.text("id").as_deref() != Some(&known.id);
            let covered = self.items.get(at).is_none_or(|known| covers(item, &known));
            let json = if !covered {
                None
            } else if renamed {
                Some((item.write_with(&[("id", &json::quoted(&known.id))]), true))
            } else {
                Some((item.write_with(&[]), false))
            };
            if let Some(json) = json {
                final_items.insert(at, json);
            }
        }
        self.items.close(match name {
            "response.completed" => "completed",
            _ => "incomplete",
        });
        if matches!(name, "response.completed" | "response.incomplete") {
            self.close_items(&final_items, records);
        }
        let in_order = final_items.len() as u64 == self.opened.len()
            && output.len() == final_items.len()
            && final_items.values().all(|(_, changed)| !changed)
            && self
                .opened
                .match_output(&output)
                .into_iter()
                .eq((0..self.opened.len()).map(Some));
        let mut replaced = Vec::new();
        let items = self.output(&final_items);
        if !in_order {
            replaced.push(("output", items.as_str()));
        }
        let usage = response.get("usage").and_then(respelled);
        if let Some(usage) = &usage {
            replaced.push(("usage", usage));
        }
        let ending = self.ending(name, &response);
        // An event without a response object ends the answer that was streamed.
        self.last = (response.len() > 0).then(|| {
            if replaced.is_empty() {
                text.clone()
            } else {
                response.write_with(&replaced)
            }
        });
        match ending {
            Some(ending) => Translated {
                progress: Progress::Over(ending),
                tokens,
            },
            None => {
                self.failing = true;
                Translated {
                    progress: Progress::Failing,
                    tokens,
                }
            }
        }
    }

    /// Closes the items that the upstream left open. Some clients wait for
    /// `response.output_item.done`.
    fn close_items(
        &mut self,
        final_items: &BTreeMap<u64, (String, bool)>,
        records: &mut RecordWriter,
    ) {
        for at in 0..self.opened.len() {
            if self.opened.get(at).is_none_or(|item| item.done) {
                continue;
            }
            let item = match final_items.get(&at) {
                Some((json, _)) => Some(json.clone()),
                None => self.items.get(at).map(|item| item.to_string()),
            };
            if let Some(item) = item
                && let Ok(item) = serde_json::from_str::<Members<'_>>(&item)
            {
                self.supplement(at, &item, true, records);
                self.emit_item_done(at, &item, records);
            }
        }
    }

    fn emit_item_done(&mut self, at: u64, item: &Members<'_>, records: &mut RecordWriter) {
        let Some(known) = self.opened.get_mut(at) else {
            return;
        };
        known.done = true;
        let item = item.write_with(&[("id", &json::quoted(&known.id))]);
        self.emit(
            "response.output_item.done",
            at,
            &format!(r#","item":{item}"#),
            records,
        );
    }

    /// Returns the output list: the terminal object's items, and the streamed ones that it lacks.
    fn output(&self, final_items: &BTreeMap<u64, (String, bool)>) -> String {
        let items: Vec<String> = (0..self.opened.len())
            .filter_map(|at| match final_items.get(&at) {
                Some((json, _)) => Some(json.clone()),
                None => self.items.get(at).map(|item| item.to_string()),
            })
            .collect();
        format!("[{}]", items.join(","))
    }

    /// Returns the ending that a terminal event means; `None` for a failure without a reason.
    fn ending(&self, name: &str, response: &Members<'_>) -> Option<Ending> {
        Some(match name {
            "response.completed" => Ending::Completed {
                tool_calls: self.hints.calls() > 0 || calls_something(response),
            },
            "response.incomplete" => {
                let reason = response
                    .object("incomplete_details")
                    .and_then(|details| details.text("reason").map(Into::into));
                Ending::Incomplete {
                    reason: reason.unwrap_or_else(|| "max_output_tokens".to_owned()),
                }
            }
            "response.cancelled" => Ending::Cancelled,
            _ => {
                let fault = response.get("error").map(UpstreamFault::read);
                match (fault.filter(UpstreamFault::is_explained), &self.fault) {
                    (Some(fault), _) => Ending::Failed(fault.into()),
                    (None, Some(failure)) => Ending::Failed(failure.clone()),
                    (None, None) => return None,
                }
            }
        })
    }

    fn translated(&self, tokens: bool) -> Translated {
        Translated {
            progress: self.progress(),
            tokens,
        }
    }

    fn progress(&self) -> Progress {
        if self.fault.is_some() {
            Progress::Finished
        } else {
            Progress::Open
        }
    }
}

/// The kinds of content that an event of an item can belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Text,
    Refusal,
    Reasoning,
    Summary,
    Arguments,
    Input,
    /// A `….part.added` or `….part.done` event.
    PartAdded(List),
    PartDone(List),
}

impl Place {
    /// Returns the place of an event of this name.
    fn of(name: &str) -> Option<Self> {
        let name = name.strip_prefix("response.")?;
        let (place, _) = name.rsplit_once('.')?;
        Some(match (place, name) {
            (_, "content_part.added") => Self::PartAdded(List::Content),
            (_, "reasoning_summary_part.added") => Self::PartAdded(List::Summary),
            (_, "content_part.done") => Self::PartDone(List::Content),
            (_, "reasoning_summary_part.done") => Self::PartDone(List::Summary),
            ("output_text", "output_text.delta" | "output_text.done") => Self::Text,
            ("refusal", _) => Self::Refusal,
            ("reasoning_text" | "reasoning", _) => Self::Reasoning,
            ("reasoning_summary_text", _) => Self::Summary,
            ("function_call_arguments", _) => Self::Arguments,
            ("custom_tool_call_input", _) => Self::Input,
            _ => return None,
        })
    }

    /// Returns the place of a part of a complete item.
    fn of_part(part: &Members<'_>, list: List) -> Option<Self> {
        Some(match (list, &*part.text("type").unwrap_or_default()) {
            (List::Summary, _) => Self::Summary,
            (List::Content, "output_text" | "text") => Self::Text,
            (List::Content, "refusal") => Self::Refusal,
            (List::Content, "reasoning_text" | "reasoning") => Self::Reasoning,
            _ => return None,
        })
    }

    /// The type of the item.
    fn kind(self) -> &'static str {
        match self {
            Self::Text | Self::Refusal => "message",
            Self::PartAdded(List::Content) | Self::PartDone(List::Content) => "message",
            Self::Reasoning | Self::Summary => "reasoning",
            Self::PartAdded(List::Summary) | Self::PartDone(List::Summary) => "reasoning",
            Self::Arguments => "function_call",
            Self::Input => "custom_tool_call",
        }
    }

    /// The list that holds the part; `None` for arguments and input.
    fn list(self) -> Option<List> {
        match self {
            Self::Text | Self::Refusal | Self::Reasoning => Some(List::Content),
            Self::Summary => Some(List::Summary),
            Self::PartAdded(list) | Self::PartDone(list) => Some(list),
            Self::Arguments | Self::Input => None,
        }
    }

    /// The member of a `….done` event that holds the complete text.
    fn done_field(self) -> Option<&'static str> {
        match self {
            Self::Text | Self::Reasoning | Self::Summary => Some("text"),
            Self::Refusal => Some("refusal"),
            _ => None,
        }
    }

    /// The name of a delta event.
    fn delta(self) -> &'static str {
        match self {
            Self::Refusal => "response.refusal.delta",
            Self::Reasoning => "response.reasoning_text.delta",
            Self::Summary => "response.reasoning_summary_text.delta",
            _ => "response.output_text.delta",
        }
    }

    /// The name of the event that announces a part, and the part without its text.
    fn empty_part(self) -> (&'static str, &'static str) {
        match self {
            Self::Summary | Self::PartDone(List::Summary) => (
                "response.reasoning_summary_part.added",
                r#"{"type":"summary_text","text":""}"#,
            ),
            Self::Refusal => (
                "response.content_part.added",
                r#"{"type":"refusal","refusal":""}"#,
            ),
            Self::Reasoning => (
                "response.content_part.added",
                r#"{"type":"reasoning_text","text":""}"#,
            ),
            _ => (
                "response.content_part.added",
                r#"{"type":"output_text","text":"","annotations":[],"logprobs":[]}"#,
            ),
        }
    }
}

fn push(name: &str, json: String, chat: ChatHint, records: &mut RecordWriter) {
    records.event(EventKind::Relayed(Relayed {
        name: name.to_owned(),
        json,
        chat,
    }));
    records.record(None);
}

/// Returns the text or refusal of a part.
fn part_text(part: &Value) -> &str {
    part["text"]
        .as_str()
        .or_else(|| part["refusal"].as_str())
        .unwrap_or_default()
}

/// Returns true if a complete item has all that was streamed of it.
fn covers(item: &Members<'_>, streamed: &Value) -> bool {
    let lists = [List::Content, List::Summary].into_iter().all(|list| {
        let parts = item.objects(list.name());
        let known = streamed[list.name()].as_array();
        (0..).zip(known.into_iter().flatten()).all(|(at, part)| {
            let text = part_text(part);
            text.is_empty()
                || parts.get::<usize>(at).is_some_and(|part| {
                    ["text", "refusal"]
                        .iter()
                        .any(|field| part.text(field).is_some_and(|full| full.starts_with(text)))
                })
        })
    });
    lists
        && ["arguments", "input", "name", "call_id"]
            .iter()
            .all(|field| {
                let known = streamed[*field].as_str().unwrap_or_default();
                known.is_empty() || item.text(field).is_some_and(|full| full.starts_with(known))
            })
}

/// Returns a complete item with the streamed content that it lacks; `None` if it lacks nothing.
fn with_streamed(item: &Members<'_>, streamed: &Value) -> Option<String> {
    if covers(item, streamed) {
        return None;
    }
    let known = |name: &str| match &streamed[name] {
        Value::String(text) => !text.is_empty(),
        Value::Array(parts) => parts.iter().any(|part| !part_text(part).is_empty()),
        _ => false,
    };
    let missing: Vec<(&str, String)> = [
        "arguments",
        "input",
        "name",
        "call_id",
        "content",
        "summary",
    ]
    .into_iter()
    .filter(|name| known(name))
    .filter(|name| {
        let mut only = serde_json::Map::new();
        only.insert((*name).to_owned(), streamed[*name].clone());
        !covers(item, &Value::Object(only))
    })
    .map(|name| (name, streamed[name].to_string()))
    .collect();
    let replaced: Vec<(&str, &str)> = missing
        .iter()
        .map(|(name, json)| (*name, json.as_str()))
        .collect();
    Some(item.write_with(&replaced))
}

/// Returns usage in the Responses shape if the upstream wrote it in another one.
fn respelled(usage: &RawValue) -> Option<String> {
    let members: Members<'_> = serde_json::from_str(usage.get()).ok()?;
    let has = |names: &[&str]| names.iter().all(|name| members.number(name).is_some());
    if !has(&["input_tokens", "output_tokens"]) {
        return Usage::parse(usage).map(Usage::to_responses);
    }
    if has(&["total_tokens"]) {
        return None;
    }
    let total = members
        .number("input_tokens")?
        .saturating_add(members.number("output_tokens")?);
    Some(members.write_with(&[("total_tokens", &total.to_string())]))
}

/// Returns the response object with the failure as its error, unless it has one with a reason.
fn with_error(object: String, failure: &Failure) -> String {
    let Ok(members) = serde_json::from_str::<Members<'_>>(&object) else {
        return object;
    };
    let explained = members
        .get("error")
        .is_some_and(|error| UpstreamFault::read(error).is_explained());
    if explained {
        return object;
    }
    let error = format!(
        r#"{{"code":"{}","message":"{}","retryable":{}}}"#,
        json::escape(&failure.code),
        json::escape(&failure.message),
        failure.retryable
    );
    members.write_with(&[("error", &error), ("status", r#""failed""#)])
}

fn unexplained() -> Ending {
    failed(
        ErrorCode::UpstreamError,
        "The upstream reported that the response failed.",
    )
}

/// Returns true if the response object has a call.
fn calls_something(response: &Members<'_>) -> bool {
    response.objects("output").iter().any(|item| {
        item.text("type")
            .is_some_and(|kind| matches!(&*kind, "function_call" | "custom_tool_call"))
    })
}

fn over(ending: Ending) -> Translated {
    Translated {
        progress: Progress::Over(ending),
        tokens: false,
    }
}

fn truncated() -> Ending {
    failed(
        ErrorCode::UpstreamTruncated,
        "The upstream's stream ended without a terminal event.",
    )
}
