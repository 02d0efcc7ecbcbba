//! Maps the events of a Responses upstream to what a chat client gets.
//!
//! Chat has no items and parts, only text deltas and numbered calls. The state here tells which
//! call has which number, and which parts were shown. Some servers send a text or a call only in
//! its `….done` event: it is shown then, and otherwise not repeated.

use std::collections::{BTreeSet, HashMap};

use crate::model::event::ChatHint;
use crate::model::json::{self, Members};

/// The state of one stream.
#[derive(Debug, Default)]
pub(super) struct ChatHints {
    calls: Vec<Call>,
    /// Position in `calls` by `output_index`.
    by_index: HashMap<u64, usize>,
    /// The `output_index` of the first message, which the text dialect shows.
    first_message: Option<u64>,
    /// Parts that were shown, at least in part: `output_index` and `content_index`.
    shown: BTreeSet<(u64, u64)>,
}

#[derive(Debug)]
struct Call {
    has_arguments: bool,
    custom: bool,
}

/// Returns a member's string, JSON-escaped; empty if it is missing.
fn inside<'a>(members: &Members<'a>, name: &str) -> &'a str {
    members
        .get(name)
        .and_then(json::string_inside)
        .unwrap_or_default()
}

impl ChatHints {
    /// Returns the number of calls.
    pub(super) fn calls(&self) -> usize {
        self.calls.len()
    }

    /// Returns what a chat client gets for this event of the item with this `output_index`.
    pub(super) fn of(&mut self, name: &str, index: u64, members: &Members<'_>) -> ChatHint {
        match name {
            "response.output_item.added" => self.item_added(index, members),
            "response.output_item.done" => self.item_done(index, members),
            "response.output_text.delta" => self.text(index, members, "delta", true),
            "response.output_text.done" => self.text(index, members, "text", false),
            "response.refusal.delta" => self.refusal(index, members, "delta", true),
            "response.refusal.done" => self.refusal(index, members, "refusal", false),
            "response.reasoning_text.delta"
            | "response.reasoning_summary_text.delta"
            | "response.reasoning.delta" => {
                ChatHint::Reasoning(inside(members, "delta").to_owned())
            }
            // Each paragraph of a summary is a part.
            "response.reasoning_summary_part.added"
                if members.number("summary_index").is_some_and(|part| part > 0) =>
            {
                ChatHint::Reasoning(r"\n\n".to_owned())
            }
            "response.function_call_arguments.delta" => {
                self.arguments(index, inside(members, "delta"), true)
            }
            "response.function_call_arguments.done" => {
                self.arguments(index, inside(members, "arguments"), false)
            }
            "response.custom_tool_call_input.delta" => {
                self.arguments(index, inside(members, "delta"), true)
            }
            "response.custom_tool_call_input.done" => {
                self.arguments(index, inside(members, "input"), false)
            }
            "response.output_text.annotation.added" => {
                annotation(members).map_or(ChatHint::Nothing, ChatHint::Annotation)
            }
            _ => ChatHint::Nothing,
        }
    }

    fn plain(&self, index: u64) -> bool {
        self.first_message.is_none_or(|first| first == index)
    }

    /// Returns true if a piece of a part is to be shown: every delta, and the full text if there
    /// was no delta.
    fn show(&mut self, index: u64, members: &Members<'_>, text: &str, delta: bool) -> bool {
        let first = self
            .shown
            .insert((index, members.number("content_index").unwrap_or(0)));
        delta || (first && !text.is_empty())
    }

    fn text(&mut self, index: u64, members: &Members<'_>, field: &str, delta: bool) -> ChatHint {
        let text = inside(members, field);
        if !self.show(index, members, text, delta) {
            return ChatHint::Nothing;
        }
        let logprobs = members
            .get("logprobs")
            .filter(|raw| raw.get().len() > 2)
            .map(super::chat::responses_logprobs);
        ChatHint::Text {
            text: text.to_owned(),
            plain: self.plain(index),
            logprobs: logprobs.filter(|array| array != "[]"),
        }
    }

