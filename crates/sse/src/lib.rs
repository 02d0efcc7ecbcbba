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
//! new generation, and [`resume_or_start`] both.
//!
//! The crate knows no OpenAI client.

mod body;
mod error;
mod framing;
mod reader;
mod response;

pub use body::HeartbeatKind;
pub use error::{DEFAULT_RETRY_AFTER, HttpError, X_SHOULD_RETRY, error_response};
pub use framing::{Bare, EventSource, Sdk};
pub use reader::{
    SseFraming, SseReader, come_back, head_at, last_event_id, read, resume, resume_at,
    resume_or_start, start,
};
pub use response::event_stream;
