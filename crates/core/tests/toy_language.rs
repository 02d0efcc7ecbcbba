//! A third language from outside of the crate, on both sides: clients that ask in it get their
//! answers in it, and a server that speaks it answers clients of all languages.
//!
//! A request is lines of `word: text`. An answer is a line per event: `+` and a piece of text, `!` and
//! the name and the arguments of a call, `=` and the status.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::future::ready;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use tokenwire_core::dialect::{Dialect, Frame, Framing};
use tokenwire_core::engine::{Caller, Engine, StartRequest};
use tokenwire_core::model::id::GenerationId;
use tokenwire_core::model::snapshot::Api;
use tokenwire_core::request::canonical::{
    CanonicalRequest, Extra, FunctionTool, Item, Message, Part, PartKind, Role, Setting, Tool,
    Value,
};
use tokenwire_core::request::{ForeignRequest, ResponsesRequest, StreamRequest};
use tokenwire_core::upstream::decode::{Flow, SseEvent};
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_core::upstream::{
    Endpoint, OpenError, Route, Router, RouterOptions, StreamStep, TokenStream, UpstreamHead,
    UpstreamRequest, UpstreamResponse,
};
use tokenwire_testkit::{EngineOptions, Reader, TestEngine, no_timeouts};

// === requests ===

/// Reads a request of the toy language into canonical form.
fn read(body: &str) -> ForeignRequest {
    let mut request = CanonicalRequest::default();
    let mut model = None;
    for (number, line) in body.lines().enumerate() {
        let (word, text) = line.split_once(": ").expect("a word and a text");
        let value = || Value::string(text, format!("line {}", number + 1));
        match word {
            "model" => model = Some(text.to_owned()),
            "tool" => request.tools.push(Tool::Function(FunctionTool {
                name: value(),
                description: None,
                parameters: None,
                strict: None,
                extra: Vec::new(),
            })),
            "cache" => request.settings.push((Setting::PromptCacheKey, value())),
            word => match Role::of(word) {
                Some(role) => request
                    .items
                    .push(Item::Message(Message::new(role, vec![Part::text(value())]))),
                None => request.extra.push(Extra::new(word.to_owned(), value())),
            },
        }
    }
    ForeignRequest {
        model,
        request,
        body: Bytes::copy_from_slice(body.as_bytes()),
    }
}

/// Writes a canonical request in the toy language.
fn write(request: &CanonicalRequest<'_>) -> String {
    let mut out = String::new();
    let mut line = |word: &str, text: &str| out.push_str(&format!("{word}: {text}\n"));
    if let Some(text) = &request.instructions {
        line("system", &text.text().unwrap());
    }
    for tool in &request.tools {
        if let Tool::Function(tool) = tool {
            line("tool", &tool.name.text().unwrap());
        }
    }
    for item in &request.items {
        match item {
            Item::Message(message) => {
                for part in &message.content {
                    if let PartKind::Text(text) = &part.kind {
                        line(message.role.as_str(), &text.text().unwrap());
                    }
                }
            }
            Item::Output(output) => line("output", &output.call_id.text().unwrap()),
            Item::Call(call) => line("call", &call.name.text().unwrap()),
            _ => {}
        }
    }
    out
}

// === events ===

/// Writes Open Responses' events, the canonical ones, in the toy language.
#[derive(Debug)]
struct Lines;

impl Framing for Lines {
    fn frame(&self, _stream: &GenerationId, frame: &Frame<'_>, out: &mut BytesMut) {
        let event: Json = serde_json::from_slice(frame.data).expect("an event is JSON");
        let line = match event["type"].as_str().unwrap_or_default() {
            "response.output_text.delta" => format!("+{}\n", event["delta"].as_str().unwrap()),
            "response.output_item.done" if event["item"]["type"] == "function_call" => format!(
                "!{} {}\n",
                event["item"]["name"].as_str().unwrap(),
                event["item"]["arguments"].as_str().unwrap()
            ),
            "response.completed" | "response.incomplete" | "response.failed" => {
                format!("={}\n", event["response"]["status"].as_str().unwrap())
            }
            _ => return,
        };
        out.extend_from_slice(line.as_bytes());
    }

