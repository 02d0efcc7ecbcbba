//! A node of several is lost, pauses or is cut off: what it stored in Redis is served by the others.

use std::time::{Duration, Instant};

use crate::support::cluster_world::{
    ClusterWorld, LONG, SLOW, begin, events, read_all, ready, settled,
};
use crate::support::process::Process;
use crate::support::receiver::Receiver;
use crate::support::{Request, Socket, eventually, get, post, response, with};
use futures::future::join_all;
use rustix::process::Signal;
use serde_json::{Value, json};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const WEBHOOKS: &str = "webhooks:\n  allow_private: true\n";
const ALL: &str = "store:\n  replicate: all\n";
/// The first number of the second epoch.
const SECOND: u64 = 1 << 24;

/// Waits until Redis has this many entries of logs that have ended.
async fn copied(world: &ClusterWorld, streams: usize) {
    eventually("the copies in Redis", async || {
        world
            .redis
            .command(&["KEYS", "tw:*:object:*"])
            .lines()
            .count()
            == streams
    })
    .await;
}

/// Waits until a node may take over what lost ones wrote: its lease has held for 6 s.
async fn may_adopt() {
    tokio::time::sleep(Duration::from_millis(6500)).await;
}

fn background(steering: &str, webhook: Option<&Receiver>) -> Value {
    let mut body = with(
        response(steering),
        json!({"stream": false, "background": true}),
    );
    if let Some(receiver) = webhook {
        body["webhook"] = json!({"url": receiver.url(), "secret": SECRET});
    }
    body
}

/// Checks a body in eventsource framing: numbers ascend, and one terminal event ends it.
fn check_events(found: &[(u64, String)]) {
    let numbers: Vec<u64> = found.iter().map(|(number, _)| *number).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    let ends = found.iter().filter(|(_, event)| {
        ["completed", "failed", "incomplete"]
            .iter()
            .any(|end| event.contains(&format!("\"type\":\"response.{end}\"")))
    });
    assert_eq!(ends.count(), 1, "{found:?}");
}

#[tokio::test]
async fn ended_responses_of_a_killed_node_are_the_same_over_every_other() {
    let world = ClusterWorld::new();
    let nodes = [world.start(), world.start()];
    let owner = world.start();
    let mut ids = Vec::new();
    for (path, body) in [
        ("/v1/responses", response("tokens=20 text=count")),
        ("/v1/streams", response("tokens=5 reasoning=4")),
        ("/v1/responses", response("tokens=3000 text=count")),
    ] {
        let answer = post(&owner, path, &body).answer().await;
        ids.push(answer.id().to_owned());
    }
    let keyed = |node: &Process| {
        let body = response("tokens=7 text=count");
        post(node, "/v1/streams", &body).header("idempotency-key", "order-1")
    };
    let under_key = keyed(&owner).answer().await;
    ids.push(under_key.id().to_owned());
    let mut before = Vec::new();
    for id in &ids {
        before.push(read_all(&owner, id).await);
    }
    copied(&world, ids.len()).await;
    let asked = world.asked();
    drop(owner);
    for node in &nodes {
        for (id, before) in ids.iter().zip(&before) {
            assert_eq!(&read_all(node, id).await, before);
        }
        let again = keyed(node).answer().await;
        assert_eq!(events(&again.text()), events(&under_key.text()));
        let mut socket = Socket::connect_extended(node.address, "/v1/ws").await;
        let resume =
            json!({"type": "tokenwire:resume", "response_id": ids[0], "starting_after": 3});
        socket.send(resume).await;
        let last = socket.until_end().await.pop().unwrap();
        assert_eq!(last["type"], "response.completed", "{last}");
    }
    assert_eq!(world.asked(), asked);
    let object = get(&nodes[1], &format!("/v1/responses/{}", ids[0])).await;
    let item = object.json()["output"][0]["id"].clone();
    let next = json!({"model": "simulator", "input": "and now? [[tokens=2]]", "previous_response_id": ids[0]});
    let third = json!({"input": [{"type": "item_reference", "id": item}, {"role": "user", "content": "and now? [[tokens=2]]"}]});
    for body in [next, with(response("tokens=2"), third)] {
        let answer = post(&nodes[0], "/v1/responses", &body).answer().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let request = world.simulator.requests().pop().unwrap();
        let sent = request.body.unwrap().to_string();
        assert!(sent.contains("t0") && sent.contains("and now?"), "{sent}");
    }
    // Deleted at one node it is deleted at all, also those that start later.
    let path = format!("/v1/responses/{}", ids[0]);
    let delete = Request::new(nodes[1].address, "DELETE", &path);
    assert_eq!(delete.answer().await.status, 200);
    let late = world.start();
    for node in nodes.iter().chain([&late]) {
        assert_eq!(settled(node, &path).await.status, 404);
    }
}

