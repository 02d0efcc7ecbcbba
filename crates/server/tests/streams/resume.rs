//! Resuming at every position over every transport; idempotency keys, background jobs,
//! conversations, and overload.

use std::time::Duration;

use crate::support::websocket::{RawSocket, frame};
use crate::support::{
    Answer, End, Event, World, chat, encode, eventually, patiently, response, start, with,
};
use futures::future::join_all;
use serde_json::{Value, json};

const STALL: &str = "tokens=9 text=count fault=stall after=2";

fn kinds(events: &[Event]) -> Vec<String> {
    events.iter().map(Event::kind).collect()
}

fn numbers(events: &[Event]) -> Vec<u64> {
    events.iter().map(Event::number).collect()
}

/// Starts a generation over `/v1/streams`, reads until `text` and disconnects. Returns its id and
/// the events seen.
async fn begun(world: &World, steering: &str, text: &str) -> (String, Vec<Event>) {
    let mut exchange = world.post("/v1/streams", &response(steering)).send().await;
    exchange.until_event(text).await;
    let id = exchange.id().await;
    (id, exchange.events())
}

/// Runs a generation to its end. Returns its id and its events.
async fn finished(world: &World, steering: &str) -> (String, Vec<Event>) {
    let answer = world
        .post("/v1/streams", &response(steering))
        .answer()
        .await;
    world.idle().await;
    (answer.id().to_owned(), answer.events())
}

/// Waits until the log has expired.
async fn gone(world: &World, id: &str) {
    let path = format!("/v1/responses/{id}?stream=true");
    eventually("the end of the log", async || {
        world.get(&path).answer().await.status == 410
    })
    .await;
}

fn cursor(id: &str, after: u64) -> String {
    format!("{id}.{after}")
}

/// Resumes in the responses dialect over every transport. Returns a status and the events of each.
async fn every_way_back(
    world: &World,
    id: &str,
    after: Option<u64>,
) -> Vec<(&'static str, Answer)> {
    let by_header = |request: crate::support::Request| match after {
        Some(after) => request.header("last-event-id", &cursor(id, after)),
        None => request,
    };
    let query = |name: &str| after.map_or_else(String::new, |after| format!("{name}={after}"));
    let mut ways = vec![
        (
            "EventSource",
            by_header(world.get(&format!("/v1/streams/{id}"))),
        ),
        (
            "?after",
            world.get(&format!("/v1/streams/{id}?{}", query("after"))),
        ),
        (
            "starting_after",
            world.get(&format!(
                "/v1/responses/{id}?stream=true&{}",
                query("starting_after")
            )),
        ),
    ];
    if after.is_some() {
        ways.push((
            "EventSource at its own URL",
            by_header(world.get("/v1/streams?input=never")),
        ));
        ways.push((
            "POST /v1/streams",
            by_header(world.post("/v1/streams", &response("never"))),
        ));
        ways.push((
            "POST /v1/responses",
            by_header(world.post("/v1/responses", &response("never"))),
        ));
    }
    join_all(
        ways.into_iter()
            .map(|(way, request)| async move { (way, request.answer().await) }),
    )
    .await
}

/// Returns the events that clients without extension events get.
fn without_extensions(events: &[Event]) -> Vec<Event> {
    events
        .iter()
        .filter(|event| !event.kind().starts_with("tokenwire:"))
        .cloned()
        .collect()
}

fn is_sdk(way: &str) -> bool {
    matches!(way, "starting_after" | "POST /v1/responses")
}

// === positions ===

#[tokio::test]
async fn every_position_of_a_sealed_log_gives_the_rest() {
    let world = start(|_| {});
    let (id, full) = finished(&world, "tokens=3 text=count").await;
    let last = full.len() as u64 - 1;
    for after in std::iter::once(None).chain((0..last).map(Some)) {
        let from = after.map_or(0, |after| after as usize + 1);
        for (way, answer) in every_way_back(&world, &id, after).await {
            let context = format!("{way} after {after:?}: {}", answer.text());
            assert_eq!((answer.status, answer.end), (200, End::Whole), "{context}");
            assert_eq!(
                answer.header("location"),
                Some(format!("/v1/streams/{id}").as_str()),
                "{context}"
            );
            let mut events = answer.events();
            if is_sdk(way) {
                assert_eq!(events.pop().unwrap().data, "[DONE]", "{context}");
                assert!(
                    events
                        .iter()
                        .all(|event| event.id.is_none() && event.name == Some(event.kind())),
                    "{context}"
                );
            } else {
                assert!(answer.text().starts_with("retry: 2000\nid: "), "{context}");
                assert_eq!(events, full[from..], "{context}");
            }
            let data: Vec<&String> = events.iter().map(|event| &event.data).collect();
            let expected = if is_sdk(way) {
                without_extensions(&full[from..])
            } else {
                full[from..].to_vec()
            };
            assert_eq!(
                data,
                expected.iter().map(|event| &event.data).collect::<Vec<_>>(),
                "{context}"
            );
        }
    }
    for (way, answer) in every_way_back(&world, &id, Some(last)).await {
        if is_sdk(way) {
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (200, "data: [DONE]\n\n"),
                "{way}"
            );
        } else {
            assert_eq!((answer.status, answer.text().as_str()), (204, ""), "{way}");
        }
    }
    assert_eq!(world.simulator.stats().requests, 1);
}

#[tokio::test]
async fn position_past_the_head_is_a_reset_or_an_error() {
    let world = start(|_| {});
    let (id, full) = finished(&world, "tokens=3 text=count").await;
    let last = full.len() as u64 - 1;
    for after in [last + 1, last + 1000, u64::MAX] {
        for (way, answer) in every_way_back(&world, &id, Some(after)).await {
            if is_sdk(way) {
                assert_eq!(
                    (answer.status, answer.json()["error"]["code"].as_str()),
                    (400, Some("invalid_cursor")),
                    "{way} {after}"
                );
                continue;
            }
            let events = answer.events();
            assert_eq!(
                (answer.status, kinds(&events)),
                (200, vec!["tokenwire:reset".to_owned()]),
                "{way} {after}: {}",
                answer.text()
            );
            assert_eq!(numbers(&events), [last], "{way}");
            assert_eq!(
                events[0].json()["response"],
                world.object(&id).await,
                "{way}"
            );
            assert!(events[0].json().get("error").is_none());
        }
    }
}

#[tokio::test]
async fn resuming_a_running_stream_replays_and_then_follows() {
    let world = start(|_| {});
    let (id, seen) = begun(&world, STALL, "\" t1\"").await;
    let head = seen.len() as u64 - 1;
    let mut readers = Vec::new();
    for after in [
        None,
        Some(0),
        Some(head - 1),
        Some(head),
        Some(head + 2),
        Some(head + 1000),
    ] {
        let request = world.get(&format!("/v1/streams/{id}"));
        let request = after.into_iter().fold(request, |request, after| {
            request.header("last-event-id", &cursor(&id, after))
        });
        let mut exchange = request.send().await;
        assert_eq!(exchange.status().await, 200);
        readers.push((after, exchange));
    }
    world
        .post(&format!("/v1/responses/{id}/cancel"), &json!({}))
        .answer()
        .await;
    let full = world
        .get(&format!("/v1/streams/{id}"))
        .answer()
        .await
        .events();
    assert!(full.len() > seen.len() && full[..seen.len()] == seen[..]);
    for (after, exchange) in readers {
        let events = exchange.answer().await.events();
        let rest = after.map_or(0, |after| after as usize + 1);
        // Ahead of every event that came, the terminal event is shown.
        let rest = rest.min(full.len() - 1);
        assert_eq!(events, full[rest..], "{after:?}");
    }
}

