//! Keys and message contents never reach a log line, an error or a list, not even at level `trace`.

mod support;

use serde_json::json;
use support::process::Process;
use support::websocket::Socket;
use support::{Request, with};
use tokenwire_simulator::{Options, Pace, Simulator};

const KEY: &str = "sk-Kq7ZsecretKEY0123456789abcdefWXYZ";
const CLIENT_KEY: &str = "sk-client-9f8e7d6c5b4a";
const PROMPT: &str = "the-crimson-walrus-of-Avignon";

/// Returns the forms of the secrets that the output contains.
fn traces(output: &str) -> Vec<String> {
    let pieces = [
        KEY,
        &KEY[..12],
        &KEY[KEY.len() - 12..],
        CLIENT_KEY,
        PROMPT,
        "crimson",
        "walrus",
    ];
    output
        .lines()
        .filter(|line| pieces.iter().any(|piece| line.contains(piece)))
        .map(|line| line.chars().take(400).collect())
        .collect()
}

#[tokio::test]
async fn logs_and_errors_contain_no_key_and_no_prompt() {
    let simulator = Simulator::start(Options {
        pace: Pace::INSTANT,
        required_key: Some(KEY.to_owned()),
        ..Options::default()
    })
    .unwrap();
    let strict = Simulator::start(Options {
        pace: Pace::INSTANT,
        required_key: Some("another".to_owned()),
        ..Options::default()
    })
    .unwrap();
    let config = format!(
        "default_model: simulator\nlog:\n  filter: trace\nupstreams:\n  - name: good\n    base_url: {}\n    api_key: {KEY}\n    models: [simulator]\n  \
         - name: refusing\n    base_url: {}\n    api_key: {KEY}\n    models: [refused]\n  \
         - name: nowhere\n    base_url: http://127.0.0.1:1/v1\n    api_key: {KEY}\n    models: [unreachable]\n",
        simulator.base_url(),
        strict.base_url()
    );
    let gateway = Process::start(&config, &[("RUST_LOG", "trace")]);
    let get = |path: &str| {
        Request::new(gateway.address, "GET", path)
            .header("authorization", &format!("Bearer {CLIENT_KEY}"))
    };
    let post = |path: &str, body: String| {
        Request::new(gateway.address, "POST", path)
            .header("content-type", "application/json")
            .header("authorization", &format!("Bearer {CLIENT_KEY}"))
            .body(body)
    };
    // The model's text may quote the prompt. Nothing else may.
    let mut said = Vec::new();
    for path in [
        "/v1/models",
        "/healthz",
        "/readyz",
        "/",
        "/nowhere",
        "/v1/models/none",
    ] {
        said.push(get(path).answer().await.text());
    }
    for model in ["refused", "unreachable", "unknown-model"] {
        for stream in [true, false] {
            let members = json!({"model": model, "stream": stream});
            let chat = with(
                json!({"messages": [{"role": "user", "content": PROMPT}]}),
                members.clone(),
            );
            let responses = with(json!({"input": PROMPT, "instructions": PROMPT}), members);
            for (path, body) in [
                ("/v1/chat/completions", chat),
                ("/v1/responses", responses.clone()),
                ("/v1/streams", responses),
            ] {
                said.push(
                    post(path, body.to_string())
                        .answer()
                        .await
                        .text()
                        .replace(&format!("\"instructions\":\"{PROMPT}\""), ""),
                );
            }
        }
    }
    for broken in [
        format!("{{\"input\":\"{PROMPT}\""),
        format!("{{\"input\":[{{\"role\":\"user\",\"content\":{{\"{PROMPT}\":1}}}}]}}"),
        format!("\"{PROMPT}\""),
    ] {
        for path in ["/v1/chat/completions", "/v1/responses", "/v1/streams"] {
            said.push(post(path, broken.clone()).answer().await.text());
        }
    }
    let mut ids = Vec::new();
    for steering in [
        "tokens=3",
        "fault=cut",
        "fault=malformed",
        "fault=bad_utf8",
        "fault=error",
        "fault=json_error",
        "fault=status code=400",
        "",
    ] {
        let input = format!("{PROMPT} [[{steering}]]");
        let chat = json!({"stream": true, "messages": [{"role": "system", "content": PROMPT}, {"role": "user", "content": input}]});
        assert_eq!(
            post("/v1/chat/completions", chat.to_string())
                .answer()
                .await
                .status
                % 100,
            0
        );
        let answer = post(
            "/v1/responses",
            json!({"stream": true, "input": input, "idempotency_key": PROMPT}).to_string(),
        )
        .answer()
        .await;
        ids.push(answer.header("location").unwrap_or_default().to_owned());
        post(
            "/v1/streams?dialect=text",
            json!({"input": input}).to_string(),
        )
        .answer()
        .await;
        get(&format!("/v1/streams?input={}", support::encode(&input)))
            .answer()
            .await;
        let mut socket = Socket::connect(gateway.address, "/v1/ws").await;
        socket
            .create(
                steering,
                json!({"instructions": PROMPT, "metadata": {"k": PROMPT}}),
            )
            .await;
        socket.until_end().await;
    }
    for location in ids.iter().filter(|location| !location.is_empty()) {
        get(location).header("last-event-id", PROMPT).answer().await;
        Request::new(
            gateway.address,
            "DELETE",
            &location.replace("streams", "responses"),
        )
        .answer()
        .await;
    }
    assert!(simulator.stats().requests > 20);
    assert!(strict.stats().requests > 0);
    gateway.terminate();
    let (_, output) = tokio::task::spawn_blocking(move || gateway.output())
        .await
        .unwrap();
    assert!(output.contains("TRACE"), "the log level is not trace");
    let shown = traces(&output);
    assert!(
        shown.is_empty(),
        "{} lines of the log show a secret:\n{}",
        shown.len(),
        shown.join("\n")
    );
    let shown = traces(&said.join("\n"));
    assert!(
        shown.is_empty(),
        "answers show a secret:\n{}",
        shown.join("\n")
    );
}
