//! Responses requests over a Responses upstream: only ids and numbers are replaced, and encrypted
//! reasoning is asked for.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use serde_json::{Value, json};
use tokenwire_core::dialect::Dialect;
use tokenwire_core::generation::Generation;
use tokenwire_core::model::snapshot::Api;
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_testkit::{Audit, EngineOptions, Reader, TestEngine};

fn engine() -> TestEngine {
    TestEngine::new(EngineOptions {
        api: Api::Responses,
        ..EngineOptions::default()
    })
}

/// Returns the payloads of the responses dialect, byte for byte.
fn payloads(generation: &std::sync::Arc<Generation>) -> Vec<String> {
    let mut reader = Reader::new(generation.attach(), 0, Dialect::Responses);
    reader.read_now();
    reader.lines().into_iter().map(|line| line.data).collect()
}

#[tokio::test(start_paused = true)]
async fn event_bytes_are_relayed_except_numbers_and_ids() {
    // Odd spellings, unknown members and unknown types; `N` stands for the number.
    let events = [
        r#"{"type":"response.output_item.added","sequence_number":N,"output_index":0,"item":{"id":"ws_1","type":"web_search_call","status":"in_progress","x":1.50}}"#,
        r#"{"type":"response.web_search_call.searching","output_index":0,"item_id":"ws_1","sequence_number":N}"#,
        r#"{"type":"response.output_item.added","sequence_number":N,"output_index":1,"item":{"id":"msg_1","type":"message","content":[]}}"#,
        r#"{"type":"response.content_part.added","item_id":"msg_1","output_index":1,"content_index":0,"part":{"type":"output_text","text":""},"sequence_number":N}"#,
        r#"{"type":"response.mcp_call_arguments.delta","delta":"\u00e9\/","item_id":"mcp_1","output_index":5,"sequence_number":N,"obfuscation":"a b"}"#,
        r#"{"sequence_number":N,"type":"response.code_interpreter_call_code.done","code":"print( 1 )","nested":{"sequence_number":7,"id":"theirs","previous_response_id":"theirs"}}"#,
        r#"{"type":"response.of.the.future","sequence_number":N,"big":12345678901234567890,"list":[1, 2 ,3]}"#,
        r#"{"type":"response.output_text.delta","sequence_number":N,"item_id":"msg_1","output_index":1,"content_index":0,"delta":"Hi","logprobs":[],"extra":null}"#,
    ];
    let test = engine();
    let started = test.start(r#"{"input":"hi","stream":true}"#);
    let call = test.upstream.call().await;
    call.data(r#"{"type":"response.created","sequence_number":0,"response":{"id":"resp_theirs","status":"in_progress","output":[]}}"#);
    for (number, event) in events.iter().enumerate() {
        // The upstream's numbers differ.
        call.data(&event.replace('N', &(number * 3 + 90).to_string()));
    }
    call.data(r#"{"type":"response.completed","response":{"id":"resp_theirs","status":"completed","output":[]}}"#).end(BodyEnd::Clean);
    let generation = started.guard.generation().clone();
    generation.ended().await;
    let _ = Audit::of(&generation);
    let sent = payloads(&generation);
    // The events that close the call and the message, which the upstream left open, are added.
    assert_eq!(sent.len(), events.len() + 3 + 4);
    let suffix = generation.meta().id.suffix();
    for (at, event) in events.iter().enumerate() {
        let expected = event
            .replace('N', &(at + 2).to_string())
            .replace("ws_1", &format!("item_{suffix}0000"))
            .replace("msg_1", &format!("msg_{suffix}0001"));
        assert_eq!(sent[at + 2], expected);
    }
}

#[tokio::test(start_paused = true)]
async fn response_object_bytes_are_relayed_except_the_ids() {
    let object = |id: &str, previous: &str, status: &str| {
        format!(
            r#"{{"object":"response","id":"{id}","status":"{status}","previous_response_id":{previous},"output":[{{"id":"ws_1","type":"web_search_call","status":"completed","x":1.50}}],"tools":[{{"type":"web_search","filters":null}}],"usage":{{"input_tokens":1,"output_tokens":1,"total_tokens":2,"cost":0.10}},"of_theirs":{{"id":"kept"}}}}"#
        )
    };
    let test = engine();
    let first = test.start(r#"{"input":"one"}"#);
    let call = test.upstream.call().await;
    call.data(&format!(
        r#"{{"type":"response.completed","response":{}}}"#,
        object("resp_theirs", "null", "completed")
    ))
    .end(BodyEnd::Clean);
    let first = first.guard.generation().clone();
    first.ended().await;
    let id = first.meta().id.as_str().to_owned();
    // Items have ids that hold the response's.
    let renamed = |object: String, generation: &Generation| {
        let suffix = generation.meta().id.suffix();
        object.replace("ws_1", &format!("item_{suffix}0000"))
    };
    assert_eq!(
        String::from_utf8(first.response_json()).unwrap(),
        renamed(object(&id, "null", "completed"), &first)
    );

    let second = test.start(&json!({"input": "two", "previous_response_id": id}).to_string());
    let call = test.upstream.call().await;
    // The history is sent instead of an id unknown to the upstream, with the built-in tool's item.
    let asked = call.body();
    assert!(asked.get("previous_response_id").is_none());
    let kinds: Vec<&str> = asked["input"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["message", "web_search_call", "message"]);
    // The item goes back under the upstream's own id.
    assert_eq!(asked["input"][1]["id"], "ws_1");
    call.data(&format!(
        r#"{{"type":"response.created","response":{}}}"#,
        object("resp_2", r#""resp_elsewhere""#, "in_progress")
    ))
    .data(&format!(
        r#"{{"type":"response.incomplete","response":{}}}"#,
        object("resp_2", r#""resp_elsewhere""#, "incomplete")
    ))
    .end(BodyEnd::Clean);
    let second = second.guard.generation().clone();
    second.ended().await;
    let (ours, previous) = (second.meta().id.as_str().to_owned(), format!("\"{id}\""));
    let sent = payloads(&second);
    assert_eq!(
        sent[1],
        format!(
            r#"{{"type":"response.in_progress","sequence_number":1,"response":{}}}"#,
            object(&ours, &previous, "in_progress")
        )
    );
    // The item was not streamed: it is opened and closed before the terminal event.
    assert!(sent[2].contains("output_item.added") && sent[3].contains("output_item.done"));
    assert_eq!(
        sent[4],
        format!(
            r#"{{"type":"response.incomplete","sequence_number":6,"response":{}}}"#,
            renamed(object(&ours, &previous, "incomplete"), &second)
        )
    );
}

#[tokio::test(start_paused = true)]
async fn built_in_tools_and_unknown_members_are_sent_upstream() {
    let ask = json!({"model": "m", "input": [{"role": "user", "content": "hi"}, {"type": "of_the_future", "x": 1}],
        "tools": [{"type": "web_search", "search_context_size": "low"}, {"type": "mcp", "server_label": "s", "server_url": "https://e.org"}],
        "tool_choice": {"type": "web_search"}, "include": ["web_search_call.action.sources"], "truncation": "auto",
        "max_tool_calls": 3, "something_new": {"a": [1.50]}, "metadata": {"a": "b"}, "stream": false, "background": true,
        "idempotency_key": "k"});
    let test = engine();
    let _started = test.start(&ask.to_string());
    let mut expected = ask.clone();
    for ours in ["background", "idempotency_key"] {
        expected.as_object_mut().unwrap().remove(ours);
    }
    expected["stream"] = json!(true);
    expected["store"] = json!(false);
    expected["include"] = json!([
        "web_search_call.action.sources",
        "reasoning.encrypted_content"
    ]);
    let asked: Value = test.upstream.call().await.body();
    assert_eq!(asked, expected);
}
