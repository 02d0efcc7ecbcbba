//! The measured cases. A case is an input and a function that takes it and returns it, so that
//! making and dropping it is not measured. Inputs are the same in every run, except for the random
//! ids of generations, which have a fixed length.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a case that goes wrong must not give a figure"
)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::FutureExt as _;
use tokenwire_core::engine::{Caller, Engine, Retention, StartRequest, Started};
use tokenwire_core::generation::Subscription;
use tokenwire_core::log::{LogLimits, LogReader, LogTail};
use tokenwire_core::model::account::Account;
use tokenwire_core::model::id::Seq;
use tokenwire_core::model::record::RecordBatch;
use tokenwire_core::request::{
    ChatRequest, ChatSettings, RequestFields, ResponsesRequest, StreamRequest,
};
use tokenwire_core::upstream::decode::{Flow, SseDecoder, SseEvent};
use tokenwire_core::upstream::translate::{ChatTranslator, RecordWriter};
use tokio::runtime::Runtime;

use crate::framings::Shape;
use crate::player::Player;

const TOKENS: usize = 1000;
const LIMITS: LogLimits = LogLimits {
    bytes: 1 << 26,
    events: 1 << 20,
};

// === upstream bodies ===

/// Returns the token with this number. Lengths are typical, and some tokens have an escape.
fn token(number: usize) -> &'static str {
    [
        " the",
        " quick",
        " brown",
        " fox",
        ",",
        " jumps",
        " over",
        "\\n\\n",
        " \\\"lazy\\\"",
        " dog",
        ".",
        " Überraschung",
    ][number % 12]
}

/// Returns a chat chunk with this delta and finish reason.
fn chunk(id: usize, delta: &str, finish: &str) -> String {
    format!(
        r#"{{"id":"chatcmpl-{id:024}","object":"chat.completion.chunk","created":1735689600,"model":"gpt-4o-mini","service_tier":"default","system_fingerprint":"fp_0123456789","choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish}}}]}}"#
    )
}

/// Returns the payloads of an answer. `id` makes the chunks' ids.
fn payloads(tokens: usize, id: impl Fn(usize) -> usize) -> Vec<String> {
    let mut payloads = vec![chunk(
        id(0),
        r#"{"role":"assistant","content":"","refusal":null}"#,
        "null",
    )];
    payloads.extend((0..tokens).map(|number| {
        chunk(
            id(number + 1),
            &format!(r#"{{"content":"{}"}}"#, token(number)),
            "null",
        )
    }));
    payloads.push(chunk(id(tokens + 1), "{}", "\"stop\""));
    payloads.push("[DONE]".to_owned());
    payloads
}

fn event(payload: &str) -> String {
    format!("data: {payload}\n\n")
}

fn body(tokens: usize) -> Vec<u8> {
    payloads(tokens, |_| 0)
        .iter()
        .map(|payload| event(payload))
        .collect::<String>()
        .into_bytes()
}

// === the decoder ===

pub(crate) struct Decode {
    decoder: SseDecoder,
    body: Vec<u8>,
    read: usize,
}

impl Decode {
    pub(crate) fn new(read: usize) -> Self {
        Self {
            decoder: SseDecoder::new(1 << 20),
            body: body(TOKENS),
            read,
        }
    }
}

pub(crate) fn decode(mut input: Decode) -> Decode {
    let mut events = 0;
    for piece in input.body.chunks(input.read) {
        let flow = input.decoder.push(piece, &mut |event| {
            events += usize::from(matches!(event, SseEvent::Data { .. }));
            Flow::Continue
        });
        flow.expect("no event is too large");
    }
    assert_eq!(events, TOKENS + 3);
    input
}

// === the translator ===

pub(crate) struct Translate {
    translator: ChatTranslator,
    records: RecordWriter,
    payloads: Vec<String>,
}

impl Translate {
    /// Chunks that differ only in their token, as nearly every upstream sends them.
    pub(crate) fn templated() -> Self {
        Self::of(payloads(TOKENS, |_| 0))
    }

    /// Chunks with different ids. None matches a template, so each is parsed.
    pub(crate) fn parsed() -> Self {
        Self::of(payloads(TOKENS / 10, |number| number))
    }

    fn of(payloads: Vec<String>) -> Self {
        Self {
            translator: ChatTranslator::new(1),
            records: RecordWriter::new(),
            payloads,
        }
    }
}

pub(crate) fn translate(mut input: Translate) -> Translate {
    let mut tokens = 0;
    for payload in &input.payloads {
        let translated =
            input
                .translator
                .payload(None, payload.as_bytes(), true, &mut input.records);
        tokens += usize::from(translated.tokens);
        input.records.clear();
    }
    assert_eq!(tokens, input.payloads.len() - 3);
    input
}

// === an engine ===

/// An engine over a [`Player`], and its runtime, whose clock is paused.
struct TestBed {
    engine: Engine,
    player: Player,
    runtime: Runtime,
}

impl TestBed {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let retention = Retention {
            events: Duration::from_secs(600),
            responses: Duration::from_secs(86_400),
            max_memory: 1 << 30,
            max_open: 1 << 16,
        };
        let player = Player::default();
        let engine = Engine::builder()
            .retention(retention)
            .log_limits(LIMITS)
            .build()
            .engine(Arc::new(player.clone()));
        Self {
            engine,
            player,
            runtime,
        }
    }

    fn start(&self) -> Started {
        let body = StreamRequest::parse(CHAT.as_bytes()).expect("a sound request");
        let _entered = self.runtime.enter();
        let request = StartRequest::new(body, Caller::default(), "/v1/chat/completions");
        self.engine
            .start(request)
            .now_or_never()
            .expect("a start without a store does not wait")
            .expect("there is room for a stream")
    }

    /// Runs the generation's task until it waits.
    fn settle(&self) {
        self.runtime.block_on(async {
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
        });
    }

    /// Waits for the end of an answer.
    fn finish(&self, started: &Started) {
        self.runtime.block_on(started.guard.generation().ended());
    }
}

