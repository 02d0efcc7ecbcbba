//! Metrics of webhook deliveries, read at each scrape.

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use tokenwire_webhooks::WebhookCounters;

/// Collects the counters of deliveries.
#[derive(Debug)]
pub(crate) struct Deliveries(pub(crate) Arc<WebhookCounters>);

impl Collector for Deliveries {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let Self(counters) = self;
        for (name, help, value) in [
            (
                "webhooks_delivered",
                "Webhooks that were delivered.",
                counters.delivered(),
            ),
            (
                "webhooks_failed_attempts",
                "Failed attempts.",
                counters.failed_attempts(),
            ),
            (
                "webhooks_dead",
                "Webhooks that became dead letters.",
                counters.dead(),
            ),
        ] {
            ConstCounter::new(value).encode(encoder.encode_descriptor(
                name,
                help,
                None,
                MetricType::Counter,
            )?)?;
        }
        let pending = i64::try_from(counters.pending()).unwrap_or(i64::MAX);
        let gauge = encoder.encode_descriptor(
            "webhooks_pending",
            "Webhooks that wait for an attempt or are being attempted.",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(pending).encode(gauge)
    }
}
