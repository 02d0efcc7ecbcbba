//! The step of rolling restarts at full size, with the official SDKs among the clients, and of
//! these over two nodes.

use crate::error::Error;
use crate::node;
use crate::process;
use crate::python;
use crate::rust;
use crate::step::{Context, Outcome};

/// Streams of each of the test's five kinds, and of each of the SDKs' four, at each of five restarts.
const STREAMS: &str = "7";

/// Runs the test of rolling restarts with 300 streams and more.
///
/// # Errors
/// A test failed, or the SDKs cannot be installed.
pub(crate) fn test(context: &Context<'_>) -> Result<Outcome, Error> {
    let workspace = context.workspace;
    let scripts = workspace.root().join("crates/server/tests/restart");
    let [python, _] = python::clients(workspace, context.may_install)?;
    let (node, folder) = node::clients_folder(workspace, context.may_install)?;
    // Node finds its packages from where the module is. The step `node` may replace those beside them.
    let folder = folder.join(context.step);
    std::fs::create_dir_all(&folder).map_err(Error::file("make", &folder))?;
    let module = folder.join("sdk.mjs");
    node::copy(&scripts.join("sdk.mjs"), &module)?;
    let mut command = rust::integration_tests(context, &["operation", "cluster"]);
    command
        .args(["--nocapture", "rolling_restart::", "clients::"])
        .args(context.rest)
        .env("RESTART_PYTHON", python.join("python"))
        .env("RESTART_NODE", node)
        .env("RESTART_NODE_MODULE", module);
    if std::env::var_os("RESTART_STREAMS").is_none() {
        command.env("RESTART_STREAMS", STREAMS);
    }
    process::run(&mut command).map(|()| Outcome::Passed)
}
