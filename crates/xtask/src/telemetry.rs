//! The step of traces and metrics over OTLP, which the official protobufs read.

use std::path::PathBuf;

use crate::error::Error;
use crate::process;
use crate::python;
use crate::rust;
use crate::step::{Context, Outcome};
use crate::workspace::Workspace;

/// Installs the protobufs. Returns their folder of programs.
///
/// # Errors
/// As [`python::environment`].
pub(crate) fn protobufs(workspace: &Workspace, may_install: bool) -> Result<PathBuf, Error> {
    let requirements = "crates/server/tests/telemetry/requirements.txt";
    let requirements = workspace.root().join(requirements);
    python::environment(workspace, "telemetry", &requirements, may_install)
}

/// Runs the tests of the telemetry with them.
///
/// # Errors
/// A test failed.
pub(crate) fn test(context: &Context<'_>) -> Result<Outcome, Error> {
    let programs = protobufs(context.workspace, context.may_install)?;
    let mut command = rust::integration_tests(context, &["operation"]);
    command
        .args(["telemetry::", "--nocapture"])
        .args(context.rest)
        .env("TELEMETRY_PYTHON", programs.join("python"));
    process::run(&mut command).map(|()| Outcome::Passed)
}
