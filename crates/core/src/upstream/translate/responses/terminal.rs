//! The terminal response object: emits what only it has, and adds what it lacks.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

use super::emit::part_text;
use super::{ResponsesTranslator, TerminalObject};
use crate::model::event::{Ending, Failure};
use crate::model::include::ENCRYPTED;
use crate::model::json::{self, Members};
use crate::upstream::translate::chunk::UpstreamFault;
use crate::upstream::translate::opened_items::List;
use crate::upstream::translate::usage::Usage;
use crate::upstream::translate::{Progress, RecordWriter, Translated};

impl ResponsesTranslator {
    /// Takes the terminal response object. Emits what it has beyond what was streamed, and adds
    /// what it lacks.
    pub(super) fn terminal(
        &mut self,
        name: &str,
        response: Option<String>,
        records: &mut RecordWriter,
    ) -> Translated {
        self.upstream_over();
        let text = response.unwrap_or_else(|| "{}".to_owned());
        let response: Members<'_> = serde_json::from_str(&text).unwrap_or_default();
        let output = response.objects("output");
        let matched = self.opened.match_output(&output);
        let mut tokens = false;
        let mut final_items: BTreeMap<u64, String> = BTreeMap::new();
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
                    if let Some(id) = self.opened.get(at).map(|known| known.id.clone()) {
                        let kept = self.kept(item, &id);
                        self.emit_item_done(at, &kept, records);
                    }
                    at
                }
            };
            tokens |= records.batch().byte_len() > before;
            let Some(known) = self.opened.get(at) else {
                continue;
            };
            let streamed = records.relayed_items().get(at);
            let covered = streamed
                .is_none_or(|known| covers(item, &known) && repeats_encrypted(item, &known));
            if covered {
                final_items.insert(at, self.kept(item, &known.id));
            }
        }
        records.relayed_items().close(match name {
            "response.completed" => "completed",
            _ => "incomplete",
        });
        if matches!(name, "response.completed" | "response.incomplete") {
            self.close_items(&final_items, records);
        }
        let items = self.output(&final_items, records);
        let ending = self.ending(name, &response);
        // An event without a response object ends the answer that was streamed.
        self.last = (response.len() > 0)
            .then(|| TerminalObject::Plain(Self::terminal_object(&response, &items)));
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

    /// Returns the terminal object with these items.
    pub(super) fn terminal_object(response: &Members<'_>, items: &str) -> String {
        let mut replaced = vec![("output", items)];
        let usage = response.get("usage").and_then(respelled);
        if let Some(usage) = &usage {
            replaced.push(("usage", usage));
        }
        response.write_with(&replaced)
    }

    /// Closes the items that the upstream left open. Some clients wait for
    /// `response.output_item.done`.
    pub(super) fn close_items(
        &mut self,
        final_items: &BTreeMap<u64, String>,
        records: &mut RecordWriter,
    ) {
        for at in 0..self.opened.len() {
            if self.opened.get(at).is_none_or(|item| item.done) {
                continue;
            }
            let item = match final_items.get(&at) {
                Some(json) => Some(json.clone()),
                None => records.relayed_items().get(at).map(|item| item.to_string()),
            };
            if let Some(kept) = item
                && let Ok(item) = serde_json::from_str::<Members<'_>>(&kept)
            {
                self.supplement(at, &item, true, records);
                self.emit_item_done(at, &kept, records);
            }
        }
    }

    /// Returns the output list: the terminal object's items, and the streamed ones that it lacks.
    pub(super) fn output(
        &self,
        final_items: &BTreeMap<u64, String>,
        records: &mut RecordWriter,
    ) -> String {
        let items: Vec<String> = (0..self.opened.len())
            .filter_map(|at| match final_items.get(&at) {
                Some(json) => Some(json.clone()),
                None => records.relayed_items().get(at).map(|item| item.to_string()),
            })
            .collect();
        format!("[{}]", items.join(","))
    }

    /// Returns the ending that a terminal event means; `None` for a failure without a reason.
    pub(super) fn ending(&self, name: &str, response: &Members<'_>) -> Option<Ending> {
        Some(match name {
            "response.completed" => Ending::Completed,
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
}

/// Returns true if a complete item has all that was streamed of it.
pub(super) fn covers(item: &Members<'_>, streamed: &Value) -> bool {
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

/// Returns true if a complete item holds the encrypted content that was streamed of it, if any was.
fn repeats_encrypted(item: &Members<'_>, streamed: &Value) -> bool {
    streamed[ENCRYPTED]
        .as_str()
        .is_none_or(|known| item.text(ENCRYPTED).as_deref() == Some(known))
}

/// Returns a complete item with the streamed content that it lacks; `None` if it lacks nothing.
pub(super) fn with_streamed(item: &Members<'_>, streamed: &Value) -> Option<String> {
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
pub(super) fn with_error(object: String, failure: &Failure) -> String {
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
