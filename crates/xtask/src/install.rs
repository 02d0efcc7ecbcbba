//! Installs what steps need.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::debian;
use crate::error::Error;
use crate::need::Need;
use crate::workspace::Workspace;
use crate::{agents, deployment, examples, fuzz, micro, node, process, python, telemetry};

/// Held by the step that installs: steps that run beside each other share installations.
static INSTALLING: Mutex<()> = Mutex::new(());

/// Installs everything of `needs` that is missing, Debian packages first and together. Waits while
/// another step installs. An installation that is complete is not touched.
///
/// # Errors
/// Something is missing and may not or cannot be installed.
pub(crate) fn ensure(
    workspace: &Workspace,
    needs: &[Need],
    may_install: bool,
) -> Result<(), Error> {
    let alone = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut packages = Vec::new();
    for need in needs {
        if let Need::Debian(package) = need
            && !packages.contains(package)
        {
            packages.push(*package);
        }
    }
    debian::ensure(workspace, &packages, may_install)?;
    for need in needs {
        match need {
            Need::Component(component, command) => {
                rust_component(workspace, component, command, may_install)?
            }
            Need::Debian(_) => {}
            Need::Agents => agents::packages(workspace, may_install)?,
            Need::ManifestValidator => deployment::validator(workspace, may_install).map(drop)?,
            Need::TelemetryProtobufs => telemetry::protobufs(workspace, may_install).map(drop)?,
            Need::Fuzzer => fuzz::runner(workspace, may_install).map(drop)?,
            // Below, without the lock: it compiles for minutes, and no other step uses it.
            Need::MicroRunner => {}
            Need::ModelGateways => python::model_gateways(workspace, may_install).map(drop)?,
            Need::PythonClients => python::clients(workspace, may_install).map(drop)?,
            Need::NodeClients => node::clients(workspace, may_install)?,
            Need::Examples => examples::packages(workspace, may_install).map(drop)?,
            Need::BrowserPackages => node::browser_packages(workspace, may_install)?,
        }
    }
    drop(alone);
    if needs.contains(&Need::MicroRunner) {
        micro::runner(workspace, may_install)?;
    }
    Ok(())
}

/// Adds a component of the Rust toolchain if it is missing.
fn rust_component(
    workspace: &Workspace,
    component: &str,
    command: &str,
    may_install: bool,
) -> Result<(), Error> {
    if process::succeeds(process::cargo(workspace.root()).args([command, "--version"])) {
        return Ok(());
    }
    let what = format!("cargo {command}");
    add_component(workspace.root(), component, what, may_install)
}

/// Adds a component of the Rust toolchain.
///
/// # Errors
/// It may not or cannot be added; then `what` is missing.
pub(crate) fn add_component(
    root: &Path,
    component: &str,
    what: String,
    may_install: bool,
) -> Result<(), Error> {
    if may_install && process::which("rustup").is_some() {
        let mut rustup = process::command("rustup", root);
        return process::run(rustup.args(["component", "add", component]));
    }
    Err(Error::Missing {
        what,
        remedy: format!("rustup component add {component}"),
    })
}
