//! The stored form of a stream: it does not depend on the client, and a reader of the chat dialect
//! gets the same bytes from every position.
//!
//! The streams are those of the folders that `TOKENWIRE_CAPTURES` and `TOKENWIRE_CASES` name
//! (default: `../shared/captures` and `../shared/cases` beside the workspace). Without them the
//! tests run on the streams of this file.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "tests fail by panicking and report on stderr what they skip"
)]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::BytesMut;
use tokenwire_core::dialect::{Dialect, Frame, Framing};
use tokenwire_core::generation::Generation;
use tokenwire_core::log::LogReader;
use tokenwire_core::model::id::{GenerationId, Seq};
use tokenwire_core::model::record::RecordBatch;
use tokenwire_core::model::snapshot::Api;
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_testkit::{EngineOptions, Reader, TestEngine};

/// A body of an upstream.
struct Recorded {
    name: String,
    api: Api,
    is_json: bool,
    body: Vec<u8>,
}

const CHAT: &str = concat!(
    r#"data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"H"}}]}"#,
    "\n\n",
    r#"data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"{}"}}]}}]}"#,
    "\n\n",
    r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#,
    "\n\n",
    r#"data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#,
    "\n\ndata: [DONE]\n\n"
);

const WHOLE: &str = r#"{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"H"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#;

const RESPONSES: &str = concat!(
    r#"data: {"type":"response.output_item.added","output_index":0,"item":{"type":"message","id":"m"}}"#,
    "\n\n",
    r#"data: {"type":"response.output_text.delta","output_index":0,"content_index":0,"delta":"H"}"#,
    "\n\n",
    r#"data: {"type":"response.output_item.added","output_index":1,"item":{"type":"function_call","id":"f1","call_id":"c1","name":"f"}}"#,
    "\n\n",
    r#"data: {"type":"response.output_item.added","output_index":2,"item":{"type":"custom_tool_call","id":"f2","call_id":"c2","name":"g"}}"#,
    "\n\n",
    r#"data: {"type":"response.custom_tool_call_input.delta","output_index":2,"delta":"in"}"#,
    "\n\n",
    r#"data: {"type":"response.custom_tool_call_input.done","output_index":2,"input":"in"}"#,
    "\n\n",
    r#"data: {"type":"response.function_call_arguments.done","output_index":1,"arguments":""}"#,
    "\n\n",
    r#"data: {"type":"response.output_item.done","output_index":1,"item":{"type":"function_call","id":"f1","call_id":"c1","name":"f","arguments":"{}"}}"#,
    "\n\n",
    r#"data: {"type":"response.output_item.done","output_index":3,"item":{"type":"message","id":"m2","content":[{"type":"output_text","text":"later"}]}}"#,
    "\n\n",
    r#"data: {"type":"response.completed","response":{"id":"r","status":"completed","output":[],"usage":{"input_tokens":3,"output_tokens":4,"total_tokens":7}}}"#,
    "\n\n"
);

fn streams() -> Vec<Recorded> {
    let own = |name: &str, api, body: &str| Recorded {
        name: name.to_owned(),
        api,
        is_json: body.starts_with('{'),
        body: body.as_bytes().to_vec(),
    };
    let mut streams = vec![
        own("own chat", Api::Chat, CHAT),
        own("own completion", Api::Chat, WHOLE),
        own("own responses", Api::Responses, RESPONSES),
    ];
    for (variable, default) in [
        ("TOKENWIRE_CAPTURES", "captures"),
        ("TOKENWIRE_CASES", "cases"),
    ] {
        let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
        let folder = std::env::var_os(variable).map_or_else(|| shared.join(default), Into::into);
        let Ok(files) = fs::read_dir(&folder) else {
            eprintln!("SKIPPED: no streams at {}", folder.display());
            continue;
        };
        for file in files {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let is_json = name.ends_with(".json") && name != "expected.json";
            if !is_json && !name.ends_with(".sse") {
                continue;
            }
            streams.push(Recorded {
                api: if name.starts_with("responses-") {
                    Api::Responses
                } else {
                    Api::Chat
                },
                is_json,
                body: fs::read(&path).unwrap(),
                name,
            });
        }
    }
    streams
}

impl Recorded {
    /// Plays the body to a request.
    fn play(&self, request: &str) -> Arc<Generation> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let test = TestEngine::new(EngineOptions {
                api: self.api,
                ..EngineOptions::default()
            });
            let started = test.start(request);
            let call = test.upstream.call().await;
            if self.is_json {
                call.document(std::str::from_utf8(&self.body).unwrap());
            } else {
                call.bytes(self.body.as_slice());
            }
            call.end(BodyEnd::Clean);
            let generation = started.guard.generation().clone();
            generation.ended().await;
            generation
        })
    }

    /// A chat request for a stream.
    fn chat(&self, include_usage: bool) -> String {
        let n = if self.name.contains("-n2-") { 2 } else { 1 };
        format!(
            r#"{{"messages":[{{"role":"user","content":"hi"}}],"stream":true,"n":{n},"stream_options":{{"include_usage":{include_usage}}}}}"#
        )
    }
}

/// The eventsource framing: ids on every event.
#[derive(Debug)]
struct EventSource;

