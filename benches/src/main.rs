//! `tokenwire-bench`: a load generator for token streams, over SSE and WebSocket.
//!
//! One thread with one epoll handles thousands of streams ([`load`]). Its parsers ([`http`],
//! [`sse`], [`websocket`]) return slices of the input and copy only what is split between two
//! reads, so the load costs less per token than what it measures. The program starts the simulator
//! and all targets ([`target`], [`peer`]) on separate cores. In each round it runs each
//! [`scenario`] against each target in turn, so a ratio compares runs that are seconds apart. The
//! main figure is the CPU time of the process under test per delivered token ([`process`]), which
//! is stable on a noisy machine where wall time is not.

mod cli;
mod connection;
mod cores;
mod events;
mod http;
mod load;
mod measure;
mod model_gateway;
mod peer;
mod process;
mod report;
mod request;
mod scenario;
mod session;
mod sse;
mod target;
mod tokens;
mod versions;
mod websocket;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;

use crate::cli::{Cli, upstream_hint};
use crate::cores::Cores;
use crate::load::Load;
use crate::measure::Run;
use crate::report::{Record, RecordError, Summary};
use crate::scenario::{Bench, BenchError, Name};
use crate::session::Session;
use crate::target::{Bed, Programs};

type AnyError = Box<dyn std::error::Error>;

/// A file beside the page that describes optimisations; it becomes a part of the page.
const CHANGES: &str = "OPTIMISATIONS.md";

fn main() -> ExitCode {
    let cli = Cli::parse();
    match measure(&cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            tell(&format!("error: {error}"));
            ExitCode::from(2)
        }
    }
}

