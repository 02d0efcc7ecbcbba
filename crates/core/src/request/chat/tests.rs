use proptest::prelude::*;
use serde_json::{Value, json};

use crate::request::{ChatRequest, ResponsesRequest};

/// A request with one message and these members.
fn with(members: &Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "x"}]});
    for (name, member) in members.as_object().unwrap() {
        body[name] = member.clone();
    }
    body
}

fn translated(body: &Value) -> Result<Value, crate::model::error::ApiError> {
    let request = ChatRequest::parse(body.to_string().as_bytes())?;
    request
        .to_responses("m")
        .map(|bytes| serde_json::from_slice(&bytes).unwrap())
}

/// Checks the translation of these members, without the members of every request.
fn members(given: Value, expected: Value) {
    let mut want = json!({"model": "m", "input": [{"type": "message", "role": "user", "content": "x"}], "stream": true, "store": false});
    for (name, member) in expected.as_object().unwrap() {
        want[name] = member.clone();
    }
    assert_eq!(translated(&with(&given)).unwrap(), want, "{given}");
}

fn items(messages: Value, expected: Value) {
    assert_eq!(
        translated(&json!({"messages": messages})).unwrap()["input"],
        expected,
        "{messages}"
    );
}

fn refused(body: Value, code: &str, param: &str) {
    let error = translated(&body).expect_err(&body.to_string());
    assert_eq!(
        (error.code.as_deref(), error.param.as_deref()),
        (Some(code), Some(param)),
        "{body}: {error}"
    );
    assert!(error.message.contains(param), "{body}: {}", error.message);
}

#[test]
fn members_are_translated() {
    members(json!({}), json!({}));
    let same = json!({"temperature": 0.10, "top_p": 1, "metadata": {"a": "b"}, "user": "u", "safety_identifier": "s", "prompt_cache_key": "k",
        "prompt_cache_retention": "24h", "service_tier": "flex", "parallel_tool_calls": false});
    members(same.clone(), same);
    members(
        json!({"model": "other", "stream": false, "store": true}),
        json!({"store": true}),
    );
    members(json!({"max_tokens": 4}), json!({"max_output_tokens": 4}));
    members(
        json!({"max_completion_tokens": 5, "max_tokens": 5}),
        json!({"max_output_tokens": 5}),
    );
    members(
        json!({"reasoning_effort": "low"}),
        json!({"reasoning": {"effort": "low"}}),
    );
    members(
        json!({"verbosity": "low"}),
        json!({"text": {"verbosity": "low"}}),
    );
    members(
        json!({"logprobs": true}),
        json!({"include": ["message.output_text.logprobs"]}),
    );
    members(
        json!({"logprobs": true, "top_logprobs": 3}),
        json!({"include": ["message.output_text.logprobs"], "top_logprobs": 3}),
    );
    members(
        json!({"stream_options": {"include_usage": true}}),
        json!({}),
    );
    members(
        json!({"stream_options": {"include_usage": true, "include_obfuscation": false}}),
        json!({"stream_options": {"include_obfuscation": false}}),
    );
}

#[test]
fn default_values_are_dropped() {
    members(
        json!({"n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "stop": [], "modalities": ["text"], "functions": [],
            "logprobs": false, "top_logprobs": 0, "tools": []}),
        json!({}),
    );
    let names = [
        "n",
        "stop",
        "seed",
        "logit_bias",
        "audio",
        "tools",
        "tool_choice",
        "response_format",
        "max_tokens",
        "reasoning_effort",
        "verbosity",
        "logprobs",
        "top_logprobs",
        "stream_options",
        "store",
        "metadata",
        "temperature",
        "functions",
        "something_new",
    ];
    for name in names {
        members(json!({name: null}), json!({}));
    }
}

