//! The agents: unmodified agent frameworks and Codex CLI, installed from their lock files, against
//! a gateway over both kinds of upstream.

use std::path::PathBuf;

use crate::error::Error;
use crate::node::{self, Node};
use crate::process;
use crate::python;
use crate::servers::Servers;
use crate::step::{Context, Outcome};
use crate::workspace::Workspace;

/// What the tests of the agents run with.
struct Installed {
    node: Node,
    /// The folder with the Node packages, where the tests are copied.
    folder: PathBuf,
    /// The folder of programs of the Python environment.
    programs: PathBuf,
    /// The same of LiteLLM's.
    litellm: PathBuf,
}

/// Installs what the lock files of the agents pin into `.tools/agents` and `.tools/agents-python`.
///
/// # Errors
/// A package cannot be downloaded, or is missing and nothing may be installed.
pub(crate) fn packages(workspace: &Workspace, may_install: bool) -> Result<(), Error> {
    installed(workspace, may_install).map(drop)
}

fn installed(workspace: &Workspace, may_install: bool) -> Result<Installed, Error> {
    let node = Node::find(workspace, may_install)?;
    let tracked = workspace.agents();
    let folder = workspace.tools().join("agents");
    node::install(&node, &tracked, &folder, may_install)?;
    let requirements = tracked.join("requirements.txt");
    let programs = python::environment(workspace, "agents-python", &requirements, may_install)?;
    let litellm = python::litellm(workspace, may_install)?;
    Ok(Installed {
        node,
        folder,
        programs,
        litellm,
    })
}

/// The step: two turns and a tool loop of each agent, over a chat and over a Responses upstream.
///
/// # Errors
/// A test failed, or the servers did not start.
pub(crate) fn test(context: &Context<'_>) -> Result<Outcome, Error> {
    let workspace = context.workspace;
    let Installed {
        node,
        folder,
        programs,
        litellm,
    } = installed(workspace, context.may_install)?;
    let tests = node::copy_tests(&workspace.agents(), &folder)?;
    let mut servers = Servers::for_agents(context)?;
    let mut runner = node.command("node", &folder);
    runner
        .args(["--test", "--test-reporter=spec", "--test-timeout=600000"])
        .args(context.rest);
    runner.args(tests.iter().filter_map(|test| test.file_name()));
    servers.tell(&mut runner);
    runner
        .env("AGENTS", workspace.agents())
        .env("AGENTS_PYTHON", programs.join("python"))
        .env("LITELLM_PYTHON", litellm.join("python"));
    let tests = process::run(&mut runner);
    servers.still_running()?;
    tests.map(|()| Outcome::Passed)
}
