//! Sharing of answers: coalescing, leaders that end early, and the cache.
//!
//! Time is tokio's paused clock: it moves only when every task waits.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokenwire_core::dialect::Dialect;
use tokenwire_core::engine::{
    Freshness, GenerationEnd, GenerationStart, Observer, ReuseOptions, Reused, StartRequest,
    Started,
};
use tokenwire_core::generation::Generation;
use tokenwire_core::log::LogLimits;
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::Owner;
use tokenwire_core::model::snapshot::{Api, Status};
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_core::upstream::{OpenError, Refusal, Timeouts, UpstreamHead};
use tokenwire_testkit::{
    Audit, Call, EngineOptions, OpeningPlan, Reader, TestEngine, no_timeouts, settle,
};
use tokio::time::Instant;

const CHAT: &str = r#"{"stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
const SEEDED: &str = r#"{"stream":true,"messages":[{"role":"user","content":"hi"}],"seed":7}"#;
const RESPONSES: &str = r#"{"input":"hi","temperature":0}"#;

fn options(coalesce: bool, cache: bool) -> EngineOptions {
    let defaults = EngineOptions::default();
    EngineOptions {
        reuse: ReuseOptions {
            coalesce,
            cache,
            ..defaults.reuse
        },
        ..defaults
    }
}

fn coalescing() -> TestEngine {
    TestEngine::new(options(true, false))
}

fn caching() -> TestEngine {
    TestEngine::new(options(false, true))
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn generation(started: &Started) -> &Arc<Generation> {
    started.guard.generation()
}

fn complete(call: &Call, text: &str) {
    call.token(text).finish("stop").done().end(BodyEnd::Clean);
}

/// Starts a leader, and takes its call.
async fn lead(test: &TestEngine, body: &str) -> (Started, Call) {
    let started = test.start(body);
    assert_eq!(started.reused, Some(Reused::Miss));
    (started, test.upstream.call().await)
}

/// Starts a generation that shares an answer.
fn join(test: &TestEngine, body: &str, how: Reused) -> Started {
    let started = test.start(body);
    assert_eq!(started.reused, Some(how));
    started
}

/// Runs a generation whose answer is cached.
async fn kept(test: &TestEngine, body: &str, text: &str) -> Arc<Generation> {
    let (started, call) = lead(test, body).await;
    complete(&call, text);
    generation(&started).ended().await;
    settle().await;
    generation(&started).clone()
}

async fn audit(generation: &Arc<Generation>) -> Audit {
    generation.ended().await;
    Audit::of(generation)
}

fn code(audit: &Audit) -> Option<&str> {
    audit.object["error"]["code"].as_str()
}

/// Returns an answer without the ids and times of its generation.
fn said(generation: &Arc<Generation>) -> (Vec<Value>, Vec<String>, String) {
    fn forget(value: &mut Value, suffix: &str) {
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    if matches!(name.as_str(), "created_at" | "completed_at") {
                        *value = Value::Null;
                    }
                    forget(value, suffix);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| forget(item, suffix)),
            Value::String(text) => *text = text.replace(suffix, "ID"),
            _ => {}
        }
    }
    let suffix = generation.meta().id.suffix().to_owned();
    let Audit {
        mut events,
        chat,
        text,
        ..
    } = Audit::of(generation);
    events.iter_mut().for_each(|event| forget(event, &suffix));
    let created = format!("\"created\":{}", generation.meta().created_at);
    (
        events,
        chat.into_iter()
            .map(|chunk| chunk.replace(&suffix, "ID").replace(&created, ""))
            .collect(),
        text,
    )
}

fn nothing_is_remembered(test: &TestEngine) {
    assert_eq!(test.reuse.as_ref().unwrap().counts(), (0, 0));
}

// === Coalescing ===

#[tokio::test(start_paused = true)]
async fn identical_requests_in_flight_share_one_upstream_stream() {
    let test = coalescing();
    let (leader, call) = lead(&test, CHAT).await;
    let early = join(&test, CHAT, Reused::Coalesced);
    call.token("Hel");
    settle().await;
    let late = join(&test, CHAT, Reused::Coalesced);
    settle().await;
    let mut reader = Reader::new(generation(&late).attach(), 0, Dialect::Text);
    reader.read_now();
    assert_eq!(
        reader
            .lines()
            .iter()
            .map(|line| line.data.as_str())
            .collect::<String>(),
        "Hel",
        "tokens come as they come"
    );
    call.token("lo").finish("stop").done().end(BodyEnd::Clean);

    for follower in [&early, &late] {
        assert_eq!(audit(generation(follower)).await.text, "Hello");
        assert_ne!(
            generation(follower).meta().id,
            generation(&leader).meta().id
        );
        assert_eq!(said(generation(follower)), said(generation(&leader)));
    }
    assert_eq!(test.upstream.waiting(), 0);
    settle().await;
    nothing_is_remembered(&test);
}

#[tokio::test(start_paused = true)]
async fn follower_is_never_followed() {
    let test = coalescing();
    let (leader, call) = lead(&test, CHAT).await;
    let first = join(&test, CHAT, Reused::Coalesced);
    let second = join(&test, CHAT, Reused::Coalesced);
    call.token("a");
    settle().await;
    // If the second followed the first, it would fail with it.
    generation(&first).cancel();
    generation(&first).ended().await;
    complete(&call, "b");
    assert_eq!(audit(generation(&second)).await.text, "ab");
    assert_eq!(audit(generation(&leader)).await.text, "ab");
}

