//! Engines over a store: what one process writes, another one reads, renders, ends and deletes.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "tests fail by panicking and report on stderr what they skip"
)]

#[path = "support/answers.rs"]
mod answers;

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokenwire_core::dialect::Dialect;
use tokenwire_core::engine::{
    Cursor, Engine, EngineBuilder, Place, ReaderKind, Resumption, Retention, SharedEngine,
    StartRequest, Started,
};
use tokenwire_core::generation::{Generation, SubscriptionError};
use tokenwire_core::log::{
    Block, Blocks, Epoch, FlushOptions, Flusher, LogHeader, LogLimits, LogStore, MemoryStore,
    StoreError,
};
use tokenwire_core::model::account::{Account, Relief as _};
use tokenwire_core::model::error::ErrorCode;
use tokenwire_core::model::id::{GenerationId, Owner, Seq};
use tokenwire_core::model::include::Form;
use tokenwire_core::model::record::RecordBatch;
use tokenwire_core::model::snapshot::{Api, Status};
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_testkit::{
    Call, Fault, FaultyStore, Operation, Reader, ScriptedUpstream, TestEngine, scripted_target,
    settle,
};
use tokio::time::Instant;

use answers::{Answer, CHAT, RESPONSES, Rendering, assert_same, bodies, render};

/// The first number of epoch 2.
const SECOND: u64 = 1 << 24;

/// An engine over a store, and the upstream that it asks. Dropping it is the end of a process.
struct Process {
    shared: SharedEngine,
    engine: Engine,
    upstream: ScriptedUpstream,
}

impl Process {
    fn new(api: Api, store: &Arc<dyn LogStore>) -> Self {
        Self::build(api, |builder| builder.store(store.clone()), None)
    }

    fn build(
        api: Api,
        options: impl FnOnce(EngineBuilder) -> EngineBuilder,
        flusher: Option<Flusher>,
    ) -> Self {
        let upstream = ScriptedUpstream::new(scripted_target(api));
        let limits = LogLimits {
            bytes: 1 << 26,
            events: 1 << 20,
        };
        let builder = Engine::builder().log_limits(limits).sweep_interval(None);
        let shared = options(builder).build();
        let asked = Arc::new(upstream.clone());
        let engine = match flusher {
            Some(flusher) => shared.engine_with(asked, flusher),
            None => shared.engine(asked),
        };
        Self {
            shared,
            engine,
            upstream,
        }
    }

    async fn start(&self, request: StartRequest) -> (Started, Call) {
        let started = self.engine.start(request).await.unwrap();
        (started, self.upstream.call().await)
    }

    async fn find(&self, id: &GenerationId) -> Result<Arc<Generation>, ErrorCode> {
        let found = self.engine.find(id, &Owner::Anonymous).await;
        found.map_err(|error| {
            let codes = [
                ErrorCode::NotFound,
                ErrorCode::OwnerUnreachable,
                ErrorCode::StoreUnavailable,
            ];
            let code = codes.into_iter().find(|code| error.is(*code));
            code.unwrap_or_else(|| panic!("{error:?}"))
        })
    }

    async fn resume(&self, id: &GenerationId, after: u64, kind: ReaderKind) -> Resumption {
        let cursor = Cursor {
            id: id.clone(),
            after: Some(after),
        };
        let resumed = self.engine.resume(&cursor, &Owner::Anonymous, kind).await;
        resumed.unwrap_or_else(|error| panic!("after {after}: {error:?}"))
    }
}

fn memory() -> (Arc<MemoryStore>, Arc<dyn LogStore>) {
    let store = Arc::new(MemoryStore::new(1 << 28));
    (store.clone(), store)
}

fn request(body: &str) -> StartRequest {
    TestEngine::request(body)
}

fn keyed(body: &str) -> StartRequest {
    request(body).with_idempotency_key(Some("order-7".to_owned()))
}

fn say(call: &Call, texts: &[&str]) {
    for text in texts {
        call.token(text);
    }
}

fn answer(call: &Call, texts: &[&str]) {
    say(call, texts);
    call.finish("stop").done().end(BodyEnd::Clean);
}

