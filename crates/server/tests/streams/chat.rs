//! The chat dialect relays the upstream's own bytes.

use crate::support::{Answer, End, Request, World, chat, start, with};
use futures::future::join_all;
use serde_json::{Value, json};
use tokenwire::config::models::Models;
use tokenwire_simulator::Simulator;

/// Sends the same request to the upstream itself.
async fn direct(simulator: &Simulator, body: &Value) -> Answer {
    Request::new(simulator.addr(), "POST", "/v1/chat/completions")
        .header("content-type", "application/json")
        .body(body.to_string())
        .answer()
        .await
}

fn weather() -> Value {
    let parameters = json!({
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city", "days"],
        "additionalProperties": false,
    });
    json!([{"type": "function", "function": {"name": "get_weather", "parameters": parameters, "strict": true}}])
}

/// Requests whose answers differ in shape. All are seeded: the same request gets the same bytes.
fn shapes() -> Vec<(&'static str, Value)> {
    let schema = json!({"type": "json_schema", "json_schema": {"name": "place", "strict": true, "schema": {
        "type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"], "additionalProperties": false}}});
    let image = json!([{"role": "user", "content": [
        {"type": "text", "text": "What is this? [[seed=1]]"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]}]);
    vec![
        ("text", chat("tokens=20 seed=1")),
        ("prose", with(chat("seed=1"), json!({}))),
        (
            "escapes and other scripts",
            with(
                chat(""),
                json!({"seed": 1, "messages": [{"role": "user", "content": "\u{1f600} \" \\ \n \u{0} é"}]}),
            ),
        ),
        ("no tokens", chat("tokens=0 seed=1")),
        (
            "a tool call",
            with(chat("seed=1"), json!({"tools": weather()})),
        ),
        (
            "parallel tool calls",
            with(chat("seed=1 calls=3"), json!({"tools": weather()})),
        ),
        (
            "three choices",
            with(chat("tokens=7 seed=1"), json!({"n": 3})),
        ),
        (
            "three choices with calls",
            with(chat("seed=1 calls=2"), json!({"n": 3, "tools": weather()})),
        ),
        (
            "usage",
            with(
                chat("tokens=3 seed=1"),
                json!({"stream_options": {"include_usage": true}}),
            ),
        ),
        ("unrequested usage", chat("tokens=3 seed=1 usage=on")),
        (
            "padding",
            with(
                chat("tokens=3 seed=1"),
                json!({"stream_options": {"include_obfuscation": true}}),
            ),
        ),
        (
            "logprobs",
            with(
                chat("tokens=3 seed=1"),
                json!({"logprobs": true, "top_logprobs": 2}),
            ),
        ),
        ("reasoning", chat("tokens=3 reasoning=4 seed=1")),
        ("refusal", chat("tokens=3 refusal seed=1")),
        (
            "structured output",
            with(chat("seed=1"), json!({"response_format": schema})),
        ),
        ("an image", with(chat(""), json!({"messages": image}))),
        ("length", chat("tokens=3 finish=length seed=1")),
        (
            "an unknown finish",
            chat("tokens=3 finish=eos_token seed=1"),
        ),
        ("an empty finish", chat("tokens=3 finish= seed=1")),
        (
            "a model name with quotes",
            with(
                chat("tokens=3 seed=1"),
                json!({"model": "org/model:\"quoted\" é"}),
            ),
        ),
        ("many tokens", chat("tokens=5000 seed=1")),
        ("large tokens", chat("tokens=5 size=100KiB seed=1")),
    ]
}

