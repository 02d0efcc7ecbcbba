//! An actix-web application with its own routes and prompt, and resumable token streams over SSE
//! and a WebSocket from `tokenwire-sse` and `tokenwire-ws`. There is no gateway beside it.
//!
//! ```text
//!   GET /               the application's own page
//!   GET /haiku?on=rain  a haiku for an EventSource, which resumes with Last-Event-ID
//!   GET /socket         a Tokenwire WebSocket
//! ```
#![allow(clippy::print_stdout, reason = "prints the address it listens on")]

use std::sync::Arc;
use std::time::Duration;

use actix_web::error::InternalError;
use actix_web::http::StatusCode;
use actix_web::web::{self, Data, Payload, Query};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, Result};
use tokenwire_core::engine::{Caller, Engine, StartRequest};
use tokenwire_core::model::error::ApiError;
use tokenwire_core::model::snapshot::Api;
use tokenwire_core::request::{ResponsesRequest, StreamRequest};
use tokenwire_core::upstream::{OpenAi, OpenAiOptions, Route, Router, RouterOptions, Timeouts};
use tokenwire_sse::SseReader;
use tokenwire_ws::WebSocketOptions;

/// Starts a haiku. A request with `Last-Event-ID` resumes the one that it names.
async fn haiku(
    request: HttpRequest,
    query: Query<std::collections::HashMap<String, String>>,
    engine: Data<Engine>,
) -> Result<HttpResponse> {
    let (caller, reader) = (Caller::default(), SseReader::event_source());
    let resumed = tokenwire_sse::resume(&request, &engine, &caller.owner, &reader).await;
    if let Some(response) = resumed.map_err(error)? {
        return Ok(response);
    }
    let on = query.get("on").map_or("anything", String::as_str);
    let request = ResponsesRequest::from_input(&format!("Write a haiku on {on}."), None);
    let start = StartRequest::new(StreamRequest::Responses(request), caller, "/haiku");
    tokenwire_sse::start(&engine, start, &reader)
        .await
        .map_err(error)
}

/// Any number of answers over one connection; see section 4 of the protocol.
async fn socket(request: HttpRequest, body: Payload, engine: Data<Engine>) -> Result<HttpResponse> {
    let (engine, options) = (engine.get_ref().clone(), WebSocketOptions::default());
    tokenwire_ws::upgrade(&request, body.into_inner(), engine, options).map_err(error)
}

fn error(error: ApiError) -> actix_web::Error {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::build(status);
    let response = response.content_type("application/json").body(error.body());
    InternalError::from_response(error, response).into()
}

/// Returns the upstream of one worker: an HTTP client belongs to the runtime that uses it.
fn upstream() -> Result<Router, String> {
    let read = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let timeouts = Timeouts {
        connect: Duration::from_secs(10),
        first_token: Duration::from_secs(120),
        between_tokens: Duration::from_secs(60),
        total: Duration::from_secs(600),
    };
    let base_url = read("OPENAI_BASE_URL");
    let openai = OpenAi::new(OpenAiOptions {
        name: "model".to_owned(),
        base_url: base_url.unwrap_or_else(|| "https://api.openai.com/v1".to_owned()),
        api_key: read("OPENAI_API_KEY").map(Into::into),
        connect_timeout: timeouts.connect,
        accept_client_key: false,
        max_event: 1024 * 1024,
    })?;
    let options = RouterOptions {
        default_model: Some(read("MODEL").unwrap_or_else(|| "gpt-4o-mini".to_owned())),
        ..RouterOptions::default()
    };
    Ok(Router::new(
        vec![Route::to(openai, Api::Chat, timeouts)],
        options,
    ))
}

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let shared = Engine::builder().build();
    upstream().map_err(std::io::Error::other)?;
    let server = HttpServer::new(move || {
        #[expect(
            clippy::expect_used,
            reason = "the same was built once before the workers started"
        )]
        let engine = shared.engine(Arc::new(upstream().expect("a worker's upstream")));
        let home =
            || async { "An embedding application. Try: curl -N 'localhost:8000/haiku?on=rain'\n" };
        App::new()
            .app_data(Data::new(engine))
            .route("/", web::get().to(home))
            .route("/haiku", web::get().to(haiku))
            .route("/socket", web::get().to(socket))
    })
    // Otherwise the first token of a WebSocket waits for the peer's delayed acknowledgement.
    .tcp_nodelay(true)
    .bind((
        "127.0.0.1",
        std::env::var("PORT")
            .ok()
            .and_then(|port| port.parse().ok())
            .unwrap_or(8000),
    ))?;
    println!("listens on {:?}", server.addrs());
    server.run().await
}
