//! A process that did not write a log renders it as the writer did.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "tests fail by panicking and report on stderr what they skip"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use tokenwire_core::dialect::Dialect;
use tokenwire_core::generation::Generation;
use tokenwire_core::log::{
    Block, Blocks, Epoch, LogHeader, LogReader, LogStore, MemoryStore, StoreError,
};
use tokenwire_core::model::account::Account;
use tokenwire_core::model::id::{GenerationId, Seq};
use tokenwire_core::model::record::RecordBatch;
use tokenwire_core::model::snapshot::Api;
use tokenwire_core::upstream::UpstreamHead;
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_testkit::{EngineOptions, Reader, TestEngine, settle};

/// Stores a generation's log as its process would.
async fn store(generation: &Arc<Generation>, store: &dyn LogStore) {
    let id = &generation.meta().id;
    let header = LogHeader::new(generation.meta().clone(), "scripted");
    store.create(Arc::new(header)).await.unwrap();
    let mut reader = LogReader::new(generation.log().clone(), Seq(0));
    let mut batch = RecordBatch::default();
    loop {
        reader.read(1000, &mut batch).unwrap();
        let mut blocks = Blocks::default();
        blocks.push(Block {
            id,
            epoch: Epoch(1),
            first: batch.first_seq(),
            next: batch.end_seq(),
            bytes: batch.as_block(),
        });
        if batch.is_empty() {
            break;
        }
        let (_, results) = store.append(blocks).await;
        assert_eq!(results, [Ok(batch.end_seq())]);
    }
    if generation.is_over() {
        let object = Some(generation.response_json().into());
        store.seal(id, Epoch(1), batch, object).await.unwrap();
    }
}

async fn restore(generation: &Arc<Generation>, store: &dyn LogStore) -> Arc<Generation> {
    let account = Account::default();
    Generation::restore(store, &generation.meta().id, account)
        .await
        .expect("a stored log can be restored")
}

fn read(generation: &Arc<Generation>, from: u64, dialect: Dialect) -> (String, bool) {
    let mut reader = Reader::new(generation.attach(), from, dialect);
    reader.read_now();
    let bytes = String::from_utf8(reader.bytes().to_vec()).unwrap();
    (bytes, reader.end().is_some_and(|end| end.is_ok()))
}

/// Checks that both generations are the same to every reader.
fn assert_same(name: &str, written: &Arc<Generation>, restored: &Arc<Generation>) {
    assert_eq!(written.status(), restored.status(), "{name}");
    assert_eq!(written.is_over(), restored.is_over(), "{name}");
    assert_eq!(written.outcome(), restored.outcome(), "{name}");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (w, r) = (written.response_json(), restored.response_json());
    assert_eq!(text(w), text(r), "{name}");
    let (w, r) = (written.output_json(), restored.output_json());
    assert_eq!(text(w), text(r), "{name}");
    assert_eq!(written.reset_event(), restored.reset_event(), "{name}");
    let (w, r) = (written.chat_completion(), restored.chat_completion());
    assert_eq!(w.map(text), r.map(text), "{name}");
    let next = written.tail().unwrap().next.0;
    for dialect in [Dialect::Responses, Dialect::Chat, Dialect::Text] {
        for from in [0, 1, next / 2, next.saturating_sub(1), next] {
            assert_eq!(
                read(written, from, dialect),
                read(restored, from, dialect),
                "{name} in {dialect:?} from {from}"
            );
        }
    }
}

/// An answer of an upstream.
struct Answer {
    name: String,
    api: Api,
    /// Whether the body is one JSON document.
    is_json: bool,
    body: Vec<u8>,
}

