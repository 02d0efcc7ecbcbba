//! Nodes whose way to Redis fails, and deletions that reach a node that is lost or paused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::cluster_world::{ClusterWorld, LONG, SLOW, begin, events, settled};
use crate::support::process::Process;
use crate::support::redis_proxy::{Fate, RedisProxy, has};
use crate::support::{Answer, Request, eventually, get, patiently, post, response, with};
use futures::future::join_all;
use rustix::process::Signal;
use serde_json::json;

const ALL: &str = "store:\n  replicate: all\n";

/// Checks that the whole answer came, each token once.
fn check(answer: &Answer, tokens: usize) {
    let found = events(&answer.text());
    assert!(found.is_sorted_by(|a, b| a.0 < b.0), "{found:?}");
    let deltas = found.iter();
    let deltas = deltas.filter(|(_, event)| event.contains("output_text.delta"));
    assert_eq!(deltas.count(), tokens, "{found:?}");
    let (_, last) = found.last().unwrap();
    assert!(last.contains("response.completed"), "{last}");
}

/// Waits until a node serves a stream of another one as that one did.
async fn served(node: &Process, id: &str, own: &Answer) {
    let path = format!("/v1/streams/{id}");
    eventually("another node serves it from Redis", async || {
        let other = settled(node, &path).await;
        other.status == 200 && events(&other.text()) == events(&own.text())
    })
    .await;
}

#[tokio::test]
async fn owner_cut_off_from_redis_only_is_asked_directly_and_not_adopted() {
    let world = ClusterWorld::new();
    let proxy = RedisProxy::start(world.redis.address(), |_| Fate::Pass).await;
    let reader = world.start_with(ALL);
    let owner = world.start_behind(&proxy, ALL);
    // The reader may adopt from then on.
    tokio::time::sleep(Duration::from_millis(6500)).await;
    let steering = "tokens=200 text=count tbt=50ms";
    let (stream, id) = begin(&owner, steering).await;
    let body = with(response(LONG), json!({"stream": false, "background": true}));
    let job = post(&owner, "/v1/responses", &body).answer().await;
    let job = job.id().to_owned();
    proxy.stop();
    // Its lease has lapsed, and several sweeps have passed.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let path = format!("/v1/streams/{id}");
    let read = Request::new(reader.address, "GET", &path);
    let (own, read) = tokio::join!(stream.answer(), read.answer());
    check(&own, 200);
    assert_eq!(events(&read.text()), events(&own.text()));
    let object = get(&reader, &format!("/v1/responses/{job}")).await;
    assert_eq!(object.json()["status"], "in_progress", "{}", object.text());
    proxy.go_on();
    let fresh = world.start_with(ALL);
    eventually("the owner has stored the end", async || {
        let keys = world.redis.command(&["KEYS", &format!("tw:*:object:{id}")]);
        !keys.is_empty()
    })
    .await;
    let cancel = post(&reader, &format!("/v1/responses/{job}/cancel"), &json!({}));
    assert_eq!(cancel.answer().await.json()["status"], "cancelled");
    drop(owner);
    served(&fresh, &id, &own).await;
}

#[tokio::test]
async fn lost_acknowledgements_leave_no_hole_and_double_nothing() {
    let world = ClusterWorld::new();
    let lost = Arc::new(AtomicUsize::new(0));
    let (count, mut appends) = (lost.clone(), 0);
    let proxy = RedisProxy::start(world.redis.address(), move |bytes| {
        if !has(bytes, "XADD") {
            return Fate::Pass;
        }
        appends += 1;
        if appends % 3 != 0 {
            return Fate::Pass;
        }
        count.fetch_add(1, Ordering::SeqCst);
        Fate::LoseAnswer
    })
    .await;
    let owner = world.start_behind(&proxy, ALL);
    let streams = join_all((0..5).map(|_| begin(&owner, SLOW))).await;
    let ids: Vec<_> = streams.iter().map(|(_, id)| id.clone()).collect();
    let own = join_all(streams.into_iter().map(|(stream, _)| stream.answer())).await;
    assert!(lost.load(Ordering::SeqCst) > 0, "no answer was lost");
    let reader = world.start_with(ALL);
    for (id, own) in ids.iter().zip(&own) {
        check(own, 60);
        eventually("the copy in Redis", async || {
            let keys = world.redis.command(&["KEYS", &format!("tw:*:object:{id}")]);
            !keys.is_empty()
        })
        .await;
    }
    drop(owner);
    for (id, own) in ids.iter().zip(&own) {
        served(&reader, id, own).await;
    }
}

