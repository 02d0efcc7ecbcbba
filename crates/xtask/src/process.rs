//! Runs other programs: without standard input, and with errors that name the command.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::Error;
use crate::terminal::{self, plain};

/// Returns a command that runs in `directory` with an empty standard input.
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

/// Returns the cargo that started this program, so that `cargo +toolchain` applies to all steps.
pub(crate) fn cargo(directory: &Path) -> Command {
    isolated(command(cargo_program(), directory))
}

/// Returns the same cargo, for a long build beside steps that have timeouts: it takes the time that
/// the others leave.
pub(crate) fn cargo_in_background(directory: &Path) -> Command {
    let mut command = command("nice", directory);
    command.args(["-n", "19"]).arg(cargo_program());
    isolated(command)
}

fn cargo_program() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn isolated(mut command: Command) -> Command {
    // `cargo run` sets variables that describe this crate. Passed on, they would make the builds
    // of the steps stale.
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

/// Prints the command and runs it. Its output goes where this thread prints.
///
/// # Errors
/// The program cannot be started or exits with a failure.
pub(crate) fn run(command: &mut Command) -> Result<(), Error> {
    let shown = show(command);
    terminal::command(&shown);
    let status = printing(command).and_then(Command::status);
    let status = status.map_err(|source| Error::Spawn {
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

/// Sends the command's output to where this thread prints.
pub(crate) fn printing(command: &mut Command) -> io::Result<&mut Command> {
    if let Some(log) = terminal::log()? {
        command.stdout(log.try_clone()?).stderr(log);
    }
    Ok(command)
}

/// Returns whether the command succeeds; its output is discarded. A missing program is a failure.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Returns what the command printed, if it succeeds and prints UTF-8.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8(output.stdout).ok())
        .flatten()
}

/// Returns the path of a program from `PATH` or a system folder.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    // Debian installs servers in sbin, which is not on an ordinary user's PATH.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(sbin)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// Returns the command as it is typed in a shell.
pub(crate) fn show(command: &Command) -> String {
    let program = Path::new(command.get_program());
    // cargo and the tools in `.tools/` have long paths; the name is enough.
    let name = program.file_name().unwrap_or(command.get_program());
    std::iter::once(name)
        .chain(command.get_args())
        .map(quoted)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Returns the word as a shell takes it.
pub(crate) fn quoted(word: &OsStr) -> String {
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
    fn show_quotes_arguments_for_a_shell() {
        let mut command = Command::new("/opt/rust/bin/cargo");
        command.args(["test", "--", "it's here"]);
        assert_eq!(show(&command), r"cargo test -- 'it'\''s here'");
    }

    #[test]
    fn run_reports_command_and_exit_status() {
        let error = run(command("sh", Path::new("/")).args(["-c", "exit 3"])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`sh -c 'exit 3'` ended with exit status: 3"
        );
    }

    #[test]
    fn output_goes_to_the_log_of_the_thread() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let script = "echo out; echo err >&2; exit 3";
        let failed = terminal::logged(std::fs::File::create(&path).unwrap(), || {
            terminal::text("before");
            let failed = run(command("sh", Path::new("/")).args(["-c", script])).is_err();
            terminal::text("after");
            failed
        });
        assert!(failed);
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            format!("before\n$ sh -c '{script}'\nout\nerr\nafter\n")
        );
        assert!(terminal::log().unwrap().is_none());
    }

    #[test]
    fn command_has_empty_standard_input() {
        assert_eq!(
            output(&mut command("cat", Path::new("/"))).as_deref(),
            Some("")
        );
    }

    #[test]
    fn missing_program_does_not_succeed() {
        assert!(!succeeds(&mut command(
            "no-such-program-anywhere",
            Path::new("/")
        )));
        assert!(which("no-such-program-anywhere").is_none());
        assert!(which("sh").is_some());
    }
}
