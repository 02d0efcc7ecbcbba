//! The table for the terminal.

use std::fmt::Write as _;

use super::{Percentiles, Summary};
use crate::measure::Spread;

/// Returns a cell of a column, or `None` if a target has no such figure.
pub(super) type Cell = fn(&Summary) -> Option<String>;

/// The columns. Those without any figure are left out.
const COLUMNS: &[(&str, Cell)] = &[
    ("CPU µs/token", |it| {
        it.cpu_us_per_token.map(|spread| with_ends(&spread, 2))
    }),
    ("× nginx", |it| {
        it.cpu_ratio.map(|spread| with_ends(&spread, 2))
    }),
    ("CPU µs/stream", |it| {
        it.cpu_us_per_stream.map(|spread| with_ends(&spread, 1))
    }),
    ("user", |it| it.user_share.map(|spread| percent(&spread))),
    ("waited", |it| it.waited.map(|spread| percent(&spread))),
    ("tokens/s", |it| {
        it.tokens_per_second
            .map(|spread| format!("{:.0}", spread.median))
    }),
    ("first token µs p50/p99", |it| {
        it.first_token.as_ref().map(two)
    }),
    ("added", |it| it.added_first_token.as_ref().map(two)),
    ("token delay µs p50/p99/p99.9/max", |it| {
        it.token_delay.as_ref().map(four)
    }),
    ("added per token", |it| {
        it.added_token_delay.as_ref().map(four)
    }),
    ("KiB/stream RSS", |it| {
        it.rss_kib_per_stream.map(|spread| with_ends(&spread, 1))
    }),
    ("PSS", |it| {
        it.pss_kib_per_stream.map(|spread| with_ends(&spread, 1))
    }),
    ("PSS × nginx", |it| {
        it.memory_ratio.map(|spread| with_ends(&spread, 2))
    }),
    ("load", |it| it.load_share.map(|spread| percent(&spread))),
    ("simulator", |it| {
        it.simulator_share.map(|spread| percent(&spread))
    }),
    ("lost", |it| Some(it.lost.to_string())),
    ("doubled", |it| Some(it.doubled.to_string())),
    ("broken", |it| Some(it.broken.to_string())),
];

/// Returns one Markdown table per scenario, aligned for a terminal.
pub(crate) fn table(summaries: &[Summary]) -> String {
    let mut text = String::new();
    for rows in Summary::groups(summaries) {
        let Some(first) = rows.first() else { continue };
        let rounds = rows.iter().map(|it| it.rounds).max().unwrap_or(0);
        let workers = first.several_workers();
        let workers = workers.map_or_else(String::new, |workers| format!(", {workers}"));
        let _ = writeln!(
            text,
            "\n{}{workers}: median of {rounds} round(s) [least–most]\n",
            first.scenario
        );
        let columns: Vec<&(&str, Cell)> = COLUMNS
            .iter()
            .filter(|(_, cell)| rows.iter().any(|row| cell(row).is_some()))
            .collect();
        let mut lines = vec![
            std::iter::once("target".to_owned())
                .chain(columns.iter().map(|(name, _)| (*name).to_owned()))
                .collect::<Vec<_>>(),
        ];
        for row in &rows {
            let cells = columns
                .iter()
                .map(|(_, cell)| cell(row).unwrap_or_else(|| "–".to_owned()));
            lines.push(std::iter::once(row.target.clone()).chain(cells).collect());
        }
        text.push_str(&align(&lines));
        for row in &rows {
            for (name, spread) in &row.extra {
                let _ = writeln!(text, "{}: {name} {}", row.target, with_ends(spread, 1));
            }
            for complaint in &row.complaints {
                let _ = writeln!(text, "{}: {complaint}", row.target);
            }
        }
    }
    text
}

/// Returns rows of cells as a Markdown table. The first row is the head; the first column is
/// left-aligned.
pub(super) fn align(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            lines
                .iter()
                .filter_map(|line| line.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for (row, line) in lines.iter().enumerate() {
        for (column, (cell, &width)) in line.iter().zip(&widths).enumerate() {
            let _ = if column == 0 {
                write!(text, "| {cell:<width$} |")
            } else {
                write!(text, " {cell:>width$} |")
            };
        }
        text.push('\n');
        if row == 0 {
            for (column, &width) in widths.iter().enumerate() {
                let dashes = "-".repeat(width.saturating_sub(1));
                let _ = if column == 0 {
                    write!(text, "| {dashes}- |")
                } else {
                    write!(text, " {dashes}: |")
                };
            }
            text.push('\n');
        }
    }
    text
}

pub(super) fn with_ends(spread: &Spread, digits: usize) -> String {
    let Spread {
        median,
        least,
        most,
    } = spread;
    if (most - least).abs() < f64::EPSILON {
        return format!("{median:.digits$}");
    }
    format!("{median:.digits$} [{least:.digits$}–{most:.digits$}]")
}

/// Returns one of the four percentiles in the order of [`Percentiles`], in µs.
pub(super) fn four_with_ends(times: Option<&Percentiles>, which: usize) -> Option<String> {
    let Percentiles {
        p50,
        p99,
        p999,
        max,
    } = times?;
    Some(with_ends([p50, p99, p999, max].get(which)?, 0))
}

fn percent(spread: &Spread) -> String {
    format!("{:.0} %", spread.median * 100.0)
}

fn two(times: &Percentiles) -> String {
    format!("{:.0}/{:.0}", times.p50.median, times.p99.median)
}

fn four(times: &Percentiles) -> String {
    format!(
        "{:.0}/{:.0}/{:.0}/{:.0}",
        times.p50.median, times.p99.median, times.p999.median, times.max.median
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_without_figures_are_omitted() {
        let summary = |target: &str, lost| Summary {
            scenario: "paced".to_owned(),
            target: target.to_owned(),
            rounds: 2,
            lost,
            cpu_us_per_token: Some(Spread {
                median: 1.5,
                least: 1.0,
                most: 2.0,
            }),
            ..Summary::default()
        };
        let text = table(&[summary("direct", 0), summary("nginx", 7)]);
        assert!(text.contains(" CPU µs/token |"), "{text}");
        assert!(text.contains("1.50 [1.00–2.00]"), "{text}");
        assert!(!text.contains("KiB/stream"), "{text}");
        let widths: Vec<usize> = text
            .lines()
            .filter(|line| line.starts_with('|'))
            .map(|line| line.chars().count())
            .collect();
        assert_eq!(widths.len(), 4);
        assert!(
            widths.iter().all(|width| Some(width) == widths.first()),
            "{text}"
        );
    }
}
