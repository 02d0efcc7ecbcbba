//! `POST /v1/chat/completions`: the structure of the answers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod wire;

use serde_json::{Value, json};
use wire::{chat, get, instant, post, question, with};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn stream_has_openai_chunks() {
    let simulator = instant();
    let answer = chat(&simulator, "tokens=3,text=count,seed=1").await;
    assert_eq!(
        (answer.status, answer.ended, answer.done()),
        (200, true, true)
    );
    assert_eq!(
        answer.header("content-type"),
        Some("text/event-stream; charset=utf-8")
    );
    assert!(answer.header("x-request-id").unwrap().starts_with("req_"));
    let events = answer.events();
    assert_eq!(events.len(), 5);
    let first = &events[0];
    assert!(first["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(first["object"], "chat.completion.chunk");
    assert_eq!(first["service_tier"], "default");
    assert!(
        first["system_fingerprint"]
            .as_str()
            .unwrap()
            .starts_with("fp_")
    );
    assert_eq!(
        first["choices"],
        json!([{"index": 0, "delta": {"role": "assistant", "content": "", "refusal": null}, "logprobs": null, "finish_reason": null}])
    );
    for (index, event) in events[1..4].iter().enumerate() {
        let delta = json!({"content": format!(" t{index}")});
        assert_eq!(
            event["choices"],
            json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": null}])
        );
        assert_eq!(
            (&event["id"], &event["created"]),
            (&first["id"], &first["created"])
        );
    }
    assert_eq!(
        events[4]["choices"],
        json!([{"index": 0, "delta": {}, "logprobs": null, "finish_reason": "stop"}])
    );
    assert!(
        events
            .iter()
            .all(|event| event.get("usage").is_none() && event.get("obfuscation").is_none())
    );
    assert!(
        answer.text().starts_with(r#"data: {"id":"chatcmpl-"#),
        "the members stand in OpenAI's order"
    );
}

#[tokio::test]
async fn unstreamed_answer_is_one_completion() {
    let simulator = instant();
    let answer = post(&simulator, CHAT, "tokens=2,text=count", &question(false))
        .await
        .answer()
        .await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let completion = answer.json();
    assert_eq!(completion["object"], "chat.completion");
    assert_eq!(
        completion["choices"][0]["message"],
        json!({"role": "assistant", "content": " t0 t1", "refusal": null, "annotations": []})
    );
    assert_eq!(completion["choices"][0]["finish_reason"], "stop");
    assert_eq!(completion["usage"]["completion_tokens"], 2);
    assert_eq!(
        completion["usage"]["total_tokens"],
        completion["usage"]["prompt_tokens"].as_u64().unwrap() + 2
    );
}

#[tokio::test]
async fn usage_is_reported_on_request() {
    let simulator = instant();
    let asking = with(
        question(true),
        json!({"stream_options": {"include_usage": true}}),
    );
    for (steering, body, reported) in [
        ("tokens=4", &asking, true),
        ("tokens=4,usage=off", &asking, false),
        ("tokens=4", &question(true), false),
        ("tokens=4,usage=on", &question(true), true),
    ] {
        let answer = post(&simulator, CHAT, steering, body).await.answer().await;
        let events = answer.events();
        let last = events.last().unwrap();
        assert_eq!(last["choices"] == json!([]), reported, "{steering}");
        if reported {
            assert_eq!(last["usage"]["completion_tokens"], 4);
            assert!(
                events[..events.len() - 1]
                    .iter()
                    .all(|event| event.get("usage") == Some(&Value::Null))
            );
        }
        assert!(answer.done());
    }
}

#[tokio::test]
async fn obfuscation_is_sent_on_request() {
    let simulator = instant();
    let asking = with(
        question(true),
        json!({"stream_options": {"include_obfuscation": true}}),
    );
    let answer = post(&simulator, CHAT, "tokens=4", &asking)
        .await
        .answer()
        .await;
    assert!(
        answer
            .events()
            .iter()
            .all(|event| !event["obfuscation"].as_str().unwrap().is_empty())
    );
}

#[tokio::test]
async fn choices_are_interleaved() {
    let simulator = instant();
    let answer = post(
        &simulator,
        CHAT,
        "tokens=3,text=count",
        &with(question(true), json!({"n": 3})),
    )
    .await
    .answer()
    .await;
    let events = answer.events();
    let order: Vec<u64> = events
        .iter()
        .map(|event| event["choices"][0]["index"].as_u64().unwrap())
        .collect();
    assert_eq!(order, [0, 1, 2].repeat(5));
    for index in 0..3 {
        let own: Vec<Value> = events
            .iter()
            .filter(|event| event["choices"][0]["index"] == index)
            .cloned()
            .collect();
        assert_eq!(wire::content(&own), " t0 t1 t2");
    }
    let whole = post(
        &simulator,
        CHAT,
        "",
        &with(question(false), json!({"n": 2})),
    )
    .await
    .answer()
    .await
    .json();
    assert_ne!(
        whole["choices"][0]["message"],
        whole["choices"][1]["message"]
    );
}

#[tokio::test]
async fn log_probabilities_are_sent_on_request() {
    let simulator = instant();
    let asking = |stream| {
        with(
            question(stream),
            json!({"logprobs": true, "top_logprobs": 2}),
        )
    };
    let streamed = post(
        &simulator,
        CHAT,
        "tokens=2,text=count,seed=1",
        &asking(true),
    )
    .await
    .answer()
    .await
    .events();
    let entry = &streamed[2]["choices"][0]["logprobs"]["content"][0];
    assert_eq!(
        (&entry["token"], &entry["bytes"]),
        (&json!(" t1"), &json!([32, 116, 49]))
    );
    assert_eq!(entry["top_logprobs"].as_array().unwrap().len(), 2);
    assert_eq!(entry["top_logprobs"][0]["logprob"], entry["logprob"]);
    assert!(entry["logprob"].as_f64().unwrap() <= 0.0);
    let whole = post(
        &simulator,
        CHAT,
        "tokens=2,text=count,seed=1",
        &asking(false),
    )
    .await
    .answer()
    .await
    .json();
    assert_eq!(
        whole["choices"][0]["logprobs"]["content"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

fn tools() -> Value {
    let city = json!({"type": "object", "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}}, "required": ["city", "unit"], "additionalProperties": false});
    let days = json!({"type": "object", "properties": {"days": {"type": "integer", "minimum": 1, "maximum": 7}}, "required": ["days"]});
    json!({"tools": [
        {"type": "function", "function": {"name": "weather", "parameters": city}},
        {"type": "function", "function": {"name": "forecast", "parameters": days}},
    ]})
}

/// Returns the calls of a stream: name, id and arguments, joined by index.
fn calls(events: &[Value]) -> Vec<(String, String, String)> {
    let mut calls: Vec<(String, String, String)> = Vec::new();
    for delta in events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["tool_calls"].as_array())
        .flatten()
    {
        let index = delta["index"].as_u64().unwrap() as usize;
        if let Some(id) = delta["id"].as_str() {
            assert_eq!(index, calls.len());
            assert_eq!(delta["type"], "function");
            calls.push((
                delta["function"]["name"].as_str().unwrap().to_owned(),
                id.to_owned(),
                String::new(),
            ));
        }
        calls[index]
            .2
            .push_str(delta["function"]["arguments"].as_str().unwrap());
    }
    calls
}

#[tokio::test]
async fn first_tool_is_called_with_valid_arguments() {
    let simulator = instant();
    let answer = post(&simulator, CHAT, "", &with(question(true), tools()))
        .await
        .answer()
        .await;
    assert_eq!(answer.finish().as_deref(), Some("tool_calls"));
    let events = answer.events();
    let pieces = events
        .iter()
        .filter(|event| event["choices"][0]["delta"]["tool_calls"].is_array())
        .count();
    assert!(pieces > 3, "arguments come in pieces");
    let calls = calls(&events);
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].0, "weather");
    assert!(calls[0].1.starts_with("call_"));
    let arguments: Value = serde_json::from_str(&calls[0].2).unwrap();
    assert!(
        arguments["city"].is_string() && ["C", "F"].contains(&arguments["unit"].as_str().unwrap())
    );
    assert_eq!(arguments.as_object().unwrap().len(), 2);
}

#[tokio::test]
async fn tool_choice_and_steering_select_the_call() {
    let simulator = instant();
    let named = json!({"tool_choice": {"type": "function", "function": {"name": "forecast"}}});
    for (steering, members, names) in [
        ("", named, vec!["forecast"]),
        ("", json!({"tool_choice": "none"}), vec![]),
        ("", json!({"tool_choice": "required"}), vec!["weather"]),
        ("calls=3", json!({}), vec!["weather", "forecast", "weather"]),
        (
            "calls=3",
            json!({"parallel_tool_calls": false}),
            vec!["weather"],
        ),
        ("calls=0", json!({}), vec![]),
    ] {
        let body = with(with(question(true), tools()), members);
        let streamed = calls(
            &post(&simulator, CHAT, steering, &body)
                .await
                .answer()
                .await
                .events(),
        );
        assert_eq!(
            streamed
                .iter()
                .map(|call| call.0.as_str())
                .collect::<Vec<_>>(),
            names,
            "{steering} {body}"
        );
        let ids: std::collections::HashSet<&str> =
            streamed.iter().map(|call| call.1.as_str()).collect();
        assert_eq!(ids.len(), names.len(), "ids are distinct");
        let body = with(body, json!({"stream": false}));
        let whole = post(&simulator, CHAT, steering, &body)
            .await
            .answer()
            .await
            .json();
        let whole: Vec<&str> = whole["choices"][0]["message"]["tool_calls"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|call| call["function"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(whole, names);
    }
}

#[tokio::test]
async fn answer_after_a_tool_result_is_text() {
    let simulator = instant();
    let mut messages = json!([
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny, 21 C"},
    ]);
    let body = with(with(question(true), tools()), json!({"messages": messages}));
    let answer = post(&simulator, CHAT, "", &body).await.answer().await;
    assert_eq!(answer.finish().as_deref(), Some("stop"));
    assert!(answer.content().contains("sunny, 21 C"));
    messages
        .as_array_mut()
        .unwrap()
        .push(json!({"role": "user", "content": "and tomorrow?"}));
    let body = with(with(question(true), tools()), json!({"messages": messages}));
    let answer = post(&simulator, CHAT, "", &body).await.answer().await;
    assert_eq!(
        answer.finish().as_deref(),
        Some("tool_calls"),
        "a new question is a new call"
    );
}

#[tokio::test]
async fn response_format_is_followed() {
    let simulator = instant();
    let schema = json!({"type": "object", "properties": {"title": {"type": "string"}, "stars": {"type": "integer", "minimum": 1, "maximum": 5}}, "required": ["title", "stars"]});
    let body = with(
        question(true),
        json!({"response_format": {"type": "json_schema", "json_schema": {"name": "film", "schema": schema, "strict": true}}}),
    );
    let film: Value = serde_json::from_str(
        &post(&simulator, CHAT, "", &body)
            .await
            .answer()
            .await
            .content(),
    )
    .unwrap();
    assert!(film["title"].is_string() && (1..=5).contains(&film["stars"].as_i64().unwrap()));
    let body = with(
        question(true),
        json!({"response_format": {"type": "json_object"}}),
    );
    let any: Value = serde_json::from_str(
        &post(&simulator, CHAT, "", &body)
            .await
            .answer()
            .await
            .content(),
    )
    .unwrap();
    assert_eq!(any["question"], "hi");
}

#[tokio::test]
async fn images_are_accepted_and_mentioned() {
    let simulator = instant();
    let content = json!([
        {"type": "text", "text": "what is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": "data:image/webp;base64,AAAA"}},
    ]);
    let body = with(
        question(true),
        json!({"messages": [{"role": "user", "content": content}]}),
    );
    let answer = post(&simulator, CHAT, "", &body).await.answer().await;
    assert!(answer.content().contains("2 images: image/png, image/webp"));
}

#[tokio::test]
async fn reasoning_precedes_the_answer() {
    let simulator = instant();
    for (steering, members) in [
        ("", json!({"reasoning_effort": "low"})),
        ("", json!({"model": "simulator-reasoning"})),
        ("reasoning=7,tokens=2,usage=on", json!({})),
    ] {
        let events = post(&simulator, CHAT, steering, &with(question(true), members))
            .await
            .answer()
            .await
            .events();
        let kinds: Vec<&str> = events
            .iter()
            .filter_map(|event| event["choices"][0]["delta"].as_object())
            .filter_map(|delta| {
                ["reasoning_content", "content"]
                    .into_iter()
                    .find(|kind| delta.get(*kind).is_some_and(Value::is_string))
            })
            .collect();
        let first_content = kinds.iter().position(|kind| *kind == "content").unwrap();
        assert!(first_content > 3, "{steering}");
        assert!(kinds[first_content..].iter().all(|kind| *kind == "content"));
        if let Some(usage) = events.last().unwrap().get("usage") {
            assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], 7);
            assert_eq!(usage["completion_tokens"], 9);
        }
    }
    let none = post(
        &simulator,
        CHAT,
        "",
        &with(question(false), json!({"reasoning_effort": "none"})),
    )
    .await
    .answer()
    .await
    .json();
    assert!(
        none["choices"][0]["message"]
            .get("reasoning_content")
            .is_none()
    );
}

#[tokio::test]
async fn limits_and_stop_words_end_the_answer() {
    let simulator = instant();
    for (steering, members, content, finish) in [
        (
            "tokens=9,text=count",
            json!({"max_tokens": 3}),
            " t0 t1 t2",
            "length",
        ),
        (
            "tokens=9,text=count",
            json!({"max_completion_tokens": 2, "max_tokens": 7}),
            " t0 t1",
            "length",
        ),
        (
            "tokens=3,text=count",
            json!({"max_tokens": 3}),
            " t0 t1 t2",
            "stop",
        ),
        (
            "tokens=9,text=count,reasoning=3",
            json!({"max_tokens": 4}),
            " t0",
            "length",
        ),
        (
            "tokens=9,text=count",
            json!({"stop": " t2"}),
            " t0 t1",
            "stop",
        ),
        (
            "tokens=9,text=count",
            json!({"stop": ["zz", "1 t"]}),
            " t0 t",
            "stop",
        ),
        (
            "tokens=2,text=count,finish=eos_token",
            json!({}),
            " t0 t1",
            "eos_token",
        ),
        ("tokens=0", json!({}), "", "stop"),
        (
            "tokens=2,text=count,size=6",
            json!({}),
            " t0___ t1___",
            "stop",
        ),
    ] {
        let answer = post(
            &simulator,
            CHAT,
            steering,
            &with(question(true), members.clone()),
        )
        .await
        .answer()
        .await;
        assert_eq!(
            (answer.content().as_str(), answer.finish().as_deref()),
            (content, Some(finish)),
            "{steering} {members}"
        );
        let whole = post(&simulator, CHAT, steering, &with(question(false), members))
            .await
            .answer()
            .await
            .json();
        assert_eq!(
            (
                &whole["choices"][0]["message"]["content"],
                &whole["choices"][0]["finish_reason"]
            ),
            (&json!(content), &json!(finish))
        );
    }
}

#[tokio::test]
async fn refusal_is_sent_on_request() {
    let simulator = instant();
    let events = chat(&simulator, "refusal").await.events();
    let refusal: String = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["refusal"].as_str())
        .collect();
    assert_eq!(refusal, "I'm sorry, I can't assist with that request.");
    assert_eq!(wire::content(&events), "");
    let whole = post(&simulator, CHAT, "refusal", &question(false))
        .await
        .answer()
        .await
        .json();
    assert_eq!(
        (
            &whole["choices"][0]["message"]["refusal"],
            &whole["choices"][0]["message"]["content"]
        ),
        (&json!(refusal), &Value::Null)
    );
}

#[tokio::test]
async fn prompt_can_steer_the_answer() {
    let simulator = instant();
    let body = with(
        question(true),
        json!({"messages": [
            {"role": "user", "content": "[[tokens=1000]]"},
            {"role": "assistant", "content": "…"},
            {"role": "user", "content": "go on [[tokens=2 text=count]]"},
        ]}),
    );
    let answer = wire::send(&simulator, "POST", CHAT, &[], body.to_string().as_bytes())
        .await
        .answer()
        .await;
    assert_eq!(answer.content(), " t0 t1");
}

#[tokio::test]
async fn same_request_gets_same_bytes() {
    let simulator = instant();
    let other = instant();
    for steering in [
        "seed=7",
        "seed=7,tokens=50",
        "seed=7,reasoning=5,calls=2",
        "seed=7,fault=gzip,tokens=9",
    ] {
        let first = chat(&simulator, steering).await.body;
        assert_eq!(first, chat(&simulator, steering).await.body, "{steering}");
        assert_eq!(first, chat(&other, steering).await.body, "{steering}");
        assert_ne!(
            first,
            chat(&simulator, &steering.replace('7', "8")).await.body,
            "{steering}"
        );
    }
    let body = with(question(true), json!({"seed": 7}));
    let seeded = post(&simulator, CHAT, "tokens=5", &body)
        .await
        .answer()
        .await
        .body;
    assert_eq!(
        seeded,
        post(&other, CHAT, "tokens=5", &body)
            .await
            .answer()
            .await
            .body,
        "OpenAI's own seed counts"
    );
    let unseeded = [
        chat(&simulator, "tokens=5").await.events(),
        chat(&simulator, "tokens=5").await.events(),
    ];
    assert_eq!(wire::content(&unseeded[0]), wire::content(&unseeded[1]));
    assert_ne!(unseeded[0][0]["id"], unseeded[1][0]["id"]);
}

#[tokio::test]
async fn default_answer_is_paced_and_describes_itself() {
    let simulator = tokenwire_simulator::Simulator::start(tokenwire_simulator::Options {
        pace: tokenwire_simulator::Pace {
            first_token: std::time::Duration::from_millis(5),
            between_tokens: std::time::Duration::from_millis(1),
        },
        ..Default::default()
    })
    .unwrap();
    let body = with(
        question(true),
        json!({"messages": [
            {"role": "user", "content": "who are you?"},
            {"role": "assistant", "content": "…"},
            {"role": "user", "content": "what goes on here?"},
        ]}),
    );
    let answer = wire::send(&simulator, "POST", CHAT, &[], body.to_string().as_bytes())
        .await
        .answer()
        .await;
    assert!(answer.reads > 10, "it came in {} reads", answer.reads);
    let text = answer.content();
    for part in [
        "**simulator**",
        "> what goes on here?",
        "who are you?",
        "| messages so far | 3 |",
        "every 1ms",
        "日本語",
        "🚀",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
}

#[tokio::test]
async fn examples_name_the_real_port() {
    let gateway = std::net::SocketAddr::from(([127, 0, 0, 1], 4567));
    for (gateway, path) in [
        (Some(gateway), "/v1/streams"),
        (None, "/v1/chat/completions"),
    ] {
        let simulator = tokenwire_simulator::Simulator::start(tokenwire_simulator::Options {
            pace: tokenwire_simulator::Pace::INSTANT,
            gateway,
            ..Default::default()
        })
        .unwrap();
        let body = with(
            question(true),
            json!({"messages": [{"role": "user", "content": "show me the code"}]}),
        );
        let text = post(&simulator, CHAT, "", &body)
            .await
            .answer()
            .await
            .content();
        let port = gateway.unwrap_or(simulator.addr()).port();
        let url = format!("http://localhost:{port}{path}");
        assert!(text.contains(&url), "{url} is missing in {text}");
    }
}

#[tokio::test]
async fn very_long_stream_is_complete() {
    let simulator = instant();
    let answer = chat(&simulator, "tokens=20000,text=count").await;
    let expected: String = (0..20_000).map(|index| format!(" t{index}")).collect();
    assert_eq!(answer.content(), expected);
    assert_eq!(simulator.stats().tokens_sent, 20_000);
    let refused = post(&simulator, CHAT, "tokens=1000000000", &question(false))
        .await
        .answer()
        .await;
    assert_eq!(refused.status, 400, "what cannot be held is refused");
}

#[tokio::test]
async fn models_are_listed() {
    let simulator = instant();
    let models = get(&simulator, "/v1/models").await.json();
    let ids: Vec<&str> = models["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].as_str().unwrap())
        .collect();
    assert_eq!(
        (&models["object"], ids),
        (&json!("list"), vec!["simulator", "simulator-reasoning"])
    );
    assert_eq!(
        get(&simulator, "/v1/models/simulator").await.json()["object"],
        "model"
    );
    assert_eq!(get(&simulator, "/v1/models/unknown-one").await.status, 404);
}
