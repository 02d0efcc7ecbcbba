//! How often each branch is taken, for the compiler.
//!
//! The gateway is built with counters, which it writes to a file when it ends. `.cargo/rustc.sh` passes
//! the sum of these files to the compiler.

use std::path::{Path, PathBuf};

use super::load::LOADS;
use crate::error::Error;
use crate::install;
use crate::process;

/// Runs the loads against a gateway with counters, and writes what they counted to `file`.
///
/// # Errors
/// A program cannot be built or started, a load fails, or the counters cannot be read.
pub(super) fn record(root: &Path, folder: &Path, file: &Path) -> Result<(), Error> {
    check_version(root)?;
    let merger = merger(root)?;
    let (counters, unused) = (folder.join("counters"), folder.join("unused"));
    empty(&counters)?;
    empty(&unused)?;
    let target = root.join("target/profile");
    // Macros of the build and the programs of the loads have counters, too.
    process::run(super::build(root, &target).env("PROFILE_INTO", &unused))?;
    let programs = target.join("dist");
    for load in LOADS {
        // One file for each process.
        let into = counters.join(format!("{}-%p.profraw", load.name));
        let gateway = format!(
            "LLVM_PROFILE_FILE={} {}",
            process::quoted(into.as_os_str()),
            process::quoted(programs.join("tokenwire").as_os_str()),
        );
        load.run(&programs, folder, &gateway)?;
    }
    let mut merge = process::command(&merger, root);
    merge.args(["merge", "--sparse", "-o"]).arg(file);
    process::run(merge.arg(&counters))?;
    empty(&unused)
}

/// Checks that `.cargo/rustc.sh` names the compiler's LLVM: an older one could not read the file.
fn check_version(root: &Path) -> Result<(), Error> {
    let version = process::output(process::command("rustc", root).arg("-vV"));
    let version = version.unwrap_or_default();
    let major = version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: ")?.split('.').next());
    let named = format!("llvm={}", major.unwrap_or_default());
    let wrapper = root.join(".cargo/rustc.sh");
    let text = std::fs::read_to_string(&wrapper).map_err(Error::file("read", &wrapper))?;
    if text.lines().any(|line| line == named) {
        return Ok(());
    }
    Err(Error::Missing {
        what: format!("the line {named} in {}", wrapper.display()),
        remedy: "write the version there, which `rustc -vV` prints".to_owned(),
    })
}

/// Returns the program that adds up files of counters. It is of the compiler's own LLVM.
fn merger(root: &Path) -> Result<PathBuf, Error> {
    let find = || {
        let path =
            process::output(process::command("rustc", root).args(["--print", "target-libdir"]))?;
        let program = Path::new(path.trim()).parent()?.join("bin/llvm-profdata");
        program.is_file().then_some(program)
    };
    if let Some(program) = find() {
        return Ok(program);
    }
    let what = "llvm-profdata";
    install::add_component(root, "llvm-tools", what.to_owned(), true)?;
    find().ok_or_else(|| Error::Missing {
        what: what.to_owned(),
        remedy: "see where `rustc --print target-libdir` points".to_owned(),
    })
}

fn empty(folder: &Path) -> Result<(), Error> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).map_err(Error::file("delete", folder))?;
    }
    std::fs::create_dir_all(folder).map_err(Error::file("create", folder))
}
