//! The figures of one run, and their spread over several runs.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// A histogram of nanoseconds up to ten minutes, with three significant digits.
#[derive(Debug, Clone)]
pub(crate) struct Times(Histogram<u64>);

/// Percentiles in µs.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, PartialEq)]
pub(crate) struct Quantiles {
    pub(crate) count: u64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

/// One run of a scenario against one target.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Run {
    pub(crate) scenario: String,
    pub(crate) target: String,
    pub(crate) round: usize,
    /// Workers of the target.
    pub(crate) workers: usize,
    /// Whether the target is a program of another project.
    pub(crate) peer: bool,
    /// The load in a few words.
    pub(crate) load: String,
    /// Wall time of the measured part.
    pub(crate) seconds: f64,
    /// Streams, requests or readers.
    pub(crate) streams: u64,
    /// Tokens delivered, summed over all readers.
    pub(crate) tokens: u64,
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    /// Streams that failed, and the errors of the first few.
    pub(crate) broken: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) complaints: Vec<String>,
    pub(crate) tokens_per_second: f64,
    /// CPU of the process under test, user and system time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu: Option<Cpu>,
    /// Time from the request (WebSocket: from `response.create`) to the first token, less the
    /// simulator's configured delay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first_token: Option<Quantiles>,
    /// Delay of each token after its due time, which follows from the request's time and the pace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_delay: Option<Quantiles>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<Memory>,
    /// Share of one core used by the load side and the simulator. If both share a core and the sum
    /// is near 1, they limit the throughput, not the process under test.
    pub(crate) load_share: f64,
    pub(crate) simulator_share: Option<f64>,
    /// Figures of this scenario only, by name with unit.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) extra: BTreeMap<String, f64>,
    /// The distributions of `first_token` and `token_delay`, in µs at [`curve_quantile`]; empty
    /// where nothing was timed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) first_token_curve: Vec<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) token_delay_curve: Vec<f64>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Cpu {
    pub(crate) us_per_token: f64,
    pub(crate) us_per_stream: f64,
    /// Share of user mode, 0 to 1.
    pub(crate) user_share: f64,
    /// Share of one core.
    pub(crate) of_a_core: f64,
    /// Time spent waiting for a core relative to time spent running. If it is far from 0, another
    /// process used the core (for `direct` with pinning, the load side) and delays are unreliable.
    pub(crate) waited: f64,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// Growth per open stream in KiB (1024 bytes): resident and proportional set size.
    pub(crate) rss_kib_per_stream: f64,
    pub(crate) pss_kib_per_stream: f64,
    /// Size before the streams, in MiB.
    pub(crate) base_mib: f64,
}

/// A figure over the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

/// The number of points of a curve, and the end of its x axis.
pub(crate) const CURVE_STEPS: u32 = 101;
pub(crate) const CURVE_END: f64 = 100_000.0;

/// Returns the position of a step on a logarithmic axis of 1 / (1 - quantile), which gives the tail
/// as much space as the middle.
pub(crate) fn curve_x(step: u32) -> f64 {
    CURVE_END.powf(f64::from(step) / f64::from(CURVE_STEPS - 1))
}

pub(crate) fn curve_quantile(step: u32) -> f64 {
    1.0 - 1.0 / curve_x(step)
}

// === impl Times ===

impl Times {
    #[expect(
        clippy::expect_used,
        reason = "the bounds are constants that the library accepts; every test of this file passes here"
    )]
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("constant bounds"))
    }

    pub(crate) fn record(&mut self, nanos: u64) {
        self.0.saturating_record(nanos);
    }

    /// In µs at each [`curve_quantile`], to a tenth.
    pub(crate) fn curve(&self) -> Vec<f64> {
        let steps = if self.0.is_empty() { 0 } else { CURVE_STEPS };
        (0..steps)
            .map(|step| (self.at(curve_quantile(step)) * 10.0).round() / 10.0)
            .collect()
    }

    /// In µs.
    pub(crate) fn at(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }

    pub(crate) fn quantiles(&self) -> Option<Quantiles> {
        (!self.0.is_empty()).then(|| Quantiles {
            count: self.0.len(),
            p50: self.at(0.5),
            p99: self.at(0.99),
            p999: self.at(0.999),
            max: self.0.max() as f64 / 1e3,
        })
    }
}

// === impl Quantiles ===

impl Quantiles {
    /// Returns the difference to `base` for each percentile.
    pub(crate) fn over(&self, base: &Self) -> Self {
        Self {
            count: self.count,
            p50: self.p50 - base.p50,
            p99: self.p99 - base.p99,
            p999: self.p999 - base.p999,
            max: self.max - base.max,
        }
    }
}

// === impl Spread ===

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let upper = *values.get(values.len() / 2)?;
        let lower = *values.get((values.len() - 1) / 2)?;
        Some(Self {
            median: f64::midpoint(lower, upper),
            least,
            most,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_has_median_and_extremes() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(
            Spread::of([3.0, 1.0, 2.0]),
            Some(Spread {
                median: 2.0,
                least: 1.0,
                most: 3.0
            })
        );
        assert_eq!(
            Spread::of([4.0, 1.0]),
            Some(Spread {
                median: 2.5,
                least: 1.0,
                most: 4.0
            })
        );
    }

    #[test]
    fn quantiles_are_in_microseconds() {
        let mut times = Times::new();
        assert_eq!(times.quantiles(), None);
        for micros in 1..=1000 {
            times.record(micros * 1000);
        }
        let quantiles = times.quantiles().unwrap();
        assert_eq!(quantiles.count, 1000);
        assert!((quantiles.p50 - 500.0).abs() < 1.0, "{quantiles:?}");
        assert!((quantiles.p99 - 990.0).abs() < 2.0, "{quantiles:?}");
    }
}
