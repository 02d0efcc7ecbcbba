//! The steps that check what a registry and its users need: documentation, packages, and crates
//! that compile alone.

use crate::error::Error;
use crate::process;
use crate::step::{Context, Outcome};

/// The crates that can be published, in the order of their dependencies.
pub(crate) const LIBRARIES: [&str; 8] = [
    "tokenwire-core",
    "tokenwire-sse",
    "tokenwire-ws",
    "tokenwire-connection",
    "tokenwire-store",
    "tokenwire-peer",
    "tokenwire-webhooks",
    "tokenwire-simulator",
];

/// The documentation of all crates builds without warnings.
pub(crate) fn docs(context: &Context<'_>) -> Result<Outcome, Error> {
    let mut command = process::cargo(context.workspace.root());
    command
        .args(["doc", "--workspace", "--all-features", "--no-deps"])
        .args(context.rest)
        .env("RUSTDOCFLAGS", "-D warnings");
    process::run(&mut command).map(|()| Outcome::Passed)
}

/// Each library crate compiles without the rest of the workspace, which would add features to its
/// dependencies.
pub(crate) fn features(context: &Context<'_>) -> Result<Outcome, Error> {
    let check = |arguments: &[&str]| {
        process::run(
            process::cargo(context.workspace.root())
                .args(["check", "--lib", "--package"])
                .args(arguments)
                .args(context.rest),
        )
    };
    check(&[LIBRARIES[0], "--no-default-features"])?;
    for library in LIBRARIES {
        check(&[library])?;
        check(&[library, "--all-features"])?;
    }
    Ok(Outcome::Passed)
}

/// The library crates can be packaged. They are not built once more: that needs no registry, but
/// minutes.
pub(crate) fn package(context: &Context<'_>) -> Result<Outcome, Error> {
    let mut command = process::cargo(context.workspace.root());
    command.args(["package", "--no-verify", "--allow-dirty", "--quiet"]);
    command.args(LIBRARIES.iter().flat_map(|library| ["--package", library]));
    process::run(command.args(context.rest)).map(|()| Outcome::Passed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Workspace;

    #[test]
    fn libraries_are_the_crates_that_a_registry_accepts() {
        let metadata = process::output(process::cargo(Workspace::find().root()).args([
            "metadata",
            "--no-deps",
            "--format-version=1",
            "--offline",
        ]))
        .unwrap();
        let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
        let mut published: Vec<&str> = metadata["packages"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|package| package["publish"].is_null())
            .map(|package| package["name"].as_str().unwrap())
            .collect();
        published.sort_unstable();
        let mut expected = LIBRARIES;
        expected.sort_unstable();
        assert_eq!(published, expected);
    }
}
