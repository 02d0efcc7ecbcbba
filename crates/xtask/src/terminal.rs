//! Output to the terminal or to a log.
#![expect(clippy::print_stderr, reason = "this module is how the command speaks")]

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, IsTerminal, Write as _};

use crate::error::Error;

thread_local! {
    /// The file that this thread writes to instead of the terminal.
    static LOG: RefCell<Option<File>> = const { RefCell::new(None) };
}

/// Calls `f`. What this thread prints meanwhile goes to `log`, and so does the output of the
/// programs that it runs.
pub(crate) fn logged<T>(log: File, f: impl FnOnce() -> T) -> T {
    let before = LOG.replace(Some(log));
    let returned = f();
    LOG.set(before);
    returned
}

/// Returns the file that this thread writes to, if not to the terminal.
///
/// # Errors
/// The process has no file descriptor left.
pub(crate) fn log() -> io::Result<Option<File>> {
    LOG.with_borrow(|log| log.as_ref().map(File::try_clone).transpose())
}

fn print(line: &str) {
    LOG.with_borrow_mut(|log| match log {
        Some(log) => {
            // A disk that is full must not hide the result of the step.
            let _ = writeln!(log, "{line}");
        }
        // Nor must an output that is closed, as by `head`.
        None => {
            let _ = writeln!(io::stdout(), "{line}");
        }
    });
}

/// Whether the output goes to a log instead of a terminal: no colour, no progress bars.
pub(crate) fn plain() -> bool {
    let is_set = |name| {
        std::env::var_os(name)
            .is_some_and(|value| !value.is_empty() && value != "false" && value != "0")
    };
    let is_logged = LOG.with_borrow(Option::is_some);
    is_logged || is_set("CI") || is_set("NO_COLOR") || !io::stdout().is_terminal()
}

/// Prints a command that is about to run.
pub(crate) fn command(shown: &str) {
    print(&format!("$ {shown}"));
}

/// Prints one line or more.
pub(crate) fn text(shown: &str) {
    print(shown);
}

/// Prints what a log contains.
pub(crate) fn copy(mut log: File) {
    // An output that is closed must not hide the result of the step.
    let _ = io::copy(&mut log, &mut io::stdout().lock());
}

/// Prints a heading.
pub(crate) fn heading(shown: &str) {
    if plain() {
        print(shown);
    } else {
        print(&format!("\x1b[1m{shown}\x1b[0m"));
    }
}

/// Prints an error that ends the whole command.
pub(crate) fn problem(error: &Error) {
    eprintln!("error: {error}");
}
