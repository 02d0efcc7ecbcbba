//! Summaries of the runs: figures over the rounds, ratios and differences within each round.

mod bar;
mod page;
mod record;
mod svg;
mod table;
mod workers;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::measure::{Quantiles, Run, Spread};

pub(crate) use bar::bar;
pub(crate) use page::page;
pub(crate) use record::{Failure, Record, RecordError};
pub(crate) use svg::{write_svg, write_workers};
pub(crate) use table::table;

/// The target that ratios are relative to.
const YARDSTICK: &str = "nginx";
const DIRECT: &str = "direct";

/// A target's figures over all rounds of a scenario.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Summary {
    pub(crate) scenario: String,
    pub(crate) target: String,
    /// Workers of the target; 0 in records from before this was measured.
    pub(crate) workers: usize,
    pub(crate) rounds: usize,
    /// The load in a few words.
    pub(crate) load: String,
    pub(crate) cpu_us_per_token: Option<Spread>,
    pub(crate) cpu_us_per_stream: Option<Spread>,
    pub(crate) user_share: Option<Spread>,
    /// See [`crate::measure::Cpu::waited`].
    pub(crate) waited: Option<Spread>,
    /// Ratio to nginx in the same round.
    pub(crate) cpu_ratio: Option<Spread>,
    pub(crate) tokens_per_second: Option<Spread>,
    /// As measured, and less the time of the simulator itself in the same round.
    pub(crate) first_token: Option<Percentiles>,
    pub(crate) added_first_token: Option<Percentiles>,
    pub(crate) token_delay: Option<Percentiles>,
    pub(crate) added_token_delay: Option<Percentiles>,
    pub(crate) rss_kib_per_stream: Option<Spread>,
    pub(crate) pss_kib_per_stream: Option<Spread>,
    pub(crate) memory_ratio: Option<Spread>,
    pub(crate) load_share: Option<Spread>,
    pub(crate) simulator_share: Option<Spread>,
    pub(crate) extra: BTreeMap<String, Spread>,
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) broken: u64,
    pub(crate) complaints: Vec<String>,
}

/// Percentiles over the rounds, in µs.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: Spread,
    pub(crate) p99: Spread,
    pub(crate) p999: Spread,
    pub(crate) max: Spread,
}

// === impl Percentiles ===

impl Percentiles {
    fn of(values: &[Quantiles]) -> Option<Self> {
        let spread = |pick: fn(&Quantiles) -> f64| Spread::of(values.iter().map(pick));
        Some(Self {
            p50: spread(|it| it.p50)?,
            p99: spread(|it| it.p99)?,
            p999: spread(|it| it.p999)?,
            max: spread(|it| it.max)?,
        })
    }
}

// === impl Summary ===

