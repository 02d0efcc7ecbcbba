//! Requests through the canonical form: what they mean in the other language, and that the bytes
//! for a prefix of a conversation are the same in every turn.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokenwire_core::model::error::ApiError;
use tokenwire_core::model::snapshot::Api;
use tokenwire_core::request::chat::{
    ChatSettings, CustomTools, DeveloperRole, MaxTokensField, ReasoningBack, ReasoningField,
    StreamOptions, UnsupportedTools,
};
use tokenwire_core::request::{ChatRequest, ResponsesRequest};
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_core::upstream::{
    OpenError, Refusal, RetryBudget, RetryPolicy, Route, Router, RouterOptions, Target,
};
use tokenwire_testkit::{
    Call, EngineOptions, OpeningPlan, ScriptedUpstream, TestEngine, no_timeouts, settle,
};

fn on_paused_clock(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(test);
}

fn value(json: &[u8]) -> Value {
    serde_json::from_slice(json).unwrap()
}

/// Settings of a server that has everything, so that nothing is lost on the way.
const RICH: ChatSettings = ChatSettings {
    max_tokens_field: MaxTokensField::MaxCompletionTokens,
    reasoning_back: ReasoningBack::Never,
    developer_role: DeveloperRole::Developer,
    unsupported_tools: UnsupportedTools::Refuse,
    custom_tools: CustomTools::Custom,
    stream_options: StreamOptions::Send,
};

fn to_chat(body: &Value, settings: &ChatSettings) -> Result<Value, ApiError> {
    let request = ResponsesRequest::parse(body.to_string().as_bytes())?;
    let chat = request.to_chat(&[], "m", settings)?;
    Ok(value(&chat.body))
}

fn to_responses(body: &Value) -> Result<Value, ApiError> {
    let request = ChatRequest::parse(body.to_string().as_bytes())?;
    Ok(value(&request.to_responses("m")?))
}

// === there and back ===

fn word() -> impl Strategy<Value = String> {
    "[a-z]{1,6}"
}

/// A text that is not empty: an empty one is no message in either language.
fn text() -> impl Strategy<Value = String> {
    ".{1,12}"
}

/// Name, input and output of a call, and whether it is of a custom tool.
type Exchange = (String, String, String, bool);

/// What the user says, the calls, and what the assistant says.
type Round = (String, Vec<Exchange>, String);

fn exchange() -> impl Strategy<Value = Exchange> {
    (word(), text(), text(), any::<bool>())
}

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    proptest::collection::vec(
        (text(), proptest::collection::vec(exchange(), 0..3), text()),
        1..4,
    )
}

fn settings_of_both() -> impl Strategy<Value = Value> {
    proptest::collection::hash_map(
        proptest::sample::select(vec![
            "temperature",
            "user",
            "safety_identifier",
            "prompt_cache_key",
            "service_tier",
            "parallel_tool_calls",
        ]),
        0..10u32,
        0..6,
    )
    .prop_map(|chosen| {
        let mut members = json!({});
        for (name, number) in chosen {
            members[name] = match name {
                "temperature" => json!(f64::from(number) / 10.0),
                "parallel_tool_calls" => json!(number > 4),
                _ => json!(format!("value {number}")),
            };
        }
        members
    })
}

fn chat_tools() -> Value {
    json!([
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": true}},
        {"type": "custom", "custom": {"name": "c", "description": "d", "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: \"a\""}}}},
    ])
}

