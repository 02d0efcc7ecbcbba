//! `cargo xtask test`: what the tests need, then the tests.
//!
//! A person who has just cloned the project types one command and learns whether everything works.
//! So the command brings what is missing by itself (Debian packages, the Python and Node clients,
//! each pinned), puts all of it in the ignored folder `.tools/`, and costs a few milliseconds when
//! nothing is missing. What a step does and what it needs stand in one table, [`step::STEPS`].
//!
//! Only what cargo cannot do alone is here: there is no `xtask build`.

mod arguments;
mod debian;
mod error;
mod examples;
mod micro;
mod need;
mod node;
mod process;
mod python;
mod report;
mod runner;
mod rust;
mod servers;
mod stamp;
mod step;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Task};
use workspace::Workspace;

fn main() -> ExitCode {
    let workspace = Workspace::find();
    let done = match Arguments::parse().task {
        Task::Test(options) if options.list => {
            report::list();
            Ok(true)
        }
        Task::Test(options) => runner::test(&workspace, &options),
        Task::Record => micro::record(&workspace).map(|()| true),
        Task::Install(options) => runner::install(&workspace, &options),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            report::problem(&error);
            ExitCode::FAILURE
        }
    }
}
