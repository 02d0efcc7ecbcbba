//! The delta of a chat chunk that is made from an event of a Responses upstream.

use std::borrow::Cow;

use super::View;
use super::item_index::{Call, inside};
use crate::model::event::Relayed;
use crate::model::folded_json::has_marks;
use crate::model::id::Seq;
use crate::model::json::Members;
use crate::upstream::translate::complete_logprobs;

/// What one event adds to a chat message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ChatDelta {
    /// The delta object.
    pub(super) json: String,
    /// The log probabilities as a raw JSON array, if the upstream sent any.
    pub(super) logprobs: Option<String>,
}

impl ChatDelta {
    /// Returns the delta of the first chunk.
    pub(super) fn role() -> Self {
        Self::new(r#"{"role":"assistant","content":""}"#.to_owned())
    }

    fn new(json: String) -> Self {
        Self {
            json,
            logprobs: None,
        }
    }

    /// Returns what the event with this number adds. Items and parts have no counterpart in chat;
    /// neither has a complete text, which repeats its deltas.
    pub(super) fn of(view: &impl View, relayed: &Relayed, seq: Seq) -> Option<Self> {
        let name = relayed.name.strip_prefix("response.")?;
        if name == "in_progress" {
            return Some(Self::role());
        }
        let shows = name.ends_with(".delta")
            || matches!(
                name,
                "output_item.added"
                    | "output_item.done"
                    | "reasoning_summary_part.added"
                    | "function_call_arguments.done"
                    | "custom_tool_call_input.done"
                    | "output_text.annotation.added"
            );
        if !shows {
            return None;
        }
        let json = unfolded(view, relayed);
        let members: Members<'_> = serde_json::from_str(&json).ok()?;
        let at = members.number("output_index")?;
        let delta = || inside(&members, "delta");
        Some(match name {
            "output_text.delta" => Self {
                json: format!(r#"{{"content":"{}"}}"#, delta()),
                logprobs: logprobs(&members),
            },
            "refusal.delta" => Self::new(format!(r#"{{"refusal":"{}"}}"#, delta())),
            "reasoning_text.delta" | "reasoning_summary_text.delta" | "reasoning.delta" => {
                reasoning(delta())
            }
            // Each paragraph of a summary is a part.
            "reasoning_summary_part.added" if members.number("summary_index")? > 0 => {
                reasoning(r"\n\n")
            }
            "function_call_arguments.delta" | "custom_tool_call_input.delta" => {
                arguments(known_call(view, at, seq)?, delta())
            }
            // Some servers send arguments only once they are complete.
            "function_call_arguments.done" | "custom_tool_call_input.done" => {
                let call = first_arguments(view, at, seq)?;
                let name = if name.starts_with("custom") {
                    "input"
                } else {
                    "arguments"
                };
                arguments(call, inside(&members, name))
            }
            // Arguments in `added` are sent again, in deltas or in `done`.
            "output_item.added" => call(known_call(view, at, seq)?, &members.object("item")?),
            "output_item.done" => {
                let item = members.object("item")?;
                match &*item.text("type")? {
                    "image_generation_call" => Self::new(match inside(&item, "result") {
                        "" => return None,
                        data => format!(r#"{{"images":[{}]}}"#, image(data)),
                    }),
                    _ => {
                        let call = first_arguments(view, at, seq)?;
                        arguments(call, inside(&item, call.field()))
                    }
                }
            }
            "output_text.annotation.added" if view.item_index(|index| index.is_open(at, seq)) => {
                let annotation = annotation(&members.object("annotation")?)?;
                Self::new(format!(r#"{{"annotations":[{annotation}]}}"#))
            }
            _ => return None,
        })
    }
}

/// Returns the event's JSON with the texts that it refers to.
fn unfolded<'a>(view: &impl View, relayed: &'a Relayed) -> Cow<'a, str> {
    if !relayed.is_closing() || !has_marks(&relayed.json) {
        return Cow::Borrowed(&relayed.json);
    }
    let mut json = Vec::new();
    view.with_snapshot(|snapshot| snapshot.write_folded(&relayed.json, &mut json));
    Cow::Owned(String::from_utf8(json).unwrap_or_default())
}

fn known_call(view: &impl View, at: u64, seq: Seq) -> Option<Call> {
    view.item_index(|index| index.call(at, seq))
}

/// Returns the call of the item if this event is the first with its arguments.
fn first_arguments(view: &impl View, at: u64, seq: Seq) -> Option<Call> {
    known_call(view, at, seq).filter(|call| call.first_arguments_at(seq))
}

fn reasoning(text: &str) -> ChatDelta {
    ChatDelta::new(format!(r#"{{"reasoning_content":"{text}"}}"#))
}

fn call(call: Call, item: &Members<'_>) -> ChatDelta {
    let (number, id, name) = (call.number, call_id(item), inside(item, "name"));
    let (kind, field) = (call.kind(), call.field());
    ChatDelta::new(format!(
        r#"{{"tool_calls":[{{"index":{number},"id":"{id}","type":"{kind}","{kind}":{{"name":"{name}","{field}":""}}}}]}}"#
    ))
}

fn arguments(call: Call, text: &str) -> ChatDelta {
    let (number, kind, field) = (call.number, call.kind(), call.field());
    ChatDelta::new(format!(
        r#"{{"tool_calls":[{{"index":{number},"{kind}":{{"{field}":"{text}"}}}}]}}"#
    ))
}

fn logprobs(members: &Members<'_>) -> Option<String> {
    members
        .get("logprobs")
        .filter(|raw| raw.get().len() > 2)
        .map(complete_logprobs)
        .filter(|array| array != "[]")
}

/// Returns the JSON-escaped id that a call's output refers to.
pub(super) fn call_id<'a>(item: &Members<'a>) -> &'a str {
    [inside(item, "call_id"), inside(item, "id")]
        .into_iter()
        .find(|id| !id.is_empty())
        .unwrap_or_default()
}

/// Returns an image as chat servers send it. `data` is JSON-escaped base64.
pub(super) fn image(data: &str) -> String {
    // The first character of the data tells the format.
    let format = match data.as_bytes().first() {
        Some(b'/') => "jpeg",
        Some(b'U') => "webp",
        Some(b'R') => "gif",
        _ => "png",
    };
    format!(r#"{{"type":"image_url","image_url":{{"url":"data:image/{format};base64,{data}"}}}}"#)
}

/// Returns an annotation in chat's shape if it is a URL citation. Chat has no others.
pub(super) fn annotation(annotation: &Members<'_>) -> Option<String> {
    if annotation.text("type").as_deref() != Some("url_citation") {
        return None;
    }
    let number = |name| annotation.number(name).unwrap_or(0);
    Some(format!(
        r#"{{"type":"url_citation","url_citation":{{"start_index":{},"end_index":{},"url":"{}","title":"{}"}}}}"#,
        number("start_index"),
        number("end_index"),
        inside(annotation, "url"),
        inside(annotation, "title")
    ))
}