#[tokio::test]
async fn cursor_ahead_of_a_running_stream_waits_for_the_next_event() {
    let world = start(|config| config.streams.heartbeat = Duration::from_millis(50));
    let steering = "tokens=30 text=count tbt=30ms";
    let (id, seen) = begun(&world, steering, "\" t1\"").await;
    let ahead = seen.len() as u64 + 8;
    let at = cursor(&id, ahead);
    let mut eventsource = world
        .get(&format!("/v1/streams/{id}"))
        .header("last-event-id", &at)
        .send()
        .await;
    let mut sdk = world
        .get(&format!(
            "/v1/responses/{id}?stream=true&starting_after={ahead}"
        ))
        .send()
        .await;
    let mut socket = world.socket().await;
    socket
        .send(json!({"type": "tokenwire:resume", "response_id": id, "starting_after": ahead}))
        .await;
    let resumed = socket.next().await;
    assert_eq!(
        (&resumed["type"], &resumed["from"], &resumed["status"]),
        (
            &json!("tokenwire:resumed"),
            &json!(ahead + 1),
            &json!("in_progress")
        )
    );
    assert!(resumed["head"].as_u64() <= Some(ahead));
    assert_eq!((eventsource.status().await, sdk.status().await), (200, 200));
    let events: Vec<u64> = socket
        .until_end()
        .await
        .iter()
        .map(|event| event["sequence_number"].as_u64().unwrap())
        .collect();
    let full = world
        .get(&format!("/v1/streams/{id}"))
        .answer()
        .await
        .events();
    let rest = &full[ahead as usize + 1..];
    assert!(!rest.is_empty());
    assert_eq!(events, numbers(rest));
    assert_eq!(eventsource.answer().await.events(), rest);
    let data = |events: &[Event]| events.iter().map(|event| event.data.clone()).collect();
    let expected: Vec<String> = data(&without_extensions(rest));
    let mut sdk: Vec<String> = data(&sdk.answer().await.events());
    assert_eq!(sdk.pop().as_deref(), Some("[DONE]"));
    assert_eq!(sdk, expected);
}

#[tokio::test]
async fn cursor_ahead_of_a_silent_stream_gets_heartbeats_and_the_terminal_event() {
    let world = start(|config| config.streams.heartbeat = Duration::from_millis(50));
    let (id, _) = begun(&world, STALL, "\" t1\"").await;
    let mut readers = Vec::new();
    for path in [
        format!("/v1/streams/{id}?after=100000"),
        format!("/v1/streams/{id}?after=100000&dialect=chat"),
        format!("/v1/responses/{id}?stream=true&starting_after=100000"),
    ] {
        let mut exchange = world.get(&path).send().await;
        exchange.until_count(":\n", 2).await;
        assert!(exchange.events().is_empty(), "{path}");
        readers.push((path, exchange));
    }
    let mut socket = world.socket().await;
    socket
        .send(json!({"type": "tokenwire:resume", "response_id": id, "starting_after": 100_000}))
        .await;
    assert_eq!(socket.next().await["type"], "tokenwire:resumed");
    assert!(socket.until_pong().await.is_empty());
    world
        .post(&format!("/v1/responses/{id}/cancel"), &json!({}))
        .answer()
        .await;
    for (path, exchange) in readers {
        let answer = exchange.answer().await;
        let events = answer.events();
        assert_eq!(answer.end, End::Whole, "{path}");
        if path.contains("chat") {
            assert_eq!(events.len(), 1, "{}", answer.text());
            assert_eq!(events[0].json()["error"]["code"], "cancelled");
        } else {
            assert_eq!(kinds(&events)[0], "response.incomplete", "{path}");
        }
    }
    let last = socket.next().await;
    assert_eq!(last["type"], "response.incomplete");
    assert!(socket.until_pong().await.is_empty());
    // Now the log is sealed, and the same cursor is past its head.
    let past = world
        .get(&format!("/v1/streams/{id}?after=100000"))
        .answer()
        .await;
    assert_eq!(kinds(&past.events()), ["tokenwire:reset"]);
}

/// Returns what a reader at `after` gets of a stream that ended while it read or waited: the rest,
/// or the terminal event.
fn rest_of(full: &[Event], after: Option<u64>) -> Vec<Event> {
    let last = full.last().unwrap().number();
    let from = after.map_or(0, |after| (after + 1).min(last));
    full.iter()
        .filter(|event| event.number() >= from)
        .cloned()
        .collect()
}

#[tokio::test]
async fn concurrent_readers_at_every_cursor_see_their_rest() {
    let world = start(|_| {});
    let (id, seen) = begun(&world, "tokens=60 text=count tbt=10ms", "\" t3\"").await;
    let head = seen.last().unwrap().number();
    let cursors: Vec<Option<u64>> = std::iter::once(None)
        .chain((0..120).step_by(3).map(Some))
        .chain([Some(head), Some(head + 1), Some(10_000)])
        .collect();
    let (events, sdk, sockets) = tokio::join!(
        join_all(cursors.iter().flat_map(|after| {
            let world = &world;
            let (after, id) = (*after, &id);
            ["responses", "chat"].map(move |dialect| async move {
                let path = format!("/v1/streams/{id}?dialect={dialect}");
                let request = world.get(&path);
                let request = match after {
                    Some(after) => request.header("last-event-id", &cursor(id, after)),
                    None => request,
                };
                (dialect, after, request.answer().await)
            })
        })),
        join_all(cursors.iter().map(|after| {
            let world = &world;
            let (after, id) = (*after, &id);
            async move {
                let query = after.map_or_else(String::new, |n| format!("&starting_after={n}"));
                let path = format!("/v1/responses/{id}?stream=true{query}");
                (after, world.get(&path).answer().await)
            }
        })),
        join_all(cursors.iter().map(|after| {
            let world = &world;
            let (after, id) = (*after, &id);
            async move {
                let mut socket = world.socket().await;
                socket
                    .send(json!({"type": "tokenwire:resume", "response_id": id, "starting_after": after}))
                    .await;
                let resumed = socket.next().await;
                assert_eq!(resumed["type"], "tokenwire:resumed", "{resumed}");
                (after, socket.until_end().await)
            }
        })),
    );
    let full = async |dialect: &str| {
        let path = format!("/v1/streams/{id}?dialect={dialect}");
        world.get(&path).answer().await.events()
    };
    let (responses, chat) = (full("responses").await, full("chat").await);
    for (dialect, after, answer) in events {
        let full = if dialect == "chat" { &chat } else { &responses };
        assert_eq!(
            (answer.status, answer.events()),
            (200, rest_of(full, after)),
            "{dialect} {after:?}"
        );
    }
    for (after, answer) in sdk {
        let mut data: Vec<String> = answer
            .events()
            .into_iter()
            .map(|event| event.data)
            .collect();
        assert_eq!(data.pop().as_deref(), Some("[DONE]"), "{after:?}");
        let expected: Vec<String> = without_extensions(&rest_of(&responses, after))
            .into_iter()
            .map(|event| event.data)
            .collect();
        assert_eq!(data, expected, "{after:?}");
    }
    for (after, events) in sockets {
        let expected: Vec<Value> = rest_of(&responses, after).iter().map(Event::json).collect();
        assert_eq!(events, expected, "{after:?}");
    }
    assert_eq!(world.simulator.stats().requests, 1);
}

