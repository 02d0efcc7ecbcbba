//! Answers that their upstream goes on with are read from it again: after the connection is cut, after
//! `kill -9` and a start on the same disk, and at another node. Readers see each token once, and the
//! upstream makes the answer once.

use crate::support::cluster_world::{ClusterWorld, events, settled};
use crate::support::process::Process;
use crate::support::{
    DiskWorld, Exchange, Request, eventually, get, patiently, post, response, with,
};
use serde_json::{Value, json};
use tokenwire_simulator::Simulator;

/// An answer that takes 8 s, and its tokens. A gateway starts in less.
const PACED: &str = "tokens=160 text=count tbt=50ms";
const COUNT: u64 = 160;

/// A configuration whose upstream is this server, which can be attached to again.
fn upstream(base_url: &str, more: &str) -> String {
    format!(
        "default_model: simulator\nupstreams:\n  - name: held\n    api: responses\n    base_url: {base_url}\n    reattach: true\n{more}"
    )
}

/// A configuration with the store in this folder.
fn on_disk(world: &DiskWorld, more: &str) -> String {
    let path = world.folder.path().display();
    upstream(
        &world.simulator.base_url(),
        &format!("store:\n  kind: disk\n  path: {path}\n{more}"),
    )
}

/// The numbers of the tokens in the order in which they were read, and the status of the end.
fn tokens(found: &[(u64, String)]) -> (Vec<u64>, Option<String>) {
    let mut last = None;
    let mut text = String::new();
    let mut end = None;
    for (number, event) in found {
        let event: Value = serde_json::from_str(event).unwrap();
        let ascends = last.is_none_or(|last| *number > last);
        assert!(
            ascends || event["type"] == "tokenwire:reset",
            "{number} after {last:?}"
        );
        last = Some(*number);
        match event["type"].as_str().unwrap() {
            "response.output_text.delta" => text.push_str(event["delta"].as_str().unwrap()),
            "response.completed" | "response.failed" | "response.incomplete" => {
                let response = &event["response"];
                let code = response["error"]["code"].as_str();
                let status = response["status"].as_str();
                end = code.or(status).map(str::to_owned);
            }
            // A kill took some events that were shown and not stored.
            "tokenwire:reset" => {
                let output = &event["response"]["output"];
                text = output[0]["content"][0]["text"].as_str().unwrap().to_owned();
                let status = event["response"]["status"].as_str().unwrap();
                end = (status != "in_progress").then(|| status.to_owned());
            }
            _ => {}
        }
        assert!(
            event["response"]["tokenwire"].is_null(),
            "a client is shown what is the gateway's: {event}"
        );
    }
    let tokens = text.split_whitespace().map(|token| token[1..].parse());
    (tokens.map(Result::unwrap).collect(), end)
}

/// Checks that the reader has seen `count` tokens, each once, and then the end.
fn expect_whole(found: &[(u64, String)], count: u64) {
    let (tokens, end) = tokens(found);
    assert_eq!(end.as_deref(), Some("completed"), "{tokens:?}");
    assert_eq!(tokens, (0..count).collect::<Vec<_>>());
}

/// The requests to the simulator with this beginning.
fn requests(simulator: &Simulator, method: &str, path: &str) -> usize {
    let requests = simulator.requests();
    let matches = requests
        .iter()
        .filter(|request| request.method == method && request.path.starts_with(path));
    matches.count()
}

fn cancels(simulator: &Simulator) -> usize {
    let requests = simulator.requests();
    let cancels = requests
        .iter()
        .filter(|request| request.path.ends_with("/cancel"));
    cancels.count()
}

/// Checks that the upstream made one answer, and was asked for it again this often at least.
fn expect_one_answer(simulator: &Simulator, again: usize) {
    assert_eq!(simulator.stats().responses, 1);
    let reads = requests(simulator, "GET", "/v1/responses/");
    assert!(reads >= again, "it was read again {reads} times");
}

async fn begin(gateway: &Process, body: &Value) -> (Exchange, String) {
    let mut stream = post(gateway, "/v1/streams", body).send().await;
    stream.until("\" t5\"").await;
    let location = stream.header("location").await.unwrap();
    let id = location.strip_prefix("/v1/streams/").unwrap().to_owned();
    (stream, id)
}

fn seen(stream: &Exchange) -> Vec<(u64, String)> {
    let body = String::from_utf8_lossy(&stream.body).into_owned();
    // The last event may not be complete.
    let whole = body.rfind("\n\n").map_or(0, |end| end + 2);
    events(&body[..whole])
}