fn chat_messages(rounds: &[Round], system: Option<&str>) -> Vec<Value> {
    let mut messages = Vec::new();
    messages.extend(system.map(|text| json!({"role": "system", "content": text})));
    for (number, (asked, calls, said)) in rounds.iter().enumerate() {
        messages.push(json!({"role": "user", "content": asked}));
        let id = |at: usize| format!("call_{number}_{at}");
        if !calls.is_empty() {
            let list: Vec<Value> = calls
                .iter()
                .enumerate()
                .map(|(at, (name, input, _, custom))| {
                    if *custom {
                        json!({"id": id(at), "type": "custom", "custom": {"name": name, "input": input}})
                    } else {
                        json!({"id": id(at), "type": "function", "function": {"name": name, "arguments": input}})
                    }
                })
                .collect();
            messages.push(json!({"role": "assistant", "content": null, "tool_calls": list}));
            for (at, (_, _, output, _)) in calls.iter().enumerate() {
                messages.push(json!({"role": "tool", "tool_call_id": id(at), "content": output}));
            }
        }
        messages.push(json!({"role": "assistant", "content": said}));
    }
    messages
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn chat_request_keeps_its_meaning_through_responses_and_back(
        rounds in rounds(),
        system in proptest::option::of(text()),
        members in settings_of_both(),
        limit in proptest::option::of(1..1000u32),
    ) {
        let mut body = members;
        body["messages"] = json!(chat_messages(&rounds, system.as_deref()));
        body["tools"] = chat_tools();
        body["tool_choice"] = json!({"type": "custom", "custom": {"name": "c"}});
        body["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": true}});
        body["verbosity"] = json!("low");
        body["reasoning_effort"] = json!("high");
        body["logprobs"] = json!(true);
        body["top_logprobs"] = json!(2);
        if let Some(limit) = limit {
            body["max_completion_tokens"] = json!(limit);
        }
        let there = to_responses(&body).unwrap();
        let back = to_chat(&there, &RICH).unwrap();
        for (name, member) in body.as_object().unwrap() {
            prop_assert_eq!(&back[name], member, "{}", name);
        }
    }

    #[test]
    fn responses_request_keeps_its_meaning_through_chat_and_back(
        rounds in rounds(),
        instructions in text(),
        members in settings_of_both(),
    ) {
        let mut items = Vec::new();
        for (number, (asked, calls, said)) in rounds.iter().enumerate() {
            items.push(json!({"type": "message", "role": "user", "content": asked}));
            let id = |at: usize| format!("call_{number}_{at}");
            for (at, (name, input, _, custom)) in calls.iter().enumerate() {
                items.push(if *custom {
                    json!({"type": "custom_tool_call", "call_id": id(at), "name": name, "input": input})
                } else {
                    json!({"type": "function_call", "call_id": id(at), "name": name, "arguments": input})
                });
            }
            for (at, (_, _, output, custom)) in calls.iter().enumerate() {
                let kind = if *custom { "custom_tool_call_output" } else { "function_call_output" };
                items.push(json!({"type": kind, "call_id": id(at), "output": output}));
            }
            items.push(json!({"type": "message", "role": "assistant", "content": said}));
        }
        let mut body = members;
        body["input"] = json!(items);
        body["instructions"] = json!(instructions);
        body["tools"] = json!([
            {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": true},
            {"type": "custom", "name": "c", "format": {"type": "grammar", "syntax": "regex", "definition": "a+"}},
        ]);
        body["tool_choice"] = json!({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "c"}, {"type": "function", "name": "f"}]});
        body["text"] = json!({"format": {"type": "json_object"}, "verbosity": "low"});
        body["reasoning"] = json!({"effort": "low"});
        body["include"] = json!(["message.output_text.logprobs"]);
        body["max_output_tokens"] = json!(9);
        let there = to_chat(&body, &RICH).unwrap();
        let back = to_responses(&there).unwrap();
        for (name, member) in body.as_object().unwrap() {
            match name.as_str() {
                "instructions" => {}
                "input" => {
                    let system = json!({"type": "message", "role": "system", "content": instructions});
                    let list = back["input"].as_array().unwrap();
                    prop_assert_eq!(&list[0], &system);
                    prop_assert_eq!(&list[1..], member.as_array().unwrap().as_slice());
                }
                _ => prop_assert_eq!(&back[name], member, "{}", name),
            }
        }
    }
}

// === every pair ===

/// Starts a request and returns the body that the upstream gets.
fn sent(api: Api, body: &Value) -> Value {
    let mut found = Value::Null;
    on_paused_clock(async {
        let test = TestEngine::new(EngineOptions {
            api,
            ..EngineOptions::default()
        });
        let started = test.start(&body.to_string());
        found = test.upstream.call().await.body();
        drop(started);
    });
    found
}

