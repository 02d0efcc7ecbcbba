//! Reloads of the configuration, read at each scrape.

use std::fmt::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Counts of reloads.
#[derive(Debug)]
pub struct Reloads {
    applied: AtomicU64,
    refused: AtomicU64,
    succeeded: AtomicBool,
}

/// Collects the counts of reloads.
#[derive(Debug)]
pub(crate) struct ConfigReloads(pub(crate) Arc<Reloads>);

// === impl Reloads ===

impl Default for Reloads {
    fn default() -> Self {
        Self {
            applied: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            succeeded: AtomicBool::new(true),
        }
    }
}

impl Reloads {
    /// Returns how many reloads found a configuration that can be used.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
    }

    /// Returns how many reloads met a problem.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Returns whether the last one could be used. True before the first.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.succeeded.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self, succeeded: bool) {
        let count = if succeeded {
            &self.applied
        } else {
            &self.refused
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.succeeded.store(succeeded, Ordering::Relaxed);
    }
}

// === impl ConfigReloads ===

impl Collector for ConfigReloads {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut family = encoder.encode_descriptor(
            "config_reloads",
            "Reloads of the configuration, by result.",
            None,
            MetricType::Counter,
        )?;
        for (result, count) in [("applied", self.0.applied()), ("refused", self.0.refused())] {
            let label = [("result", result)];
            ConstCounter::new(count).encode(family.encode_family(&label)?)?;
        }
        let gauge = encoder.encode_descriptor(
            "config_last_reload_successful",
            "0 if the configuration of the last reload could not be used.",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(i64::from(self.0.succeeded())).encode(gauge)
    }
}
