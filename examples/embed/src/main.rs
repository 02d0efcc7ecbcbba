//! An actix-web application with its own routes and prompt, and resumable token streams over SSE
//! and a WebSocket from `tokenwire-sse` and `tokenwire-ws`. There is no gateway beside it.
//!
//! ```text
//!   GET /               the application's own page
//!   GET /haiku?on=rain  a haiku for an EventSource, which resumes with Last-Event-ID
//!   GET /socket         a Tokenwire WebSocket
//! ```
#![allow(clippy::expect_used, clippy::print_stdout, reason = "an example")]

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use actix_web::web::{self, Data, Payload, Query};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use tokenwire_core::engine::{Caller, Engine, StartRequest};
use tokenwire_core::model::snapshot::Api;
use tokenwire_core::request::{ResponsesRequest, StreamRequest};
use tokenwire_core::upstream::{OpenAi, OpenAiOptions, Route, Router, RouterOptions, Timeouts};
use tokenwire_sse::{HttpError, SseReader, resume_or_start};
use tokenwire_ws::{WebSocketOptions, upgrade};

const HOME: &str = "An embedding application. Try: curl -N 'localhost:8000/haiku?on=rain'\n";

type Answer = Result<HttpResponse, HttpError>;

/// Starts a haiku. A request with `Last-Event-ID` resumes the one that it names.
async fn haiku(
    request: HttpRequest,
    query: Query<HashMap<String, String>>,
    engine: Data<Engine>,
) -> Answer {
    let on = query.get("on").map_or("anything", String::as_str);
    let body = ResponsesRequest::from_input(&format!("Write a haiku on {on}."), None);
    let body = StreamRequest::Responses(body);
    let start = StartRequest::new(body, Caller::default(), "/haiku");
    let reader = SseReader::event_source();
    Ok(resume_or_start(&request, &engine, start, &reader).await?)
}

/// Any number of answers over one connection; see section 4 of the protocol.
async fn socket(request: HttpRequest, body: Payload, engine: Data<Engine>) -> Answer {
    let (engine, options) = (engine.get_ref().clone(), WebSocketOptions::default());
    Ok(upgrade(&request, body.into_inner(), engine, options)?)
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Returns the upstream of one worker: an HTTP client belongs to the runtime that uses it.
fn upstream() -> Result<Router, String> {
    let openai = OpenAi::new(OpenAiOptions::from_env())?;
    let options = RouterOptions {
        default_model: env("MODEL").or(Some("gpt-4o-mini".to_owned())),
        ..RouterOptions::default()
    };
    let route = Route::to(openai, Api::Chat, Timeouts::default());
    Ok(Router::new(vec![route], options))
}

#[actix_web::main]
async fn main() -> io::Result<()> {
    let shared = Engine::builder().build();
    upstream().map_err(io::Error::other)?;
    let server = HttpServer::new(move || {
        let upstream = upstream().expect("the same was built before the workers started");
        App::new()
            .app_data(Data::new(shared.engine(Arc::new(upstream))))
            .route("/", web::get().to(async || HOME))
            .route("/haiku", web::get().to(haiku))
            .route("/socket", web::get().to(socket))
    });
    let port = env("PORT").map_or(Ok(8000), |port| port.parse());
    let port: u16 = port.map_err(io::Error::other)?;
    // Otherwise the first token of a WebSocket waits for the peer's delayed acknowledgement.
    let server = server.tcp_nodelay(true).bind(("127.0.0.1", port))?;
    println!("listens on {:?}", server.addrs());
    server.run().await
}
