//! An OpenAI stream as one numbered, resumable, transport-neutral token stream.
//!
//! ```text
//!   upstream ──bytes──▶ decode ──payloads──▶ translate ──records──▶ log ──▶ subscription ──▶ dialect ──frames──▶ adapter
//!   (HTTP)              (SSE, JSON)          (events)                       (a position)     (JSON)
//! ```
//!
//! One **generation** is one append-only log of numbered events, ended by exactly one terminal
//! event. A reader is a position in that log. Nothing is queued for it, so a slow reader costs its
//! own socket only, and a reader that lost its connection asks again from the last number it has.
//!
//! Three things make that as cheap as relaying bytes:
//!
//! * A token's chunk that equals an earlier one but for its text is recognised without parsing
//!   ([`model::record`]). The log stores the text and the number of the template, and both dialects
//!   are written from that.
//! * The task that asks the upstream runs on the worker that serves the client ([`generation`]), so
//!   a token never changes threads.
//! * A reader takes everything after its position as one piece of bytes
//!   ([`generation::Subscription`]).
//!
//! The modules are layers. Each uses only those before it:
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`model`] | ids, events, records, snapshots, errors |
//! | [`request`] | chat and Responses requests, and the translation between them |
//! | [`log`] | the append-only log and its readers |
//! | [`upstream`] | endpoints, decoding, translation, retries, failover, hedging |
//! | [`dialect`] | records as JSON frames |
//! | [`generation`] | one answer: its writer, its control, its subscriptions |
//! | [`engine`] | start, find, resume, retention, shared answers |
//!
//! Adapters and APIs use [`engine::Engine`]. The crate knows no HTTP server. With the default
//! feature `openai` it has a client for OpenAI-compatible servers.

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
