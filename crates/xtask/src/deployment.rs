//! The step of the Kubernetes manifests.

use std::path::PathBuf;

use crate::error::Error;
use crate::process;
use crate::python;
use crate::step::{Context, Outcome};
use crate::workspace::Workspace;

/// Installs what checks them. Returns its folder of programs.
///
/// # Errors
/// As [`python::environment`].
pub(crate) fn validator(workspace: &Workspace, may_install: bool) -> Result<PathBuf, Error> {
    let requirements = "crates/server/tests/deployment/requirements.txt";
    let requirements = workspace.root().join(requirements);
    python::environment(workspace, "deployment", &requirements, may_install)
}

/// Checks `deploy/kubernetes.yaml` against the schemas of Kubernetes.
///
/// # Errors
/// A manifest is not valid.
pub(crate) fn test(context: &Context<'_>) -> Result<Outcome, Error> {
    let programs = validator(context.workspace, context.may_install)?;
    let program = programs.join("kubernetes-validate");
    let mut command = process::command(program, context.workspace.root());
    command.args(["--strict", "deploy/kubernetes.yaml"]);
    process::run(&mut command).map(|()| Outcome::Passed)
}
