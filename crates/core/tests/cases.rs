//! Upstream bodies that a gateway gets wrong easily, and what clients must get of them.
//!
//! Some cases are in this file. Others are read from the folder that `TOKENWIRE_CASES` names
//! (default: `../shared/cases` beside the workspace). Without that folder the tests report it and
//! run the cases of this file only.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "tests fail by panicking and report on stderr what they skip"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};
use tokenwire_core::dialect::Dialect;
use tokenwire_core::model::snapshot::Api;
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_testkit::{Audit, EngineOptions, Reader, TestEngine};

#[derive(Clone, Debug, Deserialize)]
struct Case {
    file: Option<String>,
    upstream: String,
    content_type: String,
    expect: Expect,
    #[serde(skip)]
    body: String,
}

/// The expected content. Absent members are not checked.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Expect {
    text: Option<String>,
    reasoning: Option<String>,
    calls: Option<Vec<(String, String)>>,
    custom_calls: Option<Vec<(String, String)>>,
    messages: Option<usize>,
    images: Option<usize>,
    status: Option<String>,
    reason: Option<Value>,
    code: Option<String>,
    usage: Option<[u64; 3]>,
    cached: Option<u64>,
    done: Option<bool>,
    one_item_id: Option<bool>,
    next_turn_has: Option<String>,
}

fn folder() -> Option<PathBuf> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/cases");
    let folder = std::env::var_os("TOKENWIRE_CASES").map_or(default, PathBuf::from);
    if folder.join("expected.json").is_file() {
        return Some(folder);
    }
    eprintln!(
        "SKIPPED: no cases at {} (set TOKENWIRE_CASES to their folder)",
        folder.display()
    );
    None
}

/// The cases of the folder that have a body, and those of this file.
fn cases() -> BTreeMap<String, Case> {
    let mut cases = own_cases();
    let Some(folder) = folder() else { return cases };
    let text = fs::read_to_string(folder.join("expected.json")).unwrap();
    let read: BTreeMap<String, Case> = serde_json::from_str(&text).unwrap();
    for (name, mut case) in read {
        let Some(file) = &case.file else { continue };
        case.body = fs::read_to_string(folder.join(file)).unwrap();
        cases.insert(name, case);
    }
    cases
}

fn case(upstream: &str, json_body: bool, body: String, expect: Value) -> Case {
    Case {
        file: None,
        upstream: upstream.to_owned(),
        content_type: if json_body {
            "application/json"
        } else {
            "text/event-stream"
        }
        .to_owned(),
        expect: serde_json::from_value(expect).unwrap(),
        body,
    }
}

/// A body of these events.
fn sse(events: &[Value]) -> String {
    events
        .iter()
        .map(|event| format!("data: {event}\n\n"))
        .collect()
}

fn delta(delta: Value, finish: Value) -> Value {
    json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
}

fn message(id: &str, text: &str) -> Value {
    json!({"type": "message", "id": id, "status": "completed", "role": "assistant",
        "content": [{"type": "output_text", "text": text, "annotations": []}]})
}

fn completed(output: Value) -> Value {
    json!({"type": "response.completed", "response": {"id": "resp_up", "object": "response",
        "status": "completed", "output": output}})
}

/// A chunk of one piece of a call.
fn piece(call: Value) -> Value {
    delta(json!({"tool_calls": [call]}), Value::Null)
}

