//! Records what runs for each token and each request, for the compiler and the linker to optimise
//! programs of the profile `dist` by.

use std::path::Path;
use std::process::Command;

use crate::debian::VALGRIND;
use crate::error::Error;
use crate::install;
use crate::need::Need;
use crate::process;
use crate::terminal;
use crate::workspace::Workspace;

mod counters;
mod load;
mod order;

/// Builds the gateway with counters, runs the loads, and builds it again by what they counted. Then
/// records its functions, which the optimisation has changed.
///
/// # Errors
/// A program cannot be built, started or measured, or a file cannot be written.
pub(crate) fn record(workspace: &Workspace) -> Result<(), Error> {
    install::ensure(workspace, &[Need::Debian(VALGRIND)], true)?;
    let root = workspace.root();
    let folder = workspace.tools().join("profile");
    std::fs::create_dir_all(&folder).map_err(Error::file("create", &folder))?;
    let file = root.join("crates/server/dist.profdata");
    counters::record(root, &folder, &file)?;
    terminal::text(&format!("the counters are in {}", file.display()));

    // At a known place, whatever CARGO_TARGET_DIR is.
    let target = root.join("target");
    // The compiler lists the file among its inputs, so cargo compiles all crates again.
    process::run(&mut build(root, &target))?;
    let programs = target.join("dist");
    // As callgrind names them.
    let programs = std::fs::canonicalize(&programs).map_err(Error::file("find", &programs))?;
    let file = root.join("crates/server/functions.txt");
    let count = order::record(root, &programs, &folder, &file)?;
    terminal::text(&format!(
        "{count} functions are in {}; build again, and measure before both are committed",
        file.display()
    ));
    Ok(())
}

/// Returns what builds the gateway and the programs of the loads as packages are built.
fn build(root: &Path, target: &Path) -> Command {
    let mut build = process::cargo(root);
    build.args(["build", "--profile", "dist", "--target-dir"]);
    build.arg(target);
    for package in ["tokenwire", "tokenwire-simulator", "tokenwire-bench"] {
        build.args(["-p", package]);
    }
    // Another wrapper would leave the profile aside.
    build.env_remove("RUSTC_WRAPPER");
    build
}
