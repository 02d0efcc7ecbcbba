//! The time between tokens, merged from the counts of each generation at its end.

use std::collections::BTreeMap;
use std::fmt::Error;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use tokenwire_core::generation::TokenIntervals;

/// Sums of the counts of ended generations, by upstream.
#[derive(Clone, Debug, Default)]
pub(super) struct MergedIntervals(Arc<Mutex<BTreeMap<Arc<str>, Sums>>>);

#[derive(Debug, Default)]
struct Sums {
    counts: [u64; TokenIntervals::BUCKETS],
    sum: Duration,
}

// === impl MergedIntervals ===

impl MergedIntervals {
    /// Begins the series of an upstream at zero.
    pub(super) fn begin(&self, upstream: &Arc<str>) {
        self.0.lock().entry(upstream.clone()).or_default();
    }

    /// Adds the counts of a generation.
    pub(super) fn add(&self, upstream: &Arc<str>, intervals: &TokenIntervals) {
        let mut all = self.0.lock();
        let sums = match all.get_mut(upstream) {
            Some(known) => known,
            None => all.entry(upstream.clone()).or_default(),
        };
        for (sum, count) in sums.counts.iter_mut().zip(intervals.counts()) {
            *sum += u64::from(*count);
        }
        sums.sum += intervals.sum();
    }
}

impl Collector for MergedIntervals {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut family = encoder.encode_descriptor(
            "between_tokens",
            "Time from one token of an upstream to the next; tokens that came together count once.",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        let bounds = TokenIntervals::BOUNDS.map(|micros| f64::from(micros) / 1e6);
        let bounds = bounds.into_iter().chain([f64::INFINITY]);
        for (upstream, sums) in &*self.0.lock() {
            let buckets: Vec<(f64, u64)> = bounds.clone().zip(sums.counts).collect();
            let label = [("upstream", &**upstream)];
            family
                .encode_family(&label)?
                .encode_histogram::<NoLabelSet>(
                    sums.sum.as_secs_f64(),
                    sums.counts.iter().sum(),
                    &buckets,
                    None,
                )?;
        }
        Ok(())
    }
}
