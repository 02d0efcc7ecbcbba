//! Tables of requests and their translations.

use std::collections::HashSet;

use proptest::prelude::*;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::*;
use crate::model::json::{Kind, Members};
use crate::request::{ChatRequest, ChatSettings};

fn request(body: &Value) -> ResponsesRequest {
    ResponsesRequest::parse(body.to_string().as_bytes())
        .unwrap_or_else(|error| panic!("{body}: {error}"))
}

fn raw(value: &Value) -> Box<RawValue> {
    RawValue::from_string(value.to_string()).unwrap()
}

fn value(json: &[u8]) -> Value {
    serde_json::from_slice(json).unwrap()
}

/// A body with `members` beside an input.
fn with(members: &Value) -> Value {
    let mut body = json!({"input": "hi"});
    for (name, member) in members.as_object().unwrap() {
        body[name] = member.clone();
    }
    body
}

fn refs(items: &[Box<RawValue>]) -> Vec<&RawValue> {
    items.iter().map(|item| &**item).collect()
}

/// Checks the translated messages.
fn messages(history: &[Value], body: &Value, expected: &Value) {
    let history: Vec<_> = history.iter().map(raw).collect();
    let chat = request(body)
        .to_chat(&refs(&history), "m", &ChatSettings::default())
        .unwrap_or_else(|error| panic!("{body}: {error}"));
    assert_eq!(value(&chat.body)["messages"], *expected, "{body}");
}

/// Checks the translated members around the conversation, without those of every request.
fn members(given: &Value, expected: &Value) {
    let mut chat = value(
        &request(&with(given))
            .to_chat(&[], "m", &ChatSettings::default())
            .unwrap_or_else(|error| panic!("{given}: {error}"))
            .body,
    );
    let object = chat.as_object_mut().unwrap();
    assert_eq!(object.remove("model"), Some(json!("m")), "{given}");
    assert_eq!(object.remove("stream"), Some(json!(true)), "{given}");
    assert_eq!(
        object.remove("messages"),
        Some(json!([{"role": "user", "content": "hi"}])),
        "{given}"
    );
    if given.get("stream_options").is_none() {
        assert_eq!(
            object.remove("stream_options"),
            Some(json!({"include_usage": true})),
            "{given}"
        );
    }
    assert_eq!(chat, *expected, "{given}");
}

fn assert_refusal(error: &ApiError, body: &Value, code: &str, param: &str) {
    assert_eq!(
        (error.code.as_deref(), error.param.as_deref()),
        (Some(code), Some(param)),
        "{body}: {error}"
    );
    let named = error.message.contains(param) || param == "previous_response_id";
    assert!(named && error.message.ends_with('.'), "{body}: {error}");
}

/// Checks that parsing refuses the body.
fn unreadable(body: &Value, code: &str, param: &str) {
    let error = ResponsesRequest::parse(body.to_string().as_bytes())
        .map(|_| ())
        .unwrap_err();
    assert_refusal(&error, body, code, param);
}

/// Checks that parsing accepts the body and the translation for a chat upstream refuses it.
fn untranslatable(body: &Value, code: &str, param: &str) {
    let error = request(body)
        .to_chat(&[], "m", &ChatSettings::default())
        .map(|_| ())
        .unwrap_err();
    assert_refusal(&error, body, code, param);
}

