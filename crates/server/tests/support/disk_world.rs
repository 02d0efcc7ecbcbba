//! Gateways as processes that share a folder of the store, one after another or beside one another.

use serde_json::Value;
use tokenwire_simulator::{Options, Pace, Simulator};

use super::process::Process;
use super::{Answer, Request, eventually};

/// A simulator and the folder of the store, which outlive the gateways.
pub(crate) struct DiskWorld {
    pub(crate) simulator: Simulator,
    pub(crate) folder: tempfile::TempDir,
}

impl DiskWorld {
    pub(crate) fn new() -> Self {
        let simulator = Simulator::start(Options {
            pace: Pace::INSTANT,
            ..Options::default()
        });
        Self {
            simulator: simulator.unwrap(),
            folder: tempfile::TempDir::new().unwrap(),
        }
    }

    /// Starts a gateway.
    pub(crate) fn start(&self) -> Process {
        self.start_with("")
    }

    /// Starts a gateway with these lines at the end of its configuration.
    pub(crate) fn start_with(&self, more: &str) -> Process {
        let config = format!(
            "default_model: simulator\nstore:\n  kind: disk\n  path: {}\nupstreams:\n  - name: simulator\n    base_url: {}\n{more}",
            self.folder.path().display(),
            self.simulator.base_url()
        );
        Process::start(&config, &[])
    }

    /// How often the upstream was asked for chat completions.
    pub(crate) fn asked(&self) -> u64 {
        self.simulator.stats().chat_completions
    }
}

pub(crate) fn post(gateway: &Process, path: &str, body: &Value) -> Request {
    Request::new(gateway.address, "POST", path)
        .header("content-type", "application/json")
        .body(body.to_string())
}

pub(crate) async fn get(gateway: &Process, path: &str) -> Answer {
    Request::new(gateway.address, "GET", path).answer().await
}

/// Waits until this number of streams is kept on disk.
pub(crate) async fn stored(gateway: &Process, streams: usize) {
    let wanted = format!("tokenwire_store_kept_streams {streams}\n");
    eventually("the streams on disk", async || {
        get(gateway, "/metrics").await.text().contains(&wanted)
    })
    .await;
}
