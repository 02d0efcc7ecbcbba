//! An OpenAI stream as one numbered, resumable, transport-neutral token stream.
//!
//! ```text
//!   upstream ──bytes──▶ decode ──payloads──▶ translate ──records──▶ log ──▶ subscription ──▶ dialect ──frames──▶ an adapter
//!   (HTTP)              (SSE, JSON)          (events)              (fenced)  (a cursor)      (JSON)
//! ```
//!
//! One **generation** is one append-only log of numbered events, ended by exactly one terminal
//! event. Whoever reads holds a cursor into it: nothing is queued for a reader, so a slow one costs
//! its own socket and nothing else, and one that lost its connection asks again from the last
//! number that it has.
//!
//! Three things make that as cheap as relaying bytes:
//!
//! * A token's chunk is recognised as an earlier one with another word in it, without being parsed
//!   ([`record`]). Stored are the word and the number of the template; both dialects are written
//!   from that.
//! * The task that asks the upstream runs on the worker that serves the client ([`generation`]), so
//!   a token never changes threads.
//! * A reader takes everything that stands past its cursor as one piece of bytes
//!   ([`generation::Subscription`]).
//!
//! Where to begin reading: [`engine::Engine`] is what adapters and APIs talk to; [`generation`] has
//! the life of an answer; [`translate`] knows what real servers send; [`dialect`] what clients want
//! to see.
//!
//! The crate knows no HTTP server. With the default feature `openai` it knows how to ask an
//! OpenAI-compatible one.

pub mod model;
pub mod request;

pub mod log;

pub mod upstream;

pub mod dialect;

pub mod generation;

pub mod engine;

/// The examples of the README are compiled as doctests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
