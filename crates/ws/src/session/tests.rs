//! Commands that wait for what is not in this process, and frames in pieces.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::task::noop_waker;
use tokenwire_core::engine::{GenerationSource, Located};
use tokenwire_core::model::snapshot::Api;
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_testkit::{ScriptedUpstream, scripted_target};
use tokio::sync::Notify;

use super::*;

/// Says after a while that every generation ran on a lost node.
#[derive(Debug, Default)]
struct SlowSource(Notify);

impl GenerationSource for SlowSource {
    fn locate(&self, _id: &GenerationId) -> BoxFuture<'_, Result<Located, ApiError>> {
        let answered = self.0.notified();
        async move {
            answered.await;
            Ok(Located::Lost(None))
        }
        .boxed()
    }
}

fn session() -> (SocketSession, Arc<SlowSource>, ScriptedUpstream) {
    let upstream = ScriptedUpstream::new(scripted_target(Api::Chat));
    let source = Arc::new(SlowSource::default());
    let shared = Engine::builder()
        .source(source.clone())
        .sweep_interval(None)
        .build();
    let options = SessionOptions {
        caller: Caller::default(),
        max_lanes: 2,
        max_queued: 2,
        readers: Gauge::default(),
        extensions: true,
        credential: SocketCredential::default(),
        tickets: None,
        activity: None,
    };
    let engine = shared.engine(Arc::new(upstream.clone()));
    (SocketSession::new(engine, options), source, upstream)
}

fn frames(session: &mut SocketSession) -> String {
    let waker = noop_waker();
    let frames = session.poll_frames(&mut Context::from_waker(&waker));
    String::from_utf8_lossy(&frames).into_owned()
}

