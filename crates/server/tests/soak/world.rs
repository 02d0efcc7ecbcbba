//! The gateway as a process, its simulators, and the metrics of both.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;
use tokenwire_simulator::{Options, Pace, Simulator};

use super::plan;
use super::support::process::Process;
use super::support::{Answer, PATIENCE, Request, eventually};
use super::tally::Tally;

/// The configuration. Every optional mechanism is on. Nothing is kept for more than a few seconds,
/// so that memory use is steady after the first third of the shortest run.
const CONFIG: &str = "
server: {workers: 2, shutdown_timeout: 20s}
default_model: simulator
timeouts: {first_token: 8s, between_tokens: 6s, total: 20s}
retry: {hedge: p95}
breaker: {failures: 3, cooldown: 1s}
streams: {disconnect_grace: 3s, slow_reader_timeout: 10s, retain_events: 10s, retain_responses: 15s}
limits: {event: 1MiB}
reuse: {coalesce: true}
webhooks: {secret: whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw, allow_private: true, max_kept: 100}
log: {filter: warn}
upstreams:
";

/// The key that signs the webhooks.
pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// The model that the upstreams serve over the chat completions API.
pub(crate) const CHAT_MODEL: &str = "simulator";
/// The model that the same upstreams serve over the Responses API.
pub(crate) const RESPONSES_MODEL: &str = "relayed";

/// State that all clients share.
pub(crate) struct World {
    pub(crate) gateway: Process,
    pub(crate) simulators: [Simulator; 2],
    pub(crate) faults: Vec<&'static str>,
    pub(crate) outcomes: Tally,
    /// Faults that were drawn, and events beside the outcomes.
    pub(crate) seen: Tally,
    pub(crate) webhooks: String,
}

/// The operating system's view of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) resident: u64,
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
}

/// The gateway's metrics: samples by name and labels.
pub(crate) struct Samples(BTreeMap<String, f64>);

// === impl World ===

