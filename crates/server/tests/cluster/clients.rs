//! Clients that make something at one node and go on at another one: openai-python and WebSockets.

use std::process::Command;

use crate::support::cluster_world::{ClusterWorld, LONG, SLOW};
use crate::support::{Socket, get};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

/// Runs only where `RESTART_PYTHON` names a Python with the SDK, as in `cargo xtask test --only restarts`.
#[tokio::test]
async fn openai_python_goes_on_at_another_node() {
    let Some(python) = std::env::var_os("RESTART_PYTHON") else {
        eprintln!("skipped: RESTART_PYTHON names no Python with the SDK");
        return;
    };
    let world = ClusterWorld::new();
    let nodes = [world.start(), world.start()];
    let mut command = Command::new(python);
    command.arg(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/restart/nodes.py"
    ));
    command.args(
        nodes
            .each_ref()
            .map(|node| format!("http://{}/v1", node.address)),
    );
    let status = spawn_blocking(move || command.status()).await.unwrap();
    assert!(status.unwrap().success(), "the SDK saw an error");
}

fn number(event: &Value) -> u64 {
    event["sequence_number"].as_u64().unwrap()
}

fn deltas(events: &[Value]) -> usize {
    let deltas = events.iter();
    deltas
        .filter(|event| event["type"] == "response.output_text.delta")
        .count()
}

#[tokio::test]
async fn socket_creates_at_one_node_and_resumes_and_cancels_at_another() {
    let world = ClusterWorld::new();
    let nodes = [world.start(), world.start()];
    let mut first = Socket::connect_extended(nodes[0].address, "/v1/ws").await;
    first.create(SLOW, json!({"model": "simulator"})).await;
    let mut events = first
        .until(|event| event["type"] == "response.output_text.delta")
        .await;
    let id = events[0]["response"]["id"].clone();
    drop(first);
    // A stream is read on at the other node, from the event after the last one seen.
    let mut second = Socket::connect_extended(nodes[1].address, "/v1/ws").await;
    let after = number(events.last().unwrap());
    let resume = json!({"type": "tokenwire:resume", "response_id": id, "starting_after": after});
    second.send(resume).await;
    let rest = second.until_end().await;
    events.extend(
        rest.into_iter()
            .filter(|event| event.get("sequence_number").is_some()),
    );
    let ascend = |pair: &[Value]| number(&pair[0]) < number(&pair[1]);
    assert!(events.windows(2).all(ascend), "{events:?}");
    assert_eq!(deltas(&events), 60);
    assert_eq!(events.last().unwrap()["type"], "response.completed");
    // A cancel at the other node ends it at both.
    let mut first = Socket::connect_extended(nodes[0].address, "/v1/ws").await;
    first.create(LONG, json!({"model": "simulator"})).await;
    let created = first.until_type("response.created").await.pop().unwrap();
    let id = created["response"]["id"].clone();
    let resume = json!({"type": "tokenwire:resume", "response_id": id, "stream_id": "a"});
    second.send(resume).await;
    second.until_type("response.created").await;
    second
        .send(json!({"type": "tokenwire:cancel", "response_id": id}))
        .await;
    for socket in [&mut second, &mut first] {
        let last = socket.until_end().await.pop().unwrap();
        assert_eq!(last["response"]["status"], "cancelled", "{last}");
    }
    for node in &nodes {
        let path = format!("/v1/responses/{}", id.as_str().unwrap());
        assert_eq!(get(node, &path).await.json()["status"], "cancelled");
    }
    // A turn over the other node goes on with what the first one has.
    second
        .create(
            "tokens=2",
            json!({"model": "simulator", "previous_response_id": events[0]["response"]["id"]}),
        )
        .await;
    let last = second.until_end().await.pop().unwrap();
    assert_eq!(last["type"], "response.completed", "{last}");
    assert_eq!(world.asked(), 3);
}