#[tokio::test]
async fn another_owners_lost_stream_is_not_found() {
    let world = ClusterWorld::new();
    let keys = "auth:\n  keys:\n    - {owner: ann, key: 'ann-0123456789abcdef'}\n    - {owner: bob, key: 'bob-0123456789abcdef'}\n";
    let (reader, owner) = (world.start_with(keys), world.start_with(keys));
    let mut stream = post(&owner, "/v1/streams", &response(LONG))
        .header("authorization", "Bearer ann-0123456789abcdef")
        .send()
        .await;
    stream.until("\" t9\"").await;
    let id = stream.id().await;
    drop(owner);
    let asked = async |key: &str| {
        let path = format!("/v1/responses/{id}");
        let request = Request::new(reader.address, "GET", &path);
        request
            .header("authorization", &format!("Bearer {key}"))
            .answer()
            .await
            .status
    };
    eventually("the node is known to be lost", async || {
        asked("ann-0123456789abcdef").await == 410
    })
    .await;
    assert_eq!(asked("bob-0123456789abcdef").await, 404);
}

#[tokio::test]
async fn replicated_streams_of_a_killed_node_are_ended_above_all_that_readers_saw() {
    let world = ClusterWorld::new();
    let nodes = [world.start_with(ALL), world.start_with(ALL)];
    let owner = world.start_with(ALL);
    may_adopt().await;
    let (_stream, id) = begin(&owner, LONG).await;
    // One node reads it, and one has never heard of it.
    let path = format!("/v1/streams/{id}");
    let mut read = Request::new(nodes[0].address, "GET", &path).send().await;
    read.until("\" t19\"").await;
    drop(owner);
    let killed = Instant::now();
    let read = read.answer().await;
    assert!(
        killed.elapsed() < Duration::from_secs(5),
        "{:?}",
        killed.elapsed()
    );
    let read = events(&read.text());
    check_events(&read);
    let (last, ending) = read.last().unwrap();
    assert!(*last >= SECOND && *last < SECOND + 16, "{last}");
    assert!(ending.contains("producer_lost"), "{ending}");
    let other = settled(&nodes[1], &path).await;
    assert_eq!(other.status, 200);
    assert_eq!(events(&other.text()), read, "both have the same log");
    assert!(read.iter().any(|(_, event)| event.contains("\" t19\"")));
    for node in &nodes {
        assert_eq!(get(node, &format!("{path}?after={last}")).await.status, 204);
        let object = get(node, &format!("/v1/responses/{id}")).await;
        assert_eq!(object.json()["status"], "failed", "{}", object.text());
        assert_eq!(object.json()["error"]["code"], "producer_lost");
    }
    assert_eq!(world.asked(), 1);
}