fn code_of(generation: &Generation) -> String {
    let object: serde_json::Value = serde_json::from_slice(&generation.response_json()).unwrap();
    object["error"]["code"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

// === Answers ===

/// The recorded streams, the cases, and one answer that is always there.
fn answers() -> Vec<Answer> {
    let chunk = |delta: serde_json::Value, finish: Option<&str>| {
        let choice = serde_json::json!({"index": 0, "delta": delta, "finish_reason": finish});
        format!("data: {}\n\n", serde_json::json!({"choices": [choice]}))
    };
    let mut body: String = ["Hello", " world", " \"ä\" ", "€\n", "end"]
        .iter()
        .map(|text| chunk(serde_json::json!({"content": text}), None))
        .collect();
    body += &chunk(serde_json::json!({}), Some("stop"));
    body += "data: [DONE]\n\n";
    let own = Answer {
        name: "own".to_owned(),
        api: Api::Chat,
        is_json: false,
        body: body.into_bytes(),
    };
    let mut all = vec![own];
    all.extend(bodies("TOKENWIRE_CAPTURES", "captures"));
    all.extend(bodies("TOKENWIRE_CASES", "cases"));
    all
}

// === Another process reads ===

#[tokio::test(start_paused = true)]
async fn later_process_renders_every_answer_as_its_writer_did() {
    for answer in answers() {
        let (_, store) = memory();
        let writer = Process::new(answer.api, &store);
        let (started, call) = writer.start(request(answer.request())).await;
        answer.send_half(&call);
        settle().await;
        answer.send_rest(&call);
        let generation = started.guard.generation().clone();
        generation.ended().await;
        let written = render(&generation);
        let id = generation.meta().id.clone();
        writer.shared.flushed().await;
        let memory = Arc::downgrade(&generation);
        drop((generation, started, call, writer));
        settle().await;
        assert!(memory.upgrade().is_none(), "{}: it is kept", answer.name);

        let reader = Process::new(answer.api, &store);
        let restored = reader.find(&id).await.unwrap();
        assert_same(&answer.name, &written, &render(&restored));
        assert_eq!(&*restored.header().upstream, "scripted");
        let object = store.object(&id).await.unwrap();
        // With what must go back to the upstream, which no reader is shown.
        let kept = restored.response_in(Form::Kept);
        assert_eq!(object.unwrap(), kept, "{}", answer.name);
        assert_eq!(reader.upstream.waiting(), 0);
    }
}

/// Names the file that a test process writes for the one that started it.
const DUMP: &str = "TOKENWIRE_STORED_LOG_DUMP";

/// Parts of a file, each after its length.
struct Parts(Vec<u8>);

impl Parts {
    fn push(&mut self, part: &[u8]) {
        self.0.extend_from_slice(&(part.len() as u64).to_le_bytes());
        self.0.extend_from_slice(part);
    }

    fn push_number(&mut self, number: u64) {
        self.push(&number.to_le_bytes());
    }
}

fn next_part(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let (length, after) = rest.split_first_chunk()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap();
    let (part, after) = after.split_at(length);
    *rest = after;
    Some(part.to_vec())
}

fn next_number(rest: &mut &[u8]) -> u64 {
    let part = next_part(rest).unwrap();
    u64::from_le_bytes(part.try_into().unwrap())
}

/// Writes a log as it is stored, and what its writer rendered.
async fn dump(out: &mut Parts, name: &str, store: &dyn LogStore, generation: &Arc<Generation>) {
    let stored = store.open(&generation.meta().id).await.unwrap();
    out.push(name.as_bytes());
    out.push(&stored.header.encode());
    out.push_number(u64::from(stored.sealed));
    let mut blocks = Vec::new();
    let mut end = Seq(0);
    while end < stored.end {
        let block = store.read(&stored.header.meta.id, end, 1000).await.unwrap();
        assert_eq!(block.first_seq(), end);
        end = block.end_seq();
        blocks.push(block);
    }
    out.push_number(blocks.len() as u64);
    for block in blocks {
        out.push_number(block.first_seq().0);
        out.push_number(block.end_seq().0);
        out.push(block.as_block());
    }
    let rendering = render(generation);
    out.push_number(rendering.len() as u64);
    for (name, bytes) in rendering {
        out.push(name.as_bytes());
        out.push(&bytes);
    }
}

/// The writing process: stores every answer, in the middle and at its end.
async fn write_dump(path: &Path) {
    let mut out = Parts(Vec::new());
    for answer in answers() {
        let (_, store) = memory();
        let writer = Process::new(answer.api, &store);
        let (started, call) = writer.start(request(answer.request())).await;
        let generation = started.guard.generation();
        answer.send_half(&call);
        settle().await;
        writer.shared.flushed().await;
        let name = format!("{}, running", answer.name);
        dump(&mut out, &name, &*store, generation).await;
        answer.send_rest(&call);
        generation.ended().await;
        writer.shared.flushed().await;
        dump(&mut out, &answer.name, &*store, generation).await;
    }
    std::fs::write(path, out.0).unwrap();
}

/// Fills a store with the next log of a dump. Returns its name, header, end and rendering.
async fn load_dump(
    rest: &mut &[u8],
    store: &dyn LogStore,
) -> Option<(String, Arc<LogHeader>, bool, Rendering)> {
    let name = String::from_utf8(next_part(rest)?).unwrap();
    let header = Arc::new(LogHeader::decode(&next_part(rest).unwrap()).unwrap());
    let sealed = next_number(rest) == 1;
    let id = &header.meta.id;
    assert_eq!(store.create(header.clone()).await, Ok(Epoch(1)), "{name}");
    let mut end = Seq(0);
    for _ in 0..next_number(rest) {
        let (first, next) = (Seq(next_number(rest)), Seq(next_number(rest)));
        let mut blocks = Blocks::default();
        blocks.push(Block {
            id,
            epoch: Epoch(1),
            first,
            next,
            bytes: &next_part(rest).unwrap(),
        });
        let (_, results) = store.append(blocks).await;
        assert_eq!(results, [Ok(next)], "{name}");
        end = next;
    }
    if sealed {
        let mut nothing = RecordBatch::default();
        nothing.restart(end);
        store.seal(id, Epoch(1), nothing, None).await.unwrap();
    }
    let mut rendering = Rendering::new();
    for _ in 0..next_number(rest) {
        let name = String::from_utf8(next_part(rest).unwrap()).unwrap();
        rendering.push((name, next_part(rest).unwrap()));
    }
    Some((name, header, sealed, rendering))
}

#[tokio::test(start_paused = true)]
async fn logs_that_another_process_wrote_render_as_it_did() {
    if let Some(path) = std::env::var_os(DUMP) {
        return write_dump(Path::new(&path)).await;
    }
    let file = std::env::temp_dir().join(format!("tokenwire-dump-{}", GenerationId::random()));
    let writer = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "logs_that_another_process_wrote_render_as_it_did",
        ])
        .env(DUMP, &file)
        .output()
        .unwrap();
    assert!(writer.status.success(), "{writer:?}");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let mut rest = bytes.as_slice();
    let (_, store) = memory();
    let mut logs = 0;
    loop {
        // The same id comes twice: while it runs and at its end.
        let (_, running) = memory();
        let ended = logs % 2 == 1;
        let target = if ended { &store } else { &running };
        let Some((name, header, sealed, written)) = load_dump(&mut rest, &**target).await else {
            break;
        };
        let id = &header.meta.id;
        let restored = if sealed {
            let process = Process::new(header.meta.api, target);
            process.find(id).await.unwrap()
        } else {
            let account = Account::default();
            Generation::restore(&**target, id, account).await.unwrap()
        };
        assert_same(&name, &written, &render(&restored));
        logs += 1;
    }
    assert_eq!(logs, 2 * answers().len());
}

