//! The files of `deploy/`: the units, checked by systemd, and the configuration for Kubernetes, checked by
//! the gateway. `cargo xtask test --only deployment` checks the manifests around it.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The exposure that `systemd-analyze security` may find, in tenths; without hardening it is 96.
const EXPOSURE: u32 = 20;

/// Runs `systemd-analyze` with these arguments on copies of the units, which name the binary that was
/// built. Returns whether it succeeded, and what it said.
fn analyze(args: &[&str], units: &[&str]) -> (bool, String) {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    let folder = tempfile::TempDir::new().unwrap();
    let mut command = Command::new("systemd-analyze");
    command.args(args);
    for name in units {
        let text = fs::read_to_string(deploy.join(name)).unwrap();
        let text = text.replace("/usr/local/bin/tokenwire", env!("CARGO_BIN_EXE_tokenwire"));
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        command.arg(path);
    }
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (output.status.success(), said)
}

#[test]
fn systemd_takes_the_units() {
    let (takes, said) = analyze(&["verify"], &["tokenwire.socket", "tokenwire.service"]);
    assert!(takes, "{said}");
    assert_eq!(said, "");
}

#[test]
fn service_is_hardened() {
    let threshold = format!("--threshold={EXPOSURE}");
    let (is_hardened, said) = analyze(
        &["security", "--offline=true", "--no-pager", &threshold],
        &["tokenwire.service"],
    );
    assert!(is_hardened, "{said}");
}

#[test]
fn configuration_for_kubernetes_can_be_used() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kubernetes.yaml");
    let text = fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once("  tokenwire.yaml: |\n").unwrap();
    let (config, _) = rest.split_once("---").unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("tokenwire.yaml");
    let lines = config
        .lines()
        .map(|line| line.strip_prefix("    ").unwrap_or(line));
    fs::write(&file, lines.collect::<Vec<_>>().join("\n")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tokenwire"));
    command.arg("--check").arg("--config").arg(&file);
    command.env("TOKENWIRE_UPSTREAMS__0__API_KEY", "sk-of-the-test");
    for name in ["OPENAI_API_KEY", "OPENAI_BASE_URL", "RUST_LOG"] {
        command.env_remove(name);
    }
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}");
}