#[tokio::test]
async fn reader_that_saw_more_than_is_stored_gets_a_reset() {
    let world = ClusterWorld::new();
    let owner = world.start_with(ALL);
    let (reader, third) = (world.start_with(ALL), world.start_with(ALL));
    may_adopt().await;
    let (_stream, id) = begin(&owner, LONG).await;
    let path = format!("/v1/streams/{id}");
    let mut read = get_stream(&reader, &id).await;
    read.until("\" t9\"").await;
    // From now on nothing of it is stored.
    let partition = world.redis.command(&["KEYS", &format!("tw:*:log:{id}")]);
    let stored = world.redis.command(&["XLEN", &partition]);
    assert_ne!(stored, "0");
    world.redis.pause();
    read.until("\" t29\"").await;
    drop(owner);
    reader.signal(Signal::STOP);
    world.redis.resume();
    // The third one does not know what the reader has seen.
    let other = settled_for_long(&third, &path).await;
    check_events(&events(&other));
    assert!(!other.contains("\" t29\""), "{other}");
    reader.signal(Signal::CONT);
    let seen = read.answer().await;
    let seen = events(&seen.text());
    let (last, _) = seen.last().unwrap();
    assert!(*last < SECOND, "its own node shows no other end: {last}");
    for node in [&reader, &third] {
        let rest = settled_for_long(node, &format!("{path}?after={last}")).await;
        let rest = events(&rest);
        assert!(rest[0].1.contains("tokenwire:reset"), "{rest:?}");
        assert!(rest[0].0 >= SECOND, "{rest:?}");
    }
}

/// As `settled`, for a node that is not told of a lost one for some seconds.
async fn settled_for_long(node: &Process, path: &str) -> String {
    let mut answer = settled(node, path).await;
    eventually("an answer", async || {
        answer = settled(node, path).await;
        answer.status == 200 && !answer.text().is_empty()
    })
    .await;
    answer.text()
}

#[tokio::test]
async fn background_responses_of_a_killed_node_end_unasked_and_report_it_once() {
    let world = ClusterWorld::new();
    let mut receiver = Receiver::start([]).await;
    let nodes = [world.start_with(WEBHOOKS), world.start_with(WEBHOOKS)];
    let owner = world.start_with(WEBHOOKS);
    may_adopt().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        let body = background(LONG, Some(&receiver));
        let answer = post(&owner, "/v1/responses", &body).answer().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        ids.push(answer.id().to_owned());
    }
    eventually("the upstream is asked", async || world.asked() == 5).await;
    drop(owner);
    let killed = Instant::now();
    let mut reported = Vec::new();
    let mut webhooks = Vec::new();
    for _ in &ids {
        let webhook = receiver.next().await;
        let (kind, id) = webhook.checked(SECRET);
        assert_eq!(kind, "response.failed");
        webhooks.push(webhook.header("webhook-id").to_owned());
        reported.push(id);
    }
    assert!(
        killed.elapsed() < Duration::from_secs(10),
        "{:?}",
        killed.elapsed()
    );
    reported.sort();
    ids.sort();
    assert_eq!(reported, ids);
    for id in &ids {
        for node in &nodes {
            let object = get(node, &format!("/v1/responses/{id}")).await.json();
            assert_eq!(object["error"]["code"], "producer_lost", "{object}");
        }
    }
    // A full round of both nodes later nothing was sent again.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(receiver.more(), 0);
    let members = world.redis.command(&["KEYS", "tw:running:*"]);
    assert_eq!(members, "", "nothing runs");
}

#[tokio::test]
async fn two_nodes_that_adopt_at_once_show_one_end() {
    let world = ClusterWorld::new();
    let nodes = [world.start(), world.start(), world.start()];
    let owner = world.start();
    may_adopt().await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        let body = background(LONG, None);
        let answer = post(&owner, "/v1/responses", &body).answer().await;
        ids.push(answer.id().to_owned());
    }
    drop(owner);
    let all = ids.iter().flat_map(|id| {
        nodes.iter().map(move |node| async move {
            let path = format!("/v1/streams/{id}");
            settled(node, &path).await.text()
        })
    });
    let bodies = join_all(all.collect::<Vec<_>>()).await;
    for same in bodies.chunks(nodes.len()) {
        let first = events(&same[0]);
        check_events(&first);
        for body in same {
            assert_eq!(events(body), first);
        }
    }
}