/// Whether a reader that made way for others is to be polled again.
static IS_WOKEN: AtomicBool = AtomicBool::new(false);
static WAKER: LazyLock<Waker> = LazyLock::new(|| Waker::from(Arc::new(Woken)));

struct Woken;

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        IS_WOKEN.store(true, Ordering::Relaxed);
    }
}

/// Reads everything available. Returns the byte count and whether the end was reached.
fn drain(subscription: &mut Subscription) -> (usize, bool) {
    let mut context = Context::from_waker(&WAKER);
    let mut bytes = 0;
    loop {
        match subscription.poll_next(&mut context) {
            Poll::Ready(Some(Ok(piece))) => bytes += piece.len(),
            Poll::Ready(None) => return (bytes, true),
            Poll::Pending if IS_WOKEN.swap(false, Ordering::Relaxed) => {}
            Poll::Pending => return (bytes, false),
            Poll::Ready(Some(Err(error))) => panic!("{error}"),
        }
    }
}

// === dialects and framings ===

/// A reader of a complete answer.
pub(crate) struct Reading {
    subscription: Subscription,
    _rig: TestBed,
}

impl Reading {
    pub(crate) fn new(shape: Shape) -> Self {
        let rig = TestBed::new();
        rig.player.push(body(TOKENS));
        rig.player.end();
        let started = rig.start();
        rig.finish(&started);
        let subscription =
            Subscription::new(started.guard, Seq(0), shape.dialect(), shape.framing());
        Self {
            subscription,
            _rig: rig,
        }
    }
}

pub(crate) fn read(mut input: Reading) -> Reading {
    let (bytes, ended) = drain(&mut input.subscription);
    assert!(bytes > TOKENS && ended);
    input
}

// === the log ===

pub(crate) struct Append {
    log: LogTail,
    records: Vec<RecordBatch>,
}

impl Append {
    pub(crate) fn new() -> Self {
        let records = (0..TOKENS).map(|number| {
            let mut batch = RecordBatch::default();
            batch.restart(Seq(number as u64));
            batch.push(1, token(number).as_bytes());
            batch
        });
        Self {
            log: LogTail::new(LIMITS, Account::default()),
            records: records.collect(),
        }
    }
}

pub(crate) fn append(input: Append) -> Append {
    let epoch = input.log.begin_epoch();
    for batch in &input.records {
        input.log.append(epoch, batch).expect("the log takes it");
    }
    input
}

pub(crate) struct Listing {
    reader: LogReader,
    batch: RecordBatch,
}

impl Listing {
    pub(crate) fn new() -> Self {
        let Append { log, .. } = append(Append::new());
        Self {
            reader: LogReader::new(Arc::new(log), Seq(0)),
            batch: RecordBatch::default(),
        }
    }
}

pub(crate) fn list(mut input: Listing) -> Listing {
    let mut records = 0;
    loop {
        input
            .reader
            .read(1024, &mut input.batch)
            .expect("the log is there");
        if input.batch.is_empty() {
            break;
        }
        records += input.batch.iter().count();
    }
    assert_eq!(records, TOKENS);
    input
}

