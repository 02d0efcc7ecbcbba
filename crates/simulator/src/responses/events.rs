//! A response as a stream of events.

use serde_json::{Value, json};

use super::outline::{Outline, Part, Stage, Status};
use crate::dice::Dice;
use crate::error::SERVER_ERROR;
use crate::transcript::{Beat, Transcript, escape};

/// The events of a response.
pub(crate) struct Events {
    outline: Outline,
    next: Next,
    sequence: u64,
    /// The middle of each delta of the open item: its id and indices.
    place: Vec<u8>,
    token: String,
}

/// The next event; the number is that of its item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Created,
    InProgress,
    ItemAdded(usize),
    PartAdded(usize),
    Delta(usize, u64),
    TextDone(usize),
    PartDone(usize),
    ItemDone(usize),
    Ended,
    Nothing,
}

// === impl Events ===

impl Events {
    pub(crate) fn new(outline: Outline) -> Self {
        Self {
            outline,
            next: Next::Created,
            sequence: 0,
            place: Vec::new(),
            token: String::new(),
        }
    }

    fn part(&self, item: usize) -> Part {
        self.outline.items[item].part
    }

    /// The item at `index`, or the end.
    fn item_or_end(&self, index: usize) -> Next {
        if index < self.outline.items.len() {
            Next::ItemAdded(index)
        } else {
            Next::Ended
        }
    }

    fn delta_or_done(&self, item: usize, index: u64) -> Next {
        if index < self.outline.pieces(self.part(item)).len() {
            Next::Delta(item, index)
        } else {
            Next::TextDone(item)
        }
    }

    fn after(&self, next: Next) -> Next {
        let called = |item| matches!(self.part(item), Part::Call(_));
        match next {
            Next::Created => Next::InProgress,
            Next::InProgress => self.item_or_end(0),
            Next::ItemAdded(item) if called(item) => self.delta_or_done(item, 0),
            Next::ItemAdded(item) => Next::PartAdded(item),
            Next::PartAdded(item) => self.delta_or_done(item, 0),
            Next::Delta(item, index) => self.delta_or_done(item, index + 1),
            Next::TextDone(item) if called(item) => Next::ItemDone(item),
            Next::TextDone(item) => Next::PartDone(item),
            Next::PartDone(item) => Next::ItemDone(item),
            Next::ItemDone(item) => self.item_or_end(item + 1),
            Next::Ended | Next::Nothing => Next::Nothing,
        }
    }

    /// Appends the members for the position of an event in the response.
    fn located(&self, item: usize, mut event: Value) -> Value {
        event["item_id"] = Value::String(self.outline.id(item));
        event["output_index"] = Value::from(item);
        match self.part(item) {
            Part::ReasoningSummary => event["summary_index"] = Value::from(0),
            Part::Call(_) => {}
            _ => event["content_index"] = Value::from(0),
        }
        event
    }

    fn event(&self) -> Value {
        let outline = &self.outline;
        match self.next {
            Next::Created | Next::InProgress => {
                json!({"response": outline.response(Status::InProgress)})
            }
            Next::ItemAdded(item) => {
                json!({"output_index": item, "item": outline.item(item, Stage::Opened)})
            }
            Next::PartAdded(item) => self.located(
                item,
                json!({"part": outline.part(self.part(item), Stage::Opened)}),
            ),
            Next::TextDone(item) => {
                let text = outline.pieces(self.part(item)).text();
                let event = match self.part(item) {
                    Part::Call(_) => {
                        json!({"arguments": text, "name": outline.item(item, Stage::Opened)["name"]})
                    }
                    Part::Refusal => json!({"refusal": text}),
                    Part::Text => json!({"text": text, "logprobs": []}),
                    Part::ReasoningText | Part::ReasoningSummary => json!({"text": text}),
                };
                self.located(item, event)
            }
            Next::PartDone(item) => self.located(
                item,
                json!({"part": outline.part(self.part(item), Stage::Done)}),
            ),
            Next::ItemDone(item) => {
                json!({"output_index": item, "item": outline.item(item, Stage::Done)})
            }
            Next::Ended => json!({"response": outline.response(Status::Ended)}),
            Next::Delta(..) | Next::Nothing => json!({}),
        }
    }