#[tokio::test]
async fn redis_that_gets_full_between_two_commands_leaves_no_hole() {
    let world = ClusterWorld::new();
    let owner = world.start_with(ALL);
    let streams = join_all((0..8).map(|_| begin(&owner, SLOW))).await;
    let ids: Vec<_> = streams.iter().map(|(_, id)| id.clone()).collect();
    let own = join_all(streams.into_iter().map(|(stream, _)| stream.answer()));
    let redis = &world.redis;
    // Room for a part of a pipeline only, again and again.
    let fill = async {
        for room in [200, 600, 1200, 2400, 4800] {
            let memory = redis.command(&["INFO", "memory"]);
            let used = memory
                .lines()
                .find_map(|line| line.strip_prefix("used_memory:"));
            let used: usize = used.unwrap().trim().parse().unwrap();
            redis.command(&["CONFIG", "SET", "maxmemory", &(used + room).to_string()]);
            tokio::time::sleep(Duration::from_millis(300)).await;
            redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let (own, ()) = tokio::join!(own, fill);
    for (id, own) in ids.iter().zip(&own) {
        check(own, 60);
        eventually("the copy in Redis", async || {
            let keys = redis.command(&["KEYS", &format!("tw:*:object:{id}")]);
            !keys.is_empty()
        })
        .await;
    }
    let reader = world.start_with(ALL);
    drop(owner);
    for (id, own) in ids.iter().zip(&own) {
        served(&reader, id, own).await;
    }
}

/// Deletes a response, as often as it is refused for now.
async fn delete(node: &Process, id: &str) -> u16 {
    let request = Request::new(node.address, "DELETE", &format!("/v1/responses/{id}"));
    patiently("the deletion", async {
        loop {
            let answer = request.answer().await;
            if answer.status != 503 {
                return answer.status;
            }
        }
    })
    .await
}

#[tokio::test]
async fn deletions_reach_lost_and_paused_owners() {
    let world = ClusterWorld::new();
    let (reader, owner, paused) = (world.start(), world.start(), world.start());
    tokio::time::sleep(Duration::from_millis(6500)).await;
    let (mut ids, mut streams) = (Vec::new(), Vec::new());
    for node in [&owner, &paused] {
        let (stream, id) = begin(node, LONG).await;
        streams.push(stream);
        let body = with(response(LONG), json!({"stream": false, "background": true}));
        let job = post(node, "/v1/responses", &body).answer().await;
        let body = with(response("tokens=3"), json!({"stream": false}));
        let ended = post(node, "/v1/responses", &body).answer().await;
        ids.push([id, job.id().to_owned(), ended.id().to_owned()]);
    }
    let asked = world.asked();
    eventually("the copies of what has ended", async || {
        let keys = world.redis.command(&["KEYS", "tw:*:object:*"]);
        keys.lines().count() == 2
    })
    .await;
    drop(owner);
    paused.signal(Signal::STOP);
    for id in ids.iter().flatten() {
        assert_eq!(delete(&reader, id).await, 200, "{id}");
        assert_eq!(
            settled(&reader, &format!("/v1/responses/{id}"))
                .await
                .status,
            404
        );
    }
    paused.signal(Signal::CONT);
    // It deletes what was deleted meanwhile, and stops what it runs.
    for id in &ids[1] {
        let path = format!("/v1/responses/{id}");
        eventually("the node knows of the deletion", async || {
            get(&paused, &path).await.status == 404
        })
        .await;
        assert_eq!(settled(&reader, &path).await.status, 404);
    }
    eventually("all upstream requests have ended", async || {
        let stats = world.simulator.stats();
        stats.aborted == 4
    })
    .await;
    assert_eq!(world.asked(), asked);
}

#[tokio::test]
async fn cancellations_reach_owners_that_wake_and_end_what_lost_ones_left() {
    let world = ClusterWorld::new();
    let (reader, owner, paused) = (world.start(), world.start(), world.start());
    tokio::time::sleep(Duration::from_millis(6500)).await;
    let body = with(response(LONG), json!({"stream": false, "background": true}));
    let mut jobs = Vec::new();
    for node in [&owner, &paused] {
        let job = post(node, "/v1/responses", &body).answer().await;
        jobs.push(job.id().to_owned());
    }
    let (_stream, id) = begin(&paused, LONG).await;
    let cancel = async |id: &str| {
        let path = format!("/v1/responses/{id}/cancel");
        patiently("an answer that is not 503", async {
            loop {
                let answer = post(&reader, &path, &json!({})).answer().await;
                if answer.status != 503 {
                    return answer;
                }
            }
        })
        .await
    };
    drop(owner);
    paused.signal(Signal::STOP);
    for job in &jobs {
        // It has ended before it could be cancelled.
        let answer = cancel(job).await;
        assert_eq!(
            answer.json()["error"]["code"],
            "producer_lost",
            "{}",
            answer.text()
        );
    }
    paused.signal(Signal::CONT);
    eventually("the node knows that its response was ended", async || {
        let object = get(&paused, &format!("/v1/responses/{}", jobs[1])).await;
        object.json()["error"]["code"] == "producer_lost"
    })
    .await;
    // What is not replicated has gone on.
    let answer = cancel(&id).await;
    assert_eq!(answer.json()["status"], "cancelled", "{}", answer.text());
    eventually("all upstream requests have ended", async || {
        world.simulator.stats().aborted == 3
    })
    .await;
}
