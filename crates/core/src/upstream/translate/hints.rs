//! What a chat client sees of the events of an upstream that speaks Responses.
//!
//! A chat client knows neither items nor parts, only text that grows and calls with a number each.
//! So this keeps what one event does not show: which call stands at which place, and of what
//! nothing was shown yet. For there are servers that send a text or a call in one piece, at its end
//! only; what they say there is shown then, and otherwise not a second time.

use std::collections::BTreeSet;

use crate::model::event::ChatHint;
use crate::model::json::{self, Members};

/// The state of one stream.
#[derive(Debug, Default)]
pub(super) struct ChatHints {
    calls: Vec<Call>,
    /// The `output_index` of the first message: what the text dialect shows.
    first_message: Option<u64>,
    /// The parts of messages of which something was shown: `output_index` and `content_index`.
    shown: BTreeSet<(u64, u64)>,
}

#[derive(Debug)]
struct Call {
    output_index: u64,
    has_arguments: bool,
}

/// A member's string, still escaped; empty if there is none.
fn inside<'a>(members: &Members<'a>, name: &str) -> &'a str {
    members
        .get(name)
        .and_then(json::string_inside)
        .unwrap_or_default()
}

impl ChatHints {
    /// How many calls there were.
    pub(super) fn calls(&self) -> usize {
        self.calls.len()
    }

    /// What a chat client sees of this event.
    pub(super) fn of(&mut self, name: &str, members: &Members<'_>) -> ChatHint {
        let index = members.number("output_index").unwrap_or(0);
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
            // Summaries come in paragraphs, each a part of its own.
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
            "response.output_text.annotation.added" => {
                annotation(members).map_or(ChatHint::Nothing, ChatHint::Annotation)
            }
            _ => ChatHint::Nothing,
        }
    }

    fn plain(&self, index: u64) -> bool {
        self.first_message.is_none_or(|first| first == index)
    }

    /// Whether a piece of a part is to be shown: every delta, and the whole if there was none.
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
        let Some(at) = self
            .calls
            .iter()
            .position(|call| call.output_index == index)
        else {
            return ChatHint::Nothing;
        };
        let known = std::mem::replace(&mut self.calls[at].has_arguments, true);
        if !delta && (known || text.is_empty()) {
            return ChatHint::Nothing;
        }
        ChatHint::CallArguments {
            index: at as u32,
            text: text.to_owned(),
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
            // Arguments that stand here already come again, in deltas or at the end.
            Some("function_call") => self.call(index, &item, String::new()),
            _ => ChatHint::Nothing,
        }
    }

    fn call(&mut self, index: u64, item: &Members<'_>, arguments: String) -> ChatHint {
        self.calls.push(Call {
            output_index: index,
            has_arguments: !arguments.is_empty(),
        });
        let call_id = [inside(item, "call_id"), inside(item, "id")]
            .into_iter()
            .find(|id| !id.is_empty())
            .unwrap_or_default();
        ChatHint::CallAdded {
            index: self.calls.len() as u32 - 1,
            call_id: call_id.to_owned(),
            name: inside(item, "name").to_owned(),
            arguments,
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
            Some("function_call") => {
                let arguments = inside(&item, "arguments");
                if self.calls.iter().any(|call| call.output_index == index) {
                    return self.arguments(index, arguments, false);
                }
                self.call(index, &item, arguments.to_owned())
            }
            _ => ChatHint::Nothing,
        }
    }

    /// The texts of a message of which nothing was shown before; its refusal if it has no text.
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

/// The annotation of an event in chat's shape; chat knows citations of addresses only.
fn annotation(members: &Members<'_>) -> Option<String> {
    chat_annotation(&members.object("annotation")?)
}

/// An annotation of a text in chat's shape, if chat has one for it.
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