impl World {
    /// Starts everything. `webhooks` is the URL for background responses.
    pub(crate) fn start(webhooks: String) -> Self {
        let simulators = [(); 2].map(|()| {
            Simulator::start(Options {
                pace: Pace::INSTANT,
                ..Options::default()
            })
            .unwrap()
        });
        let mut config = CONFIG.to_owned();
        for (name, simulator) in ["first", "second"].into_iter().zip(&simulators) {
            for (api, model) in [("chat", CHAT_MODEL), ("responses", RESPONSES_MODEL)] {
                config.push_str(&format!(
                    "  - {{name: {name}-{api}, api: {api}, base_url: '{}', models: [{model}], limits: {{concurrent: 6, queued: 3, wait: 5s}}}}\n",
                    simulator.base_url()
                ));
            }
        }
        let gateway = Process::start(&config, &[]);
        Self {
            gateway,
            simulators,
            faults: plan::faults(),
            outcomes: Tally::default(),
            seen: Tally::default(),
            webhooks,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.gateway.address
    }

    pub(crate) fn get(&self, path: &str) -> Request {
        Request::new(self.address(), "GET", path)
    }

    pub(crate) fn delete(&self, path: &str) -> Request {
        Request::new(self.address(), "DELETE", path)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Request {
        Request::new(self.address(), "POST", path)
            .header("content-type", "application/json")
            .body(body.to_string())
    }

    pub(crate) async fn cancel(&self, id: &str) -> Answer {
        let answer = self
            .post(
                &format!("/v1/responses/{id}/cancel"),
                &serde_json::json!({}),
            )
            .answer()
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer
    }

    pub(crate) async fn object(&self, id: &str) -> Value {
        let answer = self.get(&format!("/v1/responses/{id}")).answer().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Reads the operating system's view of the process.
    pub(crate) fn figures(&self) -> Figures {
        let folder = format!("/proc/{}", self.gateway.id());
        let pages = std::fs::read_to_string(format!("{folder}/statm")).unwrap();
        let pages: u64 = pages.split(' ').nth(1).unwrap().parse().unwrap();
        let count = |name: &str| {
            std::fs::read_dir(format!("{folder}/{name}"))
                .unwrap()
                .count()
        };
        Figures {
            resident: pages * rustix::param::page_size() as u64,
            descriptors: count("fd"),
            threads: count("task"),
        }
    }

    pub(crate) async fn samples(&self) -> Samples {
        let text = self.get("/metrics").answer().await.text();
        let samples = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '));
        Samples(
            samples
                .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
                .collect(),
        )
    }

    /// Exercises every part of the gateway once and waits until it is at rest. Returns the figures
    /// of that moment, which include all that is opened lazily and kept.
    pub(crate) async fn baseline(&self) -> Figures {
        for model in [CHAT_MODEL, RESPONSES_MODEL] {
            let input = format!("[[id=baseline-{model} tokens=1]]");
            let body = serde_json::json!({"model": model, "stream": true, "input": input});
            let answer = self.post("/v1/responses", &body).answer().await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            // Deleted, so that the baseline does not have to wait for the end of its retention.
            let path = format!("/v1/responses/{}", answer.id());
            assert_eq!(self.delete(&path).answer().await.status, 200);
        }
        self.rest().await;
        self.figures()
    }

    /// Waits until no stream, connection or request is left, and until the process holds no more
    /// than at `baseline`. It may hold less: idle threads end and pooled connections close.
    pub(crate) async fn comes_to_rest(&self, baseline: Figures) {
        self.rest().await;
        let mut last = self.figures();
        let settled = async {
            while last.descriptors > baseline.descriptors || last.threads > baseline.threads {
                breathe().await;
                last = self.figures();
            }
        };
        let settled = tokio::time::timeout(PATIENCE, settled).await;
        assert!(
            settled.is_ok(),
            "more descriptors or threads than at the baseline: {last:?}, baseline {baseline:?}"
        );
    }

    async fn rest(&self) {
        for _ in 0..4 {
            // Responses are kept for 15 s and a hanging upstream is cut after 20 s: together more
            // than one `PATIENCE`.
            if tokio::time::timeout(PATIENCE, async {
                while self.open().await > 0.0 {
                    breathe().await
                }
            })
            .await
            .is_ok()
            {
                break;
            }
        }
        let samples = self.samples().await;
        let left: Vec<_> = GAUGES
            .into_iter()
            .map(|name| (name, samples.sum(name)))
            .filter(|(_, value)| *value != 0.0)
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        eventually("the end of all other connections", async || {
            self.samples().await.sum("tokenwire_connections") <= 1.0
        })
        .await;
        for simulator in &self.simulators {
            let quiet = simulator.wait_until(
                |stats| {
                    let over = stats.completed + stats.aborted + stats.faulted;
                    (stats.open_streams, stats.open_connections, stats.requests) == (0, 0, over)
                },
                PATIENCE,
            );
            assert!(
                quiet.await,
                "an upstream has open requests or connections: {:?}",
                simulator.stats()
            );
        }
    }

    async fn open(&self) -> f64 {
        let samples = self.samples().await;
        GAUGES.into_iter().map(|name| samples.sum(name)).sum()
    }
}

/// Gauges that must return to zero.
const GAUGES: [&str; 9] = [
    "tokenwire_open_streams",
    "tokenwire_kept_streams",
    "tokenwire_log_bytes",
    "tokenwire_object_bytes",
    "tokenwire_websockets",
    "tokenwire_readers",
    "tokenwire_upstream_running",
    "tokenwire_upstream_waiting",
    "tokenwire_webhooks_pending",
];

/// Waits between two polls of the other process, which cannot announce a change.
async fn breathe() {
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
}

// === impl Samples ===

impl Samples {
    /// Returns the sum of all samples of this name, whatever their labels.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let of_it = self
            .0
            .iter()
            .filter(|(sample, _)| sample.split('{').next() == Some(name));
        of_it.map(|(_, value)| *value).sum()
    }

    /// Returns the sample of this name and labels.
    pub(crate) fn one(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or_default()
    }
}
