//! Reloads of the configuration: what changes, what stays, and that nothing is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::process::Process;
use crate::support::{Answer, End, Request, eventually, get, patiently, post, response};
use serde_json::{Value, json};
use tokenwire_simulator::{Options, Pace, Simulator};

const OPERATOR: &str = "sk-tw-operator-operator-oper";
const ALICE: &str = "sk-tw-alice-alice-alice-alice";

fn simulator() -> Simulator {
    let options = Options {
        pace: Pace::INSTANT,
        ..Options::default()
    };
    Simulator::start(options).unwrap()
}

/// A configuration with this upstream, and more lines.
fn over(simulator: &Simulator, more: &str) -> String {
    let url = simulator.base_url();
    format!("default_model: simulator\nupstreams:\n  - name: upstream\n    base_url: {url}\n{more}")
}

fn keys(entries: &[(&str, &str, &str)]) -> String {
    let mut text = "auth:\n  keys:\n".to_owned();
    for (owner, key, role) in entries {
        text.push_str(&format!(
            "    - {{owner: {owner}, key: {key}, role: {role}}}\n"
        ));
    }
    text
}

fn by(request: Request, key: &str) -> Request {
    request.header("authorization", &format!("Bearer {key}"))
}

fn reload(gateway: &Process) -> Request {
    Request::new(gateway.address, "POST", "/admin/reload")
}

fn code(answer: &Answer) -> Value {
    answer.json()["error"]["code"].clone()
}

async fn asks(gateway: &Process, body: &Value) -> u16 {
    post(gateway, "/v1/responses", body).answer().await.status
}

/// A body that is too large where `limits.body` is 1 KiB.
fn large() -> Value {
    json!({"model": "simulator", "input": "x".repeat(2000)})
}

async fn output(gateway: Process) -> String {
    gateway.terminate();
    let ended = tokio::task::spawn_blocking(move || gateway.output());
    patiently("the end of the process", ended).await.unwrap().1
}

#[tokio::test]
async fn sighup_applies_the_file_and_names_keys_that_need_a_restart() {
    let upstream = simulator();
    let gateway = Process::start(&over(&upstream, ""), &[]);
    assert_eq!(asks(&gateway, &large()).await, 200);
    let more = "limits:\n  body: 1KiB\nserver:\n  workers: 7\n";
    gateway.configure(&over(&upstream, more));
    gateway.signal(rustix::process::Signal::HUP);
    eventually("the new limit", async || {
        asks(&gateway, &large()).await == 413
    })
    .await;
    // A worker that has not had a request since follows at its next one.
    for _ in 0..8 {
        assert_eq!(asks(&gateway, &large()).await, 413);
    }
    let said = output(gateway).await;
    assert!(said.contains("limits.body"), "{said}");
    assert!(said.contains("need a restart"), "{said}");
    assert!(said.contains("server.workers"), "{said}");
}

#[tokio::test]
async fn changed_file_is_read_without_a_signal() {
    let upstream = simulator();
    let gateway = Process::start(&over(&upstream, ""), &[]);
    gateway.configure(&over(&upstream, "limits:\n  body: 1KiB\n"));
    eventually("the new limit", async || {
        asks(&gateway, &large()).await == 413
    })
    .await;
    let metrics = get(&gateway, "/metrics").await.text();
    assert!(metrics.contains("tokenwire_config_reloads_total{result=\"applied\"} 1\n"));
}

