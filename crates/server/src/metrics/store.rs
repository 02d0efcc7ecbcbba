//! Metrics of the store, read at each scrape.

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokenwire_store::{DiskStore, StoreState, StoreStatus};

/// Collects what the store says of itself. Without one all counts are zero.
#[derive(Debug)]
pub(crate) struct Storage(pub(crate) Option<Arc<DiskStore>>);

impl Collector for Storage {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let status = self.0.as_ref().map(|store| store.status());
        let of = |read: fn(&StoreStatus) -> u64| status.as_ref().map_or(0, read);
        let ready = |status: &StoreStatus| u64::from(status.state == StoreState::Ready);
        let up = status.as_ref().map_or(1, ready);
        for (name, help, value) in [
            (
                "store_written_bytes",
                "Bytes written to the store.",
                of(|status| status.written),
            ),
            (
                "store_errors",
                "Writes and syncs of the store that failed.",
                of(|status| status.errors),
            ),
        ] {
            let counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(counter)?;
        }
        for (name, help, value) in [
            (
                "store_up",
                "0 while nothing can be stored. 1 also without a store.",
                up,
            ),
            (
                "store_bytes",
                "Bytes of all files of the store.",
                of(|status| status.bytes),
            ),
            (
                "store_kept_streams",
                "Ended streams of which the store has the log or the response object.",
                of(|status| status.kept as u64),
            ),
        ] {
            let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(gauge)?;
        }
        Ok(())
    }
}
