//! `POST /v1/responses`: events and objects as api.openai.com sends them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod wire;

use serde_json::{Value, json};
use wire::{Answer, instant, post, responses};

const RESPONSES: &str = "/v1/responses";

/// Returns the types in order, with consecutive deltas as one.
fn outline(answer: &Answer) -> Vec<String> {
    let mut kinds: Vec<String> = answer
        .events()
        .iter()
        .map(|event| event["type"].as_str().unwrap().to_owned())
        .collect();
    kinds.dedup();
    kinds
}

/// Checks what holds for each stream: numbers without gaps, matching names, items with stable ids,
/// deltas that add up to the texts.
fn check(answer: &Answer) -> Value {
    let events = answer.events();
    let names: Vec<String> = answer
        .text()
        .lines()
        .filter_map(|line| line.strip_prefix("event: ").map(str::to_owned))
        .collect();
    assert_eq!(names.len(), events.len());
    let mut texts: Vec<String> = Vec::new();
    for (index, event) in events.iter().enumerate() {
        assert_eq!(
            (&event["sequence_number"], &event["type"]),
            (&json!(index), &json!(names[index]))
        );
        match event["type"].as_str().unwrap() {
            "response.output_item.added" => {
                assert_eq!(event["output_index"], texts.len());
                texts.push(String::new());
            }
            kind if kind.ends_with(".delta") => texts
                [event["output_index"].as_u64().unwrap() as usize]
                .push_str(event["delta"].as_str().unwrap()),
            kind if kind.ends_with("_text.done")
                || kind.ends_with("refusal.done")
                || kind.ends_with("arguments.done") =>
            {
                let whole = ["text", "refusal", "arguments"]
                    .iter()
                    .find_map(|name| event[*name].as_str())
                    .unwrap();
                assert_eq!(
                    whole,
                    texts[event["output_index"].as_u64().unwrap() as usize]
                );
            }
            _ => {}
        }
    }
    let last = events.last().unwrap()["response"].clone();
    assert_eq!(last["output"].as_array().unwrap().len(), texts.len());
    for event in &events {
        if let (Some(id), Some(index)) = (event["item_id"].as_str(), event["output_index"].as_u64())
        {
            assert_eq!(last["output"][index as usize]["id"], id);
        }
        if event["type"] == "response.output_item.done" {
            assert_eq!(
                last["output"][event["output_index"].as_u64().unwrap() as usize],
                event["item"]
            );
        }
    }
    assert_eq!(
        (
            &events[0]["response"]["id"],
            &events[0]["response"]["status"]
        ),
        (&last["id"], &json!("in_progress"))
    );
    assert!(!answer.done(), "OpenAI sends no [DONE] here");
    last
}

#[tokio::test]
async fn text_is_streamed() {
    let simulator = instant();
    let answer = responses(&simulator, "tokens=3,text=count").await;
    assert_eq!(
        outline(&answer),
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    let response = check(&answer);
    assert!(response["id"].as_str().unwrap().starts_with("resp_"));
    assert_eq!(response["status"], "completed");
    let item = &response["output"][0];
    assert!(item["id"].as_str().unwrap().starts_with("msg_"));
    assert_eq!(
        item["content"],
        json!([{"type": "output_text", "text": " t0 t1 t2", "annotations": [], "logprobs": []}])
    );
    assert_eq!(response["usage"]["output_tokens"], 3);
    // Required by the types of openai-python.
    let details = &response["usage"]["input_tokens_details"];
    assert_eq!(
        *details,
        json!({"cached_tokens": 0, "cache_write_tokens": 0})
    );
    assert_eq!(
        response["usage"]["total_tokens"],
        response["usage"]["input_tokens"].as_u64().unwrap() + 3
    );
}

#[tokio::test]
async fn object_has_all_fields_and_repeats_the_request() {
    let simulator = instant();
    let body = json!({"model": "simulator", "input": "hi", "instructions": "be brief", "temperature": 0.5, "metadata": {"a": "b"}, "store": false});
    let response = post(&simulator, RESPONSES, "tokens=1", &body)
        .await
        .answer()
        .await
        .json();
    for field in [
        "id",
        "object",
        "created_at",
        "completed_at",
        "status",
        "incomplete_details",
        "model",
        "previous_response_id",
        "instructions",
        "output",
        "error",
        "tools",
        "tool_choice",
        "truncation",
        "parallel_tool_calls",
        "text",
        "top_p",
        "presence_penalty",
        "frequency_penalty",
        "top_logprobs",
        "temperature",
        "reasoning",
        "usage",
        "max_output_tokens",
        "max_tool_calls",
        "store",
        "background",
        "service_tier",
        "metadata",
        "safety_identifier",
        "prompt_cache_key",
    ] {
        assert!(response.get(field).is_some(), "{field}");
    }
    for field in ["instructions", "temperature", "metadata", "store", "model"] {
        assert_eq!(response[field], body[field]);
    }
}

#[tokio::test]
async fn calls_are_streamed() {
    let simulator = instant();
    let body = json!({"model": "simulator", "stream": true, "input": "weather?", "tools": [
        {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}},
    ]});
    let answer = post(&simulator, RESPONSES, "calls=2", &body)
        .await
        .answer()
        .await;
    let response = check(&answer);
    let calls = response["output"].as_array().unwrap();
    assert_eq!(calls.len(), 2);
    for call in calls {
        assert_eq!(
            (&call["type"], &call["name"], &call["status"]),
            (
                &json!("function_call"),
                &json!("weather"),
                &json!("completed")
            )
        );
        assert!(
            call["id"].as_str().unwrap().starts_with("fc_")
                && call["call_id"].as_str().unwrap().starts_with("call_")
        );
        let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
        assert!(arguments["city"].is_string());
    }
    assert_ne!(calls[0]["call_id"], calls[1]["call_id"]);
    let output =
        json!({"type": "function_call_output", "call_id": calls[0]["call_id"], "output": "sunny"});
    let body = json!({"model": "simulator", "tools": body["tools"], "input": [{"role": "user", "content": "weather?"}, calls[0], output]});
    let response = post(&simulator, RESPONSES, "", &body)
        .await
        .answer()
        .await
        .json();
    assert!(
        response["output"][0]["content"][0]["text"]
            .as_str()
            .unwrap()
            .contains("sunny")
    );
}

