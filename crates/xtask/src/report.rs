//! What the person, or the log, gets to see.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this module is how the command speaks"
)]

use std::time::Duration;

use crate::error::Error;
use crate::need::Need;
use crate::process;
use crate::runner::Line;
use crate::step::{Outcome, STEPS, Step};

/// `--list`.
pub(crate) fn list() {
    for step in STEPS {
        println!("{:<8} {}", step.name, step.about);
        if !step.needs.is_empty() {
            println!(
                "{:<8} needs {}",
                "",
                step.needs
                    .iter()
                    .map(describe)
                    .collect::<Vec<_>>()
                    .join(", ")
            );
        }
    }
}

/// The start of a step.
pub(crate) fn begin(step: &Step) {
    println!("{}", strong(&format!("== {}: {}", step.name, step.about)));
}

/// A command about to run.
pub(crate) fn command(shown: &str) {
    println!("$ {shown}");
}

/// Something of a step's own.
pub(crate) fn text(shown: &str) {
    println!("{shown}");
}

/// The end of a step.
pub(crate) fn end(line: &Line) {
    match &line.result {
        Ok(Outcome::Passed) => println!("== {}: passed in {}", line.name, seconds(line.took)),
        Ok(Outcome::Skipped(why)) => println!("== {}: skipped: {why}", line.name),
        Err(error) => println!("{}", strong(&format!("== {}: failed: {error}", line.name))),
    }
    println!();
}

/// The table at the end, its last line the count.
pub(crate) fn summary(steps: &[&Step], lines: &[Line]) {
    println!("{}", table(steps, lines));
}

/// The end of `cargo xtask install`.
pub(crate) fn installed() {
    println!("everything is there");
}

/// Why nothing could be done at all.
pub(crate) fn problem(error: &Error) {
    eprintln!("error: {error}");
}

fn table(steps: &[&Step], lines: &[Line]) -> String {
    let mut rows = vec![format!("{:<8} {:<8} {:>8}", "step", "result", "took")];
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for step in steps {
        let Some(line) = lines.iter().find(|line| line.name == step.name) else {
            rows.push(format!("{:<8} not run", step.name));
            continue;
        };
        let result = match &line.result {
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
            line.name,
            seconds(line.took)
        ));
    }
    let also = if skipped > 0 {
        format!(", {skipped} skipped")
    } else {
        String::new()
    };
    rows.push(format!("{passed} passed, {failed} failed{also}"));
    rows.join("\n")
}

fn describe(need: &Need) -> String {
    match need {
        Need::Component(component, _) => format!("{component} (rustup)"),
        Need::Debian(package) => format!("{} (apt)", package.name),
        Need::MicroRunner => {
            "gungraun-runner, at the version of Cargo.lock (cargo install)".to_owned()
        }
        Need::ModelGateways => "the packages of benches/peers/requirements.txt (pip)".to_owned(),
        Need::PythonClients => {
            "the packages of clients/python/requirements.txt and litellm.txt (pip)".to_owned()
        }
        Need::NodeClients => {
            "Node 20 or newer, and the packages of clients/node/package-lock.json (npm)".to_owned()
        }
        Need::BrowserPackages => {
            "Node 20 or newer, and the packages of tests/browser/package-lock.json (npm)".to_owned()
        }
        Need::Examples => {
            "what examples/*/requirements.txt (pip) and examples/*/package-lock.json (npm) pin"
                .to_owned()
        }
    }
}

fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}

fn strong(text: &str) -> String {
    if process::plain() {
        text.to_owned()
    } else {
        format!("\x1b[1m{text}\x1b[0m")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_ran_and_ends_with_the_count() {
        let steps: Vec<&Step> = STEPS.iter().take(4).collect();
        let line = |index: usize, result| Line {
            name: STEPS[index].name,
            took: Duration::from_millis(1250),
            result,
        };
        let lines = [
            line(0, Ok(Outcome::Passed)),
            line(1, Ok(Outcome::Skipped("absent"))),
            line(2, Err(Error::NoExecutable("tokenwire"))),
        ];
        assert_eq!(
            table(&steps, &lines),
            "step     result       took\n\
             fmt      passed      1.2 s\n\
             clippy   skipped     1.2 s\n\
             test     FAILED      1.2 s\n\
             doctest  not run\n\
             1 passed, 1 failed, 1 skipped"
        );
    }
}
