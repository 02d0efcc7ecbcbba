//! The page of results, `RESULTS.md`. It is made from the records and can be regenerated without
//! measuring.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::table::{Cell, align, four_with_ends, with_ends};
use super::{Failure, Record, Summary, bar, workers};
use crate::model_gateway::ModelGateway;
use crate::scenario::Name;

/// A table of a scenario: the text above it and its columns. Columns without figures are left out.
type Table = (&'static str, &'static [(&'static str, Cell)]);

const COST: &[(&str, Cell)] = &[
    ("load", |it| (!it.load.is_empty()).then(|| it.load.clone())),
    ("CPU µs/token", |it| {
        it.cpu_us_per_token.map(|spread| with_ends(&spread, 2))
    }),
    ("× nginx", |it| {
        it.cpu_ratio.map(|spread| with_ends(&spread, 2))
    }),
    ("tokens/s", |it| {
        it.tokens_per_second.map(|spread| with_ends(&spread, 0))
    }),
    ("lost", |it| Some(it.lost.to_string())),
    ("doubled", |it| Some(it.doubled.to_string())),
    ("broken", |it| Some(it.broken.to_string())),
    ("waited", |it| {
        it.waited.map(|spread| percent(spread.median))
    }),
    ("load side", |it| {
        it.load_share.map(|spread| percent(spread.median))
    }),
    ("simulator", |it| {
        it.simulator_share.map(|spread| percent(spread.median))
    }),
];

const REQUESTS: &[(&str, Cell)] = &[
    ("CPU µs/request", |it| {
        it.cpu_us_per_stream.map(|spread| with_ends(&spread, 1))
    }),
    ("requests/s", |it| extra(it, "requests_per_second", 0)),
    ("request p50 µs", |it| extra(it, "request_p50_us", 0)),
    ("p99 µs", |it| extra(it, "request_p99_us", 0)),
];

const MEMORY: &[(&str, Cell)] = &[
    ("KiB/stream, PSS", |it| {
        it.pss_kib_per_stream.map(|spread| with_ends(&spread, 1))
    }),
    ("× nginx", |it| {
        it.memory_ratio.map(|spread| with_ends(&spread, 2))
    }),
    ("KiB/stream, RSS", |it| {
        it.rss_kib_per_stream.map(|spread| with_ends(&spread, 1))
    }),
];

const REPLAY: &[(&str, Cell)] = &[
    ("all of it, p50 ms", |it| extra(it, "replay_p50_ms", 2)),
    ("max ms", |it| extra(it, "replay_max_ms", 2)),
];

const UNREAD: &[(&str, Cell)] = &[("KiB RSS for each unread stream", |it| {
    extra(it, "rss_kib_per_unread_stream", 0)
})];

const CUTS: &[(&str, Cell)] = &[("cuts a run", |it| extra(it, "cuts", 0))];

const FIRST: &[(&str, Cell)] = &[
    ("p50", |it| four_with_ends(it.added_first_token.as_ref(), 0)),
    ("p99", |it| four_with_ends(it.added_first_token.as_ref(), 1)),
    ("p99.9", |it| {
        four_with_ends(it.added_first_token.as_ref(), 2)
    }),
    ("max", |it| four_with_ends(it.added_first_token.as_ref(), 3)),
];

const EACH: &[(&str, Cell)] = &[
    ("p50", |it| four_with_ends(it.added_token_delay.as_ref(), 0)),
    ("p99", |it| four_with_ends(it.added_token_delay.as_ref(), 1)),
    ("p99.9", |it| {
        four_with_ends(it.added_token_delay.as_ref(), 2)
    }),
    ("max", |it| four_with_ends(it.added_token_delay.as_ref(), 3)),
];

const DELAY: &[(&str, Cell)] = &[
    ("p50", |it| four_with_ends(it.token_delay.as_ref(), 0)),
    ("p99", |it| four_with_ends(it.token_delay.as_ref(), 1)),
    ("p99.9", |it| four_with_ends(it.token_delay.as_ref(), 2)),
    ("max", |it| four_with_ends(it.token_delay.as_ref(), 3)),
];

const ADDED_FIRST: Table = (
    "Added time to first token, µs, percentile less `direct`'s in the same round:",
    FIRST,
);
const ADDED_EACH: Table = (
    "Added time per token, µs, against the time at which it was due, less `direct`'s in the same round:",
    EACH,
);

/// Returns the heading of a scenario, its description and its tables.
fn section(scenario: Name) -> Option<(&'static str, &'static str, &'static [Table])> {
    Some(match scenario {
        Name::Bar | Name::Results => return None,
        Name::Paced => (
            "Paced streams",
            "Streams at a reader's pace, one token at a time: the usual load of a gateway.",
            &[("", COST), ADDED_FIRST, ADDED_EACH],
        ),
        Name::Saturated => (
            "Saturated streams",
            "Streams as fast as they go; many tokens come in one read, and a relay that only copies them pays by the read.",
            &[("", COST)],
        ),
        Name::Short => (
            "Short answers",
            "Five tokens a request, on kept connections, each asked as soon as the last is answered.",
            &[("", REQUESTS), ("", COST), ADDED_FIRST],
        ),
        Name::ShortNew => (
            "Short answers on new connections",
            "The same with a new connection for each request.",
            &[("", REQUESTS), ("", COST), ADDED_FIRST],
        ),
        Name::Open => (
            "Open streams",
            "Streams that fall silent after their first token and stay open: what each of them holds.",
            &[("", MEMORY), ("", COST)],
        ),
        Name::Fanout => (
            "One to many",
            "One stream, many readers. nchan is told each token as it comes out of the same simulator.",
            &[
                ("", COST),
                (
                    "From the time an event was due to its arrival at each reader, µs:",
                    DELAY,
                ),
            ],
        ),
        Name::Replay => (
            "Replay",
            "A finished stream, read again from its beginning by one reader at a time.",
            &[("", REPLAY), ("", COST)],
        ),
        Name::Slow => (
            "Slow readers",
            "Paced streams that are read, beside streams at full speed that are not read.",
            &[("", UNREAD), ("", COST), ADDED_FIRST, ADDED_EACH],
        ),
        Name::Storm => (
            "Cut and resumed",
            "Every connection is cut at random places, again and again, and comes back with the last event that it had.",
            &[("", CUTS), ("", COST)],
        ),
    })
}

/// Returns the page. `by_workers` are the records of runs with several workers. `plots` is the
/// folder of the plots relative to the page; `changes` describes optimisations with figures before
/// and after.
pub(crate) fn page(
    records: &[Record],
    by_workers: &[Record],
    plots: &str,
    changes: Option<&str>,
) -> String {
    let runs: Vec<_> = records
        .iter()
        .flat_map(|record| record.runs.iter().cloned())
        .collect();
    let summaries = Summary::all(&runs);
    let failures: Vec<&Failure> = records.iter().flat_map(|record| &record.failures).collect();
    let mut text = String::from(
        "# Results\n\nWritten by `tokenwire-bench results`, which measures all of it in under twenty minutes on two cores, and by \
         `tokenwire-bench results --from DIR` from existing records. `cargo xtask install bench` installs the peers. Figures to publish \
         are measured with `cargo run --profile dist -p tokenwire-bench -- results`.\n\n\
         CPU is user and system time of the process under test with all that it started. Figures are medians over the rounds with their \
         [least–most]; in each round every target is measured in turn. `direct` is the simulator, with nothing in between.\n",
    );
    provenance(&mut text, records);
    text.push_str("\n## The bar\n");
    text.push_str(&bar(&summaries));
    text.push_str("\n## At a glance\n");
    for (scenario, plot) in [
        ("paced", "cpu"),
        ("open", "memory"),
        ("paced", "first-token"),
        ("paced", "delay"),
        ("fanout", "delay"),
    ] {
        if summaries.iter().any(|it| it.scenario == scenario) {
            let _ = write!(
                text,
                "\n![{scenario}, {plot}]({plots}/{scenario}-{plot}.svg)\n"
            );
        }
    }
    for scenario in Name::ALL {
        let rows: Vec<&Summary> = summaries
            .iter()
            .filter(|it| it.scenario == scenario.as_str())
            .collect();
        let failures: Vec<&Failure> = failures
            .iter()
            .copied()
            .filter(|it| it.scenario == scenario.as_str())
            .collect();
        if let Some((heading, what, tables)) =
            section(scenario).filter(|_| !rows.is_empty() || !failures.is_empty())
        {
            let rounds = rows.iter().map(|it| it.rounds).max().unwrap_or(0);
            let _ = write!(text, "\n## {heading}\n\n{what} Rounds: {rounds}.\n");
            for (index, (above, columns)) in tables.iter().enumerate() {
                table(
                    &mut text,
                    above,
                    columns,
                    &rows,
                    if index == 0 { &failures } else { &[] },
                );
            }
            for row in &rows {
                for complaint in &row.complaints {
                    let _ = write!(text, "\n* {}: {}\n", row.target, plain(complaint));
                }
            }
        }
    }
    if !by_workers.is_empty() {
        let plot = format!("{plots}/workers.svg");
        text.push_str(&workers::section(by_workers, &plot));
    }
    text.push_str(NOTES);
    if let Some(changes) = changes {
        text.push_str("\n## What was changed, with before and after\n\n");
        text.push_str(&demoted(changes));
    }
    text
}

const NOTES: &str = "
## How to read it

* \"waited\" is the time that the process was ready to run and had no core, to the time that it ran. Where it is high, something else was
  busy on the machine, and delays say little; of `direct` it is the load side, which shares its core.
* \"load side\" and \"simulator\" are the shares of a core that the measuring side took. Near 100 % in sum it is they that limit tokens/s.
* LiteLLM is given less to do (the column \"load\"), as much as its one core can do without falling behind: its figures by the token, the
  request and the stream can be compared, its tokens/s cannot. What it adds is taken against a simulator that has more to do, which
  flatters it. It has no part in `slow`, where the unread streams would take all of its core.
* LiteLLM, smg and vllm-router are read over `/v1/chat/completions`, as nginx and haproxy are: a stream of it cannot be attached to, replayed
  or resumed, so they have no part in those scenarios.
* haproxy is a TCP pipe, which understands nothing of what it carries: the floor.
";

/// Appends machine, versions, commands and the configuration of each peer.
fn provenance(text: &mut String, records: &[Record]) {
    let unique = |values: &mut dyn Iterator<Item = String>| {
        let mut all: Vec<String> = Vec::new();
        values.filter(|value| !value.is_empty()).for_each(|value| {
            if !all.contains(&value) {
                all.push(value);
            }
        });
        all
    };
    let machines = unique(&mut records.iter().map(|record| record.machine.clone()));
    let profiles = unique(&mut records.iter().map(|record| record.profile.clone()));
    let days = unique(&mut records.iter().map(|record| day(record.written)));
    let commands = unique(
        &mut records
            .iter()
            .map(|record| format!("`{}`", record.command.join(" "))),
    );
    let mut versions = BTreeMap::new();
    for record in records {
        versions.extend(
            record
                .versions
                .iter()
                .map(|(name, version)| (name.as_str(), version.as_str())),
        );
    }
    let versions: Vec<String> = versions
        .iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    text.push_str("\n## What was measured\n\n");
    for (what, values) in [
        ("machine", machines),
        ("cargo profile of gateway, simulator and bench", profiles),
        ("day", days),
        ("command", commands),
        ("versions", versions),
    ] {
        let _ = writeln!(text, "* {what}: {}", values.join(", "));
    }
    text.push_str("* nginx: one worker, `proxy_buffering off`, kept connections to the upstream; haproxy: one thread, TCP\n");
    for gateway in ModelGateway::ALL {
        let _ = writeln!(text, "* {gateway}: {}", gateway.configuration());
    }
}

fn table(
    text: &mut String,
    above: &str,
    columns: &[(&str, Cell)],
    rows: &[&Summary],
    failures: &[&Failure],
) {
    let columns: Vec<&(&str, Cell)> = columns
        .iter()
        .filter(|(_, cell)| rows.iter().any(|row| cell(row).is_some()))
        .collect();
    let wanted = rows
        .iter()
        .filter(|row| columns.iter().any(|(_, cell)| cell(row).is_some()));
    let name = std::iter::once("target".to_owned());
    let mut lines = vec![
        name.chain(columns.iter().map(|(name, _)| (*name).to_owned()))
            .collect::<Vec<_>>(),
    ];
    for row in wanted {
        let cells = columns
            .iter()
            .map(|(_, cell)| cell(row).unwrap_or_else(|| "–".to_owned()));
        lines.push(std::iter::once(row.target.clone()).chain(cells).collect());
    }
    for failure in failures {
        let dashes = columns.iter().map(|_| "–".to_owned());
        lines.push(
            std::iter::once(format!(
                "{}: not measured: {}",
                failure.target,
                plain(&failure.why)
            ))
            .chain(dashes)
            .collect(),
        );
    }
    if lines.len() > 1 {
        text.push('\n');
        if !above.is_empty() {
            let _ = write!(text, "{above}\n\n");
        }
        text.push_str(&align(&lines));
    }
}

fn extra(summary: &Summary, name: &str, digits: usize) -> Option<String> {
    summary
        .extra
        .get(name)
        .map(|spread| with_ends(spread, digits))
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// Returns foreign text in a form that fits into a table cell.
fn plain(words: &str) -> String {
    words
        .chars()
        .map(|c| if c.is_control() || c == '|' { ' ' } else { c })
        .take(240)
        .collect()
}

/// Returns the text without its title, and each heading one level down.
fn demoted(markdown: &str) -> String {
    let mut text = String::new();
    let mut fenced = false;
    for line in markdown.lines() {
        fenced ^= line.starts_with("```");
        if line.starts_with("# ") && !fenced {
            continue;
        }
        if line.starts_with('#') && !fenced {
            text.push('#');
        }
        text.push_str(line);
        text.push('\n');
    }
    format!("{}\n", text.trim())
}

/// Returns the day in UTC, as 2026-01-31.
fn day(seconds: u64) -> String {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let (mut days, mut year, mut month) = (seconds / 86_400, 1970, 1);
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    for length in [
        31,
        28 + u64::from(is_leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Cpu, Quantiles, Run};

    fn run(scenario: &str, target: &str, cpu: f64, p99: f64) -> Run {
        Run {
            scenario: scenario.to_owned(),
            target: target.to_owned(),
            load: "300 × 500 tokens".to_owned(),
            cpu: Some(Cpu {
                us_per_token: cpu,
                us_per_stream: cpu * 5.0,
                user_share: 0.25,
                of_a_core: 0.5,
                waited: 0.01,
            }),
            first_token: Some(Quantiles {
                count: 9,
                p50: p99 / 2.0,
                p99,
                p999: p99,
                max: p99,
            }),
            ..Run::default()
        }
    }

    #[test]
    fn days_follow_the_calendar() {
        assert_eq!(day(0), "1970-01-01");
        assert_eq!(day(951_782_400), "2000-02-29");
        assert_eq!(day(1_795_305_600), "2026-11-22");
        assert_eq!(day(1_798_675_200), "2026-12-31");
    }

    #[test]
    fn page_shows_ratios_failures_and_changes() {
        let mut record = Record::new(BTreeMap::from([("nginx".to_owned(), "1.26.3".to_owned())]));
        record.runs = vec![
            run("paced", "direct", 1.0, 100.0),
            run("paced", "nginx", 10.0, 150.0),
            run("paced", "tokenwire/chat", 10.5, 340.0),
        ];
        record.failures = vec![Failure {
            scenario: "paced".to_owned(),
            target: "smg".to_owned(),
            why: "it ended\nwith 1 | and 2".to_owned(),
        }];
        let text = page(
            &[record],
            &[],
            "results",
            Some("# Title\n\n## Part\n\nFaster.\n"),
        );
        let line = |start: &str| {
            text.lines()
                .find(|line| line.starts_with(start))
                .unwrap_or_default()
                .to_owned()
        };
        assert!(
            line("| CPU per paced token, SSE").contains("met, 9 % under"),
            "{text}"
        );
        assert!(
            line("| added time to first token, p99").contains("met, 40 % under"),
            "{text}"
        );
        assert!(line("| tokenwire/chat").contains("1.05"), "{text}");
        assert!(
            line("| smg: not measured: it ended with 1   and 2 ").contains('–'),
            "{text}"
        );
        assert!(
            text.contains("nginx 1.26.3") && text.contains("(results/paced-cpu.svg)"),
            "{text}"
        );
        assert!(
            text.contains("\n## What was changed, with before and after\n\n### Part\n\nFaster.\n"),
            "{text}"
        );
        assert!(!text.contains("## Replay"), "{text}");
    }
}