#[test]
fn untranslatable_members_are_refused_by_name() {
    for (name, value) in [
        ("n", json!(2)),
        ("stop", json!("\n")),
        ("stop", json!(["a"])),
        ("seed", json!(0)),
        ("logit_bias", json!({"50256": -100})),
        ("presence_penalty", json!(0.1)),
        ("frequency_penalty", json!(-2)),
        ("modalities", json!(["text", "audio"])),
        ("audio", json!({"voice": "alloy", "format": "wav"})),
        ("prediction", json!({"type": "content", "content": "x"})),
        ("web_search_options", json!({})),
        ("functions", json!([{"name": "f"}])),
        ("function_call", json!("auto")),
        ("top_k", json!(40)),
        ("something_new", json!(false)),
    ] {
        refused(with(&json!({name: value})), "unsupported_parameter", name);
    }
    refused(
        with(&json!({"stream_options": {"odd": 1}})),
        "unsupported_parameter",
        "stream_options.odd",
    );
    refused(
        with(&json!({"max_tokens": 1, "max_completion_tokens": 2})),
        "invalid_value",
        "max_tokens",
    );
    refused(
        with(&json!({"top_logprobs": 2})),
        "invalid_value",
        "top_logprobs",
    );
    refused(with(&json!({"logprobs": 2})), "invalid_type", "logprobs");
    refused(with(&json!({"store": "yes"})), "invalid_type", "store");
    refused(
        with(&json!({"max_tokens": "4"})),
        "invalid_type",
        "max_tokens",
    );
}

#[test]
fn tools_are_flattened() {
    let parameters = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    members(
        json!({"tools": [
            {"type": "function", "function": {"name": "f", "description": "d", "parameters": parameters, "strict": true}},
            {"type": "function", "function": {"name": "g", "strict": null}},
        ]}),
        json!({"tools": [
            {"type": "function", "name": "f", "description": "d", "parameters": parameters, "strict": true},
            {"type": "function", "name": "g", "parameters": {"type": "object", "properties": {}}, "strict": false},
        ]}),
    );
    let refused_tool = |tool: Value, param: &str| {
        refused(
            with(&json!({"tools": [tool]})),
            "unsupported_parameter",
            param,
        )
    };
    refused_tool(json!({"type": "web_search"}), "tools[0].type");
    refused_tool(
        json!({"type": "function", "function": {"name": "f", "odd": 1}}),
        "tools[0].function.odd",
    );
    refused_tool(
        json!({"type": "function", "function": {"name": "f"}, "odd": 1}),
        "tools[0].odd",
    );
    refused(
        with(&json!({"tools": [{"type": "function"}]})),
        "missing_required_parameter",
        "tools[0].function",
    );
    refused(
        with(&json!({"tools": [{"type": "function", "function": {}}]})),
        "missing_required_parameter",
        "tools[0].function.name",
    );
    refused(with(&json!({"tools": {}})), "invalid_type", "tools");
}

#[test]
fn every_form_of_tool_choice_is_translated() {
    for word in ["none", "auto", "required"] {
        members(json!({"tool_choice": word}), json!({"tool_choice": word}));
    }
    let (nested, flat) = (
        json!({"type": "function", "function": {"name": "f"}}),
        json!({"type": "function", "name": "f"}),
    );
    members(json!({"tool_choice": nested}), json!({"tool_choice": flat}));
    members(
        json!({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [nested]}}}),
        json!({"tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [flat]}}),
    );
    members(
        json!({"tool_choice": {"type": "custom", "custom": {"name": "c"}}}),
        json!({"tool_choice": {"type": "custom", "name": "c"}}),
    );
    refused(
        with(&json!({"tool_choice": {"type": "web_search"}})),
        "unsupported_parameter",
        "tool_choice.type",
    );
    refused(
        with(&json!({"tool_choice": {"type": "function"}})),
        "missing_required_parameter",
        "tool_choice.function",
    );
    refused(
        with(&json!({"tool_choice": 7})),
        "invalid_type",
        "tool_choice",
    );
}

#[test]
fn formats_are_flattened() {
    let schema = json!({"type": "object"});
    members(
        json!({"response_format": {"type": "text"}}),
        json!({"text": {"format": {"type": "text"}}}),
    );
    members(
        json!({"response_format": {"type": "json_object"}, "verbosity": "high"}),
        json!({"text": {"format": {"type": "json_object"}, "verbosity": "high"}}),
    );
    members(
        json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "description": "d", "schema": schema, "strict": true}}}),
        json!({"text": {"format": {"type": "json_schema", "name": "n", "description": "d", "schema": schema, "strict": true}}}),
    );
    let format = |format: Value| with(&json!({"response_format": format}));
    refused(
        format(json!({"type": "grammar", "grammar": "g"})),
        "unsupported_parameter",
        "response_format.type",
    );
    refused(
        format(json!({"type": "json_schema"})),
        "missing_required_parameter",
        "response_format.json_schema",
    );
    refused(
        format(json!({"type": "json_schema", "json_schema": {"name": "n"}})),
        "missing_required_parameter",
        "response_format.json_schema.schema",
    );
    refused(
        format(json!({"type": "json_object", "odd": 1})),
        "unsupported_parameter",
        "response_format.odd",
    );
}

