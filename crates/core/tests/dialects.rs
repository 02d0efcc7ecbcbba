//! Chat upstream streams and their rendering in every dialect.
//!
//! Each case passes through decoder, translator, log and dialects. [`Audit::of`] checks what holds
//! for every stream; a case states only its particular result.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use tokenwire_core::dialect::Dialect;
use tokenwire_core::model::snapshot::Api;
use tokenwire_core::upstream::translate::{BodyEnd, ChatTranslator, RecordWriter};
use tokenwire_testkit::{Audit, EngineOptions, Reader, TestEngine};

/// The result in words: `status` or `status: why`, the items in order, the usage as
/// `in/out/total`.
#[derive(Debug, PartialEq)]
struct Came {
    end: String,
    items: Vec<String>,
    usage: String,
}

fn came(audit: &Audit) -> Came {
    let object = &audit.object;
    let status = object["status"].as_str().unwrap();
    let why = object["error"]["code"]
        .as_str()
        .or_else(|| object["incomplete_details"]["reason"].as_str());
    let item = |item: &serde_json::Value| {
        let parts = || {
            let parts = item["content"].as_array().unwrap().iter();
            let part = |part: &serde_json::Value| match part["type"].as_str().unwrap() {
                "refusal" => format!("!{}", part["refusal"].as_str().unwrap()),
                _ => part["text"].as_str().unwrap().to_owned(),
            };
            parts.map(part).collect::<Vec<_>>().join("|")
        };
        match item["type"].as_str().unwrap() {
            "message" => format!("says {}", parts()),
            "reasoning" => format!("thinks {}", parts()),
            "custom_tool_call" => format!(
                "runs {}({})",
                item["name"].as_str().unwrap(),
                item["input"].as_str().unwrap()
            ),
            "image_generation_call" => {
                format!("shows {}", item["result"].as_str().unwrap_or("a URL"))
            }
            _ => format!(
                "calls {}({})",
                item["name"].as_str().unwrap(),
                item["arguments"].as_str().unwrap()
            ),
        }
    };
    let usage = &object["usage"];
    Came {
        end: why.map_or_else(|| status.to_owned(), |why| format!("{status}: {why}")),
        items: object["output"]
            .as_array()
            .unwrap()
            .iter()
            .map(item)
            .collect(),
        usage: if usage.is_null() {
            String::new()
        } else {
            format!(
                "{}/{}/{}",
                usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]
            )
        },
    }
}

/// How the body ends after the payloads.
#[derive(Clone, Copy, Debug, PartialEq)]
enum After {
    Done,
    Close,
}
use After::{Close, Done};

fn play(n: u32, payloads: &[&str], after: After) -> Audit {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let test = TestEngine::new(EngineOptions {
            api: Api::Chat,
            ..EngineOptions::default()
        });
        let started = test.start(&format!(
            r#"{{"messages":[{{"role":"user","content":"hi"}}],"n":{n},"stream_options":{{"include_usage":true}}}}"#
        ));
        let call = test.upstream.call().await;
        for payload in payloads {
            call.data(payload);
        }
        if after == Done {
            call.done();
        }
        call.end(BodyEnd::Clean);
        started.guard.generation().ended().await;
        Audit::of(started.guard.generation())
    })
}