#[tokio::test]
async fn waiting_text_reader_gets_later_text_only() {
    let world = start(|_| {});
    let (id, seen) = begun(&world, "tokens=20 text=count tbt=20ms", "\" t1\"").await;
    let ahead = seen.last().unwrap().number() + 5;
    let text = world
        .get(&format!("/v1/streams/{id}?dialect=text&after={ahead}"))
        .answer()
        .await;
    let full = world
        .get(&format!("/v1/streams/{id}"))
        .answer()
        .await
        .events();
    let expected: String = full
        .iter()
        .filter(|event| event.number() > ahead)
        .filter_map(|event| event.json()["delta"].as_str().map(str::to_owned))
        .collect();
    assert!(!expected.is_empty());
    assert_eq!((text.status, text.text()), (200, expected));
    let past = world
        .get(&format!("/v1/streams/{id}?dialect=text&after=9999"))
        .answer()
        .await;
    assert_eq!(
        (past.status, past.json()["error"]["code"].as_str()),
        (400, Some("invalid_cursor"))
    );
    let at_end = full.last().unwrap().number();
    let nothing = world
        .get(&format!("/v1/streams/{id}?dialect=text&after={at_end}"))
        .answer()
        .await;
    assert_eq!((nothing.status, nothing.text().as_str()), (200, ""));
}

#[tokio::test]
async fn concurrent_repeats_of_a_key_get_the_log_or_the_reset() {
    // Many clients repeat one key while the log expires: each gets a whole answer of one kind.
    let world = start(|config| config.streams.retain_events = Duration::from_millis(400));
    let body = response("tokens=3 text=count");
    let request = world
        .post("/v1/streams", &body)
        .header("idempotency-key", "k");
    let first = request.answer().await;
    let id = first.id().to_owned();
    let mut resets = 0;
    patiently("the end of the log", async {
        while resets == 0 {
            for answer in join_all((0..8).map(|_| request.answer())).await {
                let events = answer.events();
                assert_eq!((answer.status, answer.id()), (200, id.as_str()));
                match kinds(&events).as_slice() {
                    [only] if only == "tokenwire:reset" => resets += 1,
                    // A log that expires under a reader cuts it; the reader comes back.
                    _ if answer.end == End::Broken => {}
                    _ => assert_eq!(answer.body, first.body),
                }
            }
        }
    })
    .await;
    assert_eq!(world.simulator.stats().requests, 1);
}

#[tokio::test]
async fn sdk_stream_whose_log_is_removed_ends_with_an_error() {
    // Larger than the buffers of the socket, so that the rest is read after the log was removed.
    let world = start(|_| {});
    let steering = "tokens=400 size=32KiB";
    for (path, body) in [
        (
            "/v1/responses",
            with(response(steering), json!({"stream": true})),
        ),
        ("/v1/chat/completions", chat(steering)),
    ] {
        let mut stream = world.post(path, &body).send().await;
        assert_eq!(stream.status().await, 200);
        let id = stream.id().await;
        world.idle().await;
        let deleted = world.delete(&format!("/v1/responses/{id}")).answer().await;
        assert_eq!(deleted.status, 200, "{}", deleted.text());
        let answer = stream.answer().await;
        assert_eq!(answer.end, End::Whole, "{path}");
        let text = answer.text();
        let last = text.trim_end().rsplit("\n\n").next().unwrap();
        let error: Value = serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(error["error"]["code"], "position_gone", "{path}: {last}");
    }
}

#[tokio::test]
async fn malformed_last_event_id_starts_nothing_on_any_route() {
    let world = start(|_| {});
    for id in ["nonsense", "resp_abc.", "resp_é.1", "\u{ff}", "resp_a.1.2"] {
        for request in [
            world.post("/v1/streams", &response("tokens=1")),
            world.post("/v1/responses", &response("tokens=1")),
            world.post("/v1/chat/completions", &chat("tokens=1")),
            world.get("/v1/streams?input=x"),
            world.get("/v1/streams/resp_AAAAAAAAAAAAAAAAAAAAAAAA"),
        ] {
            let answer = request.header("last-event-id", id).answer().await;
            assert_eq!(
                (answer.status, answer.json()["error"]["code"].as_str()),
                (400, Some("invalid_cursor")),
                "{id}: {}",
                answer.text()
            );
        }
    }
    assert_eq!(world.simulator.stats().requests, 0);
}

#[tokio::test]
async fn expired_log_is_answered_with_the_response_object() {
    let world = start(|config| config.streams.retain_events = Duration::from_millis(500));
    let (id, full) = finished(&world, "tokens=3 text=count").await;
    gone(&world, &id).await;
    let last = full.len() as u64 - 1;
    let object = full.last().unwrap().json()["response"].clone();
    assert_eq!(world.object(&id).await, object);
    for after in [None, Some(0), Some(3), Some(last + 5)] {
        for (way, answer) in every_way_back(&world, &id, after).await {
            if is_sdk(way) {
                assert_eq!(
                    (answer.status, answer.json()["error"]["code"].as_str()),
                    (410, Some("position_gone")),
                    "{way} {after:?}"
                );
                continue;
            }
            let events = answer.events();
            assert_eq!(
                (kinds(&events), numbers(&events)),
                (vec!["tokenwire:reset".to_owned()], vec![last]),
                "{way} {after:?}"
            );
            assert_eq!(events[0].json()["response"], object);
        }
        let mut socket = world.socket().await;
        let resume = json!({"type": "tokenwire:resume", "response_id": id, "starting_after": after, "stream_id": "a"});
        socket.send(resume).await;
        let reset = socket.next().await;
        assert_eq!(
            (
                &reset["type"],
                &reset["sequence_number"],
                &reset["stream_id"]
            ),
            (&json!("tokenwire:reset"), &json!(last), &json!("a"))
        );
        assert_eq!(reset["response"], object);
        assert!(socket.until_pong().await.is_empty());
    }
    for (way, answer) in every_way_back(&world, &id, Some(last)).await {
        let expected = if is_sdk(way) {
            (200, "data: [DONE]\n\n")
        } else {
            (204, "")
        };
        assert_eq!((answer.status, answer.text().as_str()), expected, "{way}");
    }
    let text = world
        .get(&format!("/v1/streams/{id}"))
        .header("accept", "text/plain")
        .answer()
        .await;
    assert_eq!(
        (text.status, text.json()["error"]["code"].as_str()),
        (410, Some("position_gone"))
    );
}

