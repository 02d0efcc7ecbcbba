//! Several gateways on one Redis: any of them serves the streams of the others.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::cluster_world::{
    ClusterWorld, LONG, LOST, SLOW, begin, events, ready, settled,
};
use crate::support::process::Process;
use crate::support::{Request, Socket, eventually, get, post, response, with};
use futures::future::join_all;
use rustix::process::Signal;
use serde_json::{Value, json};

#[tokio::test]
async fn running_stream_is_read_over_every_node_in_every_framing() {
    let world = ClusterWorld::new();
    let nodes = [world.start(), world.start(), world.start()];
    let (stream, id) = begin(&nodes[0], SLOW).await;
    let paths = [
        format!("/v1/streams/{id}"),
        format!("/v1/streams/{id}?after=40"),
        format!("/v1/streams/{id}?dialect=chat"),
        format!("/v1/streams/{id}?dialect=text"),
        format!("/v1/responses/{id}?stream=true"),
        format!("/v1/responses/{id}?stream=true&starting_after=6"),
    ];
    let mut socket = Socket::connect_extended(nodes[2].address, "/v1/ws").await;
    let resume = json!({"type": "tokenwire:resume", "response_id": id, "starting_after": 3});
    socket.send(resume).await;
    let object = get(&nodes[1], &format!("/v1/responses/{id}")).await;
    assert_eq!(object.json()["status"], "in_progress", "{}", object.text());
    let reads = nodes[1..]
        .iter()
        .flat_map(|node| paths.iter().map(move |path| get(node, path)));
    let (reads, over_socket) = tokio::join!(join_all(reads), socket.until_end());
    let own = stream.answer().await;
    assert!(own.text().contains("response.completed"), "{}", own.text());
    for (read, path) in reads.iter().zip(paths.iter().cycle()) {
        assert_eq!(read.status, 200, "{path}: {}", read.text());
        let same = get(&nodes[0], path).await;
        assert_eq!(events(&read.text()), events(&same.text()), "{path} differs");
    }
    assert_eq!(events(&reads[0].text()), events(&own.text()));
    assert!(reads[3].text().ends_with(" t58 t59"), "{}", reads[3].text());
    assert_eq!(over_socket.last().unwrap()["type"], "response.completed");
    for node in &nodes {
        for rest in ["", "/input_items"] {
            let path = format!("/v1/responses/{id}{rest}");
            let same = get(&nodes[0], &path).await;
            assert_eq!(get(node, &path).await.text(), same.text(), "{path}");
        }
    }
    assert_eq!(world.asked(), 1);
    assert_eq!(ready(&nodes[1]).await["cluster"]["redis"], "up");
}

#[tokio::test]
async fn cancel_and_delete_reach_every_node() {
    let world = ClusterWorld::new();
    let nodes = [world.start(), world.start(), world.start()];
    let (stream, cancelled) = begin(&nodes[0], LONG).await;
    let path = format!("/v1/responses/{cancelled}/cancel");
    let answer = post(&nodes[1], &path, &json!({})).answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let own = stream.answer().await;
    assert!(own.text().contains("response.incomplete"), "{}", own.text());
    // The nodes have their copies by then, which go as well.
    let path = format!("/v1/responses/{cancelled}");
    for node in &nodes {
        assert_eq!(get(node, &path).await.json()["status"], "cancelled");
    }
    eventually("each node knows the others", async || {
        ready(&nodes[1]).await["cluster"]["nodes"] == 3
    })
    .await;
    let (_running, deleted) = begin(&nodes[0], LONG).await;
    for id in [&cancelled, &deleted] {
        let path = format!("/v1/responses/{id}");
        let delete = Request::new(nodes[1].address, "DELETE", &path);
        assert_eq!(delete.answer().await.status, 200);
        for node in &nodes {
            assert_eq!(get(node, &path).await.status, 404);
        }
    }
    eventually("the upstream's connections end", async || {
        world.simulator.stats().aborted == 2
    })
    .await;
}

#[tokio::test]
async fn idempotency_key_asks_the_upstream_once_among_all_nodes() {
    let world = ClusterWorld::new();
    let nodes = [world.start(), world.start(), world.start()];
    let keyed = |node: &Process, body: &Value| {
        post(node, "/v1/streams", body).header("idempotency-key", "order-7")
    };
    let body = response(SLOW);
    let starts = nodes.iter().map(|node| {
        let request = keyed(node, &body);
        async move { request.answer().await }
    });
    let answers = join_all(starts.collect::<Vec<_>>()).await;
    for answer in &answers {
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(events(&answer.text()), events(&answers[0].text()));
    }
    for node in &nodes {
        let again = keyed(node, &body).answer().await;
        assert_eq!(events(&again.text()), events(&answers[0].text()));
        let other = keyed(node, &response("tokens=6")).answer().await;
        assert_eq!(other.status, 422, "{}", other.text());
    }
    assert_eq!(world.asked(), 1);
    // What is deleted frees its key everywhere.
    let id = answers[0].header("location").unwrap();
    let id = id.strip_prefix("/v1/streams/").unwrap();
    let delete = Request::new(nodes[2].address, "DELETE", &format!("/v1/responses/{id}"));
    assert_eq!(delete.answer().await.status, 200);
    let again = keyed(&nodes[1], &response("tokens=6")).answer().await;
    assert_eq!(again.status, 200, "{}", again.text());
    assert_eq!(world.asked(), 2);
}

