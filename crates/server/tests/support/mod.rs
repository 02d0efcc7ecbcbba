//! Shared parts of the black-box tests: a gateway on a free port, upstreams for it, and clients
//! that expose every byte.
//!
//! Waits are for bytes, for a count of the simulator, or for a close, never for a time. Each is
//! bounded by [`PATIENCE`], which is far above the duration of any successful wait.
#![allow(dead_code, unused_imports, reason = "each test file uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed precondition fails the test with its reason"
)]
#![allow(
    clippy::print_stderr,
    reason = "a skipped test reports that it was skipped"
)]

pub(crate) mod backlog;
pub(crate) mod cluster_world;
pub(crate) mod disk_world;
pub(crate) mod gateway;
pub(crate) mod http;
pub(crate) mod keep_alive;
pub(crate) mod nginx;
pub(crate) mod paced_reader;
pub(crate) mod playback;
pub(crate) mod process;
pub(crate) mod receiver;
pub(crate) mod recordings;
pub(crate) mod redis_proxy;
pub(crate) mod sse;
pub(crate) mod tls;
pub(crate) mod websocket;

use std::time::Duration;

use serde_json::{Value, json};

pub(crate) use backlog::FullBacklog;
pub(crate) use disk_world::{DiskWorld, get, post, stored};
pub(crate) use gateway::{Gateway, World, over, start};
pub(crate) use http::{Answer, End, Exchange, Request};
pub(crate) use keep_alive::{KeepAlive, Reply};
pub(crate) use playback::Playback;
pub(crate) use sse::Event;
pub(crate) use websocket::Socket;

/// Limit of every wait.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn patiently<F: Future>(what: &str, future: F) -> F::Output {
    within(PATIENCE, what, future).await
}

/// Waits for what may take longer than [`PATIENCE`].
pub(crate) async fn within<F: Future>(limit: Duration, what: &str, future: F) -> F::Output {
    match tokio::time::timeout(limit, future).await {
        Ok(output) => output,
        Err(_) => panic!("timed out waiting for {what}"),
    }
}

/// Polls `look` until it returns true, for state that can only be polled, such as the kernel's
/// tables.
pub(crate) async fn eventually(what: &str, mut look: impl AsyncFnMut() -> bool) {
    patiently(what, async {
        while !look().await {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Returns a chat request whose last message steers the simulator.
pub(crate) fn chat(steering: &str) -> Value {
    json!({"model": "simulator", "stream": true, "messages": [{"role": "user", "content": format!("[[{steering}]]")}]})
}

/// Returns a responses request whose input steers the simulator.
pub(crate) fn response(steering: &str) -> Value {
    json!({"model": "simulator", "stream": true, "input": format!("[[{steering}]]")})
}

/// Returns `base` with `members` added or replaced.
pub(crate) fn with(mut base: Value, members: Value) -> Value {
    base.as_object_mut()
        .unwrap()
        .extend(members.as_object().unwrap().clone());
    base
}

/// Percent-encodes a query value.
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

/// Every way to read a stream: each dialect, from the start and from the middle, and the object.
pub(crate) fn reading_paths(id: &str) -> [String; 9] {
    [
        format!("/v1/streams/{id}"),
        format!("/v1/streams/{id}?after=5"),
        format!("/v1/streams/{id}?dialect=chat"),
        format!("/v1/streams/{id}?dialect=chat&after=7"),
        format!("/v1/streams/{id}?dialect=text"),
        format!("/v1/responses/{id}"),
        format!("/v1/responses/{id}?stream=true"),
        format!("/v1/responses/{id}?stream=true&starting_after=6"),
        format!("/v1/responses/{id}/input_items"),
    ]
}
