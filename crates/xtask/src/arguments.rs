//! The command line.

use clap::{Args, Parser, Subcommand};

/// What this run was asked to do.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Brings what the tests need, then runs the tests",
    version
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) task: Task,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Run every check of the project, in the order of `--list`
    #[command(after_help = TEST_HELP)]
    Test(TestOptions),
    /// Write down how many instructions the micro-benchmarks take now, for later runs to be
    /// compared with
    #[command(after_help = RECORD_HELP)]
    Record,
    /// Only bring what the named steps need; run nothing
    #[command(after_help = INSTALL_HELP)]
    Install(InstallOptions),
}

#[derive(Debug, Default, Args)]
pub(crate) struct TestOptions {
    /// Run only this step; may be given more than once
    #[arg(long, value_name = "STEP")]
    pub(crate) only: Vec<String>,
    /// Leave this step out; may be given more than once
    #[arg(long, value_name = "STEP", conflicts_with = "only")]
    pub(crate) skip: Vec<String>,
    /// Go on after a step failed, and say at the end what did
    #[arg(long)]
    pub(crate) keep_going: bool,
    /// Show the steps, what each one checks and what it needs
    #[arg(long)]
    pub(crate) list: bool,
    /// Install nothing: a missing tool fails its step
    #[arg(long)]
    pub(crate) no_install: bool,
    /// Build cargo-deny if it is not there (some minutes, once), instead of skipping its step
    #[arg(long)]
    pub(crate) with_deny: bool,
    /// Arguments for the tool of the one step named by `--only`
    #[arg(last = true, value_name = "ARGUMENTS", requires = "only")]
    pub(crate) rest: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct InstallOptions {
    /// Steps of `cargo xtask test --list`, or `bench` for the peers the benchmarks compare with;
    /// none means all steps
    #[arg(value_name = "STEP")]
    pub(crate) steps: Vec<String>,
    /// Build cargo-deny also
    #[arg(long)]
    pub(crate) with_deny: bool,
}

const TEST_HELP: &str = "\
Examples:
  cargo xtask test                             everything; stops at the first step that fails
  cargo xtask test --keep-going                everything, whatever fails
  cargo xtask test --only clippy --only test   two steps
  cargo xtask test --only python -- -k lanes   the Python client tests whose name holds `lanes`
  cargo xtask test --only test -- resumes      the Rust tests whose name holds `resumes`

What is missing is installed: Debian packages with apt-get (through sudo unless you are root), Python and npm packages at the
versions of their lock files, into .tools/, which may be deleted at any time. With CI=true the output is plain.";

const RECORD_HELP: &str = "\
The figures go into benches/micro/instructions.json, under the compiler and the valgrind that they were counted with. Commit them
with the change that explains them: `cargo xtask test --only micro` fails where a benchmark takes over ten per cent more.";

const INSTALL_HELP: &str = "\
Examples:
  cargo xtask install          what every step of `cargo xtask test` needs
  cargo xtask install python   the Python clients only
  cargo xtask install bench    nginx, nchan, haproxy, LiteLLM, smg and vllm-router, which the benchmarks compare with";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn arguments_after_the_dashes_belong_to_one_named_step() {
        let parsed = Arguments::try_parse_from([
            "cargo xtask",
            "test",
            "--only",
            "python",
            "--",
            "-k",
            "lanes",
        ])
        .unwrap();
        let Task::Test(options) = parsed.task else {
            panic!("expected the test task")
        };
        assert_eq!(options.only, ["python"]);
        assert_eq!(options.rest, ["-k", "lanes"]);
        assert!(Arguments::try_parse_from(["cargo xtask", "test", "--", "-k"]).is_err());
    }
}