#[tokio::test]
async fn node_that_slept_shows_no_second_end() {
    let world = ClusterWorld::new();
    let mut receiver = Receiver::start([]).await;
    let (owner, reader) = (world.start_with(WEBHOOKS), world.start_with(WEBHOOKS));
    may_adopt().await;
    // One sleeps in the middle of its answer, and one just before its end.
    let steering = [
        "tokens=400 text=count tbt=50ms",
        "tokens=30 text=count tbt=50ms",
    ];
    let mut ids = Vec::new();
    for steering in steering {
        let body = background(steering, Some(&receiver));
        let answer = post(&owner, "/v1/responses", &body).answer().await;
        ids.push(answer.id().to_owned());
    }
    let mut own = get_stream(&owner, &ids[1]).await;
    own.until("\" t25\"").await;
    owner.signal(Signal::STOP);
    let mut reported = Vec::new();
    for _ in &ids {
        let webhook = receiver.next().await;
        assert_eq!(webhook.checked(SECRET).0, "response.failed");
        reported.push(webhook.header("webhook-id").to_owned());
    }
    let others: Vec<_> = join_all(ids.iter().map(|id| {
        let path = format!("/v1/streams/{id}");
        let reader = &reader;
        async move { settled(reader, &path).await.text() }
    }))
    .await;
    owner.signal(Signal::CONT);
    // The reader that it had gets no end of its own.
    let own = own.answer().await;
    assert!(!own.text().contains("response.completed"), "{}", own.text());
    for (id, other) in ids.iter().zip(&others) {
        let path = format!("/v1/streams/{id}");
        check_events(&events(other));
        eventually("the owner has the others' end", async || {
            let own = get(&owner, &path).await;
            events(&own.text()) == events(other)
        })
        .await;
    }
    eventually("the owner has cancelled upstream", async || {
        world.simulator.stats().aborted >= 1
    })
    .await;
    assert_eq!(receiver.more(), 0, "reported again");
}

async fn get_stream(node: &Process, id: &str) -> crate::support::Exchange {
    let path = format!("/v1/streams/{id}");
    Request::new(node.address, "GET", &path).send().await
}

#[tokio::test]
async fn outage_of_redis_adopts_nothing_and_stops_no_stream() {
    let world = ClusterWorld::new();
    let (owner, reader) = (world.start_with(ALL), world.start_with(ALL));
    may_adopt().await;
    let steering = "tokens=400 text=count tbt=50ms";
    let (stream, id) = begin(&owner, steering).await;
    let mut read = get_stream(&reader, &id).await;
    read.until("\" t8\"").await;
    world.redis.pause();
    tokio::time::sleep(Duration::from_secs(10)).await;
    world.redis.resume();
    let (own, read) = tokio::join!(stream.answer(), read.answer());
    let own = events(&own.text());
    check_events(&own);
    assert!(own.last().unwrap().1.contains("response.completed"));
    assert_eq!(events(&read.text()), own);
    let text: Vec<_> = own
        .iter()
        .filter(|(_, event)| event.contains("output_text.delta"))
        .collect();
    assert_eq!(text.len(), 400);
    // What Redis has is complete.
    drop(owner);
    let fresh = world.start_with(ALL);
    let path = format!("/v1/streams/{id}");
    eventually("another node serves it from Redis", async || {
        let answer = settled(&fresh, &path).await;
        answer.status == 200 && events(&answer.text()) == own
    })
    .await;
}

#[tokio::test]
async fn flushed_redis_gets_running_streams_again() {
    let world = ClusterWorld::new();
    let owner = world.start_with(ALL);
    let (stream, id) = begin(&owner, SLOW).await;
    world.redis.command(&["FLUSHALL"]);
    let own = stream.answer().await;
    assert!(own.text().contains("response.completed"));
    copied(&world, 1).await;
    let reader = world.start_with(ALL);
    drop(owner);
    let path = format!("/v1/streams/{id}");
    eventually("another node serves it from Redis", async || {
        let answer = settled(&reader, &path).await;
        answer.status == 200 && events(&answer.text()) == events(&own.text())
    })
    .await;
    assert_eq!(ready(&reader).await["cluster"]["redis"], "up");
}
