//! Metrics for Prometheus: `GET /metrics`.
//!
//! A token costs nothing here. A generation is counted at its end, from its snapshot
//! (`generations.rs`). Gauges are read at each scrape from counts kept by guards (`gauges.rs`,
//! `process.rs`).
//!
//! Labels are bounded, whatever clients and upstreams send: names from the configuration, the
//! gateway's error codes, and `other` for everything else. No label holds text of a client.
//!
//! To add a metric, create it, keep a clone where it is counted, and
//! [register](Metrics::register) it once, where the parts shared by the workers are created.

mod clients;
mod cluster;
mod exports;
mod exposition;
mod gauges;
mod generations;
mod logs;
mod process;
mod reloads;
mod store;
mod store_lag;
mod tls;
mod token_intervals;
mod upstreams;
mod webhooks;

pub(crate) use clients::Clients;
pub(crate) use cluster::Nodes;
pub(crate) use exports::Exports;
pub use exposition::Format;
pub use gauges::Gauges;
pub(crate) use reloads::ConfigReloads;
pub use reloads::Reloads;
pub(crate) use store::Storage;
pub(crate) use store_lag::StoreLag;
pub(crate) use tls::TlsState;
pub(crate) use upstreams::Upstreams;
pub(crate) use webhooks::Deliveries;

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::{Metric, Registry};
use tokenwire_core::engine::{self, Observer};

use crate::config::schema::Config;
use gauges::GaugeCollector;
use generations::Generations;
use logs::Logs;
use process::Process;

/// The metrics of a gateway, shared by all workers.
#[derive(Debug)]
pub struct Metrics {
    /// Metrics of the gateway. Their names begin with `tokenwire_`.
    own: Mutex<Registry>,
    /// Metrics of the process, under their usual names.
    process: Registry,
    gauges: Gauges,
    generations: RwLock<Arc<Generations>>,
}

impl Metrics {
    /// Creates the metrics, with gauges of this registry.
    #[must_use]
    pub fn new(config: &Config, registry: Arc<engine::Registry>) -> Arc<Self> {
        let mut own = Registry::with_prefix("tokenwire");
        let gauges = Gauges::default();
        own.register_collector(Box::new(GaugeCollector::new(registry, gauges.clone())));
        own.register_collector(Box::new(Logs));
        let generations = Generations::new(config, &mut own);
        let mut process = Registry::default();
        process.register_collector(Box::new(Process));
        Arc::new(Self {
            own: Mutex::new(own),
            process,
            gauges,
            generations: RwLock::new(Arc::new(generations)),
        })
    }

    /// Adds a metric as `tokenwire_<name>`. `_total` is appended to counters. Its labels must be
    /// bounded.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric) {
        self.own.lock().register(name, help, metric);
    }

    /// Adds metrics that are read at each scrape. Their labels must be bounded.
    pub(crate) fn collect(&self, collector: impl Collector) {
        self.own.lock().register_collector(Box::new(collector));
    }

    /// Returns the counts of open streams and connections.
    #[must_use]
    pub fn gauges(&self) -> &Gauges {
        &self.gauges
    }

    /// Returns the observer that counts generations.
    #[must_use]
    pub fn observer(&self) -> Arc<dyn Observer> {
        self.generations.read().clone()
    }

    /// Takes the names of upstreams and models from another configuration. Generations that run are
    /// counted under the names that they started with.
    pub(crate) fn configure(&self, config: &Config) {
        let mut generations = self.generations.write();
        let renamed = generations.named_by(config);
        *generations = Arc::new(renamed);
    }

    /// Returns all metrics as text.
    #[must_use]
    pub fn expose(&self, format: Format) -> String {
        let mut out = String::new();
        // Writing to a string fails only if a metric cannot be encoded. The text before it is valid.
        let written = encode_registry(&mut out, &self.own.lock())
            .and_then(|()| encode_registry(&mut out, &self.process))
            .and_then(|()| encode_eof(&mut out));
        if written.is_err() {
            tracing::error!("failed to encode a metric");
        }
        format.of(out)
    }
}
