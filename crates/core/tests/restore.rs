//! A process that did not write a log renders it as the writer did.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "tests fail by panicking and report on stderr what they skip"
)]

#[path = "support/answers.rs"]
mod answers;

use std::sync::Arc;

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
use tokenwire_testkit::{EngineOptions, TestEngine, settle};

use answers::{Answer, bodies, render};

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

/// Checks that both generations are the same to every reader.
fn assert_same(name: &str, written: &Arc<Generation>, restored: &Arc<Generation>) {
    answers::assert_same(name, &render(written), &render(restored));
}

/// Sends a body in pieces and checks the restored log in the middle and at the end.
async fn check(answer: &Answer) {
    let name = &answer.name;
    let engine = TestEngine::new(EngineOptions {
        api: answer.api,
        ..EngineOptions::default()
    });
    let started = engine.start(answer.request());
    let generation = started.guard.generation().clone();
    let call = engine.upstream.call().await;
    answer.send_half(&call);
    settle().await;
    let stored = MemoryStore::new(1 << 26);
    store(&generation, &stored).await;
    assert_same(name, &generation, &restore(&generation, &stored).await);
    answer.send_rest(&call);
    generation.ended().await;
    let stored = MemoryStore::new(1 << 26);
    store(&generation, &stored).await;
    let object = stored.object(&generation.meta().id).await.unwrap();
    assert_eq!(object.unwrap(), generation.response_json());
    assert_same(name, &generation, &restore(&generation, &stored).await);
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