#[test]
fn types_and_ranges_are_checked_on_parse() {
    unreadable(&json!({}), "missing_required_parameter", "input");
    unreadable(
        &json!({"input": null, "prompt": {"id": "p"}}),
        "missing_required_parameter",
        "input",
    );
    unreadable(&json!({"input": 7}), "invalid_type", "input");
    unreadable(&json!({"input": ["x"]}), "invalid_type", "input[0]");
    unreadable(
        &json!({"input": [{}]}),
        "missing_required_parameter",
        "input[0].type",
    );
    unreadable(
        &json!({"input": [{"type": 1}]}),
        "invalid_type",
        "input[0].type",
    );
    unreadable(
        &json!({"input": [{"type": "message", "content": "x"}]}),
        "missing_required_parameter",
        "input[0].role",
    );
    unreadable(
        &json!({"input": [{"role": "user"}]}),
        "missing_required_parameter",
        "input[0].content",
    );
    unreadable(
        &json!({"input": [{"role": "user", "content": {}}]}),
        "invalid_type",
        "input[0].content",
    );
    unreadable(
        &json!({"input": [{"role": "user", "content": ["x"]}]}),
        "invalid_type",
        "input[0].content[0]",
    );
    unreadable(
        &json!({"input": [{"role": "user", "content": [{}]}]}),
        "missing_required_parameter",
        "input[0].content[0].type",
    );
    unreadable(
        &json!({"input": [{"role": "user", "content": "x", "id": 7}]}),
        "invalid_type",
        "input[0].id",
    );
    unreadable(
        &json!({"input": [{"type": "item_reference"}]}),
        "missing_required_parameter",
        "input[0].id",
    );
    unreadable(&with(&json!({"messages": []})), "invalid_value", "messages");

    for (members, code, param) in [
        (json!({"model": 1}), "invalid_type", "model"),
        (json!({"instructions": []}), "invalid_type", "instructions"),
        (json!({"stream": "yes"}), "invalid_type", "stream"),
        (json!({"background": 1}), "invalid_type", "background"),
        (json!({"store": "no"}), "invalid_type", "store"),
        (json!({"temperature": "hot"}), "invalid_type", "temperature"),
        (json!({"temperature": 2.1}), "invalid_value", "temperature"),
        (json!({"temperature": -0.1}), "invalid_value", "temperature"),
        (json!({"top_p": 1.01}), "invalid_value", "top_p"),
        (json!({"top_logprobs": 21}), "invalid_value", "top_logprobs"),
        (json!({"top_logprobs": 1.5}), "invalid_type", "top_logprobs"),
        (
            json!({"max_output_tokens": 0}),
            "invalid_value",
            "max_output_tokens",
        ),
        (
            json!({"max_output_tokens": "9"}),
            "invalid_type",
            "max_output_tokens",
        ),
        (
            json!({"presence_penalty": 3}),
            "invalid_value",
            "presence_penalty",
        ),
        (json!({"tools": {}}), "invalid_type", "tools"),
        (json!({"tools": [1]}), "invalid_type", "tools[0]"),
        (json!({"tool_choice": true}), "invalid_type", "tool_choice"),
        (json!({"include": "x"}), "invalid_type", "include"),
        (json!({"include": [1]}), "invalid_type", "include[0]"),
        (json!({"text": "x"}), "invalid_type", "text"),
        (
            json!({"text": {"format": "json"}}),
            "invalid_type",
            "text.format",
        ),
        (
            json!({"text": {"verbosity": 1}}),
            "invalid_type",
            "text.verbosity",
        ),
        (json!({"reasoning": "low"}), "invalid_type", "reasoning"),
        (
            json!({"reasoning": {"effort": 1}}),
            "invalid_type",
            "reasoning.effort",
        ),
        (
            json!({"stream_options": {"include_obfuscation": "no"}}),
            "invalid_type",
            "stream_options.include_obfuscation",
        ),
        (json!({"metadata": []}), "invalid_type", "metadata"),
        (json!({"metadata": {"k": 1}}), "invalid_type", "metadata.k"),
        (
            json!({"metadata": {"k": "v".repeat(513)}}),
            "invalid_value",
            "metadata.k",
        ),
        (json!({"webhook": "https://x"}), "invalid_type", "webhook"),
        (
            json!({"webhook": {}}),
            "missing_required_parameter",
            "webhook.url",
        ),
        (
            json!({"webhook": {"url": 7}}),
            "invalid_type",
            "webhook.url",
        ),
        (
            json!({"webhook": {"url": "https://x", "secret": 7}}),
            "invalid_type",
            "webhook.secret",
        ),
        (
            json!({"webhook": {"url": "https://x", "events": []}}),
            "unsupported_parameter",
            "webhook.events",
        ),
        (
            json!({"webhook": {"url": "https://x"}}),
            "invalid_value",
            "webhook",
        ),
        (
            json!({"webhook": {"url": "https://x"}, "background": false}),
            "invalid_value",
            "webhook",
        ),
        (
            json!({"idempotency_key": ""}),
            "invalid_value",
            "idempotency_key",
        ),
        (
            json!({"idempotency_key": "k".repeat(256)}),
            "invalid_value",
            "idempotency_key",
        ),
        (
            json!({"stream_id": "a b"}),
            "invalid_stream_id",
            "stream_id",
        ),
        (json!({"stream_id": ""}), "invalid_stream_id", "stream_id"),
        (
            json!({"stream_id": "a".repeat(257)}),
            "invalid_stream_id",
            "stream_id",
        ),
    ] {
        unreadable(&with(&members), code, param);
    }

    let pairs: serde_json::Map<_, _> = (0..17).map(|i| (format!("k{i}"), json!("v"))).collect();
    unreadable(
        &with(&json!({"metadata": pairs})),
        "invalid_value",
        "metadata",
    );
    let long = "k".repeat(65);
    unreadable(
        &with(&json!({"metadata": {&long: "v"}})),
        "invalid_value",
        &format!("metadata.{}…", "k".repeat(64)),
    );
    // The bounds count characters, and are inclusive.
    request(&with(
        &json!({"metadata": {"é".repeat(64): "é".repeat(512)}, "temperature": 2, "top_p": 0, "top_logprobs": 20}),
    ));
}

