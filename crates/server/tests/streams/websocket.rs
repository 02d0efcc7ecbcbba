//! The WebSocket: lanes and their bounds, commands, errors, and close codes.

use std::collections::HashMap;
use std::time::Duration;

use crate::support::process::Process;
use crate::support::websocket::{RawSocket, frame, frame_head, is_terminal};
use crate::support::{Socket, start, with};
use serde_json::{Value, json};
use tokenwire::config::schema::Api;
use tokio_tungstenite::tungstenite::Message;

const STALL: &str = "tokens=9 text=count fault=stall after=2";

fn text_of(events: &[Value]) -> String {
    crate::support::sse::output_text(events)
}

fn id_of(created: &Value) -> String {
    assert_eq!(created["type"], "response.created", "{created}");
    created["response"]["id"].as_str().unwrap().to_owned()
}

/// Asserts that the events of one response are numbered from 0. Before the last a number may be
/// missing: that of the usage chunk, which clients without extension events do not get.
fn numbered(events: &[Value]) {
    let numbers: Vec<u64> = events
        .iter()
        .map(|event| event["sequence_number"].as_u64().unwrap())
        .collect();
    let (last, others) = numbers.split_last().unwrap();
    let next = others.len() as u64;
    assert!(others.iter().copied().eq(0..next), "{numbers:?}");
    assert!((next..=next + 1).contains(last), "{numbers:?}");
}

// === reading ===

#[tokio::test]
async fn one_response_over_each_websocket_path() {
    let world = start(|_| {});
    for path in ["/v1/ws", "/v1/responses"] {
        let mut socket = Socket::connect(world.address, path).await;
        socket.create("tokens=3 text=count", json!({})).await;
        let events = socket.until_end().await;
        numbered(&events);
        assert_eq!(text_of(&events), " t0 t1 t2");
        assert!(
            events.iter().all(|event| event.get("stream_id").is_none()),
            "an unnamed lane has no stream_id"
        );
        // The same bytes as over SSE.
        let over_sse = world
            .get(&format!("/v1/streams/{}", id_of(&events[0])))
            .answer()
            .await
            .events();
        assert_eq!(
            events,
            over_sse
                .iter()
                .filter(|event| !event.kind().starts_with("tokenwire:"))
                .map(crate::support::Event::json)
                .collect::<Vec<_>>()
        );
    }
}

#[tokio::test]
async fn create_accepts_text_or_items() {
    let world = start(|_| {});
    let mut socket = world.socket().await;
    for input in [
        json!("[[tokens=2 text=count]]"),
        json!([{"role": "user", "content": "[[tokens=2 text=count]]"}]),
        json!([{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "[[tokens=2 text=count]]"}]}]),
    ] {
        socket.send(json!({"type": "response.create", "input": input, "stream": true, "instructions": "Be brief."})).await;
        assert_eq!(text_of(&socket.until_end().await), " t0 t1", "{input}");
        let up = world.last_request().body.unwrap();
        assert_eq!(up["messages"][0]["content"], "Be brief.");
        for ours in ["type", "stream_id", "input", "generate"] {
            assert!(
                up.get(ours).is_none() || ours == "type",
                "{ours} went up: {up}"
            );
        }
    }
}

#[tokio::test]
async fn creates_on_one_lane_run_in_order() {
    let world = start(|_| {});
    let mut socket = world.socket().await;
    for tokens in 1..=5 {
        socket
            .create(
                &format!("tokens={tokens} text=count tbt=1ms"),
                json!({"stream_id": "a"}),
            )
            .await;
    }
    for tokens in 1..=5 {
        let events = socket.until_end().await;
        numbered(&events);
        assert!(events.iter().all(|event| event["stream_id"] == "a"));
        assert_eq!(
            text_of(&events),
            (0..tokens)
                .map(|token| format!(" t{token}"))
                .collect::<String>()
        );
    }
    assert_eq!(world.simulator.stats().max_open_streams, 1);
}

