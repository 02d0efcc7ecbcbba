//! Two processes on one store: the later one reads the streams of the earlier one, and takes over
//! what that leaves.

use std::time::Instant;

use crate::support::process::Process;
use crate::support::{DiskWorld, Exchange, Request, Socket, eventually, get, post, response, with};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A stream of 60 tokens that takes 3 s.
const SLOW: &str = "tokens=60 text=count tbt=50ms";
/// A stream that runs when its process is killed, however slow the machine is.
const ENDLESS: &str = "tokens=4000 text=count tbt=50ms";

/// Starts a stream and waits until some tokens have come.
async fn begin(gateway: &Process, steering: &str) -> (Exchange, String) {
    let mut stream = post(gateway, "/v1/streams", &response(steering))
        .send()
        .await;
    stream.until("\" t5\"").await;
    let location = stream.header("location").await.unwrap();
    let id = location.strip_prefix("/v1/streams/").unwrap().to_owned();
    (stream, id)
}

/// The events of a body in eventsource framing: numbers and data.
fn events(body: &str) -> Vec<(u64, String)> {
    let mut number = None;
    let mut found = Vec::new();
    for line in body.lines() {
        if let Some(id) = line.strip_prefix("id: ") {
            number = id
                .split_once('.')
                .map(|(_, number)| number.parse().unwrap());
        } else if let (Some(data), Some(number)) = (line.strip_prefix("data: "), number) {
            found.push((number, data.to_owned()));
        }
    }
    found
}

#[tokio::test]
async fn running_stream_is_read_over_the_later_process_from_every_position() {
    let world = DiskWorld::new();
    let earlier = world.start();
    let (stream, id) = begin(&earlier, SLOW).await;
    let later = world.start();
    let paths = [
        format!("/v1/streams/{id}"),
        format!("/v1/streams/{id}?after=3"),
        format!("/v1/streams/{id}?after=40"),
        format!("/v1/streams/{id}?dialect=chat"),
        format!("/v1/streams/{id}?dialect=text"),
        format!("/v1/responses/{id}?stream=true"),
        format!("/v1/responses/{id}?stream=true&starting_after=6"),
    ];
    let reads = paths.iter().map(|path| get(&later, path));
    let mut socket = Socket::connect_extended(later.address, "/v1/ws").await;
    socket
        .send(json!({"type": "tokenwire:resume", "response_id": id, "starting_after": 4}))
        .await;
    let object = get(&later, &format!("/v1/responses/{id}")).await;
    assert_eq!(object.json()["status"], "in_progress", "{}", object.text());
    let (read, over_socket) = tokio::join!(futures::future::join_all(reads), socket.until_end());
    let own = stream.answer().await;
    for (path, read) in paths.iter().zip(&read) {
        assert_eq!(read.status, 200, "{path}: {}", read.text());
        let same = get(&earlier, path).await;
        assert_eq!(events(&read.text()), events(&same.text()), "{path} differs");
    }
    assert_eq!(events(&read[0].text()), events(&own.text()));
    assert!(read[4].text().ends_with(" t58 t59"), "{}", read[4].text());
    assert_eq!(over_socket.last().unwrap()["type"], "response.completed");
    for path in [
        format!("/v1/responses/{id}"),
        format!("/v1/responses/{id}/input_items"),
    ] {
        let same = get(&earlier, &path).await;
        assert_eq!(get(&later, &path).await.text(), same.text(), "{path}");
    }
    assert_eq!(world.asked(), 1);
}

#[tokio::test]
async fn earlier_process_that_ends_in_order_leaves_complete_streams() {
    let world = DiskWorld::new();
    let earlier = world.start();
    let (stream, id) = begin(&earlier, SLOW).await;
    let later = world.start();
    let mut read = Request::new(later.address, "GET", &format!("/v1/streams/{id}"))
        .send()
        .await;
    read.until("\" t7\"").await;
    earlier.terminate();
    let (read, _) = tokio::join!(read.answer(), stream.answer());
    let (_, log) = earlier.output();
    assert!(read.text().contains("response.completed"), "{log}");
    let all = events(&read.text());
    assert!(all.windows(2).all(|pair| pair[0].0 < pair[1].0));
    // The later process has what the earlier one has left.
    let again = get(&later, &format!("/v1/streams/{id}")).await;
    assert_eq!(events(&again.text()), all);
    drop(later);
    let last = world.start();
    let again = get(&last, &format!("/v1/streams/{id}")).await;
    assert_eq!(events(&again.text()), all);
    assert_eq!(world.asked(), 1);
}

