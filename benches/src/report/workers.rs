//! Figures by the number of workers, from runs with `--workers`.

use std::fmt::Write as _;

use super::Record;
use super::table::{align, with_ends};
use crate::measure::{Run, Spread};

/// A ratio of a target to a peer in the same round.
pub(super) struct Figure {
    pub(super) name: &'static str,
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

#[rustfmt::skip]
pub(super) const FIGURES: &[Figure] = &[
    Figure { name: "paced token over SSE, CPU, × nginx", scenario: "paced", target: "tokenwire/chat", peer: "nginx", at_most: 1.15, pick: by_token },
    Figure { name: "paced token over WebSocket, CPU, × nginx", scenario: "paced", target: "tokenwire/ws", peer: "nginx", at_most: 1.2, pick: by_token },
    Figure { name: "saturated token over SSE, CPU, × nginx", scenario: "saturated", target: "tokenwire/chat", peer: "nginx", at_most: 1.5, pick: by_token },
    Figure { name: "five-token request, kept connection, CPU, × nginx", scenario: "short", target: "tokenwire/chat", peer: "nginx", at_most: 1.5, pick: by_request },
    Figure { name: "five-token request, new connection, CPU, × nginx", scenario: "short-new", target: "tokenwire/chat", peer: "nginx", at_most: 1.5, pick: by_request },
    Figure { name: "one to many over SSE, CPU, × nchan", scenario: "fanout", target: "tokenwire/streams", peer: "nchan/sse", at_most: 0.75, pick: by_token },
    Figure { name: "one to many over WebSocket, CPU, × nchan", scenario: "fanout", target: "tokenwire/ws", peer: "nchan/ws", at_most: 0.8, pick: by_token },
    Figure { name: "one to many over SSE, p99, × nchan", scenario: "fanout", target: "tokenwire/streams", peer: "nchan/sse", at_most: 1.0, pick: delay },
    Figure { name: "one to many over WebSocket, p99, × nchan", scenario: "fanout", target: "tokenwire/ws", peer: "nchan/ws", at_most: 1.0, pick: delay },
    Figure { name: "32 lanes on a WebSocket, CPU, × a WebSocket each", scenario: "paced", target: "tokenwire/lanes", peer: "tokenwire/ws", at_most: 0.5, pick: by_token },
];

// === impl Figure ===

impl Figure {
    /// Returns the ratio with so many workers, over the rounds.
    pub(super) fn with(&self, workers: usize, runs: &[Run]) -> Option<Spread> {
        let of = |target: &'static str| {
            runs.iter().filter(move |run| {
                run.scenario == self.scenario && run.workers == workers && run.target == target
            })
        };
        Spread::of(of(self.target).filter_map(|mine| {
            let peer = of(self.peer).find(|peer| peer.round == mine.round)?;
            Some((self.pick)(mine)? / (self.pick)(peer)?)
        }))
    }
}

/// Returns the numbers of workers in ascending order.
pub(super) fn numbers(runs: &[Run]) -> Vec<usize> {
    let mut numbers: Vec<usize> = runs.iter().map(|run| run.workers).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// Returns the section of the page: each ratio by the number of workers. `plot` is the path of the
/// plot relative to the page.
pub(super) fn section(records: &[Record], plot: &str) -> String {
    let runs: Vec<Run> = records
        .iter()
        .flat_map(|record| record.runs.iter().cloned())
        .collect();
    let numbers = numbers(&runs);
    let mut head = vec!["figure".to_owned(), "at most".to_owned()];
    head.extend(numbers.iter().map(|workers| match workers {
        1 => "1 worker".to_owned(),
        _ => format!("{workers} workers"),
    }));
    let mut lines = vec![head];
    for figure in FIGURES {
        let ratios: Vec<Option<Spread>> = numbers
            .iter()
            .map(|workers| figure.with(*workers, &runs))
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
    let mut text = String::from("\n## Several workers\n\n");
    let mut machines: Vec<&str> = records.iter().map(|it| it.machine.as_str()).collect();
    machines.dedup();
    let mut commands: Vec<String> = records
        .iter()
        .map(|it| format!("`{}`", it.command.join(" ")))
        .collect();
    commands.dedup();
    let wrong: u64 = runs
        .iter()
        .filter(|run| !run.peer)
        .map(|run| run.lost + run.doubled + run.broken)
        .sum();
    let _ = write!(
        text,
        "As many workers on each side, a core for each of them, and the load of one worker for each: medians of the ratios within a \
         round. Machine: {}. Tokens lost or doubled, or streams broken: {wrong}. Measured by {}.\n\n{}\n![ratios by workers]({plot})\n",
        machines.join(", "),
        commands.join(", "),
        align(&lines)
    );
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
        let text = section(&[record], "workers.svg");
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
