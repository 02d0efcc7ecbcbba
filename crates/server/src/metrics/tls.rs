//! Handshakes of TLS and the end of the certificate, read at each scrape.

use std::fmt::Error;
use std::sync::Arc;
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokenwire_connection::HandshakeResult;

use crate::tls::Certificates;

/// Collects the state of TLS.
#[derive(Debug)]
pub(crate) struct TlsState(pub(crate) Option<Arc<Certificates>>);

impl Collector for TlsState {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut family = encoder.encode_descriptor(
            "tls_handshakes",
            "Handshakes of TLS with clients, by result.",
            None,
            MetricType::Counter,
        )?;
        let handshakes = self
            .0
            .as_ref()
            .map(|certificates| certificates.handshakes());
        for result in HandshakeResult::ALL {
            let count = handshakes.map_or(0, |handshakes| handshakes.count(result));
            let label = [("result", result.as_str())];
            ConstCounter::new(count).encode(family.encode_family(&label)?)?;
        }
        let gauge = encoder.encode_descriptor(
            "tls_certificate_end_seconds",
            "Unix time at which the certificate of the listener expires. Absent without TLS.",
            None,
            MetricType::Gauge,
        )?;
        let end = self.0.as_ref().and_then(|certificates| certificates.ends());
        if let Some(end) = end.and_then(|end| end.duration_since(SystemTime::UNIX_EPOCH).ok()) {
            let end = i64::try_from(end.as_secs()).unwrap_or(i64::MAX);
            ConstGauge::new(end).encode(gauge)?;
        }
        Ok(())
    }
}