impl Summary {
    /// Returns one summary per scenario, number of workers and target, in the order of their first
    /// runs.
    pub(crate) fn all(runs: &[Run]) -> Vec<Self> {
        let mut names: Vec<(&str, usize, &str)> = Vec::new();
        for run in runs {
            let name = (run.scenario.as_str(), run.workers, run.target.as_str());
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
            .into_iter()
            .map(|(scenario, workers, target)| Self::of(runs, scenario, workers, target))
            .collect()
    }

    /// Returns those of each scenario and number of workers, in the order of their first.
    fn groups(summaries: &[Self]) -> Vec<Vec<&Self>> {
        let key = |it: &Self| (it.scenario.clone(), it.workers);
        let mut keys: Vec<_> = summaries.iter().map(key).collect();
        keys.dedup();
        keys.iter()
            .map(|one| summaries.iter().filter(|it| key(it) == *one).collect())
            .collect()
    }

    /// Returns the number of workers as a part of a name; one worker is the usual case.
    fn several_workers(&self) -> Option<String> {
        (self.workers > 1).then(|| format!("{} workers", self.workers))
    }

    fn of(runs: &[Run], scenario: &str, workers: usize, target: &str) -> Self {
        let here: Vec<&Run> = runs
            .iter()
            .filter(|run| run.scenario == scenario && run.workers == workers)
            .collect();
        let mine: Vec<&Run> = here
            .iter()
            .copied()
            .filter(|run| run.target == target)
            .collect();
        let other = |round: usize, name: &str| {
            here.iter()
                .copied()
                .find(|run| run.round == round && run.target == name)
        };
        let cpu = |run: &Run| run.cpu.map(|cpu| cpu.us_per_token);
        let pss = |run: &Run| run.memory.map(|memory| memory.pss_kib_per_stream);
        let spread = |pick: &dyn Fn(&Run) -> Option<f64>| {
            Spread::of(mine.iter().filter_map(|run| pick(run)))
        };
        // The cost of the simulator itself is not that of a relay.
        let ratio = |pick: &dyn Fn(&Run) -> Option<f64>| {
            spread(&|run| Some(pick(run)? / pick(other(run.round, YARDSTICK)?)?))
                .filter(|_| target != DIRECT)
        };
        let percentiles = |pick: fn(&Run) -> Option<Quantiles>| {
            Percentiles::of(&mine.iter().filter_map(|run| pick(run)).collect::<Vec<_>>())
        };
        let added = |pick: fn(&Run) -> Option<Quantiles>| {
            let over = |run: &&Run| Some(pick(run)?.over(&pick(other(run.round, DIRECT)?)?));
            let values: Vec<Quantiles> = mine.iter().filter_map(over).collect();
            (target != DIRECT)
                .then(|| Percentiles::of(&values))
                .flatten()
        };
        let mut extra = BTreeMap::new();
        for name in mine.iter().flat_map(|run| run.extra.keys()) {
            if let Some(spread) = spread(&|run| run.extra.get(name).copied()) {
                extra.insert(name.clone(), spread);
            }
        }
        let mut complaints: Vec<String> = mine
            .iter()
            .flat_map(|run| run.complaints.iter().cloned())
            .collect();
        complaints.dedup();
        complaints.truncate(5);
        Self {
            scenario: scenario.to_owned(),
            target: target.to_owned(),
            workers,
            rounds: mine.len(),
            load: mine.first().map(|run| run.load.clone()).unwrap_or_default(),
            cpu_us_per_token: spread(&cpu),
            cpu_us_per_stream: spread(&|run| run.cpu.map(|cpu| cpu.us_per_stream)),
            user_share: spread(&|run| run.cpu.map(|cpu| cpu.user_share)),
            waited: spread(&|run| run.cpu.map(|cpu| cpu.waited)),
            cpu_ratio: ratio(&cpu),
            tokens_per_second: spread(&|run| Some(run.tokens_per_second)),
            first_token: percentiles(|run| run.first_token),
            added_first_token: added(|run| run.first_token),
            token_delay: percentiles(|run| run.token_delay),
            added_token_delay: added(|run| run.token_delay),
            rss_kib_per_stream: spread(&|run| run.memory.map(|memory| memory.rss_kib_per_stream)),
            pss_kib_per_stream: spread(&pss),
            memory_ratio: ratio(&pss),
            load_share: spread(&|run| Some(run.load_share)),
            simulator_share: spread(&|run| run.simulator_share),
            extra,
            lost: mine.iter().map(|run| run.lost).sum(),
            doubled: mine.iter().map(|run| run.doubled).sum(),
            broken: mine.iter().map(|run| run.broken).sum(),
            complaints,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Cpu;

    fn run(target: &str, round: usize, cpu: f64, p99: f64) -> Run {
        Run {
            scenario: "paced".to_owned(),
            target: target.to_owned(),
            round,
            cpu: Some(Cpu {
                us_per_token: cpu,
                us_per_stream: cpu * 100.0,
                user_share: 0.25,
                of_a_core: 0.5,
                waited: 0.0,
            }),
            first_token: Some(Quantiles {
                count: 100,
                p50: p99 / 2.0,
                p99,
                p999: p99,
                max: p99,
            }),
            ..Run::default()
        }
    }

    #[test]
    fn ratios_and_differences_stay_within_a_round() {
        // The second round was slower for all targets.
        let runs = [
            run("direct", 0, 1.0, 100.0),
            run("nginx", 0, 10.0, 150.0),
            run("gateway", 0, 12.0, 300.0),
            run("direct", 1, 2.0, 1100.0),
            run("nginx", 1, 20.0, 1150.0),
            run("gateway", 1, 24.0, 1300.0),
        ];
        let summaries = Summary::all(&runs);
        assert_eq!(
            summaries
                .iter()
                .map(|it| it.target.as_str())
                .collect::<Vec<_>>(),
            ["direct", "nginx", "gateway"]
        );
        let gateway = summaries.last().unwrap();
        assert_eq!(
            gateway.cpu_ratio,
            Some(Spread {
                median: 1.2,
                least: 1.2,
                most: 1.2
            })
        );
        assert_eq!(
            gateway.added_first_token.unwrap().p99,
            Spread {
                median: 200.0,
                least: 200.0,
                most: 200.0
            }
        );
        assert_eq!(
            gateway.cpu_us_per_token,
            Some(Spread {
                median: 18.0,
                least: 12.0,
                most: 24.0
            })
        );
        assert!(summaries.first().unwrap().added_first_token.is_none());
    }
}