/// Reads what follows the events that were seen, however often the gateway has to be asked.
async fn resumed(gateway: &Process, id: &str, seen: &[(u64, String)]) -> Vec<(u64, String)> {
    let last = seen.last().unwrap().0;
    let answer = settled(gateway, &format!("/v1/streams/{id}?after={last}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let mut all = seen.to_vec();
    all.extend(events(&answer.text()));
    all
}

async fn read_through(world: &DiskWorld, steering: &str) -> Vec<(u64, String)> {
    let gateway = Process::start(&on_disk(world, ""), &[]);
    let request =
        post(&gateway, "/v1/streams", &response(steering)).header("openai-project", "proj_1");
    events(&patiently("the answer", request.answer()).await.text())
}

#[tokio::test]
async fn cut_connection_to_the_upstream_costs_no_token() {
    for steering in [
        "fault=cut after=10 tokens=60 text=count",
        "fault=reset after=3 tokens=60 text=count tbt=10ms",
        "fault=end after=10 tokens=60 text=count",
        "fault=cut after=10 tokens=60 text=count again=cut",
        "fault=cut after=10 tokens=60 text=count again=slow",
        "fault=cut after=10 tokens=60 text=count again=busy",
        "fault=cut after=1 tokens=60 text=count reasoning=20",
    ] {
        let world = DiskWorld::new();
        let found = read_through(&world, steering).await;
        expect_whole(&found, 60);
        expect_one_answer(&world.simulator, 1);
        // What says whose the answer is comes with each request.
        let project = ("openai-project".to_owned(), "proj_1".to_owned());
        let requests = world.simulator.requests();
        let mut requests = requests.iter();
        let named = requests.all(|request| {
            !request.path.starts_with("/v1/responses") || request.headers.contains(&project)
        });
        assert!(named, "{steering}");
    }
}

#[tokio::test]
async fn answer_that_the_upstream_does_not_give_again_ends_as_lost() {
    for steering in [
        "fault=cut after=10 tokens=60 text=count again=gone",
        "fault=cut after=10 tokens=60 text=count again=other",
        "fault=cut after=10 tokens=60 text=count tbt=20ms window=100ms",
    ] {
        let world = DiskWorld::new();
        let found = read_through(&world, steering).await;
        let (tokens, end) = tokens(&found);
        assert!(tokens.len() >= 10, "{steering}: {tokens:?}");
        assert_eq!(end.as_deref(), Some("producer_lost"), "{steering}");
        expect_one_answer(&world.simulator, 1);
    }
}

#[tokio::test]
async fn response_that_is_not_stored_is_asked_for_as_before() {
    let world = DiskWorld::new();
    let gateway = Process::start(&on_disk(&world, ""), &[]);
    let body = with(
        response("fault=cut after=10 tokens=60 text=count"),
        json!({"store": false}),
    );
    let answer = post(&gateway, "/v1/streams", &body).answer().await;
    let (_, end) = tokens(&events(&answer.text()));
    assert_eq!(end.as_deref(), Some("upstream_truncated"));
    let sent = world.simulator.requests()[0].body.clone().unwrap();
    assert!(sent["background"].is_null(), "{sent}");
    assert_eq!(sent["store"], false);
}

#[tokio::test]
async fn cancel_delete_and_the_end_of_the_grace_end_the_answer_upstream() {
    let world = DiskWorld::new();
    let grace = "streams:\n  disconnect_grace: 200ms\n";
    let gateway = Process::start(&on_disk(&world, grace), &[]);
    let body = response("tokens=2000 text=count tbt=50ms");
    for (done, end) in ["cancel", "delete", "leave"].into_iter().enumerate() {
        let (stream, id) = begin(&gateway, &body).await;
        let path = format!("/v1/responses/{id}");
        match end {
            "cancel" => {
                let cancel = post(&gateway, &format!("{path}/cancel"), &json!({}));
                assert_eq!(cancel.answer().await.status, 200);
            }
            "delete" => {
                let delete = Request::new(gateway.address, "DELETE", &path);
                assert_eq!(delete.answer().await.status, 200);
            }
            _ => drop(stream),
        }
        eventually("the cancel upstream", async || {
            cancels(&world.simulator) == done + 1
        })
        .await;
    }
    // One that is cancelled before its first event.
    let body = with(
        response("head=300ms tokens=2000 text=count tbt=50ms"),
        json!({"background": true, "stream": false}),
    );
    let started = post(&gateway, "/v1/responses", &body).answer().await.json();
    let id = started["id"].as_str().unwrap();
    eventually("the request", async || {
        world.simulator.stats().responses == 4
    })
    .await;
    let cancel = post(&gateway, &format!("/v1/responses/{id}/cancel"), &json!({}));
    assert_eq!(cancel.answer().await.status, 200);
    eventually("the cancel upstream", async || {
        cancels(&world.simulator) == 4
    })
    .await;
}

#[tokio::test]
async fn answers_go_on_after_kill_and_a_start_on_the_same_disk() {
    let world = DiskWorld::new();
    let config = on_disk(&world, "");
    let mut gateway = Process::start(&config, &[]);
    let (mut stream, id) = begin(&gateway, &response(PACED)).await;
    let mut found = seen(&stream);
    for token in ["t15", "t45"] {
        stream.until(token).await;
        found.extend(
            seen(&stream)
                .into_iter()
                .filter(|(number, _)| found.last().is_none_or(|(last, _)| number > last))
                .collect::<Vec<_>>(),
        );
        drop(gateway);
        gateway = Process::start(&config, &[]);
        let last = found.last().unwrap().0;
        let path = format!("/v1/streams/{id}?after={last}");
        stream = patiently("a gateway that goes on", async {
            loop {
                let mut stream = Request::new(gateway.address, "GET", &path).send().await;
                match stream.status().await {
                    200 => return stream,
                    status => assert_eq!(status, 503),
                }
            }
        })
        .await;
    }
    drop(stream);
    let found = resumed(&gateway, &id, &found).await;
    expect_whole(&found, COUNT);
    expect_one_answer(&world.simulator, 2);
    // All of it is one log.
    let again = get(&gateway, &format!("/v1/streams/{id}")).await.text();
    expect_whole(&events(&again), COUNT);
    let object = get(&gateway, &format!("/v1/responses/{id}")).await.json();
    assert_eq!(object["status"], "completed");
    assert!(object["tokenwire"].is_null(), "{object}");
    let text = object["output"][0]["content"][0]["text"].as_str().unwrap();
    assert_eq!(text.split_whitespace().count(), 160);
}

#[tokio::test]
async fn background_answer_goes_on_at_another_node_unasked() {
    let world = ClusterWorld::new();
    let config = |more: &str| {
        world.config(crate::support::cluster_world::SECRET).replace(
            "    base_url",
            "    api: responses\n    reattach: true\n    base_url",
        ) + more
    };
    let node = Process::start(&config(""), &[]);
    let owner = Process::start(&config(""), &[]);
    // A node may take over once its lease has held for 6 s.
    tokio::time::sleep(std::time::Duration::from_millis(6500)).await;
    let body = with(
        response("tokens=300 text=count tbt=50ms"),
        json!({"background": true}),
    );
    let (stream, id) = begin(&owner, &body).await;
    let found = seen(&stream);
    // A reader at the node that goes on with it.
    let mut foreign = Request::new(node.address, "GET", &format!("/v1/streams/{id}"))
        .send()
        .await;
    foreign.until("\" t10\"").await;
    drop(owner);
    let whole = patiently("the rest", foreign.answer()).await;
    expect_whole(&events(&whole.text()), 300);
    let found = resumed(&node, &id, &found).await;
    expect_whole(&found, 300);
    expect_one_answer(&world.simulator, 1);
    assert_eq!(cancels(&world.simulator), 0);
}

#[tokio::test]
async fn another_gateway_is_such_an_upstream() {
    let (behind, front) = (DiskWorld::new(), DiskWorld::new());
    let upstream_gateway = behind.start();
    let config = on_disk(&front, "").replace(
        &front.simulator.base_url(),
        &format!("http://{}/v1", upstream_gateway.address),
    );
    let gateway = Process::start(&config, &[]);
    let (stream, id) = begin(&gateway, &response(PACED)).await;
    let found = seen(&stream);
    drop(gateway);
    let gateway = Process::start(&config, &[]);
    let found = resumed(&gateway, &id, &found).await;
    expect_whole(&found, COUNT);
    assert_eq!(behind.asked(), 1);
    // Its cancel reaches the server behind both.
    let body = response("tokens=2000 text=count tbt=50ms");
    let (_stream, id) = begin(&gateway, &body).await;
    let cancel = post(&gateway, &format!("/v1/responses/{id}/cancel"), &json!({}));
    assert_eq!(cancel.answer().await.status, 200);
    eventually("the end behind both", async || {
        behind.simulator.stats().open_streams == 0
    })
    .await;
}

#[tokio::test]
async fn usage_of_an_answer_that_goes_on_is_that_of_its_end() {
    const KEY: &str = "Bearer sk-tw-alice-alice-alice-alice";
    let world = DiskWorld::new();
    let keys =
        "auth:\n  keys:\n    - owner: alice\n      key: sk-tw-alice-alice-alice-alice\n".to_owned();
    let config = on_disk(&world, &keys);
    let gateway = Process::start(&config, &[]);
    let body = response("tokens=60 text=count tbt=50ms");
    let request = post(&gateway, "/v1/streams", &body).header("authorization", KEY);
    let mut stream = request.send().await;
    stream.until("\" t5\"").await;
    drop(gateway);
    let gateway = Process::start(&config, &[]);
    let mut rows = Vec::new();
    eventually("the usage", async || {
        let usage =
            Request::new(gateway.address, "GET", "/v1/usage?by=owner").header("authorization", KEY);
        rows = usage.answer().await.json()["data"]
            .as_array()
            .unwrap()
            .clone();
        !rows.is_empty()
    })
    .await;
    // It is settled once, by what the upstream has reported at the end.
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0]["output_tokens"], 60, "{rows:?}");
    assert_eq!(rows[0]["requests"], 1, "{rows:?}");
}
