//! Figures by the number of workers, from runs with `--workers`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::Record;
use super::table::{align, with_ends};
use crate::measure::{Run, Spread};

/// A ratio of a target to a peer in the same round.
struct Figure {
    name: &'static str,
    scenario: &'static str,
    target: &'static str,
    peer: &'static str,
    at_most: f64,
    pick: fn(&Run) -> Option<f64>,
}

fn by_token(run: &Run) -> Option<f64> {
    run.cpu.map(|cpu| cpu.us_per_token)
}

fn by_request(run: &Run) -> Option<f64> {
    run.cpu.map(|cpu| cpu.us_per_stream)
}

fn delay(run: &Run) -> Option<f64> {
    run.token_delay.map(|times| times.p99)
}

const FIGURES: &[Figure] = &[
    Figure {
        name: "paced token over SSE, CPU, × nginx",
        scenario: "paced",
        target: "tokenwire/chat",
        peer: "nginx",
        at_most: 1.15,
        pick: by_token,
    },
    Figure {
        name: "paced token over WebSocket, CPU, × nginx",
        scenario: "paced",
        target: "tokenwire/ws",
        peer: "nginx",
        at_most: 1.2,
        pick: by_token,
    },
    Figure {
        name: "saturated token over SSE, CPU, × nginx",
        scenario: "saturated",
        target: "tokenwire/chat",
        peer: "nginx",
        at_most: 1.5,
        pick: by_token,
    },
    Figure {
        name: "five-token request, kept connection, CPU, × nginx",
        scenario: "short",
        target: "tokenwire/chat",
        peer: "nginx",
        at_most: 1.5,
        pick: by_request,
    },
    Figure {
        name: "five-token request, new connection, CPU, × nginx",
        scenario: "short-new",
        target: "tokenwire/chat",
        peer: "nginx",
        at_most: 1.5,
        pick: by_request,
    },
    Figure {
        name: "one to many over SSE, CPU, × nchan",
        scenario: "fanout",
        target: "tokenwire/streams",
        peer: "nchan/sse",
        at_most: 0.75,
        pick: by_token,
    },
    Figure {
        name: "one to many over WebSocket, CPU, × nchan",
        scenario: "fanout",
        target: "tokenwire/ws",
        peer: "nchan/ws",
        at_most: 0.8,
        pick: by_token,
    },
    Figure {
        name: "one to many over SSE, p99, × nchan",
        scenario: "fanout",
        target: "tokenwire/streams",
        peer: "nchan/sse",
        at_most: 1.0,
        pick: delay,
    },
    Figure {
        name: "one to many over WebSocket, p99, × nchan",
        scenario: "fanout",
        target: "tokenwire/ws",
        peer: "nchan/ws",
        at_most: 1.0,
        pick: delay,
    },
    Figure {
        name: "streams on lanes of a WebSocket, CPU, × a WebSocket each",
        scenario: "paced",
        target: "tokenwire/lanes",
        peer: "tokenwire/ws",
        at_most: 0.5,
        pick: by_token,
    },
];

// === impl Figure ===

impl Figure {
    /// Returns the ratio with so many workers, over the rounds of each record. Those of different
    /// records may be of different days and machines.
    fn with(&self, workers: usize, records: &[Record]) -> Option<Spread> {
        Spread::of(records.iter().flat_map(|record| {
            let of = |target: &'static str| {
                record.runs.iter().filter(move |run| {
                    run.scenario == self.scenario && run.workers == workers && run.target == target
                })
            };
            of(self.target).filter_map(move |mine| {
                let peer = of(self.peer).find(|peer| peer.round == mine.round)?;
                Some((self.pick)(mine)? / (self.pick)(peer)?)
            })
        }))
    }
}

/// Returns the numbers of workers in ascending order.
fn numbers(records: &[Record]) -> Vec<usize> {
    let runs = records.iter().flat_map(|record| &record.runs);
    let numbers: BTreeSet<usize> = runs.map(|run| run.workers).collect();
    numbers.into_iter().collect()
}

