//! `cargo xtask test`: installs what the tests need, then runs the tests.
//!
//! After a clone, one command tells whether everything works. It installs what is missing: Debian
//! packages, and the Python and Node clients at pinned versions, in the ignored folder `.tools/`.
//! If nothing is missing this takes milliseconds. [`steps::STEPS`] is the table of all steps, with
//! what each does, what it needs and the tiers that run it.
//!
//! Only what cargo cannot do is here: there is no `xtask build`.

mod agents;
mod arguments;
mod container;
mod debian;
mod deployment;
mod error;
mod examples;
#[path = "../../server/functions_for.rs"]
mod functions_for;
mod fuzz;
mod install;
mod interrupt;
mod micro;
mod monitoring;
mod need;
mod node;
mod process;
mod profile;
mod publish;
mod python;
mod report;
mod restarts;
mod runner;
mod rust;
mod servers;
mod stamp;
mod step;
mod steps;
mod telemetry;
mod terminal;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Task};
use workspace::Workspace;

fn main() -> ExitCode {
    if let Err(error) = interrupt::handle() {
        terminal::text(&format!("cannot handle signals: {error}"));
    }
    let workspace = Workspace::find();
    let done = match Arguments::parse().task {
        Task::Test(options) if options.list => {
            report::list();
            Ok(true)
        }
        Task::Test(options) => runner::test(&workspace, &options),
        Task::Record => micro::record(&workspace).map(|()| true),
        Task::Profile => profile::record(&workspace).map(|()| true),
        Task::Install(options) => runner::install(&workspace, &options),
    };
    interrupt::wait_if_happened();
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            terminal::problem(&error);
            ExitCode::FAILURE
        }
    }
}
