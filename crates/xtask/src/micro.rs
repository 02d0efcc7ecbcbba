//! The micro-benchmarks in instructions, compared with the recorded figures.
//!
//! Under valgrind a program takes the same number of instructions on each machine and under any
//! load, so ten per cent more are a change of the code. Another compiler or another valgrind counts
//! differently, so figures are recorded per environment. In an environment without recorded figures
//! they are shown and not compared.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;

use crate::error::Error;
use crate::process;
use crate::step::{Context, Outcome};
use crate::terminal;
use crate::workspace::Workspace;

/// Instructions by benchmark.
type Figures = BTreeMap<String, u64>;
/// Figures by environment, as in the file.
type Recorded = BTreeMap<String, Figures>;

/// How many per cent more than recorded a benchmark may take.
const LIMIT: u64 = 10;

/// One benchmark, before and after.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    name: String,
    before: Option<u64>,
    after: Option<u64>,
}

// === impl Row ===

impl Row {
    fn is_slower(&self) -> bool {
        matches!((self.before, self.after), (Some(before), Some(after)) if u128::from(after) * 100 > u128::from(before) * u128::from(100 + LIMIT))
    }

    fn change(&self) -> String {
        match (self.before, self.after) {
            (Some(before), Some(after)) if before > 0 => {
                format!("{:+.2} %", (after as f64 / before as f64 - 1.0) * 100.0)
            }
            (None, _) => "new".to_owned(),
            (_, None) => "gone".to_owned(),
            _ => String::new(),
        }
    }
}

fn compare(before: &Figures, after: &Figures) -> Vec<Row> {
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let row = |name: &String| Row {
        name: name.clone(),
        before: before.get(name).copied(),
        after: after.get(name).copied(),
    };
    names.into_iter().map(row).collect()
}

fn table(rows: &[Row]) -> String {
    let number =
        |figure: Option<u64>| figure.map_or_else(|| "–".to_owned(), |figure| figure.to_string());
    let mut lines = vec![format!(
        "{:<40} {:>12} {:>12} {:>10}",
        "benchmark", "recorded", "now", "change"
    )];
    for row in rows {
        let mark = if row.is_slower() { "  TOO MANY" } else { "" };
        lines.push(format!(
            "{:<40} {:>12} {:>12} {:>10}{mark}",
            row.name,
            number(row.before),
            number(row.after),
            row.change()
        ));
    }
    lines.join("\n")
}

/// Parses the output of the runner: one JSON document per line.
fn figures(output: &str) -> Figures {
    let figure = |line: &str| {
        let run: Value = serde_json::from_str(line).ok()?;
        let name = format!("{}/{}", run["function_name"].as_str()?, run["id"].as_str()?);
        let of_callgrind = run["profiles"]
            .as_array()?
            .iter()
            .find(|profile| profile["tool"] == "Callgrind")?;
        Some((
            name,
            of_callgrind["data"]["total"]["metrics"]["Ir"]["values"]["new"].as_u64()?,
        ))
    };
    output
        .lines()
        .filter(|line| line.starts_with('{'))
        .filter_map(figure)
        .collect()
}

// === running the benchmarks ===

fn file(workspace: &Workspace) -> PathBuf {
    workspace.root().join("benches/micro/instructions.json")
}

fn recorded(workspace: &Workspace) -> Result<Recorded, Error> {
    let path = file(workspace);
    if !path.exists() {
        return Ok(Recorded::new());
    }
    let text = std::fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    serde_json::from_str(&text).map_err(|error| Error::file("read", &path)(error.into()))
}

/// Returns what the counts depend on beside the code.
fn environment(workspace: &Workspace) -> String {
    let version = |program: &str, argument: &str| {
        process::output(process::command(program, workspace.root()).arg(argument))
            .unwrap_or_default()
            .lines()
            .next()
            .unwrap_or("?")
            .to_owned()
    };
    format!(
        "{}, {}, {}",
        version("rustc", "--version"),
        std::env::consts::ARCH,
        version("valgrind", "--version")
    )
}

/// Installs the program that runs the benchmarks under valgrind, at the version of the library that
/// the benchmarks use, and returns its path.
///
/// # Errors
/// It is missing and may not or cannot be built.
pub(crate) fn runner(workspace: &Workspace, may_install: bool) -> Result<PathBuf, Error> {
    const NAME: &str = "gungraun-runner";
    let path = workspace.root().join("Cargo.lock");
    let lock = std::fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    let mut lines = lock
        .lines()
        .skip_while(|line| *line != format!("name = \"{NAME}\""));
    let version = lines.find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
    let version = version.ok_or_else(|| Error::Missing {
        what: NAME.to_owned(),
        remedy: "add gungraun to Cargo.lock".to_owned(),
    })?;
    let root = workspace.tools().join(format!("{NAME}-{version}"));
    let program = root.join("bin").join(NAME);
    if program.is_file() {
        return Ok(program);
    }
    if !may_install {
        return Err(Error::Missing {
            what: format!("{NAME} {version}"),
            remedy: "leave out --no-install".to_owned(),
        });
    }
    // It only starts valgrind, so it is built without optimisation and symbols, in half the time.
    let mut install = process::cargo_in_background(workspace.root());
    install.env("CARGO_PROFILE_DEV_DEBUG", "none");
    install
        .args([
            "install",
            NAME,
            "--locked",
            "--quiet",
            "--debug",
            "--version",
            version,
            "--root",
        ])
        .arg(&root);
    process::run(&mut install)?;
    Ok(program)
}