/// Calls whose ids, names, indexes and arguments come in unusual ways.
fn call_cases() -> Vec<(&'static str, Vec<Value>, Value)> {
    let of = |index: Value, id: Value, name: Value, arguments: Value| {
        json!({"index": index, "id": id, "type": "function",
            "function": {"name": name, "arguments": arguments}})
    };
    let (none, zero) = (Value::Null, json!(0));
    let a = |id: Value, name: Value, arguments: &str| of(zero.clone(), id, name, json!(arguments));
    vec![
        (
            "own-call-of-another-id-without-a-name-leaves-the-first-intact",
            vec![
                a(json!("c1"), json!("f"), r#"{"a":"#),
                a(none.clone(), none.clone(), "1}"),
                a(json!("c2"), none.clone(), r#"{"b":"#),
                a(none.clone(), json!("g"), "2}"),
            ],
            json!([["f", "{\"a\":1}"], ["g", "{\"b\":2}"]]),
        ),
        (
            "own-call-whose-id-changes-with-every-piece",
            vec![
                a(json!("c1"), json!("f"), r#"{"a"#),
                a(json!("c2"), none.clone(), r#"":"#),
                a(json!("c3"), none.clone(), r#""}"}"#),
            ],
            json!([["f", "{\"a\":\"}\"}"]]),
        ),
        (
            "own-call-whose-id-changes-and-name-repeats-with-every-piece",
            vec![
                a(json!("c1"), json!("f"), r#"{"a"#),
                a(json!("c2"), json!("f"), r#"":"#),
                a(json!("c3"), json!("f"), "1}"),
                a(json!("c4"), json!("f"), r#"{"a":2}"#),
            ],
            json!([["f", "{\"a\":1}"], ["f", "{\"a\":2}"]]),
        ),
        (
            "own-calls-of-one-tool-without-ids",
            vec![
                a(none.clone(), json!("f"), r#"{"a":1}"#),
                a(none.clone(), json!("f"), r#"{"a":1}"#),
                a(none.clone(), json!("f"), r#"{"a":2}"#),
            ],
            json!([["f", "{\"a\":1}"], ["f", "{\"a\":2}"]]),
        ),
        (
            "own-call-with-an-empty-object-before-its-arguments",
            vec![
                a(json!("c1"), json!("f"), "{}"),
                a(none.clone(), none.clone(), r#"{"a":"#),
                a(none.clone(), none.clone(), "1}"),
                of(json!(1), json!("c2"), json!("g"), json!("{}")),
            ],
            json!([["f", "{\"a\":1}"], ["g", "{}"]]),
        ),
        (
            "own-call-without-a-function-object",
            vec![json!({"index": 0, "id": "c1", "name": "f", "arguments": "{\"a\":1}"})],
            json!([["f", "{\"a\":1}"]]),
        ),
        (
            "own-calls-with-indexes-that-are-strings-and-floats",
            vec![
                of(json!("0"), json!("c1"), json!("f"), json!("{\"a\"")),
                of(json!(1.0), json!("c2"), json!("g"), json!("{\"b\"")),
                of(json!("0"), none.clone(), none.clone(), json!(":1}")),
                of(json!(1.0), none.clone(), none.clone(), json!(":2}")),
            ],
            json!([["f", "{\"a\":1}"], ["g", "{\"b\":2}"]]),
        ),
        (
            "own-call-that-is-only-an-id",
            vec![
                a(json!("c1"), json!("f"), r#"{"a":1}"#),
                of(json!(1), json!("c2"), none.clone(), none),
            ],
            json!([["f", "{\"a\":1}"]]),
        ),
    ]
}

/// Deltas that hold the reasoning "Th" in ways of their own.
fn reasoning_deltas() -> Vec<(&'static str, Value)> {
    vec![
        ("object", json!({"reasoning": {"content": "Th"}})),
        ("list", json!({"reasoning": ["T", "h"]})),
        (
            "parts",
            json!({"reasoning_content": [{"type": "text", "text": "Th"}]}),
        ),
        ("thought", json!({"thought": "Th"})),
        ("thinking-content", json!({"thinking_content": "Th"})),
        ("thinking-object", json!({"thinking": {"text": "Th"}})),
        (
            "thinking-blocks",
            json!({"thinking_blocks": [{"type": "thinking", "thinking": "Th", "signature": "s"}]}),
        ),
        (
            "details",
            json!({"reasoning_details": [{"type": "reasoning.text", "content": "Th"}]}),
        ),
        (
            "content-part",
            json!({"content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "Th"}]}]}),
        ),
    ]
}

/// Responses streams that lack events or members.
fn relayed_cases() -> Vec<(&'static str, Vec<Value>, Value)> {
    let open = |item: Value| json!({"type": "response.output_item.added", "output_index": 0, "item": item});
    let added = open(
        json!({"type": "message", "id": "m1", "status": "in_progress", "role": "assistant", "content": []}),
    );
    let call = |arguments: &str| json!({"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": arguments, "status": "completed"});
    let arguments = |delta: &str| json!({"type": "response.function_call_arguments.delta", "output_index": 0, "item_id": "fc_1", "delta": delta});
    vec![
        (
            "own-relayed-part-only-in-done",
            vec![
                added.clone(),
                json!({"type": "response.content_part.done", "item_id": "m1", "output_index": 0, "content_index": 0, "part": {"type": "output_text", "text": "Hello", "annotations": []}}),
                completed(json!([])),
            ],
            json!({"text": "Hello", "messages": 1, "status": "completed", "done": true}),
        ),
        (
            "own-relayed-rotating-ids-without-index",
            vec![
                json!({"type": "response.output_item.added", "item": {"type": "message", "id": "a", "role": "assistant", "content": []}}),
                json!({"type": "response.output_text.delta", "item_id": "b", "delta": "Hel"}),
                json!({"type": "response.output_text.delta", "item_id": "c", "delta": "lo"}),
                json!({"type": "response.output_item.done", "item": message("d", "Hello")}),
                completed(json!([message("e", "Hello")])),
            ],
            json!({"text": "Hello", "messages": 1, "status": "completed", "one_item_id": true}),
        ),
        (
            "own-relayed-arguments-end-in-the-terminal-object",
            vec![
                open(call("")),
                arguments("{\"a\""),
                completed(json!([call("{\"a\":1}")])),
            ],
            json!({"calls": [["f", "{\"a\":1}"]], "status": "completed"}),
        ),
        (
            "own-relayed-done-lacks-the-arguments",
            vec![
                open(call("")),
                arguments("{\"a\":1}"),
                json!({"type": "response.output_item.done", "output_index": 0, "item": call("")}),
                completed(json!([])),
            ],
            json!({"calls": [["f", "{\"a\":1}"]], "status": "completed"}),
        ),
        (
            "own-relayed-arguments-announced-and-repeated",
            vec![
                open(call("{\"a\":1}")),
                arguments("{\"a\":1}"),
                json!({"type": "response.output_item.done", "output_index": 0, "item": call("{\"a\":1}")}),
                completed(json!([])),
            ],
            json!({"calls": [["f", "{\"a\":1}"]], "status": "completed"}),
        ),
        (
            "own-relayed-terminal-event-without-object",
            vec![
                added,
                json!({"type": "response.output_text.delta", "item_id": "m1", "output_index": 0, "content_index": 0, "delta": "Hello"}),
                json!({"type": "response.completed"}),
            ],
            json!({"text": "Hello", "status": "completed", "done": true}),
        ),
        (
            "own-relayed-response-done",
            vec![
                json!({"type": "response.done", "response": {"id": "u", "status": "completed", "output": [message("m1", "Hello")],
                "usage": {"input_tokens": 11, "output_tokens": 5}}}),
            ],
            json!({"text": "Hello", "status": "completed", "usage": [11, 5, 16]}),
        ),
        (
            "own-relayed-completed-with-status-failed",
            vec![
                json!({"type": "response.completed", "response": {"id": "u", "status": "failed", "error": {"code": "boom", "message": "m"}, "output": []}}),
            ],
            json!({"status": "failed", "code": "boom", "done": false}),
        ),
    ]
}

/// Cases that are made from a table.
fn table_cases() -> BTreeMap<String, Case> {
    let mut cases = BTreeMap::new();
    for (name, calls, expect) in call_cases() {
        let mut events: Vec<Value> = calls.into_iter().map(piece).collect();
        events.push(delta(json!({}), json!("tool_calls")));
        let expect = json!({"calls": expect, "status": "completed"});
        cases.insert(name.to_owned(), case("chat", false, sse(&events), expect));
    }
    for (name, reasoning) in reasoning_deltas() {
        let events = [
            delta(reasoning, Value::Null),
            delta(json!({"content": "Done"}), json!("stop")),
        ];
        let expect = json!({"reasoning": "Th", "text": "Done", "status": "completed"});
        let case = case("chat", false, sse(&events), expect);
        cases.insert(format!("own-reasoning-{name}"), case);
    }
    for (name, events, expect) in relayed_cases() {
        cases.insert(
            name.to_owned(),
            case("responses", false, sse(&events), expect),
        );
    }
    for (name, part) in [
        (
            "source",
            json!({"type": "image", "source": {"type": "base64", "data": "AAAA"}}),
        ),
        (
            "base64",
            json!({"type": "output_image", "image_base64": "AAAA"}),
        ),
    ] {
        let events = [
            delta(json!({"content": [part]}), Value::Null),
            delta(json!({}), json!("stop")),
        ];
        let case = case("chat", false, sse(&events), json!({"images": 1}));
        cases.insert(format!("own-image-part-{name}"), case);
    }
    let text = |events: &[Value]| {
        events
            .iter()
            .map(|event| format!("data: {event}\n"))
            .collect::<String>()
    };
    let answer = [
        delta(json!({"content": "x"}), Value::Null),
        delta(json!({}), json!("stop")),
    ];
    let completed = json!({"text": "x", "status": "completed", "done": true});
    let mut with_errors = answer.clone();
    with_errors[0]["error"] = json!({});
    with_errors[1]["error"] = json!("");
    for (name, body, expect) in [
        ("own-body-without-blank-lines", format!("{}data: [DONE]\n", text(&answer)), completed.clone()),
        ("own-end-mark-in-lower-case", format!("{}data: [done]\n\n", sse(&answer)), completed.clone()),
        ("own-errors-that-say-nothing", sse(&with_errors), completed),
        (
            "own-error-object-of-vllm",
            sse(&[json!({"object": "error", "message": "too long", "type": "BadRequestError", "code": 400})]),
            json!({"status": "failed", "code": "400", "done": false}),
        ),
        (
            "own-types-only-in-event-lines",
            "event: response.output_text.delta\ndata: {\"delta\":\"x\"}\n\nevent: response.completed\ndata: {\"response\":{\"id\":\"u\",\"status\":\"completed\",\"output\":[]}}\n\n".to_owned(),
            json!({"text": "x", "status": "completed", "done": true}),
        ),
    ] {
        let api = if name.contains("types-only") { "responses" } else { "chat" };
        cases.insert(name.to_owned(), case(api, false, body, expect));
    }
    cases
}

fn own_cases() -> BTreeMap<String, Case> {
    let usage = |usage: Value| {
        let mut last = delta(json!({}), json!("stop"));
        last["usage"] = usage;
        sse(&[delta(json!({"content": "x"}), Value::Null), last])
    };
    let call = json!({"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f",
        "arguments": "{\"a\":1}", "status": "completed"});
    let cases = [
        (
            "own-usage-camel-case",
            case(
                "chat",
                false,
                usage(json!({"promptTokens": 11, "completionTokens": 5})),
                json!({"usage": [11, 5, 16]}),
            ),
        ),
        (
            "own-usage-strings",
            case(
                "chat",
                false,
                usage(json!({"prompt_tokens": "11", "completion_tokens": "5", "total_tokens": "16"})),
                json!({"usage": [11, 5, 16]}),
            ),
        ),
        (
            "own-usage-gemini",
            case(
                "chat",
                false,
                usage(
                    json!({"promptTokenCount": 11, "candidatesTokenCount": 5, "totalTokenCount": 16, "cachedContentTokenCount": 4}),
                ),
                json!({"usage": [11, 5, 16], "cached": 4}),
            ),
        ),
        (
            "own-usage-inside-a-vendor-member",
            case(
                "chat",
                false,
                sse(&[
                    delta(json!({"content": "x"}), Value::Null),
                    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
                        "x_vendor": {"usage": {"prompt_tokens": 11, "completion_tokens": 5}}}),
                ]),
                json!({"usage": [11, 5, 16]}),
            ),
        ),
        (
            "own-usage-in-two-parts",
            case(
                "chat",
                false,
                sse(&[
                    json!({"choices": [{"index": 0, "delta": {"content": "x"}}], "usage": {"input_tokens": 11}}),
                    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": {"output_tokens": 5}}),
                ]),
                json!({"usage": [11, 5, 16]}),
            ),
        ),
        (
            "own-single-call-without-list",
            case(
                "chat",
                false,
                sse(&[
                    delta(json!({"tool_calls": {"id": "a", "function": {"name": "f", "arguments": {"a": 1}}}}), Value::Null),
                    delta(json!({}), json!("tool_use")),
                ]),
                json!({"calls": [["f", "{\"a\":1}"]], "status": "completed"}),
            ),
        ),
        (
            "own-responses-image",
            case(
                "responses",
                false,
                sse(&[
                    json!({"type": "response.output_item.done", "item": {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "AAAA"}}),
                    completed(json!([])),
                ]),
                json!({"images": 1, "status": "completed"}),
            ),
        ),
        (
            "own-finish-max-tokens-upper-case",
            case(
                "chat",
                false,
                sse(&[
                    delta(json!({"content": "x"}), json!("FINISH_REASON_UNSPECIFIED")),
                    delta(json!({}), json!("MAX_TOKENS")),
                ]),
                json!({"text": "x", "messages": 1, "status": "incomplete", "reason": "max_output_tokens", "done": true}),
            ),
        ),
        (
            "own-finish-recitation",
            case(
                "chat",
                false,
                sse(&[
                    delta(json!({"content": "x"}), json!(0)),
                    delta(json!({}), json!("RECITATION")),
                ]),
                json!({"text": "x", "status": "incomplete", "reason": "content_filter", "done": true}),
            ),
        ),
        (
            "own-completion-without-finish",
            case(
                "chat",
                true,
                json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m",
                    "choices": [{"index": 0, "message": {"role": "assistant", "content": "x", "reasoning_content": "hm"}}]})
                .to_string(),
                json!({"text": "x", "reasoning": "hm", "status": "completed", "done": true}),
            ),
        ),
        (
            "own-responses-item-only-in-done",
            case(
                "responses",
                false,
                sse(&[
                    json!({"type": "response.output_item.done", "output_index": 0, "item": message("m1", "Hello")}),
                    json!({"type": "response.output_item.done", "output_index": 1, "item": call.clone()}),
                    completed(json!([])),
                ]),
                json!({"text": "Hello", "messages": 1, "calls": [["f", "{\"a\":1}"]], "status": "completed", "done": true}),
            ),
        ),
        (
            "own-responses-partial-text-in-terminal",
            case(
                "responses",
                false,
                sse(&[
                    json!({"type": "response.output_item.added", "output_index": 0, "item": {"type": "message", "id": "m1", "status": "in_progress", "role": "assistant", "content": []}}),
                    json!({"type": "response.output_text.delta", "item_id": "m1", "output_index": 0, "content_index": 0, "delta": "Hel"}),
                    completed(json!([message("m1", "Hello"), call.clone()])),
                ]),
                json!({"text": "Hello", "messages": 1, "calls": [["f", "{\"a\":1}"]], "status": "completed"}),
            ),
        ),
        (
            "own-responses-incomplete-without-output",
            case(
                "responses",
                false,
                sse(&[
                    json!({"type": "response.output_text.delta", "delta": "Hel"}),
                    json!({"type": "response.output_text.delta", "delta": "lo"}),
                    json!({"type": "response.incomplete", "response": {"id": "resp_up", "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}}),
                ]),
                json!({"text": "Hello", "messages": 1, "status": "incomplete", "reason": "max_output_tokens"}),
            ),
        ),
        (
            "own-responses-failed-keeps-text",
            case(
                "responses",
                false,
                sse(&[
                    json!({"type": "response.output_item.added", "output_index": 0, "item": {"type": "message", "id": "m1", "status": "in_progress", "role": "assistant", "content": []}}),
                    json!({"type": "response.output_text.delta", "item_id": "m2", "output_index": 0, "content_index": 0, "delta": "Hel"}),
                    json!({"type": "response.failed", "response": {"id": "resp_up", "status": "failed", "error": null, "output": []}}),
                ]),
                json!({"text": "Hel", "status": "failed", "code": "upstream_error", "done": false}),
            ),
        ),
        (
            "own-responses-error-before-failed",
            case(
                "responses",
                false,
                sse(&[
                    json!({"type": "error", "code": "rate_limit_exceeded", "message": "Slow down."}),
                    json!({"type": "response.failed", "response": {"id": "resp_up", "status": "failed", "error": {"code": null, "message": null}}}),
                ]),
                json!({"status": "failed", "code": "rate_limit_exceeded", "done": false}),
            ),
        ),
        (
            "own-responses-custom-call",
            case(
                "responses",
                true,
                json!({"id": "resp_up", "object": "response", "status": "completed", "output": [
                    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
                    {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c1", "name": "apply", "input": "a b", "status": "completed"}]})
                .to_string(),
                json!({"reasoning": "hm", "custom_calls": [["apply", "a b"]], "status": "completed"}),
            ),
        ),
    ];
    cases
        .into_iter()
        .map(|(name, case)| (name.to_owned(), case))
        .chain(table_cases())
        .collect()
}

impl Case {
    fn api(&self) -> Api {
        if self.upstream == "responses" {
            Api::Responses
        } else {
            Api::Chat
        }
    }

    fn is_json(&self) -> bool {
        self.content_type == "application/json"
    }

    /// Plays the body to a request, in reads of `size` bytes.
    async fn play(&self, request: &str, size: usize) -> Played {
        let test = TestEngine::new(EngineOptions {
            api: self.api(),
            ..EngineOptions::default()
        });
        let started = test.start(request);
        let call = test.upstream.call().await;
        if self.is_json() {
            call.document(&self.body);
        } else {
            for piece in self.body.as_bytes().chunks(size) {
                call.bytes(piece);
            }
        }
        call.end(BodyEnd::Clean);
        let generation = started.guard.generation().clone();
        generation.ended().await;
        let next = self.expect.next_turn_has.as_ref().map(|_| {
            let id = generation.meta().id.as_str().to_owned();
            let input =
                json!([{"type": "function_call_output", "call_id": "call_1", "output": "1"}]);
            test.start(&json!({"input": input, "previous_response_id": id}).to_string())
        });
        let next_turn = match next {
            Some(_) => Some(test.upstream.call().await.body().to_string()),
            None => None,
        };
        Played {
            audit: Audit::of(&generation),
            completion: generation
                .chat_completion()
                .map(|json| serde_json::from_slice(&json).unwrap()),
            next_turn,
        }
    }
}

struct Played {
    audit: Audit,
    completion: Option<Value>,
    next_turn: Option<String>,
}

/// What a client puts together of an answer.
#[derive(Debug, Default, PartialEq)]
struct Answer {
    text: String,
    reasoning: String,
    calls: Vec<(String, String)>,
    custom_calls: Vec<(String, String)>,
}

fn string(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

impl Answer {
    /// From a response object.
    fn of_object(object: &Value) -> Self {
        let mut answer = Self::default();
        for item in list(&object["output"]) {
            let pair = |field: &str| (string(&item["name"]).into(), string(&item[field]).into());
            match string(&item["type"]) {
                "message" => list(&item["content"])
                    .for_each(|part| answer.text.push_str(string(&part["text"]))),
                "reasoning" => {
                    for part in list(&item["summary"]).chain(list(&item["content"])) {
                        answer.reasoning.push_str(string(&part["text"]));
                    }
                }
                "function_call" => answer.calls.push(pair("arguments")),
                "custom_tool_call" => answer.custom_calls.push(pair("input")),
                _ => {}
            }
        }
        answer
    }

    /// From the events, by deltas for texts.
    fn of_events(audit: &Audit) -> Self {
        let mut answer = Self::default();
        for event in &audit.events {
            match string(&event["type"]) {
                "response.output_text.delta" => answer.text.push_str(string(&event["delta"])),
                "response.reasoning_text.delta" | "response.reasoning_summary_text.delta" => {
                    answer.reasoning.push_str(string(&event["delta"]))
                }
                "response.output_item.done" => {
                    let object = json!({"output": [event["item"]]});
                    let item = Self::of_object(&object);
                    answer.calls.extend(item.calls);
                    answer.custom_calls.extend(item.custom_calls);
                }
                _ => {}
            }
        }
        answer
    }

    /// From a chat message.
    fn of_message(message: &Value) -> Self {
        let mut answer = Self {
            text: string(&message["content"]).to_owned(),
            reasoning: string(&message["reasoning_content"]).to_owned(),
            ..Self::default()
        };
        for call in list(&message["tool_calls"]) {
            if call["type"] == "custom" {
                let custom = &call["custom"];
                let pair = (
                    string(&custom["name"]).into(),
                    string(&custom["input"]).into(),
                );
                answer.custom_calls.push(pair);
            } else {
                let function = &call["function"];
                let arguments = string(&function["arguments"]).into();
                answer
                    .calls
                    .push((string(&function["name"]).into(), arguments));
            }
        }
        answer
    }

    /// From chunks, as the SDKs accumulate them.
    fn of_chunks(chunks: &[String]) -> Self {
        let mut message = json!({"content": "", "reasoning_content": "", "tool_calls": []});
        let append = |target: &mut Value, piece: &Value| {
            if let Some(piece) = piece.as_str() {
                *target = json!(format!("{}{piece}", string(target)));
            }
        };
        for chunk in chunks.iter().filter(|chunk| *chunk != "[DONE]") {
            let chunk: Value = serde_json::from_str(chunk).unwrap();
            let Some(choice) = chunk["choices"].get(0) else {
                continue;
            };
            assert_eq!(chunk["object"], "chat.completion.chunk");
            assert!(
                choice["delta"].is_object(),
                "a choice without delta: {chunk}"
            );
            let delta = &choice["delta"];
            for field in ["content", "reasoning_content"] {
                append(&mut message[field], &delta[field]);
            }
            for call in list(&delta["tool_calls"]) {
                let at = call["index"].as_u64().expect("a call has an index") as usize;
                let calls = message["tool_calls"].as_array_mut().unwrap();
                if at == calls.len() {
                    calls.push(json!({"type": call["type"]}));
                }
                for (outer, inner) in [
                    ("function", "name"),
                    ("function", "arguments"),
                    ("custom", "name"),
                    ("custom", "input"),
                ] {
                    append(&mut calls[at][outer][inner], &call[outer][inner]);
                }
            }
        }
        Self::of_message(&message)
    }
}

fn check_answer(answer: &Answer, expect: &Expect, what: &str) {
    let Expect {
        text,
        reasoning,
        calls,
        custom_calls,
        ..
    } = expect;
    let check = |expected: &Option<String>, found: &str, field: &str| {
        if let Some(expected) = expected {
            assert_eq!(found, expected, "{field} of {what}");
        }
    };
    check(text, &answer.text, "text");
    check(reasoning, &answer.reasoning, "reasoning");
    if let Some(calls) = calls {
        assert_eq!(&answer.calls, calls, "calls of {what}");
    }
    if let Some(calls) = custom_calls {
        assert_eq!(&answer.custom_calls, calls, "custom calls of {what}");
        assert!(answer.calls.is_empty(), "function calls of {what}");
    }
}

fn check_responses(played: &Played, expect: &Expect) {
    let (audit, object) = (&played.audit, &played.audit.object);
    check_answer(&Answer::of_object(object), expect, "the object");
    check_answer(&Answer::of_events(audit), expect, "the events");
    if let Some(text) = &expect.text {
        assert_eq!(&audit.text, text, "text dialect");
    }
    if let Some(status) = &expect.status {
        assert_eq!(object["status"], **status);
    }
    if let Some(reason) = &expect.reason {
        assert_eq!(&object["incomplete_details"]["reason"], reason);
    }
    if let Some(code) = &expect.code {
        assert_eq!(object["error"]["code"], **code);
    }
    if let Some(count) = expect.messages {
        assert_eq!(audit.output("message").len(), count, "messages");
    }
    if let Some(count) = expect.images {
        assert_eq!(audit.output("image_generation_call").len(), count, "images");
    }
    let usage = &object["usage"];
    if let Some(expected) = expect.usage {
        let found = ["input_tokens", "output_tokens", "total_tokens"]
            .map(|name| usage[name].as_u64().unwrap());
        assert_eq!(found, expected);
    }
    if let Some(cached) = expect.cached {
        assert_eq!(usage["input_tokens_details"]["cached_tokens"], cached);
    }
    if expect.one_item_id == Some(true) {
        let ids: std::collections::BTreeSet<&str> = audit
            .events
            .iter()
            .flat_map(|event| [event.get("item_id"), event["item"].get("id")])
            .flatten()
            .chain(list(&object["output"]).map(|item| &item["id"]))
            .map(string)
            .collect();
        assert_eq!(ids.len(), 1, "{ids:?}");
    }
    if let (Some(part), Some(body)) = (&expect.next_turn_has, &played.next_turn) {
        assert!(
            body.contains(part.as_str()),
            "next turn lacks {part}: {body}"
        );
    }
}

fn check(name: &str, case: &Case, size: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let expect = &case.expect;
    let failed = expect.status.as_deref() == Some("failed");
    runtime.block_on(async {
        let played = case.play(r#"{"input":"hi"}"#, size).await;
        check_responses(&played, expect);

        let streamed = Case {
            expect: Expect {
                next_turn_has: None,
                ..expect.clone()
            },
            ..case.clone()
        };
        let chat = r#"{"messages":[{"role":"user","content":"hi"}],"stream":true}"#;
        let played = streamed.play(chat, size).await;
        let done = played.audit.chat.last().map(String::as_str) == Some("[DONE]");
        assert_eq!(done, expect.done.unwrap_or(!failed), "[DONE] of {name}");
        if case.api() == Api::Responses || case.is_json() {
            let chunks = &played.audit.chat;
            assert!(
                chunks
                    .iter()
                    .all(|chunk| !chunk.contains("\"prompt_tokens\"")),
                "usage was not requested"
            );
            let chunks = if failed {
                &chunks[..chunks.len() - 1]
            } else {
                chunks
            };
            check_answer(&Answer::of_chunks(chunks), expect, "the chunks");
        }

        let chat = r#"{"messages":[{"role":"user","content":"hi"}],"stream":false}"#;
        let played = streamed.play(chat, size).await;
        if !failed {
            let completion = played.completion.expect("a completion");
            assert_eq!(completion["object"], "chat.completion");
            let message = &completion["choices"][0]["message"];
            check_answer(&Answer::of_message(message), expect, "the completion");
            if let Some(expected) = expect.usage {
                let found = ["prompt_tokens", "completion_tokens", "total_tokens"]
                    .map(|name| completion["usage"][name].as_u64().unwrap());
                assert_eq!(found, expected);
            }
        }
    });
}

fn problems(size: impl Fn(usize) -> usize) -> Vec<String> {
    cases()
        .into_iter()
        .filter(|(name, case)| {
            let size = size(case.body.len());
            std::panic::catch_unwind(|| check(name, case, size)).is_err()
        })
        .map(|(name, _)| name)
        .collect()
}

#[test]
fn cases_in_one_piece() {
    let problems = problems(|length| length.max(1));
    assert!(problems.is_empty(), "failed (see above): {problems:#?}");
}

#[test]
fn cases_byte_by_byte() {
    let problems = problems(|_| 1);
    assert!(problems.is_empty(), "failed (see above): {problems:#?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn split_positions_do_not_change_the_result(size in 2usize..400) {
        let problems = problems(|_| size);
        prop_assert!(problems.is_empty(), "failed (see above): {problems:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn usage_chunk_of_a_split_completion_is_sent_if_requested() {
    let body = json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}});
    let case = case("chat", true, body.to_string(), json!({}));
    for (options, chunks) in [("", 3), (r#","stream_options":{"include_usage":true}"#, 4)] {
        let request =
            format!(r#"{{"messages":[{{"role":"user","content":"hi"}}],"stream":true{options}}}"#);
        let played = case.play(&request, 1).await;
        assert_eq!(played.audit.chat.len(), chunks, "{:#?}", played.audit.chat);
        assert_eq!(played.audit.object["usage"]["total_tokens"], 7);
    }
}

#[tokio::test(start_paused = true)]
async fn parts_of_a_split_completion_become_the_strings_of_deltas() {
    let parts = json!([{"type": "thinking", "thinking": "Th"}, {"type": "text", "text": "Hel"},
        {"type": "text", "text": "lo"}]);
    let body = json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": parts}, "finish_reason": "stop"}]});
    let case = case("chat", true, body.to_string(), json!({}));
    let request = r#"{"messages":[{"role":"user","content":"hi"}],"stream":true}"#;
    let played = case.play(request, 1).await;
    let answer = Answer::of_chunks(&played.audit.chat);
    assert_eq!((&*answer.text, &*answer.reasoning), ("Hello", "Th"));
}

#[tokio::test(start_paused = true)]
async fn reason_of_a_failure_is_waited_for_at_most_a_second() {
    let test = TestEngine::new(EngineOptions {
        api: Api::Responses,
        ..EngineOptions::default()
    });
    let started = test.start(r#"{"input":"hi"}"#);
    let call = test.upstream.call().await;
    call.data(r#"{"type":"response.failed","response":{"id":"r","status":"failed","error":null}}"#);
    let before = tokio::time::Instant::now();
    started.guard.generation().ended().await;
    assert_eq!(before.elapsed().as_millis() / 100, 10);
    let audit = Audit::of(started.guard.generation());
    assert_eq!(audit.object["error"]["code"], "upstream_error");
}

/// Returns the time that this thread has run, which other programs on the machine do not change. Zero
/// where the system does not tell.
fn processor_time() -> Duration {
    let ran = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ran = ran.split(' ').next().and_then(|ran| ran.parse().ok());
    Duration::from_nanos(ran.unwrap_or(0))
}

/// Checks that an answer of four times as many events takes about four times as long: sixteen times
/// would be quadratic. `body` makes an answer of so many events, with so many output items.
async fn assert_linear_time(api: Api, body: impl Fn(usize) -> (String, usize)) {
    let (few, many) = (body(4_000), body(16_000));
    let few = play_many_events(api, few.0, few.1).await;
    let many = play_many_events(api, many.0, many.1).await;
    // Zero is where the system tells no times.
    assert!(many <= few * 8, "{few:?} for 4,000, {many:?} for 16,000");
}

/// Plays an answer to a reader of the responses dialect, which gets this number of items. Returns
/// the processor time that it took.
async fn play_many_events(api: Api, body: String, expected: usize) -> Duration {
    let test = TestEngine::new(EngineOptions {
        api,
        ..EngineOptions::default()
    });
    let started = test.start(r#"{"input":"hi"}"#);
    let call = test.upstream.call().await;
    let before = processor_time();
    for piece in body.as_bytes().chunks(64 * 1024) {
        call.bytes(piece);
    }
    call.end(BodyEnd::Clean);
    let generation = started.guard.generation().clone();
    generation.ended().await;
    let mut reader = Reader::new(started.guard, 0, Dialect::Responses);
    reader.read_to_end().await.unwrap();
    let object: Value = serde_json::from_slice(&generation.response_json()).unwrap();
    assert_eq!(list(&object["output"]).count(), expected);
    let lines = reader.lines();
    let done = lines
        .iter()
        .filter(|line| line.name.as_deref() == Some("response.output_item.done"));
    assert_eq!(done.count(), expected);
    processor_time() - before
}

#[tokio::test(start_paused = true)]
async fn many_chat_calls_take_linear_time() {
    assert_linear_time(Api::Chat, |count| {
        let mut body: String = (0..count)
            .map(|i| {
                let call = json!({"tool_calls": [{"index": i, "id": format!("c{i}"),
                    "function": {"name": "f", "arguments": "{}"}}]});
                sse(&[delta(call, Value::Null)])
            })
            .collect();
        body.push_str(&sse(&[delta(json!({}), json!("tool_calls"))]));
        (body, count)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn many_responses_calls_take_linear_time() {
    assert_linear_time(Api::Responses, |count| {
        let mut body: String = (0..count)
            .map(|i| {
                let item = json!({"type": "function_call", "id": format!("fc{i}"),
                    "call_id": format!("c{i}"), "name": "f", "arguments": "{}", "status": "completed"});
                sse(&[json!({"type": "response.output_item.done", "item": item})])
            })
            .collect();
        body.push_str(&sse(&[completed(json!([]))]));
        (body, count)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn many_responses_deltas_take_linear_time() {
    assert_linear_time(Api::Responses, |count| {
        // The whole text stays below the largest event of a scripted upstream, 1 MiB.
        let text = "x".repeat(40);
        let added = json!({"type": "message", "id": "m", "status": "in_progress", "role": "assistant",
            "content": []});
        let mut body =
            sse(&[json!({"type": "response.output_item.added", "output_index": 0, "item": added})]);
        let delta = json!({"type": "response.output_text.delta", "output_index": 0, "item_id": "m",
            "content_index": 0, "delta": text});
        body.push_str(&sse(&[delta]).repeat(count));
        let whole = message("m", &text.repeat(count));
        body.push_str(&sse(&[
            json!({"type": "response.output_item.done", "output_index": 0, "item": whole}),
            completed(json!([whole])),
        ]));
        (body, 1)
    })
    .await;
}
