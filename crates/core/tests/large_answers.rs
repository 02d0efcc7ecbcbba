//! Readers of large answers: what they are given in pieces is what they would be given at once.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use serde_json::Value;
use tokenwire_core::dialect::{Dialect, Frame, FrameHead, Framing, Wrapping};
use tokenwire_core::generation::{EndOfStream, Generation, Subscription};
use tokenwire_core::model::account::AccountKind;
use tokenwire_core::model::id::{GenerationId, Seq};
use tokenwire_core::model::include::{Form, Include};
use tokenwire_core::model::snapshot::Api;
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_testkit::{EngineOptions, Reader, TestEngine};

const MIB: usize = 1024 * 1024;

/// Ids, names and payloads as lines. Takes payloads in pieces, or as a whole only.
#[derive(Debug)]
struct Blocks {
    in_pieces: bool,
    shared: bool,
}

fn head(seq: Seq, name: Option<&str>) -> String {
    format!("{seq} {}\n> ", name.unwrap_or_default())
}

impl Framing for Blocks {
    fn frame(&self, _stream: &GenerationId, frame: &Frame<'_>, out: &mut BytesMut) {
        let name = frame.relayed_name.or(frame.name);
        out.extend_from_slice(head(frame.seq, name).as_bytes());
        let text = std::str::from_utf8(frame.data).unwrap();
        let lines = text.replace("\r\n", "\n").replace('\r', "\n");
        out.extend_from_slice(lines.replace('\n', "\n> ").as_bytes());
        out.extend_from_slice(b"\n\n");
    }

    fn wrap(&self, _stream: &GenerationId, frame: &FrameHead<'_>) -> Option<Wrapping> {
        let name = frame.relayed_name.or(frame.name);
        self.in_pieces.then(|| Wrapping {
            before: head(frame.seq, name).as_bytes().into(),
            after: b"\n\n".as_slice().into(),
            line_end: Some(b"\n> "),
            ..Wrapping::default()
        })
    }

    fn shows_extensions(&self) -> bool {
        true
    }

    fn sends_done(&self, _dialect: Dialect) -> bool {
        true
    }

    fn share_key(&self) -> Option<&'static str> {
        self.shared.then_some("blocks")
    }
}

fn subscribe(
    generation: &Arc<Generation>,
    from: u64,
    dialect: Dialect,
    shared: bool,
) -> Subscription {
    let framing = Arc::new(Blocks {
        in_pieces: true,
        shared,
    });
    Subscription::new(generation.attach(), Seq(from), dialect, framing)
}

/// Returns the next piece; `None` at the end.
fn next(subscription: &mut Subscription) -> Option<Bytes> {
    for _ in 0..1000 {
        match subscription.poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(piece) => return piece.map(Result::unwrap),
            // It lets others run.
            Poll::Pending => {}
        }
    }
    panic!("the log is sealed: nothing is waited for")
}

/// Returns what a reader gets that takes payloads only as a whole.
fn whole(generation: &Arc<Generation>, from: u64, dialect: Dialect) -> Vec<u8> {
    let framing = Arc::new(Blocks {
        in_pieces: false,
        shared: false,
    });
    let mut reader = Reader::framed(generation.attach(), from, dialect, framing);
    reader.read_now();
    assert_eq!(reader.end(), Some(Ok(())));
    reader.bytes().to_vec()
}

/// Reads to the end. No poll returns more than 160 KiB.
fn in_pieces(mut subscription: Subscription) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(piece) = next(&mut subscription) {
        assert!(!piece.is_empty() && piece.len() <= 160 * 1024);
        all.extend_from_slice(&piece);
    }
    assert_eq!(subscription.end(), EndOfStream::Reached);
    all
}

