//! The versions of the measured programs.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::model_gateway::ModelGateway;
use crate::target::{Kind, Programs, program};

/// Returns the versions of the programs behind these targets, where they can be determined.
pub(crate) fn versions(programs: &Programs, kinds: &[Kind]) -> BTreeMap<String, String> {
    kinds
        .iter()
        .filter_map(|kind| version(programs, kind))
        .collect()
}

fn version(programs: &Programs, kind: &Kind) -> Option<(String, String)> {
    let ask = |name: &str, path: &Path, arguments: &[&str]| {
        Some((name.to_owned(), last_word(&first_line(path, arguments)?)))
    };
    match kind {
        Kind::Tokenwire(_) => ask("tokenwire", &programs.tokenwire, &["--version"]),
        Kind::Nginx => ask("nginx", &program("nginx"), &["-v"]),
        Kind::Haproxy => {
            // HAProxy version 3.0.11-1+deb13u2 2026/04/02 - https://haproxy.org/
            let line = first_line(&program("haproxy"), &["-v"])?;
            Some((
                "haproxy".to_owned(),
                line.split_whitespace().nth(2)?.to_owned(),
            ))
        }
        Kind::Nchan(_) => ask(
            "nchan",
            Path::new("dpkg-query"),
            &["--show", "libnginx-mod-nchan"],
        ),
        Kind::Model(gateway) => of_package(*gateway),
        Kind::Direct | Kind::Gateway { .. } | Kind::Url { .. } => None,
    }
}

fn of_package(gateway: ModelGateway) -> Option<(String, String)> {
    let line = format!(
        "import importlib.metadata as all; print(all.version('{}'))",
        gateway.name()
    );
    Some((
        gateway.name().to_owned(),
        first_line(&gateway.python(), &["-c", &line])?,
    ))
}

/// Returns the first line that a program prints, on either output.
fn first_line(program: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text)
        .lines()
        .next()
        .map(|line| line.trim().to_owned())
}

fn last_word(line: &str) -> String {
    line.split_whitespace()
        .next_back()
        .unwrap_or_default()
        .trim_start_matches("nginx/")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_the_last_word() {
        assert_eq!(last_word("nginx version: nginx/1.26.3"), "1.26.3");
        assert_eq!(
            last_word("libnginx-mod-nchan\t1:1.3.7+dfsg-2"),
            "1:1.3.7+dfsg-2"
        );
    }

    #[test]
    fn missing_program_has_no_version() {
        assert_eq!(first_line(Path::new("/no/such/program"), &[]), None);
        assert_eq!(
            first_line(Path::new("sh"), &["-c", "echo one; echo two"]).as_deref(),
            Some("one")
        );
        assert_eq!(
            first_line(Path::new("sh"), &["-c", "echo one; exit 1"]),
            None
        );
    }
}
