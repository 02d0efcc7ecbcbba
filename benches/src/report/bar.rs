//! The bar: Tokenwire's target figures and the measured values.

use super::table::{align, with_ends};
use super::{Percentiles, Summary};
use crate::measure::Spread;
use crate::model_gateway::ModelGateway;

/// A target figure: which figure of which run, and its limit.
struct Promise {
    figure: &'static str,
    scenario: &'static str,
    target: &'static str,
    limit: f64,
    unit: &'static str,
    pick: fn(&Summary, &[Summary]) -> Option<Spread>,
}

const PROMISES: &[Promise] = &[
    Promise {
        figure: "CPU per paced token, SSE",
        scenario: "paced",
        target: "tokenwire/chat",
        limit: 1.15,
        unit: "× nginx",
        pick: |it, _| it.cpu_ratio,
    },
    Promise {
        figure: "CPU per paced token, WebSocket",
        scenario: "paced",
        target: "tokenwire/ws",
        limit: 1.20,
        unit: "× nginx",
        pick: |it, _| it.cpu_ratio,
    },
    Promise {
        figure: "CPU per saturated token, SSE",
        scenario: "saturated",
        target: "tokenwire/chat",
        limit: 1.5,
        unit: "× nginx",
        pick: |it, _| it.cpu_ratio,
    },
    Promise {
        figure: "the same, beside the model gateways",
        scenario: "saturated",
        target: "tokenwire/chat",
        limit: 1.0,
        unit: "× the least of them",
        pick: |it, all| {
            // The ratio to the cheapest of them is the highest.
            let ratios = ModelGateway::ALL
                .iter()
                .filter_map(|gateway| over(it, all, gateway.name(), |it| it.cpu_us_per_token));
            ratios.max_by(|one, two| one.median.total_cmp(&two.median))
        },
    },
    Promise {
        figure: "CPU per 5-token request",
        scenario: "short",
        target: "tokenwire/chat",
        limit: 1.5,
        unit: "× nginx",
        pick: |it, _| it.cpu_ratio,
    },
    Promise {
        figure: "the same on new connections",
        scenario: "short-new",
        target: "tokenwire/chat",
        limit: 1.5,
        unit: "× nginx",
        pick: |it, _| it.cpu_ratio,
    },
    Promise {
        figure: "memory per open stream",
        scenario: "open",
        target: "tokenwire/chat",
        limit: 1.25,
        unit: "× nginx",
        pick: |it, _| it.memory_ratio,
    },
    Promise {
        figure: "added time to first token, p99",
        scenario: "paced",
        target: "tokenwire/chat",
        limit: 400.0,
        unit: "µs",
        pick: |it, _| it.added_first_token.map(|times| times.p99),
    },
    Promise {
        figure: "one to many, CPU per event, SSE",
        scenario: "fanout",
        target: "tokenwire/streams",
        limit: 0.75,
        unit: "× nchan",
        pick: |it, all| over(it, all, "nchan/sse", |it| it.cpu_us_per_token),
    },
    Promise {
        figure: "one to many, CPU per event, WebSocket",
        scenario: "fanout",
        target: "tokenwire/ws",
        limit: 0.8,
        unit: "× nchan",
        pick: |it, all| over(it, all, "nchan/ws", |it| it.cpu_us_per_token),
    },
    Promise {
        figure: "one to many, p99, SSE",
        scenario: "fanout",
        target: "tokenwire/streams",
        limit: 1.0,
        unit: "× nchan",
        pick: |it, all| over(it, all, "nchan/sse", |it| it.token_delay.map(p99)),
    },
    Promise {
        figure: "one to many, p99, WebSocket",
        scenario: "fanout",
        target: "tokenwire/ws",
        limit: 1.0,
        unit: "× nchan",
        pick: |it, all| over(it, all, "nchan/ws", |it| it.token_delay.map(p99)),
    },
    Promise {
        figure: "replay of 10,000 tokens, SSE",
        scenario: "replay",
        target: "tokenwire/streams",
        limit: 20.0,
        unit: "ms",
        pick: |it, _| it.extra.get("replay_p50_ms").copied(),
    },
    Promise {
        figure: "replay of 10,000 tokens, WebSocket",
        scenario: "replay",
        target: "tokenwire/ws",
        limit: 20.0,
        unit: "ms",
        pick: |it, _| it.extra.get("replay_p50_ms").copied(),
    },
];

/// Returns the table of target figures, with a note for scenarios that did not run.
pub(crate) fn bar(summaries: &[Summary]) -> String {
    let head = ["figure", "at most", "measured", ""]
        .map(str::to_owned)
        .to_vec();
    let mut lines = vec![head];
    for promise in PROMISES {
        let mine = summaries
            .iter()
            .find(|it| it.scenario == promise.scenario && it.target == promise.target);
        let measured = mine.and_then(|it| (promise.pick)(it, summaries));
        let (figure, verdict) = match measured {
            Some(spread) => (with_ends(&spread, 2), verdict(spread.median, promise.limit)),
            None => ("–".to_owned(), "not measured".to_owned()),
        };
        let limit = format!("{} {}", promise.limit, promise.unit);
        lines.push(vec![promise.figure.to_owned(), limit, figure, verdict]);
    }
    let own = || {
        summaries
            .iter()
            .filter(|it| it.target.starts_with("tokenwire/"))
    };
    if own().next().is_some() {
        let wrong: u64 = own().map(|it| it.lost + it.doubled).sum();
        let verdict = if wrong == 0 { "met" } else { "missed" };
        lines.push(vec![
            "lost or doubled tokens".to_owned(),
            "0".to_owned(),
            wrong.to_string(),
            verdict.to_owned(),
        ]);
    }
    format!("\n{}", align(&lines))
}

/// Returns whether the limit is met, and the distance in per cent.
fn verdict(measured: f64, limit: f64) -> String {
    let off = (measured / limit - 1.0) * 100.0;
    if measured <= limit {
        format!("met, {:.0} % under", -off)
    } else {
        format!("missed, {off:.0} % over")
    }
}

/// Returns the ratio of a median to that of another target in the same scenario.
fn over(
    mine: &Summary,
    all: &[Summary],
    name: &str,
    pick: fn(&Summary) -> Option<Spread>,
) -> Option<Spread> {
    let other = pick(
        all.iter()
            .find(|it| it.scenario == mine.scenario && it.target == name)?,
    )?;
    let spread = pick(mine)?;
    Some(Spread {
        median: spread.median / other.median,
        least: spread.least / other.median,
        most: spread.most / other.median,
    })
}

fn p99(times: Percentiles) -> Spread {
    times.p99
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_is_met_missed_or_not_measured() {
        let paced = |target: &str, ratio| Summary {
            scenario: "paced".to_owned(),
            target: target.to_owned(),
            cpu_ratio: Some(Spread {
                median: ratio,
                least: ratio,
                most: ratio,
            }),
            ..Summary::default()
        };
        let text = bar(&[paced("tokenwire/chat", 1.05), paced("tokenwire/ws", 1.3)]);
        let line = |figure: &str| {
            text.lines()
                .find(|line| line.contains(figure))
                .unwrap_or_default()
                .to_owned()
        };
        assert!(
            line("paced token, SSE").ends_with(" met, 9 % under |"),
            "{text}"
        );
        assert!(
            line("paced token, WebSocket").contains("missed, 8 % over"),
            "{text}"
        );
        assert!(
            line("replay of 10,000 tokens, SSE").contains("not measured"),
            "{text}"
        );
        assert!(line("lost or doubled").contains("met"), "{text}");
    }
}
