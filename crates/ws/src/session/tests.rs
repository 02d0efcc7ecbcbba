//! Commands that wait for what is not in this process.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::task::noop_waker;
use tokenwire_core::engine::{GenerationSource, Located};
use tokenwire_core::model::snapshot::Api;
use tokenwire_core::upstream::Target;
use tokenwire_testkit::{ScriptedUpstream, no_timeouts};
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
            Ok(Located::Lost)
        }
        .boxed()
    }
}

fn session() -> (SocketSession, Arc<SlowSource>, ScriptedUpstream) {
    let upstream = ScriptedUpstream::new(Target {
        model: "scripted".to_owned(),
        upstream_model: None,
        api: Api::Chat,
        timeouts: no_timeouts(),
        endpoint: 0,
        queued: false,
        reservation: Default::default(),
    });
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