#[tokio::test]
async fn configuration_with_a_mistake_changes_nothing_and_is_named() {
    let upstream = simulator();
    let right = over(&upstream, "limits:\n  body: 1KiB\n");
    let gateway = Process::start(&right, &[]);
    for (mistake, said) in [
        ("limits:\n  body: soon\n", "`limits.body` is \"soon\""),
        (
            "limits:\n  bodi: 1MiB\n",
            "`limits.bodi` is not a known key",
        ),
        ("limits: [\n", "is not valid YAML"),
        ("log:\n  filter: '='\n", "`log.filter`"),
        (
            "auth:\n  keys: [{owner: a, key: sk-secret}]\n",
            "`auth.keys[0].key`",
        ),
    ] {
        gateway.configure(&over(&upstream, mistake));
        let answer = reload(&gateway).answer().await;
        assert_eq!(
            (answer.status, code(&answer)),
            (422, "reload_failed".into())
        );
        let message = answer.json()["error"]["message"].to_string();
        let message = message.replace("\\\"", "\"");
        assert!(message.contains(said), "{message}");
        assert!(message.contains("expected"), "{message}");
        assert!(message.contains("tokenwire.yaml"), "{message}");
        assert!(!message.contains("sk-secret"), "{message}");
        assert_eq!(asks(&gateway, &large()).await, 413);
        let metrics = get(&gateway, "/metrics").await.text();
        assert!(metrics.contains("tokenwire_config_last_reload_successful 0\n"));
    }
    gateway.configure(&right);
    let answer = reload(&gateway).answer().await;
    let nothing = json!({"object": "reload", "changed": [], "needs_restart": []});
    assert_eq!((answer.status, answer.json()), (200, nothing));
    let metrics = get(&gateway, "/metrics").await.text();
    assert!(metrics.contains("tokenwire_config_last_reload_successful 1\n"));
}

#[tokio::test]
async fn running_streams_keep_their_upstream_and_new_ones_get_the_new_one() {
    let (before, after) = (simulator(), simulator());
    let gateway = Process::start(&over(&before, ""), &[]);
    let body = response("tokens=40 tbt=25ms text=count");
    let mut running = post(&gateway, "/v1/responses", &body).send().await;
    running.until("\" t2\"").await;
    gateway.configure(&over(&after, "streams:\n  heartbeat: 1s\n"));
    let answer = reload(&gateway).answer().await;
    let changed = json!(["upstreams", "streams.heartbeat"]);
    assert_eq!((answer.status, &answer.json()["changed"]), (200, &changed));
    assert_eq!(asks(&gateway, &response("tokens=1")).await, 200);
    let answer = running.answer().await;
    assert_eq!(answer.end, End::Whole);
    assert!(answer.text().contains("\" t39\""), "{}", answer.text());
    assert!(answer.text().contains("response.completed"));
    let counts = [&before, &after].map(|upstream| upstream.stats().chat_completions);
    assert_eq!(counts, [1, 1]);
}