    fn refusal(&mut self, index: u64, members: &Members<'_>, field: &str, delta: bool) -> ChatHint {
        let text = inside(members, field);
        if !self.show(index, members, text, delta) {
            return ChatHint::Nothing;
        }
        ChatHint::Refusal {
            text: text.to_owned(),
            plain: self.plain(index),
        }
    }

    fn arguments(&mut self, index: u64, text: &str, delta: bool) -> ChatHint {
        let Some(&at) = self.by_index.get(&index) else {
            return ChatHint::Nothing;
        };
        let known = std::mem::replace(&mut self.calls[at].has_arguments, true);
        if !delta && (known || text.is_empty()) {
            return ChatHint::Nothing;
        }
        let (place, text) = (at as u32, text.to_owned());
        if self.calls[at].custom {
            ChatHint::CustomCallInput { index: place, text }
        } else {
            ChatHint::CallArguments { index: place, text }
        }
    }

    fn item_added(&mut self, index: u64, members: &Members<'_>) -> ChatHint {
        let Some(item) = members.object("item") else {
            return ChatHint::Nothing;
        };
        match item.text("type").as_deref() {
            Some("message") => {
                self.first_message.get_or_insert(index);
                ChatHint::Nothing
            }
            // Arguments in `added` are sent again, in deltas or in `done`.
            Some("function_call") => self.call(index, &item, false, String::new()),
            Some("custom_tool_call") => self.call(index, &item, true, String::new()),
            _ => ChatHint::Nothing,
        }
    }

    fn call(
        &mut self,
        index: u64,
        item: &Members<'_>,
        custom: bool,
        arguments: String,
    ) -> ChatHint {
        self.by_index.insert(index, self.calls.len());
        self.calls.push(Call {
            has_arguments: !arguments.is_empty(),
            custom,
        });
        let call_id = [inside(item, "call_id"), inside(item, "id")]
            .into_iter()
            .find(|id| !id.is_empty())
            .unwrap_or_default()
            .to_owned();
        let (index, name) = (self.calls.len() as u32 - 1, inside(item, "name").to_owned());
        if custom {
            ChatHint::CustomCallAdded {
                index,
                call_id,
                name,
                input: arguments,
            }
        } else {
            ChatHint::CallAdded {
                index,
                call_id,
                name,
                arguments,
            }
        }
    }

    fn item_done(&mut self, index: u64, members: &Members<'_>) -> ChatHint {
        let Some(item) = members.object("item") else {
            return ChatHint::Nothing;
        };
        match item.text("type").as_deref() {
            Some("message") => {
                self.first_message.get_or_insert(index);
                self.unshown(index, &item)
            }
            Some("image_generation_call") => match inside(&item, "result") {
                "" => ChatHint::Nothing,
                data => ChatHint::Image(data.to_owned()),
            },
            Some(kind @ ("function_call" | "custom_tool_call")) => {
                let custom = kind == "custom_tool_call";
                let arguments = inside(&item, if custom { "input" } else { "arguments" });
                if self.by_index.contains_key(&index) {
                    return self.arguments(index, arguments, false);
                }
                self.call(index, &item, custom, arguments.to_owned())
            }
            _ => ChatHint::Nothing,
        }
    }

    /// Returns the texts of a message of which nothing was shown; its refusal if it has no text.
    fn unshown(&mut self, index: u64, item: &Members<'_>) -> ChatHint {
        let (mut text, mut refusal) = (String::new(), String::new());
        for (number, part) in (0..).zip(item.objects("content")) {
            if self.shown.insert((index, number)) {
                text.push_str(inside(&part, "text"));
                refusal.push_str(inside(&part, "refusal"));
            }
        }
        let plain = self.plain(index);
        if !text.is_empty() {
            ChatHint::Text {
                text,
                plain,
                logprobs: None,
            }
        } else if !refusal.is_empty() {
            ChatHint::Refusal {
                text: refusal,
                plain,
            }
        } else {
            ChatHint::Nothing
        }
    }
}

/// Returns the annotation of an event in chat's shape. Chat has URL citations only.
fn annotation(members: &Members<'_>) -> Option<String> {
    chat_annotation(&members.object("annotation")?)
}

/// Returns an annotation in chat's shape if it is a URL citation.
pub(crate) fn chat_annotation(annotation: &Members<'_>) -> Option<String> {
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