#[test]
fn settings_reach_the_upstream_through_every_pair_of_languages() {
    let logprobs = json!(["message.output_text.logprobs"]);
    // The member of a chat request, that of a responses request, and what each upstream gets.
    // `null`: the upstream has no such member.
    let table = [
        ("service_tier", json!("flex"), "service_tier", json!("flex")),
        (
            "prompt_cache_key",
            json!("k"),
            "prompt_cache_key",
            json!("k"),
        ),
        (
            "safety_identifier",
            json!("s"),
            "safety_identifier",
            json!("s"),
        ),
        ("user", json!("u"), "user", json!("u")),
        ("temperature", json!(0.5), "temperature", json!(0.5)),
        ("top_p", json!(0.5), "top_p", json!(0.5)),
        ("logprobs", json!(true), "include", logprobs),
        (
            "max_completion_tokens",
            json!(7),
            "max_output_tokens",
            json!(7),
        ),
        (
            "parallel_tool_calls",
            json!(false),
            "parallel_tool_calls",
            json!(false),
        ),
        (
            "reasoning_effort",
            json!("low"),
            "reasoning",
            json!({"effort": "low"}),
        ),
        (
            "verbosity",
            json!("low"),
            "text",
            json!({"verbosity": "low"}),
        ),
        ("metadata", json!({"a": "b"}), "metadata", json!({"a": "b"})),
    ];
    for (chat, chat_value, responses, responses_value) in table {
        let mut from_chat = json!({"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function", "function": {"name": "f"}}]});
        from_chat[chat] = chat_value.clone();
        let mut from_responses =
            json!({"input": "x", "tools": [{"type": "function", "name": "f"}]});
        from_responses[responses] = responses_value.clone();
        for (api, name, expected) in [
            (Api::Chat, chat, &chat_value),
            (Api::Responses, responses, &responses_value),
        ] {
            assert_eq!(
                &sent(api, &from_chat)[name],
                expected,
                "chat {chat} to {api:?}"
            );
            // Chat servers keep no metadata. It stays in the response object.
            let expected = if api == Api::Chat && chat == "metadata" {
                &Value::Null
            } else {
                expected
            };
            let mut found = sent(api, &from_responses)[name].clone();
            if api == Api::Responses && name == "include" {
                // The gateway asks for encrypted reasoning on top.
                let values = found.as_array_mut().unwrap();
                values.retain(|value| value != "reasoning.encrypted_content");
            }
            assert_eq!(&found, expected, "responses {responses} to {api:?}");
        }
    }
}

#[test]
fn metadata_and_settings_are_repeated_by_the_response_object() {
    on_paused_clock(async {
        for api in [Api::Chat, Api::Responses] {
            let test = TestEngine::new(EngineOptions {
                api,
                ..EngineOptions::default()
            });
            let asked = json!({"input": "x", "metadata": {"a": "b"}, "service_tier": "flex", "prompt_cache_key": "k"});
            let started = test.start(&asked.to_string());
            let object = value(&started.guard.generation().response_json());
            for name in ["metadata", "service_tier", "prompt_cache_key"] {
                assert_eq!(object[name], asked[name], "{name} over {api:?}");
            }
        }
    });
}

// === prefixes ===

/// What happens in one turn of a conversation.
#[derive(Clone, Debug)]
struct Turn {
    /// Whether a developer speaks before the rest.
    developer: Option<String>,
    /// Whether a developer stands between the calls and their outputs.
    between: bool,
    /// Whether outputs hold an image.
    image: bool,
    /// What the user says, as parts.
    user: Vec<String>,
    reasoning: Option<String>,
    answer: Option<String>,
    calls: usize,
}

fn turn() -> impl Strategy<Value = Turn> {
    (
        proptest::option::weighted(0.3, text()),
        any::<bool>(),
        any::<bool>(),
        proptest::collection::vec(text(), 1..3),
        proptest::option::of(text()),
        proptest::option::of(text()),
        0..3usize,
    )
        .prop_map(
            |(developer, between, image, user, reasoning, answer, calls)| Turn {
                developer,
                between,
                image,
                user,
                reasoning,
                answer,
                calls,
            },
        )
}

