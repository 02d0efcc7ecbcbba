//! Server-sent events to the byte: heads, framings, when the head leaves, heartbeats, and endings.

use std::time::Duration;

use crate::support::{
    Answer, End, Exchange, Playback, Request, World, chat, encode, response, start, with,
};
use futures::future::join_all;
use serde_json::{Value, json};
use tokenwire::config::schema::Api;

/// The ways to read an answer over SSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    ChatSdk,
    ResponsesSdk,
    EventSource,
    EventSourceChat,
    Text,
}

use Reading::{ChatSdk, EventSource, EventSourceChat, ResponsesSdk, Text};

const ALL: [Reading; 5] = [ChatSdk, ResponsesSdk, EventSource, EventSourceChat, Text];

impl Reading {
    fn request(self, gateway: &crate::support::Gateway, steering: &str) -> Request {
        match self {
            ChatSdk => gateway.post("/v1/chat/completions", &chat(steering)),
            ResponsesSdk => gateway.post("/v1/responses", &response(steering)),
            EventSource => gateway.post("/v1/streams", &response(steering)),
            EventSourceChat => gateway.post("/v1/streams?dialect=chat", &response(steering)),
            Text => gateway
                .post("/v1/streams", &response(steering))
                .header("accept", "text/plain"),
        }
    }

    async fn send(self, world: &World, steering: &str) -> Exchange {
        self.request(world, steering).send().await
    }
}

// === heads ===

#[tokio::test]
async fn stream_heads_forbid_caching_and_buffering() {
    let world = start(|_| {});
    for reading in ALL {
        let answer = reading.request(&world, "tokens=1").answer().await;
        assert_eq!(answer.status, 200);
        let mut names: Vec<String> = answer
            .headers
            .iter()
            .map(|(name, _)| name.to_ascii_lowercase())
            .collect();
        names.sort();
        let mut expected = vec![
            "cache-control",
            "content-type",
            "date",
            "location",
            "server-timing",
            "transfer-encoding",
            "vary",
            "x-accel-buffering",
            "x-content-type-options",
            "x-request-id",
        ];
        if matches!(reading, ChatSdk | ResponsesSdk | Text) {
            // These heads wait for the upstream's, and forward its headers.
            expected.push("x-upstream-request-id");
        }
        assert_eq!(names, expected, "{reading:?}");
        let kind = if reading == Text {
            "text/plain; charset=utf-8"
        } else {
            "text/event-stream"
        };
        for (name, value) in [
            ("content-type", kind),
            ("cache-control", "no-cache, no-transform"),
            ("x-accel-buffering", "no"),
            ("x-content-type-options", "nosniff"),
            ("transfer-encoding", "chunked"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{reading:?}");
        }
        assert!(
            answer
                .header("x-request-id")
                .is_some_and(|id| id.starts_with("req_"))
        );
        assert_eq!(answer.end, End::Whole);
    }
}

#[tokio::test]
async fn stream_is_never_compressed() {
    let world = start(|_| {});
    for reading in ALL {
        let answer = reading
            .request(&world, "tokens=1")
            .header("accept-encoding", "gzip, br, zstd")
            .answer()
            .await;
        assert_eq!(answer.header("content-encoding"), None, "{reading:?}");
    }
}

// === framings ===

#[tokio::test]
async fn eventsource_framing_to_the_byte() {
    let world = start(|_| {});
    let answer = EventSource
        .request(&world, "tokens=2 text=count")
        .answer()
        .await;
    let events = answer.events();
    let mut expected = "retry: 2000\n".to_owned();
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event.json()["sequence_number"], json!(number));
        expected.push_str(&format!(
            "id: {}.{number}\ndata: {}\n\n",
            answer.id(),
            event.data
        ));
    }
    assert_eq!(answer.text(), expected);
    let kinds: Vec<String> = events.iter().map(crate::support::Event::kind).collect();
    assert_eq!(
        kinds,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "tokenwire:chunk",
            "response.completed",
        ]
    );
    assert!(answer.id().strip_prefix("resp_").is_some_and(
        |random| random.len() >= 22 && random.bytes().all(|b| b.is_ascii_alphanumeric())
    ));
}