// === Adoption ===

/// A process that dies while an answer runs: the store has what `stored` says, readers have seen
/// the rest as well.
struct Crashed {
    store: Arc<dyn LogStore>,
    id: GenerationId,
    /// The end of what is stored.
    stored: u64,
    /// The last number that a reader has seen.
    seen: u64,
}

async fn crashed(request: StartRequest, stored: &[&str], lost: &[&str]) -> Crashed {
    let (_, store) = memory();
    let flusher = Flusher::new(store.clone(), FlushOptions::default());
    let running = tokio::spawn(flusher.clone().run());
    let with_store = |builder: EngineBuilder| builder.store(store.clone());
    let process = Process::build(Api::Chat, with_store, Some(flusher.clone()));
    let (started, call) = process.start(request).await;
    say(&call, stored);
    settle().await;
    flusher.flushed().await;
    let generation = started.guard.generation();
    let end = generation.tail().unwrap().next.0;
    assert_eq!(generation.log().committed(), Seq(end));
    assert_eq!(generation.log().uncommitted(), 0);
    running.abort();
    say(&call, lost);
    settle().await;
    let seen = generation.tail().unwrap().next.0 - 1;
    Crashed {
        id: generation.meta().id.clone(),
        store,
        stored: end,
        seen,
    }
}