#[tokio::test]
async fn lanes_run_side_by_side() {
    let world = start(|_| {});
    let mut socket = world.socket().await;
    socket.create(STALL, json!({})).await;
    socket.create(STALL, json!({"stream_id": "a"})).await;
    world
        .upstream_saw("two streams at once", |stats| stats.open_streams == 2)
        .await;
    for lane in ["b", "c.d-e_F", &"x".repeat(256)] {
        socket
            .create("tokens=20 text=count", json!({"stream_id": lane}))
            .await;
    }
    let mut lanes: HashMap<Option<String>, Vec<Value>> = HashMap::new();
    let mut ended = 0;
    while ended < 3 {
        let event = socket.next().await;
        ended += usize::from(is_terminal(&event));
        lanes
            .entry(event["stream_id"].as_str().map(str::to_owned))
            .or_default()
            .push(event);
    }
    assert_eq!(lanes.len(), 5);
    for (lane, events) in lanes {
        numbered(&events);
        let tokens = if matches!(lane.as_deref(), None | Some("a")) {
            2
        } else {
            20
        };
        if tokens == 20 {
            assert_eq!(
                text_of(&events),
                (0..tokens)
                    .map(|token| format!(" t{token}"))
                    .collect::<String>(),
                "{lane:?}"
            );
        }
    }
}

#[tokio::test]
async fn lane_continues_after_a_failed_response() {
    let world = start(|_| {});
    let mut socket = world.socket().await;
    for steering in [
        "fault=status code=500",
        "fault=cut after=1",
        "fault=refuse",
        "tokens=1 text=count",
    ] {
        socket.create(steering, json!({"stream_id": "a"})).await;
    }
    for kind in [
        "response.failed",
        "response.failed",
        "response.failed",
        "response.completed",
    ] {
        let events = socket.until_end().await;
        assert_eq!(
            (&events[0]["type"], &events.last().unwrap()["type"]),
            (&json!("response.created"), &json!(kind))
        );
        numbered(&events);
    }
}

// === bounds ===

#[tokio::test]
async fn lanes_and_waiting_creates_are_bounded() {
    let world =
        start(|config| (config.streams.max_lanes, config.streams.max_queued_creates) = (2, 2));
    let mut socket = world.socket().await;
    for lane in ["a", "b"] {
        socket.create(STALL, json!({"stream_id": lane})).await;
    }
    socket.create("tokens=1", json!({"stream_id": "c"})).await;
    let refused = |events: Vec<Value>, lane: &str| {
        let error = events
            .iter()
            .find(|event| event["type"] == "error")
            .unwrap_or_else(|| panic!("no error in {events:?}"));
        assert_eq!(
            (&error["status"], &error["error"]["code"]),
            (&json!(429), &json!("websocket_stream_limit_reached"))
        );
        assert_eq!(error["stream_id"], lane);
        assert!(error["error"]["message"].is_string() && error["error"]["type"].is_string());
    };
    refused(socket.until_pong().await, "c");
    for _ in 0..2 {
        socket
            .create("tokens=1 text=count", json!({"stream_id": "a"}))
            .await;
    }
    assert!(
        socket
            .until_pong()
            .await
            .iter()
            .all(|event| event["type"] != "error")
    );
    socket.create("tokens=1", json!({"stream_id": "b"})).await;
    refused(socket.until_pong().await, "b");
    // Both bounds count running and waiting creates only: ended lanes make room.
    world
        .upstream_saw("two requests", |stats| stats.requests == 2)
        .await;
    socket
        .send(json!({"type": "tokenwire:resume", "response_id": "resp_AAAAAAAAAAAAAAAAAAAAAAAA"}))
        .await;
    assert_eq!(
        socket.until_type("tokenwire:error").await.last().unwrap()["status"],
        404
    );
}

