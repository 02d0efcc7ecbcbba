//! A step of `cargo xtask test`, and the tiers that steps run in.

use std::time::Duration;

use clap::ValueEnum;

use crate::error::Error;
use crate::need::Need;
use crate::workspace::Workspace;

/// One check; one row of the summary.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    /// What holds if the step passes.
    pub(crate) about: &'static str,
    /// The tiers that run the step.
    pub(crate) tiers: &'static [Tier],
    pub(crate) needs: &'static [Need],
    /// Whether the step may run beside another: its result does not depend on how busy the machine
    /// is, it builds nothing that `test` has not built or has no timeouts, and it shares no folder,
    /// port or server with another step.
    pub(crate) beside: bool,
    pub(crate) run: fn(&Context<'_>) -> Result<Outcome, Error>,
}

/// How much of the checks a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tier {
    /// Formatting, lints and unit tests: at most 4 minutes, before each commit
    Quick,
    /// What `cargo xtask test` does: at most 15 minutes, before a change is handed in
    Default,
    /// What `.ci/run` does for every change: at most 30 minutes
    Ci,
    /// All checks, with fuzzing and a soak of half an hour: by hand, before a release
    Full,
}

/// What a step knows of the run that it is part of.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    /// The name of the step.
    pub(crate) step: &'static str,
    pub(crate) workspace: &'a Workspace,
    pub(crate) tier: Tier,
    pub(crate) may_install: bool,
    pub(crate) with_deny: bool,
    /// The arguments after `--`.
    pub(crate) rest: &'a [String],
}

/// How a step ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    /// The step was not run; the text says why.
    Skipped(&'static str),
}

/// The result of one step.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) name: &'static str,
    pub(crate) took: Duration,
    pub(crate) result: Result<Outcome, Error>,
}