#[tokio::test]
async fn killed_process_leaves_its_streams_to_the_later_one() {
    let world = DiskWorld::new();
    let earlier = world.start();
    let (_stream, read_id) = begin(&earlier, ENDLESS).await;
    let (_other, unread_id) = begin(&earlier, ENDLESS).await;
    let ended = post(&earlier, "/v1/responses", &response("tokens=4 text=count"))
        .answer()
        .await;
    let ended = ended.id().to_owned();
    let later = world.start();
    let mut read = Request::new(later.address, "GET", &format!("/v1/streams/{read_id}"))
        .send()
        .await;
    read.until("\" t20\"").await;
    drop(earlier);
    // Nothing is 404 in between.
    let paths = [
        format!("/v1/streams/{unread_id}"),
        format!("/v1/streams/{ended}"),
        format!("/v1/responses/{ended}"),
    ];
    let answers = futures::future::join_all(paths.iter().map(|path| get(&later, path))).await;
    for (path, answer) in paths.iter().zip(&answers) {
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    assert!(answers[0].text().contains("producer_lost"));
    assert!(answers[1].text().contains("response.completed"));
    // A reader of the later process loses nothing of what it has seen, and sees one ending.
    let read = read.answer().await;
    let all = events(&read.text());
    assert_eq!(read.text().matches("\"response.failed\"").count(), 1);
    assert!(read.text().contains("producer_lost"));
    assert!(!read.text().contains("tokenwire:reset"), "{}", read.text());
    assert!(all.last().unwrap().0 >= 1 << 24);
    assert!(all.windows(2).all(|pair| pair[0].0 < pair[1].0));
    let again = get(&later, &format!("/v1/streams/{read_id}")).await;
    assert_eq!(events(&again.text()), all);
    drop(later);
    let last = world.start();
    let again = get(&last, &format!("/v1/streams/{read_id}")).await;
    assert_eq!(events(&again.text()), all);
    assert_eq!(world.asked(), 3);
}

#[tokio::test]
async fn what_a_killed_process_leaves_is_found_over_every_other_one() {
    let world = DiskWorld::new();
    let first = world.start();
    let (_stream, running) = begin(&first, ENDLESS).await;
    let body = response("tokens=4 text=count");
    let keyed = |gateway: &Process| {
        post(gateway, "/v1/responses", &body).header("idempotency-key", "order-8")
    };
    let ended = keyed(&first).answer().await.id().to_owned();
    let others = [world.start(), world.start()];
    drop(first);
    for gateway in &others {
        let again = keyed(gateway).answer().await;
        assert_eq!(again.id(), ended, "{}", again.text());
    }
    // One of them takes it over, and the other one reads it from there.
    for _ in 0..3 {
        for gateway in &others {
            let answer = get(gateway, &format!("/v1/streams/{running}")).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert!(answer.text().contains("producer_lost"));
            let answer = get(gateway, &format!("/v1/responses/{ended}")).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(answer.json()["status"], "completed");
        }
    }
    assert_eq!(world.asked(), 2);
    let path = format!("/v1/responses/{ended}");
    let delete = Request::new(others[0].address, "DELETE", &path);
    assert_eq!(delete.answer().await.status, 200);
    for gateway in &others {
        assert_eq!(get(gateway, &path).await.status, 404);
    }
    let unknown = get(
        &others[0],
        "/v1/responses/resp_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    )
    .await;
    assert_eq!(unknown.status, 404, "{}", unknown.text());
}

#[tokio::test]
async fn stopped_process_is_unreachable_and_goes_on_once_it_wakes() {
    let world = DiskWorld::new();
    let earlier = world.start();
    let (stream, id) = begin(&earlier, "tokens=100 text=count tbt=50ms").await;
    let later = world.start();
    let path = format!("/v1/streams/{id}");
    let mut read = Request::new(later.address, "GET", &path).send().await;
    read.until("\" t8\"").await;
    let (_second, other) = begin(&earlier, "tokens=100 text=count tbt=50ms").await;
    earlier.signal(Signal::STOP);
    let asked = Instant::now();
    let answer = get(&later, &format!("/v1/responses/{other}")).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], "owner_unreachable");
    assert!(asked.elapsed().as_secs() < 8, "{:?}", asked.elapsed());
    earlier.signal(Signal::CONT);
    let (read, own) = tokio::join!(read.answer(), stream.answer());
    assert_eq!(events(&read.text()), events(&own.text()));
    assert!(read.text().contains("response.completed"));
}

