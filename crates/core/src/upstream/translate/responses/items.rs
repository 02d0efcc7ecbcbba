//! Relays the events of items, with the indexes and ids that the client knows the items by.

use super::ResponsesTranslator;
use super::emit::push;
use super::place::Place;
use super::terminal::{covers, with_streamed};
use crate::model::event::{EventKind, Relayed};
use crate::model::include::{ENCRYPTED, KeptWith, PRIVATE, without};
use crate::model::json::{self, Members};
use crate::upstream::translate::RecordWriter;
use crate::upstream::translate::opened_items::List;
use crate::upstream::{AnswerOrigin, Attachment};

impl ResponsesTranslator {
    /// Relays an event, with the index and id that the client knows its item by. Returns false for
    /// an event that only repeats an earlier one.
    pub(super) fn item_event(
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
                self.emit_rest(at, inner, (list, part), (object, field), records);
            }
            if let Some(item) = self.opened.get_mut(at)
                && (inner.is_some() || (place.done_field().is_some() && name.ends_with(".done")))
            {
                item.finish_part(list, part);
            }
            if let Some(field) = place.done_field() {
                self.emit_rest(at, place, (list, part), (members, field), records);
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

    pub(super) fn added(
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
                !known.done
                    && known.kind == *kind
                    && id.is_none_or(|id| found.is_some_and(|at| self.opened.is(at, id)))
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
            if announced > 0 {
                known.announce(List::Content, announced - 1);
            }
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

    pub(super) fn done(
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
                let same = records
                    .relayed_item(at)
                    .get(at)
                    .is_some_and(|known| covers(item, &known));
                if same || id.is_some_and(|id| self.opened.is(at, id)) {
                    return false;
                }
                self.open_complete(item, id, members.number("output_index"), records)
            }
            Some(at) => {
                self.supplement(at, item, false, records);
                let repeats = self.opened.get(at).is_some_and(|i| i.announced_arguments);
                let known = records.relayed_item(at).get(at).filter(|_| !repeats);
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

    /// Returns an item of the upstream in the form in which it is kept: under the client's id, with
    /// what a later request needs to give it back.
    pub(super) fn kept(&self, item: &Members<'_>, id: &str) -> String {
        let id = json::quoted(id);
        let kept_with = self.kept_with(item).map(|kept| kept.to_json());
        let mut replaced = vec![("id", id.as_str())];
        if let Some(private) = &kept_with {
            replaced.push((PRIVATE, private));
        }
        item.write_with(&replaced)
    }

    /// Returns what is kept beside an item. Items that go back without an id need nothing.
    pub(super) fn kept_with(&self, item: &Members<'_>) -> Option<KeptWith> {
        let origin = self.origin.as_ref();
        if origin.is_some_and(AnswerOrigin::replays) {
            return KeptWith::of(item);
        }
        let encrypted = item.get(ENCRYPTED).is_some();
        let plain = matches!(
            &*item.text("type").unwrap_or_default(),
            "message" | "reasoning" | "function_call" | "custom_tool_call"
        );
        if plain && !encrypted {
            return None;
        }
        Some(KeptWith {
            id: item.text("id")?.into_owned(),
            credential: origin
                .and_then(AnswerOrigin::credential)
                .filter(|_| encrypted),
        })
    }

    pub(super) fn open(
        &mut self,
        id: Option<&str>,
        kind: &str,
        upstream_index: Option<u64>,
    ) -> u64 {
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
    pub(super) fn open_complete(
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

    /// Relays an event of the upstream.
    pub(super) fn relay(
        &mut self,
        name: &str,
        at: Option<u64>,
        members: &Members<'_>,
        more: &[(&str, &str)],
        records: &mut RecordWriter,
    ) {
        let json = self.relayed(at, members, more, records);
        push(name, at, json, records);
    }

    /// Returns an event of the upstream as it is relayed.
    pub(super) fn relayed(
        &self,
        at: Option<u64>,
        members: &Members<'_>,
        more: &[(&str, &str)],
        records: &RecordWriter,
    ) -> String {
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
                Some(inner) => object = self.kept(&inner, &item.id),
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
        members.write_with(&replaced)
    }

    /// Relays the first event as `response.in_progress`: the gateway sends `response.created`
    /// itself, before the upstream is asked.
    pub(super) fn relay_first(
        &self,
        response: Option<String>,
        attachment: Option<Attachment>,
        records: &mut RecordWriter,
    ) {
        let Some(members) = response
            .as_deref()
            .and_then(|object| serde_json::from_str::<Members<'_>>(object).ok())
        else {
            records.event(EventKind::InProgress);
            records.record(None);
            return;
        };
        // An upstream's own member of this name is none of the gateway's.
        let plain = without(&members, |name| name == PRIVATE);
        let members: Members<'_> = serde_json::from_str(&plain).unwrap_or_default();
        let attachment = attachment.map(|attachment| attachment.to_json());
        let mut replaced = vec![("status", "\"in_progress\"")];
        if let Some(attachment) = &attachment {
            replaced.push((PRIVATE, attachment));
        }
        let response = members.write_with(&replaced);
        let json = format!(
            r#"{{"type":"response.in_progress","sequence_number":{},"response":{response}}}"#,
            records.next_seq()
        );
        records.event(EventKind::Relayed(Relayed {
            name: "response.in_progress".to_owned(),
            json,
        }));
        records.record(None);
    }
}
