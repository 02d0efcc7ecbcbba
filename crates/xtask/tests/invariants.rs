//! What each crate must know nothing of, and what every crate must hold to.
//!
//! The dependency trees are asked for one package at a time: a build of the whole workspace unifies
//! features, and would hide that an adapter alone pulls in what another crate asked for.
#![expect(clippy::unwrap_used, reason = "a test that cannot look has failed")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// HTTP servers.
const SERVERS: &[&str] = &[
    "actix",
    "axum",
    "hyper-server",
    "warp",
    "tiny_http",
    "tungstenite",
    "tokio-tungstenite",
];
/// What speaks to OpenAI.
const UPSTREAMS: &[&str] = &["async-openai", "reqwest"];
/// What only tests and measurements use.
const DEV_TOOLS: &[&str] = &[
    "arbitrary",
    "criterion",
    "gungraun",
    "hdrhistogram",
    "indicatif",
    "insta",
    "loom",
    "mlua",
    "plotters",
    "proptest",
    "shuttle",
    "tokio-tungstenite",
    "wiremock",
];
/// The crates that only tests and people at work on the project use.
const OWN_DEV_CRATES: &[&str] = &[
    "tokenwire-bench",
    "tokenwire-micro",
    "tokenwire-testkit",
    "xtask",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap()
        .to_owned()
}

/// The names of everything that `package` is built from, itself included.
fn tree(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree", "-p", package, "-e", "normal", "--prefix", "none", "--format", "{p}",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "cargo tree -p {package} failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let names: BTreeSet<String> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    assert!(
        names.contains(package),
        "cargo tree -p {package} does not name the package itself: {names:?}"
    );
    names
}

/// Whether `name` is `family` or one of its crates: `actix` has `actix-web`, `actix_derive` and the
/// like.
fn is_of(family: &str, name: &str) -> bool {
    name.strip_prefix(family)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '_']))
}

#[track_caller]
fn check_absent(package: &str, families: &[&str]) {
    let present: Vec<String> = tree(package)
        .into_iter()
        .filter(|name| families.iter().any(|family| is_of(family, name)))
        .collect();
    assert!(
        present.is_empty(),
        "{package} must not depend on {present:?}; `cargo tree -p {package} -e normal -i {}` shows why it does",
        present[0]
    );
}

/// The manifests of all crates of the workspace.
fn manifests() -> Vec<(PathBuf, String)> {
    let crates = std::fs::read_dir(root().join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let manifests: Vec<_> = crates
        .chain(["benches", "benches/micro"].map(|folder| root().join(folder)))
        .map(|folder| folder.join("Cargo.toml"))
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), std::fs::read_to_string(&path).unwrap()))
        .collect();
    assert!(
        manifests.len() > 5,
        "the crates are not where they are expected: {manifests:?}"
    );
    manifests
}

#[test]
fn core_and_store_know_no_http_server() {
    check_absent("tokenwire-core", SERVERS);
    check_absent("tokenwire-store", SERVERS);
    check_absent("tokenwire-peer", SERVERS);
}

#[test]
fn the_adapters_know_no_openai() {
    check_absent("tokenwire-sse", UPSTREAMS);
    check_absent("tokenwire-ws", UPSTREAMS);
}

#[test]
fn the_adapters_do_not_know_each_other() {
    check_absent("tokenwire-sse", &["tokenwire-ws"]);
    check_absent("tokenwire-ws", &["tokenwire-sse"]);
}

#[test]
fn the_gateway_is_built_without_tools_for_tests() {
    let families: Vec<&str> = DEV_TOOLS.iter().chain(OWN_DEV_CRATES).copied().collect();
    check_absent("tokenwire", &families);
    check_absent("tokenwire-simulator", &families);
}

#[test]
fn every_crate_keeps_the_lints_of_the_workspace() {
    for (path, manifest) in manifests() {
        let after = manifest
            .split_once("[lints]")
            .unwrap_or_else(|| panic!("{} has no [lints]", path.display()))
            .1;
        let first = after.lines().map(str::trim).find(|line| !line.is_empty());
        assert_eq!(
            first,
            Some("workspace = true"),
            "{}: [lints] must say `workspace = true`",
            path.display()
        );
    }
}

#[test]
fn every_version_stands_once_in_the_workspace_manifest() {
    for (path, manifest) in manifests() {
        let mut section = "";
        for line in manifest
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            if line.starts_with('[') {
                section = line;
            } else if section.contains("dependencies") && line.contains('=') {
                let inherits = line.contains("workspace = true") || line.contains("path = ");
                assert!(
                    inherits,
                    "{}: `{line}` must take its version from [workspace.dependencies]",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn a_forbidden_crate_would_be_seen() {
    let has = |package: &str, family: &str| tree(package).iter().any(|name| is_of(family, name));
    assert!(
        has("tokenwire-sse", "actix") && has("tokenwire-ws", "actix"),
        "the adapters are for actix"
    );
    assert!(
        has("tokenwire", "reqwest"),
        "the gateway speaks to upstreams with reqwest"
    );
}

#[test]
fn a_family_is_told_from_a_name_that_begins_alike() {
    assert!(
        is_of("actix", "actix-web") && is_of("actix", "actix_derive") && is_of("actix", "actix")
    );
    assert!(!is_of("actix", "actixish") && !is_of("reqwest", "request"));
}