#[tokio::test]
async fn streamed_completion_is_relayed_byte_for_byte() {
    let world = &start(|_| {});
    join_all(shapes().into_iter().map(|(shape, body)| async move {
        let expected = direct(&world.simulator, &body).await;
        let answer = world.post("/v1/chat/completions", &body).answer().await;
        assert_eq!(
            (answer.status, answer.end),
            (200, End::Whole),
            "{shape}: {}",
            answer.text()
        );
        assert!(expected.text().ends_with("data: [DONE]\n\n"));
        // The usage chunk is the one without choices.
        let asked = body["stream_options"]["include_usage"] == true;
        let expected: String = expected
            .text()
            .split_inclusive("\n\n")
            .filter(|event| asked || !event.contains(r#""choices":[]"#))
            .collect();
        assert_eq!(answer.text(), expected, "{shape}");
    }))
    .await;
}

#[tokio::test]
async fn unstreamed_completion_is_relayed_byte_for_byte() {
    let world = &start(|_| {});
    join_all(shapes().into_iter().map(|(shape, body)| async move {
        let body = with(body, json!({"stream": false, "stream_options": null}));
        let expected = direct(&world.simulator, &body).await;
        let answer = world.post("/v1/chat/completions", &body).answer().await;
        assert_eq!(answer.status, 200, "{shape}: {}", answer.text());
        assert_eq!(
            answer.header("content-type"),
            Some("application/json"),
            "{shape}"
        );
        assert_eq!(
            answer.header("content-length"),
            Some(answer.body.len().to_string().as_str())
        );
        assert_eq!(
            answer.header("x-upstream-request-id"),
            expected.header("x-request-id"),
            "{shape}"
        );
        assert_eq!(answer.text(), expected.text(), "{shape}");
    }))
    .await;
}

#[tokio::test]
async fn upstream_framing_variants_change_no_payload() {
    let world = &start(|_| {});
    join_all(
        ["split", "crlf", "cr", "nospace", "bom", "comments", "gzip"].map(|fault| async move {
            let steering = |fault: &str| format!("fault={fault} tokens=30 seed=1");
            // Ids are derived from the body, so the direct answer is requested with the same body
            // and reframed here.
            let body = chat(&steering(fault));
            let direct = direct(&world.simulator, &body).await;
            let answer = world.post("/v1/chat/completions", &body).answer().await;
            let contents: Vec<String> = answer
                .events()
                .into_iter()
                .map(|event| event.data)
                .collect();
            assert_eq!(
                contents.last().map(String::as_str),
                Some("[DONE]"),
                "{fault}"
            );
            if fault != "gzip" {
                let text = direct
                    .text()
                    .replace('\u{feff}', "")
                    .replace("\r\n", "\n")
                    .replace('\r', "\n");
                let expected: Vec<String> = crate::support::sse::parse(&text)
                    .into_iter()
                    .map(|event| event.data)
                    .collect();
                assert_eq!(contents, expected, "{fault}");
            }
            assert_eq!(contents.len(), 33, "{fault}");
        }),
    )
    .await;
}

#[tokio::test]
async fn unstreamed_completion_is_read_compressed_and_in_single_bytes() {
    let world = start(|_| {});
    for fault in ["none", "gzip", "split"] {
        let body = with(
            chat(&format!("fault={fault} tokens=3 text=count")),
            json!({"stream": false}),
        );
        let answer = world.post("/v1/chat/completions", &body).answer().await;
        assert_eq!(
            (answer.status, answer.header("content-encoding")),
            (200, None),
            "{fault}"
        );
        assert_eq!(
            answer.json()["choices"][0]["message"]["content"],
            " t0 t1 t2",
            "{fault}"
        );
    }
}

#[tokio::test]
async fn multi_line_payload_keeps_its_line_breaks() {
    let world = start(|_| {});
    let body = chat("fault=multi tokens=3 seed=1");
    let expected = direct(&world.simulator, &body).await;
    let answer = world.post("/v1/chat/completions", &body).answer().await;
    assert!(answer.text().contains(",\ndata: "), "{}", answer.text());
    assert_eq!(answer.text(), expected.text());
}

/// Sends a body verbatim and returns what the upstream received.
async fn upstream_body(world: &World, path: &str, body: &str) -> Value {
    let answer = Request::new(world.address, "POST", path)
        .header("content-type", "application/json")
        .body(body)
        .answer()
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    world.last_request().body.expect("the upstream got no JSON")
}

#[tokio::test]
async fn unknown_parameters_are_forwarded_unchanged() {
    let world = start(|_| {});
    let body = concat!(
        r#" {"x_vendor" : {"deep":[1,2.50,{"k":null}], "n": 1.000000000000000000000000010}, "model":"simulator","#,
        r#""messages":[{"role":"user","content":"\u00e9[[tokens=1]]","x_cache":true}],"temperature":0.70,"stream":true } "#
    );
    let answer = Request::new(world.address, "POST", "/v1/chat/completions")
        .header("content-type", "application/json")
        .body(body)
        .answer()
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = world.last_request();
    assert_eq!(seen.path, "/v1/chat/completions");
    // White space and digits that a parser would drop show in the length.
    assert_eq!(seen.body_bytes, body.len());
}

#[tokio::test]
async fn usage_is_requested_only_if_the_client_asks() {
    let world = start(|_| {});
    let sent = chat("tokens=1");
    assert_eq!(
        upstream_body(&world, "/v1/chat/completions", &sent.to_string()).await,
        sent
    );
    let sent = with(
        chat("tokens=1"),
        json!({"stream_options": {"include_usage": false, "x": 1}}),
    );
    assert_eq!(
        upstream_body(&world, "/v1/chat/completions", &sent.to_string()).await,
        sent
    );
    // The responses dialect has to report usage.
    let up = upstream_body(
        &world,
        "/v1/responses",
        r#"{"model":"simulator","input":"[[tokens=1]]"}"#,
    )
    .await;
    assert_eq!(
        (&up["stream"], &up["stream_options"]["include_usage"]),
        (&json!(true), &json!(true))
    );
}

#[tokio::test]
async fn configured_model_name_is_translated_and_a_missing_one_is_filled_in() {
    let world = start(|config| {
        config.default_model = Some("fast".to_owned());
        config.upstreams[0].models =
            Models::Renamed([("fast".to_owned(), "simulator".into())].into());
    });
    for body in [
        r#"{"model":"fast","messages":[{"role":"user","content":"[[tokens=1]]"}]}"#,
        r#"{"messages":[{"role":"user","content":"[[tokens=1]]"}]}"#,
    ] {
        assert_eq!(
            upstream_body(&world, "/v1/chat/completions", body).await["model"],
            "simulator"
        );
    }
    let models = world.get("/v1/models").answer().await.json();
    assert_eq!(
        models["data"].as_array().map(|models| models
            .iter()
            .map(|model| model["id"].clone())
            .collect::<Vec<_>>()),
        Some(vec![json!("fast")])
    );
    assert_eq!(
        world.get("/v1/models/fast").answer().await.json()["id"],
        "fast"
    );
    let missing = world
        .post(
            "/v1/chat/completions",
            &with(chat("tokens=1"), json!({"model": "simulator"})),
        )
        .answer()
        .await;
    assert_eq!(
        (missing.status, missing.json()["error"]["code"].as_str()),
        (404, Some("model_not_found"))
    );
}

#[tokio::test]
async fn upstream_gets_the_gateways_key_instead_of_the_clients() {
    let keyed = start(|config| config.upstreams[0].api_key = Some("sk-gateway".to_owned().into()));
    let keyless = start(|_| {});
    for (world, authorized) in [(&keyed, true), (&keyless, false)] {
        let answer = world
            .post("/v1/chat/completions", &chat("tokens=1"))
            .header("authorization", "Bearer sk-client")
            .answer()
            .await;
        assert_eq!(answer.status, 200);
        let seen = world.last_request();
        assert_eq!(seen.authorized, authorized);
        assert!(!format!("{seen:?}").contains("sk-client"));
    }
}