#[tokio::test(start_paused = true)]
async fn follower_gives_the_same_answer_for_every_upstream_stream() {
    let chunk = |choices: &str| {
        format!(r#"{{"id":"c","object":"chat.completion.chunk","choices":[{choices}]}}"#)
    };
    let usage = r#"{"id":"c","object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#;
    let finish = chunk(r#"{"index":0,"delta":{},"finish_reason":"stop"}"#);
    let token = chunk(r#"{"index":0,"delta":{"content":"a\n\"b"},"finish_reason":null}"#);
    let scripts: Vec<(&str, Vec<String>, BodyEnd)> = vec![
        (
            "usage after the end",
            vec![token.clone(), finish.clone(), usage.into(), "[DONE]".into()],
            BodyEnd::Clean,
        ),
        (
            "usage first",
            vec![usage.into(), token.clone(), finish.clone(), "[DONE]".into()],
            BodyEnd::Clean,
        ),
        (
            "no [DONE]",
            vec![token.clone(), token.clone(), finish.clone()],
            BodyEnd::Broken,
        ),
        (
            "length",
            vec![
                token.clone(),
                chunk(r#"{"index":0,"delta":{},"finish_reason":"length"}"#),
                "[DONE]".into(),
            ],
            BodyEnd::Clean,
        ),
        (
            "a filter",
            vec![
                token.clone(),
                chunk(r#"{"index":0,"delta":{},"finish_reason":"content_filter"}"#),
            ],
            BodyEnd::Clean,
        ),
        (
            "an odd finish",
            vec![
                token.clone(),
                chunk(r#"{"index":0,"delta":{},"finish_reason":"abort"}"#),
                usage.into(),
                "[DONE]".into(),
            ],
            BodyEnd::Clean,
        ),
        ("a cut", vec![token.clone(), token.clone()], BodyEnd::Broken),
        ("an end too early", vec![token.clone()], BodyEnd::Clean),
        (
            "usage and a cut",
            vec![token.clone(), usage.into()],
            BodyEnd::Broken,
        ),
        (
            "an error",
            vec![
                token.clone(),
                r#"{"error":{"message":"no","code":"nope"}}"#.into(),
            ],
            BodyEnd::Clean,
        ),
        (
            "an error beside choices",
            vec![
                token.clone(),
                chunk("").replace("}", r#","error":{"message":"no","code":"nope"}}"#),
            ],
            BodyEnd::Clean,
        ),
        (
            "rubbish",
            vec![token.clone(), "{\"choices\":[}".into()],
            BodyEnd::Clean,
        ),
        (
            "two on one line",
            vec![format!("{token} {token}"), finish.clone(), "[DONE]".into()],
            BodyEnd::Clean,
        ),
        (
            "what is no chunk",
            vec![
                "1".into(),
                token.clone(),
                r#"{"filter":[]}"#.into(),
                finish.clone(),
                "[DONE]".into(),
            ],
            BodyEnd::Clean,
        ),
        (
            "reasoning, a refusal and calls",
            vec![
                chunk(
                    r#"{"index":0,"delta":{"role":"assistant","reasoning_content":"hm"},"finish_reason":null}"#,
                ),
                chunk(r#"{"index":0,"delta":{"refusal":"no"},"finish_reason":null}"#),
                chunk(
                    r#"{"index":0,"delta":{"tool_calls":[{"index":0,"id":"x","function":{"name":"f","arguments":""}}]},"finish_reason":null}"#,
                ),
                chunk(
                    r#"{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]},"finish_reason":null}"#,
                ),
                chunk(
                    r#"{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":" "}}]},"finish_reason":null}"#,
                ),
                chunk(r#"{"index":0,"delta":{},"finish_reason":"tool_calls"}"#),
                "[DONE]".into(),
            ],
            BodyEnd::Clean,
        ),
        (
            "logprobs and an annotation",
            vec![
                chunk(
                    r#"{"index":0,"delta":{"content":"a"},"logprobs":{"content":[{"token":"a","logprob":-1}]},"finish_reason":null}"#,
                ),
                chunk(
                    r#"{"index":0,"delta":{"annotations":[{"type":"url_citation","url_citation":{"url":"u"}}]},"finish_reason":null}"#,
                ),
                finish.clone(),
            ],
            BodyEnd::Clean,
        ),
    ];
    for (what, script, end) in scripts {
        let test = coalescing();
        let (leader, call) = lead(&test, CHAT).await;
        let follower = join(&test, CHAT, Reused::Coalesced);
        for (index, payload) in script.iter().enumerate() {
            call.data(payload);
            if index == 0 {
                // A late follower reads the beginning in one piece.
                settle().await;
            }
        }
        let late = join(&test, CHAT, Reused::Coalesced);
        call.end(end);
        audit(generation(&leader)).await;
        for follower in [&follower, &late] {
            generation(follower).ended().await;
            assert_eq!(
                said(generation(follower)),
                said(generation(&leader)),
                "{what}"
            );
            assert_eq!(
                generation(follower)
                    .outcome()
                    .map(|outcome| (outcome.ending.clone(), outcome.usage.clone())),
                generation(&leader)
                    .outcome()
                    .map(|outcome| (outcome.ending.clone(), outcome.usage.clone())),
                "{what}"
            );
        }
        settle().await;
        assert_eq!(test.upstream.waiting(), 0, "{what}");
        nothing_is_remembered(&test);
    }
}

#[tokio::test(start_paused = true)]
async fn error_named_only_by_its_sse_event_is_shared() {
    let test = coalescing();
    let (leader, call) = lead(&test, CHAT).await;
    let follower = join(&test, CHAT, Reused::Coalesced);
    call.token("x")
        .bytes("event: error\ndata: {\"code\":\"nope\",\"message\":\"no\"}\n\n");
    assert_eq!(code(&audit(generation(&leader)).await), Some("nope"));
    generation(&follower).ended().await;
    assert_eq!(said(generation(&follower)), said(generation(&leader)));
}

#[tokio::test(start_paused = true)]
async fn unstreamed_answer_is_shared() {
    let test = coalescing();
    let (leader, call) = lead(&test, CHAT).await;
    let follower = join(&test, CHAT, Reused::Coalesced);
    call.document(r#"{"id":"x", "choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],"usage":{"total_tokens":2}}"#);
    call.end(BodyEnd::Clean);
    generation(&leader).ended().await;
    generation(&follower).ended().await;
    assert_eq!(
        generation(&follower).first_raw(),
        generation(&leader).first_raw()
    );
    assert!(generation(&follower).first_raw().is_some());
    assert_eq!(said(generation(&follower)), said(generation(&leader)));
}

#[tokio::test(start_paused = true)]
async fn responses_upstream_is_relayed_under_each_generations_ids() {
    let response = |status: &str, more: &str| {
        format!(
            r#"{{"id":"resp_theirs","object":"response","status":"{status}","output":[]{more}}}"#
        )
    };
    let created = format!(
        r#"{{"type":"response.created","sequence_number":0,"response":{}}}"#,
        response("in_progress", "")
    );
    let delta = r#"{"type":"response.output_text.delta","sequence_number":4,"item_id":"m","output_index":0,"content_index":0,"delta":"Hi","unknown":{"a":1}}"#;
    let added = r#"{"type":"response.output_item.added","sequence_number":2,"output_index":0,"item":{"type":"message","id":"m","role":"assistant","status":"in_progress","content":[]}}"#;
    let end = |name: &str, more: &str| {
        format!(
            r#"{{"type":"response.{name}","sequence_number":9,"response":{}}}"#,
            response(name, more)
        )
    };
    for (what, script) in [
        (
            "completed",
            vec![
                created.clone(),
                added.into(),
                delta.into(),
                r#"{"type":"keepalive"}"#.into(),
                end("completed", r#","usage":{"total_tokens":2}"#),
            ],
        ),
        (
            "no lifecycle",
            vec![added.into(), delta.into(), end("completed", "")],
        ),
        (
            "a bare beginning",
            vec![
                r#"{"type":"response.created"}"#.into(),
                delta.into(),
                end("completed", ""),
            ],
        ),
        (
            "a keepalive first",
            vec![
                r#"{"type":"keepalive"}"#.into(),
                created.clone(),
                delta.into(),
                end("completed", ""),
            ],
        ),
        (
            "incomplete",
            vec![
                created.clone(),
                delta.into(),
                end(
                    "incomplete",
                    r#","incomplete_details":{"reason":"content_filter"}"#,
                ),
            ],
        ),
        (
            "failed",
            vec![
                created.clone(),
                delta.into(),
                end(
                    "failed",
                    r#","error":{"code":"overloaded","message":"Too much."}"#,
                ),
            ],
        ),
        (
            "cancelled",
            vec![created.clone(), delta.into(), end("cancelled", "")],
        ),
        (
            "an error",
            vec![
                created.clone(),
                delta.into(),
                r#"{"type":"error","error":{"code":"overloaded","message":"Too much."}}"#.into(),
            ],
        ),
        ("cut", vec![created.clone(), delta.into()]),
    ] {
        let test = TestEngine::new(EngineOptions {
            api: Api::Responses,
            ..options(true, true)
        });
        let (leader, call) = lead(&test, RESPONSES).await;
        let follower = join(&test, RESPONSES, Reused::Coalesced);
        for payload in &script {
            call.data(payload);
        }
        call.end(BodyEnd::Clean);
        let led = audit(generation(&leader)).await;
        let followed = audit(generation(&follower)).await;
        assert_eq!(
            said(generation(&follower)),
            said(generation(&leader)),
            "{what}"
        );
        assert_eq!(
            followed.object["id"],
            generation(&follower).meta().id.as_str(),
            "{what}"
        );
        assert_eq!(followed.object["usage"], led.object["usage"], "{what}");
        assert!(
            !followed.events.iter().any(|event| event
                .to_string()
                .contains(generation(&leader).meta().id.suffix())),
            "{what}"
        );
        settle().await;
        if what == "completed" {
            let hit = join(&test, RESPONSES, Reused::Hit);
            audit(generation(&hit)).await;
            assert_eq!(said(generation(&hit)), said(generation(&leader)), "{what}");
        }
        assert_eq!(test.upstream.waiting(), 0, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_that_differ_each_reach_the_upstream() {
    let test = coalescing();
    let base = || TestEngine::request(CHAT);
    let owned = |name: &str| StartRequest {
        owner: Owner::Named(name.into()),
        ..base()
    };
    let with_header = |name: &str, value: &str| StartRequest {
        headers: vec![(name.to_owned(), value.to_owned())],
        ..base()
    };
    let mut started = Vec::new();
    for request in [
        base(),
        owned("alice"),
        owned("bob"),
        owned("anonymous"),
        with_header("authorization", "Bearer one"),
        with_header("authorization", "Bearer two"),
        with_header("openai-organization", "Bearer one"),
        TestEngine::request(r#"{"stream":true,"messages":[{"role":"user","content":"hi "}]}"#),
        TestEngine::request(
            r#"{"stream":true,"messages":[{"role":"user","content":"hi"}],"model":"other"}"#,
        ),
        TestEngine::request(r#"{"input":"hi"}"#),
    ] {
        let one = test.start_request(request).unwrap();
        assert_eq!(one.reused, Some(Reused::Miss));
        started.push(one);
    }
    settle().await;
    assert_eq!(test.upstream.waiting(), started.len());

    // Headers that identify or trace the client make no difference.
    for request in [
        with_header("traceparent", "00-1"),
        with_header("x-request-id", "r"),
        StartRequest {
            route: "/elsewhere",
            ..base()
        },
    ] {
        assert_eq!(
            test.start_request(request).unwrap().reused,
            Some(Reused::Coalesced)
        );
    }
    assert_eq!(
        test.start_request(owned("alice")).unwrap().reused,
        Some(Reused::Coalesced)
    );
}

#[tokio::test(start_paused = true)]
async fn owners_share_when_the_configuration_says_so() {
    let mut options = options(true, false);
    options.reuse.across_owners = true;
    let test = TestEngine::new(options);
    let owned = |name: &str| StartRequest {
        owner: Owner::Named(name.into()),
        ..TestEngine::request(CHAT)
    };
    let leader = test.start_request(owned("alice")).unwrap();
    let call = test.upstream.call().await;
    let follower = test.start_request(owned("bob")).unwrap();
    assert_eq!(follower.reused, Some(Reused::Coalesced));
    complete(&call, "x");
    assert_eq!(audit(generation(&follower)).await.text, "x");
    let id = &generation(&follower).meta().id;
    assert!(
        test.find(id, &Owner::Named("alice".into())).is_err(),
        "another owner found the response"
    );
    assert!(test.find(id, &Owner::Named("bob".into())).is_ok());
    drop(leader);
}

#[tokio::test(start_paused = true)]
async fn freshness_new_and_private_ask_the_upstream() {
    let test = coalescing();
    let fresh = |freshness| StartRequest {
        freshness,
        ..TestEngine::request(CHAT)
    };
    let private = test.start_request(fresh(Freshness::Private)).unwrap();
    assert_eq!(private.reused, Some(Reused::Bypass));
    let (leader, _call) = lead(&test, CHAT).await;
    assert_eq!(test.upstream.waiting(), 1, "a private answer was followed");
    let anew = test.start_request(fresh(Freshness::New)).unwrap();
    assert_eq!(anew.reused, Some(Reused::Bypass));
    settle().await;
    assert_eq!(test.upstream.waiting(), 2);
    // The newest leader is followed, and the end of an older one does not change that.
    generation(&leader).cancel();
    generation(&leader).ended().await;
    settle().await;
    join(&test, CHAT, Reused::Coalesced);
    assert_eq!(test.upstream.waiting(), 2);
}

#[tokio::test(start_paused = true)]
async fn repeated_key_is_the_same_generation_and_no_cache_hit() {
    let test = TestEngine::new(options(true, true));
    let keyed = || StartRequest {
        idempotency_key: Some("k".to_owned()),
        ..TestEngine::request(SEEDED)
    };
    let first = test.start_request(keyed()).unwrap();
    let again = test.start_request(keyed()).unwrap();
    assert_eq!(generation(&first).meta().id, generation(&again).meta().id);
    assert_eq!((first.reused, again.reused), (Some(Reused::Miss), None));
}

// === Leaders that end early ===

#[tokio::test(start_paused = true)]
async fn leader_without_readers_runs_on_until_its_last_follower_leaves() {
    for grace in [Duration::ZERO, seconds(30)] {
        let test = TestEngine::new(EngineOptions {
            grace,
            ..options(true, false)
        });
        let (leader, call) = lead(&test, CHAT).await;
        let first = join(&test, CHAT, Reused::Coalesced);
        let second = join(&test, CHAT, Reused::Coalesced);
        call.token("a");
        settle().await;
        let led = generation(&leader).clone();
        drop(leader);
        tokio::time::sleep(seconds(300)).await;
        assert!(!call.is_gone(), "others read it");
        call.token("b");
        settle().await;
        let mut reader = Reader::new(generation(&second).attach(), 0, Dialect::Text);
        reader.read_now();
        assert_eq!(
            reader
                .lines()
                .iter()
                .map(|line| line.data.as_str())
                .collect::<String>(),
            "ab"
        );
        drop(reader);

        generation(&first).cancel();
        settle().await;
        assert!(!call.is_gone(), "one still reads it");
        let before = Instant::now();
        generation(&second).cancel();
        call.gone().await;
        assert!(
            before.elapsed() < Duration::from_millis(1),
            "the leader outlived its grace"
        );
        led.ended().await;
        assert_eq!(led.status(), Status::Cancelled);
        settle().await;
        nothing_is_remembered(&test);
    }
}

#[tokio::test(start_paused = true)]
async fn remaining_grace_applies_after_the_last_follower() {
    let test = coalescing();
    let (leader, call) = lead(&test, CHAT).await;
    let follower = join(&test, CHAT, Reused::Coalesced);
    call.token("a");
    settle().await;
    let left = Instant::now();
    drop(leader);
    tokio::time::sleep(seconds(10)).await;
    generation(&follower).cancel();
    call.gone().await;
    assert_eq!(
        left.elapsed().as_secs(),
        30,
        "ten seconds with a follower, twenty without"
    );
}

#[tokio::test(start_paused = true)]
async fn follower_has_its_own_grace() {
    let test = coalescing();
    let (leader, call) = lead(&test, CHAT).await;
    let follower = join(&test, CHAT, Reused::Coalesced);
    let followed = generation(&follower).clone();
    drop(follower);
    call.token("a");
    tokio::time::sleep(seconds(31)).await;
    assert_eq!(followed.status(), Status::Cancelled);
    complete(&call, "b");
    assert_eq!(audit(generation(&leader)).await.text, "ab");
}

#[tokio::test(start_paused = true)]
async fn follower_asks_the_upstream_if_its_leader_stops_before_the_first_chunk() {
    for delete in [false, true] {
        let test = coalescing();
        let (leader, call) = lead(&test, CHAT).await;
        let followers = [
            join(&test, CHAT, Reused::Coalesced),
            join(&test, CHAT, Reused::Coalesced),
            join(&test, CHAT, Reused::Coalesced),
        ];
        settle().await;
        if delete {
            test.engine.delete(generation(&leader)).await.unwrap();
        } else {
            generation(&leader).cancel();
        }
        call.gone().await;
        let second = test.upstream.call().await;
        settle().await;
        assert_eq!(test.upstream.waiting(), 0, "one asks for all");
        let late = join(&test, CHAT, Reused::Coalesced);
        complete(&second, "x");
        for follower in followers.iter().chain([&late]) {
            assert_eq!(
                audit(generation(follower)).await.object["status"],
                "completed"
            );
        }
        settle().await;
        nothing_is_remembered(&test);
    }
}

#[tokio::test(start_paused = true)]
async fn leader_stopped_after_the_first_chunk_fails_its_followers() {
    for delete in [false, true] {
        let test = coalescing();
        let (leader, call) = lead(&test, CHAT).await;
        let follower = join(&test, CHAT, Reused::Coalesced);
        call.token("a");
        settle().await;
        if delete {
            test.engine.delete(generation(&leader)).await.unwrap();
        } else {
            generation(&leader).cancel();
        }
        let audit = audit(generation(&follower)).await;
        assert_eq!(
            (code(&audit), audit.text.as_str()),
            (Some("shared_answer_lost"), "a")
        );
        assert_eq!(
            test.upstream.waiting(),
            0,
            "a started answer cannot be restarted"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn request_after_a_cancel_does_not_follow_what_was_cancelled() {
    for options in [options(true, false), options(true, true)] {
        let test = TestEngine::new(options);
        let (leader, call) = lead(&test, CHAT).await;
        call.token("a");
        settle().await;
        // Its driver has not had a turn yet.
        generation(&leader).cancel();
        let (second, call) = lead(&test, CHAT).await;
        complete(&call, "b");
        let audit = audit(generation(&second)).await;
        assert_eq!((code(&audit), audit.text.as_str()), (None, "b"));
    }
}

#[tokio::test(start_paused = true)]
async fn retryable_failure_is_retried_once_for_all_followers() {
    let test = coalescing();
    test.upstream.plan(OpeningPlan::Hold);
    let leader = test.start(CHAT);
    let call = test.upstream.call().await;
    let followers = [
        join(&test, CHAT, Reused::Coalesced),
        join(&test, CHAT, Reused::Coalesced),
        join(&test, CHAT, Reused::Coalesced),
    ];
    settle().await;
    let unreachable = || {
        OpenError::Failed(ApiError::new(
            ErrorCode::UpstreamUnreachable,
            "No connection.",
        ))
    };
    call.refuse(unreachable());
    assert_eq!(
        code(&audit(generation(&leader)).await),
        Some("upstream_unreachable")
    );
    let second = test.upstream.call().await;
    settle().await;
    assert_eq!(test.upstream.waiting(), 0);
    second.refuse(unreachable());
    for follower in &followers {
        let audit = audit(generation(follower)).await;
        assert_eq!(code(&audit), Some("upstream_unreachable"));
    }
    assert_eq!(test.upstream.waiting(), 0);
    settle().await;
    nothing_is_remembered(&test);
}

#[tokio::test(start_paused = true)]
async fn final_refusal_is_shared_with_followers() {
    let test = coalescing();
    test.upstream.plan(OpeningPlan::Hold);
    let leader = test.start(CHAT);
    let call = test.upstream.call().await;
    let follower = join(&test, CHAT, Reused::Coalesced);
    let body = r#"{"error":{"message":"No such thing.","code":"bad"}}"#;
    let refusal = OpenError::Refused(Refusal {
        status: 400,
        content_type: None,
        body: body.into(),
        headers: Vec::new(),
        should_retry: None,
    });
    call.refuse(refusal.clone());
    assert_eq!(
        generation(&follower).response_head().wait().await,
        Err(refusal)
    );
    assert_eq!(code(&audit(generation(&follower)).await), Some("bad"));
    assert_eq!(code(&audit(generation(&leader)).await), Some("bad"));
    assert_eq!(test.upstream.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn upstream_headers_are_shared_with_followers() {
    let test = coalescing();
    test.upstream.plan(OpeningPlan::Hold);
    let _leader = test.start(CHAT);
    let call = test.upstream.call().await;
    let follower = join(&test, CHAT, Reused::Coalesced);
    let head = UpstreamHead {
        headers: vec![("x-upstream-request-id".to_owned(), "u".to_owned())],
    };
    call.answer(head.clone());
    call.token("x");
    assert_eq!(generation(&follower).response_head().wait().await, Ok(head));
}

#[tokio::test(start_paused = true)]
async fn failed_leader_leaves_no_slot_behind() {
    let limits = LogLimits {
        bytes: 3000,
        events: 1000,
    };
    for how in ["a panic", "too large", "a clock", "shutdown"] {
        let timeouts = Timeouts {
            between_tokens: seconds(5),
            ..no_timeouts()
        };
        let test = TestEngine::new(EngineOptions {
            limits,
            timeouts,
            ..options(true, true)
        });
        let (leader, call) = lead(&test, SEEDED).await;
        let follower = join(&test, SEEDED, Reused::Coalesced);
        call.token("x");
        settle().await;
        match how {
            "a panic" => _ = call.panic(),
            "too large" => {
                for _ in 0..300 {
                    call.token("many words in a row");
                }
            }
            "shutdown" => test.engine.registry().stop_running(),
            _ => {}
        }
        let led = audit(generation(&leader)).await;
        let followed = audit(generation(&follower)).await;
        assert_eq!(code(&followed), code(&led), "{how}");
        assert!(code(&led).is_some(), "{how}");
        settle().await;
        nothing_is_remembered(&test);
        assert_eq!(test.engine.registry().open(), 0, "{how}");
    }
}

#[tokio::test(start_paused = true)]
async fn follower_timeouts_run_only_when_it_asks_the_upstream() {
    let timeouts = Timeouts {
        first_token: seconds(10),
        total: seconds(60),
        ..no_timeouts()
    };
    let test = TestEngine::new(EngineOptions {
        timeouts,
        ..options(true, false)
    });
    let (leader, call) = lead(&test, CHAT).await;
    tokio::time::sleep(seconds(9)).await;
    let follower = join(&test, CHAT, Reused::Coalesced);
    // The leader times out, which is retryable: the follower asks, with its full timeouts.
    tokio::time::sleep(seconds(2)).await;
    assert_eq!(
        code(&audit(generation(&leader)).await),
        Some("first_token_timeout")
    );
    call.gone().await;
    let second = test.upstream.call().await;
    tokio::time::sleep(seconds(9)).await;
    assert!(!second.is_gone());
    tokio::time::sleep(seconds(2)).await;
    assert_eq!(
        code(&audit(generation(&follower)).await),
        Some("first_token_timeout")
    );
}

#[tokio::test(start_paused = true)]
async fn background_follower_keeps_its_leader_running() {
    let test = coalescing();
    let (leader, call) = lead(&test, r#"{"input":"hi"}"#).await;
    let follower = join(
        &test,
        r#"{"input":"hi","background":true}"#,
        Reused::Coalesced,
    );
    let followed = generation(&follower).clone();
    drop((leader, follower));
    tokio::time::sleep(seconds(600)).await;
    assert!(!call.is_gone());
    complete(&call, "x");
    assert_eq!(
        audit(&followed).await.kinds()[..2],
        ["response.created", "response.queued"]
    );
}

// === Cache ===

#[tokio::test(start_paused = true)]
async fn cached_answer_is_replayed_unchanged() {
    for body in [
        SEEDED,
        RESPONSES,
        r#"{"stream":true,"messages":[{"role":"user","content":"hi"}],"temperature":0.0}"#,
    ] {
        let test = caching();
        let (started, call) = lead(&test, body).await;
        // Several read batches of the log.
        for number in 0..12 {
            call.token(&format!(" word{number}{}", "-".repeat(4000)));
        }
        complete(&call, ".");
        let first = generation(&started).clone();
        drop(started);
        first.ended().await;
        // Also at once, before the leader's slot is marked.
        for _ in 0..2 {
            let hit = join(&test, body, Reused::Hit);
            generation(&hit).ended().await;
            assert_eq!(said(generation(&hit)), said(&first));
            assert_ne!(generation(&hit).meta().id, first.meta().id);
            settle().await;
        }
        assert_eq!(test.upstream.waiting(), 0);
        assert_eq!(
            test.reuse.as_ref().unwrap().counts(),
            (1, 0),
            "a hit is not kept a second time"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn only_deterministic_requests_are_cached() {
    for body in [
        CHAT,
        r#"{"stream":true,"messages":[{"role":"user","content":"hi"}],"temperature":0.1}"#,
        r#"{"stream":true,"messages":[{"role":"user","content":"hi"}],"seed":null}"#,
        r#"{"stream":true,"messages":[{"role":"user","content":"hi"}],"temperature":"0"}"#,
        r#"{"stream":true,"messages":[{"role":"user","content":"\"seed\":1"}],"metadata":{"temperature":0}}"#,
    ] {
        let test = caching();
        for _ in 0..2 {
            let started = test.start(body);
            assert_eq!(started.reused, Some(Reused::Bypass), "{body}");
            complete(&test.upstream.call().await, "x");
            generation(&started).ended().await;
            settle().await;
        }
        nothing_is_remembered(&test);
    }
}

#[tokio::test(start_paused = true)]
async fn without_coalescing_concurrent_requests_each_reach_the_upstream() {
    let test = caching();
    let (_first, call) = lead(&test, SEEDED).await;
    let (_second, other) = lead(&test, SEEDED).await;
    complete(&call, "first");
    complete(&other, "second");
    settle().await;
    assert_eq!(
        audit(generation(&join(&test, SEEDED, Reused::Hit)))
            .await
            .text,
        "first"
    );
}

#[tokio::test(start_paused = true)]
async fn only_completed_answers_are_cached() {
    for how in ["length", "cut", "cancelled", "error"] {
        let test = caching();
        let (started, call) = lead(&test, SEEDED).await;
        call.token("x");
        settle().await;
        match how {
            "length" => _ = call.finish("length").done().end(BodyEnd::Clean),
            "cut" => _ = call.end(BodyEnd::Broken),
            "cancelled" => generation(&started).cancel(),
            _ => _ = call.data(r#"{"error":{"message":"no"}}"#),
        }
        generation(&started).ended().await;
        lead(&test, SEEDED).await;
        settle().await;
        assert_eq!(test.reuse.as_ref().unwrap().counts().0, 0, "{how}");
    }
}

#[tokio::test(start_paused = true)]
async fn cached_answer_expires_after_its_ttl() {
    let mut options = options(false, true);
    options.reuse.ttl = seconds(60);
    let test = TestEngine::new(options);
    kept(&test, SEEDED, "x").await;
    tokio::time::sleep(seconds(58)).await;
    generation(&join(&test, SEEDED, Reused::Hit)).ended().await;
    tokio::time::sleep(seconds(2)).await;
    let (_, call) = lead(&test, SEEDED).await;
    complete(&call, "y");
    settle().await;
    assert_eq!(
        audit(generation(&join(&test, SEEDED, Reused::Hit)))
            .await
            .text,
        "y"
    );
}

#[tokio::test(start_paused = true)]
async fn replaced_answer_does_not_expire_its_successor() {
    let mut options = options(false, true);
    options.reuse.ttl = seconds(60);
    let test = TestEngine::new(options);
    kept(&test, SEEDED, "old").await;
    tokio::time::sleep(seconds(30)).await;
    let anew = test
        .start_request(StartRequest {
            freshness: Freshness::New,
            ..TestEngine::request(SEEDED)
        })
        .unwrap();
    complete(&test.upstream.call().await, "new");
    generation(&anew).ended().await;
    tokio::time::sleep(seconds(40)).await;
    assert_eq!(
        audit(generation(&join(&test, SEEDED, Reused::Hit)))
            .await
            .text,
        "new"
    );
}

#[tokio::test(start_paused = true)]
async fn log_is_kept_while_another_generation_replays_it() {
    let mut options = options(false, true);
    options.reuse.pace = 1;
    options.reuse.ttl = seconds(5);
    options.retention.events = seconds(5);
    let test = TestEngine::new(options);
    let (started, call) = lead(&test, SEEDED).await;
    // More than one read batch.
    for number in 0..20 {
        call.token(&format!(" w{number}{}", "-".repeat(4000)));
    }
    complete(&call, ".");
    let first = generation(&started).clone();
    drop(started);
    first.ended().await;
    settle().await;
    let hit = join(&test, SEEDED, Reused::Hit);
    tokio::time::sleep(seconds(10)).await;
    test.engine.registry().sweep(Instant::now());
    assert_eq!(
        audit(generation(&hit))
            .await
            .text
            .split_whitespace()
            .count(),
        20
    );
    settle().await;
    test.engine.registry().sweep(Instant::now());
    assert!(first.tail().is_err(), "and no longer");
}

#[tokio::test(start_paused = true)]
async fn cache_entries_are_bounded_and_the_oldest_are_dropped() {
    let mut options = options(false, true);
    options.reuse.entries = 3;
    let test = TestEngine::new(options);
    let body = |number: u32| format!(r#"{{"input":"question {number}","seed":1}}"#);
    for number in 0..5 {
        kept(&test, &body(number), "x").await;
        assert!(test.reuse.as_ref().unwrap().counts().0 <= 3);
    }
    for number in 2..5 {
        join(&test, &body(number), Reused::Hit);
    }
    lead(&test, &body(0)).await;
}

#[tokio::test(start_paused = true)]
async fn expired_answer_is_asked_for_again() {
    let test = caching();
    let deleted = kept(&test, SEEDED, "x").await;
    test.engine.delete(&deleted).await.unwrap();
    let unstored = r#"{"input":"hi","seed":1,"store":false}"#;
    kept(&test, unstored, "x").await;
    kept(&test, RESPONSES, "x").await;
    drop(deleted);
    lead(&test, SEEDED).await;
    // The log expires between the request and its first read.
    let hit = join(&test, unstored, Reused::Hit);
    tokio::time::advance(seconds(601)).await;
    test.engine.registry().sweep(Instant::now());
    assert_eq!(
        audit(generation(&hit)).await.text,
        "x",
        "what is read is kept"
    );
    drop(hit);
    test.engine.registry().sweep(Instant::now());
    lead(&test, unstored).await;
    lead(&test, RESPONSES).await;
}

#[tokio::test(start_paused = true)]
async fn cache_hit_asks_the_upstream_if_the_log_expires_first() {
    let test = caching();
    let first = kept(&test, SEEDED, "x").await;
    let hit = join(&test, SEEDED, Reused::Hit);
    test.engine.delete(&first).await.unwrap();
    complete(&test.upstream.call().await, "y");
    assert_eq!(audit(generation(&hit)).await.text, "y");
}

#[tokio::test(start_paused = true)]
async fn fresh_answer_replaces_the_cached_one() {
    let test = caching();
    kept(&test, SEEDED, "old").await;
    let anew = test
        .start_request(StartRequest {
            freshness: Freshness::New,
            ..TestEngine::request(SEEDED)
        })
        .unwrap();
    assert_eq!(anew.reused, Some(Reused::Bypass));
    complete(&test.upstream.call().await, "new");
    generation(&anew).ended().await;
    settle().await;
    let private = test
        .start_request(StartRequest {
            freshness: Freshness::Private,
            ..TestEngine::request(SEEDED)
        })
        .unwrap();
    complete(&test.upstream.call().await, "private");
    generation(&private).ended().await;
    settle().await;
    assert_eq!(
        audit(generation(&join(&test, SEEDED, Reused::Hit)))
            .await
            .text,
        "new"
    );
}

#[tokio::test(start_paused = true)]
async fn paced_replay_does_not_trip_timeouts() {
    let mut options = options(false, true);
    options.reuse.pace = 4;
    let timeouts = Timeouts {
        first_token: seconds(60),
        between_tokens: Duration::from_millis(100),
        total: seconds(5),
        ..no_timeouts()
    };
    let test = TestEngine::new(EngineOptions {
        timeouts,
        ..options
    });
    let (started, call) = lead(&test, SEEDED).await;
    for number in 0..40 {
        call.token(&format!(" w{number}"));
    }
    call.finish("stop").done().end(BodyEnd::Clean);
    generation(&started).ended().await;
    settle().await;
    let began = Instant::now();
    let hit = join(&test, SEEDED, Reused::Hit);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let mut reader = Reader::new(generation(&hit).attach(), 0, Dialect::Text);
    reader.read_now();
    let text: String = reader
        .lines()
        .iter()
        .map(|line| line.data.as_str())
        .collect();
    assert_eq!(
        text.split_whitespace().count(),
        9,
        "one at once, and four a second: {text}"
    );
    generation(&hit).ended().await;
    assert_eq!(
        began.elapsed().as_millis() / 10,
        975,
        "thirty-nine quarters of a second"
    );
    assert_eq!(said(generation(&hit)), said(generation(&started)));
}

// === Observer ===

#[derive(Debug, Default)]
struct Diary(Mutex<Vec<Value>>);

impl Observer for Diary {
    fn started(&self, start: &GenerationStart<'_>) {
        self.0.lock().push(json!([
            format!("{:?}", start.asked_in),
            start.reused.map(Reused::as_str)
        ]));
    }

    fn ended(&self, end: &GenerationEnd<'_>) {
        let first = end.first_token.map(|after| after.as_secs());
        self.0.lock().push(json!([
            end.status.as_str(),
            end.code,
            end.endpoint,
            end.events,
            end.tokens,
            first,
            end.duration.as_secs()
        ]));
    }
}

#[tokio::test(start_paused = true)]
async fn observer_is_called_once_per_start_and_end() {
    let diary = Arc::new(Diary::default());
    let test = TestEngine::new(options(true, true)).observed_by(diary.clone());
    let told = || std::mem::take(&mut *diary.0.lock());

    let (started, call) = lead(&test, SEEDED).await;
    tokio::time::sleep(seconds(2)).await;
    call.token("a").token("b");
    tokio::time::sleep(seconds(3)).await;
    complete(&call, "c");
    let audit = audit(generation(&started)).await;
    settle().await;
    let events = audit.events.len();
    assert_eq!(
        told(),
        [
            json!(["Chat", "miss"]),
            json!(["completed", null, 0, events, 3, 2, 5])
        ]
    );

    let hit = join(&test, SEEDED, Reused::Hit);
    generation(&hit).ended().await;
    settle().await;
    assert_eq!(
        told(),
        [
            json!(["Chat", "hit"]),
            json!(["completed", null, null, events, 3, 0, 0])
        ]
    );

    let (started, call) = lead(&test, CHAT).await;
    let follower = join(&test, CHAT, Reused::Coalesced);
    call.token("x").end(BodyEnd::Broken);
    generation(&follower).ended().await;
    settle().await;
    let told_of: Vec<_> = told()
        .into_iter()
        .map(|line| json!([line[0], line[1], line[2]]))
        .collect();
    assert_eq!(
        told_of[2..],
        [
            json!(["failed", "upstream_truncated", 0]),
            json!(["failed", "upstream_truncated", null])
        ]
    );
    drop(started);

    let (started, call) = lead(&test, CHAT).await;
    call.token("x");
    settle().await;
    test.engine.delete(generation(&started)).await.unwrap();
    call.gone().await;
    settle().await;
    let (started, call) = lead(&test, CHAT).await;
    call.panic();
    generation(&started).ended().await;
    settle().await;
    let ends: Vec<_> = told()
        .into_iter()
        .filter(|line| line[3].is_number())
        .map(|line| json!([line[0], line[1], line[2]]))
        .collect();
    assert_eq!(
        ends,
        [
            json!(["cancelled", null, 0]),
            json!(["failed", "internal_error", 0])
        ]
    );
}