#[test]
fn repeated_members_are_refused_where_they_are_read() {
    for (body, param) in [
        (r#"{"input":"a","input":"b"}"#, "input"),
        (r#"{"input":"a","x":1,"x":1}"#, "x"),
        (
            r#"{"input":"a","stream":true,"stre\u0061m":true}"#,
            "stream",
        ),
        (
            r#"{"input":"a","stream_options":{"include_obfuscation":true,"include_obfuscation":true}}"#,
            "stream_options.include_obfuscation",
        ),
        (
            r#"{"input":"a","background":true,"webhook":{"url":"https://a","url":"https://b"}}"#,
            "webhook.url",
        ),
        (
            r#"{"input":"a","reasoning":{"effort":"low","effort":"high"}}"#,
            "reasoning.effort",
        ),
        (
            r#"{"input":"a","text":{"format":{},"format":{}}}"#,
            "text.format",
        ),
        (
            r#"{"input":"a","text":{"format":{"type":"text","type":"json_object"}}}"#,
            "text.format.type",
        ),
        (
            r#"{"input":"a","metadata":{"k":"1","k":"2"}}"#,
            "metadata.k",
        ),
        (
            r#"{"input":"a","tools":[{"type":"function","name":"a","name":"b"}]}"#,
            "tools[0].name",
        ),
        (
            r#"{"input":"a","tool_choice":{"type":"function","type":"x"}}"#,
            "tool_choice.type",
        ),
        (
            r#"{"input":[{"role":"user","role":"system","content":"a"}]}"#,
            "input[0].role",
        ),
        (
            r#"{"input":[{"role":"user","content":[{"type":"input_text","text":"a","text":"b"}]}]}"#,
            "input[0].content[0].text",
        ),
        (
            r#"{"input":[{"type":"function_call","call_id":"a","call_id":"b","name":"f","arguments":""}]}"#,
            "input[0].call_id",
        ),
    ] {
        let error = ResponsesRequest::parse(body.as_bytes()).unwrap_err();
        assert_eq!(
            (error.status, error.code.as_deref(), error.param.as_deref()),
            (400, Some("invalid_value"), Some(param)),
            "{body}"
        );
        assert!(error.message.contains(param), "{}", error.message);
    }
    let unread = r#"{"input":"a","x":{"y":1,"y":2},"tools":[{"type":"function","name":"f","parameters":{"a":1,"a":2}}]}"#;
    let request = ResponsesRequest::parse(unread.as_bytes()).unwrap();
    assert_eq!(String::from_utf8(request.raw().to_bytes()).unwrap(), unread);
}

#[test]
fn gateway_members_are_read_and_not_sent() {
    let body = with(&json!({
        "type": "response.create", "stream_id": "lane.1", "idempotency_key": "key", "generate": true,
        "webhook": {"url": "https://example.org/hook", "secret": "whsec_shh"},
        "background": true, "store": false, "stream": true, "previous_response_id": "resp_1", "model": "asked", "instructions": "be\nbrief",
    }));
    let request = request(&body);
    assert_eq!(request.message_type().as_deref(), Some("response.create"));
    assert_eq!(request.stream_id().as_deref(), Some("lane.1"));
    assert_eq!(
        request.webhook_url().as_deref(),
        Some("https://example.org/hook")
    );
    assert_eq!(
        request.webhook_secret().unwrap().expose_secret(),
        "whsec_shh"
    );
    assert_eq!(request.idempotency_key().as_deref(), Some("key"));
    assert_eq!(request.previous_response_id().as_deref(), Some("resp_1"));
    assert_eq!(
        (
            request.model().as_deref(),
            request.instructions().as_deref()
        ),
        (Some("asked"), Some("be\nbrief"))
    );
    assert_eq!(
        (request.background(), request.store(), request.stream()),
        (true, false, true)
    );
    assert_eq!(
        value(
            &request
                .to_chat(&[], "sent", &ChatSettings::default())
                .unwrap()
                .body
        ),
        json!({"model": "sent", "messages": [{"role": "system", "content": "be\nbrief"}, {"role": "user", "content": "hi"}],
            "stream": true, "stream_options": {"include_usage": true}})
    );
    assert_eq!(
        value(&request.to_responses(&[], "sent")),
        json!({"model": "sent", "input": "hi", "instructions": "be\nbrief", "stream": true, "store": false})
    );

    let plain =
        self::request(&json!({"input": "hi", "store": null, "model": null, "webhook": null}));
    assert_eq!(
        (
            plain.background(),
            plain.store(),
            plain.stream(),
            plain.model(),
            plain.webhook_url()
        ),
        (false, true, false, None, None)
    );
}

#[test]
fn items_are_translated_to_messages() {
    let no_history: &[Value] = &[];
    messages(
        no_history,
        &json!({"input": "hi\n\u{1F600}"}),
        &json!([{"role": "user", "content": "hi\n\u{1F600}"}]),
    );
    messages(
        no_history,
        &json!({"instructions": "short", "input": [
            {"role": "developer", "content": "d"},
            {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "s"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}], "name": "Ann"},
            {"type": "message", "id": "msg_1", "status": "completed", "phase": "final_answer", "role": "assistant",
                "content": [{"type": "output_text", "text": "c", "annotations": [], "logprobs": []}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": "d"}, {"type": "refusal", "refusal": "no"}]},
            {"role": "user", "content": []},
        ]}),
        &json!([
            {"role": "system", "content": "short\n\nd\n\ns"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "Ann"},
            {"role": "assistant", "content": "c"},
            {"role": "assistant", "content": [{"type": "text", "text": "d"}, {"type": "refusal", "refusal": "no"}]},
            {"role": "user", "content": ""},
        ]),
    );
    messages(
        no_history,
        &json!({"input": [{"role": "user", "content": [
            {"type": "input_image", "image_url": "data:x", "detail": "low", "file_id": null},
            {"type": "input_image", "image_url": "https://x"},
            {"type": "input_file", "file_data": "data:y", "filename": "y.pdf"},
            {"type": "input_audio", "input_audio": {"data": "z", "format": "wav"}},
            {"type": "input_text", "text": "t", "cache_control": {"type": "ephemeral"}},
        ]}]}),
        &json!([{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}},
            {"type": "image_url", "image_url": {"url": "https://x"}},
            {"type": "file", "file": {"filename": "y.pdf", "file_data": "data:y"}},
            {"type": "input_audio", "input_audio": {"data": "z", "format": "wav"}},
            {"type": "text", "text": "t", "cache_control": {"type": "ephemeral"}},
        ]}]),
    );
}

#[test]
fn calls_are_merged_into_one_assistant_message() {
    let call = |id: &str| json!({"type": "function_call", "id": format!("fc_{id}"), "call_id": id, "name": "f", "arguments": "{\"a\":1}", "status": "completed"});
    let called = |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}});
    let output = |id: &str| json!({"type": "function_call_output", "call_id": id, "output": "out"});
    let answered = |id: &str| json!({"role": "tool", "content": "out", "tool_call_id": id});
    let says = |text: &str| json!({"role": "assistant", "content": text});
    let thinks = json!({"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]});

    let check = |items: Value, expected: Value| messages(&[], &json!({"input": items}), &expected);
    check(
        json!([call("1"), thinks, call("2"), output("1"), output("2")]),
        json!([{"role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [called("1"), called("2")]}, answered("1"), answered("2")]),
    );
    check(
        json!([says("wait"), thinks, call("1"), output("1"), says("done")]),
        json!([{"role": "assistant", "content": "wait", "reasoning_content": "hm", "tool_calls": [called("1")]}, answered("1"), says("done")]),
    );
    // A message after calls is merged, so that the tool outputs directly follow the calls.
    check(
        json!([
            says("a"),
            call("1"),
            says("b"),
            call("2"),
            output("1"),
            output("2")
        ]),
        json!([{"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            "tool_calls": [called("1"), called("2")]}, answered("1"), answered("2")]),
    );
    check(json!([says("a"), says("b")]), json!([says("a"), says("b")]));
    check(
        json!([call("1"), output("1"), call("2"), output("2")]),
        json!([
            {"role": "assistant", "content": null, "tool_calls": [called("1")]}, answered("1"),
            {"role": "assistant", "content": null, "tool_calls": [called("2")]}, answered("2"),
        ]),
    );
    check(
        json!([
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "", "extra_content": {"sig": "s"}},
            {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "t"}, {"type": "input_image", "image_url": "u"}]},
        ]),
        json!([
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}, "extra_content": {"sig": "s"}}]},
            {"role": "tool", "content": "t", "tool_call_id": "1"},
            {"role": "user", "content": [{"type": "text", "text": "Output of the tool call 1:"}, {"type": "image_url", "image_url": {"url": "u"}}]},
        ]),
    );
}

