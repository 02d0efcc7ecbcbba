//! Recorded streams of real servers, through decoder, translators, log and every dialect.
//!
//! The recordings are not part of this repository. They are read from the folder that
//! `TOKENWIRE_CAPTURES` names (default: `../shared/captures` beside the workspace). Without that
//! folder the tests report it and pass.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "tests fail by panicking and report on stderr what they skip"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use tokenwire_core::model::snapshot::Api;
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_testkit::{Audit, EngineOptions, TestEngine};

/// The expected content of one recording.
#[derive(Debug, Deserialize)]
struct Expected {
    api: String,
    usage: Option<Value>,
    usage_from: Option<Value>,
    #[serde(default)]
    done: bool,
    // Chat.
    #[serde(default)]
    choices: BTreeMap<i64, Choice>,
    #[serde(default)]
    errors: Vec<Value>,
    // Responses.
    #[serde(default)]
    text: String,
    #[serde(default)]
    reasoning: String,
    #[serde(default)]
    calls: BTreeMap<String, Call>,
    #[serde(default)]
    status: String,
    error: Option<Value>,
    incomplete: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    text: String,
    reasoning: String,
    refusal: String,
    finish: Vec<String>,
    calls: Vec<Call>,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
struct Call {
    #[serde(alias = "call_id")]
    id: Option<String>,
    name: String,
    arguments: String,
}

/// The compared result, for both APIs.
#[derive(Debug, PartialEq)]
struct Summary {
    status: String,
    /// The failure's code, or the reason of an incomplete response.
    why: Option<String>,
    texts: Vec<String>,
    reasoning: String,
    refusal: String,
    calls: Vec<Call>,
    /// Input, output, total.
    usage: Option<[u64; 3]>,
}

fn folder() -> Option<PathBuf> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/captures");
    let folder = std::env::var_os("TOKENWIRE_CAPTURES").map_or(default, PathBuf::from);
    if folder.join("expected.json").is_file() {
        return Some(folder);
    }
    eprintln!(
        "SKIPPED: no recorded streams at {} (set TOKENWIRE_CAPTURES to their folder)",
        folder.display()
    );
    None
}

