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

/// Collects the state of TLS, if the listener has it.
#[derive(Debug)]
pub(crate) struct TlsState(pub(crate) Option<Arc<Certificates>>);

impl Collector for TlsState {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let Some(certificates) = &self.0 else {
            return Ok(());
        };
        let mut family = encoder.encode_descriptor(
            "tls_handshakes",
            "Handshakes of TLS with clients, by result.",
            None,
            MetricType::Counter,
        )?;
        for result in HandshakeResult::ALL {
            let count = ConstCounter::new(certificates.handshakes().count(result));
            count.encode(family.encode_family(&[("result", result.as_str())])?)?;
        }
        let end = certificates
            .ends()
            .and_then(|end| end.duration_since(SystemTime::UNIX_EPOCH).ok());
        if let Some(end) = end {
            let gauge = encoder.encode_descriptor(
                "tls_certificate_end_seconds",
                "Unix time at which the certificate of the listener expires.",
                None,
                MetricType::Gauge,
            )?;
            let end = i64::try_from(end.as_secs()).unwrap_or(i64::MAX);
            ConstGauge::new(end).encode(gauge)?;
        }
        Ok(())
    }
}
