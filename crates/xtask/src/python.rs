//! The Python clients: virtual environments with the packages that `requirements.txt` pins, and the
//! tests that use them.

use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::process;
use crate::servers::{Pace, Servers};
use crate::stamp::Stamp;
use crate::step::{Context, Outcome};
use crate::workspace::Workspace;

/// The oldest Python that the pinned packages support.
const OLDEST: (u32, u32) = (3, 11);

/// Installs what `requirements` pins, with hashes, into the environment `.tools/<name>`. Returns
/// the environment's folder of programs.
///
/// # Errors
/// Python is too old, a package cannot be downloaded, or something is missing and nothing may be
/// installed.
pub(crate) fn environment(
    workspace: &Workspace,
    name: &str,
    requirements: &Path,
    may_install: bool,
) -> Result<PathBuf, Error> {
    let folder = workspace.tools().join(name);
    let programs = folder.join("bin");
    let stamp = Stamp::new(&folder, &[requirements.to_owned()])?;
    // A virtual environment stops working when the Python that it was made from is removed.
    if stamp.matches()
        && process::succeeds(
            process::command(programs.join("python"), workspace.root()).arg("--version"),
        )
    {
        return Ok(programs);
    }
    if !may_install {
        return Err(Error::Missing {
            what: format!("the Python environment {}", folder.display()),
            remedy: "leave out --no-install".to_owned(),
        });
    }
    let (major, minor) = OLDEST;
    let is_new_enough = format!("import sys; sys.exit(sys.version_info < ({major}, {minor}))");
    if !process::succeeds(
        process::command("python3", workspace.root()).args(["-c", &is_new_enough]),
    ) {
        let remedy = format!(
            "put it first on the PATH as `python3`; Debian 12 and later have the package python{major}"
        );
        return Err(Error::Missing {
            what: format!("Python {major}.{minor} or newer"),
            remedy,
        });
    }
    process::run(
        process::command("python3", workspace.root())
            .args(["-m", "venv", "--clear"])
            .arg(&folder),
    )?;
    let mut pip = process::command(programs.join("python"), workspace.root());
    pip.args([
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--no-input",
        "install",
        "--quiet",
        "--require-hashes",
        "--no-deps",
        "-r",
    ]);
    process::run(pip.arg(requirements))?;
    stamp.set()?;
    Ok(programs)
}

/// Returns the environment of the client tests and that of LiteLLM, which some of them use as
/// upstream. The two pin different versions of the same packages.
///
/// # Errors
/// As [`environment`].
pub(crate) fn clients(workspace: &Workspace, may_install: bool) -> Result<[PathBuf; 2], Error> {
    let requirements = workspace.clients().join("python/requirements.txt");
    Ok([
        environment(workspace, "python", &requirements, may_install)?,
        litellm(workspace, may_install)?,
    ])
}

/// Returns the environment of LiteLLM.
///
/// # Errors
/// As [`environment`].
pub(crate) fn litellm(workspace: &Workspace, may_install: bool) -> Result<PathBuf, Error> {
    let requirements = workspace.clients().join("python/litellm.txt");
    environment(workspace, "litellm", &requirements, may_install)
}

/// Installs LiteLLM, smg and vllm-router where `tokenwire-bench` looks for them.
///
/// # Errors
/// As [`environment`].
pub(crate) fn model_gateways(workspace: &Workspace, may_install: bool) -> Result<PathBuf, Error> {
    environment(
        workspace,
        "peers",
        &workspace.root().join("benches/peers/requirements.txt"),
        may_install,
    )
}

/// The step: openai-python, httpx, websockets and curl against the gateway.
///
/// # Errors
/// A test failed, or the servers did not start.
pub(crate) fn test(context: &Context<'_>) -> Result<Outcome, Error> {
    let [programs, litellm] = clients(context.workspace, context.may_install)?;
    let mut servers = Servers::start(context, Pace::AtOnce)?;
    let mut pytest = process::command(programs.join("python"), context.workspace.root());
    // Byte code and pytest's cache stay out of the tracked tree.
    pytest
        .args(["-B", "-m", "pytest", "-p", "no:cacheprovider", "--quiet"])
        .args(context.rest)
        .arg(context.workspace.clients().join("python"));
    servers.tell(&mut pytest);
    pytest.env("LITELLM_PROGRAM", litellm.join("litellm"));
    let tests = process::run(&mut pytest);
    servers.still_running()?;
    tests.map(|()| Outcome::Passed)
}