#[tokio::test]
async fn reload_needs_an_operators_key_in_a_header() {
    let upstream = simulator();
    let both = [("ops", OPERATOR, "operator"), ("alice", ALICE, "user")];
    let gateway = Process::start(&over(&upstream, &keys(&both)), &[]);
    let answer = reload(&gateway).answer().await;
    assert_eq!(
        (answer.status, code(&answer)),
        (401, "invalid_api_key".into())
    );
    let answer = by(reload(&gateway), ALICE).answer().await;
    assert_eq!(
        (answer.status, code(&answer)),
        (403, "role_required".into())
    );
    let ticket = by(post(&gateway, "/v1/tickets", &json!({})), OPERATOR);
    let ticket = ticket.answer().await.json()["ticket"].clone();
    let path = format!("/admin/reload?ticket={}", ticket.as_str().unwrap());
    let by_ticket = Request::new(gateway.address, "POST", &path);
    assert_eq!(by_ticket.answer().await.status, 401);
    let by_cookie = reload(&gateway).header("cookie", "__Host-tokenwire=x");
    assert_eq!(by_cookie.answer().await.status, 401);
    let answer = by(reload(&gateway), OPERATOR).answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn reload_without_auth_is_for_clients_on_this_machine() {
    let upstream = simulator();
    let gateway = Process::start(&over(&upstream, ""), &[]);
    let far = reload(&gateway).header("x-forwarded-for", "192.0.2.1");
    let answer = far.answer().await;
    assert_eq!(
        (answer.status, code(&answer)),
        (403, "role_required".into())
    );
    let page = reload(&gateway).header("origin", "https://example.com");
    let answer = page.answer().await;
    assert_eq!(
        (answer.status, code(&answer)),
        (403, "origin_forbidden".into())
    );
    assert_eq!(reload(&gateway).answer().await.status, 200);
}

#[tokio::test]
async fn key_that_is_gone_from_the_configuration_is_revoked() {
    let upstream = simulator();
    let both = [("ops", OPERATOR, "operator"), ("alice", ALICE, "user")];
    let gateway = Process::start(&over(&upstream, &keys(&both)), &[]);
    let body = response("tokens=100000 tbt=20ms text=count");
    let request = by(post(&gateway, "/v1/responses", &body), ALICE);
    let mut running = request.send().await;
    running.until("\" t1\"").await;
    gateway.configure(&over(&upstream, &keys(&both[..1])));
    let answer = by(reload(&gateway), OPERATOR).answer().await;
    assert_eq!(answer.json()["changed"], json!(["auth.keys"]));
    let cut = running.answer().await;
    assert!(!cut.text().contains("response.completed"));
    assert_eq!(request.answer().await.status, 401);
}

#[tokio::test]
async fn first_and_last_key_need_a_restart() {
    let upstream = simulator();
    let gateway = Process::start(&over(&upstream, ""), &[]);
    let one = [("ops", OPERATOR, "operator")];
    gateway.configure(&over(&upstream, &keys(&one)));
    let answer = reload(&gateway).answer().await;
    assert_eq!(answer.json()["needs_restart"], json!(["auth.keys"]));
    assert_eq!(asks(&gateway, &response("tokens=1")).await, 200);
}

#[tokio::test]
async fn reload_that_would_open_an_upstreams_key_to_others_is_refused() {
    let upstream = simulator();
    let open = "server:\n  allowed_hosts: [chat.example.com]\n";
    let gateway = Process::start(&over(&upstream, open), &[]);
    let with_key = over(&upstream, &format!("    api_key: sk-upstream\n{open}"));
    gateway.configure(&with_key);
    let answer = reload(&gateway).answer().await;
    assert_eq!(
        (answer.status, code(&answer)),
        (422, "reload_failed".into())
    );
    assert!(answer.text().contains("auth.keys"), "{}", answer.text());
}

#[tokio::test]
async fn reloads_under_load_lose_nothing() {
    /// `RELOADS=600` is a minute.
    const RELOADS: usize = 25;
    let reloads = std::env::var("RELOADS").ok();
    let reloads = reloads.map_or(RELOADS, |text| text.parse().unwrap());
    let (one, other) = (simulator(), simulator());
    let gateway = Arc::new(Process::start(&over(&one, ""), &[]));
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..16)
        .map(|_| tokio::spawn(read_streams(gateway.clone(), stop.clone())))
        .collect();
    let mut clock = tokio::time::interval(Duration::from_millis(100));
    for round in 0..reloads {
        clock.tick().await;
        let upstream = if round % 2 == 0 { &other } else { &one };
        let heartbeat = format!("streams:\n  heartbeat: {}s\n", 10 + round % 7);
        gateway.configure(&over(upstream, &heartbeat));
        let answer = reload(&gateway).answer().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    stop.store(true, Ordering::Relaxed);
    let mut streams = 0;
    for reader in readers {
        streams += patiently("a reader", reader).await.unwrap();
    }
    assert!(streams > reloads, "{streams} streams");
    let asked = [&one, &other].map(|upstream| upstream.stats().chat_completions);
    assert_eq!(asked.iter().sum::<u64>(), streams as u64);
    assert!(asked.iter().all(|count| *count > 0), "{asked:?}");
}

/// Reads streams one after another, each with all its tokens. Returns how many.
async fn read_streams(gateway: Arc<Process>, stop: Arc<AtomicBool>) -> usize {
    let body = response("tokens=30 tbt=8ms text=count");
    let mut streams = 0;
    while !stop.load(Ordering::Relaxed) {
        let answer = post(&gateway, "/v1/responses", &body).answer().await;
        assert_eq!((answer.status, answer.end), (200, End::Whole));
        let text = answer.text();
        for token in 0..30 {
            let delta = format!("\"delta\":\" t{token}\"");
            assert_eq!(text.matches(&delta).count(), 1, "{delta} in {text}");
        }
        assert!(text.contains("response.completed"), "{text}");
        streams += 1;
    }
    streams
}
