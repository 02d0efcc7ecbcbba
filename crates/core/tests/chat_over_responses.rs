//! Chat requests over a Responses upstream: the request that is sent, and what a chat client gets,
//! streamed and with `stream: false`.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use proptest::prelude::*;
use serde_json::{Value, json};
use tokenwire_core::dialect::Dialect;
use tokenwire_core::model::error::ErrorCode;
use tokenwire_core::model::snapshot::Api;
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_testkit::{Audit, EngineOptions, Reader, TestEngine};

const ASK: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
const COUNTED: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true,"stream_options":{"include_usage":true}}"#;

/// The result of a request: the chunks and final payloads, the completion, the response object, and
/// the body sent upstream.
struct Came {
    audit: Audit,
    chunks: Vec<Value>,
    last: String,
    completion: Option<Value>,
    asked: Value,
}

fn play(ask: &str, events: &[Value]) -> Came {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let test = TestEngine::new(EngineOptions {
            api: Api::Responses,
            ..EngineOptions::default()
        });
        let started = test.start(ask);
        let call = test.upstream.call().await;
        for event in events {
            call.data(&event.to_string());
        }
        call.end(BodyEnd::Clean);
        let generation = started.guard.generation().clone();
        generation.ended().await;
        let audit = Audit::of(&generation);
        let (last, chunks) = audit
            .chat
            .split_last()
            .expect("a chat client gets something");
        let chunks: Vec<Value> = chunks
            .iter()
            .map(|chunk| serde_json::from_str(chunk).unwrap())
            .collect();
        for chunk in &chunks {
            assert_eq!(chunk["object"], "chat.completion.chunk");
            assert_eq!(
                chunk["id"],
                format!("chatcmpl-{}", generation.meta().id.suffix())
            );
            assert_eq!(
                (&chunk["model"], chunk["created"].as_u64()),
                (&json!("m"), Some(generation.meta().created_at))
            );
        }
        let completion = generation
            .chat_completion()
            .map(|bytes| serde_json::from_slice(&bytes).unwrap());
        Came {
            last: last.clone(),
            completion,
            asked: call.body(),
            chunks,
            audit,
        }
    })
}

fn response(status: &str, output: Value) -> Value {
    json!({"id": "resp_theirs", "object": "response", "status": status, "model": "theirs", "output": output})
}

fn created() -> Value {
    json!({"type": "response.created", "sequence_number": 0, "response": response("in_progress", json!([]))})
}

fn added(index: u32, item: Value) -> Value {
    json!({"type": "response.output_item.added", "output_index": index, "item": item})
}

fn done(index: u32, item: Value) -> Value {
    json!({"type": "response.output_item.done", "output_index": index, "item": item})
}

fn delta(kind: &str, index: u32, text: &str) -> Value {
    json!({"type": format!("response.{kind}.delta"), "output_index": index, "content_index": 0, "delta": text})
}

