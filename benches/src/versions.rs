//! Who is measured, and in which version: a figure without one is nobody's.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::model_gateway::ModelGateway;
use crate::target::{Kind, Programs, program};

/// The versions of the programs behind these targets, as far as they can be asked.
pub(crate) fn versions(programs: &Programs, kinds: &[Kind]) -> BTreeMap<String, String> {
    kinds
        .iter()
        .filter_map(|kind| version(programs, kind))
        .collect()
}

fn version(programs: &Programs, kind: &Kind) -> Option<(String, String)> {
    let asked = |name: &str, path: &Path, arguments: &[&str]| {
        Some((name.to_owned(), last_word(&said(path, arguments)?)))
    };
    match kind {
        Kind::Tokenwire(_) => asked("tokenwire", &programs.tokenwire, &["--version"]),
        Kind::Nginx => asked("nginx", &program("nginx"), &["-v"]),
        Kind::Haproxy => {
            // HAProxy version 3.0.11-1+deb13u2 2026/04/02 - https://haproxy.org/
            let line = said(&program("haproxy"), &["-v"])?;
            Some((
                "haproxy".to_owned(),
                line.split_whitespace().nth(2)?.to_owned(),
            ))
        }
        Kind::Nchan(_) => asked(
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
        said(&gateway.python(), &["-c", &line])?,
    ))
}

/// The first line that it prints, wherever it prints it.
fn said(program: &Path, arguments: &[&str]) -> Option<String> {
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
    fn a_version_is_the_last_word() {
        assert_eq!(last_word("nginx version: nginx/1.26.3"), "1.26.3");
        assert_eq!(
            last_word("libnginx-mod-nchan\t1:1.3.7+dfsg-2"),
            "1:1.3.7+dfsg-2"
        );
    }

    #[test]
    fn a_program_that_is_not_there_says_nothing() {
        assert_eq!(said(Path::new("/no/such/program"), &[]), None);
        assert_eq!(
            said(Path::new("sh"), &["-c", "echo one; echo two"]).as_deref(),
            Some("one")
        );
        assert_eq!(said(Path::new("sh"), &["-c", "echo one; exit 1"]), None);
    }
}
