//! Metrics of what is sent to a collector, read at each scrape.

use std::fmt::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use crate::telemetry::Telemetry;

/// Collects what became of spans and exports.
#[derive(Debug)]
pub(crate) struct Exports(pub(crate) Arc<Telemetry>);

impl Collector for Exports {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let counts = self.0.counts();
        let mut spans = encoder.encode_descriptor(
            "otlp_spans",
            "Spans by what became of them: sent, dropped (too many waited), failed (no collector took them), rejected.",
            None,
            MetricType::Counter,
        )?;
        for (result, count) in [
            ("sent", &counts.spans_sent),
            ("dropped", &counts.spans_dropped),
            ("failed", &counts.spans_failed),
            ("rejected", &counts.spans_rejected),
        ] {
            let label = [("result", result)];
            let count = count.load(Ordering::Relaxed);
            ConstCounter::new(count).encode(spans.encode_family(&label)?)?;
        }
        let mut metrics = encoder.encode_descriptor(
            "otlp_metrics_exports",
            "Exports of metrics by what became of them: sent or failed.",
            None,
            MetricType::Counter,
        )?;
        for (result, count) in [
            ("sent", &counts.metrics_sent),
            ("failed", &counts.metrics_failed),
        ] {
            let label = [("result", result)];
            let count = count.load(Ordering::Relaxed);
            ConstCounter::new(count).encode(metrics.encode_family(&label)?)?;
        }
        Ok(())
    }
}