#[tokio::test]
async fn create_that_waits_holds_its_lane_and_no_other() {
    let (mut session, source, upstream) = session();
    let previous = GenerationId::random();
    session.on_message(&format!(
        r#"{{"type":"response.create","input":"1","previous_response_id":"{previous}","stream_id":"a"}}"#
    ));
    session.on_message(r#"{"type":"response.create","input":"2","stream_id":"a"}"#);
    session.on_message(r#"{"type":"response.create","input":"3","stream_id":"b"}"#);
    let _third = upstream.call().await;
    let shown = frames(&mut session);
    assert!(shown.contains("response.created"), "{shown}");
    assert!(!shown.contains(r#""stream_id":"a""#), "{shown}");
    session.on_message(r#"{"type":"response.create","input":"4","stream_id":"c"}"#);
    let shown = frames(&mut session);
    assert!(shown.contains("websocket_stream_limit_reached"), "{shown}");

    source.0.notify_waiters();
    let shown = frames(&mut session);
    assert!(shown.contains("previous_response_not_found"), "{shown}");
    assert!(shown.contains(r#""stream_id":"a""#), "{shown}");
    // The next create of the lane follows.
    let _second = upstream.call().await;
    let shown = shown + &frames(&mut session);
    assert!(shown.contains("response.created"), "{shown}");
}

#[tokio::test]
async fn lost_stream_is_resumed_with_its_failure() {
    let (mut session, source, _upstream) = session();
    let id = GenerationId::random();
    assert!(session.is_idle());
    session.on_message(&format!(
        r#"{{"type":"tokenwire:resume","response_id":"{id}","starting_after":7}}"#
    ));
    session.on_message(&format!(
        r#"{{"type":"tokenwire:cancel","response_id":"{id}"}}"#
    ));
    assert!(!session.is_idle());
    assert_eq!(frames(&mut session), "");
    // As many commands wait as there are lanes.
    session.on_message(&format!(
        r#"{{"type":"tokenwire:cancel","response_id":"{id}"}}"#
    ));
    let shown = frames(&mut session);
    assert!(shown.contains("websocket_stream_limit_reached"), "{shown}");

    source.0.notify_waiters();
    let shown = frames(&mut session);
    assert!(
        shown.contains(r#""type":"response.failed","sequence_number":2147483647"#),
        "{shown}"
    );
    assert!(shown.contains("tokenwire:error"), "{shown}");
    assert!(shown.contains("producer_lost"), "{shown}");
    assert!(session.is_idle());

    session.on_message(&format!(
        r#"{{"type":"tokenwire:resume","response_id":"{id}","starting_after":{LOST_SEQ}}}"#
    ));
    source.0.notify_waiters();
    let shown = frames(&mut session);
    assert!(shown.contains("tokenwire:resumed"), "{shown}");
    assert!(!shown.contains("response.failed"), "{shown}");
}

/// Splits bytes into the payloads of text frames. All must be complete.
fn payloads(mut bytes: &[u8]) -> Vec<serde_json::Value> {
    let mut payloads = Vec::new();
    while let [0x81, short, rest @ ..] = bytes {
        let (length, rest) = match short {
            126 => {
                let (length, rest) = rest.split_at(2);
                (
                    usize::from(u16::from_be_bytes(length.try_into().unwrap())),
                    rest,
                )
            }
            127 => {
                let (length, rest) = rest.split_at(8);
                (
                    u64::from_be_bytes(length.try_into().unwrap()) as usize,
                    rest,
                )
            }
            short => (usize::from(*short), rest),
        };
        let (payload, rest) = rest.split_at(length);
        payloads.push(serde_json::from_slice(payload).unwrap());
        bytes = rest;
    }
    assert!(bytes.is_empty(), "a frame begins with {:?}", &bytes[..2]);
    payloads
}

/// Starts an answer of 2 MiB on lane `a`, and waits until it has ended.
async fn large_answer(session: &mut SocketSession, upstream: &ScriptedUpstream) {
    session.on_message(r#"{"type":"response.create","input":"1","stream_id":"a"}"#);
    let call = upstream.call().await;
    let token = "x".repeat(16 * 1024);
    for _ in 0..128 {
        call.token(&token);
    }
    call.finish("stop").done().end(BodyEnd::Clean);
    call.gone().await;
}

/// Reads a large answer until a frame is begun. Returns what was read.
async fn within_a_large_frame(session: &mut SocketSession, upstream: &ScriptedUpstream) -> Vec<u8> {
    large_answer(session, upstream).await;
    let waker = noop_waker();
    let mut all = Vec::new();
    let mut pauses = 0;
    while session.readers.is_between_frames() {
        let piece = session.poll_frames(&mut Context::from_waker(&waker));
        // A reader of a long log pauses between two polls.
        pauses = if piece.is_empty() { pauses + 1 } else { 0 };
        assert!(pauses < 4, "the closing events are large");
        all.extend_from_slice(&piece);
    }
    all
}

#[tokio::test]
async fn nothing_stands_between_the_pieces_of_a_large_frame() {
    let (mut session, _, upstream) = session();
    large_answer(&mut session, &upstream).await;
    session.on_message(r#"{"type":"response.create","input":"2","stream_id":"b"}"#);
    let call = upstream.call().await;
    let waker = noop_waker();
    let mut all = Vec::new();
    let mut pings = 0;
    let mut pauses = 0;
    loop {
        let piece = session.poll_frames(&mut Context::from_waker(&waker));
        // A reader of a long log pauses between two polls.
        pauses = if piece.is_empty() { pauses + 1 } else { 0 };
        if pauses == 4 {
            break;
        }
        assert!(piece.len() <= 160 * 1024);
        all.extend_from_slice(&piece);
        if pings < 100 {
            pings += 1;
            // Each of these is ready before the next piece is.
            session.on_message(r#"{"type":"tokenwire:ping"}"#);
            call.token("b");
            tokio::task::yield_now().await;
        }
    }
    let payloads = payloads(&all);
    let of = |lane: &str, kind: &str| {
        let named =
            |payload: &&serde_json::Value| payload["stream_id"] == lane && payload["type"] == kind;
        payloads.iter().filter(named).count()
    };
    assert_eq!(of("a", "response.output_text.delta"), 128);
    assert_eq!(of("a", "response.completed"), 1);
    assert!(of("b", "response.output_text.delta") > 0);
    let pongs = payloads
        .iter()
        .filter(|payload| payload["type"] == "tokenwire:pong");
    assert_eq!(pongs.count(), pings);
    let text = "x".repeat(2 * 1024 * 1024);
    let done = payloads
        .iter()
        .find(|payload| payload["type"] == "response.output_text.done")
        .unwrap();
    assert_eq!(done["text"], *text);
}

#[tokio::test]
async fn frame_is_completed_after_its_reader_has_left() {
    let (mut session, _, upstream) = session();
    let mut all = within_a_large_frame(&mut session, &upstream).await;
    let id = String::from_utf8_lossy(&all);
    let id = id
        .split("\"id\":\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    session.on_message(&format!(
        r#"{{"type":"tokenwire:unsubscribe","response_id":"{id}"}}"#
    ));
    assert!(!session.is_idle());
    let waker = noop_waker();
    loop {
        let piece = session.poll_frames(&mut Context::from_waker(&waker));
        if piece.is_empty() {
            break;
        }
        all.extend_from_slice(&piece);
    }
    let payloads = payloads(&all);
    assert_eq!(
        payloads.last().unwrap()["type"],
        "response.output_text.done"
    );
    assert!(session.is_idle());
}

/// Returns everything up to the end of the body.
fn to_the_end(session: &mut SocketSession) -> Vec<u8> {
    let waker = noop_waker();
    let mut all = Vec::new();
    for _ in 0..1000 {
        let piece = session.poll_frames(&mut Context::from_waker(&waker));
        if piece.is_empty() && session.has_ended() {
            return all;
        }
        all.extend_from_slice(&piece);
    }
    panic!("the body does not end");
}

const CLOSE: &[u8] = b"\x88\x0a\x03\xf4restart.";

#[tokio::test]
async fn what_is_ready_comes_before_a_close() {
    let (mut session, _, upstream) = session();
    session.on_message(r#"{"type":"response.create","input":"1"}"#);
    let call = upstream.call().await;
    call.token("a");
    call.finish("stop").done().end(BodyEnd::Clean);
    call.gone().await;
    session.on_message(r#"{"type":"tokenwire:ping"}"#);
    session.control(ControlFrame::Pong(b"p"));
    session.close(Some((1012, "restart.")));
    // The first reason is the one.
    session.close(None);
    let all = to_the_end(&mut session);
    let data = all.strip_suffix(CLOSE).expect("a close frame is the last");
    let pong = data.windows(3).position(|bytes| bytes == b"\x8a\x01p");
    let pong = pong.expect("a pong");
    let shown = [&data[..pong], &data[pong + 3..]].concat();
    let payloads = payloads(&shown);
    let last = payloads.last().unwrap();
    assert_eq!(last["type"], "response.completed", "{payloads:?}");
    assert!(frames(&mut session).is_empty());
}

#[tokio::test]
async fn close_waits_for_the_rest_of_a_large_frame() {
    let (mut session, _, upstream) = session();
    let mut all = within_a_large_frame(&mut session, &upstream).await;
    session.close(Some((1012, "restart.")));
    all.extend(to_the_end(&mut session));
    let data = all.strip_suffix(CLOSE).expect("a close frame is the last");
    let last = payloads(data).pop().unwrap();
    assert!(
        last["type"].as_str().unwrap().starts_with("response."),
        "{last:?}"
    );
}
