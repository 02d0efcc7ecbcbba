//! What runs in Node: the clients under test, the client module and the browser's tests, each with
//! the packages that its `package-lock.json` pins.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::debian::{self, PYTHON, Package, VENV};
use crate::error::Error;
use crate::process;
use crate::python;
use crate::servers::{Pace, Servers};
use crate::stamp::Stamp;
use crate::step::{Context, Outcome};
use crate::workspace::Workspace;

/// The oldest Node that the pinned packages support.
const OLDEST: u32 = 20;
/// What a pinned Node from PyPI needs. It is used if the machine has no Node that is new enough.
/// (Debian 12 has Node 18, and its npm comes with several hundred packages.)
const FALLBACK: [Package; 2] = [PYTHON, VENV];
/// The files that determine which packages are installed.
const PINNED: [&str; 3] = ["package.json", "package-lock.json", ".npmrc"];

/// A folder of tests with the packages that they need.
#[derive(Debug, Clone, Copy)]
struct Suite {
    /// The folder in `.tools/`.
    name: &'static str,
    /// The tracked folder, relative to the root.
    tracked: &'static str,
    /// How many of its files run at a time. They share the gateways and the upstream.
    at_a_time: u8,
    pace: Pace,
}

const CLIENTS: Suite = Suite {
    name: "node",
    tracked: "crates/server/tests/clients/node",
    // Its tests count all requests of the upstream.
    at_a_time: 1,
    pace: Pace::AtOnce,
};
const BROWSER: Suite = Suite {
    name: "browser",
    tracked: "crates/server/tests/browser",
    // Its tests find their own requests by a word. More browsers would compete for the processor.
    at_a_time: 2,
    // Some act while an answer streams.
    pace: Pace::Readable,
};

/// A Node that is new enough, with its npm.
pub(crate) struct Node {
    /// The folder to put first on the PATH, where the script npm looks for `node`. `None` if the
    /// machine's own Node is used.
    programs: Option<PathBuf>,
}

// === impl Node ===

impl Node {
    /// Returns the machine's Node if it is new enough, else one from PyPI.
    ///
    /// # Errors
    /// Neither is available.
    pub(crate) fn find(workspace: &Workspace, may_install: bool) -> Result<Self, Error> {
        let version = process::output(process::command("node", workspace.root()).arg("--version"));
        let is_new_enough = version
            .as_deref()
            .and_then(major)
            .is_some_and(|major| major >= OLDEST);
        if is_new_enough && process::which("npm").is_some() {
            return Ok(Self { programs: None });
        }
        debian::ensure(workspace, &FALLBACK, may_install)?;
        let requirements = workspace.clients().join("python/node.txt");
        python::environment(workspace, "nodejs", &requirements, may_install).map(|programs| Self {
            programs: Some(programs),
        })
    }

    /// Returns a command that runs `node` or `npm` in `directory`.
    pub(crate) fn command(&self, program: &str, directory: &Path) -> std::process::Command {
        let Some(programs) = &self.programs else {
            return process::command(program, directory);
        };
        let mut command = process::command(programs.join(program), directory);
        let path = std::env::var_os("PATH").unwrap_or_default();
        if let Ok(path) = std::env::join_paths(
            std::iter::once(programs.clone()).chain(std::env::split_paths(&path)),
        ) {
            command.env("PATH", path);
        }
        command
    }
}

fn major(version: &str) -> Option<u32> {
    version
        .trim()
        .strip_prefix('v')?
        .split('.')
        .next()?
        .parse()
        .ok()
}

/// Installs what the lock file pins into `.tools/node`.
///
/// # Errors
/// Node or a package is not available, or something is missing and nothing may be installed.
pub(crate) fn clients(workspace: &Workspace, may_install: bool) -> Result<(), Error> {
    let node = Node::find(workspace, may_install)?;
    packages(workspace, &node, CLIENTS, may_install).map(drop)
}