// === one to many ===

/// Readers at the tail, and one more token.
pub(crate) struct Fanout {
    readers: Vec<Subscription>,
    rig: TestBed,
}

impl Fanout {
    pub(crate) fn new(readers: usize, shape: Shape) -> Self {
        let rig = TestBed::new();
        for payload in payloads(20, |_| 0).iter().take(21) {
            rig.player.push(event(payload));
        }
        let started = rig.start();
        let generation = started.guard.generation();
        // The task yields in between, so it takes several turns to write everything.
        let written = || generation.tail().map(|tail| tail.next).ok();
        let mut before = None;
        while before != written() {
            before = written();
            rig.settle();
        }
        let subscribe = |_| {
            Subscription::new(
                generation.attach(),
                Seq(0),
                shape.dialect(),
                shape.framing(),
            )
        };
        let mut readers: Vec<Subscription> = (0..readers).map(subscribe).collect();
        for reader in &mut readers {
            assert!(drain(reader).0 > 0);
        }
        Self { readers, rig }
    }
}

/// Measures from the upstream's chunk to the bytes for every reader.
pub(crate) fn fan_out(mut input: Fanout) -> Fanout {
    input
        .rig
        .player
        .push(event(&chunk(0, r#"{"content":" more"}"#, "null")));
    input.rig.settle();
    for reader in &mut input.readers {
        assert!(drain(reader).0 > 0);
    }
    input
}

// === requests ===

const CHAT: &str = r#"{"model":"gpt-4o-mini","messages":[{"role":"system","content":"You are a helpful assistant. Answer briefly."},{"role":"user","content":"What is the capital of France?"},{"role":"assistant","content":"Paris."},{"role":"user","content":"And how many people live there? \"About\" is enough."}],"stream":true,"temperature":0.7,"max_tokens":256,"stream_options":{"include_usage":true}}"#;
const RESPONSES: &str = r#"{"model":"gpt-4o-mini","instructions":"You are a helpful assistant. Answer briefly.","input":[{"role":"user","content":"What is the capital of France?"},{"role":"assistant","content":[{"type":"output_text","text":"Paris."}]},{"role":"user","content":[{"type":"input_text","text":"And how many people live there?"}]}],"stream":true,"temperature":0.7,"max_output_tokens":256,"tools":[{"type":"function","name":"lookup","description":"Looks a fact up","parameters":{"type":"object","properties":{"question":{"type":"string"}},"required":["question"]},"strict":true}],"metadata":{"user":"u1"}}"#;

/// A request body. Measured from its bytes to the upstream's bytes and the request fields.
pub(crate) struct Requested {
    body: &'static str,
    chat: bool,
    made: Option<(Vec<u8>, RequestFields)>,
}

impl Requested {
    pub(crate) fn chat() -> Self {
        Self {
            body: CHAT,
            chat: true,
            made: None,
        }
    }

    pub(crate) fn responses() -> Self {
        Self {
            body: RESPONSES,
            chat: false,
            made: None,
        }
    }
}

pub(crate) fn run_request(mut input: Requested) -> Requested {
    input.made = Some(if input.chat {
        let request = ChatRequest::parse(input.body.as_bytes()).expect("a sound request");
        (
            request.upstream_body(Some("llama-3.3"), false),
            request.request_fields(),
        )
    } else {
        let request = ResponsesRequest::parse(input.body.as_bytes()).expect("a sound request");
        (
            request
                .to_chat(&[], "llama-3.3", &ChatSettings::default())
                .expect("it has a counterpart")
                .body,
            request.request_fields(),
        )
    });
    input
}

// === a short answer ===

/// A request with an answer of five tokens, measured from the request's bytes to the end.
pub(crate) struct Short {
    rig: TestBed,
    shape: Shape,
}

impl Short {
    pub(crate) fn new(shape: Shape) -> Self {
        let rig = TestBed::new();
        for payload in payloads(5, |_| 0) {
            rig.player.push(event(&payload));
        }
        rig.player.end();
        Self { rig, shape }
    }
}

pub(crate) fn short_answer(input: Short) -> Short {
    let started = input.rig.start();
    input.rig.finish(&started);
    let mut subscription = Subscription::new(
        started.guard,
        Seq(0),
        input.shape.dialect(),
        input.shape.framing(),
    );
    assert!(drain(&mut subscription).1);
    input
}
