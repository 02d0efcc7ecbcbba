//! Runs the chosen steps one after the other.

use std::time::Instant;

use crate::arguments::{InstallOptions, TestOptions};
use crate::error::Error;
use crate::install;
use crate::need::Need;
use crate::report;
use crate::step::{Context, Outcome, Report, Step, Tier};
use crate::steps::{self, BENCH, STEPS};
use crate::terminal;
use crate::workspace::Workspace;

/// Runs the steps that `options` choose and prints the summary. Returns whether all passed.
///
/// # Errors
/// The options name a step that does not exist.
pub(crate) fn test(workspace: &Workspace, options: &TestOptions) -> Result<bool, Error> {
    let tier = options.tier();
    let steps = chosen(tier, &options.only, &options.skip)?;
    if !options.rest.is_empty() && steps.len() != 1 {
        return Err(Error::RestWithoutStep { count: steps.len() });
    }
    let context = Context {
        workspace,
        tier,
        may_install: !options.no_install,
        with_deny: options.with_deny,
        rest: &options.rest,
    };
    let reports = run(&steps, options.keep_going, |step| {
        install::ensure(workspace, step.needs, context.may_install)?;
        (step.run)(&context)
    });
    report::summary(&steps, &reports);
    Ok(reports.iter().all(|report| report.result.is_ok()))
}

/// Installs what the named steps need.
///
/// # Errors
/// A step does not exist, or something cannot be installed.
pub(crate) fn install(workspace: &Workspace, options: &InstallOptions) -> Result<bool, Error> {
    let mut needs: Vec<Need> = Vec::new();
    for name in &options.steps {
        let (bench, of_bench) = BENCH;
        needs.extend(if name == bench {
            of_bench
        } else {
            steps::named(name)?.needs
        });
    }
    if options.steps.is_empty() {
        let steps = chosen(Tier::Default, &[], &[])?;
        needs.extend(steps.iter().flat_map(|step| step.needs));
    }
    install::ensure(workspace, &needs, true)?;
    if options.with_deny {
        let context = Context {
            workspace,
            tier: Tier::Default,
            may_install: true,
            with_deny: true,
            rest: &[],
        };
        (steps::named("deny")?.run)(&context)?;
    }
    terminal::text("everything is installed");
    Ok(true)
}

/// Returns the steps named by `only`, or else those of the tier without `skip`.
///
/// # Errors
/// A named step does not exist.
fn chosen(tier: Tier, only: &[String], skip: &[String]) -> Result<Vec<&'static Step>, Error> {
    for name in only.iter().chain(skip) {
        steps::named(name)?;
    }
    let is_chosen = |step: &&Step| match only {
        [] => step.tiers.contains(&tier) && !skip.iter().any(|name| name == step.name),
        _ => only.iter().any(|name| name == step.name),
    };
    Ok(STEPS.iter().filter(is_chosen).collect())
}

fn run(
    steps: &[&'static Step],
    keep_going: bool,
    mut run: impl FnMut(&Step) -> Result<Outcome, Error>,
) -> Vec<Report> {
    let mut reports = Vec::new();
    for step in steps {
        report::begin(step);
        let started = Instant::now();
        let result = run(step);
        let finished = Report {
            name: step.name,
            took: started.elapsed(),
            result,
        };
        report::end(&finished);
        let goes_on = keep_going || finished.result.is_ok();
        reports.push(finished);
        if !goes_on {
            break;
        }
    }
    reports
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(steps: &[&Step]) -> Vec<&'static str> {
        steps.iter().map(|step| step.name).collect()
    }

    fn failing(step: &Step) -> Result<Outcome, Error> {
        if step.name == "clippy" {
            Err(Error::NoExecutable("clippy"))
        } else {
            Ok(Outcome::Passed)
        }
    }

    #[test]
    fn only_chooses_steps_by_name_in_table_order() {
        let only = ["test".to_owned(), "fmt".to_owned()];
        let steps = chosen(Tier::Default, &only, &[]).unwrap();
        assert_eq!(names(&steps), ["fmt", "test"]);
        assert!(chosen(Tier::Default, &[], &["nothing".to_owned()]).is_err());
    }

    #[test]
    fn each_tier_has_its_steps() {
        let of = |tier| names(&chosen(tier, &[], &["deny".to_owned()]).unwrap());
        assert_eq!(of(Tier::Quick), ["fmt", "clippy", "unit"]);
        let default = of(Tier::Default);
        assert_eq!(
            default,
            [
                "fmt", "clippy", "test", "doctest", "python", "node", "client", "browser",
                "examples"
            ]
        );
        let ci = of(Tier::Ci);
        assert!(default.iter().all(|name| ci.contains(name)));
        let full = of(Tier::Full);
        assert!(ci.iter().all(|name| full.contains(name)));
        assert!(full.contains(&"fuzz") && !ci.contains(&"fuzz"));
    }

    #[test]
    fn first_failure_stops_the_run() {
        let steps = chosen(Tier::Default, &[], &[]).unwrap();
        assert_eq!(
            run(&steps, false, failing)
                .iter()
                .map(|report| report.name)
                .collect::<Vec<_>>(),
            ["fmt", "clippy"]
        );
    }

    #[test]
    fn keep_going_runs_all_steps() {
        let steps = chosen(Tier::Default, &[], &[]).unwrap();
        let reports = run(&steps, true, failing);
        assert_eq!(reports.len(), steps.len());
        let failed = reports.iter().filter(|report| report.result.is_err());
        assert_eq!(failed.count(), 1);
    }
}
