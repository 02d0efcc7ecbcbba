//! Recorded streams of real servers, replayed over real sockets and read in the gateway's dialects.

use crate::support::recordings::{Expected, Recording, all};
use crate::support::{Answer, Gateway, Playback, over};
use futures::future::join_all;
use futures::stream::{self, StreamExt as _};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokenwire::config::schema::Api;

/// Extracts the payloads of a body without the decoder under test.
fn payloads(body: &[u8]) -> Vec<String> {
    let body = String::from_utf8(body.to_vec())
        .unwrap()
        .replace("\r\n", "\n")
        .replace('\r', "\n");
    let data = |block: &str| -> Vec<String> {
        block
            .lines()
            .filter_map(|line| line.strip_prefix("data:"))
            .map(|value| value.strip_prefix(' ').unwrap_or(value).to_owned())
            .collect()
    };
    body.split("\n\n")
        .map(data)
        .filter(|lines| !lines.is_empty())
        .map(|lines| lines.join("\n"))
        .collect()
}

fn choices(recording: &Recording) -> u32 {
    if recording.file.contains("-n2-") {
        2
    } else {
        1
    }
}

/// Starts a gateway over an upstream that replays the recording in writes of `piece` bytes.
async fn replay_gateway(recording: &Recording, piece: usize) -> (Playback, Gateway) {
    let upstream = Playback::events(recording.body.clone(), piece).await;
    let api = if recording.responses {
        Api::Responses
    } else {
        Api::Chat
    };
    let gateway = over(&upstream.base_url(), api, |config| {
        config.server.workers = 1
    });
    (upstream, gateway)
}

/// Checks that the chat dialect passes each payload through in order and shows how the stream
/// ended.
fn check_chat(recording: &Recording, answer: &Answer) -> Result<(), String> {
    let mut found: Vec<String> = answer
        .events()
        .into_iter()
        .map(|event| event.data)
        .collect();
    let mut sent: Vec<String> = payloads(&recording.body)
        .into_iter()
        .filter(|payload| payload != "[DONE]")
        .collect();
    if recording.expected.status == "failed" {
        let last: Value = found
            .last()
            .and_then(|last| serde_json::from_str(last).ok())
            .unwrap_or_default();
        if found.iter().any(|payload| payload == "[DONE]")
            || !last["error"].is_object() && !last["base_resp"].is_object()
        {
            return Err(format!("the client does not see the failure: {last}"));
        }
        if found.len() > sent.len() {
            found.pop();
        }
    } else if found.pop().as_deref() != Some("[DONE]") {
        return Err("no [DONE] after the last payload".to_owned());
    }
    if found.len() != sent.len() {
        // Two objects on one line become two payloads.
        let apart = |payload: &String| -> Vec<String> {
            serde_json::Deserializer::from_str(payload)
                .into_iter::<Box<RawValue>>()
                .map(|raw| raw.unwrap().get().to_owned())
                .collect()
        };
        sent = sent.iter().flat_map(apart).collect();
    }
    if found == sent {
        Ok(())
    } else {
        Err(format!("payloads changed: {found:#?} instead of {sent:#?}"))
    }
}

fn found(recording: &Recording, object: &Value) -> Expected {
    let items = |kind: &'static str| {
        object["output"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(move |item| item["type"] == kind)
    };
    let parts = |item: &Value, kind: &str, field: &str| -> String {
        let of = |list: &Value| -> String {
            list.as_array()
                .into_iter()
                .flatten()
                .filter(|part| part["type"] == kind)
                .filter_map(|part| part[field].as_str())
                .collect()
        };
        of(&item["content"]) + &of(&item["summary"])
    };
    let why = object["error"]["code"]
        .as_str()
        .or(object["incomplete_details"]["reason"].as_str())
        .map(str::to_owned);
    Expected {
        status: object["status"].as_str().unwrap_or_default().to_owned(),
        // For this recording only the failure is known, not its code.
        why: why.filter(|_| recording.file != "gpustack-error-field-line.sse"),
        texts: items("message")
            .map(|item| parts(item, "output_text", "text"))
            .filter(|text| !text.is_empty())
            .collect(),
        reasoning: items("reasoning")
            .map(|item| {
                parts(item, "reasoning_text", "text") + &parts(item, "summary_text", "text")
            })
            .collect(),
        refusal: items("message")
            .map(|item| parts(item, "refusal", "refusal"))
            .collect(),
        calls: items("function_call")
            .map(|item| {
                (
                    item["name"].as_str().unwrap_or_default().to_owned(),
                    item["arguments"].as_str().unwrap_or_default().to_owned(),
                )
            })
            .collect(),
        usage: object["usage"].is_object().then(|| {
            ["input_tokens", "output_tokens", "total_tokens"]
                .map(|name| object["usage"][name].as_u64().unwrap_or(0))
        }),
    }
}

async fn check(recording: &Recording, piece: usize) -> Result<(), String> {
    let (_upstream, gateway) = replay_gateway(recording, piece).await;
    let request = json!({"model": "m", "stream": true, "n": choices(recording),
        "stream_options": {"include_usage": true}});
    let chat = async {
        if recording.responses {
            return Ok(());
        }
        let body = crate::support::with(
            request.clone(),
            json!({"messages": [{"role": "user", "content": "hi"}]}),
        );
        check_chat(
            recording,
            &gateway.post("/v1/chat/completions", &body).answer().await,
        )
    };
    let responses = async {
        // `n` exists only in a chat request. A recording with two choices is started as chat and
        // its log is read in the responses dialect.
        let answer = if choices(recording) == 1 {
            gateway
                .post(
                    "/v1/responses",
                    &json!({"model": "m", "stream": true, "input": "hi"}),
                )
                .answer()
                .await
        } else {
            let body = crate::support::with(
                request.clone(),
                json!({"messages": [{"role": "user", "content": "hi"}]}),
            );
            let id = gateway
                .post("/v1/chat/completions", &body)
                .answer()
                .await
                .id()
                .to_owned();
            gateway
                .get(&format!("/v1/responses/{id}?stream=true"))
                .answer()
                .await
        };
        let mut events = answer.events();
        if events.pop().is_none_or(|last| last.data != "[DONE]") {
            return Err("no [DONE] after the terminal event".to_owned());
        }
        let terminal = events.last().ok_or("no event at all")?.json();
        let found = found(recording, &terminal["response"]);
        if found == recording.expected {
            Ok(())
        } else {
            Err(format!("{found:#?} instead of {:#?}", recording.expected))
        }
    };
    let results = join_all([
        Box::pin(chat) as std::pin::Pin<Box<dyn Future<Output = Result<(), String>>>>,
        Box::pin(responses),
    ])
    .await;
    results
        .into_iter()
        .collect::<Result<Vec<()>, String>>()
        .map(drop)
}

async fn check_all(piece: usize) {
    let recordings = all();
    let problems: Vec<String> = stream::iter(&recordings)
        .map(|recording| async move {
            check(recording, piece)
                .await
                .err()
                .map(|problem| format!("{}: {problem}", recording.file))
        })
        .buffer_unordered(4)
        .filter_map(std::future::ready)
        .collect()
        .await;
    assert!(
        problems.is_empty(),
        "{} of {} recordings were translated wrongly:\n{}",
        problems.len(),
        recordings.len(),
        problems.join("\n")
    );
    eprintln!("{} recordings passed", recordings.len());
}

#[tokio::test]
async fn recordings_are_relayed_in_single_writes() {
    check_all(usize::MAX).await;
}

#[tokio::test]
async fn recordings_are_relayed_in_single_bytes() {
    check_all(1).await;
}
