//! Gauges of open streams, connections and memory, read at each scrape.

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use tokenwire_core::engine::Registry;
use tokenwire_core::model::account::AccountKind;
use tokenwire_core::model::gauge::Gauge;

/// Counts kept by guards.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// TCP connections.
    pub connections: Gauge,
    /// HTTP/2 connections, which `connections` includes.
    pub http2_connections: Gauge,
    /// Open streams of HTTP/2 connections.
    pub http2_streams: Gauge,
    /// WebSockets.
    pub sockets: Gauge,
    /// Readers over server-sent events.
    pub sse: Gauge,
    /// Readers of plain text.
    pub text: Gauge,
    /// Readers over WebSockets.
    pub websocket: Gauge,
}

impl Gauges {
    /// Returns gauges for one worker, which these include.
    #[must_use]
    pub fn handles(&self) -> Self {
        Self {
            connections: self.connections.handle(),
            http2_connections: self.http2_connections.handle(),
            http2_streams: self.http2_streams.handle(),
            sockets: self.sockets.handle(),
            sse: self.sse.handle(),
            text: self.text.handle(),
            websocket: self.websocket.handle(),
        }
    }
}

/// Collects the gauges.
#[derive(Debug)]
pub(super) struct GaugeCollector {
    registry: Arc<Registry>,
    gauges: Gauges,
}

impl GaugeCollector {
    pub(super) fn new(registry: Arc<Registry>, gauges: Gauges) -> Self {
        Self { registry, gauges }
    }
}

impl Collector for GaugeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let account = self.registry.account();
        for (name, help, value) in [
            ("open_streams", "Running generations.", self.registry.open()),
            (
                "kept_streams",
                "Generations that can be read: running ones, and ended ones that are kept.",
                self.registry.len(),
            ),
            (
                "log_bytes",
                "Bytes held by logs.",
                account.held(AccountKind::Logs),
            ),
            (
                "object_bytes",
                "Bytes held by response objects.",
                account.held(AccountKind::Objects),
            ),
            (
                "connections",
                "Open TCP connections.",
                self.gauges.connections.count(),
            ),
            (
                "http2_connections",
                "Open TCP connections on which HTTP/2 is spoken.",
                self.gauges.http2_connections.count(),
            ),
            (
                "http2_streams",
                "Open streams of HTTP/2 connections.",
                self.gauges.http2_streams.count(),
            ),
            (
                "websockets",
                "Open WebSockets.",
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
            "Readers of streams, by transport.",
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
        let mut memory = encoder.encode_descriptor(
            "memory_bytes",
            "Bytes that requests and answers hold, as streams.max_memory counts them, by kind.",
            None,
            MetricType::Gauge,
        )?;
        for kind in AccountKind::ALL {
            let bytes = gauge(account.held(kind));
            bytes.encode(memory.encode_family(&[("kind", kind.as_str())])?)?;
        }
        let mut build = encoder.encode_descriptor(
            "build",
            "Always 1, labelled with the running version.",
            None,
            MetricType::Gauge,
        )?;
        gauge(1).encode(build.encode_family(&[("version", env!("CARGO_PKG_VERSION"))])?)
    }
}

fn gauge(value: usize) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}