#[tokio::test]
async fn queued_creates_end_with_the_socket() {
    let world = start(|config| config.streams.disconnect_grace = Duration::ZERO);
    let mut socket = world.socket().await;
    for _ in 0..3 {
        socket.create(STALL, json!({"stream_id": "a"})).await;
    }
    socket.until(|event| event["delta"] == " t1").await;
    drop(socket);
    world
        .upstream_saw("the cancel", |stats| stats.aborted == 1)
        .await;
    world.idle().await;
    assert_eq!(
        world.simulator.stats().requests,
        1,
        "a queued create was started without a reader"
    );
}

#[tokio::test]
async fn client_that_does_not_read_its_replies_is_closed() {
    // Where the close frame cannot be written, the write timeout ends the connection, which is
    // shorter than the test's timeout.
    let world =
        start(|config| config.streams.slow_reader_timeout = std::time::Duration::from_secs(2));
    let mut socket = RawSocket::connect(world.address, "/v1/ws", &[]).await;
    // Each is answered with a short error, so only the replies pile up.
    let question = frame(0x81, br#"{"type":"tokenwire:nothing"}"#).repeat(1000);
    // It is cut once its replies exceed the bound; what it still sends is not read.
    crate::support::patiently("the cut", async { while socket.send(&question).await {} }).await;
    let next = world
        .post("/v1/responses", &crate::support::response("tokens=1"))
        .answer()
        .await;
    assert_eq!(next.status, 200);
}

// === errors ===

#[tokio::test]
async fn no_error_of_one_lane_closes_the_socket() {
    let world = start(|_| {});
    let mut socket = world.socket().await;
    let create = |members: Value| with(json!({"type": "response.create", "input": "x"}), members);
    let table = [
        (json!("x"), "invalid_json", None),
        (json!([1]), "invalid_json", None),
        (
            json!({"input": "x"}),
            "missing_required_parameter",
            Some("type"),
        ),
        (
            json!({"type": "response.steer"}),
            "unknown_message_type",
            Some("type"),
        ),
        (
            json!({"type": "session.update"}),
            "unknown_message_type",
            Some("type"),
        ),
        (
            json!({"type": "response.create"}),
            "missing_required_parameter",
            Some("input"),
        ),
        (
            create(json!({"temperature": 9})),
            "invalid_value",
            Some("temperature"),
        ),
        (
            create(json!({"conversation": "c"})),
            "unsupported_parameter",
            Some("conversation"),
        ),
        (
            create(json!({"stream_id": "a b"})),
            "invalid_stream_id",
            Some("stream_id"),
        ),
        (
            create(json!({"stream_id": ""})),
            "invalid_stream_id",
            Some("stream_id"),
        ),
        (
            create(json!({"stream_id": "x".repeat(257)})),
            "invalid_stream_id",
            Some("stream_id"),
        ),
        (
            create(json!({"previous_response_id": "resp_AAAAAAAAAAAAAAAAAAAAAAAA"})),
            "previous_response_not_found",
            Some("previous_response_id"),
        ),
    ];
    for (message, code, param) in table {
        socket.send(message.clone()).await;
        let error = socket.next().await;
        assert_eq!(
            (&error["type"], error["error"]["code"].as_str()),
            (&json!("error"), Some(code)),
            "{message}: {error}"
        );
        assert_eq!(
            error["error"]["param"].as_str(),
            param,
            "{message}: {error}"
        );
        assert!(
            error["status"].is_u64()
                && error["error"]["message"].is_string()
                && error["error"]["type"].is_string(),
            "{error}"
        );
    }
    // An error of a lane carries the lane's name.
    socket
        .send(create(json!({"stream_id": "lane", "temperature": 9})))
        .await;
    assert_eq!(socket.next().await["stream_id"], "lane");
    socket
        .create("tokens=2 text=count", json!({"stream_id": "lane"}))
        .await;
    assert_eq!(text_of(&socket.until_end().await), " t0 t1");
    assert_eq!(world.simulator.stats().requests, 1);
}

#[tokio::test]
async fn failed_commands_are_answered_with_tokenwire_error() {
    let world = start(|_| {});
    let mut socket = world.socket().await;
    let unknown = "resp_AAAAAAAAAAAAAAAAAAAAAAAA";
    for (command, status, id) in [
        (
            json!({"type": "tokenwire:resume", "response_id": unknown}),
            404,
            Some(unknown),
        ),
        (
            json!({"type": "tokenwire:cancel", "response_id": unknown}),
            404,
            Some(unknown),
        ),
        (
            json!({"type": "tokenwire:unsubscribe", "response_id": unknown}),
            404,
            Some(unknown),
        ),
        (
            json!({"type": "tokenwire:resume", "response_id": "nonsense"}),
            404,
            Some("nonsense"),
        ),
        (json!({"type": "tokenwire:resume"}), 400, None),
        (
            json!({"type": "tokenwire:resume", "response_id": unknown, "starting_after": -1}),
            400,
            Some(unknown),
        ),
        (json!({"type": "tokenwire:dance"}), 400, None),
    ] {
        socket.send(command.clone()).await;
        let error = socket.next().await;
        assert_eq!(
            (&error["type"], &error["status"]),
            (&json!("tokenwire:error"), &json!(status)),
            "{command}: {error}"
        );
        assert_eq!(error["response_id"].as_str(), id, "{command}: {error}");
        assert!(error["error"]["code"].is_string() && error["error"]["message"].is_string());
    }
    assert!(socket.until_pong().await.is_empty());
}

// === commands ===

#[tokio::test]
async fn resume_repositions_and_unsubscribe_stops_events() {
    let world = start(|_| {});
    let mut socket = world.socket().await;
    socket.create(STALL, json!({})).await;
    let first = socket.until(|event| event["delta"] == " t1").await;
    let id = id_of(&first[0]);
    for (after, expected) in [(None, &first[..]), (Some(2), &first[3..])] {
        socket
            .send(with(
                json!({"type": "tokenwire:resume", "response_id": id}),
                after.map_or(json!({}), |after| json!({"starting_after": after})),
            ))
            .await;
        let resumed = socket.next().await;
        let from = after.map_or(0, |after: u64| after + 1);
        let head = first.len() - 1;
        assert_eq!(
            resumed,
            json!({"type": "tokenwire:resumed", "response_id": id, "from": from, "head": head, "status": "in_progress"})
        );
        assert_eq!(
            socket.until(|event| event["delta"] == " t1").await,
            expected
        );
    }
    socket.send(json!({"type": "tokenwire:resume", "response_id": id, "starting_after": 0, "stream_id": "other"})).await;
    let moved = socket.until(|event| event["delta"] == " t1").await;
    assert!(
        moved.iter().all(|event| event["stream_id"] == "other"),
        "{moved:?}"
    );
    socket
        .send(json!({"type": "tokenwire:unsubscribe", "response_id": id}))
        .await;
    socket
        .send(json!({"type": "tokenwire:cancel", "response_id": id}))
        .await;
    world.idle().await;
    assert!(
        socket.until_pong().await.is_empty(),
        "an event for one who does not listen"
    );
    assert_eq!(world.object(&id).await["status"], "cancelled");
}

#[tokio::test]
async fn resets_larger_than_the_bound_of_replies_follow_each_other() {
    let world = start(|_| {});
    let mut socket = world.socket().await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        socket.create("tokens=4 size=512KiB", json!({})).await;
        ids.push(id_of(&socket.until_end().await[0]));
    }
    for id in &ids {
        socket
            .send(json!({"type": "tokenwire:resume", "response_id": id, "starting_after": 9999}))
            .await;
    }
    for id in &ids {
        let reset = socket.next().await;
        assert_eq!(reset["type"], "tokenwire:reset");
        assert_eq!(reset["response"]["id"], json!(id));
    }
    assert!(socket.until_pong().await.is_empty());
}

