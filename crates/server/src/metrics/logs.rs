//! Metrics of the log, read at each scrape.

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use crate::telemetry::dropped_lines;

/// Collects the counter of dropped log lines.
#[derive(Debug)]
pub(super) struct Logs;

impl Collector for Logs {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let counter = encoder.encode_descriptor(
            "log_lines_dropped",
            "Log lines that were dropped, since standard error was not read fast enough.",
            None,
            MetricType::Counter,
        )?;
        ConstCounter::new(dropped_lines()).encode(counter)
    }
}
