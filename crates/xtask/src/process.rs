//! Running other programs: no standard input, and a failure that says which command it was.

use std::ffi::OsStr;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::Error;
use crate::report;

/// Whether the output goes to a log rather than to a person.
pub(crate) fn plain() -> bool {
    let is_set = |name| {
        std::env::var_os(name)
            .is_some_and(|value| !value.is_empty() && value != "false" && value != "0")
    };
    is_set("CI") || is_set("NO_COLOR") || !std::io::stdout().is_terminal()
}

/// A command in `directory` that can wait for nobody's typing.
pub(crate) fn command(program: impl AsRef<OsStr>, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(directory).stdin(Stdio::null());
    if plain() {
        command
            .env("CARGO_TERM_COLOR", "never")
            .env("CARGO_TERM_PROGRESS_WHEN", "never")
            .env("NO_COLOR", "1");
    }
    command
}

/// The cargo that runs us, so that a toolchain chosen with `cargo +…` stays chosen.
pub(crate) fn cargo(directory: &Path) -> Command {
    let mut command = command(
        std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
        directory,
    );
    // `cargo run` describes this crate to us in variables that would otherwise reach the builds
    // below and make them stale.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_")
            || name == "CARGO_MANIFEST_DIR"
            || name == "CARGO_MANIFEST_PATH"
        {
            command.env_remove(name);
        }
    }
    command
}

/// Shows the command, runs it with its output on ours, and fails if it fails.
///
/// # Errors
/// The program cannot be started, or ends with anything but success.
pub(crate) fn run(command: &mut Command) -> Result<(), Error> {
    let shown = show(command);
    report::command(&shown);
    let status = command.status().map_err(|source| Error::Spawn {
        command: shown.clone(),
        source,
    })?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::Status {
            command: shown,
            status,
        })
    }
}

/// Whether the command succeeds, its output thrown away. A program that is not there does not
/// succeed.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// What the command printed, if it succeeds and prints UTF-8.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8(output.stdout).ok())
        .flatten()
}

/// Where `PATH` has this program.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    // Debian keeps servers in sbin, which an ordinary user's PATH leaves out.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(sbin)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// The command as a person would type it.
pub(crate) fn show(command: &Command) -> String {
    let program = Path::new(command.get_program());
    // cargo and the tools in `.tools/` are named in full; what matters is the name.
    let name = program.file_name().unwrap_or(command.get_program());
    std::iter::once(name)
        .chain(command.get_args())
        .map(quoted)
        .collect::<Vec<_>>()
        .join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let is_bare = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_bare) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_it_would_be_typed() {
        let mut command = Command::new("/opt/rust/bin/cargo");
        command.args(["test", "--", "it's here"]);
        assert_eq!(show(&command), r"cargo test -- 'it'\''s here'");
    }

    #[test]
    fn a_failing_command_is_named_with_its_status() {
        let error = run(command("sh", Path::new("/")).args(["-c", "exit 3"])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`sh -c 'exit 3'` ended with exit status: 3"
        );
    }

    #[test]
    fn a_command_reads_nothing_from_the_terminal() {
        assert_eq!(
            output(&mut command("cat", Path::new("/"))).as_deref(),
            Some("")
        );
    }

    #[test]
    fn a_program_that_is_not_there_does_not_succeed() {
        assert!(!succeeds(&mut command(
            "no-such-program-anywhere",
            Path::new("/")
        )));
        assert!(which("no-such-program-anywhere").is_none());
        assert!(which("sh").is_some());
    }
}
