//! What stands open, and what is held: read when somebody asks.

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use tokenwire_core::engine::Registry;
use tokenwire_core::model::gauge::Gauge;

/// Counts that guards keep.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// TCP connections.
    pub connections: Gauge,
    /// WebSockets.
    pub sockets: Gauge,
    /// Streams that are read as server-sent events.
    pub sse: Gauge,
    /// Streams that are read as bare text.
    pub text: Gauge,
    /// Streams that are read over WebSockets.
    pub websocket: Gauge,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct HealthStatus {
    registry: Arc<Registry>,
    gauges: Gauges,
}

impl HealthStatus {
    pub(super) fn new(registry: Arc<Registry>, gauges: Gauges) -> Self {
        Self { registry, gauges }
    }
}

impl Collector for HealthStatus {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let used = self.registry.used();
        let logs = self.registry.log_bytes();
        for (name, help, value) in [
            (
                "open_streams",
                "Generations that run now.",
                self.registry.open(),
            ),
            (
                "kept_streams",
                "Generations that can be asked for: those that run and those that are kept after their end.",
                self.registry.len(),
            ),
            ("log_bytes", "Bytes that logs hold.", logs),
            (
                "object_bytes",
                "Bytes that the response objects of ended generations hold.",
                used.saturating_sub(logs),
            ),
            (
                "connections",
                "TCP connections open now.",
                self.gauges.connections.count(),
            ),
            (
                "websockets",
                "WebSockets open now.",
                self.gauges.sockets.count(),
            ),
        ] {
            gauge(value).encode(encoder.encode_descriptor(
                name,
                help,
                None,
                MetricType::Gauge,
            )?)?;
        }
        let mut readers = encoder.encode_descriptor(
            "readers",
            "Streams that are being read, by transport.",
            None,
            MetricType::Gauge,
        )?;
        for (transport, count) in [
            ("sse", self.gauges.sse.count()),
            ("text", self.gauges.text.count()),
            ("websocket", self.gauges.websocket.count()),
        ] {
            gauge(count).encode(readers.encode_family(&[("transport", transport)])?)?;
        }
        let mut build = encoder.encode_descriptor(
            "build",
            "The version that runs, which is 1.",
            None,
            MetricType::Gauge,
        )?;
        gauge(1).encode(build.encode_family(&[("version", env!("CARGO_PKG_VERSION"))])?)
    }
}

fn gauge(value: usize) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}
