//! Metrics of limits and usage, read at each scrape.

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use crate::limits::{LimitKind, Limits};

/// Collects what limits have refused, and what was used. No label names a client.
#[derive(Debug)]
pub(crate) struct Clients(pub(crate) Arc<Limits>);

impl Collector for Clients {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut refused = encoder.encode_descriptor(
            "limited_requests",
            "Requests that a limit of their key or owner has refused, by the kind of limit.",
            None,
            MetricType::Counter,
        )?;
        for kind in LimitKind::ALL {
            let count = ConstCounter::new(self.0.refused(*kind));
            count.encode(refused.encode_family(&[("limit", kind.as_str())])?)?;
        }
        let [requests, input, cached, output, cost] = self.0.totals();
        let mut tokens = encoder.encode_descriptor(
            "used_tokens",
            "Tokens that are counted for keys and owners, by kind. Cached ones are part of the input.",
            None,
            MetricType::Counter,
        )?;
        for (kind, count) in [input, cached, output] {
            ConstCounter::new(count).encode(tokens.encode_family(&[("kind", kind)])?)?;
        }
        for (name, help, count) in [
            (
                "used_requests",
                "Answers that are counted for keys and owners.",
                requests.1,
            ),
            (
                "used_cost_micros",
                "Cost of these tokens by `prices`, in millionths.",
                cost.1,
            ),
        ] {
            let counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(count).encode(counter)?;
        }
        Ok(())
    }
}