#[test]
fn history_is_sent_between_instructions_and_input() {
    let history = [
        json!({"type": "message", "id": "msg_u", "role": "user", "status": "completed", "content": [{"type": "input_text", "text": "one"}]}),
        json!({"type": "function_call", "id": "fc_a", "call_id": "1", "name": "f", "arguments": "{}", "status": "completed"}),
    ];
    let output = json!({"type": "function_call_output", "call_id": "1", "output": "2"});
    let expected = json!([
        {"role": "system", "content": "now"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "content": "2", "tool_call_id": "1"},
    ]);
    messages(
        &history,
        &json!({"instructions": "now", "input": [output]}),
        &expected,
    );
    // A reference to an item of the history adds nothing.
    messages(
        &history,
        &json!({"instructions": "now", "input": [{"type": "item_reference", "id": "fc_a"}, {"id": "msg_u"}, output]}),
        &expected,
    );
    messages(
        &history[..1],
        &json!({"input": []}),
        &json!([{"role": "user", "content": "one"}]),
    );

    let raws: Vec<_> = history.iter().map(raw).collect();
    let sent =
        |body: &Value| value(&request(body).to_responses(&refs(&raws), "m"))["input"].clone();
    assert_eq!(
        sent(&json!({"input": [{"id": "fc_a"}, output, {"id": "msg_x"}]})),
        json!([history[0], history[1], output, {"id": "msg_x"}])
    );
    assert_eq!(
        sent(&json!({"input": "two"})),
        json!([history[0], history[1], {"type": "message", "role": "user", "content": "two"}])
    );

    let odd = [raw(&json!({"type": "compaction", "id": "cmp_1"}))];
    let error = request(&json!({"input": "x"}))
        .to_chat(&refs(&odd), "m", &ChatSettings::default())
        .unwrap_err();
    assert_refusal(
        &error,
        &json!("history"),
        "unsupported_parameter",
        "previous_response_id",
    );
    assert!(
        error.message.contains("previous_response_id.items[0].type"),
        "{error}"
    );
}

#[test]
fn untranslatable_members_are_refused() {
    let item = |item: Value, code: &str, param: &str| {
        untranslatable(&json!({"input": [item]}), code, param)
    };
    let part = |part: Value, code: &str, param: &str| {
        item(json!({"role": "user", "content": [part]}), code, param)
    };
    item(
        json!({"type": "computer_call", "id": "x"}),
        "unsupported_parameter",
        "input[0].type",
    );
    item(
        json!({"type": "item_reference", "id": "msg_404"}),
        "invalid_value",
        "input[0].id",
    );
    item(
        json!({"role": "tool", "content": "x"}),
        "invalid_value",
        "input[0].role",
    );
    item(
        json!({"type": "function_call", "name": "f", "arguments": "{}"}),
        "missing_required_parameter",
        "input[0].call_id",
    );
    item(
        json!({"type": "function_call", "call_id": "1", "name": "f", "arguments": {}}),
        "invalid_type",
        "input[0].arguments",
    );
    item(
        json!({"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}", "function": {}}),
        "unsupported_parameter",
        "input[0].function",
    );
    item(
        json!({"type": "function_call_output", "call_id": "1"}),
        "missing_required_parameter",
        "input[0].output",
    );
    item(
        json!({"type": "function_call_output", "call_id": "1", "output": 7}),
        "invalid_type",
        "input[0].output",
    );
    part(
        json!({"type": "input_image", "file_id": "file_1"}),
        "unsupported_parameter",
        "input[0].content[0].file_id",
    );
    part(
        json!({"type": "input_image"}),
        "missing_required_parameter",
        "input[0].content[0].image_url",
    );
    part(
        json!({"type": "input_image", "image_url": {"url": "x"}}),
        "invalid_type",
        "input[0].content[0].image_url",
    );
    part(
        json!({"type": "input_file", "file_id": "file_1"}),
        "unsupported_parameter",
        "input[0].content[0].file_id",
    );
    part(
        json!({"type": "input_file", "file_url": "https://x"}),
        "unsupported_parameter",
        "input[0].content[0].file_url",
    );
    part(
        json!({"type": "input_file", "filename": "x"}),
        "missing_required_parameter",
        "input[0].content[0].file_data",
    );
    part(
        json!({"type": "input_text"}),
        "missing_required_parameter",
        "input[0].content[0].text",
    );
    part(
        json!({"type": "refusal", "refusal": "x"}),
        "invalid_value",
        "input[0].content[0].type",
    );
    part(
        json!({"type": "input_file", "file_data": "x", "text": "y"}),
        "unsupported_parameter",
        "input[0].content[0].text",
    );
    part(
        json!({"type": "input_video"}),
        "unsupported_parameter",
        "input[0].content[0].type",
    );
    untranslatable(&json!({"input": []}), "invalid_value", "input");

    for (members, code, param) in [
        (
            json!({"conversation": "conv_1"}),
            "unsupported_parameter",
            "conversation",
        ),
        (
            json!({"prompt": {"id": "p"}}),
            "unsupported_parameter",
            "prompt",
        ),
        (
            json!({"context_management": []}),
            "unsupported_parameter",
            "context_management",
        ),
        (
            json!({"truncation": "auto"}),
            "unsupported_parameter",
            "truncation",
        ),
        (
            json!({"truncation": "middle"}),
            "invalid_value",
            "truncation",
        ),
        (
            json!({"include": ["message.output_text.logprobs", "something.new"]}),
            "unsupported_parameter",
            "include[1]",
        ),
        (
            json!({"tools": [{"type": "function", "name": "f"}, {"type": "web_search"}]}),
            "unsupported_parameter",
            "tools[1].type",
        ),
        (
            json!({"tools": [{"type": "function", "name": "f", "function": {}}]}),
            "unsupported_parameter",
            "tools[0].function",
        ),
        (
            json!({"tools": [{"type": "function", "function": {"name": "f"}}]}),
            "missing_required_parameter",
            "tools[0].name",
        ),
        (
            json!({"tool_choice": {"type": "file_search"}}),
            "unsupported_parameter",
            "tool_choice.type",
        ),
        (
            json!({"tool_choice": {"type": "function"}}),
            "missing_required_parameter",
            "tool_choice.name",
        ),
        (
            json!({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}}),
            "unsupported_parameter",
            "tool_choice.tools[0].type",
        ),
        (
            json!({"text": {"format": {"type": "grammar"}}}),
            "unsupported_parameter",
            "text.format.type",
        ),
        (
            json!({"text": {"format": {"type": "json_schema", "schema": {}}}}),
            "missing_required_parameter",
            "text.format.name",
        ),
        (
            json!({"text": {"format": {"type": "json_schema", "name": "n"}}}),
            "missing_required_parameter",
            "text.format.schema",
        ),
        (
            json!({"text": {"stop": "x"}}),
            "unsupported_parameter",
            "text.stop",
        ),
        (
            json!({"reasoning": {"max_tokens": 1}}),
            "unsupported_parameter",
            "reasoning.max_tokens",
        ),
        (
            json!({"max_output_tokens": 5, "max_completion_tokens": 6}),
            "invalid_value",
            "max_completion_tokens",
        ),
        (
            json!({"top_logprobs": 5, "logprobs": false}),
            "invalid_value",
            "logprobs",
        ),
    ] {
        untranslatable(&with(&members), code, param);
    }
}

