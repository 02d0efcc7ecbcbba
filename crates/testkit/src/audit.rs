//! Checks that hold for every generation that has ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use tokenwire_core::dialect::Dialect;
use tokenwire_core::generation::{Generation, SubscriptionError};
use tokenwire_core::model::snapshot::Api;

use crate::framing::{JsonLines, Line};
use crate::reader::Reader;

/// The types of terminal events.
const TERMINAL: [&str; 3] = [
    "response.completed",
    "response.incomplete",
    "response.failed",
];

/// An ended generation, as readers see it.
#[derive(Clone, Debug)]
pub struct Audit {
    /// The events of the responses dialect, `tokenwire:` events among them.
    pub events: Vec<Value>,
    /// The payloads of the chat dialect.
    pub chat: Vec<String>,
    /// The same with their numbers.
    pub chat_numbers: Vec<(u64, String)>,
    /// The concatenated text dialect.
    pub text: String,
    /// The response object.
    pub object: Value,
}

impl Audit {
    /// Reads an ended generation in every dialect, from its start and from positions in the middle,
    /// and checks that:
    ///
    /// * events are numbered from 0 without a gap but for two numbers that a terminal event may
    ///   skip, are JSON, and carry their number and type;
    ///   `response.created` is the first event, `response.in_progress` comes at most once, and the
    ///   last event is the only terminal one;
    /// * items open in order, parts and deltas belong to open items, texts and arguments equal
    ///   those of the `….done` events and of the terminal object, and ids and call ids do not
    ///   change and are unique;
    /// * a poll returns the terminal event's object;
    /// * frames of the chat dialect have ascending numbers, and the last has the terminal event's;
    /// * a reader that resumes at any position gets exactly the later events, in every dialect.
    ///
    /// # Panics
    /// If a check fails.
    #[must_use]
    pub fn of(generation: &Arc<Generation>) -> Self {
        assert!(
            generation.is_over(),
            "only an ended generation can be audited"
        );
        let lines = read_all(generation, Dialect::Responses);
        let events: Vec<Value> = lines.iter().map(Line::json).collect();
        let object: Value = serde_json::from_slice(&generation.response_json())
            .expect("the response object is JSON");

        numbering(&lines, &events);
        lifecycle(&events);
        let terminal = &events.last().expect("there is a terminal event")["response"];
        assert_eq!(
            terminal, &object,
            "the terminal event's object differs from that of a poll"
        );
        if generation.meta().api == Api::Chat {
            items(&events, terminal);
        }

        let chat = read_all(generation, Dialect::Chat);
        assert!(
            chat.is_sorted_by(|before, after| before.seq < after.seq),
            "two frames of the chat dialect share a number"
        );
        assert_eq!(
            chat.last().map(|line| line.seq),
            lines.last().map(|line| line.seq),
            "the last frame of the chat dialect has another number than the terminal event"
        );
        for (dialect, lines) in [(Dialect::Responses, &lines), (Dialect::Chat, &chat)] {
            resumes(generation, dialect, lines);
        }
        readers_without_extensions_get_all_other_events(generation, &lines);
        let text = read_all(generation, Dialect::Text)
            .into_iter()
            .map(|line| line.data)
            .collect();
        let chat_numbers: Vec<(u64, String)> =
            chat.into_iter().map(|line| (line.seq, line.data)).collect();
        Self {
            events,
            chat: chat_numbers.iter().map(|(_, data)| data.clone()).collect(),
            chat_numbers,
            text,
            object,
        }
    }

    /// The events of one type.
    pub fn events_of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> + 'a {
        self.events
            .iter()
            .filter(move |event| event["type"] == kind)
    }

    /// The types of all events, in order.
    #[must_use]
    pub fn kinds(&self) -> Vec<&str> {
        self.events
            .iter()
            .map(|event| text(event, "type"))
            .collect()
    }

    /// The output items of one type.
    #[must_use]
    pub fn output(&self, kind: &str) -> Vec<&Value> {
        list(&self.object, "output")
            .iter()
            .filter(|item| item["type"] == kind)
            .collect()
    }

    /// The concatenated texts of content parts of this type, in items of this type.
    #[must_use]
    pub fn content(&self, item: &str, part: &str) -> String {
        let field = if part == "refusal" { "refusal" } else { "text" };
        self.output(item)
            .into_iter()
            .flat_map(|item| list(item, "content"))
            .filter(|p| p["type"] == part)
            .map(|p| text(p, field))
            .collect()
    }
}

/// Returns the frames that a reader from the start gets.
fn read_all(generation: &Arc<Generation>, dialect: Dialect) -> Vec<Line> {
    let mut reader = Reader::new(generation.attach(), 0, dialect);
    reader.read_now();
    match reader.end() {
        Some(Ok(())) => {}
        // The text dialect shows a failure by breaking off.
        Some(Err(SubscriptionError::BrokenOff)) if dialect == Dialect::Text => {}
        other => panic!("a reader of an ended generation got {other:?} in {dialect:?}"),
    }
    reader.lines()
}

