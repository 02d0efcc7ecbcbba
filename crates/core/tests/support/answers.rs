//! Upstreams' answers to send to an engine, and everything that readers get of one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use tokenwire_core::dialect::Dialect;
use tokenwire_core::generation::Generation;
use tokenwire_core::model::include::{Form, Include};
use tokenwire_core::model::snapshot::Api;
use tokenwire_core::upstream::UpstreamHead;
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_testkit::{Call, Reader};

/// A chat request.
pub(crate) const CHAT: &str = r#"{"messages":[{"role":"user","content":"x"}],"stream":true}"#;
/// A Responses request.
pub(crate) const RESPONSES: &str = r#"{"input":"x","stream":true}"#;

/// Everything that readers of a generation can get, by name.
pub(crate) type Rendering = Vec<(String, Vec<u8>)>;

/// Renders a generation for every kind of reader, from several positions.
pub(crate) fn render(generation: &Arc<Generation>) -> Rendering {
    let next = generation.tail().unwrap().next.0;
    let (seq, reset) = generation.reset_event();
    let completion = generation.chat_completion();
    let mut all = vec![
        (
            "status".to_owned(),
            format!("{:?}", generation.status()).into(),
        ),
        (
            "outcome".to_owned(),
            format!("{:?}", generation.outcome()).into(),
        ),
        ("object".to_owned(), generation.response_json()),
        ("output".to_owned(), generation.output_json()),
        ("kept".to_owned(), generation.response_in(Form::Kept)),
        (
            "with encrypted reasoning".to_owned(),
            generation.response_in(Form::Shown(Include {
                encrypted_reasoning: true,
            })),
        ),
        (format!("reset {seq}"), reset),
        (
            format!("completion {}", completion.is_some()),
            completion.unwrap_or_default(),
        ),
    ];
    for dialect in [Dialect::Responses, Dialect::Chat, Dialect::Text] {
        for from in [0, 1, next / 2, next.saturating_sub(1), next] {
            let mut reader = Reader::new(generation.attach(), from, dialect);
            reader.read_now();
            let name = format!("{dialect:?} from {from}, end {:?}", reader.end());
            all.push((name, reader.bytes().to_vec()));
        }
    }
    all
}

/// Checks that two processes show the same.
pub(crate) fn assert_same(name: &str, written: &Rendering, restored: &Rendering) {
    assert_eq!(written.len(), restored.len(), "{name}");
    for (written, restored) in written.iter().zip(restored) {
        assert_eq!(written.0, restored.0, "{name}");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(text(&written.1), text(&restored.1), "{name}: {}", written.0);
    }
}

/// An answer of an upstream.
pub(crate) struct Answer {
    pub(crate) name: String,
    pub(crate) api: Api,
    /// Whether the body is one JSON document.
    pub(crate) is_json: bool,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Returns the body of a client's request for it.
    pub(crate) fn request(&self) -> &'static str {
        match self.api {
            Api::Chat => CHAT,
            Api::Responses => RESPONSES,
        }
    }

    /// Sends the first half; nothing of a body that comes as one document.
    pub(crate) fn send_half(&self, call: &Call) {
        call.answer(UpstreamHead::default());
        if !self.is_json {
            for piece in self.body[..self.body.len() / 2].chunks(100) {
                call.bytes(piece);
            }
        }
    }

    pub(crate) fn send_rest(&self, call: &Call) {
        if self.is_json {
            call.document(std::str::from_utf8(&self.body).unwrap());
        } else {
            for piece in self.body[self.body.len() / 2..].chunks(100) {
                call.bytes(piece);
            }
        }
        call.end(BodyEnd::Clean);
    }
}

#[derive(Deserialize)]
struct Entry {
    #[serde(alias = "upstream")]
    api: String,
    #[serde(default)]
    content_type: String,
    file: Option<String>,
}

/// Reads the bodies of a folder beside the workspace; none if it is not there.
pub(crate) fn bodies(variable: &str, default: &str) -> Vec<Answer> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let folder = std::env::var_os(variable).map_or(beside.join(default), PathBuf::from);
    let Ok(text) = std::fs::read_to_string(folder.join("expected.json")) else {
        eprintln!("SKIPPED: nothing at {} (set {variable})", folder.display());
        return Vec::new();
    };
    let entries: BTreeMap<String, Entry> = serde_json::from_str(&text).unwrap();
    let answer = |(name, entry): (String, Entry)| {
        let file = entry.file.unwrap_or_else(|| name.clone());
        let body = std::fs::read(folder.join(file)).ok()?;
        let api = if entry.api == "responses" {
            Api::Responses
        } else {
            Api::Chat
        };
        Some(Answer {
            name,
            api,
            is_json: entry.content_type == "application/json",
            body,
        })
    };
    entries.into_iter().filter_map(answer).collect()
}
