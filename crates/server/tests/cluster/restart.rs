//! Nodes of several that restart, one after the other, or find Redis full.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::support::cluster_world::{
    ClusterWorld, LONG, SECRET, begin, events, read_all, ready, settled,
};
use crate::support::nginx::Nginx;
use crate::support::paced_reader::{KINDS, Progress, read};
use crate::support::process::Process;
use crate::support::{Request, eventually, get, patiently, post, response, with};
use serde_json::json;
use tokenwire_testkit::free_port;
use tokio::task::JoinSet;

/// Streams of each kind that run at the restart of a node. `RESTART_STREAMS` is another number.
const STREAMS: usize = 4;

async fn start_on(port: u16, config: &str) -> Process {
    let config = config.to_owned();
    let start = move || Process::start_on(port, &config);
    tokio::task::spawn_blocking(start).await.unwrap()
}

/// Waits until a proxy sends requests to this node.
async fn is_behind(proxy: SocketAddr, node: &Process) {
    let tag = ready(node).await["cluster"]["tag"].clone();
    eventually("the proxy sends requests to the node", async || {
        let answer = Request::new(proxy, "GET", "/readyz").answer().await;
        answer.status == 200 && answer.json()["cluster"]["tag"] == tag
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_restart_of_three_nodes_behind_nginx_loses_and_doubles_no_token() {
    let world = ClusterWorld::new();
    let config = world.config(SECRET);
    let ports = [free_port(), free_port(), free_port()];
    let mut nodes = Vec::new();
    for port in ports {
        nodes.push(start_on(port, &config).await);
    }
    let site = include_str!("../../../../deploy/nginx.cluster.conf");
    let [a, b, c] = ports.map(|port| format!("127.0.0.1:{port}"));
    let places = [
        ("node-a:3000", a),
        ("node-b:3000", b),
        ("node-c:3000", c),
        // Else it comes back only some seconds after a node does.
        ("fail_timeout=5s", "fail_timeout=1s".to_owned()),
    ];
    let nginx = Nginx::start(site, &places).await;
    let progress = Arc::new(Progress::default());
    let count = std::env::var("RESTART_STREAMS").ok();
    let count = count.map_or(STREAMS, |count| count.parse().unwrap());
    let mut streams = JoinSet::new();
    let mut all = 0;
    for (node, port) in nodes.iter_mut().zip(ports) {
        for kind in KINDS {
            for _ in 0..count {
                streams.spawn(read(nginx.address, kind, progress.clone()));
            }
        }
        all += count * KINDS.len();
        let begun = async || {
            if let Some(ended) = streams.try_join_next() {
                ended.unwrap();
            }
            progress.begun.load(Ordering::SeqCst) == all
        };
        eventually("the first tokens", begun).await;
        // The port is closed until the node has ended and starts again.
        node.terminate();
        eventually("the end of the node", async || node.has_ended()).await;
        *node = start_on(port, &config).await;
        is_behind(nginx.address, node).await;
    }
    while let Some(read) = patiently("the streams", streams.join_next()).await {
        read.unwrap();
    }
    let stats = world.simulator.stats();
    let asked = u64::try_from(all).unwrap();
    assert_eq!((stats.chat_completions, stats.aborted), (asked, 0));
    // A third of those that can were told to come back at each restart.
    let resumed = progress.resumed.load(Ordering::SeqCst);
    assert!(resumed >= count, "{resumed} came back");
}

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