#[tokio::test]
async fn conversation_goes_on_at_another_node() {
    let world = ClusterWorld::new();
    let nodes = [world.start(), world.start()];
    let first = response("tokens=3 text=count");
    let first = post(&nodes[0], "/v1/responses", &first).answer().await;
    let first = first.id().to_owned();
    let object = get(&nodes[1], &format!("/v1/responses/{first}")).await;
    let item = object.json()["output"][0]["id"].clone();
    let second = json!({"model": "simulator", "input": "and now? [[tokens=2]]", "previous_response_id": first});
    let third = json!({"input": [{"type": "item_reference", "id": item}, {"role": "user", "content": "and now? [[tokens=2]]"}]});
    for body in [second, with(response("tokens=2"), third)] {
        let answer = post(&nodes[1], "/v1/responses", &body).answer().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let request = world.simulator.requests().pop().unwrap();
        let sent = request.body.unwrap().to_string();
        assert!(sent.contains("t0") && sent.contains("and now?"), "{sent}");
    }
    let unknown = format!("/v1/responses/resp_{}", "a".repeat(30));
    // Redis has just started, and may not know all nodes at first.
    assert_eq!(settled(&nodes[1], &unknown).await.status, 404);
}

#[tokio::test]
async fn stream_of_a_killed_node_ends_as_lost() {
    let world = ClusterWorld::new();
    let nodes = [world.start(), world.start()];
    let owner = world.start();
    let (_stream, id) = begin(&owner, LONG).await;
    let mut read = Request::new(nodes[0].address, "GET", &format!("/v1/streams/{id}"))
        .send()
        .await;
    read.until("\" t9\"").await;
    let path = format!("/v1/responses/{id}?stream=true");
    let mut whole = Request::new(nodes[1].address, "GET", &path).send().await;
    whole.until("\" t9\"").await;
    let keyed = |node: &Process| {
        post(node, "/v1/responses", &response(LONG)).header("idempotency-key", "order-8")
    };
    let mut under_key = keyed(&owner).send().await;
    eventually("the upstream is asked again", async || world.asked() == 2).await;
    drop(owner);
    let _ = under_key.read().await;
    // The reader that a node had does not wait for ever, and comes back.
    let read = read.answer().await;
    assert!(!read.text().contains("response.completed"));
    // SDKs take a body that ends without an error for a finished answer.
    let whole = whole.answer().await;
    assert!(!whole.text().contains("[DONE]"), "{}", whole.text());
    assert!(whole.text().contains("producer_lost"), "{}", whole.text());
    let path = format!("/v1/streams/{id}");
    for node in &nodes {
        let lost = settled(node, &path).await;
        assert_eq!(lost.status, 200, "{}", lost.text());
        let [(number, event)] = &events(&lost.text())[..] else {
            panic!("{}", lost.text());
        };
        assert_eq!(*number, LOST);
        assert!(event.contains("response.failed") && event.contains("producer_lost"));
        let again = get(node, &format!("{path}?after={LOST}")).await;
        assert_eq!(again.status, 204, "{}", again.text());
        for path in [
            format!("/v1/responses/{id}"),
            format!("/v1/responses/{id}?stream=true"),
        ] {
            let gone = get(node, &path).await;
            assert_eq!(gone.status, 410, "{path}: {}", gone.text());
            assert_eq!(gone.json()["error"]["code"], "producer_lost");
        }
        let mut socket = Socket::connect_extended(node.address, "/v1/ws").await;
        let resume = json!({"type": "tokenwire:resume", "response_id": id, "starting_after": 3});
        socket.send(resume).await;
        let last = socket.until_end().await.pop().unwrap();
        assert_eq!(last["sequence_number"], LOST, "{last}");
        // The upstream was asked, so it is not asked again.
        let repeated = keyed(node).answer().await;
        assert_eq!(repeated.status, 410, "{}", repeated.text());
    }
    assert_eq!(world.asked(), 2);
}