fn measure(workspace: &Workspace, may_install: bool, rest: &[String]) -> Result<Figures, Error> {
    let runner = runner(workspace, may_install)?;
    let mut bench = process::cargo_in_background(workspace.root());
    bench
        .args([
            "bench",
            "-p",
            "tokenwire-micro",
            "--bench",
            "instructions",
            "--",
            "--output-format=json",
        ])
        .args(rest);
    bench
        .env("GUNGRAUN_RUNNER", runner)
        .stderr(Stdio::inherit());
    let command = process::show(&bench);
    terminal::command(&command);
    let output = process::printing(&mut bench)
        .and_then(|bench| bench.stdout(Stdio::piped()).output())
        .map_err(|source| Error::Spawn {
            command: command.clone(),
            source,
        })?;
    let figures = figures(&String::from_utf8_lossy(&output.stdout));
    // A run without figures has failed, whatever its exit status.
    if output.status.success() && !figures.is_empty() {
        Ok(figures)
    } else {
        Err(Error::Status {
            command,
            status: output.status,
        })
    }
}

/// The step: no benchmark takes over ten per cent more instructions than recorded in this
/// environment.
///
/// # Errors
/// A benchmark takes more, or the benchmarks cannot be run.
pub(crate) fn test(context: &Context<'_>) -> Result<Outcome, Error> {
    let now = measure(context.workspace, context.may_install, context.rest)?;
    let here = environment(context.workspace);
    let mut recorded = recorded(context.workspace)?;
    let Some(before) = recorded.remove(&here) else {
        let (elsewhere, before) = recorded
            .pop_first()
            .unwrap_or_else(|| ("nowhere".to_owned(), Figures::new()));
        terminal::text(&table(&compare(&before, &now)));
        terminal::text(&format!(
            "recorded with {elsewhere}\nnow        with {here}"
        ));
        return Ok(Outcome::Skipped(
            "no figures are recorded for this toolchain and valgrind; shown for information only",
        ));
    };
    let rows = compare(&before, &now);
    terminal::text(&table(&rows));
    let slower: Vec<String> = rows
        .iter()
        .filter(|row| row.is_slower())
        .map(|row| format!("{} {}", row.name, row.change()))
        .collect();
    if slower.is_empty() {
        Ok(Outcome::Passed)
    } else {
        Err(Error::Slower {
            which: slower.join(", "),
            limit: LIMIT,
        })
    }
}

/// Records the current figures and replaces those of this environment.
///
/// # Errors
/// The benchmarks cannot be run, or the file cannot be written.
pub(crate) fn record(workspace: &Workspace) -> Result<(), Error> {
    let now = measure(workspace, true, &[])?;
    let here = environment(workspace);
    let mut recorded = recorded(workspace)?;
    let before = recorded.insert(here, now.clone()).unwrap_or_default();
    let path = file(workspace);
    let text = serde_json::to_string_pretty(&recorded)
        .map_err(|error| Error::file("write", &path)(error.into()))?;
    std::fs::write(&path, text + "\n").map_err(Error::file("write", &path))?;
    terminal::text(&table(&compare(&before, &now)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(figures: &[(&str, u64)]) -> Figures {
        figures
            .iter()
            .map(|(name, figure)| ((*name).to_owned(), *figure))
            .collect()
    }

    #[track_caller]
    fn check(before: u64, after: u64, slower: bool) {
        let rows = compare(&of(&[("it", before)]), &of(&[("it", after)]));
        assert_eq!(rows[0].is_slower(), slower, "{}", rows[0].change());
    }

    #[test]
    fn over_ten_per_cent_more_fails() {
        check(100_000, 111_000, true);
        check(100_000, 110_001, true);
        check(100_000, 110_000, false);
        check(100_000, 109_000, false);
        check(100_000, 50_000, false);
        check(u64::MAX / 2, u64::MAX, true);
    }

    #[test]
    fn new_and_removed_benchmarks_do_not_fail() {
        let rows = compare(
            &of(&[("gone", 1), ("same", 2)]),
            &of(&[("new", 3), ("same", 2)]),
        );
        let changes: Vec<_> = rows
            .iter()
            .map(|row| (row.name.as_str(), row.change(), row.is_slower()))
            .collect();
        assert_eq!(
            changes,
            [
                ("gone", "gone".to_owned(), false),
                ("new", "new".to_owned(), false),
                ("same", "+0.00 %".to_owned(), false)
            ]
        );
    }

    #[test]
    fn table_marks_benchmarks_over_the_limit() {
        let shown = table(&compare(
            &of(&[("a", 100), ("b", 100)]),
            &of(&[("a", 112), ("b", 95)]),
        ));
        let lines: Vec<_> = shown.lines().collect();
        assert!(
            lines[1].starts_with("a ") && lines[1].ends_with("+12.00 %  TOO MANY"),
            "{shown}"
        );
        assert!(
            lines[2].starts_with("b ") && lines[2].ends_with("-5.00 %"),
            "{shown}"
        );
    }

    #[test]
    fn figures_are_parsed_from_runner_output() {
        let line = r#"{"function_name":"decoder","id":"whole","profiles":[{"tool":"Callgrind","data":{"total":{"metrics":{"Ir":{"values":{"new":259113,"old":7}}}}}}]}"#;
        assert_eq!(
            figures(&format!("noise\n{line}\n{{\"other\":1}}\n")),
            of(&[("decoder/whole", 259_113)])
        );
    }

    #[test]
    fn recorded_figures_can_be_parsed() {
        let recorded = recorded(&Workspace::find()).unwrap();
        assert!(
            recorded
                .values()
                .all(|figures| figures.values().all(|figure| *figure > 0))
                && !recorded.is_empty()
        );
    }
}
