//! The dashboard and the alerts of `deploy/`: they name metrics that exist, and with Prometheus each
//! query returns data. `cargo xtask test --only monitoring` runs them with Debian's Prometheus.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use support::{Request, World, chat, encode, eventually, response, start, with};
use tokenwire_testkit::free_port;

/// Set where Prometheus is installed.
const WITH_PROMETHEUS: &str = "MONITORING";

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../deploy")
        .join(path)
}

/// The queries of all panels, with their titles.
fn panel_queries() -> Vec<(String, String)> {
    let text = fs::read_to_string(deploy("grafana/tokenwire.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        if panel["type"] == "row" {
            continue;
        }
        assert_ne!(
            panel["description"].as_str().unwrap_or_default(),
            "",
            "{title}"
        );
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            queries.push((title.to_owned(), query.to_owned()));
        }
    }
    queries
}

/// The queries of all alerts, with their names.
fn alert_queries() -> Vec<(String, String)> {
    let text = fs::read_to_string(deploy("prometheus/alerts.yml")).unwrap();
    let rules: Value = serde_saphyr::from_str(&text).unwrap();
    let rules = rules["groups"][0]["rules"].as_array().unwrap();
    let alert = |rule: &Value| {
        for annotation in ["summary", "action"] {
            assert!(rule["annotations"][annotation].is_string(), "{rule}");
        }
        let text = |key: &str| rule[key].as_str().unwrap().to_owned();
        (text("alert"), text("expr"))
    };
    rules.iter().map(alert).collect()
}

/// The metrics that a query names.
fn metrics_of(query: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = query.split(|c| !is_part(c));
    let is_metric = |word: &&str| word.starts_with("tokenwire_") || word.starts_with("process_");
    words.filter(is_metric).map(str::to_owned).collect()
}

#[tokio::test]
async fn dashboard_and_alerts_name_metrics_that_exist() {
    let world = start(|_| {});
    let page = world.get("/metrics").answer().await.text();
    let exposed: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split(' ').next())
        .collect();
    let queries = panel_queries().into_iter().chain(alert_queries());
    for (name, query) in queries {
        let metrics = metrics_of(&query);
        assert!(
            !metrics.is_empty() || query.starts_with("up{"),
            "{name}: {query}"
        );
        for metric in metrics {
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| metric.strip_suffix(suffix))
                .unwrap_or(&metric);
            let known = exposed.contains(family) || exposed.contains(metric.as_str());
            assert!(known, "{name}: {metric} is not exposed");
        }
    }
}

/// Prometheus, which ends when it is dropped.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// Starts it with the files of `deploy/`, for this gateway.
    async fn start(gateway: SocketAddr) -> Self {
        let folder = tempfile::TempDir::new().unwrap();
        let place = |name: &str| folder.path().join(name);
        fs::copy(deploy("prometheus/alerts.yml"), place("alerts.yml")).unwrap();
        let mut text = fs::read_to_string(deploy("prometheus/prometheus.yml")).unwrap();
        for (documented, here) in [
            ("127.0.0.1:3000", gateway.to_string()),
            ("scrape_interval: 15s", "scrape_interval: 1s".to_owned()),
        ] {
            assert_eq!(text.matches(documented).count(), 1, "{documented}");
            text = text.replace(documented, &here);
        }
        fs::write(place("prometheus.yml"), text).unwrap();
        let mut promtool = Command::new("promtool");
        promtool.args(["check", "config", "prometheus.yml"]);
        let checked = promtool.current_dir(folder.path()).output().unwrap();
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(checked.status.success(), "{said}");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let mut command = Command::new("prometheus");
        command
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address={address}"))
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let this = Self {
            child,
            address,
            _folder: folder,
        };
        eventually("Prometheus", async || {
            tokio::net::TcpStream::connect(address).await.is_ok()
        })
        .await;
        this
    }

    /// Returns the results of a query. An error in it fails the test.
    async fn query(&self, query: &str) -> Vec<Value> {
        let path = format!("/api/v1/query?query={}", encode(query));
        let answer = Request::new(self.address, "GET", &path).answer().await;
        // It answers 503 until it has started.
        if answer.status == 503 {
            return Vec::new();
        }
        assert_eq!(answer.status, 200, "{query}: {}", answer.text());
        answer.json()["data"]["result"].as_array().unwrap().clone()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends requests of all kinds until it is told to stop.
async fn use_gateway(world: Arc<World>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let answered = world.post("/v1/responses", &response("tokens=5 tbt=5ms"));
        let id = answered.answer().await.id().to_owned();
        for query in ["", "?after=1"] {
            let path = format!("/v1/streams/{id}{query}");
            world.get(&path).answer().await;
        }
        let usage = json!({"stream_options": {"include_usage": true}});
        let asked = with(chat("tokens=5 usage=true"), usage);
        world.post("/v1/chat/completions", &asked).answer().await;
        let failing = response("fault=cut after=2");
        world.post("/v1/responses", &failing).answer().await;
    }
}

#[tokio::test]
async fn every_query_returns_data_from_prometheus() {
    if std::env::var_os(WITH_PROMETHEUS).is_none() {
        eprintln!("skipped: {WITH_PROMETHEUS} is not set");
        return;
    }
    let world = Arc::new(start(|_| {}));
    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn(use_gateway(world.clone(), stop.clone()));
    let prometheus = Prometheus::start(world.address).await;
    for (title, query) in panel_queries() {
        let query = query
            .replace("$__rate_interval", "10s")
            .replace("$instance", ".*");
        eventually(&format!("data of {title}: {query}"), async || {
            let results = prometheus.query(&query).await;
            let is_number = |result: &Value| result["value"][1] != "NaN";
            !results.is_empty() && results.iter().any(is_number)
        })
        .await;
    }
    for (_, query) in alert_queries() {
        prometheus.query(&query).await;
    }
    // Answers fail all the time here, and nothing is down.
    let failing =
        "sum by (instance) (rate(tokenwire_generations_ended_total{status=\"failed\"}[10s])) > 0";
    eventually("failures", async || {
        !prometheus.query(failing).await.is_empty()
    })
    .await;
    assert!(
        prometheus
            .query("up{job=\"tokenwire\"} == 0")
            .await
            .is_empty()
    );
    stop.store(true, Ordering::Relaxed);
    load.await.unwrap();
}
