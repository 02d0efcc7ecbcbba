//! `tokenwire-bench`: a load generator for token streams, over SSE and WebSocket.
//!
//! One thread with one epoll carries thousands of streams ([`load`]); its parsers ([`http`], [`sse`], [`websocket`]) hand out slices of
//! what was read and copy only what a read cut in two, because a tool that costs more per token than what it measures
//! would measure itself. It starts the simulator and every target ([`target`], [`peer`]), pins them apart, and runs each
//! [`scenario`] against each in turn, round after round, so that every ratio compares runs that are seconds apart.
//! What counts is CPU time of the process under test per token delivered ([`process`]): on a noisy machine it survives where
//! wall time does not.

mod cli;
mod connection;
mod http;
mod load;
mod measure;
mod peer;
mod process;
mod report;
mod request;
mod scenario;
mod sse;
mod target;
mod tokens;
mod websocket;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::{Cli, upstream_hint};
use crate::load::Load;
use crate::measure::Run;
use crate::report::Summary;
use crate::scenario::{Bench, BenchError, Name};
use crate::target::{Bed, Programs, Target};

type AnyError = Box<dyn std::error::Error>;

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

/// Runs everything and reports; whether no token was lost or doubled and no stream broke.
fn measure(cli: &Cli) -> Result<bool, AnyError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second one ends this process at once.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let files = process::raise_open_files()?;
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
    let mut bench = Bench { bed: Bed::new(programs, cli.needs_simulator())?, load: Load::new(stop)? };
    let mut runs = Vec::new();
    let outcome = cli.scenarios().into_iter().try_for_each(|scenario| rounds(cli, &mut bench, scenario, &mut runs));
    // What was measured before is worth its report, whatever came then.
    let failure = match outcome {
        Err(BenchError::Interrupted) => {
            tell("interrupted; reporting the runs that had ended");
            None
        }
        other => other.err(),
    };
    drop(bench);
    if !runs.is_empty() {
        report(cli, &runs)?;
    }
    if let Some(failure) = failure {
        return Err(failure.into());
    }
    Ok(!runs.is_empty() && runs.iter().all(|run| run.lost == 0 && run.doubled == 0 && run.broken == 0))
}

/// All rounds of one scenario, against every target in turn.
fn rounds(cli: &Cli, bench: &mut Bench, scenario: Name, runs: &mut Vec<Run>) -> Result<(), BenchError> {
    let settings = cli.settings(scenario);
    let mut targets = Vec::<Target>::new();
    for kind in cli.kinds(scenario) {
        let mut target = match bench.bed.start(&kind) {
            // The bar is worth knowing without a peer that is not installed; its figures are then not measured.
            Err(error) if cli.scenario == Name::Bar && kind.is_peer() => {
                tell(&format!("warning: {error}"));
                continue;
            }
            other => other?,
        };
        scenario.warm_up(bench, &mut target, &settings)?;
        targets.push(target);
    }
    if targets.is_empty() {
        tell(&format!("no target fits {}; see --help", scenario.as_str()));
    }
    for round in 0..cli.rounds {
        for target in &mut targets {
            let bar = progress_bar(scenario, &target.name, round, cli.rounds);
            let result = scenario.run(bench, target, &settings, &mut |(done, of)| {
                bar.set_length(of);
                bar.set_position(done);
            });
            bar.finish_and_clear();
            let mut run = result?;
            run.scenario = scenario.as_str().to_owned();
            run.target.clone_from(&target.name);
            run.round = round;
            runs.push(run);
        }
    }
    Ok(())
}

fn report(cli: &Cli, runs: &[Run]) -> Result<(), AnyError> {
    let summaries = Summary::all(runs);
    let mut text = format!("{}\n{}", process::machine(), report::table(&summaries));
    if cli.scenario == Name::Bar {
        text.push_str(&report::bar(&summaries));
    }
    match writeln!(io::stdout(), "{text}") {
        // Whoever reads may have left, as `head` does.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    if let Some(path) = &cli.json {
        report::write_json(path, &summaries, runs).map_err(|error| format!("failed to write {}: {error}", path.display()))?;
    }
    if let Some(dir) = &cli.svg {
        report::write_svg(dir, &summaries, runs).map_err(|error| format!("failed to plot into {}: {error}", dir.display()))?;
    }
    Ok(())
}

/// Where the programs are; with two cores or more the load side is pinned here and now.
fn programs(cli: &Cli) -> Result<Programs, AnyError> {
    let beside = |name: &str| -> io::Result<PathBuf> { Ok(std::env::current_exe()?.with_file_name(name)) };
    let simulator = cli.simulator.as_ref().map_or_else(|| beside("tokenwire-simulator"), std::path::absolute)?;
    let tokenwire = cli.tokenwire.as_ref().map_or_else(|| beside("tokenwire"), std::path::absolute)?;
    let mut packages = Vec::new();
    let kinds = || cli.scenarios().into_iter().flat_map(|scenario| cli.kinds(scenario));
    if cli.simulator.is_none() && cli.needs_simulator() {
        packages.push("tokenwire-simulator");
    }
    if cli.tokenwire.is_none() && kinds().any(|kind| matches!(kind, target::Kind::Tokenwire(_))) {
        packages.push("tokenwire");
    }
    build(cli, &packages)?;
    let cores = process::cores();
    let target_cores = match cores.as_slice() {
        [first, second, ..] if !cli.no_pin => {
            process::pin(&[*first])?;
            Some(vec![*second])
        }
        _ => None,
    };
    Ok(Programs { simulator, tokenwire, simulator_port: cli.simulator_port, target_cores, model: cli.model.clone(), key: cli.key.clone() })
}

/// Under `cargo run` the programs beside this one are brought up to date, so that what is measured is what the source says.
fn build(cli: &Cli, packages: &[&str]) -> Result<(), AnyError> {
    let Some(cargo) = std::env::var_os("CARGO").filter(|_| !cli.no_build && !packages.is_empty()) else {
        return Ok(());
    };
    let mut command = std::process::Command::new(cargo);
    command.args(["build", "--quiet", "--bins"]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    for package in packages {
        command.args(["-p", package]);
    }
    let status = command.status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("failed to build {} ({status}); mend it, or say --no-build to measure what is there", packages.join(" and ")).into())
    }
}

fn progress_bar(scenario: Name, target: &str, round: usize, rounds: usize) -> ProgressBar {
    let draw = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(None, draw);
    if let Ok(style) = ProgressStyle::with_template("{msg:40} {wide_bar} {human_pos}/{human_len} {per_sec}") {
        bar.set_style(style);
    }
    bar.set_message(format!("{} {target} {}/{rounds}", scenario.as_str(), round + 1));
    bar
}

fn tell(text: &str) {
    // There is nobody left to tell when standard error is gone.
    let _ = writeln!(io::stderr(), "{text}");
}
