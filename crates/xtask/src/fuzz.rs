//! The fuzz targets of `crates/core/fuzz`.

use std::path::PathBuf;

use crate::error::Error;
use crate::process;
use crate::step::{Context, Outcome};
use crate::workspace::Workspace;

/// The version of cargo-fuzz that is installed.
const VERSION: &str = "0.13.2";
/// How long each target runs, unless `FUZZ_SECONDS` says otherwise.
const SECONDS: &str = "60";

/// Returns cargo-fuzz, and installs it into `.tools/` if it is missing.
///
/// # Errors
/// It is missing and may not or cannot be built.
pub(crate) fn runner(workspace: &Workspace, may_install: bool) -> Result<PathBuf, Error> {
    let root = workspace.tools().join(format!("cargo-fuzz-{VERSION}"));
    let program = root.join("bin/cargo-fuzz");
    if program.is_file() {
        return Ok(program);
    }
    if let Some(program) = process::which("cargo-fuzz") {
        return Ok(program);
    }
    if !may_install {
        return Err(Error::Missing {
            what: format!("cargo-fuzz {VERSION}"),
            remedy: "leave out --no-install".to_owned(),
        });
    }
    let mut install = process::cargo(workspace.root());
    install
        .args(["install", "cargo-fuzz", "--locked", "--quiet", "--debug"])
        .args(["--version", VERSION, "--root"])
        .arg(&root);
    process::run(&mut install)?;
    Ok(program)
}

/// The step: each target for a minute.
///
/// # Errors
/// A target does not build, or has a finding. libFuzzer prints the input and its file.
pub(crate) fn test(context: &Context<'_>) -> Result<Outcome, Error> {
    let program = runner(context.workspace, context.may_install)?;
    let seconds = std::env::var("FUZZ_SECONDS").unwrap_or_else(|_| SECONDS.to_owned());
    for target in targets(context.workspace)? {
        let mut command = process::command(&program, context.workspace.root());
        command
            .args(["run", "--fuzz-dir", "crates/core/fuzz", &target, "--"])
            .arg(format!("-max_total_time={seconds}"))
            .args(context.rest)
            // The instrumentation takes unstable compiler flags; this allows them on any toolchain.
            .env("RUSTC_BOOTSTRAP", "1");
        process::run(&mut command)?;
    }
    Ok(Outcome::Passed)
}

/// Returns the names of the targets, each a file in `fuzz_targets`.
fn targets(workspace: &Workspace) -> Result<Vec<String>, Error> {
    let folder = workspace.root().join("crates/core/fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(Error::file("list", &folder))? {
        let path = entry.map_err(Error::file("list", &folder))?.path();
        if path.extension().is_some_and(|extension| extension == "rs")
            && let Some(name) = path.file_stem()
        {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_target_file_is_a_binary_of_the_fuzz_crate() {
        let workspace = Workspace::find();
        let manifest = workspace.root().join("crates/core/fuzz/Cargo.toml");
        let manifest = std::fs::read_to_string(manifest).unwrap();
        let targets = targets(&workspace).unwrap();
        assert!(!targets.is_empty());
        for target in &targets {
            let path = format!("path = \"fuzz_targets/{target}.rs\"");
            assert!(manifest.contains(&path), "no [[bin]] with {path}");
        }
        assert_eq!(manifest.matches("[[bin]]").count(), targets.len());
    }
}