#[test]
fn messages_are_translated_to_items() {
    items(
        json!([
            {"role": "system", "content": "s"},
            {"role": "developer", "content": [{"type": "text", "text": "d"}]},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "\u{e9}\n"}]},
            {"role": "assistant", "content": "b", "refusal": null, "audio": null, "tool_calls": null},
            {"role": "user", "content": ""},
        ]),
        json!([
            {"type": "message", "role": "system", "content": "s"},
            {"type": "message", "role": "developer", "content": "d"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "\u{e9}\n"}]},
            {"type": "message", "role": "assistant", "content": "b"},
            {"type": "message", "role": "user", "content": ""},
        ]),
    );
    items(
        json!([{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "u", "detail": "low"}},
            {"type": "image_url", "image_url": "v"},
            {"type": "input_audio", "input_audio": {"data": "d", "format": "wav"}},
            {"type": "file", "file": {"filename": "f", "file_data": "d"}},
            {"type": "file", "file": {"file_id": "i"}},
        ]}]),
        json!([{"type": "message", "role": "user", "content": [
            {"type": "input_image", "image_url": "u", "detail": "low"},
            {"type": "input_image", "image_url": "v", "detail": "auto"},
            {"type": "input_audio", "input_audio": {"data": "d", "format": "wav"}},
            {"type": "input_file", "filename": "f", "file_data": "d"},
            {"type": "input_file", "file_id": "i"},
        ]}]),
    );
}

#[test]
fn assistant_message_is_translated_to_a_message_and_calls() {
    // As openai-node's helpers send it.
    let call = |id: &str| json!({"index": 0, "id": id, "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}", "parsed_arguments": {"a": 1}}});
    let item = |id: &str| json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{\"a\":1}"});
    let output = |id: &str, output: Value| json!({"type": "function_call_output", "call_id": id, "output": output});
    items(
        json!([
            {"role": "assistant", "content": "Look:", "tool_calls": [call("1"), call("2")]},
            {"role": "tool", "tool_call_id": "1", "content": "one"},
            {"role": "tool", "tool_call_id": "2", "content": [{"type": "text", "text": "t"}, {"type": "text", "text": "wo"}]},
            {"role": "assistant", "content": null, "tool_calls": [call("3")], "reasoning_content": "Hm.", "annotations": [], "parsed": {"a": 1}},
            {"role": "tool", "tool_call_id": "3", "content": ""},
            {"role": "assistant", "content": "", "tool_calls": [call("4")]},
            {"role": "assistant", "content": null},
        ]),
        json!([
            {"type": "message", "role": "assistant", "content": "Look:"},
            item("1"),
            item("2"),
            output("1", json!("one")),
            output("2", json!([{"type": "input_text", "text": "t"}, {"type": "input_text", "text": "wo"}])),
            item("3"),
            output("3", json!("")),
            item("4"),
            {"type": "message", "role": "assistant", "content": ""},
        ]),
    );
    let (text, refusal) = (
        json!({"type": "output_text", "text": "t"}),
        json!({"type": "refusal", "refusal": "r"}),
    );
    items(
        json!([
            {"role": "assistant", "content": null, "refusal": "r"},
            {"role": "assistant", "content": "t", "refusal": "r"},
            {"role": "assistant", "content": [{"type": "text", "text": "t"}, refusal]},
            {"role": "assistant", "content": [{"type": "text", "text": "t"}], "refusal": "r"},
        ]),
        json!([
            {"type": "message", "role": "assistant", "content": [refusal]},
            {"type": "message", "role": "assistant", "content": [text, refusal]},
            {"type": "message", "role": "assistant", "content": [text, refusal]},
            {"type": "message", "role": "assistant", "content": [text, refusal]},
        ]),
    );
}