#[tokio::test]
async fn cancel_and_delete_reach_the_process_that_writes() {
    let world = DiskWorld::new();
    let earlier = world.start();
    let (stream, cancelled) = begin(&earlier, "tokens=500 text=count tbt=50ms").await;
    let (_other, deleted) = begin(&earlier, "tokens=500 text=count tbt=50ms").await;
    let later = world.start();
    let path = format!("/v1/responses/{cancelled}/cancel");
    let answer = post(&later, &path, &json!({})).answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let own = stream.answer().await;
    assert!(own.text().contains("response.incomplete"), "{}", own.text());
    let path = format!("/v1/responses/{deleted}");
    let delete = Request::new(later.address, "DELETE", &path);
    assert_eq!(delete.answer().await.status, 200);
    for gateway in [&earlier, &later] {
        assert_eq!(get(gateway, &path).await.status, 404);
    }
    eventually("the upstream's connections end", async || {
        world.simulator.stats().aborted == 2
    })
    .await;
}

#[tokio::test]
async fn conversation_and_keys_go_on_at_the_later_process() {
    let world = DiskWorld::new();
    let earlier = world.start();
    let first = response("tokens=3 text=count");
    let first = post(&earlier, "/v1/responses", &first).answer().await;
    let first = first.id().to_owned();
    let keyed = |gateway: &Process, body: &Value| {
        post(gateway, "/v1/streams", body).header("idempotency-key", "order-7")
    };
    let body = response(SLOW);
    let mut stream = keyed(&earlier, &body).send().await;
    stream.until("\" t5\"").await;
    let later = world.start();
    let object = get(&later, &format!("/v1/responses/{first}")).await.json();
    let item = object["output"][0]["id"].clone();
    let again = keyed(&later, &body);
    let (again, own) = tokio::join!(again.answer(), stream.answer());
    assert_eq!(events(&again.text()), events(&own.text()));
    let other = keyed(&later, &response("tokens=6")).answer().await;
    assert_eq!(other.status, 422, "{}", other.text());
    assert_eq!(world.asked(), 2);
    let second = json!({"model": "simulator", "input": "and now? [[tokens=2]]", "previous_response_id": first});
    let answer = post(&later, "/v1/responses", &second).answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let third = json!({"input": [{"type": "item_reference", "id": item}, {"role": "user", "content": "and now? [[tokens=2]]"}]});
    let third = with(response("tokens=2"), third);
    let answer = post(&later, "/v1/responses", &third).answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    for request in world.simulator.requests().iter().rev().take(2) {
        let sent = request.body.as_ref().unwrap().to_string();
        assert!(sent.contains("t0") && sent.contains("and now?"), "{sent}");
    }
    // Unknown ids are unknown at both.
    let unknown = get(&later, "/v1/responses/resp_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa").await;
    assert_eq!(unknown.status, 404, "{}", unknown.text());
}

#[tokio::test]
async fn five_processes_in_a_row_read_each_others_streams() {
    let world = DiskWorld::new();
    let mut processes = Vec::new();
    let mut streams = Vec::new();
    for _ in 0..5 {
        let process = world.start();
        streams.push(begin(&process, SLOW).await);
        processes.push(process);
    }
    let last = processes.pop().unwrap();
    let reads = streams.iter().map(|(_, id)| {
        let request = Request::new(last.address, "GET", &format!("/v1/streams/{id}"));
        async move { request.answer().await }
    });
    let reads: Vec<_> = futures::future::join_all(reads.collect::<Vec<_>>()).await;
    for ((stream, id), read) in streams.into_iter().zip(&reads) {
        assert!(read.text().contains("response.completed"), "{id}");
        assert_eq!(events(&read.text()), events(&stream.answer().await.text()));
    }
    assert_eq!(world.asked(), 5);
    // What all of them leave is the last one's.
    drop(processes);
    for read in &reads {
        let id = events(&read.text())[0].1.clone();
        let id = serde_json::from_str::<Value>(&id).unwrap()["response"]["id"].clone();
        let path = format!("/v1/streams/{}", id.as_str().unwrap());
        let again = get(&last, &path).await;
        assert_eq!(events(&again.text()), events(&read.text()));
    }
}
