//! `kill -9` at bad moments: right after a deletion, and between two starts with another number of
//! workers.

use crate::support::process::Process;
use crate::support::{
    DiskWorld, End, Request, eventually, get, patiently, post, response, stored, with,
};
use serde_json::json;
use tokio::task::JoinSet;

/// How often a process is killed after a deletion.
const DELETIONS: usize = 50;

/// Runs streams beside one another and returns their ids and bodies.
async fn run(gateway: &Process, count: usize) -> Vec<(String, String)> {
    let mut running = JoinSet::new();
    for number in 0..count {
        let members = json!({"metadata": {"number": number.to_string()}});
        let request = post(
            gateway,
            "/v1/streams",
            &with(response("tokens=20 text=count"), members),
        );
        running.spawn(async move { request.answer().await });
    }
    let mut all = Vec::new();
    while let Some(answer) = patiently("the streams", running.join_next()).await {
        let answer = answer.unwrap();
        assert_eq!((answer.status, answer.end), (200, End::Whole));
        all.push((answer.id().to_owned(), answer.text().to_owned()));
    }
    all
}

/// Reads streams again.
async fn expect(gateway: &Process, streams: &[(String, String)]) {
    for (id, before) in streams {
        let again = get(gateway, &format!("/v1/streams/{id}")).await;
        assert!(
            again.text() == *before,
            "{id} was\n{before}\nand is now\n{}",
            again.text()
        );
    }
}

/// Starts a stream that stalls, and returns its id once it shows text.
async fn stalled(gateway: &Process) -> String {
    let body = response("tokens=100 text=count fault=stall after=40");
    let mut stream = post(gateway, "/v1/streams", &body).send().await;
    stream.until("\" t30\"").await;
    let seen = String::from_utf8_lossy(&stream.body).into_owned();
    let first = seen.lines().find_map(|line| line.strip_prefix("id: "));
    first.unwrap().split_once('.').unwrap().0.to_owned()
}

/// Waits until the disk has each record so far, those of running streams too.
async fn all_written(gateway: &Process) {
    eventually("the records of running streams on disk", async || {
        let metrics = get(gateway, "/metrics").await.text();
        metrics.contains("tokenwire_store_waiting_streams 0\n")
    })
    .await;
}

#[tokio::test]
async fn deleted_stream_stays_deleted_if_the_process_is_killed_at_once() {
    let world = DiskWorld::new();
    let mut deleted: Vec<String> = Vec::new();
    let mut gateway = world.start();
    for _ in 0..DELETIONS {
        let (id, _) = run(&gateway, 1).await.remove(0);
        let path = format!("/v1/responses/{id}");
        // Some are only in the journal by then, some in a kept file.
        if deleted.len().is_multiple_of(2) {
            stored(&gateway, 1).await;
        }
        let delete = Request::new(gateway.address, "DELETE", &path)
            .answer()
            .await;
        assert_eq!(delete.status, 200, "{}", delete.text());
        drop(gateway);
        gateway = world.start();
        deleted.push(path);
        let path = deleted.last().unwrap();
        assert_eq!(get(&gateway, path).await.status, 404, "{path}");
    }
    for path in &deleted {
        assert_eq!(get(&gateway, path).await.status, 404, "{path}");
    }
}

/// Starts streams that go on for long, and returns their ids once all show some text.
async fn endless(gateway: &Process, count: usize) -> Vec<String> {
    let body = response("tokens=100000 text=count tbt=1ms");
    let mut streams = Vec::new();
    for _ in 0..count {
        let body = with(body.clone(), json!({"background": true}));
        streams.push(post(gateway, "/v1/streams", &body).send().await);
    }
    let mut ids = Vec::new();
    for stream in &mut streams {
        stream.until("\" t30\"").await;
        let seen = String::from_utf8_lossy(&stream.body).into_owned();
        let first = seen.lines().find_map(|line| line.strip_prefix("id: "));
        ids.push(first.unwrap().split_once('.').unwrap().0.to_owned());
    }
    ids
}

/// Returns the bytes that a process has written to the disk.
async fn written(gateway: &Process) -> u64 {
    let metrics = get(gateway, "/metrics").await.text();
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("tokenwire_store_written_bytes_total "));
    line.unwrap().parse().unwrap()
}

#[tokio::test]
async fn two_processes_that_are_killed_in_mid_write_leave_all_to_a_third() {
    let world = DiskWorld::new();
    let gateways = [world.start(), world.start()];
    let (mut ended, mut running) = (Vec::new(), Vec::new());
    for gateway in &gateways {
        ended.extend(run(gateway, 10).await);
        stored(gateway, 10).await;
    }
    for gateway in &gateways {
        running.extend(endless(gateway, 10).await);
    }
    // Both write each 50 ms. After so many bytes each stream has been written.
    for gateway in &gateways {
        let before = written(gateway).await;
        eventually("further records on disk", async || {
            written(gateway).await >= before + 128 * 1024
        })
        .await;
    }
    for gateway in &gateways {
        gateway.signal(rustix::process::Signal::KILL);
    }
    drop(gateways);
    let third = world.start();
    expect(&third, &ended).await;
    for id in &running {
        let object = get(&third, &format!("/v1/responses/{id}")).await.json();
        assert_eq!(object["error"]["code"], "producer_lost", "{object}");
        let text = object["output"][0]["content"][0]["text"].as_str().unwrap();
        let words = text.split(' ').filter(|word| !word.is_empty());
        let mut count = 0;
        for (at, word) in words.enumerate() {
            assert_eq!(word, format!("t{at}"), "{id}");
            count = at + 1;
        }
        assert!(count > 0, "{id} has no text");
        let events = get(&third, &format!("/v1/streams/{id}")).await.events();
        let ends = events
            .iter()
            .filter(|event| event.kind() == "response.failed");
        assert_eq!(ends.count(), 1, "{id}");
        assert!(
            events
                .windows(2)
                .all(|pair| pair[0].number() < pair[1].number())
        );
    }
    // A fourth one finds the same.
    let before = get(&third, &format!("/v1/streams/{}", running[0])).await;
    drop(third);
    let fourth = world.start();
    expect(&fourth, &ended).await;
    let after = get(&fourth, &format!("/v1/streams/{}", running[0])).await;
    assert_eq!(after.text(), before.text());
}

#[tokio::test]
async fn number_of_workers_may_change_between_starts() {
    let world = DiskWorld::new();
    let mut all = Vec::new();
    let mut lost: Vec<String> = Vec::new();
    for workers in [1, 4, 2] {
        let gateway = world.start_with(&format!("server:\n  workers: {workers}\n"));
        expect(&gateway, &all).await;
        for id in &lost {
            let object = get(&gateway, &format!("/v1/responses/{id}")).await.json();
            assert_eq!(object["error"]["code"], "producer_lost", "{object}");
        }
        all.extend(run(&gateway, 8).await);
        lost.push(stalled(&gateway).await);
        // The one that stalls is among those once it has ended.
        stored(&gateway, all.len() + lost.len() - 1).await;
        all_written(&gateway).await;
        let shown = format!("/v1/responses/{}", lost.last().unwrap());
        let running = get(&gateway, &shown).await.json();
        assert_eq!(running["status"], "in_progress");
    }
}
