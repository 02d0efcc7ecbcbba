//! What `.cargo/rustc.sh` passes to the compiler.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Held while programs are written and started: one that is started meanwhile would inherit the open
/// file, which then cannot be run.
static ALONE: Mutex<()> = Mutex::new(());

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Returns the arguments that a compiler of this LLVM is started with.
fn passed(llvm: &str, arguments: &[&str], into: Option<&str>) -> Vec<String> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // In place of a compiler: tells its version, or its arguments.
    let compiler =
        "if [ \"$1\" = -vV ]; then echo \"LLVM version: $LLVM\"; else printf '%s\\n' \"$@\"; fi";
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let program = folder.join(format!("rustc-{}", std::process::id()));
    std::fs::write(&program, format!("#!/bin/sh\n{compiler}\n")).unwrap();
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let mut wrapper = Command::new(root().join(".cargo/rustc.sh"));
    wrapper.arg(&program).args(arguments).env("LLVM", llvm);
    match into {
        Some(into) => wrapper.env("PROFILE_INTO", into),
        None => wrapper.env_remove("PROFILE_INTO"),
    };
    let output = wrapper.output().unwrap();
    std::fs::remove_file(&program).unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

const DIST: &[&str] = &["--crate-name", "a b", "--out-dir", "/t/dist/deps"];

#[test]
fn program_of_the_profile_dist_is_optimised_by_the_recorded_profile() {
    let passed = passed("22.1.2", DIST, None);
    assert_eq!(passed[..DIST.len()], *DIST);
    let file = passed[DIST.len()].strip_prefix("-Cprofile-use=").unwrap();
    assert!(std::fs::metadata(file).unwrap().len() > 0, "{file}");
    assert_eq!(
        passed[DIST.len() + 1..],
        ["-Cllvm-args=-no-pgo-warn-mismatch"]
    );
}

#[test]
fn compiler_that_cannot_read_the_profile_does_without() {
    assert_eq!(passed("21.9", DIST, None), DIST);
    assert_eq!(passed("unknown", DIST, None), DIST);
}

#[test]
fn other_profiles_are_compiled_as_they_are() {
    for folder in ["/t/release/deps", "/t/debug/deps"] {
        let arguments = ["--out-dir", folder];
        assert_eq!(passed("22.1.2", &arguments, None), arguments);
        assert_eq!(passed("22.1.2", &arguments, Some("/counters")), arguments);
    }
}

#[test]
fn program_that_records_a_profile_has_counters() {
    let passed = passed("22.1.2", DIST, Some("/counters"));
    assert_eq!(passed[..DIST.len()], *DIST);
    assert_eq!(passed[DIST.len()..], ["-Cprofile-generate=/counters"]);
}

#[test]
fn variables_of_cargo_reach_the_compiler() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut wrapper = Command::new(root().join(".cargo/rustc.sh"));
    let name = "CARGO_BIN_EXE_tokenwire-bench";
    let output = wrapper.args(["printenv", name]).env(name, "/a b").output();
    assert_eq!(output.unwrap().stdout, b"/a b\n");
}