#[tokio::test]
async fn unknown_stream_is_not_found() {
    let world = start(|config| config.streams.retain_events = Duration::from_millis(500));
    // Without `store` the object expires with the log.
    let kept = world
        .post(
            "/v1/responses",
            &with(
                response("tokens=1"),
                json!({"stream": false, "store": false}),
            ),
        )
        .answer()
        .await;
    let kept_id = kept.id().to_owned();
    eventually("the end of its keeping", async || {
        world
            .get(&format!("/v1/responses/{kept_id}"))
            .answer()
            .await
            .status
            == 404
    })
    .await;
    for id in [
        kept.json()["id"].as_str().unwrap(),
        "resp_AAAAAAAAAAAAAAAAAAAAAAAA",
    ] {
        for after in [None, Some(0), Some(99)] {
            for (way, answer) in every_way_back(&world, id, after).await {
                assert_eq!(
                    (answer.status, answer.json()["error"]["code"].as_str()),
                    (404, Some("not_found")),
                    "{way}"
                );
            }
        }
        assert_eq!(
            world
                .get(&format!("/v1/responses/{id}"))
                .answer()
                .await
                .status,
            404
        );
        let mut socket = world.socket().await;
        socket
            .send(json!({"type": "tokenwire:resume", "response_id": id}))
            .await;
        let error = socket.next().await;
        assert_eq!(
            (&error["type"], &error["status"], &error["response_id"]),
            (&json!("tokenwire:error"), &json!(404), &json!(id))
        );
    }
}

#[tokio::test]
async fn chat_dialect_resumes_by_the_same_numbers() {
    let world = start(|_| {});
    let (id, log) = finished(&world, "tokens=5 text=count").await;
    let full = world
        .get(&format!("/v1/streams/{id}?dialect=chat"))
        .answer()
        .await
        .events();
    let last = log.len() as u64 - 1;
    assert_eq!(
        (
            full.last().unwrap().data.as_str(),
            full.last().unwrap().number()
        ),
        ("[DONE]", last)
    );
    for after in 0..last {
        let expected: Vec<&Event> = full.iter().filter(|event| event.number() > after).collect();
        let answer = world
            .get(&format!("/v1/streams/{id}?dialect=chat"))
            .header("last-event-id", &cursor(&id, after))
            .answer()
            .await;
        assert_eq!(
            answer.events().iter().collect::<Vec<_>>(),
            expected,
            "after {after}"
        );
        let sdk = world
            .post("/v1/chat/completions", &chat("never"))
            .header("last-event-id", &cursor(&id, after))
            .answer()
            .await;
        let data: String = expected
            .iter()
            .map(|event| format!("data: {}\n\n", event.data))
            .collect();
        assert_eq!(sdk.text(), data, "after {after}");
    }
    let end = world
        .get(&format!("/v1/streams/{id}?dialect=chat&after={last}"))
        .answer()
        .await;
    assert_eq!(end.status, 204);
    let sdk = world
        .post("/v1/chat/completions", &chat("never"))
        .header("last-event-id", &cursor(&id, last))
        .answer()
        .await;
    assert_eq!((sdk.status, sdk.text().as_str()), (200, "data: [DONE]\n\n"));
    let past = world
        .post("/v1/chat/completions", &chat("never"))
        .header("last-event-id", &cursor(&id, last + 1))
        .answer()
        .await;
    assert_eq!(
        (past.status, past.json()["error"]["code"].as_str()),
        (400, Some("invalid_cursor"))
    );
    assert_eq!(world.simulator.stats().requests, 1);
}

#[tokio::test]
async fn text_can_be_entered_at_a_position() {
    let world = start(|_| {});
    let (id, log) = finished(&world, "tokens=4 text=count").await;
    let second = log
        .iter()
        .find(|event| event.data.contains("\" t1\""))
        .unwrap()
        .number();
    let text = world
        .get(&format!("/v1/streams/{id}?after={second}"))
        .header("accept", "text/plain")
        .answer()
        .await;
    assert_eq!((text.text().as_str(), text.end), (" t2 t3", End::Whole));
    let whole = world
        .get(&format!("/v1/streams/{id}?dialect=text"))
        .answer()
        .await;
    assert_eq!(whole.text(), " t0 t1 t2 t3");
}

#[tokio::test]
async fn chat_completion_can_be_read_as_a_stream() {
    let world = start(|_| {});
    let chat_sdk = world
        .post("/v1/chat/completions", &chat("tokens=3 text=count"))
        .answer()
        .await;
    let events = world
        .get(&format!("/v1/streams/{}", chat_sdk.id()))
        .answer()
        .await
        .events();
    assert_eq!(
        events.last().unwrap().json()["response"]["output"][0]["content"][0]["text"],
        " t0 t1 t2"
    );
    let again = world
        .get(&format!("/v1/streams/{}?dialect=chat", chat_sdk.id()))
        .answer()
        .await
        .events();
    let data: String = again
        .iter()
        .map(|event| format!("data: {}\n\n", event.data))
        .collect();
    assert_eq!(data, chat_sdk.text());
}

// === readers ===

#[tokio::test]
async fn reader_moves_from_sse_to_websocket_and_back_at_the_exact_token() {
    let world = start(|_| {});
    let (id, mut seen) = begun(&world, "tokens=120 text=count tbt=4ms", "\" t9\"").await;
    let mut seen: Vec<Value> = seen.drain(..).map(|event| event.json()).collect();
    let mut socket = world.socket().await;
    socket.send(json!({"type": "tokenwire:resume", "response_id": id, "starting_after": seen.len() - 1})).await;
    assert_eq!(socket.next().await["type"], "tokenwire:resumed");
    seen.extend(socket.until(|event| event["delta"] == " t40").await);
    drop(socket);
    let mut sdk = world
        .get(&format!(
            "/v1/responses/{id}?stream=true&starting_after={}",
            seen.len() - 1
        ))
        .send()
        .await;
    seen.extend(sdk.until_event("\" t70\"").await.iter().map(Event::json));
    drop(sdk);
    let rest = world
        .get("/v1/streams?input=never")
        .header("last-event-id", &cursor(&id, seen.len() as u64 - 1))
        .answer()
        .await;
    seen.extend(rest.events().iter().map(Event::json));
    let full: Vec<Value> = world
        .get(&format!("/v1/streams/{id}"))
        .answer()
        .await
        .events()
        .iter()
        .map(Event::json)
        .collect();
    assert_eq!(seen, full);
    assert_eq!(world.simulator.stats().requests, 1);
}