    fn shows_extensions(&self) -> bool {
        false
    }

    fn sends_done(&self, _dialect: Dialect) -> bool {
        false
    }

    fn share_key(&self) -> Option<&'static str> {
        Some("toy")
    }
}

/// Makes Open Responses' events of the lines of a toy server.
fn events(lines: &str) -> Vec<Json> {
    let mut events =
        vec![json!({"type": "response.created", "response": {"status": "in_progress"}})];
    let mut output = Vec::new();
    for line in lines.lines() {
        let (kind, rest) = line.split_at(1);
        let index = output.len();
        match kind {
            "+" => {
                let message = json!({"type": "message", "id": "m", "role": "assistant", "status": "completed",
                    "content": [{"type": "output_text", "text": rest, "annotations": []}]});
                events.push(json!({"type": "response.output_item.added", "output_index": index,
                    "item": {"type": "message", "id": "m", "role": "assistant", "status": "in_progress", "content": []}}));
                events.push(json!({"type": "response.content_part.added", "output_index": index, "content_index": 0, "item_id": "m",
                    "part": {"type": "output_text", "text": "", "annotations": []}}));
                events.push(json!({"type": "response.output_text.delta", "output_index": index, "content_index": 0, "item_id": "m", "delta": rest}));
                events.push(json!({"type": "response.output_item.done", "output_index": index, "item": message}));
                output.push(message);
            }
            "!" => {
                let (name, arguments) = rest.split_once(' ').unwrap();
                let call = json!({"type": "function_call", "id": "f", "call_id": "call_1", "name": name, "arguments": arguments, "status": "completed"});
                events.push(json!({"type": "response.output_item.added", "output_index": index, "item": call}));
                events.push(json!({"type": "response.output_item.done", "output_index": index, "item": call}));
                output.push(call);
            }
            _ => events.push(json!({"type": "response.completed", "response": {"status": rest, "output": output}})),
        }
    }
    events
}

// === a server ===

/// A server that speaks the toy language, and what it was asked.
#[derive(Clone, Debug)]
struct ToyServer {
    answer: &'static str,
    asked: Arc<Mutex<Vec<String>>>,
}

/// The events of one answer.
struct ToyStream(std::vec::IntoIter<Json>);

impl TokenStream for ToyStream {
    fn poll_events(
        &mut self,
        _cx: &mut Context<'_>,
        sink: &mut dyn FnMut(SseEvent<'_>) -> Flow,
    ) -> Poll<StreamStep> {
        let Some(event) = self.0.next() else {
            return Poll::Ready(StreamStep::Ended(BodyEnd::Clean));
        };
        sink(SseEvent::Data {
            name: None,
            data: event.to_string().as_bytes(),
            terminated: true,
        });
        Poll::Ready(StreamStep::Read)
    }
}

impl Endpoint for ToyServer {
    fn name(&self) -> &str {
        "toy"
    }

    fn open(
        &self,
        request: UpstreamRequest,
    ) -> BoxFuture<'static, Result<UpstreamResponse, OpenError>> {
        let request = ResponsesRequest::parse(&request.body).expect("the canonical API's body");
        let canonical = request.canonical(&[]).expect("a request of known parts");
        self.asked.lock().push(write(&canonical));
        let stream = ToyStream(events(self.answer).into_iter());
        ready(Ok(UpstreamResponse {
            head: UpstreamHead::default(),
            stream: Box::new(stream),
        }))
        .boxed()
    }

