//! The examples: installed from their lock files and run as their README files describe, against
//! the gateway.

use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::node::{self, Node};
use crate::process;
use crate::python;
use crate::servers::{self, Pace, Servers};
use crate::step::{Context, Outcome};
use crate::workspace::Workspace;

/// Examples with a `package-lock.json`.
const NODE: [&str; 3] = ["openai-node", "react", "vercel-ai-sdk"];
/// Examples with a `requirements.txt`.
const PYTHON: [&str; 3] = ["langchain", "openai-python", "webhook-receiver"];
/// Examples that are crates of the workspace.
const RUST: [&str; 2] = ["tokenwire-example-client", "tokenwire-example-embed"];
/// The gateway, which the proxies' tests start with their own configuration.
const GATEWAY: &str = "tokenwire";
/// The client module, which the React example imports by its path in the checkout.
const CLIENT: &str = "crates/server/client";

/// A copy of the examples with the layout of the checkout. Packages are installed there, never in
/// the tracked tree.
struct Copied {
    node: Node,
    /// The folder that corresponds to the checkout's root.
    root: PathBuf,
    /// The folder of programs of each of [`PYTHON`].
    python: [PathBuf; 3],
}

/// Installs what the examples pin.
///
/// # Errors
/// A package cannot be downloaded, or is missing and nothing may be installed.
pub(crate) fn packages(workspace: &Workspace, may_install: bool) -> Result<(), Error> {
    copied(workspace, may_install).map(drop)
}

fn tests(workspace: &Workspace) -> PathBuf {
    workspace.root().join("crates/server/tests/examples")
}

fn copied(workspace: &Workspace, may_install: bool) -> Result<Copied, Error> {
    let node = Node::find(workspace, may_install)?;
    let root = workspace.tools().join("examples");
    copy_files(&workspace.root().join(CLIENT), &root.join(CLIENT))?;
    for entry in list(&workspace.root().join("examples"))?
        .into_iter()
        .filter(|entry| entry.is_dir())
    {
        let Some(name) = entry.file_name() else {
            continue;
        };
        copy_files(&entry, &root.join("examples").join(name))?;
    }
    for name in NODE {
        node::install(
            &node,
            &workspace.root().join("examples").join(name),
            &root.join("examples").join(name),
            may_install,
        )?;
    }
    node::install(&node, &tests(workspace), &root.join("tests"), may_install)?;
    let mut python = [const { PathBuf::new() }; 3];
    for (programs, name) in python.iter_mut().zip(PYTHON) {
        let requirements = workspace
            .root()
            .join("examples")
            .join(name)
            .join("requirements.txt");
        *programs = python::environment(
            workspace,
            &format!("examples-{name}"),
            &requirements,
            may_install,
        )?;
    }
    Ok(Copied { node, root, python })
}

/// Copies the files of one folder; packages installed beside the copies stay.
fn copy_files(from: &Path, to: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(to).map_err(Error::file("make", to))?;
    for file in list(from)?.into_iter().filter(|entry| entry.is_file()) {
        if let Some(name) = file.file_name() {
            node::copy(&file, &to.join(name))?;
        }
    }
    Ok(())
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = std::fs::read_dir(folder).map_err(Error::file("list", folder))?;
    entries
        .map(|entry| {
            entry
                .map(|entry| entry.path())
                .map_err(Error::file("list", folder))
        })
        .collect()
}

/// The step: each example, and nginx and Caddy, against the gateway.
///
/// # Errors
/// A test failed, or the servers did not start.
pub(crate) fn test(context: &Context<'_>) -> Result<Outcome, Error> {
    let workspace = context.workspace;
    let Copied {
        node,
        root,
        python: [langchain, openai, receiver],
    } = copied(workspace, context.may_install)?;
    let folder = root.join("tests");
    let tests = node::copy_tests(&tests(workspace), &folder)?;
    let [client, embed, gateway] = servers::build(workspace, [RUST[0], RUST[1], GATEWAY])?;
    let mut servers = Servers::start(context, Pace::Readable)?;
    let mut runner = node.command("node", &folder);
    runner
        .args(["--test", "--test-reporter=spec", "--test-timeout=120000"])
        .args(context.rest);
    runner.args(tests.iter().filter_map(|test| test.file_name()));
    servers.tell(&mut runner);
    runner
        .env("TOKENWIRE_ROOT", workspace.root())
        .env("EXAMPLES", root.join("examples"));
    runner
        .env("EXAMPLE_LANGCHAIN", langchain.join("python"))
        .env("EXAMPLE_OPENAI_PYTHON", openai.join("python"));
    runner.env("EXAMPLE_WEBHOOK_RECEIVER", receiver.join("python"));
    runner
        .env("EXAMPLE_RUST_CLIENT", client)
        .env("EXAMPLE_EMBED", embed)
        .env("GATEWAY", gateway);
    if let Some(chromium) = process::which("chromium") {
        runner.env("CHROMIUM", chromium);
    }
    let tests = process::run(&mut runner);
    servers.still_running()?;
    tests.map(|()| Outcome::Passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str) -> Vec<String> {
        let folder = Workspace::find().root().join("examples");
        let found = list(&folder)
            .unwrap()
            .into_iter()
            .filter(|example| example.join(name).is_file());
        let mut found: Vec<String> = found
            .map(|example| example.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        found.sort();
        found
    }

    #[test]
    fn each_example_with_a_lock_file_is_installed() {
        assert_eq!(with("package.json"), NODE);
        assert_eq!(with("package-lock.json"), NODE);
        assert_eq!(with("requirements.txt"), PYTHON);
        assert_eq!(with("Cargo.toml").len(), RUST.len());
    }

    #[test]
    fn copy_keeps_installed_packages() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(from.path().join("main.mjs"), "new").unwrap();
        std::fs::create_dir(from.path().join("node_modules")).unwrap();
        std::fs::create_dir(to.path().join("node_modules")).unwrap();
        std::fs::write(to.path().join("node_modules/package"), "installed").unwrap();
        copy_files(from.path(), to.path()).unwrap();
        assert_eq!(
            std::fs::read_to_string(to.path().join("main.mjs")).unwrap(),
            "new"
        );
        assert!(to.path().join("node_modules/package").is_file());
    }
}
