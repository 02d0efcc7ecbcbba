//! What the simulated upstream does with one request.

use serde_json::{Value, json};
use tokenwire_core::model::snapshot::Api;
use tokenwire_core::upstream::translate::BodyEnd;

use super::dice::Dice;

/// The answer to a request.
#[derive(Debug)]
pub(super) struct Script {
    /// Milliseconds until the head.
    pub(super) head_after: u64,
    pub(super) head: Head,
    /// What follows the head, each with the milliseconds before it. After the last one the upstream
    /// is silent.
    pub(super) steps: Vec<(u64, Step)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    Answer,
    /// An error response with this status.
    Refuse(u16),
    Fail,
    /// It never comes.
    Hang,
}

#[derive(Debug)]
pub(super) enum Step {
    Bytes(Vec<u8>),
    End(BodyEnd),
    Fail,
}

/// Pieces of text: plain, with characters that JSON escapes, and with longer UTF-8.
const TEXTS: &[&str] = &[
    "a",
    " the",
    " token",
    "\n",
    " \"quoted\"",
    " ä€",
    " 🦀",
    "\\u",
    "\t",
    " <b>",
    " 0.5",
    "…",
    " a somewhat longer piece of text",
];

impl Script {
    /// Draws the answer of an upstream that speaks this API.
    pub(super) fn draw(dice: &mut Dice, api: Api) -> Self {
        let head = match dice.range(0..=99) {
            0..=89 => Head::Answer,
            90..=93 => Head::Refuse(*dice.pick(&[400, 429, 500, 503])),
            94..=96 => Head::Fail,
            _ => Head::Hang,
        };
        let tokens = if dice.chance(10) {
            0
        } else {
            dice.range(1..=30)
        };
        let texts: Vec<&str> = (0..tokens).map(|_| *dice.pick(TEXTS)).collect();
        // A large answer takes several reads.
        let large: Vec<String> = texts.iter().map(|text| text.repeat(400)).collect();
        let texts = if dice.chance(4) {
            large.iter().map(String::as_str).collect()
        } else {
            texts
        };
        let events = match api {
            Api::Chat => chat(dice, &texts),
            Api::Responses => responses(dice, &texts),
        };
        let mut steps = pieces(dice, &events);
        let end = if dice.chance(15) {
            // The fault may strike anywhere.
            let at = dice.range(0..=steps.len() as u64) as usize;
            steps.truncate(at);
            fault(dice)
        } else if dice.chance(10) {
            None
        } else {
            Some(Step::End(BodyEnd::Clean))
        };
        steps.extend(end.map(|end| (dice.millis(0..=50), end)));
        Self {
            head_after: dice.millis(0..=300),
            head,
            steps,
        }
    }
}

fn fault(dice: &mut Dice) -> Option<Step> {
    match dice.range(0..=5) {
        0 => Some(Step::End(BodyEnd::Broken)),
        1 => Some(Step::End(BodyEnd::Clean)),
        2 => Some(Step::Fail),
        3 => {
            let error = r#"{"error":{"message":"too busy","type":"server_error","code":"busy"}}"#;
            Some(Step::Bytes(sse(error)))
        }
        4 => Some(Step::Bytes(sse("{not json"))),
        _ => None,
    }
}

fn sse(data: &str) -> Vec<u8> {
    format!("data: {data}\n\n").into_bytes()
}

/// Cuts events into reads: whole events, several at once, or parts of them.
fn pieces(dice: &mut Dice, events: &[Vec<u8>]) -> Vec<(u64, Step)> {
    let style = dice.range(0..=3);
    let pace = *dice.pick(&[0, 2, 20, 120]);
    let mut steps = Vec::new();
    let mut open: Vec<u8> = Vec::new();
    for event in events {
        open.extend_from_slice(event);
        let cut = match style {
            0 => open.len(),
            1 if dice.chance(60) => continue,
            _ => dice.range(1..=open.len() as u64) as usize,
        };
        let rest = open.split_off(cut);
        let pause = if dice.chance(3) {
            dice.millis(500..=2_500)
        } else {
            dice.millis(0..=pace)
        };
        steps.push((pause, Step::Bytes(std::mem::replace(&mut open, rest))));
    }
    if !open.is_empty() {
        steps.push((0, Step::Bytes(open)));
    }
    steps
}

fn chat(dice: &mut Dice, texts: &[&str]) -> Vec<Vec<u8>> {
    let chunk = |delta: Value, finish: Value| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
        let chunk = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]});
        sse(&chunk.to_string())
    };
    let mut events = vec![chunk(
        json!({"role": "assistant", "content": ""}),
        Value::Null,
    )];
    if dice.chance(20) {
        let thought = |text| chunk(json!({"reasoning_content": text}), Value::Null);
        events.extend(["hm", ", so"].map(thought));
    }
    events.extend(
        texts
            .iter()
            .map(|text| chunk(json!({"content": text}), Value::Null)),
    );
    if dice.chance(90) {
        let reason = *dice.pick(&["stop", "stop", "length", "content_filter"]);
        events.push(chunk(json!({}), reason.into()));
    }
    if dice.chance(50) {
        let usage = json!({"prompt_tokens": 3, "completion_tokens": texts.len(), "total_tokens": 3 + texts.len()});
        let chunk = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": usage});
        events.push(sse(&chunk.to_string()));
    }
    if dice.chance(90) {
        events.push(sse("[DONE]"));
    }
    events
}

fn responses(dice: &mut Dice, texts: &[&str]) -> Vec<Vec<u8>> {
    let text = texts.concat();
    let part = |text: &str| json!({"type": "output_text", "text": text, "annotations": []});
    let item = |status: &str, content: Value| json!({"id": "msg_1", "type": "message", "role": "assistant", "status": status, "content": content});
    let response = |status: &str, output: Value| json!({"id": "resp_theirs", "object": "response", "status": status, "output": output});
    let place = json!({"item_id": "msg_1", "output_index": 0, "content_index": 0});
    let mut events = vec![
        json!({"type": "response.created", "response": response("in_progress", json!([]))}),
        json!({"type": "response.in_progress", "response": response("in_progress", json!([]))}),
        json!({"type": "response.output_item.added", "output_index": 0, "item": item("in_progress", json!([]))}),
    ];
    let mut at = |kind: &str, name: &str, value: Value| {
        let mut event = place.clone();
        event["type"] = kind.into();
        event[name] = value;
        events.push(event);
    };
    at("response.content_part.added", "part", part(""));
    for text in texts {
        at("response.output_text.delta", "delta", (*text).into());
    }
    at("response.output_text.done", "text", text.clone().into());
    at("response.content_part.done", "part", part(&text));
    let whole = item("completed", json!([part(&text)]));
    events.push(json!({"type": "response.output_item.done", "output_index": 0, "item": whole}));
    if dice.chance(90) {
        let end = response("completed", json!([whole]));
        events.push(json!({"type": "response.completed", "response": end}));
    }
    let numbered = events.into_iter().enumerate().map(|(number, mut event)| {
        event["sequence_number"] = number.into();
        sse(&event.to_string())
    });
    numbered.collect()
}
