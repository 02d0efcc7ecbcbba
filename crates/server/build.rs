//! Puts the functions that run for each token and each request beside each other in an optimised
//! program.
//!
//! The program has 16 MB of code, of which a token takes 50 KB in 250 functions. In the linker's
//! own order these lie on 180 pages, more than a processor's first level of translations holds.
//! `cargo xtask profile` records the functions in `functions.txt`.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

use functions_for::environment;

mod functions_for;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=functions.txt");
    println!("cargo:rerun-if-changed=functions_for.rs");
    println!("cargo:rerun-if-changed=../../Cargo.lock");
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let file = Path::new(&variable("CARGO_MANIFEST_DIR")).join("functions.txt");
    let arguments = [
        format!("-Wl,--symbol-ordering-file={}", file.display()),
        // Functions that have since been renamed or inlined are passed over.
        "-Wl,--no-warn-symbol-ordering".to_owned(),
    ];
    // With less optimisation there are other functions.
    if variable("OPT_LEVEL") == "3" && file.exists() && linker_takes(&arguments) {
        for argument in arguments {
            println!("cargo:rustc-link-arg-bins={argument}");
        }
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let recorded = text.lines().find_map(|line| line.strip_prefix("# for "));
        let lock = Path::new(&variable("CARGO_MANIFEST_DIR")).join("../../Cargo.lock");
        if recorded != environment(&variable("RUSTC"), &lock).as_deref() {
            println!(
                "cargo:warning=functions.txt and dist.profdata are from another compiler or \
                 Cargo.lock: the program may be a fifth slower; `cargo xtask profile` records them \
                 anew"
            );
        }
    }
}

/// Returns whether the linker that cargo will use knows these arguments. LLVM's, which Rust brings
/// along for Linux on x86-64, does; others end with an error.
fn linker_takes(arguments: &[String]) -> bool {
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let folder = variable("OUT_DIR");
    let source = Path::new(&folder).join("probe.rs");
    if std::fs::write(&source, "fn main() {}\n").is_err() {
        return false;
    }
    let mut compiler = Command::new(variable("RUSTC"));
    compiler
        .args(["--edition", "2024", "--target", &variable("TARGET")])
        .arg("--out-dir")
        .arg(&folder)
        .arg(&source)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let flags = variable("CARGO_ENCODED_RUSTFLAGS");
    compiler.args(flags.split('\x1f').filter(|flag| !flag.is_empty()));
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        compiler.arg(format!("-Clinker={linker}"));
    }
    for argument in arguments {
        compiler.arg(format!("-Clink-arg={argument}"));
    }
    compiler.status().is_ok_and(|status| status.success())
}