#[tokio::test]
async fn resume_after_the_end_and_past_the_head() {
    let world = start(|_| {});
    let mut socket = world.socket().await;
    socket.create("tokens=2 text=count", json!({})).await;
    let events = socket.until_end().await;
    let id = id_of(&events[0]);
    let last = events.last().unwrap()["sequence_number"].as_u64().unwrap();
    socket
        .send(json!({"type": "tokenwire:resume", "response_id": id, "starting_after": last}))
        .await;
    let resumed = socket.next().await;
    assert_eq!(
        (&resumed["type"], &resumed["status"]),
        (&json!("tokenwire:resumed"), &json!("completed"))
    );
    assert!(socket.until_pong().await.is_empty());
    socket
        .send(json!({"type": "tokenwire:resume", "response_id": id, "starting_after": last + 100}))
        .await;
    let reset = socket.next().await;
    assert_eq!(
        (&reset["type"], &reset["sequence_number"]),
        (&json!("tokenwire:reset"), &json!(last))
    );
    assert_eq!(reset["response"], events.last().unwrap()["response"]);
    assert!(socket.until_pong().await.is_empty());
}

#[tokio::test]
async fn cancel_reaches_every_phase() {
    let world = start(|_| {});
    let mut socket = world.socket().await;
    for steering in [
        "fault=stall_head",
        "ttft=1h",
        "tokens=1000000 tbt=1ms",
        STALL,
    ] {
        let before = world.simulator.stats();
        socket.create(steering, json!({"stream_id": "a"})).await;
        let id = id_of(&socket.until_type("response.created").await[0]);
        world
            .upstream_saw("the request", |stats| stats.requests == before.requests + 1)
            .await;
        socket
            .send(json!({"type": "tokenwire:cancel", "response_id": id}))
            .await;
        let end = socket.until_end().await.pop().unwrap();
        assert_eq!(
            (&end["type"], &end["response"]["status"]),
            (&json!("response.incomplete"), &json!("cancelled")),
            "{steering}"
        );
        world
            .upstream_saw("the cancel", |stats| stats.aborted == before.aborted + 1)
            .await;
    }
}