impl Framing for EventSource {
    fn frame(&self, stream: &GenerationId, frame: &Frame<'_>, out: &mut BytesMut) {
        out.extend_from_slice(format!("id: {stream}.{}\ndata: ", frame.seq).as_bytes());
        out.extend_from_slice(frame.data);
        out.extend_from_slice(b"\n\n");
    }

    fn shows_extensions(&self) -> bool {
        true
    }

    fn sends_done(&self, _dialect: Dialect) -> bool {
        false
    }

    fn share_key(&self) -> Option<&'static str> {
        Some("eventsource")
    }
}

fn read(generation: &Arc<Generation>, from: u64, dialect: Dialect) -> String {
    let mut reader = Reader::framed(generation.attach(), from, dialect, Arc::new(EventSource));
    reader.read_now();
    assert_eq!(reader.end(), Some(Ok(())));
    String::from_utf8(reader.bytes().to_vec()).unwrap()
}

/// The number of each event, and the place where it begins.
fn places(stream: &str) -> Vec<(u64, usize)> {
    stream
        .match_indices("id: resp_")
        .map(|(at, _)| {
            let id = stream[at..].lines().next().unwrap();
            (id.rsplit_once('.').unwrap().1.parse().unwrap(), at)
        })
        .collect()
}

fn check_suffixes(generation: &Arc<Generation>, name: &str) {
    let complete = read(generation, 0, Dialect::Chat);
    let places = places(&complete);
    assert!(
        places.is_sorted_by(|before, after| before.0 < after.0),
        "{name}: {complete}"
    );
    let next = generation.tail().unwrap().next.0;
    assert_eq!(
        places.last().unwrap().0,
        next - 1,
        "the last is the terminal event's"
    );
    for from in 0..next {
        let start = places
            .iter()
            .find(|(seq, _)| *seq >= from)
            .map_or(complete.len(), |(_, at)| *at);
        let rest = read(generation, from, Dialect::Chat);
        assert_eq!(rest, complete[start..], "{name} from {from}");
    }
}

#[test]
fn chat_reader_gets_the_same_bytes_from_every_position() {
    for stream in streams() {
        for include_usage in [true, false] {
            check_suffixes(&stream.play(&stream.chat(include_usage)), &stream.name);
        }
    }
}

#[test]
fn first_reader_of_a_process_gets_the_same_bytes_from_any_position() {
    for stream in streams() {
        if stream.api != Api::Responses {
            continue;
        }
        let request = stream.chat(true);
        let next = stream.play(&request).tail().unwrap().next.0;
        for from in (0..next).step_by((next as usize / 24).max(1)) {
            for dialect in [Dialect::Chat, Dialect::Responses] {
                let generation = stream.play(&request);
                let found = read(&generation, from, dialect);
                let complete = read(&generation, 0, dialect);
                let start = places(&complete)
                    .into_iter()
                    .find(|(seq, _)| *seq >= from)
                    .map_or(complete.len(), |(_, at)| at);
                assert_eq!(found, complete[start..], "{} from {from}", stream.name);
            }
        }
    }
}

/// Returns the stored records, without what differs between two runs: the generation's id, call
/// ids of our own, and the time of the end.
fn stored(generation: &Arc<Generation>) -> Vec<(u64, u64, Vec<u8>)> {
    let mut reader = LogReader::new(generation.log().clone(), Seq(0));
    let mut batch = RecordBatch::default();
    let mut records = Vec::new();
    loop {
        reader.read(1 << 20, &mut batch).unwrap();
        if batch.is_empty() {
            return records;
        }
        for record in batch.iter() {
            let mut payload = record.payload.to_vec();
            let suffix = generation.meta().id.suffix().as_bytes();
            blank(&mut payload, suffix, suffix.len());
            blank(&mut payload, b"call_", 29);
            records.push((record.first_seq.0, record.events, payload));
        }
    }
}

/// Overwrites `length` bytes wherever `start` stands.
fn blank(bytes: &mut [u8], start: &[u8], length: usize) {
    for at in 0..bytes.len().saturating_sub(length) {
        if bytes[at..].starts_with(start) {
            bytes[at..at + length].fill(b'_');
        }
    }
}

fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

#[test]
fn stored_records_do_not_depend_on_the_client() {
    for stream in streams() {
        if stream.name.contains("-n2-") {
            // The Responses API has one choice.
            continue;
        }
        let requests = [
            stream.chat(true),
            stream.chat(false),
            r#"{"input":"hi","stream":true}"#.to_owned(),
            r#"{"input":"hi","stream":false}"#.to_owned(),
        ];
        // The times in the records have seconds.
        let found = (0..20).find_map(|_| {
            let before = now();
            let found = requests
                .each_ref()
                .map(|request| stored(&stream.play(request)));
            (before == now()).then_some(found)
        });
        let [first, others @ ..] = found.expect("a run within one second");
        for other in &others {
            assert_eq!(other.len(), first.len(), "{}", stream.name);
            for (found, expected) in other.iter().zip(&first) {
                assert!(
                    found == expected,
                    "{}: {}\n{}",
                    stream.name,
                    String::from_utf8_lossy(&found.2),
                    String::from_utf8_lossy(&expected.2)
                );
            }
        }
    }
}
