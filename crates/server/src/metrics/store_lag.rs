//! How far the store is behind, read at each scrape.

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use tokenwire_core::engine::SharedEngine;

/// Collects what waits for the store. Without one nothing does.
#[derive(Debug)]
pub(crate) struct StoreLag(pub(crate) SharedEngine);

impl Collector for StoreLag {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let (waiting, lag) = self.0.store_lag();
        let gauge = encoder.encode_descriptor(
            "store_waiting_streams",
            "Streams with records that are not stored yet.",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(i64::try_from(waiting).unwrap_or(i64::MAX)).encode(gauge)?;
        let gauge = encoder.encode_descriptor(
            "store_lag",
            "How long records have waited since the store last took any.",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        ConstGauge::new(lag.as_secs_f64()).encode(gauge)
    }
}