#[tokio::test]
async fn stopped_node_is_unreachable_and_goes_on_once_it_wakes() {
    let world = ClusterWorld::new();
    let (owner, reader) = (world.start(), world.start());
    let (stream, id) = begin(&owner, "tokens=150 text=count tbt=50ms").await;
    let mut read = Request::new(reader.address, "GET", &format!("/v1/streams/{id}"))
        .send()
        .await;
    read.until("\" t8\"").await;
    let (_second, other) = begin(&owner, LONG).await;
    owner.signal(Signal::STOP);
    let asked = Instant::now();
    let answer = get(&reader, &format!("/v1/responses/{other}")).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
    assert!(
        asked.elapsed() < Duration::from_secs(8),
        "{:?}",
        asked.elapsed()
    );
    owner.signal(Signal::CONT);
    let (read, own) = tokio::join!(read.answer(), stream.answer());
    assert_eq!(events(&read.text()), events(&own.text()));
    assert!(read.text().contains("response.completed"));
    let answer = settled(&reader, &format!("/v1/responses/{other}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn streams_run_on_while_redis_is_away_and_nothing_is_lost_when_it_returns_empty() {
    let mut world = ClusterWorld::new();
    let (owner, reader) = (world.start(), world.start());
    let (stream, id) = begin(&owner, SLOW).await;
    let mut read = Request::new(reader.address, "GET", &format!("/v1/streams/{id}"))
        .send()
        .await;
    read.until("\" t8\"").await;
    let third = world.start();
    world.redis.pause();
    // What has an address goes on, and what needs none starts.
    let (read, own) = tokio::join!(read.answer(), stream.answer());
    assert_eq!(events(&read.text()), events(&own.text()));
    let (running, new) = begin(&owner, LONG).await;
    // The third node has never asked for the owner's address.
    let answer = get(&third, &format!("/v1/responses/{new}")).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], "store_unavailable");
    assert!(answer.header("retry-after").is_some());
    let keyed = post(&third, "/v1/responses", &response("tokens=2"));
    let keyed = keyed.header("idempotency-key", "order-9").answer().await;
    assert_eq!(keyed.status, 503, "{}", keyed.text());
    eventually("the node knows that Redis is away", async || {
        ready(&third).await["cluster"]["redis"] == "away"
    })
    .await;
    let asked = world.asked();
    world.redis.restart();
    // Until all nodes are known again nothing is taken for lost or unknown.
    let answer = settled(&third, &format!("/v1/responses/{new}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    eventually("the node knows that Redis is back", async || {
        ready(&third).await["cluster"]["redis"] == "up"
    })
    .await;
    assert_eq!(world.asked(), asked);
    drop(running);
}

#[tokio::test]
async fn node_with_another_secret_is_refused_and_both_say_so() {
    let world = ClusterWorld::new();
    let owner = world.start();
    let (_stream, id) = begin(&owner, LONG).await;
    let other = "another secret of another operator, long enough";
    let stranger = Process::start(&world.config(other), &[]);
    let answer = get(&stranger, &format!("/v1/responses/{id}")).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], "owner_unreachable");
    for node in [owner, stranger] {
        node.terminate();
        // The stream above ends with the second signal.
        node.terminate();
        let (_, log) = node.output();
        assert_eq!(log.matches("cluster.secret").count(), 1, "{log}");
    }
}

#[tokio::test]
async fn strangers_at_the_inner_port_hold_up_no_node() {
    let world = ClusterWorld::new();
    let (owner, reader) = (world.start(), world.start());
    let (_stream, id) = begin(&owner, LONG).await;
    let inner = world.inner_address(&owner).await;
    let connect = |bytes: &[u8]| {
        let mut socket = TcpStream::connect(inner).unwrap();
        let _ = socket.write_all(bytes);
        socket
    };
    let frame = [&[37, 0, 0, 0, 2, 1][..], &[7; 36]].concat();
    let mut strangers = Vec::new();
    for number in 0..2000 {
        strangers.push(match number % 4 {
            0 => connect(b""),
            1 => connect(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"),
            2 => connect(&[0xff; 64]),
            _ => connect(&frame),
        });
        if number % 500 == 499 {
            let answer = get(&reader, &format!("/v1/responses/{id}")).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
    let metric = "tokenwire_cluster_refused_connections_total 2000";
    eventually("every stranger is closed", async || {
        get(&owner, "/metrics").await.text().contains(metric)
    })
    .await;
    let answer = get(&reader, &format!("/v1/responses/{id}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn every_token_of_300_streams_arrives_over_another_node() {
    let world = ClusterWorld::new();
    let (owner, reader) = (world.start(), world.start());
    let steering = "tokens=40 text=count tbt=50ms";
    let streams = (0..300).map(|_| async {
        let request = post(&owner, "/v1/streams", &response(steering));
        let mut stream = request.send().await;
        stream.until("response.created").await;
        let location = stream.header("location").await.unwrap();
        let read = get(&reader, &location).await;
        (stream.answer().await, read)
    });
    for (own, read) in join_all(streams).await {
        assert_eq!(read.status, 200, "{}", read.text());
        assert_eq!(events(&read.text()), events(&own.text()));
        let text: String = (0..40).map(|number| format!(" t{number}")).collect();
        assert!(read.text().contains(text.trim_start()), "{}", read.text());
        assert!(read.text().contains("response.completed"));
    }
    assert_eq!(world.asked(), 300);
}