fn read(resumed: Resumption, kind: ReaderKind) -> Vec<(u64, String)> {
    let Resumption::Read { guard, from } = resumed else {
        panic!("{resumed:?}");
    };
    let framing = tokenwire_testkit::JsonLines {
        extensions: kind != ReaderKind::Sdk,
        ..Default::default()
    };
    let mut reader = Reader::framed(guard, from.0, Dialect::Responses, Arc::new(framing));
    reader.read_now();
    assert_eq!(reader.end(), Some(Ok(())));
    let line = |line: tokenwire_testkit::Line| {
        let event: serde_json::Value = serde_json::from_str(&line.data).unwrap();
        (line.seq, event["type"].as_str().unwrap().to_owned())
    };
    reader.lines().into_iter().map(line).collect()
}

const ENDING: [(u64, &str); 4] = [
    (SECOND, "response.output_text.done"),
    (SECOND + 1, "response.content_part.done"),
    (SECOND + 2, "response.output_item.done"),
    (SECOND + 3, "response.failed"),
];

fn ending() -> Vec<(u64, String)> {
    ENDING.map(|(seq, kind)| (seq, kind.to_owned())).into()
}

#[tokio::test(start_paused = true)]
async fn answer_of_a_dead_process_is_ended_in_the_next_epoch() {
    let Crashed {
        store,
        id,
        stored,
        seen,
    } = crashed(request(CHAT), &["Hel", "lo"], &[" lost", " text"]).await;
    assert!(seen > stored);
    let process = Process::new(Api::Chat, &store);
    assert_eq!(
        process.find(&id).await.err(),
        Some(ErrorCode::OwnerUnreachable)
    );
    let adopted = process.shared.adopt(&id).await.unwrap();
    assert_eq!(adopted.status(), Status::Failed);
    assert_eq!(code_of(&adopted), "producer_lost");
    assert_eq!(adopted.log().epoch(), Epoch(2));
    assert_eq!(adopted.log().epoch_ends(), [Seq(stored)]);
    let object = String::from_utf8(adopted.response_json()).unwrap();
    assert!(object.contains(r#""text":"Hello""#), "{object}");
    let in_store = store.open(&id).await.unwrap();
    assert!(in_store.sealed);
    assert_eq!(in_store.end, Seq(SECOND + 4));
    assert_eq!(
        store.object(&id).await.unwrap().unwrap(),
        adopted.response_json()
    );

    use ReaderKind::{EventSource, Sdk, WebSocket};
    for kind in [EventSource, Sdk, WebSocket] {
        // It has seen what is stored, and nothing more.
        let resumed = process.resume(&id, stored - 1, kind).await;
        assert_eq!(read(resumed, kind), ending());
        let last = process.resume(&id, SECOND + 3, kind).await;
        assert!(matches!(last, Resumption::NothingLeft { .. }));
        // It has seen text that is lost.
        let resumed = process.resume(&id, seen, kind).await;
        let mut expected = ending();
        if kind != Sdk {
            expected = vec![(SECOND + 3, "tokenwire:reset".to_owned())];
        }
        assert_eq!(read(resumed, kind), expected, "{kind:?}");
    }
    // A third process reads the same from the store, and adopting again changes nothing.
    let third = Process::new(Api::Chat, &store);
    let found = third.find(&id).await.unwrap();
    assert_same("adopted", &render(&adopted), &render(&found));
    let again = third.shared.adopt(&id).await.unwrap();
    assert!(Arc::ptr_eq(&found, &again));
    let fourth = Process::new(Api::Chat, &store);
    let again = fourth.shared.adopt(&id).await.unwrap();
    assert_same("adopted twice", &render(&adopted), &render(&again));
    assert_eq!(store.open(&id).await.unwrap().epoch(), Epoch(2));
}

#[tokio::test(start_paused = true)]
async fn every_running_answer_of_a_dead_process_can_be_adopted() {
    let mut count = 0;
    for answer in answers() {
        let (_, store) = memory();
        let flusher = Flusher::new(store.clone(), FlushOptions::default());
        let running = tokio::spawn(flusher.clone().run());
        let with_store = |builder: EngineBuilder| builder.store(store.clone());
        let process = Process::build(answer.api, with_store, Some(flusher.clone()));
        let (started, call) = process.start(request(answer.request())).await;
        answer.send_half(&call);
        settle().await;
        flusher.flushed().await;
        running.abort();
        let generation = started.guard.generation();
        if generation.is_over() {
            continue;
        }
        let (id, end) = (
            generation.meta().id.clone(),
            generation.tail().unwrap().next,
        );
        let mut before = Reader::new(generation.attach(), 0, Dialect::Responses);
        before.read_now();
        let next = Process::new(answer.api, &store);
        let adopted = next.shared.adopt(&id).await.unwrap();
        assert_eq!(code_of(&adopted), "producer_lost", "{}", answer.name);
        let mut after = Reader::new(adopted.attach(), 0, Dialect::Responses);
        after.read_now();
        assert_eq!(after.end(), Some(Ok(())), "{}", answer.name);
        assert!(after.bytes().starts_with(before.bytes()), "{}", answer.name);
        count += 1;
        let lines = after.lines();
        assert!(
            lines
                .iter()
                .all(|line| line.seq < end.0 || line.seq >= SECOND)
        );
        assert!(
            lines
                .last()
                .unwrap()
                .data
                .contains(r#""type":"response.failed""#)
        );
    }
    assert!(count > 0);
}

#[tokio::test(start_paused = true)]
async fn header_without_records_is_ended_as_well() {
    let (_, store) = memory();
    // The flusher never runs: the process dies before its first tick.
    let flusher = Flusher::new(store.clone(), FlushOptions::default());
    let with_store = |builder: EngineBuilder| builder.store(store.clone());
    let process = Process::build(Api::Chat, with_store, Some(flusher));
    let (started, call) = process.start(keyed(CHAT)).await;
    call.token("Hello");
    settle().await;
    let generation = started.guard.generation();
    let (id, next) = (
        generation.meta().id.clone(),
        generation.tail().unwrap().next,
    );
    let next_process = Process::new(Api::Chat, &store);
    let adopted = next_process.shared.adopt(&id).await.unwrap();
    assert_eq!(code_of(&adopted), "producer_lost");
    assert_eq!(adopted.log().epoch_ends(), [Seq(0)]);
    let after = next.0 - 1;
    for kind in [ReaderKind::EventSource, ReaderKind::WebSocket] {
        let resumed = next_process.resume(&id, after, kind).await;
        let reset = (SECOND + 1, "tokenwire:reset".to_owned());
        assert_eq!(read(resumed, kind), [reset]);
    }
    // All that an SDK has seen is lost, and it cannot be told so in the stream.
    let cursor = Cursor {
        id: id.clone(),
        after: Some(after),
    };
    let owner = Owner::Anonymous;
    let refused = next_process
        .engine
        .resume(&cursor, &owner, ReaderKind::Sdk)
        .await;
    assert!(refused.unwrap_err().is(ErrorCode::PositionGone));
    let mut reader = Reader::new(adopted.attach(), 0, Dialect::Responses);
    reader.read_now();
    let lines = reader.lines();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].data.contains("response.created"));
    assert!(lines[1].data.contains("response.failed"));
}

#[tokio::test(start_paused = true)]
async fn unstored_response_has_a_log_and_no_object_or_input() {
    let (_, store) = memory();
    let process = Process::new(Api::Chat, &store);
    for kept in [true, false] {
        let body = serde_json::json!({"input": "x", "stream": true, "store": kept});
        let (started, call) = process.start(request(&body.to_string())).await;
        answer(&call, &["Hi"]);
        let generation = started.guard.generation();
        generation.ended().await;
        process.shared.flushed().await;
        let id = &generation.meta().id;
        let stored = store.open(id).await.unwrap();
        assert!(stored.sealed);
        assert_eq!(stored.end, generation.tail().unwrap().next);
        assert_eq!(stored.header.input.len(), usize::from(kept));
        assert_eq!(store.object(id).await.unwrap().is_some(), kept);
    }
}

#[tokio::test(start_paused = true)]
async fn writer_whose_log_was_adopted_is_fenced() {
    let (_, store) = memory();
    let first = Process::new(Api::Chat, &store);
    let (started, call) = first.start(request(CHAT)).await;
    call.token("Hello");
    settle().await;
    first.shared.flushed().await;
    let generation = started.guard.generation();
    let id = generation.meta().id.clone();
    let mut reader = Reader::new(generation.attach(), 0, Dialect::Responses);
    reader.read_now();

    let second = Process::new(Api::Chat, &store);
    second.shared.adopt(&id).await.unwrap();
    call.token(" world");
    assert_eq!(reader.read_to_end().await, Err(SubscriptionError::Expired));
    call.gone().await;
    generation.ended().await;
    assert!(generation.outcome().is_none(), "it shows no second ending");
    let found = first.find(&id).await.unwrap();
    assert_eq!(code_of(&found), "producer_lost");
    let resumed = first.resume(&id, 3, ReaderKind::EventSource).await;
    assert_eq!(
        read(resumed, ReaderKind::EventSource).last(),
        ending().last()
    );
    assert_eq!(first.shared.registry().open(), 0);
}

#[tokio::test(start_paused = true)]
async fn adopted_answer_keeps_its_idempotency_key() {
    let Crashed { store, id, .. } = crashed(keyed(CHAT), &["a"], &[]).await;
    let process = Process::new(Api::Chat, &store);
    process.shared.adopt(&id).await.unwrap();
    let again = process.engine.start(keyed(CHAT)).await.unwrap();
    assert!(!again.fresh);
    assert_eq!(again.guard.generation().meta().id, id);
    let other = keyed(r#"{"messages":[{"role":"user","content":"y"}],"stream":true}"#);
    let error = process.engine.start(other).await.unwrap_err();
    assert!(error.is(ErrorCode::IdempotencyMismatch), "{error:?}");
    assert_eq!(process.upstream.waiting(), 0);
}

// === Starting ===

#[tokio::test(start_paused = true)]
async fn keyed_and_background_requests_wait_for_their_header() {
    let background = r#"{"input":"x","background":true}"#;
    for (first, request) in [
        (true, keyed(CHAT)),
        (true, request(background)),
        (false, request(CHAT)),
    ] {
        let (_, memory) = memory();
        let faulty = Arc::new(FaultyStore::new(memory.clone(), 1));
        let store: Arc<dyn LogStore> = faulty.clone();
        let pause = Duration::from_millis(700);
        faulty.next(Operation::Create, Fault::Slow(pause));
        let process = Process::new(Api::Chat, &store);
        let begun = Instant::now();
        let started = process.engine.start(request).await.unwrap();
        let id = &started.guard.generation().meta().id;
        if first {
            assert!(begun.elapsed() >= pause);
            assert_eq!(process.upstream.waiting(), 0, "nothing was sent before");
            let stored = memory.open(id).await.unwrap();
            assert_eq!(
                stored.header.idempotency.is_some(),
                !stored.header.meta.background
            );
        } else {
            assert_eq!(begun.elapsed(), Duration::ZERO);
        }
        let call = process.upstream.call().await;
        answer(&call, &["Hi"]);
        started.guard.generation().ended().await;
        process.shared.flushed().await;
        assert!(memory.open(id).await.unwrap().sealed);
    }
}

#[tokio::test(start_paused = true)]
async fn keyed_request_without_a_store_is_refused_and_leaves_nothing() {
    for fault in [Fault::Hang, Fault::Fail, Fault::LoseAnswer] {
        let (stored, memory) = memory();
        let faulty = Arc::new(FaultyStore::new(memory, 1));
        let store: Arc<dyn LogStore> = faulty.clone();
        faulty.always(Operation::Create, fault);
        let process = Process::new(Api::Chat, &store);
        let begun = Instant::now();
        let error = process.engine.start(keyed(CHAT)).await.unwrap_err();
        assert!(error.is(ErrorCode::StoreUnavailable), "{error:?}");
        assert_eq!(error.status, 503);
        assert!(
            begun.elapsed() <= Duration::from_secs(3),
            "the wait is bounded"
        );
        settle().await;
        assert_eq!(process.upstream.waiting(), 0);
        assert_eq!(process.shared.registry().open(), 0);
        assert_eq!(process.shared.registry().len(), 0);
        assert_eq!(stored.used(), 0, "{fault:?}: the header is left");
        // The key is free, and others are served.
        let started = process.engine.start(request(CHAT)).await.unwrap();
        answer(&process.upstream.call().await, &["Hi"]);
        started.guard.generation().ended().await;
        assert_eq!(started.guard.generation().status(), Status::Completed);
        faulty.heal();
        let (started, call) = process.start(keyed(CHAT)).await;
        assert!(started.fresh);
        answer(&call, &["Hi"]);
    }
}

#[tokio::test(start_paused = true)]
async fn answers_that_a_hanging_store_does_not_take_leave_memory() {
    let (_, memory) = memory();
    let faulty = Arc::new(FaultyStore::new(memory, 1));
    let store: Arc<dyn LogStore> = faulty.clone();
    faulty.always(Operation::Create, Fault::Hang);
    let retention = Retention {
        events: Duration::ZERO,
        responses: Duration::ZERO,
        max_memory: 1 << 30,
        max_open: 1000,
    };
    let options = |builder: EngineBuilder| builder.store(store).retention(retention);
    let process = Process::build(Api::Chat, options, None);
    let mut all: Vec<Weak<Generation>> = Vec::new();
    for _ in 0..3000 {
        let (started, call) = process.start(request(CHAT)).await;
        answer(&call, &["Hi"]);
        started.guard.generation().ended().await;
        all.push(Arc::downgrade(started.guard.generation()));
    }
    settle().await;
    process.shared.registry().sweep(Instant::now());
    let kept = all.iter().filter(|weak| weak.strong_count() > 0).count();
    assert!(kept <= 1100, "{kept} generations are kept");
}

#[tokio::test(start_paused = true)]
async fn answer_is_stored_before_memory_pressure_drops_it() {
    let (_, memory) = memory();
    let faulty = Arc::new(FaultyStore::new(memory, 1));
    let store: Arc<dyn LogStore> = faulty.clone();
    let process = Process::new(Api::Chat, &store);
    let registry = process.shared.registry();
    let (started, call) = process.start(request(CHAT)).await;
    answer(&call, &["Hello", " world"]);
    let generation = started.guard.generation().clone();
    generation.ended().await;
    drop(started);
    // Its end is not stored yet.
    registry.relieve(usize::MAX);
    assert!(generation.tail().is_ok());
    settle().await;
    process.shared.flushed().await;
    registry.relieve(usize::MAX);
    assert!(generation.tail().is_err());

    // A store that hangs costs no memory.
    faulty.always(Operation::Seal, Fault::Hang);
    let (started, call) = process.start(request(CHAT)).await;
    answer(&call, &["Hello"]);
    let generation = started.guard.generation().clone();
    generation.ended().await;
    drop(started);
    tokio::time::sleep(Duration::from_secs(1)).await;
    registry.relieve(usize::MAX);
    assert!(generation.tail().is_ok());
    tokio::time::sleep(Duration::from_secs(2)).await;
    registry.relieve(usize::MAX);
    assert!(generation.tail().is_err());
}

// === Keeping ===

#[tokio::test(start_paused = true)]
async fn deleted_response_is_gone_from_the_store() {
    let (stored, memory) = memory();
    let faulty = Arc::new(FaultyStore::new(memory.clone(), 1));
    let store: Arc<dyn LogStore> = faulty.clone();
    let process = Process::new(Api::Chat, &store);
    // One has ended, one runs.
    let (ended, call) = process.start(request(CHAT)).await;
    answer(&call, &["Hi"]);
    ended.guard.generation().ended().await;
    let (running, call) = process.start(request(CHAT)).await;
    call.token("Hi");
    settle().await;
    process.shared.flushed().await;
    for started in [ended, running] {
        let generation = started.guard.generation();
        let id = &generation.meta().id;
        faulty.next(Operation::Delete, Fault::Fail);
        let error = process.engine.delete(generation).await.unwrap_err();
        assert!(error.is(ErrorCode::StoreUnavailable), "{error:?}");
        // It is still found, so that a client can try again.
        let generation = &process.find(id).await.unwrap();
        process.engine.delete(generation).await.unwrap();
        assert_eq!(memory.open(id).await.err(), Some(StoreError::Deleted));
        assert_eq!(process.find(id).await.err(), Some(ErrorCode::NotFound));
    }
    call.gone().await;
    settle().await;
    process.shared.flushed().await;
    assert_eq!(stored.used(), 0);
    assert_eq!(process.shared.registry().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn log_that_has_left_memory_is_read_from_the_store() {
    let (_, memory) = memory();
    let faulty = Arc::new(FaultyStore::new(memory, 1));
    let store: Arc<dyn LogStore> = faulty.clone();
    let process = Process::new(Api::Chat, &store);
    let (started, call) = process.start(keyed(CHAT)).await;
    answer(&call, &["Hello", " world"]);
    let generation = started.guard.generation().clone();
    generation.ended().await;
    let written = render(&generation);
    let id = generation.meta().id.clone();
    drop(started);
    settle().await;
    process.shared.flushed().await;
    let expire = || {
        let later = Instant::now() + Duration::from_secs(20 * 60);
        process.shared.registry().sweep(later);
    };
    expire();
    assert!(generation.tail().is_err());
    // The object is in memory: the store is not asked.
    let polled = process.find(&id).await.unwrap();
    assert!(Arc::ptr_eq(&polled, &generation));
    // Without the store there is the object only.
    faulty.next(Operation::Open, Fault::Fail);
    let resumed = process.resume(&id, 2, ReaderKind::EventSource).await;
    assert!(matches!(resumed, Resumption::Reset { .. }), "{resumed:?}");
    drop(resumed);

    let resumed = process.resume(&id, 2, ReaderKind::Sdk).await;
    let Resumption::Read { guard, .. } = resumed else {
        panic!("{resumed:?}");
    };
    assert_same("read back", &written, &render(guard.generation()));
    let last = guard.generation().tail().unwrap().next.0 - 1;
    drop(guard);
    let cursor = Cursor {
        id: id.clone(),
        after: Some(last),
    };
    let owner = Owner::Anonymous;
    let place = process.engine.peek(&cursor, &owner, ReaderKind::Sdk).await;
    assert_eq!(place.unwrap(), Place::NothingLeft);
    // It leaves again, and a repetition of the request brings it back.
    expire();
    let again = process.engine.start(keyed(CHAT)).await.unwrap();
    assert!(!again.fresh);
    assert_same("repeated", &written, &render(again.guard.generation()));
    drop((again, generation, polled, call));
    let end = Instant::now() + Duration::from_secs(48 * 60 * 60);
    process.shared.registry().sweep(end);
    assert!(process.shared.registry().is_empty());
    assert_eq!(process.shared.registry().used(), 0);
}

#[tokio::test(start_paused = true)]
async fn turn_builds_on_a_response_of_an_earlier_process() {
    let (_, store) = memory();
    let first = Process::new(Api::Chat, &store);
    let (started, call) = first.start(request(RESPONSES)).await;
    answer(&call, &["Hello"]);
    let id = started.guard.generation().meta().id.clone();
    started.guard.generation().ended().await;
    first.shared.flushed().await;
    drop((started, first));
    let second = Process::new(Api::Chat, &store);
    let body = serde_json::json!({"input": "y", "previous_response_id": id.as_str()});
    let (started, call) = second.start(request(&body.to_string())).await;
    let messages = call.body()["messages"].clone();
    let contents: Vec<_> = messages
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["content"].clone())
        .collect();
    assert_eq!(contents.len(), 3, "{messages}");
    assert!(messages.to_string().contains("Hello"), "{messages}");
    assert_eq!(started.guard.generation().header().predecessor, Some(id));
}

#[tokio::test(start_paused = true)]
async fn drain_waits_for_the_last_records_to_be_stored() {
    let (_, store) = memory();
    let process = Process::new(Api::Chat, &store);
    let (started, call) = process.start(request(CHAT)).await;
    call.token("Hi");
    settle().await;
    assert!(!process.shared.drain(Duration::ZERO).await);
    let stored = store
        .open(&started.guard.generation().meta().id)
        .await
        .unwrap();
    assert!(stored.sealed);
    assert_eq!(code_of(started.guard.generation()), "shutting_down");
}

#[tokio::test(start_paused = true)]
async fn drain_waits_for_a_start_that_waits_for_its_header() {
    let (_, memory) = memory();
    let faulty = Arc::new(FaultyStore::new(memory.clone(), 1));
    let store: Arc<dyn LogStore> = faulty.clone();
    let process = Process::new(Api::Chat, &store);
    faulty.always(Operation::Create, Fault::Slow(Duration::from_secs(1)));
    let starting = process.engine.start(keyed(CHAT));
    let mut starting = std::pin::pin!(starting);
    assert!(futures::poll!(starting.as_mut()).is_pending());

    let drained = process.shared.drain(Duration::from_secs(60));
    let mut drained = std::pin::pin!(drained);
    assert!(futures::poll!(drained.as_mut()).is_pending());
    let refused = process.engine.start(request(CHAT)).await;
    assert!(refused.is_err_and(|error| error.is(ErrorCode::ShuttingDown)));

    let answered = async {
        let started = starting.await.unwrap();
        answer(&process.upstream.call().await, &["Hi"]);
        started
    };
    let (started, whole) = futures::join!(answered, drained);
    assert!(whole, "the answer had time to end");
    let id = started.guard.generation().meta().id.clone();
    assert!(memory.open(&id).await.unwrap().sealed);
}