#[test]
fn members_are_translated_or_sent_unchanged() {
    members(&json!({}), &json!({}));
    members(
        &json!({"temperature": 0.5, "top_p": 1, "presence_penalty": -1, "frequency_penalty": 0, "user": "u", "safety_identifier": "s",
            "prompt_cache_key": "k", "prompt_cache_retention": "24h", "service_tier": "flex"}),
        &json!({"temperature": 0.5, "top_p": 1, "presence_penalty": -1, "frequency_penalty": 0, "user": "u", "safety_identifier": "s",
            "prompt_cache_key": "k", "prompt_cache_retention": "24h", "service_tier": "flex"}),
    );
    let unknown = json!({"top_k": 5, "chat_template_kwargs": {"a": [1]}, "n": 2, "seed": 7, "stop": ["x"], "odd": null});
    members(&unknown, &unknown);
    members(
        &json!({"metadata": {"a": "b"}, "max_tool_calls": 3, "truncation": "disabled", "include": ["reasoning.encrypted_content", "file_search_call.results"], "reasoning": {"summary": "detailed", "generate_summary": "concise"},
            "parallel_tool_calls": true, "tools": [], "tool_choice": "auto", "top_logprobs": 0, "temperature": null, "conversation": null}),
        &json!({}),
    );
    members(
        &json!({"max_output_tokens": 5, "max_completion_tokens": 5}),
        &json!({"max_completion_tokens": 5}),
    );
    members(
        &json!({"top_logprobs": 3}),
        &json!({"logprobs": true, "top_logprobs": 3}),
    );
    members(
        &json!({"include": ["message.output_text.logprobs"]}),
        &json!({"logprobs": true}),
    );
    members(
        &json!({"top_logprobs": 0, "include": ["message.output_text.logprobs"]}),
        &json!({"logprobs": true, "top_logprobs": 0}),
    );
    members(
        &json!({"reasoning": {"effort": "low", "summary": null}}),
        &json!({"reasoning_effort": "low"}),
    );
    members(
        &json!({"stream_options": {"include_obfuscation": false, "include_usage": false}}),
        &json!({"stream_options": {"include_usage": true, "include_obfuscation": false}}),
    );
    members(
        &json!({"text": {"format": {"type": "text"}, "verbosity": "low"}}),
        &json!({"response_format": {"type": "text"}, "verbosity": "low"}),
    );
    members(
        &json!({"text": {"format": {"type": "json_object"}}}),
        &json!({"response_format": {"type": "json_object"}}),
    );
    members(
        &json!({"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": true, "description": null}}}),
        &json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": true}}}),
    );
    let tool = json!({"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": null, "cache_control": {}});
    let chat_tool = json!({"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}, "cache_control": {}});
    members(
        &json!({"tools": [tool], "tool_choice": {"type": "function", "name": "f"}, "parallel_tool_calls": false}),
        &json!({"tools": [chat_tool], "tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": false}),
    );
    members(
        &json!({"tools": [tool], "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]}}),
        &json!({"tools": [chat_tool], "tool_choice": {"type": "allowed_tools", "allowed_tools":
            {"mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}]}}}),
    );
}

#[test]
fn numbers_and_escapes_keep_their_bytes() {
    let body = r#"{"input":"\u00e9\/ \ud83d\ude00","temperature":1.50,"seed":12345678901234567890123,"x":{"b":1, "a":1e2}}"#;
    let chat = ResponsesRequest::parse(body.as_bytes())
        .unwrap()
        .to_chat(&[], "m", &ChatSettings::default())
        .unwrap();
    let chat = chat.body;
    let expected = r#"{"model":"m","messages":[{"role":"user","content":"\u00e9\/ \ud83d\ude00"}],"temperature":1.50,"stream":true,"stream_options":{"include_usage":true},"seed":12345678901234567890123,"x":{"b":1, "a":1e2}}"#;
    assert_eq!(String::from_utf8(chat).unwrap(), expected);
}

#[test]
fn input_items_are_complete_and_keep_their_ids() {
    let list = |request: &ResponsesRequest| -> Vec<Value> {
        request
            .input_items(&"resp_x".parse().unwrap())
            .iter()
            .map(|item| value(item.get().as_bytes()))
            .collect()
    };
    let check = |input: Value, expected: &[(&str, Value)]| {
        let request = request(&json!({"input": input}));
        let items = list(&request);
        assert_eq!(items, list(&request.clone()), "{input}");
        assert_eq!(items.len(), expected.len(), "{input}");
        for (mut item, (id, rest)) in items.into_iter().zip(expected) {
            let found = item.as_object_mut().unwrap().remove("id").unwrap();
            let found = found.as_str().unwrap();
            if id.ends_with('_') {
                // The id of its response, and its place in the input.
                let number = found.strip_prefix(id).unwrap().strip_prefix("xi");
                assert!(number.unwrap().parse::<u16>().is_ok(), "{found}");
            } else {
                assert_eq!(found, *id);
            }
            assert_eq!(item, *rest);
        }
    };
    let message = |role: &str, content: Value| json!({"type": "message", "status": "completed", "role": role, "content": content});
    check(
        json!("a\"b"),
        &[(
            "msg_",
            message("user", json!([{"type": "input_text", "text": "a\"b"}])),
        )],
    );
    check(json!([]), &[]);
    check(
        json!([
            {"role": "user", "content": "x", "id": "mine"},
            {"role": "assistant", "content": "y", "status": null, "id": null},
            {"role": "assistant", "content": [{"type": "output_text", "text": "z"}, {"type": "refusal", "refusal": "r"}]},
            {"role": "user", "content": [{"type": "input_image", "image_url": "u"}]},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}", "status": "incomplete"},
            {"type": "function_call_output", "call_id": "1", "output": "o"},
            {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_image", "image_url": "u"}]},
            {"type": "item_reference", "id": "elsewhere"},
            {"type": "reasoning", "content": []},
            {"type": "compaction", "encrypted_content": "e"},
        ]),
        &[
            (
                "mine",
                message("user", json!([{"type": "input_text", "text": "x"}])),
            ),
            (
                "msg_",
                message(
                    "assistant",
                    json!([{"type": "output_text", "text": "y", "annotations": []}]),
                ),
            ),
            (
                "msg_",
                message(
                    "assistant",
                    json!([{"type": "output_text", "text": "z", "annotations": []}, {"type": "refusal", "refusal": "r"}]),
                ),
            ),
            (
                "msg_",
                message(
                    "user",
                    json!([{"type": "input_image", "image_url": "u", "detail": "auto"}]),
                ),
            ),
            (
                "fc_",
                json!({"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}", "status": "incomplete"}),
            ),
            (
                "fco_",
                json!({"type": "function_call_output", "call_id": "1", "output": "o", "status": "completed"}),
            ),
            (
                "fco_",
                json!({"type": "function_call_output", "call_id": "1", "status": "completed",
                    "output": [{"type": "input_image", "image_url": "u", "detail": "auto"}]}),
            ),
            (
                "rs_",
                json!({"type": "reasoning", "content": [], "summary": []}),
            ),
            (
                "item_",
                json!({"type": "compaction", "encrypted_content": "e"}),
            ),
        ],
    );
    let request = request(&json!({"input": "x"}));
    let other = request.input_items(&"resp_y".parse().unwrap());
    assert!(other[0].get().contains(r#""id":"msg_yi0000""#), "{other:?}");
    assert_ne!(list(&request), [value(other[0].get().as_bytes())]);
}

#[test]
fn request_from_query_input_is_translated() {
    let request = ResponsesRequest::from_input("say \"hi\"\n", Some("m"));
    assert_eq!(request.model().as_deref(), Some("m"));
    assert_eq!(request.input_items(&"resp_x".parse().unwrap()).len(), 1);
    messages(
        &[],
        &value(&request.raw().to_bytes()),
        &json!([{"role": "user", "content": "say \"hi\"\n"}]),
    );
    assert_eq!(ResponsesRequest::from_input("", None).model(), None);
}

fn fields_json(fields: &RequestFields) -> Value {
    value(format!("{{{}}}", fields.clone().into_json()).as_bytes())
}

/// The default fields with some replaced.
fn defaults_with(changed: &Value) -> Value {
    let mut all = json!({
        "previous_response_id": null, "instructions": null, "tools": [], "tool_choice": "auto", "truncation": "disabled",
        "parallel_tool_calls": true, "text": {"format": {"type": "text"}}, "top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
        "top_logprobs": 0, "temperature": 1.0, "reasoning": {"effort": null, "summary": null}, "max_output_tokens": null,
        "max_tool_calls": null, "store": true, "background": false, "service_tier": "auto", "metadata": {}, "safety_identifier": null,
        "prompt_cache_key": null, "user": null,
    });
    for (name, field) in changed.as_object().unwrap() {
        all[name] = field.clone();
    }
    all
}

#[test]
fn default_request_fields_are_shared() {
    let fields = |given: Value| request(&with(&given)).request_fields().into_json();
    assert!(std::sync::Arc::ptr_eq(
        &fields(json!({})),
        &fields(json!({"temperature": 1.0, "tools": []}))
    ));
    assert!(!std::sync::Arc::ptr_eq(
        &fields(json!({})),
        &fields(json!({"temperature": 0.5}))
    ));
}

#[test]
fn request_fields_repeat_the_request() {
    let check = |given: Value, expected: Value| {
        assert_eq!(
            fields_json(&request(&with(&given)).request_fields()),
            defaults_with(&expected),
            "{given}"
        )
    };
    check(json!({}), json!({}));
    check(
        json!({"temperature": null, "tools": null, "text": null, "reasoning": null, "metadata": null}),
        json!({}),
    );
    let same = json!({"previous_response_id": "resp_1", "instructions": "i", "tool_choice": {"type": "function", "name": "f"}, "truncation": "auto",
        "parallel_tool_calls": false, "top_p": 0.5, "presence_penalty": 1, "frequency_penalty": 1, "top_logprobs": 2, "temperature": 0,
        "max_output_tokens": 9, "max_tool_calls": 1, "store": false, "background": true, "service_tier": "flex", "metadata": {"a": "b"},
        "safety_identifier": "s", "prompt_cache_key": "k", "user": "u"});
    check(same.clone(), same);
    check(
        json!({"reasoning": {"effort": "low", "generate_summary": "auto"}}),
        json!({"reasoning": {"effort": "low", "summary": null}}),
    );
    check(
        json!({"text": {"verbosity": "low"}}),
        json!({"text": {"format": {"type": "text"}, "verbosity": "low"}}),
    );
    check(
        json!({"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}}}),
        json!({"text": {"format": {"type": "json_schema", "name": "n", "description": null, "schema": null, "strict": false}}}),
    );
    check(
        json!({"tools": [{"type": "function", "name": "f", "parameters": {}}, {"type": "web_search"}]}),
        json!({"tools": [{"type": "function", "name": "f", "description": null, "parameters": {}, "strict": null}, {"type": "web_search"}]}),
    );
}

#[test]
fn request_fields_of_a_chat_request_are_translated() {
    let check = |given: Value, expected: Value| {
        let mut body = json!({"messages": [{"role": "user", "content": "x"}]});
        for (name, member) in given.as_object().unwrap() {
            body[name] = member.clone();
        }
        let request = ChatRequest::parse(body.to_string().as_bytes()).unwrap();
        assert_eq!(
            fields_json(&request.request_fields()),
            defaults_with(&expected),
            "{given}"
        );
    };
    check(json!({}), json!({}));
    check(
        json!({"temperature": 0.1, "top_p": 0.2, "top_logprobs": 3, "max_tokens": 4, "reasoning_effort": "high", "verbosity": "low", "user": "u",
            "store": false, "metadata": {"a": "b"}, "service_tier": "flex", "parallel_tool_calls": false}),
        json!({"temperature": 0.1, "top_p": 0.2, "top_logprobs": 3, "max_output_tokens": 4, "reasoning": {"effort": "high", "summary": null},
            "text": {"format": {"type": "text"}, "verbosity": "low"}, "user": "u", "store": false, "metadata": {"a": "b"}, "service_tier": "flex",
            "parallel_tool_calls": false}),
    );
    check(
        json!({"max_tokens": 4, "max_completion_tokens": 5}),
        json!({"max_output_tokens": 5}),
    );
    check(
        json!({"tools": [{"type": "function", "function": {"name": "f", "strict": true}}, {"type": "custom", "custom": {"name": "c"}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}}}),
        json!({"tools": [{"type": "function", "name": "f", "description": null, "parameters": null, "strict": true}],
            "tool_choice": {"type": "function", "name": "f"}}),
    );
    check(
        json!({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]}}}),
        json!({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}}),
    );
    check(
        json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": true}}}),
        json!({"text": {"format": {"type": "json_schema", "name": "n", "description": null, "schema": null, "strict": true}}}),
    );
    check(
        json!({"response_format": {"type": "json_object"}}),
        json!({"text": {"format": {"type": "json_object"}}}),
    );
    // Invalid values get the default; the upstream checks them.
    check(
        json!({"temperature": "hot", "tools": {}, "tool_choice": "odd", "response_format": 7, "max_tokens": 1.5, "metadata": [], "background": true,
            "instructions": "x", "top_logprobs": -1}),
        json!({}),
    );
}

#[test]
fn large_requests_are_translated_in_linear_time() {
    let items: Vec<Value> = (0..5_000)
        .flat_map(|i| {
            let call = json!({"type": "function_call", "call_id": i.to_string(), "name": "f", "arguments": "{}"});
            [call, json!({"role": "assistant", "content": "x", format!("odd{i}"): 1}), json!({"id": "msg_1"})]
        })
        .collect();
    let history: Vec<_> = (0..5_000)
        .map(|i| raw(&json!({"role": "user", "content": "x", "id": format!("msg_{i}")})))
        .collect();
    let mut body = json!({"input": items});
    for i in 0..5_000 {
        body[format!("unknown{i}")] = json!(i);
    }
    let request = request(&body);
    let chat = value(
        &request
            .to_chat(&refs(&history), "m", &ChatSettings::default())
            .unwrap()
            .body,
    );
    // All calls and the messages between them are one message, since no tool output separates them.
    assert_eq!(chat["messages"].as_array().map(Vec::len), Some(5_001));
    assert_eq!(
        chat["messages"][5_000]["tool_calls"]
            .as_array()
            .map(Vec::len),
        Some(5_000)
    );
    assert_eq!(chat["unknown4999"], 4_999);
    assert_eq!(
        request.input_items(&"resp_x".parse().unwrap()).len(),
        10_000
    );
    assert_eq!(
        value(&request.to_responses(&refs(&history), "m"))["input"]
            .as_array()
            .map(Vec::len),
        Some(15_000)
    );
}

#[test]
fn debug_shows_no_contents() {
    let body = json!({"input": [{"role": "user", "content": "secret"}], "instructions": "secret", "metadata": {"a": "secret"}, "user": "secret"});
    let request = request(&body);
    assert!(
        !format!(
            "{request:?} {:?} {:?}",
            request.raw(),
            request.request_fields()
        )
        .contains("secret")
    );
    let error = ResponsesRequest::parse(br#"{"input":[{"role":"user","content":{"secret":1}}]}"#)
        .unwrap_err();
    assert!(!error.message.contains("secret"));
}

/// Checks that the text is JSON without repeated members.
fn assert_no_repeats(json: &str) {
    let raw: &RawValue =
        serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"));
    match Kind::of(raw) {
        Kind::Array => Node::new(raw, "")
            .array()
            .unwrap()
            .iter()
            .for_each(|element| assert_no_repeats(element.raw.get())),
        Kind::Object => {
            let members = serde_json::from_str::<Members<'_>>(json).unwrap();
            let names: HashSet<_> = members.iter().map(|(name, _)| name).collect();
            assert_eq!(names.len(), members.len(), "{json}");
            for (_, value) in members.iter() {
                assert_no_repeats(value.get());
            }
        }
        _ => {}
    }
}

/// Values of all kinds, valid and invalid in their place.
fn any_json() -> impl Strategy<Value = Value> {
    let words = [
        "type",
        "role",
        "content",
        "text",
        "id",
        "name",
        "message",
        "user",
        "assistant",
        "function_call",
        "function_call_output",
        "item_reference",
        "input_text",
        "output_text",
        "refusal",
        "input_image",
        "input_file",
        "image_url",
        "file_data",
        "call_id",
        "arguments",
        "output",
        "function",
        "tools",
        "mode",
        "allowed_tools",
        "json_schema",
        "schema",
        "format",
        "effort",
        "url",
        "reasoning",
        "summary",
    ];
    let word = proptest::sample::select(words.to_vec());
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        ".{0,4}".prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map(word.clone(), inner, 0..6).prop_map(
                |map| Value::Object(
                    map.into_iter()
                        .map(|(name, value)| (name.to_owned(), value))
                        .collect()
                )
            ),
        ]
    })
}

/// A mostly valid item with some random members.
fn any_item() -> impl Strategy<Value = Value> {
    let kind = proptest::sample::select(vec![
        "message",
        "function_call",
        "function_call_output",
        "reasoning",
    ]);
    let role = proptest::sample::select(vec!["user", "assistant", "system"]);
    let part = proptest::sample::select(vec![
        "input_text",
        "output_text",
        "refusal",
        "input_image",
        "input_file",
    ]);
    let odd = || {
        let name = proptest::sample::select(vec![
            "function",
            "text",
            "file",
            "content",
            "odd",
            "tool_calls",
            "tool_call_id",
            "id",
            "output",
            "role",
        ]);
        proptest::collection::hash_map(name, any_json(), 0..2)
    };
    let part = (part, odd()).prop_map(|(kind, odd)| {
        let mut part =
            json!({"type": kind, "text": "t", "refusal": "r", "image_url": "u", "file_data": "f"});
        odd.into_iter().for_each(|(name, value)| part[name] = value);
        part
    });
    (kind, role, proptest::collection::vec(part, 0..3), odd()).prop_map(
        |(kind, role, parts, odd)| {
            let mut item = match kind {
                "message" => json!({"role": role, "content": parts}),
                "function_call" => json!({"call_id": "c", "name": "f", "arguments": "{}"}),
                "function_call_output" => json!({"call_id": "c", "output": parts}),
                _ => json!({"id": "i"}),
            };
            item["type"] = json!(kind);
            odd.into_iter().for_each(|(name, value)| item[name] = value);
            item
        },
    )
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = ResponsesRequest::parse(&body);
    }

    #[test]
    fn accepted_requests_translate_to_valid_json(
        input in prop_oneof![1 => any_json(), 5 => proptest::collection::vec(any_item(), 0..5).prop_map(Value::from)],
        history in proptest::collection::vec(any_item(), 0..3),
        name in proptest::sample::select(vec!["tools", "tool_choice", "text", "reasoning", "metadata", "webhook", "include", "stream_options", "logprobs", "seed"]),
        member in prop_oneof![3 => Just(Value::Null), 1 => any_json()],
    ) {
        let mut body = json!({"input": input});
        body[name] = member.clone();
        if let Ok(request) = ResponsesRequest::parse(body.to_string().as_bytes()) {
            let history: Vec<_> = history.iter().map(raw).collect();
            if let Ok(chat) = request.to_chat(&refs(&history), "m", &ChatSettings::default()) {
                assert_no_repeats(std::str::from_utf8(&chat.body).unwrap());
            }
            assert_no_repeats(std::str::from_utf8(&request.to_responses(&refs(&history), "m")).unwrap());
            for item in request.input_items(&"resp_x".parse().unwrap()) {
                assert_no_repeats(item.get());
                let item = RawObject::parse(item.get().as_bytes()).unwrap();
                prop_assert!(item.get_str("id").is_some() && item.get_str("type").is_some());
            }
            fields_json(&request.request_fields());
        }
        let mut chat = json!({"messages": [{}]});
        chat[name] = member;
        if let Ok(request) = ChatRequest::parse(chat.to_string().as_bytes()) {
            fields_json(&request.request_fields());
        }
    }
}
