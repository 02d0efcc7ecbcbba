//! What is counted, for Prometheus: `GET /metrics`.
//!
//! A token costs nothing here. What a generation came to is counted at its end, from figures that
//! its fold has anyway ([`generations`]); what stands open is read when somebody asks
//! ([`standing`], [`process`]) out of counts that guards keep.
//!
//! Labels are bounded, whatever clients and upstreams send: names out of the configuration, the
//! gateway's own error codes, and `other` for all else. No label holds anything that a person
//! wrote.
//!
//! To count something else, make a metric, keep a clone where it is to be counted, and
//! [register](Metrics::register) it: once, where the parts are made that the workers share.

mod exposition;
mod gauges;
mod generations;
mod process;
mod upstreams;
mod webhooks;

pub use exposition::Format;
pub use gauges::Gauges;
pub(crate) use upstreams::Upstreams;
pub(crate) use webhooks::Deliveries;

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::{Metric, Registry};
use tokenwire_core::engine::{self, Observer};

use crate::config::schema::Config;
use gauges::HealthStatus;
use generations::Generations;
use process::Process;

/// See the [module](self). One for all workers.
#[derive(Debug)]
pub struct Metrics {
    /// Metrics of the gateway's, whose names begin with `tokenwire_`.
    own: Mutex<Registry>,
    /// The process, under the names that every exporter uses.
    process: Registry,
    gauges: Gauges,
    generations: Arc<Generations>,
}

impl Metrics {
    /// The gateway's metrics, over the generations of this registry.
    #[must_use]
    pub fn new(config: &Config, registry: Arc<engine::Registry>) -> Arc<Self> {
        let mut own = Registry::with_prefix("tokenwire");
        let gauges = Gauges::default();
        own.register_collector(Box::new(HealthStatus::new(registry, gauges.clone())));
        let generations = Generations::new(config, &mut own);
        let mut process = Registry::default();
        process.register_collector(Box::new(Process));
        Arc::new(Self {
            own: Mutex::new(own),
            process,
            gauges,
            generations: Arc::new(generations),
        })
    }

    /// Adds a metric, as `tokenwire_<name>`; a counter's `_total` is added by itself. Its labels
    /// must be bounded.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric) {
        self.own.lock().register(name, help, metric);
    }

    /// Adds metrics that are read when somebody asks. Their labels must be bounded.
    pub(crate) fn collect(&self, collector: impl Collector) {
        self.own.lock().register_collector(Box::new(collector));
    }

    /// The counts of what stands open, for those who open it.
    #[must_use]
    pub fn gauges(&self) -> &Gauges {
        &self.gauges
    }

    /// Counts what generations come to.
    #[must_use]
    pub fn observer(&self) -> Arc<dyn Observer> {
        self.generations.clone()
    }

    /// Everything, as text.
    #[must_use]
    pub fn expose(&self, format: Format) -> String {
        let mut out = String::new();
        // Writing to a string fails only if a metric cannot be written; what stands before it is
        // whole.
        let written = encode_registry(&mut out, &self.own.lock())
            .and_then(|()| encode_registry(&mut out, &self.process))
            .and_then(|()| encode_eof(&mut out));
        if written.is_err() {
            tracing::error!("a metric could not be written");
        }
        format.of(out)
    }
}