#[tokio::test]
async fn repeated_key_moves_the_reader_and_frees_its_lane() {
    let world = start(|_| {});
    let mut socket = world.socket().await;
    let create = |lane: &str| json!({"type": "response.create", "input": format!("[[{STALL}]]"), "idempotency_key": "k", "stream_id": lane});
    socket.send(create("a")).await;
    let id = id_of(&socket.until(|event| event["delta"] == " t1").await[0]);
    socket.send(create("b")).await;
    let moved = socket.until(|event| event["delta"] == " t1").await;
    assert_eq!(id_of(&moved[0]), id);
    assert!(moved.iter().all(|event| event["stream_id"] == "b"));
    socket
        .create("tokens=1 text=count", json!({"stream_id": "a"}))
        .await;
    assert_eq!(text_of(&socket.until_end().await), " t0");
    socket
        .send(json!({"type": "tokenwire:cancel", "response_id": id}))
        .await;
    assert_eq!(
        socket.until_end().await.pop().unwrap()["response"]["status"],
        "cancelled"
    );
    // Another request under the same key is refused.
    socket
        .create("tokens=1", json!({"idempotency_key": "k"}))
        .await;
    let refused = socket.next().await;
    assert_eq!(
        (
            &refused["type"],
            &refused["status"],
            &refused["error"]["code"]
        ),
        (&json!("error"), &json!(422), &json!("idempotency_mismatch"))
    );
    assert_eq!(world.simulator.stats().requests, 2);
}

