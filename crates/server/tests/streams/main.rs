//! The streams themselves: both transports, the dialects, upstreams and what they do wrong, resumption and reuse.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a failed precondition fails the test, and a figure or a skipped test is reported"
)]

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod captures;
mod chat;
mod connection;
mod conversation_state;
mod documentation;
mod fault_table;
mod hostile_clients;
mod hosts;
mod leaving;
mod live;
mod neighbours;
mod panic;
mod resume;
mod reuse;
mod sse;
mod surface;
mod upstream_errors;
mod upstream_tls;
mod upstreams;
mod webhooks;
mod websocket;
