//! Somebody else's actix-web application, with token streams in it: its own routes, its own prompt,
//! and resumable answers over SSE and a WebSocket out of `tokenwire-sse` and `tokenwire-ws`. There
//! is no gateway here, and nothing of OpenAI's API shows outside.
//!
//! ```text
//!   GET /               the application's own page
//!   GET /haiku?on=rain  a haiku as an EventSource reads it; the reconnect with Last-Event-ID goes on where it was
//!   GET /socket         a Tokenwire WebSocket
//! ```
#![allow(clippy::print_stdout, reason = "says where it listens")]

mod answers;
mod routes;

use actix_web::{App, HttpServer, web};

use answers::Answers;

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let answers = Answers::from_environment();
    let sweeper = answers.clone();
    actix_web::rt::spawn(async move { sweeper.sweep().await });

    let port = std::env::var("PORT")
        .ok()
        .and_then(|port| port.parse().ok())
        .unwrap_or(8000);
    // Made once here, so that a wrong base URL is told before the workers start.
    answers.engine().map_err(std::io::Error::other)?;
    let server = HttpServer::new(move || {
        #[expect(
            clippy::expect_used,
            reason = "the same was made once before the workers started"
        )]
        let engine = answers.engine().expect("a worker's engine");
        App::new()
            .app_data(web::Data::new(engine))
            .configure(routes::configure)
    })
    // Without it the first token of a WebSocket waits for the peer's delayed acknowledgement.
    .tcp_nodelay(true)
    .bind(("127.0.0.1", port))?;
    for address in server.addrs() {
        println!("listens on http://{address}");
    }
    server.run().await
}
