//! Limits of several gateways on one Redis: they count together.

use crate::support::process::Process;
use crate::support::{Answer, Request, eventually, post, response, with};
use futures::future::join_all;
use serde_json::{Value, json};
use tokenwire_simulator::{Options, Pace, Simulator};
use tokenwire_testkit::RedisServer;

const ALICE: &str = "sk-tw-alice-alice-alice-alice";
const OPERATOR: &str = "sk-tw-operator-operator-oper";

struct World {
    simulator: Simulator,
    redis: RedisServer,
}

impl World {
    fn new() -> Self {
        let simulator = Simulator::start(Options {
            pace: Pace::INSTANT,
            ..Options::default()
        });
        Self {
            simulator: simulator.unwrap(),
            redis: RedisServer::start(),
        }
    }

    /// Starts a node with these limits.
    fn start(&self, limits: &str) -> Process {
        let config = format!(
            "default_model: simulator\nupstreams:\n  - name: simulator\n    base_url: {}\n\
             cluster:\n  url: {}\n  listen: 127.0.0.1:0\n  secret: a secret that all nodes of a test share\n\
             auth:\n  keys:\n    - {{owner: alice, key: {ALICE}}}\n    - {{owner: ops, key: {OPERATOR}, role: operator}}\n\
             prices:\n  \"*\": {{input: 1, output: 2}}\n\
             limits:\n  reserve_output: 10\n  {limits}\n",
            self.simulator.base_url(),
            self.redis.url()
        );
        Process::start(&config, &[])
    }
}

fn by(request: Request, key: &str) -> Request {
    request.header("authorization", &format!("Bearer {key}"))
}

fn ask(node: &Process, body: &Value) -> Request {
    by(post(node, "/v1/responses", body), ALICE)
}

