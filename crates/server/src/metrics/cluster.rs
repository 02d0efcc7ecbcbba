//! Metrics of the cluster, read at each scrape.

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::cluster::Cluster;

/// Collects what this node knows of the others. A gateway on its own is a cluster of one.
#[derive(Debug)]
pub(crate) struct Nodes(pub(crate) Option<Arc<Cluster>>);

impl Collector for Nodes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let status = self.0.as_ref().map(|cluster| cluster.status());
        let connected = status.as_ref().is_none_or(|status| status.connected);
        let nodes = status.as_ref().map_or(1, |status| status.nodes);
        for (name, help, value) in [
            (
                "cluster_up",
                "0 while the Redis of the cluster is away. 1 also without a cluster.",
                i64::from(connected),
            ),
            (
                "cluster_nodes",
                "Nodes that are alive, this one among them.",
                i64::try_from(nodes).unwrap_or(i64::MAX),
            ),
        ] {
            let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(gauge)?;
        }
        let refused = self.0.as_ref();
        let refused = refused.map_or(0, |cluster| cluster.refused_connections());
        let counter = encoder.encode_descriptor(
            "cluster_refused_connections",
            "Connections to cluster.listen that did not prove the secret.",
            None,
            MetricType::Counter,
        )?;
        ConstCounter::new(refused).encode(counter)?;
        Ok(())
    }
}
