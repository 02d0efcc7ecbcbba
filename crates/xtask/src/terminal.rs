//! Output to the terminal or to a log.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this module is how the command speaks"
)]

use std::io::IsTerminal;

use crate::error::Error;

/// Whether the output goes to a log instead of a terminal: no colour, no progress bars.
pub(crate) fn plain() -> bool {
    let is_set = |name| {
        std::env::var_os(name)
            .is_some_and(|value| !value.is_empty() && value != "false" && value != "0")
    };
    is_set("CI") || is_set("NO_COLOR") || !std::io::stdout().is_terminal()
}

/// Prints a command that is about to run.
pub(crate) fn command(shown: &str) {
    println!("$ {shown}");
}

/// Prints one line or more.
pub(crate) fn text(shown: &str) {
    println!("{shown}");
}

/// Prints a heading.
pub(crate) fn heading(shown: &str) {
    if plain() {
        println!("{shown}");
    } else {
        println!("\x1b[1m{shown}\x1b[0m");
    }
}

/// Prints an error that ends the whole command.
pub(crate) fn problem(error: &Error) {
    eprintln!("error: {error}");
}