#[tokio::test]
async fn tokenwire_events_go_only_to_clients_that_know_them() {
    let body = concat!(
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n",
        "data: {\"choices\":[],\"x_progress\":1}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
        "data: [DONE]\n\n"
    );
    let upstream = crate::support::Playback::events(body.into(), usize::MAX).await;
    let gateway = crate::support::over(&upstream.base_url(), Api::Chat, |_| {});
    let address = gateway.address;
    let shows_extension = |events: &[Value]| {
        let shown = events
            .iter()
            .filter(|event| event["type"] == "tokenwire:chunk")
            .count();
        assert_eq!(events.last().unwrap()["type"], "response.completed");
        shown > 0
    };

    let mut plain = Socket::connect(address, "/v1/responses").await;
    plain.create("", json!({})).await;
    assert!(!shows_extension(&plain.until_end().await));
    // A `tokenwire:` message, even a failed one, shows that the client knows them.
    plain.send(json!({"type": "tokenwire:unknown"})).await;
    assert_eq!(plain.next().await["type"], "tokenwire:error");
    plain.create("", json!({})).await;
    assert!(shows_extension(&plain.until_end().await));

    let offered = &[("sec-websocket-protocol", "chat, tokenwire.v1")];
    let mut ours = RawSocket::connect(address, "/v1/ws", offered).await;
    ours.send(&frame(0x81, br#"{"type":"response.create","input":"x"}"#))
        .await;
    let mut events = Vec::new();
    while events.last().is_none_or(|event| !is_terminal(event)) {
        events.push(ours.text().await);
    }
    assert!(shows_extension(&events));
}

#[tokio::test]
async fn deleted_stream_is_reported_on_its_lane() {
    let world = start(|_| {});
    let mut ours = world.socket().await;
    assert!(ours.until_pong().await.is_empty());
    let mut plain = world.socket().await;
    for (socket, expected) in [(&mut ours, "tokenwire:error"), (&mut plain, "error")] {
        socket.create(STALL, json!({"stream_id": "a"})).await;
        let events = socket.until(|event| event["delta"] == " t1").await;
        let id = id_of(&events[0]);
        world.delete(&format!("/v1/responses/{id}")).answer().await;
        // The terminal event may still come before the log is gone.
        let last = socket
            .until(|event| event["type"] == expected || is_terminal(event))
            .await
            .pop()
            .unwrap();
        assert_eq!(last["stream_id"], "a", "{last}");
        if !is_terminal(&last) {
            assert_eq!(last["error"]["code"], "position_gone", "{last}");
        }
        socket.create("tokens=1", json!({"stream_id": "a"})).await;
        let next = socket.until_end().await;
        assert_eq!(next.last().unwrap()["type"], "response.completed");
    }
}

// === RFC 6455 ===

#[tokio::test]
async fn protocol_and_json_pings_are_answered() {
    let world = start(|_| {});
    let mut socket = RawSocket::connect(world.address, "/v1/ws", &[]).await;
    for payload in [b"".as_slice(), b"hello", &[7; 125]] {
        assert!(socket.send(&frame(0x89, payload)).await);
        assert_eq!(socket.frame().await, Some((0x8A, payload.to_vec())));
    }
    assert!(
        socket
            .send(&frame(0x81, br#"{"type":"tokenwire:ping"}"#))
            .await
    );
    assert_eq!(
        socket.frame().await,
        Some((0x81, br#"{"type":"tokenwire:pong"}"#.to_vec()))
    );
}

#[tokio::test]
async fn fragmented_message_is_assembled_with_pings_between() {
    let world = start(|_| {});
    let mut socket = RawSocket::connect(world.address, "/v1/ws", &[]).await;
    let message = json!({"type": "response.create", "input": "\u{1f600} [[tokens=1 text=count]]"})
        .to_string();
    let bytes = message.as_bytes();
    assert!(socket.send(&frame(0x01, &bytes[..1])).await);
    for byte in &bytes[1..bytes.len() - 1] {
        assert!(
            socket
                .send(&[frame(0x89, b"p"), frame(0x00, &[*byte])].concat())
                .await
        );
    }
    assert!(socket.send(&frame(0x80, &bytes[bytes.len() - 1..])).await);
    let mut pongs = 0;
    loop {
        match socket.frame().await.expect("the connection ended") {
            (0x8A, _) => pongs += 1,
            (0x81, payload) => {
                if is_terminal(&serde_json::from_slice(&payload).unwrap()) {
                    break;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(pongs, bytes.len() - 2);
}

#[tokio::test]
async fn malformed_frames_close_the_socket_with_their_code() {
    let world = start(|config| config.limits.websocket_frame = Some(64 * 1024));
    let ping = frame(0x81, br#"{"type":"tokenwire:ping"}"#);
    let table: Vec<(&str, Vec<u8>, u16)> = vec![
        ("binary", frame(0x82, b"{}"), 1003),
        (
            "a binary fragment",
            [frame(0x02, b"{"), frame(0x80, b"}")].concat(),
            1003,
        ),
        ("an announced giant", frame_head(0x81, 1 << 40), 1009),
        (
            "an announced giant of 63 bits",
            frame_head(0x81, (1 << 63) - 1),
            1009,
        ),
        (
            "one byte too many, announced",
            frame_head(0x81, 64 * 1024 + 1),
            1009,
        ),
        (
            "a giant in fragments",
            [frame(0x01, &[b' '; 40_000]), frame(0x00, &[b' '; 40_000])].concat(),
            1009,
        ),
        (
            "a text that is not UTF-8",
            frame(0x81, b"{\"a\":\"\xff\"}"),
            1007,
        ),
        (
            "a text that breaks off in a character",
            [frame(0x01, b"\xf0\x9f"), frame(0x80, b"\x98")].concat(),
            1007,
        ),
        ("an unmasked frame", b"\x81\x02{}".to_vec(), 1002),
        ("an unknown opcode", frame(0x83, b""), 1002),
        ("a continuation of nothing", frame(0x80, b"x"), 1002),
        (
            "a message within a message",
            [frame(0x01, b"{"), frame(0x81, b"{}")].concat(),
            1002,
        ),
        ("a control frame in fragments", frame(0x09, b""), 1002),
        ("a long ping", frame(0x89, &[0; 126]), 1002),
        ("a reserved bit", frame(0xC1, b"{}"), 1002),
    ];
    let mut problems = Vec::new();
    for (what, bytes, code) in table {
        let mut socket = RawSocket::connect(world.address, "/v1/ws", &[]).await;
        assert!(socket.send(&ping).await);
        assert_eq!(socket.text().await["type"], "tokenwire:pong");
        assert!(socket.send(&bytes).await);
        let found = tokio::time::timeout(crate::support::PATIENCE, socket.close_code()).await;
        if found != Ok(Some(code)) {
            problems.push(format!("{what}: {found:?} instead of {code}"));
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
    let mut socket = world.socket().await;
    assert!(socket.until_pong().await.is_empty());
}

#[tokio::test]
async fn connection_ends_after_a_close_frame() {
    let world = start(|config| config.limits.websocket_frame = Some(64 * 1024));
    for (bytes, code) in [
        (
            frame(0x88, &[&1000u16.to_be_bytes()[..], b"bye"].concat()),
            1000,
        ),
        (frame(0x88, &4999u16.to_be_bytes()), 4999),
        (frame(0x88, b""), 1005),
        (frame(0x82, b""), 1003),
        (frame_head(0x81, 1 << 40), 1009),
    ] {
        let mut socket = RawSocket::connect(world.address, "/v1/ws", &[]).await;
        assert!(socket.send(&bytes).await);
        assert_eq!(socket.close_code().await, Some(code));
        assert!(
            tokio::time::timeout(crate::support::PATIENCE, socket.ends())
                .await
                .is_ok(),
            "{code}: the connection stays open"
        );
    }
}

#[tokio::test]
async fn message_of_the_maximum_size_is_accepted() {
    let world = start(|config| config.limits.websocket_frame = Some(64 * 1024));
    let mut socket = world.socket().await;
    let mut message = r#"{"type":"tokenwire:ping""#.to_owned();
    message.push_str(&" ".repeat(64 * 1024 - message.len() - 1));
    message.push('}');
    socket.send_raw(Message::text(message)).await;
    assert_eq!(socket.next().await["type"], "tokenwire:pong");
}

#[tokio::test]
async fn extensions_are_declined_and_only_tokenwire_v1_is_echoed() {
    let world = start(|_| {});
    for (offered, echoed) in [
        ("tokenwire.v1", Some("tokenwire.v1")),
        ("chat, tokenwire.v1", Some("tokenwire.v1")),
        ("tokenwire-ticket.abc, tokenwire.v1", Some("tokenwire.v1")),
        ("chat", None),
    ] {
        let headers = [
            ("sec-websocket-protocol", offered),
            (
                "sec-websocket-extensions",
                "permessage-deflate; client_max_window_bits",
            ),
        ];
        let socket = RawSocket::connect(world.address, "/v1/responses", &headers).await;
        let head = socket.head.to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        assert!(
            !head.contains("sec-websocket-extensions") && !head.contains("ticket"),
            "{head}"
        );
        let line = head
            .lines()
            .find_map(|line| line.strip_prefix("sec-websocket-protocol: "));
        assert_eq!(line, echoed, "{offered}");
        assert!(
            head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
            "{head}"
        );
    }
    // A ticket is never echoed, and browsers fail a socket where nothing is.
    let alone = [("sec-websocket-protocol", "tokenwire-ticket.abc")];
    let socket = RawSocket::connect(world.address, "/v1/responses", &alone).await;
    assert!(socket.head.starts_with("HTTP/1.1 400 "), "{}", socket.head);
}

#[tokio::test]
async fn silent_peer_is_cut_and_responsive_peer_is_not() {
    let world = start(|config| {
        (config.streams.ping_interval, config.streams.ping_timeout) =
            (Duration::from_millis(100), Duration::from_secs(2));
        config.streams.disconnect_grace = Duration::ZERO;
    });
    let create = json!({"type": "response.create", "input": format!("[[{STALL}]]")});
    let mut silent = RawSocket::connect(world.address, "/v1/ws", &[]).await;
    assert!(
        silent
            .send(&frame(0x81, create.to_string().as_bytes()))
            .await
    );
    let mut lively = world.socket().await;
    lively
        .create("tokens=200 tbt=20ms text=count", json!({}))
        .await;
    let (_, events) = tokio::join!(
        world.upstream_saw("the cancel", |stats| stats.aborted == 1),
        lively.until_end()
    );
    assert_eq!(events.last().unwrap()["type"], "response.completed");
    assert!(silent.close_code().await.is_some_and(|code| code == 1011));
}

// === draining ===

#[tokio::test]
async fn a_drain_lets_what_runs_end_and_closes_idle_sockets_with_1001() {
    let gateway = Process::start("server:\n  shutdown_timeout: 20s\n", &[]);
    let mut idle = Socket::connect(gateway.address, "/v1/ws").await;
    let mut busy = Socket::connect(gateway.address, "/v1/ws").await;
    assert!(idle.until_pong().await.is_empty());
    busy.create("tokens=40 tbt=20ms text=count", json!({}))
        .await;
    busy.until_type("response.output_text.delta").await;
    gateway.terminate();
    assert_eq!(idle.close_code().await, 1001);
    // What its client still starts is served.
    busy.create("tokens=1", json!({"stream_id": "late"})).await;
    for _ in 0..2 {
        let mut events = busy.until_end().await;
        assert_eq!(events.pop().unwrap()["type"], "response.completed");
    }
    assert_eq!(busy.close_code().await, 1001);
    let (well, _) = tokio::task::spawn_blocking(move || gateway.output())
        .await
        .unwrap();
    assert!(well);
}