fn numbering(lines: &[Line], events: &[Value]) {
    let mut next = 0;
    for (line, event) in lines.iter().zip(events) {
        if TERMINAL.contains(&text(event, "type")) && line.seq == next + 2 {
            // The finish and usage chunks of the chat dialect have these numbers.
            next = line.seq;
        }
        assert_eq!(line.seq, next, "a number is missing or repeated");
        next += 1;
        assert_eq!(
            event["sequence_number"], line.seq,
            "the number in the event is not the frame's: {event}"
        );
        assert_eq!(
            event["type"].as_str(),
            line.name.as_deref(),
            "the type in the event is not the frame's: {event}"
        );
        if text(event, "type").starts_with("tokenwire:") {
            assert!(
                event.get("error").is_none(),
                "an extension event with a top-level error: {event}"
            );
        }
    }
}

fn lifecycle(events: &[Value]) {
    let count = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
    assert_eq!(
        events.first().expect("there is a first event")["type"],
        "response.created"
    );
    assert_eq!(count("response.created"), 1);
    assert!(
        count("response.in_progress") <= 1,
        "response.in_progress came {} times",
        count("response.in_progress")
    );
    assert_eq!(
        TERMINAL.iter().map(|kind| count(kind)).sum::<usize>(),
        1,
        "not exactly one terminal event: {events:#?}"
    );
    assert!(
        TERMINAL.contains(&text(events.last().expect("checked above"), "type")),
        "the terminal event is not the last"
    );
}

/// An item, built from its events.
#[derive(Debug, Default)]
struct Built {
    id: String,
    kind: String,
    call_id: Option<String>,
    parts: Vec<BuiltPart>,
    arguments: String,
    annotations: Vec<Value>,
    done: Option<Value>,
}

#[derive(Debug)]
struct BuiltPart {
    kind: String,
    text: String,
    text_done: bool,
    done: bool,
}

fn items(events: &[Value], terminal: &Value) {
    let mut open: BTreeMap<u64, Built> = BTreeMap::new();
    for event in events {
        let kind = text(event, "type");
        let Some(index) = event
            .get("output_index")
            .map(|index| index.as_u64().expect("output_index is a number"))
        else {
            continue;
        };
        if kind == "response.output_item.added" {
            assert_eq!(
                index,
                open.len() as u64,
                "output_index is not the order of opening: {event}"
            );
            let item = &event["item"];
            let call_id = item
                .get("call_id")
                .map(|id| id.as_str().expect("call_id is a string").to_owned());
            open.insert(
                index,
                Built {
                    id: text(item, "id").to_owned(),
                    kind: text(item, "type").to_owned(),
                    call_id,
                    ..Built::default()
                },
            );
            continue;
        }
        let item = open
            .get_mut(&index)
            .unwrap_or_else(|| panic!("an event of an item that was never opened: {event}"));
        assert!(
            item.done.is_none(),
            "an event of an item that was closed: {event}"
        );
        if let Some(id) = event.get("item_id") {
            assert_eq!(
                id.as_str(),
                Some(item.id.as_str()),
                "the item's id changed: {event}"
            );
        }
        item.apply(kind, event);
    }
    let output = list(terminal, "output");
    assert_eq!(
        output.len(),
        open.len(),
        "the terminal object has other items than the events"
    );
    for (item, built) in output.iter().zip(open.values()) {
        assert_eq!(
            Some(item),
            built.done.as_ref(),
            "the terminal object's item is not that of output_item.done"
        );
    }
    let mut ids: Vec<&str> = open
        .values()
        .flat_map(|item| [Some(item.id.as_str()), item.call_id.as_deref()])
        .flatten()
        .collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all, "two items share an id: {ids:?}");
}

impl Built {
    fn apply(&mut self, kind: &str, event: &Value) {
        match kind {
            "response.content_part.added" => {
                assert_eq!(
                    event["content_index"],
                    self.parts.len() as u64,
                    "parts open out of order: {event}"
                );
                let kind = text(&event["part"], "type").to_owned();
                self.parts.push(BuiltPart {
                    kind,
                    text: String::new(),
                    text_done: false,
                    done: false,
                });
            }
            "response.output_text.delta"
            | "response.refusal.delta"
            | "response.reasoning_text.delta" => {
                let delta = text(event, "delta").to_owned();
                assert!(!delta.is_empty(), "an empty delta: {event}");
                let part = self.part(event);
                assert_eq!(
                    kind,
                    format!("response.{}.delta", part.kind),
                    "a delta of another type than its part: {event}"
                );
                part.text.push_str(&delta);
            }
            "response.output_text.done"
            | "response.refusal.done"
            | "response.reasoning_text.done" => {
                let part = self.part(event);
                assert_eq!(
                    text(event, part.field()),
                    part.text,
                    "a done event's text is not the sum of its deltas"
                );
                part.text_done = true;
            }
            "response.content_part.done" => {
                let part = self.part(event);
                assert!(part.text_done, "a part is done before its text: {event}");
                assert_eq!(text(&event["part"], part.field()), part.text);
                part.done = true;
            }
            "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta" => {
                self.arguments.push_str(text(event, "delta"))
            }
            "response.custom_tool_call_input.done" => {
                assert_eq!(text(event, "input"), self.arguments)
            }
            "response.function_call_arguments.done" => {
                assert_eq!(text(event, "arguments"), self.arguments)
            }
            "response.output_text.annotation.added" => {
                assert_eq!(
                    event["annotation_index"],
                    self.annotations.len() as u64,
                    "annotations are numbered in order: {event}"
                );
                self.annotations.push(event["annotation"].clone());
            }
            "response.output_item.done" => self.finish(&event["item"]),
            other => panic!("an unknown event of an item: {other}"),
        }
    }

