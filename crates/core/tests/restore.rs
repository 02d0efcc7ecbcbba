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

/// A text of 180 KiB and arguments of 20 KiB, which a Responses upstream repeats in its closing
/// events.
#[tokio::test(start_paused = true)]
async fn relayed_texts_are_kept_once_and_restored_byte_for_byte() {
    let engine = TestEngine::new(EngineOptions {
        api: Api::Responses,
        ..EngineOptions::default()
    });
    let started = engine.start(r#"{"input":"hi","stream":true}"#);
    let generation = started.guard.generation().clone();
    let call = engine.upstream.call().await;
    call.data(r#"{"type":"response.output_item.added","output_index":0,"item":{"id":"m","type":"message","content":[]}}"#);
    let mut text = String::new();
    for number in 0..8000 {
        let delta = format!(r#"a \"word\" \u00e9 {number}\n"#);
        call.data(&format!(r#"{{"type":"response.output_text.delta","item_id":"m","output_index":0,"content_index":0,"delta":"{delta}"}}"#));
        text.push_str(&delta);
    }
    settle().await;
    let streamed = generation.tail().unwrap().next;
    let part = format!(r#"{{"type":"output_text","text":"{text}","mark":"\u0001"}}"#);
    let done = format!(r#""content_index":0,"text":"{text}","logprobs":[]"#);
    call.data(&format!(
        r#"{{"type":"response.output_text.done","item_id":"m","output_index":0,{done}}}"#
    ));
    call.data(&format!(r#"{{"type":"response.content_part.done","item_id":"m","output_index":0,"content_index":0,"part":{part}}}"#));
    let message = format!(r#""type":"message","content":[{part}]}}"#);
    call.data(&format!(
        r#"{{"type":"response.output_item.done","output_index":0,"item":{{"id":"m",{message}}}"#
    ));
    call.data(r#"{"type":"response.output_item.added","output_index":1,"item":{"id":"f","type":"function_call","call_id":"c","name":"f","arguments":""}}"#);
    let arguments = format!(r#"{{\"a\":\"{}\"}}"#, "x".repeat(20_000));
    call.data(&format!(r#"{{"type":"response.function_call_arguments.delta","item_id":"f","output_index":1,"delta":"{arguments}"}}"#));
    call.data(&format!(r#"{{"type":"response.function_call_arguments.done","item_id":"f","output_index":1,"name":"f","arguments":"{arguments}"}}"#));
    let arguments =
        format!(r#""type":"function_call","call_id":"c","name":"f","arguments":"{arguments}"}}"#);
    call.data(&format!(
        r#"{{"type":"response.output_item.done","output_index":1,"item":{{"id":"f",{arguments}}}"#
    ));
    call.data(&format!(r#"{{"type":"response.completed","response":{{"id":"theirs","status":"completed","output":[{{"id":"m",{message},{{"id":"f",{arguments}]}}}}"#));
    call.end(BodyEnd::Clean);
    generation.ended().await;
    let mut closing = RecordBatch::default();
    LogReader::new(generation.log().clone(), streamed)
        .read(usize::MAX, &mut closing)
        .unwrap();
    let closing = closing.byte_len();
    assert!(
        closing < 30_000,
        "the rest of the answer takes {closing} bytes"
    );

    let stored = MemoryStore::new(1 << 26);
    store(&generation, &stored).await;
    let restored = restore(&generation, &stored).await;
    assert_same("long texts", &generation, &restored);
    let mut reader = Reader::new(restored.attach(), 0, Dialect::Responses);
    reader.read_now();
    let shown: Vec<String> = std::str::from_utf8(reader.bytes())
        .unwrap()
        .lines()
        .map(|frame| serde_json::from_str::<serde_json::Value>(frame).unwrap())
        .filter_map(|frame| frame["data"].as_str().map(str::to_owned))
        .collect();
    let shown = shown.concat();
    for (expected, times) in [(&done, 1), (&part, 3), (&message, 2), (&arguments, 2)] {
        assert_eq!(shown.matches(expected.as_str()).count(), times);
    }
    let object = String::from_utf8(restored.response_json()).unwrap();
    assert!(object.contains(&message) && object.contains(&arguments));
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
