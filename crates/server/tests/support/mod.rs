//! What the black-box tests share: a real gateway on a free port, upstreams for it, and clients
//! that hide nothing.
//!
//! Nothing here sleeps to wait for something: every wait is for bytes, for a count of the
//! simulator's, or for a close, and is given up after [`PATIENCE`], which nothing comes near while
//! all is well.
#![allow(
    dead_code,
    unused_imports,
    reason = "each test file uses its part of it"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says why and ends"
)]
#![allow(clippy::print_stderr, reason = "a test that was skipped has to say so")]

pub(crate) mod backlog;
pub(crate) mod gateway;
pub(crate) mod http;
pub(crate) mod playback;
pub(crate) mod process;
pub(crate) mod recordings;
pub(crate) mod sse;
pub(crate) mod websocket;

use std::time::Duration;

use serde_json::{Value, json};

pub(crate) use backlog::FullBacklog;
pub(crate) use gateway::{Gateway, World, over, start};
pub(crate) use http::{Answer, End, Exchange, Request};
pub(crate) use playback::Playback;
pub(crate) use sse::Event;
pub(crate) use websocket::Socket;

/// How long anything may take before a test is given up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn patiently<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// Asks again until it is so; for what can only be looked at, as the kernel's tables.
pub(crate) async fn eventually(what: &str, mut look: impl AsyncFnMut() -> bool) {
    patiently(what, async {
        while !look().await {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// A chat request whose last message steers the simulator.
pub(crate) fn chat(steering: &str) -> Value {
    json!({"model": "simulator", "stream": true, "messages": [{"role": "user", "content": format!("[[{steering}]]")}]})
}

/// A responses request whose input steers the simulator.
pub(crate) fn response(steering: &str) -> Value {
    json!({"model": "simulator", "stream": true, "input": format!("[[{steering}]]")})
}

/// `base` with more members, or others in their place.
pub(crate) fn with(mut base: Value, members: Value) -> Value {
    base.as_object_mut()
        .unwrap()
        .extend(members.as_object().unwrap().clone());
    base
}

/// A query's value, percent-encoded.
pub(crate) fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}