    fn models(&self, _timeout: Duration) -> BoxFuture<'static, Result<Bytes, OpenError>> {
        ready(Ok(Bytes::from_static(br#"{"object":"list","data":[]}"#))).boxed()
    }

    fn probe(&self, _path: &str, _timeout: Duration) -> BoxFuture<'static, Result<u16, OpenError>> {
        ready(Ok(200)).boxed()
    }
}

/// An engine over a toy server that gives this answer.
fn toy_upstream(answer: &'static str) -> (Engine, ToyServer) {
    let server = ToyServer {
        answer,
        asked: Arc::default(),
    };
    let route = Route::to(server.clone(), Api::Responses, no_timeouts());
    let router = Router::new(vec![route], RouterOptions::default());
    let shared = Engine::builder().sweep_interval(None).build();
    (shared.engine(Arc::new(router)), server)
}

fn start(body: &str) -> StartRequest {
    let body = StreamRequest::Canonical(Box::new(read(body)));
    StartRequest::new(body, Caller::default(), "/toy")
}

/// Reads the whole answer in the toy language.
async fn lines(guard: tokenwire_core::generation::ReaderGuard) -> String {
    let mut reader = Reader::framed(guard, 0, Dialect::Responses, Arc::new(Lines));
    reader.read_to_end().await.expect("the whole answer");
    String::from_utf8(reader.bytes().to_vec()).expect("text")
}

const ASK: &str = "model: m\nsystem: be brief\nuser: hi \"you\"\ntool: f\ncache: k";

#[tokio::test(start_paused = true)]
async fn toy_client_is_answered_by_a_chat_server() {
    let test = TestEngine::new(EngineOptions::default());
    let started = test.engine.start(start(ASK)).await.unwrap();
    let call = test.upstream.call().await;
    let asked = call.body();
    assert_eq!(
        asked["messages"],
        json!([{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi \"you\""}])
    );
    assert_eq!(
        asked["tools"],
        json!([{"type": "function", "function": {"name": "f"}}])
    );
    assert_eq!(
        (&asked["model"], &asked["prompt_cache_key"]),
        (&json!("m"), &json!("k"))
    );
    call.token("Hel")
        .token("lo")
        .finish("stop")
        .done()
        .end(BodyEnd::Clean);
    assert_eq!(lines(started.guard).await, "+Hel\n+lo\n=completed\n");
}

#[tokio::test(start_paused = true)]
async fn toy_client_is_answered_by_a_responses_server() {
    let test = TestEngine::new(EngineOptions {
        api: Api::Responses,
        ..EngineOptions::default()
    });
    let started = test.engine.start(start(ASK)).await.unwrap();
    let call = test.upstream.call().await;
    assert_eq!(
        call.body()["input"],
        json!([{"type": "message", "role": "system", "content": "be brief"}, {"type": "message", "role": "user", "content": "hi \"you\""}])
    );
    for event in events("+Hello\n!f {}\n=completed") {
        call.data(&event.to_string());
    }
    call.end(BodyEnd::Clean);
    assert_eq!(lines(started.guard).await, "+Hello\n!f {}\n=completed\n");
    // A member that the Responses API does not have is refused by the place that it came from.
    let error = test
        .engine
        .start(start("user: x\nodd: y"))
        .await
        .unwrap_err();
    assert_eq!(error.param.as_deref(), Some("line 2"));
}

#[tokio::test(start_paused = true)]
async fn toy_server_answers_clients_of_all_languages() {
    let (engine, server) = toy_upstream("+Hello\n=completed");
    let asked = |body: StreamRequest| StartRequest::new(body, Caller::default(), "/v1/streams");
    let chat = r#"{"model":"m","messages":[{"role":"system","content":"be brief"},{"role":"user","content":"hi"}]}"#;
    let responses = r#"{"model":"m","instructions":"be brief","input":"hi"}"#;
    for (body, expected) in [
        (
            StreamRequest::parse(chat.as_bytes()).unwrap(),
            "system: be brief\nuser: hi\n",
        ),
        (
            StreamRequest::parse(responses.as_bytes()).unwrap(),
            "system: be brief\nuser: hi\n",
        ),
        (
            StreamRequest::Canonical(Box::new(read("model: m\nuser: hi"))),
            "user: hi\n",
        ),
    ] {
        let started = engine.start(asked(body)).await.unwrap();
        let generation = started.guard.generation().clone();
        assert_eq!(lines(started.guard).await, "+Hello\n=completed\n");
        assert_eq!(server.asked.lock().pop().as_deref(), Some(expected));
        let completion = generation
            .chat_completion()
            .expect("a chat client's answer");
        let completion: Json = serde_json::from_slice(&completion).unwrap();
        assert_eq!(completion["choices"][0]["message"]["content"], "Hello");
    }
}
