//! Reloads of the configuration, read at each scrape.

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::reload::Reloads;

/// Collects the counts of reloads.
#[derive(Debug)]
pub(crate) struct ConfigReloads(pub(crate) Arc<Reloads>);

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