fn code(answer: &Answer) -> String {
    let json = answer.json();
    json["error"]["code"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// Returns the row of an owner in the usage that a node shows.
async fn usage(node: &Process, owner: &str) -> Value {
    let request = Request::new(node.address, "GET", "/v1/usage");
    let list = by(request, OPERATOR).answer().await.json();
    let rows = list["data"].as_array().cloned().unwrap_or_default();
    let row = rows.into_iter().find(|row| row["owner"] == owner);
    row.unwrap_or_default()
}

/// Waits until a node shows this many requests of alice.
async fn settled(node: &Process, requests: u64) -> Value {
    let mut row = Value::Null;
    eventually("all requests are settled", async || {
        row = usage(node, "alice").await;
        row["requests"] == requests
    })
    .await;
    row
}

#[tokio::test]
async fn clients_over_three_nodes_never_get_more_streams_than_the_limit() {
    const CLIENTS: usize = 50;
    const LIMIT: usize = 10;
    let world = World::new();
    let limits = "per_owner: {streams: 10}";
    let nodes = [
        world.start(limits),
        world.start(limits),
        world.start(limits),
    ];
    let mut all = 0;
    for round in 0..3 {
        let body = response("tokens=20 ttft=300ms tbt=5ms");
        let clients = (0..CLIENTS).map(|client| ask(&nodes[client % 3], &body));
        let answers = clients.map(|request| async move { request.answer().await });
        let answers = join_all(answers).await;
        let count = |status: u16| {
            answers
                .iter()
                .filter(|answer| answer.status == status)
                .count()
        };
        assert!(count(200) >= LIMIT, "round {round}: {}", count(200));
        assert_eq!(count(200) + count(429), CLIENTS, "round {round}");
        assert!(world.simulator.stats().max_open_streams <= LIMIT as u64);
        all += count(200) as u64;
        // Every node shows what all have counted.
        for node in &nodes {
            let row = settled(node, all).await;
            assert_eq!(row["output_tokens"], 20 * all, "{row}");
        }
    }
}

#[tokio::test]
async fn rates_and_budgets_are_those_of_all_nodes() {
    let world = World::new();
    let limits = "per_key: {requests_per_minute: 4, budget_per_day: 0.001}";
    let nodes = [world.start(limits), world.start(limits)];
    for left in [3, 2, 1] {
        let answer = ask(&nodes[left % 2], &response("tokens=10")).answer().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let shown = answer.header("x-ratelimit-remaining-requests").unwrap();
        assert_eq!(shown, left.to_string());
    }
    settled(&nodes[0], 3).await;
    // The third part of the budget is left, which this answer uses up.
    let large = with(response("tokens=400"), json!({"max_output_tokens": 400}));
    let answer = ask(&nodes[0], &large).answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let row = settled(&nodes[1], 4).await;
    assert_eq!(row["output_tokens"], 430, "{row}");
    let refused = ask(&nodes[1], &large).answer().await;
    assert_eq!((refused.status, &*code(&refused)), (402, "budget_exceeded"));
    let refused = ask(&nodes[1], &response("tokens=1")).answer().await;
    assert_eq!(
        (refused.status, &*code(&refused)),
        (429, "rate_limit_exceeded")
    );
    assert!(refused.header("retry-after").is_some());
}

#[tokio::test]
async fn slots_of_a_lost_node_are_free_again() {
    let world = World::new();
    let limits = "per_owner: {streams: 2}";
    let (first, second) = (world.start(limits), world.start(limits));
    let long = response("tokens=5 text=count fault=stall");
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = ask(&first, &long).send().await;
        stream.until("\" t2\"").await;
        streams.push(stream);
    }
    let refused = ask(&second, &long).answer().await;
    assert_eq!(
        (refused.status, &*code(&refused)),
        (429, "rate_limit_exceeded")
    );
    drop(first);
    eventually("a free slot", async || {
        let answer = ask(&second, &response("tokens=1")).answer().await;
        answer.status == 200
    })
    .await;
}

#[tokio::test]
async fn answers_of_a_lost_node_are_settled_once_by_another() {
    let world = World::new();
    let more = "per_owner: {streams: 20, budget_per_day: 10}\nstore:\n  replicate: all";
    let nodes = [world.start(more), world.start(more), world.start(more)];
    let [lost, second, third] = nodes;
    let done = ask(&lost, &response("tokens=7")).answer().await;
    assert_eq!(done.status, 200, "{}", done.text());
    let finished = settled(&second, 1).await;
    let long = response("tokens=100 text=count fault=stall after=40");
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = ask(&lost, &long).send().await;
        stream.until("\" t39\"").await;
        streams.push(stream);
    }
    // What was written is copied in ticks of 50 ms; this takes ten times as long.
    let paced = response("tokens=10 tbt=50ms");
    assert_eq!(ask(&second, &paced).answer().await.status, 200);
    drop(lost);
    let row = settled(&third, 5).await;
    let output = |row: &Value| row["output_tokens"].as_u64().unwrap();
    assert_eq!(output(&finished), 7, "{finished}");
    let written = output(&row) - output(&finished) - 10;
    assert!((3 * 30..=3 * 50).contains(&written), "{row}");
    assert_eq!(row["estimated_requests"], 3, "{row}");
    // Both nodes go on looking for lost ones, and count nothing again.
    eventually("the lost node is forgotten", async || {
        world.redis.command(&["SCARD", "tw:{limits}:nodes"]).trim() == "1"
    })
    .await;
    assert_eq!(settled(&second, 5).await, row);
    for node in [second, third] {
        assert_eq!(ask(&node, &response("tokens=1")).answer().await.status, 200);
    }
}

#[tokio::test]
async fn redis_that_is_away_is_bridged_or_refuses() {
    let world = World::new();
    let bridging = world.start("per_owner: {streams: 1}\n  store_away: local");
    let refusing = world.start("per_owner: {streams: 1}\n  store_away: refuse");
    let short = response("tokens=10");
    assert_eq!(ask(&bridging, &short).answer().await.status, 200);
    settled(&bridging, 1).await;
    world.redis.pause();
    let refused = ask(&refusing, &short).answer().await;
    assert_eq!(
        (refused.status, &*code(&refused)),
        (503, "store_unavailable")
    );
    assert!(refused.header("retry-after").is_some());
    let answer = ask(&bridging, &short).answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    world.redis.resume();
    // What was counted meanwhile is told to all.
    let row = settled(&refusing, 2).await;
    assert_eq!(row["output_tokens"], 20, "{row}");
}