#[tokio::test]
async fn all_readers_see_the_same_bytes() {
    let world = start(|_| {});
    let mut first = world
        .post("/v1/streams", &response("tokens=100 text=count tbt=3ms"))
        .send()
        .await;
    let id = first.id().await;
    let path = format!("/v1/streams/{id}");
    let mut readers = vec![first];
    // Readers attach while it runs, at different times.
    for token in [1, 5, 20, 21, 40, 60, 61, 90] {
        readers[0].until(&format!("\" t{token}\"")).await;
        readers.push(world.get(&path).send().await);
    }
    let mut socket = world.socket().await;
    socket
        .send(json!({"type": "tokenwire:resume", "response_id": id}))
        .await;
    let bodies: Vec<Vec<u8>> = join_all(readers.into_iter().map(|reader| reader.answer()))
        .await
        .into_iter()
        .map(|answer| answer.body)
        .collect();
    assert!(bodies.iter().all(|body| *body == bodies[0]));
    assert_eq!(socket.next().await["type"], "tokenwire:resumed");
    let over_socket = socket.until_end().await;
    let text = String::from_utf8(bodies[0].clone()).unwrap();
    assert_eq!(
        over_socket,
        crate::support::sse::parse(&text)
            .iter()
            .map(Event::json)
            .collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn stalled_reader_is_cut_and_may_resume() {
    let world = start(|config| {
        config.streams.slow_reader_timeout = Duration::from_millis(500);
        config.streams.disconnect_grace = Duration::ZERO;
    });
    let slow = world
        .post("/v1/streams", &response("tokens=1000000 size=4KiB tbt=1ms"))
        .send_reading_little(4096)
        .await;
    // It is the only reader, so its cut ends the stream, which shows the cut.
    world
        .upstream_saw("the cut", |stats| stats.aborted == 1)
        .await;
    world.idle().await;
    let mut slow = slow;
    while slow.read().await {}
    assert_eq!(slow.end, End::Broken, "what was cut looks whole");
    let mut events = slow.events();
    let (id, after) = (slow.id().await, events.last().unwrap().number());
    let rest = world
        .get(&format!("/v1/streams/{id}"))
        .header("last-event-id", &cursor(&id, after))
        .answer()
        .await;
    assert_eq!(rest.end, End::Whole);
    events.extend(rest.events());
    assert_eq!(
        numbers(&events),
        (0..events.len() as u64).collect::<Vec<_>>()
    );
    assert_eq!(events.last().unwrap().kind(), "response.incomplete");
}

#[tokio::test]
async fn stalled_websocket_is_cut() {
    let world = start(|config| {
        config.streams.slow_reader_timeout = Duration::from_millis(500);
        config.streams.disconnect_grace = Duration::ZERO;
    });
    let mut socket = RawSocket::connect(world.address, "/v1/ws", &[]).await;
    let create =
        json!({"type": "response.create", "input": "[[tokens=1000000 size=16KiB tbt=1ms]]"})
            .to_string();
    assert!(socket.send(&frame(0x81, create.as_bytes())).await);
    world
        .upstream_saw("the cut", |stats| stats.aborted == 1)
        .await;
    world.idle().await;
    assert!(socket.ends().await);
}

#[tokio::test]
async fn slow_reader_does_not_slow_others() {
    let world = start(|_| {});
    let request = response("tokens=8000 text=count size=1KiB");
    let slow = world
        .post("/v1/streams", &request)
        .send_reading_little(4096)
        .await;
    let mut slow_socket = world.socket().await;
    let mut slow = slow;
    let id = slow.id().await;
    slow_socket
        .send(json!({"type": "tokenwire:resume", "response_id": id}))
        .await;
    let fast = world.get(&format!("/v1/streams/{id}")).answer().await;
    assert_eq!(fast.events().last().unwrap().kind(), "response.completed");
    // The slow readers get every event as well.
    assert_eq!(slow.answer().await.body, fast.body);
    assert_eq!(slow_socket.until_end().await.len(), fast.events().len() + 1);
}

#[tokio::test]
async fn memory_pressure_drops_the_oldest_ended_first() {
    let world = start(|config| config.streams.max_memory = 2 << 20);
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(finished(&world, "tokens=100 size=5KiB").await.0);
    }
    let statuses: Vec<u16> = join_all(ids.iter().map(|id| (id, &world)).map(
        |(id, world)| async move {
            world
                .get(&format!("/v1/streams/{id}?after=3"))
                .answer()
                .await
        },
    ))
    .await
    .into_iter()
    .map(|answer| {
        if answer.text().contains("tokenwire:reset") {
            410
        } else {
            answer.status
        }
    })
    .collect();
    assert_eq!(statuses.last(), Some(&200), "{statuses:?}");
    assert_ne!(statuses[0], 200, "{statuses:?}");
    let first_kept = statuses.iter().position(|status| *status == 200).unwrap();
    assert!(
        statuses[first_kept..].iter().all(|status| *status == 200),
        "{statuses:?}"
    );
}

// === idempotency ===

#[tokio::test]
async fn idempotency_key_names_one_generation() {
    let world = start(|_| {});
    let chat_body = chat("tokens=2 text=count");
    let body = response("tokens=2 text=count");
    let by_query = format!(
        "/v1/streams?input={}&key=q",
        encode("[[tokens=2 text=count]]")
    );
    for (what, request) in [
        (
            "chat",
            world
                .post("/v1/chat/completions", &chat_body)
                .header("idempotency-key", "a"),
        ),
        (
            "chat, whole",
            world
                .post(
                    "/v1/chat/completions",
                    &with(chat_body.clone(), json!({"stream": false})),
                )
                .header("idempotency-key", "b"),
        ),
        (
            "responses",
            world
                .post("/v1/responses", &body)
                .header("idempotency-key", "c"),
        ),
        (
            "responses, whole",
            world
                .post(
                    "/v1/responses",
                    &with(body.clone(), json!({"stream": false})),
                )
                .header("idempotency-key", "d"),
        ),
        (
            "responses, by a member",
            world.post(
                "/v1/responses",
                &with(body.clone(), json!({"idempotency_key": "e"})),
            ),
        ),
        (
            "streams",
            world
                .post("/v1/streams", &body)
                .header("idempotency-key", "f"),
        ),
        ("EventSource", world.get(&by_query)),
        (
            "text",
            world
                .get(&by_query.replace("key=q", "key=t"))
                .header("accept", "text/plain"),
        ),
    ] {
        let before = world.simulator.stats().requests;
        let first = request.answer().await;
        let (second, third) = tokio::join!(request.answer(), request.answer());
        assert_eq!(first.status, 200, "{what}: {}", first.text());
        assert_eq!(
            (&second.body, &third.body),
            (&first.body, &first.body),
            "{what}"
        );
        assert_eq!(
            (second.id(), third.id()),
            (first.id(), first.id()),
            "{what}"
        );
        assert_eq!(world.simulator.stats().requests, before + 1, "{what}");
    }
    for request in [
        world
            .post("/v1/chat/completions", &chat("tokens=3"))
            .header("idempotency-key", "a"),
        world
            .post("/v1/responses", &response("tokens=3"))
            .header("idempotency-key", "c"),
        world.get("/v1/streams?input=other&key=q"),
        world
            .post("/v1/responses", &body)
            .header("idempotency-key", "a"),
    ] {
        let answer = request.answer().await;
        assert_eq!(
            (answer.status, answer.json()["error"]["code"].as_str()),
            (422, Some("idempotency_mismatch")),
            "{}",
            answer.text()
        );
    }
}

#[tokio::test]
async fn failure_before_the_first_chunk_releases_the_key() {
    let world = start(|_| {});
    for (what, steering) in [
        ("refused", "fault=status code=500"),
        ("closed", "fault=refuse"),
        ("cut-before-a-chunk", "fault=json_error"),
    ] {
        let request = world
            .post(
                "/v1/responses",
                &response(&format!("tokens=1 {steering} times=1 id={}", what.len())),
            )
            .header("idempotency-key", what);
        request.answer().await;
        world.idle().await;
        let second = request.answer().await;
        assert!(
            second.text().contains("response.completed"),
            "{what}: {}",
            second.text()
        );
    }
    let request = world
        .post(
            "/v1/responses",
            &response("tokens=9 fault=cut after=2 times=1 id=late"),
        )
        .header("idempotency-key", "late");
    let (first, second) = (request.answer().await, request.answer().await);
    assert_eq!(
        first.body, second.body,
        "one that has cost something is not asked for again"
    );
}

/// The requests that an idempotency key can be repeated on, each with its key.
fn keyed_requests(world: &World) -> Vec<(&'static str, crate::support::Request)> {
    let steering = "tokens=2 text=count";
    let (asked, chat_asked) = (response(steering), chat(steering));
    let whole = |body: &Value| with(body.clone(), json!({"stream": false}));
    let query = format!("/v1/streams?input={}", encode(&format!("[[{steering}]]")));
    let keyed =
        |path: &str, body: &Value, key: &str| world.post(path, body).header("idempotency-key", key);
    vec![
        ("chat", keyed("/v1/chat/completions", &chat_asked, "a")),
        (
            "chat, whole",
            keyed("/v1/chat/completions", &whole(&chat_asked), "b"),
        ),
        ("responses", keyed("/v1/responses", &asked, "c")),
        (
            "responses, whole",
            keyed("/v1/responses", &whole(&asked), "d"),
        ),
        (
            "background",
            keyed(
                "/v1/responses",
                &with(asked.clone(), json!({"background": true})),
                "e",
            ),
        ),
        (
            "background, whole",
            keyed(
                "/v1/responses",
                &with(whole(&asked), json!({"background": true})),
                "f",
            ),
        ),
        ("streams", keyed("/v1/streams", &asked, "g")),
        ("chat in streams", keyed("/v1/streams", &chat_asked, "h")),
        (
            "streams in chat",
            keyed("/v1/streams?dialect=chat", &asked, "i"),
        ),
        (
            "text by POST",
            keyed("/v1/streams", &asked, "j").header("accept", "text/plain"),
        ),
        ("EventSource", world.get(&format!("{query}&key=k"))),
        (
            "EventSource by header",
            world.get(&query).header("idempotency-key", "l"),
        ),
        (
            "text by GET",
            world.get(&format!("{query}&key=m&dialect=text")),
        ),
    ]
}

#[tokio::test]
async fn repeated_key_after_log_expiry_gives_the_object_on_every_route() {
    let world = start(|config| config.streams.retain_events = Duration::from_millis(300));
    let requests = keyed_requests(&world);
    let firsts = join_all(requests.iter().map(|(_, request)| request.answer())).await;
    let asked = world.simulator.stats().requests;
    for ((what, request), first) in requests.iter().zip(firsts) {
        let id = first.id().to_owned();
        gone(&world, &id).await;
        let again = request.answer().await;
        assert_eq!(again.end, End::Whole, "{what}");
        match *what {
            "chat, whole" => {
                assert_eq!(again.status, 200, "{what}: {}", again.text());
                let (first, again) = (first.json(), again.json());
                assert_eq!(again["object"], "chat.completion");
                let message = |value: &Value| value["choices"][0]["message"]["content"].clone();
                assert_eq!(message(&again), message(&first));
                assert_eq!(
                    again["choices"][0]["finish_reason"],
                    first["choices"][0]["finish_reason"]
                );
            }
            "responses, whole" | "background, whole" => {
                assert_eq!(
                    (again.status, again.json()),
                    (200, world.object(&id).await),
                    "{what}"
                );
                assert_eq!(again.json()["status"], "completed");
            }
            "streams"
            | "chat in streams"
            | "streams in chat"
            | "EventSource"
            | "EventSource by header" => {
                let events = again.events();
                assert_eq!(
                    (again.status, kinds(&events)),
                    (200, vec!["tokenwire:reset".to_owned()]),
                    "{what}: {}",
                    again.text()
                );
                assert_eq!(events[0].json()["response"], world.object(&id).await);
                // The id of the reset leads a reconnecting EventSource to the end.
                let back = world
                    .get(&format!("/v1/streams/{id}"))
                    .header("last-event-id", events[0].id.as_deref().unwrap())
                    .answer()
                    .await;
                assert_eq!(back.status, 204, "{what}");
            }
            _ => assert_eq!(
                (again.status, again.json()["error"]["code"].as_str()),
                (410, Some("position_gone")),
                "{what}: {}",
                again.text()
            ),
        }
        if again.status == 200 {
            assert_eq!(again.id(), id, "{what}");
        }
    }
    assert_eq!(world.simulator.stats().requests, asked);
}

#[tokio::test]
async fn repeated_key_after_log_expiry_resets_a_websocket() {
    let world = start(|config| config.streams.retain_events = Duration::from_millis(300));
    let create = json!({"idempotency_key": "k", "stream_id": "a"});
    let mut first = world.socket().await;
    first.create("tokens=2 text=count", create.clone()).await;
    let events = first.until_end().await;
    let id = events[0]["response"]["id"].as_str().unwrap().to_owned();
    gone(&world, &id).await;

    // An OpenAI client knows no `tokenwire:` types.
    let mut plain = world.socket().await;
    plain.create("tokens=2 text=count", create.clone()).await;
    let error = plain.next().await;
    assert_eq!(
        (
            &error["type"],
            &error["status"],
            &error["error"]["code"],
            &error["stream_id"]
        ),
        (
            &json!("error"),
            &json!(410),
            &json!("position_gone"),
            &json!("a")
        )
    );

    let mut ours = world.socket().await;
    assert!(ours.until_pong().await.is_empty());
    ours.create("tokens=2 text=count", create).await;
    let reset = ours.next().await;
    assert_eq!(
        (&reset["type"], &reset["stream_id"]),
        (&json!("tokenwire:reset"), &json!("a"))
    );
    assert_eq!(reset["response"], world.object(&id).await);

    // The lane is free on both.
    for socket in [&mut plain, &mut ours] {
        socket
            .create("tokens=1 text=count", json!({"stream_id": "a"}))
            .await;
        let events = socket.until_end().await;
        assert_eq!(events.last().unwrap()["type"], "response.completed");
    }
}

#[tokio::test]
async fn invalid_idempotency_keys_are_refused_and_start_nothing() {
    let world = start(|_| {});
    let body = response("tokens=1");
    let mut requests = Vec::new();
    for key in ["a b", "clé", "sk-proj-abcdefgh", "Bearer abc", "a\tb"] {
        for (path, body) in [
            ("/v1/responses", &body),
            ("/v1/streams", &body),
            ("/v1/chat/completions", &chat("tokens=1")),
        ] {
            requests.push(world.post(path, body).header("idempotency-key", key));
        }
        let query = format!("/v1/streams?input=x&key={}", encode(key));
        requests.push(world.get(&query));
        let member = with(body.clone(), json!({"idempotency_key": key}));
        requests.push(world.post("/v1/responses", &member));
    }
    // Two keys that differ, wherever they are.
    let one = || {
        world
            .post("/v1/responses", &body)
            .header("idempotency-key", "a")
    };
    requests.push(one().header("idempotency-key", "b"));
    let member = with(body.clone(), json!({"idempotency_key": "b"}));
    let member = world.post("/v1/responses", &member);
    requests.push(member.header("idempotency-key", "a"));
    requests.push(world.get("/v1/streams?input=x&key=a&key=b"));
    let query = world.get("/v1/streams?input=x&key=a");
    requests.push(query.header("idempotency-key", "b"));
    for request in requests {
        let answer = request.answer().await;
        assert_eq!(
            (answer.status, answer.json()["error"]["code"].as_str()),
            (400, Some("invalid_value")),
            "{}",
            answer.text()
        );
    }
    let mut socket = world.socket().await;
    socket
        .create("tokens=1", json!({"idempotency_key": "sk-abc"}))
        .await;
    let error = socket.next().await;
    assert_eq!(
        (&error["type"], &error["status"]),
        (&json!("error"), &json!(400))
    );
    assert_eq!(world.simulator.stats().requests, 0);
    // The same key twice is one key.
    let answer = one().header("idempotency-key", "a").answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

// === jobs ===

#[tokio::test]
async fn background_job_runs_without_readers() {
    let world = start(|_| {});
    let job = with(
        response("tokens=30 text=count tbt=10ms"),
        json!({"stream": false, "background": true}),
    );
    let answer = world.post("/v1/responses", &job).answer().await;
    assert_eq!(
        (answer.status, answer.json()["status"].as_str()),
        (200, Some("queued"))
    );
    assert_eq!(answer.json()["background"], true);
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(answer.id(), id);
    let mut reader = world
        .get(&format!("/v1/responses/{id}?stream=true"))
        .send()
        .await;
    reader.until("\" t3\"").await;
    let polled = world.object(&id).await;
    assert_eq!(
        (&polled["status"], &polled["completed_at"]),
        (&json!("in_progress"), &Value::Null)
    );
    assert!(
        polled["output"][0]["content"][0]["text"]
            .as_str()
            .is_some_and(|text| text.starts_with(" t0 t1 t2 t3"))
    );
    let events = reader.answer().await.events();
    assert_eq!(
        kinds(&events)[..3],
        [
            "response.created",
            "response.queued",
            "response.in_progress"
        ]
    );
    let done = world.object(&id).await;
    assert_eq!(done["status"], "completed");
    assert_eq!(events[events.len() - 2].json()["response"], done);
    let cancelled = world
        .post(&format!("/v1/responses/{id}/cancel"), &json!({}))
        .answer()
        .await;
    assert_eq!(
        (cancelled.status, cancelled.json()),
        (200, done),
        "cancelling what has ended changes nothing"
    );
}

#[tokio::test]
async fn job_is_cancelled_and_deleted_from_another_connection() {
    let world = start(|_| {});
    for steering in ["fault=stall_head", "ttft=1h", STALL] {
        let before = world.simulator.stats();
        let job = with(
            response(steering),
            json!({"stream": false, "background": true}),
        );
        let id = world
            .post("/v1/responses", &job)
            .answer()
            .await
            .id()
            .to_owned();
        world
            .upstream_saw("the request", |stats| stats.requests == before.requests + 1)
            .await;
        // The SDKs send a Content-Type with an empty body.
        let cancel = world
            .post(&format!("/v1/responses/{id}/cancel"), &json!({}))
            .body("")
            .answer()
            .await;
        assert_eq!(
            (cancel.status, cancel.json()["status"].as_str()),
            (200, Some("cancelled")),
            "{steering}"
        );
        world
            .upstream_saw("the cancel", |stats| stats.aborted == before.aborted + 1)
            .await;
        let deleted = world.delete(&format!("/v1/responses/{id}")).answer().await;
        assert_eq!(
            (deleted.status, deleted.json()),
            (
                200,
                json!({"id": id, "object": "response", "deleted": true})
            )
        );
        for request in [
            world.get(&format!("/v1/responses/{id}")),
            world.get(&format!("/v1/streams/{id}")),
            world.delete(&format!("/v1/responses/{id}")),
        ] {
            assert_eq!(request.answer().await.status, 404);
        }
    }
}

#[tokio::test]
async fn delete_stops_a_running_generation_and_cuts_its_readers() {
    let world = start(|_| {});
    let mut reader = world.post("/v1/streams", &response(STALL)).send().await;
    reader.until("\" t1\"").await;
    let id = reader.id().await;
    let mut socket = world.socket().await;
    socket
        .send(json!({"type": "tokenwire:resume", "response_id": id}))
        .await;
    socket.until(|event| event["delta"] == " t1").await;
    let whole = world
        .post(
            "/v1/responses",
            &with(
                response(STALL),
                json!({"stream": false, "idempotency_key": "w"}),
            ),
        )
        .send()
        .await;
    assert_eq!(
        world
            .delete(&format!("/v1/responses/{id}"))
            .answer()
            .await
            .status,
        200
    );
    world
        .upstream_saw("the cancel", |stats| stats.aborted == 1)
        .await;
    let answer = reader.answer().await;
    assert!(
        answer.end == End::Broken
            || answer.events().last().unwrap().kind() == "response.incomplete",
        "{}",
        answer.text()
    );
    let last = socket.next().await;
    assert!(
        last["type"] == "tokenwire:error" || last["type"] == "response.output_text.done",
        "{last}"
    );
    drop(whole);
}

// === conversations ===

fn contents(body: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        parts => parts
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|part| part["text"].as_str())
            .collect(),
    };
    body["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| {
            (
                message["role"].as_str().unwrap().to_owned(),
                text(&message["content"]),
            )
        })
        .collect()
}