/// Runs all scenarios and reports. Returns whether no token was lost or doubled and no stream
/// broke.
fn measure(cli: &Cli) -> Result<bool, AnyError> {
    if cli.is_whole() && cli.workers.len() > 1 {
        let why =
            "the bar and the page are of one number of --workers; measure others by a scenario";
        return Err(why.into());
    }
    if let Some(dir) = &cli.from {
        write_page(cli, dir)?;
        return Ok(true);
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // A second signal ends this process at once.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let files = process::raise_open_files()?;
    process::reserve_open_files(files);
    if files < cli.files_needed() {
        tell(&format!(
            "warning: {files} files may be open, {} may be needed; raise it with `ulimit -Hn`, or say fewer --streams",
            cli.files_needed()
        ));
    }
    let programs = programs(cli)?;
    if let (Some(port), false) = (cli.simulator_port, cli.url.is_empty()) {
        tell(&format!("the simulator is at {}", upstream_hint(port)));
    }
    let kinds: Vec<_> = cli
        .scenarios()
        .into_iter()
        .flat_map(|scenario| cli.kinds(scenario))
        .collect();
    let versions = versions::versions(&programs, &kinds);
    let mut session = Session {
        cli,
        bench: Bench {
            bed: Bed::new(programs, cli.needs_simulator())?,
            load: Load::new(stop)?,
        },
        whole: Record::new(versions),
    };
    // Runs before an error are reported as well.
    let failure = match session.run() {
        Err(BenchError::Interrupted) => {
            tell("interrupted; reporting the runs that had ended");
            None
        }
        other => other.err(),
    };
    let Session {
        whole: mut record, ..
    } = session;
    if !record.is_empty() {
        report(cli, &mut record)?;
    }
    if let Some(failure) = failure {
        return Err(failure.into());
    }
    if let (Some(first), false) = (record.failures.first(), cli.is_whole()) {
        return Err(format!("{} could not be measured: {}", first.target, first.why).into());
    }
    let counts = |run: &&Run| cli.scenario != Name::Results || !run.peer;
    let is_whole = |run: &Run| run.lost == 0 && run.doubled == 0 && run.broken == 0;
    let mut runs = record.runs.iter().filter(counts).peekable();
    Ok(runs.peek().is_some() && runs.all(is_whole))
}

fn report(cli: &Cli, record: &mut Record) -> Result<(), AnyError> {
    let summaries = Summary::all(&record.runs);
    let mut text = format!("{}\n{}", process::machine(), report::table(&summaries));
    for failure in &record.failures {
        text.push_str(&format!(
            "{}: {} was not measured: {}\n",
            failure.scenario, failure.target, failure.why
        ));
    }
    if cli.is_whole() {
        text.push_str(&report::bar(&summaries));
    }
    match writeln!(io::stdout(), "{text}") {
        // The reader of a pipe may have closed it, as `head` does.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    if let Some(path) = &cli.json {
        record
            .write(path)
            .map_err(|error| format!("failed to write {}: {error}", path.display()))?;
    }
    if let Some(dir) = &cli.svg {
        report::write_svg(dir, &summaries, &record.runs)
            .map_err(|error| format!("failed to plot into {}: {error}", dir.display()))?;
    }
    if cli.scenario == Name::Results {
        write_page(cli, &cli.records())?;
    }
    Ok(())
}

/// Writes the page and its plots from the records in `dir`.
fn write_page(cli: &Cli, dir: &Path) -> Result<(), AnyError> {
    let records = Record::read_all(dir)?;
    let runs: Vec<Run> = records
        .iter()
        .flat_map(|record| record.runs.iter().cloned())
        .collect();
    let plots = cli.records();
    report::write_svg(&plots, &Summary::all(&runs), &runs)
        .map_err(|error| format!("failed to plot into {}: {error}", plots.display()))?;
    // Runs with several workers may be of another machine.
    let folder = dir.join("workers");
    let by_workers = match Record::read_all(&folder) {
        Err(_) if !folder.is_dir() => Vec::new(),
        Err(RecordError::None { .. }) => Vec::new(),
        other => other?,
    };
    report::write_workers(&plots, &by_workers)
        .map_err(|error| format!("failed to plot into {}: {error}", plots.display()))?;
    let changes = fs::read_to_string(cli.out.with_file_name(CHANGES)).ok();
    let folder = plots.file_name().unwrap_or_default().to_string_lossy();
    fs::write(
        &cli.out,
        report::page(&records, &by_workers, &folder, changes.as_deref()),
    )
    .map_err(|error| format!("failed to write {}: {error}", cli.out.display()))?;
    tell(&format!(
        "wrote {} and the plots in {}",
        cli.out.display(),
        plots.display()
    ));
    Ok(())
}

/// Finds and builds the programs. Pins this thread to the cores of the load side.
fn programs(cli: &Cli) -> Result<Programs, AnyError> {
    let beside =
        |name: &str| -> io::Result<PathBuf> { Ok(std::env::current_exe()?.with_file_name(name)) };
    let simulator = cli
        .simulator
        .as_ref()
        .map_or_else(|| beside("tokenwire-simulator"), std::path::absolute)?;
    let tokenwire = cli
        .tokenwire
        .as_ref()
        .map_or_else(|| beside("tokenwire"), std::path::absolute)?;
    let mut packages = Vec::new();
    let kinds = || {
        cli.scenarios()
            .into_iter()
            .flat_map(|scenario| cli.kinds(scenario))
    };
    if cli.simulator.is_none() && cli.needs_simulator() {
        packages.push("tokenwire-simulator");
    }
    if cli.tokenwire.is_none() && kinds().any(|kind| matches!(kind, target::Kind::Tokenwire(_))) {
        packages.push("tokenwire");
    }
    build(cli, &packages)?;
    let cores = match &cli.cpus {
        Some(cores) => cores.clone().with_others(process::cores()),
        None if cli.no_pin => Cores::default(),
        None => Cores::spread(&process::cores(), cli.most_workers()),
    };
    if let Some(load) = &cores.load {
        process::pin(load)?;
    }
    Ok(Programs {
        simulator,
        tokenwire,
        simulator_port: cli.simulator_port,
        cores,
        workers: 1,
        simulator_threads: cli.simulator_threads(),
        model: cli.model.clone(),
        key: cli.key.clone(),
    })
}

/// Under `cargo run`, builds the gateway and the simulator with the profile of this program.
fn build(cli: &Cli, packages: &[&str]) -> Result<(), AnyError> {
    let Some(cargo) = std::env::var_os("CARGO").filter(|_| !cli.no_build && !packages.is_empty())
    else {
        return Ok(());
    };
    let mut command = std::process::Command::new(cargo);
    command.args([
        "build",
        "--quiet",
        "--bins",
        "--profile",
        &process::profile(),
    ]);
    for package in packages {
        command.args(["-p", package]);
    }
    let status = command.status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!(
            "failed to build {} ({status}); fix the build, or use --no-build to measure the existing programs",
            packages.join(" and ")
        )
        .into())
    }
}

pub(crate) fn tell(text: &str) {
    // A closed standard error cannot be reported.
    let _ = writeln!(io::stderr(), "{text}");
}
