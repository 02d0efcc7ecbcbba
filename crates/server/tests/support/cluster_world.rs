//! Gateways as processes that share a Redis.

use std::net::SocketAddr;

use serde_json::Value;
use tokenwire_simulator::{Options, Pace, Simulator};
use tokenwire_testkit::RedisServer;

use super::process::Process;
use super::redis_proxy::RedisProxy;
use super::{Answer, Exchange, get, patiently, post, reading_paths, response};

pub(crate) const SECRET: &str = "a secret that all nodes of a test share";
/// A stream of 60 tokens that takes 3 s.
pub(crate) const SLOW: &str = "tokens=60 text=count tbt=50ms";
/// A stream that lasts longer than any test.
pub(crate) const LONG: &str = "tokens=2000 text=count tbt=50ms";
/// The number of the event that ends a lost stream.
pub(crate) const LOST: u64 = 2_147_483_647;

/// A simulator and a Redis, which outlive the gateways.
pub(crate) struct ClusterWorld {
    pub(crate) simulator: Simulator,
    pub(crate) redis: RedisServer,
}

impl ClusterWorld {
    pub(crate) fn new() -> Self {
        let simulator = Simulator::start(Options {
            pace: Pace::INSTANT,
            ..Options::default()
        });
        Self {
            simulator: simulator.unwrap(),
            redis: RedisServer::start(),
        }
    }

    pub(crate) fn config(&self, secret: &str) -> String {
        format!(
            "default_model: simulator\nupstreams:\n  - name: simulator\n    base_url: {}\n\
             cluster:\n  url: {}\n  listen: 127.0.0.1:0\n  secret: {secret}\n",
            self.simulator.base_url(),
            self.redis.url()
        )
    }

    pub(crate) fn start(&self) -> Process {
        Process::start(&self.config(SECRET), &[])
    }

    /// Starts a gateway with these lines at the end of its configuration.
    pub(crate) fn start_with(&self, more: &str) -> Process {
        Process::start(&(self.config(SECRET) + more), &[])
    }

    /// Starts a gateway that reaches Redis through this proxy.
    pub(crate) fn start_behind(&self, proxy: &RedisProxy, more: &str) -> Process {
        let config = self.config(SECRET).replace(&self.redis.url(), &proxy.url());
        Process::start(&(config + more), &[])
    }

    pub(crate) fn asked(&self) -> u64 {
        self.simulator.stats().chat_completions
    }

    /// The address at which a node answers the others.
    pub(crate) async fn inner_address(&self, node: &Process) -> SocketAddr {
        let tag = ready(node).await["cluster"]["tag"].clone();
        let key = format!("tw:node:{}", tag.as_str().unwrap());
        let record = self.redis.command(&["GET", &key]);
        let record: Value = serde_json::from_str(&record).unwrap();
        record["address"].as_str().unwrap().parse().unwrap()
    }
}

pub(crate) async fn ready(gateway: &Process) -> Value {
    get(gateway, "/readyz").await.json()
}

/// Starts a stream and waits until some tokens have come.
pub(crate) async fn begin(gateway: &Process, steering: &str) -> (Exchange, String) {
    let request = post(gateway, "/v1/streams", &response(steering));
    let mut stream = request.send().await;
    stream.until("\" t5\"").await;
    let location = stream.header("location").await.unwrap();
    let id = location.strip_prefix("/v1/streams/").unwrap().to_owned();
    (stream, id)
}

/// The events of a body in eventsource framing: numbers and data.
pub(crate) fn events(body: &str) -> Vec<(u64, String)> {
    let mut number = None;
    let mut found = Vec::new();
    for line in body.lines() {
        if let Some(id) = line.strip_prefix("id: ") {
            number = id.split_once('.').map(|(_, n)| n.parse().unwrap());
        } else if let (Some(data), Some(number)) = (line.strip_prefix("data: "), number) {
            found.push((number, data.to_owned()));
        }
    }
    found
}

/// Asks until the answer is not 503, which it must not be for long.
pub(crate) async fn settled(gateway: &Process, path: &str) -> Answer {
    patiently("an answer that is not 503", async {
        loop {
            let answer = get(gateway, path).await;
            if answer.status != 503 {
                return answer;
            }
            assert!(answer.header("retry-after").is_some(), "{}", answer.text());
        }
    })
    .await
}

/// Reads a stream in every way, once its owner can be asked.
pub(crate) async fn read_all(gateway: &Process, id: &str) -> Vec<(String, u16, String)> {
    let mut all = Vec::new();
    for path in reading_paths(id) {
        let answer = settled(gateway, &path).await;
        all.push((path, answer.status, answer.text()));
    }
    all
}