#[tokio::test]
async fn previous_response_id_continues_a_conversation() {
    let world = start(|_| {});
    let whole = json!({"stream": false});
    let first = world
        .post(
            "/v1/responses",
            &with(response("tokens=2 text=count"), whole.clone()),
        )
        .answer()
        .await
        .json();
    let second_turn = with(
        with(response("tokens=1 text=count"), whole.clone()),
        json!({"previous_response_id": first["id"]}),
    );
    let second = world
        .post("/v1/responses", &second_turn)
        .answer()
        .await
        .json();
    assert_eq!(second["previous_response_id"], first["id"]);
    // The third turn over the WebSocket.
    let mut socket = world.socket().await;
    socket
        .create("tokens=1", json!({"previous_response_id": second["id"]}))
        .await;
    let third = socket.until_end().await.pop().unwrap()["response"].clone();
    assert_eq!(third["previous_response_id"], second["id"]);
    let expected: Vec<(String, String)> = [
        ("user", "[[tokens=2 text=count]]"),
        ("assistant", " t0 t1"),
        ("user", "[[tokens=1 text=count]]"),
        ("assistant", " t0"),
        ("user", "[[tokens=1]]"),
    ]
    .map(|(role, text)| (role.to_owned(), text.to_owned()))
    .into();
    assert_eq!(contents(&world.last_request().body.unwrap()), expected);

    let id = third["id"].as_str().unwrap();
    let list = async |query: &str| {
        let answer = world
            .get(&format!("/v1/responses/{id}/input_items?{query}"))
            .answer()
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    let all = list("order=asc").await;
    let items = all["data"].as_array().unwrap().clone();
    assert_eq!(
        (items.len(), &all["has_more"], &all["object"]),
        (5, &json!(false), &json!("list"))
    );
    assert_eq!(
        (&all["first_id"], &all["last_id"]),
        (&items[0]["id"], &items[4]["id"])
    );
    assert_eq!(
        items
            .iter()
            .map(|item| item["role"].as_str().unwrap())
            .collect::<Vec<_>>(),
        ["user", "assistant", "user", "assistant", "user"]
    );
    let mut paged = Vec::new();
    let mut query = "limit=2".to_owned();
    loop {
        let page = list(&query).await;
        paged.extend(page["data"].as_array().unwrap().clone());
        if page["has_more"] == false {
            break;
        }
        query = format!("limit=2&after={}", page["last_id"].as_str().unwrap());
    }
    paged.reverse();
    assert_eq!(paged, items, "newest first is what OpenAI gives unasked");
    for wrong in [
        "limit=0",
        "limit=101",
        "limit=x",
        "order=up",
        "after=msg_none",
    ] {
        assert_eq!(
            world
                .get(&format!("/v1/responses/{id}/input_items?{wrong}"))
                .answer()
                .await
                .status,
            400,
            "{wrong}"
        );
    }
}

#[tokio::test]
async fn eventsource_continues_a_conversation() {
    let world = start(|_| {});
    let (first, _) = finished(&world, "tokens=2 text=count").await;
    let path = format!("/v1/streams?input=next&previous_response_id={first}");
    let second = world.get(&path).answer().await;
    assert_eq!(second.status, 200, "{}", second.text());
    let object = second.events().last().unwrap().json()["response"].clone();
    assert_eq!(
        (&object["status"], &object["previous_response_id"]),
        (&json!("completed"), &json!(first))
    );
    let expected: Vec<(String, String)> = [
        ("user", "[[tokens=2 text=count]]"),
        ("assistant", " t0 t1"),
        ("user", "next"),
    ]
    .map(|(role, text)| (role.to_owned(), text.to_owned()))
    .into();
    assert_eq!(contents(&world.last_request().body.unwrap()), expected);
    let unknown = world
        .get("/v1/streams?input=next&previous_response_id=resp_AAAAAAAAAAAAAAAAAAAAAAAA")
        .answer()
        .await;
    assert_eq!(
        unknown.json()["error"]["code"],
        "previous_response_not_found"
    );
}

#[tokio::test]
async fn unusable_previous_response_is_a_clear_error() {
    let world = start(|_| {});
    let whole = |steering: &str, members: Value| {
        with(with(response(steering), json!({"stream": false})), members)
    };
    let unstored = world
        .post("/v1/responses", &whole("tokens=1", json!({"store": false})))
        .answer()
        .await
        .json();
    let failed = world
        .post(
            "/v1/responses",
            &whole("tokens=9 fault=cut after=1", json!({})),
        )
        .answer()
        .await
        .json();
    let running = world
        .post("/v1/responses", &whole(STALL, json!({"background": true})))
        .answer()
        .await
        .json();
    let cancelled = world
        .post("/v1/responses", &whole(STALL, json!({"background": true})))
        .answer()
        .await
        .json();
    world
        .post(
            &format!("/v1/responses/{}/cancel", cancelled["id"].as_str().unwrap()),
            &json!({}),
        )
        .answer()
        .await;
    for (what, previous, status, code) in [
        ("not stored", &unstored, 404, "previous_response_not_found"),
        ("failed", &failed, 400, "previous_response_unusable"),
        ("running", &running, 400, "previous_response_unusable"),
        ("cancelled", &cancelled, 400, "previous_response_unusable"),
    ] {
        let answer = world
            .post(
                "/v1/responses",
                &whole("tokens=1", json!({"previous_response_id": previous["id"]})),
            )
            .answer()
            .await;
        let error = &answer.json()["error"];
        assert_eq!(
            (
                answer.status,
                error["code"].as_str(),
                error["param"].as_str()
            ),
            (status, Some(code), Some("previous_response_id")),
            "{what}: {}",
            answer.text()
        );
    }
}

// === overload ===

#[tokio::test]
async fn overload_is_answered_with_retry_after() {
    let world = start(|config| config.limits.streams = 1);
    let (id, _) = begun(&world, STALL, "\" t1\"").await;
    for request in [
        world.post("/v1/chat/completions", &chat("tokens=1")),
        world.post("/v1/responses", &response("tokens=1")),
        world
            .post("/v1/streams", &response("tokens=1"))
            .header("accept", "text/event-stream"),
        world.get("/v1/streams?input=x"),
        world
            .get("/v1/streams?input=x")
            .header("accept", "text/event-stream, */*"),
        world
            .get("/v1/streams?input=x")
            .header("accept", "text/plain"),
    ] {
        let answer = request.answer().await;
        assert_eq!(
            (answer.status, answer.json()["error"]["code"].as_str()),
            (503, Some("overloaded")),
            "{}",
            answer.text()
        );
        assert!(
            answer
                .header("retry-after")
                .is_some_and(|after| after.parse::<u64>().is_ok_and(|after| after >= 1))
        );
        assert_eq!(answer.header("x-should-retry"), Some("true"));
    }
    // An EventSource gives up for good on any status but 200.
    let patient = world
        .get("/v1/streams?input=x")
        .header("accept", "text/event-stream")
        .answer()
        .await;
    assert_eq!(
        (patient.status, patient.end, patient.header("content-type")),
        (200, End::Whole, Some("text/event-stream"))
    );
    let text = patient.text();
    let wait = text
        .strip_prefix("retry: ")
        .and_then(|rest| rest.strip_suffix("\n\n"))
        .expect("no retry");
    assert!(wait.parse::<u64>().is_ok_and(|wait| wait >= 1000), "{wait}");

    let mut socket = world.socket().await;
    socket.create("tokens=1", json!({"stream_id": "a"})).await;
    let error = socket.next().await;
    assert_eq!(
        (
            &error["type"],
            &error["status"],
            &error["error"]["code"],
            &error["stream_id"]
        ),
        (
            &json!("error"),
            &json!(503),
            &json!("overloaded"),
            &json!("a")
        )
    );
    // Readers do not count as streams.
    let mut reader = world.get(&format!("/v1/streams/{id}")).send().await;
    assert_eq!(reader.status().await, 200);
    world
        .post(&format!("/v1/responses/{id}/cancel"), &json!({}))
        .answer()
        .await;
    world.idle().await;
    patiently("an answer", async {
        assert_eq!(
            world
                .post("/v1/responses", &response("tokens=1"))
                .answer()
                .await
                .status,
            200
        )
    })
    .await;
}

#[tokio::test]
async fn body_of_a_resuming_post_is_read_and_the_connection_stays() {
    let world = start(|_| {});
    let first = world
        .post("/v1/streams", &response("tokens=2"))
        .answer()
        .await;
    let cursor = first.events()[1].id.clone().unwrap();
    let again = with(
        response("tokens=2"),
        json!({"instructions": "x".repeat(200 * 1024)}),
    );
    let answer = world
        .post("/v1/streams", &again)
        .header("last-event-id", &cursor)
        .answer()
        .await;
    assert_eq!(
        (answer.status, answer.header("connection")),
        (200, None),
        "{:?}",
        answer.headers
    );
    assert_eq!(answer.events().len(), first.events().len() - 2);
    assert_eq!(world.simulator.stats().requests, 1);
}