/// Installs what the lock file pins, and returns Node's program and the folder of the packages.
///
/// # Errors
/// As for [`clients`].
pub(crate) fn clients_folder(
    workspace: &Workspace,
    may_install: bool,
) -> Result<(OsString, PathBuf), Error> {
    let node = Node::find(workspace, may_install)?;
    let folder = packages(workspace, &node, CLIENTS, may_install)?;
    let program = node.command("node", &folder).get_program().to_owned();
    Ok((program, folder))
}

/// Installs what the lock file pins into `.tools/browser`.
///
/// # Errors
/// As for [`clients`].
pub(crate) fn browser_packages(workspace: &Workspace, may_install: bool) -> Result<(), Error> {
    let node = Node::find(workspace, may_install)?;
    packages(workspace, &node, BROWSER, may_install).map(drop)
}

fn packages(
    workspace: &Workspace,
    node: &Node,
    suite: Suite,
    may_install: bool,
) -> Result<PathBuf, Error> {
    let folder = workspace.tools().join(suite.name);
    install(
        node,
        &workspace.root().join(suite.tracked),
        &folder,
        may_install,
    )?;
    Ok(folder)
}

/// Installs what the lock file in `tracked` pins into `folder`.
///
/// # Errors
/// A package cannot be downloaded, or one is missing and nothing may be installed.
pub(crate) fn install(
    node: &Node,
    tracked: &Path,
    folder: &Path,
    may_install: bool,
) -> Result<(), Error> {
    let stamp = Stamp::new(folder, &PINNED.map(|name| tracked.join(name)))?;
    if stamp.matches() {
        return Ok(());
    }
    if !may_install {
        return Err(Error::Missing {
            what: format!("the Node packages in {}", folder.display()),
            remedy: "leave out --no-install".to_owned(),
        });
    }
    std::fs::create_dir_all(folder).map_err(Error::file("make", folder))?;
    for name in PINNED {
        copy(&tracked.join(name), &folder.join(name))?;
    }
    process::run(node.command("npm", folder).args([
        "ci",
        "--no-fund",
        "--no-audit",
        "--loglevel=error",
    ]))?;
    stamp.set()
}

/// Copies the modules of `tracked` into `folder` and returns the tests among them. Node resolves
/// packages relative to a module, so the tests run as copies near `node_modules` and nothing is
/// installed in the tracked tree. Copies of renamed or deleted tests are deleted.
///
/// # Errors
/// A file cannot be read, written or deleted.
pub(crate) fn copy_tests(tracked: &Path, folder: &Path) -> Result<Vec<PathBuf>, Error> {
    std::fs::create_dir_all(folder).map_err(Error::file("make", folder))?;
    for stale in modules(folder)? {
        std::fs::remove_file(&stale).map_err(Error::file("delete", &stale))?;
    }
    let mut tests = Vec::new();
    for module in modules(tracked)? {
        let Some(name) = module.file_name() else {
            continue;
        };
        let copied = folder.join(name);
        copy(&module, &copied)?;
        if name.to_string_lossy().ends_with(".test.mjs") {
            tests.push(copied);
        }
    }
    Ok(tests)
}

fn modules(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut modules = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::file("list", folder))? {
        let path = entry.map_err(Error::file("list", folder))?.path();
        if path.extension().is_some_and(|extension| extension == "mjs") {
            modules.push(path);
        }
    }
    modules.sort();
    Ok(modules)
}

/// Copies one file.
///
/// # Errors
/// It cannot be read or written.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    std::fs::copy(from, to)
        .map_err(Error::file("copy", from))
        .map(drop)
}

/// The step: openai-node, eventsource and ws against the gateway.
///
/// # Errors
/// A test failed, or the servers did not start.
pub(crate) fn test(context: &Context<'_>) -> Result<Outcome, Error> {
    run(context, CLIENTS, |_| true)
}

/// The tests that need no browser.
const WITHOUT_BROWSER: [&str; 3] = ["client.test.mjs", "reconnect.test.mjs", "types.test.mjs"];

/// The tests of what the page does beside asking, answering and reading on.
const FEATURES: [&str; 5] = [
    "activity.test.mjs",
    "conversations.test.mjs",
    "keys.test.mjs",
    "pictures.test.mjs",
    "words.test.mjs",
];