#[tokio::test]
async fn reasoning_is_streamed_as_text_or_summary() {
    let simulator = instant();
    for (reasoning, delta, item) in [
        (
            json!({"effort": "low"}),
            "response.reasoning_text.delta",
            "content",
        ),
        (
            json!({"effort": "low", "summary": "auto"}),
            "response.reasoning_summary_text.delta",
            "summary",
        ),
    ] {
        let body =
            json!({"model": "simulator", "stream": true, "input": "hi", "reasoning": reasoning});
        let answer = post(&simulator, RESPONSES, "reasoning=4,tokens=2", &body)
            .await
            .answer()
            .await;
        let response = check(&answer);
        assert_eq!(
            answer
                .events()
                .iter()
                .filter(|event| event["type"] == delta)
                .count(),
            4
        );
        assert_eq!(
            (
                &response["output"][0]["type"],
                &response["output"][1]["type"]
            ),
            (&json!("reasoning"), &json!("message"))
        );
        assert_eq!(response["output"][0][item].as_array().unwrap().len(), 1);
        assert_eq!(
            response["usage"]["output_tokens_details"]["reasoning_tokens"],
            4
        );
        assert_eq!(response["usage"]["output_tokens"], 6);
    }
}

#[tokio::test]
async fn refusals_and_limits_end_the_response() {
    let simulator = instant();
    let response = check(&responses(&simulator, "refusal").await);
    assert_eq!(response["output"][0]["content"][0]["type"], "refusal");
    let body = json!({"model": "simulator", "stream": true, "input": "hi", "max_output_tokens": 2});
    let answer = post(&simulator, RESPONSES, "tokens=9,text=count", &body)
        .await
        .answer()
        .await;
    let response = check(&answer);
    assert_eq!(
        answer.events().last().unwrap()["type"],
        "response.incomplete"
    );
    assert_eq!(
        (
            &response["status"],
            &response["incomplete_details"]["reason"]
        ),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );
    assert_eq!(
        (
            &response["output"][0]["status"],
            &response["output"][0]["content"][0]["text"]
        ),
        (&json!("incomplete"), &json!(" t0 t1"))
    );
    let filtered = check(&responses(&simulator, "tokens=1,finish=content_filter").await);
    assert_eq!(filtered["incomplete_details"]["reason"], "content_filter");
    let within = post(&simulator, RESPONSES, "tokens=9,reasoning=9", &body)
        .await
        .answer()
        .await;
    assert_eq!(check(&within)["output"][0]["type"], "reasoning");
}

#[tokio::test]
async fn text_format_is_followed_and_images_are_accepted() {
    let simulator = instant();
    let schema =
        json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
    let body = json!({"model": "simulator", "input": "hi", "text": {"format": {"type": "json_schema", "name": "n", "schema": schema}}});
    let response = post(&simulator, RESPONSES, "", &body)
        .await
        .answer()
        .await
        .json();
    let n: Value = serde_json::from_str(
        response["output"][0]["content"][0]["text"]
            .as_str()
            .unwrap(),
    )
    .unwrap();
    assert!(n["n"].is_i64());
    let content = json!([{"type": "input_text", "text": "what?"}, {"type": "input_image", "image_url": "data:image/gif;base64,AAAA"}]);
    let body = json!({"model": "simulator", "input": [{"role": "user", "content": content}]});
    let response = post(&simulator, RESPONSES, "", &body)
        .await
        .answer()
        .await
        .json();
    assert!(
        response["output"][0]["content"][0]["text"]
            .as_str()
            .unwrap()
            .contains("1 image: image/gif")
    );
}

#[tokio::test]
async fn same_seed_gives_same_bytes() {
    let simulator = instant();
    let first = responses(&simulator, "seed=3,reasoning=2,tokens=4")
        .await
        .body;
    assert_eq!(
        first,
        responses(&simulator, "seed=3,reasoning=2,tokens=4")
            .await
            .body
    );
}