    fn part(&mut self, event: &Value) -> &mut BuiltPart {
        let at = event["content_index"]
            .as_u64()
            .expect("content_index is a number") as usize;
        let part = self
            .parts
            .get_mut(at)
            .unwrap_or_else(|| panic!("an event of a part that was never opened: {event}"));
        assert!(!part.done, "an event of a part that was closed: {event}");
        part
    }

    fn finish(&mut self, item: &Value) {
        assert_eq!(
            (text(item, "id"), text(item, "type")),
            (self.id.as_str(), self.kind.as_str())
        );
        if self.kind == "function_call" {
            assert_eq!(
                item["call_id"].as_str(),
                self.call_id.as_deref(),
                "the call's id changed"
            );
            assert_eq!(text(item, "arguments"), self.arguments);
        } else if self.kind == "custom_tool_call" {
            assert_eq!(item["call_id"].as_str(), self.call_id.as_deref());
            assert_eq!(text(item, "input"), self.arguments);
        } else if self.kind == "image_generation_call" {
            assert_eq!(item["status"], "completed");
        } else {
            let content: Vec<(&str, &str)> = self
                .parts
                .iter()
                .map(|part| (part.kind.as_str(), part.text.as_str()))
                .collect();
            let field = |part| if part == "refusal" { "refusal" } else { "text" };
            let found: Vec<(&str, &str)> = list(item, "content")
                .iter()
                .map(|part| (text(part, "type"), text(part, field(text(part, "type")))))
                .collect();
            assert_eq!(
                found, content,
                "the item's parts differ from the streamed ones"
            );
            assert!(
                self.parts.iter().all(|part| part.done),
                "an item is done before its parts"
            );
            let annotations: Vec<&Value> = list(item, "content")
                .iter()
                .filter_map(|part| part.get("annotations")?.as_array())
                .flatten()
                .collect();
            assert_eq!(annotations, self.annotations.iter().collect::<Vec<_>>());
        }
        self.done = Some(item.clone());
    }
}

impl BuiltPart {
    fn field(&self) -> &'static str {
        if self.kind == "refusal" {
            "refusal"
        } else {
            "text"
        }
    }
}

/// A reader that has seen up to a frame's number gets exactly the frames with greater ones.
fn resumes(generation: &Arc<Generation>, dialect: Dialect, lines: &[Line]) {
    let next = generation.tail().expect("the log is there").next.0;
    // Every position of a short stream; some of a long one, including both ends.
    let stride = (next / 64).max(1);
    for from in (0..next).filter(|from| from % stride == 0 || *from < 8 || *from + 8 > next) {
        let mut reader = Reader::new(generation.attach(), from, dialect);
        reader.read_now();
        assert_eq!(
            reader.end(),
            Some(Ok(())),
            "a reader from {from} in {dialect:?}"
        );
        let expected: Vec<&Line> = lines.iter().filter(|line| line.seq >= from).collect();
        let found = reader.lines();
        assert_eq!(
            found.iter().collect::<Vec<_>>(),
            expected,
            "a reader from {from} in {dialect:?} did not get exactly the later events"
        );
    }
}

fn readers_without_extensions_get_all_other_events(generation: &Arc<Generation>, lines: &[Line]) {
    let framing = JsonLines {
        extensions: false,
        done: true,
        shared: true,
    };
    let mut reader = Reader::framed(
        generation.attach(),
        0,
        Dialect::Responses,
        Arc::new(framing),
    );
    reader.read_now();
    let mut found = reader.lines();
    let done = found.pop().expect("there is a last frame");
    assert_eq!((done.data.as_str(), done.name), ("[DONE]", None));
    let expected: Vec<&Line> = lines
        .iter()
        .filter(|line| {
            line.name
                .as_ref()
                .is_none_or(|name| !name.starts_with("tokenwire:"))
        })
        .collect();
    assert_eq!(found.iter().collect::<Vec<_>>(), expected);
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member]
        .as_str()
        .unwrap_or_else(|| panic!("'{member}' is not a string in {value}"))
}

fn list<'a>(value: &'a Value, member: &str) -> &'a [Value] {
    value[member].as_array().map_or(&[], Vec::as_slice)
}
