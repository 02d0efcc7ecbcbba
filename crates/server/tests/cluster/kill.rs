//! `kill -9` of a node under load: each of its streams ends in time, once, and each webhook is sent.

use std::time::{Duration, Instant};

use crate::support::cluster_world::{ClusterWorld, begin, events, settled};
use crate::support::process::Process;
use crate::support::receiver::Receiver;
use crate::support::{Request, eventually, get, post, response, with};
use futures::future::join_all;
use serde_json::json;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const SETTINGS: &str =
    "store:\n  replicate: all\nwebhooks:\n  allow_private: true\n  concurrency_per_host: 32\n";
/// Streams of the node, half of them background responses. `CLUSTER_STREAMS` is another number.
const STREAMS: usize = 60;
/// In this time a stream has its end once it is asked for.
const ASKED: Duration = Duration::from_secs(5);
/// In this time background responses have their end unasked.
const UNASKED: Duration = Duration::from_secs(10);
const STEERING: &str = "tokens=400 text=count tbt=250ms";

/// Starts a background response that reports its end.
async fn job(owner: &Process, receiver: &Receiver) -> String {
    let webhook = json!({"url": receiver.url(), "secret": SECRET});
    let members = json!({"stream": false, "background": true, "webhook": webhook});
    let body = with(response(STEERING), members);
    let answer = post(owner, "/v1/responses", &body).answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.id().to_owned()
}

/// Checks that numbers ascend and that the last event is the end of a lost stream.
fn check(body: &str) {
    let events = events(body);
    assert!(events.is_sorted_by(|a, b| a.0 < b.0), "{events:?}");
    let ends = events.iter().filter(|(_, event)| {
        ["completed", "failed", "incomplete"]
            .iter()
            .any(|end| event.contains(&format!("\"type\":\"response.{end}\"")))
    });
    assert_eq!(ends.count(), 1, "{events:?}");
    let (_, last) = events.last().unwrap();
    assert!(last.contains("producer_lost"), "{last}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_node_leaves_no_stream_without_end_and_no_webhook_unsent() {
    let world = ClusterWorld::new();
    let mut receiver = Receiver::start([]).await;
    let nodes = [world.start_with(SETTINGS), world.start_with(SETTINGS)];
    let owner = world.start_with(SETTINGS);
    // A node takes over what lost ones wrote once its lease has held for 6 s.
    tokio::time::sleep(Duration::from_millis(6500)).await;
    let count = std::env::var("CLUSTER_STREAMS").ok();
    let half = count.map_or(STREAMS, |count| count.parse().unwrap()) / 2;
    let mut jobs = join_all((0..half).map(|_| job(&owner, &receiver))).await;
    let streams = join_all((0..half).map(|_| begin(&owner, STEERING))).await;
    // Half of the streams have a reader over another node. The others are asked for afterwards.
    let mut reads = Vec::new();
    for (at, (_, id)) in streams.iter().enumerate().filter(|(at, _)| at % 2 == 0) {
        let path = format!("/v1/streams/{id}");
        let node = &nodes[at / 2 % 2];
        let mut read = Request::new(node.address, "GET", &path).send().await;
        read.until("\" t5\"").await;
        reads.push(read);
    }
    let asked = u64::try_from(2 * half).unwrap();
    eventually("the upstream is asked", async || world.asked() == asked).await;
    drop(owner);
    let killed = Instant::now();
    let read = join_all(reads.into_iter().map(|read| async move {
        let answer = read.answer().await;
        (killed.elapsed(), answer.text())
    }));
    let late = streams.iter().enumerate().filter(|(at, _)| at % 2 == 1);
    let late = join_all(late.map(|(at, (_, id))| {
        let node = &nodes[at / 2 % 2];
        async move {
            let answer = settled(node, &format!("/v1/streams/{id}")).await;
            (killed.elapsed(), answer.text())
        }
    }));
    let reports = async {
        let mut reported = Vec::new();
        for _ in 0..half {
            let webhook = receiver.next().await;
            let (kind, id) = webhook.checked(SECRET);
            assert_eq!(kind, "response.failed");
            reported.push(id);
        }
        (killed.elapsed(), reported)
    };
    let (read, late, (reported_in, mut reported)) = tokio::join!(read, late, reports);
    for (took, body) in read.iter().chain(&late) {
        assert!(*took < ASKED, "{took:?}");
        check(body);
    }
    assert!(reported_in < UNASKED, "{reported_in:?}");
    reported.sort();
    jobs.sort();
    assert_eq!(reported, jobs);
    for (at, id) in jobs.iter().enumerate() {
        let object = get(&nodes[at % 2], &format!("/v1/responses/{id}")).await;
        assert_eq!(object.json()["error"]["code"], "producer_lost");
    }
    // Several rounds of both nodes later nothing was sent again.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(receiver.more(), 0);
    assert_eq!(world.redis.command(&["KEYS", "tw:running:*"]), "");
    assert_eq!(world.asked(), asked);
}