/// A chat answer of 3 MiB, and a call of 1 MiB.
async fn chat_answer(test: &TestEngine) -> Arc<Generation> {
    let started = test.start(r#"{"input":"hi","stream":true}"#);
    let call = test.upstream.call().await;
    let token = "a \"word\" ".repeat(300);
    for number in 0..1100 {
        call.token(&format!("{token}{number} "));
    }
    call.data(r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":"{\"a\":\""}}]}}]}"#);
    for _ in 0..64 {
        let piece = "x".repeat(16 * 1024);
        call.data(&format!(r#"{{"choices":[{{"index":0,"delta":{{"tool_calls":[{{"index":0,"function":{{"arguments":"{piece}"}}}}]}}}}]}}"#));
    }
    call.finish("stop").done().end(BodyEnd::Clean);
    let generation = started.guard.generation().clone();
    generation.ended().await;
    generation
}

/// An answer of a Responses upstream whose closing events hold 900 KiB each.
async fn relayed_answer(test: &TestEngine) -> Arc<Generation> {
    let started = test.start(r#"{"input":"hi","stream":true}"#);
    let call = test.upstream.call().await;
    let text = "long ".repeat(180 * 1024);
    let part = format!(r#"{{"type":"output_text","text":"{text}","annotations":[]}}"#);
    let item = format!(
        r#"{{"id":"m","type":"message","role":"assistant","status":"completed","content":[{part}]}}"#
    );
    call.data(r#"{"type":"response.created","response":{"id":"theirs","status":"in_progress","output":[]}}"#);
    call.data(r#"{"type":"response.output_item.added","output_index":0,"item":{"id":"m","type":"message","content":[]}}"#);
    call.data(r#"{"type":"response.content_part.added","item_id":"m","output_index":0,"content_index":0,"part":{"type":"output_text","text":""}}"#);
    call.data(&format!(r#"{{"type":"response.output_text.delta","item_id":"m","output_index":0,"content_index":0,"delta":"{text}"}}"#));
    call.data(&format!(r#"{{"type":"response.output_text.done","item_id":"m","output_index":0,"content_index":0,"text":"{text}"}}"#));
    call.data(&format!(r#"{{"type":"response.content_part.done","item_id":"m","output_index":0,"content_index":0,"part":{part}}}"#));
    call.data(&format!(
        r#"{{"type":"response.output_item.done","output_index":0,"item":{item}}}"#
    ));
    call.data(&format!(r#"{{"type":"response.completed","response":{{"id":"theirs","object":"response","status":"completed","output":[{item}]}}}}"#));
    call.end(BodyEnd::Clean);
    let generation = started.guard.generation().clone();
    generation.ended().await;
    generation
}

fn engine(api: Api) -> TestEngine {
    TestEngine::new(EngineOptions {
        api,
        ..EngineOptions::default()
    })
}

#[tokio::test(start_paused = true)]
async fn pieces_are_the_frames_at_every_position_and_in_every_dialect() {
    let chat = chat_answer(&engine(Api::Chat)).await;
    let relayed = relayed_answer(&engine(Api::Responses)).await;
    for generation in [&chat, &relayed] {
        let end = generation.tail().unwrap().next.0;
        for dialect in [Dialect::Responses, Dialect::Chat, Dialect::Text] {
            // Inside the closing record, which holds several events.
            for from in [0].into_iter().chain(end - 9..end) {
                let expected = whole(generation, from, dialect);
                for shared in [true, false] {
                    let pieces = in_pieces(subscribe(generation, from, dialect, shared));
                    assert!(
                        pieces == expected,
                        "{dialect:?} from {from}, shared: {shared}"
                    );
                }
            }
        }
    }
    let all = whole(&chat, 0, Dialect::Responses);
    assert!(all.len() > 14 * MIB);
}

#[tokio::test(start_paused = true)]
async fn objects_and_resets_in_pieces_are_the_whole_ones() {
    let chat = chat_answer(&engine(Api::Chat)).await;
    let relayed = relayed_answer(&engine(Api::Responses)).await;
    for generation in [&chat, &relayed] {
        let object = generation.response_pieces(Form::default());
        assert_eq!(object.len(), generation.response_json().len());
        let object: Vec<Bytes> = object.collect();
        assert!(object.concat() == generation.response_json());
        let value: Value = serde_json::from_slice(&object.concat()).unwrap();
        assert_eq!(value["status"], "completed");

        let (seq, event) = generation.reset_event();
        let mut expected = BytesMut::new();
        let frame = Frame {
            seq,
            name: None,
            relayed_name: None,
            data: &event,
        };
        let framing = Blocks {
            in_pieces: true,
            shared: false,
        };
        framing.frame(&generation.meta().id, &frame, &mut expected);
        let reset: Vec<Bytes> = generation
            .reset_frame(&framing, Include::default())
            .collect();
        assert!(reset.concat() == expected);
    }
}

#[tokio::test(start_paused = true)]
async fn readers_that_stop_in_a_large_record_hold_little() {
    for (api, shared) in [
        (Api::Chat, true),
        (Api::Chat, false),
        (Api::Responses, true),
        (Api::Responses, false),
    ] {
        let test = engine(api);
        let generation = match api {
            Api::Chat => chat_answer(&test).await,
            Api::Responses => relayed_answer(&test).await,
        };
        let before = test.account.held(AccountKind::Frames);
        let end = generation.tail().unwrap().next.0;
        let mut readers = Vec::new();
        for place in 0..40 {
            // Each stops at another place of the closing events.
            let mut reader = subscribe(&generation, end - 5, Dialect::Responses, shared);
            for _ in 0..1 + place * 2 {
                assert!(next(&mut reader).is_some());
            }
            readers.push(reader);
        }
        let held = test.account.held(AccountKind::Frames) - before;
        assert!(held > 0);
        assert!(held <= 40 * 128 * 1024, "40 readers hold {held} bytes");
        drop(readers);
        assert_eq!(test.account.held(AccountKind::Frames), before);
    }
}

#[tokio::test(start_paused = true)]
async fn rest_of_a_frame_can_be_taken_and_the_reader_goes_on_after_it() {
    let generation = chat_answer(&engine(Api::Chat)).await;
    let end = generation.tail().unwrap().next.0;
    let expected = whole(&generation, end - 3, Dialect::Responses);
    let mut reader = subscribe(&generation, end - 3, Dialect::Responses, true);
    let mut all = Vec::new();
    let mut taken = 0;
    while let Some(piece) = next(&mut reader) {
        all.extend_from_slice(&piece);
        if let Some(rest) = reader.take_unfinished() {
            taken += 1;
            rest.for_each(|piece| all.extend_from_slice(&piece));
            // The next frame begins here.
            assert!(all.ends_with(b"\n\n"));
        }
    }
    assert!(taken >= 3);
    assert!(all == expected);
}
