//! The gateway's binary: configuration, then serving.

use std::process::ExitCode;

use clap::Parser;
use tokenwire::cli::Cli;
use tokenwire::config::{self, Config};

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "the answers of a command line go to the terminal")]
fn main() -> ExitCode {
    let cli = Cli::parse();
    let loaded = match Config::load(&cli, config::of_this_process()) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("tokenwire: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let Some(answer) = cli.answer(&loaded) {
        print!("{answer}");
    }
    ExitCode::SUCCESS
}
