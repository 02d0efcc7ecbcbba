//! Nodes over a Redis Cluster, over a master that a Sentinel watches, with clocks that differ, and with
//! a disk beside Redis.

use std::time::Duration;

use crate::support::cluster_world::{ClusterWorld, LONG, SECRET, begin, events, ready, settled};
use crate::support::process::Process;
use crate::support::{DiskWorld, Request, eventually, get, patiently, post, response, with};
use serde_json::{Value, json};
use tokenwire_simulator::Simulator;
use tokenwire_testkit::{RedisCluster, RedisServer, WatchedRedis};

/// The library that shows a process another time, of Debian's package `faketime`. The dynamic linker
/// puts the folder of the architecture in place of `$LIB`.
const FAKETIME: &str = "/usr/$LIB/faketime/libfaketimeMT.so.1";

fn config(simulator: &Simulator, url: &str) -> String {
    format!(
        "default_model: simulator\nupstreams:\n  - name: simulator\n    base_url: {}\n\
         cluster:\n  url: {url}\n  listen: 127.0.0.1:0\n  secret: {SECRET}\n",
        simulator.base_url(),
    )
}

/// Waits until all nodes know each other, and may take over what a lost one wrote: their leases have
/// held for 6 s.
async fn joined(nodes: &[&Process]) {
    for node in nodes {
        eventually("the nodes", async || {
            ready(node).await["cluster"]["nodes"] == nodes.len()
        })
        .await;
    }
    tokio::time::sleep(Duration::from_millis(6500)).await;
}

fn background(steering: &str) -> Value {
    with(
        response(steering),
        json!({"stream": false, "background": true}),
    )
}

/// Checks what nodes do for each other: reads, keys, cancels, deletes, and the end of what a killed one
/// ran.
async fn expect_nodes_work(nodes: &[Process; 2], owner: Process) {
    let [one, two] = nodes;
    joined(&[one, two, &owner]).await;
    // A stream of one node is read at another, and cancelled there.
    let (stream, id) = begin(&owner, LONG).await;
    let mut foreign = Request::new(one.address, "GET", &format!("/v1/streams/{id}"))
        .send()
        .await;
    foreign.until("\" t5\"").await;
    let cancel = post(two, &format!("/v1/responses/{id}/cancel"), &json!({}));
    assert_eq!(cancel.answer().await.status, 200);
    let read = patiently("the end", foreign.answer()).await.text();
    assert!(read.contains("\"cancelled\""), "{read}");
    drop(stream);
    // A key starts one stream on all nodes.
    let keyed = |node: &Process| {
        post(node, "/v1/responses", &response("tokens=5 text=count"))
            .header("idempotency-key", "a-key-of-all-nodes")
    };
    let first = keyed(one).answer().await;
    let second = keyed(two).answer().await;
    assert_eq!(first.id(), second.id());
    let delete = Request::new(
        two.address,
        "DELETE",
        &format!("/v1/responses/{}", first.id()),
    );
    assert_eq!(delete.answer().await.status, 200);
    let gone = get(one, &format!("/v1/responses/{}", first.id())).await;
    assert_eq!(gone.status, 404);
    // What a killed node ran in the background ends at the others.
    let started = post(&owner, "/v1/responses", &background(LONG))
        .answer()
        .await;
    let id = started.json()["id"].as_str().unwrap().to_owned();
    eventually("some tokens", async || {
        let answer = get(one, &format!("/v1/responses/{id}")).await;
        answer.text().contains("t5")
    })
    .await;
    drop(owner);
    expect_lost(one, &id).await;
    expect_lost(two, &id).await;
}

async fn expect_lost(node: &Process, id: &str) -> String {
    patiently("the end", async {
        loop {
            let answer = settled(node, &format!("/v1/responses/{id}")).await;
            let object = answer.json();
            if object["status"] == "failed" {
                assert_eq!(object["error"]["code"], "producer_lost");
                return answer.text();
            }
        }
    })
    .await
}

#[tokio::test]
async fn nodes_work_over_a_redis_cluster() {
    let (world, redis) = (DiskWorld::new(), RedisCluster::start());
    let config = config(&world.simulator, &redis.url());
    let start = || Process::start(&config, &[]);
    expect_nodes_work(&[start(), start()], start()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_work_after_a_failover_that_sentinels_make() {
    let (world, mut redis) = (DiskWorld::new(), WatchedRedis::start());
    let config = config(&world.simulator, &redis.url());
    let start = || Process::start(&config, &[]);
    let (nodes, owner) = ([start(), start()], start());
    for node in nodes.iter().chain([&owner]) {
        eventually("the nodes", async || {
            ready(node).await["cluster"]["nodes"] == 3
        })
        .await;
    }
    tokio::task::block_in_place(|| redis.fail_over());
    expect_nodes_work(&nodes, owner).await;
}

#[tokio::test]
async fn clocks_that_differ_by_a_minute_have_no_effect() {
    let (world, redis) = (DiskWorld::new(), RedisServer::start());
    let config = config(&world.simulator, &redis.url());
    let start = |offset: &str| {
        let environment = [
            ("LD_PRELOAD", FAKETIME),
            ("FAKETIME", offset),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        Process::start(&config, &environment)
    };
    let (one, two, owner) = (start("+60s"), start("-60s"), start("+0s"));
    let date = async |node: &Process| {
        let started = post(node, "/v1/responses", &response("tokens=1"))
            .answer()
            .await;
        get(node, &format!("/v1/responses/{}", started.id()))
            .await
            .json()["created_at"]
            .as_u64()
            .unwrap()
    };
    let skew = date(&one).await - date(&two).await;
    assert!((100..140).contains(&skew), "the clocks differ by {skew} s");
    expect_nodes_work(&[one, two], owner).await;
}

#[tokio::test]
async fn node_with_a_disk_has_the_end_that_the_others_have() {
    let world = ClusterWorld::new();
    let disk = DiskWorld::new();
    let path = disk.folder.path().display();
    let store = format!("store:\n  kind: disk\n  path: {path}\n");
    // Once the others have ended it, and once the node itself comes first.
    for others_first in [true, false] {
        let other = world.start();
        let owner = world.start_with(&store);
        joined(&[&other, &owner]).await;
        let started = post(&owner, "/v1/responses", &background(LONG))
            .answer()
            .await;
        let id = started.json()["id"].as_str().unwrap().to_owned();
        eventually("some tokens in Redis", async || {
            let key = world.redis.command(&["KEYS", &format!("tw:*:log:{id}")]);
            let length = world.redis.command(&["XLEN", &key]);
            length.parse::<u64>().is_ok_and(|length| length > 4)
        })
        .await;
        drop(owner);
        if others_first {
            expect_lost(&other, &id).await;
        }
        let owner = world.start_with(&store);
        let own = expect_lost(&owner, &id).await;
        assert_eq!(expect_lost(&other, &id).await, own);
        let path = format!("/v1/streams/{id}");
        let (own, others) = (settled(&owner, &path).await, settled(&other, &path).await);
        assert_eq!(events(&own.text()), events(&others.text()));
        assert_eq!(own.text().matches("\"response.failed\"").count(), 1);
    }
}
