//! The list of steps, the lines before and after each step, and the summary.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum as _;

use crate::step::{Outcome, Report, Step};
use crate::steps::STEPS;
use crate::terminal;

/// Prints all steps: what each checks, the tiers that run it, and what it needs.
pub(crate) fn list() {
    for step in STEPS {
        let tiers: Vec<String> = (step.tiers.iter())
            .filter_map(|tier| Some(tier.to_possible_value()?.get_name().to_owned()))
            .collect();
        terminal::text(&format!(
            "{:<17} {:<23} {}",
            step.name,
            tiers.join(" "),
            step.about
        ));
        if !step.needs.is_empty() {
            let needs: Vec<String> = step.needs.iter().map(ToString::to_string).collect();
            terminal::text(&format!("{:<41} needs {}", "", needs.join(", ")));
        }
    }
}

/// Prints the heading of a step.
pub(crate) fn begin(step: &Step) {
    terminal::heading(&format!("== {}: {}", step.name, step.about));
}

/// Prints which steps run beside each other, and where their output is meanwhile.
pub(crate) fn begin_row(steps: &[&Step], logs: &Path) {
    let names: Vec<&str> = steps.iter().map(|step| step.name).collect();
    terminal::heading(&format!(
        "== two at a time: {}; what each prints follows at its end, and is in {} before",
        names.join(", "),
        logs.display()
    ));
    terminal::text("");
}

/// Prints what a step has printed to its log.
pub(crate) fn copy(log: &Path) {
    // Without a log the step has failed, and its report says why.
    if let Ok(log) = File::open(log) {
        terminal::copy(log);
    }
}

/// Prints how a step ended.
pub(crate) fn end(report: &Report) {
    let name = report.name;
    match &report.result {
        Ok(Outcome::Passed) => {
            terminal::text(&format!("== {name}: passed in {}", seconds(report.took)));
        }
        Ok(Outcome::Skipped(why)) => terminal::text(&format!("== {name}: skipped: {why}")),
        Err(error) => terminal::heading(&format!("== {name}: failed: {error}")),
    }
    terminal::text("");
}

/// Prints the table of results, with the counts and the time of the whole run in its last line.
pub(crate) fn summary(steps: &[&Step], reports: &[Report], took: Duration) {
    terminal::text(&table(steps, reports, took));
}

fn table(steps: &[&Step], reports: &[Report], took: Duration) -> String {
    let mut rows = vec![format!("{:<8} {:<8} {:>8}", "step", "result", "took")];
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for step in steps {
        let Some(report) = reports.iter().find(|report| report.name == step.name) else {
            rows.push(format!("{:<8} not run", step.name));
            continue;
        };
        let result = match &report.result {
            Ok(Outcome::Passed) => {
                passed += 1;
                "passed"
            }
            Ok(Outcome::Skipped(_)) => {
                skipped += 1;
                "skipped"
            }
            Err(_) => {
                failed += 1;
                "FAILED"
            }
        };
        rows.push(format!(
            "{:<8} {result:<8} {:>8}",
            report.name,
            seconds(report.took)
        ));
    }
    let also = if skipped > 0 {
        format!(", {skipped} skipped")
    } else {
        String::new()
    };
    let took = seconds(took);
    rows.push(format!("{passed} passed, {failed} failed{also} in {took}"));
    rows.join("\n")
}

fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn table_lists_results_and_ends_with_counts() {
        let steps: Vec<&Step> = STEPS.iter().take(4).collect();
        let report = |index: usize, result| Report {
            name: STEPS[index].name,
            took: Duration::from_millis(1250),
            result,
        };
        let reports = [
            report(0, Ok(Outcome::Passed)),
            report(1, Ok(Outcome::Skipped("absent"))),
            report(2, Err(Error::NoExecutable("tokenwire"))),
        ];
        assert_eq!(
            table(&steps, &reports, Duration::from_secs(3)),
            "step     result       took\n\
             fmt      passed      1.2 s\n\
             clippy   skipped     1.2 s\n\
             unit     FAILED      1.2 s\n\
             test     not run\n\
             1 passed, 1 failed, 1 skipped in 3.0 s"
        );
    }
}