#[test]
fn invalid_message_is_refused_by_path() {
    let message = |message: Value, code: &str, param: &str| {
        refused(
            json!({"messages": [{"role": "user", "content": "x"}, message]}),
            code,
            param,
        )
    };
    message(json!({}), "missing_required_parameter", "messages[1].role");
    message(
        json!({"role": "narrator", "content": "x"}),
        "invalid_value",
        "messages[1].role",
    );
    message(
        json!({"role": "function", "name": "f", "content": "x"}),
        "unsupported_parameter",
        "messages[1].role",
    );
    message(
        json!({"role": "user"}),
        "missing_required_parameter",
        "messages[1].content",
    );
    message(
        json!({"role": "user", "content": 7}),
        "invalid_type",
        "messages[1].content",
    );
    message(
        json!({"role": "user", "content": "x", "name": "Ann"}),
        "unsupported_parameter",
        "messages[1].name",
    );
    message(
        json!({"role": "user", "content": "x", "refusal": "r"}),
        "unsupported_parameter",
        "messages[1].refusal",
    );
    message(
        json!({"role": "assistant", "audio": {"id": "a"}}),
        "unsupported_parameter",
        "messages[1].audio",
    );
    message(
        json!({"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}),
        "unsupported_parameter",
        "messages[1].function_call",
    );
    message(
        json!({"role": "tool", "content": "x"}),
        "missing_required_parameter",
        "messages[1].tool_call_id",
    );
    let part = |role: &str, part: Value, code: &str, param: &str| {
        message(
            json!({"role": role, "content": [part]}),
            code,
            &format!("messages[1].content[0]{param}"),
        )
    };
    part(
        "user",
        json!({"type": "video_url", "video_url": {"url": "u"}}),
        "unsupported_parameter",
        ".type",
    );
    part(
        "user",
        json!({"type": "refusal", "refusal": "r"}),
        "unsupported_parameter",
        ".type",
    );
    part(
        "assistant",
        json!({"type": "image_url", "image_url": {"url": "u"}}),
        "unsupported_parameter",
        ".type",
    );
    part(
        "user",
        json!({"type": "text", "text": "x", "cache_control": {}}),
        "unsupported_parameter",
        ".cache_control",
    );
    part(
        "user",
        json!({"type": "image_url", "image_url": 7}),
        "invalid_type",
        ".image_url",
    );
    part(
        "user",
        json!({"type": "image_url", "image_url": {"odd": 1, "url": "u"}}),
        "unsupported_parameter",
        ".image_url.odd",
    );
    part(
        "user",
        json!({"type": "text"}),
        "missing_required_parameter",
        ".text",
    );
    part("user", json!({}), "missing_required_parameter", ".type");
    let call = |call: Value, code: &str, param: &str| {
        message(
            json!({"role": "assistant", "tool_calls": [call]}),
            code,
            &format!("messages[1].tool_calls[0]{param}"),
        )
    };
    call(
        json!({"id": "1", "type": "web_search", "web_search": {}}),
        "unsupported_parameter",
        ".type",
    );
    call(
        json!({"type": "function", "function": {"name": "f", "arguments": "{}"}}),
        "missing_required_parameter",
        ".id",
    );
    call(
        json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}),
        "invalid_type",
        ".function.arguments",
    );
}

/// Values of all kinds, valid and invalid in their place.
fn any_json() -> impl Strategy<Value = Value> {
    let words = [
        "type",
        "text",
        "content",
        "role",
        "function",
        "name",
        "id",
        "arguments",
        "image_url",
        "url",
        "json_schema",
        "schema",
        "tools",
    ];
    let word = proptest::sample::select(words.to_vec());
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        ".{0,4}".prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 30, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::hash_map(word.clone(), inner, 0..5).prop_map(
                |map| Value::Object(
                    map.into_iter()
                        .map(|(name, value)| (name.to_owned(), value))
                        .collect()
                )
            ),
        ]
    })
}

proptest! {
    #[test]
    fn accepted_chat_requests_translate_to_valid_responses_requests(
        role in proptest::sample::select(vec!["user", "assistant", "tool", "system"]),
        content in prop_oneof![1 => any_json(), 2 => ".{0,4}".prop_map(Value::from)],
        name in proptest::sample::select(vec!["tools", "tool_choice", "response_format", "stream_options", "logprobs", "odd", "verbosity"]),
        member in prop_oneof![2 => Just(Value::Null), 1 => any_json()],
    ) {
        let mut body = json!({"messages": [{"role": role, "content": content}]});
        if role == "tool" {
            body["messages"][0]["tool_call_id"] = json!("1");
        }
        body[name] = member;
        if let Ok(request) = ChatRequest::parse(body.to_string().as_bytes())
            && let Ok(bytes) = request.to_responses("m")
        {
            let read = ResponsesRequest::parse(&bytes);
            // The upstream checks the values of members that are only renamed.
            prop_assert!(read.as_ref().map_or_else(|error| error.param.as_deref() != Some("input"), |read| read.input_items(&"resp_x".parse().unwrap()).len() <= 1));
        }
    }
}
