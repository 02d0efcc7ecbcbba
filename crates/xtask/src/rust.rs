//! The steps that cargo runs.

use std::num::NonZero;
use std::process::Command;

use crate::error::Error;
use crate::process;
use crate::step::{Context, Outcome, Tier};
use crate::terminal;

/// rustfmt finds nothing to change.
pub(crate) fn fmt(context: &Context<'_>) -> Result<Outcome, Error> {
    run(context, &["fmt", "--all", "--check"])
}

/// clippy has no warnings in any target.
pub(crate) fn clippy(context: &Context<'_>) -> Result<Outcome, Error> {
    run(
        context,
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
    )
}

/// The unit tests, and the tests of this crate that look at the sources only.
pub(crate) fn unit(context: &Context<'_>) -> Result<Outcome, Error> {
    // The features are those of the whole workspace, so that the other steps find this build.
    run(
        context,
        &[
            "test",
            "--workspace",
            "--lib",
            "--bins",
            "--test",
            "layers",
            "--test",
            "words",
        ],
    )
}

/// The unit and integration tests. nextest runs the tests of all crates in parallel, the heaviest in
/// the wider tiers only; without it all of them run with `cargo test`.
pub(crate) fn test(context: &Context<'_>) -> Result<Outcome, Error> {
    let root = context.workspace.root();
    let is_wide = matches!(context.tier, Tier::Ci | Tier::Full);
    let has_nextest = process::succeeds(process::cargo(root).args(["nextest", "--version"]));
    let mut command = process::cargo(root);
    let threads = if has_nextest {
        // What is asked for by name is not left out.
        let is_whole = is_wide || !context.rest.is_empty();
        let profile = if is_whole { "ci" } else { "default" };
        command
            .args(["nextest", "run", "--workspace", "--profile", profile])
            .args(context.rest);
        "NEXTEST_TEST_THREADS"
    } else {
        command.args(["test", "--workspace", "--lib", "--bins", "--tests"]);
        command.args(["--examples", "--no-fail-fast"]);
        if !context.rest.is_empty() {
            command.arg("--").args(context.rest);
        }
        "RUST_TEST_THREADS"
    };
    if std::env::var_os(threads).is_none() {
        // Most tests wait for a process, a timeout or a disk most of the time: with two for each core,
        // half of two cores was idle.
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        command.env(threads, (3 * cores).to_string());
    }
    if std::env::var_os(SEEDS).is_none() {
        // The step `simulation` of the wider tiers runs the same seeds, and many more.
        command.env(SEEDS, "10");
    }
    process::run(&mut command).map(|()| Outcome::Passed)
}

/// The examples in the documentation.
pub(crate) fn doctest(context: &Context<'_>) -> Result<Outcome, Error> {
    run(context, &["test", "--workspace", "--doc"])
}

/// Returns a command that runs integration tests of these names; what is added goes to the tests.
///
/// The whole workspace is selected with [`WHOLE`], so that nothing is built that the step `test` has
/// built already.
pub(crate) fn integration_tests(context: &Context<'_>, names: &[&str]) -> Command {
    let mut command = process::cargo(context.workspace.root());
    command.args(["test", "--workspace"]);
    command.args(
        names
            .iter()
            .chain(&[WHOLE])
            .flat_map(|name| ["--test", name]),
    );
    command.arg("--");
    command
}

/// The soak. It is no part of the other tests because it takes minutes and all cores.
pub(crate) fn soak(context: &Context<'_>) -> Result<Outcome, Error> {
    let mut command = integration_tests(context, &["soak"]);
    command
        .args(["--ignored", "--nocapture"])
        .args(context.rest);
    if context.tier == Tier::Full && std::env::var_os("SOAK_MINUTES").is_none() {
        command.env("SOAK_MINUTES", "30");
    }
    process::run(&mut command).map(|()| Outcome::Passed)
}

/// The simulation with more seeds than the other tests take.
pub(crate) fn simulation(context: &Context<'_>) -> Result<Outcome, Error> {
    let mut command = integration_tests(context, &["simulation"]);
    command.arg("--nocapture").args(context.rest);
    if std::env::var_os(SEEDS).is_none() {
        command.env(SEEDS, "1000");
    }
    process::run(&mut command).map(|()| Outcome::Passed)
}

/// Licences, banned crates and sources of all dependencies. Advisories are left out: they come from
/// a network and change without a change of the project.
pub(crate) fn deny(context: &Context<'_>) -> Result<Outcome, Error> {
    let root = context.workspace.root();
    let installed = context.workspace.tools().join("bin/cargo-deny");
    if installed.is_file() || process::which("cargo-deny").is_some() {
        let program = if installed.is_file() {
            installed
        } else {
            "cargo-deny".into()
        };
        let mut command = process::command(program, root);
        command.args(["--color", if terminal::plain() { "never" } else { "auto" }]);
        command
            .args([
                "--log-level",
                "warn",
                "--config",
                ".deny.toml",
                "check",
                "licenses",
                "bans",
                "sources",
            ])
            .args(context.rest);
        return process::run(&mut command).map(|()| Outcome::Passed);
    }
    if !context.with_deny {
        return Ok(Outcome::Skipped(
            "cargo-deny is not installed; --with-deny builds it once, which takes some minutes",
        ));
    }
    let tools = context.workspace.tools();
    process::run(
        process::cargo(root)
            .args([
                "install",
                "cargo-deny",
                "--locked",
                "--quiet",
                "--version",
                DENY,
                "--root",
            ])
            .arg(tools),
    )?;
    deny(context)
}

/// A small test to select beside a part of the workspace. It uses crates that macros are made of.
/// cargo builds those with symbols only if a selected test or program uses them. Without this one,
/// they and all that depends on macros would be built a second time.
pub(crate) const WHOLE: &str = "layers";

/// How many seeds the simulations run.
const SEEDS: &str = "SIMULATION_SEEDS";

/// The version of cargo-deny that `--with-deny` builds.
const DENY: &str = "0.20.2";

fn run(context: &Context<'_>, arguments: &[&str]) -> Result<Outcome, Error> {
    process::run(
        process::cargo(context.workspace.root())
            .args(arguments)
            .args(context.rest),
    )
    .map(|()| Outcome::Passed)
}