/// The input of a turn: outputs of the calls of the one before, or what the user says.
fn input(turn: &Turn, number: usize, open_calls: &[String]) -> Vec<Value> {
    let mut items = Vec::new();
    if let Some(text) = turn
        .developer
        .as_ref()
        .filter(|_| open_calls.is_empty() || turn.between)
    {
        items.push(json!({"role": "developer", "content": text}));
    }
    // In another order than that of the calls.
    for id in open_calls.iter().rev() {
        let output = if turn.image {
            json!([{"type": "input_text", "text": format!("out {number}")}, {"type": "input_image", "image_url": "data:image/png;base64,AA=="}])
        } else {
            json!(format!("out {number}"))
        };
        items.push(json!({"type": "function_call_output", "call_id": id, "output": output}));
    }
    if open_calls.is_empty() {
        let parts: Vec<Value> = turn
            .user
            .iter()
            .map(|text| json!({"type": "input_text", "text": text}))
            .collect();
        items.push(json!({"role": "user", "content": parts}));
    }
    items
}

/// Answers as a chat server does. Returns the ids of the calls.
fn answer(call: &Call, turn: &Turn, number: usize) -> Vec<String> {
    let chunk = |delta: Value, finish: Value| {
        json!({"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}).to_string()
    };
    if let Some(text) = &turn.reasoning {
        call.data(&chunk(json!({"reasoning_content": text}), Value::Null));
    }
    let silent = turn.calls == 0 && turn.answer.is_none();
    if let Some(text) = turn.answer.clone().or(silent.then(|| "ok".to_owned())) {
        call.data(&chunk(json!({"content": text}), Value::Null));
    }
    let ids: Vec<String> = (0..turn.calls)
        .map(|at| format!("call_{number}_{at}"))
        .collect();
    for (at, id) in ids.iter().enumerate() {
        call.data(&chunk(
            json!({"tool_calls": [{"index": at, "id": id, "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}]}),
            Value::Null,
        ));
    }
    let reason = if ids.is_empty() { "stop" } else { "tool_calls" };
    call.data(&chunk(json!({}), json!(reason)));
    call.done().end(BodyEnd::Clean);
    ids
}

/// Plays the turns. `by_reference` names the previous response; else all items are sent again.
/// Returns the messages of each request, as bytes.
fn play(turns: &[Turn], by_reference: bool) -> Vec<String> {
    let mut sent = Vec::new();
    on_paused_clock(async {
        let test = TestEngine::new(EngineOptions::default());
        let (mut previous, mut items, mut open_calls) = (None::<String>, Vec::new(), Vec::new());
        for (number, turn) in turns.iter().enumerate() {
            let new = input(turn, number, &open_calls);
            items.extend(new.clone());
            let mut body = json!({"instructions": "Be brief.", "input": if by_reference { &new } else { &items }});
            if let Some(id) = previous.as_ref().filter(|_| by_reference) {
                body["previous_response_id"] = json!(id);
            }
            let started = test.start(&body.to_string());
            let call = test.upstream.call().await;
            let members: HashMap<String, &RawValue> =
                serde_json::from_slice(&call.request().body).unwrap();
            sent.push(members["messages"].get().to_owned());
            open_calls = answer(&call, turn, number);
            let generation = started.guard.generation().clone();
            generation.ended().await;
            settle().await;
            let object = value(&generation.response_json());
            items.extend(object["output"].as_array().unwrap().clone());
            previous = Some(generation.meta().id.to_string());
        }
    });
    sent
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn bytes_of_a_prefix_are_the_same_in_every_turn(
        turns in proptest::collection::vec(turn(), 2..6),
        by_reference: bool,
    ) {
        let sent = play(&turns, by_reference);
        for pair in sent.windows(2) {
            let prefix = pair[0].strip_suffix(']').unwrap();
            prop_assert!(pair[1].starts_with(prefix), "{}\n{}", pair[0], pair[1]);
        }
        // Every output directly follows the message that called.
        for messages in &sent {
            let messages: Vec<Value> = serde_json::from_str(messages).unwrap();
            for pair in messages.windows(2) {
                if pair[0].get("tool_calls").is_some() {
                    prop_assert_eq!(&pair[1]["role"], "tool");
                }
            }
        }
    }
}

// === tools ===

#[test]
fn custom_tool_and_namespace_are_functions_for_a_chat_server() {
    let body = json!({"input": [
        {"role": "user", "content": "x"},
        {"type": "custom_tool_call", "call_id": "1", "name": "patch", "input": "a\n\"b\""},
        {"type": "custom_tool_call_output", "call_id": "1", "output": "done"},
        {"type": "function_call", "call_id": "2", "namespace": "crm", "name": "list", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "2", "output": "none"},
    ], "tools": [
        {"type": "custom", "name": "patch", "description": "Applies it.", "format": {"type": "grammar", "syntax": "lark", "definition": "start: /x/"}},
        {"type": "namespace", "name": "crm", "description": "Customers.", "tools": [
            {"type": "function", "name": "list", "parameters": {"type": "object"}, "defer_loading": true}]},
    ], "tool_choice": {"type": "custom", "name": "patch"}});
    let chat = to_chat(&body, &ChatSettings::default()).unwrap();
    assert_eq!(
        chat["messages"],
        json!([
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "patch", "arguments": "{\"input\":\"a\\n\\\"b\\\"\"}"}}]},
            {"role": "tool", "content": "done", "tool_call_id": "1"},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "2", "type": "function", "function": {"name": "crm__list", "arguments": "{}"}}]},
            {"role": "tool", "content": "none", "tool_call_id": "2"},
        ])
    );
    assert_eq!(chat["tools"][0]["function"]["name"], "patch");
    let parameters = &chat["tools"][0]["function"]["parameters"];
    assert_eq!(parameters["required"], json!(["input"]));
    let about = parameters["properties"]["input"]["description"]
        .as_str()
        .unwrap();
    assert!(
        about.contains("lark") && about.contains("start: /x/"),
        "{about}"
    );
    assert_eq!(
        chat["tools"][1],
        json!({"type": "function", "function": {"name": "crm__list", "parameters": {"type": "object"}}})
    );
    assert_eq!(
        chat["tool_choice"],
        json!({"type": "function", "function": {"name": "patch"}})
    );
    let native = to_chat(&body, &RICH).unwrap();
    assert_eq!(native["tools"][0]["type"], "custom");
    assert_eq!(
        native["messages"][1]["tool_calls"][0]["custom"]["input"],
        "a\n\"b\""
    );
}