/// Plays the payloads, checks that a chat client gets each of them byte for byte, and compares the
/// result.
fn check_n(
    n: u32,
    payloads: &[&str],
    after: After,
    end: &str,
    items: &[&str],
    usage: &str,
) -> Audit {
    let audit = play(n, payloads, after);
    let expected = Came {
        end: end.to_owned(),
        items: items.iter().map(|item| (*item).to_owned()).collect(),
        usage: usage.to_owned(),
    };
    assert_eq!(came(&audit), expected, "{payloads:#?}");

    let mut chat: Vec<&str> = audit.chat.iter().map(String::as_str).collect();
    if end.starts_with("failed") {
        assert!(!chat.contains(&"[DONE]"), "[DONE] after a failure");
        if chat.len() > payloads.len() {
            assert!(chat.pop().unwrap().starts_with(r#"{"error":{"#));
        }
    } else {
        assert_eq!(chat.pop(), Some("[DONE]"));
    }
    let sent: Vec<&str> = payloads
        .iter()
        .copied()
        .take_while(|payload| serde_json::from_str::<serde_json::Value>(payload).is_ok())
        .collect();
    if sent.len() == payloads.len() {
        assert_eq!(chat, sent, "payloads changed on their way");
    }
    audit
}

fn check(payloads: &[&str], after: After, end: &str, items: &[&str], usage: &str) -> Audit {
    check_n(1, payloads, after, end, items, usage)
}

/// A chunk with this choice and further members.
fn chunk(index: u32, delta: &str, finish: Option<&str>, beside: &str) -> String {
    let finish = finish.map_or("null".to_owned(), |finish| format!("\"{finish}\""));
    format!(
        r#"{{"id":"c","object":"chat.completion.chunk","choices":[{{"index":{index},"delta":{delta},"finish_reason":{finish}}}]{beside}}}"#
    )
}

fn says(text: &str) -> String {
    chunk(0, &format!(r#"{{"content":"{text}"}}"#), None, "")
}

fn finish(reason: &str) -> String {
    chunk(0, "{}", Some(reason), "")
}

/// A piece of a call with these members.
fn call(members: &str) -> String {
    chunk(0, &format!(r#"{{"tool_calls":[{{{members}}}]}}"#), None, "")
}

macro_rules! list {
    ($($payload:expr),* $(,)?) => { &[$(AsRef::<str>::as_ref(&$payload)),*] };
}

const USAGE: &str =
    r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#;
const COUNTED: &str = r#","usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}"#;

// === Texts ===

#[test]
fn plain_text_chunks() {
    let role = chunk(0, r#"{"role":"assistant","content":""}"#, None, "");
    let audit = check(
        list![
            role,
            says("H"),
            says("el"),
            says("lo"),
            finish("stop"),
            USAGE
        ],
        Done,
        "completed",
        &["says Hello"],
        "3/4/7",
    );
    assert_eq!(audit.text, "Hello");
    assert_eq!(
        audit.kinds(),
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "tokenwire:chunk",
            "response.completed",
        ]
    );
}

#[test]
fn escaped_text_is_relayed_unchanged() {
    let audit = check(
        list![
            says(r#"a\"b\\"#),
            says(r"\n\t\u00e9"),
            says(r"\ud83d\ude00"),
            says("ä€😊"),
            says(r"\/"),
            finish("stop")
        ],
        Done,
        "completed",
        &["says a\"b\\\n\té😀ä€😊/"],
        "",
    );
    assert_eq!(audit.text, "a\"b\\\n\té😀ä€😊/");
}

#[test]
fn surrogate_pair_split_between_chunks_is_preserved() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let test = TestEngine::new(EngineOptions::default());
        let started = test.start(r#"{"messages":[{"role":"user","content":"hi"}]}"#);
        let call = test.upstream.call().await;
        // Half a pair is not valid text, so most JSON readers cannot check these events one by one.
        for half in [r"a\ud83d", r"\ude00b", r"\ud83d", r"\ude00"] {
            call.data(&says(half));
        }
        call.data(&finish("stop")).done().end(BodyEnd::Clean);
        let generation = started.guard.generation().clone();
        generation.ended().await;
        let mut text = Reader::new(started.guard, 0, Dialect::Text);
        text.read_now();
        assert_eq!(
            text.lines()
                .into_iter()
                .map(|line| line.data)
                .collect::<String>(),
            "a😀b😀"
        );
        let object: serde_json::Value =
            serde_json::from_slice(&generation.response_json()).unwrap();
        assert_eq!(object["output"][0]["content"][0]["text"], "a😀b😀");
    });
}

/// The events of one item with a text in two deltas, from an upstream that speaks Responses.
fn relayed(item: &str, delta: &str, member: &str) -> Vec<String> {
    let mut events = vec![
        r#"{"type":"response.created","response":{"id":"r","status":"in_progress","output":[]}}"#
            .to_owned(),
        format!(
            r#"{{"type":"response.output_item.added","output_index":0,"item":{{"id":"i","status":"in_progress",{item}}}}}"#
        ),
    ];
    for half in [r"a\ud83d", r"\ude00b"] {
        events.push(format!(r#"{{"type":"response.{delta}.delta","item_id":"i","output_index":0,{member}"delta":"{half}"}}"#));
    }
    events.push(
        r#"{"type":"response.completed","response":{"id":"r","status":"completed","output":[]}}"#
            .to_owned(),
    );
    events
}

#[test]
fn surrogate_pair_is_whole_in_every_kind_of_text() {
    let halves = |delta: fn(&str) -> String, reason: &str| {
        let mut payloads: Vec<String> = [r"a\ud83d", r"\ude00b"].map(delta).into();
        payloads.push(finish(reason));
        payloads.push("[DONE]".to_owned());
        payloads
    };
    let text = "/content/0/text";
    let cases: [(Api, Vec<String>, &str); 9] = [
        (
            Api::Chat,
            halves(
                |half| chunk(0, &format!(r#"{{"reasoning_content":"{half}"}}"#), None, ""),
                "stop",
            ),
            text,
        ),
        (
            Api::Chat,
            halves(
                |half| {
                    let details = format!(
                        r#"{{"reasoning_details":[{{"type":"reasoning.text","text":"{half}"}}]}}"#
                    );
                    chunk(0, &details, None, "")
                },
                "stop",
            ),
            text,
        ),
        (
            Api::Chat,
            halves(
                |half| chunk(0, &format!(r#"{{"refusal":"{half}"}}"#), None, ""),
                "stop",
            ),
            "/content/0/refusal",
        ),
        (
            Api::Chat,
            halves(
                |half| {
                    call(&format!(
                        r#""index":0,"id":"c","function":{{"name":"f","arguments":"{half}"}}"#
                    ))
                },
                "tool_calls",
            ),
            "/arguments",
        ),
        (
            Api::Responses,
            relayed(
                r#""type":"message","role":"assistant","content":[]"#,
                "output_text",
                r#""content_index":0,"#,
            ),
            text,
        ),
        (
            Api::Responses,
            relayed(
                r#""type":"message","role":"assistant","content":[]"#,
                "refusal",
                r#""content_index":0,"#,
            ),
            "/content/0/refusal",
        ),
        (
            Api::Responses,
            relayed(
                r#""type":"reasoning","summary":[],"content":[]"#,
                "reasoning_text",
                r#""content_index":0,"#,
            ),
            text,
        ),
        (
            Api::Responses,
            relayed(
                r#""type":"function_call","call_id":"c","name":"f","arguments":"""#,
                "function_call_arguments",
                "",
            ),
            "/arguments",
        ),
        (
            Api::Responses,
            relayed(
                r#""type":"custom_tool_call","call_id":"c","name":"f","input":"""#,
                "custom_tool_call_input",
                "",
            ),
            "/input",
        ),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        for (api, payloads, place) in cases {
            let test = TestEngine::new(EngineOptions {
                api,
                ..EngineOptions::default()
            });
            let started = test.start(r#"{"input":"hi"}"#);
            let upstream = test.upstream.call().await;
            for payload in &payloads {
                upstream.data(payload);
            }
            upstream.end(BodyEnd::Clean);
            let generation = started.guard.generation().clone();
            generation.ended().await;
            let object: serde_json::Value =
                serde_json::from_slice(&generation.response_json()).unwrap();
            let found = object["output"][0].pointer(place);
            assert_eq!(found, Some(&"a😀b".into()), "{payloads:?}\n{object}");
        }
    });
}

#[test]
fn reasoning_followed_by_text() {
    for name in ["reasoning_content", "reasoning"] {
        let thinks = |text: &str| {
            chunk(
                0,
                &format!(r#"{{"{name}":"{text}","content":null}}"#),
                None,
                "",
            )
        };
        check(
            list![
                thinks("Hm"),
                thinks("m."),
                says("Ye"),
                says("s"),
                finish("stop")
            ],
            Done,
            "completed",
            &["thinks Hmm.", "says Yes"],
            "",
        );
    }
}

#[test]
fn reasoning_under_two_names_is_not_doubled() {
    let both = chunk(
        0,
        r#"{"reasoning_content":"Hm","reasoning":"Hm","reasoning_details":[{"text":"Hm"}]}"#,
        None,
        "",
    );
    check(
        list![both, both, says("x"), finish("stop")],
        Done,
        "completed",
        &["thinks HmHm", "says x"],
        "",
    );
}

#[test]
fn reasoning_and_text_in_one_delta() {
    let both = chunk(0, r#"{"content":"a","reasoning":"b"}"#, None, "");
    check(
        list![both, both, finish("stop")],
        Done,
        "completed",
        &["thinks bb", "says aa"],
        "",
    );
}

#[test]
fn refusal_chunks() {
    let refuses = |text: &str| chunk(0, &format!(r#"{{"refusal":"{text}"}}"#), None, "");
    let audit = check(
        list![refuses("I "), refuses("won't"), finish("stop")],
        Done,
        "completed",
        &["says !I won't"],
        "",
    );
    assert_eq!(audit.text, "I won't");
    let audit = check(
        list![says("Well, "), refuses("no"), finish("stop")],
        Done,
        "completed",
        &["says Well, |!no"],
        "",
    );
    assert_eq!(audit.text, "Well, no");
}

#[test]
fn content_as_list_of_parts() {
    let list = chunk(
        0,
        r#"{"content":[{"type":"thinking","thinking":[{"type":"text","text":"a"}]},{"type":"text","text":"b"},{"type":"reference","ids":[1]}]}"#,
        None,
        "",
    );
    check(
        list![says(""), list, list, says("c"), finish("stop")],
        Done,
        "completed",
        &["thinks aa", "says bbc"],
        "",
    );
}

#[test]
fn repeated_annotations_are_numbered() {
    let cites = chunk(
        0,
        r#"{"content":"","annotations":[{"type":"url_citation","url_citation":{"url":"u","title":"t"}}]}"#,
        None,
        "",
    );
    let audit = check(
        list![says("x"), cites, cites, finish("stop")],
        Done,
        "completed",
        &["says x"],
        "",
    );
    let numbers: Vec<_> = audit
        .events_of("response.output_text.annotation.added")
        .map(|event| event["annotation_index"].as_u64())
        .collect();
    assert_eq!(numbers, [Some(0), Some(1)]);
}

#[test]
fn logprobs_are_attached_to_their_text() {
    let token = |text: &str| {
        format!(
            r#"{{"choices":[{{"index":0,"delta":{{"content":"{text}"}},"logprobs":{{"content":[{{"token":"{text}","logprob":-0.5}}],"refusal":null}},"finish_reason":null}}]}}"#
        )
    };
    let audit = check(
        list![token("a"), token("b"), finish("stop")],
        Done,
        "completed",
        &["says ab"],
        "",
    );
    for (event, text) in audit
        .events_of("response.output_text.delta")
        .zip(["a", "b"])
    {
        assert_eq!(event["logprobs"][0]["token"], text);
        assert_eq!(
            event["logprobs"][0]["bytes"][0],
            u64::from(text.as_bytes()[0])
        );
        assert_eq!(event["logprobs"][0]["top_logprobs"], serde_json::json!([]));
    }
    let part = &audit.object["output"][0]["content"][0];
    assert_eq!(part["logprobs"].as_array().unwrap().len(), 2);
    assert_eq!(
        audit.events_of("response.output_text.done").next().unwrap()["logprobs"],
        part["logprobs"]
    );
}

#[test]
fn padding_of_varying_length_matches_template() {
    let padded = |text: &str, padding: &str| {
        chunk(
            0,
            &format!(r#"{{"content":"{text}"}}"#),
            None,
            &format!(r#","obfuscation":"{padding}""#),
        )
    };
    check(
        list![
            padded("a", "xyz"),
            padded("b", ""),
            padded("c", "q"),
            padded("", "w"),
            padded("d", "er"),
            finish("stop")
        ],
        Done,
        "completed",
        &["says abcd"],
        "",
    );
}

#[test]
fn chunk_ids_that_change_are_accepted() {
    let odd = |id: u32| {
        format!(r#"{{"id":"c{id}","choices":[{{"index":0,"delta":{{"content":"{id}"}}}}]}}"#)
    };
    let payloads: Vec<String> = (0..60).map(odd).chain([finish("stop")]).collect();
    let payloads: Vec<&str> = payloads.iter().map(String::as_str).collect();
    let text: String = (0..60).map(|id| id.to_string()).collect();
    check(&payloads, Done, "completed", &[&format!("says {text}")], "");
}

// === Finish reasons ===

#[test]
fn finish_reasons_map_by_meaning() {
    for (reason, end) in [
        ("stop", "completed"),
        ("eos_token", "completed"),
        ("max_tokens", "incomplete: max_output_tokens"),
        ("tool_calls", "completed"),
        ("length", "incomplete: max_output_tokens"),
        ("MAX_TOKENS", "incomplete: max_output_tokens"),
        ("content_filter", "incomplete: content_filter"),
        (
            "function_call_filter: MALFORMED_FUNCTION_CALL",
            "incomplete: content_filter",
        ),
        ("error", "failed: upstream_error"),
        ("network_error", "failed: upstream_error"),
    ] {
        check(list![says("x"), finish(reason)], Done, end, &["says x"], "");
        check(
            list![says("x"), finish(reason)],
            Close,
            end,
            &["says x"],
            "",
        );
    }
}

#[test]
fn empty_finish_reason_is_no_finish() {
    for reason in ["", "null", "NULL"] {
        let says = |text: &str| chunk(0, &format!(r#"{{"content":"{text}"}}"#), Some(reason), "");
        let payloads = [says("a"), says("b"), says("c")];
        let payloads: Vec<&str> = payloads.iter().map(String::as_str).collect();
        check(&payloads, Done, "completed", &["says abc"], "");
        check(
            &payloads,
            Close,
            "failed: upstream_truncated",
            &["says abc"],
            "",
        );
    }
}

#[test]
fn text_in_the_finish_chunk_is_kept() {
    let last = chunk(0, r#"{"content":"z"}"#, Some("stop"), COUNTED);
    check(
        list![says("x"), says("y"), last],
        Done,
        "completed",
        &["says xyz"],
        "3/4/7",
    );
    check(list![last], Close, "completed", &["says z"], "3/4/7");
}

#[test]
fn text_after_the_finish_opens_another_message() {
    let audit = check(
        list![
            says("a"),
            says("b"),
            finish("stop"),
            says("c"),
            says("d"),
            says("e"),
            finish("stop")
        ],
        Done,
        "completed",
        &["says ab", "says cde"],
        "",
    );
    assert_eq!(audit.text, "abcde");
}

#[test]
fn second_finish_reason_is_ignored() {
    check(
        list![
            says("a"),
            finish("stop"),
            chunk(0, "{}", Some("stop"), COUNTED)
        ],
        Done,
        "completed",
        &["says a"],
        "3/4/7",
    );
    check(
        list![says("a"), finish("length"), finish("stop")],
        Done,
        "incomplete: max_output_tokens",
        &["says a"],
        "",
    );
}

#[test]
fn done_without_finish_reason_completes() {
    check(list![says("x")], Done, "completed", &["says x"], "");
}

#[test]
fn missing_finish_reason_and_done_is_truncation() {
    check(
        list![says("x")],
        Close,
        "failed: upstream_truncated",
        &["says x"],
        "",
    );
    check(list![], Close, "failed: upstream_truncated", &[], "");
    check(
        list![r#"{"choices":[]}"#],
        Close,
        "failed: upstream_truncated",
        &[],
        "",
    );
}

// === Usage ===

#[test]
fn usage_is_found_in_every_place() {
    let inside = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop","usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}]}"#;
    check(
        list![says("x"), inside],
        Done,
        "completed",
        &["says x"],
        "3/4/7",
    );
    let groq = format!(
        r#"{{"choices":[{{"index":0,"delta":{{}},"finish_reason":"stop"}}],"x_groq":{{"id":"r"{COUNTED}}}}}"#
    );
    check(
        list![says("x"), groq],
        Done,
        "completed",
        &["says x"],
        "3/4/7",
    );
    check(
        list![says("x"), USAGE, finish("stop")],
        Done,
        "completed",
        &["says x"],
        "3/4/7",
    );
    check(
        list![says("x"), finish("stop"), USAGE, r#"{"choices":[]}"#],
        Done,
        "completed",
        &["says x"],
        "3/4/7",
    );
    check(
        list![says("x"), finish("stop"), USAGE, USAGE],
        Done,
        "completed",
        &["says x"],
        "3/4/7",
    );
}

#[test]
fn last_of_repeated_usage_counts() {
    let counted = |text: &str, count: u32| {
        chunk(
            0,
            &format!(r#"{{"content":"{text}"}}"#),
            None,
            &format!(
                r#","usage":{{"prompt_tokens":3,"completion_tokens":{count},"total_tokens":{}}}"#,
                count + 3
            ),
        )
    };
    check(
        list![
            counted("a", 1),
            counted("b", 2),
            counted("c", 3),
            finish("stop")
        ],
        Done,
        "completed",
        &["says abc"],
        "3/3/6",
    );
}

#[test]
fn usage_chunk_is_a_record_of_its_own() {
    let audit = check(
        list![says("x"), finish("stop"), USAGE],
        Done,
        "completed",
        &["says x"],
        "3/4/7",
    );
    let chunks: Vec<_> = audit.events_of("tokenwire:chunk").collect();
    assert_eq!(chunks.len(), 1);
    assert_eq!(chunks[0]["chunk"].to_string(), json(USAGE).to_string());
    assert_eq!(audit.kinds().last(), Some(&"response.completed"));
    // It has its own number: the finish chunk's is below, that of `[DONE]` above.
    let [.., (finished, _), (usage, data), (done, last)] = &audit.chat_numbers[..] else {
        panic!("{:?}", audit.chat_numbers)
    };
    assert_eq!((data.as_str(), last.as_str()), (USAGE, "[DONE]"));
    assert_eq!(chunks[0]["sequence_number"], *usage);
    assert!(finished < usage && usage < done);
    assert_eq!(*done, audit.events.last().unwrap()["sequence_number"]);
    // It waits for the next chunk.
    let audit = check(
        list![says("x"), USAGE, says("y"), finish("stop")],
        Done,
        "completed",
        &["says xy"],
        "3/4/7",
    );
    assert_eq!(audit.events_of("tokenwire:chunk").count(), 1);
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn usage_chunk_that_was_not_requested_is_hidden_from_chat() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let beside = chunk(0, "{}", Some("stop"), COUNTED);
    let vendor = r#"{"choices":[],"x_groq":{"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}}"#;
    let empty = r#"{"choices":[],"usage":null}"#;
    let filter = r#"{"choices":[],"prompt_filter_results":[]}"#;
    let play = |request: &str| {
        runtime.block_on(async {
            let test = TestEngine::new(EngineOptions::default());
            let started = test.start(request);
            let call = test.upstream.call().await;
            let role = chunk(0, r#"{"role":"assistant"}"#, None, "");
            for payload in [&role, &says("x"), &beside] {
                call.data(payload);
            }
            for payload in [USAGE, vendor, empty, filter, USAGE] {
                call.data(payload);
            }
            call.done().end(BodyEnd::Clean);
            started.guard.generation().ended().await;
            Audit::of(started.guard.generation())
        })
    };
    let hidden = |payload: &str| payload != USAGE && payload != vendor;
    let counted = r#"{"messages":[{"role":"user","content":"hi"}],"stream":true,"stream_options":{"include_usage":true}}"#;
    let asked = play(counted);
    // Usage beside a choice stays: the chunk is the upstream's.
    assert!(asked.chat.contains(&beside));
    assert_eq!(asked.chat.iter().filter(|chunk| !hidden(chunk)).count(), 3);
    let shown: Vec<&String> = asked.chat.iter().filter(|chunk| hidden(chunk)).collect();
    for request in [
        r#"{"messages":[{"role":"user","content":"hi"}],"stream":true}"#,
        r#"{"input":"hi","stream":true}"#,
    ] {
        let audit = play(request);
        assert_eq!(audit.chat.iter().collect::<Vec<_>>(), shown);
        assert_eq!(audit.kinds(), asked.kinds());
        assert_eq!(audit.object["usage"], asked.object["usage"]);
    }
}

#[test]
fn chunk_without_content_becomes_extension_event() {
    let audit = check(
        list![
            r#"{"choices":[],"prompt_filter_results":[]}"#,
            says("x"),
            chunk(0, "{}", None, ""),
            finish("stop")
        ],
        Done,
        "completed",
        &["says x"],
        "",
    );
    let chunks: Vec<_> = audit
        .events_of("tokenwire:chunk")
        .map(|event| event["chunk"].to_string())
        .collect();
    assert!(
        chunks.iter().any(|chunk| chunk.contains(r#""delta":{}"#)),
        "{chunks:?}"
    );
}

// === Several choices ===

#[test]
fn two_choices_are_separate_messages() {
    let one =
        |index: u32, text: &str| chunk(index, &format!(r#"{{"content":"{text}"}}"#), None, "");
    let audit = check_n(
        2,
        list![
            one(0, "a"),
            one(1, "x"),
            one(0, "b"),
            one(1, "y"),
            one(1, "z"),
            one(0, "c"),
            chunk(1, "{}", Some("stop"), ""),
            one(0, "d"),
            chunk(0, "{}", Some("stop"), "")
        ],
        Done,
        "completed",
        &["says abcd", "says xyz"],
        "",
    );
    assert_eq!(audit.text, "abcd", "bare text is the first choice's");
}

#[test]
fn two_choices_in_one_chunk() {
    let both =
        r#"{"choices":[{"index":0,"delta":{"content":"a"}},{"index":1,"delta":{"content":"x"}}]}"#;
    check_n(
        2,
        list![
            both,
            both,
            chunk(0, "{}", Some("stop"), ""),
            chunk(1, "{}", Some("length"), "")
        ],
        Done,
        "incomplete: max_output_tokens",
        &["says aa", "says xx"],
        "",
    );
}

#[test]
fn usage_per_choice_is_summed() {
    let one = |index: u32| chunk(index, r#"{"content":"a"}"#, Some("stop"), "");
    check_n(
        2,
        list![one(0), USAGE, one(1), USAGE],
        Done,
        "completed",
        &["says a", "says a"],
        "3/8/11",
    );
}

#[test]
fn choice_index_is_ignored_for_one_choice() {
    let one = |index: &str| {
        format!(
            r#"{{"choices":[{{"index":{index},"delta":{{"content":"a"}},"finish_reason":null}}]}}"#
        )
    };
    check(
        list![
            one("1"),
            one("2"),
            one("-1"),
            one("\"x\""),
            r#"{"choices":[{"delta":{"content":"b"},"finish_reason":"stop"}]}"#
        ],
        Close,
        "completed",
        &["says aaaab"],
        "",
    );
}

// === Calls ===

#[test]
fn tool_call_in_pieces() {
    let pieces = [
        call(r#""index":0,"id":"call_a","type":"function","function":{"name":"f","arguments":""}"#),
        call(r#""index":0,"function":{"arguments":"{\"a\""}"#),
        call(r#""index":0,"function":{"arguments":":1"}"#),
        call(r#""index":0,"function":{"arguments":"}"}"#),
        finish("tool_calls"),
    ];
    let payloads: Vec<&str> = pieces.iter().map(String::as_str).collect();
    let audit = check(&payloads, Done, "completed", &[r#"calls f({"a":1})"#], "");
    assert_eq!(audit.object["output"][0]["call_id"], "call_a");
    assert_eq!(audit.text, "");
}

#[test]
fn interleaved_parallel_calls_by_index() {
    check(
        list![
            call(r#""index":0,"id":"a","function":{"name":"f","arguments":"{"}"#),
            call(r#""index":1,"id":"b","function":{"name":"g","arguments":"["}"#),
            call(r#""index":0,"id":null,"function":{"name":null,"arguments":"}"}"#),
            call(r#""index":1,"id":"","function":{"name":"","arguments":"1"}"#),
            call(r#""index":1,"id":"","function":{"name":"","arguments":"]"}"#),
            finish("tool_calls"),
        ],
        Done,
        "completed",
        &["calls f({})", "calls g([1])"],
        "",
    );
}

#[test]
fn parallel_calls_that_all_have_index_0() {
    check(
        list![
            call(r#""index":0,"id":"a","function":{"name":"f","arguments":"{}"}"#),
            call(r#""index":0,"id":"b","function":{"name":"f","arguments":"{\"x\":"}"#),
            call(r#""index":0,"id":"b","function":{"arguments":"1}"}"#),
            call(r#""index":0,"id":"c","function":{"name":"g","arguments":"{}"}"#),
            finish("tool_calls"),
        ],
        Done,
        "completed",
        &["calls f({})", r#"calls f({"x":1})"#, "calls g({})"],
        "",
    );
}

#[test]
fn parallel_calls_without_an_index() {
    let all = chunk(
        0,
        r#"{"tool_calls":[{"id":"a","function":{"name":"f","arguments":"1"}},{"id":"b","function":{"name":"g","arguments":"2"}}]}"#,
        None,
        "",
    );
    check(
        list![all, finish("tool_calls")],
        Done,
        "completed",
        &["calls f(1)", "calls g(2)"],
        "",
    );
}

#[test]
fn repeated_call_ids_are_replaced() {
    let audit = check(
        list![
            call(r#""index":0,"id":"same","function":{"name":"f","arguments":"1"}"#),
            call(r#""index":1,"id":"same","function":{"name":"g","arguments":"2"}"#),
            call(r#""index":2,"function":{"name":"h","arguments":"3"}"#),
            finish("tool_calls"),
        ],
        Done,
        "completed",
        &["calls f(1)", "calls g(2)", "calls h(3)"],
        "",
    );
    // The audit checks that they differ.
    assert_eq!(audit.object["output"][0]["call_id"], "same");
}

#[test]
fn missing_arguments_become_an_empty_object() {
    for members in [
        r#""index":1,"id":"a","function":{"name":"f"}"#,
        r#""index":1,"id":"a","function":{"name":"f","arguments":""}"#,
        r#""index":1,"id":"a","function":{"name":"f","arguments":null}"#,
    ] {
        check(
            list![says("Look:"), call(members), finish("tool_calls")],
            Done,
            "completed",
            &["says Look:", "calls f({})"],
            "",
        );
    }
    let cut = call(r#""index":0,"id":"a","function":{"name":"f","arguments":""}"#);
    check(
        list![cut],
        Close,
        "failed: upstream_truncated",
        &["calls f()"],
        "",
    );
}

#[test]
fn arguments_sent_as_object_become_text() {
    let whole = call(r#""index":0,"id":"a","function":{"name":"f","arguments":{"a":"\"1\""}}"#);
    check(
        list![whole, finish("tool_calls")],
        Done,
        "completed",
        &[r#"calls f({"a":"\"1\""})"#],
        "",
    );
}

#[test]
fn legacy_function_call_becomes_a_call() {
    let piece = |members: &str| {
        chunk(
            0,
            &format!(r#"{{"function_call":{{{members}}}}}"#),
            None,
            "",
        )
    };
    check(
        list![
            piece(r#""name":"f","arguments":"""#),
            piece(r#""arguments":"{\"a\"""#),
            piece(r#""arguments":":1}""#),
            finish("function_call")
        ],
        Done,
        "completed",
        &[r#"calls f({"a":1})"#],
        "",
    );
}

#[test]
fn items_close_in_the_order_of_opening() {
    let thinks = chunk(0, r#"{"reasoning":"t"}"#, None, "");
    let calls = call(r#""index":0,"id":"a","function":{"name":"f","arguments":"{}"}"#);
    let audit = check(
        list![calls, says("x"), thinks, says("y"), finish("tool_calls")],
        Done,
        "completed",
        &["calls f({})", "says xy", "thinks t"],
        "",
    );
    let order: Vec<_> = audit
        .events_of("response.output_item.done")
        .map(|event| event["output_index"].as_u64().unwrap())
        .collect();
    assert_eq!(order, [0, 1, 2]);
}

/// A piece of a call, with its function's members.
fn function(members: &str, function: &str) -> String {
    call(&format!(r#"{members},"function":{{{function}}}"#))
}

#[test]
fn names_and_ids_that_come_late() {
    let cases: &[&[String]] = &[
        // The name after the id, the id after the name, the name in pieces, repeated, after the
        // arguments.
        &[
            function(r#""index":0,"id":"a""#, r#""arguments":"""#),
            function(r#""index":0"#, r#""name":"get_x""#),
            function(r#""index":0"#, r#""arguments":"{\"a\":1}""#),
        ],
        &[
            function(r#""index":0,"id":null"#, r#""name":"get_x""#),
            function(r#""index":0,"id":"a""#, r#""arguments":"{\"a\"""#),
            function(r#""index":0,"id":"a""#, r#""arguments":":1}""#),
        ],
        &[
            function(r#""index":0,"id":"a""#, r#""name":"get_","arguments":"""#),
            function(r#""index":0"#, r#""name":"x""#),
            function(r#""index":0"#, r#""arguments":"{\"a\":1}""#),
        ],
        &[
            function(r#""index":0,"id":"a""#, r#""name":"get_""#),
            function(r#""index":0,"id":"a""#, r#""name":"get_x""#),
            function(r#""index":0,"id":"a""#, r#""name":"get_x","arguments":"{""#),
            function(
                r#""index":0,"id":"a""#,
                r#""name":"get_x","arguments":"\"a\":1}""#,
            ),
        ],
        &[
            function(
                r#""index":0,"id":"a""#,
                r#""name":"","arguments":"{\"a\":""#,
            ),
            function(r#""index":0,"id":"a""#, r#""name":"get_x""#),
            function(r#""index":0,"id":"""#, r#""name":"","arguments":"1}""#),
        ],
        // An id that changes with every piece, and an id that comes without an index.
        &[
            function(r#""index":0,"id":"a""#, r#""name":"get_x","arguments":"""#),
            function(r#""index":0,"id":"b""#, r#""arguments":"{\"a\":""#),
            function(r#""index":0,"id":"c""#, r#""arguments":"1}""#),
        ],
        &[
            function(r#""type":"function""#, r#""name":"get_x","arguments":"""#),
            function(r#""id":"a""#, r#""arguments":"{\"a\":""#),
            function(r#""id":"a""#, r#""arguments":"1}""#),
        ],
        // The complete call once more.
        &[
            function(
                r#""index":0,"id":"a""#,
                r#""name":"get_x","arguments":"{\"a\":1}""#,
            ),
            function(
                r#""index":0,"id":"a""#,
                r#""name":"get_x","arguments":"{\"a\":1}""#,
            ),
        ],
    ];
    for case in cases {
        let mut payloads: Vec<&str> = case.iter().map(String::as_str).collect();
        let last = finish("tool_calls");
        payloads.push(&last);
        check(
            &payloads,
            Done,
            "completed",
            &[r#"calls get_x({"a":1})"#],
            "",
        );
    }
}

#[test]
fn same_index_with_another_id_is_another_call() {
    check(
        list![
            function(r#""index":0,"id":"a""#, r#""name":"f","arguments":"""#),
            function(r#""index":0,"id":"b""#, r#""name":"g","arguments":"""#),
            function(r#""index":0,"id":"b""#, r#""arguments":"{}""#),
            finish("tool_calls")
        ],
        Done,
        "completed",
        &["calls f({})", "calls g({})"],
        "",
    );
}

#[test]
fn call_without_arguments_is_added_at_the_finish() {
    check(
        list![
            function(r#""index":0,"id":"a""#, r#""name":"get_""#),
            function(r#""index":0"#, r#""name":"x""#),
            finish("tool_calls")
        ],
        Done,
        "completed",
        &["calls get_x({})"],
        "",
    );
}

#[test]
fn many_calls_in_one_answer_are_linear() {
    let n = 40_000;
    let payloads: Vec<String> = (0..n)
        .flat_map(|i| {
            [
                function(
                    &format!(r#""index":{i},"id":"c{i}""#),
                    r#""name":"f","arguments":"""#,
                ),
                function(&format!(r#""index":{i}"#), r#""arguments":"{}""#),
            ]
        })
        .collect();
    let mut records = RecordWriter::new();
    let mut translator = ChatTranslator::new(1);
    let started = std::time::Instant::now();
    for payload in &payloads {
        let _ = translator.payload(None, payload.as_bytes(), true, &mut records);
    }
    let finish = finish("tool_calls");
    let _ = translator.payload(None, finish.as_bytes(), true, &mut records);
    translator.end(translator.body_ended(BodyEnd::Clean), 0, &mut records);
    // `in_progress` or a chunk without content, added, delta and two closing events for each call.
    assert_eq!(records.next_seq().0, 5 * n + 1);
    // Quadratic work takes minutes in a debug build.
    assert!(started.elapsed() < std::time::Duration::from_secs(30));
}

// === Complete messages ===

/// A chunk with a complete message.
fn message(members: &str, finish: &str, beside: &str) -> String {
    format!(
        r#"{{"object":"chat.completion","choices":[{{"index":0,{beside}"message":{{{members}}},"finish_reason":{finish}}}]}}"#
    )
}

#[test]
fn closing_message_adds_only_what_follows() {
    let cases = [
        (
            message(r#""content":"ab\u0063""#, r#""stop""#, ""),
            "says abc",
        ),
        (message(r#""content":"abcd""#, r#""stop""#, ""), "says abcd"),
        (message(r#""content":"ab""#, r#""stop""#, ""), "says abc"),
        (message(r#""content":"xyz""#, r#""stop""#, ""), "says abc"),
        (message(r#""content":null"#, r#""stop""#, ""), "says abc"),
        (
            message(r#""content":"abcd""#, r#""stop""#, r#""delta":{},"#),
            "says abcd",
        ),
        (
            message(
                r#""content":"abcd""#,
                r#""stop""#,
                r#""delta":{"content":"d"},"#,
            ),
            "says abcd",
        ),
    ];
    for (last, expected) in &cases {
        check(
            list![says("a"), says("b"), says("c"), last],
            Done,
            "completed",
            &[expected],
            "",
        );
    }
    // After the finish chunk.
    check(
        list![
            says("a"),
            says("b"),
            finish("stop"),
            message(r#""content":"ab""#, r#""stop""#, "")
        ],
        Done,
        "completed",
        &["says ab"],
        "",
    );
}

#[test]
fn closing_message_adds_missing_reasoning_and_calls() {
    let call = r#""tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{\"x\":1}"}},{"id":"b","type":"function","function":{"name":"g","arguments":"{}"}}]"#;
    let last = message(
        &format!(r#""content":"ab","reasoning_content":"hm",{call}"#),
        r#""tool_calls""#,
        "",
    );
    check(
        list![
            says("a"),
            says("b"),
            function(
                r#""index":0,"id":"a""#,
                r#""name":"f","arguments":"{\"x\"""#
            ),
            last
        ],
        Done,
        "completed",
        &["says ab", r#"calls f({"x":1})"#, "thinks hm", "calls g({})"],
        "",
    );
}

#[test]
fn message_in_every_chunk_is_cumulative() {
    let chunk = |delta: &str, text: &str| {
        message(
            &format!(r#""content":"{text}""#),
            "null",
            &format!(r#""delta":{{"content":"{delta}"}},"#),
        )
    };
    check(
        list![chunk("a", "a"), chunk("b", "ab"), finish("stop")],
        Done,
        "completed",
        &["says ab"],
        "",
    );
    // The last one has more than the deltas, since the deltas of this server are complete.
    let last = message(
        r#""content":"abc""#,
        r#""stop""#,
        r#""delta":{"content":""},"#,
    );
    check(
        list![chunk("a", "a"), chunk("b", "ab"), last],
        Done,
        "completed",
        &["says ab"],
        "",
    );
    let cumulative = |text: &str| message(&format!(r#""content":"{text}""#), "null", "");
    check(
        list![cumulative("a"), cumulative("ab"), finish("stop")],
        Done,
        "completed",
        &["says ab"],
        "",
    );
}

// === Reasoning, custom calls, images, audio ===

#[test]
fn reasoning_is_found_under_every_name_and_not_doubled() {
    for delta in [
        r#"{"reasoning_text":"hm"}"#,
        r#"{"thinking":"hm"}"#,
        r#"{"reasoning":"","reasoning_details":[{"type":"reasoning.text","text":"hm"}]}"#,
        r#"{"reasoning_details":[{"type":"reasoning.summary","summary":"hm"}]}"#,
        r#"{"reasoning_details":[{"type":"reasoning.text","text":"h"},{"type":"reasoning.text","text":"m"}]}"#,
        r#"{"reasoning":"hm","reasoning_content":"hm","reasoning_details":[{"text":"hm"}]}"#,
        r#"{"content":[{"type":"thinking","thinking":"hm"}]}"#,
        r#"{"content":[{"type":"thinking","text":"hm"}],"reasoning_content":"hm"}"#,
    ] {
        check(
            list![chunk(0, delta, None, ""), says("x"), finish("stop")],
            Done,
            "completed",
            &["thinks hm", "says x"],
            "",
        );
    }
}

#[test]
fn custom_calls_have_free_text_input() {
    let audit = check(
        list![
            call(r#""index":0,"id":"a","type":"custom","custom":{"name":"apply","input":""}"#),
            call(r#""index":0,"custom":{"input":"a "}"#),
            call(r#""index":0,"custom":{"input":"b"}"#),
            call(r#""index":0,"custom":{"input":"c"}"#),
            call(r#""index":1,"id":"b","type":"custom","custom":{"name":"empty"}"#),
            finish("tool_calls")
        ],
        Done,
        "completed",
        &["runs apply(a bc)", "runs empty()"],
        "",
    );
    let deltas: String = audit
        .events_of("response.custom_tool_call_input.delta")
        .map(|event| event["delta"].as_str().unwrap())
        .collect();
    assert_eq!(deltas, "a bc");
    assert_eq!(
        audit
            .events_of("response.custom_tool_call_input.done")
            .count(),
        2
    );
    assert_eq!(
        audit
            .events_of("response.function_call_arguments.delta")
            .count(),
        0
    );
}

#[test]
fn images_become_items() {
    let data = r#"{"content":"See","images":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}"#;
    let remote = r#"{"content":[{"type":"image_url","image_url":{"url":"https://e.org/x.png"}}]}"#;
    let audit = check(
        list![
            chunk(0, data, None, ""),
            chunk(0, remote, None, ""),
            finish("stop")
        ],
        Done,
        "completed",
        &["says See", "shows AAAA", "shows a URL"],
        "",
    );
    let shown: Vec<_> = audit.events_of("tokenwire:chunk").collect();
    assert_eq!(shown.len(), 1, "only the remote image is in its chunk");
    assert!(
        shown[0]["chunk"]
            .to_string()
            .contains("https://e.org/x.png")
    );
}

#[test]
fn audio_is_an_extension_event_and_its_transcript_text() {
    let audit = check(
        list![
            chunk(0, r#"{"audio":{"id":"x","transcript":"Hel"}}"#, None, ""),
            chunk(0, r#"{"audio":{"data":"AAAA"}}"#, None, ""),
            chunk(0, r#"{"audio":{"transcript":"lo"}}"#, None, ""),
            finish("stop")
        ],
        Done,
        "completed",
        &["says Hello"],
        "",
    );
    assert_eq!(audit.events_of("tokenwire:chunk").count(), 1);
}

#[test]
fn provider_fields_of_a_call_are_kept() {
    let audit = check(
        list![
            call(
                r#""index":0,"id":"a","function":{"name":"f","arguments":"{}"},"extra_content":{"google":{"thought_signature":"c2ln"}}"#
            ),
            finish("tool_calls")
        ],
        Done,
        "completed",
        &["calls f({})"],
        "",
    );
    assert_eq!(
        audit.object["output"][0]["extra_content"]["google"]["thought_signature"],
        "c2ln"
    );
}

#[test]
fn error_in_a_list_fails() {
    let error = r#"[{"error":{"code":503,"message":"busy"}}]"#;
    let audit = play(1, list![says("x"), error], Close);
    assert_eq!(came(&audit).end, "failed: 503");
    assert_eq!(
        audit.chat.last().map(String::as_str),
        Some(r#"{"error":{"code":503,"message":"busy"}}"#)
    );
}

// === Errors ===

#[test]
fn error_object_within_the_stream_fails() {
    check(
        list![says("x"), r#"{"error":{"message":"no","code":"nope"}}"#],
        Done,
        "failed: nope",
        &["says x"],
        "",
    );
    check(
        list![says("x"), r#"{"error":"no"}"#],
        Close,
        "failed: upstream_error",
        &["says x"],
        "",
    );
    check(
        list![r#"{"error":{"message":"no","type":"server_error"}}"#],
        Close,
        "failed: server_error",
        &[],
        "",
    );
}

#[test]
fn error_beside_choices_fails_after_usage() {
    let beside = r#"{"choices":[{"index":0,"delta":{"content":"y"},"finish_reason":null}],"error":{"code":502,"message":"no"}}"#;
    let audit = play(1, list![says("x"), beside, USAGE], Done);
    assert_eq!(
        came(&audit),
        Came {
            end: "failed: 502".to_owned(),
            items: vec!["says xy".to_owned()],
            usage: "3/4/7".to_owned()
        }
    );
    let null =
        r#"{"choices":[{"index":0,"delta":{"content":"y"},"finish_reason":null}],"error":null}"#;
    check(
        list![says("x"), null, finish("stop")],
        Done,
        "completed",
        &["says xy"],
        "",
    );
}

#[test]
fn error_body_under_status_200_fails() {
    let resp =
        r#"{"choices":null,"usage":null,"base_resp":{"status_code":1008,"status_msg":"no money"}}"#;
    check(list![resp], Close, "failed: 1008", &[], "");
    let fine = r#"{"choices":[],"base_resp":{"status_code":0,"status_msg":""}}"#;
    check(
        list![says("x"), finish("stop"), fine],
        Close,
        "completed",
        &["says x"],
        "",
    );
}

#[test]
fn two_objects_in_one_payload_are_two_chunks() {
    let audit = play(
        1,
        list![
            format!("{}{}", says("x"), says("y")),
            format!("{} {}", says("z"), finish("stop"))
        ],
        Done,
    );
    assert_eq!(
        came(&audit),
        Came {
            end: "completed".to_owned(),
            items: vec!["says xyz".to_owned()],
            usage: String::new()
        }
    );
    assert_eq!(
        audit.chat,
        [
            says("x"),
            says("y"),
            says("z"),
            finish("stop"),
            "[DONE]".to_owned()
        ]
    );
}

#[test]
fn invalid_json_fails_and_keeps_received_text() {
    for broken in [
        "{",
        "nonsense",
        r#"{"choices":[{"index":0,"delta":{"content":"y"}}]"#,
    ] {
        check(
            list![says("x"), broken],
            Done,
            "failed: upstream_malformed",
            &["says x"],
            "",
        );
    }
}

#[test]
fn unexpected_member_types_are_ignored() {
    for odd in [
        "null",
        "7",
        r#""text""#,
        "[]",
        "{}",
        r#"{"choices":{}}"#,
        r#"{"choices":[null,7,{}]}"#,
        r#"{"choices":[{"delta":7}],"usage":"much"}"#,
    ] {
        check(
            list![says("x"), odd, says("y"), finish("stop")],
            Done,
            "completed",
            &["says xy"],
            "",
        );
    }
}

#[test]
fn last_of_duplicate_members_counts() {
    // JSON leaves it open; most readers take the last one.
    let twice =
        r#"{"choices":[{"index":0,"delta":{"content":"a","content":"b"},"finish_reason":null}]}"#;
    check(
        list![says("x"), twice, finish("stop")],
        Done,
        "completed",
        &["says xb"],
        "",
    );
    let twice = r#"{"usage":null,"choices":[{"index":0,"delta":{"content":"b"},"finish_reason":null}],"usage":null}"#;
    check(
        list![says("x"), twice, finish("stop")],
        Done,
        "completed",
        &["says xb"],
        "",
    );
}

// === Bodies without a stream ===

#[test]
fn completion_body_is_one_record() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let body = r#"{ "id":"c", "object":"chat.completion", "choices":[{"index":0,"message":{"role":"assistant","content":"Hi","reasoning_content":"Hm","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}}]},"finish_reason":"tool_calls"}], "usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7} }"#;
    let (audit, raw) = runtime.block_on(async {
        let test = TestEngine::new(EngineOptions::default());
        let started = test.start(r#"{"messages":[{"role":"user","content":"hi"}],"stream":false}"#);
        test.upstream
            .call()
            .await
            .document(body)
            .end(BodyEnd::Clean);
        started.guard.generation().ended().await;
        (
            Audit::of(started.guard.generation()),
            started.guard.generation().first_raw(),
        )
    });
    assert_eq!(came(&audit).items, ["thinks Hm", "says Hi", "calls f({})"]);
    assert_eq!(
        (came(&audit).end.as_str(), came(&audit).usage.as_str()),
        ("completed", "3/4/7")
    );
    assert_eq!(String::from_utf8(raw.unwrap()).unwrap(), body);
}
