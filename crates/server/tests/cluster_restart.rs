//! Nodes of several that restart or find Redis full.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use serde_json::json;
use support::cluster_world::{ClusterWorld, LONG, SECRET, begin, events, read_all, settled};
use support::process::Process;
use support::{Request, eventually, get, post, response, with};

#[tokio::test]
async fn full_redis_stops_no_stream_and_gets_all_once_there_is_room() {
    let world = ClusterWorld::new();
    let owner = world.start_with("store:\n  replicate: all\n");
    let (stream, id) = begin(&owner, "tokens=60 text=count tbt=50ms").await;
    world.redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let own = stream.answer().await;
    assert!(own.text().contains("response.completed"), "{}", own.text());
    let body = with(response(LONG), json!({"stream": false, "background": true}));
    let refused = post(&owner, "/v1/responses", &body).answer().await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    world.redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
    eventually("the copy in Redis", async || {
        let keys = world.redis.command(&["KEYS", &format!("tw:*:object:{id}")]);
        !keys.is_empty()
    })
    .await;
    let reader = world.start();
    drop(owner);
    let path = format!("/v1/streams/{id}");
    eventually("another node serves it from Redis", async || {
        let other = settled(&reader, &path).await;
        other.status == 200 && events(&other.text()) == events(&own.text())
    })
    .await;
}

#[tokio::test]
async fn what_a_restarted_node_has_on_disk_is_found_under_its_earlier_name() {
    let world = ClusterWorld::new();
    let folder = tempfile::TempDir::new().unwrap();
    let disk = format!(
        "store:\n  kind: disk\n  path: {}\n",
        folder.path().display()
    );
    let (owner, reader) = (world.start_with(&disk), world.start());
    let body = with(response("tokens=20 text=count"), json!({"store": false}));
    let answer = post(&owner, "/v1/streams", &body).answer().await;
    let id = answer.id().to_owned();
    let before = read_all(&reader, &id).await;
    eventually("the stream is on disk", async || {
        let metrics = get(&owner, "/metrics").await.text();
        metrics.contains("tokenwire_store_kept_streams 1\n")
    })
    .await;
    let port = owner.address.port();
    // It hands its port over, drains and ends.
    let config = world.config(SECRET) + &disk;
    let successor = Process::start_on(port, &config);
    let fresh = world.start();
    let (ended, log) = owner.output();
    assert!(ended, "{log}");
    for node in [&successor, &fresh, &reader] {
        assert_eq!(read_all(node, &id).await, before);
    }
    let delete = Request::new(reader.address, "DELETE", &format!("/v1/responses/{id}"));
    assert_eq!(delete.answer().await.status, 200);
    let path = format!("/v1/streams/{id}");
    for node in [&successor, &fresh, &reader] {
        assert_eq!(settled(node, &path).await.status, 404);
    }
}
