//! Closing events that repeat what was streamed, as nearly all do. They are folded as they come, so
//! that no text is copied or decoded once more.

use serde_json::Value;

use super::emit::{part_text, push_folded};
use super::place::Place;
use super::{ResponsesTranslator, TerminalObject};
use crate::model::event::Ending;
use crate::model::folded_json::FoldedJson;
use crate::model::include::ENCRYPTED;
use crate::model::json::Members;
use crate::upstream::translate::opened_items::List;
use crate::upstream::translate::{Progress, RecordWriter, Translated};

/// Shorter events take the ordinary way.
const LARGE: usize = 4096;

impl ResponsesTranslator {
    /// Translates a large closing event of which nothing has to be emitted or added. `None` for any
    /// other event; then nothing has changed.
    pub(super) fn folded(
        &mut self,
        text: &str,
        members: &Members<'_>,
        records: &mut RecordWriter,
    ) -> Option<Translated> {
        if text.len() < LARGE || self.failing || !self.started {
            return None;
        }
        let name = members.text("type")?;
        let is_end = name == "response.completed";
        if !is_end && !name.ends_with(".done") {
            return None;
        }
        let folded = records.relayed_items().fold_texts(text)?;
        let members: Members<'_> = serde_json::from_str(folded.as_str()).ok()?;
        if is_end {
            return self.folded_end(&members, records);
        }
        let is_token = name == "response.output_item.done";
        let at = if is_token {
            self.folded_item(&members, records)?
        } else {
            self.folded_text(&name, &members, records)?
        };
        let json = self.relayed(Some(at), &members, &[], records);
        push_folded(&name, json, records);
        Some(self.translated(is_token))
    }

    /// Takes the end of a text, or of a part with a text.
    fn folded_text(
        &mut self,
        name: &str,
        members: &Members<'_>,
        records: &mut RecordWriter,
    ) -> Option<u64> {
        let place = Place::of(name)?;
        let (id, index) = (members.text("item_id"), members.number("output_index"));
        let at = self.opened.find(id.as_deref(), index, Some(place.kind()))?;
        let Some(list) = place.list() else {
            self.opened.get_mut(at)?.arguments_done = true;
            return Some(at);
        };
        let part = members.number(list.index_name())?;
        if part >= self.opened.get(at)?.parts(list) {
            return None;
        }
        let text = match place {
            Place::PartDone(_) => {
                let object = members.object("part")?;
                let field = Place::of_part(&object, list)?.done_field()?;
                object.text(field)?
            }
            _ => members.text(place.done_field()?)?,
        };
        let known = records.relayed_items().get_folded(at)?;
        if part_text(&known[list.name()][part as usize]) != text {
            return None;
        }
        self.opened.get_mut(at)?.finish_part(list, part);
        Some(at)
    }

    /// Takes the end of an item.
    fn folded_item(&mut self, members: &Members<'_>, records: &mut RecordWriter) -> Option<u64> {
        let item = members.object("item")?;
        let (id, kind) = (item.text("id"), item.text("type")?);
        let index = members.number("output_index");
        let at = self.opened.find(id.as_deref(), index, Some(&kind))?;
        let known = self.opened.get_mut(at)?;
        if known.done || known.announced_arguments || known.kind != *kind {
            return None;
        }
        let streamed = records.relayed_items().get_folded(at)?;
        if !repeats(&item, &streamed) {
            return None;
        }
        known.done = true;
        Some(at)
    }

    /// Takes the terminal response object of an answer that has completed.
    fn folded_end(
        &mut self,
        members: &Members<'_>,
        records: &mut RecordWriter,
    ) -> Option<Translated> {
        let response = members.object("response")?;
        if response.text("status")? != "completed" || self.fault.is_some() {
            return None;
        }
        let output = response.objects("output");
        if output.len() as u64 != self.opened.len() {
            return None;
        }
        let mut items = vec![String::new(); output.len()];
        for (item, at) in output.iter().zip(self.opened.match_output(&output)) {
            let at = at?;
            let known = self.opened.get(at).filter(|known| known.done)?;
            let streamed = records.relayed_items().get_folded(at)?;
            if !repeats(item, &streamed) {
                return None;
            }
            *items.get_mut(at as usize)? = self.kept(item, &known.id);
        }
        self.upstream_over();
        let own_ids = self.own_ids(&response);
        let response: Members<'_> = serde_json::from_str(&own_ids).ok()?;
        let object = Self::terminal_object(&response, &format!("[{}]", items.join(",")));
        self.last = Some(TerminalObject::Folded(FoldedJson::of_folded(object)));
        Some(Translated {
            progress: Progress::Over(Ending::Completed),
            tokens: false,
        })
    }
}

/// Returns true if a folded item has the content that was streamed of it, and no other.
fn repeats(item: &Members<'_>, streamed: &Value) -> bool {
    let lists = [List::Content, List::Summary].into_iter().all(|list| {
        let parts = item.objects(list.name());
        let known = streamed[list.name()].as_array();
        let known = known.map_or(&[][..], Vec::as_slice);
        let text = |part: &Members<'_>| {
            let text = part.text("text").or_else(|| part.text("refusal"));
            text.unwrap_or_default().into_owned()
        };
        parts.len() == known.len()
            && parts
                .iter()
                .zip(known)
                .all(|(part, known)| text(part) == part_text(known))
    });
    let fields = ["arguments", "input", "name", "call_id", ENCRYPTED];
    lists
        && fields.into_iter().all(|field| {
            let known = streamed[field].as_str().unwrap_or_default();
            item.text(field).unwrap_or_default() == known
        })
}
