//! The Python clients: a virtual environment of exactly what `requirements.txt` pins, and the tests
//! that use it.

use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::process;
use crate::servers::Servers;
use crate::stamp::Stamp;
use crate::step::{Context, Outcome};
use crate::workspace::Workspace;

/// What the pinned packages ask for.
const OLDEST: (u32, u32) = (3, 11);

/// Brings the environment `.tools/<name>` to what `requirements` pins, hashes included, and gives
/// its folder of programs.
///
/// # Errors
/// Python is too old, a package cannot be had, or something is missing and nothing may be
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
    // A virtual environment dies with the Python it was made from, whatever its stamp says.
    if stamp.holds()
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
            "put one first on the PATH as `python3`; Debian 12 and later bring it as python{major}"
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

/// The environment of the client tests, and that of the model server that some of them put behind
/// the gateway: it pins other versions of what the clients are made of.
///
/// # Errors
/// As [`environment`].
pub(crate) fn clients(workspace: &Workspace, may_install: bool) -> Result<[PathBuf; 2], Error> {
    let of = |name, pinned| {
        environment(
            workspace,
            name,
            &workspace.clients().join(pinned),
            may_install,
        )
    };
    Ok([
        of("python", "python/requirements.txt")?,
        of("litellm", "python/litellm.txt")?,
    ])
}

/// LiteLLM, smg and vllm-router, where `tokenwire-bench` looks for them.
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

/// The step: openai-python, httpx, websockets and curl against the real gateway.
///
/// # Errors
/// A test failed, or the servers did not start.
pub(crate) fn test(context: &Context<'_>) -> Result<Outcome, Error> {
    let [programs, litellm] = clients(context.workspace, context.may_install)?;
    let mut servers = Servers::start(context.workspace)?;
    let mut pytest = process::command(programs.join("python"), context.workspace.root());
    // Neither byte code nor pytest's cache belongs into the tracked tree.
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