fn expected(folder: &Path) -> BTreeMap<String, Expected> {
    let text = fs::read_to_string(folder.join("expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Splits a body into payloads, independently of the decoder under test.
fn payloads(body: &[u8]) -> Vec<String> {
    let body = String::from_utf8(body.to_vec())
        .unwrap()
        .replace("\r\n", "\n")
        .replace('\r', "\n");
    let mut events = Vec::new();
    for block in body.split("\n\n") {
        let data: Vec<&str> = block
            .lines()
            .filter_map(|line| line.strip_prefix("data:"))
            .map(|value| value.strip_prefix(' ').unwrap_or(value))
            .collect();
        if !data.is_empty() {
            events.push(data.join("\n"));
        }
    }
    events
}

impl Expected {
    fn summary(&self, file: &str) -> Summary {
        if self.api == "responses" {
            self.responses()
        } else {
            self.chat(file)
        }
    }

    fn chat(&self, file: &str) -> Summary {
        let finishes: Vec<&str> = self
            .choices
            .values()
            .flat_map(|choice| &choice.finish)
            .map(String::as_str)
            .collect();
        let (status, why) = if let Some(error) = self.errors.first() {
            let word = |value: &Value| {
                value
                    .as_str()
                    .map(str::to_owned)
                    .or_else(|| value.as_i64().map(|number| number.to_string()))
            };
            let inner = if error["error"].is_object() {
                &error["error"]
            } else {
                error
            };
            let code = ["code", "type", "status_code"]
                .into_iter()
                .find_map(|name| word(&inner[name]));
            (
                "failed",
                Some(code.unwrap_or_else(|| "upstream_error".to_owned())),
            )
        } else if file == "gpustack-error-field-line.sse" {
            // The error is in an SSE field: `error: {…}`.
            ("failed", None)
        } else if finishes.contains(&"length") {
            ("incomplete", Some("max_output_tokens".to_owned()))
        } else if finishes.iter().any(|finish| finish.contains("filter")) {
            ("incomplete", Some("content_filter".to_owned()))
        } else if finishes.is_empty() && !self.done {
            ("failed", Some("upstream_truncated".to_owned()))
        } else {
            ("completed", None)
        };
        // Some servers count tokens in the index although one choice was asked for.
        let one = file.starts_with("tgi-");
        let texts: Vec<String> = self
            .choices
            .values()
            .map(|choice| choice.text.clone())
            .filter(|text| !text.is_empty())
            .collect();
        let mut usage = self
            .usage
            .as_ref()
            .or(self.usage_from.as_ref())
            .filter(|usage| usage.is_object())
            .map(|usage| {
                ["prompt_tokens", "completion_tokens", "total_tokens"]
                    .map(|name| usage[name].as_u64().unwrap_or(0))
            });
        if file == "llamacpp-n2-usage-per-choice.sse" {
            // One usage per choice: the prompt counts once, the outputs are summed.
            usage = Some([28, 16, 44]);
        }
        let choices = self.choices.values();
        Summary {
            status: status.to_owned(),
            why,
            texts: if one { vec![texts.concat()] } else { texts },
            reasoning: choices
                .clone()
                .map(|choice| choice.reasoning.as_str())
                .collect(),
            refusal: choices
                .clone()
                .map(|choice| choice.refusal.as_str())
                .collect(),
            calls: choices
                .flat_map(|choice| &choice.calls)
                .cloned()
                // Without arguments it is a function without parameters.
                .map(|call| {
                    if call.arguments.is_empty() {
                        Call {
                            arguments: "{}".to_owned(),
                            ..call
                        }
                    } else {
                        call
                    }
                })
                .collect(),
            usage,
        }
    }

    fn responses(&self) -> Summary {
        let why = match (&self.error, &self.incomplete) {
            (Some(error), _) => error["code"].as_str().map(str::to_owned),
            (None, Some(incomplete)) => incomplete["reason"].as_str().map(str::to_owned),
            (None, None) => None,
        };
        Summary {
            status: self.status.clone(),
            why,
            texts: Some(self.text.clone())
                .into_iter()
                .filter(|text| !text.is_empty())
                .collect(),
            reasoning: self.reasoning.clone(),
            refusal: String::new(),
            calls: self.calls.values().cloned().collect(),
            usage: self
                .usage
                .as_ref()
                .filter(|usage| usage.is_object())
                .map(responses_usage),
        }
    }
}

fn responses_usage(usage: &Value) -> [u64; 3] {
    ["input_tokens", "output_tokens", "total_tokens"].map(|name| usage[name].as_u64().unwrap())
}

fn found(audit: &Audit, file: &str) -> Summary {
    let object = &audit.object;
    let why = object["error"]["code"]
        .as_str()
        .or_else(|| object["incomplete_details"]["reason"].as_str())
        .map(str::to_owned);
    let strings = |item: &Value, list: &str, part: &str| -> String {
        let parts = item[list].as_array().into_iter().flatten();
        parts
            .filter(|p| p["type"] == part)
            .map(|p| p["text"].as_str().unwrap())
            .collect()
    };
    let calls = audit.output("function_call").into_iter().map(|call| Call {
        id: call["call_id"].as_str().map(str::to_owned),
        name: call["name"].as_str().unwrap().to_owned(),
        arguments: call["arguments"].as_str().unwrap().to_owned(),
    });
    let texts = audit
        .output("message")
        .into_iter()
        .map(|message| strings(message, "content", "output_text"));
    let texts: Vec<String> = texts.filter(|text| !text.is_empty()).collect();
    let several = file.contains("-n2-");
    Summary {
        status: object["status"].as_str().unwrap().to_owned(),
        why: why.filter(|_| file != "gpustack-error-field-line.sse"),
        // Text after a finish reason opens another message; the texts are compared as one.
        texts: if several || texts.is_empty() {
            texts
        } else {
            vec![texts.concat()]
        },
        reasoning: audit
            .output("reasoning")
            .into_iter()
            .map(|item| {
                strings(item, "content", "reasoning_text")
                    + &strings(item, "summary", "summary_text")
            })
            .collect(),
        refusal: audit.content("message", "refusal"),
        calls: calls.collect(),
        usage: object
            .get("usage")
            .filter(|usage| usage.is_object())
            .map(responses_usage),
    }
}

/// Plays a body back in reads of `size` bytes and audits the result.
async fn play(file: &str, api: Api, body: &[u8], size: usize) -> Audit {
    let test = TestEngine::new(EngineOptions {
        api,
        ..EngineOptions::default()
    });
    let n = if file.contains("-n2-") { 2 } else { 1 };
    let request = if api == Api::Chat {
        format!(
            r#"{{"messages":[{{"role":"user","content":"hi"}}],"n":{n},"stream_options":{{"include_usage":true}}}}"#
        )
    } else {
        r#"{"input":"hi"}"#.to_owned()
    };
    let started = test.start(&request);
    let call = test.upstream.call().await;
    for piece in body.chunks(size) {
        call.bytes(piece);
    }
    call.end(BodyEnd::Clean);
    started.guard.generation().ended().await;
    Audit::of(started.guard.generation())
}

/// Checks that a chat client gets each payload unchanged, then `[DONE]` or an error.
fn check_payloads(audit: &Audit, body: &[u8], status: &str) {
    let mut sent: Vec<String> = payloads(body)
        .into_iter()
        .filter(|payload| payload != "[DONE]")
        .collect();
    let mut found = audit.chat.clone();
    if matches!(status, "completed" | "incomplete") {
        assert_eq!(found.pop().as_deref(), Some("[DONE]"));
    } else {
        assert!(
            !found.contains(&"[DONE]".to_owned()),
            "[DONE] after a failure"
        );
        let last: Value = serde_json::from_str(found.last().unwrap()).unwrap();
        assert!(
            last["error"].is_object() || last["base_resp"].is_object(),
            "a chat client does not see the failure: {last}"
        );
        if found.len() > sent.len() {
            found.pop();
        }
    }
    // Two objects on one line become two payloads.
    if sent.len() != found.len() {
        sent = sent
            .iter()
            .flat_map(|payload| {
                serde_json::Deserializer::from_str(payload)
                    .into_iter::<Box<serde_json::value::RawValue>>()
                    .map(|raw| raw.unwrap().get().to_owned())
                    .collect::<Vec<_>>()
            })
            .collect();
    }
    assert_eq!(found, sent, "payloads were changed");
}

/// Checks that a responses client gets each event unchanged, except for ids and numbers.
fn check_events(audit: &Audit, body: &[u8]) {
    let ours = [
        "response.created",
        "response.queued",
        "response.in_progress",
    ];
    // Items have ids of the gateway. Encrypted content is shown on request.
    let numbered = |item: &mut Value, at: &Value| {
        item["id"] = format!("item {at}").into();
        if item["type"] == "reasoning" {
            item.as_object_mut().unwrap().remove("encrypted_content");
        }
    };
    let strip = |mut event: Value| {
        event.as_object_mut().unwrap().remove("sequence_number");
        let at = event["output_index"].clone();
        if event["item_id"].is_string() {
            event["item_id"] = format!("item {at}").into();
        }
        if event["item"].is_object() {
            numbered(&mut event["item"], &at);
        }
        let output = event
            .get_mut("response")
            .and_then(|r| r["output"].as_array_mut());
        for (at, item) in output.into_iter().flatten().enumerate() {
            numbered(item, &at.into());
        }
        if let Some(response) = event.get_mut("response").and_then(Value::as_object_mut) {
            response.remove("id");
            response.remove("previous_response_id");
        }
        event
    };
    let relayed = |event: &Value| {
        let kind = event["type"].as_str().unwrap();
        kind.starts_with("response.") && !ours.contains(&kind)
    };
    let sent = payloads(body)
        .into_iter()
        .map(|payload| serde_json::from_str::<Value>(&payload).unwrap());
    let sent: Vec<Value> = sent.filter(relayed).map(strip).collect();
    let found: Vec<Value> = audit
        .events
        .iter()
        .filter(|event| relayed(event))
        .cloned()
        .map(strip)
        .collect();
    assert_eq!(found, sent, "events were changed");
}

fn problems(size: impl Fn(usize) -> usize) -> Vec<String> {
    let Some(folder) = folder() else {
        return Vec::new();
    };
    let mut problems = Vec::new();
    let recordings = expected(&folder);
    assert!(!recordings.is_empty(), "expected.json names no recording");
    eprintln!("{} recordings from {}", recordings.len(), folder.display());
    for (file, expected) in recordings {
        let body = fs::read(folder.join(&file)).unwrap();
        let api = if expected.api == "responses" {
            Api::Responses
        } else {
            Api::Chat
        };
        let size = size(body.len());
        let result = std::panic::catch_unwind(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            let audit = runtime.block_on(play(&file, api, &body, size));
            let (found, wanted) = (found(&audit, &file), expected.summary(&file));
            assert_eq!(found, wanted);
            match api {
                Api::Chat => check_payloads(&audit, &body, &found.status),
                Api::Responses => check_events(&audit, &body),
            }
        });
        if result.is_err() {
            problems.push(file);
        }
    }
    problems
}

fn none(problems: &[String]) {
    assert!(
        problems.is_empty(),
        "{} recordings failed (see above): {problems:#?}",
        problems.len()
    );
}

#[test]
fn recorded_streams_in_one_piece() {
    none(&problems(|length| length.max(1)));
}

#[test]
fn recorded_streams_byte_by_byte() {
    none(&problems(|_| 1));
}

#[test]
fn recorded_streams_in_pieces_of_37_bytes() {
    none(&problems(|_| 37));
}