/// The tests that wait for processes to end and to start again.
const RESTARTS: [&str; 2] = ["restart.test.mjs", "tls.test.mjs"];

/// The step: the client module in Node, over working and failing connections.
///
/// # Errors
/// A test failed, or the servers did not start.
pub(crate) fn client_module(context: &Context<'_>) -> Result<Outcome, Error> {
    run(context, BROWSER, |name| WITHOUT_BROWSER.contains(&name))
}

/// The step: the chat page and the client module in Chromium. What is new runs here, unless a step
/// of its own names it.
///
/// # Errors
/// A test failed, or the servers did not start.
pub(crate) fn browser(context: &Context<'_>) -> Result<Outcome, Error> {
    let elsewhere = [&WITHOUT_BROWSER[..], &FEATURES, &RESTARTS].concat();
    run(context, BROWSER, |name| !elsewhere.contains(&name))
}

/// The step: conversations, keys, activity, pictures and languages on the chat page.
///
/// # Errors
/// A test failed, or the servers did not start.
pub(crate) fn browser_features(context: &Context<'_>) -> Result<Outcome, Error> {
    run(context, BROWSER, |name| FEATURES.contains(&name))
}

/// The step: the chat page and the client module go on after kills, restarts and naps.
///
/// # Errors
/// A test failed, or the servers did not start.
pub(crate) fn browser_restarts(context: &Context<'_>) -> Result<Outcome, Error> {
    run(context, BROWSER, |name| RESTARTS.contains(&name))
}

fn run(
    context: &Context<'_>,
    suite: Suite,
    is_chosen: impl Fn(&str) -> bool,
) -> Result<Outcome, Error> {
    let workspace = context.workspace;
    let node = Node::find(workspace, context.may_install)?;
    let folder = packages(workspace, &node, suite, context.may_install)?;
    // Several steps use one suite, so each has copies of its own. Node finds the packages above them.
    let folder = folder.join(context.step);
    let tests = copy_tests(&workspace.root().join(suite.tracked), &folder)?;
    let mut servers = Servers::start(context, suite.pace)?;
    let mut runner = node.command("node", &folder);
    // The limit holds for a whole file as well, and browser tests are slow.
    runner.args(["--test", "--test-reporter=spec", "--test-timeout=600000"]);
    runner.arg(format!("--test-concurrency={}", suite.at_a_time));
    runner.args(context.rest);
    runner.args(
        tests
            .iter()
            .filter_map(|test| test.file_name())
            .filter(|name| is_chosen(&name.to_string_lossy())),
    );
    servers.tell(&mut runner);
    runner.env(
        "TOKENWIRE_CLIENT",
        workspace.root().join("crates/server/client"),
    );
    runner.env(
        "TOKENWIRE_ARTIFACTS",
        workspace.root().join("target/artifacts"),
    );
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

    #[test]
    fn tests_with_a_step_of_their_own_exist() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../server/tests/browser");
        for name in WITHOUT_BROWSER.iter().chain(&FEATURES).chain(&RESTARTS) {
            assert!(folder.join(name).is_file(), "{name}");
        }
    }

    #[test]
    fn major_version_is_parsed() {
        assert_eq!(major("v20.20.2\n"), Some(20));
        assert_eq!(major("20.1"), None);
        assert_eq!(major(""), None);
    }

    #[test]
    fn copies_of_deleted_tests_are_removed() {
        let tracked = tempfile::tempdir().unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(tracked.path().join("new.test.mjs"), "new").unwrap();
        std::fs::write(tracked.path().join("shared.mjs"), "shared").unwrap();
        std::fs::write(folder.path().join("old.test.mjs"), "old").unwrap();

        let tests = copy_tests(tracked.path(), folder.path()).unwrap();

        assert_eq!(tests, [folder.path().join("new.test.mjs")]);
        assert_eq!(
            modules(folder.path()).unwrap(),
            ["new.test.mjs", "shared.mjs"].map(|name| folder.path().join(name))
        );
    }
}
