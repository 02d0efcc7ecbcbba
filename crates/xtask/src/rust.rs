//! The steps that cargo does.

use crate::error::Error;
use crate::process;
use crate::step::{Context, Outcome};

/// rustfmt finds nothing to change.
pub(crate) fn fmt(context: &Context<'_>) -> Result<Outcome, Error> {
    run(context, &["fmt", "--all", "--check"])
}

/// clippy finds nothing to say, in any target.
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

/// Unit and integration tests: with nextest where it is, since it runs the tests of all crates side
/// by side; else with `cargo test`.
pub(crate) fn test(context: &Context<'_>) -> Result<Outcome, Error> {
    let root = context.workspace.root();
    if process::succeeds(process::cargo(root).args(["nextest", "--version"])) {
        return run(context, &["nextest", "run", "--workspace"]);
    }
    if context.rest.is_empty() {
        return run(
            context,
            &[
                "test",
                "--workspace",
                "--lib",
                "--bins",
                "--tests",
                "--examples",
            ],
        );
    }
    run(
        context,
        &[
            "test",
            "--workspace",
            "--lib",
            "--bins",
            "--tests",
            "--examples",
            "--",
        ],
    )
}

/// The examples in the documentation.
pub(crate) fn doctest(context: &Context<'_>) -> Result<Outcome, Error> {
    run(context, &["test", "--workspace", "--doc"])
}

/// The soak, which is kept out of the other tests because it takes minutes and both cores.
pub(crate) fn soak(context: &Context<'_>) -> Result<Outcome, Error> {
    run(
        context,
        &[
            "test",
            "--package",
            "tokenwire",
            "--test",
            "soak",
            "--",
            "--ignored",
            "--nocapture",
        ],
    )
}

/// Licences, banned crates and sources of everything that is built in. Advisories are left out:
/// they come from a network, and change without the project changing.
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
        command.args(["--color", if process::plain() { "never" } else { "auto" }]);
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
            "cargo-deny is not installed; --with-deny builds it, once, in some minutes",
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
