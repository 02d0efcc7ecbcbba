//! Metrics of the process on Linux, under the names of Prometheus' client libraries. Other systems
//! have none.

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Collects metrics of the process.
#[derive(Debug)]
pub(super) struct Process;

/// Values of `/proc/self/stat`.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    threads: i64,
    /// Since the start of the machine.
    start_seconds: f64,
    resident_pages: i64,
}

impl Stat {
    fn read(line: &str, ticks: f64) -> Option<Self> {
        // The second field is the program's name in parentheses, which may contain any character.
        let (_, rest) = line.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |field: usize| fields.get(field.checked_sub(3)?)?.parse::<i64>().ok();
        Some(Self {
            cpu_seconds: (number(14)? + number(15)?) as f64 / ticks,
            threads: number(20)?,
            start_seconds: number(22)? as f64 / ticks,
            resident_pages: number(24)?,
        })
    }
}

/// Returns the Unix time of the machine's start in seconds.
fn boot_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let line = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let ticks = rustix::param::clock_ticks_per_second().max(1) as f64;
        let mut gauges = Vec::new();
        if let Some(stat) = Stat::read(&line, ticks) {
            let cpu = encoder.encode_descriptor(
                "process_cpu_seconds",
                "CPU time of the process, user and system.",
                None,
                MetricType::Counter,
            )?;
            ConstCounter::new(stat.cpu_seconds).encode(cpu)?;
            let page = rustix::param::page_size() as f64;
            gauges.push((
                "process_resident_memory_bytes",
                "Resident memory of the process.",
                stat.resident_pages as f64 * page,
            ));
            gauges.push((
                "process_threads",
                "Threads of the process.",
                stat.threads as f64,
            ));
            if let Some(boot) = boot_time() {
                gauges.push((
                    "process_start_time_seconds",
                    "Unix time of the start of the process.",
                    boot + stat.start_seconds,
                ));
            }
        }
        if let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") {
            // One of them belongs to this directory listing.
            gauges.push((
                "process_open_fds",
                "Open descriptors.",
                descriptors.count().saturating_sub(1) as f64,
            ));
        }
        if let Some(most) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
            gauges.push((
                "process_max_fds",
                "Maximum number of open descriptors.",
                most as f64,
            ));
        }
        for (name, help, value) in gauges {
            ConstGauge::new(value).encode(encoder.encode_descriptor(
                name,
                help,
                None,
                MetricType::Gauge,
            )?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_name_with_parentheses_is_skipped() {
        let line = "42 (a) b (c)) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 7 0 1200 1000000 321 18446744073709551615 1";
        let expected = Stat {
            cpu_seconds: 3.0,
            threads: 7,
            start_seconds: 12.0,
            resident_pages: 321,
        };
        assert_eq!(Stat::read(line, 100.0), Some(expected));
        assert_eq!(Stat::read("42 (a) S 1", 100.0), None);
    }
}
