//! Draining: running streams may end, new ones are refused, and the process always ends.

use crate::support::process::Process;
use crate::support::{End, Request, eventually, patiently, with};
use serde_json::json;
use tokenwire_simulator::{Options, Pace, Simulator};
use tokio::net::TcpStream;

fn post(gateway: &Process, path: &str, steering: &str, members: serde_json::Value) -> Request {
    let body = with(crate::support::response(steering), members);
    Request::new(gateway.address, "POST", path)
        .header("content-type", "application/json")
        .body(body.to_string())
}

async fn output(gateway: Process) -> (bool, String) {
    patiently(
        "the end of the process",
        tokio::task::spawn_blocking(move || gateway.output()),
    )
    .await
    .unwrap()
}

/// Sends a request and reads its answer. Returns the connection, which is kept, with it.
async fn keep(request: &Request) -> (u16, TcpStream) {
    let mut exchange = request.send().await;
    while exchange.read().await {}
    (exchange.status().await, exchange.socket)
}

async fn is_refused(gateway: &Process) -> bool {
    TcpStream::connect(gateway.address).await.is_err()
}

#[tokio::test]
async fn drain_closes_the_port_and_serves_kept_connections_once_more() {
    let gateway = Process::start("server:\n  shutdown_timeout: 20s\n", &[]);
    let ready = Request::new(gateway.address, "GET", "/readyz");
    let (status, kept) = keep(&ready).await;
    assert_eq!(status, 200);
    let (_, starting) = keep(&ready).await;
    let steering = "tokens=100 tbt=10ms text=count";
    let mut stream = post(&gateway, "/v1/responses", steering, json!({}))
        .send()
        .await;
    stream.until("\" t1\"").await;
    gateway.terminate();
    eventually("the closed port", async || is_refused(&gateway).await).await;
    // The port closes a moment before the process says so.
    let mut exchange = ready.send_on(kept).await;
    while exchange.status().await == 200 {
        while exchange.read().await {}
        exchange = ready.send_on(exchange.socket).await;
    }
    let refused = exchange.answer().await;
    assert_eq!(
        (refused.status, refused.json()["error"]["code"].as_str()),
        (503, Some("shutting_down"))
    );
    assert_eq!(refused.header("connection"), Some("close"));
    let started = post(&gateway, "/v1/responses", "tokens=1", json!({}))
        .send_on(starting)
        .await;
    let started = started.answer().await;
    assert_eq!(
        (started.status, started.header("connection")),
        (200, Some("close"))
    );
    assert!(started.text().contains("response.completed"));
    let answer = stream.answer().await;
    assert!(
        answer.end == End::Whole && answer.text().contains("response.completed"),
        "{}",
        answer.text()
    );
    assert!(output(gateway).await.0);
}

#[tokio::test]
async fn drain_waits_for_background_generations() {
    let simulator = Simulator::start(Options {
        pace: Pace::INSTANT,
        ..Options::default()
    })
    .unwrap();
    let config = format!(
        "default_model: simulator\nserver:\n  shutdown_timeout: 20s\nupstreams:\n  - name: simulator\n    base_url: {}\n",
        simulator.base_url()
    );
    let gateway = Process::start(&config, &[]);
    let job = post(
        &gateway,
        "/v1/responses",
        "tokens=60 tbt=10ms",
        json!({"background": true, "stream": false}),
    )
    .answer()
    .await;
    assert_eq!(job.json()["status"], "queued");
    gateway.terminate();
    assert!(output(gateway).await.0);
    let stats = simulator.stats();
    assert_eq!(
        (stats.completed, stats.aborted),
        (1, 0),
        "the generation did not complete"
    );
}

#[tokio::test]
async fn stream_cut_by_the_drain_timeout_ends_with_a_failure() {
    let gateway = Process::start("server:\n  shutdown_timeout: 1s\n", &[]);
    let mut stream = post(
        &gateway,
        "/v1/streams",
        "tokens=9 text=count fault=stall after=2",
        json!({}),
    )
    .send()
    .await;
    stream.until("\" t1\"").await;
    gateway.terminate();
    let answer = stream.answer().await;
    let last = answer.events().pop().unwrap().kind();
    assert_eq!(
        (answer.end, last.as_str()),
        (End::Whole, "response.failed"),
        "{}",
        answer.text()
    );
    assert!(output(gateway).await.0);
}

#[tokio::test]
async fn second_signal_stops_the_process_at_once() {
    let gateway = Process::start("server:\n  shutdown_timeout: 1h\n", &[]);
    let mut stream = post(&gateway, "/v1/streams", "fault=stall_head", json!({}))
        .send()
        .await;
    stream.until("response.created").await;
    gateway.terminate();
    eventually("the closed port", async || is_refused(&gateway).await).await;
    gateway.terminate();
    output(gateway).await;
}
