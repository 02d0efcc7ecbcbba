//! A [`Subscription`](tokenwire_core::generation::Subscription) as `text/event-stream` (WHATWG
//! HTML, section 9.2), for any actix-web application.
//!
//! Three framings, for three kinds of client:
//!
//! * [`Sdk`] for the official OpenAI SDKs: `event:` and `data:`, never an `id:`. After an id they
//!   fail on a comment that is followed by a blank line, on a lone `retry:` and on an event without
//!   data.
//! * [`EventSource`] for browsers: `id:` on every event, never an `event:`, so that `onmessage`
//!   sees every event and a reconnect carries the last id.
//! * [`Bare`] for `curl`: the text only.
//!
//! [`resume`] answers a client that comes back with `Last-Event-ID`, [`start`] one that asks for a
//! new generation. Each is one call:
//!
//! ```
//! use actix_web::{HttpRequest, HttpResponse};
//! use tokenwire_core::engine::{Caller, Engine, StartRequest};
//! use tokenwire_core::model::error::ApiError;
//! use tokenwire_core::request::{ResponsesRequest, StreamRequest};
//! use tokenwire_sse::SseReader;
//!
//! fn haiku(request: &HttpRequest, engine: &Engine) -> Result<HttpResponse, ApiError> {
//!     let (caller, reader) = (Caller::default(), SseReader::event_source());
//!     if let Some(resumed) = tokenwire_sse::resume(request, engine, &caller.owner, &reader)? {
//!         return Ok(resumed);
//!     }
//!     let body = StreamRequest::Responses(ResponsesRequest::from_input("A haiku, please.", None));
//!     tokenwire_sse::start(engine, StartRequest::new(body, caller, "/haiku"), &reader)
//! }
//! ```
//!
//! The crate knows no OpenAI client.

mod body;
mod framing;
mod reader;
mod response;

pub use framing::{Bare, EventSource, Sdk};
pub use reader::{
    SseFraming, SseReader, come_back, head_at, last_event_id, read, resume, resume_at, start,
};
