//! Streams as real servers sent them, which cannot be published with the project, and the results
//! that a correct reader gets from each.
//!
//! They are read from the folder that `TOKENWIRE_CAPTURES` names, by default `../shared/captures`
//! beside the workspace.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// One recording.
pub(crate) struct Recording {
    pub(crate) file: String,
    pub(crate) body: Vec<u8>,
    /// Whether the server spoke Responses.
    pub(crate) responses: bool,
    pub(crate) expected: Expected,
}

/// The expected result, whichever API the server spoke.
#[derive(Debug, PartialEq)]
pub(crate) struct Expected {
    pub(crate) status: String,
    /// The failure's code, or the reason why it is incomplete.
    pub(crate) why: Option<String>,
    pub(crate) texts: Vec<String>,
    pub(crate) reasoning: String,
    pub(crate) refusal: String,
    /// Name and arguments.
    pub(crate) calls: Vec<(String, String)>,
    /// Input, output, total.
    pub(crate) usage: Option<[u64; 3]>,
}

/// Returns all recordings, or none (and prints why) if the folder does not exist.
pub(crate) fn all() -> Vec<Recording> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/captures");
    let folder = std::env::var_os("TOKENWIRE_CAPTURES").map_or(default, PathBuf::from);
    let Ok(text) = std::fs::read_to_string(folder.join("expected.json")) else {
        eprintln!(
            "SKIPPED: no recorded streams at {} (set TOKENWIRE_CAPTURES to their folder)",
            folder.display()
        );
        return Vec::new();
    };
    let table: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
    table
        .into_iter()
        .map(|(file, value)| {
            let body = std::fs::read(folder.join(&file)).unwrap();
            let responses = value["api"] == "responses";
            let expected = if responses {
                of_responses(&value)
            } else {
                of_chat(&value, &file)
            };
            Recording {
                file,
                body,
                responses,
                expected,
            }
        })
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn numbers(usage: &Value, names: [&str; 3]) -> Option<[u64; 3]> {
    usage
        .is_object()
        .then(|| names.map(|name| usage[name].as_u64().unwrap_or(0)))
}

/// Arguments that were never sent are those of a function without parameters.
fn call(value: &Value) -> (String, String) {
    let arguments = text(&value["arguments"]);
    (
        text(&value["name"]),
        if arguments.is_empty() {
            "{}".to_owned()
        } else {
            arguments
        },
    )
}

fn of_responses(value: &Value) -> Expected {
    let why = value["error"]["code"]
        .as_str()
        .or(value["incomplete"]["reason"].as_str());
    Expected {
        status: text(&value["status"]),
        why: why.map(str::to_owned),
        texts: Some(text(&value["text"]))
            .into_iter()
            .filter(|text| !text.is_empty())
            .collect(),
        reasoning: text(&value["reasoning"]),
        refusal: String::new(),
        calls: value["calls"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(_, value)| call(value))
            .collect(),
        usage: numbers(
            &value["usage"],
            ["input_tokens", "output_tokens", "total_tokens"],
        ),
    }
}

fn of_chat(value: &Value, file: &str) -> Expected {
    // By the number of the choice, which is not the order of the text.
    let mut choices: Vec<(i64, &Value)> = value["choices"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(index, choice)| (index.parse().unwrap(), choice))
        .collect();
    choices.sort_by_key(|(index, _)| *index);
    let finishes: Vec<String> = choices
        .iter()
        .flat_map(|(_, choice)| choice["finish"].as_array().unwrap())
        .map(text)
        .collect();
    let done = value["done"].as_bool().unwrap_or(false);
    let (status, why) = if let Some(error) = value["errors"].get(0) {
        let inner = if error["error"].is_object() {
            &error["error"]
        } else {
            error
        };
        let word = |value: &Value| {
            value
                .as_str()
                .map(str::to_owned)
                .or_else(|| value.as_i64().map(|number| number.to_string()))
        };
        let code = ["code", "type", "status_code"]
            .into_iter()
            .find_map(|name| word(&inner[name]));
        (
            "failed",
            Some(code.unwrap_or_else(|| "upstream_error".to_owned())),
        )
    } else if file == "gpustack-error-field-line.sse" {
        // Its last payload is in an SSE field named `error`.
        ("failed", None)
    } else if finishes.iter().any(|finish| finish == "length") {
        ("incomplete", Some("max_output_tokens".to_owned()))
    } else if finishes.iter().any(|finish| finish.contains("filter")) {
        ("incomplete", Some("content_filter".to_owned()))
    } else if finishes.is_empty() && !done {
        ("failed", Some("upstream_truncated".to_owned()))
    } else {
        ("completed", None)
    };
    let joined = |name: &str| {
        choices
            .iter()
            .map(|(_, choice)| text(&choice[name]))
            .collect::<String>()
    };
    let mut texts: Vec<String> = choices
        .iter()
        .map(|(_, choice)| text(&choice["text"]))
        .filter(|text| !text.is_empty())
        .collect();
    if file.starts_with("tgi-") {
        // This server counts tokens in the index, although one choice was requested.
        texts = vec![texts.concat()];
    }
    let usage = if value["usage"].is_object() {
        &value["usage"]
    } else {
        &value["usage_from"]
    };
    let mut usage = numbers(
        usage,
        ["prompt_tokens", "completion_tokens", "total_tokens"],
    );
    if file == "llamacpp-n2-usage-per-choice.sse" {
        // One usage per choice: the prompt counts once, the completions add up.
        usage = Some([28, 16, 44]);
    }
    Expected {
        status: status.to_owned(),
        why,
        texts,
        reasoning: joined("reasoning"),
        refusal: joined("refusal"),
        calls: choices
            .iter()
            .flat_map(|(_, choice)| choice["calls"].as_array().into_iter().flatten())
            .map(call)
            .collect(),
        usage,
    }
}