    /// Appends `{"type":…,"sequence_number":…` and counts.
    fn begin(&mut self, name: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\",\"sequence_number\":");
        out.extend_from_slice(itoa::Buffer::new().format(self.sequence).as_bytes());
        self.sequence += 1;
    }

    fn delta(&mut self, item: usize, index: u64, out: &mut Vec<u8>) {
        if index == 0 {
            let place = self.located(item, json!({})).to_string();
            self.place = format!(
                ",{},\"delta\":",
                place.trim_start_matches('{').trim_end_matches('}')
            )
            .into_bytes();
        }
        out.extend_from_slice(&self.place);
        self.token.clear();
        self.outline
            .pieces(self.outline.items[item].part)
            .write(index, &mut self.token);
        escape(&self.token, out);
        if self.part(item) == Part::Text {
            out.extend_from_slice(b",\"logprobs\":[]");
        }
        if self.outline.plan.obfuscation {
            let mut dice = Dice::new(Dice::at(self.outline.plan.identity, self.sequence));
            let length = 1 + dice.roll() % 12;
            out.extend_from_slice(b",\"obfuscation\":\"");
            out.extend_from_slice(dice.letters(length as usize).as_bytes());
            out.push(b'"');
        }
        out.push(b'}');
    }

    fn finished(&mut self, name: &str, event: &Value, out: &mut Vec<u8>) {
        self.begin(name, out);
        out.push(b',');
        out.extend_from_slice(&event.to_string().as_bytes()[1..]);
    }
}

impl Transcript for Events {
    fn peek(&self) -> Option<Beat> {
        Some(match self.next {
            Next::Created | Next::InProgress => Beat::Now,
            Next::ItemAdded(_) | Next::PartAdded(_) => Beat::Lead,
            Next::Delta(..) => Beat::Token,
            Next::TextDone(_) | Next::PartDone(_) | Next::ItemDone(_) => Beat::Now,
            Next::Ended => Beat::Finish,
            Next::Nothing => return None,
        })
    }

    fn name(&self) -> Option<&'static str> {
        Some(match self.next {
            Next::Created => "response.created",
            Next::InProgress => "response.in_progress",
            Next::ItemAdded(_) => "response.output_item.added",
            Next::PartAdded(item) => match self.part(item) {
                Part::ReasoningSummary => "response.reasoning_summary_part.added",
                _ => "response.content_part.added",
            },
            Next::Delta(item, _) => match self.part(item) {
                Part::ReasoningText => "response.reasoning_text.delta",
                Part::ReasoningSummary => "response.reasoning_summary_text.delta",
                Part::Text => "response.output_text.delta",
                Part::Refusal => "response.refusal.delta",
                Part::Call(_) => "response.function_call_arguments.delta",
            },
            Next::TextDone(item) => match self.part(item) {
                Part::ReasoningText => "response.reasoning_text.done",
                Part::ReasoningSummary => "response.reasoning_summary_text.done",
                Part::Text => "response.output_text.done",
                Part::Refusal => "response.refusal.done",
                Part::Call(_) => "response.function_call_arguments.done",
            },
            Next::PartDone(item) => match self.part(item) {
                Part::ReasoningSummary => "response.reasoning_summary_part.done",
                _ => "response.content_part.done",
            },
            Next::ItemDone(_) => "response.output_item.done",
            Next::Ended if self.outline.incomplete().is_some() => "response.incomplete",
            Next::Ended => "response.completed",
            Next::Nothing => return None,
        })
    }

    fn write(&mut self, out: &mut Vec<u8>) {
        let Some(name) = self.name() else { return };
        self.outline.turn = self.sequence;
        if let Next::Delta(item, index) = self.next {
            self.begin(name, out);
            self.delta(item, index, out);
        } else {
            let event = self.event();
            self.finished(name, &event, out);
        }
        self.next = self.after(self.next);
    }

    fn failure(&mut self) -> Vec<(Option<&'static str>, Vec<u8>)> {
        let error = json!({"error": {"type": "server_error", "code": "server_error", "message": SERVER_ERROR, "param": null}});
        let response = json!({"response": self.outline.response(Status::Failed)});
        [("error", error), ("response.failed", response)]
            .into_iter()
            .map(|(name, event)| {
                let mut out = Vec::new();
                self.finished(name, &event, &mut out);
                (Some(name), out)
            })
            .collect()
    }
}
