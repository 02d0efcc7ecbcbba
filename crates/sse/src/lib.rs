//! A [`Subscription`](tokenwire_core::generation::Subscription) as `text/event-stream` (WHATWG
//! HTML, section 9.2), for any actix-web application.
//!
//! Three framings, because three kinds of reader differ in what breaks them:
//!
//! * [`Sdk`] for the official OpenAI SDKs: `event:` and `data:`, never an `id:`. After an id they
//!   die on a comment that is followed by a blank line, on a lone `retry:` and on an event without
//!   data.
//! * [`EventSource`] for browsers: `id:` on every event, never an `event:`, so that `onmessage`
//!   sees everything and a reconnect brings the last id along.
//! * [`Bare`] for people with curl: the text and nothing else.
//!
//! The crate knows nothing of OpenAI. It takes a subscription, and answers with a body that pulls
//! from it.

mod body;
mod framing;
mod response;

pub use body::{SseBody, SseOptions};
pub use framing::{Bare, EventSource, Sdk};
pub use response::{event_stream, plain_text};

/// The examples of the README are compiled as doctests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
