//! Health, load and failure counters of the upstreams, read when metrics are scraped.

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokenwire_core::upstream::{Counter, EndpointStats, HealthStatus};
use tokio::sync::watch;

use crate::shared_upstream::SharedUpstream;

/// Reads a counter.
type Count = fn(&EndpointStats) -> &Counter;
/// Reads a gauge.
type Gauge = fn(&EndpointStats) -> f64;

const COUNTERS: &[(&str, &str, Count)] = &[
    (
        "upstream_requests",
        "Requests sent, repeated ones included.",
        |stats| &stats.counters.requests,
    ),
    (
        "upstream_retries",
        "Requests sent because an earlier attempt failed.",
        |stats| &stats.counters.retries,
    ),
    (
        "upstream_failovers",
        "Those of the retries whose earlier attempt was at another upstream.",
        |stats| &stats.counters.failovers,
    ),
    (
        "upstream_retries_over_budget",
        "Retries that were not made because the retry budget was spent.",
        |stats| &stats.counters.budget_spent,
    ),
    (
        "upstream_hedges",
        "Requests sent because another upstream was slow.",
        |stats| &stats.counters.hedges,
    ),
    (
        "upstream_hedges_won",
        "Those of the hedges that gave the first token.",
        |stats| &stats.counters.hedges_won,
    ),
    (
        "upstream_continued",
        "Answers of other upstreams that it was asked to continue.",
        |stats| &stats.counters.continued,
    ),
    (
        "upstream_connect_failures",
        "Connections that failed or timed out.",
        |stats| &stats.counters.connect_failures,
    ),
    (
        "upstream_refusals",
        "Answers with a status that reports a fault of the upstream.",
        |stats| &stats.counters.refusals,
    ),
    (
        "upstream_rate_limits",
        "Answers with status 429.",
        |stats| &stats.counters.rate_limits,
    ),
    (
        "upstream_broken",
        "Connections and streams that broke before the first token.",
        |stats| &stats.counters.broken,
    ),
    (
        "upstream_silences",
        "Requests that ran into the first-token timeout.",
        |stats| &stats.counters.silences,
    ),
    (
        "upstream_breaker_opened",
        "How often the breaker opened.",
        |stats| &stats.counters.opened,
    ),
    (
        "upstream_busy",
        "Requests refused because the queue was full or the wait in it timed out.",
        |stats| &stats.counters.refused_busy,
    ),
];

const GAUGES: &[(&str, &str, Gauge)] = &[
    (
        "upstream_up",
        "1 if it gets requests, 0.5 if a trial request is under way, 0 if it gets none.",
        |stats| match stats.health() {
            HealthStatus::Up => 1.0,
            HealthStatus::HalfOpen => 0.5,
            HealthStatus::Down => 0.0,
        },
    ),
    (
        "upstream_running",
        "Requests at the upstream now.",
        |stats| stats.limit.running() as f64,
    ),
    ("upstream_waiting", "Requests in the queue.", |stats| {
        stats.limit.waiting() as f64
    }),
    (
        "upstream_first_token_average_seconds",
        "Decaying average of the time to the first token; 0 while nothing is known.",
        |stats| stats.latency.average().unwrap_or_default().as_secs_f64(),
    ),
];

/// Collects the metrics of all upstreams.
#[derive(Debug)]
pub(crate) struct Upstreams(pub(crate) watch::Receiver<Arc<[SharedUpstream]>>);

impl Collector for Upstreams {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let upstreams = self.0.borrow().clone();
        for (name, help, count) in COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for upstream in upstreams.iter() {
                let label = [("upstream", upstream.config.name.as_str())];
                ConstCounter::new(count(&upstream.stats).get())
                    .encode(family.encode_family(&label)?)?;
            }
        }
        for (name, help, value) in GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for upstream in upstreams.iter() {
                let label = [("upstream", upstream.config.name.as_str())];
                ConstGauge::new(value(&upstream.stats)).encode(family.encode_family(&label)?)?;
            }
        }
        Ok(())
    }
}