/// Sends a body in pieces and checks the restored log in the middle and at the end.
async fn check(answer: &Answer) {
    let Answer {
        name,
        api,
        is_json,
        body,
    } = answer;
    let api = *api;
    let engine = TestEngine::new(EngineOptions {
        api,
        ..EngineOptions::default()
    });
    let request = match api {
        Api::Chat => r#"{"messages":[{"role":"user","content":"x"}],"stream":true}"#,
        Api::Responses => r#"{"input":"x","stream":true}"#,
    };
    let started = engine.start(request);
    let generation = started.guard.generation().clone();
    let call = engine.upstream.call().await;
    call.answer(UpstreamHead::default());
    let half = body.len() / 2;
    if !is_json {
        for piece in body[..half].chunks(100) {
            call.bytes(piece);
        }
    }
    settle().await;
    let stored = MemoryStore::new(1 << 26);
    store(&generation, &stored).await;
    assert_same(name, &generation, &restore(&generation, &stored).await);
    if *is_json {
        call.document(std::str::from_utf8(body).unwrap());
    } else {
        for piece in body[half..].chunks(100) {
            call.bytes(piece);
        }
    }
    call.end(BodyEnd::Clean);
    generation.ended().await;
    let stored = MemoryStore::new(1 << 26);
    store(&generation, &stored).await;
    let object = stored.object(&generation.meta().id).await.unwrap();
    assert_eq!(object.unwrap(), generation.response_json());
    assert_same(name, &generation, &restore(&generation, &stored).await);
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
fn bodies(variable: &str, default: &str) -> Vec<Answer> {
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

#[tokio::test(start_paused = true)]
async fn recorded_streams_are_restored() {
    for answer in bodies("TOKENWIRE_CAPTURES", "captures") {
        check(&answer).await;
    }
}

#[tokio::test(start_paused = true)]
async fn cases_are_restored() {
    for answer in bodies("TOKENWIRE_CASES", "cases") {
        check(&answer).await;
    }
}

fn chunks(texts: &[&str]) -> String {
    let chunk = |text: &&str| {
        let delta = serde_json::json!({"choices": [{"index": 0, "delta": {"content": text}}]});
        format!("data: {delta}\n\n")
    };
    texts.iter().map(chunk).collect()
}

#[tokio::test(start_paused = true)]
async fn chat_stream_and_its_cut_are_restored() {
    let text = chunks(&["Hello", " world", " \"ä\" ", "€\n", "end"]);
    let finish = r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    for (name, rest) in [
        ("whole", format!("{finish}\n\ndata: [DONE]\n\n")),
        ("cut", String::new()),
    ] {
        let answer = Answer {
            name: name.to_owned(),
            api: Api::Chat,
            is_json: false,
            body: format!("{text}{rest}").into_bytes(),
        };
        check(&answer).await;
    }
}

#[tokio::test]
async fn missing_numbers_are_not_restored() {
    let engine = TestEngine::new(EngineOptions::default());
    let started = engine.start(r#"{"messages":[{"role":"user","content":"x"}],"stream":true}"#);
    let generation = started.guard.generation();
    let call = engine.upstream.call().await;
    call.answer(UpstreamHead::default());
    call.token("a").token("b").token("c").done();
    call.end(BodyEnd::Clean);
    generation.ended().await;
    let stored = MemoryStore::new(1 << 20);
    store(generation, &stored).await;

    // The same records, but one is not there.
    let id = &generation.meta().id;
    let whole = stored.read(id, Seq(0), usize::MAX).await.unwrap();
    let mut holed = RecordBatch::default();
    for (index, record) in whole.iter().enumerate() {
        if index == 3 {
            holed.skip(record.events);
        } else {
            holed.push(record.events, record.payload);
        }
    }
    let other = MemoryStore::new(1 << 20);
    let header = LogHeader::new(generation.meta().clone(), "scripted");
    other.create(Arc::new(header)).await.unwrap();
    other.seal(id, Epoch(1), holed, None).await.unwrap();
    let error = Generation::restore(&other, id, Account::default()).await;
    assert_eq!(error.unwrap_err(), StoreError::Corrupt);
    let unknown = GenerationId::random();
    let error = Generation::restore(&other, &unknown, Account::default()).await;
    assert_eq!(error.unwrap_err(), StoreError::NotFound);
}