#[test]
fn calls_come_back_as_the_tools_that_the_client_declared() {
    on_paused_clock(async {
        let test = TestEngine::new(EngineOptions::default());
        let started = test.start(
            &json!({"input": "x", "tools": [
                {"type": "custom", "name": "patch"},
                {"type": "namespace", "name": "crm", "tools": [{"type": "function", "name": "list"}]},
                {"type": "function", "name": "plain"},
            ]})
            .to_string(),
        );
        let call = test.upstream.call().await;
        let chunk = |calls: Value| {
            json!({"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"tool_calls": calls}, "finish_reason": null}]}).to_string()
        };
        call.data(&chunk(json!([{"index": 0, "id": "1", "type": "function", "function": {"name": "patch", "arguments": ""}}])));
        for piece in [
            "{\"inp",
            "ut\": \"one",
            "\\",
            "ntwo \\\"",
            "x\\\"",
            "\"",
            "}",
        ] {
            call.data(&chunk(
                json!([{"index": 0, "function": {"arguments": piece}}]),
            ));
        }
        call.data(&chunk(json!([{"index": 1, "id": "2", "type": "function", "function": {"name": "crm__list", "arguments": "{}"}}])));
        call.data(&chunk(json!([{"index": 2, "id": "3", "type": "function", "function": {"name": "plain", "arguments": "{\"a\":1}"}}])));
        call.finish("tool_calls").done().end(BodyEnd::Clean);
        let generation = started.guard.generation().clone();
        generation.ended().await;
        let mut reader = tokenwire_testkit::Reader::new(
            started.guard,
            0,
            tokenwire_core::dialect::Dialect::Responses,
        );
        reader.read_to_end().await.unwrap();
        let events: Vec<Value> = reader
            .lines()
            .iter()
            .filter(|line| line.data.starts_with('{'))
            .map(tokenwire_testkit::Line::json)
            .collect();
        let input: String = events
            .iter()
            .filter(|event| event["type"] == "response.custom_tool_call_input.delta")
            .map(|event| event["delta"].as_str().unwrap())
            .collect();
        assert_eq!(input, "one\ntwo \"x\"");
        let done = events
            .iter()
            .find(|event| event["type"] == "response.custom_tool_call_input.done")
            .unwrap();
        assert_eq!(done["input"], "one\ntwo \"x\"");
        let output = value(&generation.response_json())["output"].clone();
        let shown: Vec<(&str, &str, Option<&str>)> = output
            .as_array()
            .unwrap()
            .iter()
            .map(|item| {
                (
                    item["type"].as_str().unwrap(),
                    item["name"].as_str().unwrap(),
                    item["namespace"].as_str(),
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("custom_tool_call", "patch", None),
                ("function_call", "list", Some("crm")),
                ("function_call", "plain", None),
            ]
        );
        assert_eq!(output[0]["input"], "one\ntwo \"x\"");
        assert_eq!(output[2]["arguments"], "{\"a\":1}");
        // The next turn sends the calls as the server knows them.
        settle().await;
        let next = json!({"previous_response_id": generation.meta().id.as_str(), "input": [
            {"type": "custom_tool_call_output", "call_id": "1", "output": "a"},
            {"type": "function_call_output", "call_id": "2", "output": "b"},
            {"type": "function_call_output", "call_id": "3", "output": "c"},
        ]});
        let _next = test.start(&next.to_string());
        let body = test.upstream.call().await.body();
        let names: Vec<&Value> = body["messages"][1]["tool_calls"]
            .as_array()
            .unwrap()
            .iter()
            .map(|call| &call["function"]["name"])
            .collect();
        assert_eq!(names, ["patch", "crm__list", "plain"]);
        assert_eq!(body["messages"].as_array().unwrap().len(), 5);
    });
}

#[test]
fn built_in_tools_are_refused_or_dropped_by_setting() {
    let body = json!({"input": "x", "tools": [{"type": "web_search"}, {"type": "function", "name": "f"}, {"type": "web_search"}],
        "tool_choice": {"type": "web_search"}});
    let error = to_chat(&body, &ChatSettings::default()).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("tools[0].type"));
    let drop = ChatSettings {
        unsupported_tools: UnsupportedTools::Drop,
        ..ChatSettings::default()
    };
    let request = ResponsesRequest::parse(body.to_string().as_bytes()).unwrap();
    let chat = request.to_chat(&[], "m", &drop).unwrap();
    assert_eq!(chat.dropped_tools, ["web_search"]);
    let sent = value(&chat.body);
    assert_eq!(
        (sent["tools"].as_array().map(Vec::len), &sent["tool_choice"]),
        (Some(1), &Value::Null)
    );
}

// === settings of an upstream ===

#[test]
fn reasoning_goes_back_in_turns_that_called_tools() {
    let kept = |private: Value| json!({"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}], "tokenwire": private});
    let check = |reasoning: Value, back: ReasoningBack, expected: &[(&str, Value)]| {
        let body = json!({"input": [
            {"role": "user", "content": "x"}, reasoning,
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": "o"},
            {"role": "user", "content": "y"},
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "not sent"}]},
            {"role": "assistant", "content": "z"},
            {"role": "user", "content": "!"},
        ]});
        let settings = ChatSettings {
            reasoning_back: back,
            ..ChatSettings::default()
        };
        let mut message = to_chat(&body, &settings).unwrap()["messages"].clone();
        assert_eq!(message[4], json!({"role": "assistant", "content": "z"}));
        let message = message[1].as_object_mut().unwrap();
        for name in ["role", "content", "tool_calls"] {
            message.remove(name);
        }
        let found: Vec<(&str, Value)> = message
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone()))
            .collect();
        assert_eq!(found, expected, "{back:?}");
    };
    let plain = json!({"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]});
    let received = ReasoningBack::AsReceived(Some(ReasoningField::ReasoningContent));
    let unknown = ReasoningBack::AsReceived(None);
    let content = ReasoningBack::As(ReasoningField::ReasoningContent);
    check(
        plain.clone(),
        received,
        &[("reasoning_content", json!("hm"))],
    );
    check(plain.clone(), unknown, &[]);
    check(plain.clone(), ReasoningBack::Never, &[]);
    check(
        kept(json!({"field": "reasoning"})),
        received,
        &[("reasoning", json!("hm"))],
    );
    check(
        kept(json!({"field": "reasoning"})),
        unknown,
        &[("reasoning", json!("hm"))],
    );
    check(
        kept(json!({"field": "reasoning"})),
        content,
        &[("reasoning_content", json!("hm"))],
    );
    check(
        kept(json!({"field": "reasoning_details", "value": [{"text": "hm", "signature": "s"}]})),
        received,
        &[(
            "reasoning_details",
            json!([{"text": "hm", "signature": "s"}]),
        )],
    );
    check(
        kept(json!({"field": "reasoning", "fields": {"reasoning_details": [{"text": "hm"}]}})),
        received,
        &[
            ("reasoning", json!("hm")),
            ("reasoning_details", json!([{"text": "hm"}])),
        ],
    );
    // A name that is no reasoning would replace another member of the message.
    check(kept(json!({"field": "role"})), unknown, &[]);
    let none = json!({"type": "reasoning", "summary": []});
    check(none.clone(), received, &[]);
    check(none, content, &[("reasoning_content", json!(""))]);
}

#[test]
fn stream_options_are_left_out_where_the_server_refuses_them() {
    let body = json!({"input": "x"});
    let sent = to_chat(&body, &ChatSettings::default()).unwrap();
    assert_eq!(sent["stream_options"], json!({"include_usage": true}));
    let mistral = ChatSettings::for_url("https://api.mistral.ai/v1");
    let sent = to_chat(&body, &mistral).unwrap();
    assert_eq!(
        (&sent["stream"], &sent["stream_options"]),
        (&json!(true), &Value::Null)
    );
}

#[test]
fn reasoning_after_its_calls_goes_back_with_them() {
    let reasoning = |text: &str| json!({"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]});
    let call =
        |id: &str| json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"});
    let output = |id: &str| json!({"type": "function_call_output", "call_id": id, "output": "o"});
    let body = json!({"input": [
        {"role": "user", "content": "x"},
        call("1"), call("2"), reasoning("a"), output("2"), output("1"),
        reasoning("b"), call("3"), output("3"),
        {"role": "assistant", "content": "z"}, reasoning("c"),
        {"role": "user", "content": "y"},
        {"role": "assistant", "content": "!"},
    ]});
    let sent = to_chat(&body, &ChatSettings::default()).unwrap();
    let messages = sent["messages"].as_array().unwrap();
    let seen: Vec<(&str, &Value)> = messages
        .iter()
        .map(|message| {
            (
                message["role"].as_str().unwrap(),
                &message["reasoning_content"],
            )
        })
        .collect();
    let none = &Value::Null;
    assert_eq!(
        seen,
        [
            ("user", none),
            ("assistant", &json!("a")),
            ("tool", none),
            ("tool", none),
            ("assistant", &json!("b")),
            ("tool", none),
            ("assistant", &json!("c")),
            ("user", none),
            ("assistant", none),
        ]
    );
}

#[test]
fn later_developer_messages_stay_in_place_with_the_role_of_the_setting() {
    let body = json!({"max_output_tokens": 5, "input": [
        {"role": "developer", "content": "first"},
        {"role": "user", "content": "x"},
        {"role": "developer", "content": "second"},
    ]});
    let system = to_chat(&body, &ChatSettings::default()).unwrap();
    assert_eq!(
        system["messages"],
        json!([{"role": "system", "content": "first"}, {"role": "user", "content": "x"}, {"role": "system", "content": "second"}])
    );
    assert_eq!(system["max_completion_tokens"], 5);
    let settings = ChatSettings {
        developer_role: DeveloperRole::Developer,
        max_tokens_field: MaxTokensField::MaxTokens,
        ..ChatSettings::default()
    };
    let developer = to_chat(&body, &settings).unwrap();
    assert_eq!(developer["messages"][0]["role"], "developer");
    assert_eq!(developer["messages"][2]["role"], "developer");
    assert_eq!(developer["max_tokens"], 5);
}

#[test]
fn outputs_follow_their_calls_whatever_stands_between() {
    let call =
        |id: &str| json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"});
    let output = |id: &str| json!({"type": "function_call_output", "call_id": id, "output": id});
    let body = json!({"input": [
        {"role": "user", "content": "x"},
        call("1"), call("2"),
        {"role": "developer", "content": "d"},
        output("2"),
        {"role": "user", "content": "y"},
        output("1"),
        call("1"), output("1"), output("lost"),
    ]});
    let messages = to_chat(&body, &ChatSettings::default()).unwrap()["messages"].clone();
    let order: Vec<String> = messages
        .as_array()
        .unwrap()
        .iter()
        .map(|message| {
            format!(
                "{} {}",
                message["role"].as_str().unwrap(),
                message["content"].as_str().unwrap_or("-")
            )
        })
        .collect();
    assert_eq!(
        order,
        [
            "user x",
            "assistant -",
            "tool 1",
            "tool 2",
            "system d",
            "user y",
            "assistant -",
            "tool 1",
            "tool lost"
        ]
    );
}

#[test]
fn retry_elsewhere_is_written_for_the_other_upstream() {
    on_paused_clock(async {
        let target = Target {
            model: "m".to_owned(),
            upstream_model: None,
            api: Api::Chat,
            timeouts: no_timeouts(),
            endpoint: 0,
            queued: false,
            reservation: Default::default(),
        };
        let (near, far) = (
            ScriptedUpstream::new(target.clone()),
            ScriptedUpstream::new(target),
        );
        near.plan(OpeningPlan::Hold);
        let other = ChatSettings {
            max_tokens_field: MaxTokensField::MaxTokens,
            custom_tools: CustomTools::Custom,
            ..ChatSettings::default()
        };
        let routes = vec![
            Route::to(near.clone(), Api::Chat, no_timeouts()),
            Route {
                locality: 1,
                chat: other,
                ..Route::to(far.clone(), Api::Chat, no_timeouts())
            },
        ];
        let retry = RetryPolicy {
            attempts: 1,
            max_wait: Duration::from_secs(1),
            budget_percent: 100,
            ..RetryPolicy::default()
        };
        let router = Router::new(
            routes,
            RouterOptions {
                retry,
                budget: Arc::new(RetryBudget::new(100)),
                ..RouterOptions::default()
            },
        );
        let test = TestEngine::over(EngineOptions::default(), Arc::new(router), near.clone());
        let started = test.start(
            r#"{"model":"m","input":"x","max_output_tokens":5,"tools":[{"type":"custom","name":"c"}]}"#,
        );
        let first = near.call().await;
        assert_eq!(first.body()["max_completion_tokens"], 5);
        assert_eq!(first.body()["tools"][0]["type"], "function");
        first.refuse(OpenError::Refused(Refusal {
            status: 500,
            content_type: None,
            body: "{}".into(),
            headers: Vec::new(),
            should_retry: None,
        }));
        let second = far.call().await.body();
        assert_eq!(
            (&second["max_tokens"], &second["max_completion_tokens"]),
            (&json!(5), &Value::Null)
        );
        assert_eq!(second["tools"][0]["type"], "custom");
        drop(started);
    });
}