#[tokio::test]
async fn sdk_framing_to_the_byte() {
    let world = start(|_| {});
    let answer = ResponsesSdk
        .request(&world, "tokens=2 text=count")
        .answer()
        .await;
    let mut expected = String::new();
    for event in answer
        .events()
        .iter()
        .filter(|event| event.data != "[DONE]")
    {
        expected.push_str(&format!(
            "event: {}\ndata: {}\n\n",
            event.kind(),
            event.data
        ));
    }
    expected.push_str("data: [DONE]\n\n");
    assert_eq!(answer.text(), expected);
}

#[tokio::test]
async fn chat_in_eventsource_framing_has_record_ids_and_done_has_the_terminals() {
    let world = start(|_| {});
    let answer = EventSourceChat
        .request(&world, "tokens=2 text=count")
        .answer()
        .await;
    let full = world
        .get(&format!("/v1/streams/{}", answer.id()))
        .answer()
        .await
        .events();
    let events = answer.events();
    let expected: String = events
        .iter()
        .map(|event| {
            format!(
                "id: {}\ndata: {}\n\n",
                event.id.as_deref().unwrap(),
                event.data
            )
        })
        .collect();
    assert_eq!(
        answer.text(),
        format!("retry: 2000\nid: {}.0\n\n{expected}", answer.id())
    );
    assert_eq!(
        events.last().map(|event| event.data.as_str()),
        Some("[DONE]")
    );
    assert_eq!(
        events.last().unwrap().number(),
        full.last().unwrap().number()
    );
    let deltas: Vec<u64> = full
        .iter()
        .filter(|event| event.kind().ends_with("text.delta"))
        .map(crate::support::Event::number)
        .collect();
    let contents: Vec<u64> = events
        .iter()
        .filter(|event| event.data.contains(r#""content":" t"#))
        .map(crate::support::Event::number)
        .collect();
    assert_eq!(contents, deltas);
}

#[tokio::test]
async fn text_dialect_is_the_answer_only() {
    let world = start(|_| {});
    for (steering, expected) in [
        ("tokens=3 text=count", " t0 t1 t2"),
        ("tokens=2 text=count refusal", " t0 t1"),
        ("calls=1", ""),
    ] {
        let answer = Text.request(&world, steering).answer().await;
        assert_eq!(
            (answer.text().as_str(), answer.end),
            (expected, End::Whole),
            "{steering}"
        );
    }
    let answer = world
        .get(&format!(
            "/v1/streams?input={}",
            encode("[[tokens=2 text=count]]")
        ))
        .header("accept", "text/plain")
        .answer()
        .await;
    assert_eq!(answer.text(), " t0 t1");
}

#[tokio::test]
async fn chunks_without_an_event_are_shown_as_extensions() {
    // A role chunk after the first causes no event.
    let body = concat!(
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n",
        "data: {\"choices\":[],\"x_progress\":1}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
        "data: [DONE]\n\n"
    );
    let upstream = Playback::events(body.into(), usize::MAX).await;
    let gateway = crate::support::over(&upstream.base_url(), Api::Chat, |_| {});
    let eventsource = EventSource.request(&gateway, "").answer().await.events();
    let extension = eventsource
        .iter()
        .find(|event| event.kind() == "tokenwire:chunk")
        .expect("no tokenwire:chunk");
    assert_eq!(
        extension.json()["chunk"],
        json!({"choices": [], "x_progress": 1})
    );
    assert_eq!(
        extension.json()["sequence_number"],
        json!(extension.number())
    );
    let sdk = ResponsesSdk.request(&gateway, "").answer().await;
    assert!(!sdk.text().contains("tokenwire:"), "{}", sdk.text());
    let numbers: Vec<u64> = sdk
        .events()
        .iter()
        .filter(|event| event.data != "[DONE]")
        .filter_map(|event| event.json()["sequence_number"].as_u64())
        .collect();
    assert!(!numbers.contains(&extension.number()) && numbers.is_sorted());
    assert_eq!(
        numbers.last(),
        eventsource
            .last()
            .map(crate::support::Event::number)
            .as_ref()
    );
}

// === when the head leaves ===

#[tokio::test]
async fn eventsource_head_leaves_before_the_upstream_answers() {
    let world = start(|_| {});
    for request in [
        EventSource.request(&world, "fault=stall_head"),
        world
            .get(&format!(
                "/v1/streams?input={}",
                encode("[[fault=stall_head]]")
            ))
            .header("accept", "text/event-stream"),
    ] {
        let mut exchange = request.send().await;
        let first = exchange.until_event("response.created").await.remove(0);
        assert_eq!(first.json()["response"]["status"], "in_progress");
        assert_eq!(
            exchange.text(),
            format!(
                "retry: 2000\nid: {}.0\ndata: {}\n\n",
                exchange.id().await,
                first.data
            )
        );
    }
}

#[tokio::test]
async fn chat_eventsource_has_an_id_before_its_first_chunk() {
    let world = start(|_| {});
    let path = format!(
        "/v1/streams?dialect=chat&input={}",
        encode("[[ttft=300ms tokens=2 text=count]]")
    );
    let mut exchange = world
        .get(&path)
        .header("accept", "text/event-stream")
        .send()
        .await;
    let id = exchange.id().await;
    exchange.until("\n\n").await;
    assert_eq!(exchange.text(), format!("retry: 2000\nid: {id}.0\n\n"));
    drop(exchange);
    let events = world
        .get(&path)
        .header("last-event-id", &format!("{id}.0"))
        .answer()
        .await
        .events();
    assert_eq!(
        events
            .iter()
            .filter(|event| event.data.contains(" t0") || event.data.contains(" t1"))
            .count(),
        2
    );
    assert_eq!(world.simulator.stats().requests, 1);
}

#[tokio::test]
async fn background_stream_head_leaves_at_once() {
    let world = start(|_| {});
    let mut exchange = world
        .post(
            "/v1/responses",
            &with(response("fault=stall_head"), json!({"background": true})),
        )
        .send()
        .await;
    assert_eq!(exchange.status().await, 200);
    let events = exchange.until_event("response.queued").await;
    assert_eq!(events[0].kind(), "response.created");
    assert_eq!(events[0].json()["response"]["status"], "queued");
}

#[tokio::test]
async fn sdk_and_text_heads_wait_for_the_upstreams_status() {
    let world = start(|_| {});
    for reading in [ChatSdk, ResponsesSdk, Text] {
        let answer = reading
            .request(&world, "head=200ms fault=status code=429")
            .answer()
            .await;
        assert_eq!(answer.status, 429, "{reading:?}");
    }
    for reading in [EventSource, EventSourceChat] {
        let answer = reading
            .request(&world, "head=200ms fault=status code=429")
            .answer()
            .await;
        assert_eq!(answer.status, 200, "{reading:?}");
    }
}

#[tokio::test]
async fn after_commit_after_the_head_leaves_with_200_and_what_fails_then_is_an_event() {
    let world = start(|config| config.streams.commit_after = Duration::from_millis(50));
    for (reading, last) in [
        (ChatSdk, r#""code":"rate_limit_exceeded""#),
        (ResponsesSdk, "[DONE]"),
    ] {
        let answer = reading
            .request(&world, "head=1s fault=status code=429")
            .answer()
            .await;
        assert_eq!(answer.status, 200, "{reading:?}");
        assert!(
            answer
                .events()
                .last()
                .is_some_and(|event| event.data.contains(last)),
            "{}",
            answer.text()
        );
    }
    let text = Text
        .request(&world, "head=1s fault=status code=429")
        .answer()
        .await;
    assert_eq!(
        (text.status, text.end, text.text().as_str()),
        (200, End::Broken, "")
    );
}

// === heartbeats ===

#[tokio::test]
async fn heartbeats_are_comments_without_a_blank_line() {
    let world = start(|config| config.streams.heartbeat = Duration::from_millis(100));
    let beating = async |reading: Reading| {
        // A due heartbeat sends the head before commit_after.
        let mut exchange = reading.send(&world, "ttft=1s tokens=1 text=count").await;
        exchange.until_count(":\n", 3).await;
        let answer = exchange.answer().await;
        let text = answer.text();
        let (before, rest) = text
            .split_once(":\n:\n")
            .unwrap_or_else(|| panic!("{reading:?}: {text:?}"));
        assert!(
            before.is_empty() || before.ends_with("\n\n"),
            "{reading:?}: {before:?}"
        );
        let after = rest.trim_start_matches(":\n");
        assert!(
            ["event: ", "data: ", "id: "]
                .iter()
                .any(|field| after.starts_with(field)),
            "{reading:?}: {after:?}"
        );
        assert_eq!(answer.end, End::Whole);
    };
    join_all([ChatSdk, ResponsesSdk, EventSource, EventSourceChat].map(beating)).await;
}

#[tokio::test]
async fn sdk_streams_send_heartbeats_before_the_upstreams_head() {
    let world = start(|config| config.streams.heartbeat = Duration::from_millis(100));
    for reading in [ChatSdk, ResponsesSdk] {
        let mut exchange = reading.send(&world, "fault=stall_head").await;
        exchange.until_count(":\n", 2).await;
    }
}

#[tokio::test]
async fn bare_text_has_no_heartbeat() {
    let world = start(|config| config.streams.heartbeat = Duration::from_millis(50));
    let text = Text
        .send(&world, "tokens=2 text=count fault=stall after=1")
        .await;
    let mut other = EventSource.send(&world, "fault=stall after=1").await;
    other.until_count(":\n", 5).await;
    let mut text = text;
    text.until(" t0").await;
    let object = world.object(&text.id().await).await;
    world
        .post(
            &format!("/v1/responses/{}/cancel", object["id"].as_str().unwrap()),
            &json!({}),
        )
        .answer()
        .await;
    assert_eq!(text.answer().await.text(), " t0");
}

#[tokio::test]
async fn heartbeat_events_are_shown_where_they_are_asked_for() {
    let world = start(|config| config.streams.heartbeat = std::time::Duration::from_millis(50));
    let begun = world
        .post("/v1/streams", &response("tokens=2 fault=stall after=1"))
        .send()
        .await;
    let mut begun = begun;
    let id = begun.id().await;
    let mut seen = world
        .get(&format!("/v1/streams/{id}?heartbeat=event"))
        .send()
        .await;
    let block = "\n\ndata: {\"type\":\"tokenwire:heartbeat\"}\n\n";
    seen.until_count(block, 1).await;
    let beat = seen.events().pop().unwrap();
    assert_eq!((beat.id, beat.name), (None, None));
    let refused = world
        .get(&format!("/v1/streams/{id}?heartbeat=loud"))
        .answer()
        .await;
    assert_eq!(
        (refused.status, refused.json()["error"]["param"].as_str()),
        (400, Some("heartbeat"))
    );
}

// === endings ===

/// How a generation ends in the log.
enum Ending {
    Completed,
    Incomplete(&'static str),
    Failed(&'static str),
}

use Ending::{Completed, Failed, Incomplete};

/// Faults, each with the ending that it causes.
const ENDINGS: &[(&str, Ending)] = &[
    ("fault=none", Completed),
    ("fault=no_done", Completed),
    ("fault=hang", Completed),
    ("finish=tool_calls", Completed),
    ("finish=eos_token", Completed),
    ("finish=length", Incomplete("max_output_tokens")),
    ("finish=content_filter", Incomplete("content_filter")),
    ("fault=end after=2", Failed("upstream_truncated")),
    ("fault=cut after=2", Failed("upstream_truncated")),
    ("fault=reset after=2", Failed("upstream_truncated")),
    ("fault=cut after=0", Failed("upstream_truncated")),
    ("fault=bad_utf8 after=2", Failed("upstream_invalid_utf8")),
    ("fault=malformed after=2", Failed("upstream_malformed")),
    (
        "fault=oversize after=2 size=100KiB",
        Failed("upstream_event_too_large"),
    ),
    ("fault=error after=2", Failed("server_error")),
    ("fault=json_error", Failed("server_error")),
    ("fault=stall after=2", Failed("between_tokens_timeout")),
    ("ttft=1h", Failed("first_token_timeout")),
    // Framings of the upstream's stream that change nothing.
    ("fault=split", Completed),
    ("fault=crlf", Completed),
    ("fault=cr", Completed),
    ("fault=nospace", Completed),
    ("fault=bom", Completed),
    ("fault=comments", Completed),
    ("fault=multi", Completed),
    ("fault=gzip", Completed),
];

#[tokio::test]
async fn endings_are_shown_in_every_dialect_and_framing() {
    let world = start(|config| {
        config.limits.event = 64 * 1024;
        config.timeouts.between_tokens = Duration::from_secs(8);
        config.timeouts.first_token = Duration::from_secs(8);
    });
    let world = &world;
    let checks = ENDINGS.iter().flat_map(|(steering, ending)| {
        ALL.map(|reading| async move {
            let answer = reading
                .request(world, &format!("tokens=4 text=count {steering}"))
                .answer()
                .await;
            check_ending(steering, reading, &answer, ending);
            if !matches!(reading, Text | ChatSdk) {
                let object = world.object(answer.id()).await;
                check_object(steering, &object, ending);
            }
        })
    });
    join_all(checks).await;
}

#[tokio::test]
async fn endings_of_a_responses_upstream_are_shown_the_same() {
    let world = start(|config| {
        config.upstreams[0].api = Api::Responses;
        config.limits.event = 64 * 1024;
        config.timeouts.between_tokens = Duration::from_secs(3);
        config.timeouts.first_token = Duration::from_secs(3);
    });
    let world = &world;
    let checks = ENDINGS
        .iter()
        .filter(|(steering, _)| !steering.starts_with("finish="))
        .flat_map(|(steering, ending)| {
            [ChatSdk, ResponsesSdk, EventSource, EventSourceChat, Text].map(|reading| async move {
                let answer = reading
                    .request(world, &format!("tokens=4 text=count {steering}"))
                    .answer()
                    .await;
                check_ending(steering, reading, &answer, ending);
            })
        });
    join_all(checks).await;
    for (finish, reason) in [
        ("length", "max_output_tokens"),
        ("content_filter", "content_filter"),
    ] {
        for reading in [ChatSdk, ResponsesSdk, EventSource, EventSourceChat, Text] {
            let answer = reading
                .request(world, &format!("tokens=4 text=count finish={finish}"))
                .answer()
                .await;
            check_ending(finish, reading, &answer, &Incomplete(reason));
        }
    }
}

fn check_ending(steering: &str, reading: Reading, answer: &Answer, ending: &Ending) {
    let context = format!("{steering} as {reading:?}: {}", answer.text());
    let good = !matches!(ending, Failed(_));
    assert_eq!(answer.status, 200, "{context}");
    let events = answer.events();
    let done = events.iter().filter(|event| event.data == "[DONE]").count();
    match reading {
        Text => {
            assert_eq!(
                answer.end,
                if good { End::Whole } else { End::Broken },
                "{context}"
            );
            if good {
                assert_eq!(answer.text(), " t0 t1 t2 t3", "{context}");
            } else if steering.contains("after=2") {
                assert_eq!(
                    answer.text(),
                    " t0 t1",
                    "what came before the break is lost: {context}"
                );
            }
            return;
        }
        EventSource => assert_eq!(done, 0, "{context}"),
        ResponsesSdk => assert_eq!(done, 1, "{context}"),
        ChatSdk | EventSourceChat => assert_eq!(done, usize::from(good), "{context}"),
    }
    assert_eq!(answer.end, End::Whole, "{context}");
    if matches!(reading, ChatSdk | EventSourceChat) {
        let errors: Vec<Value> = events
            .iter()
            .filter_map(|event| serde_json::from_str::<Value>(&event.data).ok())
            .filter_map(|json| json.get("error").cloned())
            .collect();
        match ending {
            Failed(code) => {
                assert_eq!(errors.len(), 1, "{context}");
                assert!(
                    events
                        .last()
                        .is_some_and(|event| event.data.contains(r#""error""#)),
                    "{context}"
                );
                for member in ["message", "type", "param", "code"] {
                    assert!(errors[0].get(member).is_some(), "{member}: {context}");
                }
                // The upstream's own error object is relayed unchanged.
                if *code != "server_error" {
                    assert_eq!(errors[0]["code"], *code, "{context}");
                }
            }
            _ => {
                assert!(errors.is_empty(), "{context}");
                assert_eq!(
                    events.last().map(|event| event.data.as_str()),
                    Some("[DONE]"),
                    "{context}"
                );
            }
        }
        return;
    }
    let terminal = events
        .iter()
        .rfind(|event| event.data != "[DONE]")
        .unwrap()
        .json();
    let terminals = events.iter().filter(|event| {
        [
            "response.completed",
            "response.incomplete",
            "response.failed",
        ]
        .contains(&&*event.kind())
    });
    assert_eq!(terminals.count(), 1, "{context}");
    let kind = match ending {
        Completed => "response.completed",
        Incomplete(_) => "response.incomplete",
        Failed(_) => "response.failed",
    };
    assert_eq!(terminal["type"], kind, "{context}");
    check_object(steering, &terminal["response"], ending);
}

fn check_object(steering: &str, object: &Value, ending: &Ending) {
    let (status, reason, code) = match ending {
        Completed => ("completed", Value::Null, Value::Null),
        Incomplete(reason) => ("incomplete", json!(reason), Value::Null),
        Failed(code) => ("failed", Value::Null, json!(code)),
    };
    assert_eq!(object["status"], status, "{steering}: {object}");
    assert_eq!(
        object["incomplete_details"]["reason"], reason,
        "{steering}: {object}"
    );
    assert_eq!(object["error"]["code"], code, "{steering}: {object}");
    if !matches!(ending, Failed(_)) {
        assert_eq!(
            object["output"][0]["content"][0]["text"], " t0 t1 t2 t3",
            "{steering}: {object}"
        );
    }
}

#[tokio::test]
async fn cancelled_generation_is_incomplete_and_an_error_in_chat() {
    let world = start(|_| {});
    let world = &world;
    join_all(ALL.map(|reading| async move {
        let mut exchange = reading
            .send(world, "tokens=9 text=count fault=stall after=2")
            .await;
        exchange.until(" t1").await;
        let id = exchange.id().await;
        let object = world
            .post(&format!("/v1/responses/{id}/cancel"), &json!({}))
            .answer()
            .await;
        assert_eq!(
            (object.status, object.json()["status"].as_str()),
            (200, Some("cancelled"))
        );
        let answer = exchange.answer().await;
        let events = answer.events();
        let done = events.iter().any(|event| event.data == "[DONE]");
        match reading {
            Text => assert_eq!(
                (answer.end, answer.text().as_str()),
                (End::Broken, " t0 t1")
            ),
            ChatSdk | EventSourceChat => {
                assert!(!done);
                assert_eq!(events.last().unwrap().json()["error"]["code"], "cancelled");
            }
            ResponsesSdk | EventSource => {
                assert_eq!(done, reading == ResponsesSdk);
                let terminal = events
                    .iter()
                    .rfind(|event| event.data != "[DONE]")
                    .unwrap()
                    .json();
                assert_eq!(
                    (&terminal["type"], &terminal["response"]["status"]),
                    (&json!("response.incomplete"), &json!("cancelled"))
                );
                assert_eq!(
                    terminal["response"]["output"][0]["content"][0]["text"],
                    " t0 t1"
                );
            }
        }
    }))
    .await;
}

#[tokio::test]
async fn total_timeout_ends_the_answer() {
    let world = start(|config| config.timeouts.total = Duration::from_millis(300));
    let answer = EventSource
        .request(&world, "tokens=1000000 tbt=20ms")
        .answer()
        .await;
    assert_eq!(
        answer.events().last().unwrap().json()["response"]["error"]["code"],
        "total_timeout"
    );
}

#[tokio::test]
async fn answer_above_the_log_limit_fails() {
    for bound in ["bytes", "events"] {
        let world = start(|config| match bound {
            "bytes" => config.streams.max_stream_bytes = 20_000,
            _ => config.streams.max_stream_events = 100,
        });
        let answer = EventSource
            .request(&world, "tokens=100000 size=64")
            .answer()
            .await;
        let terminal = answer.events().last().unwrap().json();
        assert_eq!(
            terminal["response"]["error"]["code"], "stream_too_large",
            "{bound}: {terminal}"
        );
        assert_eq!(answer.end, End::Whole);
        world
            .upstream_saw("the end of a stream without readers", |stats| {
                stats.open_streams == 0
            })
            .await;
    }
}