/// Returns the name and the ratios of each figure that was measured with several numbers of workers.
pub(super) fn curves(records: &[Record]) -> Vec<(&'static str, Vec<(f64, f64)>)> {
    let numbers = numbers(records);
    FIGURES
        .iter()
        .map(|figure| {
            let points = numbers.iter().filter_map(|number| {
                let workers = u32::try_from(*number).ok()?;
                Some((f64::from(workers), figure.with(*number, records)?.median))
            });
            (figure.name, points.collect::<Vec<_>>())
        })
        .filter(|(_, points)| points.len() > 1)
        .collect()
}

/// Returns the section of the page: each ratio by the number of workers. `plot` is the path of the
/// plot of the [`curves`] relative to the page.
pub(super) fn section(records: &[Record], plot: &str) -> String {
    let numbers = numbers(records);
    let mut head = vec!["figure".to_owned(), "at most".to_owned()];
    head.extend(numbers.iter().map(|workers| match workers {
        1 => "1 worker".to_owned(),
        _ => format!("{workers} workers"),
    }));
    let mut lines = vec![head];
    for figure in FIGURES {
        let ratios: Vec<Option<Spread>> = numbers
            .iter()
            .map(|workers| figure.with(*workers, records))
            .collect();
        if ratios.iter().all(Option::is_none) {
            continue;
        }
        let mut line = vec![figure.name.to_owned(), figure.at_most.to_string()];
        line.extend(
            ratios
                .iter()
                .map(|ratio| ratio.map_or_else(|| "–".to_owned(), |ratio| with_ends(&ratio, 2))),
        );
        lines.push(line);
    }
    let wrong: u64 = records
        .iter()
        .flat_map(|record| &record.runs)
        .filter(|run| !run.peer)
        .map(|run| run.lost + run.doubled + run.broken)
        .sum();
    let machines: BTreeSet<&str> = records.iter().map(|it| it.machine.as_str()).collect();
    let mut text = format!(
        "\n## Several workers\n\nAs many workers on each side: medians of the ratios within a round. \
         Machine: {}. Tokens lost or doubled, or streams broken: {wrong}. Measured by:\n\n",
        machines.into_iter().collect::<Vec<_>>().join(", "),
    );
    for record in records {
        let _ = writeln!(text, "* `{}`", record.command.join(" "));
    }
    let _ = write!(text, "\n{}", align(&lines));
    if !curves(records).is_empty() {
        let _ = write!(text, "\n![ratios by workers]({plot})\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::measure::Cpu;

    fn run(target: &str, workers: usize, round: usize, cpu: f64) -> Run {
        Run {
            scenario: "paced".to_owned(),
            target: target.to_owned(),
            workers,
            round,
            cpu: Some(Cpu {
                us_per_token: cpu,
                us_per_stream: cpu,
                user_share: 0.5,
                of_a_core: 1.0,
                waited: 0.0,
            }),
            ..Run::default()
        }
    }

    #[test]
    fn ratios_are_taken_within_a_round_and_a_number_of_workers() {
        let mut record = Record::new(BTreeMap::new());
        record.runs = vec![
            run("nginx", 1, 0, 10.0),
            run("tokenwire/chat", 1, 0, 12.0),
            run("nginx", 4, 0, 20.0),
            run("tokenwire/chat", 4, 0, 22.0),
            run("nginx", 4, 1, 40.0),
            run("tokenwire/chat", 4, 1, 52.0),
        ];
        // Another day: its peer is no peer of the runs above.
        let mut other = Record::new(BTreeMap::new());
        other.runs = vec![run("nginx", 1, 0, 1.0)];
        let text = section(&[other, record], "workers.svg");
        let line = text
            .lines()
            .find(|line| line.contains("paced token over SSE"))
            .unwrap_or_default();
        assert!(line.contains(" 1.20 |"), "{text}");
        assert!(line.contains("1.20 [1.10–1.30]"), "{text}");
        assert!(text.contains(" 4 workers |"), "{text}");
        assert!(!text.contains("nchan"), "{text}");
    }
}