fn completed(output: Value) -> Value {
    let mut object = response("completed", output);
    object["usage"] = json!({"input_tokens": 9, "input_tokens_details": {"cached_tokens": 2}, "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 3}, "total_tokens": 14});
    json!({"type": "response.completed", "response": object})
}

fn message(parts: Value) -> Value {
    json!({"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": parts})
}

fn text(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": []})
}

fn call(arguments: &str) -> Value {
    json!({"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": arguments, "status": "completed"})
}

/// The deltas with content, in order.
fn deltas(played: &Came) -> Vec<Value> {
    played
        .chunks
        .iter()
        .filter_map(|chunk| chunk["choices"].get(0))
        .map(|choice| choice["delta"].clone())
        .filter(|delta| delta != &json!({}))
        .collect()
}

fn finish(played: &Came) -> Option<&str> {
    played
        .chunks
        .iter()
        .find_map(|chunk| chunk["choices"][0]["finish_reason"].as_str())
}

fn role() -> Value {
    json!({"role": "assistant", "content": ""})
}

/// Checks that the chunks add up to the message of the completion.
fn check(played: &Came, finish_reason: &str, message: Value) {
    let mut built = json!({"role": null, "content": null, "refusal": null, "annotations": []});
    for delta in deltas(played) {
        for (name, value) in delta.as_object().unwrap() {
            match (name.as_str(), value) {
                ("tool_calls", Value::Array(pieces)) => {
                    for piece in pieces {
                        let at = usize::try_from(piece["index"].as_u64().unwrap()).unwrap();
                        let calls = built
                            .as_object_mut()
                            .unwrap()
                            .entry("tool_calls")
                            .or_insert_with(|| json!([]))
                            .as_array_mut()
                            .unwrap();
                        if at == calls.len() {
                            let mut opened = piece.clone();
                            opened.as_object_mut().unwrap().remove("index");
                            calls.push(opened);
                        } else {
                            let known = calls[at]["function"]["arguments"]
                                .as_str()
                                .unwrap()
                                .to_owned();
                            calls[at]["function"]["arguments"] =
                                json!(known + piece["function"]["arguments"].as_str().unwrap());
                        }
                    }
                }
                ("annotations", Value::Array(more)) => built["annotations"]
                    .as_array_mut()
                    .unwrap()
                    .extend(more.clone()),
                (_, Value::String(more)) => {
                    let known = built[name].as_str().unwrap_or_default().to_owned();
                    built[name] = json!(known + more);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    let completion = played.completion.as_ref().expect("a completion");
    // The first chunk has an empty text; the completion has none.
    if completion["choices"][0]["message"]["content"].is_null() && built["content"] == "" {
        built["content"] = Value::Null;
    }
    assert_eq!(
        built, completion["choices"][0]["message"],
        "chunks and completion differ"
    );
    let mut expected =
        json!({"role": "assistant", "content": null, "refusal": null, "annotations": []});
    for (name, value) in message.as_object().unwrap() {
        expected[name] = value.clone();
    }
    assert_eq!(built, expected);
    assert_eq!(
        (
            finish(played),
            completion["choices"][0]["finish_reason"].as_str()
        ),
        (Some(finish_reason), Some(finish_reason))
    );
    assert_eq!(deltas(played)[0], role());
    assert_eq!(played.last, "[DONE]");
    assert_eq!(completion["object"], "chat.completion");
}

#[test]
fn text_becomes_a_completion() {
    let played = play(
        ASK,
        &[
            created(),
            added(0, message(json!([]))),
            json!({"type": "response.content_part.added", "output_index": 0, "content_index": 0, "part": text("")}),
            delta("output_text", 0, "Ha\"l"),
            delta("output_text", 0, "lo\n"),
            json!({"type": "response.output_text.done", "output_index": 0, "content_index": 0, "text": "Ha\"llo\n"}),
            done(0, message(json!([text("Ha\"llo\n")]))),
            completed(json!([message(json!([text("Ha\"llo\n")]))])),
        ],
    );
    check(&played, "stop", json!({"content": "Ha\"llo\n"}));
    assert_eq!(played.audit.text, "Ha\"llo\n");
    assert!(
        played
            .chunks
            .iter()
            .all(|chunk| chunk.get("usage").is_none()),
        "usage was not requested"
    );
    let completion = played.completion.unwrap();
    assert_eq!(
        completion["usage"],
        json!({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 2}, "completion_tokens_details": {"reasoning_tokens": 3}})
    );
    assert_eq!(
        played.asked,
        json!({"model": "m", "input": [{"type": "message", "role": "user", "content": "hi"}], "stream": true, "store": false})
    );
}

#[test]
fn usage_chunk_is_last_if_requested() {
    let played = play(
        COUNTED,
        &[
            created(),
            added(0, message(json!([]))),
            delta("output_text", 0, "x"),
            completed(json!([message(json!([text("x")]))])),
        ],
    );
    let (last, others) = played.chunks.split_last().unwrap();
    assert_eq!(
        (&last["choices"], &last["usage"]["total_tokens"]),
        (&json!([]), &json!(14))
    );
    assert_eq!(last["usage"], played.completion.as_ref().unwrap()["usage"]);
    assert!(
        others
            .iter()
            .all(|chunk| chunk.get("usage") == Some(&Value::Null)),
        "{others:?}"
    );
    // Without usage from the upstream there is none.
    let untold =
        json!({"type": "response.completed", "response": response("completed", json!([]))});
    let played = play(COUNTED, &[created(), untold]);
    assert!(played.chunks.iter().all(|chunk| chunk["usage"].is_null()));
    assert!(played.completion.unwrap().get("usage").is_none());
}

#[test]
fn reasoning_refusals_and_calls_are_rendered() {
    let reasoning = json!({"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "A."}, {"type": "summary_text", "text": "B."}]});
    let part = |index: u32| json!({"type": "response.reasoning_summary_part.added", "output_index": 0, "summary_index": index, "part": {"type": "summary_text", "text": ""}});
    let summary = |index: u32, text: &str| json!({"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": index, "delta": text});
    let played = play(
        ASK,
        &[
            created(),
            added(0, json!({"type": "reasoning", "id": "rs", "summary": []})),
            part(0),
            summary(0, "A."),
            part(1),
            summary(1, "B."),
            added(1, message(json!([]))),
            delta("output_text", 1, "x"),
            completed(json!([reasoning, message(json!([text("x")]))])),
        ],
    );
    check(
        &played,
        "stop",
        json!({"content": "x", "reasoning_content": "A.\n\nB."}),
    );

    let refusal = json!({"type": "refusal", "refusal": "No."});
    let played = play(
        ASK,
        &[
            created(),
            added(0, message(json!([]))),
            delta("refusal", 0, "N"),
            delta("refusal", 0, "o."),
            completed(json!([message(json!([refusal]))])),
        ],
    );
    check(&played, "stop", json!({"refusal": "No."}));

    let second = json!({"type": "function_call", "id": "fc_2", "call_id": "call_2", "name": "g", "arguments": "[]", "status": "completed"});
    let played = play(
        ASK,
        &[
            created(),
            added(0, call("")),
            delta("function_call_arguments", 0, "{\"a\""),
            added(
                1,
                json!({"type": "function_call", "id": "fc_2", "call_id": "call_2", "name": "g", "arguments": ""}),
            ),
            delta("function_call_arguments", 0, ":1}"),
            delta("function_call_arguments", 1, "[]"),
            json!({"type": "response.function_call_arguments.done", "output_index": 0, "arguments": "{\"a\":1}"}),
            done(0, call("{\"a\":1}")),
            done(1, second.clone()),
            completed(json!([call("{\"a\":1}"), second])),
        ],
    );
    let expected = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    check(
        &played,
        "tool_calls",
        json!({"tool_calls": [expected("call_1", "f", "{\"a\":1}"), expected("call_2", "g", "[]")]}),
    );
}

#[test]
fn content_without_deltas_is_shown_once() {
    let tool_calls = json!({"tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]});
    let end = || completed(json!([call("{}")]));
    let arguments_done = || json!({"type": "response.function_call_arguments.done", "output_index": 0, "arguments": "{}"});
    for events in [
        vec![added(0, call("")), arguments_done(), done(0, call("{}"))],
        vec![added(0, call("")), done(0, call("{}"))],
        vec![done(0, call("{}"))],
        vec![added(0, call("{}")), arguments_done(), done(0, call("{}"))],
        vec![
            added(0, call("{}")),
            delta("function_call_arguments", 0, "{}"),
            arguments_done(),
        ],
    ] {
        let events: Vec<Value> = [created()]
            .into_iter()
            .chain(events)
            .chain([end()])
            .collect();
        check(&play(ASK, &events), "tool_calls", tool_calls.clone());
    }
    let full = || message(json!([text("x"), text("y")]));
    let text_done = |part: u32, text: &str| json!({"type": "response.output_text.done", "output_index": 0, "content_index": part, "text": text});
    for events in [
        vec![
            added(0, message(json!([]))),
            text_done(0, "x"),
            text_done(1, "y"),
            done(0, full()),
        ],
        vec![added(0, message(json!([]))), done(0, full())],
        vec![done(0, full())],
        vec![
            delta("output_text", 0, "x"),
            text_done(0, "x"),
            done(0, full()),
        ],
    ] {
        let events: Vec<Value> = [created()]
            .into_iter()
            .chain(events)
            .chain([completed(json!([full()]))])
            .collect();
        let played = play(ASK, &events);
        check(&played, "stop", json!({"content": "xy"}));
        assert_eq!(played.audit.text, "xy");
    }
    let refused = message(json!([{"type": "refusal", "refusal": "No."}]));
    check(
        &play(
            ASK,
            &[
                created(),
                done(0, refused.clone()),
                completed(json!([refused])),
            ],
        ),
        "stop",
        json!({"refusal": "No."}),
    );
}

#[test]
fn role_chunk_is_sent_if_the_upstream_omits_response_created() {
    let played = play(
        ASK,
        &[
            added(0, message(json!([]))),
            delta("output_text", 0, "x"),
            completed(json!([message(json!([text("x")]))])),
        ],
    );
    check(&played, "stop", json!({"content": "x"}));
    let played = play(ASK, &[completed(json!([]))]);
    check(&played, "stop", json!({}));
    assert_eq!(
        played.audit.kinds(),
        [
            "response.created",
            "response.in_progress",
            "response.completed"
        ]
    );
}

#[test]
fn annotations_and_logprobs_have_chat_shape() {
    let token = |text: &str| json!({"token": text, "logprob": -0.5, "top_logprobs": [{"token": text, "logprob": -0.5}]});
    let cites = json!({"type": "url_citation", "start_index": 0, "end_index": 1, "url": "https://e.org/?a=\"b\"", "title": "T"});
    let cited = json!({"type": "url_citation", "url_citation": {"start_index": 0, "end_index": 1, "url": "https://e.org/?a=\"b\"", "title": "T"}});
    let mut first = delta("output_text", 0, "a");
    first["logprobs"] = json!([token("a")]);
    let mut second = delta("output_text", 0, "b");
    second["logprobs"] = json!([]);
    let part = json!({"type": "output_text", "text": "ab", "annotations": [cites, {"type": "file_citation", "file_id": "f"}], "logprobs": [token("a")]});
    let played = play(
        ASK,
        &[
            created(),
            added(0, message(json!([]))),
            first,
            second,
            json!({"type": "response.output_text.annotation.added", "output_index": 0, "content_index": 0, "annotation_index": 0, "annotation": cites}),
            json!({"type": "response.output_text.annotation.added", "output_index": 0, "content_index": 0, "annotation_index": 1, "annotation": {"type": "file_citation", "file_id": "f"}}),
            completed(json!([message(json!([part]))])),
        ],
    );
    check(
        &played,
        "stop",
        json!({"content": "ab", "annotations": [cited]}),
    );
    let found: Vec<&Value> = played
        .chunks
        .iter()
        .map(|chunk| &chunk["choices"][0]["logprobs"])
        .filter(|logprobs| !logprobs.is_null())
        .collect();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["content"][0]["bytes"], json!([97]));
    assert_eq!(
        found[0]["content"][0]["top_logprobs"][0]["bytes"],
        json!([97])
    );
    assert_eq!(
        &played.completion.unwrap()["choices"][0]["logprobs"],
        found[0]
    );
}

#[test]
fn events_without_chat_counterpart_are_skipped() {
    let search = json!({"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}});
    let other =
        json!({"type": "mcp_call", "id": "c", "server_label": "s", "name": "n", "output": "x"});
    let played = play(
        ASK,
        &[
            created(),
            added(0, search.clone()),
            json!({"type": "response.web_search_call.searching", "output_index": 0, "item_id": "ws_1"}),
            done(0, search.clone()),
            json!({"type": "response.something_new", "strange": {"a": 1}}),
            json!({"type": "keepalive"}),
            added(1, json!({"type": "of_the_future"})),
            done(1, other.clone()),
            added(2, message(json!([]))),
            delta("output_text", 2, "x"),
            completed(json!([search, other, message(json!([text("x")]))])),
        ],
    );
    check(&played, "stop", json!({"content": "x"}));
    assert_eq!(
        played
            .audit
            .events_of("response.something_new")
            .next()
            .unwrap()["strange"],
        json!({"a": 1})
    );
    assert_eq!(
        played
            .audit
            .events_of("response.web_search_call.searching")
            .count(),
        1
    );
    assert_eq!(played.audit.object["output"][0]["action"]["query"], "q");
}

#[test]
fn endings_map_to_chat_finish_reasons() {
    let incomplete = |reason: &str| {
        let mut object = response("incomplete", json!([message(json!([text("x")]))]));
        object["incomplete_details"] = json!({"reason": reason});
        json!({"type": "response.incomplete", "response": object})
    };
    for (reason, finish_reason) in [
        ("max_output_tokens", "length"),
        ("content_filter", "content_filter"),
    ] {
        let played = play(
            ASK,
            &[
                created(),
                added(0, message(json!([]))),
                delta("output_text", 0, "x"),
                incomplete(reason),
            ],
        );
        check(&played, finish_reason, json!({"content": "x"}));
    }
    let mut object = response("failed", json!([]));
    object["error"] = json!({"code": "server_error", "message": "Broken."});
    for (last, code) in [
        (
            vec![json!({"type": "response.failed", "response": object})],
            "server_error",
        ),
        (
            vec![json!({"type": "error", "code": "overloaded", "message": "Too much."})],
            "overloaded",
        ),
        (vec![], "upstream_truncated"),
    ] {
        let events: Vec<Value> = [
            created(),
            added(0, message(json!([]))),
            delta("output_text", 0, "x"),
        ]
        .into_iter()
        .chain(last)
        .collect();
        let played = play(COUNTED, &events);
        assert!(
            played.completion.is_none() && finish(&played).is_none(),
            "{code}: a failure looks finished"
        );
        assert_eq!(
            serde_json::from_str::<Value>(&played.last).unwrap()["error"]["code"],
            code
        );
        assert_eq!(deltas(&played), [role(), json!({"content": "x"})]);
        let object = &played.audit.object;
        assert_eq!(
            (&object["status"], &object["error"]["code"]),
            (&json!("failed"), &json!(code))
        );
        // Received text is kept, also if the upstream's own object lacks it.
        assert_eq!(
            object["output"][0]["content"][0]["text"], "x",
            "{code}: {object}"
        );
    }
}

#[test]
fn text_before_a_failure_is_kept_as_incomplete() {
    let mut open = message(json!([]));
    open["status"] = json!("in_progress");
    let part = json!({"type": "response.content_part.added", "output_index": 0, "content_index": 0, "part": text("")});
    let played = play(
        ASK,
        &[
            created(),
            added(0, open),
            part,
            delta("output_text", 0, "half"),
        ],
    );
    let item = &played.audit.object["output"][0];
    assert_eq!(
        (&item["status"], &item["content"][0]["text"]),
        (&json!("incomplete"), &json!("half"))
    );
}

#[test]
fn resumed_reader_continues_at_its_number() {
    // `Audit::of` reads from every position; this checks that the numbers are the log's.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let test = TestEngine::new(EngineOptions {
            api: Api::Responses,
            ..EngineOptions::default()
        });
        let started = test.start(COUNTED);
        let call = test.upstream.call().await;
        for event in [
            created(),
            added(0, message(json!([]))),
            delta("output_text", 0, "a"),
            delta("output_text", 0, "b"),
            completed(json!([])),
        ] {
            call.data(&event.to_string());
        }
        call.end(BodyEnd::Clean);
        started.guard.generation().ended().await;
        let mut reader = Reader::new(started.guard, 5, Dialect::Chat);
        reader.read_now();
        let lines = reader.lines();
        let numbers: Vec<u64> = lines.iter().map(|line| line.seq).collect();
        // b; then finish and usage, whose numbers the terminal event skips, and `[DONE]`. Before them
        // are the three events that close the message.
        assert_eq!(numbers, [5, 9, 10, 11]);
        assert!(lines[0].data.contains(r#""content":"b""#) && lines[3].data == "[DONE]");
        assert!(lines[1].data.contains(r#""finish_reason":"stop""#));
        assert!(lines[2].data.contains(r#""choices":[],"usage":{"#));
    });
}

#[tokio::test(start_paused = true)]
async fn unsupported_request_starts_nothing() {
    let test = TestEngine::new(EngineOptions {
        api: Api::Responses,
        ..EngineOptions::default()
    });
    let error = test
        .try_start(r#"{"messages":[{"role":"user","content":"hi"}],"stop":"x"}"#)
        .expect_err("a refusal");
    assert!(error.is(ErrorCode::UnsupportedParameter) && error.param.as_deref() == Some("stop"));
    assert_eq!(
        (
            test.upstream.waiting(),
            test.engine.registry().open(),
            test.engine.registry().len()
        ),
        (0, 0, 0)
    );
}

/// Random events: any order, any index, members missing.
fn any_event() -> impl Strategy<Value = Value> {
    let kinds = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.output_item.done",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.output_text.annotation.added",
        "response.refusal.delta",
        "response.refusal.done",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.of_the_future",
        "keepalive",
    ];
    let text = || {
        prop_oneof![
            ".{0,3}".prop_map(Value::from),
            Just(Value::Null),
            Just(json!(7))
        ]
    };
    let item = prop_oneof![
        text().prop_map(|text| message(json!([{"type": "output_text", "text": text}, {"type": "refusal", "refusal": "r"}]))),
        text().prop_map(|text| json!({"type": "function_call", "call_id": text, "name": text, "arguments": text})),
        Just(json!({"type": "web_search_call"})),
        Just(json!([])),
    ];
    (proptest::sample::select(kinds.to_vec()), 0_u64..3, text(), item, any::<bool>()).prop_map(|(kind, index, text, item, sound)| {
        let mut event = json!({"type": kind, "output_index": index, "content_index": index % 2, "summary_index": index, "delta": text,
            "text": text, "refusal": text, "arguments": text, "item": item, "response": response("in_progress", json!([])),
            "annotation": {"type": "url_citation", "url": text}, "part": {"type": "output_text", "text": ""}, "logprobs": [{"token": text}]});
        if !sound {
            for name in ["output_index", "item", "response"] {
                event.as_object_mut().unwrap().remove(name);
            }
        }
        event
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn any_event_sequence_renders_chunks_and_one_end(events in proptest::collection::vec(any_event(), 0..24), ends in any::<bool>()) {
        let events: Vec<Value> = events.into_iter().chain(ends.then(|| completed(json!([message(json!([text("x")]))])))).collect();
        // `play` reads every chunk, checks its frame, and audits the stream from every position.
        let played = play(COUNTED, &events);
        prop_assert_eq!(played.last == "[DONE]", ends);
        prop_assert_eq!(played.completion.is_some(), ends);
        prop_assert_eq!(finish(&played).is_some(), ends);
        let roles = deltas(&played).iter().filter(|delta| delta.get("role").is_some()).count();
        prop_assert_eq!(roles, usize::from(!events.is_empty()), "the role is said once, first");
        prop_assert!(played.chunks.first().is_none_or(|chunk| chunk["choices"][0]["delta"] == role()));
    }
}
