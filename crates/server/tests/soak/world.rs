//! The gateway as a process of its own, the simulators that it asks, and what both say of
//! themselves.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;
use tokenwire_simulator::{Options, Pace, Simulator};

use super::plan;
use super::support::process::Process;
use super::support::{Answer, PATIENCE, Request, eventually};
use super::tally::Tally;

/// The configuration: everything that a gateway does on behalf of its clients is on, and nothing is
/// kept for longer than a few seconds, so that what it holds has found its level when the first
/// third of the shortest run is over.
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

/// What the webhooks are signed with.
pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// The model that upstreams serve in the language of chat completions.
pub(crate) const CHAT_MODEL: &str = "simulator";
/// The model that the same serve in the language of responses.
pub(crate) const RESPONSES_MODEL: &str = "relayed";

/// What all clients share.
pub(crate) struct World {
    pub(crate) gateway: Process,
    pub(crate) simulators: [Simulator; 2],
    pub(crate) faults: Vec<&'static str>,
    pub(crate) outcomes: Tally,
    /// What was drawn, and what came of it beside the outcomes.
    pub(crate) seen: Tally,
    pub(crate) webhooks: String,
}

/// What the system knows of the gateway.
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
    /// `webhooks` is where background responses are told of.
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

    /// What the system says of the process.
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

    /// Waits until all is as it was before the first request. `before` is from then.
    pub(crate) async fn comes_to_rest(&self, before: Figures) {
        for _ in 0..4 {
            // What takes longest is what is kept, for 15 s, and what hangs at the upstream, for 20:
            // more than one patience.
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
        eventually(
            "the end of all connections but the one that asks",
            async || self.samples().await.sum("tokenwire_connections") == 1.0,
        )
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
                "requests or connections are left open at an upstream: {:?}",
                simulator.stats()
            );
        }
        let mut last = self.figures();
        let settled = async {
            while (last.descriptors, last.threads) != (before.descriptors, before.threads) {
                breathe().await;
                last = self.figures();
            }
        };
        let settled = tokio::time::timeout(PATIENCE, settled).await;
        assert!(
            settled.is_ok(),
            "descriptors and threads were {before:?} and are {last:?}"
        );
    }

    async fn open(&self) -> f64 {
        let samples = self.samples().await;
        GAUGES.into_iter().map(|name| samples.sum(name)).sum()
    }
}

/// What has to come back to nothing.
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

/// Between two looks at another process, which tells nobody when it changes: looking without a
/// pause would be load.
async fn breathe() {
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
}

// === impl Samples ===

impl Samples {
    /// All samples of this name, whatever their labels, added up.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let of_it = self
            .0
            .iter()
            .filter(|(sample, _)| sample.split('{').next() == Some(name));
        of_it.map(|(_, value)| *value).sum()
    }

    /// The sample of this name and labels.
    pub(crate) fn one(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or_default()
    }
}
