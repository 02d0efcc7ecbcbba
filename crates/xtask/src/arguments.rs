//! The command line.

use clap::{Args, Parser, Subcommand};

use crate::step::Tier;

/// The parsed command line.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Installs what the tests need and runs the tests",
    version
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) task: Task,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Run the checks of the project, in the order of `--list`
    #[command(after_help = TEST_HELP)]
    Test(TestOptions),
    /// Record how many instructions the micro-benchmarks take, for later runs to compare with
    #[command(after_help = RECORD_HELP)]
    Record,
    /// Record what runs for tokens and requests, for programs of the profile `dist` to be optimised by
    #[command(after_help = PROFILE_HELP)]
    Profile,
    /// Install what steps need, without running them
    #[command(after_help = INSTALL_HELP)]
    Install(InstallOptions),
}

#[derive(Debug, Default, Args)]
pub(crate) struct TestOptions {
    /// How much to check; without it, the default tier
    #[arg(value_enum, value_name = "TIER", conflicts_with_all = ["only", "quick", "ci", "full"])]
    tier: Option<Tier>,
    /// Formatting, lints and unit tests: at most 4 minutes
    #[arg(long, conflicts_with_all = ["only", "ci", "full"])]
    quick: bool,
    /// What `.ci/run` runs for every change: at most 30 minutes
    #[arg(long, conflicts_with_all = ["only", "full"])]
    ci: bool,
    /// All steps: fuzz targets for a minute each, a soak of 30 minutes
    #[arg(long)]
    full: bool,
    /// Run only these steps: names with commas between, or one each time
    #[arg(long, value_name = "STEPS", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Leave these steps out, written in the same way
    #[arg(
        long,
        value_name = "STEPS",
        value_delimiter = ',',
        conflicts_with = "only"
    )]
    pub(crate) skip: Vec<String>,
    /// Go on after a failed step; the summary names all that failed
    #[arg(long)]
    pub(crate) keep_going: bool,
    /// Show the steps: what each checks, its tiers and what it needs
    #[arg(long)]
    pub(crate) list: bool,
    /// Install nothing: a missing tool fails its step
    #[arg(long)]
    pub(crate) no_install: bool,
    /// Build cargo-deny if it is missing (some minutes, once) instead of skipping its step
    #[arg(long)]
    pub(crate) with_deny: bool,
    /// Arguments for the tool of the single step named by `--only`
    #[arg(last = true, value_name = "ARGUMENTS", requires = "only")]
    pub(crate) rest: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct InstallOptions {
    /// Steps of `cargo xtask test --list`, or `bench` for the peers of the benchmarks; without a
    /// name, the steps of the default tier
    #[arg(value_name = "STEP")]
    pub(crate) steps: Vec<String>,
    /// Build cargo-deny as well
    #[arg(long)]
    pub(crate) with_deny: bool,
}

// === impl TestOptions ===

impl TestOptions {
    /// Returns the tier that the options choose. `--only` ignores tiers, but for the soak, which
    /// is longer in the full one.
    pub(crate) fn tier(&self) -> Tier {
        match self {
            Self {
                tier: Some(tier), ..
            } => *tier,
            Self { quick: true, .. } => Tier::Quick,
            Self { ci: true, .. } => Tier::Ci,
            Self { full: true, .. } => Tier::Full,
            _ => Tier::Default,
        }
    }
}

const TEST_HELP: &str = "\
Tiers:
  cargo xtask test --quick    before a commit: fmt, clippy and unit tests; at most 4 minutes
  cargo xtask test            before a change is handed in: all but the heaviest tests, clients, browser; at most 15 minutes on two cores
  cargo xtask test --ci       what `.ci/run` does: both, and examples, docs, packages, micro-benchmarks and a soak; at most 30 minutes
  cargo xtask test --full     before a release: also fuzzing, and a soak of 30 minutes

Examples:
  cargo xtask test --keep-going                goes on after a step that fails
  cargo xtask test --only clippy,test          two steps
  cargo xtask test --only python -- -k lanes   the Python client tests whose name contains `lanes`
  cargo xtask test --only test -- resumes      the Rust tests whose name contains `resumes`, also those of the wider tiers

The steps from doctest to restarts run two at a time, each with its own servers, ports and folders. What such a step prints follows in
one piece at its end; meanwhile it is in .tools/logs/STEP.log. The others, and a single step of `--only`, run alone and print at once.

Missing tools are installed: Debian packages with apt-get (through sudo unless you are root), Python and npm packages at the
versions of their lock files, into .tools/, which may be deleted at any time. With CI=true the output is plain.";

const RECORD_HELP: &str = "\
The figures go into benches/micro/instructions.json, under the versions of the compiler and of valgrind. Commit them with the
change that explains them: `cargo xtask test --only micro` fails if a benchmark takes over 10 % more.";

const PROFILE_HELP: &str = "\
Two files follow from the loads of the benchmarks. crates/server/dist.profdata says how often each branch is taken; .cargo/rustc.sh passes
it to the compiler, which saves a fifth of the CPU time of a short request. crates/server/functions.txt names the functions that run often,
which the linker puts together. It takes three builds and half an hour on two cores. Record before a release, and with each new compiler
and Cargo.lock, since functions then have other names; files that are out of date cost speed and nothing else.";

const INSTALL_HELP: &str = "\
Examples:
  cargo xtask install          what the steps of `cargo xtask test` need
  cargo xtask install python   the Python clients only
  cargo xtask install bench    nginx, nchan, haproxy, LiteLLM, smg and vllm-router, which the benchmarks compare with";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn test_options(arguments: &[&str]) -> Result<TestOptions, clap::Error> {
        let all = ["cargo xtask", "test"].iter().chain(arguments);
        match Arguments::try_parse_from(all)?.task {
            Task::Test(options) => Ok(options),
            other => panic!("expected the test task, not {other:?}"),
        }
    }

    #[test]
    fn command_line_definition_is_valid() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn arguments_after_the_dashes_need_a_named_step() {
        let options = test_options(&["--only", "fmt,clippy", "--only", "test"]).unwrap();
        assert_eq!(options.only, ["fmt", "clippy", "test"]);
        let options = test_options(&["--only", "python", "--", "-k", "lanes"]).unwrap();
        assert_eq!(options.only, ["python"]);
        assert_eq!(options.rest, ["-k", "lanes"]);
        assert!(test_options(&["--", "-k"]).is_err());
    }

    #[test]
    fn tier_is_a_flag_or_a_word() {
        let tier = |arguments: &[&str]| test_options(arguments).unwrap().tier();
        assert_eq!(tier(&[]), Tier::Default);
        assert_eq!(tier(&["--quick"]), Tier::Quick);
        assert_eq!(tier(&["quick"]), Tier::Quick);
        assert_eq!(tier(&["--ci", "--keep-going"]), Tier::Ci);
        assert_eq!(tier(&["--full"]), Tier::Full);
        assert_eq!(tier(&["--full", "--only", "soak"]), Tier::Full);
        assert!(test_options(&["--quick", "--full"]).is_err());
        assert!(test_options(&["--quick", "--only", "fmt"]).is_err());
    }
}
